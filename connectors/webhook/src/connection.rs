//! One connection: bounds on its time, and no buffers while it has nothing to say.
//!
//! hyper holds 16 KiB for a connection between two requests. One that is idle for a moment is taken apart to its socket, and put together again when
//! bytes come: 10,000 idle connections cost little more than their sockets.

use crate::listener::Listener;
use crate::request;
use bytes::{Buf, Bytes};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::task::coop::has_budget_remaining;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

/// For the head of a request, from its first byte; for the first one, from the connection; for the handshake of TLS.
const HEADER_TIMEOUT: Duration = Duration::from_secs(5);
/// Between two requests.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);
/// Until an idle connection gives up its buffers: clients under load are never idle so long, and many that come at once do not all hold some.
const NAP_AFTER: Duration = Duration::from_millis(100);
const HEADERS_MAX: usize = 100;
/// Request line and headers.
const HEADER_MAX_BYTES: usize = 16 * 1024;
/// Of a body, in one piece.
const READ_BUFFER_MAX: usize = 64 * 1024;

/// A socket, with or without TLS.
trait Stream: AsyncRead + AsyncWrite + Send + Unpin + 'static {
    fn tcp(&self) -> &TcpStream;
}

impl Stream for TcpStream {
    fn tcp(&self) -> &TcpStream {
        self
    }
}

impl Stream for TlsStream<TcpStream> {
    fn tcp(&self) -> &TcpStream {
        self.get_ref().0
    }
}

pub(crate) async fn run(tcp: TcpStream, tls: Option<TlsAcceptor>, listener: Arc<Listener>) {
    match tls {
        None => {
            let first = Rested { io: tcp, read: Bytes::new(), wait: Some(HEADER_TIMEOUT) };
            serve(first, listener).await;
        }
        Some(acceptor) => {
            // Who speaks no TLS, or has no certificate of ours, is its own problem.
            if let Ok(Ok(io)) = timeout(HEADER_TIMEOUT, Box::pin(acceptor.accept(tcp))).await {
                // The first request may have come with the handshake: the socket would tell nothing of it.
                serve(Rested { io, read: Bytes::new(), wait: None }, listener).await;
            }
        }
    }
}

/// A connection between two requests.
struct Rested<S> {
    io: S,
    /// Of the next request, read already.
    read: Bytes,
    /// How long until bytes must come; `None`: there may be some.
    wait: Option<Duration>,
}

async fn serve<S: Stream>(mut rested: Rested<S>, listener: Arc<Listener>) {
    loop {
        if let Some(wait) = rested.wait {
            let readable = async {
                tokio::select! {
                    readable = rested.io.tcp().readable() => readable.is_ok(),
                    () = listener.stop().cancelled() => false,
                }
            };
            if !timeout(wait, readable).await.unwrap_or(false) {
                return;
            }
        }
        match Box::pin(awake(rested, &listener)).await {
            Some(idle) => rested = idle,
            None => return,
        }
    }
}

/// What a request finds where it comes: shared by those of one connection, since a count that all of them share wanders between processors.
struct Here {
    phase: Arc<Phase>,
    listener: Arc<Listener>,
}

/// Serves requests until the connection ends (`None`) or has nothing to say.
async fn awake<S: Stream>(rested: Rested<S>, listener: &Arc<Listener>) -> Option<Rested<S>> {
    let phase = Arc::new(Phase::new());
    let io = TokioIo::new(Watched { io: rested.io, read: rested.read, phase: phase.clone() });
    let here = Arc::new(Here { phase: phase.clone(), listener: listener.clone() });
    let service = service_fn(move |request| {
        let here = here.clone();
        here.phase.enter(BUSY);
        async move {
            let answer = request::answer(&here.listener, &here.phase, request).await;
            here.phase.enter(IDLE);
            Ok::<_, Infallible>(answer)
        }
    });
    let mut connection = http1::Builder::new()
        .max_headers(HEADERS_MAX)
        .max_header_size(HEADER_MAX_BYTES)
        .max_buf_size(READ_BUFFER_MAX)
        .header_read_timeout(None)
        .serve_connection(io, service);
    let mut timer = pin!(sleep_until(phase.deadline().unwrap_or_else(Instant::now)));
    let mut stopped = pin!(listener.stop().cancelled());
    // Both stay registered while nothing becomes of them: to poll them each time takes locks that all connections share.
    let (mut stopping, mut heard, mut armed) = (false, false, false);
    let nap = poll_fn(|cx| {
        if !stopping && (!heard || listener.is_stopping()) {
            heard = true;
            if stopped.as_mut().poll(cx).is_ready() {
                stopping = true;
                Pin::new(&mut connection).graceful_shutdown();
            }
        }
        loop {
            // A client that hangs up or sends garbage is its own problem.
            if Pin::new(&mut connection).poll(cx).is_ready() {
                return Poll::Ready(false);
            }
            // The timer may be early: it is looked at what it is for only when it fires.
            loop {
                if let Some(deadline) = phase.deadline()
                    && deadline < timer.deadline()
                {
                    timer.as_mut().reset(deadline);
                    armed = false;
                }
                if armed && !timer.is_elapsed() {
                    return Poll::Pending;
                }
                if timer.as_mut().poll(cx).is_pending() {
                    // Without budget it is not registered, and the task is polled again at once.
                    armed = has_budget_remaining();
                    return Poll::Pending;
                }
                armed = false;
                match phase.deadline() {
                    // Who waits within the request is told.
                    Some(deadline) if deadline <= Instant::now() && phase.expires() => break,
                    Some(deadline) if deadline <= Instant::now() && !phase.is_waiting() => return Poll::Ready(phase.may_nap()),
                    Some(deadline) if deadline > Instant::now() => timer.as_mut().reset(deadline),
                    _ => timer.as_mut().reset(Instant::now() + HEADER_TIMEOUT),
                }
            }
        }
    })
    .await;
    if !nap || stopping {
        return None;
    }
    let parts = connection.into_parts();
    let (io, unread) = (parts.io.into_inner(), parts.read_buf);
    let wait = unread.is_empty().then_some(IDLE_TIMEOUT - NAP_AFTER);
    // Nothing is lost between the two: hyper's buffer, then what the wrapper had not handed out.
    let read = if io.read.is_empty() { unread } else { [unread, io.read].concat().into() };
    Some(Rested { io: io.io, read, wait })
}

const HEAD: u64 = 0;
const BUSY: u64 = 1;
const IDLE: u64 = 2;
/// Busy, with a time by which something within the request must have come.
const WAIT: u64 = 3;

/// Where a connection is, and since when. Shared by the parts of one task; atomics only since hyper wants `Send`.
pub(crate) struct Phase {
    began: Instant,
    /// The phase in the two lowest bits, above them milliseconds since `began` and one; 0: since this moment, which is looked up when it is asked for.
    now: AtomicU64,
    /// Milliseconds of `WAIT`.
    limit: AtomicU64,
    /// They are over.
    late: AtomicBool,
    /// The last read found nothing.
    starved: AtomicBool,
    /// The last write found no room.
    stuffed: AtomicBool,
}

impl Phase {
    fn new() -> Self {
        Self {
            began: Instant::now(),
            now: AtomicU64::new(1 << 2 | HEAD),
            limit: AtomicU64::new(0),
            late: AtomicBool::new(false),
            starved: AtomicBool::new(false),
            stuffed: AtomicBool::new(false),
        }
    }

    fn enter(&self, phase: u64) {
        self.now.store(phase, Relaxed);
    }

    /// When it has been in its phase for too long; never while a request is being answered, which has bounds of its own.
    fn deadline(&self) -> Option<Instant> {
        let mut now = self.now.load(Relaxed);
        let limit = match now & 3 {
            HEAD => HEADER_TIMEOUT,
            BUSY => return None,
            WAIT => Duration::from_millis(self.limit.load(Relaxed)),
            _ if self.stuffed.load(Relaxed) => IDLE_TIMEOUT,
            _ => NAP_AFTER,
        };
        if now >> 2 == 0 {
            let millis = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX >> 3);
            now |= (millis + 1) << 2;
            self.now.store(now, Relaxed);
        }
        Some(self.began + Duration::from_millis((now >> 2) - 1) + limit)
    }

    fn is_waiting(&self) -> bool {
        self.now.load(Relaxed) & 3 == WAIT
    }

    /// True once: whoever waits is to be polled, and finds its time over.
    fn expires(&self) -> bool {
        self.is_waiting() && !self.late.swap(true, Relaxed)
    }

    /// What comes of `work`, a part of the request that the connection serves; `None` after `limit`. The connection's own timer looks at the time: one of
    /// each request's own is set and taken back under a lock that all share.
    pub(crate) async fn within<T>(&self, limit: Duration, work: impl Future<Output = T>) -> Option<T> {
        let (mut work, mut waits) = (pin!(work), false);
        let done = poll_fn(|cx| {
            if let Poll::Ready(done) = work.as_mut().poll(cx) {
                return Poll::Ready(Some(done));
            }
            if !std::mem::replace(&mut waits, true) {
                self.limit.store(u64::try_from(limit.as_millis()).unwrap_or(u64::MAX >> 3), Relaxed);
                self.late.store(false, Relaxed);
                self.enter(WAIT);
            }
            if self.late.load(Relaxed) { Poll::Ready(None) } else { Poll::Pending }
        });
        let done = done.await;
        self.enter(BUSY);
        done
    }

    /// Answered, all written, and nothing of the next request read by halves.
    fn may_nap(&self) -> bool {
        self.now.load(Relaxed) & 3 == IDLE && self.starved.load(Relaxed) && !self.stuffed.load(Relaxed)
    }
}

/// Tells the phase what happens on the socket.
struct Watched<S> {
    io: S,
    read: Bytes,
    phase: Arc<Phase>,
}

impl<S: Stream> AsyncRead for Watched<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let outcome = if self.read.is_empty() {
            Pin::new(&mut self.io).poll_read(cx, buf)
        } else {
            let taken = self.read.len().min(buf.remaining());
            buf.put_slice(&self.read[..taken]);
            self.read.advance(taken);
            Poll::Ready(Ok(()))
        };
        self.phase.starved.store(outcome.is_pending(), Relaxed);
        if buf.filled().len() > before && self.phase.now.load(Relaxed) & 3 == IDLE {
            self.phase.enter(HEAD);
        }
        outcome
    }
}

impl<S: Stream> AsyncWrite for Watched<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.io).poll_write(cx, bytes);
        self.phase.stuffed.store(outcome.is_pending(), Relaxed);
        outcome
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.io).poll_write_vectored(cx, bytes);
        self.phase.stuffed.store(outcome.is_pending(), Relaxed);
        outcome
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let outcome = Pin::new(&mut self.io).poll_flush(cx);
        self.phase.stuffed.store(outcome.is_pending(), Relaxed);
        outcome
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

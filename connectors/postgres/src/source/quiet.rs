//! A socket of which the reactor hears only while somebody waits for it.
//!
//! A walsender sends each message by itself. On a socket that stays registered each of them wakes a thread of the runtime, also while nobody wants to
//! read: on a backlog of small transactions, 30 wake-ups for each read were measured, and the sender pays for them too.

use socket2::Socket;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// The most that one read takes: so much is cleared before.
const READ_BYTES: usize = 128 << 10;

#[derive(Debug)]
pub(super) struct Quiet {
    socket: Arc<Socket>,
    /// From when somebody has to wait until the next read that finds something.
    registered: Option<AsyncFd<Arc<Socket>>>,
}

#[derive(Clone, Copy)]
enum For {
    Reading,
    Writing,
}

impl Quiet {
    /// Of a socket that does not block.
    pub(super) fn new(socket: impl Into<Socket>) -> Self {
        Self { socket: Arc::new(socket.into()), registered: None }
    }

    /// Nobody waits any more: it is not heard of until somebody does again.
    pub(super) fn hush(&mut self) {
        self.registered = None;
    }

    /// Calls at once, and where that would block when the reactor says so.
    fn poll_call(
        &mut self,
        cx: &mut Context<'_>,
        what: For,
        mut call: impl FnMut(&Socket) -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        loop {
            let outcome = match &self.registered {
                None => call(&self.socket),
                Some(registered) => {
                    let mut ready = match what {
                        For::Reading => ready!(registered.poll_read_ready(cx))?,
                        For::Writing => ready!(registered.poll_write_ready(cx))?,
                    };
                    // What was ready is no more.
                    let Ok(outcome) = ready.try_io(|registered| call(registered.get_ref())) else { continue };
                    outcome
                }
            };
            match outcome {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    #[expect(
                        deprecated,
                        reason = "what replaces it is unsafe code; a socket in an Arc keeps its descriptor open"
                    )]
                    let registered = AsyncFd::new(self.socket.clone())?;
                    self.registered = Some(registered);
                }
                done => return Poll::Ready(done),
            }
        }
    }
}

impl AsyncRead for Quiet {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let room = buf.remaining().min(READ_BYTES);
        let into = buf.initialize_unfilled_to(room);
        let len = ready!(this.poll_call(cx, For::Reading, |mut socket| socket.read(into)))?;
        this.registered = None;
        buf.advance(len);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Quiet {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.get_mut().poll_call(cx, For::Writing, |mut socket| socket.write(bytes))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.socket.shutdown(Shutdown::Write))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    fn pair() -> (Quiet, Quiet) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let one = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (other, _) = listener.accept().unwrap();
        for socket in [&one, &other] {
            socket.set_nonblocking(true).unwrap();
        }
        (Quiet::new(one), Quiet::new(other))
    }

    /// More than the buffers hold, so that both wait; then the end.
    #[tokio::test]
    async fn what_is_written_is_read_and_the_end_is_told() {
        let (mut from, mut to) = pair();
        let sent: Vec<u8> = (0..8 << 20).map(|at: u32| (at % 251) as u8).collect();
        let mut got = Vec::new();
        let write = async {
            from.write_all(&sent).await.unwrap();
            from.shutdown().await.unwrap();
        };
        let (_, read) = tokio::join!(write, to.read_to_end(&mut got));
        assert_eq!(read.unwrap(), sent.len());
        assert!(got == sent);
    }

    /// A read that waits and is given up loses nothing, and whoever reads next is woken.
    #[tokio::test]
    async fn a_read_may_be_given_up() {
        let (mut from, mut to) = pair();
        let mut byte = [0];
        for round in 0..3u8 {
            assert!(futures_util::future::poll_immediate(to.read(&mut byte)).await.is_none());
            assert!(to.registered.is_some());
            if round == 1 {
                to.hush();
            }
            let (read, written) = tokio::join!(biased; to.read_u8(), from.write_u8(round));
            written.unwrap();
            assert_eq!(read.unwrap(), round);
            assert!(to.registered.is_none());
        }
    }
}

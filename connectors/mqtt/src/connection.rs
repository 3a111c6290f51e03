//! One connection: bytes in, bytes out, keep-alive. No task of its own: bytes move while [`Connection::turn`] is awaited, which may be dropped at any time.

use crate::config::{Address, Client};
use crate::error;
use crate::tls;
use crate::wire::{self, Broken, Connack, Hello, Incoming, Version};
use aqueduct_core::{Error, Result};
use bytes::{Buf, BufMut, BytesMut};
use futures_util::FutureExt;
use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_util::io::poll_read_buf;

trait Socket: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Socket for T {}

pub(crate) struct Connection {
    socket: Box<dyn Socket>,
    /// `host:port`, for messages.
    pub place: String,
    pub version: Version,
    max_packet: usize,
    input: BytesMut,
    /// What is to be sent. Who fills it bounds it.
    pub output: BytesMut,
    /// TLS has taken bytes that are not sent yet.
    unflushed: bool,
    keep_alive: Option<Duration>,
    patience: Duration,
    /// When bytes were sent last.
    sent: Instant,
    /// Since when an answer to a ping is due.
    pinged: Option<Instant>,
    /// Answers to pings so far.
    pub pongs: u64,
}

/// At once from the socket; a batch is a few of these.
const READ_BYTES: usize = 64 << 10;

/// How we present ourselves, beside what the options say.
pub(crate) struct Manner<'a> {
    pub client_id: &'a str,
    pub clean: bool,
    pub session_expiry: u32,
    pub receive_maximum: u16,
}

/// The first broker that answers. A refusal that cannot pass by itself is told rather than that another one is down.
///
/// # Errors
/// `mqtt.unreachable` and what brokers say.
pub(crate) async fn open(client: &Client, manner: &Manner<'_>) -> Result<(Connection, Connack)> {
    let mut failed: Option<Error> = None;
    for address in &client.addresses {
        match Box::pin(timeout(client.timeout, Connection::open(client, address, manner))).await {
            Ok(Ok(opened)) => return Ok(opened),
            Ok(Err(error)) => {
                if failed.as_ref().is_none_or(Error::is_retriable) {
                    failed = Some(error);
                }
            }
            Err(_) => {
                let error = error::unreachable(&address.to_string(), format!("no answer within {} s", client.timeout.as_secs()));
                failed.get_or_insert(error);
            }
        }
    }
    Err(failed.unwrap_or_else(|| Error::fatal("mqtt.config", "mqtt.server.uri: names no broker")))
}

impl Connection {
    async fn open(client: &Client, address: &Address, manner: &Manner<'_>) -> Result<(Self, Connack)> {
        let place = address.to_string();
        let unreachable = |why: std::io::Error| error::unreachable(&place, why);
        let tcp = TcpStream::connect((address.host.as_str(), address.port)).await.map_err(unreachable)?;
        tcp.set_nodelay(true).map_err(unreachable)?;
        let socket: Box<dyn Socket> = match address.tls {
            false => Box::new(tcp),
            true => {
                let connector = tls::connector(&client.tls).await?;
                let name = ServerName::try_from(address.host.clone()).map_err(|why| error::tls(&place, why))?;
                Box::new(connector.connect(name, tcp).await.map_err(|why| secure(&place, why))?)
            }
        };
        let mut connection = Self::over(socket, place, client);
        let hello = Hello {
            client_id: manner.client_id,
            clean: manner.clean,
            session_expiry: manner.session_expiry,
            keep_alive: client.keep_alive,
            receive_maximum: manner.receive_maximum,
            user: client.user.as_deref(),
            password: client.password.as_ref().map(aqueduct_config::Secret::expose),
            will: client.will.as_ref(),
        };
        wire::connect(client.version, &hello, &mut connection.output)
            .map_err(|why| Error::fatal("mqtt.config", format!("CONNECT cannot be written: {why:?}")))?;
        let connack = connection.welcome(address.tls).await?;
        let seconds = connack.keep_alive.unwrap_or(client.keep_alive);
        connection.keep_alive = (seconds > 0).then(|| Duration::from_secs(seconds.into()));
        Ok((connection, connack))
    }

    fn over(socket: Box<dyn Socket>, place: String, client: &Client) -> Self {
        Self {
            socket,
            place,
            version: client.version,
            max_packet: client.max_packet,
            input: BytesMut::new(),
            output: BytesMut::new(),
            unflushed: false,
            keep_alive: None,
            patience: client.timeout,
            sent: Instant::now(),
            pinged: None,
            pongs: 0,
        }
    }

    async fn welcome(&mut self, tls: bool) -> Result<Connack> {
        loop {
            match self.next()? {
                Some(Incoming::Connack(connack)) if connack.reason == 0 => return Ok(*connack),
                Some(Incoming::Connack(connack)) => {
                    return Err(error::refused(&self.place, connack.reason, connack.text.as_deref()));
                }
                Some(_) => return Err(error::malformed(&self.place, "the first packet is no CONNACK")),
                None => {}
            }
            let outcome = poll_fn(|cx| self.poll_move(cx, true, false)).await;
            // With TLS 1.3 the broker's refusal of our certificate comes as late as this.
            outcome.map(drop).map_err(|why| if tls { secure(&self.place, why) } else { error::unreachable(&self.place, why) })?;
        }
    }

    /// The next packet of what has been read.
    ///
    /// # Errors
    /// `mqtt.malformed`, `mqtt.packet_too_large`, and what the broker says when it ends the connection.
    pub(crate) fn next(&mut self) -> Result<Option<Incoming>> {
        match wire::decode(self.version, self.max_packet, &mut self.input) {
            Ok(Some(Incoming::Pong)) => {
                self.pinged = None;
                self.pongs += 1;
                Ok(Some(Incoming::Pong))
            }
            Ok(Some(Incoming::Disconnect { reason, text })) => Err(error::disconnected(&self.place, reason, text.as_deref())),
            Ok(packet) => Ok(packet),
            Err(Broken::Malformed(why)) => Err(error::malformed(&self.place, why)),
            Err(Broken::TooLarge(announced)) => Err(error::too_large(&self.place, announced, self.max_packet)),
        }
    }

    /// Whether the next packet, as far as it is known, is a message.
    pub(crate) fn publish_is_next(&self) -> bool {
        wire::publish_is_next(&self.input)
    }

    /// The bytes of the next packet, as far as they are known.
    pub(crate) fn next_bytes(&self) -> usize {
        wire::next_bytes(&self.input)
    }

    /// Until something was read (`read`; then true), or all is sent, or it is `until`. Keeps the connection alive meanwhile.
    ///
    /// # Errors
    /// `mqtt.unreachable` when the connection broke, `mqtt.timeout` when the broker does not answer a ping.
    pub(crate) async fn turn(&mut self, read: bool, until: Instant) -> Result<bool> {
        let sending = !self.output.is_empty();
        loop {
            let now = Instant::now();
            if self.pinged.is_some_and(|since| read && now >= since + self.patience) {
                return Err(error::timeout(&self.place, "no answer to a ping"));
            }
            if self.keep_alive.is_some_and(|interval| now >= self.sent + interval) && self.pinged.is_none() {
                self.ping();
            }
            if now >= until {
                return Ok(false);
            }
            let ping = self.keep_alive.filter(|_| self.pinged.is_none()).map(|interval| self.sent + interval);
            let pong = self.pinged.filter(|_| read).map(|since| since + self.patience);
            let wake = [ping, pong].into_iter().flatten().fold(until, Instant::min);
            tokio::select! {
                biased;
                moved = poll_fn(|cx| self.poll_move(cx, read, sending)) => {
                    return moved.map_err(|why| error::unreachable(&self.place, why));
                }
                () = sleep_until(wake) => {}
            }
        }
    }

    /// Sends what the socket takes and reads what is there, without waiting; true when something was read.
    ///
    /// # Errors
    /// As [`Connection::turn`].
    pub(crate) fn turn_now(&mut self, read: bool) -> Result<bool> {
        match poll_fn(|cx| self.poll_move(cx, read, false)).now_or_never() {
            Some(moved) => moved.map_err(|why| error::unreachable(&self.place, why)),
            None => Ok(false),
        }
    }

    /// Asks the broker for an answer; when [`Connection::pongs`] is this number, it has read all that was sent before.
    pub(crate) fn ask(&mut self) -> u64 {
        let under_way = u64::from(self.pinged.is_some());
        self.ping();
        self.pongs + under_way + 1
    }

    fn ping(&mut self) {
        wire::ping(&mut self.output);
        self.pinged = Some(Instant::now());
        // The next one is due an interval from now, also while this one cannot be sent.
        self.sent = Instant::now();
    }

    /// Says good-bye, and waits a little until it is said.
    pub(crate) async fn end(&mut self, forget: bool) {
        wire::disconnect(self.version, forget, &mut self.output);
        let patience = self.patience.min(Duration::from_secs(5));
        let said = poll_fn(|cx| {
            ready!(self.poll_write(cx))?;
            ready!(Pin::new(&mut self.socket).poll_shutdown(cx))?;
            if !forget {
                return Poll::Ready(Ok(()));
            }
            // The next connection must find that it is done.
            loop {
                self.input.clear();
                if ready!(poll_read_buf(Pin::new(&mut self.socket), cx, &mut (&mut self.input).limit(READ_BYTES)))? == 0 {
                    return Poll::Ready(Ok::<_, std::io::Error>(()));
                }
            }
        });
        if let Ok(Err(why)) | Err(why) = timeout(patience, said).await.map_err(std::io::Error::from) {
            tracing::debug!(place = self.place, "the connection did not end in order: {why}");
        }
    }

    /// Ready when something was read (true), when all is sent (`sending`), or the connection is over. Writes as far as it can meanwhile.
    fn poll_move(&mut self, cx: &mut Context<'_>, read: bool, sending: bool) -> Poll<std::io::Result<bool>> {
        let written = self.poll_write(cx);
        // A broker that hangs up may have said why before: what is there is read first.
        if self.poll_input(cx, read)?.is_ready() {
            return Poll::Ready(Ok(true));
        }
        match written {
            Poll::Ready(Err(why)) => Poll::Ready(Err(why)),
            Poll::Ready(Ok(())) if sending => Poll::Ready(Ok(false)),
            _ => Poll::Pending,
        }
    }

    fn poll_input(&mut self, cx: &mut Context<'_>, read: bool) -> Poll<std::io::Result<()>> {
        if !read {
            return Poll::Pending;
        }
        // Grows with what comes, not with what is announced: whoever reads has taken all whole packets before, so this holds less than one of them.
        self.input.reserve(READ_BYTES);
        let read = ready!(poll_read_buf(Pin::new(&mut self.socket), cx, &mut (&mut self.input).limit(READ_BYTES)))?;
        if read == 0 {
            return Poll::Ready(Err(std::io::Error::new(std::io::ErrorKind::UnexpectedEof, "the broker closed the connection")));
        }
        Poll::Ready(Ok(()))
    }

    fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        while !self.output.is_empty() {
            let written = ready!(Pin::new(&mut self.socket).poll_write(cx, &self.output))?;
            if written == 0 {
                return Poll::Ready(Err(std::io::ErrorKind::WriteZero.into()));
            }
            self.output.advance(written);
            self.sent = Instant::now();
            self.unflushed = true;
        }
        if self.unflushed {
            ready!(Pin::new(&mut self.socket).poll_flush(cx))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }
}

fn secure(place: &str, why: std::io::Error) -> Error {
    // rustls speaks of a certificate through an I/O error.
    match why.kind() {
        std::io::ErrorKind::InvalidData => error::tls(place, why),
        _ => error::unreachable(place, why),
    }
}

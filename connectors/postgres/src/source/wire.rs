//! A replication connection: login, simple queries, and the way into streaming. `postgres-protocol` has the formats and SCRAM; see ADR 0006 for why
//! there is no larger library under it.

use super::quiet::Quiet;
use super::tls;
use crate::connection::{Connect, Refusal, SESSION, SslMode};
use aqueduct_config::types::Secret;
use aqueduct_core::{Error, Result};
use bytes::{Buf, BytesMut};
use postgres_protocol::authentication::md5_hash;
use postgres_protocol::authentication::sasl::{ChannelBinding, SCRAM_SHA_256, SCRAM_SHA_256_PLUS, ScramSha256};
use postgres_protocol::message::backend::{ErrorFields, Header, Message};
use postgres_protocol::message::frontend;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::client::TlsStream;

/// One row of a simple query, in text.
pub type Row = Vec<Option<String>>;

/// A server that accepts within this time is near: a fixed buffer is no limit there.
const NEAR: Duration = Duration::from_millis(5);
/// A walsender sends each message by itself, and Linux counts some hundred bytes for each, so that the usual 128 KiB are full in a millisecond. Linux gives
/// at most `net.core.rmem_max`.
const RECEIVE_BYTES: usize = 2 << 20;
/// Of a server on this machine: what waits is to wait in its buffer (see `feed::REST_BUSY`). Linux doubles it; it is what a connection begins with.
const RECEIVE_BYTES_LOCAL: usize = 64 << 10;

/// A walsender that waits for commands.
pub struct Wire {
    pub(super) connect: Connect,
    pub(super) socket: Socket,
    pub(super) input: BytesMut,
    /// `server_version_num`, as 150018.
    pub version: u32,
}

/// What the server says it is: `IDENTIFY_SYSTEM`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct System {
    pub id: String,
    pub timeline: u32,
    /// Flushed so far.
    pub lsn: u64,
}

impl Wire {
    /// Connects and logs in with `replication=database`.
    ///
    /// # Errors
    /// As [`Connect::refused`], `postgres.connection`, `postgres.tls`.
    pub async fn connect(connect: &Connect) -> Result<Self> {
        match tokio::time::timeout(connect.timeout, Self::attempt(connect)).await {
            Ok(outcome) => outcome,
            Err(_) => Err(connect.unreachable(format!("no answer within {} ms", connect.timeout.as_millis()))),
        }
    }

    async fn attempt(connect: &Connect) -> Result<Self> {
        let first = match connect.ssl.mode {
            SslMode::Disable | SslMode::Allow => Self::login(connect, false).await,
            _ => Self::login(connect, true).await,
        };
        match first {
            Err(refused) if connect.ssl.mode == SslMode::Allow && refused.code() == "postgres.login" => {
                Self::login(connect, true).await
            }
            outcome => outcome,
        }
    }

    async fn login(connect: &Connect, with_tls: bool) -> Result<Self> {
        let socket = Socket::open(connect, with_tls).await?;
        let mut wire = Self { connect: connect.clone(), socket, input: BytesMut::with_capacity(8192), version: 0 };
        let mut output = BytesMut::new();
        let fixed = [
            ("user", connect.user.as_str()),
            ("database", connect.database.as_str()),
            ("replication", "database"),
            ("application_name", connect.application.as_str()),
        ];
        frontend::startup_message(fixed.into_iter().chain(SESSION), &mut output).map_err(|error| wire.broken(error))?;
        wire.send(&mut output).await?;
        wire.authenticate().await?;
        wire.until_ready("log in", |_| ()).await?;
        Ok(wire)
    }

    async fn authenticate(&mut self) -> Result<()> {
        let password = self.connect.password.clone();
        let password = password.as_ref().map_or("", Secret::expose).as_bytes();
        let mut output = BytesMut::new();
        loop {
            match self.message().await? {
                Message::AuthenticationOk => return Ok(()),
                Message::AuthenticationCleartextPassword => {
                    frontend::password_message(password, &mut output).map_err(|error| self.broken(error))?;
                }
                Message::AuthenticationMd5Password(body) => {
                    let hash = md5_hash(self.connect.user.as_bytes(), password, body.salt());
                    frontend::password_message(hash.as_bytes(), &mut output).map_err(|error| self.broken(error))?;
                }
                Message::AuthenticationSasl(body) => {
                    let mut offered = Vec::new();
                    let mut mechanisms = body.mechanisms();
                    while let Some(name) =
                        fallible_iterator::FallibleIterator::next(&mut mechanisms).map_err(|error| self.broken(error))?
                    {
                        offered.push(name.to_owned());
                    }
                    self.scram(&offered, password).await?;
                }
                Message::ErrorResponse(body) => return Err(self.connect.refused("log in", &refusal(body.fields()))),
                Message::NoticeResponse(_) => {}
                _ => {
                    let what = "the server wants a way of logging in that is not supported (GSSAPI, SSPI, Kerberos or older)";
                    return Err(Error::fatal("postgres.login", format!("cannot log in at {}: {what}", self.connect.place()))
                        .fix("Let pg_hba.conf ask for scram-sha-256 or a client certificate for this user."));
                }
            }
            self.send(&mut output).await?;
        }
    }

    /// With channel binding where there is TLS and the server offers it, so that nobody in between can pass our login on.
    async fn scram(&mut self, offered: &[String], password: &[u8]) -> Result<()> {
        let has = |name: &str| offered.iter().any(|mechanism| mechanism == name);
        let (binding, mechanism) = match self.socket.end_point() {
            Some(hash) if has(SCRAM_SHA_256_PLUS) => (ChannelBinding::tls_server_end_point(hash), SCRAM_SHA_256_PLUS),
            Some(_) if has(SCRAM_SHA_256) => (ChannelBinding::unrequested(), SCRAM_SHA_256),
            _ if has(SCRAM_SHA_256) => (ChannelBinding::unsupported(), SCRAM_SHA_256),
            _ => {
                let why = format!("the server offers only {}", offered.join(", "));
                return Err(Error::fatal("postgres.login", format!("cannot log in at {}: {why}", self.connect.place())));
            }
        };
        let failed = |wire: &Self, error: io::Error| {
            let why = format!("cannot log in at {}: SCRAM failed: {error}", wire.connect.place());
            Error::fatal("postgres.login", why).fix("Check database.user and database.password.")
        };
        let mut output = BytesMut::new();
        let mut scram = ScramSha256::new(password, binding);
        frontend::sasl_initial_response(mechanism, scram.message(), &mut output).map_err(|error| self.broken(error))?;
        self.send(&mut output).await?;
        match self.message().await? {
            Message::AuthenticationSaslContinue(body) => scram.update(body.data()).map_err(|error| failed(self, error))?,
            Message::ErrorResponse(body) => return Err(self.connect.refused("log in", &refusal(body.fields()))),
            _ => return Err(self.broken("an unexpected answer to SCRAM")),
        }
        frontend::sasl_response(scram.message(), &mut output).map_err(|error| self.broken(error))?;
        self.send(&mut output).await?;
        match self.message().await? {
            Message::AuthenticationSaslFinal(body) => scram.finish(body.data()).map_err(|error| failed(self, error)),
            Message::ErrorResponse(body) => Err(self.connect.refused("log in", &refusal(body.fields()))),
            _ => Err(self.broken("an unexpected answer to SCRAM")),
        }
    }

    /// Runs one command of the replication grammar, or SQL, and reads all its rows.
    ///
    /// # Errors
    /// As [`Connect::refused`]; `postgres.timeout` when there is no answer in `patience`: the connection is of no use then.
    pub async fn query(&mut self, doing: &str, sql: &str, patience: Duration) -> Result<Vec<Row>> {
        let mut output = BytesMut::new();
        frontend::query(sql, &mut output).map_err(|error| self.broken(error))?;
        self.send(&mut output).await?;
        let mut rows = Vec::new();
        let reading = self.until_ready(doing, |row| rows.push(row));
        match tokio::time::timeout(patience, reading).await {
            Ok(outcome) => outcome.map(|()| rows),
            Err(_) => {
                let what = format!("cannot {doing} at {}: no answer within {} ms", self.connect.place(), patience.as_millis());
                Err(Error::retriable("postgres.timeout", what)
                    .fix("A long transaction holds it up: SELECT pid, xact_start, query FROM pg_stat_activity ORDER BY xact_start; and end what need not run."))
            }
        }
    }

    /// # Errors
    /// As [`Wire::query`].
    pub async fn identify(&mut self) -> Result<System> {
        let rows = self.query("identify the server", "IDENTIFY_SYSTEM", self.connect.timeout).await?;
        let field = |index: usize| rows.first().and_then(|row| row.get(index)).and_then(Option::as_deref);
        let parsed = || {
            Some(System {
                id: field(0)?.to_owned(),
                timeline: field(1)?.parse().ok()?,
                lsn: super::position::parse_lsn(field(2)?)?,
            })
        };
        parsed().ok_or_else(|| self.broken("IDENTIFY_SYSTEM was answered in another form than the documentation's"))
    }

    /// One setting, as `SHOW` prints it.
    ///
    /// # Errors
    /// As [`Wire::query`].
    pub async fn show(&mut self, setting: &str) -> Result<String> {
        let rows = self.query(&format!("read the setting {setting}"), &format!("SHOW {setting}"), self.connect.timeout).await?;
        Ok(rows.into_iter().flatten().flatten().next().unwrap_or_default())
    }

    /// Sends `START_REPLICATION …` and waits until the server begins to copy.
    ///
    /// # Errors
    /// As [`Connect::refused`].
    pub async fn start(&mut self, sql: &str) -> Result<()> {
        let mut output = BytesMut::new();
        frontend::query(sql, &mut output).map_err(|error| self.broken(error))?;
        self.send(&mut output).await?;
        loop {
            let header = self.header().await?;
            // CopyBothResponse, which postgres-protocol does not know.
            if header.tag() == b'W' {
                self.input.advance(header.len().cast_unsigned() as usize + 1);
                return Ok(());
            }
            match self.message().await? {
                Message::ErrorResponse(body) => return Err(self.connect.refused("start streaming", &refusal(body.fields()))),
                Message::NoticeResponse(_) | Message::ParameterStatus(_) => {}
                _ => return Err(self.broken("an unexpected answer to START_REPLICATION")),
            }
        }
    }

    /// Ends the session in order.
    pub async fn close(mut self) {
        let mut output = BytesMut::new();
        frontend::terminate(&mut output);
        // The server notices the closed socket by itself.
        let _ = self.send(&mut output).await;
        let _ = self.socket.shutdown().await;
    }

    async fn until_ready(&mut self, doing: &str, mut row: impl FnMut(Row)) -> Result<()> {
        let mut refused = None;
        loop {
            match self.message().await? {
                Message::ReadyForQuery(_) => return refused.map_or(Ok(()), Err),
                Message::ErrorResponse(body) => {
                    let refusal = refusal(body.fields());
                    let error = self.connect.refused(doing, &refusal);
                    // After a FATAL the server closes the connection: no ReadyForQuery comes.
                    let fatal = ["57P", "28", "53300"].iter().any(|code| refusal.code.starts_with(code)) || self.version == 0;
                    if fatal {
                        return Err(error);
                    }
                    refused = Some(error);
                }
                Message::ParameterStatus(body) if body.name().is_ok_and(|name| name == "server_version") => {
                    self.version = version_number(body.value().unwrap_or_default());
                }
                Message::DataRow(body) => {
                    let mut cells = Vec::new();
                    let mut ranges = body.ranges();
                    while let Some(range) =
                        fallible_iterator::FallibleIterator::next(&mut ranges).map_err(|error| self.broken(error))?
                    {
                        cells.push(range.map(|range| String::from_utf8_lossy(&body.buffer()[range]).into_owned()));
                    }
                    row(cells);
                }
                _ => {}
            }
        }
    }

    async fn message(&mut self) -> Result<Message> {
        loop {
            match Message::parse(&mut self.input) {
                Ok(Some(message)) => return Ok(message),
                Ok(None) => self.fill().await?,
                Err(error) => return Err(self.broken(error)),
            }
        }
    }

    /// The header of the next message, which is then in `input` as a whole.
    async fn header(&mut self) -> Result<Header> {
        loop {
            match Header::parse(&self.input) {
                Ok(Some(header)) if self.input.len() > header.len().cast_unsigned() as usize => return Ok(header),
                Ok(_) => self.fill().await?,
                Err(error) => return Err(self.broken(error)),
            }
        }
    }

    async fn fill(&mut self) -> Result<()> {
        // Answers to commands are small; a peer that is no Postgres must not fill the memory.
        if self.input.len() > 16 << 20 {
            return Err(self.broken("an answer of more than 16 MiB"));
        }
        match self.socket.read_buf(&mut self.input).await {
            Ok(0) => Err(self.connect.unreachable("the server closed the connection")),
            Ok(_) => Ok(()),
            Err(error) => Err(self.connect.unreachable(error)),
        }
    }

    async fn send(&mut self, output: &mut BytesMut) -> Result<()> {
        let sent = async {
            self.socket.write_all(output).await?;
            self.socket.flush().await
        };
        sent.await.map_err(|error| self.connect.unreachable(error))?;
        output.clear();
        Ok(())
    }

    fn broken(&self, why: impl std::fmt::Display) -> Error {
        Error::retriable("postgres.protocol", format!("{} does not speak as a Postgres server does: {why}", self.connect.place()))
    }
}

/// The fields of an ErrorResponse that a reader can act on.
pub fn refusal(mut fields: ErrorFields<'_>) -> Refusal {
    let mut refusal = Refusal::default();
    while let Ok(Some(field)) = fallible_iterator::FallibleIterator::next(&mut fields) {
        let text = || String::from_utf8_lossy(field.value_bytes()).into_owned();
        match field.type_() {
            b'C' => refusal.code = text(),
            b'M' => refusal.message = text(),
            b'D' => refusal.detail = Some(text()),
            b'H' => refusal.hint = Some(text()),
            _ => {}
        }
    }
    refusal
}

/// `15.18 (Debian 15.18-0)` is 150018, `9.6.24` is 90624, `17beta1` is 170000.
fn version_number(text: &str) -> u32 {
    let digits = text.split(|c: char| !c.is_ascii_digit() && c != '.').next().unwrap_or_default();
    let mut parts = digits.split('.').map(|part| part.parse::<u32>().unwrap_or(0));
    let (major, minor, patch) = (parts.next().unwrap_or(0), parts.next().unwrap_or(0), parts.next().unwrap_or(0));
    if major >= 10 { major * 10_000 + minor } else { major * 10_000 + minor * 100 + patch }
}

pub(super) struct Socket {
    way: Way,
    stream: Stream,
}

enum Stream {
    Plain(Quiet),
    Tls(Box<TlsStream<Quiet>>),
}

/// Where the server is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    Unix,
    /// On this machine, by TCP.
    Local,
    Net,
}

impl Socket {
    async fn open(connect: &Connect, with_tls: bool) -> Result<Self> {
        let unreachable = |error: io::Error| connect.unreachable(error);
        if connect.host.starts_with('/') {
            let path = format!("{}/.s.PGSQL.{}", connect.host, connect.port);
            let unix = UnixStream::connect(path).await.and_then(UnixStream::into_std).map_err(unreachable)?;
            return Ok(Socket { way: Way::Unix, stream: Stream::Plain(Quiet::new(unix)) });
        }
        let began = tokio::time::Instant::now();
        let tcp = TcpStream::connect((connect.host.as_str(), connect.port)).await.map_err(unreachable)?;
        tcp.set_nodelay(true).map_err(unreachable)?;
        let way = if is_local(&tcp) { Way::Local } else { Way::Net };
        let buffer = match way {
            Way::Local => Some(RECEIVE_BYTES_LOCAL),
            // Over longer ways the kernel itself finds the size.
            _ => (began.elapsed() < NEAR).then_some(RECEIVE_BYTES),
        };
        if let Some(bytes) = buffer {
            let _ = socket2::SockRef::from(&tcp).set_recv_buffer_size(bytes);
        }
        if connect.tcp_keep_alive {
            socket2::SockRef::from(&tcp).set_keepalive(true).map_err(unreachable)?;
        }
        let mut tcp = Quiet::new(tcp.into_std().map_err(unreachable)?);
        if !with_tls {
            return Ok(Socket { way, stream: Stream::Plain(tcp) });
        }
        let mut output = BytesMut::new();
        frontend::ssl_request(&mut output);
        tcp.write_all(&output).await.map_err(unreachable)?;
        // Exactly one byte: whatever came behind it was not encrypted (CVE-2021-23222).
        let stream = match tcp.read_u8().await.map_err(unreachable)? {
            b'S' => Stream::Tls(Box::new(tls::handshake(connect, tcp).await?)),
            b'N' if connect.ssl.mode == SslMode::Prefer => Stream::Plain(tcp),
            b'N' => return Err(connect.tls("begin TLS", &io::Error::other("the server has TLS switched off"))),
            _ => return Err(connect.unreachable("an answer to SSLRequest that is neither S nor N")),
        };
        Ok(Socket { way, stream })
    }

    pub(super) fn way(&self) -> Way {
        self.way
    }

    pub(super) fn is_tls(&self) -> bool {
        matches!(self.stream, Stream::Tls(_))
    }

    /// As [`Quiet::hush`].
    pub(super) fn hush(&mut self) {
        match &mut self.stream {
            Stream::Plain(socket) => socket.hush(),
            Stream::Tls(stream) => stream.get_mut().0.hush(),
        }
    }

    fn end_point(&self) -> Option<Vec<u8>> {
        match &self.stream {
            Stream::Tls(stream) => tls::end_point(stream),
            Stream::Plain(_) => None,
        }
    }
}

/// To an address of this machine's own it goes by the loopback interface too.
fn is_local(tcp: &TcpStream) -> bool {
    match (tcp.local_addr(), tcp.peer_addr()) {
        (Ok(ours), Ok(theirs)) => theirs.ip().to_canonical().is_loopback() || ours.ip() == theirs.ip(),
        _ => false,
    }
}

macro_rules! each {
    ($socket:expr, $stream:ident => $call:expr) => {
        match &mut $socket.stream {
            Stream::Plain($stream) => $call,
            Stream::Tls($stream) => $call,
        }
    };
}

impl AsyncRead for Socket {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        each!(self.get_mut(), stream => Pin::new(stream).poll_read(cx, buf))
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        each!(self.get_mut(), stream => Pin::new(stream).poll_write(cx, buf))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self.get_mut(), stream => Pin::new(stream).poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self.get_mut(), stream => Pin::new(stream).poll_shutdown(cx))
    }
}

#[cfg(test)]
mod tests {
    use super::version_number;

    #[test]
    fn versions_as_the_server_counts_them() {
        for (text, expected) in [("15.18 (Debian 15.18-0+deb12u1)", 150_018), ("9.6.24", 90_624), ("17beta1", 170_000), ("", 0)] {
            assert_eq!(version_number(text), expected);
        }
    }
}

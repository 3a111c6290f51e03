//! Sockets, requests, connections.

use crate::answer::{Answer, Fault};
use crate::tls::Certificates;
use std::collections::{HashMap, VecDeque};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio_rustls::rustls;

/// A request as it came.
#[derive(Clone, Debug)]
pub struct Request {
    /// From 1, over all connections.
    pub number: u64,
    pub method: String,
    /// Without the query.
    pub path: String,
    /// Decoded.
    pub query: Vec<(String, String)>,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    pub at: Instant,
}

impl Request {
    pub fn param(&self, name: &str) -> Option<&str> {
        self.query.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

type Handler = Box<dyn Fn(&Request) -> Answer + Send + Sync>;

/// A server on a free port of 127.0.0.1 until it is dropped.
pub struct Api {
    port: u16,
    scheme: &'static str,
    shared: Arc<Shared>,
}

struct Shared {
    handler: Handler,
    faults: Mutex<HashMap<String, VecDeque<Fault>>>,
    requests: Mutex<Vec<Request>>,
    /// By number: a connection takes its own out when it ends, since a socket is closed with its last handle.
    sockets: Mutex<HashMap<u64, TcpStream>>,
    count: AtomicU64,
    stop: AtomicBool,
    tls: Option<Arc<rustls::ServerConfig>>,
}

/// What a slow answer waits for, so that a stopped server ends soon.
const TICK: Duration = Duration::from_millis(50);

impl Api {
    pub fn start(handler: impl Fn(&Request) -> Answer + Send + Sync + 'static) -> Self {
        Self::serve(None, Box::new(handler))
    }

    /// With the server's certificate for `localhost` and `127.0.0.1`; `mutual` wants one of the client.
    pub fn start_tls(
        certificates: &Certificates,
        mutual: bool,
        handler: impl Fn(&Request) -> Answer + Send + Sync + 'static,
    ) -> Self {
        Self::serve(Some(certificates.server(mutual)), Box::new(handler))
    }

    fn serve(tls: Option<Arc<rustls::ServerConfig>>, handler: Handler) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
        let port = listener.local_addr().expect("it is bound").port();
        let scheme = if tls.is_some() { "https" } else { "http" };
        let shared = Arc::new(Shared {
            handler,
            faults: Mutex::default(),
            requests: Mutex::default(),
            sockets: Mutex::default(),
            count: AtomicU64::new(0),
            stop: AtomicBool::new(false),
            tls,
        });
        let accepting = shared.clone();
        std::thread::spawn(move || {
            for (number, socket) in (0..).zip(listener.incoming().flatten()) {
                if accepting.stop.load(Ordering::Acquire) {
                    break;
                }
                if let Ok(copy) = socket.try_clone() {
                    lock(&accepting.sockets).insert(number, copy);
                }
                let shared = accepting.clone();
                std::thread::spawn(move || shared.connection(number, socket));
            }
        });
        Self { port, scheme, shared }
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// By the name that the certificate has.
    pub fn url(&self, path: &str) -> String {
        format!("{}://localhost:{}{path}", self.scheme, self.port)
    }

    /// For the next request to this path (after those that were said before).
    pub fn fault(&self, path: &str, fault: Fault) {
        lock(&self.shared.faults).entry(path.to_owned()).or_default().push_back(fault);
    }

    /// How many faults have not happened yet.
    pub fn faults_left(&self) -> usize {
        lock(&self.shared.faults).values().map(VecDeque::len).sum()
    }

    /// All that came, in order.
    pub fn requests(&self) -> Vec<Request> {
        lock(&self.shared.requests).clone()
    }

    pub fn count(&self) -> u64 {
        self.shared.count.load(Ordering::Acquire)
    }

    /// Cuts every connection; new ones are accepted.
    pub fn cut(&self) {
        for socket in lock(&self.shared.sockets).values() {
            let _ = socket.shutdown(Shutdown::Both);
        }
    }
}

impl Drop for Api {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
        self.cut();
        // The accept that waits.
        let _ = TcpStream::connect(("127.0.0.1", self.port));
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A plain socket or one with TLS.
trait Stream: Read + Write {
    fn socket(&self) -> &TcpStream;
}

impl Stream for TcpStream {
    fn socket(&self) -> &TcpStream {
        self
    }
}

impl Stream for rustls::StreamOwned<rustls::ServerConnection, TcpStream> {
    fn socket(&self) -> &TcpStream {
        &self.sock
    }
}

impl Shared {
    fn connection(&self, number: u64, socket: TcpStream) {
        let _ = socket.set_nodelay(true);
        match &self.tls {
            None => self.talk(number, socket),
            Some(config) => {
                if let Ok(session) = rustls::ServerConnection::new(config.clone()) {
                    self.talk(number, rustls::StreamOwned::new(session, socket));
                }
            }
        }
        lock(&self.sockets).remove(&number);
    }

    /// Until the other side is done, or an answer ends the connection.
    fn talk(&self, number: u64, stream: impl Stream) {
        let mut stream = BufReader::new(stream);
        while let Some(mut request) = read(&mut stream) {
            request.number = self.count.fetch_add(1, Ordering::AcqRel) + 1;
            let fault = lock(&self.faults).get_mut(&request.path).and_then(VecDeque::pop_front);
            let answer = match fault {
                Some(Fault::Instead(answer)) => answer,
                Some(fault) => fault.spoil((self.handler)(&request)),
                None => (self.handler)(&request),
            };
            lock(&self.requests).push(request);
            let waits = |time: Duration| self.wait(time);
            let goes_on = answer.write(stream.get_mut(), &waits);
            if answer.reset {
                // Without a lingering close, and without another handle, the close is a reset.
                let _ = socket2::SockRef::from(stream.get_ref().socket()).set_linger(Some(Duration::ZERO));
                lock(&self.sockets).remove(&number);
                return;
            }
            if !goes_on {
                break;
            }
        }
        let _ = stream.get_ref().socket().shutdown(Shutdown::Both);
    }

    /// False when the server stops.
    #[allow(clippy::disallowed_methods, reason = "a slow server is what is asked for")]
    fn wait(&self, time: Duration) -> bool {
        let end = Instant::now() + time;
        while Instant::now() < end && !self.stop.load(Ordering::Acquire) {
            std::thread::sleep(TICK.min(end.saturating_duration_since(Instant::now())));
        }
        !self.stop.load(Ordering::Acquire)
    }
}

fn read(stream: &mut impl BufRead) -> Option<Request> {
    let mut line = String::new();
    stream.read_line(&mut line).ok().filter(|read| *read > 0)?;
    let mut words = line.split_whitespace();
    let (method, target) = (words.next()?.to_owned(), words.next()?.to_owned());
    let mut headers = Vec::new();
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).ok().filter(|read| *read > 0)?;
        let line = line.trim_end();
        if line.is_empty() {
            break;
        }
        let (name, value) = line.split_once(':')?;
        headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
    let find = |wanted: &str| headers.iter().find(|(name, _)| name == wanted).map(|(_, value)| value.as_str());
    let body = if find("transfer-encoding").is_some_and(|value| value.eq_ignore_ascii_case("chunked")) {
        read_chunks(stream)?
    } else {
        let length = find("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
        let mut body = vec![0; length];
        stream.read_exact(&mut body).ok()?;
        body
    };
    let (path, query) = target.split_once('?').unwrap_or((&target, ""));
    let query = query.split('&').filter(|pair| !pair.is_empty()).map(|pair| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        (decode(name), decode(value))
    });
    Some(Request { number: 0, method, path: path.to_owned(), query: query.collect(), headers, body, at: Instant::now() })
}

fn read_chunks(stream: &mut impl BufRead) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).ok()?;
        let length = usize::from_str_radix(line.trim(), 16).ok()?;
        let mut chunk = vec![0; length + 2];
        stream.read_exact(&mut chunk).ok()?;
        if length == 0 {
            return Some(body);
        }
        body.extend_from_slice(&chunk[..length]);
    }
}

fn decode(text: &str) -> String {
    let bytes = text.as_bytes();
    let (mut out, mut at) = (Vec::new(), 0);
    while at < bytes.len() {
        let hex =
            (bytes[at] == b'%').then(|| text.get(at + 1..at + 3)).flatten().and_then(|hex| u8::from_str_radix(hex, 16).ok());
        match hex {
            Some(byte) => {
                out.push(byte);
                at += 3;
            }
            None => {
                out.push(if bytes[at] == b'+' { b' ' } else { bytes[at] });
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

//! The listeners: HTTP/1.1, over TLS where they say so, with bounds on everything a client may hold open.

use crate::access::Peer;
use crate::failures::network;
use crate::{Listener, Serves, Tls};
use aqueduct_core::{Error, Result};
use axum::Router;
use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use hyper_util::service::TowerToHyperService;
use parking_lot::Mutex;
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

/// Connections at once, all listeners together. An admin API has a few; the bound keeps file descriptors for connectors.
const CONNECTIONS_MAX: usize = 512;
/// Of one other machine, whoever it is: it must not shut the others out. Of this machine there is no other bound than that of all.
const CONNECTIONS_OF_ADDRESS: usize = 128;
/// Also how long a connection may be idle between two requests. Longer than the poll interval of the usual UIs.
const HEADER_READ_TIMEOUT: Duration = Duration::from_secs(60);
/// From the connection to the end of the handshake: some round trips.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
const HEADERS_MAX: usize = 100;
/// Request line and headers (and the read buffer) of one request.
const HEADER_MAX_BYTES: usize = 32 * 1024;
/// How long answers in progress may take after a shutdown was asked for.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(5);

/// A worker that was killed a moment ago may hold its port until the kernel has put it away.
const PORT_FREE_MAX: Duration = Duration::from_secs(3);
const PORT_RETRY: Duration = Duration::from_millis(50);

async fn bind_soon(address: SocketAddr) -> std::io::Result<TcpListener> {
    let deadline = tokio::time::Instant::now() + PORT_FREE_MAX;
    loop {
        match TcpListener::bind(address).await {
            Err(error) if error.kind() == std::io::ErrorKind::AddrInUse && tokio::time::Instant::now() < deadline => {
                tokio::time::sleep(PORT_RETRY).await;
            }
            outcome => return outcome,
        }
    }
}

/// A listener with its port.
pub struct Bound {
    socket: TcpListener,
    /// Of `https://`.
    tls: Option<Arc<Tls>>,
    serves: Serves,
}

impl Bound {
    /// As it became: port 0 is any free one.
    pub fn listener(&self) -> Option<Listener> {
        Some(Listener { address: self.socket.local_addr().ok()?, tls: self.tls.is_some() })
    }
}

/// # Errors
/// `rest.listener` when an address is taken (for 3 s) or not ours, or for https without `tls`: [`crate::check_listeners`] saw to that before.
pub async fn bind(listeners: &[Listener], serves: Serves, tls: Option<&Arc<Tls>>) -> Result<Vec<Bound>> {
    let mut bound = Vec::with_capacity(listeners.len());
    for listener in listeners {
        let socket = bind_soon(listener.address).await.map_err(|error| {
            let fix = match error.kind() {
                std::io::ErrorKind::AddrInUse => "another worker may be running: stop it, or set another port in `listeners`",
                _ => "set an address of this machine in `listeners`",
            };
            Error::fatal("rest.listener", format!("cannot listen on {listener}: {error}")).fix(fix)
        })?;
        let tls = match (listener.tls, tls) {
            (false, _) => None,
            (true, Some(tls)) => Some(tls.clone()),
            (true, None) => return Err(Error::fatal("rest.listener", format!("{listener} has no certificate"))),
        };
        bound.push(Bound { socket, tls, serves });
    }
    Ok(bound)
}

/// Connections of each other machine.
#[derive(Clone, Default)]
struct Crowd(Arc<Mutex<HashMap<IpAddr, usize>>>);

/// A connection that is counted until it is dropped.
struct Seat {
    crowd: Crowd,
    address: IpAddr,
}

impl Crowd {
    /// `None`: there are too many of this address.
    fn enter(&self, address: IpAddr) -> Option<Seat> {
        let own = address.to_canonical().is_loopback();
        let address = network(address);
        if !own {
            let mut counts = self.0.lock();
            let count = counts.entry(address).or_default();
            if *count >= CONNECTIONS_OF_ADDRESS {
                return None;
            }
            *count += 1;
        }
        Some(Seat { crowd: self.clone(), address })
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut counts = self.crowd.0.lock();
        if let Some(count) = counts.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.address);
            }
        }
    }
}

/// Serves until `shutdown`, then finishes the answers in progress and returns.
pub async fn serve(listeners: Vec<Bound>, router: Router, shutdown: CancellationToken) {
    let (room, crowd) = (Arc::new(Semaphore::new(CONNECTIONS_MAX)), Crowd::default());
    let mut accepting = JoinSet::new();
    for Bound { socket, tls, serves } in listeners {
        accepting.spawn(accept(socket, serves, router.clone(), tls, room.clone(), crowd.clone(), shutdown.clone()));
    }
    while accepting.join_next().await.is_some() {}
}

async fn accept(
    listener: TcpListener,
    serves: Serves,
    router: Router,
    tls: Option<Arc<Tls>>,
    room: Arc<Semaphore>,
    crowd: Crowd,
    shutdown: CancellationToken,
) {
    let graceful = GracefulShutdown::new();
    let mut connections = JoinSet::new();
    loop {
        let permit = tokio::select! {
            permit = room.clone().acquire_owned() => permit,
            () = shutdown.cancelled() => break,
        };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = shutdown.cancelled() => break,
        };
        while connections.try_join_next().is_some() {}
        match accepted {
            Ok((stream, address)) => {
                let Some(seat) = crowd.enter(address.ip()) else {
                    tracing::debug!(%address, "a REST connection was refused: this address has too many");
                    continue;
                };
                let (watcher, shutdown) = (graceful.watcher(), shutdown.clone());
                let (router, tls) = (router.clone(), tls.clone());
                let peer = Peer { address: Some(address), certificate: None, serves };
                connections.spawn(async move {
                    serve_one(stream, peer, router, tls, watcher, &shutdown).await;
                    drop((seat, permit));
                });
            }
            // Out of file descriptors, or the client was gone before we came: the listener itself is well.
            Err(error) => {
                tracing::warn!(%error, "a REST connection could not be accepted");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
    drop(listener);
    if tokio::time::timeout(SHUTDOWN_GRACE, graceful.shutdown()).await.is_err() {
        tracing::warn!("REST calls were still running {} s after the shutdown began; they are cut", SHUTDOWN_GRACE.as_secs());
    }
    connections.shutdown().await;
}

async fn serve_one(
    stream: TcpStream,
    mut peer: Peer,
    router: Router,
    tls: Option<Arc<Tls>>,
    watcher: Watcher,
    shutdown: &CancellationToken,
) {
    let _ = stream.set_nodelay(true);
    let Some(tls) = tls else { return connection(stream, peer, router, watcher).await };
    let acceptor = TlsAcceptor::from(tls.config().await);
    let handshake = tokio::select! {
        handshake = tokio::time::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream)) => handshake,
        () = shutdown.cancelled() => return,
    };
    match handshake {
        Ok(Ok(stream)) => {
            let shown = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
            peer.certificate = shown.map(|certificate| Sha256::digest(certificate).into());
            connection(stream, peer, router, watcher).await;
        }
        // Somebody knocks with plain http, or with a certificate that we do not know: its own log says more than ours.
        Ok(Err(error)) => tracing::debug!(address = ?peer.address, %error, "a TLS handshake failed"),
        Err(_) => tracing::debug!(address = ?peer.address, "a TLS handshake took too long"),
    }
}

async fn connection<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(stream: S, peer: Peer, router: Router, watcher: Watcher) {
    let service = router.map_request(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(peer.clone());
        request
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_READ_TIMEOUT)
        .max_headers(HEADERS_MAX)
        .max_buf_size(HEADER_MAX_BYTES)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(service));
    // A client that hangs up or sends garbage is its own problem.
    let _ = watcher.watch(connection).await;
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    async fn start() -> (SocketAddr, CancellationToken, JoinSet<()>) {
        let listener = Listener { address: "127.0.0.1:0".parse().unwrap(), tls: false };
        let listeners = bind(&[listener], Serves::All, None).await.unwrap();
        let address = listeners[0].listener().unwrap().address;
        let shutdown = CancellationToken::new();
        let router = Router::new()
            .route("/{name}", axum::routing::get(|axum::extract::Path(name): axum::extract::Path<String>| async { name }));
        let mut serving = JoinSet::new();
        serving.spawn(serve(listeners, router, shutdown.clone()));
        (address, shutdown, serving)
    }

    async fn ask(stream: &mut TcpStream, request: &str) -> String {
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = vec![0; 4096];
        let length = stream.read(&mut answer).await.unwrap();
        String::from_utf8_lossy(&answer[..length]).into_owned()
    }

    #[tokio::test]
    async fn it_answers_and_stops_though_a_client_keeps_its_connection() {
        let (address, shutdown, mut serving) = start().await;
        let mut stream = TcpStream::connect(address).await.unwrap();
        let answer = ask(&mut stream, "GET /a%2Fb%20%C3%A9 HTTP/1.1\r\nhost: x\r\n\r\n").await;
        assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("a/b \u{e9}"), "{answer}");
        shutdown.cancel();
        tokio::time::timeout(Duration::from_secs(4), serving.join_next())
            .await
            .expect("an idle connection holds the shutdown up");
        assert!(TcpStream::connect(address).await.is_err());
    }

    #[test]
    fn one_machine_does_not_take_all_connections() {
        let crowd = Crowd::default();
        let enter = |address: &str| crowd.enter(address.parse().unwrap());
        let mut seats: Vec<Seat> = (0..CONNECTIONS_OF_ADDRESS).filter_map(|_| enter("10.0.0.1")).collect();
        assert_eq!(seats.len(), CONNECTIONS_OF_ADDRESS);
        assert!(enter("10.0.0.1").is_none() && enter("::ffff:10.0.0.1").is_none() && enter("10.0.0.2").is_some());
        seats.pop();
        assert!(enter("10.0.0.1").is_some());
        drop(seats);
        assert!(crowd.0.lock().is_empty());
        for own in ["127.0.0.1", "::1", "::ffff:127.0.0.1"] {
            let seats: Vec<Seat> = (0..1000).filter_map(|_| enter(own)).collect();
            assert_eq!(seats.len(), 1000, "{own}");
        }
    }

    #[tokio::test]
    async fn too_many_headers_are_refused() {
        let (address, _shutdown, _serving) = start().await;
        let mut stream = TcpStream::connect(address).await.unwrap();
        let headers: String = (0..=HEADERS_MAX).map(|n| format!("h{n}: x\r\n")).collect();
        let answer = ask(&mut stream, &format!("GET /a HTTP/1.1\r\n{headers}\r\n")).await;
        assert!(answer.starts_with("HTTP/1.1 431"), "{answer}");
    }

    #[tokio::test]
    async fn a_port_in_use_says_what_to_do() {
        let (address, _shutdown, _serving) = start().await;
        let error = bind(&[Listener { address, tls: false }], Serves::All, None).await.err().unwrap();
        assert_eq!(error.code(), "rest.listener");
        assert!(error.hint().unwrap().contains("another worker may be running"));
    }
}

//! The listeners: HTTP/1.1 with bounds on everything a client may hold open.

use aqueduct_core::{Error, Result};
use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// Connections at once, all listeners together. An admin API has a few; the bound keeps file descriptors for connectors.
const CONNECTIONS_MAX: usize = 512;
/// Also how long a connection may be idle between two requests. Longer than the poll interval of the usual UIs.
const HEADER_READ_TIMEOUT: Duration = Duration::from_secs(60);
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

/// # Errors
/// `rest.listener` when an address is taken (for 3 s) or not ours.
pub async fn bind(addresses: &[SocketAddr]) -> Result<Vec<TcpListener>> {
    let mut listeners = Vec::with_capacity(addresses.len());
    for address in addresses {
        let listener = bind_soon(*address).await.map_err(|error| {
            let fix = match error.kind() {
                std::io::ErrorKind::AddrInUse => "another worker may be running: stop it, or set another port in `listeners`",
                _ => "set an address of this machine in `listeners`",
            };
            Error::fatal("rest.listener", format!("cannot listen on http://{address}: {error}")).fix(fix)
        })?;
        listeners.push(listener);
    }
    Ok(listeners)
}

/// Serves until `shutdown`, then finishes the answers in progress and returns.
pub async fn serve(listeners: Vec<TcpListener>, router: Router, shutdown: CancellationToken) {
    let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut accepting = JoinSet::new();
    for listener in listeners {
        accepting.spawn(accept(listener, router.clone(), room.clone(), shutdown.clone()));
    }
    while accepting.join_next().await.is_some() {}
}

async fn accept(listener: TcpListener, router: Router, room: Arc<Semaphore>, shutdown: CancellationToken) {
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
            Ok((stream, _)) => {
                let connection = graceful.watch(connection(stream, router.clone()));
                connections.spawn(async move {
                    // A client that hangs up or sends garbage is its own problem.
                    let _ = connection.await;
                    drop(permit);
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

fn connection(stream: TcpStream, router: Router) -> http1::Connection<TokioIo<TcpStream>, TowerToHyperService<Router>> {
    let _ = stream.set_nodelay(true);
    http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_READ_TIMEOUT)
        .max_headers(HEADERS_MAX)
        .max_buf_size(HEADER_MAX_BYTES)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    async fn start() -> (SocketAddr, CancellationToken, JoinSet<()>) {
        let listeners = bind(&["127.0.0.1:0".parse().unwrap()]).await.unwrap();
        let address = listeners[0].local_addr().unwrap();
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
        let error = bind(&[address]).await.unwrap_err();
        assert_eq!(error.code(), "rest.listener");
        assert!(error.hint().unwrap().contains("another worker may be running"));
    }
}

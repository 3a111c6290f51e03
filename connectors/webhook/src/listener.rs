//! Listeners by address, shared by connectors: the first opens one, and it ends a while after the last has closed.

use crate::config::{Address, Settings};
use crate::connection;
use crate::intake::Intake;
use crate::routes::{Routes, Table, Target};
use crate::tls::{Stamp, TlsFiles};
use aqueduct_core::{Error, Result};
use arc_swap::ArcSwap;
use parking_lot::Mutex;
use socket2::{Domain, Protocol, Socket, Type};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::Instant;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_util::sync::CancellationToken;

/// Of this process. A connector sees no other: they meet only in the port that they share.
static LISTENERS: Mutex<BTreeMap<SocketAddr, Arc<Listener>>> = Mutex::new(BTreeMap::new());
static OWNERS: AtomicU64 = AtomicU64::new(0);

/// How long the port answers 503 after the last connector has closed: a restart with its back-off, or a pause of some minutes.
const LINGER: Duration = Duration::from_secs(300);
/// How often files of TLS are looked at.
const TICK: Duration = Duration::from_secs(2);
/// A worker that was killed a moment ago may hold its port until the kernel has put it away.
const PORT_FREE_MAX: Duration = Duration::from_secs(5);
const PORT_RETRY: Duration = Duration::from_millis(50);
/// Connections that the kernel holds until they are accepted.
const BACKLOG: i32 = 4096;
/// How long requests in progress may take when the listener ends.
const GRACE: Duration = Duration::from_secs(5);

pub(crate) struct Listener {
    options: Options,
    routes: Mutex<Routes>,
    table: ArcSwap<Table>,
    connections: Arc<Semaphore>,
    stop: CancellationToken,
    /// Set before `stop` is: looked at without its lock.
    stopping: AtomicBool,
    /// Of the loop that accepts; it may end with its runtime, without a word.
    accepting: Mutex<Option<AbortHandle>>,
}

/// What those who share a listener must agree on.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Options {
    address: Address,
    tls: Option<TlsFiles>,
    connections_max: usize,
}

/// A connector's paths on a listener, until it is dropped.
pub(crate) struct Place {
    listener: Arc<Listener>,
    owner: u64,
}

impl Place {
    /// The listener ended: requests come no more.
    pub(crate) fn is_lost(&self) -> bool {
        self.listener.is_dead()
    }

    pub(crate) fn connections(&self) -> usize {
        self.listener.options.connections_max.saturating_sub(self.listener.connections.available_permits())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let table = self.listener.routes.lock().close(self.owner);
        self.listener.table.store(Arc::new(table));
    }
}

/// # Errors
/// `webhook.listen` when the port cannot be had, `webhook.listener_options` and `webhook.path_taken` when another connector is in the way, `webhook.tls`.
pub(crate) async fn open(settings: Arc<Settings>, intake: Arc<Intake>) -> Result<Place> {
    let options = Options { address: settings.address, tls: settings.tls.clone(), connections_max: settings.connections_max };
    let tls = match &options.tls {
        Some(files) => Some((files.stamp().await, files.load().await?)),
        None => None,
    };
    let deadline = Instant::now() + PORT_FREE_MAX;
    let target = Arc::new(Target::new(settings, intake));
    loop {
        match try_open(&options, tls.as_ref(), &target) {
            Ok(place) => return Ok(place),
            Err(Failed::Busy(_)) if Instant::now() < deadline => tokio::time::sleep(PORT_RETRY).await,
            Err(Failed::Busy(error) | Failed::Refused(error)) => return Err(error),
        }
    }
}

enum Failed {
    /// The port may become free.
    Busy(Error),
    Refused(Error),
}

/// Under the lock, so that two that open at once share one listener; it does not wait.
fn try_open(options: &Options, tls: Option<&(Stamp, Arc<ServerConfig>)>, target: &Arc<Target>) -> Result<Place, Failed> {
    let mut listeners = LISTENERS.lock();
    let address = options.address;
    let found = listeners.get(&address.socket).filter(|listener| !listener.is_dead()).cloned();
    let listener = match found {
        Some(listener) if listener.options == *options => listener,
        Some(listener) if listener.routes.lock().any_open() => {
            return Err(Failed::Refused(differs(&listener.options, options)));
        }
        other => {
            if let Some(unused) = other {
                unused.end();
                listeners.remove(&address.socket);
            }
            let socket = bind(address.socket).map_err(|error| not_bound(address, &error))?;
            let listener = Listener::start(options.clone(), socket, tls.cloned());
            listeners.insert(address.socket, listener.clone());
            listener
        }
    };
    let owner = OWNERS.fetch_add(1, Relaxed);
    let table = listener.routes.lock().add(owner, target).map_err(|(path, why)| {
        let error = Error::fatal("webhook.path_taken", format!("{path} on {address}: {why}"));
        Failed::Refused(error.fix("give each connector paths of its own, or a listener of its own"))
    })?;
    listener.table.store(Arc::new(table));
    Ok(Place { listener, owner })
}

fn differs(there: &Options, wanted: &Options) -> Error {
    let what = match () {
        () if there.address.tls != wanted.address.tls => "http or https",
        () if there.tls != wanted.tls => "the files of ssl.*",
        () => "connections.max",
    };
    let message = format!("another connector listens on {} with other options: {what}", there.address);
    Error::fatal("webhook.listener_options", message).fix("give connectors of one listener the same options, or another port")
}

fn not_bound(address: Address, error: &std::io::Error) -> Failed {
    let failed = Error::retriable("webhook.listen", format!("cannot listen on {address}: {error}"));
    if error.kind() == std::io::ErrorKind::AddrInUse {
        return Failed::Busy(failed.fix("another program has the port: end it, or set another port in listener"));
    }
    Failed::Refused(failed.fix("set an address of this machine in listener, and a port that the worker may use"))
}

fn bind(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // Connections of a worker that was killed may still be there.
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

impl Listener {
    #[allow(clippy::disallowed_methods, reason = "owned by the listener, which ends it")]
    fn start(options: Options, socket: TcpListener, tls: Option<(Stamp, Arc<ServerConfig>)>) -> Arc<Self> {
        let listener = Arc::new(Self {
            connections: Arc::new(Semaphore::new(options.connections_max)),
            options,
            routes: Mutex::default(),
            table: ArcSwap::default(),
            stop: CancellationToken::new(),
            stopping: AtomicBool::new(false),
            accepting: Mutex::new(None),
        });
        let task = tokio::spawn(listener.clone().accept(socket, tls));
        *listener.accepting.lock() = Some(task.abort_handle());
        listener
    }

    fn is_dead(&self) -> bool {
        self.stop.is_cancelled() || self.accepting.lock().as_ref().is_some_and(AbortHandle::is_finished)
    }

    pub(crate) fn table(&self) -> arc_swap::Guard<Arc<Table>> {
        self.table.load()
    }

    pub(crate) fn stop(&self) -> &CancellationToken {
        &self.stop
    }

    pub(crate) fn is_stopping(&self) -> bool {
        self.stopping.load(Relaxed)
    }

    fn end(&self) {
        self.stopping.store(true, Relaxed);
        self.stop.cancel();
    }

    async fn accept(self: Arc<Self>, socket: TcpListener, mut tls: Option<(Stamp, Arc<ServerConfig>)>) {
        let mut connections = JoinSet::new();
        let mut tick = tokio::time::interval(TICK);
        let mut unused_since = None;
        loop {
            let accepted = tokio::select! {
                () = self.stop.cancelled() => break,
                _ = tick.tick() => {
                    while connections.try_join_next().is_some() {}
                    self.reload(&mut tls).await;
                    if self.routes.lock().any_open() {
                        unused_since = None;
                    } else if unused_since.get_or_insert_with(Instant::now).elapsed() >= LINGER && self.retire() {
                        break;
                    }
                    continue;
                }
                accepted = async {
                    // Nobody closes the semaphore.
                    let permit = self.connections.clone().acquire_owned().await.ok();
                    (socket.accept().await, permit)
                } => accepted,
            };
            match accepted {
                (Ok((stream, _)), permit) => {
                    let acceptor = tls.as_ref().map(|(_, config)| TlsAcceptor::from(config.clone()));
                    let listener = self.clone();
                    connections.spawn(async move {
                        let _ = stream.set_nodelay(true);
                        connection::run(stream, acceptor, listener).await;
                        drop(permit);
                    });
                }
                // Out of file descriptors, or the client was gone before we came: the listener itself is well.
                (Err(error), _) => {
                    tracing::warn!(%error, "a connection to {} could not be accepted", self.options.address);
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
            while connections.try_join_next().is_some() {}
        }
        drop(socket);
        let _ = tokio::time::timeout(GRACE, async { while connections.join_next().await.is_some() {} }).await;
    }

    /// A change that cannot be read leaves what there is.
    async fn reload(&self, tls: &mut Option<(Stamp, Arc<ServerConfig>)>) {
        let (Some(files), Some((stamp, config))) = (&self.options.tls, tls) else { return };
        let now = files.stamp().await;
        if now == *stamp {
            return;
        }
        match files.load().await {
            Ok(new) => {
                *config = new;
                tracing::info!("the certificates of {} were read anew", self.options.address);
            }
            Err(error) => tracing::warn!("the certificates of {} changed, and the old ones stay: {error}", self.options.address),
        }
        *stamp = now;
    }

    /// Under the lock, so that nobody opens a path on it meanwhile.
    fn retire(&self) -> bool {
        let mut listeners = LISTENERS.lock();
        if self.routes.lock().any_open() {
            return false;
        }
        self.end();
        let address = self.options.address.socket;
        if listeners.get(&address).is_some_and(|listener| std::ptr::eq(Arc::as_ptr(listener), self)) {
            listeners.remove(&address);
        }
        true
    }
}

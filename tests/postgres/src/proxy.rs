//! A proxy on TCP that cuts, holds and redirects connections. It knows nothing of the protocol, so it also passes TLS.

use crate::home::free_port;
use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::ops::RangeInclusive;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Duration;

/// Ends with all its connections on drop.
#[derive(Debug)]
pub struct Proxy {
    port: u16,
    state: Arc<State>,
}

#[derive(Debug, Default)]
struct State {
    inner: Mutex<Inner>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Inner {
    upstream: u16,
    ended: bool,
    blackhole: bool,
    refuse: bool,
    cut: Option<(fastrand::Rng, RangeInclusive<u64>)>,
    cuts: u64,
    accepted: u64,
    bytes: u64,
    connections: HashMap<u64, Connection>,
}

#[derive(Debug)]
struct Connection {
    streams: [TcpStream; 2],
    /// Bytes of both directions until it is cut.
    left: Option<u64>,
}

impl State {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().expect("no panic while it is held")
    }

    fn change<T>(&self, change: impl FnOnce(&mut Inner) -> T) -> T {
        let answer = change(&mut self.lock());
        self.changed.notify_all();
        answer
    }
}

impl Inner {
    fn end(&mut self, id: u64) {
        if let Some(connection) = self.connections.remove(&id) {
            connection.streams.iter().for_each(|stream| drop(stream.shutdown(Shutdown::Both)));
        }
    }

    fn end_all(&mut self) {
        let ids: Vec<u64> = self.connections.keys().copied().collect();
        ids.into_iter().for_each(|id| self.end(id));
    }
}

impl Proxy {
    /// Listens on a free port of 127.0.0.1 and forwards to this one.
    ///
    /// # Panics
    /// When the port is taken.
    pub fn start(upstream: u16) -> Self {
        let port = free_port();
        let listener = TcpListener::bind(("127.0.0.1", port)).unwrap_or_else(|error| panic!("port {port}: {error}"));
        let state = Arc::new(State::default());
        state.lock().upstream = upstream;
        let accept = Arc::clone(&state);
        std::thread::spawn(move || accept_all(&listener, &accept));
        Self { port, state }
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// Where connections that come from now on go: as a name that moves to a promoted standby.
    pub fn to(&self, upstream: u16) {
        self.state.change(|inner| inner.upstream = upstream);
    }

    /// Each connection from now on is cut after so many bytes of both directions, in the middle of whatever it is, by the seed.
    pub fn cut_after(&self, bytes: RangeInclusive<u64>, seed: u64) {
        self.state.change(|inner| inner.cut = Some((fastrand::Rng::with_seed(seed), bytes)));
    }

    /// Ends [`Proxy::cut_after`] and the plain faults, also for connections that are open.
    pub fn heal(&self) {
        self.state.change(|inner| {
            inner.cut = None;
            inner.connections.values_mut().for_each(|connection| connection.left = None);
            (inner.blackhole, inner.refuse) = (false, false);
        });
    }

    /// While true, connections stay open (and new ones are accepted) and nothing passes.
    pub fn blackhole(&self, on: bool) {
        self.state.change(|inner| inner.blackhole = on);
    }

    /// While true, new connections are closed at once.
    pub fn refuse(&self, on: bool) {
        self.state.change(|inner| inner.refuse = on);
    }

    /// Ends every connection; clients may come back.
    pub fn reset(&self) {
        self.state.change(Inner::end_all);
    }

    /// How often it has cut a connection at its byte.
    pub fn cuts(&self) -> u64 {
        self.state.lock().cuts
    }

    /// Connections so far.
    pub fn accepted(&self) -> u64 {
        self.state.lock().accepted
    }

    /// Connections now.
    pub fn open(&self) -> usize {
        self.state.lock().connections.len()
    }

    /// Bytes passed so far, in both directions.
    pub fn bytes(&self) -> u64 {
        self.state.lock().bytes
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.state.change(|inner| {
            inner.ended = true;
            inner.end_all();
        });
        // Wakes the one that accepts.
        let _ = TcpStream::connect(("127.0.0.1", self.port));
    }
}

fn accept_all(listener: &TcpListener, state: &Arc<State>) {
    for client in listener.incoming() {
        let (ended, refuse, upstream) = {
            let inner = state.lock();
            (inner.ended, inner.refuse, inner.upstream)
        };
        if ended {
            return;
        }
        let Ok(client) = client else { continue };
        if refuse {
            continue;
        }
        // A server that is down: the client's connection ends at once.
        let Ok(server) = TcpStream::connect(("127.0.0.1", upstream)) else { continue };
        let _ = (client.set_nodelay(true), server.set_nodelay(true));
        let clone = |stream: &TcpStream| stream.try_clone().expect("a socket can be cloned");
        let id = state.change(|inner| {
            inner.accepted += 1;
            let left = inner.cut.as_mut().map(|(random, bytes)| random.u64(bytes.clone()));
            let id = inner.accepted;
            inner.connections.insert(id, Connection { streams: [clone(&client), clone(&server)], left });
            id
        });
        for (from, to) in [(clone(&client), clone(&server)), (server, client)] {
            let state = Arc::clone(state);
            std::thread::spawn(move || pass(from, to, id, &state));
        }
    }
}

fn pass(mut from: TcpStream, mut to: TcpStream, id: u64, state: &State) {
    let mut buffer = vec![0; 64 << 10];
    loop {
        let read = match from.read(&mut buffer) {
            Ok(read) if read > 0 => read,
            _ => break,
        };
        let mut inner = state.lock();
        while inner.blackhole && !inner.ended {
            inner = state.changed.wait_timeout(inner, Duration::from_secs(1)).expect("no panic while it is held").0;
        }
        let Some(connection) = inner.connections.get_mut(&id) else { return };
        let (mut pass, mut cut) = (read, false);
        if let Some(left) = &mut connection.left {
            pass = read.min(usize::try_from(*left).unwrap_or(usize::MAX));
            *left -= pass as u64;
            cut = *left == 0;
        }
        inner.bytes += pass as u64;
        inner.cuts += u64::from(cut);
        drop(inner);
        if to.write_all(&buffer[..pass]).is_err() || cut {
            break;
        }
    }
    state.change(|inner| inner.end(id));
}

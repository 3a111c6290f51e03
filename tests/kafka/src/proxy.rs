//! A proxy before a broker that breaks what passes, by rules that a test sets while clients run.
//!
//! It understands frames and rewrites nothing: clients come back through it because the broker advertises its port (`Options::proxied`).
//! Four threads a connection: each direction has one that reads and one that writes, so that a delay does not lower the rate.

use crate::home::free_port;
use crate::wire::read_frame;
use socket2::SockRef;
use std::collections::{BTreeMap, HashMap};
use std::io::Write;
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};
use wait_services::poll_for;

/// Frames between a connection's reader and writer; with a megabyte each, 64 MB.
const IN_FLIGHT: usize = 64;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// On its way to the broker, which has not seen it.
    Request,
    /// On its way back: the broker has done it.
    Response,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Passed on so much later. What comes behind it on this connection waits too, as in TCP.
    /// It goes on to the broker even when the client has hung up meanwhile: a late request is what this is for.
    Delay(Duration),
    /// Kept until [`Rule::release`], then as [`Action::Delay`].
    Hold,
    /// Never passed on; the connection stays.
    Drop,
    /// The connection ends here, in both directions, without this frame.
    Cut,
}

/// A rule that was set; it ends with [`Rule::release`] or when it has acted as often as asked. Dropping this does not end it.
#[derive(Clone, Debug)]
pub struct Rule {
    id: u64,
    state: Arc<State>,
}

#[derive(Debug)]
pub struct Proxy {
    port: u16,
    upstream: u16,
    state: Arc<State>,
}

#[derive(Debug, Default)]
struct State {
    inner: Mutex<Inner>,
    changed: Condvar,
    ended: AtomicBool,
}

#[derive(Debug, Default)]
struct Inner {
    rules: Vec<RuleState>,
    next_rule: u64,
    latency: Duration,
    blackhole: bool,
    refuse: bool,
    /// Requests so far by API key, as they came.
    seen: BTreeMap<i16, u64>,
    connections: HashMap<u64, [TcpStream; 2]>,
    next_connection: u64,
}

#[derive(Debug)]
struct RuleState {
    id: u64,
    api: i16,
    side: Side,
    action: Action,
    /// How often it still acts; one that has none left is kept for `caught`.
    left: u32,
    caught: u32,
    released: bool,
}

struct Frame {
    due: Instant,
    bytes: Vec<u8>,
    rule: Option<(u64, Action)>,
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

    /// Until the condition holds, the time has come, or the proxy ends.
    fn wait(&self, until: Option<Instant>, done: impl Fn(&Inner) -> bool) {
        let mut inner = self.lock();
        while !done(&inner) && !self.ended.load(Ordering::Acquire) {
            let left = until.map_or(Duration::from_secs(1), |until| until.saturating_duration_since(Instant::now()));
            if left.is_zero() {
                return;
            }
            inner = self.changed.wait_timeout(inner, left).expect("no panic while it is held").0;
        }
    }
}

impl Rule {
    /// How many frames it has acted on.
    pub fn caught(&self) -> u32 {
        self.state.lock().rules.iter().find(|rule| rule.id == self.id).map_or(0, |rule| rule.caught)
    }

    /// # Panics
    /// When it has not acted so often by the deadline.
    #[track_caller]
    pub fn wait_caught(&self, count: u32, deadline: Duration) {
        let caught = poll_for(deadline, || (self.caught() >= count).then_some(()));
        assert!(caught.is_some(), "the proxy's rule has caught {} of {count} frames after {deadline:?}", self.caught());
    }

    /// Lets go what it holds or delays, and acts no more.
    pub fn release(&self) {
        let release = |rule: &mut RuleState| (rule.released, rule.left) = (true, 0);
        self.state.change(|inner| inner.rules.iter_mut().filter(|rule| rule.id == self.id).for_each(release));
    }
}

impl Proxy {
    /// Listens on `127.0.0.1:port` and forwards to [`Proxy::upstream`], a port of its own choice where the broker is to listen.
    pub fn start(port: u16) -> Self {
        Self::between(port, free_port())
    }

    /// # Panics
    /// When the port is taken.
    pub fn between(port: u16, upstream: u16) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", port)).unwrap_or_else(|error| panic!("port {port}: {error}"));
        let state = Arc::new(State::default());
        let accept = Arc::clone(&state);
        std::thread::spawn(move || accept_all(&listener, upstream, &accept));
        Self { port, upstream, state }
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn upstream(&self) -> u16 {
        self.upstream
    }

    /// From now on, the next `times` frames of this API key (`wire::END_TXN`) on this side; the oldest rule that fits acts.
    pub fn rule(&self, api: i16, side: Side, action: Action, times: u32) -> Rule {
        let id = self.state.change(|inner| {
            inner.next_rule += 1;
            let id = inner.next_rule;
            inner.rules.push(RuleState { id, api, side, action, left: times, caught: 0, released: false });
            id
        });
        Rule { id, state: Arc::clone(&self.state) }
    }

    /// Ends all rules and plain faults; what was held goes on.
    pub fn heal(&self) {
        self.state.change(|inner| {
            inner.rules.iter_mut().for_each(|rule| (rule.released, rule.left) = (true, 0));
            (inner.latency, inner.blackhole, inner.refuse) = (Duration::ZERO, false, false);
        });
    }

    /// So much later in each direction, at the same rate.
    pub fn latency(&self, latency: Duration) {
        self.state.change(|inner| inner.latency = latency);
    }

    /// While true, connections stay open (and new ones are accepted) and nothing passes.
    pub fn blackhole(&self, on: bool) {
        self.state.change(|inner| inner.blackhole = on);
    }

    /// While true, new connections are closed at once.
    pub fn refuse(&self, on: bool) {
        self.state.change(|inner| inner.refuse = on);
    }

    /// Ends every connection with a TCP reset; clients may come back.
    pub fn reset(&self) {
        self.state.change(Inner::reset);
    }

    /// Connections that are open now.
    pub fn connections(&self) -> usize {
        self.state.lock().connections.len()
    }

    /// Requests with this API key that clients have sent so far, passed on or not.
    pub fn seen(&self, api: i16) -> u64 {
        self.state.lock().seen.get(&api).copied().unwrap_or(0)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.state.ended.store(true, Ordering::Release);
        self.state.change(Inner::reset);
        // Wakes the listener.
        let _ = TcpStream::connect(("127.0.0.1", self.port));
    }
}

impl Inner {
    fn reset(&mut self) {
        for stream in self.connections.drain().flat_map(|(_, streams)| streams) {
            let _ = SockRef::from(&stream).set_linger(Some(Duration::ZERO));
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    /// The action for a frame that has just arrived.
    fn judge(&mut self, api: i16, side: Side) -> Option<(u64, Action)> {
        let rule = self.rules.iter_mut().find(|rule| rule.left > 0 && rule.api == api && rule.side == side)?;
        rule.left -= 1;
        rule.caught += 1;
        Some((rule.id, rule.action))
    }

    fn released(&self, id: u64) -> bool {
        self.rules.iter().all(|rule| rule.id != id || rule.released)
    }
}

fn accept_all(listener: &TcpListener, upstream: u16, state: &Arc<State>) {
    for client in listener.incoming() {
        if state.ended.load(Ordering::Acquire) {
            return;
        }
        let Ok(client) = client else { continue };
        if state.lock().refuse {
            continue;
        }
        // A broker that is down: the client's connection ends at once.
        let Ok(broker) = TcpStream::connect(("127.0.0.1", upstream)) else { continue };
        let _ = (client.set_nodelay(true), broker.set_nodelay(true));
        serve(client, broker, state);
    }
}

fn serve(client: TcpStream, broker: TcpStream, state: &Arc<State>) {
    let clone = |stream: &TcpStream| stream.try_clone().expect("a socket can be cloned");
    let id = state.change(|inner| {
        inner.next_connection += 1;
        inner.connections.insert(inner.next_connection, [clone(&client), clone(&broker)]);
        inner.next_connection
    });
    let asked = Arc::new(Mutex::new(HashMap::new()));
    for side in [Side::Request, Side::Response] {
        let (from, to) = if side == Side::Request { (clone(&client), clone(&broker)) } else { (clone(&broker), clone(&client)) };
        let (sender, receiver) = sync_channel(IN_FLIGHT);
        let (reading, writing, asked) = (Arc::clone(state), Arc::clone(state), Arc::clone(&asked));
        std::thread::spawn(move || read_side(from, side, &asked, &sender, &reading));
        std::thread::spawn(move || {
            write_side(to, side, id, &receiver, &writing);
            if side == Side::Response {
                writing.change(|inner| inner.connections.remove(&id));
            }
        });
    }
}

/// What was asked, by correlation id.
type Asked = Mutex<HashMap<[u8; 4], i16>>;

fn read_side(mut from: TcpStream, side: Side, asked: &Asked, sender: &SyncSender<Frame>, state: &State) {
    while let Ok(Some(bytes)) = read_frame(&mut from) {
        let api = api_of(&bytes, side, asked);
        let frame = state.change(|inner| {
            if let (Some(api), Side::Request) = (api, side) {
                *inner.seen.entry(api).or_default() += 1;
            }
            Frame { due: Instant::now() + inner.latency, bytes, rule: api.and_then(|api| inner.judge(api, side)) }
        });
        if sender.send(frame).is_err() {
            return;
        }
    }
}

fn api_of(frame: &[u8], side: Side, asked: &Asked) -> Option<i16> {
    let mut asked = asked.lock().expect("no panic while it is held");
    let bytes = |at: usize| frame.get(at..at + 4)?.try_into().ok();
    match side {
        Side::Request => {
            let [high, low, ..]: [u8; 4] = bytes(4)?;
            let api = i16::from_be_bytes([high, low]);
            asked.insert(bytes(8)?, api);
            Some(api)
        }
        Side::Response => asked.remove(&bytes(4)?),
    }
}

fn write_side(mut to: TcpStream, side: Side, id: u64, receiver: &Receiver<Frame>, state: &State) {
    let mut open = true;
    while let Ok(frame) = receiver.recv() {
        state.wait(Some(frame.due), |_| false);
        match frame.rule {
            Some((_, Action::Drop)) => continue,
            Some((_, Action::Cut)) => {
                if let Some(streams) = state.change(|inner| inner.connections.remove(&id)) {
                    streams.iter().for_each(|stream| drop(stream.shutdown(Shutdown::Both)));
                }
                return;
            }
            Some((rule, Action::Delay(time))) => state.wait(Some(frame.due + time), |inner| inner.released(rule)),
            Some((rule, Action::Hold)) => state.wait(None, |inner| inner.released(rule)),
            None => {}
        }
        state.wait(None, |inner| !inner.blackhole);
        // A client that hung up does not stop what is still on its way to the broker.
        open = open && to.write_all(&frame.bytes).is_ok();
        if !open && side == Side::Request {
            return;
        }
    }
    let _ = to.shutdown(if side == Side::Request { Shutdown::Write } else { Shutdown::Both });
}

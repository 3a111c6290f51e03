//! WASI's sockets: out to the hosts of `allow.sockets`, never in. The address that is dialled is the one that is judged (reliability.md, 23): a name
//! stands for what the guest's own lookup of it gave.

use crate::bindings::runtime::Level;
use crate::error::clean;
use crate::hosts::{granted, granted_somewhere, judge};
use crate::imports::Imports;
use crate::lines::Lines;
use aqueduct_config::worker_config::PluginGrant;
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};
use wasmtime::Result;
use wasmtime::component::{HasSelf, Linker, Resource};
use wasmtime_wasi::WasiCtxBuilder;
use wasmtime_wasi::p2::bindings::sockets::ip_name_lookup::{self, Host, HostResolveAddressStream, ResolveAddressStream};
use wasmtime_wasi::p2::bindings::sockets::network::{self, ErrorCode, IpAddress, Network};
use wasmtime_wasi::p2::{DynPollable, SocketError};
use wasmtime_wasi::sockets::{SocketAddrUse, WasiSocketsCtxView, WasiSocketsView};

/// Of one instance. A name has a handful; more are forgotten, and must be looked up again.
const ADDRESSES_MAX: usize = 1_000;

/// Of one instance in a second. Each takes a thread that all share, and holds it also when the guest has dropped it: the resolver cannot be called off.
const LOOKUPS_A_SECOND: u32 = 10;

/// What an instance may dial.
pub(crate) struct Dialled {
    plugin: Arc<str>,
    grant: Arc<PluginGrant>,
    lines: Arc<Lines>,
    /// The granted names that an address was given for.
    names: Mutex<BTreeMap<IpAddr, BTreeSet<String>>>,
    /// The second that is counted, and its lookups.
    lookups: Mutex<(Instant, u32)>,
}

impl Dialled {
    pub(crate) fn new(plugin: Arc<str>, grant: Arc<PluginGrant>, lines: Arc<Lines>) -> Arc<Self> {
        Arc::new(Self { plugin, grant, lines, names: Mutex::default(), lookups: Mutex::new((Instant::now(), 0)) })
    }

    /// Without a grant wasmtime refuses all sockets, as it does by default.
    pub(crate) fn open(self: &Arc<Self>, builder: &mut WasiCtxBuilder) {
        if self.grant.sockets.is_empty() {
            return;
        }
        builder.allow_ip_name_lookup(true).allow_tcp(true).allow_udp(true);
        let dialled = self.clone();
        builder.socket_addr_check(move |address, reason| {
            let allowed = dialled.allows(address, reason);
            Box::pin(async move { allowed })
        });
    }

    fn allows(&self, address: SocketAddr, reason: SocketAddrUse) -> bool {
        let (ip, port) = (address.ip().to_canonical(), address.port());
        match reason {
            // What connecting and sending do first, if nobody asks for a port.
            SocketAddrUse::TcpBind | SocketAddrUse::UdpBind => ip.is_unspecified() && port == 0,
            SocketAddrUse::TcpListen | SocketAddrUse::TcpAccept => false,
            // A stranger's datagram is dropped without a word.
            SocketAddrUse::UdpReceive => self.judged(ip, port).is_ok(),
            SocketAddrUse::TcpConnect | SocketAddrUse::UdpSend => self.told(self.judged(ip, port)),
        }
    }

    fn judged(&self, ip: IpAddr, port: u16) -> Result<(), String> {
        let rules = &self.grant.sockets;
        let by_name = |names: &BTreeSet<String>| names.iter().any(|name| granted(rules, name, port));
        if !granted(rules, &ip.to_string(), port) && !self.names.lock().get(&ip).is_some_and(by_name) {
            let plugin = &self.plugin;
            return Err(format!("{} is not granted: add it to plugins.{plugin}.allow.sockets", SocketAddr::new(ip, port)));
        }
        judge(ip, self.grant.private_networks, &self.plugin).map_err(|denied| denied.0)
    }

    /// The guest is told `access-denied`, which says nothing to its operator.
    fn told(&self, judged: Result<(), String>) -> bool {
        judged.map_err(|denied| self.lines.write(Level::Warn, &format!("a socket was refused: {denied}"))).is_ok()
    }

    fn may_look_up(&self, name: &str) -> bool {
        let is_granted = granted_somewhere(&self.grant.sockets, name);
        let denied = || format!("{} is not granted: add it to plugins.{}.allow.sockets", clean(name, 200), self.plugin);
        self.told(if is_granted { Ok(()) } else { Err(denied()) })
    }

    /// False: it is one too many.
    fn is_counted(&self) -> bool {
        let mut lookups = self.lookups.lock();
        if lookups.0.elapsed() >= Duration::from_secs(1) {
            *lookups = (Instant::now(), 0);
        }
        lookups.1 += 1;
        lookups.1 <= LOOKUPS_A_SECOND
    }

    fn resolved(&self, name: &str, ip: IpAddr) {
        let mut names = self.names.lock();
        if names.len() >= ADDRESSES_MAX {
            names.clear();
        }
        names.entry(ip.to_canonical()).or_default().insert(name.to_owned());
    }
}

/// The linker allows shadowing.
pub(crate) fn add_to_linker(linker: &mut Linker<Imports>) -> Result<()> {
    ip_name_lookup::add_to_linker::<_, HasSelf<Imports>>(linker, |imports| imports)
}

impl Imports {
    fn lookup(&mut self) -> WasiSocketsCtxView<'_> {
        WasiSocketsView::sockets(self)
    }
}

impl Host for Imports {
    fn resolve_addresses(
        &mut self,
        network: Resource<Network>,
        name: String,
    ) -> Result<Resource<ResolveAddressStream>, SocketError> {
        let host = name.trim_matches(['[', ']']).trim_end_matches('.').to_ascii_lowercase();
        if !self.dialled.may_look_up(&host) {
            return Err(ErrorCode::AccessDenied.into());
        }
        if !self.dialled.is_counted() {
            return Err(ErrorCode::TemporaryResolverFailure.into());
        }
        let stream = Host::resolve_addresses(&mut self.lookup(), network, name)?;
        self.lookups.insert(stream.rep(), host);
        Ok(stream)
    }
}

impl HostResolveAddressStream for Imports {
    fn resolve_next_address(&mut self, stream: Resource<ResolveAddressStream>) -> Result<Option<IpAddress>, SocketError> {
        let rep = stream.rep();
        let address = HostResolveAddressStream::resolve_next_address(&mut self.lookup(), stream)?;
        if let (Some(address), Some(name)) = (address, self.lookups.get(&rep)) {
            self.dialled.resolved(name, ip(address));
        }
        Ok(address)
    }

    fn subscribe(&mut self, stream: Resource<ResolveAddressStream>) -> Result<Resource<DynPollable>> {
        HostResolveAddressStream::subscribe(&mut self.lookup(), stream)
    }

    fn drop(&mut self, stream: Resource<ResolveAddressStream>) -> Result<()> {
        self.lookups.remove(&stream.rep());
        HostResolveAddressStream::drop(&mut self.lookup(), stream)
    }
}

impl network::Host for Imports {
    fn convert_error_code(&mut self, error: SocketError) -> Result<ErrorCode> {
        network::Host::convert_error_code(&mut self.lookup(), error)
    }

    fn network_error_code(&mut self, error: Resource<wasmtime::Error>) -> Result<Option<ErrorCode>> {
        network::Host::network_error_code(&mut self.lookup(), error)
    }
}

impl network::HostNetwork for Imports {
    fn drop(&mut self, network: Resource<Network>) -> Result<()> {
        network::HostNetwork::drop(&mut self.lookup(), network)
    }
}

fn ip(address: IpAddress) -> IpAddr {
    match address {
        IpAddress::Ipv4((a, b, c, d)) => [a, b, c, d].into(),
        IpAddress::Ipv6((a, b, c, d, e, f, g, h)) => [a, b, c, d, e, f, g, h].into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_dialled_that_is_granted_or_was_looked_up_by_a_granted_name() {
        let grant = |rules: &[&str], private: bool| PluginGrant {
            sockets: rules.iter().map(|rule| (*rule).to_owned()).collect(),
            private_networks: private,
            ..PluginGrant::default()
        };
        let dialled = |rules: &[&str], private: bool| {
            Dialled::new("p".into(), Arc::new(grant(rules, private)), Arc::new(Lines::new("p".into())))
        };
        let connects = |dialled: &Dialled, address: &str| dialled.allows(address.parse().unwrap(), SocketAddrUse::TcpConnect);
        let db = dialled(&["db.internal:5432", "9.9.9.9"], true);
        assert!(connects(&db, "9.9.9.9:53") && !connects(&db, "10.0.0.7:5432"));
        db.resolved("db.internal", "10.0.0.7".parse().unwrap());
        assert!(connects(&db, "10.0.0.7:5432") && connects(&db, "[::ffff:10.0.0.7]:5432"));
        assert!(!connects(&db, "10.0.0.7:22") && !connects(&db, "10.0.0.8:5432"));
        assert!(db.may_look_up("db.internal") && !db.may_look_up("internal"));
        // Link-local is never dialled, private addresses by grant.
        let all = dialled(&["*"], false);
        assert!(connects(&all, "9.9.9.9:1") && !connects(&all, "127.0.0.1:1"));
        assert!(!connects(&dialled(&["*"], true), "169.254.169.254:80"));
        let within = (0..100).filter(|_| all.is_counted()).count();
        assert!((10..100).contains(&within), "{within} lookups at once");
        // Nothing comes in.
        for reason in [SocketAddrUse::TcpListen, SocketAddrUse::TcpAccept, SocketAddrUse::TcpBind, SocketAddrUse::UdpBind] {
            assert!(!all.allows("9.9.9.9:80".parse().unwrap(), reason), "{reason:?}");
        }
        assert!(!db.allows("1.1.1.1:9".parse().unwrap(), SocketAddrUse::UdpReceive));
        assert!(db.allows("0.0.0.0:0".parse().unwrap(), SocketAddrUse::UdpBind));
    }
}

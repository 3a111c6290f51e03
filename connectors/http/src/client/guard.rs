//! Which hosts may be called (reliability.md, 23 and 24). The address that is dialled is the one that is judged, on every hop.

use super::failure::Failure;
use super::shown;
use aqueduct_core::egress::{Reach, reach};
use ipnet::IpNet;
use reqwest::Url;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

/// One entry of `http.allowed.hosts`.
#[derive(Clone, Debug, PartialEq)]
enum Rule {
    Name {
        name: String,
        port: Option<u16>,
    },
    /// `.example.com` of `*.example.com`.
    Below(String),
    Net(IpNet, Option<u16>),
}

/// Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Guard(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    /// Empty: every public host.
    rules: Vec<Rule>,
    private: bool,
    /// The proxy's host, which the operator named: it is dialled, whatever its address.
    proxy: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Denied {
    what: String,
    fix: String,
}

impl fmt::Display for Denied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}

impl std::error::Error for Denied {}

impl Denied {
    pub(crate) fn fix(&self) -> &str {
        &self.fix
    }

    pub(crate) fn into_failure(self) -> Failure {
        Failure::fatal("http.denied", self.what, self.fix)
    }
}

impl Guard {
    /// # Errors
    /// The entry that is no host.
    pub(crate) fn new(hosts: &[String], private: bool, proxy: Option<&str>) -> Result<Self, String> {
        let rules = hosts.iter().map(|host| rule(host)).collect::<Result<_, _>>()?;
        Ok(Self(Arc::new(Inner { rules, private, proxy: proxy.map(str::to_ascii_lowercase) })))
    }

    /// Of options that are wrong.
    pub(crate) fn closed() -> Self {
        Self(Arc::new(Inner { rules: Vec::new(), private: false, proxy: None }))
    }

    /// Scheme, host and, where the host is one, the address.
    pub(crate) fn check_url(&self, url: &Url) -> Result<(), Denied> {
        if !matches!(url.scheme(), "http" | "https") {
            return Err(Denied { what: format!("{} is neither http nor https", shown(url)), fix: "use http or https".into() });
        }
        let host = host_of(url).unwrap_or_default();
        let port = url.port_or_known_default();
        let listed = self.0.rules.iter().any(|rule| rule.covers(&host, port));
        if !self.0.rules.is_empty() && !listed {
            let what = format!("{host} is not in http.allowed.hosts");
            return Err(Denied { what, fix: format!("add {host} to http.allowed.hosts, if it is meant to be called") });
        }
        match host.parse::<IpAddr>() {
            Ok(address) => self.check_address(&host, address),
            // What resolves to this machine by its very name: said before it is tried, unless it is named.
            Err(_) if is_local_name(&host) && !listed && !self.0.private => Err(private(&host)),
            Err(_) => Ok(()),
        }
    }

    /// Of an address that `host` resolves to.
    pub(crate) fn check_address(&self, host: &str, address: IpAddr) -> Result<(), Denied> {
        let rules = &self.0.rules;
        let net = rules.iter().any(|rule| matches!(rule, Rule::Net(net, _) if net.contains(&address)));
        let named = rules.iter().any(|rule| matches!(rule, Rule::Name { name, .. } if name == host));
        let proxy = self.0.proxy.as_deref() == Some(host);
        match reach(address) {
            Reach::Public => Ok(()),
            Reach::Private if self.0.private || named || net || proxy => Ok(()),
            Reach::Forbidden if net || proxy => Ok(()),
            Reach::Private => Err(private(host)),
            Reach::Forbidden => Err(Denied {
                what: format!("{host} leads to a link-local, metadata or multicast address"),
                fix: "such an address is called only when it stands in http.allowed.hosts itself".into(),
            }),
        }
    }
}

fn private(host: &str) -> Denied {
    Denied {
        what: format!("{host} leads to this machine or a private network"),
        fix: format!("add {host} to http.allowed.hosts, or set http.allow.private.addresses: true"),
    }
}

fn is_local_name(host: &str) -> bool {
    host == "localhost" || host.ends_with(".localhost")
}

/// Lower case, without the brackets of IPv6 and the last dot.
fn host_of(url: &Url) -> Option<String> {
    Some(url.host_str()?.trim_start_matches('[').trim_end_matches(']').trim_end_matches('.').to_ascii_lowercase())
}

impl Rule {
    fn covers(&self, host: &str, port: Option<u16>) -> bool {
        match self {
            Rule::Name { name, port: wanted } => name == host && (wanted.is_none() || *wanted == port),
            Rule::Below(suffix) => host.ends_with(suffix.as_str()),
            Rule::Net(net, wanted) => {
                host.parse::<IpAddr>().is_ok_and(|address| net.contains(&address)) && (wanted.is_none() || *wanted == port)
            }
        }
    }
}

fn rule(text: &str) -> Result<Rule, String> {
    let text = text.trim().trim_end_matches('.').to_ascii_lowercase();
    let refuse =
        || format!("{text:?} is no host: use names, *.names, addresses or networks such as 10.0.0.0/8, with or without :port");
    if let Ok(net) = text.parse::<IpNet>() {
        return Ok(Rule::Net(net, None));
    }
    if let Ok(address) = text.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>() {
        return Ok(Rule::Net(address.into(), None));
    }
    if let Ok(socket) = text.parse::<SocketAddr>() {
        return Ok(Rule::Net(socket.ip().into(), Some(socket.port())));
    }
    let is_name =
        |name: &str| !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_'));
    if let Some(suffix) = text.strip_prefix('*') {
        return if suffix.len() > 1 && suffix.starts_with('.') && is_name(suffix) {
            Ok(Rule::Below(suffix.to_owned()))
        } else {
            Err(refuse())
        };
    }
    let (name, port) = match text.split_once(':') {
        Some((name, port)) => (name, Some(port.parse().map_err(|_| refuse())?)),
        None => (text.as_str(), None),
    };
    if is_name(name) { Ok(Rule::Name { name: name.to_owned(), port }) } else { Err(refuse()) }
}

/// Resolves names, and lets only those addresses through that may be dialled.
pub(super) struct Resolver(Guard);

impl Resolver {
    pub(super) fn new(guard: Guard) -> Self {
        Self(guard)
    }
}

impl Resolve for Resolver {
    fn resolve(&self, name: Name) -> Resolving {
        let guard = self.0.clone();
        Box::pin(async move {
            let host = name.as_str().trim_end_matches('.').to_ascii_lowercase();
            let found: Vec<SocketAddr> = {
                let _permit = aqueduct_core::blocking::permit().await;
                tokio::net::lookup_host((name.as_str(), 0)).await?.collect()
            };
            // One denied address among them denies the name: an answer that mixes them is an attack or a mistake.
            for address in &found {
                guard.check_address(&host, address.ip())?;
            }
            Ok(Box::new(found.into_iter()) as Addrs)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guard(hosts: &[&str], private: bool) -> Guard {
        Guard::new(&hosts.iter().map(|host| (*host).to_owned()).collect::<Vec<_>>(), private, None).unwrap()
    }

    #[test]
    fn hosts_of_urls() {
        let ok = |guard: &Guard, url: &str| guard.check_url(&Url::parse(url).unwrap()).is_ok();
        let open = guard(&[], false);
        assert!(ok(&open, "https://example.com/") && ok(&open, "http://8.8.8.8/"));
        for url in [
            "http://127.0.0.1/",
            "http://2130706433/",
            "http://0177.0.0.1/",
            "http://0x7f.1/",
            "http://[::1]/",
            "http://[::ffff:10.0.0.1]/",
            "http://localhost/",
            "http://LOCALHOST./",
            "http://169.254.169.254/latest/meta-data/",
            "ftp://example.com/",
        ] {
            assert!(!ok(&open, url), "{url}");
        }
        let private = guard(&[], true);
        assert!(ok(&private, "http://127.0.0.1:8080/") && !ok(&private, "http://169.254.169.254/"));
        let listed = guard(&["localhost:8080", "*.example.com", "10.0.0.0/8", "169.254.169.254"], false);
        for (url, expected) in [
            ("http://localhost:8080/", true),
            ("http://localhost:8081/", false),
            ("http://api.example.com/", true),
            ("http://example.com/", false),
            ("http://evilexample.com/", false),
            ("http://10.9.9.9/", true),
            ("http://8.8.8.8/", false),
            ("http://169.254.169.254/", true),
        ] {
            assert_eq!(ok(&listed, url), expected, "{url}");
        }
    }

    #[test]
    fn what_a_name_resolves_to() {
        let at = |guard: &Guard, host: &str, address: &str| guard.check_address(host, address.parse().unwrap()).is_ok();
        let below = guard(&["*.example.com"], false);
        assert!(at(&below, "a.example.com", "1.2.3.4") && !at(&below, "a.example.com", "10.0.0.1"), "a pattern names no host");
        let named = guard(&["api.internal"], false);
        assert!(at(&named, "api.internal", "10.0.0.1") && !at(&named, "api.internal", "169.254.169.254"));
        assert!(Guard::new(&["a b".into()], false, None).is_err() && Guard::new(&["*".into()], false, None).is_err());
    }

    #[tokio::test]
    async fn the_resolver_denies() {
        let resolve =
            |guard: Guard| async move { Resolver::new(guard).resolve("localhost".parse().unwrap()).await.map(Iterator::count) };
        let error = resolve(guard(&[], false)).await.unwrap_err();
        assert!(error.downcast_ref::<Denied>().is_some(), "{error}");
        assert!(resolve(guard(&["localhost"], false)).await.unwrap() > 0);
    }
}

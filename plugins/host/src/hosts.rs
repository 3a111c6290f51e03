//! Which hosts a grant means (`allow.http`, `allow.sockets`), and which addresses are never called.

use aqueduct_core::egress::{Reach, reach};
use std::fmt;
use std::net::IpAddr;

/// Whether one of the rules means this host and port: `example.com`, `example.com:8080`, `*.example.com`, `[::1]:5432`, `*`. `host` is in small
/// letters, an address without brackets.
pub(crate) fn granted(rules: &[String], host: &str, port: u16) -> bool {
    rules.iter().any(|rule| {
        let (name, wanted) = parts(rule);
        means(&name, host) && wanted.is_none_or(|wanted| wanted == Some(port))
    })
}

/// Whether one of the rules means this host, with whatever port.
pub(crate) fn granted_somewhere(rules: &[String], host: &str) -> bool {
    rules.iter().any(|rule| means(&parts(rule).0, host))
}

/// The host, and the port if it names one; a port that is none is `Some(None)`, which nothing has.
fn parts(rule: &str) -> (String, Option<Option<u16>>) {
    let rule = rule.trim().to_ascii_lowercase();
    let (name, port) = match rule.rsplit_once(':') {
        // `::1` has no port, `[::1]:80` has one.
        Some((name, port)) if !name.contains(':') || name.ends_with(']') => (name, Some(port.parse::<u16>().ok())),
        _ => (rule.as_str(), None),
    };
    (name.trim_matches(['[', ']']).to_owned(), port)
}

fn means(name: &str, host: &str) -> bool {
    match name.strip_prefix("*.") {
        Some(below) => host.strip_suffix(below).is_some_and(|front| front.ends_with('.') && front.len() > 1),
        None => name == "*" || name == host,
    }
}

/// For people: why, and what to change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Denied(pub(crate) String);

impl fmt::Display for Denied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Denied {}

/// Link-local addresses and metadata servers are never called, private ones by grant.
pub(crate) fn judge(address: IpAddr, private: bool, plugin: &str) -> Result<(), Denied> {
    match reach(address) {
        Reach::Public => Ok(()),
        Reach::Private if private => Ok(()),
        Reach::Private => {
            let fix = format!("grant it by plugins.{plugin}.allow.private.networks in worker.yaml");
            Err(Denied(format!("{address} is in a private network: {fix}")))
        }
        Reach::Forbidden => Err(Denied(format!("{address} is link-local, multicast or a metadata server: it is never called"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_means_a_host_and_maybe_a_port() {
        let means = |rule: &str, host: &str, port: u16| granted(&[rule.to_owned()], host, port);
        for (rule, host, port) in [
            ("db.internal", "db.internal", 5432),
            (" DB.internal:5432 ", "db.internal", 5432),
            ("*.example.com", "a.b.example.com", 443),
            ("*:443", "example.com", 443),
            ("::1", "::1", 80),
            ("[::1]:80", "::1", 80),
            ("10.0.0.7:5432", "10.0.0.7", 5432),
        ] {
            assert!(means(rule, host, port), "{rule}");
            assert!(granted_somewhere(&[rule.to_owned()], host), "{rule}");
        }
        for (rule, host, port) in [
            ("db.internal:5432", "db.internal", 5433),
            ("db.internal:x", "db.internal", 5432),
            ("[::1]:80", "::1", 81),
            ("*.example.com", "example.com", 443),
            ("example.com", "a.example.com", 443),
        ] {
            assert!(!means(rule, host, port), "{rule}");
        }
    }
}

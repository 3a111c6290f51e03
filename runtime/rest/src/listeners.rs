//! Which listeners may start: nobody reaches the worker from another machine without saying who it is.

use aqueduct_config::worker_config::{ClientAuth, RestSettings};
use aqueduct_core::{Error, Result};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, ToSocketAddrs};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listener {
    pub address: SocketAddr,
    pub tls: bool,
}

/// What a listener answers, by Kafka Connect's `admin.listeners`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Serves {
    #[default]
    All,
    /// All but `/admin`.
    NoAdmin,
    /// `/admin` alone.
    Admin,
}

impl Serves {
    pub(crate) fn answers(self, path: &str) -> bool {
        let admin = path == "/admin" || path.starts_with("/admin/");
        match self {
            Self::All => true,
            Self::NoAdmin => !admin,
            Self::Admin => admin,
        }
    }
}

/// The name of this machine that a listener was given by, where it was: clients use it in `Host`.
pub fn listener_names(listeners: &[String]) -> Vec<String> {
    let names = listeners.iter().filter_map(|listener| host_and_port(listener.trim()).ok());
    names.map(|(_, host, _)| host).filter(|host| !host.is_empty() && host.parse::<IpAddr>().is_err()).map(str::to_owned).collect()
}

/// As a URL.
impl fmt::Display for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", if self.tls { "https" } else { "http" }, self.address)
    }
}

/// Addresses to listen on, from `listeners`: `http://127.0.0.1:8083`, `http://myhost:8083`, `https://0.0.0.0:8443`, `https://:8443`. A name is looked up
/// here, which blocks the thread; its first IPv4 address counts, else its first.
///
/// # Errors
/// `rest.listener` for an address that is not loopback where nobody would be asked who it is (neither `rest.users` nor certificates of clients are
/// required), or where credentials would be readable on the way; for https without a certificate. `rest.listener_name` for a name that is nobody's.
pub fn check_listeners(listeners: &[String], rest: &RestSettings) -> Result<Vec<Listener>> {
    if listeners.is_empty() {
        return Err(Error::fatal("rest.listener", "`listeners` is empty").fix("set listeners: http://127.0.0.1:8083"));
    }
    listeners.iter().map(|listener| check(listener.trim(), rest)).collect()
}

/// Whether it is https; the host without brackets; the port.
fn host_and_port(text: &str) -> Result<(bool, &str, u16), String> {
    let (tls, authority) = match text.split_once("://") {
        Some((scheme, rest)) if scheme.eq_ignore_ascii_case("http") => (false, rest.trim_end_matches('/')),
        Some((scheme, rest)) if scheme.eq_ignore_ascii_case("https") => (true, rest.trim_end_matches('/')),
        Some((scheme, _)) => return Err(format!("has the scheme `{scheme}`; http and https are spoken")),
        None => return Err("is not a URL".to_owned()),
    };
    let (host, port) = authority.rsplit_once(':').ok_or("has no port")?;
    let port: u16 = port.parse().map_err(|_| "has no valid port")?;
    Ok((tls, host.trim_start_matches('[').trim_end_matches(']'), port))
}

/// # Errors
/// Why there is no address, for people.
fn look_up(host: &str) -> Result<IpAddr, String> {
    let found: Vec<IpAddr> = match (host, 0).to_socket_addrs() {
        Ok(found) => found.map(|address| address.ip()).collect(),
        Err(error) => return Err(error.to_string()),
    };
    let first = found.iter().find(|address| address.is_ipv4()).or(found.first());
    first.copied().ok_or_else(|| "it has no address".to_owned())
}

fn check(text: &str, rest: &RestSettings) -> Result<Listener> {
    let refuse = |why: &str, fix: &str| Error::fatal("rest.listener", format!("the listener `{text}` {why}")).fix(fix);
    let form = "write http://127.0.0.1:8083, or https://0.0.0.0:8443 with listeners.https.ssl.keystore.location and rest.users";
    let (tls, host, port) = host_and_port(text).map_err(|why| refuse(&why, form))?;
    let address: IpAddr = match host {
        "" => Ipv4Addr::UNSPECIFIED.into(),
        // It has two, and who names it means this machine, whatever a resolver says.
        host if host.eq_ignore_ascii_case("localhost") => Ipv4Addr::LOCALHOST.into(),
        host => match host.parse() {
            Ok(address) => address,
            Err(_) => look_up(host).map_err(|why| {
                Error::fatal("rest.listener_name", format!("the listener `{text}`: the name `{host}` cannot be looked up: {why}"))
                    .fix("write an address of this machine, 0.0.0.0 for all of it, or put the name into DNS or /etc/hosts")
            })?,
        },
    };
    if tls && rest.tls.is_none() {
        return Err(refuse(
            "has no certificate",
            "set listeners.https.ssl.keystore.location to a PEM file with a key and its chain",
        ));
    }
    if !address.is_loopback() {
        let certificates = tls && rest.tls.as_ref().is_some_and(|tls| tls.client_auth == ClientAuth::Required);
        if rest.users.is_none() && !certificates {
            let fix = "set rest.users to a file of users (`aqueduct rest-user` writes its lines), or listeners.https.ssl.client.auth: required; \
                       or listen on 127.0.0.1";
            return Err(refuse("is not a loopback address, and there are no credentials to protect it", fix));
        }
        if !tls && !rest.allow_plaintext {
            let fix = "use https:// with listeners.https.ssl.keystore.location; if a proxy in front of the worker speaks TLS, set \
                       rest.allow.plaintext: true";
            return Err(refuse("takes passwords and tokens over plain http from other machines", fix));
        }
    }
    Ok(Listener { address: SocketAddr::new(address, port), tls })
}

#[cfg(test)]
mod tests {
    use super::*;
    use aqueduct_config::worker_config::{Keystore, TlsSettings};

    fn rest(users: bool, auth: Option<ClientAuth>, allow_plaintext: bool) -> RestSettings {
        let tls = auth.map(|client_auth| TlsSettings { keystore: Keystore::File("k".into()), truststore: None, client_auth });
        RestSettings { users: users.then(|| "u".into()), allow_plaintext, tls, ..RestSettings::default() }
    }

    fn ok(text: &str, rest: &RestSettings) -> Result<String> {
        check_listeners(&[text.to_owned()], rest).map(|listeners| listeners[0].to_string())
    }

    #[test]
    fn loopback_needs_nothing() {
        let none = rest(false, None, false);
        assert_eq!(ok("http://127.0.0.1:8083", &none).unwrap(), "http://127.0.0.1:8083");
        assert_eq!(ok("http://localhost:0/", &none).unwrap(), "http://127.0.0.1:0");
        assert_eq!(ok("http://[::1]:8083", &none).unwrap(), "http://[::1]:8083");
        assert_eq!(ok("https://[::1]:8443", &rest(false, Some(ClientAuth::None), false)).unwrap(), "https://[::1]:8443");
        for bad in ["https://127.0.0.1:1", "8083", "http://127.0.0.1", "ftp://127.0.0.1:1", "http://127.0.0.1:x"] {
            let error = ok(bad, &none).unwrap_err();
            assert!(error.code() == "rest.listener" && error.hint().is_some(), "{bad}");
        }
        assert!(check_listeners(&[], &none).is_err());
        assert_eq!(ok("HTTP://LocalHost:8083", &none).unwrap(), "http://127.0.0.1:8083");
    }

    #[test]
    fn a_name_counts_as_the_address_that_it_has() {
        let none = rest(false, None, false);
        // Never in any DNS (RFC 2606).
        let error = ok("http://aqueduct.invalid:8083", &none).unwrap_err();
        assert_eq!(error.code(), "rest.listener_name");
        assert!(error.message().contains("aqueduct.invalid") && error.hint().unwrap().contains("/etc/hosts"), "{error}");
        // As the C library takes numbers: a name for the resolver, and no literal.
        assert_eq!(ok("http://127.1:8083", &none).unwrap(), "http://127.0.0.1:8083");
        let error = ok("http://10.1:8083", &none).unwrap_err();
        assert!(error.code() == "rest.listener" && error.message().contains("not a loopback address"), "{error}");
        let names = ["http://w1.example:1", "https://[::1]:2", "http://:3", "http://10.0.0.1:4", "http://localhost:5"];
        assert_eq!(listener_names(&names.map(str::to_owned)), ["w1.example", "localhost"]);
    }

    #[test]
    fn admin_is_answered_where_it_is_to_be() {
        for (serves, admin, other) in [(Serves::All, true, true), (Serves::NoAdmin, false, true), (Serves::Admin, true, false)] {
            assert_eq!((serves.answers("/admin/loggers"), serves.answers("/admin")), (admin, admin));
            assert_eq!((serves.answers("/connectors"), serves.answers("/administrators")), (other, other));
        }
    }

    #[test]
    fn no_other_address_starts_without_credentials_and_none_shows_them() {
        use ClientAuth::{None as Nobody, Requested, Required};
        let all = [false, true].map(|users| [None, Some(Nobody), Some(Requested), Some(Required)].map(|auth| (users, auth)));
        for (users, auth) in all.into_iter().flatten() {
            for plaintext in [false, true] {
                let rest = rest(users, auth, plaintext);
                for host in ["", "0.0.0.0", "[::]", "10.0.0.1", "[2001:db8::1]"] {
                    let http = ok(&format!("http://{host}:8083"), &rest);
                    assert_eq!(http.is_ok(), users && plaintext, "{users} {auth:?} {plaintext} {http:?}");
                    let https = ok(&format!("https://{host}:8443"), &rest);
                    assert_eq!(https.is_ok(), auth.is_some() && (users || auth == Some(Required)), "{users} {auth:?} {https:?}");
                    for error in [http, https].into_iter().filter_map(Result::err) {
                        assert!(error.code() == "rest.listener" && error.hint().is_some(), "{error}");
                    }
                }
            }
        }
        assert_eq!(ok("https://:8443", &rest(true, Some(Nobody), false)).unwrap(), "https://0.0.0.0:8443");
    }
}

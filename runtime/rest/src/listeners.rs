//! Which listeners may start: nobody reaches the worker from another machine without saying who it is.

use aqueduct_config::worker_config::{ClientAuth, RestSettings};
use aqueduct_core::{Error, Result};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listener {
    pub address: SocketAddr,
    pub tls: bool,
}

/// As a URL.
impl fmt::Display for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", if self.tls { "https" } else { "http" }, self.address)
    }
}

/// Addresses to listen on, from `listeners`: `http://127.0.0.1:8083`, `http://localhost:8083`, `https://0.0.0.0:8443`, `https://:8443`.
///
/// # Errors
/// `rest.listener` for an address that is not loopback where nobody would be asked who it is (neither `rest.users` nor certificates of clients are
/// required), or where credentials would be readable on the way; for https without a certificate.
pub fn check_listeners(listeners: &[String], rest: &RestSettings) -> Result<Vec<Listener>> {
    if listeners.is_empty() {
        return Err(Error::fatal("rest.listener", "`listeners` is empty").fix("set listeners: http://127.0.0.1:8083"));
    }
    listeners.iter().map(|listener| check(listener.trim(), rest)).collect()
}

fn check(text: &str, rest: &RestSettings) -> Result<Listener> {
    let refuse = |why: &str, fix: &str| Error::fatal("rest.listener", format!("the listener `{text}` {why}")).fix(fix);
    let form = "write http://127.0.0.1:8083, or https://0.0.0.0:8443 with listeners.https.ssl.keystore.location and rest.users";
    let (tls, authority) = match text.split_once("://") {
        Some(("http", rest)) => (false, rest.trim_end_matches('/')),
        Some(("https", rest)) => (true, rest.trim_end_matches('/')),
        Some((scheme, _)) => return Err(refuse(&format!("has the scheme `{scheme}`; http and https are spoken"), form)),
        None => return Err(refuse("is not a URL", form)),
    };
    let (host, port) = authority.rsplit_once(':').ok_or_else(|| refuse("has no port", form))?;
    let port: u16 = port.parse().map_err(|_| refuse("has no valid port", form))?;
    let address: IpAddr = match host.trim_start_matches('[').trim_end_matches(']') {
        "localhost" => Ipv4Addr::LOCALHOST.into(),
        "" => Ipv4Addr::UNSPECIFIED.into(),
        host => host
            .parse()
            .map_err(|_| refuse("has a name where an address must be", "write the address, 0.0.0.0 for all of this machine"))?,
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
        RestSettings { users: users.then(|| "u".into()), allow_plaintext, health_public: false, tls }
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
        for bad in
            ["https://127.0.0.1:1", "8083", "http://worker:8083", "http://127.0.0.1", "ftp://127.0.0.1:1", "http://127.0.0.1:x"]
        {
            let error = ok(bad, &none).unwrap_err();
            assert!(error.code() == "rest.listener" && error.hint().is_some(), "{bad}");
        }
        assert!(check_listeners(&[], &none).is_err());
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

//! `aqueduct:connector/http`: only to granted hosts. The address that is dialled is the one that is judged (reliability.md, 23).

use crate::bindings::http::{Error, Request, Response};
use crate::hosts::{Denied, granted, judge};
use aqueduct_config::worker_config::PluginGrant;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::{Method, Url};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, LazyLock};
use std::time::Duration;
use tokio_rustls::rustls::{self, ClientConfig, RootCertStore};

pub(crate) const BODY_BYTES: usize = 16 << 20;
pub(crate) const HEADERS: usize = 100;
pub(crate) const TIMEOUT: Duration = Duration::from_secs(30);

pub(crate) fn client(plugin: &str, grant: &PluginGrant) -> Result<reqwest::Client, Error> {
    let resolver = Resolver { private: grant.private_networks, plugin: plugin.into() };
    reqwest::Client::builder()
        .tls_backend_preconfigured(tls()?)
        .redirect(reqwest::redirect::Policy::none())
        // Environment variables do not decide where a plugin's requests go (reliability.md, 25).
        .no_proxy()
        .connect_timeout(Duration::from_secs(10))
        .http1_max_headers(HEADERS)
        .user_agent(concat!("aqueduct/", env!("CARGO_PKG_VERSION")))
        .dns_resolver(resolver)
        .build()
        .map_err(|error| Error::Failed(format!("the HTTP client cannot be made: {error}")))
}

/// 1.2 or newer, with the machine's authorities, read once.
fn tls() -> Result<ClientConfig, Error> {
    static ROOTS: LazyLock<RootCertStore> = LazyLock::new(|| {
        let mut store = RootCertStore::empty();
        store.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        store
    });
    let builder = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
        .map_err(|error| Error::Failed(error.to_string()))?;
    Ok(builder.with_root_certificates(ROOTS.clone()).with_no_client_auth())
}

pub(crate) async fn send(
    client: &reqwest::Client,
    plugin: &str,
    grant: &PluginGrant,
    request: Request,
    left: Duration,
) -> Result<Response, Error> {
    let url = allowed(plugin, grant, &request.url)?;
    let method = Method::from_bytes(request.method.as_bytes()).map_err(|_| Error::Invalid("no such method".to_owned()))?;
    if request.headers.len() > HEADERS {
        return Err(Error::Invalid(format!("more than {HEADERS} headers")));
    }
    let timeout = Duration::from_millis(request.timeout_ms.into()).min(TIMEOUT).min(left);
    if timeout.is_zero() {
        return Err(Error::Failed("the call's time for requests is over".to_owned()));
    }
    let mut builder = client.request(method, url).timeout(timeout).body(request.body);
    for (name, value) in request.headers {
        builder = builder.header(name, value);
    }
    let built = builder.build().map_err(|error| Error::Invalid(error.without_url().to_string()))?;
    let mut response = client.execute(built).await.map_err(|error| judged(&error))?;
    let status = response.status().as_u16();
    let headers = response.headers().iter();
    let headers = headers.map(|(name, value)| (name.as_str().to_owned(), value.as_bytes().to_vec())).collect();
    let mut body = Vec::new();
    while let Some(part) = response.chunk().await.map_err(|error| judged(&error))? {
        if body.len() + part.len() > BODY_BYTES {
            return Err(Error::Failed(format!("the answer has more than {BODY_BYTES} bytes")));
        }
        body.extend_from_slice(&part);
    }
    Ok(Response { status, headers, body })
}

pub(crate) fn judged(error: &reqwest::Error) -> Error {
    let mut cause: Option<&dyn std::error::Error> = Some(error);
    while let Some(found) = cause {
        if let Some(denied) = found.downcast_ref::<Denied>() {
            return Error::Denied(denied.0.clone());
        }
        cause = found.source();
    }
    let what = if error.is_timeout() { "no answer in time" } else { "no answer" };
    Error::Failed(what.to_owned())
}

/// The URL, if its host is granted. A host that is an address is judged here, a name when it is resolved.
pub(crate) fn allowed(plugin: &str, grant: &PluginGrant, url: &str) -> Result<Url, Error> {
    let url = Url::parse(url).map_err(|error| Error::Invalid(error.to_string()))?;
    if !matches!(url.scheme(), "http" | "https") || !url.username().is_empty() || url.password().is_some() {
        return Err(Error::Invalid("write http:// or https://, and credentials into a header".to_owned()));
    }
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']).trim_end_matches('.').to_ascii_lowercase();
    let port = url.port_or_known_default().unwrap_or_default();
    if !granted(&grant.http, &host, port) {
        let host = crate::error::clean(&host, 200);
        return Err(Error::Denied(format!("{host} is not granted: add it to plugins.{plugin}.allow.http in worker.yaml")));
    }
    if let Ok(address) = host.parse::<IpAddr>() {
        judge(address, grant.private_networks, plugin).map_err(|denied| Error::Denied(denied.0))?;
    }
    Ok(url)
}

struct Resolver {
    private: bool,
    plugin: Arc<str>,
}

impl Resolve for Resolver {
    fn resolve(&self, name: Name) -> Resolving {
        let (private, plugin) = (self.private, self.plugin.clone());
        Box::pin(async move {
            let found: Vec<SocketAddr> = {
                let _permit = aqueduct_core::blocking::permit().await;
                tokio::net::lookup_host((name.as_str(), 0)).await?.collect()
            };
            // One denied address among them denies the name: an answer that mixes them is an attack or a mistake.
            for address in &found {
                judge(address.ip(), private, &plugin)?;
            }
            Ok(Box::new(found.into_iter()) as Addrs)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_granted_hosts_and_never_metadata() {
        let grant = |hosts: &[&str], private: bool| PluginGrant {
            http: hosts.iter().map(|host| (*host).to_owned()).collect(),
            private_networks: private,
            ..PluginGrant::default()
        };
        let allowed = |url: &str, hosts: &[&str], private: bool| allowed("p", &grant(hosts, private), url).is_ok();
        assert!(allowed("https://api.example.com/x", &["api.example.com"], false));
        assert!(allowed("https://API.example.com./x", &["api.example.com"], false));
        assert!(allowed("https://a.example.com/x", &["*.example.com"], false));
        assert!(!allowed("https://example.com/x", &["*.example.com"], false));
        assert!(!allowed("https://evilexample.com/x", &["*.example.com"], false));
        assert!(!allowed("https://example.com:8443/", &["example.com:443"], false));
        assert!(!allowed("https://example.com/", &[], false));
        assert!(!allowed("ftp://example.com/", &["*"], true));
        assert!(!allowed("http://u:p@example.com/", &["*"], true));
        for url in ["http://127.0.0.1/", "http://0x7f.1/", "http://2130706433/", "http://[::1]/", "http://[::ffff:10.0.0.1]/"] {
            assert!(!allowed(url, &["*"], false), "{url}");
            assert!(allowed(url, &["*"], true), "{url}");
        }
        for url in ["http://169.254.169.254/", "http://[fe80::1]/", "http://[fd00:ec2::254]/", "http://[::ffff:169.254.1.1]/"] {
            assert!(!allowed(url, &["*"], true), "{url}");
        }
    }
}

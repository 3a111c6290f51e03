//! https over a socket: certificates of the worker and of clients.

use super::Api;
use aqueduct_config::worker_config::{ClientAuth, Keystore, TlsSettings};
use aqueduct_rest::{Listener, RestOptions, Serves, Tls, Users, bind, serve};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use sha2::{Digest, Sha256};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};
use tokio_util::sync::CancellationToken;

/// An authority, and a folder for PEM.
struct Site {
    dir: tempfile::TempDir,
    authority: CertifiedIssuer<'static, KeyPair>,
}

type Identity = (CertificateDer<'static>, PrivateKeyDer<'static>);

impl Site {
    fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("ca.pem"), authority.pem()).unwrap();
        Self { dir, authority }
    }

    /// A certificate of this name: in a PEM file with its key, and as a client shows it.
    fn issue(&self, name: &str, file: &str) -> (PathBuf, Identity) {
        let key = KeyPair::generate().unwrap();
        let certificate =
            CertificateParams::new(vec![name.to_owned()]).and_then(|params| params.signed_by(&key, &self.authority)).unwrap();
        let path = self.path(file);
        let new = path.with_extension("new");
        std::fs::write(&new, format!("{}{}", key.serialize_pem(), certificate.pem())).unwrap();
        std::fs::rename(new, &path).unwrap();
        (path, (certificate.der().clone(), PrivateKeyDer::try_from(key.serialize_der()).unwrap()))
    }

    fn path(&self, file: &str) -> PathBuf {
        self.dir.path().join(file)
    }

    fn settings(&self, client_auth: ClientAuth) -> TlsSettings {
        let (path, _) = self.issue("localhost", "server.pem");
        TlsSettings { keystore: Keystore::File(path), truststore: Some(self.path("ca.pem")), client_auth }
    }

    /// The answer to a GET, and the certificate that the worker showed.
    async fn get(&self, address: SocketAddr, client: Option<&Identity>, path: &str) -> std::io::Result<(String, Vec<u8>)> {
        let mut roots = RootCertStore::empty();
        roots.add(self.authority.der().clone()).unwrap();
        let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots);
        let config = match client {
            None => builder.with_no_client_auth(),
            Some((certificate, key)) => builder.with_client_auth_cert(vec![certificate.clone()], key.clone_key()).unwrap(),
        };
        let stream = TcpStream::connect(address).await?;
        let name = ServerName::try_from("localhost").unwrap();
        let mut stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await?;
        let shown = stream.get_ref().1.peer_certificates().unwrap()[0].to_vec();
        let request = format!("GET {path} HTTP/1.1\r\nhost: any.name.example\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await?;
        Ok((String::from_utf8_lossy(&answer).into_owned(), shown))
    }
}

/// Serves until it is dropped.
async fn start(settings: TlsSettings, options: RestOptions) -> (SocketAddr, Api, JoinSet<()>) {
    let api = Api::start_with(options).await;
    let tls = Arc::new(Tls::open(settings).unwrap());
    let listener = Listener { address: "127.0.0.1:0".parse().unwrap(), tls: true };
    let bound = bind(&[listener], Serves::All, Some(&tls)).await.unwrap();
    let address = bound[0].listener().unwrap().address;
    let mut serving = JoinSet::new();
    serving.spawn(serve(bound, api.router.clone(), CancellationToken::new()));
    (address, api, serving)
}

fn users(path: &Path, lines: &str) -> RestOptions {
    std::fs::write(path, lines).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).unwrap();
    RestOptions { users: Some(Arc::new(Users::open(path).unwrap())), ..RestOptions::default() }
}

#[tokio::test]
async fn a_required_certificate_is_the_credential() {
    let site = Site::new();
    let (address, _api, _serving) = start(site.settings(ClientAuth::Required), RestOptions::default()).await;
    let (_, client) = site.issue("client", "client.pem");
    let (answer, _) = site.get(address, Some(&client), "/connectors").await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let stranger = Site::new().issue("client", "client.pem").1;
    for client in [None, Some(&stranger)] {
        let answer = site.get(address, client, "/connectors").await.map(|(answer, _)| answer).unwrap_or_default();
        assert!(!answer.contains("HTTP"), "{answer}");
    }
    // Plain http is not answered either.
    let mut plain = TcpStream::connect(address).await.unwrap();
    plain.write_all(b"GET /connectors HTTP/1.1\r\nhost: localhost\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    let _ = plain.read_to_end(&mut answer).await;
    assert!(!String::from_utf8_lossy(&answer).contains("HTTP"));
}

#[tokio::test]
async fn a_certificate_has_the_role_of_its_user() {
    let site = Site::new();
    let (_, client) = site.issue("client", "client.pem");
    let (_, other) = site.issue("other", "other.pem");
    let hex: String = Sha256::digest(&client.0).iter().map(|byte| format!("{byte:02x}")).collect();
    let options = users(&site.path("users"), &format!("probe:cert-sha256:{hex}:read:team-a-*\n"));
    let (address, _api, _serving) = start(site.settings(ClientAuth::Requested), options).await;
    for (client, path, status) in [
        (Some(&client), "/connectors", "200"),
        (Some(&client), "/connectors/b", "403"),
        (Some(&other), "/connectors", "401"),
        (None, "/connectors", "401"),
    ] {
        let (answer, _) = site.get(address, client, path).await.unwrap();
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{path}: {answer}");
    }
}

#[tokio::test]
async fn a_new_certificate_is_shown_soon_and_a_broken_one_never() {
    let site = Site::new();
    let (address, _api, _serving) =
        start(site.settings(ClientAuth::None), RestOptions { health_public: true, ..RestOptions::default() }).await;
    let (_, first) = site.get(address, None, "/health").await.unwrap();
    std::fs::write(site.path("server.pem"), "nonsense").unwrap();
    assert_eq!(site.get(address, None, "/health").await.unwrap().1, first);
    let (_, (second, _)) = site.issue("localhost", "server.pem");
    let begin = Instant::now();
    loop {
        let (_, shown) = site.get(address, None, "/health").await.unwrap();
        if shown == second.to_vec() {
            break;
        }
        assert!(shown == first && begin.elapsed() < Duration::from_secs(60), "the new certificate is never shown");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[test]
fn pem_that_does_not_fit_says_what_is_wrong() {
    let site = Site::new();
    let settings =
        |file: &str| TlsSettings { keystore: Keystore::File(site.path(file)), truststore: None, client_auth: ClientAuth::None };
    let (server, _) = site.issue("localhost", "server.pem");
    let text = std::fs::read_to_string(server).unwrap();
    let (key, certificate) = text.split_at(text.find("-----BEGIN CERTIFICATE").unwrap());
    std::fs::write(site.path("key.pem"), key).unwrap();
    std::fs::write(site.path("certificate.pem"), certificate).unwrap();
    std::fs::write(site.path("locked.pem"), text.replace("PRIVATE KEY", "ENCRYPTED PRIVATE KEY")).unwrap();
    for (file, says) in [
        ("none.pem", "none.pem"),
        ("key.pem", "no certificate"),
        ("certificate.pem", "no private key"),
        ("locked.pem", "encrypted"),
    ] {
        let error = Tls::open(settings(file)).err().unwrap();
        assert!(error.code() == "rest.tls" && error.to_string().contains(says) && error.hint().is_some(), "{file}: {error}");
    }
    let inline = Keystore::Inline { chain: certificate.to_owned(), key: serde_json::from_value(key.into()).unwrap() };
    assert!(Tls::open(TlsSettings { keystore: inline, ..settings("none.pem") }).is_ok());
}

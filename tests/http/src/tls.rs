//! Certificates of an authority that exists for one test.

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use std::path::PathBuf;
use std::sync::Arc;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{RootCertStore, ServerConfig};

/// For reqwest's clients in tests: with TLS compiled in (by another crate's wish) they want a provider, although they speak to plain servers only.
pub fn install_crypto() {
    // An error says that there is one already.
    let _ = ring::default_provider().install_default();
}

/// PEM files in a temporary folder.
pub struct Certificates {
    folder: tempfile::TempDir,
    authority: CertificateDer<'static>,
    server: (CertificateDer<'static>, Vec<u8>),
}

impl Default for Certificates {
    fn default() -> Self {
        Self::new()
    }
}

impl Certificates {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().expect("the temporary folder is writable");
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        // OpenSSL takes a certificate for self-signed whose issuer has its own name, and rcgen's default is one name for all.
        params.distinguished_name.push(DnType::CommonName, "the authority of a test");
        let key = KeyPair::generate().expect("a key can be made");
        let authority = CertifiedIssuer::self_signed(params, key).expect("a certificate can be made");
        let write =
            |name: &str, text: String| std::fs::write(folder.path().join(name), text).expect("the temporary folder is writable");
        let issue = |names: &[&str]| {
            let key = KeyPair::generate().expect("a key can be made");
            let params = CertificateParams::new(names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>());
            let certificate = params.and_then(|params| params.signed_by(&key, &authority)).expect("a certificate can be made");
            (certificate, key)
        };
        let (server, server_key) = issue(&["localhost", "127.0.0.1"]);
        let (client, client_key) = issue(&["client"]);
        write("ca.pem", authority.pem());
        write("server.pem", format!("{}{}", server.pem(), server_key.serialize_pem()));
        write("client.pem", format!("{}{}", client.pem(), client_key.serialize_pem()));
        write("client.crt", client.pem());
        write("client.key", client_key.serialize_pem());
        let server = (server.der().clone(), server_key.serialize_der());
        let authority = authority.der().clone();
        Self { folder, authority, server }
    }

    /// The authority's certificate.
    pub fn authority(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }

    /// The certificate and key of `localhost` and `127.0.0.1` in one file.
    pub fn server_pem(&self) -> PathBuf {
        self.folder.path().join("server.pem")
    }

    /// A client's certificate and key in one file.
    pub fn client(&self) -> PathBuf {
        self.folder.path().join("client.pem")
    }

    /// The same in two.
    pub fn client_parts(&self) -> (PathBuf, PathBuf) {
        (self.folder.path().join("client.crt"), self.folder.path().join("client.key"))
    }

    pub(crate) fn server(&self, mutual: bool) -> Arc<ServerConfig> {
        let provider = Arc::new(ring::default_provider());
        let builder = ServerConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions();
        let builder = builder.expect("ring has the default versions");
        let builder = if mutual {
            let mut roots = RootCertStore::empty();
            roots.add(self.authority.clone()).expect("our own authority");
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
            builder.with_client_cert_verifier(verifier.expect("there is a root"))
        } else {
            builder.with_no_client_auth()
        };
        let key = PrivateKeyDer::try_from(self.server.1.clone()).expect("our own key");
        Arc::new(builder.with_single_cert(vec![self.server.0.clone()], key).expect("our own certificate"))
    }
}

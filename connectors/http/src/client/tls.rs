//! TLS from PEM files: 1.2 or newer, the names and chains of certificates checked unless the options say not to.

use aqueduct_config::PathText;
use aqueduct_core::{Error, Result, blocking};
use std::path::Path;
use std::sync::Arc;
use tokio_rustls::rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use tokio_rustls::rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use tokio_rustls::rustls::{self, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};

#[derive(Clone, Debug)]
pub(crate) struct Files {
    pub(super) authorities: Option<PathText>,
    pub(super) identity: Option<PathText>,
    pub(super) key: Option<PathText>,
    pub(super) trust_all: bool,
}

/// # Errors
/// `http.tls` (fatal): a file that cannot be read or holds no certificate or key.
pub(super) async fn config(files: &Files) -> Result<ClientConfig> {
    let files = files.clone();
    let permit = blocking::permit().await;
    let work = tokio::task::spawn_blocking(move || {
        let _permit = permit;
        build(&files)
    });
    work.await.map_err(|_| Error::retriable("http.tls", "reading the certificates was ended"))?
}

fn build(files: &Files) -> Result<ClientConfig> {
    let provider = Arc::new(ring::default_provider());
    let versions = [&rustls::version::TLS13, &rustls::version::TLS12];
    let builder = ClientConfig::builder_with_provider(provider.clone());
    let builder = builder.with_protocol_versions(&versions).map_err(|error| Error::fatal("http.tls", error.to_string()))?;
    let builder = if files.trust_all {
        builder.dangerous().with_custom_certificate_verifier(Arc::new(Anyone(provider)))
    } else {
        builder.with_root_certificates(roots(files)?)
    };
    let Some(identity) = &files.identity else { return Ok(builder.with_no_client_auth()) };
    let key_file = files.key.as_ref().unwrap_or(identity);
    let key = PrivateKeyDer::from_pem_file(key_file.as_path())
        .map_err(|error| unreadable(key_file, &format!("no private key: {error}")))?;
    let refuse = |error: rustls::Error| unreadable(identity, &error.to_string());
    builder.with_client_auth_cert(certificates(identity)?, key).map_err(refuse)
}

fn roots(files: &Files) -> Result<RootCertStore> {
    let mut store = RootCertStore::empty();
    match &files.authorities {
        Some(path) => {
            for certificate in certificates(path)? {
                store.add(certificate).map_err(|error| unreadable(path, &error.to_string()))?;
            }
        }
        None => {
            store.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
    }
    Ok(store)
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let all = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let all = all.map_err(|error| unreadable(path, &error.to_string()))?;
    if all.is_empty() { Err(unreadable(path, "no certificate in it")) } else { Ok(all) }
}

fn unreadable(path: &Path, why: &str) -> Error {
    Error::fatal("http.tls", format!("{}: {why}", path.display())).fix("give a readable PEM file in https.ssl.*")
}

/// `http.ssl.trust.all.certs`
#[derive(Debug)]
struct Anyone(Arc<CryptoProvider>);

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, signed, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, signed, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

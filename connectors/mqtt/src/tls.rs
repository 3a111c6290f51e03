//! TLS by rustls: the broker's certificate is always checked, against its name.

use aqueduct_core::{Error, Result, blocking};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::{ClientConfig, RootCertStore, crypto};

/// PEM.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Files {
    pub trust: Option<PathBuf>,
    pub key: Option<PathBuf>,
}

const TRUST: &str = "mqtt.ssl.trust.store.file";
const KEY: &str = "mqtt.ssl.key.store.file";

/// # Errors
/// `mqtt.config` for a file that cannot be read or does not hold what it should.
pub(crate) async fn connector(files: &Files) -> Result<TlsConnector> {
    let (files, permit) = (files.clone(), blocking::permit().await);
    #[allow(clippy::disallowed_methods, reason = "reads small files; awaited here")]
    let made = tokio::task::spawn_blocking(move || {
        let _permit = permit;
        config(&files)
    });
    let made = made.await.map_err(|error| Error::retriable("mqtt.config", format!("certificates: {error}")))?;
    Ok(TlsConnector::from(Arc::new(made?)))
}

fn config(files: &Files) -> Result<ClientConfig> {
    let wrong = |option: &str, why: String| Error::fatal("mqtt.config", format!("{option}: {why}")).fix("name a PEM file");
    let builder = ClientConfig::builder_with_provider(Arc::new(crypto::ring::default_provider()));
    let builder = builder.with_safe_default_protocol_versions();
    let builder = builder.map_err(|error| wrong(TRUST, error.to_string()))?;
    let builder = builder.with_root_certificates(roots(files.trust.as_deref())?);
    let Some(path) = &files.key else { return Ok(builder.with_no_client_auth()) };
    let certificates = certificates(KEY, path)?;
    let key =
        PrivateKeyDer::from_pem_file(path).map_err(|error| wrong(KEY, format!("{}: no private key: {error}", path.display())))?;
    builder.with_client_auth_cert(certificates, key).map_err(|error| wrong(KEY, format!("{}: {error}", path.display())))
}

fn roots(path: Option<&Path>) -> Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    match path {
        Some(path) => {
            for certificate in certificates(TRUST, path)? {
                let added = roots.add(certificate);
                added.map_err(|error| Error::fatal("mqtt.config", format!("{TRUST}: {}: {error}", path.display())))?;
            }
        }
        None => {
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
    }
    if roots.is_empty() {
        return Err(
            Error::fatal("mqtt.config", format!("{TRUST}: this system has no certificate authorities")).fix("name a PEM file")
        );
    }
    Ok(roots)
}

fn certificates(option: &str, path: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<std::result::Result<Vec<_>, _>>);
    match read {
        Ok(certificates) if !certificates.is_empty() => Ok(certificates),
        Ok(_) => {
            Err(Error::fatal("mqtt.config", format!("{option}: {} has no certificate", path.display())).fix("name a PEM file"))
        }
        Err(error) => {
            Err(Error::fatal("mqtt.config", format!("{option}: {}: {error}", path.display()))
                .fix("name a PEM file that can be read"))
        }
    }
}

//! Certificates from files, read anew when they change.

use aqueduct_core::{Error, Result};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{RootCertStore, ServerConfig};

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TlsFiles {
    pub(crate) certificate: PathBuf,
    pub(crate) key: PathBuf,
    /// Only clients that these authorities signed.
    pub(crate) client_ca: Option<PathBuf>,
}

/// Changes when a file does.
pub(crate) type Stamp = Vec<Option<(u64, SystemTime)>>;

/// Certificates and keys are some KiB; nothing else is read.
const FILE_MAX: u64 = 1 << 20;

impl TlsFiles {
    pub(crate) async fn stamp(&self) -> Stamp {
        let mut stamp = Vec::new();
        for path in [Some(&self.certificate), Some(&self.key), self.client_ca.as_ref()].into_iter().flatten() {
            let meta = tokio::fs::metadata(path).await.ok();
            stamp.push(meta.and_then(|meta| Some((meta.len(), meta.modified().ok()?))));
        }
        stamp
    }

    /// # Errors
    /// `webhook.tls`, with the file.
    pub(crate) async fn load(&self) -> Result<Arc<ServerConfig>> {
        let chain = certificates(&self.certificate).await?;
        let key = read(&self.key).await?;
        let key = PrivateKeyDer::from_pem_slice(&key)
            .map_err(|why| refuse(&self.key, &format!("holds no private key in PEM: {why}")))?;
        let provider = Arc::new(ring::default_provider());
        let builder = ServerConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(|why| refuse(&self.certificate, &why.to_string()))?;
        let builder = match &self.client_ca {
            None => builder.with_no_client_auth(),
            Some(path) => {
                let mut roots = RootCertStore::empty();
                for certificate in certificates(path).await? {
                    roots.add(certificate).map_err(|why| refuse(path, &why.to_string()))?;
                }
                let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
                builder.with_client_cert_verifier(verifier.map_err(|why| refuse(path, &why.to_string()))?)
            }
        };
        let mut config = builder.with_single_cert(chain, key).map_err(|why| refuse(&self.certificate, &why.to_string()))?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Arc::new(config))
    }
}

async fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let text = read(path).await?;
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    match all {
        Ok(all) if !all.is_empty() => Ok(all),
        Ok(_) => Err(refuse(path, "holds no certificate in PEM")),
        Err(why) => Err(refuse(path, &why.to_string())),
    }
}

async fn read(path: &Path) -> Result<Vec<u8>> {
    let length = tokio::fs::metadata(path).await.map_err(|why| refuse(path, &why.to_string()))?.len();
    if length > FILE_MAX {
        return Err(refuse(path, &format!("has {length} bytes")));
    }
    tokio::fs::read(path).await.map_err(|why| refuse(path, &why.to_string()))
}

fn refuse(path: &Path, why: &str) -> Error {
    Error::fatal("webhook.tls", format!("{}: {why}", path.display()))
        .fix("name PEM files that the worker may read, of one certificate and its key")
}

//! The certificate of `https://` listeners, from PEM, read anew when a file changes.

use aqueduct_config::worker_config::{ClientAuth, Keystore, TlsSettings};
use aqueduct_core::{Error, Result};
use arc_swap::ArcSwap;
use parking_lot::Mutex;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::time::Instant;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{RootCertStore, ServerConfig};

/// The files are looked at once in this time, when somebody connects.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// Certificates and keys are some KiB; nothing else is read.
const FILE_MAX: u64 = 1 << 20;

pub struct Tls {
    settings: TlsSettings,
    current: ArcSwap<ServerConfig>,
    looked: Mutex<(Instant, Stamp)>,
}

/// Changes when a file does.
type Stamp = Vec<Option<(u64, u64, SystemTime)>>;

impl Tls {
    /// # Errors
    /// `rest.tls`, with the file.
    pub fn open(settings: TlsSettings) -> Result<Self> {
        let stamp = stamp(&settings);
        let current = ArcSwap::from(load(&settings)?);
        Ok(Self { settings, current, looked: Mutex::new((Instant::now(), stamp)) })
    }

    /// A change that cannot be read leaves what there is.
    pub(crate) async fn config(&self) -> Arc<ServerConfig> {
        let before = {
            let mut looked = self.looked.lock();
            if looked.0.elapsed() < LOOK_EVERY {
                return self.current.load_full();
            }
            looked.0 = Instant::now();
            looked.1.clone()
        };
        let settings = self.settings.clone();
        let read = tokio::task::spawn_blocking(move || {
            let now = stamp(&settings);
            (now != before).then(|| (now, load(&settings)))
        });
        if let Ok(Some((now, outcome))) = read.await {
            self.looked.lock().1 = now;
            match outcome {
                Ok(new) => {
                    tracing::info!("the certificates of the REST API were read anew");
                    self.current.store(new);
                }
                Err(error) => tracing::error!("the certificates of the REST API changed, and the old ones stay: {error}"),
            }
        }
        self.current.load_full()
    }
}

fn stamp(settings: &TlsSettings) -> Stamp {
    let keystore = match &settings.keystore {
        Keystore::File(path) => Some(path),
        Keystore::Inline { .. } => None,
    };
    let stamp = |path: &Path| {
        let meta = std::fs::metadata(path).ok()?;
        Some((meta.ino(), meta.len(), meta.modified().ok()?))
    };
    [keystore, settings.truststore.as_ref()].into_iter().flatten().map(|path| stamp(path)).collect()
}

fn load(settings: &TlsSettings) -> Result<Arc<ServerConfig>> {
    let (place, chain, key) = match &settings.keystore {
        Keystore::File(path) => {
            let text = read(path)?;
            (path.display().to_string(), text.clone(), text)
        }
        Keystore::Inline { chain, key } => {
            let place = "listeners.https.ssl.keystore.certificate.chain".to_owned();
            (place, chain.clone().into_bytes(), key.expose().as_bytes().to_vec())
        }
    };
    let chain = certificates(&place, &chain)?;
    let key = PrivateKeyDer::from_pem_slice(&key).map_err(|why| match std::str::from_utf8(&key) {
        Ok(text) if text.contains("ENCRYPTED PRIVATE KEY") => {
            let error = Error::fatal("rest.tls", format!("{place}: the private key is encrypted"));
            error.fix("decrypt it with `openssl pkey -in key.pem -out plain.pem`, and let only the worker read it")
        }
        _ => refuse(&place, format!("there is no private key in PEM: {why}")),
    })?;
    let provider = Arc::new(ring::default_provider());
    let builder = ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|why| refuse(&place, why))?;
    let builder = match (settings.client_auth, &settings.truststore) {
        (ClientAuth::None, _) | (_, None) => builder.with_no_client_auth(),
        (wanted, Some(path)) => {
            let place = path.display().to_string();
            let mut roots = RootCertStore::empty();
            for certificate in certificates(&place, &read(path)?)? {
                roots.add(certificate).map_err(|why| refuse(&place, why))?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
            let verifier = if wanted == ClientAuth::Requested { verifier.allow_unauthenticated() } else { verifier };
            builder.with_client_cert_verifier(verifier.build().map_err(|why| refuse(&place, why))?)
        }
    };
    let mut config = builder.with_single_cert(chain, key).map_err(|why| refuse(&place, why))?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    // No session outlives a handshake: a client whose authority was taken out of the trust store is out with its next connection.
    config.session_storage = Arc::new(tokio_rustls::rustls::server::NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(Arc::new(config))
}

fn certificates(place: &str, text: &[u8]) -> Result<Vec<CertificateDer<'static>>> {
    match CertificateDer::pem_slice_iter(text).collect::<Result<Vec<_>, _>>() {
        Ok(all) if !all.is_empty() => Ok(all),
        Ok(_) => Err(refuse(place, "there is no certificate in PEM")),
        Err(why) => Err(refuse(place, why)),
    }
}

fn read(path: &Path) -> Result<Vec<u8>> {
    let place = path.display().to_string();
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(|why| refuse(&place, why))?;
    file.take(FILE_MAX + 1).read_to_end(&mut bytes).map_err(|why| refuse(&place, why))?;
    if bytes.len() as u64 > FILE_MAX {
        return Err(refuse(&place, format!("is larger than {FILE_MAX} bytes")));
    }
    Ok(bytes)
}

fn refuse(place: &str, why: impl std::fmt::Display) -> Error {
    Error::fatal("rest.tls", format!("{place}: {why}"))
        .fix("give it PEM that the worker may read: a private key, and its chain of certificates")
}

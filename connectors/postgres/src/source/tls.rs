//! TLS for the replication connection, in the modes of libpq (sqlx does its own for ordinary connections, by the same rules).

use super::quiet::Quiet;
use crate::connection::{Connect, SslMode, client_key};
use aqueduct_core::{Error, Result};
use sha2::{Digest, Sha256, Sha384, Sha512};
use std::path::Path;
use std::sync::Arc;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::client::WebPkiServerVerifier;
use tokio_rustls::rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use tokio_rustls::rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use tokio_rustls::rustls::{self, CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};

/// Does the handshake on a socket whose server agreed to TLS.
///
/// # Errors
/// `postgres.tls`, fatal: a certificate or a key is the reason nearly always.
pub async fn handshake(connect: &Connect, socket: Quiet) -> Result<TlsStream<Quiet>> {
    let refuse = |why: &dyn std::error::Error| connect.tls("begin TLS", why);
    let name = ServerName::try_from(connect.host.clone()).map_err(|error| refuse(&error))?;
    let config = config(connect).await?;
    TlsConnector::from(Arc::new(config)).connect(name, socket).await.map_err(|error| match error.get_ref() {
        Some(inner) if inner.is::<rustls::Error>() => refuse(&error),
        _ => connect.unreachable(format!("the TLS handshake broke off: {error}")),
    })
}

async fn config(connect: &Connect) -> Result<ClientConfig> {
    let refuse = |why: &dyn std::error::Error| connect.tls("prepare TLS", why);
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|error| refuse(&error))?;
    let verify_chain = match connect.ssl.mode {
        SslMode::VerifyCa | SslMode::VerifyFull => true,
        // As libpq: who names a root wants it to be used.
        SslMode::Require => connect.ssl.root.is_some(),
        _ => false,
    };
    let builder = if connect.ssl.mode == SslMode::VerifyFull {
        builder.with_root_certificates(roots(connect).await?)
    } else {
        let chain = if verify_chain {
            let roots = Arc::new(roots(connect).await?);
            let verifier = WebPkiServerVerifier::builder_with_provider(roots, provider.clone()).build();
            Some(verifier.map_err(|error| refuse(&error))?)
        } else {
            None
        };
        builder.dangerous().with_custom_certificate_verifier(Arc::new(AnyName { chain, provider }))
    };
    match (&connect.ssl.cert, client_key(connect).await?) {
        (Some(cert), Some(key)) => {
            let chain = certificates(connect, cert).await?;
            let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).map_err(|error| refuse(&error))?;
            builder.with_client_auth_cert(chain, key).map_err(|error| refuse(&error))
        }
        _ => Ok(builder.with_no_client_auth()),
    }
}

async fn roots(connect: &Connect) -> Result<RootCertStore> {
    let mut store = RootCertStore::empty();
    match &connect.ssl.root {
        Some(root) => {
            for certificate in certificates(connect, root).await? {
                store.add(certificate).map_err(|error| connect.tls("read the root certificate", &error))?;
            }
        }
        None => {
            store.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
    }
    Ok(store)
}

async fn certificates(connect: &Connect, path: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let pem = read(connect, path).await?;
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    all.map_err(|error| connect.tls(&format!("read {}", path.display()), &error))
}

async fn read(connect: &Connect, path: &Path) -> Result<Vec<u8>> {
    let failed = |error: std::io::Error| -> Error { connect.tls(&format!("read {}", path.display()), &error) };
    tokio::fs::read(path).await.map_err(failed)
}

/// Any name, and any issuer where `chain` is none: `prefer`, `require`, `verify-ca`.
#[derive(Debug)]
struct AnyName {
    chain: Option<Arc<WebPkiServerVerifier>>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for AnyName {
    fn verify_server_cert(
        &self,
        end: &CertificateDer<'_>,
        between: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let Some(chain) = &self.chain else {
            return Ok(ServerCertVerified::assertion());
        };
        match chain.verify_server_cert(end, between, name, ocsp, now) {
            Err(rustls::Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) => Ok(ServerCertVerified::assertion()),
            outcome => outcome,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, signed, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, signed, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// `tls-server-end-point` of RFC 5929: the hash of the server's certificate, by the algorithm that signed it. `None` for algorithms
/// without a hash of their own (Ed25519): SCRAM then goes without channel binding.
pub fn end_point(stream: &TlsStream<Quiet>) -> Option<Vec<u8>> {
    let (_, session) = stream.get_ref();
    let certificate = session.peer_certificates()?.first()?;
    Some(match signature_hash(certificate)? {
        Hash::Sha256 => Sha256::digest(certificate).to_vec(),
        Hash::Sha384 => Sha384::digest(certificate).to_vec(),
        Hash::Sha512 => Sha512::digest(certificate).to_vec(),
    })
}

#[derive(Debug, PartialEq)]
enum Hash {
    /// Also for MD5 and SHA-1, as the RFC wants it.
    Sha256,
    Sha384,
    Sha512,
}

/// Certificate ::= SEQUENCE { tbsCertificate, signatureAlgorithm SEQUENCE { algorithm OID, … }, … }
fn signature_hash(certificate: &[u8]) -> Option<Hash> {
    let (_, body, _) = der(certificate)?;
    let (_, _, after) = der(body)?;
    let (_, algorithm, _) = der(after)?;
    let (tag, oid, _) = der(algorithm)?;
    if tag != 0x06 {
        return None;
    }
    // 1.2.840.113549.1.1.x (RSA) and 1.2.840.10045.4.3.x (ECDSA)
    const RSA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01];
    const ECDSA: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03];
    match (oid.strip_prefix(RSA), oid.strip_prefix(ECDSA)) {
        (Some([4 | 5 | 11]), _) | (_, Some([2])) => Some(Hash::Sha256),
        (Some([12]), _) | (_, Some([3])) => Some(Hash::Sha384),
        (Some([13]), _) | (_, Some([4])) => Some(Hash::Sha512),
        _ => None,
    }
}

/// One DER value: its tag, its content, and what follows.
fn der(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&tag, rest) = bytes.split_first()?;
    let (&first, rest) = rest.split_first()?;
    let (len, rest) = match first {
        short @ 0..0x80 => (usize::from(short), rest),
        long => {
            let (digits, rest) = rest.split_at_checked(usize::from(long & 0x7f))?;
            if digits.len() > 4 {
                return None;
            }
            (digits.iter().fold(0usize, |len, byte| len << 8 | usize::from(*byte)), rest)
        }
    };
    let (content, after) = rest.split_at_checked(len)?;
    Some((tag, content, after))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn certificate(oid: &[u8]) -> Vec<u8> {
        let value = |tag: u8, content: &[u8]| {
            [vec![tag, 0x82, (content.len() >> 8) as u8, content.len() as u8], content.to_vec()].concat()
        };
        let algorithm = value(0x30, &[vec![0x06, oid.len() as u8], oid.to_vec()].concat());
        value(0x30, &[value(0x30, &[7; 300]), algorithm].concat())
    }

    #[test]
    fn the_hash_is_that_of_the_signature() {
        for (oid, expected) in [
            (&[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 11][..], Some(Hash::Sha256)),
            (&[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 5], Some(Hash::Sha256)),
            (&[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 3], Some(Hash::Sha384)),
            (&[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 13], Some(Hash::Sha512)),
            (&[0x2b, 0x65, 0x70], None),
        ] {
            assert_eq!(signature_hash(&certificate(oid)), expected);
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..60)) {
            let _ = signature_hash(&bytes);
        }
    }
}

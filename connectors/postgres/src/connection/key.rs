//! The client's private key: PEM or DER, in the clear or encrypted as PKCS #8.

use super::Connect;
use aqueduct_config::types::Secret;
use aqueduct_core::{Error, Result, blocking};
use pkcs8::der::pem::{LineEnding, PemLabel};
use pkcs8::der::zeroize::Zeroizing;
use pkcs8::{EncryptedPrivateKeyInfo, PrivateKeyInfo, SecretDocument};

/// In the clear; wiped when it is dropped.
pub type Pem = Zeroizing<String>;

/// The key of [`super::Ssl::key`], where there is one.
///
/// # Errors
/// `postgres.tls`: it is not there, is no key, or its password is wrong.
pub async fn read(connect: &Connect) -> Result<Option<Pem>> {
    let Some(path) = &connect.ssl.key else { return Ok(None) };
    let bytes = tokio::fs::read(path).await.map_err(|error| connect.tls(&format!("read {}", path.display()), &error))?;
    let (bytes, password) = (Zeroizing::new(bytes), connect.ssl.key_password.clone());
    let permit = blocking::permit().await;
    // What makes a password hard to guess takes its time.
    #[allow(clippy::disallowed_methods, reason = "awaited at once, with a permit")]
    let opened = tokio::task::spawn_blocking(move || {
        let opened = open(&bytes, password.as_ref());
        drop(permit);
        opened
    });
    let refuse = |why: String| Error::fatal("postgres.tls", format!("cannot use the private key {}: {why}", path.display()));
    match opened.await {
        Ok(Ok(pem)) => Ok(Some(pem)),
        Ok(Err((why, fix))) => Err(refuse(why).fix(fix)),
        Err(error) => Err(refuse(error.to_string())),
    }
}

const CONVERT: &str =
    "Write it as PKCS #8: openssl pkcs8 -topk8 -in key.pem -out key.p8 (with -nocrypt for one without a password).";

/// Why not, and what mends it.
type Refused = (String, &'static str);

fn open(bytes: &[u8], password: Option<&Secret>) -> Result<Pem, Refused> {
    let foreign = |why: &str| (why.to_owned(), CONVERT);
    let document = match std::str::from_utf8(bytes).ok().filter(|text| text.contains("-----BEGIN ")) {
        Some(text) if text.contains("-----BEGIN ENCRYPTED PRIVATE KEY-----") => {
            let from = text.find("-----BEGIN ENCRYPTED").unwrap_or(0);
            let (label, document) =
                SecretDocument::from_pem(text[from..].trim_end()).map_err(|error| foreign(&error.to_string()))?;
            EncryptedPrivateKeyInfo::validate_pem_label(label).map_err(|error| foreign(&error.to_string()))?;
            document
        }
        Some(text) if text.contains("Proc-Type: 4,ENCRYPTED") => {
            return Err(foreign("it is encrypted in OpenSSL's old way, which nobody should rely on"));
        }
        // In the clear, in whatever form rustls takes.
        Some(text) => return Ok(Zeroizing::new(text.to_owned())),
        None => SecretDocument::try_from(bytes).map_err(|_| foreign("it is neither PEM nor PKCS #8 as DER"))?,
    };
    let document = match EncryptedPrivateKeyInfo::try_from(document.as_bytes()) {
        Ok(encrypted) => {
            let password = password.ok_or(("it is encrypted".to_owned(), "Give its password: database.sslpassword."))?;
            let wrong = |error: pkcs8::Error| (format!("it cannot be decrypted ({error})"), "Check database.sslpassword.");
            encrypted.decrypt(password.expose()).map_err(wrong)?
        }
        Err(_) => document,
    };
    PrivateKeyInfo::try_from(document.as_bytes()).map_err(|error| foreign(&format!("it is no private key ({error})")))?;
    document.to_pem(PrivateKeyInfo::PEM_LABEL, LineEnding::LF).map_err(|error| foreign(&error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_key_is_refused_with_what_mends_it() {
        for (bytes, says) in [
            (&b"\x30\x03\x02\x01\x00"[..], "no private key"),
            (b"nothing", "neither PEM nor PKCS #8"),
            (b"-----BEGIN ENCRYPTED PRIVATE KEY-----\nxx\n-----END ENCRYPTED PRIVATE KEY-----\n", ""),
            (b"-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\n", "old way"),
        ] {
            let (why, fix) = open(bytes, None).unwrap_err();
            assert!(why.contains(says) && fix.contains("openssl"), "{why}");
        }
        let plain = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n";
        assert_eq!(open(plain.as_bytes(), None).unwrap().as_str(), plain);
    }
}

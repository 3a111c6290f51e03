//! Certificates and keys in PEM.

use super::{Found, wrong};

/// A file with certificates is small; a larger one is a mistake.
const BYTES_MAX: u64 = 4 << 20;

pub(super) fn read(option: &str, path: &str) -> Found<String> {
    let read = std::fs::metadata(path)
        .and_then(|meta| if meta.len() > BYTES_MAX { Err(std::io::ErrorKind::FileTooLarge.into()) } else { std::fs::read(path) });
    let bytes = read.map_err(|error| wrong(option, format!("cannot read {path}: {error}")))?;
    match String::from_utf8(bytes) {
        Ok(pem) if pem.contains("-----BEGIN ") => Ok(pem),
        _ => Err(Box::new(wrong(option, format!("{path} is not PEM")).fix(
            "convert it: keytool -importkeystore -srckeystore x.jks -destkeystore x.p12 -deststoretype PKCS12, then openssl pkcs12 -in x.p12 -out x.pem",
        ))),
    }
}

/// Certificates and private keys of one text, as a PEM keystore has both.
pub(super) fn split(text: &str) -> (String, String) {
    let (mut certificates, mut keys) = (String::new(), String::new());
    for section in text.split_inclusive("-----END ") {
        // Up to the line that ends it: the rest of that line belongs to the section before.
        let Some(at) = section.find("-----BEGIN ") else { continue };
        let body = section[at..].trim_end_matches("-----END ");
        let Some(label) = body["-----BEGIN ".len()..].split("-----").next() else { continue };
        let out = match label {
            "CERTIFICATE" => &mut certificates,
            label if label.ends_with("PRIVATE KEY") => &mut keys,
            _ => continue,
        };
        out.push_str(body);
        out.push_str("-----END ");
        out.push_str(label);
        out.push_str("-----\n");
    }
    (certificates, keys)
}

//! TLS and SASL under the names of Kafka's clients, for `krafka`'s connections.

use super::parse::{Parser, wrong};
use aqueduct_core::Result;
use krafka::auth::{AuthConfig, ClientCredentials, OidcTokenProvider, TlsConfig};
use std::collections::BTreeMap;
use std::time::Duration;

/// A file with certificates is small; a larger one is a mistake.
const PEM_BYTES_MAX: u64 = 4 << 20;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Protocol {
    Plaintext,
    Ssl,
    SaslPlaintext,
    SaslSsl,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Mechanism {
    Plain,
    Scram256,
    Scram512,
    OauthBearer,
}

pub(super) fn parse(options: &Parser<'_>) -> Result<AuthConfig> {
    let protocols = [
        ("PLAINTEXT", Protocol::Plaintext),
        ("SSL", Protocol::Ssl),
        ("SASL_PLAINTEXT", Protocol::SaslPlaintext),
        ("SASL_SSL", Protocol::SaslSsl),
    ];
    let protocol = options.one_of("security.protocol", Protocol::Plaintext, &protocols)?;
    Ok(match protocol {
        Protocol::Plaintext => AuthConfig::plaintext(),
        Protocol::Ssl => AuthConfig::ssl(tls(options)?),
        Protocol::SaslPlaintext => sasl(options)?,
        Protocol::SaslSsl => sasl(options)?.with_tls(tls(options)?),
    })
}

fn tls(options: &Parser<'_>) -> Result<TlsConfig> {
    let tls = match pem(options, "ssl.truststore.certificates", "ssl.truststore.location")? {
        Some(certificates) => TlsConfig::new().with_ca_cert_pem(certificates),
        None => TlsConfig::new().with_native_roots(),
    };
    let (chain, key) = (options.text("ssl.keystore.certificate.chain"), options.text("ssl.keystore.key"));
    let identity = match (chain, key, options.text("ssl.keystore.location")) {
        (None, None, None) => return Ok(tls),
        (Some(chain), Some(key), None) => (chain.to_owned(), key.to_owned()),
        (None, None, Some(_)) => {
            let both = pem(options, "ssl.keystore.key", "ssl.keystore.location")?.unwrap_or_default();
            let (certificates, keys) = split_pem(&both);
            if certificates.is_empty() || keys.is_empty() {
                return Err(wrong("ssl.keystore.location", "the file has not both a private key and a certificate in PEM"));
            }
            (certificates, keys)
        }
        (_, _, Some(_)) => {
            return Err(wrong(
                "ssl.keystore.location",
                "stands beside ssl.keystore.key or ssl.keystore.certificate.chain: give one of them",
            ));
        }
        _ => return Err(wrong("ssl.keystore.key", "goes with ssl.keystore.certificate.chain: give both")),
    };
    let tls = tls.with_client_cert_pem(identity.0, identity.1.into_bytes());
    Ok(match options.text("ssl.key.password") {
        Some(password) => tls.with_client_key_password(password),
        None => tls,
    })
}

/// The text itself, or of the file.
fn pem(options: &Parser<'_>, text: &str, location: &str) -> Result<Option<String>> {
    match (options.text(text), options.text(location)) {
        (None, None) => Ok(None),
        (Some(pem), None) => Ok(Some(pem.to_owned())),
        (Some(_), Some(_)) => Err(wrong(location, format!("stands beside {text}: give one of them"))),
        (None, Some(path)) => {
            let read = std::fs::metadata(path).and_then(|meta| {
                if meta.len() > PEM_BYTES_MAX { Err(std::io::ErrorKind::FileTooLarge.into()) } else { std::fs::read(path) }
            });
            let bytes = read.map_err(|error| wrong(location, format!("cannot read {path}: {error}")))?;
            match String::from_utf8(bytes) {
                Ok(pem) if pem.contains("-----BEGIN ") => Ok(Some(pem)),
                _ => Err(wrong(location, format!("{path} is not PEM")).fix(
                    "convert it: keytool -importkeystore -srckeystore x.jks -destkeystore x.p12 -deststoretype PKCS12, then openssl pkcs12 -in x.p12 -out x.pem",
                )),
            }
        }
    }
}

/// Certificates and private keys of one text, as a PEM keystore has both.
fn split_pem(text: &str) -> (String, String) {
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

fn sasl(options: &Parser<'_>) -> Result<AuthConfig> {
    let mechanisms = [
        ("PLAIN", Mechanism::Plain),
        ("SCRAM-SHA-256", Mechanism::Scram256),
        ("SCRAM-SHA-512", Mechanism::Scram512),
        ("OAUTHBEARER", Mechanism::OauthBearer),
    ];
    if options.text("sasl.mechanism").is_none() {
        return Err(wrong("sasl.mechanism", "is not set: PLAIN, SCRAM-SHA-256, SCRAM-SHA-512 or OAUTHBEARER"));
    }
    let mechanism = options.one_of("sasl.mechanism", Mechanism::Plain, &mechanisms)?;
    let jaas = options.text("sasl.jaas.config").map(jaas).transpose()?;
    if mechanism == Mechanism::OauthBearer {
        return oauth(options, jaas);
    }
    let module = if mechanism == Mechanism::Plain { "PlainLoginModule" } else { "ScramLoginModule" };
    let jaas = jaas.ok_or_else(|| wrong("sasl.jaas.config", format!("is not set: {}", example(module))))?;
    if jaas.module != module {
        return Err(wrong("sasl.jaas.config", format!("this mechanism goes with {module}: {}", example(module))));
    }
    let need = |key: &str| {
        jaas.options.get(key).cloned().ok_or_else(|| wrong("sasl.jaas.config", format!("has no {key}: {}", example(module))))
    };
    let (username, password) = (need("username")?, need("password")?);
    Ok(match mechanism {
        Mechanism::Scram256 => AuthConfig::sasl_scram_sha256(username, password),
        Mechanism::Scram512 => AuthConfig::sasl_scram_sha512(username, password),
        _ => AuthConfig::sasl_plain(username, password),
    })
}

fn example(module: &str) -> String {
    let package = match module {
        "PlainLoginModule" => "plain",
        "ScramLoginModule" => "scram",
        _ => "oauthbearer",
    };
    format!("org.apache.kafka.common.security.{package}.{module} required username=\"…\" password=\"…\";")
}

fn oauth(options: &Parser<'_>, jaas: Option<Jaas>) -> Result<AuthConfig> {
    let jaas = match jaas {
        Some(jaas) if jaas.module != "OAuthBearerLoginModule" => {
            return Err(wrong("sasl.jaas.config", "the mechanism OAUTHBEARER goes with OAuthBearerLoginModule"));
        }
        jaas => jaas.map(|jaas| jaas.options).unwrap_or_default(),
    };
    let given = |option: &str, in_jaas: &str| options.text(option).map(str::to_owned).or_else(|| jaas.get(in_jaas).cloned());
    let endpoint = options
        .text("sasl.oauthbearer.token.endpoint.url")
        .ok_or_else(|| wrong("sasl.oauthbearer.token.endpoint.url", "is not set: where tokens come from"))?;
    let id_option = "sasl.oauthbearer.client.credentials.client.id";
    let id = given(id_option, "clientId").ok_or_else(|| wrong(id_option, "is not set"))?;
    let secret_option = "sasl.oauthbearer.client.credentials.client.secret";
    let secret = given(secret_option, "clientSecret").ok_or_else(|| wrong(secret_option, "is not set"))?;
    let timeout = options.millis("sasl.login.read.timeout.ms", 10_000, 1..=600_000)?;
    let mut provider = OidcTokenProvider::builder(endpoint)
        .credentials(ClientCredentials::secret(id, secret))
        .request_timeout(timeout.max(Duration::from_millis(1)));
    if let Some(scope) = given("sasl.oauthbearer.scope", "scope") {
        provider = provider.scope(scope);
    }
    if let Some(certificates) = pem(options, "ssl.truststore.certificates", "ssl.truststore.location")? {
        provider = provider.ca_cert_pem(certificates);
    } else {
        provider = provider.native_roots();
    }
    let provider = provider.build().map_err(|error| wrong("sasl.oauthbearer.token.endpoint.url", error))?;
    Ok(AuthConfig::sasl_oauthbearer_provider(provider))
}

/// What a line of JAAS says. `Debug` is not derived: it has passwords (invariant 9).
struct Jaas {
    /// The class without its package; never loaded, only compared.
    module: String,
    options: BTreeMap<String, String>,
}

const KNOWN_MODULES: [&str; 3] = ["PlainLoginModule", "ScramLoginModule", "OAuthBearerLoginModule"];

/// `org.apache.kafka.common.security.plain.PlainLoginModule required username="a" password="b";`
fn jaas(text: &str) -> Result<Jaas> {
    // Never shows the text: it has the password.
    let malformed = |why: &str| wrong("sasl.jaas.config", format!("{why}: write it as {}", example("PlainLoginModule")));
    let text = text.trim().strip_suffix(';').ok_or_else(|| malformed("does not end with ;"))?.trim_end();
    let (class, rest) = text.split_once(char::is_whitespace).ok_or_else(|| malformed("has no options"))?;
    let module = class.rsplit('.').next().unwrap_or_default();
    if !KNOWN_MODULES.contains(&module) || class.len() > module.len() && !class.starts_with("org.apache.kafka.common.security.") {
        return Err(malformed("names a login module that is not known: PlainLoginModule and ScramLoginModule are"));
    }
    let mut rest = rest.trim_start();
    let flag = rest.split(char::is_whitespace).next().unwrap_or_default();
    if !["required", "requisite", "sufficient", "optional"].contains(&flag.to_ascii_lowercase().as_str()) {
        return Err(malformed("has no `required` behind the class"));
    }
    rest = rest[flag.len()..].trim_start();
    let mut options = BTreeMap::new();
    while !rest.is_empty() {
        let (key, after) = rest.split_once('=').ok_or_else(|| malformed("has an option without ="))?;
        let (value, after) = jaas_value(after.trim_start()).ok_or_else(|| malformed("has a value that does not end"))?;
        options.insert(key.trim().to_owned(), value);
        rest = after.trim_start();
    }
    Ok(Jaas { module: module.to_owned(), options })
}

/// Quoted with backslashes as in Java, or up to the next space; and what comes behind it.
fn jaas_value(text: &str) -> Option<(String, &str)> {
    let Some(quote) = text.chars().next().filter(|c| matches!(c, '"' | '\'')) else {
        let end = text.find(char::is_whitespace).unwrap_or(text.len());
        return (end > 0).then(|| (text[..end].to_owned(), &text[end..]));
    };
    let (mut value, mut chars) = (String::new(), text.char_indices().skip(1));
    while let Some((at, c)) = chars.next() {
        match c {
            c if c == quote => return Some((value, &text[at + c.len_utf8()..])),
            '\\' => value.push(chars.next()?.1),
            c => value.push(c),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::super::{ClientConfig, ClientKind};
    use super::*;
    use aqueduct_core::Options;

    fn options(pairs: &[(&str, &str)]) -> Options {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    fn error(pairs: &[(&str, &str)]) -> aqueduct_core::Error {
        ClientConfig::parse(ClientKind::Producer, "c", &options(pairs)).err().unwrap()
    }

    #[test]
    fn jaas_lines_of_the_known_modules() {
        let parsed =
            jaas(r#"org.apache.kafka.common.security.plain.PlainLoginModule required username="al\"ice" password='s = p;x' ;"#)
                .unwrap();
        assert_eq!(parsed.module, "PlainLoginModule");
        assert_eq!((parsed.options["username"].as_str(), parsed.options["password"].as_str()), ("al\"ice", "s = p;x"));
        for bad in [
            "com.evil.Module required username=\"top-secret\";",
            "com.evil.PlainLoginModule required username=\"top-secret\";",
            "PlainLoginModule required username=\"top-secret",
            "PlainLoginModule required username=\"top-secret;",
            "PlainLoginModule username=\"top-secret\";",
            "PlainLoginModule required top-secret;",
        ] {
            let error = jaas(bad).err().unwrap();
            assert_eq!((error.code(), error.is_retriable()), ("kafka.config", false));
            assert!(!format!("{error:?}").contains("top-secret"), "{error:?}");
        }
    }

    #[test]
    fn every_protocol_is_mapped_and_what_is_missing_is_told() {
        let plain = "org.apache.kafka.common.security.plain.PlainLoginModule required username=\"a\" password=\"b\";";
        let scram = "org.apache.kafka.common.security.scram.ScramLoginModule required username=\"a\" password=\"b\";";
        for (mechanism, jaas) in [("PLAIN", plain), ("SCRAM-SHA-256", scram), ("scram-sha-512", scram)] {
            for protocol in ["SASL_PLAINTEXT", "SASL_SSL"] {
                let given =
                    options(&[("security.protocol", protocol), ("sasl.mechanism", mechanism), ("sasl.jaas.config", jaas)]);
                let config = ClientConfig::parse(ClientKind::Admin, "c", &given).unwrap();
                assert_eq!((config.security.requires_sasl(), config.security.requires_tls()), (true, protocol == "SASL_SSL"));
            }
        }
        let oauth = options(&[
            ("security.protocol", "SASL_SSL"),
            ("sasl.mechanism", "OAUTHBEARER"),
            ("sasl.oauthbearer.token.endpoint.url", "https://idp.example/token"),
            ("sasl.oauthbearer.client.credentials.client.id", "me"),
            ("sasl.oauthbearer.client.credentials.client.secret", "s"),
        ]);
        assert!(ClientConfig::parse(ClientKind::Consumer, "c", &oauth).unwrap().security.requires_sasl());
        let sasl = ("security.protocol", "SASL_PLAINTEXT");
        assert!(error(&[sasl]).message().starts_with("sasl.mechanism: "));
        assert!(error(&[sasl, ("sasl.mechanism", "PLAIN")]).message().starts_with("sasl.jaas.config: is not set"));
        assert!(error(&[sasl, ("sasl.mechanism", "PLAIN"), ("sasl.jaas.config", scram)]).message().contains("PlainLoginModule"));
        assert!(error(&[sasl, ("sasl.mechanism", "GSSAPI")]).message().contains("none of PLAIN"));
        assert!(error(&[("security.protocol", "SSL"), ("ssl.truststore.location", "/nowhere")]).message().contains("/nowhere"));
    }

    #[test]
    fn a_keystore_in_pem_has_both() {
        let text = "junk\n-----BEGIN ENCRYPTED PRIVATE KEY-----\nk\n-----END ENCRYPTED PRIVATE KEY-----\n\
            -----BEGIN CERTIFICATE-----\na\n-----END CERTIFICATE-----\n-----BEGIN CERTIFICATE-----\nb\n-----END CERTIFICATE-----\n";
        let (certificates, keys) = split_pem(text);
        assert_eq!(keys, "-----BEGIN ENCRYPTED PRIVATE KEY-----\nk\n-----END ENCRYPTED PRIVATE KEY-----\n");
        assert_eq!(
            certificates,
            "-----BEGIN CERTIFICATE-----\na\n-----END CERTIFICATE-----\n-----BEGIN CERTIFICATE-----\nb\n-----END CERTIFICATE-----\n"
        );
    }

    #[test]
    fn what_cannot_be_mapped_says_so() {
        for (name, value, said) in [
            ("interceptor.classes", "x.Y", "Java class"),
            ("enable.idempotence", "false", "always true"),
            ("transactional.id", "mine", "Aqueduct itself"),
            ("ssl.endpoint.identification.algorithm", "", "always https"),
            ("ssl.truststore.type", "JKS", "always pem"),
            ("fetch.min.bytes", "1", "no option of producers"),
            ("acks", "2", "none of all"),
            ("linger.ms", "-1", "0 to"),
            ("max.in.flight.requests.per.connection", "6", "1 to 5"),
        ] {
            let error = error(&[(name, value)]);
            assert!(error.message().starts_with(&format!("{name}: ")) && error.message().contains(said), "{error}");
        }
        assert_eq!(error(&[("compresion.type", "lz4")]).hint(), Some("did you mean compression.type?"));
        let kept = options(&[
            ("acks", "ALL"),
            ("compression.type", "zstd"),
            ("enable.idempotence", "true"),
            ("metrics.num.samples", "3"),
        ]);
        let config = ClientConfig::parse(ClientKind::Producer, "c", &kept).unwrap();
        assert_eq!(config.producer.compression, aqueduct_log::record_batch::Compression::Zstd);
    }
}

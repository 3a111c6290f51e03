//! TLS and SASL under the names of Kafka's clients, for krafka's connections.

use crate::client::ClientOptions;
use aqueduct_config::options::invalid;
use aqueduct_core::{Error, Issue, Result};
use krafka::auth::{AuthConfig, TlsConfig};
use std::collections::BTreeMap;

/// A file with certificates is small; a larger one is a mistake.
const PEM_BYTES_MAX: u64 = 4 << 20;

#[derive(Clone, Copy)]
struct Protocol {
    tls: bool,
    sasl: bool,
}

enum Login {
    Plain(String, String),
    Scram256(String, String),
    Scram512(String, String),
}

/// What can be said without reading a file.
pub(crate) fn check(options: &ClientOptions, issues: &mut Vec<Issue>) {
    match protocol(options) {
        Err(issue) => issues.push(*issue),
        Ok(protocol) if protocol.sasl => issues.extend(login(options).err().map(|issue| *issue)),
        Ok(_) => {}
    }
    let beside = |a: Option<&str>, b: Option<&str>| a.is_some() && b.is_some();
    let (location, text) = (options.ssl_truststore_location.as_deref(), options.ssl_truststore_certificates.as_deref());
    if beside(location, text) {
        issues.push(wrong("ssl.truststore.location", "stands beside ssl.truststore.certificates").fix("give one of them"));
    }
    let (key, chain) = (options.ssl_keystore_key.is_some(), options.ssl_keystore_certificate_chain.is_some());
    if options.ssl_keystore_location.is_some() && (key || chain) {
        issues.push(
            wrong("ssl.keystore.location", "stands beside ssl.keystore.key or ssl.keystore.certificate.chain")
                .fix("give one of them"),
        );
    } else if key != chain {
        issues.push(wrong("ssl.keystore.key", "goes with ssl.keystore.certificate.chain").fix("give both"));
    }
}

/// # Errors
/// `config.invalid`; `kafka.config` for a file that cannot be read or is no PEM.
pub(crate) async fn auth(options: &ClientOptions) -> Result<AuthConfig> {
    let refuse = |issue: Box<Issue>| invalid(&[*issue]);
    let protocol = protocol(options).map_err(refuse)?;
    let auth = if protocol.sasl {
        match login(options).map_err(refuse)? {
            Login::Plain(user, password) => AuthConfig::sasl_plain(user, password),
            Login::Scram256(user, password) => AuthConfig::sasl_scram_sha256(user, password),
            Login::Scram512(user, password) => AuthConfig::sasl_scram_sha512(user, password),
        }
    } else if protocol.tls {
        return Ok(AuthConfig::ssl(tls(options).await?));
    } else {
        return Ok(AuthConfig::plaintext());
    };
    Ok(if protocol.tls { auth.with_tls(tls(options).await?) } else { auth })
}

/// Never shows the value: it may be a secret.
fn wrong(option: &str, message: impl Into<String>) -> Issue {
    Issue::error(option, "kafka.config", message).fix("the README of the connector shows how logins and certificates are written")
}

fn protocol(options: &ClientOptions) -> Result<Protocol, Box<Issue>> {
    let text = options.security_protocol.as_deref().unwrap_or("PLAINTEXT");
    Ok(match text.trim().to_ascii_uppercase().as_str() {
        "PLAINTEXT" => Protocol { tls: false, sasl: false },
        "SSL" => Protocol { tls: true, sasl: false },
        "SASL_PLAINTEXT" => Protocol { tls: false, sasl: true },
        "SASL_SSL" => Protocol { tls: true, sasl: true },
        _ => {
            let issue = wrong("security.protocol", format!("{text:?} is none of PLAINTEXT, SSL, SASL_PLAINTEXT, SASL_SSL"));
            return Err(Box::new(issue.fix("use the protocol of the brokers' listener")));
        }
    })
}

fn login(options: &ClientOptions) -> Result<Login, Box<Issue>> {
    let Some(mechanism) = options.sasl_mechanism.as_deref() else {
        return Err(Box::new(wrong("sasl.mechanism", "is not set").fix("PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512")));
    };
    let (module, login): (_, fn(String, String) -> Login) = match mechanism.trim().to_ascii_uppercase().as_str() {
        "PLAIN" => ("PlainLoginModule", Login::Plain),
        "SCRAM-SHA-256" => ("ScramLoginModule", Login::Scram256),
        "SCRAM-SHA-512" => ("ScramLoginModule", Login::Scram512),
        _ => {
            let message = format!("{mechanism:?} is none of PLAIN, SCRAM-SHA-256, SCRAM-SHA-512");
            return Err(Box::new(wrong("sasl.mechanism", message)));
        }
    };
    let Some(text) = options.sasl_jaas_config.as_ref() else {
        return Err(Box::new(wrong("sasl.jaas.config", "is not set").fix(example(module))));
    };
    let mut jaas = jaas(text.expose())?;
    if jaas.module != module {
        return Err(Box::new(wrong("sasl.jaas.config", format!("{mechanism} goes with {module}")).fix(example(module))));
    }
    let mut need = |key: &str| {
        let missing = || Box::new(wrong("sasl.jaas.config", format!("has no {key}")).fix(example(module)));
        jaas.options.remove(key).ok_or_else(missing)
    };
    Ok(login(need("username")?, need("password")?))
}

async fn tls(options: &ClientOptions) -> Result<TlsConfig> {
    let authorities = match (&options.ssl_truststore_certificates, &options.ssl_truststore_location) {
        (Some(text), _) => Some(text.clone()),
        (None, Some(path)) => Some(read_pem("ssl.truststore.location", path).await?),
        (None, None) => None,
    };
    let tls = match authorities {
        Some(certificates) => TlsConfig::new().with_ca_cert_pem(certificates),
        None => TlsConfig::new().with_native_roots(),
    };
    let (certificates, key) =
        match (&options.ssl_keystore_certificate_chain, &options.ssl_keystore_key, &options.ssl_keystore_location) {
            (Some(chain), Some(key), _) => (chain.clone(), key.expose().to_owned()),
            (_, _, Some(path)) => {
                let (certificates, keys) = split_pem(&read_pem("ssl.keystore.location", path).await?);
                if certificates.is_empty() || keys.is_empty() {
                    return Err(Error::fatal(
                        "kafka.config",
                        format!("ssl.keystore.location: {path} has not both a private key and a certificate"),
                    ));
                }
                (certificates, keys)
            }
            _ => return Ok(tls),
        };
    let tls = tls.with_client_cert_pem(certificates, key.into_bytes());
    Ok(match &options.ssl_key_password {
        Some(password) => tls.with_client_key_password(password.expose()),
        None => tls,
    })
}

async fn read_pem(option: &str, path: &str) -> Result<String> {
    let read = async {
        let meta = tokio::fs::metadata(path).await?;
        if meta.len() > PEM_BYTES_MAX { Err(std::io::ErrorKind::FileTooLarge.into()) } else { tokio::fs::read(path).await }
    };
    let bytes = read.await.map_err(|error| Error::fatal("kafka.config", format!("{option}: cannot read {path}: {error}")))?;
    match String::from_utf8(bytes) {
        Ok(pem) if pem.contains("-----BEGIN ") => Ok(pem),
        _ => Err(Error::fatal("kafka.config", format!("{option}: {path} is not PEM"))
            .fix("convert it: keytool -importkeystore -srckeystore x.jks -destkeystore x.p12 -deststoretype PKCS12, then openssl pkcs12 -in x.p12 -out x.pem")),
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

fn example(module: &str) -> String {
    let package = if module == "PlainLoginModule" { "plain" } else { "scram" };
    format!("org.apache.kafka.common.security.{package}.{module} required username=\"…\" password=\"…\";")
}

/// What a line of JAAS says. `Debug` is not derived: it has passwords (invariant 9).
struct Jaas {
    /// The class without its package; never loaded, only compared.
    module: String,
    options: BTreeMap<String, String>,
}

const KNOWN_MODULES: [&str; 2] = ["PlainLoginModule", "ScramLoginModule"];

/// `org.apache.kafka.common.security.plain.PlainLoginModule required username="a" password="b";`
fn jaas(text: &str) -> Result<Jaas, Box<Issue>> {
    // Never shows the text: it has the password.
    let malformed = |why: &str| Box::new(wrong("sasl.jaas.config", why).fix(example("PlainLoginModule")));
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
    use super::*;
    use aqueduct_config::Secret;

    fn sasl(mechanism: &str, jaas: &str) -> ClientOptions {
        ClientOptions {
            bootstrap_servers: "a:1".into(),
            security_protocol: Some("sasl_plaintext".into()),
            sasl_mechanism: Some(mechanism.into()),
            sasl_jaas_config: Some(Secret::new(jaas)),
            ..ClientOptions::default()
        }
    }

    #[tokio::test]
    async fn logins_are_read_and_what_is_wrong_never_shows_the_password() {
        let plain =
            r#"org.apache.kafka.common.security.plain.PlainLoginModule required username="al\"ice" password='top = secret;x' ;"#;
        let Ok(Login::Plain(user, password)) = login(&sasl("plain", plain)) else { panic!("a login") };
        assert_eq!((user.as_str(), password.as_str()), ("al\"ice", "top = secret;x"));
        assert!(auth(&sasl("PLAIN", plain)).await.unwrap().requires_sasl());
        for (mechanism, jaas) in [
            ("SCRAM-SHA-256", plain),
            ("GSSAPI", plain),
            ("PLAIN", "com.evil.PlainLoginModule required password=\"top = secret;x\";"),
            ("PLAIN", "PlainLoginModule required username=\"a\" password=\"top = secret;x"),
            ("PLAIN", "PlainLoginModule required password=\"top = secret;x\";"),
        ] {
            let mut issues = Vec::new();
            check(&sasl(mechanism, jaas), &mut issues);
            assert_eq!(issues.len(), 1, "{mechanism} {issues:?}");
            assert!(!issues[0].to_string().contains("top"), "{}", issues[0]);
        }
    }

    #[test]
    fn what_excludes_each_other_is_told() {
        let mut issues = Vec::new();
        let text = || Some("x".to_owned());
        check(
            &ClientOptions {
                security_protocol: Some("TLS".into()),
                ssl_truststore_location: text(),
                ssl_truststore_certificates: text(),
                ssl_keystore_certificate_chain: text(),
                ..ClientOptions::default()
            },
            &mut issues,
        );
        let paths: Vec<_> = issues.iter().map(|issue| issue.path.as_str()).collect();
        assert_eq!(paths, ["security.protocol", "ssl.truststore.location", "ssl.keystore.key"]);
    }
}

//! TLS and SASL by the names of Kafka's own clients: read and checked for every client of a Kafka cluster, whichever library it is made of.

mod jaas;
mod pem;

use aqueduct_core::{Error, Issue, Options, Result};
use jaas::{Jaas, jaas};
use std::time::Duration;

/// What the options say, certificates read. `Debug` is not derived: it has passwords (invariant 9).
#[derive(Clone)]
pub struct KafkaSecurity {
    /// `SSL` and `SASL_SSL`.
    pub tls: Option<KafkaTls>,
    /// `SASL_PLAINTEXT` and `SASL_SSL`.
    pub login: Option<KafkaLogin>,
}

#[derive(Clone)]
pub struct KafkaTls {
    /// Certificates in PEM; `None`: those of the system.
    pub authorities: Option<String>,
    /// The client's own certificates and private key in PEM.
    pub identity: Option<(String, String)>,
    /// Of the private key.
    pub key_password: Option<String>,
}

#[derive(Clone)]
pub enum KafkaLogin {
    Plain(UserPassword),
    Scram256(UserPassword),
    Scram512(UserPassword),
    OauthBearer(OauthBearer),
}

#[derive(Clone)]
pub struct UserPassword {
    pub user: String,
    pub password: String,
}

/// Client credentials for tokens of an OpenID provider.
#[derive(Clone)]
pub struct OauthBearer {
    pub endpoint: String,
    pub id: String,
    pub secret: String,
    pub scope: Option<String>,
    /// For one answer of the endpoint.
    pub timeout: Duration,
    /// As [`KafkaTls::authorities`], for the endpoint.
    pub authorities: Option<String>,
}

impl KafkaSecurity {
    /// Everything that is wrong, as far as it can be said without reading a file.
    pub fn issues(options: &Options) -> Vec<Issue> {
        let given = Given(options);
        let mut issues: Vec<Issue> = Vec::new();
        match given.protocol() {
            Err(issue) => issues.push(*issue),
            Ok((_, true)) => issues.extend(given.login().err().map(|issue| *issue)),
            Ok(_) => {}
        }
        if given.has(TRUST_FILE) && given.has(TRUST_TEXT) {
            issues.push(wrong(TRUST_FILE, format!("stands beside {TRUST_TEXT}: give one of them")));
        }
        if given.has(KEY_FILE) && (given.has(KEY_TEXT) || given.has(CHAIN_TEXT)) {
            issues.push(wrong(KEY_FILE, format!("stands beside {KEY_TEXT} or {CHAIN_TEXT}: give one of them")));
        } else if given.has(KEY_TEXT) != given.has(CHAIN_TEXT) {
            issues.push(wrong(KEY_TEXT, format!("goes with {CHAIN_TEXT}: give both")));
        }
        issues
    }

    /// Reads the files that are named; blocks the thread for it.
    ///
    /// # Errors
    /// `kafka.config` (fatal), beginning with the option's name; never its value when that is a secret.
    pub fn read(options: &Options) -> Result<Self> {
        match Self::issues(options).into_iter().next() {
            Some(issue) => Err(error(issue)),
            None => Self::read_sound(&Given(options)).map_err(|issue| error(*issue)),
        }
    }

    fn read_sound(given: &Given<'_>) -> Found<Self> {
        let (tls, sasl) = given.protocol()?;
        let mut login = if sasl { Some(given.login()?) } else { None };
        // Tokens come over TLS, whatever the brokers speak.
        let authorities = if tls || matches!(login, Some(KafkaLogin::OauthBearer(_))) { given.authorities()? } else { None };
        if let Some(KafkaLogin::OauthBearer(bearer)) = &mut login {
            bearer.authorities.clone_from(&authorities);
        }
        let tls = match tls {
            true => Some(KafkaTls {
                authorities,
                identity: given.identity()?,
                key_password: given.text("ssl.key.password").map(str::to_owned),
            }),
            false => None,
        };
        Ok(Self { tls, login })
    }
}

const TRUST_FILE: &str = "ssl.truststore.location";
const TRUST_TEXT: &str = "ssl.truststore.certificates";
const KEY_FILE: &str = "ssl.keystore.location";
const KEY_TEXT: &str = "ssl.keystore.key";
const CHAIN_TEXT: &str = "ssl.keystore.certificate.chain";
const JAAS: &str = "sasl.jaas.config";
/// Of an answer of the token endpoint, as in Kafka's clients.
const LOGIN_TIMEOUT_MS: u64 = 10_000;
const LOGIN_TIMEOUT_MAX_MS: u64 = 600_000;

type Found<T> = std::result::Result<T, Box<Issue>>;

struct Given<'a>(&'a Options);

impl Given<'_> {
    /// Not empty.
    fn text(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(|value| value.trim()).filter(|value| !value.is_empty())
    }

    fn has(&self, name: &str) -> bool {
        self.text(name).is_some()
    }

    /// Whether with TLS, and whether with SASL.
    fn protocol(&self) -> Found<(bool, bool)> {
        let text = self.text("security.protocol").unwrap_or("PLAINTEXT");
        Ok(match text.to_ascii_uppercase().as_str() {
            "PLAINTEXT" => (false, false),
            "SSL" => (true, false),
            "SASL_PLAINTEXT" => (false, true),
            "SASL_SSL" => (true, true),
            _ => {
                let message = format!("{text:?} is none of PLAINTEXT, SSL, SASL_PLAINTEXT, SASL_SSL");
                return Err(Box::new(wrong("security.protocol", message).fix("use the protocol of the brokers' listener")));
            }
        })
    }

    fn login(&self) -> Found<KafkaLogin> {
        const MECHANISMS: &str = "PLAIN, SCRAM-SHA-256, SCRAM-SHA-512, OAUTHBEARER";
        let refuse = |message: String| Box::new(wrong("sasl.mechanism", message).fix(format!("one of {MECHANISMS}")));
        let mechanism = self.text("sasl.mechanism").ok_or_else(|| refuse("is not set".to_owned()))?;
        let jaas = self.text(JAAS).map(jaas).transpose()?;
        let (module, login): (_, fn(UserPassword) -> KafkaLogin) = match mechanism.to_ascii_uppercase().as_str() {
            "PLAIN" => (jaas::PLAIN, KafkaLogin::Plain),
            "SCRAM-SHA-256" => (jaas::SCRAM, KafkaLogin::Scram256),
            "SCRAM-SHA-512" => (jaas::SCRAM, KafkaLogin::Scram512),
            "OAUTHBEARER" => return Ok(KafkaLogin::OauthBearer(self.oauth(jaas)?)),
            _ => return Err(refuse(format!("{mechanism:?} is none of {MECHANISMS}"))),
        };
        let refuse = |message: String| Box::new(wrong(JAAS, message).fix(jaas::example(module)));
        let mut jaas = jaas.ok_or_else(|| refuse("is not set".to_owned()))?;
        if jaas.module != module {
            return Err(refuse(format!("{mechanism} goes with {module}")));
        }
        let mut need = |key: &str| jaas.options.remove(key).ok_or_else(|| refuse(format!("has no {key}")));
        Ok(login(UserPassword { user: need("username")?, password: need("password")? }))
    }

    fn oauth(&self, jaas: Option<Jaas>) -> Found<OauthBearer> {
        let jaas = match jaas {
            Some(jaas) if jaas.module != jaas::OAUTH => {
                return Err(Box::new(
                    wrong(JAAS, format!("OAUTHBEARER goes with {}", jaas::OAUTH)).fix(jaas::example(jaas::OAUTH)),
                ));
            }
            jaas => jaas.map(|jaas| jaas.options).unwrap_or_default(),
        };
        let given = |option: &str, in_jaas: &str| self.text(option).map(str::to_owned).or_else(|| jaas.get(in_jaas).cloned());
        let need = |option: &str, in_jaas: &str, what: &str| {
            given(option, in_jaas).ok_or_else(|| Box::new(wrong(option, "is not set").fix(what)))
        };
        Ok(OauthBearer {
            endpoint: need("sasl.oauthbearer.token.endpoint.url", "", "give the URL where tokens come from")?,
            id: need("sasl.oauthbearer.client.credentials.client.id", "clientId", "give the id that the provider knows")?,
            secret: need("sasl.oauthbearer.client.credentials.client.secret", "clientSecret", "give the secret of that id")?,
            scope: given("sasl.oauthbearer.scope", "scope"),
            timeout: self.login_timeout()?,
            authorities: None,
        })
    }

    fn login_timeout(&self) -> Found<Duration> {
        let name = "sasl.login.read.timeout.ms";
        let Some(text) = self.text(name) else { return Ok(Duration::from_millis(LOGIN_TIMEOUT_MS)) };
        let millis = text.parse().ok().filter(|millis| (1..=LOGIN_TIMEOUT_MAX_MS).contains(millis));
        let millis = millis.ok_or_else(|| wrong(name, format!("{text:?} is not a number from 1 to {LOGIN_TIMEOUT_MAX_MS}")))?;
        Ok(Duration::from_millis(millis))
    }

    fn authorities(&self) -> Found<Option<String>> {
        match (self.text(TRUST_TEXT), self.text(TRUST_FILE)) {
            (Some(text), _) => Ok(Some(text.to_owned())),
            (None, Some(path)) => pem::read(TRUST_FILE, path).map(Some),
            (None, None) => Ok(None),
        }
    }

    fn identity(&self) -> Found<Option<(String, String)>> {
        match (self.text(CHAIN_TEXT), self.text(KEY_TEXT), self.text(KEY_FILE)) {
            (Some(chain), Some(key), _) => Ok(Some((chain.to_owned(), key.to_owned()))),
            (_, _, Some(path)) => {
                let (certificates, keys) = pem::split(&pem::read(KEY_FILE, path)?);
                if certificates.is_empty() || keys.is_empty() {
                    let message = format!("{path} has not both a private key and a certificate in PEM");
                    return Err(Box::new(wrong(KEY_FILE, message)));
                }
                Ok(Some((certificates, keys)))
            }
            _ => Ok(None),
        }
    }
}

/// Never shows a value that may be a secret.
fn wrong(option: &str, message: impl Into<String>) -> Issue {
    Issue::error(option, "kafka.config", message)
}

fn error(issue: Issue) -> Error {
    let error = Error::fatal("kafka.config", format!("{}: {}", issue.path, issue.message));
    match issue.fix {
        Some(fix) => error.fix(fix),
        None => error,
    }
}

#[cfg(test)]
mod tests;

//! TLS and SASL for `krafka`'s connections.

use super::parse::wrong;
use aqueduct_config::kafka_security::{KafkaLogin, KafkaSecurity, KafkaTls, OauthBearer};
use aqueduct_core::{Options, Result};
use krafka::auth::{AuthConfig, ClientCredentials, OidcTokenProvider, TlsConfig};

pub(super) fn parse(options: &Options) -> Result<AuthConfig> {
    let KafkaSecurity { tls, login } = KafkaSecurity::read(options)?;
    let tls = tls.map(self::tls);
    let Some(login) = login else { return Ok(tls.map_or_else(AuthConfig::plaintext, AuthConfig::ssl)) };
    let auth = match login {
        KafkaLogin::Plain(login) => AuthConfig::sasl_plain(login.user, login.password),
        KafkaLogin::Scram256(login) => AuthConfig::sasl_scram_sha256(login.user, login.password),
        KafkaLogin::Scram512(login) => AuthConfig::sasl_scram_sha512(login.user, login.password),
        KafkaLogin::OauthBearer(bearer) => oauth(bearer)?,
    };
    Ok(match tls {
        Some(tls) => auth.with_tls(tls),
        None => auth,
    })
}

fn tls(from: KafkaTls) -> TlsConfig {
    let tls = match from.authorities {
        Some(certificates) => TlsConfig::new().with_ca_cert_pem(certificates),
        None => TlsConfig::new().with_native_roots(),
    };
    let Some((certificates, key)) = from.identity else { return tls };
    let tls = tls.with_client_cert_pem(certificates, key.into_bytes());
    match from.key_password {
        Some(password) => tls.with_client_key_password(password),
        None => tls,
    }
}

fn oauth(bearer: OauthBearer) -> Result<AuthConfig> {
    let mut provider = OidcTokenProvider::builder(bearer.endpoint)
        .credentials(ClientCredentials::secret(bearer.id, bearer.secret))
        .request_timeout(bearer.timeout);
    if let Some(scope) = bearer.scope {
        provider = provider.scope(scope);
    }
    provider = match bearer.authorities {
        Some(certificates) => provider.ca_cert_pem(certificates),
        None => provider.native_roots(),
    };
    let provider = provider.build().map_err(|error| wrong("sasl.oauthbearer.token.endpoint.url", error))?;
    Ok(AuthConfig::sasl_oauthbearer_provider(provider))
}

#[cfg(test)]
mod tests {
    use super::super::{ClientConfig, ClientKind};
    use aqueduct_core::Options;

    fn options(pairs: &[(&str, &str)]) -> Options {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    fn error(pairs: &[(&str, &str)]) -> aqueduct_core::Error {
        ClientConfig::parse(ClientKind::Producer, "c", &options(pairs)).err().unwrap()
    }

    #[test]
    fn every_protocol_is_mapped() {
        let jaas = "org.apache.kafka.common.security.plain.PlainLoginModule required username=\"a\" password=\"b\";";
        for protocol in ["SASL_PLAINTEXT", "SASL_SSL"] {
            let given = options(&[("security.protocol", protocol), ("sasl.mechanism", "PLAIN"), ("sasl.jaas.config", jaas)]);
            let config = ClientConfig::parse(ClientKind::Admin, "c", &given).unwrap();
            assert_eq!((config.security.requires_sasl(), config.security.requires_tls()), (true, protocol == "SASL_SSL"));
        }
        let oauth = options(&[
            ("security.protocol", "SASL_SSL"),
            ("sasl.mechanism", "OAUTHBEARER"),
            ("sasl.oauthbearer.token.endpoint.url", "https://idp.example/token"),
            ("sasl.oauthbearer.client.credentials.client.id", "me"),
            ("sasl.oauthbearer.client.credentials.client.secret", "s"),
        ]);
        assert!(ClientConfig::parse(ClientKind::Consumer, "c", &oauth).unwrap().security.requires_sasl());
        assert!(error(&[("security.protocol", "SASL_PLAINTEXT")]).message().starts_with("sasl.mechanism: "));
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

//! TLS and SASL for krafka's connections.

use crate::client::ClientOptions;
use aqueduct_config::kafka_security::{KafkaLogin, KafkaSecurity, KafkaTls, OauthBearer};
use aqueduct_core::{Error, Result, blocking};
use krafka::auth::{AuthConfig, ClientCredentials, OidcTokenProvider, TlsConfig};

/// # Errors
/// `kafka.config` for a file that cannot be read or is no PEM.
pub(crate) async fn auth(options: &ClientOptions) -> Result<AuthConfig> {
    let (security, permit) = (options.security.clone(), blocking::permit().await);
    #[allow(clippy::disallowed_methods, reason = "reads small files; awaited here")]
    let read = tokio::task::spawn_blocking(move || {
        let _permit = permit;
        KafkaSecurity::read(&security)
    });
    let read = read.await.map_err(|error| Error::retriable("kafka.config", format!("certificates: {error}")))?;
    let KafkaSecurity { tls, login } = read?;
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
    let unfit = |error| Error::fatal("kafka.config", format!("sasl.oauthbearer.token.endpoint.url: {error}"));
    Ok(AuthConfig::sasl_oauthbearer_provider(provider.build().map_err(unfit)?))
}

//! Credentials: put on each request to the first host, and nowhere else.

use super::failure::Failure;
use super::options::{ApiKeyIn, AuthType, ClientAuth, ClientOptions, Settings};
use super::template::ENCODED;
use super::{body, shown};
use aqueduct_config::Secret;
use aqueduct_core::{Error, Issue};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use percent_encoding::utf8_percent_encode;
use reqwest::header::{self, HeaderMap, HeaderName, HeaderValue};
use reqwest::{StatusCode, Url};
use std::time::Duration;
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout_at};

/// Checked. `Debug` shows no secret: `Secret` does not.
#[derive(Clone, Debug)]
pub(crate) enum Credentials {
    None,
    /// Always the same, as `Name: value`.
    Header(HeaderName, Secret),
    Query(String, Secret),
    OAuth2(Box<OAuth2>),
}

/// Client credentials (RFC 6749, 4.4).
#[derive(Clone, Debug)]
pub(crate) struct OAuth2 {
    pub(crate) url: Url,
    id: String,
    secret: Secret,
    scope: Option<String>,
    place: ClientAuth,
    params: Vec<(String, String)>,
    property: String,
    early: Duration,
}

/// The credentials and, for OAuth2, the token of now.
pub(super) struct Auth {
    credentials: Credentials,
    /// Held while a token is fetched: requests that wait for the same one share it.
    token: Mutex<Option<Token>>,
}

struct Token {
    value: HeaderValue,
    until: Instant,
}

/// A token without `expires_in` is used this long.
const TOKEN_LIFE: Duration = Duration::from_secs(3600);
/// An answer of a token endpoint is small.
const TOKEN_BYTES: body::Bounds = body::Bounds { bytes_max: 1 << 20, ratio_max: 100 };

pub(super) fn credentials(options: &ClientOptions, issues: &mut Vec<Issue>) -> Credentials {
    let mut missing = |option: &str| {
        let text = format!("http.auth.type: {} needs it", name_of(options.auth_type));
        issues.push(Issue::error(option, "config.missing", text).fix(format!("add `{option}: …`")));
    };
    let given = |secret: &Option<Secret>| secret.clone().filter(|secret| !secret.expose().is_empty());
    let made = match options.auth_type {
        AuthType::None => Some(Credentials::None),
        AuthType::Basic => match options.user.as_deref().filter(|user| !user.is_empty()) {
            Some(user) => {
                let password = options.password.as_ref().map_or("", Secret::expose);
                Some(Credentials::Header(header::AUTHORIZATION, basic(user, password)))
            }
            None => {
                missing("http.auth.user");
                None
            }
        },
        AuthType::Bearer => match given(&options.token) {
            Some(token) => Some(Credentials::Header(header::AUTHORIZATION, Secret::new(format!("Bearer {}", token.expose())))),
            None => {
                missing("http.auth.token");
                None
            }
        },
        AuthType::Static => match given(&options.authorization) {
            Some(value) => Some(Credentials::Header(header::AUTHORIZATION, value)),
            None => {
                missing("http.headers.authorization");
                None
            }
        },
        AuthType::ApiKey => match given(&options.api_key) {
            Some(key) => api_key(options, key, issues),
            None => {
                missing("http.auth.api.key");
                None
            }
        },
        AuthType::OAuth2 => {
            for (option, there) in [
                ("oauth2.access.token.url", options.token_url.is_some()),
                ("oauth2.client.id", options.client_id.is_some()),
                ("oauth2.client.secret", given(&options.client_secret).is_some()),
            ] {
                if !there {
                    missing(option);
                }
            }
            oauth2(options, issues)
        }
    };
    match made {
        Some(Credentials::Header(_, value)) if HeaderValue::try_from(value.expose()).is_err() => {
            let issue = Issue::error("http.auth.type", "http.header", "the credentials hold a line end or control character");
            issues.push(issue.fix("remove it: secrets from files often end in one"));
            Credentials::None
        }
        Some(made) => made,
        None => Credentials::None,
    }
}

fn name_of(kind: AuthType) -> &'static str {
    match kind {
        AuthType::None => "none",
        AuthType::Basic => "basic",
        AuthType::Bearer => "bearer",
        AuthType::ApiKey => "api-key",
        AuthType::OAuth2 => "oauth2",
        AuthType::Static => "static",
    }
}

pub(super) fn basic(user: &str, password: &str) -> Secret {
    Secret::new(format!("Basic {}", STANDARD.encode(format!("{user}:{password}"))))
}

fn api_key(options: &ClientOptions, key: Secret, issues: &mut Vec<Issue>) -> Option<Credentials> {
    if options.api_key_in == ApiKeyIn::Query {
        return Some(Credentials::Query(options.api_key_name.clone(), key));
    }
    match HeaderName::try_from(options.api_key_name.as_str()) {
        Ok(name) => Some(Credentials::Header(name, key)),
        Err(_) => {
            let issue = Issue::error("http.auth.api.key.name", "http.header", "is no name of a header");
            issues.push(issue.fix("use letters, digits and dashes, or http.auth.api.key.in: query"));
            None
        }
    }
}

fn oauth2(options: &ClientOptions, issues: &mut Vec<Issue>) -> Option<Credentials> {
    let url = Url::parse(options.token_url.as_deref()?.trim());
    let Some(url) = url.ok().filter(|url| matches!(url.scheme(), "http" | "https") && url.username().is_empty()) else {
        let issue = Issue::error("oauth2.access.token.url", "http.url", "is no URL of http or https without a user in it");
        issues.push(issue.fix("use https://host/path; the client goes into oauth2.client.id and oauth2.client.secret"));
        return None;
    };
    Some(Credentials::OAuth2(Box::new(OAuth2 {
        url,
        // Without them there is an issue already; the URL is judged all the same.
        id: options.client_id.clone().unwrap_or_default(),
        secret: options.client_secret.clone().unwrap_or_default(),
        scope: options.scope.clone().filter(|scope| !scope.trim().is_empty()),
        place: options.client_auth,
        params: options.token_params.iter().map(|(name, value)| (name.clone(), value.clone())).collect(),
        property: options.token_property.clone(),
        early: options.token_early.duration(),
    })))
}

impl Credentials {
    /// The parameter that must not be kept with a URL that an answer names.
    pub(crate) fn secret_param(&self) -> Option<&str> {
        match self {
            Credentials::Query(name, _) => Some(name),
            _ => None,
        }
    }

    /// What stands there.
    pub(super) fn secret_value(&self) -> Option<&str> {
        match self {
            Credentials::Query(_, key) => Some(key.expose()),
            _ => None,
        }
    }
}

impl Auth {
    pub(super) fn new(credentials: &Credentials) -> Self {
        Self { credentials: credentials.clone(), token: Mutex::new(None) }
    }

    /// Puts the credentials on a request.
    pub(super) async fn sign(
        &self,
        http: &reqwest::Client,
        settings: &Settings,
        url: &mut Url,
        headers: &mut HeaderMap,
        deadline: Instant,
    ) -> Result<(), Failure> {
        match &self.credentials {
            Credentials::None => {}
            Credentials::Header(name, value) => {
                headers.insert(name.clone(), sensitive(value.expose())?);
            }
            Credentials::Query(name, key) => {
                url.query_pairs_mut().append_pair(name, key.expose());
            }
            Credentials::OAuth2(client) => {
                headers.insert(header::AUTHORIZATION, self.token(http, settings, client, deadline).await?);
            }
        }
        Ok(())
    }

    /// Whether a refused request may be sent again with other credentials.
    pub(super) fn may_renew(&self) -> bool {
        matches!(self.credentials, Credentials::OAuth2(_))
    }

    /// Forgets the token that was refused; whether there can be another.
    pub(super) async fn forget(&self) -> bool {
        self.may_renew() && self.token.lock().await.take().is_some()
    }

    async fn token(
        &self,
        http: &reqwest::Client,
        settings: &Settings,
        client: &OAuth2,
        deadline: Instant,
    ) -> Result<HeaderValue, Failure> {
        let mut token = self.token.lock().await;
        if let Some(token) = token.as_ref().filter(|token| token.until > Instant::now()) {
            return Ok(token.value.clone());
        }
        let fetched = timeout_at(deadline, fetch(http, settings, client)).await;
        let fetched = fetched.unwrap_or_else(|_| Err(Failure::timeout(&client.url, settings.request_timeout)))?;
        let value = fetched.value.clone();
        *token = Some(fetched);
        Ok(value)
    }
}

fn sensitive(text: &str) -> Result<HeaderValue, Failure> {
    let mut value = HeaderValue::try_from(text)
        .map_err(|_| Failure::fatal("http.unauthorized", "a credential is no text for a header", "correct http.auth.*"))?;
    value.set_sensitive(true);
    Ok(value)
}

async fn fetch(http: &reqwest::Client, settings: &Settings, client: &OAuth2) -> Result<Token, Failure> {
    settings.guard.check_url(&client.url).map_err(|denied| denied.into_failure())?;
    let mut fields = vec![("grant_type", "client_credentials")];
    if let Some(scope) = &client.scope {
        fields.push(("scope", scope));
    }
    if client.place == ClientAuth::Body {
        fields.extend([("client_id", client.id.as_str()), ("client_secret", client.secret.expose())]);
    }
    fields.extend(client.params.iter().map(|(name, value)| (name.as_str(), value.as_str())));
    let encode = |text: &str| utf8_percent_encode(text, ENCODED).to_string();
    let form: Vec<String> = fields.iter().map(|(name, value)| format!("{}={}", encode(name), encode(value))).collect();
    let mut request = http
        .post(client.url.clone())
        .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded")
        .header(header::ACCEPT, "application/json")
        .body(form.join("&"));
    if client.place == ClientAuth::Header {
        // RFC 6749, 2.3.1: both are form-encoded first.
        request = request
            .header(header::AUTHORIZATION, sensitive(basic(&encode(&client.id), &encode(client.secret.expose())).expose())?);
    }
    let mut response = request.send().await.map_err(|error| Failure::of_transport(error, &client.url))?;
    let (status, headers) = (response.status(), std::mem::take(response.headers_mut()));
    let bytes = body::read(response, &headers, TOKEN_BYTES, &client.url).await?;
    token_of(status, &bytes, client, settings)
}

/// Never shows the answer: it may hold a token.
fn token_of(status: StatusCode, bytes: &[u8], client: &OAuth2, settings: &Settings) -> Result<Token, Failure> {
    let place = shown(&client.url);
    let answer: serde_json::Value = serde_json::from_slice(bytes).unwrap_or_default();
    if !status.is_success() {
        let why = answer["error"].as_str().filter(|why| why.len() < 100 && why.is_ascii()).unwrap_or_default();
        let text = format!("no token from {place}: {} {why}", status.as_u16());
        // The failed request is not the one to the API: its status must not count as the API's.
        return Err(if settings.retry.codes.contain(status) {
            Failure::retriable("http.token", text)
        } else {
            Error::fatal("http.token", text).fix("correct oauth2.client.id, oauth2.client.secret and oauth2.client.scope").into()
        });
    }
    let token = answer[client.property.as_str()].as_str().filter(|token| !token.is_empty());
    let token = token.ok_or_else(|| {
        let text = format!("the answer of {place} has no {:?}", client.property);
        Failure::fatal("http.token", text, "correct oauth2.access.token.url or oauth2.response.token.property")
    })?;
    // Some send the number as text.
    let life = answer["expires_in"].as_f64().or_else(|| answer["expires_in"].as_str()?.parse().ok());
    let life = life.filter(|life| *life >= 0.0).map_or(TOKEN_LIFE, |life| Duration::from_secs_f64(life.min(1e9)));
    // A token that lives shorter than the margin is used for half its life.
    let early = client.early.min(life / 2);
    Ok(Token { value: sensitive(&format!("Bearer {token}"))?, until: Instant::now() + (life - early) })
}

//! The request for a page: the same place gives the same request, whenever it is made.

use super::config::{Settings, TOKEN};
use super::paging::{Mode, Next, Token};
use super::place::Place;
use super::record::plain_text;
use crate::client::{Credentials, ENCODED, Refused, Request, Template, Value};
use aqueduct_core::{Error, Result};
use bytes::Bytes;
use reqwest::header::{self, HeaderMap, HeaderValue};
use reqwest::{Method, Url};

/// # Errors
/// `http.template` (fatal): a name without a value, or a value that cannot stand at its place.
pub(super) fn build(settings: &Settings, place: &Place) -> Result<Request> {
    let template = &settings.request;
    let token = place.token.clone().or_else(|| settings.paging.first());
    let lookup = |name: &str| -> Option<Value<'static>> {
        match name.strip_prefix("offset.") {
            None if name == TOKEN => token.as_ref().map(|token| Value::from(token.to_string())),
            None => None,
            Some(name) => offset(settings, place, name).map(Value::from),
        }
    };
    let refused = |option: &str, why: Refused| {
        Error::fatal("http.template", format!("{option}: {why}"))
            .fix("give a first value by http.offset.initial, or a default as ${offset.name!0}")
    };
    let url = match &token {
        // The API made it: nothing is added.
        Some(Token::Url(url)) => url.clone(),
        _ => {
            let text = template.url.render(lookup).map_err(|why| refused("http.request.url", why))?;
            let mut url = Url::parse(&text)
                .map_err(|error| Error::fatal("http.url", format!("http.request.url is no URL: {error}")).fix("correct it"))?;
            let mut pairs = Vec::new();
            for (name, value) in &template.params {
                // As it is encoded already: `render` did it.
                pairs.push(format!(
                    "{}={}",
                    encode(name),
                    value.render(lookup).map_err(|why| refused("http.request.params", why))?
                ));
            }
            pairs.extend(page_params(settings, token.as_ref()));
            add_query(&mut url, &pairs);
            url
        }
    };
    let mut headers = HeaderMap::new();
    for (name, value) in &settings.client.headers {
        let text = value.render(lookup).map_err(|why| refused("http.request.headers", why))?;
        let value = HeaderValue::try_from(text)
            .map_err(|_| Error::fatal("http.template", format!("the value of {name} is no header")))?;
        headers.append(name.clone(), value);
    }
    if template.method == Method::GET {
        conditions(&mut headers, place);
    }
    let body = match &template.body {
        Some(body) => Bytes::from(body.render_bytes(lookup).map_err(|why| refused("http.request.body", why))?),
        None => Bytes::new(),
    };
    if !body.is_empty() && body.starts_with(b"{") {
        headers.entry(header::CONTENT_TYPE).or_insert(HeaderValue::from_static("application/json"));
    }
    Ok(Request { method: template.method.clone(), url, headers, body })
}

fn encode(text: &str) -> String {
    percent_encoding::utf8_percent_encode(text, ENCODED).to_string()
}

/// Behind a query that may be there.
fn add_query(url: &mut Url, pairs: &[String]) {
    if !pairs.is_empty() {
        let before = url.query().filter(|query| !query.is_empty()).map(str::to_owned);
        let all: Vec<String> = before.into_iter().chain(pairs.iter().cloned()).collect();
        url.set_query(Some(&all.join("&")));
    }
}

fn page_params(settings: &Settings, token: Option<&Token>) -> Vec<String> {
    let param = match &settings.paging.mode {
        Mode::Page { param, .. } | Mode::Offset { param, .. } | Mode::Cursor { param, .. } if !settings.request.places_token => {
            Some(param)
        }
        _ => None,
    };
    let page = param.zip(token).map(|(param, token)| format!("{}={}", encode(param), encode(&token.to_string())));
    let size = settings.paging.size_param.as_ref().map(|(param, size)| format!("{}={size}", encode(param)));
    page.into_iter().chain(size).collect()
}

/// Only where all of the page was handed over: its tag is stored no earlier.
fn conditions(headers: &mut HeaderMap, place: &Place) {
    for (name, value) in [(header::IF_NONE_MATCH, &place.etag), (header::IF_MODIFIED_SINCE, &place.modified)] {
        if let Some(value) = value.as_deref().and_then(|value| HeaderValue::try_from(value).ok()) {
            headers.entry(name).or_insert(value);
        }
    }
}

/// `key`, or, as FreeMarker has it in castorm's templates, `timestamp?datetime.iso?long`: in milliseconds.
fn offset(settings: &Settings, place: &Place, name: &str) -> Option<String> {
    let (name, builtins) = name.split_once('?').unwrap_or((name, ""));
    let value = place.base.get(name)?;
    match builtins {
        "" => plain_text(value),
        builtins if builtins.ends_with("long") => settings.zone.millis(value).map(|millis| millis.to_string()),
        _ => None,
    }
}

/// The name of the offset's partition: the URL without its query, where secrets may stand.
pub(super) fn endpoint(url: &Template) -> String {
    url.source().split(['?', '#']).next().unwrap_or_default().to_owned()
}

/// An API that is called with its key in a parameter may name it in the link to the next page; it is added again when that is asked for.
pub(super) fn without_secret(next: Next, auth: &Credentials) -> Next {
    let strip = |token: Token| match (token, auth.secret_param()) {
        (Token::Url(mut url), Some(secret)) if url.query_pairs().any(|(name, _)| name == secret) => {
            let kept: Vec<(String, String)> = url
                .query_pairs()
                .filter(|(name, _)| name != secret)
                .map(|(name, value)| (name.into_owned(), value.into_owned()))
                .collect();
            url.query_pairs_mut().clear().extend_pairs(kept);
            Token::Url(url)
        }
        (token, _) => token,
    };
    match next {
        Next::Page(token) => Next::Page(strip(token)),
        Next::Later(token) => Next::Later(strip(token)),
        Next::End(token) => Next::End(token.map(strip)),
    }
}

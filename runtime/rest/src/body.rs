//! JSON in: clear errors instead of Java's, and config values exactly as they were sent.

use crate::{ApiError, BODY_MAX_BYTES};
use aqueduct_worker::ConfigMap;
use axum::extract::{FromRequest, FromRequestParts, Path, Query, Request};
use axum::http::header::CONTENT_TYPE;
use axum::http::request::Parts;
use futures_util::StreamExt;
use indexmap::IndexMap;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;

/// Of a body that is refused: read and forgotten.
const DRAIN_MAX_BYTES: usize = 16 << 20;

/// A JSON body. Another content type is 415, and so is a body without one.
pub(crate) struct Body<T>(pub(crate) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Body<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, _: &S) -> Result<Self, ApiError> {
        let unsupported = |what: &str| {
            ApiError::new(415, format!("HTTP 415 Unsupported Media Type: {what}; send Content-Type: application/json"))
        };
        let kind = request.headers().get(CONTENT_TYPE).map(|kind| String::from_utf8_lossy(kind.as_bytes()).into_owned());
        if let Some(kind) = kind.as_deref().filter(|kind| !is_json(kind)) {
            return Err(unsupported(&format!("`{kind}`")));
        }
        let bytes = take(request.into_body(), BODY_MAX_BYTES).await?;
        if kind.is_none() && !bytes.is_empty() {
            return Err(unsupported("the body has no type"));
        }
        parse(&bytes).map(Body)
    }
}

/// A body of at most `max` bytes. Of a longer one the rest is read too, within a bound: who still sends when the connection ends does not see
/// the answer.
async fn take(body: axum::body::Body, max: usize) -> Result<Vec<u8>, ApiError> {
    let (mut bytes, mut length) = (Vec::new(), 0);
    let mut stream = body.into_data_stream();
    while let Some(chunk) = stream.next().await {
        let chunk = chunk.map_err(|error| ApiError::bad_request(format!("the body ends early: {error}")))?;
        length += chunk.len();
        if length <= max {
            bytes.extend_from_slice(&chunk);
        } else if length > DRAIN_MAX_BYTES {
            break;
        }
    }
    if length > max {
        return Err(ApiError::new(413, format!("the body is larger than {max} bytes")));
    }
    Ok(bytes)
}

pub(crate) fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, ApiError> {
    if bytes.iter().all(u8::is_ascii_whitespace) {
        return Err(ApiError::bad_request("the body is empty; JSON is expected"));
    }
    serde_json::from_slice(bytes).map_err(|error| ApiError::bad_request(format!("the body is not what is expected: {error}")))
}

fn is_json(kind: &str) -> bool {
    let kind = kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    kind == "application/json"
        || (kind.starts_with("application/") && kind.ends_with("+json"))
        || kind == "*/*"
        || kind == "application/*"
}

/// The path's variables, percent-decoded. Text that is not UTF-8 is 400; a task that is not a number is 404, as nothing is there.
pub(crate) struct Names<T>(pub(crate) T);

impl<S: Send + Sync, T: DeserializeOwned + Send> FromRequestParts<S> for Names<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        match Path::<T>::from_request_parts(parts, state).await {
            Ok(Path(names)) => Ok(Names(names)),
            Err(rejection) if rejection.body_text().contains("UTF-8") => Err(ApiError::bad_request(rejection.body_text())),
            Err(_) => Err(ApiError::not_found(format!("HTTP 404 Not Found: no resource at {}", parts.uri.path()))),
        }
    }
}

/// The query, repeated keys included. Like Kafka Connect, it ignores what it does not know.
#[derive(Debug, Default)]
pub(crate) struct Params(pub(crate) Vec<(String, String)>);

impl<S: Send + Sync> FromRequestParts<S> for Params {
    type Rejection = std::convert::Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Self::Rejection> {
        Ok(Params(Query::try_from_uri(&parts.uri).map(|Query(pairs)| pairs).unwrap_or_default()))
    }
}

impl Params {
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().rev().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    pub(crate) fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// As Java's `Boolean.valueOf`: what is not `true` is false.
    pub(crate) fn flag(&self, name: &str, default: bool) -> bool {
        self.get(name).map_or(default, |value| value.eq_ignore_ascii_case("true"))
    }

    /// # Errors
    /// 400 when it is not a number.
    pub(crate) fn number<T: std::str::FromStr>(&self, name: &str) -> Result<Option<T>, ApiError> {
        let parse =
            |text: &str| text.parse().map_err(|_| ApiError::bad_request(format!("`{name}={text}` is not a number in range")));
        self.get(name).map(parse).transpose()
    }

    /// A number that has a bound of ours: what is more counts as the bound, up to 2^63-1 (the document's int64).
    ///
    /// # Errors
    /// 400 when it is not a number.
    pub(crate) fn up_to(&self, name: &str, max: u64) -> Result<Option<u64>, ApiError> {
        let parse = |text: &str| {
            let digits = text.bytes().all(|digit| digit.is_ascii_digit());
            let number = text.parse::<u64>().ok().filter(|number| digits && i64::try_from(*number).is_ok());
            let bad = || ApiError::bad_request(format!("`{name}={text}` is not a number from 0 to {}", i64::MAX));
            number.map(|number| number.min(max)).ok_or_else(bad)
        };
        self.get(name).map(parse).transpose()
    }
}

/// A config as a client sends it: a flat object whose values are texts, numbers, booleans or null.
pub(crate) type RawConfig = IndexMap<String, Option<Box<RawValue>>>;

/// A number or a boolean becomes the text that was sent.
pub(crate) fn text(key: &str, value: &RawValue) -> Result<String, ApiError> {
    match value.get().as_bytes().first() {
        Some(b'"') => serde_json::from_str(value.get())
            .map_err(|error| ApiError::bad_request(format!("the value of `{key}` is not a text: {error}"))),
        Some(b'{' | b'[') => {
            let message =
                format!("the value of `{key}` is nested; a config is flat over REST: use dotted keys and texts such as \"a,b\"");
            Err(ApiError::bad_request(message))
        }
        _ => Ok(value.get().to_owned()),
    }
}

/// The texts of a config; null stays `None`.
pub(crate) fn texts(raw: RawConfig) -> Result<IndexMap<String, Option<String>>, ApiError> {
    let mut texts = IndexMap::with_capacity(raw.len());
    for (key, value) in raw {
        let value = value.map(|value| text(&key, &value)).transpose()?;
        texts.insert(key, value);
    }
    Ok(texts)
}

/// A config to look at: what is null is absent.
pub(crate) fn config(raw: RawConfig) -> Result<ConfigMap, ApiError> {
    Ok(texts(raw)?.into_iter().filter_map(|(key, value)| Some((key, value?))).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn config_values_keep_the_text_that_was_sent() {
        let raw =
            parse(br#"{"a":"x\u00e9","tasks.max":1.10,"big":123456789012345678901234567890,"e":1e3,"t":true,"n":null}"#).unwrap();
        let config: Vec<(String, String)> = config(raw).unwrap().into_iter().collect();
        let expected =
            [("a", "xé"), ("tasks.max", "1.10"), ("big", "123456789012345678901234567890"), ("e", "1e3"), ("t", "true")];
        assert_eq!(config, expected.map(|(key, value)| (key.to_owned(), value.to_owned())));
    }

    #[test]
    fn a_config_that_is_no_flat_object_is_a_clear_400() {
        for (body, says) in [
            (&b""[..], "empty"),
            (b"[]", "expected a map"),
            (b"{", "EOF"),
            (br#"{"a":1,}"#, "trailing comma"),
            (b"null", "expected a map"),
        ] {
            let error = parse::<RawConfig>(body).unwrap_err();
            assert_eq!(error.error_code, 400);
            assert!(error.message.contains(says), "{}", error.message);
        }
        let error = config(parse(br#"{"transforms":["a"]}"#).unwrap()).unwrap_err();
        assert!(error.message.contains("`transforms` is nested"), "{}", error.message);
    }

    #[tokio::test]
    async fn bodies_of_other_types_and_sizes_are_refused() {
        let send = async |kind: Option<&str>, body: Vec<u8>| {
            let mut request = Request::builder().uri("/");
            if let Some(kind) = kind {
                request = request.header(CONTENT_TYPE, kind);
            }
            let request = request.body(axum::body::Body::from(body)).unwrap();
            Body::<serde_json::Value>::from_request(request, &()).await.map(|Body(value)| value).map_err(|error| error.error_code)
        };
        assert_eq!(send(None, b"1".to_vec()).await, Err(415));
        assert_eq!(send(Some("application/json"), b"1".to_vec()).await, Ok(1.into()));
        assert_eq!(send(Some("text/plain"), b"1".to_vec()).await, Err(415));
        assert_eq!(send(Some("application/x-www-form-urlencoded"), b"1".to_vec()).await, Err(415));
        assert_eq!(send(None, vec![b'1'; BODY_MAX_BYTES + 1]).await, Err(413));
        assert_eq!(send(None, Vec::new()).await, Err(400));
    }

    #[test]
    fn json_comes_under_several_names() {
        for good in ["application/json", "application/json; charset=utf-8", "Application/JSON", "application/vnd.kafka+json"] {
            assert!(is_json(good), "{good}");
        }
        for bad in ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", ""] {
            assert!(!is_json(bad), "{bad}");
        }
    }

    #[test]
    fn queries_are_read_as_kafka_connect_does() {
        let params = Params(vec![("a".into(), "TRUE".into()), ("b".into(), "yes".into()), ("n".into(), "7".into())]);
        assert!(params.flag("a", false) && !params.flag("b", true) && params.flag("c", true));
        assert_eq!(params.number::<u32>("n").unwrap(), Some(7));
        assert_eq!(params.number::<u32>("b").unwrap_err().error_code, 400);
        let up_to = |text: &str| Params(vec![("n".into(), text.into())]).up_to("n", 100).map_err(|error| error.error_code);
        assert_eq!([up_to("0"), up_to("99"), up_to("101")], [Ok(Some(0)), Ok(Some(99)), Ok(Some(100))]);
        assert_eq!(up_to("9223372036854775807"), Ok(Some(100)));
        assert_eq!([up_to("9223372036854775808"), up_to("-1"), up_to("+1"), up_to(""), up_to("1.5")], [Err(400); 5]);
    }
}

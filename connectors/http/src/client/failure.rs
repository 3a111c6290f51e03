//! What a request's failure means: one table of statuses, and what the transport says.

use super::guard::Denied;
use super::options::Retry;
use super::{Reply, shown};
use aqueduct_core::Error;
use reqwest::header::{self, HeaderMap};
use reqwest::{StatusCode, Url};
use std::error::Error as StdError;
use std::fmt;
use std::ops::RangeInclusive;
use std::time::{Duration, SystemTime};

/// A request that gave nothing to work with.
#[derive(Debug)]
pub(crate) struct Failure {
    /// Where there was an answer.
    pub(crate) status: Option<StatusCode>,
    /// What the server asked for by `Retry-After`; not yet bounded.
    pub(crate) after: Option<Duration>,
    error: Error,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self { status: None, after: None, error }
    }
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        failure.error
    }
}

impl Failure {
    pub(crate) fn is_retriable(&self) -> bool {
        self.error.is_retriable()
    }

    pub(crate) fn error(&self) -> &Error {
        &self.error
    }

    pub(crate) fn into_error(self) -> Error {
        self.error
    }

    pub(crate) fn fatal(code: &'static str, message: impl Into<String>, fix: impl Into<String>) -> Self {
        Error::fatal(code, message).fix(fix).into()
    }

    pub(crate) fn retriable(code: &'static str, message: impl Into<String>) -> Self {
        Error::retriable(code, message).into()
    }

    pub(crate) fn timeout(url: &Url, limit: Duration) -> Self {
        let text = format!("{} has not answered in full after {} ms", shown(url), limit.as_millis());
        Error::retriable("http.timeout", text).fix("raise http.client.request.timeout.millis, or ask for smaller pages").into()
    }

    /// An answer that is no success.
    pub(crate) fn of_status(reply: &Reply, retry: &Retry) -> Self {
        let (status, place) = (reply.status, shown(&reply.url));
        let text = format!("{place} answered {}{}", status.as_u16(), reason(reply));
        let error = if retry.codes.contain(status) {
            Error::retriable("http.status", text)
        } else {
            let (code, fix) = match status.as_u16() {
                401 | 403 | 407 => {
                    ("http.unauthorized", "correct http.auth.*; the credentials are not accepted, or may not do this")
                }
                404 | 410 => ("http.not_found", "correct the URL"),
                405 => ("http.status", "correct the method"),
                413 => ("http.status", "send smaller requests"),
                _ => ("http.status", "see what the server says; http.retry.codes names what is tried again"),
            };
            Error::fatal(code, text).fix(fix)
        };
        Self { status: Some(status), after: retry_after(&reply.headers, SystemTime::now()), error }
    }

    /// No answer, or one that broke off.
    pub(crate) fn of_transport(error: reqwest::Error, url: &Url) -> Self {
        let place = shown(url);
        // The URL in it may hold secrets (invariant 9).
        let error = error.without_url();
        if let Some(denied) = find::<Denied>(&error) {
            return denied.clone().into_failure();
        }
        if let Some(tls) = find::<tokio_rustls::rustls::Error>(&error) {
            return tls_failure(tls, &place);
        }
        let why = root(&error);
        let (code, text) = if error.is_timeout() {
            ("http.timeout", format!("{place} does not answer"))
        } else if error.is_connect() {
            ("http.connect", format!("cannot reach {place}: {why}"))
        } else {
            ("http.broken", format!("the connection to {place} broke: {why}"))
        };
        Self::retriable(code, text)
    }
}

fn tls_failure(error: &tokio_rustls::rustls::Error, place: &str) -> Failure {
    use tokio_rustls::rustls::Error as Tls;
    let text = format!("no TLS with {place}: {error}");
    match error {
        Tls::InvalidCertificate(_) | Tls::NoCertificatesPresented => Failure::fatal(
            "http.tls",
            text,
            "trust its authority by https.ssl.truststore.location, or call it by the name that its certificate has",
        ),
        Tls::AlertReceived(_) => {
            let fix = "the server refuses the connection: it may want a client's certificate (https.ssl.keystore.location)";
            Error::retriable("http.tls", text).fix(fix).into()
        }
        _ => Failure::retriable("http.tls", text),
    }
}

/// Its cause of this type. An I/O error hides its own.
fn find<'a, T: StdError + 'static>(error: &'a (dyn StdError + 'static)) -> Option<&'a T> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref::<T>() {
            return Some(found);
        }
        let inner = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        next = match inner {
            Some(inner) => Some(inner),
            None => error.source(),
        };
    }
    None
}

/// The last cause says the most.
fn root(error: &reqwest::Error) -> String {
    let mut last: &dyn StdError = error;
    while let Some(source) = last.source() {
        last = source;
    }
    last.to_string()
}

/// The beginning of a text body: what the server says. Bounded, without control characters.
fn reason(reply: &Reply) -> String {
    const CHARS_MAX: usize = 200;
    let text = String::from_utf8_lossy(&reply.body[..reply.body.len().min(4 * CHARS_MAX)]);
    let words: Vec<&str> = text.split_whitespace().collect();
    let line: String = words.join(" ").chars().filter(|c| !c.is_control()).take(CHARS_MAX).collect();
    // A page for people says nothing to programs.
    if line.is_empty() || line.starts_with('<') { String::new() } else { format!(": {line}") }
}

/// Seconds, or a date, as a time from now.
pub(crate) fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let text = headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse::<f64>() {
        return (seconds.is_finite() && seconds >= 0.0).then(|| Duration::from_secs_f64(seconds.min(1e9)));
    }
    let date = httpdate::parse_http_date(text).ok()?;
    Some(date.duration_since(now).unwrap_or_default())
}

/// Statuses: `429`, `500..599`, `500-599`, `500-`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Codes(Vec<RangeInclusive<u16>>);

impl Codes {
    /// # Errors
    /// The entry that is none.
    pub(crate) fn parse(entries: &[String]) -> Result<Self, String> {
        let range = |entry: &String| {
            let (from, to) = entry.split_once("..").or_else(|| entry.split_once('-')).unwrap_or((entry, entry));
            let number =
                |text: &str, open: u16| if text.trim().is_empty() { Some(open) } else { text.trim().parse::<u16>().ok() };
            let both =
                number(from, 0).zip(number(to, 599)).filter(|(from, to)| (100..600).contains(from) && from <= to && *to < 600);
            both.map(|(from, to)| from..=to).ok_or_else(|| format!("{entry:?} is no status, nor a range of them"))
        };
        entries.iter().filter(|entry| !entry.trim().is_empty()).map(range).collect::<Result<_, _>>().map(Self)
    }

    pub(crate) fn contain(&self, status: StatusCode) -> bool {
        self.0.iter().any(|range| range.contains(&status.as_u16()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn codes(text: &str) -> Result<Codes, String> {
        Codes::parse(&text.split(',').map(str::to_owned).collect::<Vec<_>>())
    }

    #[test]
    fn ranges_of_statuses() {
        let found = codes("408, 425,429,500..599").unwrap();
        for (status, expected) in [(408, true), (429, true), (500, true), (599, true), (404, false), (400, false)] {
            assert_eq!(found.contain(StatusCode::from_u16(status).unwrap()), expected, "{status}");
        }
        assert!(codes("400-").unwrap().contain(StatusCode::BAD_GATEWAY));
        for bad in ["x", "99", "600", "500..400", "-"] {
            assert!(codes(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn when_to_come_again() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777);
        let at = |text: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::RETRY_AFTER, header::HeaderValue::from_static(text));
            retry_after(&headers, now).map(|d| d.as_secs())
        };
        assert_eq!(at("120"), Some(120));
        assert_eq!(at("Sun, 06 Nov 1994 08:49:47 GMT"), Some(10));
        assert_eq!(at("Sun, 06 Nov 1994 08:00:00 GMT"), Some(0), "a date that is over");
        assert_eq!(at("-5"), None);
        assert_eq!(at("soon"), None);
        assert_eq!(at("99999999999999999999"), Some(1_000_000_000));
    }

    fn reply(status: u16, body: &'static [u8]) -> Reply {
        Reply {
            status: StatusCode::from_u16(status).unwrap(),
            headers: HeaderMap::new(),
            body: bytes::Bytes::from_static(body),
            url: Url::parse("https://u:secret@h/p?token=secret").unwrap(),
        }
    }

    #[test]
    fn statuses() {
        let retry = Retry {
            attempts_max: 1,
            first: Duration::ZERO,
            longest: Duration::ZERO,
            codes: codes("429,500..599").unwrap(),
            after_max: Duration::ZERO,
        };
        for (status, code, retriable) in [
            (429, "http.status", true),
            (503, "http.status", true),
            (401, "http.unauthorized", false),
            (404, "http.not_found", false),
            (400, "http.status", false),
        ] {
            let failure = Failure::of_status(&reply(status, b"no\r\nmore \x1b[31m"), &retry);
            assert_eq!((failure.error().code(), failure.is_retriable()), (code, retriable), "{status}");
            let text = failure.to_string();
            assert!(text.contains("no more [31m") && !text.contains("secret"), "{text}");
        }
    }
}

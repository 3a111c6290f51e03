//! Which page comes next: pure.

use super::config::Properties;
use super::pointer::Pointer;
use crate::client::shown;
use aqueduct_core::{Error, Result};
use reqwest::Url;
use reqwest::header::{self, HeaderMap};
use serde_json::Value;
use std::fmt;

#[derive(Clone, Debug)]
pub(crate) struct Paging {
    pub(crate) mode: Mode,
    /// Whether there are more.
    pub(crate) more: Option<Pointer>,
    /// The records of a full page.
    pub(crate) full: Option<u64>,
    /// The parameter that asks for so many.
    pub(crate) size_param: Option<(String, u64)>,
}

#[derive(Clone, Debug)]
pub(crate) enum Mode {
    None,
    Link,
    Next(Pointer),
    Page { param: String, start: u64 },
    Offset { param: String, start: u64 },
    Cursor { param: String, next: Pointer },
}

/// Where the API is asked again after the last page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Resume {
    Start,
    Last,
}

/// Names one page of a sweep; none names the first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Token {
    Url(Url),
    Number(u64),
    Text(String),
}

/// As it stands in a request.
impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Token::Url(url) => url.fmt(f),
            Token::Number(number) => number.fmt(f),
            Token::Text(text) => f.write_str(text),
        }
    }
}

/// What a page says of the next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    Page(Token),
    /// That one, and nothing stands in this: the end of a feed that always names a next, or a page whose records are all filtered out.
    Later(Token),
    /// This was the last; the records to come will stand in this page, or in the page that is named.
    End(Option<Token>),
}

/// What decides: taken from the answer before its records are.
#[derive(Debug)]
pub(crate) struct Signs<'a> {
    /// How many records the page has.
    pub(crate) records: u64,
    pub(crate) headers: &'a HeaderMap,
    /// Of this page.
    pub(crate) url: &'a Url,
    /// JSON; `None` for formats without pointers.
    pub(crate) text: Option<&'a str>,
}

impl Paging {
    /// The token that stands in the request of the first page.
    pub(crate) fn first(&self) -> Option<Token> {
        match self.mode {
            Mode::Page { start, .. } | Mode::Offset { start, .. } => Some(Token::Number(start)),
            _ => None,
        }
    }

    /// # Errors
    /// `http.next_page` (fatal): it names a page that is no URL, or on another host.
    pub(crate) fn next(&self, current: Option<&Token>, signs: &Signs<'_>) -> Result<Next> {
        let said = self.more(signs)?;
        let number = match current {
            Some(Token::Number(number)) => *number,
            _ => 0,
        };
        let empty = signs.records == 0;
        let short = empty || self.full.is_some_and(|full| signs.records < full);
        let next = match &self.mode {
            Mode::None => return Ok(Next::End(None)),
            Mode::Page { .. } => {
                return Ok(if said.unwrap_or(!short) {
                    Next::Page(Token::Number(number.saturating_add(1)))
                } else {
                    Next::End(None)
                });
            }
            Mode::Offset { .. } => {
                let after = Token::Number(number.saturating_add(signs.records));
                // Without records the offset stays, whatever is said: it would be asked for ever.
                let more = said.unwrap_or(!short) && !empty;
                return Ok(if more { Next::Page(after) } else { Next::End(Some(after)) });
            }
            Mode::Link => link_next(signs.headers).map(|link| self.page_url(&link, signs)).transpose()?,
            Mode::Next(pointer) => text_at(pointer, signs)?.map(|link| self.page_url(&link, signs)).transpose()?,
            Mode::Cursor { next, .. } => text_at(next, signs)?.map(Token::Text),
        };
        Ok(match next {
            // The same page again: an API that names its end so.
            Some(next) if current == Some(&next) => Next::End(None),
            Some(next) if said == Some(false) => Next::End(Some(next)),
            Some(next) if empty && said.is_none() => Next::Later(next),
            Some(next) => Next::Page(next),
            None => Next::End(None),
        })
    }

    fn more(&self, signs: &Signs<'_>) -> Result<Option<bool>> {
        let Some(pointer) = &self.more else { return Ok(None) };
        Ok(raw_at(pointer, signs)?.map(|raw| !matches!(raw, "false" | "null" | "0" | "\"\"" | "\"false\"" | "[]")))
    }

    /// On the same host, or the credentials would go elsewhere.
    fn page_url(&self, link: &str, signs: &Signs<'_>) -> Result<Token> {
        let refuse = |text: String| {
            Error::fatal("http.next_page", text).fix("use another http.page.mode, or correct http.page.next.pointer")
        };
        let mut url = signs.url.join(link).map_err(|_| refuse(format!("the next page after {} is no URL", shown(signs.url))))?;
        // A server behind one that ends TLS does not know that it is called by https.
        if url.scheme() == "http"
            && signs.url.scheme() == "https"
            && url.host_str() == signs.url.host_str()
            && url.port().is_none()
        {
            let _ = url.set_scheme("https");
        }
        let same = url.scheme() == signs.url.scheme()
            && url.host_str() == signs.url.host_str()
            && url.port_or_known_default() == signs.url.port_or_known_default();
        if same {
            Ok(Token::Url(url))
        } else {
            Err(refuse(format!("{} names a next page on another host: {}", shown(signs.url), shown(&url))))
        }
    }
}

fn raw_at<'a>(pointer: &Pointer, signs: &Signs<'a>) -> Result<Option<&'a str>> {
    let Some(text) = signs.text else { return Ok(None) };
    pointer
        .get(text)
        .map_err(|error| Error::retriable("http.body", format!("the answer of {} is no JSON: {error}", shown(signs.url))))
}

/// A text that is not empty, or a number as text.
fn text_at(pointer: &Pointer, signs: &Signs<'_>) -> Result<Option<String>> {
    let raw = raw_at(pointer, signs)?;
    Ok(raw.and_then(|raw| match serde_json::from_str(raw) {
        Ok(Value::String(text)) => Some(text).filter(|text| !text.is_empty()),
        Ok(Value::Number(number)) => Some(number.to_string()),
        _ => None,
    }))
}

/// The target of `rel="next"` (RFC 8288).
fn link_next(headers: &HeaderMap) -> Option<String> {
    headers.get_all(header::LINK).iter().filter_map(|value| value.to_str().ok()).find_map(|value| {
        let mut rest = value;
        loop {
            let (target, after) = rest.split_once('<')?.1.split_once('>')?;
            let end = end_of_params(after);
            if is_next(&after[..end]) {
                return Some(target.trim().to_owned());
            }
            rest = &after[end..];
        }
    })
}

/// Up to the comma that ends the link; commas within quotes do not.
fn end_of_params(text: &str) -> usize {
    let mut quoted = false;
    let comma = text.char_indices().find(|(_, c)| {
        quoted ^= *c == '"';
        *c == ',' && !quoted
    });
    comma.map_or(text.len(), |(at, _)| at)
}

fn is_next(params: &str) -> bool {
    params.split(';').filter_map(|param| param.split_once('=')).any(|(name, value)| {
        name.trim().eq_ignore_ascii_case("rel")
            && value.trim().trim_matches('"').split_ascii_whitespace().any(|rel| rel.eq_ignore_ascii_case("next"))
    })
}

/// How many records at the beginning of a page were handed over in earlier sweeps: up to the one whose properties are the stored offset's, else
/// those that are older than its timestamp.
pub(crate) fn already_seen(page: &[Properties], stored: &Properties, millis: impl Fn(&Value) -> Option<i64>) -> usize {
    if stored.is_empty() {
        return 0;
    }
    if let Some(at) = page.iter().rposition(|properties| properties == stored) {
        return at + 1;
    }
    let time = |properties: &Properties| properties.get("timestamp").and_then(&millis);
    match time(stored) {
        Some(last) => page.iter().take_while(|properties| time(properties).is_some_and(|at| at < last)).count(),
        None => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use reqwest::header::HeaderValue;

    fn paging(mode: Mode, more: Option<&str>, full: Option<u64>) -> Paging {
        Paging { mode, more: more.map(|more| Pointer::parse(more).unwrap()), full, size_param: None }
    }

    fn next(paging: &Paging, current: Option<Token>, records: u64, link: Option<&str>, text: &str) -> Result<Next> {
        let mut headers = HeaderMap::new();
        if let Some(link) = link {
            headers.insert(header::LINK, HeaderValue::try_from(link).unwrap());
        }
        let url = Url::parse("https://api.example.com/v1/items?page=1").unwrap();
        paging.next(current.as_ref(), &Signs { records, headers: &headers, url: &url, text: Some(text) })
    }

    fn url(text: &str) -> Token {
        Token::Url(Url::parse(text).unwrap())
    }

    #[test]
    fn links() {
        let link = paging(Mode::Link, None, None);
        let at = |value: &str| next(&link, None, 1, Some(value), "[]").unwrap();
        let expected = Next::Page(url("https://api.example.com/v1/items?page=2"));
        for value in [
            r#"<https://api.example.com/v1/items?page=2>; rel="next""#,
            r#"<?page=1>; rel="prev first", <?page=2>; title="a, <b>"; rel="last next""#,
            r"</v1/items?page=2>;REL=next",
            "<http://api.example.com/v1/items?page=2>; rel=next",
        ] {
            assert_eq!(at(value), expected, "{value}");
        }
        for value in ["<?page=2>; rel=\"last\"", "nothing", "<unclosed", ""] {
            assert_eq!(at(value), Next::End(None), "{value}");
        }
        for value in
            ["<https://evil.com/>; rel=next", "<http://api.example.com:8080/x>; rel=next", "<ftp://api.example.com/x>; rel=next"]
        {
            assert_eq!(next(&link, None, 1, Some(value), "[]").unwrap_err().code(), "http.next_page", "{value}");
        }
    }

    #[test]
    fn numbers() {
        let page = paging(Mode::Page { param: "page".into(), start: 1 }, None, Some(10));
        assert_eq!(page.first(), Some(Token::Number(1)));
        assert_eq!(next(&page, Some(Token::Number(1)), 10, None, "{}").unwrap(), Next::Page(Token::Number(2)));
        assert_eq!(next(&page, Some(Token::Number(2)), 9, None, "{}").unwrap(), Next::End(None));
        let offset = paging(Mode::Offset { param: "offset".into(), start: 0 }, None, None);
        assert_eq!(next(&offset, Some(Token::Number(20)), 7, None, "{}").unwrap(), Next::Page(Token::Number(27)));
        assert_eq!(next(&offset, Some(Token::Number(27)), 0, None, "{}").unwrap(), Next::End(Some(Token::Number(27))));
        let more = paging(Mode::Page { param: "page".into(), start: 1 }, Some("/more"), None);
        assert_eq!(next(&more, Some(Token::Number(1)), 3, None, r#"{"more":false}"#).unwrap(), Next::End(None));
        assert_eq!(next(&more, Some(Token::Number(1)), 3, None, r#"{"more":true}"#).unwrap(), Next::Page(Token::Number(2)));
    }

    #[test]
    fn cursors() {
        let cursor = paging(Mode::Cursor { param: "cursor".into(), next: Pointer::parse("/c").unwrap() }, None, None);
        let text = |text: &str| Token::Text(text.to_owned());
        assert_eq!(next(&cursor, None, 3, None, r#"{"c":"x"}"#).unwrap(), Next::Page(text("x")));
        assert_eq!(next(&cursor, None, 3, None, r#"{"c":17}"#).unwrap(), Next::Page(text("17")));
        for end in [r#"{"c":null}"#, r#"{"c":""}"#, "{}"] {
            assert_eq!(next(&cursor, None, 3, None, end).unwrap(), Next::End(None), "{end}");
        }
        assert_eq!(next(&cursor, Some(text("x")), 3, None, r#"{"c":"x"}"#).unwrap(), Next::End(None), "the same again");
        assert_eq!(next(&cursor, Some(text("x")), 0, None, r#"{"c":"y"}"#).unwrap(), Next::Later(text("y")), "an empty page");
        let broken = next(&cursor, None, 0, None, "{");
        assert!(broken.unwrap_err().is_retriable());
    }

    #[test]
    fn records_of_earlier_sweeps() {
        let record = |key: u64, at: i64| Properties::from([("key".into(), key.into()), ("timestamp".into(), at.into())]);
        let page: Vec<Properties> = [(1, 10), (2, 20), (3, 20), (4, 30)].map(|(key, at)| record(key, at)).into();
        let seen = |stored: &Properties| already_seen(&page, stored, Value::as_i64);
        assert_eq!(seen(&record(2, 20)), 2);
        assert_eq!(seen(&record(9, 20)), 1, "only what is older");
        assert_eq!(seen(&record(9, 40)), 4);
        assert_eq!(seen(&Properties::new()), 0);
        assert_eq!(seen(&Properties::from([("key".into(), 3.into())])), 0, "other properties are no identity");
    }

    proptest::proptest! {
        #[test]
        fn no_link_is_too_strange(value in "[<>;,=\"a-z /?é]{0,40}") {
            let mut headers = HeaderMap::new();
            if let Ok(value) = HeaderValue::try_from(value) {
                headers.insert(header::LINK, value);
            }
            let _ = link_next(&headers);
        }
    }
}

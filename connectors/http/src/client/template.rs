//! `${name}` in URLs, headers and bodies. What a record holds can end neither a header, a path segment, a parameter nor a JSON string.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use std::borrow::Cow;
use std::fmt;

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Template {
    parts: Vec<Part>,
    place: Place,
    source: String,
}

#[derive(Clone, Debug, PartialEq)]
enum Part {
    Text(String),
    Variable { name: String, default: Option<String>, at: At },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Url,
    Query,
    Header,
    Body,
    Json,
}

/// What may stand at a variable's place, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    Host,
    /// Path segments and parameters.
    Encoded,
    Header,
    Body,
    Json,
}

/// What a name stands for.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Value<'a> {
    /// Escaped as its place needs.
    Text(Cow<'a, str>),
    /// As it is, in a body; elsewhere as text.
    Raw(Cow<'a, [u8]>),
}

impl<'a> From<&'a str> for Value<'a> {
    fn from(text: &'a str) -> Self {
        Value::Text(Cow::Borrowed(text))
    }
}

impl From<String> for Value<'_> {
    fn from(text: String) -> Self {
        Value::Text(Cow::Owned(text))
    }
}

/// Why a template gives nothing. Never shows the value, which may be anybody's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refused(String);

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Unreserved characters of RFC 3986 stay.
pub(crate) const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

impl Template {
    /// `https://host/path?query`; the scheme stands in the template itself.
    pub(crate) fn url(text: &str) -> Result<Self, String> {
        let text = text.trim();
        let lower = text.to_ascii_lowercase();
        let scheme = ["http://", "https://"].into_iter().find(|scheme| lower.starts_with(scheme));
        let scheme = scheme.ok_or("it must begin with http:// or https://")?;
        let end = text[scheme.len()..].find(['/', '?', '#']).map_or(text.len(), |at| at + scheme.len());
        if text[..end].contains('@') {
            return Err("it holds a user or password: use http.auth.type: basic".into());
        }
        Self::parse(text, Place::Url, |at| if at < end { At::Host } else { At::Encoded })
    }

    /// The value of a parameter.
    pub(crate) fn query(text: &str) -> Result<Self, String> {
        Self::parse(text, Place::Query, |_| At::Encoded)
    }

    pub(crate) fn header(text: &str) -> Result<Self, String> {
        if text.chars().any(is_control) {
            return Err("a header cannot hold line ends or other control characters".into());
        }
        Self::parse(text, Place::Header, |_| At::Header)
    }

    pub(crate) fn body(text: &str) -> Result<Self, String> {
        Self::parse(text, Place::Body, |_| At::Body)
    }

    /// A body of JSON: values stand within its strings.
    pub(crate) fn json(text: &str) -> Result<Self, String> {
        Self::parse(text, Place::Json, |_| At::Json)
    }

    fn parse(text: &str, place: Place, at: impl Fn(usize) -> At) -> Result<Self, String> {
        let (mut parts, mut plain, mut rest) = (Vec::new(), String::new(), text);
        while let Some(dollar) = rest.find("${") {
            if rest[..dollar].ends_with('$') {
                plain.push_str(&rest[..dollar - 1]);
                plain.push_str("${");
                rest = &rest[dollar + 2..];
                continue;
            }
            plain.push_str(&rest[..dollar]);
            let start = text.len() - rest.len() + dollar;
            let inner = &rest[dollar + 2..];
            let close = inner.find('}').ok_or_else(|| format!("{:?} has no closing brace", &rest[dollar..]))?;
            if !plain.is_empty() {
                parts.push(Part::Text(std::mem::take(&mut plain)));
            }
            parts.push(variable(&inner[..close], at(start))?);
            rest = &inner[close + 1..];
        }
        plain.push_str(rest);
        if !plain.is_empty() {
            parts.push(Part::Text(plain));
        }
        Ok(Self { parts, place, source: text.to_owned() })
    }

    /// In order, with repetitions.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.parts.iter().filter_map(|part| match part {
            Part::Variable { name, .. } => Some(name.as_str()),
            Part::Text(_) => None,
        })
    }

    /// As it was written.
    pub(crate) fn source(&self) -> &str {
        &self.source
    }

    /// The text up to the first variable.
    pub(crate) fn prefix(&self) -> &str {
        match self.parts.first() {
            Some(Part::Text(text)) => text,
            _ => "",
        }
    }

    /// # Errors
    /// What is wrong, as a sentence's end: a name without a value, or a value that cannot stand at its place.
    pub(crate) fn render<'a>(&self, lookup: impl FnMut(&str) -> Option<Value<'a>>) -> Result<String, Refused> {
        String::from_utf8(self.render_bytes(lookup)?).map_err(|_| Refused("a value is not UTF-8".into()))
    }

    /// # Errors
    /// As [`Template::render`].
    pub(crate) fn render_bytes<'a>(&self, mut lookup: impl FnMut(&str) -> Option<Value<'a>>) -> Result<Vec<u8>, Refused> {
        let mut out = Vec::new();
        for part in &self.parts {
            match part {
                Part::Text(text) => out.extend_from_slice(text.as_bytes()),
                Part::Variable { name, default, at } => {
                    let value = lookup(name).or_else(|| default.clone().map(|text| Value::Text(Cow::Owned(text))));
                    let value = value.ok_or_else(|| Refused(format!("${{{name}}} has no value")))?;
                    put(&mut out, *at, &value).map_err(|why| Refused(format!("the value of ${{{name}}} {why}")))?;
                }
            }
        }
        if self.place == Place::Url && has_dot_segment(&out) {
            return Err(Refused("a value makes a path segment of dots".into()));
        }
        Ok(out)
    }
}

fn variable(inner: &str, at: At) -> Result<Part, String> {
    let (name, default) = match inner.split_once('!') {
        Some((name, default)) => (name, Some(default.trim().trim_matches(['\'', '"']).to_owned())),
        None => (inner, None),
    };
    let name = name.trim().to_owned();
    if name.is_empty() { Err(format!("\"${{{inner}}}\" names nothing")) } else { Ok(Part::Variable { name, default, at }) }
}

fn put(out: &mut Vec<u8>, at: At, value: &Value<'_>) -> Result<(), &'static str> {
    let text = match value {
        Value::Raw(bytes) if matches!(at, At::Body | At::Json) => {
            out.extend_from_slice(bytes);
            return Ok(());
        }
        Value::Raw(bytes) => std::str::from_utf8(bytes).map_err(|_| "is not UTF-8")?,
        Value::Text(text) => text,
    };
    match at {
        At::Host => {
            if text.is_empty() || !text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.')) {
                return Err("is no part of a host's name");
            }
            out.extend_from_slice(text.as_bytes());
        }
        At::Encoded => out.extend(utf8_percent_encode(text, ENCODED).flat_map(str::bytes)),
        At::Header => {
            if text.chars().any(is_control) {
                return Err("has a line end or control character, which could begin another header");
            }
            out.extend_from_slice(text.as_bytes());
        }
        At::Body => out.extend_from_slice(text.as_bytes()),
        At::Json => {
            let quoted = serde_json::Value::String(text.to_owned()).to_string();
            out.extend_from_slice(&quoted.as_bytes()[1..quoted.len() - 1]);
        }
    }
    Ok(())
}

fn is_control(c: char) -> bool {
    c.is_control() && c != '\t'
}

/// `..` or `.`, plain or encoded: whoever normalises the path would leave the template's folder.
fn has_dot_segment(url: &[u8]) -> bool {
    let text = String::from_utf8_lossy(url).to_ascii_lowercase();
    let path = text.split(['?', '#']).next().unwrap_or_default();
    let path = path.split_once("://").map_or("", |(_, rest)| rest);
    path.split('/').skip(1).any(|segment| matches!(segment.replace("%2e", ".").as_str(), "." | ".."))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn one(value: &'static str) -> impl FnMut(&str) -> Option<Value<'static>> {
        move |_| Some(Value::from(value))
    }

    #[test]
    fn values_are_escaped_by_place() {
        let url = Template::url("https://${h}.example.com/a/${p}/b?q=${q}").unwrap();
        let fill = |name: &str| {
            Some(Value::from(match name {
                "h" => "eu-1",
                "p" => "x/../y?z",
                _ => "a&b=c d\r\n",
            }))
        };
        assert_eq!(url.render(fill).unwrap(), "https://eu-1.example.com/a/x%2F..%2Fy%3Fz/b?q=a%26b%3Dc%20d%0D%0A");
        assert_eq!(Template::json(r#"{"a": "${x}"}"#).unwrap().render(one("\"\n")).unwrap(), r#"{"a": "\"\n"}"#);
        assert_eq!(Template::body("<${x}>").unwrap().render_bytes(|_| Some(Value::Raw(b"\xff"[..].into()))).unwrap(), b"<\xff>");
        assert_eq!(Template::query("${n!'7'}-$${n}").unwrap().render(|_| None).unwrap(), "7-${n}");
        assert_eq!(url.names().collect::<Vec<_>>(), ["h", "p", "q"]);
    }

    #[test]
    fn what_could_inject_is_refused() {
        let host = Template::url("http://${h}/").unwrap();
        for bad in ["evil.com/", "a@b", "a:80", "", "a#", "[::1]", "a\r\n"] {
            assert!(host.render(|_| Some(Value::from(bad.to_owned()))).is_err(), "{bad:?}");
        }
        let path = Template::url("http://h/a/${p}").unwrap();
        for bad in ["..", "."] {
            assert!(path.render(|_| Some(Value::from(bad.to_owned()))).is_err(), "{bad:?}");
        }
        let header = Template::header("x ${v}").unwrap();
        for bad in ["a\r\nX: y", "a\nb", "a\0", "\u{85}"] {
            assert!(header.render(|_| Some(Value::from(bad.to_owned()))).is_err(), "{bad:?}");
        }
        assert_eq!(header.render(|_| None).unwrap_err().to_string(), "${v} has no value");
        for bad in ["ftp://x/", "x", "http://u:p@h/", "http://h/${", "http://h/${}", "${url}"] {
            assert!(Template::url(bad).is_err(), "{bad:?}");
        }
        assert!(Template::header("a\r\nb").is_err());
    }

    proptest! {
        #[test]
        fn a_value_stays_in_its_place(value in any::<String>()) {
            let fill = |_: &str| Some(Value::from(value.clone()));
            if let Ok(url) = Template::url("http://h/a/${p}/z?q=${p}&r=1").unwrap().render(fill) {
                let url = reqwest::Url::parse(&url).unwrap();
                prop_assert_eq!(url.path_segments().unwrap().count(), 3);
                prop_assert_eq!(url.query_pairs().count(), 2);
                prop_assert_eq!(url.query_pairs().next().unwrap().1.into_owned(), value.clone());
            }
            if let Ok(header) = Template::header("a ${p}").unwrap().render(fill) {
                prop_assert!(!header.contains(['\r', '\n', '\0']));
            }
            let json = Template::json(r#"{"a":"${p}"}"#).unwrap().render(fill).unwrap();
            let parsed: serde_json::Value = serde_json::from_str(&json).unwrap();
            prop_assert_eq!(parsed["a"].as_str().unwrap(), value.as_str());
        }
    }
}

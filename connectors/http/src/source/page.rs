//! A response's body as a list of records: the places of their texts, so that only what is handed over is parsed.

use super::config::{Format, Settings};
use super::{pointer::Pointer, xml};
use aqueduct_config::Charset;
use aqueduct_core::{Error, Result};
use bytes::Bytes;
use serde_json::value::RawValue;

/// Records in the order of the response.
#[derive(Debug)]
pub(crate) struct Page {
    /// UTF-8.
    text: Bytes,
    /// Start and end of each record.
    spans: Vec<(u32, u32)>,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    /// One document, in which pointers find more than records.
    Document,
    Lines,
    Csv {
        separator: u8,
        names: Vec<String>,
    },
}

impl Page {
    pub(crate) fn len(&self) -> usize {
        self.spans.len()
    }

    /// The record's JSON text.
    ///
    /// # Panics
    /// When `index` is not below [`Page::len`].
    pub(crate) fn record(&self, index: usize) -> Bytes {
        match &self.kind {
            Kind::Csv { separator, names } => csv_record(self.raw(index), *separator, names),
            _ => {
                let (start, end) = self.spans[index];
                self.text.slice(start as usize..end as usize)
            }
        }
    }

    /// The record as the API wrote it.
    pub(crate) fn raw(&self, index: usize) -> &[u8] {
        let (start, end) = self.spans[index];
        &self.text[start as usize..end as usize]
    }

    /// The whole, for pointers to the next page.
    pub(crate) fn document(&self) -> Option<&str> {
        matches!(self.kind, Kind::Document).then(|| std::str::from_utf8(&self.text).ok()).flatten()
    }
}

/// # Errors
/// `http.body` (retriable: a server that is in trouble answers anything) when it is not what it is said to be; `http.pointer` (fatal) when the list
/// is not where the option says.
pub(crate) fn read(body: Bytes, content_type: &str, settings: &Settings) -> Result<Page> {
    let text = utf8(body, content_type)?;
    let format = match settings.format {
        Format::Auto => by_type(content_type),
        format => format,
    };
    if text.iter().all(u8::is_ascii_whitespace) {
        return Ok(Page { text, spans: Vec::new(), kind: Kind::Lines });
    }
    match format {
        Format::Json | Format::Auto => document(text, &settings.list),
        Format::Xml => {
            let json = xml::to_json(as_str(&text)?).map_err(|why| bad(format!("is no XML: {why}")))?;
            document(Bytes::from(json), &settings.list)
        }
        Format::NdJson => lines(text),
        Format::Csv => csv_rows(text, settings.separator),
    }
}

fn bad(what: String) -> Error {
    Error::retriable("http.body", format!("the answer {what}"))
}

fn as_str(text: &Bytes) -> Result<&str> {
    std::str::from_utf8(text).map_err(|_| bad("is not UTF-8".into()))
}

fn by_type(content_type: &str) -> Format {
    let kind = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    match kind.as_str() {
        "application/x-ndjson"
        | "application/ndjson"
        | "application/jsonl"
        | "application/x-jsonlines"
        | "application/json-seq" => Format::NdJson,
        "text/csv" | "application/csv" => Format::Csv,
        xml if xml.ends_with("/xml") || xml.ends_with("+xml") => Format::Xml,
        _ => Format::Json,
    }
}

/// Without a byte order mark.
fn utf8(body: Bytes, content_type: &str) -> Result<Bytes> {
    let charset = content_type.split(';').skip(1).filter_map(|param| param.split_once('='));
    let charset = charset
        .filter(|(name, _)| name.trim().eq_ignore_ascii_case("charset"))
        .map(|(_, value)| value.trim().trim_matches('"'))
        .next();
    let known = charset.and_then(|charset| Charset::parse(charset).ok()).filter(|charset| !charset.is_utf8());
    if let Some(charset) = known {
        let (text, _, malformed) = charset.encoding().decode(&body);
        if malformed {
            return Err(bad(format!("is not {charset}, as it says")));
        }
        return Ok(Bytes::from(text.into_owned()));
    }
    as_str(&body)?;
    Ok(if body.starts_with(b"\xef\xbb\xbf") { body.slice(3..) } else { body })
}

fn document(text: Bytes, list: &Pointer) -> Result<Page> {
    let spans = {
        let all = as_str(&text)?;
        let no_json = |error: serde_json::Error| bad(format!("is no JSON: {error}"));
        let found = list.get(all).map_err(no_json)?;
        let place = |part: &str| (part.as_ptr() as usize - all.as_ptr() as usize) as u32;
        let span = |part: &str| (place(part), place(part) + part.len() as u32);
        match found {
            None => return Err(no_list(all, list)),
            Some("null") => Vec::new(),
            Some(found) if found.starts_with('[') => {
                let items: Vec<&RawValue> = serde_json::from_str(found).map_err(no_json)?;
                items.into_iter().map(|item| span(item.get())).collect()
            }
            Some(found) => vec![span(found)],
        }
    };
    Ok(Page { text, spans, kind: Kind::Document })
}

/// With the names that are there: most mistakes are a name away.
fn no_list(text: &str, list: &Pointer) -> Error {
    let names: Vec<String> = match serde_json::from_str::<std::collections::BTreeMap<String, serde::de::IgnoredAny>>(text) {
        Ok(map) => map.into_keys().take(10).map(|name| format!("/{}", name.chars().take(40).collect::<String>())).collect(),
        Err(_) => Vec::new(),
    };
    let there = if names.is_empty() { String::new() } else { format!("; there is {}", names.join(", ")) };
    Error::fatal("http.pointer", format!("the answer has nothing at {list}{there}")).fix("correct http.response.list.pointer")
}

fn lines(text: Bytes) -> Result<Page> {
    let all = as_str(&text)?;
    let mut spans = Vec::new();
    for line in all.split('\n') {
        // RFC 7464 puts a record separator in front.
        let line = line.trim_matches(|c: char| c.is_ascii_whitespace() || c == '\x1e');
        if line.is_empty() {
            continue;
        }
        let start = line.as_ptr() as usize - all.as_ptr() as usize;
        serde_json::from_str::<&RawValue>(line).map_err(|error| bad(format!("has a line that is no JSON: {error}")))?;
        spans.push((start as u32, (start + line.len()) as u32));
    }
    Ok(Page { text, spans, kind: Kind::Lines })
}

/// The first row has the names.
fn csv_rows(text: Bytes, separator: u8) -> Result<Page> {
    let no_csv = |error: csv::Error| bad(format!("is no CSV: {error}"));
    let mut reader = csv::ReaderBuilder::new().delimiter(separator).from_reader(&text[..]);
    let names = reader.headers().map_err(no_csv)?.iter().map(|name| name.trim().to_owned()).collect();
    let (mut spans, mut row) = (Vec::new(), csv::ByteRecord::new());
    while reader.read_byte_record(&mut row).map_err(no_csv)? {
        let start = row.position().map_or(0, csv::Position::byte) as u32;
        spans.push((start, reader.position().byte() as u32));
    }
    Ok(Page { text, spans, kind: Kind::Csv { separator, names } })
}

fn csv_record(raw: &[u8], separator: u8, names: &[String]) -> Bytes {
    let mut reader = csv::ReaderBuilder::new().delimiter(separator).has_headers(false).from_reader(raw);
    let mut row = csv::StringRecord::new();
    // It was read once: it can be read again.
    let _ = reader.read_record(&mut row);
    let fields = names.iter().zip(row.iter()).map(|(name, field)| (name.clone(), serde_json::Value::from(field)));
    Bytes::from(serde_json::Value::Object(fields.collect()).to_string())
}

#[cfg(test)]
mod tests {
    use super::super::config::Config;
    use super::*;
    use aqueduct_core::Options;
    use proptest::prelude::*;

    fn settings(format: &str) -> Settings {
        let options: Options =
            [("http.request.url", "https://example.com/"), ("kafka.topic", "t"), ("http.response.format", format)]
                .map(|(key, value)| (key.to_owned(), value.to_owned()))
                .into();
        aqueduct_config::parse::<Config>(&options).unwrap().settings().unwrap().0
    }

    proptest! {
        #[test]
        fn no_body_is_too_strange(
            body in prop_oneof![
                proptest::collection::vec(any::<u8>(), 0..60),
                "[\\[\\]{}\",:a0 \n<>/&;=!?'-]{0,60}".prop_map(String::into_bytes),
            ],
            format in 0usize..5,
            charset in prop_oneof![Just("application/json"), Just("text/x; charset=utf-16le"), Just("text/csv; charset=\"latin1\"")],
        ) {
            let settings = settings(["auto", "json", "ndjson", "csv", "xml"][format]);
            if let Ok(page) = read(Bytes::from(body), charset, &settings) {
                for index in 0..page.len() {
                    let text = page.record(index);
                    prop_assert!(serde_json::from_slice::<serde::de::IgnoredAny>(&text).is_ok());
                }
            }
        }
    }
}

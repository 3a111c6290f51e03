//! Where the source stands: a page's request, how many of its records were handed over, and what they were. Stored flat, as Kafka Connect has offsets;
//! the properties have castorm's names.

use super::config::Properties;
use super::paging::Token;
use aqueduct_core::{Error, JsonMap, Result, SourceOffset};
use reqwest::Url;
use serde_json::Value;
use sha2::{Digest, Sha256};

#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Place {
    /// Of the record handed over last.
    pub(crate) properties: Properties,
    /// As they were when the sweep began: what its requests are made from.
    pub(crate) base: Properties,
    /// The page; `None` is the first.
    pub(crate) token: Option<Token>,
    /// How many records of the page were handed over.
    pub(crate) index: u64,
    /// A hash over the identities of these, and of the last of them.
    pub(crate) seen: String,
    pub(crate) last: String,
    /// Of the page, once all its records were handed over.
    pub(crate) etag: Option<String>,
    pub(crate) modified: Option<String>,
}

const BASE: &str = "page.base.";

impl Place {
    /// Of the connector's stored offsets, the one of this endpoint.
    pub(crate) fn find(endpoint: &str, stored: &[SourceOffset]) -> Option<Self> {
        let same = |offset: &&SourceOffset| offset.partition.get("endpoint").and_then(Value::as_str) == Some(endpoint);
        // castorm's partition is empty where an older version stored it.
        let found = stored.iter().find(same).or_else(|| stored.iter().find(|offset| offset.partition.is_empty()))?;
        found.offset.as_ref().map(Self::of)
    }

    /// To the beginning of another page.
    pub(crate) fn turn_to(&mut self, token: Option<Token>) {
        let (properties, base) = (std::mem::take(&mut self.properties), std::mem::take(&mut self.base));
        *self = Self { properties, base, token, ..Self::default() };
    }

    pub(crate) fn offset(&self, endpoint: &str) -> SourceOffset {
        let partition = JsonMap::from_iter([("endpoint".to_owned(), Value::from(endpoint))]);
        SourceOffset { partition, offset: Some(self.to_json()) }
    }

    pub(crate) fn to_json(&self) -> JsonMap {
        let mut map: JsonMap = self.properties.iter().map(|(name, value)| (name.clone(), value.clone())).collect();
        if self.base != self.properties {
            map.extend(self.base.iter().map(|(name, value)| (format!("{BASE}{name}"), value.clone())));
            // An empty base is not the same as none.
            map.insert("page.begun".into(), true.into());
        }
        match &self.token {
            None => {}
            Some(Token::Url(url)) => drop(map.insert("page.url".into(), url.as_str().into())),
            Some(Token::Number(number)) => drop(map.insert("page.number".into(), (*number).into())),
            Some(Token::Text(text)) => drop(map.insert("page.cursor".into(), text.as_str().into())),
        }
        if self.index > 0 {
            map.insert("page.index".into(), self.index.into());
            map.insert("page.seen".into(), self.seen.as_str().into());
            map.insert("page.last".into(), self.last.as_str().into());
        }
        for (name, value) in [("page.etag", &self.etag), ("page.modified", &self.modified)] {
            if let Some(value) = value {
                map.insert(name.into(), value.as_str().into());
            }
        }
        map
    }

    /// What cannot be read counts as not there: an operator may have written it.
    fn of(map: &JsonMap) -> Self {
        let text = |name: &str| map.get(name).and_then(Value::as_str).map(str::to_owned);
        let properties: Properties = map
            .iter()
            .filter(|(name, _)| !name.starts_with("page."))
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect();
        let begun = map.get("page.begun").and_then(Value::as_bool).unwrap_or(false);
        let base = if begun {
            map.iter().filter_map(|(name, value)| Some((name.strip_prefix(BASE)?.to_owned(), value.clone()))).collect()
        } else {
            properties.clone()
        };
        let url = text("page.url").and_then(|url| Url::parse(&url).ok()).map(Token::Url);
        let number = || map.get("page.number").and_then(Value::as_u64).map(Token::Number);
        let (seen, last) = (text("page.seen").unwrap_or_default(), text("page.last").unwrap_or_default());
        Self {
            properties,
            base,
            token: url.or_else(number).or_else(|| text("page.cursor").map(Token::Text)),
            index: map.get("page.index").and_then(Value::as_u64).filter(|_| !seen.is_empty()).unwrap_or(0),
            seen,
            last,
            etag: text("page.etag"),
            modified: text("page.modified"),
        }
    }
}

/// Whether an offset that an operator sets is one: of `page.…` only what the source itself stores, and what it can read.
pub(crate) fn check(offset: &SourceOffset) -> Result<()> {
    let form = r#"write {"partition": {"endpoint": "https://api.example.com/items"}, "offset": {"key": "7"}}: the names of http.response.record.offset.pointer, and "page.number", "page.url" or "page.cursor" where the paging has one; null as the offset begins anew"#;
    let refuse = |why: String| Err(Error::fatal("http.offset", why).fix(form));
    // castorm's partition is empty.
    let endpoint = offset.partition.get("endpoint").map(|endpoint| endpoint.as_str().is_some_and(|text| !text.is_empty()));
    if endpoint == Some(false) || offset.partition.len() > usize::from(endpoint.is_some()) {
        return refuse("the partition is not \"endpoint\" and a URL without its query".to_owned());
    }
    let Some(map) = &offset.offset else { return Ok(()) };
    for (key, value) in map.iter().filter(|(key, _)| key.starts_with("page.") && !key.starts_with(BASE)) {
        let what = match key.as_str() {
            "page.url" if value.as_str().is_some_and(|url| Url::parse(url).is_ok()) => continue,
            "page.url" => "is not a URL",
            "page.number" | "page.index" if value.is_u64() => continue,
            "page.number" | "page.index" => "is not a whole number from 0 on",
            "page.begun" if value.is_boolean() => continue,
            "page.begun" => "is not true or false",
            "page.cursor" | "page.seen" | "page.last" | "page.etag" | "page.modified" if value.is_string() => continue,
            "page.cursor" | "page.seen" | "page.last" | "page.etag" | "page.modified" => "is not a text",
            _ => "is no key of it",
        };
        return refuse(format!("{key:?} in the offset {what}"));
    }
    if map.contains_key("page.index") && !map.contains_key("page.seen") {
        return refuse("\"page.index\" in the offset stands without \"page.seen\", the hash of what was handed over".to_owned());
    }
    Ok(())
}

/// A hash over identities in order, which can be asked at each.
#[derive(Clone, Default)]
pub(crate) struct Chain(Sha256);

impl Chain {
    pub(crate) fn push(&mut self, identity: &[u8]) {
        // The length in front: `ab`,`c` is not `a`,`bc`.
        self.0.update((identity.len() as u64).to_le_bytes());
        self.0.update(identity);
    }

    pub(crate) fn digest(&self) -> String {
        short(&self.0.clone().finalize())
    }
}

pub(crate) fn digest_of(identity: &[u8]) -> String {
    short(&Sha256::digest(identity))
}

/// 128 bits tell any records of any page apart.
fn short(hash: &[u8]) -> String {
    hash.iter().take(16).map(|byte| format!("{byte:02x}")).collect()
}

/// Where to go on in a page of which `place.index` records were handed over, when it is read again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// It begins as it did.
    Same(usize),
    /// It begins otherwise, and the record handed over last is still in it: on behind that.
    Moved(usize),
    /// That record is gone: the page from its beginning.
    Changed,
}

/// `identities` of the page, in order.
pub(crate) fn find_again<'a>(place: &Place, identities: impl Iterator<Item = &'a [u8]>) -> Found {
    let (mut chain, mut behind_last) = (Chain::default(), None);
    for (index, identity) in identities.enumerate() {
        chain.push(identity);
        if index as u64 + 1 == place.index && chain.digest() == place.seen {
            return Found::Same(index + 1);
        }
        if digest_of(identity) == place.last {
            behind_last = Some(index + 1);
        }
    }
    behind_last.map_or(Found::Changed, Found::Moved)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn chain(identities: &[&str]) -> String {
        let mut chain = Chain::default();
        identities.iter().for_each(|identity| chain.push(identity.as_bytes()));
        chain.digest()
    }

    fn place(seen: &[&str]) -> Place {
        let last = seen.last().map(|last| digest_of(last.as_bytes())).unwrap_or_default();
        Place { index: seen.len() as u64, seen: chain(seen), last, ..Place::default() }
    }

    fn again(seen: &[&str], page: &[&str]) -> Found {
        find_again(&place(seen), page.iter().map(|identity| identity.as_bytes()))
    }

    #[test]
    fn a_page_that_changed() {
        assert_eq!(again(&["a", "b"], &["a", "b", "c"]), Found::Same(2));
        assert_eq!(again(&["a", "b"], &["x", "a", "b", "c"]), Found::Moved(3), "something came in front");
        assert_eq!(again(&["a", "b"], &["b", "c"]), Found::Moved(1), "something in front went");
        assert_eq!(again(&["a", "b"], &["a", "c"]), Found::Changed);
        assert_eq!(again(&["a", "b"], &[]), Found::Changed);
        assert_eq!(again(&["a", "b"], &["ab", "c"]), Found::Changed);
    }

    #[test]
    fn an_offset_that_is_none_is_refused_by_the_name_of_its_key() {
        let json = |text: &str| serde_json::from_str::<JsonMap>(text).unwrap();
        let endpoint = r#"{"endpoint": "https://x/y"}"#;
        for (partition, offset, wrong) in [
            ("{}", r#"{"key": "7"}"#, None),
            (endpoint, "{}", None),
            (endpoint, r#"{"page.url": "https://x/y?p=2", "page.base.key": 1, "page.begun": true}"#, None),
            (r#"{"topic": "t"}"#, "{}", Some("endpoint")),
            (r#"{"endpoint": 7}"#, "{}", Some("endpoint")),
            (r#"{"endpoint": "https://x/y", "page": 1}"#, "{}", Some("endpoint")),
            (endpoint, r#"{"page.url": "next"}"#, Some("page.url")),
            (endpoint, r#"{"page.number": "2"}"#, Some("page.number")),
            (endpoint, r#"{"page.number": -2}"#, Some("page.number")),
            (endpoint, r#"{"page.begun": "yes"}"#, Some("page.begun")),
            (endpoint, r#"{"page.cursor": 5}"#, Some("page.cursor")),
            (endpoint, r#"{"page.nubmer": 5}"#, Some("page.nubmer")),
            (endpoint, r#"{"page.index": 5}"#, Some("page.index")),
        ] {
            let checked = check(&SourceOffset { partition: json(partition), offset: Some(json(offset)) });
            match wrong {
                None => checked.unwrap(),
                Some(key) => {
                    let error = checked.unwrap_err();
                    assert!(error.message().contains(&format!("{key:?}")) && error.hint().is_some(), "{error}");
                }
            }
        }
    }

    #[test]
    fn castorms_offset_is_understood() {
        let json = |text: &str| serde_json::from_str::<JsonMap>(text).unwrap();
        let stored =
            SourceOffset { partition: JsonMap::new(), offset: Some(json(r#"{"key":"7","timestamp":"2020-01-01T00:00:00Z"}"#)) };
        let place = Place::find("https://x/y", &[stored]).unwrap();
        assert_eq!(place.properties["key"], "7");
        assert_eq!((place.base.len(), place.index, place.token), (2, 0, None));
    }

    proptest! {
        #[test]
        fn it_comes_back_as_it_was_stored(
            index in 0u64..3,
            kind in 0..4,
            base in proptest::collection::btree_map("[a-z]{1,3}", 0..3i32, 0..3),
            now in proptest::collection::btree_map("[a-z]{1,3}", 0..3i32, 0..3),
            etag in proptest::option::of("[a-z\"]{1,4}"),
        ) {
            let properties = |map: std::collections::BTreeMap<String, i32>| map.into_iter().map(|(k, v)| (k, v.into())).collect();
            let token = match kind {
                0 => None,
                1 => Some(Token::Url(Url::parse("http://h/p?a=1").unwrap())),
                2 => Some(Token::Number(index)),
                _ => Some(Token::Text("c".into())),
            };
            let identities = if index > 0 { ("s".to_owned(), "l".to_owned()) } else { Default::default() };
            let place = Place {
                properties: properties(now), base: properties(base), token, index, seen: identities.0, last: identities.1, etag, modified: None,
            };
            let stored = [place.offset("e")];
            prop_assert_eq!(Place::find("e", &stored), Some(place));
            prop_assert_eq!(Place::find("other", &stored), None);
            prop_assert!(check(&stored[0]).is_ok());
        }
    }
}

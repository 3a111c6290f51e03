//! JSON pointers (RFC 6901) over text that is not parsed: only the way to the place is.

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;
use std::fmt;

/// Empty: the whole.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Pointer(Vec<String>);

impl Pointer {
    /// `""` and, as castorm has it, `"/"` are the whole.
    ///
    /// # Errors
    /// What is wrong, as a sentence's end.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let text = text.trim();
        if matches!(text, "" | "/") {
            return Ok(Self::default());
        }
        let rest = text.strip_prefix('/').ok_or_else(|| format!("{text:?} does not begin with a slash"))?;
        Ok(Self(rest.split('/').map(|token| token.replace("~1", "/").replace("~0", "~")).collect()))
    }

    /// What is there; `None` when there is nothing.
    ///
    /// # Errors
    /// The text is not JSON.
    pub(crate) fn get<'a>(&self, text: &'a str) -> Result<Option<&'a str>, serde_json::Error> {
        let mut at: &'a RawValue = serde_json::from_str(text)?;
        for token in &self.0 {
            let mut deserializer = serde_json::Deserializer::from_str(at.get());
            match (Step { token }).deserialize(&mut deserializer)? {
                Some(next) => at = next,
                None => return Ok(None),
            }
        }
        Ok(Some(at.get()))
    }
}

impl fmt::Display for Pointer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|token| write!(f, "/{}", token.replace('~', "~0").replace('/', "~1")))
    }
}

/// One token further: a member's value or an element.
struct Step<'t> {
    token: &'t str,
}

impl<'de> DeserializeSeed<'de> for Step<'_> {
    type Value = Option<&'de RawValue>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Step<'_> {
    type Value = Option<&'de RawValue>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut found = None;
        // To the end, although it may be found: the rest must be JSON too, and the last of two equal names counts.
        while let Some(name) = map.next_key::<std::borrow::Cow<'de, str>>()? {
            if name == self.token {
                found = Some(map.next_value::<&'de RawValue>()?);
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(found)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        let index_like = self.token == "0" || (!self.token.starts_with('0') && self.token.bytes().all(|b| b.is_ascii_digit()));
        let wanted: Option<usize> = if index_like { self.token.parse().ok() } else { None };
        let (mut index, mut found) = (0, None);
        loop {
            if wanted == Some(index) {
                match seq.next_element::<&'de RawValue>()? {
                    Some(value) => found = Some(value),
                    None => return Ok(found),
                }
            } else if seq.next_element::<IgnoredAny>()?.is_none() {
                return Ok(found);
            }
            index += 1;
        }
    }

    fn visit_bool<E>(self, _: bool) -> Result<Self::Value, E> {
        Ok(None)
    }
    fn visit_i64<E>(self, _: i64) -> Result<Self::Value, E> {
        Ok(None)
    }
    fn visit_u64<E>(self, _: u64) -> Result<Self::Value, E> {
        Ok(None)
    }
    fn visit_f64<E>(self, _: f64) -> Result<Self::Value, E> {
        Ok(None)
    }
    fn visit_str<E>(self, _: &str) -> Result<Self::Value, E> {
        Ok(None)
    }
    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn get(text: &str, pointer: &str) -> Option<String> {
        Pointer::parse(pointer).unwrap().get(text).unwrap().map(str::to_owned)
    }

    #[test]
    fn the_text_itself_is_found() {
        let text = r#"{"a/b": [1, {"c~d": 1.10}, "x"], "n": null, "e": {}, "dup": 1, "dup": 2, "k\u00e9y": 3}"#;
        for (pointer, expected) in [
            ("/a~1b/1/c~0d", Some("1.10")),
            ("/a~1b/2", Some("\"x\"")),
            ("/a~1b/3", None),
            ("/a~1b/x", None),
            ("/n", Some("null")),
            ("/n/x", None),
            ("/a~1b/2/x", None),
            ("/missing", None),
            ("/dup", Some("2")),
            ("/kéy", Some("3")),
            ("", Some(text)),
            ("/", Some(text)),
        ] {
            assert_eq!(get(text, pointer).as_deref(), expected, "{pointer}");
        }
        assert!(Pointer::parse("a").is_err());
        assert!(Pointer::parse("/a").unwrap().get("{\"a\": 1} x").is_err());
        assert!(Pointer::parse("/a").unwrap().get("{\"a\": 1, ").is_err());
    }

    fn json() -> impl Strategy<Value = serde_json::Value> {
        let leaf = prop_oneof![
            any::<i32>().prop_map(Into::into),
            "[a-z/~]{0,3}".prop_map(serde_json::Value::from),
            Just(serde_json::Value::Null)
        ];
        leaf.prop_recursive(3, 20, 4, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..4).prop_map(serde_json::Value::from),
                proptest::collection::btree_map("[a-b/~]{1,2}", inner, 0..4)
                    .prop_map(|map| serde_json::Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn as_serde_json_finds_it(value in json(), pointer in "(/([a-b]|~0|~1|[0-3]){1,2}){1,3}") {
            let found = get(&value.to_string(), &pointer).map(|text| serde_json::from_str::<serde_json::Value>(&text).unwrap());
            prop_assert_eq!(found.as_ref(), value.pointer(&pointer));
        }
    }
}

//! A flat map of text to a typed struct, with every problem at once.

use crate::list::split_list;
use crate::shape::{Field, Shape};
use aqueduct_core::{Error, Issue, Options, Result};
use schemars::JsonSchema;
use serde::de::value::{MapDeserializer, SeqDeserializer, StrDeserializer};
use serde::de::{self, DeserializeOwned, DeserializeSeed, Deserializer, IntoDeserializer, MapAccess, Visitor};
use serde::forward_to_deserialize_any;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt;

/// Reads the keys of `options` that `C` knows; the others are not looked at.
///
/// # Errors
/// Every issue: missing, wrong type, out of range, …; never the first only.
pub fn parse<C: DeserializeOwned + JsonSchema>(options: &Options) -> Result<C, Vec<Issue>> {
    parse_as(Shape::of::<C>(), options)
}

/// As [`parse`], as one error for `open`.
///
/// # Errors
/// `config.invalid`, fatal, with every issue in its message.
pub fn from_options<C: DeserializeOwned + JsonSchema>(options: &Options) -> Result<C> {
    parse(options).map_err(|issues| invalid(&issues))
}

/// Issues as the error of a call.
pub fn invalid(issues: &[Issue]) -> Error {
    let lines: Vec<String> = issues.iter().filter(|issue| issue.is_error()).map(ToString::to_string).collect();
    Error::fatal("config.invalid", lines.join("; ")).fix("correct the connector's config; `aqueduct validate` shows every issue")
}

pub(crate) fn parse_as<C: DeserializeOwned>(shape: &Shape, options: &Options) -> Result<C, Vec<Issue>> {
    let (mut issues, mut given) = (Vec::new(), Vec::new());
    for field in &shape.fields {
        match entry(field, options) {
            Some(found) => {
                issues.extend(check::<C>(field, &found));
                given.push(found);
            }
            None if field.spec.required => issues.push(field.missing()),
            None => {}
        }
    }
    if !issues.is_empty() {
        return Err(issues);
    }
    // Every key parses by itself; what is left is what the struct says as a whole (`#[serde(try_from)]`).
    C::deserialize(FlatMap { entries: &given, failed: &RefCell::new(None) })
        .map_err(|error| vec![Issue::error("", "config.invalid", error.0)])
}

/// One field's text, or its family of keys, as the options have it.
struct Entry<'a> {
    /// The name that serde knows.
    name: &'a str,
    /// The key as it was written: the name or an alias of it.
    key: &'a str,
    value: Value<'a>,
}

enum Value<'a> {
    Text(&'a str),
    /// What follows the prefix, and the text.
    Family(BTreeMap<&'a str, &'a str>),
}

fn entry<'a>(field: &'a Field, options: &'a Options) -> Option<Entry<'a>> {
    let name = field.spec.name.as_str();
    if let Some(prefix) = field.family_prefix() {
        let members = options.range(prefix.to_owned()..).take_while(|(key, _)| key.starts_with(prefix));
        let members =
            members.filter(|(key, _)| key.len() > prefix.len()).map(|(key, text)| (&key[prefix.len()..], text.as_str()));
        return Some(Entry { name, key: name, value: Value::Family(members.collect()) });
    }
    let names = std::iter::once(name).chain(field.aliases.iter().map(String::as_str));
    names.into_iter().find_map(|key| options.get(key).map(|text| Entry { name, key, value: Value::Text(text) }))
}

/// Deserializes the struct from this one key, so that serde's own types judge it and the other keys cannot hide it.
fn check<C: DeserializeOwned>(field: &Field, found: &Entry<'_>) -> Vec<Issue> {
    match &found.value {
        Value::Text(text) => match judge::<C>(found) {
            Some(error) => vec![field.refused(found.key, &error.0)],
            None => field.out_of_range(found.key, text).into_iter().collect(),
        },
        Value::Family(members) => members
            .iter()
            .filter_map(|(suffix, text)| {
                let alone = Entry { value: Value::Family(BTreeMap::from([(*suffix, *text)])), ..*found };
                judge::<C>(&alone).map(|error| field.refused(&format!("{}{suffix}", found.name.trim_end_matches('*')), &error.0))
            })
            .collect(),
    }
}

fn judge<C: DeserializeOwned>(found: &Entry<'_>) -> Option<TextError> {
    let failed = RefCell::new(None);
    // An error without `failed` is about the keys that are not here: a missing field.
    let _ = C::deserialize(FlatMap { entries: std::slice::from_ref(found), failed: &failed });
    failed.into_inner()
}

#[derive(Clone, Debug)]
pub(crate) struct TextError(pub(crate) String);

impl fmt::Display for TextError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for TextError {}

impl de::Error for TextError {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self(message.to_string())
    }
}

struct FlatMap<'a> {
    entries: &'a [Entry<'a>],
    failed: &'a RefCell<Option<TextError>>,
}

impl<'de> Deserializer<'de> for FlatMap<'_> {
    type Error = TextError;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, TextError> {
        visitor.visit_map(FlatAccess { entries: self.entries.iter(), value: None, failed: self.failed })
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct newtype_struct seq tuple
        tuple_struct map struct enum identifier ignored_any
    }
}

struct FlatAccess<'a> {
    entries: std::slice::Iter<'a, Entry<'a>>,
    value: Option<&'a Value<'a>>,
    failed: &'a RefCell<Option<TextError>>,
}

impl<'de> MapAccess<'de> for FlatAccess<'_> {
    type Error = TextError;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, TextError> {
        let Some(entry) = self.entries.next() else { return Ok(None) };
        self.value = Some(&entry.value);
        let name: StrDeserializer<'_, TextError> = entry.name.into_deserializer();
        seed.deserialize(name).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, TextError> {
        let result = match self.value.take() {
            None => Err(TextError("a value was asked for before its key".into())),
            Some(Value::Text(text)) => seed.deserialize(TextValue(text)),
            Some(Value::Family(members)) => {
                seed.deserialize(MapDeserializer::new(members.iter().map(|(suffix, text)| (*suffix, TextValue(text)))))
            }
        };
        if let Err(error) = &result {
            self.failed.replace(Some(error.clone()));
        }
        result
    }
}

/// One value as text, read as whatever type is asked for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TextValue<'a>(pub(crate) &'a str);

impl<'de> IntoDeserializer<'de, TextError> for TextValue<'_> {
    type Deserializer = Self;
    fn into_deserializer(self) -> Self {
        self
    }
}

macro_rules! numbers {
    ($($method:ident $visit:ident $type:ty, $what:literal);*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, TextError> {
            match self.0.trim().parse::<$type>() {
                Ok(number) => visitor.$visit(number),
                Err(_) => Err(self.no_number($what, <$type>::MIN as f64, <$type>::MAX as f64)),
            }
        }
    )*};
}

impl TextValue<'_> {
    fn no_number(self, what: &str, min: f64, max: f64) -> TextError {
        let text = self.0;
        match text.trim().parse::<i128>() {
            Ok(number) if what == "whole number" => TextError(format!("{number} is not between {min} and {max}")),
            _ => TextError(format!("{text:?} is not a {what}")),
        }
    }
}

impl<'de> Deserializer<'de> for TextValue<'_> {
    type Error = TextError;

    numbers! {
        deserialize_i8 visit_i8 i8, "whole number"; deserialize_i16 visit_i16 i16, "whole number"; deserialize_i32 visit_i32 i32, "whole number";
        deserialize_i64 visit_i64 i64, "whole number"; deserialize_i128 visit_i128 i128, "whole number";
        deserialize_u8 visit_u8 u8, "whole number"; deserialize_u16 visit_u16 u16, "whole number"; deserialize_u32 visit_u32 u32, "whole number";
        deserialize_u64 visit_u64 u64, "whole number"; deserialize_u128 visit_u128 u128, "whole number"
    }

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, TextError> {
        visitor.visit_str(self.0)
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, TextError> {
        match self.0.trim() {
            text if text.eq_ignore_ascii_case("true") => visitor.visit_bool(true),
            text if text.eq_ignore_ascii_case("false") => visitor.visit_bool(false),
            _ => Err(TextError(format!("{:?} is not true or false", self.0))),
        }
    }

    fn deserialize_f64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, TextError> {
        match self.0.trim().parse::<f64>() {
            Ok(number) if number.is_finite() => visitor.visit_f64(number),
            _ => Err(TextError(format!("{:?} is not a number", self.0))),
        }
    }

    fn deserialize_f32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, TextError> {
        self.deserialize_f64(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, TextError> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, TextError> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, TextError> {
        visitor.visit_seq(SeqDeserializer::new(split_list(self.0).into_iter().map(TextValue)))
    }

    fn deserialize_tuple<V: Visitor<'de>>(self, _: usize, visitor: V) -> Result<V::Value, TextError> {
        self.deserialize_seq(visitor)
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(self, _: &'static str, _: usize, visitor: V) -> Result<V::Value, TextError> {
        self.deserialize_seq(visitor)
    }

    /// Kafka's enumerations ignore case in places; ours do everywhere.
    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, TextError> {
        let given = self.0.trim();
        match variants.iter().find(|v| **v == given).or_else(|| variants.iter().find(|v| v.eq_ignore_ascii_case(given))) {
            Some(variant) => visitor.visit_enum(IntoDeserializer::<TextError>::into_deserializer(*variant)),
            None => Err(TextError(format!("{:?} is not one of {}", self.0, variants.join(", ")))),
        }
    }

    forward_to_deserialize_any! { char str string bytes byte_buf unit unit_struct map struct identifier ignored_any }
}

//! Option types for a connector's `Config`: each is read from text (or from a native JSON value), says what it accepts when it refuses, and
//! carries its format in its JSON schema, so that validation, the reference and REST know it.

use crate::list::split_list;
use crate::options::TextValue;
use globset::{GlobBuilder, GlobSet, GlobSetBuilder};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{self, DeserializeOwned, Deserializer, SeqAccess, Visitor};
use serde::{Deserialize, Serialize, Serializer};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A duration: `500` is milliseconds, as in Kafka; `10s`, `10 seconds`, `5 min`, `1h 30m`, `2 days`.
/// A range on the field (`#[schemars(range(min = 1))]`) is in milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Millis(pub Duration);

impl Millis {
    pub const fn from_millis(millis: u64) -> Self {
        Self(Duration::from_millis(millis))
    }

    pub const fn from_secs(secs: u64) -> Self {
        Self(Duration::from_secs(secs))
    }

    pub const fn duration(self) -> Duration {
        self.0
    }

    /// Whole milliseconds; saturates.
    pub fn as_millis(self) -> u64 {
        u64::try_from(self.0.as_millis()).unwrap_or(u64::MAX)
    }

    /// # Errors
    /// What is wrong, as a sentence's end: `"10 parsecs" is not a duration`.
    pub fn parse(text: &str) -> Result<Self, String> {
        let refuse = || format!("{text:?} is not a duration");
        let (mut rest, mut millis, mut parts) = (text.trim(), 0f64, 0);
        if let Ok(plain) = rest.parse::<u64>() {
            return Ok(Self::from_millis(plain));
        }
        while !rest.is_empty() {
            let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(refuse)?;
            let number: f64 = rest[..digits].parse().map_err(|_| refuse())?;
            rest = rest[digits..].trim_start();
            let unit_end = rest.find(|c: char| !c.is_alphabetic()).unwrap_or(rest.len());
            millis += number * unit_millis(&rest[..unit_end]).ok_or_else(refuse)?;
            rest = rest[unit_end..].trim_start();
            parts += 1;
        }
        // f64 is exact for whole milliseconds up to 2^53, which is 285,000 years.
        if parts == 0 || millis > 9.0e15 { Err(refuse()) } else { Ok(Self::from_millis(millis.round() as u64)) }
    }
}

fn unit_millis(unit: &str) -> Option<f64> {
    Some(match unit.to_ascii_lowercase().as_str() {
        "ms" | "millis" | "millisecond" | "milliseconds" => 1.0,
        "s" | "sec" | "secs" | "second" | "seconds" => 1e3,
        "m" | "min" | "mins" | "minute" | "minutes" => 60e3,
        "h" | "hr" | "hour" | "hours" => 3600e3,
        "d" | "day" | "days" => 86_400e3,
        "w" | "week" | "weeks" => 604_800e3,
        _ => return None,
    })
}

impl fmt::Display for Millis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millis = self.as_millis();
        let (amount, unit) = match millis {
            0 => (0, "ms"),
            m if m % 86_400_000 == 0 => (m / 86_400_000, "d"),
            m if m % 3_600_000 == 0 => (m / 3_600_000, "h"),
            m if m % 60_000 == 0 => (m / 60_000, "min"),
            m if m % 1000 == 0 => (m / 1000, "s"),
            m => (m, "ms"),
        };
        write!(f, "{amount}{unit}")
    }
}

impl From<Millis> for Duration {
    fn from(millis: Millis) -> Duration {
        millis.0
    }
}

/// A duration, or -1 for no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Patience(pub Option<Millis>);

impl Patience {
    /// # Errors
    /// What is wrong, as a sentence's end.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.trim() == "-1" { Ok(Self(None)) } else { Millis::parse(text).map(|millis| Self(Some(millis))) }
    }
}

impl fmt::Display for Patience {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            None => f.write_str("-1"),
            Some(millis) => write!(f, "{}", millis.as_millis()),
        }
    }
}

/// A number of bytes: `1048576`, `64 MiB`, `1k`. `k m g t` and `KiB MiB GiB TiB` are powers of 1024, `kB MB GB TB` of 1000.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ByteSize(pub u64);

impl ByteSize {
    pub const fn kib(n: u64) -> Self {
        Self(n << 10)
    }

    pub const fn mib(n: u64) -> Self {
        Self(n << 20)
    }

    pub const fn get(self) -> u64 {
        self.0
    }

    /// Saturates.
    pub fn as_usize(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }

    /// # Errors
    /// What is wrong, as a sentence's end.
    pub fn parse(text: &str) -> Result<Self, String> {
        let refuse = || format!("{text:?} is not a size in bytes");
        let trimmed = text.trim();
        let digits = trimmed.find(|c: char| !c.is_ascii_digit() && c != '.' && c != '_').unwrap_or(trimmed.len());
        let unit: u64 = match trimmed[digits..].trim_start().to_ascii_lowercase().as_str() {
            "" | "b" | "byte" | "bytes" => 1,
            "k" | "kib" => 1 << 10,
            "m" | "mib" => 1 << 20,
            "g" | "gib" => 1 << 30,
            "t" | "tib" => 1 << 40,
            "kb" => 1000,
            "mb" => 1_000_000,
            "gb" => 1_000_000_000,
            "tb" => 1_000_000_000_000,
            _ => return Err(refuse()),
        };
        let number = trimmed[..digits].replace('_', "");
        if let Ok(whole) = number.parse::<u64>() {
            return whole.checked_mul(unit).map(Self).ok_or_else(|| format!("{text:?} is more than 2^64 bytes"));
        }
        let number: f64 = number.parse().map_err(|_| refuse())?;
        if unit == 1 { Err(refuse()) } else { Ok(Self((number * unit as f64) as u64)) }
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (shift, unit) in [(40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")] {
            if self.0 != 0 && self.0.is_multiple_of(1u64 << shift) {
                return write!(f, "{} {unit}", self.0 >> shift);
            }
        }
        write!(f, "{}", self.0)
    }
}

/// A regular expression of the crate `regex`: linear time in the text whatever the pattern, so no look-around and no back-references.
#[derive(Clone, Debug)]
pub struct Regex(regex::Regex);

/// A compiled pattern may not take more than this; larger ones come from counted repetitions of counted repetitions.
const REGEX_BYTES_MAX: usize = 1 << 20;

impl Regex {
    /// # Errors
    /// What is wrong, in one line.
    pub fn parse(text: &str) -> Result<Self, String> {
        regex::RegexBuilder::new(text).size_limit(REGEX_BYTES_MAX).build().map(Self).map_err(|error| {
            let full = error.to_string();
            let reason = full.lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned();
            format!("{text:?} is not a regular expression: {reason}")
        })
    }

    /// The same pattern over bytes that need not be UTF-8.
    pub fn bytes(&self) -> regex::bytes::Regex {
        let same = regex::bytes::RegexBuilder::new(self.0.as_str()).size_limit(2 * REGEX_BYTES_MAX).build();
        same.expect("a pattern that compiles over text also compiles over bytes")
    }

    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }
}

impl Deref for Regex {
    type Target = regex::Regex;
    fn deref(&self) -> &regex::Regex {
        &self.0
    }
}

impl PartialEq for Regex {
    fn eq(&self, other: &Self) -> bool {
        self.as_str() == other.as_str()
    }
}

impl fmt::Display for Regex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A path pattern: `*` and `?` stay within one folder, `**` crosses folders, `{a,b}` and `[a-z]` as in a shell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Glob(globset::Glob);

impl Glob {
    /// # Errors
    /// What is wrong, as a sentence's end.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.trim().is_empty() {
            return Err("an empty path pattern matches nothing".into());
        }
        let glob = GlobBuilder::new(text.trim()).literal_separator(true).build();
        glob.map(Self).map_err(|error| format!("{text:?} is not a path pattern: {}", error.kind()))
    }

    pub fn as_str(&self) -> &str {
        self.0.glob()
    }

    pub fn matcher(&self) -> globset::GlobMatcher {
        self.0.compile_matcher()
    }

    /// The folder in front of the first wildcard: where to start looking. The pattern itself, when it has no wildcard.
    pub fn base(&self) -> PathBuf {
        let text = self.as_str();
        match text.find(['*', '?', '[', '{', '\\']) {
            None => PathBuf::from(text),
            Some(at) => match text[..at].rfind('/') {
                Some(0) => PathBuf::from("/"),
                Some(slash) => PathBuf::from(&text[..slash]),
                None => PathBuf::from("."),
            },
        }
    }

    pub fn is_literal(&self) -> bool {
        !self.as_str().contains(['*', '?', '[', '{', '\\'])
    }
}

impl fmt::Display for Glob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Path patterns, compiled together. Commas within `{a,b}` do not separate.
#[derive(Clone, Debug, Default)]
pub struct GlobList {
    globs: Vec<Glob>,
    set: GlobSet,
}

impl GlobList {
    /// # Errors
    /// The first pattern that is wrong.
    pub fn parse(text: &str) -> Result<Self, String> {
        Self::new(split_list(text).into_iter().map(Glob::parse).collect::<Result<_, _>>()?)
    }

    /// # Errors
    /// When the patterns are too large together.
    pub fn new(globs: Vec<Glob>) -> Result<Self, String> {
        let mut set = GlobSetBuilder::new();
        for glob in &globs {
            set.add(glob.0.clone());
        }
        Ok(Self { set: set.build().map_err(|error| error.to_string())?, globs })
    }

    pub fn is_match(&self, path: impl AsRef<Path>) -> bool {
        self.set.is_match(path)
    }

    pub fn is_empty(&self) -> bool {
        self.globs.is_empty()
    }

    pub fn iter(&self) -> std::slice::Iter<'_, Glob> {
        self.globs.iter()
    }
}

impl fmt::Display for GlobList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.globs.iter().map(Glob::as_str).collect::<Vec<_>>().join(","))
    }
}

/// A password or token: no `Display`, no `Serialize`, and `Debug` hides it (invariant 9).
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(***)")
    }
}

/// A character set by its WHATWG label: `utf-8`, `latin1`, `windows-1252`, `shift_jis`, `utf-16le`, ….
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Charset(&'static encoding_rs::Encoding);

impl Charset {
    pub const UTF_8: Charset = Charset(encoding_rs::UTF_8);

    /// # Errors
    /// What is wrong, as a sentence's end.
    pub fn parse(text: &str) -> Result<Self, String> {
        encoding_rs::Encoding::for_label(text.trim().as_bytes())
            .map(Self)
            .ok_or_else(|| format!("{text:?} is not a known character set"))
    }

    pub fn encoding(self) -> &'static encoding_rs::Encoding {
        self.0
    }

    pub fn is_utf8(self) -> bool {
        self.0 == encoding_rs::UTF_8
    }
}

impl Default for Charset {
    fn default() -> Self {
        Self::UTF_8
    }
}

impl fmt::Display for Charset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.name())
    }
}

/// A path in the file system: not empty, no NUL. Relative paths are relative to the worker's current directory.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct PathText(PathBuf);

impl PathText {
    /// # Errors
    /// What is wrong, as a sentence's end.
    pub fn parse(text: &str) -> Result<Self, String> {
        match text {
            "" => Err("a path cannot be empty".into()),
            text if text.contains('\0') => Err("a path cannot contain a NUL character".into()),
            text => Ok(Self(PathBuf::from(text))),
        }
    }

    pub fn as_path(&self) -> &Path {
        &self.0
    }
}

impl Deref for PathText {
    type Target = Path;
    fn deref(&self) -> &Path {
        &self.0
    }
}

impl From<PathBuf> for PathText {
    fn from(path: PathBuf) -> Self {
        Self(path)
    }
}

impl fmt::Display for PathText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.display())
    }
}

/// `Deserialize` from text and numbers, and `JsonSchema`, for a type with `parse`.
macro_rules! text_type {
    ($type:ident, $format:literal, $types:tt) => {
        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                deserializer.deserialize_any(ParseText($type::parse, $format))
            }
        }

        impl std::str::FromStr for $type {
            type Err = String;
            fn from_str(text: &str) -> Result<Self, String> {
                $type::parse(text)
            }
        }

        impl JsonSchema for $type {
            fn schema_name() -> Cow<'static, str> {
                stringify!($type).into()
            }
            fn inline_schema() -> bool {
                true
            }
            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!({"type": $types, "x-format": $format})
            }
        }
    };
}

/// The default of a field shows in the reference.
macro_rules! text_serialize {
    ($($type:ident),*) => {$(
        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }
    )*};
}

impl Secret {
    fn parse(text: &str) -> Result<Self, String> {
        Ok(Self(text.to_owned()))
    }
}

text_type!(Millis, "duration", ["string", "integer"]);
text_type!(Patience, "duration", ["string", "integer"]);
text_type!(ByteSize, "bytes", ["string", "integer"]);
text_type!(Regex, "regex", "string");
text_type!(Glob, "glob", "string");
text_type!(GlobList, "glob-list", "string");
text_type!(Secret, "password", "string");
text_type!(Charset, "charset", "string");
text_type!(PathText, "path", "string");
text_serialize!(Millis, Patience, ByteSize, Regex, Glob, GlobList, Charset, PathText);

struct ParseText<T>(fn(&str) -> Result<T, String>, &'static str);

impl<'de, T> Visitor<'de> for ParseText<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a {} as text", self.1)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
        (self.0)(text).map_err(E::custom)
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<T, E> {
        self.visit_str(&number.to_string())
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<T, E> {
        self.visit_str(&number.to_string())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<T, A::Error> {
        let mut parts = Vec::<String>::new();
        while let Some(part) = seq.next_element()? {
            parts.push(part);
        }
        self.visit_str(&parts.join(","))
    }
}

/// A comma list, or a list in YAML or JSON.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct List<T>(pub Vec<T>);

impl<T> Default for List<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T> Deref for List<T> {
    type Target = Vec<T>;
    fn deref(&self) -> &Vec<T> {
        &self.0
    }
}

impl<T> IntoIterator for List<T> {
    type Item = T;
    type IntoIter = std::vec::IntoIter<T>;
    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

impl<T> FromIterator<T> for List<T> {
    fn from_iter<I: IntoIterator<Item = T>>(items: I) -> Self {
        Self(items.into_iter().collect())
    }
}

impl<T: Serialize> Serialize for List<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl<'de, T: DeserializeOwned> Deserialize<'de> for List<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Items<T>(PhantomData<T>);
        impl<'de, T: DeserializeOwned> Visitor<'de> for Items<T> {
            type Value = List<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a comma list")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<List<T>, E> {
                split_list(text).into_iter().map(|part| T::deserialize(TextValue(part)).map_err(E::custom)).collect()
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<List<T>, A::Error> {
                let mut items = Vec::new();
                while let Some(item) = seq.next_element()? {
                    items.push(item);
                }
                Ok(List(items))
            }
        }
        deserializer.deserialize_any(Items(PhantomData))
    }
}

impl<T: JsonSchema> JsonSchema for List<T> {
    fn schema_name() -> Cow<'static, str> {
        format!("List_{}", T::schema_name()).into()
    }
    fn inline_schema() -> bool {
        true
    }
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let items = generator.subschema_for::<T>();
        json_schema!({"type": "array", "items": items})
    }
}

/// All keys that start with the field's name: `#[serde(rename = "headers.*")] headers: Family<String>` takes `headers.a`, `headers.b.c`, ….
/// The keys are what follows the prefix. Never missing, maybe empty; needs no `#[serde(default)]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Family<T = String>(pub BTreeMap<String, T>);

impl<T> Default for Family<T> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<T> Deref for Family<T> {
    type Target = BTreeMap<String, T>;
    fn deref(&self) -> &BTreeMap<String, T> {
        &self.0
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Family<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        BTreeMap::deserialize(deserializer).map(Self)
    }
}

impl<T: JsonSchema> JsonSchema for Family<T> {
    fn schema_name() -> Cow<'static, str> {
        format!("Family_{}", T::schema_name()).into()
    }
    fn inline_schema() -> bool {
        true
    }
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let values = generator.subschema_for::<T>();
        json_schema!({"type": "object", "additionalProperties": values, "x-family": true})
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        let ms = |text: &str| Millis::parse(text).map(Millis::as_millis);
        for (text, expected) in [
            ("500", 500),
            ("0", 0),
            (" 10s ", 10_000),
            ("10 seconds", 10_000),
            ("5 min", 300_000),
            ("1h", 3_600_000),
            ("1h 30m", 5_400_000),
            ("1.5s", 1500),
            ("250 ms", 250),
            ("7 days", 604_800_000),
        ] {
            assert_eq!(ms(text), Ok(expected), "{text}");
        }
        for text in ["", "ten", "10 parsecs", "-5", "5 5", "1..5s", "s", "1e3", "99999999999999999999 days", "10s!"] {
            assert!(ms(text).is_err(), "{text}");
        }
        for millis in [0, 1, 999, 1000, 60_000, 90_000, 3_600_000, 86_400_000, 86_400_001] {
            assert_eq!(ms(&Millis::from_millis(millis).to_string()), Ok(millis));
        }
    }

    #[test]
    fn sizes() {
        let bytes = |text: &str| ByteSize::parse(text).map(ByteSize::get);
        for (text, expected) in [
            ("0", 0),
            ("1048576", 1 << 20),
            ("64 MiB", 64 << 20),
            ("1k", 1024),
            ("1 kB", 1000),
            ("1.5k", 1536),
            ("10GB", 10_000_000_000),
        ] {
            assert_eq!(bytes(text), Ok(expected), "{text}");
        }
        for text in ["", "-1", "1.5", "10 parsecs", "99999999999 TiB", "MiB", "1..2k"] {
            assert!(bytes(text).is_err(), "{text}");
        }
        for n in [0, 1, 1000, 1024, 1536, 64 << 20, 3 << 40] {
            assert_eq!(bytes(&ByteSize(n).to_string()), Ok(n));
        }
    }

    #[test]
    fn globs_stay_within_a_folder_and_know_where_to_look() {
        let list = GlobList::parse("/var/log/*.{log,txt}, /srv/**/access.log").unwrap();
        assert!(list.is_match("/var/log/a.log") && list.is_match("/var/log/a.txt") && list.is_match("/srv/a/b/access.log"));
        assert!(!list.is_match("/var/log/sub/a.log"));
        let bases: Vec<_> = list.iter().map(Glob::base).collect();
        assert_eq!(bases, [PathBuf::from("/var/log"), PathBuf::from("/srv")]);
        assert_eq!(Glob::parse("/a.log").unwrap().base(), PathBuf::from("/a.log"));
        assert_eq!(Glob::parse("/*.log").unwrap().base(), PathBuf::from("/"));
        assert_eq!(Glob::parse("*.log").unwrap().base(), PathBuf::from("."));
        assert!(GlobList::parse("/var/[").is_err());
    }

    #[test]
    fn a_regex_error_is_one_line() {
        let error = Regex::parse("a(b").unwrap_err();
        assert_eq!(error, r#""a(b" is not a regular expression: unclosed group"#);
        assert!(Regex::parse("(?:a{1000}){1000}").is_err(), "too large");
        let bytes = Regex::parse("^x").unwrap().bytes();
        assert!(bytes.is_match(b"x\xff"));
    }

    #[test]
    fn a_secret_does_not_show() {
        assert_eq!(format!("{:?}", Secret::new("hunter2")), "Secret(***)");
    }
}

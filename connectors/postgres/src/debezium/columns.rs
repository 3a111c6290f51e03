//! Which tables and columns are captured, what their values are masked with, and what keys are made of.

use crate::source::options::Options;
use crate::source::options::modes::Operation;
use aqueduct_config::{List, Regex};
use md5::Md5;
use sha1::Sha1;
use sha2::{Digest, Sha224, Sha256, Sha384, Sha512};
use std::fmt::Write;

/// Comma lists of Debezium: expressions over whole names, case ignored.
#[derive(Clone, Debug, Default)]
pub(crate) struct Patterns(Vec<regex::Regex>);

impl Patterns {
    pub(crate) fn new<'a>(texts: impl IntoIterator<Item = &'a str>) -> Result<Self, regex::Error> {
        let whole = |text: &str| regex::Regex::new(&format!("(?i)^(?:{text})$"));
        texts.into_iter().map(whole).collect::<Result<_, _>>().map(Self)
    }

    fn list(list: Option<&List<Regex>>) -> Option<Self> {
        let list = list.filter(|list| !list.is_empty())?;
        // Each is a regular expression by itself, so it is one within a group too.
        Self::new(list.iter().map(|one| one.as_str())).ok()
    }

    pub(crate) fn matches(&self, name: &str) -> bool {
        self.0.iter().any(|pattern| pattern.is_match(name))
    }
}

/// Either list, or neither.
#[derive(Clone, Debug, Default)]
struct Choice {
    include: Option<Patterns>,
    exclude: Option<Patterns>,
}

impl Choice {
    fn new(include: &Option<List<Regex>>, exclude: &Option<List<Regex>>) -> Self {
        Self { include: Patterns::list(include.as_ref()), exclude: Patterns::list(exclude.as_ref()) }
    }

    fn takes(&self, name: &str) -> bool {
        match (&self.include, &self.exclude) {
            (Some(include), _) => include.matches(name),
            (None, Some(exclude)) => !exclude.matches(name),
            (None, None) => true,
        }
    }
}

/// What is captured.
#[derive(Clone, Debug)]
pub(crate) struct Filters {
    schemas: Choice,
    tables: Choice,
    columns: Choice,
    messages: Choice,
    ignore_builtin: bool,
    skipped: [bool; 4],
}

impl Filters {
    pub(crate) fn new(options: &Options) -> Self {
        let skips = |operation| options.skipped.contains(&operation) && !options.skipped.contains(&Operation::None);
        Self {
            schemas: Choice::new(&options.schema_include, &options.schema_exclude),
            tables: Choice::new(&options.table_include, &options.table_exclude),
            columns: Choice::new(&options.column_include, &options.column_exclude),
            messages: Choice::new(&options.message_include, &options.message_exclude),
            ignore_builtin: options.ignore_builtin,
            skipped: [Operation::C, Operation::U, Operation::D, Operation::T].map(skips),
        }
    }

    pub(crate) fn table(&self, schema: &str, table: &str) -> bool {
        let builtin =
            matches!(schema, "pg_catalog" | "information_schema") || schema.starts_with("pg_temp_") || table == "spatial_ref_sys";
        !(self.ignore_builtin && builtin) && self.schemas.takes(schema) && self.tables.takes(&format!("{schema}.{table}"))
    }

    pub(crate) fn column(&self, schema: &str, table: &str, column: &str) -> bool {
        self.columns.takes(&format!("{schema}.{table}.{column}"))
    }

    pub(crate) fn message(&self, prefix: &str) -> bool {
        self.messages.takes(prefix)
    }

    /// Of `c`, `u`, `d`, `t`.
    pub(crate) fn skips(&self, operation: Operation) -> bool {
        match operation {
            Operation::C => self.skipped[0],
            Operation::U => self.skipped[1],
            Operation::D => self.skipped[2],
            Operation::T => self.skipped[3],
            Operation::None => false,
        }
    }
}

/// `message.key.columns`: expressions over `schema.table.column`, in the order of the key.
#[derive(Clone, Debug, Default)]
pub(crate) struct KeyColumns(Vec<Patterns>);

impl KeyColumns {
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let mut columns = Vec::new();
        for part in text.split(';').map(str::trim).filter(|part| !part.is_empty()) {
            let (table, list) = part.split_once(':').ok_or_else(|| format!("{part:?} has no `:`"))?;
            if table.is_empty() || list.is_empty() || list.contains(':') || part.contains(char::is_whitespace) {
                return Err(format!("{part:?} is not `schema.table:column,column`"));
            }
            for column in list.split(',').filter(|column| !column.is_empty()) {
                let pattern = format!("{table}.{column}");
                columns.push(Patterns::new([pattern.as_str()]).map_err(|_| format!("{pattern:?} is not a regular expression"))?);
            }
        }
        if columns.is_empty() { Err("is empty".to_owned()) } else { Ok(Self(columns)) }
    }

    /// The indexes of a table's columns that make its key; empty: the primary key's.
    pub(crate) fn of<'a>(&self, table: &str, columns: impl Iterator<Item = &'a str> + Clone) -> Vec<usize> {
        let mut found = Vec::new();
        for pattern in &self.0 {
            let matching = columns.clone().enumerate().filter(|(_, name)| pattern.matches(&format!("{table}.{name}")));
            found.extend(matching.map(|(index, _)| index));
        }
        let mut seen = rustc_hash::FxHashSet::default();
        found.retain(|index| seen.insert(*index));
        found
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Algorithm {
    Md5,
    Sha1,
    Sha224,
    Sha256,
    Sha384,
    Sha512,
}

/// `[v2.]<algorithm>.with.salt.<salt>`
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Hash {
    algorithm: Algorithm,
    salt: String,
    /// Version 1 hashes the text as Java serialises it.
    plain: bool,
}

impl Hash {
    pub(crate) fn parse(suffix: &str) -> Result<Self, &'static str> {
        let (plain, rest) = suffix.strip_prefix("v2.").map_or((false, suffix), |rest| (true, rest));
        let form = "write column.mask.hash.SHA-256.with.salt.<salt>, or column.mask.hash.v2.SHA-256.with.salt.<salt>";
        let (name, salt) = rest.split_once(".with.salt.").ok_or(form)?;
        let algorithm = match name.to_ascii_uppercase().as_str() {
            "MD5" => Algorithm::Md5,
            "SHA-1" | "SHA1" | "SHA" => Algorithm::Sha1,
            "SHA-224" => Algorithm::Sha224,
            "SHA-256" => Algorithm::Sha256,
            "SHA-384" => Algorithm::Sha384,
            "SHA-512" => Algorithm::Sha512,
            _ => return Err("use one of MD5, SHA-1, SHA-224, SHA-256, SHA-384, SHA-512"),
        };
        if salt.is_empty() { Err(form) } else { Ok(Self { algorithm, salt: salt.to_owned(), plain }) }
    }

    /// In lower-case hexadecimal.
    pub(crate) fn of(&self, text: &str) -> String {
        let mut bytes = self.salt.as_bytes().to_vec();
        if self.plain {
            bytes.extend_from_slice(text.as_bytes());
        } else {
            serialised(&mut bytes, text);
        }
        match self.algorithm {
            Algorithm::Md5 => lower_hex(&Md5::digest(&bytes)),
            Algorithm::Sha1 => lower_hex(&Sha1::digest(&bytes)),
            Algorithm::Sha224 => lower_hex(&Sha224::digest(&bytes)),
            Algorithm::Sha256 => lower_hex(&Sha256::digest(&bytes)),
            Algorithm::Sha384 => lower_hex(&Sha384::digest(&bytes)),
            Algorithm::Sha512 => lower_hex(&Sha512::digest(&bytes)),
        }
    }
}

/// `ObjectOutputStream.writeObject(String)`: a header, a tag, the length, modified UTF-8.
fn serialised(out: &mut Vec<u8>, text: &str) {
    let mut body = Vec::with_capacity(text.len());
    for unit in text.encode_utf16() {
        match unit {
            1..=0x7f => body.push(unit as u8),
            0 | 0x80..=0x7ff => body.extend([0xc0 | (unit >> 6) as u8, 0x80 | (unit & 0x3f) as u8]),
            _ => body.extend([0xe0 | (unit >> 12) as u8, 0x80 | ((unit >> 6) & 0x3f) as u8, 0x80 | (unit & 0x3f) as u8]),
        }
    }
    out.extend([0xac, 0xed, 0, 5]);
    match u16::try_from(body.len()) {
        Ok(len) => {
            out.push(0x74);
            out.extend(len.to_be_bytes());
        }
        Err(_) => {
            out.push(0x7c);
            out.extend((body.len() as u64).to_be_bytes());
        }
    }
    out.extend(body);
}

pub(crate) fn lower_hex(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        let _ = write!(out, "{byte:02x}");
    }
    out
}

/// What happens to a column besides its conversion: the first rule that matches counts.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Mapper {
    /// So many UTF-16 units stay.
    Truncate(usize),
    Mask(String),
    Hash(Hash),
    /// The type in the database, in the schema's parameters.
    SourceType,
}

/// Debezium's rules, in Debezium's order: truncate, mask, propagate by column, propagate by type, hash, hash v2.
#[derive(Clone, Debug, Default)]
pub(crate) struct Mappers(Vec<(Patterns, bool, Mapper)>);

impl Mappers {
    pub(crate) fn new(options: &Options) -> Self {
        let mut rules = Vec::new();
        let mut rule = |list: Option<&List<Regex>>, by_type: bool, mapper: Mapper| {
            rules.extend(Patterns::list(list).map(|patterns| (patterns, by_type, mapper)));
        };
        let chars = crate::source::options::check::chars;
        for (suffix, columns) in options.truncate.iter() {
            rule(chars(suffix).and(Some(columns)), false, Mapper::Truncate(chars(suffix).unwrap_or_default()));
        }
        for (suffix, columns) in options.mask.iter() {
            rule(chars(suffix).and(Some(columns)), false, Mapper::Mask("*".repeat(chars(suffix).unwrap_or_default())));
        }
        rule(options.propagate_columns.as_ref(), false, Mapper::SourceType);
        rule(options.propagate_types.as_ref(), true, Mapper::SourceType);
        for version in [false, true] {
            for (suffix, columns) in options.hash.iter() {
                if let Ok(hash) = Hash::parse(suffix)
                    && hash.plain == version
                {
                    rule(Some(columns), false, Mapper::Hash(hash));
                }
            }
        }
        Self(rules)
    }

    /// `table` is `schema.table`, `type_name` as in `pg_type`.
    pub(crate) fn of(&self, table: &str, column: &str, type_name: &str) -> Option<&Mapper> {
        if self.0.is_empty() {
            return None;
        }
        let (by_name, by_type) = (format!("{table}.{column}"), format!("{table}.{type_name}"));
        let hit = self.0.iter().find(|(patterns, types, _)| patterns.matches(if *types { &by_type } else { &by_name }));
        hit.map(|(_, _, mapper)| mapper)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn key_columns_are_in_the_order_of_their_rules() {
        let keys = KeyColumns::parse("public.a:y,x;(.*).b:id").unwrap();
        assert_eq!(keys.of("public.a", ["x", "y", "z"].into_iter()), [1, 0]);
        assert_eq!(keys.of("s.b", ["x", "ID"].into_iter()), [1]);
        assert_eq!(keys.of("s.c", ["x", "id"].into_iter()), Vec::<usize>::new());
        for wrong in ["", "a", ":x", "a:", "a:b:c", "a b:c", "(:x"] {
            assert!(KeyColumns::parse(wrong).is_err(), "{wrong:?}");
        }
    }

    /// Computed with Java's ObjectOutputStream and MessageDigest.
    #[test]
    fn hashes_are_debeziums() {
        let v1 = Hash::parse("SHA-256.with.salt.salt123").unwrap();
        assert_eq!(v1.of("hello"), "aaf7d5c0bfa05b5c5e8788ede78da027cdf4054869321f62fe67aa6c3c27d5ea");
        assert_eq!(v1.of("hé€😀\0"), "01622e734e11aa55e56811f45c56d533e99d058259adbcbecff6267723517e9d");
        let v2 = Hash::parse("v2.SHA-256.with.salt.salt123").unwrap();
        assert_eq!(v2.of("hello"), "7f14a764313a07245bf188b0812604f0a033577ad9798d82f6863d8dbec54542");
    }
}

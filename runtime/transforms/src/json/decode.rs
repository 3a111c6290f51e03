//! JSON to values: straight from the text, led by the schema where there is one.

use super::{DEPTH_MAX, Style, too_deep};
use crate::decimal::{is_decimal, parse, scale};
use aqueduct_core::schema::Kind;
use aqueduct_core::{Bytes, Data, Error, Projection, Result, Schema};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rustc_hash::FxHashMap;
use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;
use std::cell::{Cell, RefCell};
use std::fmt;
use std::sync::Arc;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Envelope<'a> {
    #[serde(borrow)]
    pub schema: &'a RawValue,
    #[serde(borrow)]
    pub payload: &'a RawValue,
}

/// # Errors
/// `converter.json`
pub(super) fn envelope(message: &[u8]) -> Result<Envelope<'_>> {
    serde_json::from_slice(message).map_err(|why| match why.classify() {
        serde_json::error::Category::Data => json_error(
            "JsonConverter with schemas.enable requires \"schema\" and \"payload\" fields and may not contain additional fields. \
             If you are trying to deserialize plain JSON data, set schemas.enable=false in your converter configuration.",
        ),
        _ => not_json(&why),
    })
}

/// The whole of `message` as one value.
///
/// # Errors
/// As [`super::Json::decode`].
pub(super) fn value(message: &[u8], schema: Option<&Schema>, style: Style) -> Result<Data> {
    read(message, schema, style, None).map(|(data, _)| data)
}

/// As [`value`], without what the projection leaves out.
pub(super) fn projected(message: &[u8], schema: Option<&Arc<Schema>>, style: Style, projection: &Projection) -> Result<Data> {
    let of = schema.map(|schema| &**schema);
    let (data, whole) = read(message, of, style, Some(projection))?;
    if whole || (projection.applies)(schema, &data) { Ok(data) } else { value(message, of, style) }
}

/// The value, and whether nothing was left out.
fn read(message: &[u8], schema: Option<&Schema>, style: Style, projection: Option<&Projection>) -> Result<(Data, bool)> {
    let state = State { style, projection, left_out: Cell::new(false), vast: Cell::new(false), error: RefCell::new(None) };
    let mut reader = serde_json::Deserializer::from_slice(message);
    let seed = Seed { schema, depth: 0, state: &state, kept: None };
    let read = seed.deserialize(&mut reader).and_then(|data| reader.end().map(|()| data));
    let data = read.map_err(|why| state.error.take().unwrap_or_else(|| not_json(&why)))?;
    // The reader hands an integer beyond 64 bits over as a float. Kafka Connect keeps its low 64 bits, silently; we refuse it.
    if state.vast.get() && has_vast_integer(message) {
        return Err(vast());
    }
    Ok((data, !state.left_out.get()))
}

struct State<'p> {
    style: Style,
    projection: Option<&'p Projection>,
    /// Something was.
    left_out: Cell<bool>,
    /// A schemaless float was so large that it may have been an integer.
    vast: Cell<bool>,
    /// The error behind a serde error.
    error: RefCell<Option<Error>>,
}

impl<'p> State<'p> {
    /// What is kept of this field of the whole.
    fn kept(&self, depth: usize, field: &str) -> Option<&'p [String]> {
        let projection = self.projection.filter(|projection| depth == 0 && projection.field == field)?;
        self.left_out.set(true);
        Some(&projection.kept)
    }

    fn fail<E: serde::de::Error>(&self, error: Error) -> E {
        let serde_error = E::custom(error.message());
        self.error.borrow_mut().get_or_insert(error);
        serde_error
    }
}

#[derive(Clone, Copy)]
struct Seed<'s> {
    schema: Option<&'s Schema>,
    depth: usize,
    state: &'s State<'s>,
    /// Of this value's fields; `None` is all.
    kept: Option<&'s [String]>,
}

impl<'s> Seed<'s> {
    fn inner(self, schema: Option<&'s Schema>) -> Self {
        Self { schema, depth: self.depth + 1, state: self.state, kept: None }
    }

    fn keeps(self, name: &str) -> bool {
        self.kept.is_none_or(|kept| kept.iter().any(|kept| kept == name))
    }

    /// No value of the schema's type stands there.
    fn refuse<E: serde::de::Error>(self, found: &str) -> E {
        let kind = self.schema.map_or("unknown schema", |schema| schema.kind.name());
        self.state.fail(Error::fatal("converter.type", format!("expected {kind}, found {found}")))
    }

    fn integer<E: serde::de::Error>(self, value: i64) -> Result<Data, E> {
        let Some(schema) = self.schema else { return Ok(Data::Int64(value)) };
        let fitted = match schema.kind {
            Kind::Int8 => i8::try_from(value).map(Data::Int8),
            Kind::Int16 => i16::try_from(value).map(Data::Int16),
            Kind::Int32 => i32::try_from(value).map(Data::Int32),
            Kind::Int64 => Ok(Data::Int64(value)),
            Kind::Float64 => Ok(Data::Float64(value as f64)),
            _ => return Err(self.refuse("an integer")),
        };
        fitted.map_err(|_| self.refuse(&format!("{value}, which is out of range")))
    }

    fn default<E: serde::de::Error>(self) -> Result<Data, E> {
        match self.schema {
            Some(Schema { default: Some(default), .. }) if self.state.style.replace_null => Ok(default.clone()),
            Some(schema) if !schema.optional => {
                let kind = schema.kind.name().to_uppercase();
                Err(self.state.fail(Error::fatal("converter.null", format!("Invalid null value for required {kind} field"))))
            }
            _ => Ok(Data::Null),
        }
    }
}

impl<'de> DeserializeSeed<'de> for Seed<'_> {
    type Value = Data;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Data, D::Error> {
        // Numbers whose exact text counts. Their schemas are rare, and a raw value costs a second look at a few bytes.
        match self.schema {
            Some(schema) if schema.kind == Kind::Float32 || is_decimal(schema) => {
                let raw = <&RawValue>::deserialize(deserializer)?.get();
                match (raw.as_bytes()[0], schema.kind) {
                    (b'-' | b'0'..=b'9', Kind::Float32) => raw.parse().map(Data::Float32).map_err(D::Error::custom),
                    (b'-' | b'0'..=b'9', _) => {
                        let unscaled = scale(schema).and_then(|scale| parse(raw, scale));
                        unscaled.map(Data::Bytes).map_err(|error| self.state.fail(error))
                    }
                    _ => serde_json::Deserializer::from_str(raw).deserialize_any(self).map_err(D::Error::custom),
                }
            }
            _ => deserializer.deserialize_any(self),
        }
    }
}

impl<'de> Visitor<'de> for Seed<'_> {
    type Value = Data;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E: serde::de::Error>(self) -> Result<Data, E> {
        self.default()
    }

    fn visit_bool<E: serde::de::Error>(self, value: bool) -> Result<Data, E> {
        match self.schema {
            None | Some(Schema { kind: Kind::Boolean, .. }) => Ok(Data::Boolean(value)),
            _ => Err(self.refuse("a boolean")),
        }
    }

    fn visit_i64<E: serde::de::Error>(self, value: i64) -> Result<Data, E> {
        self.integer(value)
    }

    fn visit_u64<E: serde::de::Error>(self, value: u64) -> Result<Data, E> {
        match (i64::try_from(value), self.schema) {
            (Ok(value), _) => self.integer(value),
            (Err(_), Some(Schema { kind: Kind::Float64, .. })) => Ok(Data::Float64(value as f64)),
            (Err(_), _) => Err(self.state.fail(vast())),
        }
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Data, E> {
        match self.schema.map(|schema| schema.kind) {
            Some(Kind::Float64) => Ok(Data::Float64(value)),
            // `3.0` and `1e3` are whole numbers. Kafka Connect would cut `1.7` to 1.
            Some(Kind::Int8 | Kind::Int16 | Kind::Int32 | Kind::Int64) if value.fract() == 0.0 && value.abs() < 2f64.powi(53) => {
                self.integer(value as i64)
            }
            Some(_) => Err(self.refuse(&format!("the number {value}"))),
            None => {
                self.state.vast.set(self.state.vast.get() || value.abs() >= 2f64.powi(63));
                Ok(Data::Float64(value))
            }
        }
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Data, E> {
        let special = || match text {
            "NaN" => Some(f64::NAN),
            "Infinity" => Some(f64::INFINITY),
            "-Infinity" => Some(f64::NEG_INFINITY),
            _ => None,
        };
        match self.schema.map(|schema| schema.kind) {
            None | Some(Kind::String) => Ok(Data::String(text.to_owned())),
            Some(Kind::Bytes) => match STANDARD.decode(text) {
                Ok(bytes) => Ok(Data::Bytes(Bytes::from(bytes))),
                Err(why) => {
                    Err(self.state.fail(Error::fatal("converter.type", format!("Invalid bytes field: not base64: {why}"))))
                }
            },
            Some(Kind::Float64) => special().map(Data::Float64).ok_or_else(|| self.refuse("a string")),
            Some(Kind::Float32) => special().map(|value| Data::Float32(value as f32)).ok_or_else(|| self.refuse("a string")),
            _ => Err(self.refuse("a string")),
        }
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Data, A::Error> {
        if self.depth >= DEPTH_MAX {
            return Err(self.state.fail(too_deep()));
        }
        match self.schema {
            None => read_all(&mut items, self.inner(None)).map(Data::Array),
            Some(Schema { kind: Kind::Array, values, .. }) => {
                read_all(&mut items, self.inner(values.as_deref())).map(Data::Array)
            }
            // Keys that are not strings: a list of pairs.
            Some(Schema { kind: Kind::Map, keys: Some(keys), values, .. }) if keys.kind != Kind::String => {
                let pair = Pair { key: self.inner(Some(keys)), value: self.inner(values.as_deref()) };
                let mut entries = Vec::new();
                while let Some(entry) = items.next_element_seed(pair)? {
                    entries.push(entry);
                }
                Ok(Data::Map(entries))
            }
            Some(_) => Err(self.refuse("an array")),
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Data, A::Error> {
        if self.depth >= DEPTH_MAX {
            return Err(self.state.fail(too_deep()));
        }
        match self.schema {
            None => read_map(&mut entries, self, None),
            Some(Schema { kind: Kind::Map, keys: Some(keys), values, .. }) if keys.kind == Kind::String => {
                read_map(&mut entries, self, values.as_deref())
            }
            Some(schema) if schema.kind == Kind::Struct => {
                let mut values = vec![None; schema.fields.len()];
                let mut next = 0;
                while let Some(index) = entries.next_key_seed(FieldName { schema, next })? {
                    match index {
                        Some(index) => {
                            let field = &schema.fields[index];
                            values[index] = Some(if self.keeps(&field.name) {
                                let kept = self.state.kept(self.depth, &field.name);
                                entries.next_value_seed(Seed { kept, ..self.inner(Some(&field.schema)) })?
                            } else {
                                entries.next_value::<IgnoredAny>().map(|_| Data::Null)?
                            });
                            next = index + 1;
                        }
                        None => {
                            entries.next_value::<IgnoredAny>()?;
                        }
                    }
                }
                let filled = values.into_iter().zip(&schema.fields);
                let filled = filled.map(|(value, field)| value.map_or_else(|| self.inner(Some(&field.schema)).default(), Ok));
                filled.collect::<Result<_, _>>().map(Data::Struct)
            }
            Some(_) => Err(self.refuse("an object")),
        }
    }
}

fn read_all<'de, A: SeqAccess<'de>>(items: &mut A, seed: Seed<'_>) -> Result<Vec<Data>, A::Error> {
    let mut out = Vec::new();
    while let Some(item) = items.next_element_seed(seed)? {
        out.push(item);
    }
    Ok(out)
}

/// Of a name that comes twice the last value counts, at the place of the first, as with Jackson.
fn read_map<'de, A: MapAccess<'de>>(entries: &mut A, map: Seed<'_>, values: Option<&Schema>) -> Result<Data, A::Error> {
    let mut out: Vec<(Data, Data)> = Vec::new();
    // Few names are compared one by one; many by hash, so that a record of a million names stays linear.
    let mut places: FxHashMap<String, usize> = FxHashMap::default();
    while let Some(name) = entries.next_key_seed(KeptName(map))? {
        let Some(name) = name else {
            entries.next_value::<IgnoredAny>()?;
            continue;
        };
        let kept = map.state.kept(map.depth, &name);
        let value = entries.next_value_seed(Seed { schema: values, depth: map.depth + 1, state: map.state, kept })?;
        if out.len() == 16 {
            places = out.iter().enumerate().filter_map(|(at, (name, _))| Some((name.as_str()?.to_owned(), at))).collect();
        }
        let same = if out.len() < 16 {
            out.iter().position(|(other, _)| other.as_str() == Some(&name))
        } else {
            places.get(&name).copied()
        };
        match same {
            Some(at) => out[at].1 = value,
            None => {
                if out.len() >= 16 {
                    places.insert(name.clone(), out.len());
                }
                out.push((Data::String(name), value));
            }
        }
    }
    Ok(Data::Map(out))
}

/// The name, where its value is kept.
#[derive(Clone, Copy)]
struct KeptName<'s>(Seed<'s>);

impl<'de> DeserializeSeed<'de> for KeptName<'_> {
    type Value = Option<String>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for KeptName<'_> {
    type Value = Option<String>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a field's name")
    }

    fn visit_str<E: serde::de::Error>(self, name: &str) -> Result<Self::Value, E> {
        Ok(self.0.keeps(name).then(|| name.to_owned()))
    }
}

/// The index of the field with this name. Fields mostly come in the schema's order, so the next one is tried first.
#[derive(Clone, Copy)]
struct FieldName<'s> {
    schema: &'s Schema,
    next: usize,
}

impl<'de> DeserializeSeed<'de> for FieldName<'_> {
    type Value = Option<usize>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for FieldName<'_> {
    type Value = Option<usize>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a field's name")
    }

    fn visit_str<E: serde::de::Error>(self, name: &str) -> Result<Self::Value, E> {
        let expected = self.schema.fields.get(self.next).filter(|field| &*field.name == name).map(|_| self.next);
        Ok(expected.or_else(|| self.schema.field_index(name)))
    }
}

/// `[key, value]`
#[derive(Clone, Copy)]
struct Pair<'s> {
    key: Seed<'s>,
    value: Seed<'s>,
}

impl<'de> DeserializeSeed<'de> for Pair<'_> {
    type Value = (Data, Data);

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for Pair<'_> {
    type Value = (Data, Data);

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a map entry as an array of 2: Found invalid map entry")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Self::Value, A::Error> {
        let missing = || A::Error::custom("Found invalid map entry, expected length 2");
        let key = items.next_element_seed(self.key)?.ok_or_else(missing)?;
        let value = items.next_element_seed(self.value)?.ok_or_else(missing)?;
        if items.next_element::<IgnoredAny>()?.is_some() {
            return Err(missing());
        }
        Ok((key, value))
    }
}

/// Whether an integer of more than 64 bits stands outside the strings: digits with no point and no exponent. The text is JSON.
fn has_vast_integer(message: &[u8]) -> bool {
    let (mut at, mut in_string) = (0, false);
    while at < message.len() {
        match message[at] {
            b'\\' if in_string => at += 1,
            b'"' => in_string = !in_string,
            b'-' | b'0'..=b'9' if !in_string => {
                let length =
                    message[at..].iter().take_while(|b| matches!(b, b'-' | b'+' | b'.' | b'e' | b'E' | b'0'..=b'9')).count();
                let number = &message[at..at + length];
                let integer = !number.iter().any(|b| matches!(b, b'.' | b'e' | b'E'));
                if integer && std::str::from_utf8(number).is_ok_and(|text| text.parse::<i64>().is_err()) {
                    return true;
                }
                at += length;
                continue;
            }
            _ => {}
        }
        at += 1;
    }
    false
}

fn vast() -> Error {
    Error::fatal("converter.range", "an integer does not fit into 64 bits").fix("send it as a string, or with a Decimal schema")
}

fn not_json(why: &serde_json::Error) -> Error {
    json_error(format!("Converting byte[] to Kafka Connect data failed due to serialization error: {why}"))
}

fn json_error(message: impl Into<String>) -> Error {
    Error::fatal("converter.json", message)
}

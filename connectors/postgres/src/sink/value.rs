//! One value into one cell: in the binary form of the column's type where that is cheap, else as text that the server casts.

use super::meaning::{Meaning, Unit};
use super::text::{self, Refused, kind_of, whole};
use aqueduct_core::{Data, Schema};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::tz::TimeZone;

/// A type that is written in binary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Native {
    Bool,
    Int2,
    Int4,
    Int8,
    Float4,
    Float8,
    /// `text`, `varchar`, `bpchar`: the same bytes.
    Text,
    Bytea,
    Uuid,
    Date,
    Time,
    Timestamp,
    Timestamptz,
}

impl Native {
    /// By `pg_type.oid`.
    pub(super) fn of(oid: u32) -> Option<Self> {
        Some(match oid {
            16 => Native::Bool,
            21 => Native::Int2,
            23 => Native::Int4,
            20 => Native::Int8,
            700 => Native::Float4,
            701 => Native::Float8,
            25 | 1042 | 1043 => Native::Text,
            17 => Native::Bytea,
            2950 => Native::Uuid,
            1082 => Native::Date,
            1083 => Native::Time,
            1114 => Native::Timestamp,
            1184 => Native::Timestamptz,
            _ => return None,
        })
    }

    /// Oids of the element and of its array, and the array's name.
    pub(super) fn wire(self) -> (u32, u32, &'static str) {
        match self {
            Native::Bool => (16, 1000, "bool[]"),
            Native::Int2 => (21, 1005, "int2[]"),
            Native::Int4 => (23, 1007, "int4[]"),
            Native::Int8 => (20, 1016, "int8[]"),
            Native::Float4 => (700, 1021, "float4[]"),
            Native::Float8 => (701, 1022, "float8[]"),
            Native::Text => (25, 1009, "text[]"),
            Native::Bytea => (17, 1001, "bytea[]"),
            Native::Uuid => (2950, 2951, "uuid[]"),
            Native::Date => (1082, 1182, "date[]"),
            Native::Time => (1083, 1183, "time[]"),
            Native::Timestamp => (1114, 1115, "timestamp[]"),
            Native::Timestamptz => (1184, 1185, "timestamptz[]"),
        }
    }
}

/// What decides how a value is written; of a column.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Target {
    /// Of the type, or of a domain's base type.
    pub(super) native: Option<Native>,
    pub(super) shape: Shape,
    /// As `format_type` says, for people.
    pub(super) type_name: String,
}

/// Of a column that is not native.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    Scalar,
    /// Any text goes: `text`, `varchar`, `citext`.
    Text,
    Array,
    Json,
    Hstore,
    /// `bit`, `varbit`
    Bits,
    Number,
    Point,
    /// PostGIS.
    Geometry,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// The record says nothing of this column.
    Absent,
    Null,
    Native,
    /// To be cast by the server.
    Text,
}

/// What is the same for all values of a task.
#[derive(Clone, Copy, Debug)]
pub(super) struct Dress<'a> {
    pub(super) placeholder: &'a str,
    pub(super) timezone: Option<&'a TimeZone>,
}

/// Appends the value to `out`.
///
/// # Errors
/// The end of a sentence that begins with the column's name; `out` may then hold a part.
pub(super) fn encode(
    data: &Data,
    meaning: &Meaning,
    schema: Option<&Schema>,
    target: &Target,
    dress: Dress<'_>,
    out: &mut Vec<u8>,
) -> Result<Form, Refused> {
    match data {
        Data::Null => return Ok(Form::Null),
        Data::Unavailable => return Ok(Form::Absent),
        Data::Shared(shared) => return encode(shared, meaning, schema, target, dress, out),
        data if is_placeholder(data, dress.placeholder) => return Ok(Form::Absent),
        _ => {}
    }
    if let Some(native) = target.native
        && encode_native(data, meaning, native, dress, out)?
    {
        return Ok(Form::Native);
    }
    let mut rendered = String::new();
    as_text(data, meaning, schema, target, &mut rendered)?;
    if memchr::memchr(0, rendered.as_bytes()).is_some() {
        return Err(nul());
    }
    out.extend_from_slice(rendered.as_bytes());
    Ok(if target.native == Some(Native::Text) { Form::Native } else { Form::Text })
}

fn nul() -> Refused {
    "has a NUL character, which no text in Postgres can hold".to_owned()
}

/// Debezium's text, its bytes, or an array or map of nothing else.
fn is_placeholder(data: &Data, placeholder: &str) -> bool {
    match data {
        Data::String(text) => text == placeholder,
        Data::Bytes(bytes) => bytes.len() == placeholder.len() && bytes == placeholder.as_bytes(),
        Data::Array(items) if items.len() == 1 => is_placeholder(&items[0], placeholder),
        // Arrays of numbers: its bytes, one by one.
        Data::Array(items) if items.len() == placeholder.len() && !items.is_empty() => {
            items.iter().zip(placeholder.bytes()).all(|(item, byte)| whole(item) == Ok(i64::from(byte)))
        }
        Data::Map(entries) if entries.len() == 1 => is_placeholder(&entries[0].0, placeholder),
        _ => false,
    }
}

/// False: not in binary; nothing was written.
fn encode_native(data: &Data, meaning: &Meaning, native: Native, dress: Dress<'_>, out: &mut Vec<u8>) -> Result<bool, Refused> {
    match native {
        Native::Text => match (data, meaning) {
            (Data::String(text), _) => {
                if memchr::memchr(0, text.as_bytes()).is_some() {
                    return Err(nul());
                }
                out.extend_from_slice(text.as_bytes());
            }
            _ => return Ok(false),
        },
        Native::Bool => match data {
            Data::Boolean(flag) => out.push(u8::from(*flag)),
            _ => return Ok(false),
        },
        Native::Int2 | Native::Int4 | Native::Int8 => return whole_native(data, meaning, native, out),
        Native::Float4 | Native::Float8 => return float_native(data, meaning, native, out),
        Native::Bytea => match data {
            Data::Bytes(bytes) if *meaning == Meaning::Plain => out.extend_from_slice(bytes),
            // JSON without a schema has bytes in Base64; Postgres' own text form begins with \x.
            Data::String(text) if !text.starts_with("\\x") => {
                let bytes = STANDARD.decode(text).map_err(|_| "is a text, neither Base64 nor \\x and hex, for bytea")?;
                out.extend_from_slice(&bytes);
            }
            _ => return Ok(false),
        },
        Native::Uuid => match data {
            Data::String(text) => match uuid::Uuid::try_parse(text) {
                Ok(uuid) => out.extend_from_slice(uuid.as_bytes()),
                Err(_) => return Ok(false),
            },
            Data::Bytes(bytes) if bytes.len() == 16 => out.extend_from_slice(bytes),
            _ => return Ok(false),
        },
        Native::Date | Native::Time | Native::Timestamp | Native::Timestamptz => {
            return temporal_native(data, meaning, native, dress, out);
        }
    }
    Ok(true)
}

fn whole_native(data: &Data, meaning: &Meaning, native: Native, out: &mut Vec<u8>) -> Result<bool, Refused> {
    let number = match data {
        Data::Boolean(flag) => i64::from(*flag),
        // Days, micros and the like are numbers, if a number is what the column wants.
        data if !matches!(meaning, Meaning::Decimal { .. } | Meaning::VariableDecimal) => match whole(data) {
            Ok(number) => number,
            Err(_) => return Ok(false),
        },
        _ => return Ok(false),
    };
    let range = |bits: &str| format!("is {number}, too large for {bits}");
    match native {
        Native::Int2 => out.extend_from_slice(&i16::try_from(number).map_err(|_| range("smallint"))?.to_be_bytes()),
        Native::Int4 => out.extend_from_slice(&i32::try_from(number).map_err(|_| range("integer"))?.to_be_bytes()),
        _ => out.extend_from_slice(&number.to_be_bytes()),
    }
    Ok(true)
}

fn float_native(data: &Data, meaning: &Meaning, native: Native, out: &mut Vec<u8>) -> Result<bool, Refused> {
    let number = match data {
        _ if *meaning != Meaning::Plain => return Ok(false),
        Data::Float64(number) => *number,
        Data::Float32(number) => f64::from(*number),
        data => match whole(data) {
            Ok(number) => number as f64,
            Err(_) => return Ok(false),
        },
    };
    if native == Native::Float8 {
        out.extend_from_slice(&number.to_be_bytes());
        return Ok(true);
    }
    let narrow = number as f32;
    if narrow.is_infinite() && number.is_finite() {
        return Err(format!("is {number}, too large for real"));
    }
    out.extend_from_slice(&narrow.to_be_bytes());
    Ok(true)
}

/// Postgres counts from 2000.
const EPOCH_DAYS: i64 = 10_957;
const EPOCH_MICROS: i64 = EPOCH_DAYS * text::DAY_MICROS;
/// Postgres' own limits, counted from 2000: 4713 BC to 294276 AD, and to 5874897 AD for dates.
const TIMESTAMPS: std::ops::Range<i64> = -211_813_488_000_000_000..9_223_371_331_200_000_000;
const DATES: std::ops::Range<i64> = -2_451_545..2_145_031_949;

fn temporal_native(data: &Data, meaning: &Meaning, native: Native, dress: Dress<'_>, out: &mut Vec<u8>) -> Result<bool, Refused> {
    match native {
        Native::Date => {
            let days = match meaning {
                // A bare number for a date is days in all that Connect's world has.
                Meaning::Date | Meaning::Plain if !matches!(data, Data::String(_)) => whole(data)?,
                Meaning::Timestamp(_) | Meaning::Instant if text::infinite(whole(data)?).is_some() => whole(data)?,
                Meaning::Timestamp(unit) => unit.micros(whole(data)?).ok_or_else(far)?.div_euclid(text::DAY_MICROS),
                Meaning::Instant => local(whole(data)?, dress)?.div_euclid(text::DAY_MICROS),
                _ => return Ok(false),
            };
            let days = match text::infinite_days(days) {
                Some(true) => i64::from(i32::MAX),
                Some(false) => i64::from(i32::MIN),
                None => Some(days - EPOCH_DAYS).filter(|days| DATES.contains(days)).ok_or_else(far)?,
            };
            out.extend_from_slice(&(days as i32).to_be_bytes());
        }
        Native::Time => {
            let micros = match meaning {
                Meaning::Time(unit) => unit.micros(whole(data)?).ok_or_else(far)?,
                Meaning::Plain if matches!(data, Data::String(_)) => return Ok(false),
                Meaning::Plain => return Err(ambiguous(data, "time")),
                _ => return Ok(false),
            };
            if !(0..=text::DAY_MICROS).contains(&micros) {
                return Err("is no time of a day".to_owned());
            }
            out.extend_from_slice(&micros.to_be_bytes());
        }
        _ => {
            let micros = match (data, meaning) {
                (_, Meaning::Timestamp(_) | Meaning::Instant) if text::infinite(whole(data)?).is_some() => whole(data)?,
                (_, Meaning::Timestamp(unit)) => unit.micros(whole(data)?).ok_or_else(far)?,
                (_, Meaning::Instant) if native == Native::Timestamp => local(whole(data)?, dress)?,
                (_, Meaning::Instant) => Unit::Millis.micros(whole(data)?).ok_or_else(far)?,
                (_, Meaning::Date) => match (whole(data)?, text::infinite_days(whole(data)?)) {
                    (_, Some(after)) if after => i64::MAX,
                    (_, Some(_)) => i64::MIN,
                    (days, None) => days.checked_mul(text::DAY_MICROS).ok_or_else(far)?,
                },
                // `timestamp` would pass over the offset, silently.
                (Data::String(text), Meaning::Zoned | Meaning::Plain) => match text.parse::<jiff::Timestamp>() {
                    Ok(instant) => instant.as_microsecond(),
                    Err(_) => return Ok(false),
                },
                (Data::Int8(_) | Data::Int16(_) | Data::Int32(_) | Data::Int64(_), Meaning::Plain) => {
                    return Err(ambiguous(data, "timestamp"));
                }
                _ => return Ok(false),
            };
            let micros = match text::infinite(micros) {
                Some(true) => i64::MAX,
                Some(false) => i64::MIN,
                None => micros.checked_sub(EPOCH_MICROS).filter(|micros| TIMESTAMPS.contains(micros)).ok_or_else(far)?,
            };
            out.extend_from_slice(&micros.to_be_bytes());
        }
    }
    Ok(true)
}

fn far() -> Refused {
    "is a time out of range".to_owned()
}

fn ambiguous(data: &Data, what: &str) -> Refused {
    format!(
        "is {} without a schema for a {what}: seconds, milliseconds or microseconds? Send schemas with the records (value.converter.schemas.enable), \
         or text in ISO 8601",
        kind_of(data)
    )
}

/// An instant on the clock of the configured zone, in microseconds.
fn local(millis: i64, dress: Dress<'_>) -> Result<i64, Refused> {
    let micros = millis.checked_mul(1000).ok_or_else(far)?;
    let Some(zone) = dress.timezone else { return Ok(micros) };
    let instant = jiff::Timestamp::from_millisecond(millis).map_err(|_| far())?;
    Ok(micros + i64::from(zone.to_offset(instant).seconds()) * 1_000_000)
}

fn as_text(data: &Data, meaning: &Meaning, schema: Option<&Schema>, target: &Target, out: &mut String) -> Result<(), Refused> {
    let no_place = || format!("is {}, which a column of type {} cannot hold", kind_of(data), target.type_name);
    match (data, target.shape) {
        (Data::Struct(_) | Data::Map(_), _) if *meaning == Meaning::VariableDecimal => text::scalar(data, meaning, out),
        (Data::Map(entries), Shape::Number) if entries.len() == 2 => text::scalar(data, &Meaning::VariableDecimal, out),
        (Data::Struct(_) | Data::Map(_), Shape::Point) => text::geometry(data, schema, true, out),
        (Data::Struct(_) | Data::Map(_), Shape::Geometry) => text::geometry(data, schema, false, out),
        (Data::Struct(_) | Data::Map(_), Shape::Hstore) => text::hstore(data, schema, out),
        (Data::Struct(_) | Data::Map(_) | Data::Array(_), Shape::Json | Shape::Text) => text::json(data, schema, out),
        (Data::Array(items), Shape::Array) => text::array(items, meaning, schema, out),
        (Data::Struct(_) | Data::Map(_) | Data::Array(_), _) => Err(no_place()),
        // Text in a json column is JSON already, if its schema says so or it came so.
        (Data::String(text), Shape::Hstore) if text.starts_with('{') => {
            let object: serde_json::Map<String, serde_json::Value> =
                serde_json::from_str(text).map_err(|_| "is no JSON object, for hstore")?;
            text::hstore(&object_data(&object), None, out)
        }
        (Data::Bytes(bytes), Shape::Text) if *meaning == Meaning::Plain && std::str::from_utf8(bytes).is_err() => {
            text::hex(bytes, out);
            Ok(())
        }
        // As `decimal.handling.mode: string` has them.
        (Data::String(text), Shape::Number) if matches!(text.as_str(), "POSITIVE_INFINITY" | "NEGATIVE_INFINITY") => {
            out.push_str(if text == "NEGATIVE_INFINITY" { "-Infinity" } else { "Infinity" });
            Ok(())
        }
        (Data::Boolean(flag), Shape::Bits | Shape::Number) => {
            out.push(if *flag { '1' } else { '0' });
            Ok(())
        }
        _ => text::scalar(data, meaning, out),
    }
}

fn object_data(object: &serde_json::Map<String, serde_json::Value>) -> Data {
    Data::object(object.iter().map(|(name, value)| {
        let value = match value {
            serde_json::Value::Null => Data::Null,
            serde_json::Value::String(text) => Data::String(text.clone()),
            other => Data::String(other.to_string()),
        };
        (name.clone(), value)
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    const DRESS: Dress<'_> = Dress { placeholder: "__debezium_unavailable_value", timezone: None };

    fn target(native: Option<Native>, shape: Shape) -> Target {
        Target { native, shape, type_name: "t".into() }
    }

    fn native(data: Data, meaning: Meaning, native: Native) -> Result<(Form, Vec<u8>), String> {
        let mut out = Vec::new();
        let shape = if native == Native::Text { Shape::Text } else { Shape::Scalar };
        let form = encode(&data, &meaning, None, &target(Some(native), shape), DRESS, &mut out)?;
        Ok((form, out))
    }

    #[test]
    fn numbers_fit_or_are_refused() {
        assert_eq!(native(Data::Int64(7), Meaning::Plain, Native::Int2).unwrap(), (Form::Native, vec![0, 7]));
        assert!(native(Data::Int64(40_000), Meaning::Plain, Native::Int2).unwrap_err().contains("too large for smallint"));
        assert_eq!(native(Data::from("12"), Meaning::Plain, Native::Int4).unwrap(), (Form::Text, b"12".to_vec()));
        assert_eq!(native(Data::Int32(3), Meaning::Plain, Native::Text).unwrap(), (Form::Native, b"3".to_vec()));
        assert_eq!(native(Data::Boolean(true), Meaning::Plain, Native::Int4).unwrap().1, [0, 0, 0, 1]);
        assert!(native(Data::Float64(1e300), Meaning::Plain, Native::Float4).is_err());
        assert_eq!(native(Data::Float64(f64::NAN), Meaning::Plain, Native::Float4).unwrap().0, Form::Native);
    }

    #[test]
    fn times_count_from_2000() {
        let micros = |bytes: &[u8]| i64::from_be_bytes(bytes.try_into().unwrap());
        let at = |data, meaning, of| micros(&native(data, meaning, of).unwrap().1);
        assert_eq!(at(Data::Int64(EPOCH_MICROS), Meaning::Timestamp(Unit::Micros), Native::Timestamp), 0);
        assert_eq!(at(Data::Int64(EPOCH_MICROS / 1000), Meaning::Instant, Native::Timestamptz), 0);
        assert_eq!(at(Data::from("2000-01-01T02:00:00.5+02:00"), Meaning::Zoned, Native::Timestamp), 500_000);
        assert_eq!(at(Data::Int64(i64::MAX), Meaning::Timestamp(Unit::Micros), Native::Timestamp), i64::MAX);
        assert_eq!(native(Data::Int32(10_957), Meaning::Date, Native::Date).unwrap().1, [0, 0, 0, 0]);
        assert_eq!(
            native(Data::from("infinity"), Meaning::Zoned, Native::Timestamptz).unwrap(),
            (Form::Text, b"infinity".to_vec())
        );
        assert!(native(Data::Int64(5), Meaning::Plain, Native::Timestamp).unwrap_err().contains("microseconds?"));
        let berlin = TimeZone::get("Europe/Berlin").unwrap();
        let mut out = Vec::new();
        let dress = Dress { timezone: Some(&berlin), ..DRESS };
        encode(
            &Data::Int64(EPOCH_MICROS / 1000),
            &Meaning::Instant,
            None,
            &target(Some(Native::Timestamp), Shape::Scalar),
            dress,
            &mut out,
        )
        .unwrap();
        assert_eq!(micros(&out), 3_600_000_000);
    }

    #[test]
    fn what_was_not_sent_is_absent() {
        let text = DRESS.placeholder;
        for data in [
            Data::Unavailable,
            Data::from(text),
            Data::Bytes(Bytes::from_static(text.as_bytes())),
            Data::Array(vec![Data::from(text)]),
            Data::Array(text.bytes().map(|byte| Data::Int32(byte.into())).collect()),
            Data::object([(text, Data::from(text))]),
        ] {
            assert_eq!(native(data, Meaning::Plain, Native::Text).unwrap().0, Form::Absent);
        }
        assert_eq!(native(Data::Null, Meaning::Plain, Native::Text).unwrap().0, Form::Null);
    }

    #[test]
    fn structures_go_where_they_fit() {
        let write = |data: &Data, shape| {
            let mut out = Vec::new();
            encode(data, &Meaning::Plain, None, &target(None, shape), DRESS, &mut out)
                .map(|form| (form, String::from_utf8(out).unwrap()))
        };
        let map = Data::object([("a", Data::Int64(1))]);
        assert_eq!(write(&map, Shape::Json).unwrap(), (Form::Text, r#"{"a":1}"#.into()));
        assert_eq!(write(&map, Shape::Hstore).unwrap().1, r#""a"=>"1""#);
        assert_eq!(write(&Data::from(r#"{"a":null}"#), Shape::Hstore).unwrap().1, r#""a"=>NULL"#);
        assert!(write(&map, Shape::Scalar).unwrap_err().contains("is a map"));
        assert!(write(&Data::from("a\0b"), Shape::Scalar).unwrap_err().contains("NUL"));
    }
}

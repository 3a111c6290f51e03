//! Values in the text form that Postgres' input functions take.

use super::meaning::{Meaning, Unit};
use aqueduct_core::schema::Kind;
use aqueduct_core::{Data, Schema};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use num_bigint::BigInt;
use std::fmt::Write;

/// What keeps a value from being written; the end of a sentence.
pub(super) type Refused = String;

/// A scalar, or what only one text form fits.
pub(super) fn scalar(data: &Data, meaning: &Meaning, out: &mut String) -> Result<(), Refused> {
    match (data, meaning) {
        (Data::Bytes(unscaled), Meaning::Decimal { scale }) => decimal(unscaled, *scale, out),
        (Data::Struct(_) | Data::Map(_), Meaning::VariableDecimal) => variable_decimal(data, out)?,
        (Data::Bytes(bits), Meaning::Bits(length)) => bit_string(bits, *length, out),
        (data, Meaning::Date) => date(whole(data)?, out)?,
        (data, Meaning::Time(unit)) => time(unit.micros(whole(data)?).ok_or("is no time of a day")?, out)?,
        (data, Meaning::Timestamp(unit)) => timestamp(whole(data)?, *unit, out)?,
        (data, Meaning::Instant) => timestamp(whole(data)?, Unit::Millis, out)?,
        (data, Meaning::Duration(unit)) => {
            let micros = unit.micros(whole(data)?).ok_or("is too long")?;
            duration(micros, out);
        }
        (Data::Boolean(flag), _) => out.push_str(if *flag { "true" } else { "false" }),
        (Data::Int8(n), _) => put(out, format_args!("{n}")),
        (Data::Int16(n), _) => put(out, format_args!("{n}")),
        (Data::Int32(n), _) => put(out, format_args!("{n}")),
        (Data::Int64(n), _) => put(out, format_args!("{n}")),
        (Data::Float32(n), _) if n.is_finite() => put(out, format_args!("{n}")),
        (Data::Float64(n), _) if n.is_finite() => put(out, format_args!("{n}")),
        (Data::Float32(n), _) => out.push_str(not_finite(f64::from(*n))),
        (Data::Float64(n), _) => out.push_str(not_finite(*n)),
        (Data::String(text), _) => out.push_str(text),
        (Data::Bytes(bytes), _) => out.push_str(std::str::from_utf8(bytes).map_err(|_| "is bytes that are no text")?),
        (other, _) => return Err(format!("is {}, which has no one text", kind_of(other))),
    }
    Ok(())
}

/// Hours, minutes and seconds: before PostgreSQL 15 the number of a unit has 32 bits.
fn duration(micros: i64, out: &mut String) {
    let (sign, rest) = (if micros < 0 { "-" } else { "" }, micros.unsigned_abs());
    let (seconds, fraction) = (rest / 1_000_000, rest % 1_000_000);
    put(out, format_args!("{sign}{}:{:02}:{:02}.{fraction:06}", seconds / 3600, seconds / 60 % 60, seconds % 60));
}

/// Writing to a String cannot fail.
fn put(out: &mut String, arguments: std::fmt::Arguments<'_>) {
    let _ = out.write_fmt(arguments);
}

fn not_finite(number: f64) -> &'static str {
    if number.is_nan() {
        "NaN"
    } else if number > 0.0 {
        "Infinity"
    } else {
        "-Infinity"
    }
}

pub(super) fn kind_of(data: &Data) -> &'static str {
    match data {
        Data::Null => "null",
        Data::Boolean(_) => "a boolean",
        Data::Int8(_) | Data::Int16(_) | Data::Int32(_) | Data::Int64(_) => "a whole number",
        Data::Float32(_) | Data::Float64(_) => "a number",
        Data::String(_) => "a text",
        Data::Bytes(_) => "bytes",
        Data::Array(_) => "an array",
        Data::Map(_) => "a map",
        Data::Struct(_) => "a struct",
        Data::Unavailable => "a value that was not sent",
        Data::Shared(shared) => kind_of(shared),
    }
}

/// A whole number, of whatever width.
pub(super) fn whole(data: &Data) -> Result<i64, Refused> {
    match data {
        Data::Int8(n) => Ok(i64::from(*n)),
        Data::Int16(n) => Ok(i64::from(*n)),
        Data::Int32(n) => Ok(i64::from(*n)),
        Data::Int64(n) => Ok(*n),
        other => Err(format!("is {} where its schema wants a whole number", kind_of(other))),
    }
}

/// Two's complement, big-endian, and how many digits stand behind the point.
pub(super) fn decimal(unscaled: &[u8], scale: i32, out: &mut String) {
    let digits = if unscaled.len() <= 16 {
        let negative = unscaled.first().is_some_and(|byte| byte & 0x80 != 0);
        let mut wide = [if negative { 0xff } else { 0 }; 16];
        wide[16 - unscaled.len()..].copy_from_slice(unscaled);
        i128::from_be_bytes(wide).to_string()
    } else {
        BigInt::from_signed_bytes_be(unscaled).to_string()
    };
    let (sign, digits) = digits.strip_prefix('-').map_or(("", digits.as_str()), |digits| ("-", digits));
    out.push_str(sign);
    match usize::try_from(scale) {
        Ok(0) => out.push_str(digits),
        Ok(scale) if digits.len() > scale => {
            let (before, after) = digits.split_at(digits.len() - scale);
            put(out, format_args!("{before}.{after}"));
        }
        Ok(scale) => put(out, format_args!("0.{digits:0>scale$}")),
        Err(_) => put(out, format_args!("{digits}e{}", i64::from(scale).unsigned_abs())),
    }
}

/// Debezium's struct of `scale` and `value`, or the map that it is in JSON without a schema (its bytes in Base64).
fn variable_decimal(data: &Data, out: &mut String) -> Result<(), Refused> {
    let (scale, value) = match data {
        Data::Struct(fields) => (fields.first(), fields.get(1)),
        Data::Map(entries) => {
            let get = |name: &str| entries.iter().find(|(key, _)| key.as_str() == Some(name)).map(|(_, value)| value);
            (get("scale"), get("value"))
        }
        _ => (None, None),
    };
    let scale = i32::try_from(whole(scale.ok_or("has no scale")?)?).map_err(|_| "has an absurd scale")?;
    match value {
        Some(Data::Bytes(unscaled)) => decimal(unscaled, scale, out),
        Some(Data::String(base64)) => decimal(&STANDARD.decode(base64).map_err(|_| "is no Base64")?, scale, out),
        _ => return Err("has no value beside its scale".to_owned()),
    }
    Ok(())
}

fn bit_string(bits: &[u8], length: Option<u32>, out: &mut String) {
    let all = bits.len() * 8;
    let is_set = |bit: usize| bits.get(bit / 8).is_some_and(|byte| byte >> (bit % 8) & 1 == 1);
    // How many bits a `bit varying` had is not told: from the highest that is set.
    let length = length.map_or_else(|| (0..all).rev().find(|bit| is_set(*bit)).map_or(1, |highest| highest + 1), |n| n as usize);
    out.extend((0..length).rev().map(|bit| if is_set(bit) { '1' } else { '0' }));
}

/// Debezium has infinite times as the numbers nearest to the ends of its own range.
const FAR: i64 = 9_223_372_036_000_000_000;

/// Infinite, and which way.
pub(super) fn infinite(count: i64) -> Option<bool> {
    (count.unsigned_abs() >= FAR.unsigned_abs()).then_some(count > 0)
}

/// As [`infinite`], of days: `postgres-source` has them as Debezium's stream does, beyond every date of Postgres; others as the ends of the range.
pub(super) fn infinite_days(days: i64) -> Option<bool> {
    (days >= 2_146_033_979 || days <= -2_147_472_691).then_some(days > 0)
}

pub(super) fn date(days: i64, out: &mut String) -> Result<(), Refused> {
    if let Some(after) = infinite_days(days) {
        out.push_str(if after { "infinity" } else { "-infinity" });
        return Ok(());
    }
    // Civil from days (Howard Hinnant's algorithm), since Postgres' years go far beyond jiff's.
    if days.unsigned_abs() > 3_000_000_000 {
        return Err("is a date out of range".to_owned());
    }
    let days = days + 719_468;
    let (era, of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let day_of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let (day, month) = (day_of_year - (153 * shifted + 2) / 5 + 1, if shifted < 10 { shifted + 3 } else { shifted - 9 });
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    if year > 0 {
        put(out, format_args!("{year:04}-{month:02}-{day:02}"));
    } else {
        put(out, format_args!("{:04}-{month:02}-{day:02} BC", 1 - year));
    }
    Ok(())
}

pub(super) const DAY_MICROS: i64 = 86_400_000_000;

pub(super) fn time(micros: i64, out: &mut String) -> Result<(), Refused> {
    if !(0..=DAY_MICROS).contains(&micros) {
        return Err("is no time of a day".to_owned());
    }
    let (seconds, fraction) = (micros / 1_000_000, micros % 1_000_000);
    put(out, format_args!("{:02}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60));
    if fraction > 0 {
        put(out, format_args!(".{fraction:06}"));
    }
    Ok(())
}

fn timestamp(count: i64, unit: Unit, out: &mut String) -> Result<(), Refused> {
    if let Some(after) = infinite(count) {
        out.push_str(if after { "infinity" } else { "-infinity" });
        return Ok(());
    }
    let micros = unit.micros(count).ok_or("is a time out of range")?;
    let mut day = String::new();
    date(micros.div_euclid(DAY_MICROS), &mut day)?;
    let (day, bc) = day.strip_suffix(" BC").map_or((day.as_str(), ""), |day| (day, " BC"));
    out.push_str(day);
    out.push(' ');
    time(micros.rem_euclid(DAY_MICROS), out)?;
    out.push_str(bc);
    Ok(())
}

/// `{"a",NULL,{…}}`
pub(super) fn array(items: &[Data], meaning: &Meaning, schema: Option<&Schema>, out: &mut String) -> Result<(), Refused> {
    let values = schema.and_then(|schema| schema.values.as_deref());
    let inner = if let Meaning::Array(inner) = meaning { inner } else { &Meaning::Plain };
    out.push('{');
    for (index, item) in items.iter().enumerate() {
        if index > 0 {
            out.push(',');
        }
        match item {
            Data::Null => out.push_str("NULL"),
            Data::Array(items) => array(items, inner, values, out)?,
            item => {
                let mut element = String::new();
                element_text(item, inner, values, &mut element)?;
                quoted(&element, out);
            }
        }
    }
    out.push('}');
    Ok(())
}

fn element_text(item: &Data, meaning: &Meaning, schema: Option<&Schema>, out: &mut String) -> Result<(), Refused> {
    match (item, meaning) {
        (Data::Bytes(bytes), Meaning::Plain) => hex(bytes, out),
        (Data::Struct(_) | Data::Map(_), Meaning::Geometry) => geometry(item, schema, true, out)?,
        (Data::Struct(_) | Data::Map(_), Meaning::Plain) => json(item, schema, out)?,
        (item, meaning) => scalar(item, meaning, out)?,
    }
    Ok(())
}

fn quoted(text: &str, out: &mut String) {
    out.push('"');
    for c in text.chars() {
        if matches!(c, '"' | '\\') {
            out.push('\\');
        }
        out.push(c);
    }
    out.push('"');
}

/// `\x0a0b`
pub(super) fn hex(bytes: &[u8], out: &mut String) {
    out.push_str("\\x");
    hex_digits(bytes, out);
}

fn hex_digits(bytes: &[u8], out: &mut String) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    out.extend(bytes.iter().flat_map(|byte| [DIGITS[usize::from(byte >> 4)] as char, DIGITS[usize::from(byte & 15)] as char]));
}

/// `"k"=>"v"`
pub(super) fn hstore(data: &Data, schema: Option<&Schema>, out: &mut String) -> Result<(), Refused> {
    let mut first = true;
    fields(data, schema, |name, value, _| {
        if !std::mem::take(&mut first) {
            out.push(',');
        }
        quoted(name, out);
        out.push_str("=>");
        if value.is_null() {
            out.push_str("NULL");
            return Ok(());
        }
        let mut text = String::new();
        scalar(value, &Meaning::Plain, &mut text)?;
        quoted(&text, out);
        Ok(())
    })
}

/// The fields of a struct or a map with their names and schemas.
fn fields<'a>(
    data: &'a Data,
    schema: Option<&'a Schema>,
    mut each: impl FnMut(&str, &'a Data, Option<&'a Schema>) -> Result<(), Refused>,
) -> Result<(), Refused> {
    match (data, schema) {
        (Data::Struct(values), Some(schema)) => {
            schema.fields.iter().zip(values).try_for_each(|(field, value)| each(&field.name, value, Some(&field.schema)))
        }
        (Data::Map(entries), schema) => entries.iter().try_for_each(|(key, value)| {
            let mut name = String::new();
            scalar(key, &Meaning::Plain, &mut name)?;
            each(&name, value, schema.and_then(|schema| schema.values.as_deref()))
        }),
        _ => Err(format!("is {}, not a map", kind_of(data))),
    }
}

/// `(x,y)` for a column of type `point`, and hex for PostGIS.
pub(super) fn geometry(data: &Data, schema: Option<&Schema>, point: bool, out: &mut String) -> Result<(), Refused> {
    let (mut x, mut y, mut wkb, mut srid) = (None, None, None, None);
    fields(data, schema, |name, value, _| {
        let slot = match name {
            "x" => &mut x,
            "y" => &mut y,
            "wkb" => &mut wkb,
            "srid" => &mut srid,
            _ => return Ok(()),
        };
        *slot = Some(value).filter(|value| !value.is_null());
        Ok(())
    })?;
    if let (true, Some(x), Some(y)) = (point, x, y) {
        out.push('(');
        scalar(x, &Meaning::Plain, out)?;
        out.push(',');
        scalar(y, &Meaning::Plain, out)?;
        out.push(')');
        return Ok(());
    }
    let decoded;
    let wkb = match wkb {
        Some(Data::Bytes(wkb)) => &wkb[..],
        Some(Data::String(base64)) => {
            decoded = STANDARD.decode(base64).map_err(|_| "has a wkb that is no Base64")?;
            &decoded[..]
        }
        _ => return Err("is a geometry without wkb".to_owned()),
    };
    let srid = srid.map(whole).transpose()?;
    match (srid.and_then(|srid| u32::try_from(srid).ok()), wkb) {
        // Extended WKB: a flag in the type, and the SRID behind it.
        (Some(srid), [order @ (0 | 1), a, b, c, d, rest @ ..]) => {
            let little = *order == 1;
            let kind = if little { u32::from_le_bytes([*a, *b, *c, *d]) } else { u32::from_be_bytes([*a, *b, *c, *d]) };
            if kind & 0x2000_0000 == 0 {
                let bytes = |n: u32| if little { n.to_le_bytes() } else { n.to_be_bytes() };
                hex_digits(&[*order], out);
                hex_digits(&bytes(kind | 0x2000_0000), out);
                hex_digits(&bytes(srid), out);
                hex_digits(rest, out);
            } else {
                hex_digits(wkb, out);
            }
        }
        _ => hex_digits(wkb, out),
    }
    Ok(())
}

/// As Connect's JSON without schemas has it: bytes in Base64, logical types as their plain values, decimals as numbers.
pub(super) fn json(data: &Data, schema: Option<&Schema>, out: &mut String) -> Result<(), Refused> {
    match data {
        Data::Null => out.push_str("null"),
        Data::Unavailable => return Err("holds a value that was not sent".to_owned()),
        Data::Shared(shared) => return json(shared, schema, out),
        Data::String(text) => json_string(text, out),
        Data::Bytes(bytes) => match schema.map(Meaning::of) {
            Some(Meaning::Decimal { scale }) => decimal(bytes, scale, out),
            _ => json_string(&STANDARD.encode(bytes), out),
        },
        Data::Float32(n) if !n.is_finite() => out.push_str("null"),
        Data::Float64(n) if !n.is_finite() => out.push_str("null"),
        Data::Array(items) => {
            let values = schema.filter(|schema| schema.kind == Kind::Array).and_then(|schema| schema.values.as_deref());
            out.push('[');
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    out.push(',');
                }
                json(item, values, out)?;
            }
            out.push(']');
        }
        Data::Map(_) | Data::Struct(_) => {
            out.push('{');
            let mut first = true;
            fields(data, schema, |name, value, schema| {
                if !std::mem::take(&mut first) {
                    out.push(',');
                }
                json_string(name, out);
                out.push(':');
                json(value, schema, out)
            })?;
            out.push('}');
        }
        number => scalar(number, &Meaning::Plain, out)?,
    }
    Ok(())
}

fn json_string(text: &str, out: &mut String) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => {
                out.push('\\');
                out.push(c);
            }
            c if c < ' ' => put(out, format_args!("\\u{:04x}", c as u32)),
            c => out.push(c),
        }
    }
    out.push('"');
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use proptest::prelude::*;

    fn text(data: &Data, meaning: &Meaning) -> String {
        let mut out = String::new();
        scalar(data, meaning, &mut out).unwrap();
        out
    }

    #[test]
    fn decimals_keep_every_digit() {
        let decimal = |n: i128, scale| text(&Data::Bytes(Bytes::copy_from_slice(&n.to_be_bytes())), &Meaning::Decimal { scale });
        assert_eq!(decimal(12345, 2), "123.45");
        assert_eq!(decimal(-5, 3), "-0.005");
        assert_eq!(decimal(7, 0), "7");
        assert_eq!(decimal(7, -3), "7e3");
        let wide = Data::Bytes(Bytes::from(vec![0x7f; 20]));
        assert_eq!(text(&wide, &Meaning::Decimal { scale: 0 }).len(), 48);
        assert_eq!(text(&Data::Bytes(Bytes::from_static(b"\xff")), &Meaning::Decimal { scale: 1 }), "-0.1");
    }

    #[test]
    fn times() {
        assert_eq!(text(&Data::Int32(0), &Meaning::Date), "1970-01-01");
        assert_eq!(text(&Data::Int32(-719_163), &Meaning::Date), "0001-12-31 BC");
        assert_eq!(text(&Data::Int64(1_700_000_000_123_456), &Meaning::Timestamp(Unit::Micros)), "2023-11-14 22:13:20.123456");
        assert_eq!(text(&Data::Int64(-1), &Meaning::Instant), "1969-12-31 23:59:59.999000");
        assert_eq!(text(&Data::Int64(i64::MAX), &Meaning::Timestamp(Unit::Micros)), "infinity");
        assert_eq!(text(&Data::Int32(86_399_999), &Meaning::Time(Unit::Millis)), "23:59:59.999000");
        assert!(scalar(&Data::Int32(-1), &Meaning::Time(Unit::Millis), &mut String::new()).is_err());
        assert!(scalar(&Data::String("x".into()), &Meaning::Date, &mut String::new()).is_err());
    }

    #[test]
    fn bits_are_read_from_the_highest() {
        let bits = Data::Bytes(Bytes::from_static(&[0b0000_0101, 0b1]));
        assert_eq!(text(&bits, &Meaning::Bits(Some(10))), "0100000101");
        assert_eq!(text(&bits, &Meaning::Bits(None)), "100000101");
    }

    #[test]
    fn structures() {
        let items = [Data::from("a\"b\\"), Data::Null, Data::Array(vec![Data::Int32(1)])];
        let mut out = String::new();
        array(&items, &Meaning::Plain, None, &mut out).unwrap();
        assert_eq!(out, r#"{"a\"b\\",NULL,{"1"}}"#);
        let map = Data::object([("k\"", Data::from("v\n")), ("n", Data::Null), ("d", Data::Float64(1.5))]);
        out.clear();
        hstore(&map, None, &mut out).unwrap();
        assert_eq!(out, "\"k\\\"\"=>\"v\n\",\"n\"=>NULL,\"d\"=>\"1.5\"");
        out.clear();
        json(&map, None, &mut out).unwrap();
        assert_eq!(out, r#"{"k\"":"v\u000a","n":null,"d":1.5}"#);
        out.clear();
        let point = Data::object([("wkb", Data::Bytes(Bytes::from_static(&[1, 1, 0, 0, 0, 9]))), ("srid", Data::Int32(4326))]);
        geometry(&point, None, true, &mut out).unwrap();
        assert_eq!(out, "0101000020e610000009");
    }

    proptest! {
        #[test]
        fn json_text_is_read_back(text in any::<String>()) {
            let mut out = String::new();
            json(&Data::Array(vec![Data::String(text.clone())]), None, &mut out).unwrap();
            prop_assert_eq!(serde_json::from_str::<Vec<String>>(&out).unwrap(), [text]);
        }

        #[test]
        fn dates_agree_with_jiff(days in -300_000i64..2_900_000) {
            let mut out = String::new();
            date(days, &mut out).unwrap();
            let expected = jiff::civil::date(1970, 1, 1).checked_add(jiff::Span::new().days(days));
            if let Ok(expected) = expected && expected.year() > 0 {
                prop_assert_eq!(out, expected.to_string());
            }
        }
    }
}

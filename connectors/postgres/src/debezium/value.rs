//! Values: Postgres' text to data, by a decoder that is chosen once for each column.

use super::composite;
use super::number::{self, Decimal};
use super::text::{encode_binary, unhex};
use super::time::{self, Bound, Interval, Stamp};
use crate::source::options::modes::{BinaryMode, DecimalMode};
use aqueduct_core::{Bytes, Data, Error, Objects, Values};

/// How the text of one column becomes data.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Decoder {
    Boolean,
    Int16,
    Int32,
    Int64,
    Float32,
    Float64,
    Text,
    /// Of a fixed scale.
    Decimal(i32),
    /// A struct of scale and value.
    VariableDecimal,
    /// With the column's scale, or as it is.
    DecimalText(Option<i32>),
    /// With so many digits.
    Money(DecimalMode, i32),
    Binary(BinaryMode),
    /// The text of a type that is not known.
    Raw(BinaryMode),
    /// One bit.
    Bit,
    /// Little-endian octets, no more than it takes.
    Bits,
    Date,
    DateIso,
    Time(Unit),
    TimeIso,
    TimeTz,
    Timestamp(Unit),
    TimestampIso,
    /// Digits of the fraction.
    TimestampTz(Option<u32>),
    IntervalMicros,
    IntervalIso,
    Point,
    /// PostGIS': `geography` has no extensions.
    Geometry {
        extensions: bool,
    },
    Shape(Shape),
    HstoreJson,
    HstoreMap,
    Array(Box<Decoder>),
    Float64Vector,
    Float32Vector,
    SparseVector,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unit {
    /// 32 bits for a time of day, 64 for a timestamp.
    Millis,
    Micros,
    Nanos,
}

/// Postgres' own geometric types.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    Box,
    Lseg,
    Path,
    Polygon,
    Line,
    Circle,
}

/// A value that its column's schema cannot say, such as NaN in a Decimal; or text that Postgres does not write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Unfit;

/// pgjdbc's milliseconds of `infinity` and `-infinity`, which Debezium's consumers know.
const INFINITY: i64 = 9_223_372_036_825_200_000;
const MINUS_INFINITY: i64 = -9_223_372_036_832_400_000;
/// The days that Debezium's stream has for them, 5877611-06-21 and -5877611-06-22: beyond every date that Postgres has.
const INFINITY_DAYS: i32 = 2_146_033_979;
const MINUS_INFINITY_DAYS: i32 = -2_147_472_691;

impl Decoder {
    pub(crate) fn decode(&self, text: &[u8]) -> Result<Data, Unfit> {
        let mut made = Data::Null;
        self.tell(text, &mut Objects(|data| made = data)).map_err(|_| Unfit)?;
        Ok(made)
    }

    /// As [`Decoder::decode`]: what is text as it is is told from where it lies.
    pub(crate) fn tell(&self, text: &[u8], to: &mut dyn Values) -> aqueduct_core::Result<()> {
        let unfit = || Error::fatal("postgres.value", "not what the schema says");
        match self {
            Decoder::Boolean => to.boolean(text == b"t"),
            Decoder::Int16 => to.int16(integer(text).ok().and_then(|value| value.try_into().ok()).ok_or_else(unfit)?),
            Decoder::Int32 => to.int32(integer(text).ok().and_then(|value| value.try_into().ok()).ok_or_else(unfit)?),
            Decoder::Int64 => to.int64(integer(text).map_err(|_| unfit())?),
            Decoder::Text => to.string(utf8(text).map_err(|_| unfit())?),
            // As Postgres prints what has this scale.
            Decoder::DecimalText(Some(scale)) if number::is_plain(text, *scale) => to.string(utf8(text).map_err(|_| unfit())?),
            Decoder::TimestampTz(width) => match time::iso_at_utc(text, *width) {
                Some(iso) => to.string(&iso),
                None => to.string(&iso(text, true, *width).map_err(|_| unfit())?),
            },
            other => to.made(other.make(text).map_err(|_| unfit())?),
        }
    }

    fn make(&self, text: &[u8]) -> Result<Data, Unfit> {
        Ok(match self {
            Decoder::Float32 => Data::Float32(parsed(text)?),
            Decoder::Float64 => Data::Float64(parsed(text)?),
            Decoder::Decimal(scale) => match number::small(text, *scale) {
                Some(unscaled) => Data::Bytes(unscaled),
                None => Data::Bytes(Decimal::parse(text).and_then(|number| number.with_scale(*scale)).ok_or(Unfit)?.unscaled()),
            },
            Decoder::VariableDecimal => {
                let number = Decimal::parse(text).ok_or(Unfit)?.stripped();
                Data::Struct(vec![Data::Int32(number.scale()), Data::Bytes(number.unscaled())])
            }
            Decoder::DecimalText(scale) => Data::String(match text {
                b"NaN" => "NAN".to_owned(),
                b"Infinity" => "POSITIVE_INFINITY".to_owned(),
                b"-Infinity" => "NEGATIVE_INFINITY".to_owned(),
                text => match scale.and_then(|scale| Decimal::parse(text)?.with_scale(scale)) {
                    Some(number) => number.plain(),
                    None => string(text)?,
                },
            }),
            Decoder::Money(mode, digits) => money(text, *mode, *digits)?,
            Decoder::Binary(BinaryMode::Bytes) => Data::Bytes(Bytes::from(unhex(text).ok_or(Unfit)?)),
            Decoder::Binary(mode) => Data::String(encode_binary(&unhex(text).ok_or(Unfit)?, *mode)),
            Decoder::Raw(BinaryMode::Bytes) => Data::Bytes(Bytes::copy_from_slice(text)),
            Decoder::Raw(mode) => Data::String(encode_binary(text, *mode)),
            Decoder::Bit => Data::Boolean(text.contains(&b'1')),
            Decoder::Bits => Data::Bytes(Bytes::from(bits(text))),
            Decoder::Date => Data::Int32(match time::date(text).ok_or(Unfit)? {
                Bound::Finite(days) => days,
                Bound::Infinity => INFINITY_DAYS,
                Bound::MinusInfinity => MINUS_INFINITY_DAYS,
            }),
            Decoder::DateIso => Data::String(match time::date(text).ok_or(Unfit)? {
                Bound::Finite(days) => {
                    let mut out = String::with_capacity(11);
                    time::write_date(&mut out, days.into());
                    out.push('Z');
                    out
                }
                _ => string(text)?,
            }),
            Decoder::Time(unit) => {
                let micros = time::time(text).ok_or(Unfit)?;
                match unit {
                    Unit::Millis => Data::Int32((micros / 1000) as i32),
                    Unit::Micros => Data::Int64(micros),
                    Unit::Nanos => Data::Int64(micros * 1000),
                }
            }
            Decoder::TimeIso => Data::String(iso_time(time::time(text).ok_or(Unfit)?)),
            Decoder::TimeTz => Data::String(iso_time(time::time_tz(text).ok_or(Unfit)?)),
            Decoder::Timestamp(unit) => Data::Int64(instant(time::timestamp(text, false).ok_or(Unfit)?, *unit)?),
            Decoder::TimestampIso => Data::String(iso(text, false, None)?),
            Decoder::IntervalMicros => Data::Int64(Interval::parse(text).ok_or(Unfit)?.micros()),
            Decoder::IntervalIso => Data::String(Interval::parse(text).ok_or(Unfit)?.iso()),
            other => other.composite(text)?,
        })
    }

    fn composite(&self, text: &[u8]) -> Result<Data, Unfit> {
        Ok(match self {
            Decoder::Point => {
                let (x, y) = composite::point(text).ok_or(Unfit)?;
                point(x, y)
            }
            Decoder::Geometry { extensions } => {
                let (wkb, srid) = composite::geometry(text).ok_or(Unfit)?;
                let mut parts = vec![Data::Bytes(wkb.into()), srid.map_or(Data::Null, Data::Int32)];
                parts.extend(extensions.then_some(Data::Null));
                Data::Struct(parts)
            }
            Decoder::Shape(shape) => shape.decode(text)?,
            Decoder::HstoreJson => Data::String(composite::json_object(&composite::hstore(text).ok_or(Unfit)?)),
            Decoder::HstoreMap => {
                let pairs = composite::hstore(text).ok_or(Unfit)?.into_iter();
                Data::Map(pairs.map(|(key, value)| (Data::String(key), value.map_or(Data::Null, Data::String))).collect())
            }
            Decoder::Array(element) => {
                // Only boxes are not separated by commas.
                let delimiter = if **element == Decoder::Shape(Shape::Box) { b';' } else { b',' };
                let items = composite::array(text, delimiter).ok_or(Unfit)?;
                let items = items.iter().map(|item| item.as_deref().map_or(Ok(Data::Null), |item| element.decode(item)));
                Data::Array(items.collect::<Result<_, _>>()?)
            }
            Decoder::Float64Vector => Data::Array(vector(text, Data::Float64)?),
            Decoder::Float32Vector => Data::Array(vector(text, Data::Float32)?),
            Decoder::SparseVector => {
                let (dimensions, pairs) = composite::sparse_vector(text).ok_or(Unfit)?;
                let pairs = pairs.into_iter().map(|(index, value)| (Data::Int16(index), Data::Float64(value)));
                Data::Struct(vec![Data::Int16(dimensions), Data::Map(pairs.collect())])
            }
            _ => return Err(Unfit),
        })
    }

    /// What Debezium puts where a column that is not optional has no value: in the `before` of a key, above all.
    pub(crate) fn fallback(&self) -> Data {
        let text = |text: &str| Data::String(text.to_owned());
        match self {
            Decoder::Boolean | Decoder::Bit => Data::Boolean(false),
            Decoder::Int16 => Data::Int16(0),
            Decoder::Int32 | Decoder::Date | Decoder::Time(Unit::Millis) => Data::Int32(0),
            Decoder::Int64 | Decoder::IntervalMicros | Decoder::Timestamp(_) | Decoder::Time(_) => Data::Int64(0),
            Decoder::Float32 => Data::Float32(0.0),
            Decoder::Float64 => Data::Float64(0.0),
            Decoder::Text => text(""),
            Decoder::Decimal(_) | Decoder::Money(DecimalMode::Precise, _) => Data::Bytes(Bytes::from_static(&[0])),
            Decoder::VariableDecimal => Data::Struct(vec![Data::Int32(0), Data::Bytes(Bytes::from_static(&[0]))]),
            Decoder::Money(DecimalMode::Double, _) => Data::Float64(0.0),
            Decoder::DecimalText(scale) => zero(scale.unwrap_or(0)),
            Decoder::Money(DecimalMode::String, digits) => zero(*digits),
            Decoder::Binary(BinaryMode::Bytes) | Decoder::Raw(BinaryMode::Bytes) | Decoder::Bits => Data::Bytes(Bytes::new()),
            Decoder::Binary(_) | Decoder::Raw(_) => text(""),
            Decoder::DateIso => text("1970-01-01Z"),
            Decoder::TimeIso | Decoder::TimeTz => text("00:00:00Z"),
            Decoder::TimestampIso | Decoder::TimestampTz(_) => text("1970-01-01T00:00:00Z"),
            Decoder::IntervalIso => text("P0Y0M0DT0H0M0S"),
            Decoder::Point => point(0.0, 0.0),
            Decoder::Geometry { extensions } => {
                let mut parts = vec![Data::Bytes(Bytes::from_static(&EMPTY)), Data::Null];
                parts.extend(extensions.then_some(Data::Null));
                Data::Struct(parts)
            }
            Decoder::Shape(Shape::Line) => Data::Struct(vec![Data::Float64(0.0); 3]),
            Decoder::Shape(Shape::Circle) => Data::Struct(vec![point(0.0, 0.0), Data::Float64(0.0)]),
            Decoder::Shape(_) => Data::Struct(vec![Data::Bytes(Bytes::from_static(&EMPTY)), Data::Null, Data::Null]),
            Decoder::HstoreJson => text("{}"),
            Decoder::HstoreMap => Data::Map(Vec::new()),
            Decoder::Array(_) | Decoder::Float64Vector | Decoder::Float32Vector => Data::Array(Vec::new()),
            Decoder::SparseVector => Data::Struct(vec![Data::Int16(0), Data::Map(Vec::new())]),
        }
    }
}

/// An empty geometry collection as WKB.
const EMPTY: [u8; 9] = [1, 7, 0, 0, 0, 0, 0, 0, 0];

impl Shape {
    fn decode(self, text: &[u8]) -> Result<Data, Unfit> {
        let numbers = composite::coordinates(text).ok_or(Unfit)?;
        let mut points: Vec<(f64, f64)> = numbers.chunks_exact(2).map(|pair| (pair[0], pair[1])).collect();
        let geometry = |wkb: Vec<u8>, extensions: &[(&str, &str)]| {
            let extensions = extensions.iter().map(|(name, value)| (Data::from(*name), Data::from(*value))).collect();
            Data::Struct(vec![Data::Bytes(wkb.into()), Data::Null, Data::Map(extensions)])
        };
        Ok(match (self, &numbers[..]) {
            (Shape::Line, [a, b, c]) => Data::Struct([*a, *b, *c].map(Data::Float64).to_vec()),
            (Shape::Circle, [x, y, radius]) => Data::Struct(vec![point(*x, *y), Data::Float64(*radius)]),
            (Shape::Box, [x0, y0, x1, y1]) => {
                let ring = [(*x0, *y0), (*x0, *y1), (*x1, *y1), (*x1, *y0), (*x0, *y0)];
                geometry(composite::wkb_polygon(&ring), &[("type", "box")])
            }
            (Shape::Lseg, [_, _, _, _]) => geometry(composite::wkb_line(&points), &[("type", "lseg")]),
            (Shape::Path, _) if numbers.len().is_multiple_of(2) => {
                let closed = if text.first() == Some(&b'[') { "false" } else { "true" };
                geometry(composite::wkb_line(&points), &[("type", "path"), ("closed", closed)])
            }
            (Shape::Polygon, _) if numbers.len().is_multiple_of(2) => {
                if points.first() != points.last() || points.len() == 1 {
                    points.extend(points.first().copied());
                }
                geometry(composite::wkb_polygon(&points), &[("type", "polygon")])
            }
            _ => return Err(Unfit),
        })
    }
}

fn point(x: f64, y: f64) -> Data {
    Data::Struct(vec![Data::Float64(x), Data::Float64(y), Data::Bytes(composite::wkb_point(x, y).into()), Data::Null])
}

/// `0.00`
fn zero(scale: i32) -> Data {
    Data::String(Decimal::parse(b"0").and_then(|zero| zero.with_scale(scale)).map_or_else(String::new, |zero| zero.plain()))
}

fn string(text: &[u8]) -> Result<String, Unfit> {
    utf8(text).map(str::to_owned)
}

fn utf8(text: &[u8]) -> Result<&str, Unfit> {
    std::str::from_utf8(text).map_err(|_| Unfit)
}

fn parsed<T: std::str::FromStr>(text: &[u8]) -> Result<T, Unfit> {
    std::str::from_utf8(text).ok().and_then(|text| text.parse().ok()).ok_or(Unfit)
}

fn integer(text: &[u8]) -> Result<i64, Unfit> {
    let (negative, digits) = match text.first() {
        Some(b'-') => (true, &text[1..]),
        _ => (false, text),
    };
    if digits.is_empty() || digits.len() > 18 || !digits.iter().all(u8::is_ascii_digit) {
        return parsed(text);
    }
    let value = digits.iter().fold(0i64, |sum, digit| sum * 10 + i64::from(digit - b'0'));
    Ok(if negative { -value } else { value })
}

fn money(text: &[u8], mode: DecimalMode, digits: i32) -> Result<Data, Unfit> {
    let plain = number::money(text).ok_or(Unfit)?;
    Ok(match mode {
        DecimalMode::Precise => Data::Bytes(Decimal::parse(&plain).ok_or(Unfit)?.rounded(digits).unscaled()),
        DecimalMode::Double => Data::Float64(parsed(&plain)?),
        DecimalMode::String => Data::String(string(&plain)?),
    })
}

fn bits(text: &[u8]) -> Vec<u8> {
    let mut out = vec![0u8; text.len().div_ceil(8)];
    for (index, bit) in text.iter().rev().enumerate() {
        out[index / 8] |= u8::from(*bit == b'1') << (index % 8);
    }
    let used = out.iter().rposition(|octet| *octet != 0).map_or(0, |last| last + 1);
    out.truncate(used);
    out
}

fn iso_time(micros: i64) -> String {
    let mut out = String::with_capacity(16);
    // `java.time.LocalTime` has no 24:00.
    time::write_time(&mut out, micros % (86_400 * time::MICROS_PER_SECOND), None);
    out.push('Z');
    out
}

fn iso(text: &[u8], zoned: bool, width: Option<u32>) -> Result<String, Unfit> {
    match time::timestamp(text, zoned).ok_or(Unfit)? {
        Bound::Finite(stamp) => Ok(stamp.iso(width)),
        _ => string(text),
    }
}

fn instant(bound: Bound<Stamp>, unit: Unit) -> Result<i64, Unfit> {
    let stamp = match bound {
        Bound::Finite(stamp) => stamp,
        infinite => {
            let positive = infinite == Bound::Infinity;
            return Ok(match unit {
                Unit::Millis if positive => INFINITY,
                Unit::Millis => MINUS_INFINITY,
                Unit::Micros | Unit::Nanos if positive => i64::MAX,
                Unit::Micros | Unit::Nanos => i64::MIN,
            });
        }
    };
    let value = match unit {
        Unit::Millis => stamp.millis(),
        Unit::Micros => stamp.micros(),
        Unit::Nanos => stamp.nanos(),
    };
    value.ok_or(Unfit)
}

fn vector<T: std::str::FromStr>(text: &[u8], data: fn(T) -> Data) -> Result<Vec<Data>, Unfit> {
    let items = composite::vector(text).ok_or(Unfit)?;
    items.into_iter().map(|item| item.parse().map(data).map_err(|_| Unfit)).collect()
}

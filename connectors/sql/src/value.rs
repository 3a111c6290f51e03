//! One value of a row, to Kafka Connect's data.

use crate::column::{Field, Shape};
use crate::temporal::{self, DAY};
use aqueduct_core::Data;
use bytes::Bytes;
use num_bigint::BigInt;

/// As it came, whatever the database.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Cell<'r> {
    Null,
    Int(i64),
    Unsigned(u64),
    Float32(f32),
    Float(f64),
    Text(&'r str),
    Bytes(&'r [u8]),
    /// Microseconds since 1970: a wall clock's unless the field is zoned. Of a time: since midnight. Of a date: its midnight.
    Micros(i64),
    /// Microseconds since 1970 of a moment, whatever the field says.
    Moment(i64),
}

/// # Errors
/// Why it does not fit, as a sentence's end. Does not show the value, which may be private.
pub(crate) fn convert(cell: Cell<'_>, field: Field, shape: &Shape) -> Result<Data, String> {
    if cell == Cell::Null {
        return Ok(Data::Null);
    }
    let refuse = || format!("{} is no {}", cell.what(), field.what());
    Ok(match field {
        Field::Boolean => Data::Boolean(cell.int().ok_or_else(refuse)? != 0),
        Field::Int8 => Data::Int8(narrow(cell, refuse)?),
        Field::Int16 => Data::Int16(narrow(cell, refuse)?),
        Field::Int32 => Data::Int32(narrow(cell, refuse)?),
        Field::Int64 => Data::Int64(cell.int().ok_or_else(refuse)?),
        Field::Float32 => Data::Float32(match cell {
            Cell::Float32(n) => n,
            cell => cell.float().ok_or_else(refuse)? as f32,
        }),
        Field::Float64 => Data::Float64(cell.float().ok_or_else(refuse)?),
        Field::Decimal { scale } => Data::Bytes(cell.decimal(scale).ok_or_else(refuse)?),
        Field::String => Data::String(cell.string().ok_or_else(refuse)?),
        Field::Bytes => Data::Bytes(match cell {
            Cell::Bytes(bytes) => Bytes::copy_from_slice(bytes),
            Cell::Text(text) => Bytes::copy_from_slice(text.as_bytes()),
            _ => return Err(refuse()),
        }),
        Field::Date => {
            let days = cell.micros().ok_or_else(refuse)?.div_euclid(DAY);
            Data::Int32(i32::try_from(days).map_err(|_| refuse())?)
        }
        Field::Time => {
            let micros = match cell {
                Cell::Text(text) => temporal::parse_time(text),
                cell => cell.micros().map(|micros| micros.rem_euclid(DAY)),
            };
            Data::Int32((micros.ok_or_else(refuse)? / 1000) as i32)
        }
        Field::Timestamp { zoned } => {
            let (micros, zoned) = match cell {
                Cell::Text(text) => temporal::parse(text).ok_or_else(refuse)?,
                Cell::Moment(micros) => (micros, true),
                cell => (cell.micros().ok_or_else(refuse)?, zoned),
            };
            let moment = if zoned { micros } else { shape.zone.moment(micros) };
            shape.granularity.data(moment, &shape.zone).ok_or_else(refuse)?
        }
    })
}

fn narrow<T: TryFrom<i64>>(cell: Cell<'_>, refuse: impl Fn() -> String) -> Result<T, String> {
    cell.int().and_then(|n| T::try_from(n).ok()).ok_or_else(refuse)
}

impl Cell<'_> {
    /// What a column without a declared type turns out to be.
    pub(crate) fn field(self) -> Option<Field> {
        Some(match self {
            Cell::Null => return None,
            Cell::Int(_) | Cell::Unsigned(_) => Field::Int64,
            Cell::Float32(_) | Cell::Float(_) => Field::Float64,
            Cell::Text(_) => Field::String,
            Cell::Bytes(_) => Field::Bytes,
            Cell::Micros(_) | Cell::Moment(_) => Field::Timestamp { zoned: false },
        })
    }

    fn what(self) -> &'static str {
        match self {
            Cell::Null => "NULL",
            Cell::Int(_) => "an integer",
            Cell::Unsigned(_) => "an unsigned integer",
            Cell::Float32(_) | Cell::Float(_) => "a floating-point number",
            Cell::Text(_) => "this text",
            Cell::Bytes(_) => "a blob",
            Cell::Micros(_) | Cell::Moment(_) => "this time",
        }
    }

    pub(crate) fn int(self) -> Option<i64> {
        match self {
            Cell::Int(n) => Some(n),
            Cell::Unsigned(n) => i64::try_from(n).ok(),
            // 2^63 is the first that is too much.
            Cell::Float(n) => {
                (n.fract() == 0.0 && (-9.223_372_036_854_776e18..9.223_372_036_854_776e18).contains(&n)).then_some(n as i64)
            }
            Cell::Text(text) => {
                let (whole, fraction) = text.trim().split_once('.').unwrap_or((text.trim(), ""));
                fraction.bytes().all(|b| b == b'0').then(|| whole.parse().ok()).flatten()
            }
            _ => None,
        }
    }

    fn float(self) -> Option<f64> {
        match self {
            Cell::Float32(n) => Some(n.into()),
            Cell::Float(n) => Some(n),
            Cell::Int(n) => Some(n as f64),
            Cell::Unsigned(n) => Some(n as f64),
            Cell::Text(text) => text.trim().parse().ok(),
            _ => None,
        }
    }

    fn string(self) -> Option<String> {
        Some(match self {
            Cell::Text(text) => text.to_owned(),
            Cell::Int(n) => n.to_string(),
            Cell::Unsigned(n) => n.to_string(),
            Cell::Float32(n) => n.to_string(),
            Cell::Float(n) => n.to_string(),
            Cell::Bytes(bytes) => std::str::from_utf8(bytes).ok()?.to_owned(),
            Cell::Micros(micros) | Cell::Moment(micros) => temporal::text(micros)?,
            Cell::Null => return None,
        })
    }

    fn micros(self) -> Option<i64> {
        match self {
            Cell::Micros(micros) | Cell::Moment(micros) => Some(micros),
            Cell::Text(text) => temporal::parse(text).map(|(micros, _)| micros),
            _ => None,
        }
    }

    fn decimal(self, scale: u32) -> Option<Bytes> {
        match self {
            Cell::Text(text) => decimal(text.trim(), scale),
            Cell::Bytes(_) | Cell::Micros(_) | Cell::Moment(_) | Cell::Null => None,
            Cell::Float32(n) if !n.is_finite() => None,
            Cell::Float(n) if !n.is_finite() => None,
            number => decimal(&number.string()?, scale),
        }
    }
}

/// The unscaled number in big-endian two's complement, as short as can be. Digits beyond the scale are rounded, half away from zero.
pub(crate) fn decimal(text: &str, scale: u32) -> Option<Bytes> {
    let (negative, digits) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let all_digits = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
    if (whole.is_empty() && fraction.is_empty()) || !all_digits(whole) || !all_digits(fraction) {
        return None;
    }
    let scale = scale as usize;
    let kept = &fraction[..fraction.len().min(scale)];
    let up = fraction.as_bytes().get(scale).is_some_and(|digit| *digit >= b'5');
    let zeros = scale - kept.len();
    // 38 digits fit 128 bits.
    if whole.len() + scale <= 38 {
        let mut number = whole.bytes().chain(kept.bytes()).fold(0i128, |n, digit| n * 10 + i128::from(digit - b'0'));
        number = number * 10i128.pow(zeros as u32) + i128::from(up);
        return Some(shortest(if negative { -number } else { number }));
    }
    let mut number = BigInt::parse_bytes(format!("{whole}{kept}{}", "0".repeat(zeros)).as_bytes(), 10)?;
    number += i32::from(up);
    Some(Bytes::from(if negative { -number } else { number }.to_signed_bytes_be()))
}

fn shortest(number: i128) -> Bytes {
    let bytes = number.to_be_bytes();
    let sign = if number < 0 { 0xff } else { 0 };
    let mut start = 0;
    while start < 15 && bytes[start] == sign && (bytes[start + 1] & 0x80) == (sign & 0x80) {
        start += 1;
    }
    Bytes::copy_from_slice(&bytes[start..])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Granularity;
    use crate::temporal::Zone;
    use proptest::prelude::*;

    fn shape() -> Shape {
        Shape {
            granularity: Granularity::ConnectLogical,
            numeric: crate::config::NumericMapping::None,
            zone: Zone::parse("UTC").unwrap(),
        }
    }

    #[test]
    fn decimals() {
        for (text, scale, unscaled) in [
            ("0", 0, 0i64),
            ("1.5", 2, 150),
            ("-1.50", 2, -150),
            ("-0.01", 2, -1),
            ("127", 0, 127),
            ("128", 0, 128),
            ("-128", 0, -128),
            ("1.255", 2, 126),
            (".5", 1, 5),
        ] {
            assert_eq!(decimal(text, scale).unwrap(), BigInt::from(unscaled).to_signed_bytes_be(), "{text}");
        }
        for text in ["", "-", "NaN", "Infinity", "1e5", "1.2.3"] {
            assert_eq!(decimal(text, 2), None, "{text}");
        }
    }

    #[test]
    fn numbers_that_do_not_fit_are_refused() {
        let shape = shape();
        assert_eq!(convert(Cell::Int(127), Field::Int8, &shape), Ok(Data::Int8(127)));
        assert_eq!(convert(Cell::Int(128), Field::Int8, &shape).unwrap_err(), "an integer is no int8");
        assert!(convert(Cell::Unsigned(u64::MAX), Field::Int64, &shape).is_err());
        assert!(convert(Cell::Float(9.3e18), Field::Int64, &shape).is_err());
        assert_eq!(convert(Cell::Text("12.00"), Field::Int16, &shape), Ok(Data::Int16(12)));
        assert!(convert(Cell::Text("secret"), Field::Int16, &shape).is_err_and(|error| !error.contains("secret")));
        assert!(convert(Cell::Text("NaN"), Field::Decimal { scale: 2 }, &shape).is_err());
        assert_eq!(convert(Cell::Null, Field::Int8, &shape), Ok(Data::Null));
    }

    #[test]
    fn times() {
        let shape = Shape { zone: Zone::parse("+02:00").unwrap(), ..shape() };
        let noon = Cell::Text("1970-01-01 12:00:00");
        assert_eq!(convert(noon, Field::Timestamp { zoned: false }, &shape), Ok(Data::Int64(10 * 3_600_000)));
        assert_eq!(convert(Cell::Micros(0), Field::Timestamp { zoned: true }, &shape), Ok(Data::Int64(0)));
        assert_eq!(convert(Cell::Text("1970-01-03"), Field::Date, &shape), Ok(Data::Int32(2)));
        assert_eq!(convert(Cell::Micros(-1), Field::Date, &shape), Ok(Data::Int32(-1)));
        assert_eq!(convert(Cell::Text("00:00:01.5"), Field::Time, &shape), Ok(Data::Int32(1500)));
    }

    proptest! {
        #[test]
        fn decimals_are_big_integers(unscaled in any::<i128>(), scale in 0u32..30) {
            let digits = format!("{:0>width$}", unscaled.unsigned_abs(), width = scale as usize + 1);
            let (whole, fraction) = digits.split_at(digits.len() - scale as usize);
            let text = format!("{}{whole}.{fraction}", if unscaled < 0 { "-" } else { "" });
            prop_assert_eq!(decimal(&text, scale).unwrap(), BigInt::from(unscaled).to_signed_bytes_be());
        }
    }
}

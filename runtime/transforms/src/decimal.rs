//! Kafka Connect's Decimal: an unscaled big integer and a scale, as `java.math.BigDecimal` reads and writes it.

use aqueduct_core::schema::{Kind, logical};
use aqueduct_core::{Bytes, Error, Result, Schema};
use num_bigint::BigInt;

/// PostgreSQL's `numeric` has at most 131,072 digits before the point and 16,383 after it; a number such as `1e999999999` must not become
/// a gigabyte of zeros.
const DIGITS_MAX: i64 = 150_000;

pub(crate) fn is_decimal(schema: &Schema) -> bool {
    schema.kind == Kind::Bytes && schema.name.as_deref() == Some(logical::DECIMAL)
}

/// # Errors
/// `converter.decimal` when the schema has no readable `scale`.
pub(crate) fn scale(schema: &Schema) -> Result<i64> {
    let scale = schema.parameters.get("scale").and_then(|text| text.parse::<i32>().ok());
    scale.map(i64::from).ok_or_else(|| error("Invalid Decimal schema: the parameter scale is missing or is not an integer"))
}

/// As `BigDecimal.toString`: `-123.45`, `1E+3`, `1E-7`.
pub(crate) fn to_text(unscaled: &[u8], scale: i64) -> Result<String> {
    if unscaled.len() as i64 > DIGITS_MAX / 2 {
        return Err(error(format!("a Decimal of {} bytes is too large to write as a number", unscaled.len())));
    }
    let digits = BigInt::from_signed_bytes_be(unscaled).to_string();
    let (sign, digits) = digits.strip_prefix('-').map_or(("", digits.as_str()), |rest| ("-", rest));
    let count = digits.len() as i64;
    let exponent = count - 1 - scale;
    Ok(if scale == 0 {
        format!("{sign}{digits}")
    } else if scale > 0 && exponent >= -6 {
        let whole = count - scale;
        if whole > 0 {
            let (whole, fraction) = digits.split_at(whole as usize);
            format!("{sign}{whole}.{fraction}")
        } else {
            format!("{sign}0.{}{digits}", "0".repeat(-whole as usize))
        }
    } else {
        let (first, rest) = digits.split_at(1);
        let point = if rest.is_empty() { "" } else { "." };
        let plus = if exponent > 0 { "+" } else { "" };
        format!("{sign}{first}{point}{rest}E{plus}{exponent}")
    })
}

/// The unscaled integer of a JSON number at this scale.
///
/// # Errors
/// `converter.decimal` when the number has more digits after the point than the scale, or too many digits at all.
pub(crate) fn parse(text: &str, scale: i64) -> Result<Bytes> {
    let bad = || error(format!("{:?} is not a decimal number", text.chars().take(40).collect::<String>()));
    let (mantissa, exponent) = match text.find(['e', 'E']) {
        Some(at) => (&text[..at], text[at + 1..].parse::<i64>().map_err(|_| bad())?),
        None => (text, 0),
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let mut digits = format!("{whole}{fraction}");
    if !digits.contains(|c: char| c.is_ascii_digit()) {
        return Err(bad());
    }
    let fits = |zeros: i64, digits: &str| zeros.abs() <= DIGITS_MAX && digits.len() as i64 <= DIGITS_MAX;
    let zeros = exponent.clamp(-DIGITS_MAX * 4, DIGITS_MAX * 4) - fraction.len() as i64 + scale;
    if digits.trim_start_matches(['-', '0']).is_empty() {
        return Ok(Bytes::from_static(&[0]));
    }
    if !fits(zeros, &digits) {
        return Err(error(format!("the number has more than {DIGITS_MAX} digits")));
    }
    if zeros >= 0 {
        digits.extend(std::iter::repeat_n('0', zeros as usize));
    } else {
        let kept = digits.len().saturating_sub(-zeros as usize);
        if digits[kept..].bytes().any(|b| b != b'0') || kept <= usize::from(digits.starts_with('-')) {
            return Err(error(format!("the number has more digits after the point than the schema's scale {scale}")));
        }
        digits.truncate(kept);
    }
    let unscaled: BigInt = digits.parse().map_err(|_| bad())?;
    Ok(unscaled.to_signed_bytes_be().into())
}

fn error(message: impl Into<String>) -> Error {
    Error::fatal("converter.decimal", message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Text, scale, unscaled bytes: as Java's BigDecimal has them.
    #[test]
    fn text_is_that_of_big_decimal() {
        let cases: [(&str, i64, &[u8]); 9] = [
            ("0", 0, &[0]),
            ("-1", 0, &[0xff]),
            ("1.00", 2, &[100]),
            ("1E+3", -3, &[1]),
            ("1E-10", 10, &[1]),
            ("0.000001", 6, &[1]),
            ("1E-7", 7, &[1]),
            ("-0.05", 2, &[0xfb]),
            ("-123.45", 2, &[0xcf, 0xc7]),
        ];
        for (text, scale, bytes) in cases {
            assert_eq!(to_text(bytes, scale).unwrap(), text);
            assert_eq!(parse(text, scale).unwrap(), bytes);
        }
    }

    #[test]
    fn what_does_not_fit_the_scale_is_refused() {
        assert_eq!(parse("12.3400", 2).unwrap(), parse("12.34", 2).unwrap());
        assert_eq!(parse("0e999999999999", 2).unwrap(), &[0][..]);
        for text in ["12.345", "1e999999999", "1e-999999999", "0.001", "-0.001", "x", "", "-"] {
            assert!(parse(text, 2).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn decimals_read_back(bytes in proptest::collection::vec(any::<u8>(), 1..20), scale in -20i64..40) {
            let text = to_text(&bytes, scale).unwrap();
            let back = parse(&text, scale).unwrap();
            prop_assert_eq!(BigInt::from_signed_bytes_be(&back), BigInt::from_signed_bytes_be(&bytes));
        }
    }
}

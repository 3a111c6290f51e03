//! Numbers as Java writes them.

use std::fmt::LowerExp;
use std::io::Write;

/// As `Double.toString` and `Float.toString`: the shortest digits that read back as the same number; plain from 10^-3 to below 10^7, else
/// `1.5E10`. `NaN`, `Infinity` and `-Infinity` as they are, without quotes.
pub(crate) fn write_float<F: LowerExp + Into<f64> + Copy>(out: &mut Vec<u8>, value: F) {
    let wide: f64 = value.into();
    if !wide.is_finite() {
        let text = if wide.is_nan() {
            "NaN"
        } else if wide > 0.0 {
            "Infinity"
        } else {
            "-Infinity"
        };
        out.extend_from_slice(text.as_bytes());
        return;
    }
    let scientific = format!("{value:e}");
    let (mantissa, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    let (sign, mantissa) = mantissa.strip_prefix('-').map_or(("", mantissa), |rest| ("-", rest));
    out.extend_from_slice(sign.as_bytes());
    let digits: Vec<u8> = mantissa.bytes().filter(|b| *b != b'.').collect();
    let fraction = |out: &mut Vec<u8>, digits: &[u8]| out.extend_from_slice(if digits.is_empty() { b"0" } else { digits });
    match exponent {
        0..7 => {
            let whole = exponent as usize + 1;
            out.extend((0..whole).map(|i| digits.get(i).copied().unwrap_or(b'0')));
            out.push(b'.');
            fraction(out, digits.get(whole..).unwrap_or_default());
        }
        -3..0 => {
            out.extend_from_slice(b"0.");
            out.extend((1..-exponent).map(|_| b'0'));
            out.extend_from_slice(&digits);
        }
        _ => {
            out.extend_from_slice(&digits[..1]);
            out.push(b'.');
            fraction(out, &digits[1..]);
            write_int(out, format_args!("E{exponent}"));
        }
    }
}

/// In decimal, without the machinery of formatting: an event has a dozen of these.
pub(crate) fn write_integer(out: &mut Vec<u8>, value: i64) {
    out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
}

pub(crate) fn write_int(out: &mut Vec<u8>, value: impl std::fmt::Display) {
    write!(out, "{value}").expect("writing to memory does not fail");
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn integers(value: i64) {
            let mut out = Vec::new();
            write_integer(&mut out, value);
            prop_assert_eq!(out, value.to_string().into_bytes());
        }
    }

    #[test]
    fn the_least_integer() {
        let mut out = Vec::new();
        write_integer(&mut out, i64::MIN);
        assert_eq!(out, i64::MIN.to_string().into_bytes());
    }

    fn java<F: LowerExp + Into<f64> + Copy>(value: F) -> String {
        let mut out = Vec::new();
        write_float(&mut out, value);
        String::from_utf8(out).unwrap()
    }

    /// Each was printed by Java 17.
    #[test]
    fn floats_are_written_as_java_writes_them() {
        let doubles = [
            (0.0, "0.0"),
            (-0.0, "-0.0"),
            (100.0, "100.0"),
            (9_999_999.0, "9999999.0"),
            (1e7, "1.0E7"),
            (12_345_678.0, "1.2345678E7"),
            (1e-3, "0.001"),
            (9.99e-4, "9.99E-4"),
            (1e21, "1.0E21"),
            (f64::MAX, "1.7976931348623157E308"),
            (123_456.789, "123456.789"),
            (f64::NAN, "NaN"),
            (f64::NEG_INFINITY, "-Infinity"),
        ];
        for (value, text) in doubles {
            assert_eq!(java(value), text);
        }
        for (value, text) in [(16_777_216f32, "1.6777216E7"), (0.1, "0.1"), (f32::MAX, "3.4028235E38"), (1.4e-45, "1.0E-45")] {
            assert_eq!(java(value), text);
        }
    }

    proptest! {
        #[test]
        fn floats_read_back(bits: u64, small in -1e8..1e8f64) {
            for value in [f64::from_bits(bits), small] {
                let back: f64 = java(value).replace("Infinity", "inf").parse().unwrap();
                prop_assert!(back.to_bits() == value.to_bits() || value.is_nan());
            }
        }
    }
}

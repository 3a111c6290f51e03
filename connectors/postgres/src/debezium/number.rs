//! `numeric` and `money`: text to unscaled integer and scale, as `java.math.BigDecimal` has them.

use aqueduct_core::Bytes;
use num_bigint::BigInt;
use std::borrow::Cow;

/// A finite decimal number: `digits` without the point, and how many of them stand after it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Decimal<'a> {
    negative: bool,
    digits: Cow<'a, [u8]>,
    scale: i32,
}

impl<'a> Decimal<'a> {
    /// `None` for `NaN`, `Infinity` and what is no number. Postgres prints no exponents.
    pub(crate) fn parse(text: &'a [u8]) -> Option<Self> {
        let (negative, rest) = match text.first()? {
            b'-' => (true, &text[1..]),
            b'+' => (false, &text[1..]),
            _ => (false, text),
        };
        let point = memchr::memchr(b'.', rest);
        let (digits, scale) = match point {
            None => (Cow::Borrowed(rest), 0),
            Some(at) => {
                let mut digits = Vec::with_capacity(rest.len() - 1);
                digits.extend_from_slice(&rest[..at]);
                digits.extend_from_slice(&rest[at + 1..]);
                (Cow::Owned(digits), i32::try_from(rest.len() - at - 1).ok()?)
            }
        };
        (!digits.is_empty() && digits.iter().all(u8::is_ascii_digit)).then_some(Self { negative, digits, scale })
    }

    /// The same number with so many digits after the point; `None` if that would lose some.
    pub(crate) fn with_scale(mut self, scale: i32) -> Option<Self> {
        let more = scale - self.scale;
        if more > 0 {
            let len = self.digits.len() + more as usize;
            self.digits.to_mut().resize(len, b'0');
        } else if more < 0 {
            let lost = more.unsigned_abs() as usize;
            let kept = self.digits.len().checked_sub(lost);
            let tail = &self.digits[kept.unwrap_or(0)..];
            if tail.iter().any(|digit| *digit != b'0') {
                return None;
            }
            match kept.filter(|kept| *kept > 0) {
                Some(kept) => self.digits.to_mut().truncate(kept),
                None => self.digits = Cow::Borrowed(b"0"),
            }
        }
        self.scale = scale;
        Some(self)
    }

    /// Rounded half up, away from zero, as money is.
    pub(crate) fn rounded(mut self, scale: i32) -> Self {
        let lost = self.scale - scale;
        if lost <= 0 {
            return self.with_scale(scale).expect("digits are only added");
        }
        let lost = lost as usize;
        let mut digits = self.digits.into_owned();
        if digits.len() <= lost {
            let zeros = lost + 1 - digits.len();
            digits.splice(0..0, std::iter::repeat_n(b'0', zeros));
        }
        let up = digits[digits.len() - lost] >= b'5';
        digits.truncate(digits.len() - lost);
        if up {
            let mut at = digits.len();
            loop {
                if at == 0 {
                    digits.insert(0, b'1');
                    break;
                }
                at -= 1;
                if digits[at] < b'9' {
                    digits[at] += 1;
                    break;
                }
                digits[at] = b'0';
            }
        }
        self.digits = Cow::Owned(digits);
        self.scale = scale;
        self
    }

    /// Without zeros at the end of the fraction.
    pub(crate) fn stripped(mut self) -> Self {
        let zeros = self.digits.iter().rev().take(self.scale.max(0) as usize).take_while(|digit| **digit == b'0').count();
        let zeros = zeros.min(self.digits.len().saturating_sub(1));
        if zeros > 0 {
            let len = self.digits.len() - zeros;
            self.digits.to_mut().truncate(len);
            self.scale -= zeros as i32;
        }
        if self.digits.iter().all(|digit| *digit == b'0') {
            self.scale = 0;
        }
        self
    }

    pub(crate) fn scale(&self) -> i32 {
        self.scale
    }

    /// Two's complement, big-endian, as few octets as possible: `BigInteger.toByteArray`.
    pub(crate) fn unscaled(&self) -> Bytes {
        /// So many digits fit 64 bits.
        const SMALL: usize = 18;
        if self.digits.len() <= SMALL {
            let value = self.digits.iter().fold(0i64, |sum, digit| sum * 10 + i64::from(digit - b'0'));
            return Bytes::copy_from_slice(minimal(&if self.negative { -value } else { value }.to_be_bytes()));
        }
        let value = BigInt::parse_bytes(&self.digits, 10).unwrap_or_default();
        Bytes::from(if self.negative { -value } else { value }.to_signed_bytes_be())
    }

    /// `BigDecimal.toPlainString`, for a scale that is not negative.
    pub(crate) fn plain(&self) -> String {
        let scale = self.scale.max(0) as usize;
        let mut digits = String::with_capacity(self.digits.len() + scale + 3);
        let zero = self.digits.iter().all(|digit| *digit == b'0');
        if self.negative && !zero {
            digits.push('-');
        }
        let text: Cow<'_, [u8]> = if self.digits.len() <= scale {
            let mut padded = vec![b'0'; scale + 1 - self.digits.len()];
            padded.extend_from_slice(&self.digits);
            Cow::Owned(padded)
        } else {
            Cow::Borrowed(&self.digits)
        };
        let (whole, fraction) = text.split_at(text.len() - scale);
        let first = whole.iter().position(|digit| *digit != b'0').unwrap_or(whole.len() - 1);
        digits.extend(whole[first..].iter().map(|digit| *digit as char));
        if scale > 0 {
            digits.push('.');
            digits.extend(fraction.iter().map(|digit| *digit as char));
        }
        digits
    }
}

/// Whether a text is already what [`Decimal::plain`] makes of it at this scale, as Postgres' own texts are: `-12.30` at 2.
pub(crate) fn is_plain(text: &[u8], scale: i32) -> bool {
    plain_parts(text, scale).is_some()
}

/// The digits before and behind the point.
fn plain_parts(text: &[u8], scale: i32) -> Option<(bool, &[u8], &[u8])> {
    let (negative, digits) = text.strip_prefix(b"-").map_or((false, text), |digits| (true, digits));
    let scale = usize::try_from(scale).ok()?;
    let (whole, fraction) = match scale {
        0 => (digits, &[][..]),
        scale => {
            let (whole, fraction) = digits.split_at_checked(digits.len().checked_sub(scale + 1)?)?;
            (whole, fraction.strip_prefix(b".")?)
        }
    };
    let plain = whole.first().is_some_and(|first| *first != b'0' || whole.len() == 1)
        && whole.iter().chain(fraction).all(u8::is_ascii_digit);
    // There is no negative zero.
    let zero = negative && whole.iter().chain(fraction).all(|digit| *digit == b'0');
    (plain && !zero).then_some((negative, whole, fraction))
}

/// [`Decimal::unscaled`] of what fits 64 bits and has this scale already; `None`: not sure.
pub(crate) fn small(text: &[u8], scale: i32) -> Option<Bytes> {
    let (negative, whole, fraction) = plain_parts(text, scale)?;
    (whole.len() + fraction.len() <= 18).then(|| {
        let value = whole.iter().chain(fraction).fold(0i64, |sum, digit| sum * 10 + i64::from(digit - b'0'));
        Bytes::copy_from_slice(minimal(&if negative { -value } else { value }.to_be_bytes()))
    })
}

/// Drops octets that only repeat the sign.
fn minimal(bytes: &[u8]) -> &[u8] {
    let redundant = bytes.windows(2).take_while(|pair| matches!((pair[0], pair[1] >> 7), (0, 0) | (0xff, 1))).count();
    &bytes[redundant..]
}

/// `$1,234.56`, `-$1,000.50`, `1.234,56 €`: the digits, a sign, and a point where the last separator is one for the fraction.
pub(crate) fn money(text: &[u8]) -> Option<Vec<u8>> {
    let text = std::str::from_utf8(text).ok()?;
    let last = text.rfind(['.', ',']).filter(|at| {
        let digits = text[at + 1..].chars().take_while(char::is_ascii_digit).count();
        // A group of thousands has three digits; no currency has three and a single separator of another kind before it.
        digits != 3 || text[..*at].contains(if text.as_bytes()[*at] == b'.' { ',' } else { '.' })
    });
    let mut out = Vec::with_capacity(text.len());
    if text.contains('-') || text.contains('(') {
        out.push(b'-');
    }
    let start = out.len();
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            b'0'..=b'9' => out.push(byte),
            _ if Some(at) == last && out.len() > start => out.push(b'.'),
            _ => {}
        }
    }
    (out.len() > start).then_some(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn short_ways_lead_to_the_same(text in "-?(0|[0-9]{1,19})(\\.[0-9]{1,4})?", scale in 0i32..5) {
            let slow = Decimal::parse(text.as_bytes()).and_then(|number| number.with_scale(scale));
            if is_plain(text.as_bytes(), scale) {
                prop_assert_eq!(slow.as_ref().map(Decimal::plain), Some(text.clone()));
            }
            if let Some(unscaled) = small(text.as_bytes(), scale) {
                prop_assert_eq!(slow.map(|number| number.unscaled()), Some(unscaled));
            }
        }
    }

    #[test]
    fn postgres_texts_are_plain() {
        for (text, scale) in [("0.00", 2), ("-12.30", 2), ("7", 0), ("1234567.1", 1)] {
            assert!(is_plain(text.as_bytes(), scale) && small(text.as_bytes(), scale).is_some(), "{text}");
        }
        for (text, scale) in [("1.5", 2), ("1.50", 1), ("NaN", 0), ("-0.00", 2), (".50", 2), ("", 0), ("5", 1), ("01.50", 2)] {
            assert!(!is_plain(text.as_bytes(), scale), "{text}");
        }
    }

    #[test]
    fn unscaled_integers_are_javas() {
        for (text, scale, bytes) in [
            ("0", 0, &[0][..]),
            ("-1", 0, &[0xff]),
            ("127", 0, &[127]),
            ("128", 0, &[0, 128]),
            ("-128", 0, &[128]),
            ("1.00", 2, &[100]),
            ("-123.45", 2, &[0xcf, 0xc7]),
        ] {
            let decimal = Decimal::parse(text.as_bytes()).unwrap();
            assert_eq!((decimal.scale(), &decimal.unscaled()[..]), (scale, bytes), "{text}");
        }
        for wrong in ["", "NaN", "Infinity", "-", ".", "1e5", "1.2.3", "--1"] {
            assert_eq!(Decimal::parse(wrong.as_bytes()), None, "{wrong}");
        }
    }

    #[test]
    fn scales() {
        let parse = |text: &'static str| Decimal::parse(text.as_bytes()).unwrap();
        assert_eq!(parse("1.5").with_scale(3).unwrap().plain(), "1.500");
        assert_eq!(parse("1.500").with_scale(1).unwrap().plain(), "1.5");
        assert_eq!(parse("1.55").with_scale(1), None);
        assert_eq!(&parse("1200").with_scale(-2).unwrap().unscaled()[..], [12]);
        assert_eq!(&parse("0").with_scale(-2).unwrap().unscaled()[..], [0]);
        assert_eq!(parse("100.00").stripped().plain(), "100");
        assert_eq!(parse("0.000").stripped().scale(), 0);
        assert_eq!(parse("0.050").stripped().plain(), "0.05");
        assert_eq!(parse("9.995").rounded(2).plain(), "10.00");
        assert_eq!(parse("-0.004").rounded(2).plain(), "0.00");
    }

    #[test]
    fn moneys() {
        for (text, plain) in [
            ("$1,234.56", "1234.56"),
            ("-$1,000.50", "-1000.50"),
            ("1.234,56 €", "1234.56"),
            ("¥1,234", "1234"),
            ("$0.00", "0.00"),
            ("($5.00)", "-5.00"),
        ] {
            assert_eq!(money(text.as_bytes()).as_deref(), Some(plain.as_bytes()), "{text}");
        }
        assert_eq!(money(b"$"), None);
    }

    proptest! {
        #[test]
        fn nothing_panics(bytes in proptest::collection::vec(any::<u8>(), 0..40), text in "[-+0-9.,$]{0,30}", scale in -40i32..40) {
            for text in [&bytes[..], text.as_bytes()] {
                let _ = money(text);
                if let Some(decimal) = Decimal::parse(text) {
                    let _ = (decimal.plain(), decimal.unscaled(), decimal.clone().stripped().plain(), decimal.clone().rounded(scale.abs()).plain());
                    let _ = decimal.with_scale(scale).map(|decimal| decimal.unscaled());
                }
            }
        }

        #[test]
        fn numbers_read_back(text in "-?(0|[1-9][0-9]{0,40})(\\.[0-9]{1,20})?") {
            let decimal = Decimal::parse(text.as_bytes()).unwrap();
            let unscaled = BigInt::from_signed_bytes_be(&decimal.unscaled());
            prop_assert_eq!(&unscaled, &BigInt::parse_bytes(text.replace('.', "").as_bytes(), 10).unwrap());
            if unscaled != BigInt::default() {
                prop_assert_eq!(decimal.plain(), text);
            }
        }
    }
}

//! Dates and times: from Postgres' text (`DateStyle` ISO, `IntervalStyle` postgres) and to the texts of Java's ISO formatters.

use arrayvec::ArrayString;
use std::fmt::Write;

pub(crate) const MICROS_PER_SECOND: i64 = 1_000_000;
const SECONDS_PER_DAY: i64 = 86_400;

/// What is finite, and Postgres' two values that are not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bound<T> {
    Finite(T),
    Infinity,
    MinusInfinity,
}

/// Seconds since the epoch, UTC, and microseconds of the second: Postgres' range is a little more than what microseconds in 64 bits can say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    pub(crate) seconds: i64,
    pub(crate) micros: u32,
}

impl Stamp {
    pub(crate) fn micros(self) -> Option<i64> {
        self.seconds.checked_mul(MICROS_PER_SECOND)?.checked_add(i64::from(self.micros))
    }

    pub(crate) fn millis(self) -> Option<i64> {
        self.seconds.checked_mul(1000)?.checked_add(i64::from(self.micros / 1000))
    }

    pub(crate) fn nanos(self) -> Option<i64> {
        self.micros()?.checked_mul(1000)
    }

    /// `2024-01-02T03:04:05.678Z`; the digits of the fraction: as few as say it, or `width`.
    pub(crate) fn iso(self, width: Option<u32>) -> String {
        let mut out = String::with_capacity(27);
        let days = self.seconds.div_euclid(SECONDS_PER_DAY);
        write_date(&mut out, days);
        out.push('T');
        let second = self.seconds.rem_euclid(SECONDS_PER_DAY);
        write_time(&mut out, second * MICROS_PER_SECOND + i64::from(self.micros), width);
        out.push('Z');
        out
    }
}

/// A cursor over ASCII.
struct Scan<'a>(&'a [u8]);

impl Scan<'_> {
    fn number(&mut self, digits_min: usize, digits_max: usize) -> Option<i64> {
        let len = self.0.iter().take(digits_max).take_while(|byte| byte.is_ascii_digit()).count();
        if len < digits_min {
            return None;
        }
        let value = self.0[..len].iter().fold(0i64, |sum, byte| sum * 10 + i64::from(byte - b'0'));
        self.0 = &self.0[len..];
        Some(value)
    }

    fn eat(&mut self, text: &[u8]) -> bool {
        let found = self.0.starts_with(text);
        if found {
            self.0 = &self.0[text.len()..];
        }
        found
    }

    /// `.123456`: microseconds.
    fn fraction(&mut self) -> Option<i64> {
        if !self.eat(b".") {
            return Some(0);
        }
        let before = self.0.len();
        let value = self.number(1, 6)?;
        Some(value * 10i64.pow(6 - (before - self.0.len()) as u32))
    }

    /// Year, month, day; the year as it is written.
    fn date(&mut self) -> Option<(i64, i64, i64)> {
        let year = self.number(1, 7)?;
        let month = self.eat(b"-").then(|| self.number(2, 2))??;
        let day = self.eat(b"-").then(|| self.number(2, 2))??;
        ((1..=12).contains(&month) && (1..=31).contains(&day) && year > 0).then_some((year, month, day))
    }

    /// Microseconds of the day; `24:00:00` is one.
    fn time(&mut self) -> Option<i64> {
        let hour = self.number(2, 2)?;
        let minute = self.eat(b":").then(|| self.number(2, 2))??;
        let second = if self.eat(b":") { self.number(2, 2)? } else { 0 };
        let micros = self.fraction()?;
        let whole = (hour <= 24 && minute < 60 && second <= 60).then_some((hour * 60 + minute) * 60 + second)?;
        Some(whole * MICROS_PER_SECOND + micros)
    }

    /// `+02`, `-03:30`, `+00:53:28`: seconds.
    fn offset(&mut self) -> Option<i64> {
        if self.eat(b"Z") {
            return Some(0);
        }
        let sign = if self.eat(b"-") { -1 } else { self.eat(b"+").then_some(1)? };
        let hours = self.number(2, 2)?;
        let minutes = if self.eat(b":") { self.number(2, 2)? } else { 0 };
        let seconds = if self.eat(b":") { self.number(2, 2)? } else { 0 };
        Some(sign * ((hours * 60 + minutes) * 60 + seconds))
    }

    fn end(&self) -> bool {
        self.0.is_empty()
    }
}

fn infinite<T>(text: &[u8]) -> Option<Bound<T>> {
    match text {
        b"infinity" => Some(Bound::Infinity),
        b"-infinity" => Some(Bound::MinusInfinity),
        _ => None,
    }
}

/// Days since the epoch.
pub(crate) fn date(text: &[u8]) -> Option<Bound<i32>> {
    if let Some(bound) = infinite(text) {
        return Some(bound);
    }
    let mut scan = Scan(text);
    let (year, month, day) = scan.date()?;
    let year = if scan.eat(b" BC") { 1 - year } else { year };
    scan.end().then(|| i32::try_from(days(year, month, day)).ok().map(Bound::Finite))?
}

/// Of `timestamp` (wall-clock time taken as UTC) and `timestamptz` (at UTC).
pub(crate) fn timestamp(text: &[u8], zoned: bool) -> Option<Bound<Stamp>> {
    if let Some(bound) = infinite(text) {
        return Some(bound);
    }
    let mut scan = Scan(text);
    let (year, month, day) = scan.date()?;
    // A default may be a date alone.
    let micros = if scan.eat(b" ") { scan.time()? } else { 0 };
    let offset = if zoned && !scan.end() { scan.offset()? } else { 0 };
    let year = if scan.eat(b" BC") { 1 - year } else { year };
    if !scan.end() {
        return None;
    }
    let seconds = days(year, month, day) * SECONDS_PER_DAY + micros / MICROS_PER_SECOND - offset;
    Some(Bound::Finite(Stamp { seconds, micros: (micros % MICROS_PER_SECOND) as u32 }))
}

/// `2024-01-02 03:04:05.678+00`, which is how our sessions print a `timestamptz`, as [`Stamp::iso`] has it; `None`: the long way must do.
pub(crate) fn iso_at_utc(text: &[u8], width: Option<u32>) -> Option<ArrayString<28>> {
    // What stands between the digits, and where.
    const MARKS: [(usize, u8); 5] = [(4, b'-'), (7, b'-'), (10, b' '), (13, b':'), (16, b':')];
    let stamp = text.strip_suffix(b"+00")?;
    let (whole, fraction) = stamp.split_first_chunk::<19>()?;
    let digits = match fraction {
        [] => &[][..],
        // Postgres ends a fraction with no zero.
        [b'.', digits @ ..] if (1..=6).contains(&digits.len()) && !digits.ends_with(b"0") => digits,
        _ => return None,
    };
    let zeros = width.map_or(Some(0), |width| (width.min(6) as usize).checked_sub(digits.len()))?;
    let mut form = *whole;
    for (at, mark) in MARKS {
        if form[at] != mark {
            return None;
        }
        form[at] = b'0';
    }
    if !form.iter().chain(digits).all(u8::is_ascii_digit) {
        return None;
    }
    form = *whole;
    form[10] = b'T';
    let mut out = ArrayString::new();
    let point = if digits.is_empty() && zeros > 0 { "." } else { "" };
    for part in [text_of(&form)?, text_of(fraction)?, point, &"000000"[..zeros], "Z"] {
        out.try_push_str(part).ok()?;
    }
    Some(out)
}

fn text_of(bytes: &[u8]) -> Option<&str> {
    std::str::from_utf8(bytes).ok()
}

/// Microseconds of the day.
pub(crate) fn time(text: &[u8]) -> Option<i64> {
    let mut scan = Scan(text);
    let micros = scan.time()?;
    scan.end().then_some(micros)
}

/// Microseconds of the day at UTC.
pub(crate) fn time_tz(text: &[u8]) -> Option<i64> {
    let mut scan = Scan(text);
    let micros = scan.time()?;
    let offset = if scan.end() { 0 } else { scan.offset()? };
    scan.end().then(|| (micros - offset * MICROS_PER_SECOND).rem_euclid(SECONDS_PER_DAY * MICROS_PER_SECOND))
}

/// Howard Hinnant's days_from_civil.
fn days(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
}

fn civil(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_index = (5 * day_of_year + 2) / 153;
    let month = if month_index < 10 { month_index + 3 } else { month_index - 9 };
    let year = era * 400 + year_of_era + i64::from(month <= 2);
    (year, month, day_of_year - (153 * month_index + 2) / 5 + 1)
}

fn two(out: &mut String, number: i64) {
    out.push((b'0' + (number / 10 % 10) as u8) as char);
    out.push((b'0' + (number % 10) as u8) as char);
}

/// As `ISO_LOCAL_DATE`: `+12345-01-01` above year 9999, `-0043-03-15` before year 0.
pub(crate) fn write_date(out: &mut String, days: i64) {
    let (year, month, day) = civil(days);
    if (0..=9999).contains(&year) {
        two(out, year / 100);
        two(out, year % 100);
    } else {
        let sign = if year < 0 { '-' } else { '+' };
        let _ = write!(out, "{sign}{:04}", year.unsigned_abs());
    }
    out.push('-');
    two(out, month);
    out.push('-');
    two(out, day);
}

/// As `ISO_LOCAL_TIME`; the fraction in as few digits as say it, or in `width`.
pub(crate) fn write_time(out: &mut String, micros: i64, width: Option<u32>) {
    let seconds = micros / MICROS_PER_SECOND;
    two(out, seconds / 3600);
    out.push(':');
    two(out, seconds / 60 % 60);
    out.push(':');
    two(out, seconds % 60);
    let (mut fraction, mut digits) = (micros % MICROS_PER_SECOND, 6);
    match width {
        Some(width) => {
            for _ in width..6 {
                fraction /= 10;
            }
            digits = width.min(6);
        }
        None if fraction == 0 => digits = 0,
        None => {
            while fraction % 10 == 0 {
                fraction /= 10;
                digits -= 1;
            }
        }
    }
    if digits > 0 {
        out.push('.');
        for place in (0..digits).rev() {
            out.push((b'0' + (fraction / 10i64.pow(place) % 10) as u8) as char);
        }
    }
}

/// `1 year 2 mons -3 days 04:05:06.789`, in the parts that Postgres prints.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Interval {
    years: i32,
    months: i32,
    days: i32,
    hours: i32,
    minutes: i32,
    seconds: i32,
    micros: i32,
}

/// Days of a month as Debezium counts them: 365.25 / 12.
const DAYS_PER_MONTH: f64 = 365.25 / 12.0;

impl Interval {
    pub(crate) fn parse(text: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(text).ok()?;
        let mut interval = Self::default();
        let mut tokens = text.split_ascii_whitespace();
        while let Some(token) = tokens.next() {
            if token.contains(':') {
                interval.clock(token)?;
                continue;
            }
            let number: i32 = token.strip_prefix('+').unwrap_or(token).parse().ok()?;
            let part = match tokens.next()? {
                "year" | "years" => &mut interval.years,
                "mon" | "mons" | "month" | "months" => &mut interval.months,
                "day" | "days" => &mut interval.days,
                "hour" | "hours" => &mut interval.hours,
                _ => return None,
            };
            *part = number;
        }
        Some(interval)
    }

    fn clock(&mut self, token: &str) -> Option<()> {
        let (sign, rest) = match token.as_bytes().first()? {
            b'-' => (-1, &token[1..]),
            b'+' => (1, &token[1..]),
            _ => (1, token),
        };
        let mut parts = rest.splitn(3, ':');
        let number = |text: &str| text.parse::<u32>().ok().and_then(|number| i32::try_from(number).ok());
        self.hours = sign * number(parts.next()?)?;
        self.minutes = sign * number(parts.next()?)?;
        if let Some(seconds) = parts.next() {
            let (whole, fraction) = seconds.split_once('.').unwrap_or((seconds, ""));
            self.seconds = sign * number(whole)?;
            if fraction.len() > 6 || !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
                return None;
            }
            if !fraction.is_empty() {
                self.micros = sign * number(fraction)? * 10i32.pow(6 - fraction.len() as u32);
            }
        }
        Some(())
    }

    /// In floating point, in Debezium's order of operations, since the results are compared bit by bit.
    pub(crate) fn micros(self) -> i64 {
        let seconds = f64::from(self.seconds) + f64::from(self.micros) / 1e6;
        let months = self.years.wrapping_mul(12).wrapping_add(self.months);
        let days = f64::from(months) * DAYS_PER_MONTH + f64::from(self.days);
        let total = (((days * 24.0 + f64::from(self.hours)) * 60.0) + f64::from(self.minutes)) * 60.0 + seconds;
        (total * 1e6) as i64
    }

    /// `P1Y2M-3DT4H5M6.789S`
    pub(crate) fn iso(self) -> String {
        let Self { years, months, days, hours, minutes, seconds, micros } = self;
        let mut out = format!("P{years}Y{months}M{days}DT{hours}H{minutes}M");
        if seconds == 0 && micros < 0 {
            out.push('-');
        }
        let _ = write!(out, "{seconds}");
        if micros != 0 {
            let fraction = format!("{:06}", micros.unsigned_abs());
            let _ = write!(out, ".{}", fraction.trim_end_matches('0'));
        }
        out.push('S');
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn stamp(text: &str) -> Stamp {
        match timestamp(text.as_bytes(), true) {
            Some(Bound::Finite(stamp)) => stamp,
            other => panic!("{text}: {other:?}"),
        }
    }

    #[test]
    fn dates() {
        let day = |text: &str| match date(text.as_bytes()) {
            Some(Bound::Finite(days)) => days,
            other => panic!("{text}: {other:?}"),
        };
        for (text, days) in [
            ("1970-01-01", 0),
            ("2000-02-29", 11_016),
            ("0044-03-15 BC", -735_160),
            ("5874897-12-31", 2_145_042_905),
            ("0001-12-31 BC", -719_163),
        ] {
            assert_eq!(day(text), days, "{text}");
        }
        assert_eq!(date(b"infinity"), Some(Bound::Infinity));
        assert_eq!(date(b"-infinity"), Some(Bound::MinusInfinity));
        for wrong in ["", "2000", "2000-13-01", "2000-01-32", "2000-01-01x", "2000-01-01 AD", "99999999-01-01", "0000-01-01"] {
            assert_eq!(date(wrong.as_bytes()), None, "{wrong}");
        }
    }

    #[test]
    fn timestamps() {
        assert_eq!(stamp("2024-01-02 03:04:05.123456+02").micros(), Some(1_704_157_445_123_456));
        assert_eq!(stamp("2024-01-02 03:04:05.1").iso(None), "2024-01-02T03:04:05.1Z");
        assert_eq!(stamp("2024-01-02 03:04:05").iso(Some(6)), "2024-01-02T03:04:05.000000Z");
        assert_eq!(stamp("2024-01-02 03:04:05.129").iso(Some(2)), "2024-01-02T03:04:05.12Z");
        assert_eq!(stamp("1969-12-31 23:59:59.999999+00").micros(), Some(-1));
        assert_eq!(stamp("1969-12-31 23:59:59.999999+00").millis(), Some(-1));
        assert_eq!(stamp("0044-03-15 12:00:00+00 BC").iso(None), "-0043-03-15T12:00:00Z");
        assert_eq!(stamp("12345-01-01 00:00:00+00").iso(None), "+12345-01-01T00:00:00Z");
        assert_eq!(stamp("1883-11-18 12:03:58-04:56:02").iso(None), "1883-11-18T17:00:00Z");
        assert_eq!(stamp("294276-12-31 23:59:59.999999+00").micros(), None);
        assert_eq!(timestamp(b"2024-01-02 03:04:05+02", false), None);
    }

    #[test]
    fn what_is_not_printed_so_goes_the_long_way() {
        for text in [
            "2024-01-02 03:04:05+02",
            "2024-01-02 03:04:05.50+00",
            "2024-01-02 03:04:05.+00",
            "12024-01-02 03:04:05+00",
            "infinity",
            "0044-03-15 12:00:00+00 BC",
        ] {
            assert_eq!(iso_at_utc(text.as_bytes(), None), None, "{text}");
        }
    }

    #[test]
    fn times() {
        assert_eq!(time(b"24:00:00"), Some(86_400_000_000));
        assert_eq!(time(b"03:04:05.5"), Some(11_045_500_000));
        let mut out = String::new();
        write_time(&mut out, time_tz(b"01:02:03.450+05:30").unwrap(), None);
        assert_eq!(out, "19:32:03.45");
        assert_eq!(time(b"1:2:3"), None);
    }

    #[test]
    fn intervals() {
        let parse = |text: &str| Interval::parse(text.as_bytes()).unwrap();
        let full = parse("1 year 2 mons -3 days +04:05:06.789");
        assert_eq!(full.iso(), "P1Y2M-3DT4H5M6.789S");
        assert_eq!(full.micros(), 36_572_706_789_000);
        assert_eq!(parse("-00:00:00.5").iso(), "P0Y0M0DT0H0M-0.5S");
        assert_eq!(parse("-00:00:00.5").micros(), -500_000);
        assert_eq!(parse("00:00:00").iso(), "P0Y0M0DT0H0M0S");
        assert_eq!(parse("1 mon").micros(), 2_629_800_000_000);
        for wrong in ["1", "x", "1 fortnight", "1:2:3.1234567", "a:b"] {
            assert_eq!(Interval::parse(wrong.as_bytes()), None, "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn nothing_panics(bytes in proptest::collection::vec(any::<u8>(), 0..40), text in "[-+ 0-9:.BCZaeinormsy]{0,30}") {
            for text in [&bytes[..], text.as_bytes()] {
                let _ = (date(text), timestamp(text, true), timestamp(text, false), time(text), time_tz(text));
                if let Some(interval) = Interval::parse(text) {
                    let _ = (interval.micros(), interval.iso());
                }
                if let Some(Bound::Finite(stamp)) = timestamp(text, true) {
                    let _ = (stamp.micros(), stamp.millis(), stamp.nanos(), stamp.iso(None), stamp.iso(Some(3)));
                }
            }
        }

        #[test]
        fn timestamps_read_back(seconds in -62_135_596_800i64..253_402_300_799, micros in 0u32..1_000_000) {
            let iso = Stamp { seconds, micros }.iso(Some(6));
            let text = iso.replace('T', " ").replace('Z', "+00");
            prop_assert_eq!(timestamp(text.as_bytes(), true), Some(Bound::Finite(Stamp { seconds, micros })));
            let short = Stamp { seconds, micros }.iso(None);
            let printed = short.replace('T', " ").replace('Z', "+00");
            let at_utc = |text: &str, width| iso_at_utc(text.as_bytes(), width).map(|iso| iso.to_string());
            prop_assert_eq!(at_utc(&printed, None), Some(short));
            prop_assert_eq!(at_utc(&printed, Some(6)), Some(iso));
            let millis = Stamp { seconds, micros: micros / 1000 * 1000 };
            let printed = millis.iso(None).replace('T', " ").replace('Z', "+00");
            prop_assert_eq!(at_utc(&printed, Some(3)), Some(millis.iso(Some(3))));
            let mut day = String::new();
            write_date(&mut day, seconds.div_euclid(86_400));
            prop_assert_eq!(date(day.as_bytes()), Some(Bound::Finite(seconds.div_euclid(86_400) as i32)));
        }
    }
}

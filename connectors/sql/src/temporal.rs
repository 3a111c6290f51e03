//! Times: microseconds since 1970 inside; what Kafka Connect has, outside. Databases have no finer ones.

use crate::config::Granularity;
use aqueduct_core::schema::{Kind, logical};
use aqueduct_core::{Data, Schema};
use jiff::civil::{self, DateTime};
use jiff::tz::TimeZone;

pub(crate) const SECOND: i64 = 1_000_000;
pub(crate) const DAY: i64 = 86_400 * SECOND;

/// Postgres' `infinity` and `-infinity`, as the wire has them.
pub(crate) const INFINITY: i64 = i64::MAX;
pub(crate) const MINUS_INFINITY: i64 = i64::MIN;

/// The zone of times without one.
#[derive(Clone, Debug)]
pub(crate) struct Zone(Option<TimeZone>);

impl Zone {
    /// # Errors
    /// What is wrong, as a sentence's end.
    pub(crate) fn parse(name: &str) -> Result<Self, String> {
        let name = name.trim();
        if matches!(name.to_ascii_uppercase().as_str(), "UTC" | "GMT" | "Z" | "ETC/UTC") {
            return Ok(Self(None));
        }
        let offset = name.strip_prefix("GMT").or_else(|| name.strip_prefix("UTC")).unwrap_or(name);
        if let Some(seconds) = offset_seconds(offset) {
            let offset = jiff::tz::Offset::from_seconds(seconds).map_err(|_| format!("{name:?} is no time zone"))?;
            return Ok(Self((seconds != 0).then(|| TimeZone::fixed(offset))));
        }
        TimeZone::get(name).map(|zone| Self(Some(zone))).map_err(|_| format!("{name:?} is no time zone"))
    }

    pub(crate) fn is_utc(&self) -> bool {
        self.0.is_none()
    }

    /// A wall clock's microseconds, as if it were UTC, to those of the moment. An hour that comes twice is the first.
    pub(crate) fn moment(&self, wall: i64) -> i64 {
        let Some(zone) = &self.0 else { return wall };
        if wall == INFINITY || wall == MINUS_INFINITY {
            return wall;
        }
        let moment = civil(wall).and_then(|wall| zone.to_ambiguous_timestamp(wall).compatible().ok());
        moment.map_or(wall, |moment| moment.as_microsecond())
    }

    pub(crate) fn wall(&self, moment: i64) -> i64 {
        let Some(zone) = &self.0 else { return moment };
        let Ok(stamp) = jiff::Timestamp::from_microsecond(moment) else { return moment };
        moment + i64::from(zone.to_offset(stamp).seconds()) * SECOND
    }
}

/// `+02:00`, `-0330`, `+2`.
fn offset_seconds(text: &str) -> Option<i32> {
    let (sign, digits) = match text.split_at_checked(1)? {
        ("+", digits) => (1, digits),
        ("-", digits) => (-1, digits),
        _ => return None,
    };
    let (hours, minutes) = match digits.split_once(':') {
        Some(parts) => parts,
        None if digits.len() > 2 => digits.split_at_checked(digits.len() - 2)?,
        None => (digits, "0"),
    };
    let (hours, minutes): (i32, i32) = (hours.parse().ok()?, minutes.parse().ok()?);
    (hours <= 18 && minutes < 60).then_some(sign * (hours * 3600 + minutes * 60))
}

fn civil(wall: i64) -> Option<DateTime> {
    let stamp = jiff::Timestamp::from_microsecond(wall).ok()?;
    Some(TimeZone::UTC.to_datetime(stamp))
}

/// `2026-01-02 03:04:05.000006`, as if UTC: what goes to a database. `None` beyond the years that it can write.
pub(crate) fn text(wall: i64) -> Option<String> {
    civil(wall).filter(|time| time.year() > 0).map(|time| time.strftime("%Y-%m-%d %H:%M:%S.%6f").to_string())
}

/// What SQLite's columns and MySQL's texts hold: a date, a time, or both, with or without a zone. Microseconds, and whether it has a zone.
pub(crate) fn parse(text: &str) -> Option<(i64, bool)> {
    let text = text.trim();
    if let Ok(stamp) = text.parse::<jiff::Timestamp>() {
        return Some((stamp.as_microsecond(), true));
    }
    let time: DateTime = text.parse().ok()?;
    let moment = TimeZone::UTC.to_ambiguous_timestamp(time).compatible().ok()?;
    Some((moment.as_microsecond(), false))
}

/// Microseconds of a day: `12:34:56.789`. MySQL's times may be negative and longer than a day: they wrap, as JDBC's do.
pub(crate) fn parse_time(text: &str) -> Option<i64> {
    let text = text.trim();
    let (sign, digits) = text.strip_prefix('-').map_or((1, text), |digits| (-1, digits));
    if let Ok(time) = digits.parse::<civil::Time>() {
        return Some((sign * time_micros(time)).rem_euclid(DAY));
    }
    let (hours, rest) = digits.split_once(':')?;
    let rest: civil::Time = format!("00:{rest}").parse().ok()?;
    let hours: i64 = hours.parse().ok().filter(|hours| *hours < 1000)?;
    Some((sign * (hours * 3600 * SECOND + time_micros(rest))).rem_euclid(DAY))
}

fn time_micros(time: civil::Time) -> i64 {
    let seconds = i64::from(time.hour()) * 3600 + i64::from(time.minute()) * 60 + i64::from(time.second());
    seconds * SECOND + i64::from(time.subsec_nanosecond()) / 1000
}

impl Granularity {
    pub(crate) fn schema(self) -> Schema {
        match self {
            Granularity::ConnectLogical => Schema { version: Some(1), ..Schema::new(Kind::Int64).named(logical::TIMESTAMP) },
            Granularity::MicrosLong | Granularity::NanosLong => Schema::new(Kind::Int64),
            _ => Schema::new(Kind::String),
        }
    }

    /// `None`: it does not fit.
    pub(crate) fn data(self, moment: i64, zone: &Zone) -> Option<Data> {
        Some(match self {
            Granularity::ConnectLogical => Data::Int64(match moment {
                // As pgjdbc has them.
                INFINITY => 9_223_372_036_825_200_000,
                MINUS_INFINITY => -9_223_372_036_832_400_000,
                moment => moment.div_euclid(1000),
            }),
            Granularity::MicrosLong => Data::Int64(moment),
            Granularity::MicrosString => Data::String(moment.to_string()),
            Granularity::NanosLong => Data::Int64(moment.checked_mul(1000)?),
            Granularity::NanosString => Data::String((i128::from(moment) * 1000).to_string()),
            Granularity::MicrosIsoDatetimeString => Data::String(iso(moment, zone, "%Y-%m-%dT%H:%M:%S.%6f")?),
            Granularity::NanosIsoDatetimeString => Data::String(iso(moment, zone, "%Y-%m-%dT%H:%M:%S.%9f")?),
        })
    }
}

fn iso(moment: i64, zone: &Zone, format: &str) -> Option<String> {
    Some(civil(zone.wall(moment))?.strftime(format).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zones() {
        let berlin = Zone::parse("Europe/Berlin").unwrap();
        let (wall, _) = parse("2026-07-01 12:00:00.5").unwrap();
        assert_eq!(wall - berlin.moment(wall), 7200 * SECOND);
        assert_eq!(berlin.wall(berlin.moment(wall)), wall);
        for (name, hours) in [("UTC", 0.0), ("+02:00", 2.0), ("GMT-3", -3.0), ("+0530", 5.5)] {
            let zone = Zone::parse(name).unwrap();
            assert_eq!((wall - zone.moment(wall)) as f64, hours * 3600e6, "{name}");
        }
        assert!(Zone::parse("Mars/Olympus").is_err() && Zone::parse("+99").is_err());
    }

    #[test]
    fn texts() {
        assert_eq!(text(parse("2026-01-02T03:04:05.000006").unwrap().0).unwrap(), "2026-01-02 03:04:05.000006");
        assert_eq!(parse("2026-01-02").unwrap(), (parse("2026-01-02 00:00").unwrap().0, false));
        assert_eq!(parse("2026-01-02T03:04:05+02:00").unwrap(), (parse("2026-01-02 01:04:05").unwrap().0, true));
        assert_eq!(parse("1969-12-31 23:59:59.999").unwrap().0, -1000);
        assert!(parse("soon").is_none());
        assert_eq!(parse_time("01:00:00.5"), Some(3_600_500_000));
        assert_eq!(parse_time("-01:00:00"), Some(DAY - 3600 * SECOND));
        assert_eq!(parse_time("838:59:59"), Some((838 * 3600 + 3599) * SECOND % DAY));
    }

    #[test]
    fn granularities() {
        let (moment, _) = parse("2026-01-02 03:04:05.000006").unwrap();
        let utc = Zone::parse("UTC").unwrap();
        let data = |granularity: Granularity| granularity.data(moment, &utc).unwrap();
        assert_eq!(data(Granularity::ConnectLogical), Data::Int64(1_767_323_045_000));
        assert_eq!(data(Granularity::MicrosLong), Data::Int64(1_767_323_045_000_006));
        assert_eq!(data(Granularity::NanosString), Data::String("1767323045000006000".into()));
        assert_eq!(data(Granularity::NanosIsoDatetimeString), Data::String("2026-01-02T03:04:05.000006000".into()));
        assert_eq!(data(Granularity::MicrosIsoDatetimeString), Data::String("2026-01-02T03:04:05.000006".into()));
        assert_eq!(Granularity::ConnectLogical.data(-1, &utc), Some(Data::Int64(-1)));
    }
}

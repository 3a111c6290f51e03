//! Lines in the combined log format of Apache and nginx, with the time taken and a request number after it.

use crate::dice::Dice;
use jiff::Timestamp;
use std::io::Write;

const PATHS: [&str; 12] = [
    "/",
    "/",
    "/login",
    "/logout",
    "/cart",
    "/checkout",
    "/search?q=shoes",
    "/search?q=tent",
    "/static/app.js",
    "/static/app.css",
    "/favicon.ico",
    "/api/v1/orders",
];
const REFERRERS: [&str; 4] = ["-", "-", "https://shop.example.com/", "https://www.example.org/search"];
const AGENTS: [&str; 6] = [
    "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0",
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/126.0.0.0 Safari/537.36",
    "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/17.5 Safari/605.1.15",
    "Mozilla/5.0 (iPhone; CPU iPhone OS 17_5 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Mobile/15E148",
    "curl/8.8.0",
    "Googlebot/2.1 (+http://www.google.com/bot.html)",
];
/// Out of 100.
const STATUSES: [(u64, u16); 7] = [(80, 200), (85, 304), (90, 302), (96, 404), (98, 403), (99, 500), (100, 503)];

/// Writes lines; keeps the text of the second that it wrote last, since many lines share it.
#[derive(Debug, Default)]
pub(crate) struct AccessLog {
    second: i64,
    time: String,
}

impl AccessLog {
    /// Appends line `n`, without an end of line. `millis` since the epoch is the time in it.
    pub(crate) fn write(&mut self, out: &mut Vec<u8>, seed: u64, n: u64, millis: i64) {
        let mut dice = Dice::new(seed, n);
        // Addresses for documentation (RFC 5737).
        let network = dice.pick(&["192.0.2", "198.51.100", "203.0.113"]);
        let host = dice.range(1, 254);
        let percent = dice.below(100);
        let status = STATUSES.iter().find(|(below, _)| percent < *below).map_or(200, |(_, status)| *status);
        let method = if dice.below(10) == 0 { "POST" } else { "GET" };
        let bytes = if status == 304 { 0 } else { dice.range(120, 48_000) };
        let micros = dice.range(300, 900_000);
        let (referrer, agent) = (dice.pick(&REFERRERS), dice.pick(&AGENTS));
        self.at(millis);
        let time = &self.time;
        let path = dice.below(2 * PATHS.len() as u64) as usize;
        let text = match PATHS.get(path) {
            Some(path) => write!(
                out,
                r#"{network}.{host} - - [{time}] "{method} {path} HTTP/1.1" {status} {bytes} "{referrer}" "{agent}" "#
            ),
            None => {
                let product = dice.range(1, 9999);
                write!(
                    out,
                    r#"{network}.{host} - - [{time}] "{method} /products/{product} HTTP/1.1" {status} {bytes} "{referrer}" "{agent}" "#
                )
            }
        };
        let end = write!(out, "{}.{:06} req-{n:010}", micros / 1_000_000, micros % 1_000_000);
        text.and(end).expect("writing to memory does not fail");
    }

    fn at(&mut self, millis: i64) {
        let second = millis.div_euclid(1000);
        if second != self.second || self.time.is_empty() {
            let time = Timestamp::from_second(second).unwrap_or_default();
            self.time = time.strftime("%d/%b/%Y:%H:%M:%S +0000").to_string();
            self.second = second;
        }
    }
}

/// The number of a line; `None` when the line is not one of these.
pub(crate) fn number(line: &[u8]) -> Option<u64> {
    let at = line.windows(5).rposition(|window| window == b" req-")?;
    let digits = std::str::from_utf8(&line[at + 5..]).ok()?;
    (digits.len() >= 10 && digits.bytes().all(|b| b.is_ascii_digit())).then(|| digits.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_a_combined_log_line_that_never_changes() {
        let (mut log, mut out) = (AccessLog::default(), Vec::new());
        log.write(&mut out, 7, 42, 1_767_225_600_999);
        assert_eq!(String::from_utf8(out.clone()).unwrap(), LINE);
        assert_eq!(number(&out), Some(42));
        for foreign in ["", "hello", "x req-", "x req-12", "x req-00000000x1", " req-99999999999999999999999"] {
            assert_eq!(number(foreign.as_bytes()), None, "{foreign}");
        }
        // What was written before does not matter.
        let mut fresh = Vec::new();
        log.write(&mut fresh, 7, 41, 1_767_225_601_000);
        fresh.clear();
        log.write(&mut fresh, 7, 42, 1_767_225_600_999);
        assert_eq!(fresh, out);
    }

    const LINE: &str = concat!(
        r#"198.51.100.192 - - [01/Jan/2026:00:00:00 +0000] "GET /checkout HTTP/1.1" 200 7385 "-" "Mozilla/5.0 (iPhone; CPU iPhone OS 17_5 "#,
        r#"like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Mobile/15E148" 0.106718 req-0000000042"#
    );
}

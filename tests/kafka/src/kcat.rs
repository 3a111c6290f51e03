//! The independent witness: kcat (librdkafka).

use crate::broker::Broker;
use crate::home::{must_run, run_with, text};
use std::process::{Command, Output};
use std::time::Duration;
use wait_services::poll_for;

/// As kcat saw it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    pub partition: i32,
    pub offset: i64,
    /// Milliseconds since the epoch.
    pub timestamp: i64,
    pub key: Option<Vec<u8>>,
    pub value: Option<Vec<u8>>,
    /// In their order; a null value is `NULL`, as kcat prints it. Names and values without `,`, `=` and line feeds.
    pub headers: Vec<(String, String)>,
}

impl Record {
    /// Lossy; null is empty.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(self.value.as_deref().unwrap_or_default()).into_owned()
    }
}

/// Runs kcat with this on its stdin.
///
/// # Panics
/// When kcat is missing.
pub fn kcat(args: &[&str], stdin: &[u8]) -> Output {
    must_run("kcat", &["-V"], "kcat");
    run_with(Command::new("kcat").args(args), stdin)
}

const FORMAT: &str = "%p %o %T %K %S\\n%k%s%h\\n";

/// Every committed record of a topic from its beginning, in partition order; `args` for `-X` options.
///
/// # Panics
/// When kcat cannot read it.
#[track_caller]
pub fn consume(bootstrap: &str, topic: &str, args: &[&str]) -> Vec<Record> {
    let committed = "isolation.level=read_committed";
    let fixed = ["-b", bootstrap, "-C", "-t", topic, "-e", "-q", "-o", "beginning", "-f", FORMAT, "-X", committed];
    let all: Vec<&str> = fixed.into_iter().chain(args.iter().copied()).collect();
    let output = kcat(&all, b"");
    assert!(output.status.success(), "kcat {}: {}", all.join(" "), String::from_utf8_lossy(&output.stderr));
    let mut records = parse(&output.stdout).unwrap_or_else(|| panic!("what kcat prints for {topic}: {}", text(&output)));
    records.sort_by_key(|record| (record.partition, record.offset));
    records
}

impl Broker {
    /// [`consume`] from this broker.
    #[track_caller]
    pub fn consume_with(&self, topic: &str, args: &[&str]) -> Vec<Record> {
        consume(&self.bootstrap(), topic, args)
    }

    /// As [`Broker::consume_with`] with no more options: what a `read_committed` reader sees now.
    #[track_caller]
    pub fn consume(&self, topic: &str) -> Vec<Record> {
        self.consume_with(topic, &[])
    }

    /// Also what was aborted or is still open.
    #[track_caller]
    pub fn consume_uncommitted(&self, topic: &str) -> Vec<Record> {
        self.consume_with(topic, &["-X", "isolation.level=read_uncommitted"])
    }

    /// The values as text, in partition order.
    #[track_caller]
    pub fn lines(&self, topic: &str) -> Vec<String> {
        self.consume(topic).iter().map(Record::text).collect()
    }

    /// Waits until a `read_committed` reader sees so many records or more.
    #[track_caller]
    pub fn wait_records(&self, topic: &str, count: usize, deadline: Duration) -> Vec<Record> {
        let mut seen = Vec::new();
        let enough = poll_for(deadline, || {
            seen = self.consume(topic);
            (seen.len() >= count).then_some(())
        });
        assert!(enough.is_some(), "{topic} has {} of {count} records after {deadline:?}", seen.len());
        seen
    }

    /// One record a line, to the topic's partitions as kcat spreads them. `args` for more of kcat's options (`-p 0`, `-K :`, `-H a=b`, `-Z`).
    #[track_caller]
    pub fn produce(&self, topic: &str, lines: &[impl AsRef<str>], args: &[&str]) {
        let bootstrap = self.bootstrap();
        let all: Vec<&str> = ["-b", &bootstrap, "-P", "-t", topic].into_iter().chain(args.iter().copied()).collect();
        let mut input = Vec::new();
        for line in lines {
            input.extend_from_slice(line.as_ref().as_bytes());
            input.push(b'\n');
        }
        let output = kcat(&all, &input);
        assert!(output.status.success(), "kcat {}: {}", all.join(" "), text(&output));
    }
}

fn parse(mut bytes: &[u8]) -> Option<Vec<Record>> {
    let mut records = Vec::new();
    while !bytes.is_empty() {
        let head = line(&mut bytes)?;
        let numbers: Vec<i64> = std::str::from_utf8(head).ok()?.split(' ').map(|n| n.parse().ok()).collect::<Option<_>>()?;
        let [partition, offset, timestamp, key, value] = numbers[..] else { return None };
        let mut payload = |length: i64| -> Option<Option<Vec<u8>>> {
            let Ok(length) = usize::try_from(length) else { return Some(None) };
            let (payload, rest) = bytes.split_at_checked(length)?;
            bytes = rest;
            Some(Some(payload.to_vec()))
        };
        let (key, value) = (payload(key)?, payload(value)?);
        let headers = String::from_utf8_lossy(line(&mut bytes)?).into_owned();
        let headers = headers.split(',').filter_map(|header| header.split_once('=')).map(|(n, v)| (n.to_owned(), v.to_owned()));
        records.push(Record { partition: partition.try_into().ok()?, offset, timestamp, key, value, headers: headers.collect() });
    }
    Some(records)
}

fn line<'a>(bytes: &mut &'a [u8]) -> Option<&'a [u8]> {
    let end = bytes.iter().position(|byte| *byte == b'\n')?;
    let (line, rest) = bytes.split_at(end);
    *bytes = &rest[1..];
    Some(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn binary_null_and_headers() {
        let records = parse(b"0 7 1700000000000 1 3\nka\nba=1,b=x\n2 8 -1 -1 0\n\n1 9 5 0 -1\n\n").expect("three records");
        let value = |text: &[u8]| Some(text.to_vec());
        let headers = vec![("a".to_owned(), "1".to_owned()), ("b".to_owned(), "x".to_owned())];
        assert_eq!(
            records[0],
            Record { partition: 0, offset: 7, timestamp: 1_700_000_000_000, key: value(b"k"), value: value(b"a\nb"), headers }
        );
        assert_eq!((&records[1].key, &records[1].value), (&None, &value(b"")));
        assert_eq!((&records[2].key, &records[2].value), (&value(b""), &None));
        assert_eq!(parse(b"0 7 0 9 9\nshort"), None);
    }
}

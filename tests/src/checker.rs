//! Compares what was delivered with the ledger: lost, duplicated, reordered, corrupted, misrouted, invented.
//!
//! Against the ledger, never against the largest number seen, so that a lost tail shows (reliability.md, finding 2).

use crate::ledger::{Ledger, line};
use std::collections::BTreeMap;
use std::fmt;

/// Records in their order: an append file, one partition's rolled files, one partition of the log.
#[derive(Clone, Debug, Default)]
pub struct Stream {
    /// What to call it in the report: a path, `topic-partition`.
    pub name: String,
    pub topic: Option<String>,
    /// Lines without their line ends, each ended by `\n`.
    pub bytes: Vec<u8>,
    /// A last line without line end is torn, unless the stream says it is whole.
    pub whole_tail: bool,
}

impl Stream {
    pub fn new(name: impl Into<String>, bytes: Vec<u8>) -> Self {
        Self { name: name.into(), bytes, ..Self::default() }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    Lost,
    Duplicated,
    Reordered,
    Corrupted,
    Misrouted,
    Invented,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    pub kind: Kind,
    pub source: String,
    pub seq: u64,
    /// Stream and record number where it was seen, and what was there.
    pub place: String,
}

#[derive(Clone, Debug, Default)]
pub struct Report {
    pub expected: u64,
    pub seen: u64,
    pub counts: BTreeMap<Kind, u64>,
    /// The first of each kind.
    pub first: Vec<Violation>,
}

impl Report {
    pub fn is_clean(&self) -> bool {
        self.counts.is_empty()
    }

    pub fn count(&self, kind: Kind) -> u64 {
        self.counts.get(&kind).copied().unwrap_or(0)
    }

    fn add(&mut self, kind: Kind, source: &str, seq: u64, place: impl FnOnce() -> String) {
        let count = self.counts.entry(kind).or_default();
        *count += 1;
        if *count == 1 {
            self.first.push(Violation { kind, source: source.to_owned(), seq, place: place() });
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} lines written, {} delivered", self.expected, self.seen)?;
        if self.is_clean() {
            return write!(f, ", every one exactly once, in order");
        }
        for violation in &self.first {
            let Violation { kind, source, seq, place } = violation;
            write!(f, "\n  {} {kind:?}; the first: {source} {seq} at {place}", self.count(*kind))?;
        }
        Ok(())
    }
}

struct Seen {
    times: Vec<u8>,
    lines: Vec<u8>,
}

/// Judges the streams of one place. Order is per source within a stream: a source's records must not be spread over streams out of order.
pub fn check(ledger: &Ledger, streams: &[Stream]) -> Report {
    let mut report = Report { expected: ledger.written(), ..Report::default() };
    let mut seen: BTreeMap<&str, Seen> = ledger
        .sources
        .iter()
        .map(|(name, source)| {
            (name.as_str(), Seen { times: vec![0; usize::try_from(source.issued).unwrap_or(0)], lines: Vec::new() })
        })
        .collect();
    for stream in streams {
        check_stream(ledger, stream, &mut seen, &mut report);
    }
    for (name, source) in &ledger.sources {
        let times = &seen[name.as_str()].times;
        for seq in 0..source.written {
            if times[seq as usize] == 0 {
                report.add(Kind::Lost, name, seq, || match times[seq as usize..].iter().position(|times| *times > 0) {
                    Some(ahead) => format!("no stream; the next that was delivered is {}", seq + ahead as u64),
                    None => format!("no stream; a lost tail, {} were written", source.written),
                });
            }
        }
    }
    report
}

fn check_stream(ledger: &Ledger, stream: &Stream, seen: &mut BTreeMap<&str, Seen>, report: &mut Report) {
    let mut last: BTreeMap<&str, u64> = BTreeMap::new();
    let mut number = 0u64;
    let mut rest = stream.bytes.as_slice();
    while !rest.is_empty() {
        let (text, whole) = match rest.iter().position(|byte| *byte == b'\n') {
            Some(end) => (&rest[..end], true),
            None => (rest, stream.whole_tail),
        };
        rest = rest.get(text.len() + 1..).unwrap_or_default();
        number += 1;
        report.seen += 1;
        let place = || format!("{} record {number}: {:?}", stream.name, String::from_utf8_lossy(&text[..text.len().min(80)]));
        let Some((name, seq)) = id(text) else {
            report.add(Kind::Corrupted, "?", 0, place);
            continue;
        };
        let Some((name, source)) = ledger.sources.get_key_value(name) else {
            report.add(Kind::Invented, name, seq, place);
            continue;
        };
        let state = seen.get_mut(name.as_str()).expect("made from the same ledger");
        if seq >= source.issued {
            report.add(Kind::Invented, name, seq, place);
            continue;
        }
        state.lines.clear();
        line(name, seq, &mut state.lines);
        if state.lines != text || !whole {
            report.add(Kind::Corrupted, name, seq, place);
            continue;
        }
        if source.topic.is_some() && stream.topic.is_some() && source.topic != stream.topic {
            report.add(Kind::Misrouted, name, seq, place);
        }
        let times = &mut state.times[seq as usize];
        *times = times.saturating_add(1);
        if *times > 1 {
            report.add(Kind::Duplicated, name, seq, place);
        } else if last.get(name.as_str()).is_some_and(|last| *last > seq) {
            report.add(Kind::Reordered, name, seq, place);
        }
        let last = last.entry(name).or_default();
        *last = seq.max(*last);
    }
}

fn id(text: &[u8]) -> Option<(&str, u64)> {
    let space = text.iter().position(|byte| *byte == b' ')?;
    let digits = text[space + 1..].split(|byte| *byte == b' ').next()?;
    Some((std::str::from_utf8(&text[..space]).ok()?, std::str::from_utf8(digits).ok()?.parse().ok()?))
}

/// True once every source's last written line is among the lines: the fresh marker that ends a wait.
pub fn has_markers(ledger: &Ledger, streams: &[Stream]) -> bool {
    ledger.sources.iter().filter(|(_, source)| source.written > 0).all(|(name, source)| {
        let mut marker = Vec::new();
        line(name, source.written - 1, &mut marker);
        streams.iter().any(|stream| stream.bytes.split(|byte| *byte == b'\n').rev().any(|line| line == marker))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ledger(written: &[(&str, u64)]) -> Ledger {
        let text: String =
            written.iter().map(|(name, n)| format!("topic {name} t\nissued {name} {}\nwritten {name} {n}\n", n + 2)).collect();
        Ledger::parse(&text).unwrap()
    }

    fn lines(ids: &[(&str, u64)]) -> Vec<Vec<u8>> {
        ids.iter()
            .map(|(source, seq)| {
                let mut out = Vec::new();
                line(source, *seq, &mut out);
                out
            })
            .collect()
    }

    fn stream(lines: &[Vec<u8>]) -> Stream {
        let bytes = lines.iter().flat_map(|line| line.iter().copied().chain([b'\n'])).collect();
        Stream { topic: Some("t".to_owned()), ..Stream::new("out", bytes) }
    }

    fn run(ids: &[(&str, u64)]) -> Report {
        check(&ledger(&[("a", 5), ("b", 2)]), &[stream(&lines(ids))])
    }

    const CLEAN: [(&str, u64); 7] = [("a", 0), ("b", 0), ("a", 1), ("a", 2), ("b", 1), ("a", 3), ("a", 4)];

    fn only(report: &Report, kind: Kind, source: &str, seq: u64) {
        assert_eq!(report.counts.keys().copied().collect::<Vec<_>>(), [kind], "{report}");
        assert_eq!((report.first[0].source.as_str(), report.first[0].seq), (source, seq), "{report}");
    }

    #[test]
    fn a_clean_history_is_clean() {
        assert!(run(&CLEAN).is_clean());
        // Issued and not known to be written: may be there or not.
        let report = run(&[&CLEAN[..], &[("a", 5)]].concat());
        assert!(report.is_clean(), "{report}");
    }

    #[test]
    fn a_hole_is_lost() {
        let mut ids = CLEAN.to_vec();
        ids.remove(3);
        only(&run(&ids), Kind::Lost, "a", 2);
    }

    #[test]
    fn a_tail_is_lost_although_nothing_larger_was_seen() {
        only(&run(&CLEAN[..6]), Kind::Lost, "a", 4);
        only(&check(&ledger(&[("a", 3)]), &[]), Kind::Lost, "a", 0);
    }

    #[test]
    fn a_repeated_suffix_is_duplicated() {
        only(&run(&[&CLEAN[..], &[("a", 3), ("a", 4)]].concat()), Kind::Duplicated, "a", 3);
    }

    #[test]
    fn a_duplicate_in_another_stream_is_found() {
        let streams = [stream(&lines(&CLEAN)), stream(&lines(&[("b", 1)]))];
        only(&check(&ledger(&[("a", 5), ("b", 2)]), &streams), Kind::Duplicated, "b", 1);
    }

    #[test]
    fn an_overtaken_line_is_reordered() {
        let mut ids = CLEAN;
        ids.swap(2, 3);
        only(&run(&ids), Kind::Reordered, "a", 1);
    }

    #[test]
    fn sources_may_interleave_freely() {
        let mut ids = CLEAN;
        ids.swap(0, 1);
        assert!(run(&ids).is_clean());
    }

    #[test]
    fn what_was_never_issued_is_invented() {
        only(&run(&[&CLEAN[..], &[("a", 7)]].concat()), Kind::Invented, "a", 7);
        only(&run(&[&CLEAN[..], &[("c", 0)]].concat()), Kind::Invented, "c", 0);
    }

    #[test]
    fn a_changed_byte_is_corrupted_and_lost() {
        let mut all = lines(&CLEAN);
        let last = all[3].len() - 1;
        all[3][last] ^= 1;
        let report = check(&ledger(&[("a", 5), ("b", 2)]), &[stream(&all)]);
        assert_eq!((report.count(Kind::Corrupted), report.count(Kind::Lost)), (1, 1), "{report}");
    }

    #[test]
    fn a_torn_last_line_is_corrupted() {
        let mut stream = stream(&lines(&CLEAN));
        stream.bytes.pop();
        let report = check(&ledger(&[("a", 5), ("b", 2)]), std::slice::from_ref(&stream));
        assert_eq!((report.count(Kind::Corrupted), report.first[0].seq), (1, 4), "{report}");
    }

    #[test]
    fn two_lines_run_together_are_corrupted() {
        let mut all = lines(&CLEAN);
        let second = all.remove(1);
        all[0].extend(second);
        assert_eq!(check(&ledger(&[("a", 5), ("b", 2)]), &[stream(&all)]).count(Kind::Corrupted), 1);
    }

    #[test]
    fn another_topic_is_misrouted() {
        let wrong = Stream { topic: Some("u".to_owned()), ..stream(&lines(&CLEAN)) };
        assert_eq!(check(&ledger(&[("a", 5), ("b", 2)]), &[wrong]).count(Kind::Misrouted), 7);
    }

    #[test]
    fn the_marker_is_each_sources_last_line() {
        let ledger = ledger(&[("a", 5), ("b", 2)]);
        assert!(has_markers(&ledger, &[stream(&lines(&CLEAN))]));
        assert!(!has_markers(&ledger, &[stream(&lines(&CLEAN[..6]))]));
        assert!(!has_markers(&ledger, &[stream(&lines(&[("a", 4)]))]));
    }

    proptest! {
        /// Any single edit of a clean history is found.
        #[test]
        fn no_single_edit_passes(count in 3u64..200, at in any::<prop::sample::Index>(), edit in 0..4u8) {
            let ledger = Ledger::parse(&format!("issued a {count}\nwritten a {count}\n")).unwrap();
            let ids: Vec<(&str, u64)> = (0..count).map(|seq| ("a", seq)).collect();
            let mut all = lines(&ids);
            let i = at.index(all.len() - 1);
            match edit {
                0 => { all.remove(i); }
                1 => { let copy = all[i].clone(); all.insert(i, copy); }
                2 => all.swap(i, i + 1),
                _ => all[i].push(b'x'),
            }
            prop_assert!(check(&ledger, &[stream(&lines(&ids))]).is_clean());
            prop_assert!(!check(&ledger, &[stream(&all)]).is_clean());
        }
    }
}

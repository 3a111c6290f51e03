//! Flipped and missing bytes in every file of the embedded log, on the real file system: what is damaged is told with its place, never served,
//! and a torn tail is cut.
#![allow(clippy::unwrap_used, reason = "a test")]

use aqueduct_core::{Error, PayloadRef, Record, SourceOffset, TaskId, TopicPartition};
use aqueduct_log::disk::RealDisk;
use aqueduct_log::embedded::Stepper;
use aqueduct_log::embedded::verify::verify;
use aqueduct_log::record_batch::{Compression, encode, stamp_base_offset};
use aqueduct_log::{EmbeddedLog, EmbeddedOptions, EncodedBatch, Log, LogWriter, TopicSpec};
use futures_util::FutureExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tempfile::TempDir;

/// Each commit puts so many records in each of the two partitions.
const RECORDS: i64 = 3;
const COMMITS: i64 = 5;

/// Commits are in the segments alone, or in the frames of the journal too.
const CARRIES: [u64; 2] = [0, 1 << 16];

fn open(dir: &Path) -> Result<(EmbeddedLog, Stepper), Error> {
    open_with(dir, 0)
}

fn open_with(dir: &Path, carry_bytes: u64) -> Result<(EmbeddedLog, Stepper), Error> {
    let options = EmbeddedOptions { carry_bytes, journal_fill_bytes: 100, ..EmbeddedOptions::default() };
    EmbeddedLog::stepped(Arc::new(RealDisk::new(dir)), options)
}

/// In memory where there is such a file system: these tests sync more often than a disk likes, and power is not what they cut.
fn tempdir() -> TempDir {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() { tempfile::tempdir_in(memory).unwrap() } else { tempfile::tempdir().unwrap() }
}

fn tp(partition: i32) -> TopicPartition {
    TopicPartition::new("t", partition)
}

fn value(offset: i64) -> String {
    format!("value {offset:04} {}", "x".repeat(40))
}

/// A log with `commits` commits, and then no end: as a crash leaves it.
fn crashed(commits: i64, configs: &[(&str, &str)]) -> TempDir {
    crashed_with(0, commits, configs)
}

fn crashed_with(carry_bytes: u64, commits: i64, configs: &[(&str, &str)]) -> TempDir {
    let dir = tempdir();
    let (log, mut stepper) = open_with(dir.path(), carry_bytes).unwrap();
    let configs = configs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    let spec = TopicSpec { partitions: 2, configs, ..TopicSpec::default() };
    stepper.drive(log.create_topic("t", &spec)).unwrap();
    let mut writer = stepper.drive(log.writer(&TaskId::new("c", 0))).unwrap();
    for commit in 0..commits {
        append(&mut stepper, &mut *writer, commit);
    }
    dir
}

fn append(stepper: &mut Stepper, writer: &mut dyn LogWriter, commit: i64) {
    let offsets = commit * RECORDS..(commit + 1) * RECORDS;
    let record = |partition, offset| Record {
        partition: Some(partition),
        timestamp: Some(1000 + offset),
        key: "key".into(),
        ..Record::new("t", value(offset))
    };
    let records = (0..2).flat_map(|partition| offsets.clone().map(move |offset| record(partition, offset)));
    let map = |key: &str, value: i64| [(key.to_owned(), value.into())].into_iter().collect();
    let resume = SourceOffset { partition: map("p", 0), offset: Some(map("n", commit + 1)) };
    let append = writer.append(EncodedBatch::new(records.collect()).unwrap(), vec![resume]);
    let commit = append.now_or_never().expect("there is room").unwrap();
    stepper.drive(commit).unwrap();
}

/// All records of a partition that can be read, and the error that ended it.
fn read(log: &EmbeddedLog, partition: i32) -> (i64, Option<Error>) {
    let (next, error) = read_by(log, partition, 1);
    // A large read hands out what is sound before the damage, too.
    let (large, also) = read_by(log, partition, 1 << 20);
    assert_eq!((next, error.as_ref().map(Error::message)), (large, also.as_ref().map(Error::message)));
    (next, error)
}

fn read_by(log: &EmbeddedLog, partition: i32, max_bytes: usize) -> (i64, Option<Error>) {
    let end = log.topic("t").now_or_never().unwrap().unwrap().unwrap().partitions[partition as usize].end;
    let mut next = 0;
    while next < end {
        match log.read_now(&tp(partition), next, max_bytes) {
            Err(error) => return (next, Some(error)),
            Ok((batch, after)) => {
                assert!(!batch.is_empty() && after > next, "neither a record nor an error at {next}");
                for record in batch.iter() {
                    assert_eq!(record.origin().unwrap().1, next);
                    let expected = value(next);
                    assert_eq!(
                        (record.value(), record.key()),
                        (PayloadRef::Bytes(expected.as_bytes()), PayloadRef::Bytes(b"key"))
                    );
                    assert_eq!(record.timestamp(), Some(1000 + next));
                    next += 1;
                }
            }
        }
    }
    (next, None)
}

fn stored_offset(log: &EmbeddedLog) -> i64 {
    let offsets = log.source_offsets("c").now_or_never().unwrap().unwrap();
    offsets.first().map_or(0, |offset| offset.offset.as_ref().unwrap()["n"].as_i64().unwrap())
}

/// How many whole commits are there: the same in both partitions and in the offsets.
fn whole_commits(dir: &Path) -> Result<i64, Error> {
    let (log, _stepper) = open(dir)?;
    let commits = stored_offset(&log);
    for partition in 0..2 {
        match read(&log, partition) {
            (next, None) => assert_eq!(next, commits * RECORDS, "records and offsets do not fit"),
            (_, Some(error)) => return Err(error),
        }
    }
    Ok(commits)
}

fn copy(from: &Path) -> TempDir {
    fn copy_dir(from: &Path, to: &Path) {
        std::fs::create_dir_all(to).unwrap();
        for entry in std::fs::read_dir(from).unwrap().map(Result::unwrap) {
            let to = to.join(entry.file_name());
            if entry.file_type().unwrap().is_dir() {
                copy_dir(&entry.path(), &to);
            } else {
                std::fs::copy(entry.path(), to).unwrap();
            }
        }
    }
    let copied = tempdir();
    copy_dir(from, copied.path());
    copied
}

/// The only file below `dir` whose name ends so.
fn find(dir: &Path, sub: &str, suffix: &str) -> PathBuf {
    let entries = std::fs::read_dir(dir.join(sub)).unwrap().map(|entry| entry.unwrap().path());
    let mut found: Vec<_> = entries.filter(|path| path.to_string_lossy().ends_with(suffix)).collect();
    assert_eq!(found.len(), 1, "{found:?}");
    found.remove(0)
}

/// A journal without the room that was written ahead, and where its frames begin and the last ends. As `journal.rs` describes them.
fn journal_of(dir: &Path) -> (Vec<u8>, Vec<usize>) {
    let mut journal = std::fs::read(find(dir, "journal", ".journal")).unwrap();
    let starts = frames(&journal);
    let end = *starts.last().unwrap();
    assert!(journal[end..].iter().all(|byte| *byte == 0));
    journal.truncate(end);
    (journal, starts)
}

fn frames(journal: &[u8]) -> Vec<usize> {
    let mut starts = vec![0];
    let mut at = 0;
    while at + 4 <= journal.len() && journal[at] != 0 {
        assert!([b"AQjf", b"AQjw"].contains(&journal[at..at + 4].try_into().unwrap()), "{at}");
        at += 12 + u32::from_be_bytes(journal[at + 4..at + 8].try_into().unwrap()) as usize;
        starts.push(at);
    }
    starts
}

/// Where the batches of a segment begin, and its length.
fn batches(segment: &[u8]) -> Vec<usize> {
    let mut starts = vec![0];
    let mut at = 0;
    while at < segment.len() {
        at += 12 + u32::from_be_bytes(segment[at + 8..at + 12].try_into().unwrap()) as usize;
        starts.push(at);
    }
    starts
}

/// With their offsets.
type Values = Vec<(i64, String)>;

/// What an operator reads who sets the position behind each damage, to the offset that the error names; and what was damaged.
fn read_around(log: &EmbeddedLog, partition: i32, max_bytes: usize) -> (Values, Vec<(i64, i64)>) {
    let end = log.topic("t").now_or_never().unwrap().unwrap().unwrap().partitions[partition as usize].end;
    let (mut next, mut found, mut damaged) = (0, Vec::new(), Vec::new());
    while next < end {
        match log.read_now(&tp(partition), next, max_bytes) {
            Ok((batch, after)) => {
                for record in batch.iter() {
                    let PayloadRef::Bytes(value) = record.value() else { panic!("{record:?}") };
                    let (offset, timestamp) = (record.origin().unwrap().1, record.timestamp());
                    assert_eq!((record.key(), timestamp), (PayloadRef::Bytes(b"key"), Some(1000 + offset)), "{offset}");
                    found.push((offset, String::from_utf8_lossy(value).into_owned()));
                }
                assert!(after > next, "nothing at {next}");
                next = after;
            }
            Err(error) => {
                assert_eq!((error.code(), error.is_retriable()), ("log.corrupt", false));
                let place = format!("topic t, partition {partition}, offset {next}: ");
                assert!(error.message().starts_with(&place), "{error} instead of {place}");
                let until = error.message().rsplit_once("the next good offset is ").unwrap().1.parse().unwrap();
                assert!(until > next && until <= end, "{error}");
                damaged.push((next, until));
                next = until;
            }
        }
    }
    (found, damaged)
}

/// As `aqueduct log verify` tells it.
fn verified(dir: &Path) -> Vec<(i64, i64)> {
    std::fs::write(dir.join("format"), "").unwrap();
    let report = verify(dir, |_, _| {}).unwrap();
    let mut damage: Vec<_> = report.damage.into_iter().filter(|damaged| damaged.partition == Some(0)).collect();
    damage.sort_by_key(|damaged| damaged.offset);
    damage.iter().map(|damaged| (damaged.offset.unwrap(), damaged.until.unwrap())).collect()
}

fn values(offsets: impl IntoIterator<Item = i64>) -> Values {
    offsets.into_iter().map(|offset| (offset, value(offset))).collect()
}

/// Every byte of every batch, flipped under an open log: exactly the batch that was hit is not served, and told.
#[test]
fn a_flipped_byte_of_a_segment_costs_its_batch_alone() {
    for compression in ["none", "lz4", "zstd"] {
        let dir = crashed(COMMITS, &[("compression.type", compression)]);
        let (log, _stepper) = open(dir.path()).unwrap();
        let path = find(dir.path(), "topics/t-0", ".log");
        let bytes = std::fs::read(&path).unwrap();
        let starts = batches(&bytes);
        assert_eq!(starts.len() as i64, COMMITS + 1);
        let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
        for (at, byte) in bytes.iter().enumerate() {
            let index = starts.partition_point(|start| *start <= at) - 1;
            // All bits of a header, one of each other byte.
            let bits = if at - starts[index] < 61 { 0..8 } else { at % 8..at % 8 + 1 };
            for bit in bits {
                let case = format!("{compression}, byte {at} in batch {index} at {}, bit {bit}", starts[index]);
                file.write_all_at(&[byte ^ (1 << bit)], at as u64).unwrap();
                let hit = index as i64 * RECORDS..(index as i64 + 1) * RECORDS;
                // The leader epoch is a broker's: not covered by Kafka's CRC, and nothing of the record.
                let hit = if (12..16).contains(&(at - starts[index])) { 0..0 } else { hit };
                let damaged: Vec<_> = (!hit.is_empty()).then_some((hit.start, hit.end)).into_iter().collect();
                let expected = (values((0..COMMITS * RECORDS).filter(|offset| !hit.contains(offset))), damaged);
                for max_bytes in [1, 1 << 20] {
                    assert_eq!(read_around(&log, 0, max_bytes), expected, "{case}");
                }
                // Also when the damage was there first, and to who begins behind it.
                let (reopened, _stepper) = open(dir.path()).unwrap();
                for from in hit.end..COMMITS * RECORDS {
                    let (batch, _) = reopened.read_now(&tp(0), from, 1).unwrap_or_else(|error| panic!("{case}: {error}"));
                    assert_eq!(batch.iter().next().unwrap().origin().unwrap().1, from, "{case}");
                }
                assert_eq!(read_around(&reopened, 0, 1), expected, "{case}");
                assert_eq!(verified(dir.path()), expected.1, "{case}");
            }
            file.write_all_at(&[*byte], at as u64).unwrap();
        }
        assert_eq!(read_around(&log, 0, 1), (values(0..COMMITS * RECORDS), vec![]), "as before");
        assert_eq!(read(&log, 1).0, COMMITS * RECORDS);
    }
}

/// A record may hold what looks like the log's own batch, with offsets that fit. It is a value and never a batch, whatever is damaged around it.
#[test]
fn a_forged_batch_in_a_damaged_one_is_never_served() {
    for (compression, wide) in [("none", false), ("none", true), ("lz4", false), ("zstd", true)] {
        let dir = tempdir();
        let (log, mut stepper) = open(dir.path()).unwrap();
        let configs = [("compression.type".to_owned(), compression.to_owned())].into();
        stepper.drive(log.create_topic("t", &TopicSpec { configs, ..TopicSpec::default() })).unwrap();
        let mut writer = stepper.drive(log.writer(&TaskId::new("c", 0))).unwrap();
        let mut forged = Vec::new();
        encode(
            [Record::new("t", "FORGED")].into_iter().collect::<aqueduct_core::Batch>().iter(),
            1,
            Compression::None,
            &mut forged,
        )
        .unwrap();
        // One record a batch; the forged one claims the last offset of its own batch, so that the next real one follows it.
        for offset in 0..40i64 {
            stamp_base_offset(&mut forged, offset);
            let padding = if wide { "p".repeat(5000) } else { String::new() };
            let pad = Record { partition: Some(0), ..Record::new("t", format!("sound {padding}")) };
            let mut bearer = Record { partition: Some(0), ..Record::new("t", "sound") };
            let value = aqueduct_core::Payload::Bytes(forged.clone().into());
            bearer.headers.push(aqueduct_core::Header { name: "h".into(), value });
            let records = if offset % 2 == 0 { vec![pad] } else { vec![bearer] };
            let commit = writer.append(EncodedBatch::new(records.into_iter().collect()).unwrap(), vec![]).now_or_never().unwrap();
            stepper.drive(commit.unwrap()).unwrap();
        }
        let path = find(dir.path(), "topics/t-0", ".log");
        let bytes = std::fs::read(&path).unwrap();
        let starts = batches(&bytes);
        let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
        // Who wrote the log, and who starts on it, damaged.
        let check = |log: &EmbeddedLog, hit: i64, lost_max: i64, case: &str| {
            let (mut next, mut damaged) = (0, 0..0);
            while next < 40 {
                match log.read_now(&tp(0), next, 1) {
                    Ok((batch, after)) => {
                        let values = batch.iter().map(|record| (record.origin().unwrap().1, record.value()));
                        values.for_each(|(offset, value)| {
                            assert!(offset >= next && !damaged.contains(&offset), "{case}");
                            let PayloadRef::Bytes(value) = value else { panic!("{case}") };
                            assert!(value.starts_with(b"sound"), "{case}: {offset} is {value:?}");
                        });
                        next = after;
                    }
                    Err(error) => {
                        assert_eq!((error.code(), next), ("log.corrupt", hit), "{case}: {error}");
                        let until = error.message().rsplit_once("the next good offset is ").unwrap().1.parse().unwrap();
                        damaged = next..until;
                        next = until;
                    }
                }
            }
            assert!(damaged.start == hit && damaged.end <= (hit + lost_max).min(40), "{case}: {damaged:?}");
        };
        for hit in [1i64, 21, 39] {
            let start = starts[hit as usize];
            // All but the offset: where it is not to be found it was compressed.
            let batch = &bytes[start..starts[hit as usize + 1]];
            let inner = batch[61..].windows(53).position(|window| *window == forged[8..61]).map_or(70, |at| 61 + at - 8);
            let length = ((inner - 12) as i32).to_be_bytes();
            let header = [0; 61];
            let all = vec![b'x'; inner];
            for (what, at, damage, exact) in [
                ("length", 8, &length[..], true),
                ("magic", 16, &[9][..], true),
                ("header", 0, &header[..], false),
                ("all", 0, &all[..], false),
            ] {
                file.write_all_at(damage, (start + at) as u64).unwrap();
                let case = format!("{compression}, wide {wide}, {what} of {hit}");
                // Where nothing is left of the header, up to the next index entry: behind 4 KiB. Only the log that wrote it has an index.
                let indexed = wide && compression == "none";
                check(
                    &log,
                    hit,
                    if exact {
                        1
                    } else if indexed {
                        2
                    } else {
                        40
                    },
                    &case,
                );
                check(&open(dir.path()).unwrap().0, hit, if exact { 1 } else { 40 }, &case);
                file.write_all_at(&bytes[start..], start as u64).unwrap();
            }
        }
    }
}

/// A log that starts on a damaged segment: the same, and it goes on.
#[test]
fn damage_in_a_segment_does_not_keep_the_log_from_starting() {
    let crashed = crashed(COMMITS, &[]);
    let bytes = std::fs::read(find(crashed.path(), "topics/t-0", ".log")).unwrap();
    let second = batches(&bytes)[1];
    // Offset, length, magic, CRC, attributes, count, a record.
    for at in [7, 8, 11, 16, 17, 22, 64, 70] {
        let dir = copy(crashed.path());
        let mut bytes = bytes.clone();
        bytes[second + at] ^= 0x10;
        std::fs::write(find(dir.path(), "topics/t-0", ".log"), &bytes).unwrap();
        for start in 0..2 {
            let (log, mut stepper) = open(dir.path()).unwrap();
            let (next, error) = read(&log, 0);
            assert_eq!((next, error.unwrap().code()), (RECORDS, "log.corrupt"), "byte {at}");
            assert_eq!(stored_offset(&log), COMMITS);
            let mut writer = stepper.drive(log.writer(&TaskId::new("other", 0))).unwrap();
            let more = Record { partition: Some(0), ..Record::new("t", "more") };
            let commit = writer.append(EncodedBatch::new([more].into_iter().collect()).unwrap(), vec![]).now_or_never().unwrap();
            let appended = stepper.drive(commit.unwrap()).unwrap();
            let end = COMMITS * RECORDS + start;
            assert_eq!(appended.ranges, [(tp(0), end, end + 1)]);
            for offset in RECORDS * 2..=end {
                let (batch, _) = log.read_now(&tp(0), offset, 1).unwrap();
                assert_eq!(batch.iter().next().unwrap().origin().unwrap().1, offset, "byte {at}");
            }
            assert_eq!(read(&log, 1).0, COMMITS * RECORDS);
        }
    }
}

#[test]
fn a_flipped_byte_of_the_journal_is_told_or_is_the_torn_tail() {
    for carries in CARRIES {
        let crashed = crashed_with(carries, COMMITS, &[]);
        let (journal, starts) = journal_of(crashed.path());
        let last = starts[starts.len() - 2];
        for at in 0..journal.len() {
            let dir = copy(crashed.path());
            let path = find(dir.path(), "journal", ".journal");
            let mut flipped = journal.clone();
            flipped[at] ^= 1 << (at % 8);
            std::fs::write(&path, &flipped).unwrap();
            match whole_commits(dir.path()) {
                Err(error) => assert!(at < last && error.code() == "log.corrupt", "byte {at} of {last}: {error}"),
                Ok(commits) => assert!(at >= last && commits == COMMITS - 1, "byte {at} of {last}: {commits} commits"),
            }
        }
    }
}

#[test]
fn a_sealed_journal_has_no_byte_in_doubt() {
    for carries in CARRIES {
        let crashed = crashed_with(carries, 2, &[]);
        {
            let (log, mut stepper) = open_with(crashed.path(), carries).unwrap();
            let mut writer = stepper.drive(log.writer(&TaskId::new("c", 0))).unwrap();
            append(&mut stepper, &mut *writer, 2);
            stepper.seal();
        }
        let (journal, starts) = journal_of(crashed.path());
        let seal = starts[starts.len() - 2];
        for at in 0..journal.len() {
            let dir = copy(crashed.path());
            let mut flipped = journal.clone();
            flipped[at] ^= 1 << (at % 8);
            std::fs::write(find(dir.path(), "journal", ".journal"), &flipped).unwrap();
            match whole_commits(dir.path()) {
                Err(error) => assert!(at < seal && error.code() == "log.corrupt", "byte {at} of {seal}: {error}"),
                Ok(commits) => assert!(at >= seal && commits == 3, "byte {at} of {seal}: {commits} commits"),
            }
        }
    }
}

#[test]
fn a_journal_that_is_cut_off_has_whole_commits_only() {
    for carries in CARRIES {
        let crashed = crashed_with(carries, COMMITS, &[]);
        let (journal, starts) = journal_of(crashed.path());
        // The first two frames are the topic and the writer.
        let ends = starts[3..].to_vec();
        assert_eq!(ends.len() as i64, COMMITS);
        for cut in ends[0]..=journal.len() {
            let dir = copy(crashed.path());
            std::fs::write(find(dir.path(), "journal", ".journal"), &journal[..cut]).unwrap();
            let whole = ends.iter().filter(|end| **end <= cut).count() as i64;
            assert_eq!(whole_commits(dir.path()).unwrap(), whole, "cut at {cut}");
            // Once more: recovery is idempotent.
            assert_eq!(whole_commits(dir.path()).unwrap(), whole, "cut at {cut}");
        }
    }
}

#[test]
fn a_torn_tail_of_a_segment_takes_its_whole_commit_with_it() {
    let crashed = crashed(COMMITS, &[]);
    let bytes = std::fs::read(find(crashed.path(), "topics/t-1", ".log")).unwrap();
    let last = batches(&bytes)[COMMITS as usize - 1];
    for cut in last..=bytes.len() {
        let dir = copy(crashed.path());
        std::fs::write(find(dir.path(), "topics/t-1", ".log"), &bytes[..cut]).unwrap();
        let whole = if cut == bytes.len() { COMMITS } else { COMMITS - 1 };
        assert_eq!(whole_commits(dir.path()).unwrap(), whole, "cut at {cut}");
        assert_eq!(whole_commits(dir.path()).unwrap(), whole, "cut at {cut}");
    }
    // Not the last commit: that is no torn tail.
    let dir = copy(crashed.path());
    std::fs::write(find(dir.path(), "topics/t-1", ".log"), &bytes[..last - 1]).unwrap();
    let (log, _stepper) = open(dir.path()).unwrap();
    let (next, error) = read(&log, 1);
    let error = error.unwrap();
    assert_eq!((error.code(), next), ("log.corrupt", (COMMITS - 2) * RECORDS));
    assert!(error.message().contains("topic t, partition 1, offset 9"), "{error}");
}

#[test]
fn a_damaged_checkpoint_is_told() {
    let crashed = crashed(2, &[]);
    drop(open(crashed.path()).unwrap());
    let checkpoint = std::fs::read(find(crashed.path(), "journal", ".checkpoint")).unwrap();
    for at in 0..checkpoint.len() {
        let dir = copy(crashed.path());
        let mut flipped = checkpoint.clone();
        flipped[at] ^= 1 << (at % 8);
        std::fs::write(find(dir.path(), "journal", ".checkpoint"), &flipped).unwrap();
        assert_eq!(open(dir.path()).err().map(|error| error.code().to_owned()).as_deref(), Some("log.corrupt"), "byte {at}");
    }
    for missing in [".checkpoint", ".journal"] {
        let dir = copy(crashed.path());
        std::fs::remove_file(find(dir.path(), "journal", missing)).unwrap();
        assert_eq!(open(dir.path()).err().map(|error| error.code().to_owned()).as_deref(), Some("log.corrupt"), "{missing}");
    }
}

#[test]
fn a_missing_segment_is_told() {
    let dir = crashed(COMMITS, &[]);
    drop(open(dir.path()).unwrap());
    std::fs::remove_file(find(dir.path(), "topics/t-0", ".log")).unwrap();
    let (log, _stepper) = open(dir.path()).unwrap();
    let (next, error) = read(&log, 0);
    assert_eq!((next, error.unwrap().code()), (0, "log.corrupt"));
    assert_eq!(read(&log, 1).0, COMMITS * RECORDS);
}

/// Indexes are hints: whatever they say, the right records come.
#[test]
fn a_damaged_index_leads_nobody_astray() {
    let commits = 60;
    let crashed = crashed(commits, &[]);
    let (log, mut stepper) = open(crashed.path()).unwrap();
    log.read_now(&tp(0), 100, 1).unwrap();
    stepper.close();
    drop(log);
    let end = commits * RECORDS;
    for suffix in [".index", ".timeindex"] {
        let index = std::fs::read(find(crashed.path(), "topics/t-0", suffix)).unwrap();
        assert!(!index.is_empty(), "nothing to damage");
        let flips = (0..index.len()).map(|at| {
            let mut flipped = index.clone();
            flipped[at] ^= 1 << (at % 8);
            flipped
        });
        let others = [
            vec![],
            vec![0; index.len()],
            vec![0xff; index.len()],
            index[..index.len() - 5].to_vec(),
            [&index[..], &index[..]].concat(),
        ];
        for (case, damaged) in flips.chain(others).enumerate() {
            std::fs::write(find(crashed.path(), "topics/t-0", suffix), &damaged).unwrap();
            let (log, _stepper) = open(crashed.path()).unwrap();
            for from in (0..end).step_by(7) {
                let (batch, _) = log.read_now(&tp(0), from, 1).unwrap_or_else(|error| panic!("{suffix} {case}: {error}"));
                assert_eq!(batch.iter().next().unwrap().origin().unwrap().1, from, "{suffix} {case}");
                let at = tokio_free(log.offset_for_timestamp(&tp(0), 1000 + from))
                    .unwrap_or_else(|error| panic!("{suffix} {case}: {error}"));
                assert_eq!(at, Some(from), "{suffix} {case}");
            }
        }
        std::fs::write(find(crashed.path(), "topics/t-0", suffix), &index).unwrap();
    }
}

/// Runs a future that needs a runtime for its blocking part.
fn tokio_free<T>(future: impl Future<Output = T>) -> T {
    static RUNTIME: std::sync::LazyLock<tokio::runtime::Runtime> =
        std::sync::LazyLock::new(|| tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().unwrap());
    RUNTIME.block_on(future)
}

//! Errors of the disk, at every single call.

use super::*;
use crate::disk::{DiskFile, Open, SyncTarget};
use aqueduct_core::{PayloadRef, Record};
use std::io;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

const EIO: i32 = 5;
const ENOSPC: i32 = 28;

/// Fails the calls `first..first + times` with this error.
struct Faults {
    calls: AtomicU64,
    first: AtomicU64,
    times: AtomicU64,
    errno: i32,
}

impl Faults {
    fn hit(&self) -> io::Result<()> {
        let call = self.calls.fetch_add(1, Relaxed);
        let first = self.first.load(Relaxed);
        if call >= first && call - first < self.times.load(Relaxed) {
            Err(io::Error::from_raw_os_error(self.errno))
        } else {
            Ok(())
        }
    }
}

struct Faulty {
    disk: RealDisk,
    faults: Arc<Faults>,
}

struct FaultyFile {
    file: Arc<dyn DiskFile>,
    faults: Arc<Faults>,
}

impl Disk for Faulty {
    fn open(&self, path: &str, how: Open) -> io::Result<Arc<dyn DiskFile>> {
        self.faults.hit()?;
        Ok(Arc::new(FaultyFile { file: self.disk.open(path, how)?, faults: self.faults.clone() }))
    }
    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.faults.hit()?;
        self.disk.rename(from, to)
    }
    fn unlink(&self, path: &str) -> io::Result<()> {
        self.faults.hit()?;
        self.disk.unlink(path)
    }
    fn list(&self, dir: &str) -> io::Result<Vec<String>> {
        self.faults.hit()?;
        self.disk.list(dir)
    }
    fn create_dir(&self, dir: &str) -> io::Result<()> {
        self.faults.hit()?;
        self.disk.create_dir(dir)
    }
    fn remove_dir_all(&self, dir: &str) -> io::Result<()> {
        self.faults.hit()?;
        self.disk.remove_dir_all(dir)
    }
    fn sync_dir(&self, dir: &str) -> io::Result<()> {
        self.faults.hit()?;
        self.disk.sync_dir(dir)
    }
    fn sync_all(&self, targets: &[SyncTarget]) -> io::Result<()> {
        SyncTarget::run_in_order(self, targets)
    }
}

impl DiskFile for FaultyFile {
    fn write_all_at(&self, bytes: &[u8], position: u64) -> io::Result<()> {
        let fault = self.faults.hit();
        // Half of it gets there.
        self.file.write_all_at(if fault.is_err() { &bytes[..bytes.len() / 2] } else { bytes }, position)?;
        fault
    }
    fn read_at(&self, position: u64, len: usize, out: &mut Vec<u8>) -> io::Result<()> {
        self.file.read_at(position, len, out)
    }
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }
    fn truncate(&self, len: u64) -> io::Result<()> {
        self.faults.hit()?;
        self.file.truncate(len)
    }
    fn sync_data(&self) -> io::Result<()> {
        self.faults.hit()
    }
}

struct Source {
    stepper: Stepper,
    log: EmbeddedLog,
}

const LINES: i64 = 12;

fn line(n: i64) -> EncodedBatch {
    EncodedBatch::new([Record { partition: Some((n % 2) as i32), ..Record::new("t", format!("line {n}")) }].into_iter().collect())
        .unwrap()
}

fn at(n: i64) -> Vec<SourceOffset> {
    let map = |n: i64| [("at".to_owned(), n.into())].into_iter().collect();
    vec![SourceOffset { partition: map(0), offset: Some(map(n)) }]
}

impl Source {
    fn open(dir: &Path, faults: &Arc<Faults>, options: &EmbeddedOptions) -> Result<Self> {
        let disk = Faulty { disk: RealDisk::new(dir), faults: faults.clone() };
        let (log, stepper) = EmbeddedLog::stepped(Arc::new(disk), options.clone())?;
        Ok(Self { stepper, log })
    }

    fn next(&mut self) -> i64 {
        let stored = self.stepper.drive(self.log.source_offsets("c")).unwrap();
        stored.first().map_or(0, |offset| offset.offset.as_ref().unwrap()["at"].as_i64().unwrap())
    }

    /// As a task does: from the stored offset on, two appends in flight, until an error.
    fn run(&mut self) -> Result<()> {
        let Self { stepper, log } = self;
        match stepper.drive(log.create_topic("t", &TopicSpec { partitions: 2, ..TopicSpec::default() })) {
            Err(error) if error.code() != "log.topic_exists" => return Err(error),
            _ => {}
        }
        let mut writer = stepper.drive(log.writer(&TaskId::new("c", 0)))?;
        let mut next = self.next();
        while next < LINES {
            let mut commits = Vec::new();
            for n in next..(next + 2).min(LINES) {
                commits.push(self.stepper.drive(writer.append(line(n), at(n + 1)))?);
            }
            next += commits.len() as i64;
            let results: Vec<_> = commits.into_iter().map(|commit| self.stepper.drive(commit)).collect();
            results.into_iter().collect::<Result<Vec<_>>>()?;
            self.stepper.seal();
        }
        Ok(())
    }

    fn check(&mut self, what: &str) {
        assert_eq!(self.next(), LINES, "{what}");
        for p in 0..2 {
            let (mut found, mut from) = (Vec::new(), 0);
            loop {
                let (batch, next) = self.log.read_now(&TopicPartition::new("t", p), from, 1).unwrap();
                if batch.is_empty() {
                    break;
                }
                found.extend(batch.iter().map(|record| match record.value() {
                    PayloadRef::Bytes(bytes) => String::from_utf8(bytes.to_vec()).unwrap(),
                    other => panic!("{other:?}"),
                }));
                from = next;
            }
            let expected: Vec<_> = (0..LINES).filter(|n| n % 2 == i64::from(p)).map(|n| format!("line {n}")).collect();
            assert_eq!(found, expected, "{what}, partition {p}");
        }
    }
}

/// An error (or several) at each call in turn: the source starts over from what is stored, and every line is there once, in order; also after the
/// process was killed right then, and after it ended well.
fn every_call_fails_once(errno: i32, times: u64, kill: bool, options: &EmbeddedOptions) {
    for first in 0.. {
        let dir = tempdir();
        let faults = Arc::new(Faults { calls: 0.into(), first: first.into(), times: times.into(), errno });
        let what = format!("errno {errno} at call {first} x{times}, kill {kill}");
        let mut source = (0..100).find_map(|_| Source::open(dir.path(), &faults, options).ok()).expect("it heals");
        for _ in 0..100 {
            let Err(error) = source.run() else { break };
            assert!(error.is_retriable(), "{what}: {error}");
            if kill {
                drop(source);
                source = (0..100).find_map(|_| Source::open(dir.path(), &faults, options).ok()).expect("it heals");
            }
        }
        source.check(&what);
        let passed = faults.calls.load(Relaxed) < first;
        if first % 2 == 0 {
            source.stepper.close();
        }
        drop(source);
        faults.first.store(u64::MAX, Relaxed);
        Source::open(dir.path(), &faults, options).unwrap().check(&format!("{what}, reopened"));
        if passed {
            return;
        }
    }
}

/// In memory where there is such a file system: these tests sync more often than a disk likes, and power is not what they cut.
fn tempdir() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() { tempfile::tempdir_in(memory).unwrap() } else { tempfile::tempdir().unwrap() }
}

fn uncarried() -> EmbeddedOptions {
    EmbeddedOptions { carry_bytes: 0, journal_fill_bytes: 2000, ..EmbeddedOptions::default() }
}

/// The segments are synced when frames have carried more than so many bytes: 0 syncs them with every second commit.
fn carried(behind_bytes: usize) -> EmbeddedOptions {
    EmbeddedOptions { behind_bytes, journal_fill_bytes: 2000, ..EmbeddedOptions::default() }
}

#[test]
fn an_io_error_at_any_call_loses_and_repeats_nothing() {
    for options in [uncarried(), carried(usize::MAX), carried(0)] {
        every_call_fails_once(EIO, 1, false, &options);
        every_call_fails_once(EIO, 1, true, &options);
    }
}

#[test]
fn a_full_disk_at_any_call_loses_and_repeats_nothing() {
    for options in [uncarried(), carried(usize::MAX), carried(0)] {
        let options = EmbeddedOptions { journal_bytes: 600, ..options };
        every_call_fails_once(ENOSPC, 7, false, &options);
        every_call_fails_once(ENOSPC, 7, true, &options);
    }
}

#[test]
fn a_full_disk_stops_the_writers_and_is_healed_by_the_next_success() {
    let dir = tempdir();
    let faults = Arc::new(Faults { calls: 0.into(), first: u64::MAX.into(), times: u64::MAX.into(), errno: ENOSPC });
    let mut source = Source::open(dir.path(), &faults, &carried(usize::MAX)).unwrap();
    source.run().unwrap();
    faults.first.store(0, Relaxed);
    let task = TaskId::new("d", 0);
    let error = source.stepper.drive(source.log.writer(&task)).err().unwrap();
    assert_eq!((error.code(), error.is_retriable()), ("log.disk_full", true));
    assert!(source.log.stats().stopped.unwrap().contains("log.disk_full"));
    source.stepper.maintain();
    assert!(source.log.stats().stopped.is_some());
    source.check("while it is full");
    faults.first.store(u64::MAX, Relaxed);
    source.stepper.drive(source.log.writer(&task)).unwrap();
    assert_eq!(source.log.stats().stopped, None);
}

#[test]
fn after_a_failure_queued_appends_of_the_writer_fail_too() {
    let dir = tempdir();
    let faults = Arc::new(Faults { calls: 0.into(), first: u64::MAX.into(), times: 1.into(), errno: EIO });
    let mut source = Source::open(dir.path(), &faults, &carried(usize::MAX)).unwrap();
    source.run().unwrap();
    let Source { stepper, log } = &mut source;
    let mut writer = stepper.drive(log.writer(&TaskId::new("d", 0))).unwrap();
    let first = stepper.drive(writer.append(line(0), vec![])).unwrap();
    faults.first.store(faults.calls.load(Relaxed), Relaxed);
    assert!(stepper.round());
    // Invariant 3: it would overtake the first.
    assert_eq!(stepper.drive(writer.append(line(1), vec![])).err().unwrap().code(), "log.io");
    assert_eq!(stepper.drive(first).unwrap_err().code(), "log.io");
    source.check("nothing of it is there");
}

/// Key and value of all that can be read, the last one of each key.
fn last_of_each(log: &EmbeddedLog) -> BTreeMap<Vec<u8>, (i64, Vec<u8>)> {
    let text = |payload: PayloadRef<'_>| if let PayloadRef::Bytes(bytes) = payload { bytes.to_vec() } else { Vec::new() };
    let (mut from, mut found) = (0, BTreeMap::new());
    loop {
        let (batch, next) = log.read_now(&TopicPartition::new("keyed", 0), from, 1).unwrap();
        for record in batch.iter() {
            found.insert(text(record.key()), (record.origin().unwrap().1, text(record.value())));
        }
        if next == from {
            return found;
        }
        from = next;
    }
}

/// One error, or a crash, at each call of a compaction: the last record of each key stays, at its offset.
#[test]
fn compaction_survives_an_error_or_a_crash_at_any_call() {
    let none = || Arc::new(Faults { calls: 0.into(), first: u64::MAX.into(), times: 1.into(), errno: EIO });
    let template = tempdir();
    let mut source = Source::open(template.path(), &none(), &carried(usize::MAX)).unwrap();
    let configs = [("segment.bytes", "1500"), ("cleanup.policy", "compact")].map(|(k, v)| (k.to_owned(), v.to_owned())).into();
    source.stepper.drive(source.log.create_topic("keyed", &TopicSpec { configs, ..TopicSpec::default() })).unwrap();
    let mut writer = source.stepper.drive(source.log.writer(&TaskId::new("c", 0))).unwrap();
    for n in 0..24 {
        let record = Record { key: format!("k{}", n % 5).into(), ..Record::new("keyed", format!("{n:0300}")) };
        let commit =
            source.stepper.drive(writer.append(EncodedBatch::new([record].into_iter().collect()).unwrap(), vec![])).unwrap();
        source.stepper.drive(commit).unwrap();
    }
    let expected = last_of_each(&source.log);
    source.stepper.close();
    for times in [1, u64::MAX] {
        for call in 0.. {
            let dir = tempdir();
            super::tests::copy(template.path(), dir.path());
            let faults = none();
            let mut source = Source::open(dir.path(), &faults, &carried(usize::MAX)).unwrap();
            let first = faults.calls.load(Relaxed) + call;
            faults.times.store(times, Relaxed);
            faults.first.store(first, Relaxed);
            source.stepper.maintain();
            let passed = faults.calls.load(Relaxed) < first;
            let what = format!("call {call} x{times}");
            if times == 1 {
                faults.first.store(u64::MAX, Relaxed);
                assert_eq!(last_of_each(&source.log), expected, "{what}");
            }
            drop(source);
            let mut source = Source::open(dir.path(), &none(), &carried(usize::MAX)).unwrap();
            for _ in 0..2 {
                assert_eq!(last_of_each(&source.log), expected, "{what}, reopened");
                source.stepper.maintain();
            }
            let bytes = source.stepper.drive(source.log.topic("keyed")).unwrap().unwrap().partitions[0].bytes;
            assert!(bytes < 24 * 300 / 2, "{what}: {bytes} bytes are left");
            drop(source);
            assert_eq!(std::fs::write(dir.path().join("format"), "").ok(), Some(()));
            assert_eq!(verify::verify(dir.path(), |_, _| {}).unwrap().damage, [], "{what}");
            if passed {
                break;
            }
        }
    }
}

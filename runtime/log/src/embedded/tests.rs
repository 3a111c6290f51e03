use super::*;
use crate::Fetch;
use aqueduct_core::{Batch, PayloadRef, Record};
use std::path::PathBuf;
use tempfile::TempDir;

const SOON: Duration = Duration::from_secs(10);

async fn open(dir: &Path) -> EmbeddedLog {
    EmbeddedLog::open(dir, EmbeddedOptions::default()).await.unwrap()
}

/// Where all that was committed is in the segments alone.
async fn open_uncarried(dir: &Path) -> EmbeddedLog {
    EmbeddedLog::open(dir, EmbeddedOptions { carry_bytes: 0, ..EmbeddedOptions::default() }).await.unwrap()
}

fn tp(topic: &str, partition: i32) -> TopicPartition {
    TopicPartition::new(topic, partition)
}

fn batch(topic: &str, values: impl IntoIterator<Item = impl ToString>) -> EncodedBatch {
    EncodedBatch::new(values.into_iter().map(|value| Record::new(topic, value.to_string())).collect()).unwrap()
}

fn values(batch: &Batch) -> Vec<String> {
    let text =
        |value| if let PayloadRef::Bytes(bytes) = value { String::from_utf8(bytes.to_vec()).unwrap() } else { "null".to_owned() };
    batch.iter().map(|record| text(record.value())).collect()
}

fn offset(file: &str, at: i64) -> SourceOffset {
    let map = |key: &str, value: serde_json::Value| [(key.to_owned(), value)].into_iter().collect();
    SourceOffset { partition: map("file", file.into()), offset: Some(map("at", at.into())) }
}

async fn all(log: &EmbeddedLog, tp: &TopicPartition) -> Vec<String> {
    let (mut from, mut found) = (0, Vec::new());
    loop {
        let (batch, next) = log.read_now(tp, from, 1000).unwrap();
        if batch.is_empty() {
            return found;
        }
        found.extend(values(&batch));
        from = next;
    }
}

/// What a crash leaves: the files as they are now, while the log is open.
fn crash(dir: &TempDir) -> TempDir {
    let copied = tempfile::tempdir().unwrap();
    copy(dir.path(), copied.path());
    copied
}

pub(super) fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().map(Result::unwrap) {
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &to);
        } else {
            std::fs::copy(entry.path(), to).unwrap();
        }
    }
}

fn segment(dir: &TempDir, partition: &str) -> PathBuf {
    dir.path().join("topics").join(partition).join("00000000000000000000.log")
}

#[tokio::test]
async fn what_is_committed_is_there_after_a_crash_and_after_a_close() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path()).await;
    log.create_topic("t", &TopicSpec { partitions: 2, ..TopicSpec::default() }).await.unwrap();
    let mut writer = log.writer(&TaskId::new("c", 0)).await.unwrap();
    let first = writer.append(batch("t", 0..100), vec![offset("f", 100)]).await.unwrap();
    let second = writer.append(batch("t", 100..200), vec![offset("f", 200)]).await.unwrap();
    assert_eq!(first.await.unwrap().ranges, [(tp("t", 0), 0, 100)]);
    assert_eq!(second.await.unwrap().ranges, [(tp("t", 1), 0, 100)]);
    log.save(Store::Config, vec![("a".into(), Some(vec![0, 255])), ("b".into(), None)]).await.unwrap();
    let id = log.cluster_id().to_owned();
    let crashed = crash(&dir);
    log.close().await.unwrap();
    assert_eq!(log.topics().await.unwrap_err().code(), "log.closed");
    drop(log);
    for dir in [&crashed, &dir] {
        let log = open(dir.path()).await;
        assert_eq!(log.cluster_id(), id);
        assert_eq!(all(&log, &tp("t", 0)).await, (0..100).map(|n| n.to_string()).collect::<Vec<_>>());
        assert_eq!(all(&log, &tp("t", 1)).await.len(), 100);
        assert_eq!(log.source_offsets("c").await.unwrap(), [offset("f", 200)]);
        assert_eq!(log.load(Store::Config).await.unwrap(), BTreeMap::from([("a".to_owned(), vec![0, 255])]));
        let mut writer = log.writer(&TaskId::new("c", 0)).await.unwrap();
        let again = writer.append(batch("t", 0..1), vec![]).await.unwrap().await.unwrap();
        assert_eq!(again.ranges, [(tp("t", 0), 100, 101)]);
    }
}

#[tokio::test]
async fn a_second_process_is_told_who_has_the_directory() {
    let dir = tempfile::tempdir().unwrap();
    let _log = open(dir.path()).await;
    let error = EmbeddedLog::open(dir.path(), EmbeddedOptions::default()).await.err().unwrap();
    assert_eq!(error.code(), "log.locked");
    assert!(error.message().contains(&std::process::id().to_string()), "{error}");
}

#[tokio::test]
async fn a_directory_that_anybody_may_write_is_refused() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
    let error = EmbeddedLog::open(dir.path(), EmbeddedOptions::default()).await.err().unwrap();
    assert_eq!(error.code(), "log.world_writable");
}

#[tokio::test]
async fn a_torn_last_commit_is_cut_wherever_it_is_torn() {
    let dir = tempfile::tempdir().unwrap();
    let log = open_uncarried(dir.path()).await;
    log.create_topic("t", &TopicSpec::default()).await.unwrap();
    let mut writer = log.writer(&TaskId::new("c", 0)).await.unwrap();
    writer.append(batch("t", 0..10), vec![offset("f", 10)]).await.unwrap().await.unwrap();
    let before = std::fs::metadata(segment(&dir, "t-0")).unwrap().len();
    writer.append(batch("t", 10..20), vec![offset("f", 20)]).await.unwrap().await.unwrap();
    let crashed = crash(&dir);
    let bytes = std::fs::read(segment(&crashed, "t-0")).unwrap();
    for cut in (before as usize..bytes.len()).step_by(7) {
        let torn = crash(&crashed);
        std::fs::write(segment(&torn, "t-0"), &bytes[..cut]).unwrap();
        let log = open(torn.path()).await;
        assert_eq!(all(&log, &tp("t", 0)).await.len(), 10, "cut at {cut}");
        assert_eq!(log.source_offsets("c").await.unwrap(), [offset("f", 10)]);
        assert_eq!(std::fs::metadata(segment(&torn, "t-0")).unwrap().len(), before);
        let mut writer = log.writer(&TaskId::new("c", 0)).await.unwrap();
        writer.append(batch("t", 10..20), vec![]).await.unwrap().await.unwrap();
        assert_eq!(all(&log, &tp("t", 0)).await.len(), 20);
    }
}

#[tokio::test]
async fn the_format_before_is_read_and_a_later_one_refused() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path()).await;
    log.create_topic("t", &TopicSpec::default()).await.unwrap();
    log.close().await.unwrap();
    drop(log);
    let format = dir.path().join("format");
    std::fs::write(&format, "aqueduct-log 1\n").unwrap();
    let log = open(dir.path()).await;
    assert!(log.topic("t").await.unwrap().is_some());
    log.close().await.unwrap();
    drop(log);
    assert_eq!(std::fs::read_to_string(&format).unwrap(), "aqueduct-log 2\n");
    std::fs::write(&format, "aqueduct-log 3\n").unwrap();
    let error = EmbeddedLog::open(dir.path(), EmbeddedOptions::default()).await.err().unwrap();
    assert_eq!(error.code(), "log.format");
}

#[tokio::test]
async fn what_the_journal_carries_outlives_what_the_disk_lost_of_the_segment() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path()).await;
    log.create_topic("t", &TopicSpec::default()).await.unwrap();
    let mut writer = log.writer(&TaskId::new("c", 0)).await.unwrap();
    // Of a new file, whose name is synced with it.
    writer.append(batch("t", 0..10), vec![]).await.unwrap().await.unwrap();
    let synced = std::fs::metadata(segment(&dir, "t-0")).unwrap().len();
    for n in 1..3 {
        writer.append(batch("t", n * 10..n * 10 + 10), vec![offset("f", n)]).await.unwrap().await.unwrap();
    }
    let crashed = crash(&dir);
    let bytes = std::fs::read(segment(&crashed, "t-0")).unwrap();
    for cut in (synced as usize..bytes.len()).step_by(11) {
        let torn = crash(&crashed);
        std::fs::write(segment(&torn, "t-0"), &bytes[..cut]).unwrap();
        let report = verify::verify(torn.path(), |_, _| {}).unwrap();
        assert_eq!((report.records, report.damage, report.uncommitted_bytes), (30, vec![], 0), "cut at {cut}");
        let log = open(torn.path()).await;
        assert_eq!(all(&log, &tp("t", 0)).await, (0..30).map(|n| n.to_string()).collect::<Vec<_>>(), "cut at {cut}");
        assert_eq!(log.source_offsets("c").await.unwrap(), [offset("f", 2)]);
        assert_eq!(std::fs::read(segment(&torn, "t-0")).unwrap(), bytes);
    }
}

#[tokio::test]
async fn damage_in_the_middle_is_told_and_never_served() {
    let dir = tempfile::tempdir().unwrap();
    let log = open_uncarried(dir.path()).await;
    log.create_topic("t", &TopicSpec::default()).await.unwrap();
    let mut writer = log.writer(&TaskId::new("c", 0)).await.unwrap();
    for n in 0..3 {
        writer.append(batch("t", n * 10..n * 10 + 10), vec![]).await.unwrap().await.unwrap();
    }
    let crashed = crash(&dir);
    let mut bytes = std::fs::read(segment(&crashed, "t-0")).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(segment(&crashed, "t-0"), bytes).unwrap();
    let log = open(crashed.path()).await;
    assert_eq!(values(&log.read_now(&tp("t", 0), 0, 1).unwrap().0).len(), 10);
    let error = log.fetch(&tp("t", 0), 10, 1, SOON).await.unwrap_err();
    assert_eq!(error.code(), "log.corrupt");
    assert!(error.message().contains("topic t, partition 0, offset 10"), "{error}");
    assert_eq!(log.read_now(&tp("t", 0), 20, 1000).unwrap().0.len(), 10);
}

#[tokio::test]
async fn a_group_reads_on_where_it_was_and_is_woken() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path()).await;
    log.create_topic("t", &TopicSpec::default()).await.unwrap();
    let mut reader = log.reader("g", "m", &Topics::Names(vec!["t".into()])).await.unwrap();
    let Fetch::Assigned(assigned) = reader.next(1000, SOON).await.unwrap() else { panic!() };
    assert_eq!(assigned[0].offset, 0);
    assert!(matches!(reader.next(1000, Duration::ZERO).await.unwrap(), Fetch::Idle));
    let mut writer = log.writer(&TaskId::new("c", 0)).await.unwrap();
    let write = async { writer.append(batch("t", 0..5), vec![]).await.unwrap().await.unwrap() };
    let (fetched, _) = tokio::join!(reader.next(1000, SOON), write);
    let Fetch::Records(records) = fetched.unwrap() else { panic!() };
    assert_eq!(values(&records), ["0", "1", "2", "3", "4"]);
    let mut position = assigned[0].clone();
    position.offset = 3;
    position.metadata = Some("m".into());
    reader.commit(&[position.clone()], EncodedBatch::default()).await.unwrap();
    let mut successor = log.reader("g", "m", &Topics::Names(vec!["t".into()])).await.unwrap();
    let Fetch::Assigned(assigned) = successor.next(1000, SOON).await.unwrap() else { panic!() };
    assert_eq!(assigned, [position.clone()]);
    assert_eq!(reader.commit(&[position], EncodedBatch::default()).await.unwrap_err().code(), "log.fenced");
    assert_eq!(successor.lag(), [(tp("t", 0), 2)]);
    let Fetch::Records(records) = successor.next(1000, SOON).await.unwrap() else { panic!() };
    assert_eq!(values(&records), ["3", "4"]);
}

#[tokio::test]
async fn a_deleted_topic_is_gone_with_its_files_and_positions() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path()).await;
    let mut ids = Vec::new();
    for _ in 0..2 {
        let topic = log.create_topic("t", &TopicSpec::default()).await.unwrap();
        ids.push(topic.id);
        assert_eq!(log.create_topic("t", &TopicSpec::default()).await.unwrap_err().code(), "log.topic_exists");
        let mut writer = log.writer(&TaskId::new("c", 0)).await.unwrap();
        assert_eq!(writer.append(batch("t", 0..5), vec![]).await.unwrap().await.unwrap().ranges, [(tp("t", 0), 0, 5)]);
        log.alter_group("g", &[(tp("t", 0), Some(2))]).await.unwrap();
        log.delete_topic("t").await.unwrap();
        assert!(!segment(&dir, "t-0").exists());
        assert_eq!(log.group_positions("g").await.unwrap(), []);
        assert_eq!(log.delete_topic("t").await.unwrap_err().code(), "log.unknown_topic");
        assert_eq!(writer.append(batch("t", 0..5), vec![]).await.err().unwrap().code(), "log.unknown_topic");
    }
    assert_ne!(ids[0], ids[1]);
}

#[tokio::test]
async fn segments_roll_and_offsets_and_times_are_found_in_all_of_them() {
    let dir = tempfile::tempdir().unwrap();
    let configs = BTreeMap::from([("segment.bytes".to_owned(), "100000".to_owned())]);
    let log = open(dir.path()).await;
    log.create_topic("t", &TopicSpec { configs, ..TopicSpec::default() }).await.unwrap();
    let mut writer = log.writer(&TaskId::new("c", 0)).await.unwrap();
    for n in 0..200i64 {
        let record =
            |i: i64| Record { timestamp: Some(1_000_000 + n * 10 + i), ..Record::new("t", format!("{:0100}", n * 10 + i)) };
        let batch = EncodedBatch::new((0..10).map(record).collect()).unwrap();
        drop(writer.append(batch, vec![]).await.unwrap());
    }
    writer.append(batch("t", [0; 0]), vec![]).await.unwrap().await.unwrap();
    let crashed = crash(&dir);
    drop(log);
    for dir in [&crashed, &dir] {
        let log = open(dir.path()).await;
        for at in [0, 1, 999, 1000, 1234, 1999] {
            let (batch, _) = log.read_now(&tp("t", 0), at, 1).unwrap();
            assert_eq!(batch.iter().next().unwrap().origin().unwrap().1, at);
            assert_eq!(log.offset_for_timestamp(&tp("t", 0), 1_000_000 + at).await.unwrap(), Some(at));
        }
        assert_eq!(log.offset_for_timestamp(&tp("t", 0), 2_000_000).await.unwrap(), None);
        assert_eq!(all(&log, &tp("t", 0)).await.len(), 2000);
    }
    assert!(
        std::fs::read_dir(dir.path().join("topics/t-0"))
            .unwrap()
            .filter(|e| e.as_ref().unwrap().path().extension().unwrap() == "log")
            .count()
            >= 2
    );
}

#[tokio::test]
async fn a_newer_writer_fences_the_older() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path()).await;
    log.create_topic("t", &TopicSpec::default()).await.unwrap();
    let mut old = log.writer(&TaskId::new("c", 0)).await.unwrap();
    let mut new = log.writer(&TaskId::new("c", 0)).await.unwrap();
    assert_eq!(old.append(batch("t", 0..5), vec![]).await.err().unwrap().code(), "log.fenced");
    new.append(batch("t", 0..5), vec![]).await.unwrap().await.unwrap();
}

#[test]
fn a_thousand_topics_open_within_a_second() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let dir = tempfile::tempdir().unwrap();
        let log = open(dir.path()).await;
        let spec = TopicSpec { partitions: 4, ..TopicSpec::default() };
        let names: Vec<_> = (0..1000).map(|n| format!("topic-{n}")).collect();
        futures_util::future::join_all(names.iter().map(|name| log.create_topic(name, &spec))).await;
        let mut writer = log.writer(&TaskId::new("c", 0)).await.unwrap();
        let some = names.iter().step_by(9);
        let records = some.flat_map(|name| (0..4).map(move |p| Record { partition: Some(p), ..Record::new(name.as_str(), "v") }));
        writer.append(EncodedBatch::new(records.collect()).unwrap(), vec![]).await.unwrap().await.unwrap();
        let crashed = crash(&dir);
        log.close().await.unwrap();
        drop(log);
        for dir in [&crashed, &dir] {
            let since = std::time::Instant::now();
            let log = open(dir.path()).await;
            let took = since.elapsed();
            assert_eq!(log.topics().await.unwrap().len(), 1000);
            assert_eq!(all(&log, &tp("topic-999", 3)).await, ["v"]);
            assert!(took < Duration::from_secs(1), "{took:?}");
            println!("1,000 topics of 4 partitions opened in {took:?}");
        }
    });
}

#[tokio::test]
async fn verify_tells_damage_and_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let log = open_uncarried(dir.path()).await;
    log.create_topic("t", &TopicSpec::default()).await.unwrap();
    let mut writer = log.writer(&TaskId::new("c", 0)).await.unwrap();
    for n in 0..3 {
        writer.append(batch("t", n * 10..n * 10 + 10), vec![]).await.unwrap().await.unwrap();
    }
    assert_eq!(verify::verify(dir.path(), |_, _| {}).unwrap_err().code(), "log.locked");
    let crashed = crash(&dir);
    let report = verify::verify(crashed.path(), |done, total| assert_eq!(done, total)).unwrap();
    assert_eq!((report.records, report.batches, report.damage), (30, 3, vec![]));
    let path = segment(&crashed, "t-0");
    let mut bytes = std::fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    bytes.extend([7; 100]);
    std::fs::write(&path, &bytes).unwrap();
    let report = verify::verify(crashed.path(), |_, _| {}).unwrap();
    assert_eq!((report.records, report.uncommitted_bytes, report.damage.len()), (20, 100, 1));
    let damaged = &report.damage[0];
    assert_eq!((damaged.offset, damaged.until, damaged.topic.as_deref()), (Some(10), Some(20), Some("t")));
    assert_eq!(std::fs::read(&path).unwrap(), bytes);
    let mut shown = Vec::new();
    let end = verify::dump(&path, |batch, records| {
        shown.push((batch.base_offset, batch.damage.is_some(), records.len()));
        true
    });
    assert_eq!(shown, [(0, false, 10), (10, true, 0), (20, false, 10)]);
    assert_eq!(end.unwrap_err().code(), "log.corrupt");
    assert_eq!(verify::verify(&dir.path().join("topics"), |_, _| {}).unwrap_err().code(), "log.no_data");
}

#[tokio::test]
async fn retention_forgets_whole_segments_by_time_and_by_size() {
    let dir = tempfile::tempdir().unwrap();
    let now = Arc::new(std::sync::atomic::AtomicI64::new(1_000_000));
    let clock = now.clone();
    let options = EmbeddedOptions {
        now_ms: Arc::new(move || clock.load(std::sync::atomic::Ordering::Relaxed)),
        ..EmbeddedOptions::default()
    };
    let (log, mut stepper) = EmbeddedLog::stepped(Arc::new(RealDisk::new(dir.path())), options.clone()).unwrap();
    let spec = |name: &str, value: &str| TopicSpec {
        configs: [("segment.bytes", "1000"), (name, value)].map(|(k, v)| (k.to_owned(), v.to_owned())).into(),
        ..TopicSpec::default()
    };
    stepper.drive(log.create_topic("time", &spec("retention.ms", "5000"))).unwrap();
    stepper.drive(log.create_topic("size", &spec("retention.bytes", "2500"))).unwrap();
    let mut writer = stepper.drive(log.writer(&TaskId::new("c", 0))).unwrap();
    for n in 0..10 {
        for topic in ["time", "size"] {
            let commit = stepper.drive(writer.append(batch(topic, [format!("{n:0900}")]), vec![])).unwrap();
            stepper.drive(commit).unwrap();
        }
        now.fetch_add(1000, std::sync::atomic::Ordering::Relaxed);
    }
    stepper.maintain();
    let bounds = |log: &EmbeddedLog, stepper: &mut Stepper, topic| {
        let info = stepper.drive(log.topic(topic)).unwrap().unwrap();
        (info.partitions[0].start, info.partitions[0].end)
    };
    assert_eq!(bounds(&log, &mut stepper, "time"), (5, 10));
    assert_eq!(bounds(&log, &mut stepper, "size"), (7, 10));
    assert!(!segment(&dir, "time-0").exists());
    assert_eq!(log.read_now(&tp("time", 0), 0, 1).unwrap().0.iter().next().unwrap().origin().unwrap().1, 5);
    now.fetch_add(100_000, std::sync::atomic::Ordering::Relaxed);
    stepper.maintain();
    assert_eq!(bounds(&log, &mut stepper, "time"), (10, 10));
    let commit = stepper.drive(writer.append(batch("time", ["after"]), vec![])).unwrap();
    assert_eq!(stepper.drive(commit).unwrap().ranges[0].1, 10);
    drop((log, stepper));
    let (log, mut stepper) = EmbeddedLog::stepped(Arc::new(RealDisk::new(dir.path())), options).unwrap();
    assert_eq!(bounds(&log, &mut stepper, "time"), (10, 11));
    assert_eq!(all(&log, &tp("time", 0)).await, ["after"]);
}

#[tokio::test]
async fn compaction_keeps_the_last_of_each_key_at_its_offset() {
    let dir = tempfile::tempdir().unwrap();
    let configs = [("segment.bytes", "2000"), ("cleanup.policy", "compact"), ("delete.retention.ms", "1000")];
    let spec = TopicSpec { configs: configs.map(|(k, v)| (k.to_owned(), v.to_owned())).into(), ..TopicSpec::default() };
    let (log, mut stepper) = EmbeddedLog::stepped(Arc::new(RealDisk::new(dir.path())), EmbeddedOptions::default()).unwrap();
    stepper.drive(log.create_topic("t", &spec)).unwrap();
    let mut writer = stepper.drive(log.writer(&TaskId::new("c", 0))).unwrap();
    let mut last = BTreeMap::new();
    let mut offset = 0;
    for round in 0..50i64 {
        let mut records = Vec::new();
        for key in [format!("k{}", round % 7), format!("once-{round}")] {
            let mut record =
                Record { key: key.clone().into(), timestamp: Some(5000), ..Record::new("t", format!("{round:0100}")) };
            if round % 10 == 9 {
                record.value = aqueduct_core::Payload::Null;
            }
            last.insert(key, offset);
            records.push(record);
            offset += 1;
        }
        let commit = stepper.drive(writer.append(EncodedBatch::new(records.into_iter().collect()).unwrap(), vec![])).unwrap();
        stepper.drive(commit).unwrap();
    }
    let read = |log: &EmbeddedLog| {
        let (mut from, mut found) = (0, Vec::new());
        loop {
            let (batch, next) = log.read_now(&tp("t", 0), from, 500).unwrap();
            if next == from {
                return found;
            }
            found.extend(batch.iter().map(|record| {
                let PayloadRef::Bytes(key) = record.key() else { panic!() };
                (String::from_utf8(key.to_vec()).unwrap(), record.origin().unwrap().1, record.value().is_null())
            }));
            from = next;
        }
    };
    let before = read(&log);
    assert_eq!(before.len(), 100);
    let size = |log: &EmbeddedLog, stepper: &mut Stepper| stepper.drive(log.topic("t")).unwrap().unwrap().partitions[0].bytes;
    let bytes = size(&log, &mut stepper);
    stepper.maintain();
    assert!(size(&log, &mut stepper) < bytes);
    let after = read(&log);
    // The active segment is as it was; before it each key's last record is left, and no old tombstone.
    let active = std::fs::read_dir(dir.path().join("topics/t-0")).unwrap();
    let active: i64 =
        active.filter_map(|entry| entry.unwrap().file_name().to_str()?.strip_suffix(".log")?.parse().ok()).max().unwrap();
    let expected: Vec<_> = before
        .iter()
        .filter(|(key, offset, null)| {
            let newest = before.iter().filter(|(k, o, _)| k == key && *o < active).map(|(_, o, _)| *o).max();
            *offset >= active || (newest == Some(*offset) && !null)
        })
        .cloned()
        .collect();
    assert_eq!(after, expected);
    for key in last.keys() {
        let newest =
            |found: &[(String, i64, bool)]| found.iter().filter(|(k, ..)| k == key).map(|(_, o, null)| (*o, *null)).max();
        assert!(newest(&after).is_none_or(|newest_after| Some(newest_after) == newest(&before)), "{key}");
    }
    // A crash now, and one before the file took its place.
    stepper.drive(log.save(Store::Config, vec![])).unwrap();
    let crashed = crash(&dir);
    let cleaned = dir.path().join("topics/t-0/00000000000000000000.log.cleaned");
    assert!(!cleaned.exists());
    let again = EmbeddedLog::open(crashed.path(), EmbeddedOptions::default()).await.unwrap();
    assert_eq!(read(&again), after);
    drop(again);
    assert_eq!(verify::verify(crashed.path(), |_, _| {}).unwrap().damage, []);
    stepper.maintain();
    assert_eq!(read(&log), after);
}

/// Base offsets of a partition's segment files.
fn segments(dir: &TempDir, partition: &str) -> Vec<i64> {
    let names = std::fs::read_dir(dir.path().join("topics").join(partition)).into_iter().flatten();
    let base = |name: std::io::Result<std::fs::DirEntry>| name.unwrap().file_name().to_str()?.strip_suffix(".log")?.parse().ok();
    let mut bases: Vec<i64> = names.filter_map(base).collect();
    bases.sort_unstable();
    bases
}

fn key_of(what: &str) -> String {
    what.split_once(") ").unwrap().0.to_owned()
}

#[test]
fn compaction_puts_what_is_left_of_many_segments_into_few_files() {
    const SEGMENT_BYTES: usize = 4000;
    for (compression, tombstones) in [("none", false), ("lz4", true), ("zstd", false)] {
        let dir = tempfile::tempdir().unwrap();
        let bytes = SEGMENT_BYTES.to_string();
        let configs = [("segment.bytes", &*bytes), ("cleanup.policy", "compact"), ("compression.type", compression)];
        let spec = TopicSpec { configs: configs.map(|(k, v)| (k.to_owned(), v.to_owned())).into(), ..TopicSpec::default() };
        let disk = || Arc::new(RealDisk::new(dir.path()));
        let (log, mut stepper) = EmbeddedLog::stepped(disk(), EmbeddedOptions::default()).unwrap();
        stepper.drive(log.create_topic("t", &spec)).unwrap();
        let mut writer = stepper.drive(log.writer(&TaskId::new("c", 0))).unwrap();
        // Young tombstones stay.
        let now = (EmbeddedOptions::default().now_ms)();
        let mut n = 0i64;
        let mut random = fastrand::Rng::with_seed(7);
        let mut update = |stepper: &mut Stepper, segments: usize| {
            while self::segments(&dir, "t-0").len() <= segments {
                // Most values are as hard to compress as in life; each batch has a few keys, so that none is whole afterwards.
                let record = |n: i64, random: &mut fastrand::Rng| Record {
                    key: format!("key {}", n * 7 % 50).into(),
                    value: if tombstones && n % 13 == 0 {
                        aqueduct_core::Payload::Null
                    } else {
                        (0..150).map(|_| random.alphanumeric()).collect::<String>().into()
                    },
                    timestamp: Some(if tombstones { now } else { 1_000_000 } + n),
                    ..Record::new("t", "")
                };
                let records = (n..n + 5).map(|n| record(n, &mut random)).collect();
                n += 5;
                let commit = stepper.drive(writer.append(EncodedBatch::new(records).unwrap(), vec![])).unwrap();
                stepper.drive(commit).unwrap();
            }
        };
        update(&mut stepper, 100);
        let all = |log: &EmbeddedLog, mut from: i64| {
            let mut found = Vec::new();
            loop {
                let (batch, next) = log.read_now(&tp("t", 0), from, 700).unwrap();
                if next == from {
                    return found;
                }
                found.extend(
                    batch.iter().map(|r| (r.origin().unwrap().1, format!("{:?} {:?}", r.key(), r.value()), r.timestamp())),
                );
                from = next;
            }
        };
        let before = all(&log, 0);
        let active = *segments(&dir, "t-0").last().unwrap();
        // In the midst, with the files as they were; and each segment is held by somebody.
        let view = log.shared.view(&tp("t", 0)).unwrap().1;
        let (held, reader_at) = (view.segments(), before[before.len() / 2].0);
        let open: Vec<_> = held.iter().map(|segment| log.shared.files.get(segment).unwrap()).collect();
        let (read, next) = log.read_now(&tp("t", 0), reader_at, 1).unwrap();
        stepper.maintain();
        let newest: BTreeMap<_, _> =
            before.iter().filter(|(at, ..)| *at < active).map(|(at, what, _)| (key_of(what), *at)).collect();
        let expected: Vec<_> =
            before.iter().filter(|(at, what, _)| *at >= active || newest[&key_of(what)] == *at).cloned().collect();
        let after = all(&log, 0);
        assert_eq!(after, expected, "{compression}");
        // The reader goes on: all that survives behind it, once and in order.
        assert_eq!(all(&log, next), expected.iter().filter(|(at, ..)| *at >= next).cloned().collect::<Vec<_>>());
        assert!(!read.is_empty());
        for (file, segment) in open.iter().zip(&held) {
            let mut bytes = Vec::new();
            file.read_at(0, 8, &mut bytes).unwrap();
            assert_eq!(bytes, segment.base.to_be_bytes(), "what was open stays readable");
        }
        let files = segments(&dir, "t-0");
        assert!(files.len() <= 2 + 50 * 200 / SEGMENT_BYTES + 1, "{compression}: {files:?}");
        for base in &files {
            let len = std::fs::metadata(dir.path().join(format!("topics/t-0/{base:020}.log"))).unwrap().len();
            assert!(len <= SEGMENT_BYTES as u64, "{compression}: {len} bytes in {base}");
        }
        // Offsets and times are found, also from the files of the indexes.
        stepper.drive(log.save(Store::Config, vec![])).unwrap();
        let crashed = crash(&dir);
        let (again, mut other) =
            EmbeddedLog::stepped(Arc::new(RealDisk::new(crashed.path())), EmbeddedOptions::default()).unwrap();
        for log in [&log, &again] {
            for (at, _, timestamp) in &expected {
                assert_eq!(log.read_now(&tp("t", 0), *at, 1).unwrap().0.iter().next().unwrap().origin().unwrap().1, *at);
                let view = log.shared.view(&tp("t", 0)).unwrap().1;
                let found = view.offset_for_timestamp(&log.shared.files, timestamp.unwrap()).unwrap();
                assert_eq!(found, Some(*at), "{compression}");
            }
            assert_eq!(all(log, 0), expected);
        }
        // Again and again: updates that follow go into the same few files.
        update(&mut stepper, 60);
        let newest_of = |found: &[(i64, String, Option<i64>)]| -> BTreeMap<String, i64> {
            found.iter().map(|(at, what, _)| (key_of(what), *at)).collect()
        };
        let newest = newest_of(&all(&log, 0));
        stepper.maintain();
        assert_eq!(newest_of(&all(&log, 0)), newest);
        assert!(segments(&dir, "t-0").len() <= 6, "{compression}: {:?}", segments(&dir, "t-0"));
        other.close();
        std::fs::write(crashed.path().join("format"), "").unwrap();
        assert_eq!(verify::verify(crashed.path(), |_, _| {}).unwrap().damage, []);
    }
}

/// Everything at once, with a handful of open files: writers, readers that come and go, rolling, retention that finds nothing, compaction of another topic.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn under_load_each_reader_sees_each_line_once_and_in_order() {
    const WRITERS: u32 = 4;
    const BATCHES: u32 = 150;
    let dir = tempfile::tempdir().unwrap();
    let options = EmbeddedOptions {
        open_files: 4,
        journal_bytes: 20_000,
        in_flight_bytes: 200_000,
        maintenance_interval: Duration::from_millis(3),
        seal_after: Duration::from_millis(1),
        ..EmbeddedOptions::default()
    };
    let log = Arc::new(EmbeddedLog::open(dir.path(), options).await.unwrap());
    let spec = |configs: &[(&str, &str)], partitions| TopicSpec {
        partitions,
        configs: configs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
        ..TopicSpec::default()
    };
    log.create_topic("t", &spec(&[("segment.bytes", "5000")], 6)).await.unwrap();
    log.create_topic("keyed", &spec(&[("segment.bytes", "3000"), ("cleanup.policy", "compact")], 2)).await.unwrap();
    let write = |task: u32| {
        let log = log.clone();
        async move {
            let mut writer = log.writer(&TaskId::new("c", task)).await.unwrap();
            let mut commits = Vec::new();
            for n in 0..BATCHES {
                let line = |i: u32| Record { key: format!("w{task}").into(), ..Record::new("t", format!("{:07}", n * 10 + i)) };
                let keyed = (0..3)
                    .map(|i| Record { key: format!("k{}", (n + i) % 4).into(), ..Record::new("keyed", format!("{n:0100}")) });
                let batch = EncodedBatch::new((0..10).map(line).chain(keyed).collect()).unwrap();
                commits.push(writer.append(batch, vec![offset(&format!("f{task}"), i64::from(n))]).await.unwrap());
            }
            for commit in commits {
                commit.await.unwrap();
            }
        }
    };
    let read = |name: &'static str| {
        let log = log.clone();
        async move {
            let mut seen: BTreeMap<Vec<u8>, u32> = BTreeMap::new();
            let mut reader = log.reader(name, "m", &Topics::Names(vec!["t".into()])).await.unwrap();
            while seen.values().sum::<u32>() < WRITERS * BATCHES * 10 {
                match reader.next(2000, SOON).await.unwrap() {
                    Fetch::Records(batch) => {
                        for record in batch.iter() {
                            let (PayloadRef::Bytes(key), PayloadRef::Bytes(value)) = (record.key(), record.value()) else {
                                panic!()
                            };
                            let next = seen.entry(key.to_vec()).or_default();
                            assert_eq!(value, format!("{next:07}").as_bytes());
                            *next += 1;
                        }
                    }
                    Fetch::Idle => panic!("nothing for {SOON:?} after {seen:?}"),
                    _ => {}
                }
            }
        }
    };
    let readers = async { tokio::join!(read("g1"), read("g2")) };
    tokio::join!(futures_util::future::join_all((0..WRITERS).map(write)), readers);
    // Compaction has its turn, on its own thread.
    let since = std::time::Instant::now();
    let keyed = async || log.topic("keyed").await.unwrap().unwrap().partitions.iter().map(|p| p.bytes).sum::<u64>();
    while keyed().await > 100_000 {
        assert!(since.elapsed() < SOON, "{} bytes", keyed().await);
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    log.close().await.unwrap();
    drop(log);
    let report = verify::verify(dir.path(), |_, _| {}).unwrap();
    assert_eq!((report.damage, report.uncommitted_bytes), (vec![], 0));
    let log = open(dir.path()).await;
    assert_eq!(log.source_offsets("c").await.unwrap().len(), WRITERS as usize);
    let ends: i64 = log.topic("t").await.unwrap().unwrap().partitions.iter().map(|p| p.end).sum();
    assert_eq!(ends, i64::from(WRITERS * BATCHES * 10));
}

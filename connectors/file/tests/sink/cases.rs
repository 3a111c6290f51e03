//! One situation each.

use crate::fake::{FakeLog, Life, batch, check_lines, context, finished, line, open_as, options, parts, rolled};
use aqueduct_connector_file::sink::{Compression, read_text};
use aqueduct_core::{LogPosition, Options, Payload, Record, Rejects, TopicPartition};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};
use tempfile::TempDir;
use uuid::Uuid;

fn append_site() -> (TempDir, Options) {
    let root = tempfile::tempdir().unwrap();
    let options = options(&[("file", root.path().join("out.log").to_str().unwrap())]);
    (root, options)
}

fn rolling_site(more: &[(&str, &str)]) -> (TempDir, Options) {
    let root = tempfile::tempdir().unwrap();
    let mut options = options(more);
    options.insert("directory".to_owned(), root.path().join("out").to_str().unwrap().to_owned());
    (root, options)
}

fn t0() -> TopicPartition {
    TopicPartition::new("t", 0)
}

fn read(root: &TempDir) -> String {
    fs::read_to_string(root.path().join("out.log")).unwrap()
}

fn lines(range: std::ops::Range<i64>) -> String {
    range.map(|offset| line(&t0(), offset) + "\n").collect()
}

fn code<T>(result: aqueduct_core::Result<T>) -> String {
    match result {
        Ok(_) => "ok".to_owned(),
        Err(error) => {
            assert!(error.hint().is_some(), "{error} tells no fix");
            error.code().to_owned()
        }
    }
}

#[tokio::test]
async fn what_was_there_before_stays_and_a_torn_start_is_not_twice() {
    let (root, options) = append_site();
    fs::write(root.path().join("out.log"), "by hand").unwrap();
    let mut log = FakeLog::new(&[("t", 0)]);
    for _ in 0..3 {
        let mut life = Life::begin(&options, &log).await.unwrap();
        life.put(&t0(), 10).await.unwrap();
        life.task.flush().await.unwrap();
        // Killed before the first commit.
    }
    let mut life = Life::begin(&options, &log).await.unwrap();
    life.put(&t0(), 10).await.unwrap();
    life.flush(&mut log).await.unwrap();
    assert_eq!(read(&root), format!("by hand\n{}", lines(0..10)));
}

#[tokio::test]
async fn an_operators_reset_appends_again() {
    let (root, options) = append_site();
    let mut log = FakeLog::new(&[("t", 0)]);
    let mut life = Life::begin(&options, &log).await.unwrap();
    for _ in 0..2 {
        life.put(&t0(), 5).await.unwrap();
        life.flush(&mut log).await.unwrap();
    }
    life.task.close().await.unwrap();
    let mut log = FakeLog::new(&[("t", 0)]);
    let mut life = Life::begin(&options, &log).await.unwrap();
    life.put(&t0(), 2).await.unwrap();
    life.flush(&mut log).await.unwrap();
    assert_eq!(read(&root), lines(0..10) + &lines(0..2));
}

#[tokio::test]
async fn two_sinks_never_write_one_file() {
    let (_root, options) = append_site();
    let log = FakeLog::new(&[("t", 0)]);
    let first = Life::begin(&options, &log).await.unwrap();
    let second = tokio::time::timeout(Duration::from_millis(300), Life::begin(&options, &log)).await;
    assert!(second.is_err(), "the second one waits");
    let third = async { Life::begin(&options, &log).await.map(|_| ()) };
    let (third, ()) = tokio::join!(third, async {
        tokio::task::yield_now().await;
        drop(first);
    });
    third.unwrap();
}

#[tokio::test]
async fn a_topic_made_again_is_appended_and_the_others_positions_hold() {
    let (root, options) = append_site();
    let u = TopicPartition::new("u", 0);
    let mut log = FakeLog::new(&[("t", 0), ("u", 0)]);
    let mut life = Life::begin(&options, &log).await.unwrap();
    life.put(&t0(), 3).await.unwrap();
    life.put(&u, 3).await.unwrap();
    life.flush(&mut log).await.unwrap();
    life.put(&t0(), 3).await.unwrap();
    drop(life);
    let again = log.0.get_mut(&t0()).unwrap();
    (again.topic_id, again.offset) = (Uuid::from_u128(2), 0);
    let mut life = Life::begin(&options, &log).await.unwrap();
    life.put(&t0(), 2).await.unwrap();
    life.put(&u, 1).await.unwrap();
    life.flush(&mut log).await.unwrap();
    let of_u: String = (0..4).map(|offset| line(&u, offset) + "\n").collect();
    let text = read(&root);
    assert_eq!(
        text.lines().filter(|line| line.starts_with("t-0")).collect::<Vec<_>>().join("\n") + "\n",
        lines(0..3) + &lines(0..2)
    );
    assert_eq!(text.lines().filter(|line| line.starts_with("u-0")).collect::<Vec<_>>().join("\n") + "\n", of_u);
}

#[tokio::test]
async fn a_partition_that_joins_later_is_cut_with_the_others() {
    let (root, options) = append_site();
    let mut log = FakeLog::new(&[("t", 0), ("u", 0)]);
    let (t, u) = (t0(), TopicPartition::new("u", 0));
    let one = |log: &FakeLog, partition: &TopicPartition| vec![log.0[partition].clone()];
    // Before the first commit.
    let mut life = Life::with(&options, &one(&log, &t)).await.unwrap();
    life.put(&t, 2).await.unwrap();
    life.assign(&one(&log, &u)).await.unwrap();
    life.put(&u, 2).await.unwrap();
    life.task.flush().await.unwrap();
    drop(life);
    let mut life = Life::with(&options, &one(&log, &t)).await.unwrap();
    life.assign(&one(&log, &u)).await.unwrap();
    life.put(&u, 1).await.unwrap();
    life.task.flush().await.unwrap();
    drop(life);
    // And after it.
    let mut life = Life::with(&options, &one(&log, &t)).await.unwrap();
    life.put(&t, 2).await.unwrap();
    life.flush(&mut log).await.unwrap();
    life.assign(&one(&log, &u)).await.unwrap();
    life.put(&u, 2).await.unwrap();
    life.task.flush().await.unwrap();
    drop(life);
    let mut life = Life::begin(&options, &log).await.unwrap();
    life.put(&u, 3).await.unwrap();
    life.flush(&mut log).await.unwrap();
    check_lines(&read(&root), &BTreeMap::from([(t, 2), (u, 3)])).unwrap();
}

#[tokio::test]
async fn a_file_that_others_touch_is_an_error_with_a_fix() {
    let (root, options) = append_site();
    let path = root.path().join("out.log");
    let mut log = FakeLog::new(&[("t", 0)]);
    let mut life = Life::begin(&options, &log).await.unwrap();
    life.put(&t0(), 5).await.unwrap();
    life.flush(&mut log).await.unwrap();
    // While it runs.
    life.put(&t0(), 5).await.unwrap();
    fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(10).unwrap();
    assert_eq!(code(life.task.flush().await), "file_sink.changed");
    drop(life);
    // While it is stopped: cut short, overwritten, gone.
    assert_eq!(fs::read(&path).unwrap().len(), 10, "no hole");
    assert_eq!(code(Life::begin(&options, &log).await), "file_sink.lost");
    fs::write(&path, "y".repeat(lines(0..5).len() + 9)).unwrap();
    assert_eq!(code(Life::begin(&options, &log).await), "file_sink.changed");
    assert_eq!(fs::read(&path).unwrap().len(), lines(0..5).len() + 9, "what is not ours is not cut");
    fs::remove_file(&path).unwrap();
    assert_eq!(code(Life::begin(&options, &log).await), "file_sink.lost");
    assert!(!path.exists());
    // Restored, with what came after the commit: all is well.
    fs::write(&path, lines(0..9)).unwrap();
    let mut life = Life::begin(&options, &log).await.unwrap();
    fs::rename(&path, root.path().join("moved")).unwrap();
    life.put(&t0(), 1).await.unwrap();
    assert_eq!(code(life.task.flush().await), "file_sink.lost");
    drop(life);
    // The way out that the fix names: the position without the length.
    fs::rename(root.path().join("moved"), root.path().join("kept")).unwrap();
    log.0.get_mut(&t0()).unwrap().metadata = None;
    let mut life = Life::begin(&options, &log).await.unwrap();
    life.put(&t0(), 2).await.unwrap();
    life.flush(&mut log).await.unwrap();
    assert_eq!(read(&root), lines(5..7));
}

#[tokio::test]
async fn what_cannot_be_a_file_is_refused() {
    let (root, options) = append_site();
    let log = FakeLog::new(&[("t", 0)]);
    fs::create_dir(root.path().join("out.log")).unwrap();
    assert_eq!(code(Life::begin(&options, &log).await), "file_sink.not_a_file");
    let mut options = options.clone();
    options.insert("file".to_owned(), "/dev/null".to_owned());
    assert_eq!(code(Life::begin(&options, &log).await), "file_sink.not_a_file");
    fs::write(root.path().join("plain"), "plain text\n").unwrap();
    options.insert("file".to_owned(), root.path().join("plain").to_str().unwrap().to_owned());
    options.insert("compression.type".to_owned(), "gzip".to_owned());
    assert_eq!(code(Life::begin(&options, &log).await), "file_sink.compression");
}

fn roll_dir(root: &TempDir) -> std::path::PathBuf {
    root.path().join("out/t/0")
}

async fn deadline<T>(what: &str, mut check: impl FnMut() -> Option<T>) -> T {
    let until = Instant::now() + Duration::from_secs(10);
    loop {
        if let Some(found) = check() {
            return found;
        }
        assert!(Instant::now() < until, "{what}: not within 10 s");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn files_roll_by_records_by_size_and_when_nothing_more_comes() {
    let (root, options) = rolling_site(&[("roll.records", "4")]);
    let mut log = FakeLog::new(&[("t", 0)]);
    let mut life = Life::begin(&options, &log).await.unwrap();
    life.put(&t0(), 10).await.unwrap();
    assert_eq!(finished(&roll_dir(&root)), ["00000000000000000000.log", "00000000000000000004.log"]);
    assert_eq!(parts(&roll_dir(&root)), [".00000000000000000008.log.part"]);
    life.flush(&mut log).await.unwrap();
    life.task.close().await.unwrap();
    assert_eq!(rolled(&root.path().join("out"), &t0(), Compression::None).unwrap(), lines(0..10), "a stop finishes the last one");

    let (root, options) = rolling_site(&[("roll.interval", "50 ms")]);
    let mut life = Life::begin(&options, &FakeLog::new(&[("t", 0)])).await.unwrap();
    life.put(&t0(), 3).await.unwrap();
    deadline("a file is finished by its age alone", || (finished(&roll_dir(&root)).len() == 1).then_some(())).await;
    assert_eq!(rolled(&root.path().join("out"), &t0(), Compression::None).unwrap(), lines(0..3));
}

#[tokio::test]
async fn a_partition_moves_between_tasks() {
    let (root, options) = rolling_site(&[]);
    let mut log = FakeLog::new(&[("t", 0), ("t", 1)]);
    let t1 = TopicPartition::new("t", 1);
    let mut first = Life::begin(&options, &log).await.unwrap();
    first.put(&t0(), 7).await.unwrap();
    first.put(&t1, 7).await.unwrap();
    first.flush(&mut log).await.unwrap();
    first.task.revoked(std::slice::from_ref(&t1)).await.unwrap();
    first.next.remove(&t1);
    let mut second = Life::with(&options, &[log.0[&t1].clone()]).await.unwrap();
    second.put(&t1, 5).await.unwrap();
    first.put(&t0(), 5).await.unwrap();
    second.flush(&mut log).await.unwrap();
    first.flush(&mut log).await.unwrap();
    // One dies, and the other takes all.
    drop(first);
    second.assign(&[log.0[&t0()].clone()]).await.unwrap();
    second.put(&t0(), 1).await.unwrap();
    second.flush(&mut log).await.unwrap();
    second.task.close().await.unwrap();
    for (partition, count) in [(t0(), 13), (t1, 12)] {
        let text = rolled(&root.path().join("out"), &partition, Compression::None).unwrap();
        check_lines(&text, &BTreeMap::from([(partition, count)])).unwrap();
    }
}

#[tokio::test]
async fn a_topic_made_again_gets_a_new_folder() {
    let (root, options) = rolling_site(&[]);
    let mut log = FakeLog::new(&[("t", 0)]);
    let mut life = Life::begin(&options, &log).await.unwrap();
    life.put(&t0(), 3).await.unwrap();
    life.flush(&mut log).await.unwrap();
    life.task.close().await.unwrap();
    let mut log = FakeLog::new(&[("t", 0)]);
    log.0.get_mut(&t0()).unwrap().topic_id = Uuid::from_u128(9);
    let mut life = Life::begin(&options, &log).await.unwrap();
    life.put(&t0(), 2).await.unwrap();
    life.flush(&mut log).await.unwrap();
    life.task.close().await.unwrap();
    assert_eq!(rolled(&root.path().join("out"), &t0(), Compression::None).unwrap(), lines(0..2));
    let old = root.path().join("out/t").join(format!("0.{}", Uuid::from_u128(1)));
    assert_eq!(fs::read_to_string(old.join("00000000000000000000.log")).unwrap(), lines(0..3));
}

#[tokio::test]
async fn a_reset_overwrites_nothing() {
    let (root, options) = rolling_site(&[("roll.records", "4")]);
    let mut log = FakeLog::new(&[("t", 0)]);
    let mut life = Life::begin(&options, &log).await.unwrap();
    for _ in 0..3 {
        life.put(&t0(), 4).await.unwrap();
        life.flush(&mut log).await.unwrap();
    }
    life.task.close().await.unwrap();
    let at = |offset| LogPosition { offset, metadata: None, ..log.0[&t0()].clone() };
    assert_eq!(code(Life::with(&options, &[at(0)]).await), "file_sink.exists");
    assert_eq!(code(Life::with(&options, &[at(9)]).await), "file_sink.exists");
    assert!(Life::with(&options, &[at(12)]).await.is_ok());
    for name in finished(&roll_dir(&root)) {
        fs::remove_file(roll_dir(&root).join(name)).unwrap();
    }
    let mut life = Life::with(&options, &[at(0)]).await.unwrap();
    life.put(&t0(), 12).await.unwrap();
    life.flush(&mut log).await.unwrap();
    life.task.close().await.unwrap();
    assert_eq!(rolled(&root.path().join("out"), &t0(), Compression::None).unwrap(), lines(0..12));
}

#[tokio::test]
async fn a_lost_part_is_an_error() {
    let (root, options) = rolling_site(&[]);
    let mut log = FakeLog::new(&[("t", 0)]);
    let mut life = Life::begin(&options, &log).await.unwrap();
    life.put(&t0(), 3).await.unwrap();
    life.flush(&mut log).await.unwrap();
    drop(life);
    let part = roll_dir(&root).join(&parts(&roll_dir(&root))[0]);
    fs::write(&part, "z".repeat(lines(0..3).len())).unwrap();
    assert_eq!(code(Life::begin(&options, &log).await), "file_sink.changed");
    fs::remove_file(part).unwrap();
    assert_eq!(code(Life::begin(&options, &log).await), "file_sink.lost");
}

#[tokio::test]
async fn a_change_of_format_begins_a_new_file() {
    let (root, mut options) = rolling_site(&[]);
    let mut log = FakeLog::new(&[("t", 0)]);
    let mut life = Life::begin(&options, &log).await.unwrap();
    life.put(&t0(), 3).await.unwrap();
    life.flush(&mut log).await.unwrap();
    life.put(&t0(), 3).await.unwrap();
    life.task.flush().await.unwrap();
    drop(life);
    options.insert("compression.type".to_owned(), "zstd".to_owned());
    let mut life = Life::begin(&options, &log).await.unwrap();
    life.put(&t0(), 3).await.unwrap();
    life.flush(&mut log).await.unwrap();
    life.task.close().await.unwrap();
    let dir = roll_dir(&root);
    assert_eq!(finished(&dir), ["00000000000000000000.log", "00000000000000000003.log.zst"]);
    assert_eq!(fs::read_to_string(dir.join("00000000000000000000.log")).unwrap(), lines(0..3));
    assert_eq!(read_text(&dir.join("00000000000000000003.log.zst"), Compression::Zstd).unwrap(), lines(3..6).as_bytes());
}

#[tokio::test]
async fn what_transforms_made_of_one_record_stays_in_one_file() {
    let (root, options) = rolling_site(&[("roll.records", "3")]);
    let mut log = FakeLog::new(&[("t", 0)]);
    let mut life = Life::begin(&options, &log).await.unwrap();
    let one: Record = batch(&t0(), 0, 1).into_records().next().unwrap();
    let mut records = vec![one; 5];
    records.extend(batch(&t0(), 1, 1).into_records());
    life.task.put(&records.into_iter().collect(), &mut Rejects::default(), &context()).await.unwrap();
    life.next.insert(t0(), 2);
    life.flush(&mut log).await.unwrap();
    life.task.close().await.unwrap();
    assert_eq!(finished(&roll_dir(&root)), ["00000000000000000000.log", "00000000000000000001.log"]);
    let text = fs::read_to_string(Path::new(&roll_dir(&root)).join("00000000000000000000.log")).unwrap();
    assert_eq!(text.lines().count(), 5);
}

#[tokio::test]
async fn and_also_when_it_went_to_two_topics() {
    let (root, options) = rolling_site(&[("roll.records", "1")]);
    let log = FakeLog::new(&[("t", 0)]);
    // Each record becomes two, of different topics: chunks of one record. The task dies after every put.
    for _ in 0..2 {
        let mut life = Life::begin(&options, &log).await.unwrap();
        let twice = batch(&t0(), 0, 3).into_records().flat_map(|record| {
            let other = Record { topic: "other".into(), ..record.clone() };
            [record, other]
        });
        life.task.put(&twice.collect(), &mut Rejects::default(), &context()).await.unwrap();
    }
    for (offset, name) in finished(&roll_dir(&root)).iter().enumerate() {
        let expected = lines(offset as i64..offset as i64 + 1).repeat(2);
        assert_eq!(fs::read_to_string(roll_dir(&root).join(name)).unwrap(), expected, "{name}");
    }
    assert_eq!(finished(&roll_dir(&root)).len(), 3);
}

#[tokio::test]
async fn a_refused_record_is_refused_again_until_the_commit() {
    let (root, options) =
        rolling_site(&[("roll.records", "1"), ("format", "csv"), ("columns", "value.id"), ("csv.header", "false")]);
    let log = FakeLog::new(&[("t", 0)]);
    for _ in 0..3 {
        let mut life = Life::begin(&options, &log).await.unwrap();
        let mut records: Vec<Record> = batch(&t0(), 0, 3).into_records().collect();
        for (index, text) in ["{\"id\":1}", "bad", "{\"id\":3}"].into_iter().enumerate() {
            records[index].value = text.into();
        }
        let mut rejects = Rejects::default();
        life.task.put(&records.into_iter().collect(), &mut rejects, &context()).await.unwrap();
        // The task dies, and the dead letter with it.
        assert_eq!(rejects.len(), 1);
    }
    let text: String =
        finished(&roll_dir(&root)).iter().map(|name| fs::read_to_string(roll_dir(&root).join(name)).unwrap()).collect();
    assert_eq!(text, "1\n3\n");
}

#[tokio::test]
async fn nulls_are_empty_lines_and_kafkas_word_under_kafkas_name() {
    for (class, expected) in
        [("file-sink", "\n"), ("org.apache.kafka.connect.file.FileStreamSinkConnector", "null\n"), ("FileStreamSink", "null\n")]
    {
        let (root, options) = append_site();
        let mut task = open_as(class, &options).await.unwrap();
        task.assigned(&FakeLog::new(&[("t", 0)]).positions()).await.unwrap();
        let mut record: Record = batch(&t0(), 0, 1).into_records().next().unwrap();
        record.value = Payload::Null;
        task.put(&[record].into_iter().collect(), &mut Rejects::default(), &context()).await.unwrap();
        task.flush().await.unwrap();
        assert_eq!(read(&root), expected);
    }
}

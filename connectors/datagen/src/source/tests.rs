use super::*;
use aqueduct_core::{Options, Payload, Record, TaskId};
use std::fs;
use tokio_util::sync::CancellationToken;

fn options(pairs: &[(&str, &str)]) -> Options {
    pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
}

fn cx(max_records: usize, max_bytes: usize) -> TaskContext {
    TaskContext {
        task: TaskId::new("d", 0),
        wait_max: Duration::from_millis(20),
        max_bytes,
        max_records,
        interrupt: CancellationToken::new(),
    }
}

async fn open(pairs: &[(&str, &str)], resume: &[SourceOffset]) -> DatagenTask {
    let config = aqueduct_config::parse(&options(pairs)).unwrap();
    DatagenSource::open(config, TaskSpec::new(), resume.to_vec()).await.unwrap()
}

/// All records up to `count`, with the offset after each batch.
async fn drain(task: &mut DatagenTask, cx: &TaskContext) -> Vec<(Vec<Record>, Vec<SourceOffset>)> {
    let mut out = Vec::new();
    loop {
        let polled = task.poll(cx).await.unwrap();
        assert!(polled.batch.len() <= cx.max_records && (polled.batch.bytes() <= cx.max_bytes || polled.batch.len() <= 1));
        if polled.batch.is_empty() {
            return out;
        }
        task.commit(&polled.resume).await.unwrap();
        out.push((polled.batch.into_records().collect(), polled.resume));
    }
}

#[tokio::test]
async fn it_resumes_exactly_from_every_offset() {
    for template in ["orders", "sensors", "access_log", "salary_updates"] {
        let pairs =
            [("template", template), ("topic", "t"), ("rate", "0"), ("count", "1000"), ("seed", "5"), ("start.time", "now")];
        let batches = drain(&mut open(&pairs, &[]).await, &cx(90, 20_000)).await;
        let all: Vec<&Record> = batches.iter().flat_map(|(records, _)| records).collect();
        assert_eq!(all.len(), 1000, "{template}");
        let mut taken = 0;
        for (records, resume) in &batches {
            taken += records.len();
            resume.iter().for_each(|offset| DatagenSource::check_offset(offset).unwrap());
            let rest = drain(&mut open(&pairs, resume).await, &cx(1000, 1 << 30)).await;
            assert!(rest.iter().flat_map(|(records, _)| records).eq(all[taken..].iter().copied()), "{template} after {taken}");
        }
    }
}

#[test]
fn an_offset_that_is_none_is_refused_by_the_name_of_its_key() {
    let json = |text: &str| serde_json::from_str::<JsonMap>(text).unwrap();
    let orders = r#"{"template": "orders"}"#;
    for (partition, offset, key) in [
        ("{}", r#"{"next": 1}"#, "template"),
        (r#"{"template": "order"}"#, r#"{"next": 1}"#, "template"),
        (r#"{"template": "orders", "n": 1}"#, r#"{"next": 1}"#, "template"),
        (orders, "{}", "next"),
        (orders, r#"{"next": "1"}"#, "next"),
        (orders, r#"{"next": -1}"#, "next"),
        (orders, r#"{"next": 1, "start": "today"}"#, "start"),
        (orders, r#"{"next": 1, "position": 2}"#, "position"),
    ] {
        let offset = SourceOffset { partition: json(partition), offset: Some(json(offset)) };
        let error = DatagenSource::check_offset(&offset).unwrap_err();
        assert!(error.message().contains(&format!("{key:?}")) && error.hint().is_some(), "{error}");
    }
}

#[tokio::test]
async fn the_rate_is_kept() {
    tokio::time::pause();
    let mut task = open(&[("quickstart", "ORDERS"), ("kafka.topic", "t"), ("rate", "100"), ("iterations", "250")], &[]).await;
    let start = Instant::now();
    let mut n = 0;
    while n < 250 {
        n += task.poll(&cx(1000, 1 << 20)).await.unwrap().batch.len();
    }
    let took = start.elapsed().as_secs_f64();
    assert!((2.4..2.6).contains(&took), "{took}");
}

#[tokio::test]
async fn the_time_in_a_record_follows_the_rate() {
    let mut task =
        open(&[("template", "access_log"), ("topic", "t"), ("rate", "1000000"), ("start.time", "2026-03-04T05:06:07Z")], &[])
            .await;
    task.clock.rate = 0.5;
    let record = loop {
        if let Some(record) = task.poll(&cx(2, 1 << 20)).await.unwrap().batch.into_records().nth(1) {
            break record;
        }
    };
    let Payload::Bytes(line) = &record.value else { panic!("a line") };
    assert!(std::str::from_utf8(line).unwrap().contains("[04/Mar/2026:05:06:09 +0000]"), "{line:?}");
    assert_eq!(record.timestamp, None, "the log's to give");
}

#[tokio::test]
async fn a_file_grows_through_restarts_and_no_line_is_written_before_the_start_is_stored() {
    let folder = tempfile::TempDir::new().unwrap();
    let path = folder.path().join("access.log");
    let pairs = [
        ("template", "access_log"),
        ("file", path.to_str().unwrap()),
        ("file.max.bytes", "10000"),
        ("file.keep", "1000"),
        ("rate", "0"),
        ("count", "500"),
        ("start.time", "now"),
    ];
    let mut stored = Vec::new();
    let mut task = open(&pairs, &stored).await;
    let first = task.poll(&cx(70, 1 << 20)).await.unwrap();
    assert!(first.batch.is_empty() && first.resume.len() == 1);
    assert!(task.poll(&cx(70, 1 << 20)).await.unwrap().resume.is_empty(), "it waits");
    assert_eq!(fs::metadata(&path).unwrap().len(), 0);
    for round in 0..6 {
        task.commit(&first.resume).await.unwrap();
        // Two batches are written, some older offset is stored, and then the task dies.
        for _ in 0..2 {
            let polled = task.poll(&cx(70, 1 << 20)).await.unwrap();
            assert!(polled.batch.is_empty());
            stored = if polled.resume.is_empty() || round == 2 { stored } else { polled.resume };
        }
        stored = if stored.is_empty() { first.resume.clone() } else { stored };
        task = open(&pairs, &stored).await;
    }
    let mut numbers = Vec::new();
    for old in (0..100).rev() {
        let name = if old == 0 { path.clone() } else { folder.path().join(format!("access.log.{old}")) };
        for line in fs::read_to_string(name).unwrap_or_default().lines() {
            numbers.push(crate::access_log::number(line.as_bytes()).unwrap());
        }
    }
    assert_eq!(numbers, (0..500).collect::<Vec<_>>());
}

#[tokio::test]
async fn an_offset_that_cannot_be_read_is_refused() {
    let config = aqueduct_config::parse(&options(&[("topic", "t")])).unwrap();
    let bad = SourceOffset {
        partition: partition(Template::Orders),
        offset: Some(JsonMap::from_iter([("next".to_owned(), "x".into())])),
    };
    let error = DatagenSource::open(config, TaskSpec::new(), vec![bad]).await.err().unwrap();
    assert_eq!((error.code(), error.is_retriable()), ("datagen.offset", false));
}

#[test]
fn issues() {
    let plugin = aqueduct_config::plugin::source::<DatagenSource>();
    assert!(plugin.descriptor().is_called("io.confluent.kafka.connect.datagen.DatagenConnector"));
    let found = |pairs: &[(&str, &str)]| {
        plugin.validate(&options(pairs)).iter().map(|issue| format!("{} {}", issue.path, issue.code)).collect::<Vec<_>>()
    };
    assert_eq!(found(&[]), ["topic config.missing"]);
    assert_eq!(found(&[("topic", "a b")]), ["topic config.topic"]);
    assert_eq!(found(&[("topic", "t"), ("file", "x")]), ["topic datagen.topic_unused", "file datagen.file_template"]);
    assert_eq!(found(&[("topic", "t"), ("start.time", "soon"), ("rate", "-1")]), ["rate config.range", "start.time config.type"]);
    assert_eq!(found(&[("file", "x"), ("template", "access_log"), ("start.time", "now")]), [""; 0]);
}

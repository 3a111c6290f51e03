//! What a record looks like in each format, and which options are refused.

use crate::fake::{FakeLog, context, open_as, options};
use aqueduct_core::schema::{Kind, Schema};
use aqueduct_core::{Data, Header, Issue, Options, Origin, Payload, Record, Rejects, TopicPartition};
use std::sync::Arc;

fn record(offset: i64, key: Payload, value: Payload) -> Record {
    let origin = Some(Origin { partition: Arc::new(TopicPartition::new("t", 0)), offset });
    Record { key, origin, timestamp: Some(1_700_000_000_000), partition: Some(0), ..Record::new("t", value) }
}

fn structured() -> Payload {
    let schema = Schema::new(Kind::Struct)
        .field("id", Schema::new(Kind::Int64))
        .field("name", Schema::new(Kind::String).optional())
        .field("raw", Schema::new(Kind::Bytes));
    let data = Data::Struct(vec![Data::Int64(7), Data::String("a \"b\", c".into()), Data::Bytes(vec![0xff, 0].into())]);
    Payload::data(Some(schema.into()), data)
}

async fn write(options: &[(&str, &str)], records: Vec<Record>) -> (String, Rejects) {
    let root = tempfile::tempdir().unwrap();
    let file = root.path().join("out");
    let mut all: Options = crate::fake::options(options);
    all.insert("file".to_owned(), file.to_str().unwrap().to_owned());
    let mut task = open_as("file-sink", &all).await.unwrap();
    task.assigned(&FakeLog::new(&[("t", 0)]).positions()).await.unwrap();
    let mut rejects = Rejects::default();
    task.put(&records.into_iter().collect(), &mut rejects, &context()).await.unwrap();
    task.flush().await.unwrap();
    (std::fs::read_to_string(file).unwrap(), rejects)
}

#[tokio::test]
async fn lines_are_values() {
    let values = ["plain".into(), Payload::Null, structured(), Payload::data(None, Data::String("text".into()))];
    let records = values.into_iter().enumerate().map(|(index, value)| record(index as i64, Payload::Null, value)).collect();
    let (text, _) = write(&[], records).await;
    assert_eq!(text, "plain\n\n{\"id\":7,\"name\":\"a \\\"b\\\", c\",\"raw\":\"/wA=\"}\ntext\n");
}

#[tokio::test]
async fn json_lines_are_json() {
    let mut first = record(0, "k".into(), "{\"a\":\n1}".into());
    first.headers = vec![Header { name: "h".into(), value: "1".into() }, Header { name: "h".into(), value: Payload::Null }];
    let second = record(1, Payload::Null, Payload::Bytes(vec![0xff].into()));
    let records = vec![first, second, record(2, Payload::Null, "12".into()), record(3, Payload::Null, structured())];
    let (text, _) = write(&[("format", "json")], records.clone()).await;
    let expected = [
        "{\"key\":\"k\",\"value\":{\"a\": 1},\"headers\":[{\"key\":\"h\",\"value\":\"1\"},{\"key\":\"h\",\"value\":null}],\"timestamp\":1700000000000,\"topic\":\"t\",\"partition\":0,\"offset\":0}",
        "{\"key\":null,\"value\":\"/w==\",\"headers\":[],\"timestamp\":1700000000000,\"topic\":\"t\",\"partition\":0,\"offset\":1}",
        "{\"key\":null,\"value\":\"12\",\"headers\":[],\"timestamp\":1700000000000,\"topic\":\"t\",\"partition\":0,\"offset\":2}",
    ];
    assert_eq!(text.lines().take(3).collect::<Vec<_>>(), expected);
    let (text, _) = write(&[("format", "json"), ("fields", "value"), ("envelope", "false")], records.clone()).await;
    assert_eq!(text.lines().next_back().unwrap(), "{\"id\":7,\"name\":\"a \\\"b\\\", c\",\"raw\":\"/wA=\"}");
    let (text, _) = write(&[("format", "json"), ("fields", "offset,key")], records).await;
    assert_eq!(text.lines().next().unwrap(), "{\"offset\":0,\"key\":\"k\"}");
}

#[tokio::test]
async fn csv_reads_back() {
    let mut first = record(5, "k".into(), structured());
    first.headers = vec![Header { name: "trace".into(), value: "x\ny".into() }];
    let second = record(6, "".into(), "{\"id\":\"8\",\"name\":null,\"deep\":{\"er\":[1,2]}}".into());
    let bad = record(7, Payload::Null, "no json".into());
    let columns = "offset,key,id=value.id,name=value.name,value.raw,header.trace,er=value.deep.er";
    let (text, mut rejects) = write(&[("format", "csv"), ("columns", columns)], vec![first, second, bad]).await;
    let mut reader = csv::ReaderBuilder::new().has_headers(false).from_reader(text.as_bytes());
    let rows: Vec<Vec<String>> = reader.records().map(|row| row.unwrap().iter().map(str::to_owned).collect()).collect();
    assert_eq!(
        rows,
        [
            ["offset", "key", "id", "name", "value.raw", "header.trace", "er"],
            ["5", "k", "7", "a \"b\", c", "/wA=", "x\ny", ""],
            ["6", "", "8", "", "", "", "[1,2]"],
        ]
    );
    assert!(text.contains("6,\"\",8,,"), "an empty text differs from null: {text}");
    let rejects = rejects.take();
    assert_eq!((rejects.len(), rejects[0].error.code()), (1, "file_sink.not_an_object"));
    assert_eq!(rejects[0].record.origin.as_ref().unwrap().offset, 7);
}

fn issues(pairs: &[(&str, &str)]) -> Vec<String> {
    let plugins = aqueduct_connector_file::plugins();
    let plugin = plugins.iter().find(|plugin| plugin.descriptor().name == "file-sink").unwrap();
    plugin.validate(&options(pairs)).into_iter().map(|Issue { path, code, .. }| format!("{path} {code}")).collect()
}

#[test]
fn bad_options_are_found_together() {
    assert_eq!(issues(&[]), ["file file_sink.target"]);
    assert_eq!(issues(&[("file", "/a"), ("directory", "/b")]), ["directory file_sink.target"]);
    assert_eq!(
        issues(&[("file", "/a"), ("format", "json"), ("envelope", "false"), ("columns", "valu"), ("csv.delimiter", "ab")]),
        ["fields file_sink.fields", "columns file_sink.column", "csv.delimiter file_sink.delimiter"]
    );
    assert_eq!(
        issues(&[("file", "/a"), ("format", "xml"), ("roll.records", "0")]),
        ["format config.enum", "roll.records config.range"]
    );
    assert!(
        issues(&[("directory", "/a"), ("roll.bytes", "1 MiB"), ("roll.interval", "1 min"), ("compression.type", "zstd")])
            .is_empty()
    );
}

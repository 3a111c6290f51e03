use super::*;
use crate::descriptors;
use aqueduct_core::{Origin, Record, TopicPartition};

fn options(pairs: &[(&str, &str)]) -> Options {
    pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
}

fn converters(pairs: &[(&str, &str)]) -> Converters {
    Converters::new(&options(pairs), &Options::new()).unwrap()
}

fn point() -> Payload {
    let schema =
        Schema::new(Kind::Struct).field("x", Schema::new(Kind::Int32)).field("name", Schema::new(Kind::String).optional());
    Payload::data(Some(Arc::new(schema)), Data::Struct(vec![Data::Int32(5), Data::Null]))
}

fn text(payload: &Payload) -> &str {
    match payload {
        Payload::Bytes(bytes) => std::str::from_utf8(bytes).unwrap(),
        other => panic!("not bytes: {other:?}"),
    }
}

#[test]
fn bytes_pass_untouched() {
    let batch: Batch = (0..10).map(|n| Record::new("t", n.to_string())).collect();
    let at = batch.chunks()[0].buffer().as_ptr();
    for name in ["string", "bytes", "plain", STRING, BYTES, "StringConverter"] {
        let converters = converters(&[("key.converter", name), ("value.converter", name)]);
        let mut rejects = Rejects::default();
        let out = converters.decode(converters.encode(batch.clone(), &mut rejects), &mut rejects);
        assert_eq!(out.chunks()[0].buffer().as_ptr(), at, "{name}");
        assert!(rejects.is_empty());
    }
}

#[test]
fn each_converter_writes_its_own_text() {
    let json = "org.apache.kafka.connect.json.JsonConverter";
    let envelope = r#"{"schema":{"type":"struct","fields":[{"type":"int32","optional":false,"field":"x"},{"type":"string","optional":true,"field":"name"}],"optional":false},"payload":{"x":5,"name":null}}"#;
    for (pairs, expected) in [
        (&[("value.converter", json)][..], envelope),
        (&[("value.converter", "json"), ("value.converter.schemas.enable", "false")], r#"{"x":5,"name":null}"#),
        (&[], r#"{"x":5,"name":null}"#),
        (&[("value.converter", "string")], "Struct{x=5}"),
    ] {
        let record =
            Record { key: "k".into(), headers: vec![Header { name: "h".into(), value: point() }], ..Record::new("t", point()) };
        let mut rejects = Rejects::default();
        let out: Vec<Record> = converters(pairs).encode([record].into_iter().collect(), &mut rejects).into_records().collect();
        assert!(rejects.is_empty());
        assert_eq!((text(&out[0].value), text(&out[0].key)), (expected, "k"));
        assert_eq!(text(&out[0].headers[0].value), r#"{"x":5,"name":null}"#, "SimpleHeaderConverter");
    }
}

#[test]
fn records_that_do_not_convert_are_rejected_and_the_rest_goes_on() {
    let converters =
        converters(&[("value.converter", "json"), ("value.converter.schemas.enable", "false"), ("key.converter", "long")]);
    let origin = |offset| Some(Origin { partition: Arc::new(TopicPartition::new("t", 0)), offset });
    let key = |bytes: &'static [u8]| Payload::Bytes(Bytes::from_static(bytes));
    let records = vec![
        Record { key: key(&[0, 0, 0, 0, 0, 0, 0, 9]), origin: origin(1), ..Record::new("t", r#"{"a":[1,2.5,"x",null]}"#) },
        Record { origin: origin(2), ..Record::new("t", "{not json") },
        Record { key: key(&[1]), origin: origin(3), ..Record::new("t", "1") },
        Record { origin: origin(4), ..Record::new("t", Payload::Null) },
    ];
    let mut rejects = Rejects::default();
    let decoded = converters.decode(records.clone().into_iter().collect(), &mut rejects);
    let out: Vec<Record> = decoded.clone().into_records().collect();
    assert_eq!(out.iter().map(|record| record.origin.as_ref().unwrap().offset).collect::<Vec<_>>(), [1, 4]);
    let Payload::Data(value) = &out[0].value else { panic!("structured") };
    let list = vec![Data::Int64(1), Data::Float64(2.5), "x".into(), Data::Null];
    assert_eq!(value.data, Data::object([("a", Data::Array(list))]));
    let Payload::Data(key) = &out[0].key else { panic!("structured") };
    assert_eq!(key.data, Data::Int64(9));
    let refused = rejects.take();
    let found: Vec<_> = refused.iter().map(|reject| (reject.stage.name(), reject.error.code(), reject.record.clone())).collect();
    assert_eq!(found[0], ("VALUE_CONVERTER", "converter.json", records[1].clone()));
    assert_eq!(found[1], ("KEY_CONVERTER", "converter.size", records[2].clone()));
    // And back to the bytes that they were.
    let back: Vec<Record> = converters.encode(decoded, &mut rejects).into_records().collect();
    assert_eq!((&back[0], &back[1]), (&records[0], &records[3]));
}

#[test]
fn the_worker_speaks_for_a_connector_that_says_nothing() {
    let worker = options(&[("value.converter", "json"), ("value.converter.schemas.enable", "false")]);
    let encode = |connector: &[(&str, &str)]| {
        let converters = Converters::new(&options(connector), &worker).unwrap();
        let out = converters.encode([Record::new("t", "x")].into_iter().collect(), &mut Rejects::default());
        text(&out.into_records().next().unwrap().value).to_owned()
    };
    assert_eq!(encode(&[]), r#""x""#);
    // The worker's options belong to the worker's converter.
    assert_eq!(encode(&[("value.converter", "json")]), r#"{"schema":{"type":"string","optional":false},"payload":"x"}"#);
    assert_eq!(encode(&[("value.converter", "string")]), "x");
}

#[test]
fn issues_name_the_key() {
    let issues = Converters::new(
        &options(&[
            ("value.converter", "jsn"),
            ("key.converter", "json"),
            ("key.converter.decimal.format", "HEX"),
            ("header.converter", "string"),
        ]),
        &Options::new(),
    );
    let found: Vec<String> = issues.unwrap_err().iter().map(ToString::to_string).collect();
    assert_eq!(
        found,
        [
            "key.converter.decimal.format: \"HEX\" is not allowed here; use one of BASE64, NUMERIC [config.enum]",
            "value.converter: no converter is called \"jsn\"; did you mean json? [config.unknown_class]",
        ]
    );
}

#[test]
fn every_part_is_described() {
    let parts = descriptors();
    assert_eq!(parts.iter().filter(|part| part.class == JSON).count(), 2, "as converter and as header converter");
    for part in &parts {
        assert!(part.summary.ends_with('.'), "{}", part.class);
        for option in &part.options {
            assert!(option.documentation.ends_with('.'), "{} {}", part.class, option.name);
        }
    }
}

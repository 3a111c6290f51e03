use super::*;
use aqueduct_core::{Data, Header, Origin, Payload, PayloadRef, Record, Schema, TopicPartition, schema::Kind};
use futures_util::FutureExt;
use std::sync::Arc;

fn options(pairs: &[(&str, &str)]) -> Options {
    pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
}

fn run(pairs: &[(&str, &str)], records: Vec<Record>) -> (Vec<Record>, Rejects) {
    let mut chain = Chain::new(&options(pairs)).unwrap();
    let mut rejects = Rejects::default();
    let batch = chain.apply(records.into_iter().collect(), &mut rejects).now_or_never().unwrap().unwrap();
    (batch.into_records().collect(), rejects)
}

fn texts(records: &[Record]) -> Vec<String> {
    let text = |record: &Record| match record.value.as_ref() {
        PayloadRef::Bytes(bytes) => String::from_utf8_lossy(bytes).into_owned(),
        PayloadRef::Null => "-".to_owned(),
        PayloadRef::Data(value) => crate::json::text(value),
    };
    records.iter().map(|record| format!("{} {}", record.topic, text(record))).collect()
}

#[test]
fn a_filter_drops_what_its_predicate_selects() {
    let mut marked = Record::new("b", "2");
    marked.headers.push(Header { name: "skip".into(), value: Payload::Null });
    let records = vec![Record::new("a", "1"), marked, Record::new("b", Payload::Null), Record::new("bb", "4")];
    let with = |class: &str, option: (&str, &str), negate: &str| {
        let pairs = [
            ("transforms", "f"),
            ("transforms.f.type", "org.apache.kafka.connect.transforms.Filter"),
            ("transforms.f.predicate", "p"),
            ("transforms.f.negate", negate),
            ("predicates", "p"),
            ("predicates.p.type", class),
            (option.0, option.1),
        ];
        texts(&run(&pairs, records.clone()).0)
    };
    assert_eq!(with("TopicNameMatches", ("predicates.p.pattern", "b"), "false"), ["a 1", "bb 4"]);
    assert_eq!(with("TopicNameMatches", ("predicates.p.pattern", "b"), "true"), ["b 2", "b -"]);
    assert_eq!(with("HasHeaderKey", ("predicates.p.name", "skip"), "false"), ["a 1", "b -", "bb 4"]);
    assert_eq!(
        with("org.apache.kafka.connect.transforms.predicates.RecordIsTombstone", ("x", ""), "false"),
        ["a 1", "b 2", "bb 4"]
    );
    let all = run(&[("transforms", "f"), ("transforms.f.type", "Filter")], records);
    assert!(all.0.is_empty() && all.1.is_empty());
}

#[test]
fn a_router_with_a_predicate_keeps_the_order() {
    let pairs = |class: &'static str, option: (&'static str, &'static str)| {
        [
            ("transforms", "r"),
            ("transforms.r.type", "RegexRouter"),
            ("transforms.r.regex", "(.*)"),
            ("transforms.r.replacement", "new-$1"),
            ("transforms.r.predicate", "p"),
            ("predicates", "p"),
            ("predicates.p.type", class),
            option,
        ]
    };
    let records = || vec![Record::new("a", "1"), Record::new("b", Payload::Null), Record::new("b", "3"), Record::new("a", "4")];
    let by_topic = run(&pairs("TopicNameMatches", ("predicates.p.pattern", "b")), records());
    assert_eq!(texts(&by_topic.0), ["a 1", "new-b -", "new-b 3", "a 4"]);
    let by_record = run(&pairs("RecordIsTombstone", ("x", "")), records());
    assert_eq!(texts(&by_record.0), ["a 1", "new-b -", "b 3", "a 4"]);
}

#[test]
fn a_router_copies_no_record() {
    let batch: Batch = (0..100).map(|n| Record::new("a", n.to_string())).collect();
    let before = batch.chunks()[0].buffer().as_ptr();
    let pairs = [
        ("transforms", "r"),
        ("transforms.r.type", "RegexRouter"),
        ("transforms.r.regex", "a"),
        ("transforms.r.replacement", "b"),
    ];
    let mut chain = Chain::new(&options(&pairs)).unwrap();
    let after = chain.apply(batch, &mut Rejects::default()).now_or_never().unwrap().unwrap();
    assert_eq!((after.chunks().len(), &*after.chunks()[0].topic), (1, "b"));
    assert_eq!(after.chunks()[0].buffer().as_ptr(), before);
}

const INSERT: [(&str, &str); 8] = [
    ("transforms", "i"),
    ("transforms.i.type", "InsertField$Value"),
    ("transforms.i.topic.field", "topic!"),
    ("transforms.i.partition.field", "partition"),
    ("transforms.i.offset.field", "offset?"),
    ("transforms.i.timestamp.field", "at"),
    ("transforms.i.static.field", "site"),
    ("transforms.i.static.value", "north"),
];

fn at_origin(value: Payload) -> Record {
    let origin = Some(Origin { partition: Arc::new(TopicPartition::new("t", 3)), offset: 42 });
    Record { value, origin, timestamp: Some(1_700_000_000_123), ..Record::new("t", "") }
}

#[test]
fn fields_are_inserted_with_and_without_a_schema() {
    let schema = Schema {
        version: Some(2),
        default: Some(Data::Null),
        ..Schema::new(Kind::Struct)
            .named("s")
            .optional()
            .field("n", Schema { default: Some(Data::Int64(7)), ..Schema::new(Kind::Int64).optional() })
    };
    let records = vec![
        at_origin(Payload::data(None, Data::object([("n", Data::Int64(1)), ("topic", Data::Null)]))),
        at_origin(Payload::data(Some(Arc::new(schema)), Data::Struct(vec![Data::Null]))),
        at_origin(Payload::Null),
    ];
    let (out, rejects) = run(&INSERT, records);
    assert!(rejects.is_empty());
    assert_eq!(
        texts(&out),
        [
            r#"t {"n":1,"topic":"t","partition":3,"offset":42,"at":1700000000123,"site":"north"}"#,
            r#"t {"n":7,"topic":"t","partition":3,"offset":42,"at":1700000000123,"site":"north"}"#,
            "t -",
        ]
    );
    let PayloadRef::Data(value) = out[1].value.as_ref() else { panic!("a struct") };
    let schema = value.schema.as_ref().unwrap();
    assert_eq!((schema.name.as_deref(), schema.version, schema.optional, &schema.default), (Some("s"), Some(2), false, &None));
    let optional: Vec<bool> = schema.fields[1..].iter().map(|field| field.schema.optional).collect();
    assert_eq!(optional, [false, true, true, true, true]);
    assert_eq!(schema.fields[4].schema.name.as_deref(), Some("org.apache.kafka.connect.data.Timestamp"));
}

#[test]
fn what_cannot_take_a_field_is_refused_as_it_was() {
    let taken = Arc::new(Schema::new(Kind::Struct).field("site", Schema::new(Kind::String)));
    let records = vec![
        at_origin("plain text".into()),
        at_origin(Payload::data(None, Data::Int64(5))),
        at_origin(Payload::data(Some(taken), Data::Struct(vec!["x".into()]))),
        Record { origin: None, ..at_origin(Payload::data(None, Data::object([("n", Data::Int64(1))]))) },
    ];
    let (out, mut rejects) = run(&INSERT, records.clone());
    assert!(out.is_empty());
    let rejects = rejects.take();
    let found: Vec<(&str, &str)> = rejects.iter().map(|reject| (reject.error.code(), reject.stage.name())).collect();
    let stage = "TRANSFORMATION";
    assert_eq!(
        found,
        [
            ("transform.type", stage),
            ("transform.type", stage),
            ("transform.duplicate_field", stage),
            ("transform.no_offset", stage)
        ]
    );
    assert_eq!(rejects.into_iter().map(|reject| reject.record).collect::<Vec<_>>(), records);
}

/// The chain of Kafka's own quickstart.
#[test]
fn lines_become_structs() {
    let pairs = [
        ("transforms", "MakeMap, InsertSource"),
        ("transforms.MakeMap.type", "org.apache.kafka.connect.transforms.HoistField$Value"),
        ("transforms.MakeMap.field", "line"),
        ("transforms.InsertSource.type", "org.apache.kafka.connect.transforms.InsertField$Value"),
        ("transforms.InsertSource.static.field", "data_source"),
        ("transforms.InsertSource.static.value", "test-file-source"),
    ];
    let (out, _) = run(&pairs, vec![Record::new("connect-test", "foo")]);
    assert_eq!(texts(&out), [r#"connect-test {"line":"foo","data_source":"test-file-source"}"#]);
}

#[test]
fn every_issue_at_once() {
    let issues = Chain::new(&options(&[
        ("transforms", "a,b,c,d,e,f,a"),
        ("transforms.a.type", "RegxRouter"),
        ("transforms.b.type", "InsertField"),
        ("transforms.c.type", "RegexRouter"),
        ("transforms.c.regex", "a(b"),
        ("transforms.d.type", "Filter"),
        ("transforms.d.predicate", "tombstone"),
        ("transforms.e.type", "Filter"),
        ("transforms.e.negate", "true"),
        ("transforms.f.topic.field", "x"),
        ("predicates", "tombstones,p"),
        ("predicates.tombstones.type", "RecordIsTombstone"),
        ("predicates.p.type", "TopicNameMatches"),
    ]))
    .err()
    .unwrap();
    let found: Vec<String> = issues.iter().map(ToString::to_string).collect();
    assert_eq!(
        found,
        [
            "predicates.p.pattern: is required and has no default; add `predicates.p.pattern: orders-.*` (A regular expression over the topic's whole name) [config.missing]",
            "transforms: a is in the list twice; name each once; two of a class need two names [config.duplicate]",
            "transforms.a.type: no transform is called \"RegxRouter\"; did you mean RegexRouter? [config.unknown_class]",
            "transforms.b.type: \"InsertField\" can change the key or the value; write InsertField$Key or InsertField$Value [config.ambiguous_class]",
            "transforms.c.regex: \"a(b\" is not a regular expression: unclosed group; correct the pattern; in YAML put it into 'single quotes' so that \\ and # stay [config.regex]",
            "transforms.c.replacement: is required and has no default; add `transforms.c.replacement: $1-clean` (The new name) [config.missing]",
            "transforms.d.predicate: no predicate is called \"tombstone\"; did you mean tombstones? [config.unknown_predicate]",
            "transforms.e.negate: negates a predicate, but none is named; add `transforms.e.predicate: …`, or remove negate [config.missing]",
            "transforms.f.type: is required and has no default; add `transforms.f.type: …` (The class, or its short name such as `RegexRouter` or `InsertField$Value`) [config.missing]",
        ]
    );
}

#[test]
fn unknown_keys_are_found_at_every_level() {
    let issues = crate::unknown_keys(&options(&[
        ("value.converter", "json"),
        ("value.converter.schema.enable", "false"),
        ("key.converter.schemas.enable", "false"),
        ("transforms", "route"),
        ("transforms.route.type", "RegexRouter"),
        ("transforms.route.regexp", "a"),
        ("transforms.rout.replacement", "b"),
        ("predicates.p.type", "RecordIsTombstone"),
    ]));
    let found: Vec<String> = issues.iter().map(ToString::to_string).collect();
    assert_eq!(
        found,
        [
            "key.converter.schemas.enable: is an option of `key.converter`, which is not here; add `key.converter: …`: a connector that names no converter takes the worker's, with the worker's options [config.unknown_key]",
            "value.converter.schema.enable: JsonConverter has no option schema.enable; did you mean value.converter.schemas.enable? [config.unknown_key]",
            "transforms.rout.replacement: rout is not in `transforms`; did you mean route? [config.unknown_key]",
            "transforms.route.regexp: RegexRouter has no option regexp; did you mean transforms.route.regex? [config.unknown_key]",
            "predicates.p.type: p is not in `predicates`; add p to `predicates`, or remove this line [config.unknown_key]",
        ]
    );
}

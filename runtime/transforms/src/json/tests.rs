use super::*;
use aqueduct_core::schema::{Kind, logical};
use proptest::prelude::*;

fn json(pairs: &[(&str, &str)]) -> Json {
    let options = pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    Json::new(&aqueduct_config::parse(&options).unwrap())
}

fn plain() -> Json {
    json(&[("schemas.enable", "false")])
}

fn encode(json: &mut Json, payload: &Payload) -> Result<String> {
    let mut out = Vec::new();
    json.encode(payload.as_ref(), &mut out)?;
    Ok(String::from_utf8(out).unwrap())
}

fn decimal(scale: &str) -> Schema {
    let mut schema = Schema { version: Some(1), ..Schema::new(Kind::Bytes).named(logical::DECIMAL) };
    schema.parameters.insert("scale".into(), scale.into());
    schema
}

/// Messages that Kafka Connect's JsonConverter writes, and what they are.
#[test]
fn the_envelope_is_that_of_kafka_connect() {
    let inner =
        Schema::new(Kind::Struct).named("p.Point").field("x", Schema::new(Kind::Int8)).field("y", Schema::new(Kind::Float32));
    let cases: Vec<(Schema, Data, &str)> = vec![
        (Schema::new(Kind::Boolean), true.into(), r#"{"schema":{"type":"boolean","optional":false},"payload":true}"#),
        (Schema::new(Kind::Float64).optional(), 12.0.into(), r#"{"schema":{"type":"double","optional":true},"payload":12.0}"#),
        (
            Schema::new(Kind::Bytes),
            Data::Bytes("test-string".into()),
            r#"{"schema":{"type":"bytes","optional":false},"payload":"dGVzdC1zdHJpbmc="}"#,
        ),
        (
            decimal("2"),
            Data::Bytes(vec![0, 156].into()),
            r#"{"schema":{"type":"bytes","optional":false,"name":"org.apache.kafka.connect.data.Decimal","version":1,"parameters":{"scale":"2"}},"payload":"AJw="}"#,
        ),
        (
            Schema { values: Some(Arc::new(Schema::new(Kind::Int32))), ..Schema::new(Kind::Array) },
            Data::Array(vec![1.into(), 2.into()]),
            r#"{"schema":{"type":"array","items":{"type":"int32","optional":false},"optional":false},"payload":[1,2]}"#,
        ),
        (
            Schema { keys: Some(Arc::new(Schema::new(Kind::Int32))), values: Some(Arc::new(inner)), ..Schema::new(Kind::Map) },
            Data::Map(vec![(1.into(), Data::Struct(vec![Data::Int8(3), Data::Float32(0.1)]))]),
            r#"{"schema":{"type":"map","keys":{"type":"int32","optional":false},"values":{"type":"struct","fields":[{"type":"int8","optional":false,"field":"x"},{"type":"float","optional":false,"field":"y"}],"optional":false,"name":"p.Point"},"optional":false},"payload":[[1,{"x":3,"y":0.1}]]}"#,
        ),
        (
            Schema { doc: Some("d".into()), default: Some("é\n\u{1f}".into()), ..Schema::new(Kind::String) },
            "/".into(),
            r#"{"schema":{"type":"string","optional":false,"doc":"d","default":"é\n\u001F"},"payload":"/"}"#,
        ),
    ];
    for (schema, data, message) in cases {
        let payload = Payload::data(Some(Arc::new(schema)), data);
        for _ in 0..2 {
            assert_eq!(encode(&mut json(&[]), &payload).unwrap(), message);
        }
        let mut reader = json(&[]);
        assert_eq!(reader.decode(message.as_bytes()).unwrap(), payload);
        assert_eq!(reader.decode(message.as_bytes()).unwrap(), payload, "from the cache");
    }
}

#[test]
fn decimals_as_numbers() {
    let mut json = json(&[("schemas.enable", "true"), ("decimal.format", "numeric")]);
    let payload = Payload::data(Some(Arc::new(decimal("2"))), Data::Bytes(vec![0, 156].into()));
    let message = encode(&mut json, &payload).unwrap();
    assert!(message.ends_with(r#""payload":1.56}"#), "{message}");
    assert_eq!(json.decode(message.as_bytes()).unwrap(), payload);
}

#[test]
fn null_and_defaults() {
    let text = |replace: &str, schema: Schema| {
        let payload = Payload::data(Some(Arc::new(Schema::new(Kind::Struct).field("f", schema))), Data::Struct(vec![Data::Null]));
        encode(&mut json(&[("schemas.enable", "false"), ("replace.null.with.default", replace)]), &payload)
    };
    let with_default = Schema { default: Some("d".into()), ..Schema::new(Kind::String).optional() };
    assert_eq!(text("true", with_default.clone()).unwrap(), r#"{"f":"d"}"#);
    assert_eq!(text("false", with_default).unwrap(), r#"{"f":null}"#);
    assert_eq!(text("true", Schema::new(Kind::String)).unwrap_err().code(), "converter.null");
    assert_eq!(encode(&mut json(&[]), &Payload::Null).unwrap(), "");
    assert_eq!(plain().decode(b"").unwrap(), Payload::Null);
    assert_eq!(plain().decode(b"null").unwrap(), Payload::Null);
    assert_eq!(json(&[]).decode(br#"{"schema":null,"payload":null}"#).unwrap(), Payload::Null);
}

#[test]
fn poison_is_refused() {
    let deep = "[".repeat(100_000);
    for (message, code) in [
        (r#"{"a":1}"#, "converter.json"),
        (r#"{"schema":null,"payload":1,"x":2}"#, "converter.json"),
        (r#"{"schema":{"type":"int9"},"payload":1}"#, "converter.schema"),
        (r#"{"schema":{"type":"int8"},"payload":300}"#, "converter.type"),
        (r#"{"schema":{"type":"int8"},"payload":"1"}"#, "converter.type"),
        (r#"{"schema":{"type":"int8"},"payload":null}"#, "converter.null"),
        (r#"{"schema":{"type":"array"},"payload":[]}"#, "converter.schema"),
        (r#"{"schema":{"type":"struct","fields":[{"type":"int8","field":"a"}]},"payload":{}}"#, "converter.null"),
        ("", "converter.json"),
    ] {
        assert_eq!(json(&[]).decode(message.as_bytes()).unwrap_err().code(), code, "{message}");
    }
    for (message, code) in [
        ("{", "converter.json"),
        ("1 2", "converter.json"),
        (r#""\ud800""#, "converter.json"),
        ("\"\u{0}\"", "converter.json"),
        ("9223372036854775808", "converter.range"),
        ("[1e3,123456789012345678901234567890]", "converter.range"),
    ] {
        assert_eq!(plain().decode(message.as_bytes()).unwrap_err().code(), code, "{message}");
    }
    assert!(plain().decode(deep.as_bytes()).is_err() && json(&[]).decode(deep.as_bytes()).is_err());
    assert!(plain().decode(b"\"\xff\"").is_err());
    // A number far outside of a string is not an integer that is too large.
    assert!(plain().decode(br#"[1e300,"123456789012345678901234567890"]"#).is_ok());
}

#[test]
fn of_equal_names_the_last_counts() {
    let names = (0..40).map(|n| format!("\"k{n}\":{n}")).collect::<Vec<_>>().join(",");
    let Payload::Data(value) = plain().decode(format!("{{\"k0\":9,\"k30\":9,{names},\"k1\":7}}").as_bytes()).unwrap() else {
        panic!("a map")
    };
    let Data::Map(entries) = value.data else { panic!("a map") };
    assert_eq!(entries.len(), 40);
    assert_eq!(entries.iter().find(|(key, _)| key.as_str() == Some("k1")).unwrap().1, Data::Int64(7));
    assert_eq!(entries.iter().find(|(key, _)| key.as_str() == Some("k30")).unwrap().1, Data::Int64(30));
}

#[test]
fn any_value_has_a_text() {
    assert_eq!(schemaless_text(&Data::object([("a", Data::Float64(1.5))])), r#"{"a":1.5}"#);
    assert_eq!(schemaless_text(&Data::Struct(vec![1.into()])), r#""Struct{}""#);
    let schema = Arc::new(Schema::new(Kind::Struct).field("a", Schema::new(Kind::Int32)));
    assert_eq!(text(&Structured { schema: Some(schema), data: Data::Struct(vec![1.into()]) }), r#"{"a":1}"#);
}

fn any_data() -> impl Strategy<Value = Data> {
    let leaf = prop_oneof![
        Just(Data::Null),
        any::<bool>().prop_map(Data::Boolean),
        any::<i64>().prop_map(Data::Int64),
        any::<f64>().prop_filter("JSON has no others", |value| value.is_finite() && value.abs() < 9e18).prop_map(Data::Float64),
        any::<String>().prop_map(Data::String),
    ];
    leaf.prop_recursive(4, 40, 8, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Data::Array),
            prop::collection::btree_map(any::<String>(), inner, 0..24).prop_map(Data::object),
        ]
    })
}

proptest! {
    #[test]
    fn schemaless_values_come_back(data in any_data()) {
        let payload = if data.is_null() { Payload::Null } else { Payload::data(None, data) };
        let text = encode(&mut plain(), &payload).unwrap();
        prop_assert!(text.is_empty() || serde_json::from_str::<serde_json::Value>(&text).is_ok());
        prop_assert_eq!(plain().decode(text.as_bytes()).unwrap(), payload);
    }

    #[test]
    fn no_message_panics(message in prop::collection::vec(any::<u8>(), 0..60)) {
        let _ = plain().decode(&message);
        let _ = json(&[]).decode(&message);
    }
}

/// Written once and remembered: with its own schema, by the identity of both, and only where the whole of it was written.
#[test]
fn a_part_that_records_share_is_written_as_if_each_had_its_own() {
    let source =
        Arc::new(Schema::new(Kind::Struct).field("db", Schema::new(Kind::String)).field("lsn", Schema::new(Kind::Int64)));
    let schema = Arc::new(Schema::new(Kind::Struct).field("id", Schema::new(Kind::Int32)).field("source", source));
    let renamed = Arc::new(Schema::new(Kind::Struct).field("id", Schema::new(Kind::Int32)).field(
        "source",
        Schema::new(Kind::Struct).field("database", Schema::new(Kind::String)).field("at", Schema::new(Kind::Int64)),
    ));
    let block = |lsn: i64| Data::Struct(vec!["shop \"1\"".into(), lsn.into()]);
    let (first, second) = (Arc::new(block(1)), Arc::new(block(2)));
    let wrong = Arc::new(Data::Struct(vec!["shop".into(), "no number".into()]));
    for schemas in ["true", "false"] {
        let (mut json, mut own) = (json(&[("schemas.enable", schemas)]), json(&[("schemas.enable", schemas)]));
        let record = |id: i32, source: Data| Data::Struct(vec![id.into(), source]);
        for (id, schema, shared) in
            [(1, &schema, &first), (2, &schema, &first), (3, &renamed, &first), (4, &schema, &second), (5, &schema, &first)]
        {
            let written =
                encode(&mut json, &Payload::data(Some(schema.clone()), record(id, Data::Shared(shared.clone())))).unwrap();
            let expected = encode(&mut own, &Payload::data(Some(schema.clone()), record(id, (**shared).clone()))).unwrap();
            assert_eq!(written, expected);
        }
        for _ in 0..2 {
            let error =
                encode(&mut json, &Payload::data(Some(schema.clone()), record(6, Data::Shared(wrong.clone())))).unwrap_err();
            assert_eq!(error.code(), "converter.type");
        }
    }
    // A text that is shared, and a whole without a schema.
    let entries = Data::object([
        ("name", Data::Shared(Arc::new("x".into()))),
        ("list", Data::Array(vec![Data::Shared(Arc::new(1.into()))])),
    ]);
    assert_eq!(encode(&mut plain(), &Payload::data(None, entries)).unwrap(), r#"{"name":"x","list":[1]}"#);
}

/// A sink's projection leaves out what it names in the values that it means, and nothing anywhere else.
#[test]
fn what_a_sink_does_not_look_at_is_left_out() {
    let projection = || Projection {
        field: "source",
        kept: vec!["txId".into(), "table".into()],
        applies: |_, data| match data {
            Data::Map(entries) => entries.iter().any(|(name, _)| name.as_str() == Some("op")),
            _ => true,
        },
    };
    let mut json = plain();
    json.project(projection());
    let cases = [
        (
            r#"{"after":{"source":{"db":1}},"source":{"db":"d","txId":7,"lsn":[{"a":1}]},"op":"c"}"#,
            r#"{"after":{"source":{"db":1}},"source":{"txId":7},"op":"c"}"#,
        ),
        // A row that has a column of that name.
        (r#"{"id":1,"source":{"db":"d","txId":7}}"#, r#"{"id":1,"source":{"db":"d","txId":7}}"#),
        (r#"{"op":"c","source":null}"#, r#"{"op":"c","source":null}"#),
        (r#"{"op":"c","source":{"source":{"db":1},"table":{"db":2}}}"#, r#"{"op":"c","source":{"table":{"db":2}}}"#),
        (r#"[{"source":{"db":1}}]"#, r#"[{"source":{"db":1}}]"#),
    ];
    for (message, expected) in cases {
        let payload = json.decode(message.as_bytes()).unwrap();
        assert_eq!(encode(&mut plain(), &payload).unwrap(), expected);
    }
    assert_eq!(json.decode(br#"{"op":"c","source":{"db":"#).unwrap_err().code(), "converter.json");

    let field = |name: &str| format!(r#"{{"type":"string","optional":false,"field":"{name}"}}"#);
    let source =
        format!(r#"{{"type":"struct","fields":[{},{}],"optional":false,"field":"source"}}"#, field("db"), field("table"));
    let message = format!(
        r#"{{"schema":{{"type":"struct","fields":[{source},{}],"optional":false}},"payload":{{"source":{{"db":"d","table":"t"}},"op":"c"}}}}"#,
        field("op")
    );
    let mut json = self::json(&[]);
    json.project(projection());
    let Payload::Data(value) = json.decode(message.as_bytes()).unwrap() else { panic!("a struct") };
    assert_eq!(value.data, Data::Struct(vec![Data::Struct(vec![Data::Null, "t".into()]), "c".into()]));
}

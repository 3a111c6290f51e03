//! Whole events; and options.

use super::*;
use std::collections::BTreeMap;

#[test]
fn an_envelope() {
    let records = events(&model(&[]), &keyed(), Change::Insert(&[Cell::Text(b"1"), Cell::Text(b"a")]));
    let [record] = &records[..] else { panic!("{records:?}") };
    assert_eq!(&*record.topic, "shop.public.t");
    let (schema, key) = data(&record.key);
    assert_eq!(
        (schema.name.as_deref(), schema.optional, key),
        (Some("shop.public.t.Key"), false, &Data::Struct(vec![Data::Int32(1)]))
    );
    assert_eq!(schema.fields[0].schema.default, Some(Data::Int32(0)));
    let (schema, _) = data(&record.value);
    assert_eq!((schema.name.as_deref(), schema.version), (Some("shop.public.t.Envelope"), Some(2)));
    let names: Vec<&str> = schema.fields.iter().map(|field| &*field.name).collect();
    assert_eq!(names, ["before", "after", "source", "transaction", "op", "ts_ms", "ts_us", "ts_ns"]);
    let row = &schema.fields[0].schema;
    assert_eq!((row.name.as_deref(), row.optional), (Some("shop.public.t.Value"), true));
    assert_eq!(part(record, "op"), &text("c"));
    assert_eq!(part(record, "ts_us"), &Data::Int64(1_700_000_001_000_000));
    assert_eq!(part(record, "before"), &Data::Null);
    let Data::Struct(source) = part(record, "source") else { panic!() };
    let expected = [
        text(env!("CARGO_PKG_VERSION")),
        text("postgresql"),
        text("shop"),
        Data::Int64(1_700_000_000_123),
        Data::Null,
        text("db"),
        text(r#"["7","24023128"]"#),
        Data::Int64(1_700_000_000_123_456),
        Data::Int64(1_700_000_000_123_456_000),
        text("public"),
        text("t"),
        Data::Int64(555),
        Data::Int64(24_023_128),
        Data::Null,
        Data::Null,
        Data::Null,
    ];
    assert_eq!(source, &expected);
    assert!(record.headers.is_empty());
}

#[test]
fn deletes_have_tombstones_and_changed_keys_are_two_events() {
    let old = [Cell::Text(b"1"), Cell::Null];
    let shape = |records: &[Record]| -> Vec<(String, bool, Vec<String>)> {
        let op =
            |record: &Record| if record.value.is_null() { "-".into() } else { part(record, "op").as_str().unwrap().to_owned() };
        let headers = |record: &Record| record.headers.iter().map(|header| header.name.to_string()).collect();
        records.iter().map(|record| (op(record), record.key.is_null(), headers(record))).collect()
    };
    let model = model(&[]);
    let records = events(&model, &keyed(), Change::Delete(&old));
    assert_eq!(shape(&records), [("d".into(), false, vec![]), ("-".into(), false, vec![])]);
    assert_eq!(part(&records[0], "before"), &Data::Struct(vec![Data::Int32(1), Data::Null]));
    let new = [Cell::Text(b"2"), Cell::Text(b"b")];
    let records = events(&model, &keyed(), Change::Update(Some(&old), &new));
    let (newkey, oldkey) = (vec!["__debezium.newkey".to_owned()], vec!["__debezium.oldkey".to_owned()]);
    assert_eq!(shape(&records), [("d".into(), false, newkey.clone()), ("-".into(), false, newkey), ("c".into(), false, oldkey)]);
    assert_eq!(data(records[0].header("__debezium.newkey").unwrap()).1, &Data::Struct(vec![Data::Int32(2)]));
    let records = events(&model, &keyed(), Change::Update(None, &new));
    assert_eq!(shape(&records), [("u".into(), false, vec![])]);
    let unkeyed = table(keyed().columns, vec![]);
    let records = events(&model, &unkeyed, Change::Update(Some(&old), &new));
    assert_eq!(shape(&records), [("u".into(), true, vec![])]);
    assert_eq!(events(&model, &keyed(), Change::Truncate), []);
    let all = super::model(&[("skipped.operations", "none"), ("tombstones.on.delete", "false")]);
    assert_eq!(shape(&events(&all, &keyed(), Change::Truncate)), [("t".into(), true, vec![])]);
    assert_eq!(events(&all, &keyed(), Change::Delete(&old)).len(), 1);
    let some = super::model(&[("skipped.operations", "d"), ("skip.messages.without.change", "true")]);
    assert_eq!(shape(&events(&some, &keyed(), Change::Update(Some(&old), &new))).len(), 1);
    assert_eq!(events(&some, &keyed(), Change::Update(Some(&new), &new)), []);
    let none = super::model(&[("skipped.operations", "u")]);
    assert_eq!(events(&none, &keyed(), Change::Update(Some(&old), &new)), []);
}

/// An old row of another index than the key's says nothing of the key: no key changed.
#[test]
fn an_identity_without_the_key() {
    let (old, new) = ([Cell::Null, Cell::Text(b"old")], [Cell::Text(b"1"), Cell::Text(b"new")]);
    let records = events(&model(&[]), &keyed(), Change::Update(Some(&old), &new));
    assert_eq!((records.len(), part(&records[0], "op")), (1, &text("u")));
    assert_eq!(part(&records[0], "before"), &Data::Struct(vec![Data::Int32(0), text("old")]));
    // Nobody can delete row 0 for it.
    let records = events(&model(&[]), &keyed(), Change::Delete(&old));
    assert_eq!((records.len(), part(&records[0], "op"), records[0].key.is_null()), (1, &text("d"), true));
    let shaped = model(&[]).table(&keyed(), &types()).unwrap();
    assert_eq!(shaped.key_beyond(|index| index == 1).collect::<Vec<_>>(), ["id"]);
    assert_eq!(shaped.key_beyond(|index| index == 0).count(), 0);
}

#[test]
fn labels_that_an_enum_did_not_have_are_seen() {
    let mut types = types();
    types.insert(7, Type { oid: 7, name: "fine".into(), schema: "public".into(), kind: TypeKind::Domain(90020, -1) });
    let fine = Column { type_oid: 7, ..column("fine", "mood", -1) };
    let shaped =
        model(&[]).table(&table(vec![column("id", "int4", -1), column("mood", "mood", -1), fine], vec![0]), &types).unwrap();
    let new = |mood: Cell<'_>, fine: Cell<'_>| {
        shaped.new_labels(&[Cell::Text(b"1"), mood, fine]).map(|(index, _)| index).collect::<Vec<_>>()
    };
    assert_eq!(new(Cell::Text(b"sad"), Cell::Null), Vec::<usize>::new());
    assert_eq!(new(Cell::Text(b"new"), Cell::Text(b"ok")), [1]);
    assert_eq!(new(Cell::Unchanged, Cell::Text(b"new")), [2]);
}

#[test]
fn columns_are_filtered_masked_and_named() {
    let row = [Cell::Text(b"1"), Cell::Text("héllo".as_bytes())];
    let after = |options: &[(&str, &str)]| {
        let records = events(&model(options), &keyed(), Change::Insert(&row));
        let schema = data(&records[0].value).0.fields[1].schema.clone();
        (part(&records[0], "after").clone(), schema)
    };
    let (value, schema) = after(&[("column.exclude.list", "public.T.ID")]);
    assert_eq!((value, schema.fields.len()), (Data::Struct(vec![text("héllo")]), 1));
    let masked = |key: &str| {
        let (value, schema) = after(&[(key, "public.t.name")]);
        let Data::Struct(values) = value else { panic!() };
        (values[1].clone(), schema.fields[1].schema.parameters.clone())
    };
    let parameters = |pairs: &[(&str, &str)]| -> BTreeMap<String, String> {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    };
    assert_eq!(masked("column.mask.with.3.chars"), (text("***"), parameters(&[("masked", "true")])));
    assert_eq!(masked("column.truncate.to.2.chars"), (text("hé"), parameters(&[("truncateLength", "2")])));
    // varchar(20): the modifier is four more.
    let hash = "7f14a764313a07245bf188b0812604f0a033577ad9798d82f6863d8dbec54542";
    let (value, _) = masked("column.mask.hash.v2.SHA-256.with.salt.salt123");
    assert_ne!(value, text(&hash[..20]));
    assert_eq!(value.as_str().unwrap().len(), 20);
    let (_, schema) = after(&[("column.propagate.source.type", ".*")]);
    let told = parameters(&[
        ("__debezium.source.column.type", "VARCHAR"),
        ("__debezium.source.column.length", "20"),
        ("__debezium.source.column.scale", "0"),
        ("__debezium.source.column.name", "name"),
    ]);
    assert_eq!(schema.fields[1].schema.parameters, told);
    let model = model(&[("message.key.columns", "public.t:name"), ("table.exclude.list", "public.secret.*")]);
    let records = events(&model, &keyed(), Change::Insert(&row));
    assert_eq!(data(&records[0].key).1, &Data::Struct(vec![text("héllo")]));
    assert!(model.captures("public", "t") && !model.captures("public", "secrets") && !model.captures("pg_catalog", "pg_class"));
}

#[test]
fn transactions_messages_and_heartbeats() {
    let model = model(&[("provide.transaction.metadata", "true")]);
    let shaped = model.table(&keyed(), &types()).unwrap();
    let (mut transaction, mut out) = (Transaction::new(9), Vec::new());
    for _ in 0..2 {
        let row = [Cell::Text(b"1"), Cell::Null];
        shaped.change(Change::Insert(&row), &INFO, Some(&mut transaction), &mut out).unwrap();
    }
    let place = Data::Struct(vec![text("9:24023128"), Data::Int64(2), Data::Int64(2)]);
    assert_eq!(part(&out[1], "transaction"), &place);
    let end = model.end(&transaction, Some(30), 5);
    assert_eq!(&*end.topic, "shop.transaction");
    let counts = Data::Array(vec![Data::Struct(vec![text("public.t"), Data::Int64(2)])]);
    assert_eq!(data(&end.value).1, &Data::Struct(vec![text("END"), text("9:30"), Data::Int64(2), counts, Data::Int64(5)]));
    let message = Message { prefix: "p", content: b"c" };
    let record = model.message(message, &INFO, Some(&mut transaction)).unwrap();
    assert_eq!((&*record.topic, data(&record.key).1), ("shop.message", &Data::Struct(vec![text("p")])));
    assert_eq!(part(&record, "message"), &Data::Struct(vec![text("p"), bytes(b"c")]));
    let beat = model.heartbeat(7);
    assert_eq!((&*beat.topic, beat.partition), ("__debezium-heartbeat.shop", Some(0)));
    assert_eq!(data(&beat.value).1, &Data::Struct(vec![Data::Int64(7)]));
}

#[test]
fn a_row_of_another_width_is_an_error() {
    let shaped = model(&[]).table(&keyed(), &types()).unwrap();
    let error = shaped.change(Change::Insert(&[Cell::Null]), &INFO, None, &mut Vec::new()).unwrap_err();
    assert_eq!(error.code(), "postgres.row");
}

#[test]
fn options_that_cannot_be() {
    let codes = |more: &[(&str, &str)]| -> Vec<String> { options(more).issues().into_iter().map(|issue| issue.code).collect() };
    assert_eq!(codes(&[]), Vec::<String>::new());
    for (key, value, code) in [
        ("plugin.name", "decoderbufs", "postgres.plugin"),
        ("slot.name", "My-Slot", "postgres.slot_name"),
        ("topic.prefix", "a b", "config.topic"),
        ("column.mask.with.x", "a", "config.unknown_key"),
        ("column.mask.hash.ROT13.with.salt.x", "a", "config.unknown_key"),
        ("message.key.columns", "a", "postgres.key_columns"),
        ("converters", "isbn", "postgres.unsupported"),
        ("topic.naming.strategy", "com.acme.Mine", "postgres.unsupported"),
        ("topic.cache.size", "5", "postgres.no_effect"),
        ("signal.enabled.channels", "kafka", "postgres.unsupported"),
        ("snapshot.select.statement.overrides", "a.b", "config.missing"),
        ("max.queue.size", "5", "postgres.no_effect"),
        ("snapshot.isolation.mode", "read_committed", "postgres.no_effect"),
        ("unavailable.value.placeholder", "hex:1", "postgres.hex"),
    ] {
        assert_eq!(codes(&[(key, value)]), [code], "{key}");
    }
    assert_eq!(codes(&[("table.include.list", "a"), ("table.exclude.list", "b")]), ["postgres.filters"]);
    assert_eq!(codes(&[("topic.naming.strategy", "io.debezium.schema.SchemaTopicNamingStrategy")]), Vec::<String>::new());
    let identities = options(&[("replica.identity.autoset.values", "public.a:FULL,public.b:INDEX b_key")]).identities();
    assert!(codes(&[("replica.identity.autoset.values", "a:HALF")]).contains(&"postgres.replica_identity".to_owned()));
    let shown: Vec<&str> = identities.iter().map(|(_, identity)| identity.as_str()).collect();
    assert_eq!(shown, ["FULL", "USING INDEX \"b_key\""]);
    assert_eq!(codes(&[("replica.identity.autoset.values", "a.b:FULL"), ("read.only", "true")]), ["postgres.read_only"]);
    let statements = options(&[("database.initial.statements", "SET a = 'x;;y';; ; SELECT 1;")]).initial_statements();
    assert_eq!(statements, ["SET a = 'x;y';", "SELECT 1"]);
    assert_eq!(codes(&[("signal.enabled.channels", "source,file"), ("signal.file", "/x")]), Vec::<String>::new());
    assert!(options(&[]).heartbeat().is_some() && !options(&[]).heartbeat_records());
    assert_eq!(options(&[("heartbeat.interval.ms", "0")]).heartbeat(), None);
    assert_eq!(options(&[("snapshot.mode", "never")]).snapshot_mode, crate::source::options::modes::SnapshotMode::NoData);
}

#[test]
fn schemas_are_made_once() {
    let shaped = model(&[]).table(&keyed(), &types()).unwrap();
    let mut out = Vec::new();
    for _ in 0..2 {
        shaped.change(Change::Insert(&[Cell::Text(b"1"), Cell::Null]), &INFO, None, &mut out).unwrap();
    }
    let address = |payload: &Payload| std::ptr::from_ref(data(payload).0);
    assert_eq!((address(&out[0].value), address(&out[0].key)), (address(&out[1].value), address(&out[1].key)));
    assert_eq!(shaped.key_schema().map(|schema| schema.kind), Some(Kind::Struct));
}

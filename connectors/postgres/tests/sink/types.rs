//! Every type: as a schema says it into the column that the sink makes of it, and into columns of other types.

use crate::rig::{Rig, json, row, structured};
use aqueduct_core::schema::{Kind, logical};
use aqueduct_core::{Bytes, Data, Payload, Schema};
use postgres_services::shared;
use std::sync::Arc;

fn named(kind: Kind, name: &str) -> Schema {
    Schema::new(kind).optional().named(name)
}

fn with(mut schema: Schema, parameters: &[(&str, &str)]) -> Schema {
    schema.parameters = parameters.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    schema
}

fn array(of: Schema) -> Schema {
    Schema { values: Some(Arc::new(of)), ..Schema::new(Kind::Array).optional() }
}

fn bytes(text: &'static [u8]) -> Data {
    Data::Bytes(Bytes::from_static(text))
}

/// Schema, value, the column type that is made, and the column's text.
fn cases() -> Vec<(Schema, Data, &'static str, &'static str)> {
    let plain = |kind| Schema::new(kind).optional();
    let decimal = with(named(Kind::Bytes, logical::DECIMAL), &[("scale", "2"), ("connect.decimal.precision", "9")]);
    let variable = named(Kind::Struct, "io.debezium.data.VariableScaleDecimal")
        .field("scale", Schema::new(Kind::Int32))
        .field("value", Schema::new(Kind::Bytes));
    let point = named(Kind::Struct, "io.debezium.data.geometry.Point")
        .field("x", Schema::new(Kind::Float64))
        .field("y", Schema::new(Kind::Float64))
        .field("wkb", Schema::new(Kind::Bytes).optional())
        .field("srid", Schema::new(Kind::Int32).optional());
    let map = Schema {
        keys: Some(Arc::new(Schema::new(Kind::String))),
        values: Some(Arc::new(plain(Kind::String))),
        ..plain(Kind::Map)
    };
    let source = |name: &str| with(plain(Kind::String), &[("__debezium.source.column.type", name)]);
    vec![
        (plain(Kind::Boolean), Data::Boolean(true), "boolean", "true"),
        (plain(Kind::Int8), Data::Int8(-8), "smallint", "-8"),
        (plain(Kind::Int16), Data::Int16(i16::MIN), "smallint", "-32768"),
        (plain(Kind::Int32), Data::Int32(i32::MAX), "integer", "2147483647"),
        (plain(Kind::Int64), Data::Int64(i64::MIN), "bigint", "-9223372036854775808"),
        (plain(Kind::Float32), Data::Float32(1.5), "real", "1.5"),
        (plain(Kind::Float64), Data::Float64(f64::NEG_INFINITY), "double precision", "-Infinity"),
        (plain(Kind::String), Data::from("té\"xt\\\n"), "text", "té\"xt\\\n"),
        (plain(Kind::Bytes), bytes(b"\x00\xff"), "bytea", "\\x00ff"),
        (decimal, bytes(b"\xff\x85"), "numeric(9,2)", "-1.23"),
        (variable, Data::Struct(vec![Data::Int32(4), bytes(b"\x30\x39")]), "numeric", "1.2345"),
        (named(Kind::Int32, logical::DATE), Data::Int32(19_000), "date", "2022-01-08"),
        (named(Kind::Int32, "io.debezium.time.Date"), Data::Int32(-1), "date", "1969-12-31"),
        (named(Kind::Int32, logical::TIME), Data::Int32(3_600_001), "time without time zone", "01:00:00.001"),
        (named(Kind::Int32, "io.debezium.time.Time"), Data::Int32(1), "time without time zone", "00:00:00.001"),
        (named(Kind::Int64, "io.debezium.time.MicroTime"), Data::Int64(86_400_000_000), "time without time zone", "24:00:00"),
        (named(Kind::Int64, "io.debezium.time.NanoTime"), Data::Int64(1_000_999), "time without time zone", "00:00:00.001"),
        (
            named(Kind::Int64, logical::TIMESTAMP),
            Data::Int64(1_700_000_000_123),
            "timestamp without time zone",
            "2023-11-14 22:13:20.123",
        ),
        (
            named(Kind::Int64, "io.debezium.time.Timestamp"),
            Data::Int64(-1),
            "timestamp without time zone",
            "1969-12-31 23:59:59.999",
        ),
        (
            named(Kind::Int64, "io.debezium.time.MicroTimestamp"),
            Data::Int64(1_700_000_000_123_456),
            "timestamp without time zone",
            "2023-11-14 22:13:20.123456",
        ),
        (
            named(Kind::Int64, "io.debezium.time.MicroTimestamp"),
            Data::Int64(9_223_372_036_825_200_000),
            "timestamp without time zone",
            "infinity",
        ),
        (
            named(Kind::Int64, "io.debezium.time.NanoTimestamp"),
            Data::Int64(1_700_000_000_123_456_789),
            "timestamp without time zone",
            "2023-11-14 22:13:20.123456",
        ),
        (
            named(Kind::String, "io.debezium.time.ZonedTimestamp"),
            Data::from("2024-02-29T12:00:00.5+02:00"),
            "timestamp with time zone",
            "2024-02-29 10:00:00.5+00",
        ),
        (
            named(Kind::String, "io.debezium.time.ZonedTimestamp"),
            Data::from("-infinity"),
            "timestamp with time zone",
            "-infinity",
        ),
        (named(Kind::String, "io.debezium.time.ZonedTime"), Data::from("10:15:30Z"), "time with time zone", "10:15:30+00"),
        (named(Kind::Int64, "io.debezium.time.MicroDuration"), Data::Int64(93_784_000_005), "interval", "26:03:04.000005"),
        (named(Kind::Int64, "io.debezium.time.MicroDuration"), Data::Int64(-1_500_000), "interval", "-00:00:01.5"),
        (
            named(Kind::String, "io.debezium.time.Interval"),
            Data::from("P1Y2M3DT4H5M6.78S"),
            "interval",
            "1 year 2 mons 3 days 04:05:06.78",
        ),
        (named(Kind::Int32, "io.debezium.time.Year"), Data::Int32(2024), "integer", "2024"),
        (named(Kind::String, "io.debezium.data.Json"), Data::from("{\"a\": [1,null]}"), "json", "{\"a\": [1,null]}"),
        (
            with(named(Kind::String, "io.debezium.data.Json"), &[("__debezium.source.column.type", "JSONB")]),
            Data::from("{\"b\":1}"),
            "jsonb",
            "{\"b\": 1}",
        ),
        (
            named(Kind::String, "io.debezium.data.Uuid"),
            Data::from("6b1d3cb6-0b5e-4b7e-9a55-31ad4dd2e3a1"),
            "uuid",
            "6b1d3cb6-0b5e-4b7e-9a55-31ad4dd2e3a1",
        ),
        (named(Kind::String, "io.debezium.data.Enum"), Data::from("sad"), "text", "sad"),
        (named(Kind::String, "io.debezium.data.Xml"), Data::from("<a>1</a>"), "xml", "<a>1</a>"),
        (with(named(Kind::Bytes, "io.debezium.data.Bits"), &[("length", "5")]), bytes(&[0b10101]), "bit(5)", "10101"),
        (with(named(Kind::Bytes, "io.debezium.data.Bits"), &[("length", "2147483647")]), bytes(&[0b110]), "bit varying", "110"),
        (point, Data::Struct(vec![Data::Float64(1.5), Data::Float64(-2.0), Data::Null, Data::Null]), "point", "(1.5,-2)"),
        (array(plain(Kind::Int32)), Data::Array(vec![Data::Int32(1), Data::Null]), "integer[]", "{1,NULL}"),
        (
            array(plain(Kind::String)),
            Data::Array(vec![Data::from("a,\"b\""), Data::from("NULL"), Data::from("")]),
            "text[]",
            r#"{"a,\"b\"","NULL",""}"#,
        ),
        (
            array(array(plain(Kind::Int64))),
            Data::Array(vec![Data::Array(vec![Data::Int64(1)]), Data::Array(vec![Data::Int64(2)])]),
            "bigint[]",
            "{{1},{2}}",
        ),
        (array(named(Kind::Int32, "io.debezium.time.Date")), Data::Array(vec![Data::Int32(0)]), "date[]", "{1970-01-01}"),
        (array(plain(Kind::Bytes)), Data::Array(vec![bytes(b"\x01")]), "bytea[]", r#"{"\\x01"}"#),
        (map, Data::object([("a=>", Data::from("1\"")), ("b", Data::Null)]), "hstore", r#""b"=>NULL, "a=>"=>"1\"""#),
        (source("INET"), Data::from("10.0.0.1/8"), "inet", "10.0.0.1/8"),
        (source("CIDR"), Data::from("10.0.0.0/8"), "cidr", "10.0.0.0/8"),
        (source("MACADDR"), Data::from("08:00:2b:01:02:03"), "macaddr", "08:00:2b:01:02:03"),
        (source("INT4RANGE"), Data::from("[1,5)"), "int4range", "[1,5)"),
        (source("CITEXT"), Data::from("AbC"), "citext", "AbC"),
        (named(Kind::String, "io.debezium.data.TsVector"), Data::from("'a':1 'b':2"), "tsvector", "'a':1 'b':2"),
        (named(Kind::String, "io.debezium.data.Ltree"), Data::from("a.b"), "ltree", "a.b"),
    ]
}

#[tokio::test]
async fn into_columns_that_the_sink_makes() {
    let server = shared();
    let db = server.database();
    server.psql_in(&db, "create extension hstore; create extension citext; create extension ltree");
    let mut rig = Rig::new(&server, &db, "insert.mode: upsert\npk.mode: record_key\nauto.create: true");
    let mut schema = Schema::new(Kind::Struct);
    let (mut values, mut nulls) = (Vec::new(), Vec::new());
    for (index, (field, value, ..)) in cases().into_iter().enumerate() {
        schema = schema.field(format!("c{index}"), field);
        values.push(value);
        nulls.push(Data::Null);
    }
    let schema = Arc::new(schema);
    let key = |id| structured(row("k", vec![("id", Schema::new(Kind::Int32), Data::Int32(id))]));
    let value = |values: Vec<Data>| Payload::data(Some(schema.clone()), Data::Struct(values));
    rig.log("t", [(key(1), value(values.clone())), (key(2), value(nulls)), (key(3), value(values))]);
    rig.run_clean().await;
    for (index, (_, _, type_name, text)) in cases().into_iter().enumerate() {
        let name = format!(
            "select format_type(atttypid, atttypmod) from pg_attribute where attrelid = 't'::regclass and attname = 'c{index}'"
        );
        assert_eq!(server.psql_in(&db, &name), type_name, "column {index}");
        let column = server.psql_in(
            &db,
            &format!(
                "set timezone = 'UTC'; select c{index}::text, (select count(*) from t where c{index} is null) from t where id = 3"
            ),
        );
        assert_eq!(column, format!("{text}|1"), "column {index}, {type_name}");
    }
}

/// Without schemas the column says what a value is.
#[tokio::test]
async fn json_without_schemas_into_columns_of_every_type() {
    let server = shared();
    let db = server.database();
    server.psql_in(&db, "create type mood as enum ('sad', 'ok'); create extension hstore");
    let cases = [
        ("boolean", "true", "true"),
        ("smallint", "7", "7"),
        ("int", "\"8\"", "8"),
        ("bigint", "9.0", "9"),
        ("real", "1", "1"),
        ("double precision", "\"NaN\"", "NaN"),
        ("numeric(10,2)", "1.239", "1.24"),
        ("numeric", "12345678901234567890", "12345678901234567000"),
        ("money", "\"$1,234.50\"", "$1,234.50"),
        ("text", "12", "12"),
        ("text", "{\"a\":[1]}", "{\"a\":[1]}"),
        ("varchar(3)", "\"abc\"", "abc"),
        ("char(4)", "\"ab\"", "ab"),
        ("bytea", "\"AQI=\"", "\\x0102"),
        ("bytea", "\"\\\\x0a\"", "\\x0a"),
        ("date", "\"2024-02-29\"", "2024-02-29"),
        ("date", "1", "1970-01-02"),
        ("time", "\"10:11:12\"", "10:11:12"),
        ("timetz", "\"10:11:12+02\"", "10:11:12+02"),
        ("timestamp", "\"2024-02-29T10:00:00+02:00\"", "2024-02-29 08:00:00"),
        ("timestamp", "\"2024-02-29 10:00:00\"", "2024-02-29 10:00:00"),
        ("timestamptz", "\"2024-02-29T10:00:00Z\"", "2024-02-29 10:00:00+00"),
        ("interval", "\"1 day 2:03\"", "1 day 02:03:00"),
        ("uuid", "\"6B1D3CB6-0B5E-4B7E-9A55-31AD4DD2E3A1\"", "6b1d3cb6-0b5e-4b7e-9a55-31ad4dd2e3a1"),
        ("json", "{\"a\": [1, \"x\"]}", "{\"a\":[1,\"x\"]}"),
        ("jsonb", "[1, null]", "[1, null]"),
        ("jsonb", "true", "true"),
        ("int[]", "[1, null]", "{1,NULL}"),
        ("text[]", "[\"a\", \"b c\"]", "{a,\"b c\"}"),
        ("int[]", "\"{1,2}\"", "{1,2}"),
        ("mood", "\"ok\"", "ok"),
        ("inet", "\"::1\"", "::1/128"),
        ("hstore", "{\"a\": 1}", "\"a\"=>\"1\""),
        ("point", "{\"x\": 1, \"y\": 2}", "(1,2)"),
        ("point", "\"(3,4)\"", "(3,4)"),
        ("bit(3)", "\"101\"", "101"),
        ("int4range", "\"[1,3)\"", "[1,3)"),
        ("xml", "\"<a/>\"", "<a/>"),
        ("tsvector", "\"a b\"", "'a' 'b'"),
    ];
    let columns: Vec<String> = cases.iter().enumerate().map(|(index, (name, ..))| format!("c{index} {name}")).collect();
    server.psql_in(&db, &format!("create table t (id int primary key, {})", columns.join(", ")));
    let mut rig = Rig::new(&server, &db, "insert.mode: upsert\npk.mode: record_key");
    let fields: Vec<String> = cases.iter().enumerate().map(|(index, (_, value, _))| format!("\"c{index}\": {value}")).collect();
    rig.log("t", [(json(r#"{"id":1}"#), json(&format!("{{{}}}", fields.join(","))))]);
    rig.run_clean().await;
    for (index, (name, value, text)) in cases.iter().enumerate() {
        let column = server.psql_in(&db, &format!("set timezone = 'UTC'; select c{index}::text from t"));
        assert_eq!(column, *text, "{value} in {name}");
    }
}

#[tokio::test]
async fn what_does_not_fit_is_said_field_by_field() {
    let server = shared();
    let db = server.database();
    server.psql_in(&db, "create table t (id int primary key, s smallint, ts timestamp, i inet, b bytea, j jsonb)");
    let mut rig = Rig::new(&server, &db, "insert.mode: upsert\npk.mode: record_key");
    let cases = [
        (r#"{"s": 70000}"#, "its field \"s\" is 70000, too large for smallint"),
        (r#"{"ts": 1700000000}"#, "seconds, milliseconds or microseconds?"),
        (r#"{"i": {"a": 1}}"#, "its field \"i\" is a map, which a column of type inet cannot hold"),
        (r#"{"i": "a\u0000b"}"#, "NUL"),
        (r#"{"b": "not base64!"}"#, "Base64"),
        (r#"{"j": "no json"}"#, "invalid input syntax for type json"),
    ];
    for (index, (value, _)) in cases.iter().enumerate() {
        rig.log("t", [(json(&format!("{{\"id\":{index}}}")), json(value))]);
    }
    let rejects = rig.run().await;
    assert_eq!(rejects.len(), cases.len());
    for (reject, (value, expected)) in rejects.iter().zip(cases) {
        assert!(reject.error.message().contains(expected), "{value}: {}", reject.error.message());
    }
}

//! Tables of types, modes and values; and whole events.

use super::*;
use crate::table::{Cell, Column, ReplicaIdentity, TypeKind};
use aqueduct_core::schema::Kind;
use aqueduct_core::{Data, Options as Flat, Payload, Record};
use std::collections::BTreeMap;

fn options(more: &[(&str, &str)]) -> Options {
    let base = [
        ("topic.prefix", "shop"),
        ("database.hostname", "h"),
        ("database.user", "u"),
        ("database.dbname", "db"),
        ("extended.headers.enabled", "false"),
    ];
    let flat: Flat = base.iter().chain(more).map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    aqueduct_config::from_options(&flat).unwrap()
}

fn model(more: &[(&str, &str)]) -> Model {
    Model::new(&options(more)).unwrap()
}

/// Built-in types by name, and a few that a database may have.
fn types() -> Types {
    let base = [
        (16, "bool"),
        (17, "bytea"),
        (18, "char"),
        (19, "name"),
        (20, "int8"),
        (21, "int2"),
        (23, "int4"),
        (25, "text"),
        (26, "oid"),
        (114, "json"),
        (142, "xml"),
        (600, "point"),
        (601, "lseg"),
        (602, "path"),
        (603, "box"),
        (604, "polygon"),
        (628, "line"),
        (650, "cidr"),
        (700, "float4"),
        (701, "float8"),
        (790, "money"),
        (829, "macaddr"),
        (869, "inet"),
        (1042, "bpchar"),
        (1043, "varchar"),
        (1082, "date"),
        (1083, "time"),
        (1114, "timestamp"),
        (1184, "timestamptz"),
        (1186, "interval"),
        (1266, "timetz"),
        (1560, "bit"),
        (1562, "varbit"),
        (1700, "numeric"),
        (2950, "uuid"),
        (3220, "pg_lsn"),
        (3614, "tsvector"),
        (3802, "jsonb"),
        (3904, "int4range"),
        (90001, "citext"),
        (90002, "hstore"),
        (90003, "ltree"),
        (90004, "geometry"),
        (90005, "vector"),
    ];
    let arrays = [
        (1000, "_bool", 16),
        (1001, "_bytea", 17),
        (1005, "_int2", 21),
        (1007, "_int4", 23),
        (1009, "_text", 25),
        (1015, "_varchar", 1043),
        (1016, "_int8", 20),
        (1022, "_float8", 701),
        (1115, "_timestamp", 1114),
        (1182, "_date", 1082),
        (1183, "_time", 1083),
        (1185, "_timestamptz", 1184),
        (1187, "_interval", 1186),
        (1231, "_numeric", 1700),
        (2951, "_uuid", 2950),
        (90011, "_citext", 90001),
        (90012, "_hstore", 90002),
        (90021, "_mood", 90020),
    ];
    let mut types = Types::default();
    let mut add = |oid: u32, name: &str, kind: TypeKind| {
        let schema = if oid < 90_000 { "pg_catalog" } else { "public" };
        types.insert(oid, Type { oid, name: name.to_owned(), schema: schema.to_owned(), kind });
    };
    base.iter().for_each(|(oid, name)| add(*oid, name, TypeKind::Base));
    arrays.iter().for_each(|(oid, name, element)| add(*oid, name, TypeKind::Array(*element)));
    add(90020, "mood", TypeKind::Enum(vec!["sad".into(), "ok".into()]));
    add(90030, "price", TypeKind::Domain(1700, (10 << 16 | 2) + 4));
    add(90031, "net_price", TypeKind::Domain(90030, -1));
    add(90040, "pair", TypeKind::Composite);
    types
}

fn column(name: &str, type_name: &str, modifier: i32) -> Column {
    let types = types();
    let found = types.values().find(|one| one.name == type_name).unwrap_or_else(|| panic!("no type {type_name}"));
    Column { name: name.into(), type_oid: found.oid, modifier, not_null: false, default: None }
}

fn table(columns: Vec<Column>, key: Vec<usize>) -> Table {
    Table { oid: 1, schema: "public".into(), name: "t".into(), columns, key, identity: ReplicaIdentity::Default }
}

fn numeric(precision: i32, scale: i32) -> i32 {
    (precision << 16 | (scale & 0x7ff)) + 4
}

fn events(model: &Model, table: &Table, change: Change<'_>) -> Vec<Record> {
    let mut out = Vec::new();
    model.table(table, &types()).unwrap().change(change, &INFO, None, &mut out).unwrap();
    out
}

const INFO: SourceInfo = SourceInfo {
    commit_us: 1_700_000_000_123_456,
    snapshot: Snapshot::False,
    last_commit_lsn: Some(7),
    lsn: Some(24_023_128),
    tx_id: Some(555),
    xmin: None,
    now_ns: 1_700_000_001_000_000_123,
};

fn data(payload: &Payload) -> (&Schema, &Data) {
    match payload {
        Payload::Data(structured) => (structured.schema.as_deref().unwrap(), &structured.data),
        other => panic!("{other:?}"),
    }
}

fn part<'a>(record: &'a Record, name: &str) -> &'a Data {
    let (schema, data) = data(&record.value);
    let Data::Struct(values) = data else { panic!("{data:?}") };
    &values[schema.field_index(name).unwrap_or_else(|| panic!("no field {name}"))]
}

/// The schema and the value of one nullable column.
fn one(model: &Model, type_name: &str, modifier: i32, cell: Cell<'_>) -> Option<(Schema, Data, Option<String>)> {
    let table = table(vec![column("c", type_name, modifier)], vec![]);
    let records = events(model, &table, Change::Insert(&[cell]));
    let schema = data(&records[0].value).0;
    let row = &schema.fields[1].schema;
    let field = row.fields.first()?;
    let Data::Struct(values) = part(&records[0], "after") else { panic!() };
    let header = records[0].header("__aqueduct.unconverted").map(|payload| match payload {
        Payload::Data(structured) => structured.data.as_str().unwrap().to_owned(),
        other => panic!("{other:?}"),
    });
    Some(((*field.schema).clone(), values[0].clone(), header))
}

/// `double`, `string(io.debezium.data.Json)`, `bytes(org.apache.kafka.connect.data.Decimal scale=2)`
fn show(schema: &Schema) -> String {
    let mut out = schema.kind.name().to_owned();
    if let Some(values) = &schema.values {
        out.push_str(&format!("<{}>", show(values)));
    }
    if schema.optional {
        out.push('?');
    }
    if let Some(name) = &schema.name {
        assert_eq!(schema.version, Some(1), "{name}");
        let short = name.trim_start_matches("io.debezium.").trim_start_matches("org.apache.kafka.connect.data.");
        let parameters: String = schema.parameters.iter().map(|(key, value)| format!(" {key}={value}")).collect();
        out.push_str(&format!("({short}{parameters})"));
    }
    out
}

fn text(text: &str) -> Data {
    Data::String(text.to_owned())
}

fn bytes(bytes: &[u8]) -> Data {
    Data::Bytes(aqueduct_core::Bytes::copy_from_slice(bytes))
}

#[test]
fn every_type_in_the_default_modes() {
    let model = model(&[]);
    let check = |name: &str, modifier: i32, value: &str, schema: &str, expected: Data| {
        let (found, value, _) =
            one(&model, name, modifier, Cell::Text(value.as_bytes())).unwrap_or_else(|| panic!("{name} is left out"));
        assert_eq!(show(&found), schema, "{name}");
        assert_eq!(value, expected, "{name}");
    };
    check("bool", -1, "t", "boolean?", Data::Boolean(true));
    check("int2", -1, "-32768", "int16?", Data::Int16(i16::MIN));
    check("int4", -1, "2147483647", "int32?", Data::Int32(i32::MAX));
    check("int8", -1, "-9223372036854775808", "int64?", Data::Int64(i64::MIN));
    check("oid", -1, "4294967295", "int64?", Data::Int64(4_294_967_295));
    check("float4", -1, "1.5", "float?", Data::Float32(1.5));
    check("float8", -1, "-Infinity", "double?", Data::Float64(f64::NEG_INFINITY));
    check("numeric", numeric(10, 2), "123.45", "bytes?(Decimal connect.decimal.precision=10 scale=2)", bytes(&[0x30, 0x39]));
    check("numeric", numeric(5, -2), "1200", "bytes?(Decimal connect.decimal.precision=5 scale=-2)", bytes(&[12]));
    check("price", -1, "1.00", "bytes?(Decimal connect.decimal.precision=10 scale=2)", bytes(&[100]));
    check("net_price", -1, "-1.00", "bytes?(Decimal connect.decimal.precision=10 scale=2)", bytes(&[0x9c]));
    let variable = |scale: i32, value: &[u8]| Data::Struct(vec![Data::Int32(scale), bytes(value)]);
    check("numeric", -1, "12.500", "struct?(data.VariableScaleDecimal)", variable(1, &[125]));
    check("money", -1, "-$1,000.50", "bytes?(Decimal scale=2)", bytes(&[0xfe, 0x79, 0x2e]));
    for name in ["text", "varchar", "bpchar", "char", "name", "inet", "cidr", "macaddr", "int4range", "citext"] {
        check(name, -1, "é x", "string?", text("é x"));
    }
    check("json", -1, r#"{"a": 1}"#, "string?(data.Json)", text(r#"{"a": 1}"#));
    check("jsonb", -1, "[]", "string?(data.Json)", text("[]"));
    check("xml", -1, "<a/>", "string?(data.Xml)", text("<a/>"));
    check("uuid", -1, "76019d1a-ad2e-4b22-96e9-1a6d6543c818", "string?(data.Uuid)", text("76019d1a-ad2e-4b22-96e9-1a6d6543c818"));
    check("ltree", -1, "a.b", "string?(data.Ltree)", text("a.b"));
    check("tsvector", -1, "'a':1", "string?(data.Tsvector)", text("'a':1"));
    check("mood", -1, "sad", "string?(data.Enum allowed=sad,ok)", text("sad"));
    check("bytea", -1, "\\x00ff", "bytes?", bytes(&[0, 255]));
    check("bit", 1, "1", "boolean?", Data::Boolean(true));
    check("bit", 10, "1000000001", "bytes?(data.Bits length=10)", bytes(&[1, 2]));
    check("varbit", 5, "101", "bytes?(data.Bits length=5)", bytes(&[5]));
    check("varbit", -1, "000", "bytes?(data.Bits length=2147483647)", bytes(&[]));
    check("date", -1, "2024-02-29", "int32?(time.Date)", Data::Int32(19_782));
    check("time", -1, "01:02:03.456789", "int64?(time.MicroTime)", Data::Int64(3_723_456_789));
    check("time", 3, "01:02:03.456", "int32?(time.Time)", Data::Int32(3_723_456));
    check("timetz", -1, "01:02:03.5+02", "string?(time.ZonedTime)", text("23:02:03.5Z"));
    check("timestamp", -1, "2024-01-02 03:04:05.123456", "int64?(time.MicroTimestamp)", Data::Int64(1_704_164_645_123_456));
    check("timestamp", 3, "2024-01-02 03:04:05.123", "int64?(time.Timestamp)", Data::Int64(1_704_164_645_123));
    check("timestamptz", -1, "2024-01-02 03:04:05+02", "string?(time.ZonedTimestamp)", text("2024-01-02T01:04:05.000000Z"));
    check("timestamptz", 0, "2024-01-02 03:04:05+00", "string?(time.ZonedTimestamp)", text("2024-01-02T03:04:05Z"));
    check("timestamptz", -1, "infinity", "string?(time.ZonedTimestamp)", text("infinity"));
    check("interval", -1, "1 day 00:00:01", "int64?(time.MicroDuration)", Data::Int64(86_401_000_000));
    check("hstore", -1, r#""a"=>"1", "b"=>NULL"#, "string?(data.Json)", text(r#"{"a":"1","b":null}"#));
    let wkb = [1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xf0, 0x3f, 0, 0, 0, 0, 0, 0, 0, 0x40];
    let point = Data::Struct(vec![Data::Float64(1.0), Data::Float64(2.0), bytes(&wkb), Data::Null]);
    check("point", -1, "(1,2)", "struct?(data.geometry.Point)", point);
    // From a run of Debezium.
    let shape = |base64: &str, extensions: &[(&str, &str)]| {
        use base64::Engine;
        let wkb = base64::engine::general_purpose::STANDARD.decode(base64).unwrap();
        let extensions = extensions.iter().map(|(name, value)| (text(name), text(value))).collect();
        Data::Struct(vec![bytes(&wkb), Data::Null, Data::Map(extensions)])
    };
    let ring = "AQMAAAABAAAABQAAAAAAAAAAAPA/AAAAAAAA8D8AAAAAAADwPwAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA8D8AAAAAAADwPwAAAAAAAPA/";
    check_shape(&model, "box", "(1,1),(0,0)", shape(ring, &[("type", "box")]));
    let open = "AQIAAAACAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAPA/AAAAAAAA8D8=";
    check_shape(&model, "path", "[(0,0),(1,1)]", shape(open, &[("type", "path"), ("closed", "false")]));
    check_shape(&model, "lseg", "[(0,0),(1,1)]", shape(open, &[("type", "lseg")]));
    let closed = "AQMAAAABAAAABAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAADwPwAAAAAAAPA/AAAAAAAA8D8AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
    check_shape(&model, "polygon", "((0,0),(1,1),(1,0))", shape(closed, &[("type", "polygon")]));
    check_shape(&model, "line", "{1,2,3}", Data::Struct([1.0, 2.0, 3.0].map(Data::Float64).to_vec()));
    check("vector", -1, "[1,2]", "array<double>?(data.DoubleVector)", Data::Array(vec![Data::Float64(1.0), Data::Float64(2.0)]));
    let list = |items: Vec<Data>| Data::Array(items);
    check("_int4", -1, "{1,NULL}", "array<int32?>?", list(vec![Data::Int32(1), Data::Null]));
    check("_int4", -1, "{{1,2},{3,4}}", "array<int32?>?", list([1, 2, 3, 4].map(Data::Int32).to_vec()));
    check("_text", -1, r#"{a,"b c"}"#, "array<string?>?", list(vec![text("a"), text("b c")]));
    check(
        "_numeric",
        numeric(4, 1),
        "{1.5}",
        "array<bytes?(Decimal connect.decimal.precision=4 scale=1)>?",
        list(vec![bytes(&[15])]),
    );
    check("_numeric", -1, "{1.50}", "array<struct?(data.VariableScaleDecimal)>?", list(vec![variable(1, &[15])]));
    check(
        "_timestamptz",
        -1,
        r#"{"2024-01-02 03:04:05+00"}"#,
        "array<string?(time.ZonedTimestamp)>?",
        list(vec![text("2024-01-02T03:04:05.000000Z")]),
    );
    check("_date", -1, "{1970-01-02}", "array<int32?(time.Date)>?", list(vec![Data::Int32(1)]));
    check("_bytea", -1, r#"{"\\x01"}"#, "array<bytes?>?", list(vec![bytes(&[1])]));
    check("_mood", -1, "{ok}", "array<string?(data.Enum allowed=sad,ok)>?", list(vec![text("ok")]));
    check("_hstore", -1, r#"{"\"a\"=>\"1\""}"#, "array<string?(data.Json)>?", list(vec![text(r#"{"a":"1"}"#)]));
    for left_out in ["pg_lsn", "pair", "_interval"] {
        assert_eq!(one(&model, left_out, -1, Cell::Text(b"x")), None, "{left_out}");
    }
}

fn check_shape(model: &Model, name: &str, value: &str, expected: Data) {
    assert_eq!(one(model, name, -1, Cell::Text(value.as_bytes())).unwrap().1, expected, "{name}");
}

#[test]
fn the_other_modes() {
    let check = |options: &[(&str, &str)], name: &str, modifier: i32, value: &str, schema: &str, expected: Data| {
        let (found, value, header) = one(&model(options), name, modifier, Cell::Text(value.as_bytes())).unwrap();
        assert_eq!((show(&found).as_str(), value, header), (schema, expected, None), "{options:?} {name}");
    };
    let decimal = |mode| [("decimal.handling.mode", mode)];
    check(&decimal("string"), "numeric", numeric(10, 2), "1.50", "string?", text("1.50"));
    // As an added column's default is stored: with fewer digits than the column has.
    check(&decimal("string"), "numeric", numeric(8, 3), "1.5", "string?", text("1.500"));
    check(&decimal("string"), "numeric", numeric(8, 3), "NaN", "string?", text("NAN"));
    check(&decimal("string"), "numeric", -1, "1.50", "string?", text("1.50"));
    check(&decimal("string"), "numeric", -1, "NaN", "string?", text("NAN"));
    check(&decimal("double"), "numeric", -1, "1.5", "double?", Data::Float64(1.5));
    check(&decimal("double"), "numeric", -1, "Infinity", "double?", Data::Float64(f64::INFINITY));
    check(&decimal("string"), "money", -1, "$1,234.50", "string?", text("1234.50"));
    check(&decimal("double"), "money", -1, "$1,234.50", "double?", Data::Float64(1234.5));
    check(&[("money.fraction.digits", "0")], "money", -1, "$1.50", "bytes?(Decimal scale=0)", bytes(&[2]));
    let time = |mode| [("time.precision.mode", mode)];
    check(&time("connect"), "date", -1, "1970-01-02", "int32?(Date)", Data::Int32(1));
    check(&time("connect"), "time", -1, "00:00:01.9999", "int32?(Time)", Data::Int32(1999));
    check(&time("connect"), "timestamp", -1, "1970-01-01 00:00:01.9999", "int64?(Timestamp)", Data::Int64(1999));
    check(&time("isostring"), "date", -1, "2024-02-29", "string?(time.IsoDate)", text("2024-02-29Z"));
    check(&time("isostring"), "time", -1, "01:02:03.450", "string?(time.IsoTime)", text("01:02:03.45Z"));
    check(&time("isostring"), "timestamp", -1, "2024-02-29 01:02:03", "string?(time.IsoTimestamp)", text("2024-02-29T01:02:03Z"));
    check(&time("isostring"), "timestamp", -1, "infinity", "string?(time.IsoTimestamp)", text("infinity"));
    check(&time("nanoseconds"), "time", 0, "00:00:01", "int64?(time.NanoTime)", Data::Int64(1_000_000_000));
    check(&time("nanoseconds"), "timestamp", 0, "1970-01-01 00:00:01", "int64?(time.NanoTimestamp)", Data::Int64(1_000_000_000));
    check(&time("microseconds"), "time", 0, "00:00:01", "int64?(time.MicroTime)", Data::Int64(1_000_000));
    check(&time("microseconds"), "timestamp", 0, "1970-01-01 00:00:01", "int64?(time.MicroTimestamp)", Data::Int64(1_000_000));
    check(&time("adaptive_time_microseconds"), "time", 0, "00:00:01", "int64?(time.MicroTime)", Data::Int64(1_000_000));
    check(
        &time("adaptive_time_microseconds"),
        "timestamp",
        0,
        "1970-01-01 00:00:01",
        "int64?(time.Timestamp)",
        Data::Int64(1000),
    );
    let binary = |mode| [("binary.handling.mode", mode)];
    check(&binary("base64"), "bytea", -1, "\\xfbff", "string?", text("+/8="));
    check(&binary("base64-url-safe"), "bytea", -1, "\\xfbff", "string?", text("-_8="));
    check(&binary("hex"), "bytea", -1, "\\xfbff", "string?", text("fbff"));
    let hstore = [("hstore.handling.mode", "map")];
    let pairs = Data::Map(vec![(text("a"), text("1")), (text("b"), Data::Null)]);
    check(&hstore, "hstore", -1, r#""b"=>NULL, "a"=>"1""#, "map<string?>?", pairs);
    check(
        &[("interval.handling.mode", "string")],
        "interval",
        -1,
        "1 mon 00:00:01.5",
        "string?(time.Interval)",
        text("P0Y1M0DT0H0M1.5S"),
    );
    let unknown = [("include.unknown.datatypes", "true")];
    check(&unknown, "pg_lsn", -1, "0/1", "bytes?", bytes(b"0/1"));
    check(&unknown, "pair", -1, "(1,2)", "bytes?", bytes(b"(1,2)"));
    assert_eq!(one(&model(&unknown), "_interval", -1, Cell::Null), None);
}

#[test]
fn what_a_schema_cannot_say_is_told() {
    let warn = model(&[]);
    for (name, modifier, value) in
        [("numeric", -1, "NaN"), ("numeric", numeric(5, 1), "Infinity"), ("timestamp", -1, "294276-12-31 23:59:59")]
    {
        let (_, data, header) = one(&warn, name, modifier, Cell::Text(value.as_bytes())).unwrap();
        assert_eq!((data, header), (Data::Null, Some(format!("c={value}"))), "{name}");
    }
    let (_, infinite, _) = one(&warn, "date", -1, Cell::Text(b"infinity")).unwrap();
    assert_eq!(infinite, Data::Int32(2_146_033_979));
    let (_, infinite, _) = one(&warn, "timestamp", -1, Cell::Text(b"-infinity")).unwrap();
    assert_eq!(infinite, Data::Int64(i64::MIN));
    let mut column = column("c", "numeric", -1);
    column.not_null = true;
    let strict = table(vec![column], vec![]);
    let change = Change::Insert(&[Cell::Text(b"NaN")]);
    let error = warn.table(&strict, &types()).unwrap().change(change, &INFO, None, &mut Vec::new()).unwrap_err();
    assert_eq!(error.code(), "postgres.value");
    let fail = model(&[("event.converting.failure.handling.mode", "fail")]);
    let loose = table(vec![super::tests::column("c", "numeric", -1)], vec![]);
    assert!(fail.table(&loose, &types()).unwrap().change(change, &INFO, None, &mut Vec::new()).is_err());
}

#[test]
fn columns_that_cannot_be_null_have_zeros_where_they_were_not_sent() {
    let columns: Vec<Column> = ["int4", "text", "numeric", "bool", "timestamptz", "bytea", "_int4", "hstore", "interval", "mood"]
        .iter()
        .map(|name| Column { not_null: true, ..column(name, name, -1) })
        .collect();
    let width = columns.len();
    let mut cells = vec![Cell::Null; width];
    cells[0] = Cell::Text(b"5");
    let records = events(&model(&[]), &table(columns, vec![0]), Change::Delete(&cells));
    let Data::Struct(before) = part(&records[0], "before") else { panic!() };
    let zeros = vec![
        Data::Int32(5),
        text(""),
        Data::Struct(vec![Data::Int32(0), bytes(&[0])]),
        Data::Boolean(false),
        text("1970-01-01T00:00:00Z"),
        bytes(&[]),
        Data::Array(vec![]),
        text("{}"),
        Data::Int64(0),
        text(""),
    ];
    assert_eq!(before, &zeros);
}

#[test]
fn defaults() {
    let default = |name: &str, modifier: i32, expression: &str| {
        let mut column = column("c", name, modifier);
        column.default = Some(expression.to_owned());
        let model = model(&[]).table(&table(vec![column], vec![]), &types()).unwrap();
        model.envelope_schema().fields[1].schema.fields[0].schema.default.clone()
    };
    for (name, modifier, expression, expected) in [
        ("int4", -1, "5", Some(Data::Int32(5))),
        ("int4", -1, "'-5'::integer", Some(Data::Int32(-5))),
        ("int4", -1, "nextval('t_c_seq'::regclass)", Some(Data::Int32(0))),
        ("int4", -1, "(1 + 2)", None),
        ("bool", -1, "true", Some(Data::Boolean(true))),
        ("text", -1, "'a''b'::text", Some(text("a'b"))),
        ("text", -1, "lower('A'::text)", Some(text(""))),
        ("varchar", 20, "NULL::character varying", None),
        ("numeric", numeric(10, 2), "1.5", Some(bytes(&[0, 150]))),
        ("numeric", -1, "1.5", None),
        ("float8", -1, "1.5", Some(Data::Float64(1.5))),
        ("jsonb", -1, "'{}'::jsonb", Some(text("{}"))),
        ("uuid", -1, "gen_random_uuid()", Some(text("00000000-0000-0000-0000-000000000000"))),
        ("date", -1, "CURRENT_DATE", Some(Data::Int32(0))),
        ("timestamp", -1, "now()", Some(Data::Int64(0))),
        ("timestamp", -1, "'2020-01-01 00:00:00'::timestamp without time zone", Some(Data::Int64(1_577_836_800_000_000))),
        ("timestamptz", -1, "CURRENT_TIMESTAMP", Some(text("1970-01-01T00:00:00.000000Z"))),
        ("interval", -1, "'1 day'::interval", Some(Data::Int64(86_400_000_000))),
        ("mood", -1, "'ok'::mood", Some(text("ok"))),
        ("bit", 3, "B'101'::\"bit\"", Some(bytes(&[5]))),
        ("bytea", -1, "'\\x01'::bytea", None),
        ("_int4", -1, "'{}'::integer[]", None),
    ] {
        assert_eq!(default(name, modifier, expression), expected, "{name} {expression}");
    }
}

#[test]
fn unchanged_large_values() {
    let check = |options: &[(&str, &str)], name: &str, expected: Data| {
        assert_eq!(one(&model(options), name, -1, Cell::Unchanged).unwrap().1, expected, "{name}");
    };
    let placeholder = "__debezium_unavailable_value";
    for name in ["text", "json", "bytea", "numeric", "_float8"] {
        check(&[], name, Data::Unavailable);
    }
    check(&[], "_text", Data::Array(vec![text(placeholder)]));
    check(&[], "_bytea", Data::Array(vec![bytes(placeholder.as_bytes())]));
    check(&[], "_int4", Data::Array(placeholder.bytes().map(|byte| Data::Int32(byte.into())).collect()));
    check(&[], "_int8", Data::Array(placeholder.bytes().map(|byte| Data::Int64(byte.into())).collect()));
    check(&[], "_uuid", Data::Array(vec![text("b68a35a7-17ad-35b3-af2a-ae46edb4545a")]));
    check(&[], "hstore", text(&format!(r#"{{"{placeholder}":"{placeholder}"}}"#)));
    check(&[("hstore.handling.mode", "map")], "hstore", Data::Map(vec![(text(placeholder), text(placeholder))]));
    let custom = [("unavailable.value.placeholder", "hex:414243")];
    check(&custom, "text", text("ABC"));
    check(&custom, "bytea", bytes(b"ABC"));
    // With replica identity FULL the old row has it.
    let full = table(vec![column("id", "int4", -1), column("c", "text", -1)], vec![0]);
    let (old, new) = ([Cell::Text(b"1"), Cell::Text(b"large")], [Cell::Text(b"1"), Cell::Unchanged]);
    let records = events(&model(&[]), &full, Change::Update(Some(&old), &new));
    assert_eq!(part(&records[0], "after"), &Data::Struct(vec![Data::Int32(1), text("large")]));
}

fn keyed() -> Table {
    let id = Column { not_null: true, default: Some("nextval('s'::regclass)".into()), ..column("id", "int4", -1) };
    table(vec![id, column("name", "varchar", 24)], vec![0])
}

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
    let all = super::tests::model(&[("skipped.operations", "none"), ("tombstones.on.delete", "false")]);
    assert_eq!(shape(&events(&all, &keyed(), Change::Truncate)), [("t".into(), true, vec![])]);
    assert_eq!(events(&all, &keyed(), Change::Delete(&old)).len(), 1);
    let some = super::tests::model(&[("skipped.operations", "d"), ("skip.messages.without.change", "true")]);
    assert_eq!(shape(&events(&some, &keyed(), Change::Update(Some(&old), &new))).len(), 1);
    assert_eq!(events(&some, &keyed(), Change::Update(Some(&new), &new)), []);
    let none = super::tests::model(&[("skipped.operations", "u")]);
    assert_eq!(events(&none, &keyed(), Change::Update(Some(&old), &new)), []);
}

/// An old row of another index than the key's says nothing of the key: no key changed.
#[test]
fn an_identity_without_the_key() {
    let (old, new) = ([Cell::Null, Cell::Text(b"old")], [Cell::Text(b"1"), Cell::Text(b"new")]);
    let records = events(&model(&[]), &keyed(), Change::Update(Some(&old), &new));
    assert_eq!((records.len(), part(&records[0], "op")), (1, &text("u")));
    assert_eq!(part(&records[0], "before"), &Data::Struct(vec![Data::Int32(0), text("old")]));
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
        ("database.initial.statements", "SET x = 1", "postgres.unsupported"),
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

mod any_input {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Whatever a server says of a column and of its value: an answer or an error, never a panic.
        #[test]
        fn nothing_panics(
            type_index in 0usize..80,
            modifier: i32,
            value in prop_oneof![proptest::collection::vec(any::<u8>(), 0..40), "[-+0-9a-zA-Z:., {}()\"\\\\]{0,30}".prop_map(String::into_bytes)],
            default in proptest::option::of("['()0-9a-z: \"E\\\\.-]{0,20}"),
            mode in 0usize..4,
        ) {
            let modes = [
                [("decimal.handling.mode", "precise"), ("time.precision.mode", "adaptive"), ("binary.handling.mode", "bytes")],
                [("decimal.handling.mode", "string"), ("time.precision.mode", "isostring"), ("binary.handling.mode", "hex")],
                [("decimal.handling.mode", "double"), ("time.precision.mode", "connect"), ("binary.handling.mode", "base64")],
                [("hstore.handling.mode", "map"), ("time.precision.mode", "nanoseconds"), ("interval.handling.mode", "string")],
            ];
            let types = types();
            let mut oids: Vec<u32> = types.keys().copied().collect();
            oids.sort_unstable();
            let column = Column { name: "c".into(), type_oid: oids[type_index % oids.len()], modifier, not_null: mode == 0, default };
            let model = model(&modes[mode]).table(&table(vec![column], vec![0]), &types).unwrap();
            let _ = model.change(Change::Update(Some(&[Cell::Null]), &[Cell::Text(&value)]), &INFO, None, &mut Vec::new());
        }
    }
}

//! Types, modes, defaults, and what stands for a value that was not sent.

use super::*;

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
    let loose = table(vec![super::column("c", "numeric", -1)], vec![]);
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

//! Tables of types, modes and values; and whole events.

use super::*;
use crate::table::{Cell, Column, ReplicaIdentity, TypeKind};
use aqueduct_core::schema::Kind;
use aqueduct_core::{BatchBuilder, Data, Encoder, Fields, Options as Flat, Payload, Record};

mod any_input;
mod events;
mod types;

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
    let shaped = model.table(table, &types()).unwrap();
    shaped.change(change, &INFO, None, &mut out).unwrap();
    let unsaid = |record: &Record| record.header(table::UNCONVERTED).is_some();
    let expected = match change {
        Change::Read(_) | Change::Insert(_) | Change::Update(None, _) => out.len() == 1 && !unsaid(&out[0]),
        _ => false,
    };
    assert!(is_written_alike(&shaped, change, &out) || !expected, "{change:?} is not written at once");
    out
}

/// Whether the change is written at once; then it is what the objects say.
fn is_written_alike(shaped: &TableModel, change: Change<'_>, made: &[Record]) -> bool {
    let (mut told, mut batch) = (Told::default(), BatchBuilder::new());
    let written = shaped.write(change, &INFO, &mut told, &mut batch);
    assert_eq!(batch.len(), usize::from(written));
    if written {
        let payload =
            |told: Option<(Arc<Schema>, Data)>| told.map_or(Payload::Null, |(schema, data)| Payload::data(Some(schema), data));
        let [record] = made else { panic!("{change:?}: {made:?}") };
        // Debug, since NaN is nothing's equal.
        assert_eq!(format!("{:?}", payload(told.key)), format!("{:?}", record.key), "{change:?}");
        assert_eq!(format!("{:?}", payload(told.value)), format!("{:?}", record.value), "{change:?}");
        assert_eq!(batch.finish().iter().next().unwrap().headers(), record.headers);
    }
    written
}

/// What an encoder was told.
#[derive(Default)]
struct Told {
    key: Option<(Arc<Schema>, Data)>,
    value: Option<(Arc<Schema>, Data)>,
}

impl Encoder for Told {
    fn key(&mut self, schema: &Arc<Schema>, fields: &dyn Fields, _: &mut Vec<u8>) -> Result<()> {
        self.key = Some((schema.clone(), Data::of(fields)?));
        Ok(())
    }

    fn value(&mut self, schema: &Arc<Schema>, fields: &dyn Fields, _: &mut Vec<u8>) -> Result<()> {
        self.value = Some((schema.clone(), Data::of(fields)?));
        Ok(())
    }
}

const INFO: SourceInfo = SourceInfo {
    commit_us: 1_700_000_000_123_456,
    snapshot: Snapshot::False,
    last_commit_lsn: Some(7),
    lsn: Some(24_023_128),
    tx_id: Some(555),
    xmin: None,
    origin: None,
    now_ns: 1_700_000_001_000_000_123,
    block: None,
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

fn keyed() -> Table {
    let id = Column { not_null: true, default: Some("nextval('s'::regclass)".into()), ..column("id", "int4", -1) };
    table(vec![id, column("name", "varchar", 24)], vec![0])
}

//! What a value means beyond its kind: Connect's and Debezium's logical types, and the column type that each becomes.

use aqueduct_core::Schema;
use aqueduct_core::schema::{Kind, logical};

/// Of one field; found once for each schema.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Meaning {
    /// What its kind says. Values without a schema are this.
    Plain,
    Decimal {
        scale: i32,
    },
    /// A struct of `scale` and `value`.
    VariableDecimal,
    /// Days since 1970.
    Date,
    /// Since midnight.
    Time(Unit),
    /// Since 1970, on the wall's clock.
    Timestamp(Unit),
    /// Milliseconds since 1970: Connect's, an instant.
    Instant,
    /// Text in ISO 8601 with an offset.
    Zoned,
    /// A length of time.
    Duration(Unit),
    /// Little-endian bytes; how many bits, where that is fixed.
    Bits(Option<u32>),
    /// A struct of `wkb`, `srid` and, for a point, `x` and `y`.
    Geometry,
    /// Text in JSON.
    Json,
    /// An array whose elements mean this.
    Array(Box<Meaning>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unit {
    Millis,
    Micros,
    Nanos,
}

impl Unit {
    /// In microseconds, rounded down; `None`: out of range.
    pub(super) fn micros(self, count: i64) -> Option<i64> {
        match self {
            Unit::Millis => count.checked_mul(1000),
            Unit::Micros => Some(count),
            Unit::Nanos => Some(count.div_euclid(1000)),
        }
    }
}

impl Meaning {
    pub(super) fn of(schema: &Schema) -> Self {
        use Unit::{Micros, Millis, Nanos};
        if schema.kind == Kind::Array {
            return Meaning::Array(Box::new(schema.values.as_deref().map_or(Meaning::Plain, Meaning::of)));
        }
        match schema.name.as_deref().unwrap_or_default() {
            logical::DECIMAL => {
                Meaning::Decimal { scale: schema.parameters.get("scale").and_then(|scale| scale.parse().ok()).unwrap_or(0) }
            }
            "io.debezium.data.VariableScaleDecimal" => Meaning::VariableDecimal,
            logical::DATE | "io.debezium.time.Date" => Meaning::Date,
            logical::TIME | "io.debezium.time.Time" => Meaning::Time(Millis),
            "io.debezium.time.MicroTime" => Meaning::Time(Micros),
            "io.debezium.time.NanoTime" => Meaning::Time(Nanos),
            logical::TIMESTAMP => Meaning::Instant,
            "io.debezium.time.Timestamp" => Meaning::Timestamp(Millis),
            "io.debezium.time.MicroTimestamp" => Meaning::Timestamp(Micros),
            "io.debezium.time.NanoTimestamp" => Meaning::Timestamp(Nanos),
            "io.debezium.time.ZonedTimestamp" => Meaning::Zoned,
            "io.debezium.time.MicroDuration" => Meaning::Duration(Micros),
            "io.debezium.time.NanoDuration" => Meaning::Duration(Nanos),
            "io.debezium.data.Bits" => Meaning::Bits(length(schema).filter(|length| *length <= MAX_BITS)),
            "io.debezium.data.Json" => Meaning::Json,
            name if name.starts_with("io.debezium.data.geometry.") => Meaning::Geometry,
            _ => Meaning::Plain,
        }
    }
}

/// `bit(n)`'s own limit; Debezium says `Integer.MAX_VALUE` for `bit varying` without a length.
const MAX_BITS: u32 = 83_886_080;

fn length(schema: &Schema) -> Option<u32> {
    schema.parameters.get("length")?.parse().ok()
}

/// What the target has beside the built-in types.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Extensions {
    pub(super) hstore: bool,
    pub(super) postgis: bool,
    pub(super) ltree: bool,
    pub(super) citext: bool,
}

/// The column type for a schema, as Debezium and Confluent create it, but never a type that loses digits.
pub(super) fn column_type(schema: &Schema, has: Extensions) -> String {
    if let Some(name) = propagated(schema, has) {
        return name;
    }
    let fixed = match schema.name.as_deref().unwrap_or_default() {
        logical::DECIMAL => return numeric(schema),
        "io.debezium.data.VariableScaleDecimal" => "numeric",
        logical::DATE | "io.debezium.time.Date" | "io.debezium.time.IsoDate" => "date",
        logical::TIME | "io.debezium.time.Time" | "io.debezium.time.MicroTime" | "io.debezium.time.NanoTime" => "time",
        logical::TIMESTAMP
        | "io.debezium.time.Timestamp"
        | "io.debezium.time.MicroTimestamp"
        | "io.debezium.time.NanoTimestamp" => "timestamp",
        "io.debezium.time.ZonedTimestamp" | "io.debezium.time.IsoTimestamp" => "timestamptz",
        "io.debezium.time.ZonedTime" | "io.debezium.time.IsoTime" => "timetz",
        "io.debezium.time.MicroDuration" | "io.debezium.time.NanoDuration" | "io.debezium.time.Interval" => "interval",
        "io.debezium.data.Json" => "json",
        "io.debezium.data.Uuid" => "uuid",
        "io.debezium.data.Xml" => "xml",
        "io.debezium.data.Ltree" if has.ltree => "ltree",
        "io.debezium.data.TsVector" => "tsvector",
        "io.debezium.data.Bits" => {
            return match length(schema).filter(|length| *length <= MAX_BITS) {
                Some(length) => format!("bit({})", length.max(1)),
                None => "bit varying".to_owned(),
            };
        }
        "io.debezium.data.geometry.Point" => "point",
        "io.debezium.data.geometry.Geography" if has.postgis => "geography",
        name if name.starts_with("io.debezium.data.geometry.") && has.postgis => "geometry",
        _ => return plain(schema, has),
    };
    fixed.to_owned()
}

fn plain(schema: &Schema, has: Extensions) -> String {
    let name = match schema.kind {
        Kind::Int8 | Kind::Int16 => "smallint",
        Kind::Int32 => "integer",
        Kind::Int64 => "bigint",
        Kind::Float32 => "real",
        Kind::Float64 => "double precision",
        Kind::Boolean => "boolean",
        Kind::String => "text",
        Kind::Bytes => "bytea",
        Kind::Struct => "jsonb",
        Kind::Map => {
            let texts = schema.values.as_ref().is_some_and(|values| values.kind == Kind::String);
            if has.hstore && texts { "hstore" } else { "jsonb" }
        }
        Kind::Array => match schema.values.as_deref() {
            // An array of arrays has one type in Postgres: that of its innermost elements.
            Some(values) if values.kind == Kind::Array => return column_type(values, has),
            Some(values) => return format!("{}[]", column_type(values, has)),
            None => "jsonb",
        },
    };
    name.to_owned()
}

fn numeric(schema: &Schema) -> String {
    let number = |name: &str| schema.parameters.get(name).and_then(|text| text.parse::<i32>().ok());
    let (precision, scale) = (number("connect.decimal.precision").unwrap_or(0), number("scale").unwrap_or(0));
    // Without a precision any number fits: Debezium's numeric(38, s) would refuse some.
    if (1..=1000).contains(&precision) && (0..=precision).contains(&scale) {
        format!("numeric({precision},{scale})")
    } else {
        "numeric".to_owned()
    }
}

/// The source's own type, where `column.propagate.source.type` put it into the schema.
fn propagated(schema: &Schema, has: Extensions) -> Option<String> {
    let name = schema.parameters.get("__debezium.source.column.type")?.to_ascii_uppercase();
    if schema.kind != Kind::String {
        return None;
    }
    let length = schema.parameters.get("__debezium.source.column.length").and_then(|text| text.parse::<u32>().ok());
    let length = length.filter(|length| (1..=10_485_760).contains(length));
    Some(match (name.as_str(), length) {
        ("VARCHAR" | "CHARACTER VARYING", Some(length)) => format!("varchar({length})"),
        ("BPCHAR" | "CHAR" | "CHARACTER", Some(length)) => format!("char({length})"),
        ("JSONB", _) => "jsonb".to_owned(),
        ("HSTORE", _) if has.hstore => "hstore".to_owned(),
        ("CITEXT", _) if has.citext => "citext".to_owned(),
        (
            "INET" | "CIDR" | "MACADDR" | "MACADDR8" | "INT4RANGE" | "INT8RANGE" | "NUMRANGE" | "TSRANGE" | "TSTZRANGE"
            | "DATERANGE" | "MONEY" | "TSVECTOR" | "UUID" | "XML" | "JSON",
            _,
        ) => name.to_ascii_lowercase(),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    fn with(kind: Kind, name: &str, parameters: &[(&str, &str)]) -> Schema {
        let mut schema = if name.is_empty() { Schema::new(kind) } else { Schema::new(kind).named(name) };
        schema.parameters = parameters.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        schema
    }

    #[test]
    fn schemas_become_column_types() {
        let plain = Extensions::default();
        let all = Extensions { hstore: true, postgis: true, ltree: true, citext: true };
        let array = |of: Schema| Schema { values: Some(Arc::new(of)), ..Schema::new(Kind::Array) };
        let map = Schema { values: Some(Arc::new(Schema::new(Kind::String))), ..Schema::new(Kind::Map) };
        for (schema, expected) in [
            (with(Kind::Bytes, logical::DECIMAL, &[("scale", "2"), ("connect.decimal.precision", "10")]), "numeric(10,2)"),
            (with(Kind::Bytes, logical::DECIMAL, &[("scale", "2")]), "numeric"),
            (with(Kind::Int64, "io.debezium.time.MicroTimestamp", &[]), "timestamp"),
            (with(Kind::Bytes, "io.debezium.data.Bits", &[("length", "5")]), "bit(5)"),
            (with(Kind::Bytes, "io.debezium.data.Bits", &[("length", "2147483647")]), "bit varying"),
            (
                with(
                    Kind::String,
                    "",
                    &[("__debezium.source.column.type", "VARCHAR"), ("__debezium.source.column.length", "40")],
                ),
                "varchar(40)",
            ),
            (with(Kind::String, "io.debezium.data.Json", &[("__debezium.source.column.type", "JSONB")]), "jsonb"),
            (with(Kind::String, "io.debezium.data.Enum", &[]), "text"),
            (array(Schema::new(Kind::Int32)), "integer[]"),
            (array(array(Schema::new(Kind::Int64))), "bigint[]"),
            (map.clone(), "jsonb"),
        ] {
            assert_eq!(column_type(&schema, plain), expected, "{schema:?}");
        }
        assert_eq!(column_type(&map, all), "hstore");
        assert_eq!(column_type(&with(Kind::Struct, "io.debezium.data.geometry.Geometry", &[]), all), "geometry");
    }
}

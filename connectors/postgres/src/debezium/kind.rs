//! A column's type: its schema, its decoder, and what stands for a value of it that was not sent.

use super::Types;
use super::schemas;
use super::value::{Decoder, Shape, Unit};
use crate::source::options::Options;
use crate::source::options::modes::{BinaryMode, DecimalMode, HstoreMode, IntervalMode, TimeMode};
use crate::table::{Column, TypeKind};
use aqueduct_core::schema::{Kind, logical};
use aqueduct_core::{Bytes, Data, Schema};
use md5::{Digest, Md5};

/// How values are represented: the `….handling.mode` options.
#[derive(Clone, Debug)]
pub(crate) struct Modes {
    decimal: DecimalMode,
    time: TimeMode,
    binary: BinaryMode,
    hstore: HstoreMode,
    interval: IntervalMode,
    money_digits: i32,
    unknown: bool,
    /// `None`: Debezium's own text, which the encoders know.
    placeholder: Option<Vec<u8>>,
}

/// `unavailable.value.placeholder`, if it is not given.
const PLACEHOLDER: &str = "__debezium_unavailable_value";

impl Modes {
    pub(crate) fn new(options: &Options) -> Self {
        let text = &options.unavailable;
        let bytes = text.strip_prefix("hex:").and_then(|digits| super::text::hex(digits.as_bytes()));
        Self {
            decimal: options.decimal,
            time: options.time,
            binary: options.binary,
            hstore: options.hstore,
            interval: options.interval,
            money_digits: i32::try_from(options.money_digits).unwrap_or(2),
            unknown: options.unknown_types,
            placeholder: (text != PLACEHOLDER).then(|| bytes.unwrap_or_else(|| text.clone().into_bytes())),
        }
    }

    pub(crate) fn binary(&self) -> BinaryMode {
        self.binary
    }

    fn placeholder(&self) -> &[u8] {
        self.placeholder.as_deref().unwrap_or(PLACEHOLDER.as_bytes())
    }
}

/// What is known of a column's type.
#[derive(Clone, Debug)]
pub(crate) struct Typed {
    /// Not optional, and without a default.
    pub(crate) schema: Schema,
    pub(crate) decoder: Decoder,
    /// As JDBC has them.
    pub(crate) length: i32,
    pub(crate) scale: i32,
    /// `pg_type.typname` of the column's own type: a domain's name for a domain.
    pub(crate) name: String,
    /// What an unchanged large value becomes.
    pub(crate) unchanged: Data,
}

/// Types by oid, as `pg_type.dat` numbers them.
mod oid {
    pub(super) const BOOL: u32 = 16;
    pub(super) const BYTEA: u32 = 17;
    pub(super) const CHAR: u32 = 18;
    pub(super) const NAME: u32 = 19;
    pub(super) const INT8: u32 = 20;
    pub(super) const INT2: u32 = 21;
    pub(super) const INT4: u32 = 23;
    pub(super) const TEXT: u32 = 25;
    pub(super) const OID: u32 = 26;
    pub(super) const JSON: u32 = 114;
    pub(super) const XML: u32 = 142;
    pub(super) const POINT: u32 = 600;
    pub(super) const CIDR: u32 = 650;
    pub(super) const LSEG: u32 = 601;
    pub(super) const PATH: u32 = 602;
    pub(super) const BOX: u32 = 603;
    pub(super) const POLYGON: u32 = 604;
    pub(super) const LINE: u32 = 628;
    pub(super) const FLOAT4: u32 = 700;
    pub(super) const CIRCLE: u32 = 718;
    pub(super) const FLOAT8: u32 = 701;
    pub(super) const MACADDR8: u32 = 774;
    pub(super) const MONEY: u32 = 790;
    pub(super) const MACADDR: u32 = 829;
    pub(super) const INET: u32 = 869;
    pub(super) const BPCHAR: u32 = 1042;
    pub(super) const VARCHAR: u32 = 1043;
    pub(super) const DATE: u32 = 1082;
    pub(super) const TIME: u32 = 1083;
    pub(super) const TIMESTAMP: u32 = 1114;
    pub(super) const TIMESTAMPTZ: u32 = 1184;
    pub(super) const INTERVAL: u32 = 1186;
    pub(super) const TIMETZ: u32 = 1266;
    pub(super) const BIT: u32 = 1560;
    pub(super) const VARBIT: u32 = 1562;
    pub(super) const NUMERIC: u32 = 1700;
    pub(super) const REFCURSOR: u32 = 1790;
    pub(super) const UUID: u32 = 2950;
    pub(super) const TSVECTOR: u32 = 3614;
    pub(super) const JSONB: u32 = 3802;
    pub(super) const INT4RANGE: u32 = 3904;
    pub(super) const NUMRANGE: u32 = 3906;
    pub(super) const TSRANGE: u32 = 3908;
    pub(super) const TSTZRANGE: u32 = 3910;
    pub(super) const DATERANGE: u32 = 3912;
    pub(super) const INT8RANGE: u32 = 3926;
}

/// pgjdbc's length of a `numeric` without precision.
const VARIABLE_LENGTH: i32 = 131_089;

/// `None`: the column is left out, as Debezium does with types that it does not know.
pub(crate) fn typed(column: &Column, types: &Types, modes: &Modes) -> Option<Typed> {
    let declared = types.get(&column.type_oid);
    let (oid, modifier) = base(column.type_oid, column.modifier, types);
    let element = element_of(oid, types).unwrap_or(oid);
    let (length, scale) = (length(element, modifier), scale(element, modifier));
    let resolver = Resolver { types, modes, length, scale };
    let (schema, decoder) = resolver.of(oid, true).or_else(|| {
        // Debezium has these array types still to do, and leaves them out even so.
        let todo = [oid::MONEY, oid::NAME, oid::INTERVAL, oid::VARBIT, oid::XML, oid::POINT, oid::REFCURSOR];
        let array = element_of(oid, types);
        if !modes.unknown || array.is_some_and(|element| todo.contains(&element)) {
            return None;
        }
        let raw = Decoder::Raw(modes.binary);
        Some(match array {
            Some(_) => (schemas::array(schemas::binary(modes.binary)), Decoder::Array(Box::new(raw))),
            None => (schemas::binary(modes.binary), raw),
        })
    })?;
    // What pgjdbc calls them: rules by type and `column.propagate.source.type` see these names.
    let counted = column.default.as_deref().is_some_and(|default| default.contains("nextval("));
    let serial = match column.type_oid {
        oid::INT2 if counted => Some("smallserial"),
        oid::INT4 if counted => Some("serial"),
        oid::INT8 if counted => Some("bigserial"),
        _ => None,
    };
    let name = declared.or_else(|| types.get(&oid)).map_or("", |found| found.name.as_str());
    let unchanged = unchanged(oid, types, &decoder, modes);
    Some(Typed { schema, decoder, length, scale, name: serial.unwrap_or(name).to_owned(), unchanged })
}

/// A domain comes down to its base type, with the first modifier on the way.
fn base(mut oid: u32, mut modifier: i32, types: &Types) -> (u32, i32) {
    // Bounded: `types` has no cycles, and a wrong one must not hang us.
    for _ in 0..32 {
        let Some(TypeKind::Domain(base, own)) = types.get(&oid).map(|found| &found.kind) else { break };
        if modifier == -1 {
            modifier = *own;
        }
        oid = *base;
    }
    (oid, modifier)
}

/// The labels of an enum, or of a domain over one.
pub(crate) fn labels(oid: u32, types: &Types) -> Option<&[String]> {
    match &types.get(&base(oid, -1, types).0)?.kind {
        TypeKind::Enum(labels) => Some(labels),
        _ => None,
    }
}

fn element_of(oid: u32, types: &Types) -> Option<u32> {
    match types.get(&oid)?.kind {
        TypeKind::Array(element) => Some(element),
        _ => None,
    }
}

/// pgjdbc's `getPrecision`, and `getDisplaySize` where that is 0.
fn length(oid: u32, modifier: i32) -> i32 {
    let second = match modifier {
        -1 => 7,
        0 => 0,
        1 => 3,
        digits => digits.saturating_add(1).min(7),
    };
    match oid {
        oid::INT2 => 5,
        oid::OID | oid::INT4 => 10,
        oid::INT8 => 19,
        oid::FLOAT4 => 8,
        oid::FLOAT8 => 17,
        oid::NUMERIC if modifier == -1 => VARIABLE_LENGTH,
        oid::NUMERIC => modifier.wrapping_sub(4) >> 16 & 0xffff,
        oid::CHAR | oid::BOOL => 1,
        oid::BPCHAR | oid::VARCHAR if modifier != -1 => modifier.wrapping_sub(4),
        oid::DATE => 13,
        oid::TIME => 8 + second,
        oid::TIMETZ => 8 + second + 6,
        oid::TIMESTAMP => 13 + 1 + 8 + second,
        oid::TIMESTAMPTZ => 13 + 1 + 8 + second + 6,
        oid::INTERVAL => 49,
        oid::BIT => modifier,
        oid::VARBIT if modifier != -1 => modifier,
        _ => i32::MAX,
    }
}

/// pgjdbc's `getScale`; but a negative scale of PostgreSQL 15 is one here.
fn scale(oid: u32, modifier: i32) -> i32 {
    match (oid, modifier) {
        (oid::FLOAT4, _) => 8,
        (oid::FLOAT8, _) => 17,
        (oid::NUMERIC, -1) => 0,
        (oid::NUMERIC, modifier) => ((modifier.wrapping_sub(4) & 0x7ff) ^ 1024) - 1024,
        (oid::TIME | oid::TIMETZ | oid::TIMESTAMP | oid::TIMESTAMPTZ | oid::INTERVAL, -1) => 6,
        (oid::TIME | oid::TIMETZ | oid::TIMESTAMP | oid::TIMESTAMPTZ, digits) => digits,
        (oid::INTERVAL, modifier) => match modifier & 0xffff {
            0xffff => 6,
            digits => digits,
        },
        _ => 0,
    }
}

struct Resolver<'a> {
    types: &'a Types,
    modes: &'a Modes,
    length: i32,
    scale: i32,
}

impl Resolver<'_> {
    /// `arrays`: whether an array is one here; there are no arrays of arrays.
    fn of(&self, oid: u32, arrays: bool) -> Option<(Schema, Decoder)> {
        let plain = |kind: Kind, decoder: Decoder| Some((Schema::new(kind), decoder));
        let text = |name: &str| Some((schemas::named(Kind::String, name), Decoder::Text));
        match oid {
            oid::BOOL => plain(Kind::Boolean, Decoder::Boolean),
            oid::INT2 => plain(Kind::Int16, Decoder::Int16),
            oid::INT4 => plain(Kind::Int32, Decoder::Int32),
            oid::INT8 | oid::OID => plain(Kind::Int64, Decoder::Int64),
            oid::FLOAT4 => plain(Kind::Float32, Decoder::Float32),
            oid::FLOAT8 => plain(Kind::Float64, Decoder::Float64),
            oid::TEXT | oid::VARCHAR | oid::BPCHAR | oid::CHAR | oid::NAME => plain(Kind::String, Decoder::Text),
            oid::INET | oid::CIDR | oid::MACADDR | oid::MACADDR8 => plain(Kind::String, Decoder::Text),
            oid::INT4RANGE | oid::INT8RANGE | oid::NUMRANGE | oid::TSRANGE | oid::TSTZRANGE | oid::DATERANGE => {
                plain(Kind::String, Decoder::Text)
            }
            oid::JSON | oid::JSONB => text(schemas::JSON),
            oid::UUID => text("io.debezium.data.Uuid"),
            oid::XML => text("io.debezium.data.Xml"),
            oid::TSVECTOR => text("io.debezium.data.Tsvector"),
            oid::NUMERIC => Some(self.numeric()),
            oid::MONEY => {
                let (mode, digits) = (self.modes.decimal, self.modes.money_digits);
                let schema = match mode {
                    DecimalMode::Precise => schemas::decimal(digits),
                    DecimalMode::Double => Schema::new(Kind::Float64),
                    DecimalMode::String => Schema::new(Kind::String),
                };
                Some((schema, Decoder::Money(mode, digits)))
            }
            oid::BYTEA => Some((schemas::binary(self.modes.binary), Decoder::Binary(self.modes.binary))),
            oid::BIT | oid::VARBIT if self.length > 1 => Some((schemas::bits(self.length), Decoder::Bits)),
            oid::BIT | oid::VARBIT => plain(Kind::Boolean, Decoder::Bit),
            oid::POINT => Some((schemas::point(), Decoder::Point)),
            oid::LINE => Some((schemas::line(), Decoder::Shape(Shape::Line))),
            oid::CIRCLE => Some((schemas::circle(), Decoder::Shape(Shape::Circle))),
            oid::BOX => Some((schemas::geometry(), Decoder::Shape(Shape::Box))),
            oid::LSEG => Some((schemas::geometry(), Decoder::Shape(Shape::Lseg))),
            oid::PATH => Some((schemas::geometry(), Decoder::Shape(Shape::Path))),
            oid::POLYGON => Some((schemas::geometry(), Decoder::Shape(Shape::Polygon))),
            oid::DATE | oid::TIME | oid::TIMETZ | oid::TIMESTAMP | oid::TIMESTAMPTZ | oid::INTERVAL => Some(self.temporal(oid)),
            oid => self.other(oid, arrays),
        }
    }

    fn numeric(&self) -> (Schema, Decoder) {
        let variable = self.length == VARIABLE_LENGTH && self.scale == 0;
        match self.modes.decimal {
            DecimalMode::Precise if variable => (schemas::variable_decimal(), Decoder::VariableDecimal),
            DecimalMode::Precise => {
                let schema = schemas::parameter(schemas::decimal(self.scale), "connect.decimal.precision", self.length);
                (schema, Decoder::Decimal(self.scale))
            }
            DecimalMode::Double => (Schema::new(Kind::Float64), Decoder::Float64),
            DecimalMode::String => (Schema::new(Kind::String), Decoder::DecimalText((!variable).then_some(self.scale))),
        }
    }

    fn temporal(&self, oid: u32) -> (Schema, Decoder) {
        let time = |kind: Kind, name: &str| schemas::named(kind, &format!("io.debezium.time.{name}"));
        let unit = match (self.modes.time, self.scale) {
            (TimeMode::AdaptiveTimeMicroseconds, _) if oid == oid::TIME => Unit::Micros,
            (TimeMode::Adaptive | TimeMode::AdaptiveTimeMicroseconds, ..=3) => Unit::Millis,
            (TimeMode::Adaptive | TimeMode::AdaptiveTimeMicroseconds | TimeMode::Microseconds, _) => Unit::Micros,
            (TimeMode::Nanoseconds, _) => Unit::Nanos,
            (TimeMode::Connect | TimeMode::Isostring, _) => Unit::Millis,
        };
        match (oid, self.modes.time) {
            (oid::DATE, TimeMode::Isostring) => (time(Kind::String, "IsoDate"), Decoder::DateIso),
            (oid::DATE, TimeMode::Connect) => (schemas::named(Kind::Int32, logical::DATE), Decoder::Date),
            (oid::DATE, _) => (schemas::named(Kind::Int32, schemas::DATE), Decoder::Date),
            (oid::TIME, TimeMode::Isostring) => (time(Kind::String, "IsoTime"), Decoder::TimeIso),
            (oid::TIME, TimeMode::Connect) => (schemas::named(Kind::Int32, logical::TIME), Decoder::Time(Unit::Millis)),
            (oid::TIME, _) => {
                let schema = match unit {
                    Unit::Millis => time(Kind::Int32, "Time"),
                    Unit::Micros => time(Kind::Int64, "MicroTime"),
                    Unit::Nanos => time(Kind::Int64, "NanoTime"),
                };
                (schema, Decoder::Time(unit))
            }
            (oid::TIMESTAMP, TimeMode::Isostring) => (time(Kind::String, "IsoTimestamp"), Decoder::TimestampIso),
            (oid::TIMESTAMP, TimeMode::Connect) => {
                (schemas::named(Kind::Int64, logical::TIMESTAMP), Decoder::Timestamp(Unit::Millis))
            }
            (oid::TIMESTAMP, _) => {
                let name = match unit {
                    Unit::Millis => "Timestamp",
                    Unit::Micros => "MicroTimestamp",
                    Unit::Nanos => "NanoTimestamp",
                };
                (time(Kind::Int64, name), Decoder::Timestamp(unit))
            }
            (oid::TIMESTAMPTZ, _) => {
                let width = u32::try_from(self.scale).ok().filter(|digits| (1..=9).contains(digits));
                (time(Kind::String, "ZonedTimestamp"), Decoder::TimestampTz(width))
            }
            (oid::TIMETZ, _) => (time(Kind::String, "ZonedTime"), Decoder::TimeTz),
            _ => match self.modes.interval {
                IntervalMode::Numeric => (time(Kind::Int64, "MicroDuration"), Decoder::IntervalMicros),
                IntervalMode::String => (time(Kind::String, "Interval"), Decoder::IntervalIso),
            },
        }
    }

    fn other(&self, oid: u32, arrays: bool) -> Option<(Schema, Decoder)> {
        let found = self.types.get(&oid)?;
        let vector = |kind: Kind, name: &str| {
            let schema = Schema { values: Some(Schema::new(kind).into()), ..schemas::named(Kind::Array, name) };
            Some(schema)
        };
        match (&found.kind, found.name.as_str()) {
            (TypeKind::Enum(labels), _) => Some((schemas::enumeration(labels), Decoder::Text)),
            (TypeKind::Array(element), _) if arrays => self.array(*element),
            (TypeKind::Base, "citext" | "isbn") => Some((Schema::new(Kind::String), Decoder::Text)),
            (TypeKind::Base, "ltree") => Some((schemas::named(Kind::String, "io.debezium.data.Ltree"), Decoder::Text)),
            (TypeKind::Base, "hstore") => Some(match self.modes.hstore {
                HstoreMode::Json => (schemas::named(Kind::String, schemas::JSON), Decoder::HstoreJson),
                HstoreMode::Map => (schemas::map(Schema::new(Kind::String), schemas::optional(Kind::String)), Decoder::HstoreMap),
            }),
            (TypeKind::Base, "geometry") => Some((schemas::geometry(), Decoder::Geometry { extensions: true })),
            (TypeKind::Base, "geography") => Some((schemas::geography(), Decoder::Geometry { extensions: false })),
            (TypeKind::Base, "vector") => {
                vector(Kind::Float64, "io.debezium.data.DoubleVector").map(|s| (s, Decoder::Float64Vector))
            }
            (TypeKind::Base, "halfvec") => {
                vector(Kind::Float32, "io.debezium.data.FloatVector").map(|s| (s, Decoder::Float32Vector))
            }
            (TypeKind::Base, "sparsevec") => Some((schemas::sparse_vector(), Decoder::SparseVector)),
            _ => None,
        }
    }

    fn array(&self, element: u32) -> Option<(Schema, Decoder)> {
        if [oid::MONEY, oid::NAME, oid::INTERVAL, oid::VARBIT, oid::XML, oid::POINT, oid::REFCURSOR].contains(&element) {
            return None;
        }
        let (schema, decoder) = self.of(element, false)?;
        // Debezium forgets `optional` for an enumeration, and then cannot say an element that is NULL.
        let schema = if element == oid::TSVECTOR { schema } else { schema.optional() };
        Some((schemas::array(schema), Decoder::Array(Box::new(decoder))))
    }
}

/// Debezium's forms of `unavailable.value.placeholder`. Where an encoder knows the form by the schema, the value stays what it is: not there.
fn unchanged(oid: u32, types: &Types, decoder: &Decoder, modes: &Modes) -> Data {
    let bytes = modes.placeholder();
    let text = || Data::String(String::from_utf8_lossy(bytes).into_owned());
    let custom = modes.placeholder.is_some();
    match (element_of(oid, types), decoder) {
        (None, Decoder::HstoreJson) => {
            let pair = String::from_utf8_lossy(bytes).into_owned();
            Data::String(super::composite::json_object(&[(pair.clone(), Some(pair))]))
        }
        (None, Decoder::HstoreMap) => Data::Map(vec![(text(), text())]),
        (None, Decoder::Text | Decoder::Binary(_) | Decoder::Raw(_)) if custom => match decoder {
            Decoder::Binary(BinaryMode::Bytes) | Decoder::Raw(BinaryMode::Bytes) => Data::Bytes(Bytes::copy_from_slice(bytes)),
            _ => text(),
        },
        (Some(oid::TEXT | oid::VARCHAR | oid::BPCHAR | oid::JSON | oid::JSONB), _) => Data::Array(vec![text()]),
        (Some(oid::BYTEA), Decoder::Array(element)) => match **element {
            Decoder::Binary(BinaryMode::Bytes) => Data::Array(vec![Data::Bytes(Bytes::copy_from_slice(bytes))]),
            _ => Data::Array(vec![text()]),
        },
        (Some(oid::INT4), _) => Data::Array(bytes.iter().map(|byte| Data::Int32(i32::from(*byte as i8))).collect()),
        (Some(oid::DATE), Decoder::Array(element)) if **element == Decoder::Date => {
            Data::Array(bytes.iter().map(|byte| Data::Int32(i32::from(*byte as i8))).collect())
        }
        (Some(oid::INT8), _) => Data::Array(bytes.iter().map(|byte| Data::Int64(i64::from(*byte as i8))).collect()),
        (Some(oid::UUID), _) => Data::Array(vec![Data::String(name_uuid(bytes))]),
        _ => Data::Unavailable,
    }
}

/// `UUID.nameUUIDFromBytes`: version 3 without a name space.
fn name_uuid(bytes: &[u8]) -> String {
    let digest: [u8; 16] = Md5::digest(bytes).into();
    uuid::Builder::from_md5_bytes(digest).into_uuid().to_string()
}

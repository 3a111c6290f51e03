//! A table's columns, and the schema of its records.

use crate::config::{Granularity, NumericMapping};
use crate::temporal::Zone;
use aqueduct_core::Schema;
use aqueduct_core::schema::{Kind, logical};
use std::sync::Arc;

/// What a column's values become.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Field {
    Boolean,
    Int8,
    Int16,
    Int32,
    Int64,
    Float32,
    Float64,
    Decimal {
        scale: u32,
    },
    String,
    Bytes,
    Date,
    Time,
    /// Zoned: a moment. Not: a wall clock of `db.timezone`.
    Timestamp {
        zoned: bool,
    },
}

/// How values become data, by the options.
#[derive(Clone, Debug)]
pub(crate) struct Shape {
    pub(crate) granularity: Granularity,
    pub(crate) numeric: NumericMapping,
    pub(crate) zone: Zone,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Column {
    pub(crate) name: String,
    /// `None`: known with the first value that is not null.
    pub(crate) field: Option<Field>,
    pub(crate) optional: bool,
    /// The database counts it up by itself.
    pub(crate) counted: bool,
    /// Of times: digits of a second's fraction.
    pub(crate) fraction: u32,
    /// What the database gives it as: its own form, or text where that would have to be taken apart.
    pub(crate) cast: Cast,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cast {
    Plain,
    /// As text.
    Text,
    /// Postgres: text by way of this type.
    Through(&'static str),
    /// MySQL: microseconds since 1970, or days.
    Micros,
    Days,
    Year,
    /// MySQL: text whose digits tell the scale, where no catalog does.
    Decimal,
}

impl Column {
    pub(crate) fn is_integer(&self) -> bool {
        matches!(self.field, None | Some(Field::Int8 | Field::Int16 | Field::Int32 | Field::Int64 | Field::Decimal { scale: 0 }))
    }

    pub(crate) fn is_time(&self) -> bool {
        matches!(self.field, Some(Field::Timestamp { .. } | Field::Date))
    }
}

/// Confluent's rule for NUMERIC: digits in all, and behind the point. `None` for both: any.
pub(crate) fn numeric(mapping: NumericMapping, digits: Option<(u32, i32)>) -> Field {
    let Some((precision, scale)) = digits else {
        // One column's Decimals have one scale, these have none: text loses nothing.
        return if mapping == NumericMapping::BestFitEagerDouble { Field::Float64 } else { Field::String };
    };
    let decimal = Field::Decimal { scale: u32::try_from(scale).unwrap_or(0) };
    let small = precision < 19;
    match mapping {
        NumericMapping::PrecisionOnly if scale == 0 && small => integer(precision),
        NumericMapping::BestFit | NumericMapping::BestFitEagerDouble if scale < 1 && small => integer(precision),
        NumericMapping::BestFit if scale > 0 && small => Field::Float64,
        NumericMapping::BestFitEagerDouble if scale > 0 => Field::Float64,
        _ => decimal,
    }
}

fn integer(precision: u32) -> Field {
    match precision {
        10.. => Field::Int64,
        5..=9 => Field::Int32,
        3..=4 => Field::Int16,
        _ => Field::Int8,
    }
}

impl Field {
    pub(crate) fn what(self) -> &'static str {
        match self {
            Field::Boolean => "boolean",
            Field::Int8 => "int8",
            Field::Int16 => "int16",
            Field::Int32 => "int32",
            Field::Int64 => "int64",
            Field::Float32 => "float",
            Field::Float64 => "double",
            Field::Decimal { .. } => "decimal",
            Field::String => "string",
            Field::Bytes => "bytes",
            Field::Date => "date",
            Field::Time => "time",
            Field::Timestamp { .. } => "timestamp",
        }
    }

    fn schema(self, granularity: Granularity) -> Schema {
        let logical = |kind: Kind, name: &str| Schema { version: Some(1), ..Schema::new(kind).named(name) };
        match self {
            Field::Boolean => Schema::new(Kind::Boolean),
            Field::Int8 => Schema::new(Kind::Int8),
            Field::Int16 => Schema::new(Kind::Int16),
            Field::Int32 => Schema::new(Kind::Int32),
            Field::Int64 => Schema::new(Kind::Int64),
            Field::Float32 => Schema::new(Kind::Float32),
            Field::Float64 => Schema::new(Kind::Float64),
            Field::String => Schema::new(Kind::String),
            Field::Bytes => Schema::new(Kind::Bytes),
            Field::Date => logical(Kind::Int32, logical::DATE),
            Field::Time => logical(Kind::Int32, logical::TIME),
            Field::Timestamp { .. } => granularity.schema(),
            Field::Decimal { scale } => {
                let mut schema = logical(Kind::Bytes, logical::DECIMAL);
                schema.parameters.insert("scale".to_owned(), scale.to_string());
                schema
            }
        }
    }
}

/// A struct with the table's name; a query's has none. A field whose type is not known yet is an optional text.
pub(crate) fn schema(name: Option<&str>, columns: &[Column], granularity: Granularity) -> Arc<Schema> {
    let mut schema = Schema { name: name.map(str::to_owned), ..Schema::new(Kind::Struct) };
    for column in columns {
        let field = column.field.unwrap_or(Field::String).schema(granularity);
        schema = schema.field(column.name.as_str(), if column.optional { field.optional() } else { field });
    }
    Arc::new(schema)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numeric_mapping_is_confluents() {
        use NumericMapping::*;
        let decimal = |scale| Field::Decimal { scale };
        for (mapping, digits, field) in [
            (None, Some((4, 0)), decimal(0)),
            (None, Some((10, 2)), decimal(2)),
            (PrecisionOnly, Some((4, 0)), Field::Int16),
            (PrecisionOnly, Some((4, 1)), decimal(1)),
            (BestFit, Some((2, 0)), Field::Int8),
            (BestFit, Some((9, 0)), Field::Int32),
            (BestFit, Some((18, 0)), Field::Int64),
            (BestFit, Some((19, 0)), decimal(0)),
            (BestFit, Some((18, 2)), Field::Float64),
            (BestFit, Some((19, 2)), decimal(2)),
            (BestFitEagerDouble, Some((19, 2)), Field::Float64),
            (BestFitEagerDouble, Some((19, 0)), decimal(0)),
            (BestFit, Option::None, Field::String),
        ] {
            assert_eq!(numeric(mapping, digits), field, "{mapping:?} {digits:?}");
        }
    }
}

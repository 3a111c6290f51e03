//! One version of a table: its schemas and how its rows become records.

use super::Types;
use super::columns::{Hash, Mapper};
use super::event::{Clock, Context, SourceInfo};
use super::kind::Typed;
use super::transaction::{Place, Transaction};
use super::value::{Decoder, Unfit};
use super::{Model, Operations, default, kind, schemas};
use crate::source::options::modes::{ConvertFailureMode, Operation};
use crate::table::{Cell, Column, Table};
use aqueduct_core::record::Header;
use aqueduct_core::schema::Kind;
use aqueduct_core::{Data, Error, Payload, Record, Result, Schema, Topic};
use rustc_hash::FxHashSet;
use std::sync::Arc;

/// What happened to a row, in the order of the table's columns.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Change<'a> {
    /// Found by a snapshot.
    Read(&'a [Cell<'a>]),
    Insert(&'a [Cell<'a>]),
    /// The old row as far as the server sent it: the key's columns, or with replica identity FULL all of them.
    Update(Option<&'a [Cell<'a>]>, &'a [Cell<'a>]),
    Delete(&'a [Cell<'a>]),
    Truncate,
}

/// How one column becomes one field.
#[derive(Debug)]
pub(super) struct Field {
    /// In the table's columns.
    pub(super) index: usize,
    column: Arc<str>,
    pub(super) decoder: Decoder,
    optional: bool,
    /// What NULL becomes: null, or in a column that cannot be null what Debezium puts there.
    pub(super) null: Data,
    pub(super) unchanged: Data,
    pub(super) mapper: Option<Masking>,
}

#[derive(Debug)]
pub(super) enum Masking {
    Truncate(usize),
    Constant(String),
    /// Cut to the column's length where it has one.
    Hash(Hash, Option<usize>),
}

#[derive(Debug)]
pub(crate) struct TableModel {
    pub(crate) topic: Topic,
    /// `schema.table`
    pub(crate) name: Arc<str>,
    pub(crate) schema: String,
    pub(crate) table: String,
    pub(super) columns: usize,
    pub(super) key: Vec<Field>,
    pub(super) row: Vec<Field>,
    pub(super) key_schema: Option<Arc<Schema>>,
    pub(super) envelope: Arc<Schema>,
    pub(super) operations: Operations,
    failure: ConvertFailureMode,
    pub(super) context: Arc<Context>,
    /// Columns that are enums, with the labels that their schema tells.
    labels: Vec<(usize, FxHashSet<Vec<u8>>)>,
}

/// Values that could not be said: `column=text`, in a header.
pub(super) const UNCONVERTED: &str = "__aqueduct.unconverted";

impl TableModel {
    pub(super) fn new(model: &Model, table: &Table, types: &Types) -> Result<Self> {
        let name = format!("{}.{}", table.schema, table.name);
        let topic = model.topic(&table.schema, &table.name);
        let mut key_columns = model.key_columns.of(&name, table.columns.iter().map(|column| &*column.name));
        if key_columns.is_empty() {
            key_columns.clone_from(&table.key);
        }
        let (mut row, mut key) = (Vec::new(), Vec::new());
        let mut row_schema = Schema::new(Kind::Struct).named(schemas::adjusted(&format!("{topic}.Value"), model.schema_names));
        let mut key_schema = Schema::new(Kind::Struct).named(schemas::adjusted(&format!("{topic}.Key"), model.schema_names));
        for index in key_columns {
            let column = table.columns.get(index).ok_or_else(|| wrong_key(&name))?;
            if let Some(typed) = kind::typed(column, types, &model.modes) {
                let (schema, field) = model.field(index, column, &typed, None);
                key_schema = key_schema.field(schemas::adjusted_field(&column.name, model.field_names), schema);
                key.push(field);
            }
        }
        for (index, column) in table.columns.iter().enumerate() {
            if !model.filters.column(&table.schema, &table.name, &column.name) {
                continue;
            }
            let Some(typed) = kind::typed(column, types, &model.modes) else {
                tracing::warn!(
                    table = name,
                    column = &*column.name,
                    oid = column.type_oid,
                    "a column of an unknown type is left out"
                );
                continue;
            };
            let mapper = model.mappers.of(&name, &column.name, &typed.name);
            let (schema, field) = model.field(index, column, &typed, mapper);
            row_schema = row_schema.field(schemas::adjusted_field(&column.name, model.field_names), schema);
            row.push(field);
        }
        let envelope = schemas::adjusted(&format!("{topic}.Envelope"), model.schema_names);
        let envelope =
            schemas::envelope(&envelope, &Arc::new(row_schema.optional()), &model.source_schema, &model.transaction_schema);
        Ok(Self {
            topic: topic.into(),
            name: name.into(),
            schema: table.schema.clone(),
            table: table.name.clone(),
            columns: table.columns.len(),
            key_schema: (!key.is_empty()).then(|| Arc::new(key_schema)),
            key,
            row,
            envelope: Arc::new(envelope),
            operations: model.operations,
            failure: model.failure,
            context: model.context.clone(),
            labels: (table.columns.iter().enumerate())
                .filter_map(|(index, column)| Some((index, kind::labels(column.type_oid, types)?)))
                .map(|(index, labels)| (index, labels.iter().map(|label| label.clone().into_bytes()).collect()))
                .collect(),
        })
    }

    /// Labels in this row that the schema of their enum does not tell, with the columns' places. Nothing to do for a table without enums.
    pub(crate) fn new_labels<'a>(&self, row: &'a [Cell<'a>]) -> impl Iterator<Item = (usize, &'a [u8])> {
        self.labels.iter().filter_map(|(index, labels)| match row.get(*index) {
            Some(Cell::Text(label)) if !labels.contains(*label) => Some((*index, *label)),
            _ => None,
        })
    }

    #[cfg(test)]
    pub(super) fn key_schema(&self) -> Option<&Arc<Schema>> {
        self.key_schema.as_ref()
    }

    #[cfg(test)]
    pub(super) fn envelope_schema(&self) -> &Arc<Schema> {
        &self.envelope
    }

    /// The block `source` of the events that are at this place.
    pub(crate) fn source_block(&self, info: &SourceInfo) -> Data {
        info.block(&self.context, &self.schema, &self.table)
    }

    /// Whether changes of this kind are sent at all; an update of a key is a delete and an insert, which are asked for by themselves.
    pub(crate) fn wants(&self, operation: Operation) -> bool {
        !self.operations.skipped(operation)
    }

    /// The records of one change, in order: none (skipped, or it says nothing), one, two with a tombstone, three where a key changed.
    ///
    /// # Errors
    /// `postgres.row`: the row has another number of columns than the table. `postgres.value`: a value that its schema cannot say, with
    /// `event.converting.failure.handling.mode: fail`.
    pub(crate) fn change(
        &self,
        change: Change<'_>,
        info: &SourceInfo,
        mut transaction: Option<&mut Transaction>,
        out: &mut Vec<Record>,
    ) -> Result<()> {
        let mut place = || transaction.as_deref_mut().map(|transaction| transaction.place(&self.name, info.lsn));
        match change {
            Change::Read(row) => self.push(out, info, place(), ('r', None, Some(row)), None)?,
            Change::Insert(row) if self.wants(Operation::C) => {
                self.push(out, info, place(), ('c', None, Some(row)), None)?;
            }
            Change::Update(old, new) => self.update(old, new, info, &mut place, out)?,
            Change::Delete(old) if self.wants(Operation::D) => {
                self.push(out, info, place(), ('d', Some(old), None), None)?;
                match self.knows_key(old) {
                    true => self.tombstone(out),
                    // Whoever reads it must see that the row is not known; a tombstone without a key says nothing at all.
                    false => out.last_mut().into_iter().for_each(|delete| delete.key = Payload::Null),
                }
            }
            Change::Truncate if self.wants(Operation::T) => {
                self.push(out, info, place(), ('t', None, None), None)?;
            }
            Change::Insert(_) | Change::Delete(_) | Change::Truncate => {}
        }
        Ok(())
    }

    fn update(
        &self,
        old: Option<&[Cell<'_>]>,
        new: &[Cell<'_>],
        info: &SourceInfo,
        place: &mut dyn FnMut() -> Option<Place>,
        out: &mut Vec<Record>,
    ) -> Result<()> {
        // A large value that did not change is in the old row where the replica identity is FULL.
        let merged: Vec<Cell<'_>>;
        let new = match old {
            Some(old) if new.contains(&Cell::Unchanged) && old.len() == new.len() => {
                let filled = new.iter().zip(old).map(|(new, old)| match (new, old) {
                    (Cell::Unchanged, Cell::Text(_)) => *old,
                    _ => *new,
                });
                merged = filled.collect();
                &merged[..]
            }
            _ => new,
        };
        // An update of the key is skipped as an update, before it becomes a delete and an insert.
        if !self.wants(Operation::U) {
            return Ok(());
        }
        if let Some(old) = old
            && self.operations.skip_unchanged
            && same(&self.row, old, new)
        {
            return Ok(());
        }
        match old {
            Some(old) if self.moves_key(old, new) => {
                if self.wants(Operation::D) {
                    let header = ("__debezium.newkey", self.key(new)?);
                    self.push(out, info, place(), ('d', Some(old), None), Some(header))?;
                    self.tombstone(out);
                }
                if self.wants(Operation::C) {
                    let header = ("__debezium.oldkey", self.key(old)?);
                    self.push(out, info, place(), ('c', None, Some(new)), Some(header))?;
                }
                Ok(())
            }
            _ => self.push(out, info, place(), ('u', old, Some(new)), None),
        }
    }

    /// Whether an update is a delete and an insert.
    pub(super) fn moves_key(&self, old: &[Cell<'_>], new: &[Cell<'_>]) -> bool {
        self.key_schema.is_some() && self.knows_key(old) && !same(&self.key, old, new)
    }

    /// Columns of the key that are not part of the replica identity: what `identifies` says no of. Deletes do not tell them.
    pub(crate) fn key_beyond<'a>(&'a self, identifies: impl Fn(usize) -> bool + 'a) -> impl Iterator<Item = &'a str> {
        self.key.iter().filter(move |field| !identifies(field.index)).map(|field| &*field.column)
    }

    /// With `REPLICA IDENTITY USING INDEX` an old row has the columns of that index, which need not be the key's.
    fn knows_key(&self, old: &[Cell<'_>]) -> bool {
        self.key.iter().all(|field| field.optional || old.get(field.index) != Some(&Cell::Null))
    }

    /// One event: `(op, before, after)`.
    fn push(
        &self,
        out: &mut Vec<Record>,
        info: &SourceInfo,
        place: Option<Place>,
        (op, before, after): (char, Option<&[Cell<'_>]>, Option<&[Cell<'_>]>),
        header: Option<(&'static str, Payload)>,
    ) -> Result<()> {
        let clock = Clock::at(info.now_ns);
        let mut unfit = String::new();
        let key = match after.or(before) {
            Some(row) => self.key(row)?,
            None => Payload::Null,
        };
        let mut row = |cells: Option<&[Cell<'_>]>| cells.map_or(Ok(Data::Null), |cells| self.row(cells, &mut unfit));
        let (before, after) = (row(before)?, row(after)?);
        let value = Data::Struct(vec![
            before,
            after,
            info.block.clone().unwrap_or_else(|| self.source_block(info)),
            place.map_or(Data::Null, Place::block),
            Data::String(op.into()),
            Data::Int64(clock.millis()),
            Data::Int64(clock.micros()),
            Data::Int64(clock.nanos()),
        ]);
        let mut headers = Vec::with_capacity(usize::from(header.is_some()) + self.context.headers.len());
        headers.extend(header.map(|(name, value)| Header { name: name.into(), value }));
        headers.extend(self.context.headers.iter().cloned());
        if !unfit.is_empty() {
            headers.push(Header { name: UNCONVERTED.into(), value: Payload::data(None, Data::String(unfit)) });
        }
        out.push(Record {
            topic: self.topic.clone(),
            partition: None,
            key,
            value: Payload::data(Some(self.envelope.clone()), value),
            headers,
            timestamp: None,
            origin: None,
        });
        Ok(())
    }

    /// With the headers of the delete before it.
    fn tombstone(&self, out: &mut Vec<Record>) {
        if let Some(delete) = out.last().filter(|_| self.operations.tombstones) {
            let tombstone = Record {
                topic: delete.topic.clone(),
                partition: None,
                key: delete.key.clone(),
                value: Payload::Null,
                headers: delete.headers.clone(),
                timestamp: None,
                origin: None,
            };
            out.push(tombstone);
        }
    }

    fn key(&self, cells: &[Cell<'_>]) -> Result<Payload> {
        let Some(schema) = &self.key_schema else { return Ok(Payload::Null) };
        let mut unfit = String::new();
        let key = self.fields(&self.key, cells, &mut unfit)?;
        Ok(Payload::data(Some(schema.clone()), key))
    }

    fn row(&self, cells: &[Cell<'_>], unfit: &mut String) -> Result<Data> {
        self.fields(&self.row, cells, unfit)
    }

    fn fields(&self, fields: &[Field], cells: &[Cell<'_>], unfit: &mut String) -> Result<Data> {
        if cells.len() != self.columns {
            let why = format!("a row of {} has {} columns, the table has {}", self.name, cells.len(), self.columns);
            return Err(Error::retriable("postgres.row", why));
        }
        let mut values = Vec::with_capacity(fields.len());
        for field in fields {
            let value = match cells[field.index] {
                Cell::Null => field.null.clone(),
                Cell::Unchanged => field.unchanged.clone(),
                Cell::Text(text) => match field.decoder.decode(text) {
                    Ok(value) => value,
                    Err(Unfit) => self.unfit(field, text, unfit)?,
                },
            };
            values.push(match &field.mapper {
                None => value,
                Some(mapper) => mapper.apply(value),
            });
        }
        Ok(Data::Struct(values))
    }

    /// What its schema cannot say becomes null, and a header tells; never in silence.
    #[cold]
    fn unfit(&self, field: &Field, text: &[u8], unfit: &mut String) -> Result<Data> {
        let shown: String = String::from_utf8_lossy(text).chars().take(100).collect();
        // A masked column's value is nobody's business (invariant 9).
        let shown = if field.mapper.is_some() { "…" } else { &shown };
        if self.failure == ConvertFailureMode::Fail || !field.optional {
            let why = format!("{}.{} has the value {shown}, which its schema cannot say", self.name, field.column);
            let fix = "use decimal.handling.mode string or double, or time.precision.mode isostring; or leave the column out";
            return Err(Error::fatal("postgres.value", why).fix(fix));
        }
        if self.failure == ConvertFailureMode::Warn {
            tracing::warn!(table = &*self.name, column = &*field.column, "a value that the schema cannot say became null");
            if !unfit.is_empty() {
                unfit.push(',');
            }
            unfit.push_str(&field.column);
            unfit.push('=');
            unfit.push_str(shown);
        }
        Ok(Data::Null)
    }
}

/// Whether the fields have the same values in both rows.
fn same(fields: &[Field], old: &[Cell<'_>], new: &[Cell<'_>]) -> bool {
    fields.iter().all(|field| {
        let (old, new) = (old.get(field.index), new.get(field.index));
        old == new || new == Some(&Cell::Unchanged)
    })
}

fn wrong_key(table: &str) -> Error {
    Error::retriable("postgres.catalog", format!("the key of {table} has columns that the table does not have"))
}

impl Masking {
    pub(super) fn apply(&self, value: Data) -> Data {
        match (self, value) {
            (Masking::Constant(mask), _) => Data::String(mask.clone()),
            (Masking::Truncate(max), Data::String(text)) => Data::String(truncated(text, *max)),
            (Masking::Truncate(max), Data::Bytes(bytes)) if bytes.len() > *max => Data::Bytes(bytes.slice(..*max)),
            (Masking::Hash(hash, max), Data::String(text)) => {
                let hashed = hash.of(&text);
                Data::String(max.map_or(hashed.clone(), |max| truncated(hashed, max)))
            }
            (_, value) => value,
        }
    }
}

/// To so many UTF-16 units.
fn truncated(mut text: String, max: usize) -> String {
    if text.len() > max {
        let mut units = 0;
        let end = text.char_indices().find(|(_, c)| {
            units += c.len_utf16();
            units > max
        });
        if let Some((at, _)) = end {
            text.truncate(at);
        }
    }
    text
}

impl Model {
    /// The field of a column: what its schema says, and how its values are made.
    fn field(&self, index: usize, column: &Column, typed: &Typed, mapper: Option<&Mapper>) -> (Schema, Field) {
        let default = column.default.as_deref().and_then(|expression| default::default(expression, typed));
        let optional = !column.not_null;
        let null = match &default {
            _ if optional => Data::Null,
            Some(default) => default.clone(),
            None => typed.decoder.fallback(),
        };
        let mut schema = Schema { optional: optional || typed.schema.optional, default, ..typed.schema.clone() };
        let mapper = mapper.and_then(|mapper| masking(mapper, column, typed, &mut schema));
        let field = Field {
            index,
            column: column.name.clone(),
            decoder: typed.decoder.clone(),
            optional,
            null,
            unchanged: typed.unchanged.clone(),
            mapper,
        };
        (schema, field)
    }
}

/// What a rule does to the values, and to the schema's parameters.
fn masking(mapper: &Mapper, column: &Column, typed: &Typed, schema: &mut Schema) -> Option<Masking> {
    let mut set = |name: &str, value: String| {
        schema.parameters.insert(name.to_owned(), value);
    };
    // Debezium leaves json, xml, uuid, citext and the like as they are; who masks a column wants it masked.
    let text = matches!(typed.decoder, Decoder::Text | Decoder::HstoreJson);
    match mapper {
        Mapper::SourceType => {
            set("__debezium.source.column.type", typed.name.to_uppercase());
            if typed.length != -1 {
                set("__debezium.source.column.length", typed.length.to_string());
            }
            set("__debezium.source.column.scale", typed.scale.to_string());
            set("__debezium.source.column.name", column.name.to_string());
            None
        }
        Mapper::Truncate(max) => {
            let possible = typed.length < 0 || typed.length as usize > *max;
            possible.then(|| {
                set("truncateLength", max.to_string());
                Masking::Truncate(*max)
            })
        }
        Mapper::Mask(_) | Mapper::Hash(_) => {
            set("masked", "true".to_owned());
            match mapper {
                _ if !text => {
                    tracing::warn!(
                        column = &*column.name,
                        r#type = typed.name,
                        "only text can be masked: this column's values go out as they are"
                    );
                    None
                }
                Mapper::Mask(mask) => Some(Masking::Constant(mask.clone())),
                Mapper::Hash(hash) => {
                    let length = usize::try_from(typed.length).ok().filter(|length| *length > 0);
                    Some(Masking::Hash(hash.clone(), length))
                }
                _ => None,
            }
        }
    }
}

//! Records of a batch into the rows of one table.

use super::catalog::{NewColumn, Table, check_name};
use super::change::{Change, Fields, Key};
use super::config::{InsertMode, KeyMode, Settings};
use super::meaning::{Extensions, Meaning, column_type};
use super::names::TableName;
use super::rows::{Kind, Rows};
use super::text;
use super::value::{Dress, Form, encode};
use aqueduct_core::{Data, Schema, Topic};
use rustc_hash::FxHashMap;
use std::sync::Arc;

pub(super) struct Writer {
    pub(super) name: TableName,
    pub(super) table: Table,
    pub(super) rows: Rows,
    plans: FxHashMap<(usize, usize, bool), Plan>,
    /// Of each topic's records without a schema: where the entries of the last value and of the last key went.
    shapes: FxHashMap<Topic, [Vec<Entry>; 2]>,
}

/// Of a map without a schema: what its entry at this place was, and where it went. The next record's entry at that place mostly has the same name.
#[derive(Debug)]
struct Entry {
    name: String,
    to: To,
}

impl Entry {
    fn is(&mut self, name: &str, to: To) {
        if name.len() <= ENTRY_MAX_BYTES {
            self.name.clear();
            self.name.push_str(name);
            self.to = to;
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum To {
    /// Filtered out.
    Nowhere,
    /// The table has no column for it.
    Missing,
    Column {
        index: usize,
        key: bool,
    },
}

/// Where the fields of a schema go. Holds what it is known by, so that no address comes to mean something else.
struct Plan {
    _schema: Arc<Schema>,
    _topic: Topic,
    slots: Vec<Option<(usize, Meaning)>>,
    /// The key's columns, in its order; all of them, where the plan is of a key.
    key: Vec<usize>,
}

/// Plans of a table that are kept; a source has few schemas (invariant 6).
const PLANS_MAX: usize = 256;
/// Entries of a map whose places are kept: no table has more columns (invariant 6).
const ENTRIES_MAX: usize = 1600;
/// Longer names than columns have are not kept; some columns are found by names that are longer in lower case.
const ENTRY_MAX_BYTES: usize = 255;

/// Why a record is not in the rows.
#[derive(Debug)]
pub(super) enum Outcome {
    /// These columns are not there yet.
    Missing(Vec<NewColumn>),
    /// The end of a sentence that begins with "the record": it can never be.
    Refused(String),
}

impl From<String> for Outcome {
    fn from(reason: String) -> Self {
        Outcome::Refused(reason)
    }
}

pub(super) struct Context<'a> {
    pub(super) settings: &'a Settings,
    pub(super) extensions: Extensions,
}

impl Context<'_> {
    fn dress(&self) -> Dress<'_> {
        Dress { placeholder: &self.settings.placeholder, timezone: self.settings.timezone.as_ref() }
    }

    fn named_key(&self, name: &str) -> bool {
        self.settings.key_fields.iter().any(|key| &**key == name)
    }

    /// In the row, the key's own fields are never filtered out.
    fn keeps(&self, topic: &str, field: &str, of_key: bool) -> bool {
        if of_key {
            return self.settings.key_fields.is_empty() || self.named_key(field);
        }
        (self.settings.key_mode == KeyMode::RecordValue && self.named_key(field)) || self.settings.filter.keeps(topic, field)
    }

    fn column_name(&self, field: &str) -> String {
        if self.settings.fold { field.to_lowercase() } else { field.to_owned() }
    }

    fn new_column(&self, field: &str, schema: Option<&Schema>, data: &Data, key: bool) -> NewColumn {
        let default = schema.and_then(|schema| {
            let mut text = String::new();
            let default = schema.default.as_ref().filter(|default| !default.is_null())?;
            text::scalar(default, &Meaning::of(schema), &mut text).ok().map(|()| text)
        });
        NewColumn {
            name: self.column_name(field),
            type_name: schema.map_or_else(|| guess(data).to_owned(), |schema| column_type(schema, self.extensions)),
            // The source may drop the column, or let it be null, later: with `auto.evolve` the table takes that too.
            required: !self.settings.auto_evolve && schema.is_some_and(|schema| !schema.optional),
            default,
            key,
        }
    }
}

/// The column type for a value without a schema.
fn guess(data: &Data) -> &'static str {
    match data {
        Data::Boolean(_) => "boolean",
        Data::Int8(_) | Data::Int16(_) | Data::Int32(_) | Data::Int64(_) => "bigint",
        Data::Float32(_) | Data::Float64(_) => "double precision",
        Data::Bytes(_) => "bytea",
        Data::Array(_) | Data::Map(_) | Data::Struct(_) => "jsonb",
        Data::String(_) | Data::Null | Data::Unavailable => "text",
        Data::Shared(shared) => guess(shared),
    }
}

impl Writer {
    pub(super) fn new(name: TableName, table: Table) -> Self {
        let mut writer = Self { name, table, rows: Rows::default(), plans: FxHashMap::default(), shapes: FxHashMap::default() };
        writer.clear();
        writer
    }

    /// The table changed: nothing that was derived from it holds.
    pub(super) fn replace(&mut self, table: Table) {
        *self = Self::new(self.name.clone(), table);
    }

    /// Ready for the next batch.
    pub(super) fn clear(&mut self) {
        self.rows.reset(self.table.columns.len());
    }

    /// Adds what a record does.
    ///
    /// # Errors
    /// The rows are as before.
    pub(super) fn push(
        &mut self,
        record: u32,
        change: &Change<'_>,
        key: &Key<'_>,
        topic: &Topic,
        cx: &Context<'_>,
    ) -> Result<(), Outcome> {
        let (row, arena) = (self.rows.begin(), self.rows.arena.len());
        let outcome = self.fill(row, change, key, topic, cx);
        match outcome {
            Ok(Some((kind, key))) => self.rows.push(record, kind, &key, row),
            Ok(None) => self.rows.cancel(row, arena),
            Err(outcome) => {
                self.rows.cancel(row, arena);
                return Err(outcome);
            }
        }
        Ok(())
    }

    fn fill(
        &mut self,
        row: usize,
        change: &Change<'_>,
        key: &Key<'_>,
        topic: &Topic,
        cx: &Context<'_>,
    ) -> Result<Option<(Kind, Vec<usize>)>, Outcome> {
        let mut missing = Vec::new();
        let (kind, fields) = match change {
            Change::Skip => return Ok(None),
            Change::Truncate => return Ok(Some((Kind::Truncate, Vec::new()))),
            Change::Write(fields) => (Kind::Write, Some(fields)),
            Change::Delete(before) => (Kind::Delete, before.as_ref()),
        };
        let in_row = matches!(key, Key::InRow);
        if kind == Kind::Delete && in_row {
            // A tombstone names no row then.
            let Some(before) = fields else { return Ok(None) };
            let columns = self.fields(row, before, topic, true, cx, &mut missing)?;
            return if missing.is_empty() { Ok(Some((kind, columns))) } else { Err(Outcome::Missing(missing)) };
        }
        let mut columns = match (kind, fields) {
            (Kind::Write, Some(fields)) => self.fields(row, fields, topic, false, cx, &mut missing)?,
            _ => Vec::new(),
        };
        match key {
            Key::InRow => {}
            Key::None => columns.clear(),
            Key::Fields(fields) => columns = self.fields(row, fields, topic, true, cx, &mut missing)?,
            Key::Named(named) => {
                columns.clear();
                for (name, schema, data) in named {
                    let meaning = schema.map_or(Meaning::Plain, |schema| Meaning::of(schema));
                    self.field(row, name, schema.map(|schema| &**schema), &meaning, data, true, cx, &mut missing)?;
                    columns.extend(self.table.column(name, cx.settings.fold));
                }
            }
        }
        if !missing.is_empty() {
            return Err(Outcome::Missing(in_order(missing)));
        }
        if columns.is_empty() && (kind == Kind::Delete || cx.settings.insert_mode != InsertMode::Insert) {
            return Err("has no field that is a column of the key".to_owned().into());
        }
        Ok(Some((kind, columns)))
    }

    /// Fills cells from fields; returns the columns of the key among them.
    fn fields(
        &mut self,
        row: usize,
        fields: &Fields<'_>,
        topic: &Topic,
        of_key: bool,
        cx: &Context<'_>,
        missing: &mut Vec<NewColumn>,
    ) -> Result<Vec<usize>, Outcome> {
        match fields {
            Fields::Struct(schema, values) => self.structured(row, schema, values, topic, of_key, cx, missing),
            Fields::Map(entries) => self.mapped(row, entries, topic, of_key, cx, missing),
            Fields::Single(schema, data) => {
                let name = match (of_key, &cx.settings.key_fields[..], &cx.settings.value_column) {
                    (true, [name], _) | (false, _, Some(name)) => name.clone(),
                    (true, ..) => {
                        return Err(format!(
                            "has {} as its key, and pk.fields does not name the one column for it",
                            text::kind_of(data)
                        )
                        .into());
                    }
                    (false, ..) => {
                        let kind = text::kind_of(data);
                        return Err(format!(
                            "has {kind} as its value, not fields: set value.converter to a JSON converter, or value.column"
                        )
                        .into());
                    }
                };
                let schema = schema.map(|schema| &**schema);
                let meaning = schema.map_or(Meaning::Plain, Meaning::of);
                self.field(row, &name, schema, &meaning, data, of_key, cx, missing)?;
                Ok(if of_key { self.table.column(&name, cx.settings.fold).into_iter().collect() } else { Vec::new() })
            }
            Fields::Nothing => Err("has nothing in it".to_owned().into()),
        }
    }

    /// As [`Writer::fields`]. Names are looked up only where they are not those of the record before.
    fn mapped(
        &mut self,
        row: usize,
        entries: &[(Data, Data)],
        topic: &Topic,
        of_key: bool,
        cx: &Context<'_>,
        missing: &mut Vec<NewColumn>,
    ) -> Result<Vec<usize>, Outcome> {
        let which = usize::from(of_key);
        let mut shape = self.shapes.get_mut(topic).map(|shapes| std::mem::take(&mut shapes[which])).unwrap_or_default();
        let key = self.entries(&mut shape, row, entries, topic, of_key, cx, missing);
        match self.shapes.get_mut(topic) {
            Some(shapes) => shapes[which] = shape,
            None => {
                if self.shapes.len() >= PLANS_MAX {
                    self.shapes.clear();
                }
                self.shapes.entry(topic.clone()).or_default()[which] = shape;
            }
        }
        self.key_in_order(key?, of_key, missing, cx)
    }

    #[allow(clippy::too_many_arguments, reason = "one step of `mapped`")]
    fn entries(
        &mut self,
        shape: &mut Vec<Entry>,
        row: usize,
        entries: &[(Data, Data)],
        topic: &Topic,
        of_key: bool,
        cx: &Context<'_>,
        missing: &mut Vec<NewColumn>,
    ) -> Result<Vec<usize>, Outcome> {
        let mut columns = Vec::new();
        for (at, (name, value)) in entries.iter().enumerate() {
            let name = name.as_str().ok_or_else(|| "has a field whose name is no text".to_owned())?;
            let to = match shape.get(at) {
                Some(known) if known.name == name => known.to,
                _ => {
                    let (to, known) = (self.place(name, topic, of_key, cx), shape.len());
                    match shape.get_mut(at) {
                        Some(other) => other.is(name, to),
                        None if at < ENTRIES_MAX && name.len() <= ENTRY_MAX_BYTES && at == known => {
                            shape.push(Entry { name: name.to_owned(), to });
                        }
                        None => {}
                    }
                    to
                }
            };
            match to {
                To::Nowhere => {}
                // What an unknown field would hold is not told by null.
                To::Missing if value.is_null() => {}
                To::Missing => {
                    let key = of_key || self.is_key(name, cx);
                    missing.push(cx.new_column(name, None, value, key));
                }
                To::Column { index, key } => {
                    self.put(row, index, name, None, &Meaning::Plain, value, key, cx)?;
                    if key {
                        columns.push(index);
                    }
                }
            }
        }
        Ok(columns)
    }

    /// Where a field without a schema goes.
    fn place(&self, name: &str, topic: &str, of_key: bool, cx: &Context<'_>) -> To {
        if !cx.keeps(topic, name, of_key) {
            return To::Nowhere;
        }
        match self.table.column(name, cx.settings.fold) {
            Some(index) => To::Column { index, key: of_key || self.is_key(name, cx) },
            None => To::Missing,
        }
    }

    fn is_key(&self, name: &str, cx: &Context<'_>) -> bool {
        cx.settings.key_mode == KeyMode::RecordValue && (cx.settings.key_fields.is_empty() || cx.named_key(name))
    }

    /// The key's columns as `pk.fields` orders them.
    fn key_in_order(
        &self,
        found: Vec<usize>,
        of_key: bool,
        missing: &[NewColumn],
        cx: &Context<'_>,
    ) -> Result<Vec<usize>, Outcome> {
        let names = &cx.settings.key_fields;
        if names.is_empty() || !(of_key || cx.settings.key_mode == KeyMode::RecordValue) {
            return Ok(found);
        }
        let mut key = Vec::with_capacity(names.len());
        for name in names {
            match self.table.column(name, cx.settings.fold).filter(|column| found.contains(column)) {
                Some(column) => key.push(column),
                None if missing.iter().any(|column| column.name == cx.column_name(name)) => {}
                None => return Err(format!("has no field {name:?}, which pk.fields names").into()),
            }
        }
        Ok(key)
    }

    #[allow(clippy::too_many_arguments, reason = "one step of `fields`")]
    fn structured(
        &mut self,
        row: usize,
        schema: &Arc<Schema>,
        values: &[Data],
        topic: &Topic,
        of_key: bool,
        cx: &Context<'_>,
        missing: &mut Vec<NewColumn>,
    ) -> Result<Vec<usize>, Outcome> {
        let at = (Arc::as_ptr(schema) as usize, topic.as_ptr() as usize, of_key);
        if !self.plans.contains_key(&at) {
            let already = missing.len();
            let plan = self.plan(schema, topic, of_key, cx, missing)?;
            if missing.len() > already {
                return Ok(plan.key);
            }
            if self.plans.len() >= PLANS_MAX {
                self.plans.clear();
            }
            self.plans.insert(at, plan);
        }
        let Self { plans, rows, table, .. } = self;
        let plan = &plans[&at];
        let dress = cx.dress();
        for ((slot, value), field) in plan.slots.iter().zip(values).zip(&schema.fields) {
            let Some((column, meaning)) = slot else { continue };
            let start = rows.arena.len();
            let form = encode(value, meaning, Some(&field.schema), &table.columns[*column].target, dress, &mut rows.arena)
                .map_err(|reason| format!("cannot be in {}: its field {:?} {reason}", table.name, field.name))?;
            rows.set(row, *column, form, start);
        }
        Ok(plan.key.clone())
    }

    fn plan(
        &self,
        schema: &Arc<Schema>,
        topic: &Topic,
        of_key: bool,
        cx: &Context<'_>,
        missing: &mut Vec<NewColumn>,
    ) -> Result<Plan, Outcome> {
        let (mut slots, mut key) = (Vec::with_capacity(schema.fields.len()), Vec::new());
        for field in &schema.fields {
            if !cx.keeps(topic, &field.name, of_key) {
                slots.push(None);
                continue;
            }
            let is_key = of_key || self.is_key(&field.name, cx);
            match self.table.column(&field.name, cx.settings.fold) {
                Some(column) => {
                    slots.push((!self.table.columns[column].generated).then(|| (column, Meaning::of(&field.schema))));
                    if is_key {
                        key.push(column);
                    }
                }
                None => missing.push(cx.new_column(&field.name, Some(&field.schema), &Data::Null, is_key)),
            }
        }
        let key = self.key_in_order(key, of_key, missing, cx)?;
        Ok(Plan { _schema: schema.clone(), _topic: topic.clone(), slots, key })
    }

    #[allow(clippy::too_many_arguments, reason = "a field is all of these")]
    fn field(
        &mut self,
        row: usize,
        name: &str,
        schema: Option<&Schema>,
        meaning: &Meaning,
        data: &Data,
        is_key: bool,
        cx: &Context<'_>,
        missing: &mut Vec<NewColumn>,
    ) -> Result<(), Outcome> {
        let Some(column) = self.table.column(name, cx.settings.fold) else {
            missing.push(cx.new_column(name, schema, data, is_key));
            return Ok(());
        };
        self.put(row, column, name, schema, meaning, data, is_key, cx)
    }

    #[allow(clippy::too_many_arguments, reason = "one step of `field`")]
    fn put(
        &mut self,
        row: usize,
        column: usize,
        name: &str,
        schema: Option<&Schema>,
        meaning: &Meaning,
        data: &Data,
        is_key: bool,
        cx: &Context<'_>,
    ) -> Result<(), Outcome> {
        let to = &self.table.columns[column];
        if to.generated {
            return Ok(());
        }
        let start = self.rows.arena.len();
        let form = encode(data, meaning, schema, &to.target, cx.dress(), &mut self.rows.arena)
            .map_err(|reason| format!("cannot be in {}: its field {name:?} {reason}", self.table.name))?;
        // The habit of a column is that of its last value.
        self.rows.set(row, column, if form == Form::Absent && is_key { Form::Null } else { form }, start);
        Ok(())
    }
}

/// Key columns first; each once.
fn in_order(columns: Vec<NewColumn>) -> Vec<NewColumn> {
    let mut ordered: Vec<NewColumn> = Vec::with_capacity(columns.len());
    let (key, others): (Vec<_>, Vec<_>) = columns.into_iter().partition(|column| column.key);
    for column in key.into_iter().chain(others) {
        if !ordered.iter().any(|known| known.name == column.name) {
            ordered.push(column);
        }
    }
    ordered
}

/// # Errors
/// Postgres would cut a name.
pub(super) fn check_columns(columns: &[NewColumn]) -> Result<(), String> {
    columns
        .iter()
        .try_for_each(|column| check_name(&column.name).map_err(|reason| format!("has a field that {reason}: {:?}", column.name)))
}

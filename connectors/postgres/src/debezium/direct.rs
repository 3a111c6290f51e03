//! Events that are written as the log will hold them, with no object of their values: rows that were read, inserts, and updates that leave the key.
//! That is nearly all there are; [`TableModel::change`] makes the rest.

use super::event::{Clock, Source, SourceInfo};
use super::table::{Change, Field, TableModel};
use crate::source::options::modes::Operation;
use crate::table::Cell;
use aqueduct_core::{BatchBuilder, Encoder, Error, Fields, Result, Span, Values};

impl TableModel {
    /// Whether the event of this change was appended; if not, it is for [`TableModel::change`], which also knows what to do with values that cannot be
    /// said. `info.block` is used where it is there; the block `transaction` is null.
    pub(crate) fn write(&self, change: Change<'_>, info: &SourceInfo, encoder: &mut dyn Encoder, out: &mut BatchBuilder) -> bool {
        let (op, before, after) = match change {
            Change::Read(row) => ("r", None, row),
            Change::Insert(row) if self.wants(Operation::C) => ("c", None, row),
            Change::Update(old, new) if self.is_plain_update(old, new) => ("u", old, new),
            _ => return false,
        };
        let row = |cells| Row { fields: &self.row, cells };
        if before.is_some_and(|before| before.len() != self.columns) || after.len() != self.columns {
            return false;
        }
        let source = Source { info, context: &self.context, schema: &self.schema, table: &self.table };
        let event = Event { before: before.map(row), after: row(after), source, op, clock: Clock::at(info.now_ns) };
        let write = |out: &mut Vec<u8>| {
            let key = match &self.key_schema {
                Some(schema) => {
                    let key = Row { fields: &self.key, cells: after };
                    Some(span(out, |out| encoder.key(schema, &key, out))?)
                }
                None => None,
            };
            let value = span(out, |out| encoder.value(&self.envelope, &event, out))?;
            Ok([key, Some(value)])
        };
        out.push_encoded(&self.topic, &self.context.headers, write).is_ok()
    }

    /// One event, with both rows as they are.
    fn is_plain_update(&self, old: Option<&[Cell<'_>]>, new: &[Cell<'_>]) -> bool {
        let as_it_is = |old| !self.operations.skip_unchanged && !new.contains(&Cell::Unchanged) && !self.moves_key(old, new);
        self.wants(Operation::U) && old.is_none_or(as_it_is)
    }
}

/// What `write` appends.
fn span(out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>) -> Result<()>) -> Result<Span> {
    let start = out.len();
    write(out)?;
    let place = u32::try_from(start).ok().zip(u32::try_from(out.len() - start).ok());
    let (start, len) = place.ok_or_else(|| Error::fatal("converter.size", "the encoded record is larger than 3 GiB"))?;
    Ok(Span { start, len })
}

/// The fields of a row, made as they are told.
struct Row<'a> {
    fields: &'a [Field],
    cells: &'a [Cell<'a>],
}

impl Fields for Row<'_> {
    fn tell(&self, to: &mut dyn Values) -> Result<()> {
        for field in self.fields {
            match (self.cells[field.index], &field.mapper) {
                (Cell::Text(text), None) => field.decoder.tell(text, to)?,
                (Cell::Null, None) if field.null.is_null() => to.null()?,
                (cell, mapper) => {
                    let value = match cell {
                        Cell::Null => field.null.clone(),
                        Cell::Unchanged => field.unchanged.clone(),
                        Cell::Text(text) => {
                            let unfit = |_| Error::fatal("postgres.value", "not what the schema says");
                            field.decoder.decode(text).map_err(unfit)?
                        }
                    };
                    to.made(match mapper {
                        None => value,
                        Some(mapper) => mapper.apply(value),
                    })?;
                }
            }
        }
        Ok(())
    }
}

/// The envelope's fields.
struct Event<'a> {
    before: Option<Row<'a>>,
    after: Row<'a>,
    source: Source<'a>,
    op: &'static str,
    clock: Clock,
}

impl Fields for Event<'_> {
    fn tell(&self, to: &mut dyn Values) -> Result<()> {
        match &self.before {
            Some(before) => to.fields(before)?,
            None => to.null()?,
        }
        to.fields(&self.after)?;
        match &self.source.info.block {
            Some(block) => to.data(block)?,
            None => to.fields(&self.source)?,
        }
        // The block `transaction`.
        to.null()?;
        to.string(self.op)?;
        to.int64(self.clock.millis())?;
        to.int64(self.clock.micros())?;
        to.int64(self.clock.nanos())
    }
}

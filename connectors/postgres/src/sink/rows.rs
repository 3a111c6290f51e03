//! What a batch does to one table: cells in one buffer, folded by key and grouped into statements.

use super::config::InsertMode;
use super::value::Form;
use rustc_hash::FxHashMap;
use std::ops::Range;

#[derive(Clone, Copy, Debug)]
pub(super) struct Cell {
    pub(super) start: u32,
    pub(super) len: u32,
    pub(super) form: Form,
}

const ABSENT: Cell = Cell { start: 0, len: 0, form: Form::Absent };

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Kind {
    Write,
    Delete,
    Truncate,
}

/// What one record does.
#[derive(Clone, Copy, Debug)]
pub(super) struct Op {
    /// Its place in the batch.
    pub(super) record: u32,
    kind: Kind,
    key_set: u16,
    /// Where its row begins in `cells`.
    row: u32,
}

/// Rows of a table: `width` cells each.
#[derive(Debug, Default)]
pub(super) struct Rows {
    width: usize,
    cells: Vec<Cell>,
    pub(super) arena: Vec<u8>,
    pub(super) ops: Vec<Op>,
    /// Columns that make the key, in the order of the key's fields. Few: one, unless the keys of a topic differ.
    key_sets: Vec<Vec<usize>>,
    /// How a column's values come, which is how its nulls are sent too, so that nulls make no groups of their own.
    habit: Vec<Form>,
}

/// A statement to be.
#[derive(Debug)]
pub(super) enum Step {
    Truncate,
    Write(Group),
    Delete(Group),
}

/// Rows that one statement can take: the same columns, sent in the same form.
#[derive(Debug)]
pub(super) struct Group {
    /// For each column of the table; never `Null`.
    pub(super) forms: Vec<Form>,
    pub(super) key: Vec<usize>,
    rows: Vec<u32>,
}

impl Group {
    pub(super) fn rows(&self) -> &[u32] {
        &self.rows
    }
}

impl Rows {
    /// Forgets all, for a table of so many columns.
    pub(super) fn reset(&mut self, width: usize) {
        self.cells.clear();
        self.arena.clear();
        self.ops.clear();
        self.key_sets.clear();
        if self.width != width {
            self.width = width;
            self.habit = vec![Form::Native; width];
        }
    }

    /// A row with nothing in it yet; returns where it begins.
    pub(super) fn begin(&mut self) -> usize {
        let row = self.cells.len();
        self.cells.resize(row + self.width, ABSENT);
        row
    }

    /// Takes back what `begin` and `set` did.
    pub(super) fn cancel(&mut self, row: usize, arena: usize) {
        self.cells.truncate(row);
        self.arena.truncate(arena);
    }

    /// The bytes from `start` to the end of the arena are this column's.
    pub(super) fn set(&mut self, row: usize, column: usize, form: Form, start: usize) {
        if matches!(form, Form::Native | Form::Text) {
            self.habit[column] = form;
        }
        // A batch is far below 4 GiB: the worker bounds it.
        self.cells[row + column] = Cell { start: start as u32, len: (self.arena.len() - start) as u32, form };
    }

    pub(super) fn push(&mut self, record: u32, kind: Kind, key: &[usize], row: usize) {
        let key_set = match self.key_sets.iter().position(|known| known == key) {
            Some(known) => known,
            None => {
                self.key_sets.push(key.to_vec());
                self.key_sets.len() - 1
            }
        };
        self.ops.push(Op { record, kind, key_set: key_set as u16, row: row as u32 });
    }

    pub(super) fn cell(&self, row: u32, column: usize) -> Cell {
        self.cells[row as usize + column]
    }

    pub(super) fn bytes(&self, cell: Cell) -> &[u8] {
        &self.arena[cell.start as usize..][..cell.len as usize]
    }

    /// The statements for these operations, in their order. Operations of one key are folded to the last, where `mode` lets them; keys are sorted, so
    /// that two tasks never wait for each other.
    pub(super) fn steps(&mut self, range: Range<usize>, mode: InsertMode) -> Vec<Step> {
        let (mut steps, mut from) = (Vec::new(), range.start);
        while from < range.end {
            let first = self.ops[from];
            if first.kind == Kind::Truncate {
                steps.push(Step::Truncate);
                from += 1;
                continue;
            }
            let same = |op: &Op| {
                op.kind != Kind::Truncate && op.key_set == first.key_set && (mode != InsertMode::Insert || op.kind == first.kind)
            };
            let to = self.ops[from..range.end].iter().position(|op| !same(op)).map_or(range.end, |at| from + at);
            self.run(from..to, mode, &mut steps);
            from = to;
        }
        steps
    }

    fn run(&mut self, range: Range<usize>, mode: InsertMode, steps: &mut Vec<Step>) {
        let key = self.key_sets[usize::from(self.ops[range.start].key_set)].clone();
        let (deletes, writes) = if key.is_empty() || mode == InsertMode::Insert {
            let rows = self.ops[range.clone()].iter().map(|op| op.row).collect();
            if self.ops[range.start].kind == Kind::Delete { (rows, Vec::new()) } else { (Vec::new(), rows) }
        } else {
            self.fold(range, &key)
        };
        // The row of a delete has the key and nothing else.
        steps.extend(self.group(deletes, &key).into_iter().map(Step::Delete));
        steps.extend(self.group(writes, &key).into_iter().map(Step::Write));
    }

    fn sent_as(&self, row: u32, column: usize) -> Form {
        match self.cell(row, column).form {
            Form::Null => self.habit[column],
            form => form,
        }
    }

    /// For each key its last state: what to delete, and what to write after that.
    fn fold(&mut self, range: Range<usize>, key: &[usize]) -> (Vec<u32>, Vec<u32>) {
        struct Last {
            deleted: Option<u32>,
            written: Option<u32>,
        }
        let mut keys: Vec<u8> = Vec::new();
        let spans: Vec<Range<usize>> = self.ops[range.clone()]
            .iter()
            .map(|op| {
                let start = keys.len();
                for column in key {
                    let cell = self.cell(op.row, *column);
                    keys.push(cell.form as u8);
                    keys.extend_from_slice(&cell.len.to_be_bytes());
                    keys.extend_from_slice(self.bytes(cell));
                }
                start..keys.len()
            })
            .collect();
        let mut index: FxHashMap<&[u8], usize> = FxHashMap::with_capacity_and_hasher(range.len(), rustc_hash::FxBuildHasher);
        let mut lasts: Vec<(&[u8], Last)> = Vec::with_capacity(range.len());
        for (at, span) in range.zip(spans) {
            let (op, key) = (self.ops[at], &keys[span]);
            let slot = *index.entry(key).or_insert_with(|| {
                lasts.push((key, Last { deleted: None, written: None }));
                lasts.len() - 1
            });
            let last = &mut lasts[slot].1;
            match (op.kind, last.written) {
                (Kind::Delete, _) => *last = Last { deleted: Some(op.row), written: None },
                (_, None) => last.written = Some(op.row),
                (_, Some(earlier)) => last.written = Some(self.merge(earlier, op.row)),
            }
        }
        // The keys of a table are of one set of columns, so bytes order them alike in every task.
        lasts.sort_unstable_by_key(|(key, _)| *key);
        let deletes = lasts.iter().filter_map(|(_, last)| last.deleted).collect();
        let writes = lasts.iter().filter_map(|(_, last)| last.written).collect();
        (deletes, writes)
    }

    /// The later row; where it says nothing, the earlier one still stands. Makes a new row, since a retry with fewer records needs both as they came.
    fn merge(&mut self, earlier: u32, later: u32) -> u32 {
        let complete = (0..self.width)
            .all(|column| self.cell(later, column).form != Form::Absent || self.cell(earlier, column).form == Form::Absent);
        if complete {
            return later;
        }
        let row = self.begin() as u32;
        for column in 0..self.width {
            let cell = self.cell(later, column);
            self.cells[row as usize + column] = if cell.form == Form::Absent { self.cell(earlier, column) } else { cell };
        }
        row
    }

    fn group(&self, rows: Vec<u32>, key: &[usize]) -> Vec<Group> {
        let mut groups: Vec<Group> = Vec::new();
        let mut last = 0;
        for row in rows {
            let same = |group: &Group| group.forms.iter().enumerate().all(|(column, form)| self.sent_as(row, column) == *form);
            if !groups.get(last).is_some_and(same) {
                let forms: Vec<Form> = (0..self.width).map(|column| self.sent_as(row, column)).collect();
                last = groups.iter().position(|group| group.forms == forms).unwrap_or_else(|| {
                    groups.push(Group { forms, key: key.to_vec(), rows: Vec::new() });
                    groups.len() - 1
                });
            }
            groups[last].rows.push(row);
        }
        groups
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    /// What a record does to a table with a key and two columns.
    #[derive(Clone, Debug)]
    enum Do {
        Write(u8, [Option<u8>; 2]),
        Delete(u8),
        Truncate,
    }

    fn rows(what: &[Do]) -> Rows {
        let mut rows = Rows::default();
        rows.reset(3);
        for (index, one) in what.iter().enumerate() {
            let row = rows.begin();
            let set = |rows: &mut Rows, column, byte| {
                let start = rows.arena.len();
                rows.arena.push(byte);
                rows.set(row, column, Form::Native, start);
            };
            let kind = match one {
                Do::Write(key, values) => {
                    set(&mut rows, 0, *key);
                    for (column, value) in values.iter().enumerate() {
                        if let Some(value) = value {
                            set(&mut rows, column + 1, *value);
                        }
                    }
                    Kind::Write
                }
                Do::Delete(key) => {
                    set(&mut rows, 0, *key);
                    Kind::Delete
                }
                Do::Truncate => Kind::Truncate,
            };
            rows.push(index as u32, kind, &[0], row);
        }
        rows
    }

    type Model = BTreeMap<u8, [Option<u8>; 2]>;

    fn upsert(model: &mut Model, key: u8, values: [Option<u8>; 2]) {
        let row = model.entry(key).or_default();
        for (have, value) in row.iter_mut().zip(values) {
            *have = value.or(*have);
        }
    }

    fn by_steps(rows: &mut Rows, range: Range<usize>, model: &mut Model) {
        for step in rows.steps(range, InsertMode::Upsert) {
            match step {
                Step::Truncate => model.clear(),
                Step::Delete(group) => {
                    for row in group.rows() {
                        model.remove(&rows.bytes(rows.cell(*row, 0))[0]);
                    }
                }
                Step::Write(group) => {
                    let mut seen = std::collections::BTreeSet::new();
                    for row in group.rows() {
                        let value = |column| {
                            let cell = rows.cell(*row, column);
                            assert_eq!(cell.form, group.forms[column]);
                            (cell.form == Form::Native).then(|| rows.bytes(cell)[0])
                        };
                        let key = value(0).unwrap();
                        assert!(seen.insert(key), "a key twice in one statement");
                        upsert(model, key, [value(1), value(2)]);
                    }
                }
            }
        }
    }

    proptest! {
        /// Folded and grouped, a batch does what its records do one by one, whole or in two halves.
        #[test]
        fn folding_changes_nothing(what in proptest::collection::vec(prop_oneof![
            8 => (0u8..6, proptest::array::uniform2(proptest::option::of(any::<u8>()))).prop_map(|(key, values)| Do::Write(key, values)),
            3 => (0u8..6).prop_map(Do::Delete),
            1 => Just(Do::Truncate),
        ], 0..40), cut in 0usize..40) {
            let mut expected = Model::new();
            for one in &what {
                match one {
                    Do::Write(key, values) => upsert(&mut expected, *key, *values),
                    Do::Delete(key) => drop(expected.remove(key)),
                    Do::Truncate => expected.clear(),
                }
            }
            let mut rows = rows(&what);
            let mut model = Model::new();
            by_steps(&mut rows, 0..what.len(), &mut model);
            prop_assert_eq!(&model, &expected);
            // Again, as after a refusal: in halves.
            model.clear();
            let cut = cut.min(what.len());
            by_steps(&mut rows, 0..cut, &mut model);
            by_steps(&mut rows, cut..what.len(), &mut model);
            prop_assert_eq!(model, expected);
        }
    }

    #[test]
    fn nulls_make_no_groups_of_their_own() {
        let mut rows = Rows::default();
        rows.reset(2);
        for n in 0..10u8 {
            let row = rows.begin();
            let start = rows.arena.len();
            rows.arena.push(n);
            rows.set(row, 0, Form::Native, start);
            let start = rows.arena.len();
            rows.set(row, 1, if n % 2 == 0 { Form::Null } else { Form::Text }, start);
            rows.push(n.into(), Kind::Write, &[0], row);
        }
        assert_eq!(rows.steps(0..10, InsertMode::Upsert).len(), 1);
        assert_eq!(rows.steps(0..10, InsertMode::Insert).len(), 1);
    }
}

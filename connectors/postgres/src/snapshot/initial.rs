//! Rows that sessions read, made into records: the initial snapshot, and a blocking one.

use super::copy::{self, Places};
use super::incremental::Room;
use super::query::Cut;
use super::reader::{Facts, Job, Message, Options, Readers, View, key_of};
use super::state::Name;
use super::{Encode, Mark, ReadRow};
use crate::table::Table;
use aqueduct_core::{BatchBuilder, Result, TaskContext};
use memchr::memrchr;
use std::sync::Arc;
use tokio::time::Instant;

/// A batch's structured rows weigh several times what they count, and turn into as much JSON: more of them at once leave the CPU's cache, and the allocator
/// gives their memory back and takes it again for each batch. Measured: 1 MiB took four times the kernel's time of this.
pub const BATCH_BYTES: usize = 256 << 10;

/// Of rows that are text already. Measured beside 256 KiB: a tenth less CPU for each row, since fewer threads are woken.
pub const ENCODED_BATCH_BYTES: usize = 1 << 20;

/// Tables that are read in one view of the database.
pub struct Snapshot {
    readers: Option<Readers>,
    pub view: View,
    /// Of the rows: where the stream goes on behind them.
    pub lsn: u64,
    tables: Vec<Reading>,
    /// One session reads all, in order: then the first and the last row of all are known.
    ordered: bool,
    /// A block that is not yet read to its end.
    draining: Option<usize>,
    begun: Instant,
    places: Places,
}

/// One table on its way.
pub struct Reading {
    pub name: Name,
    pub table: Arc<Table>,
    pub facts: Facts,
    cut: Cut,
    block: Vec<u8>,
    at: usize,
    /// Where the last row of the block begins: it is held back until it is known whether it is the table's last.
    last: usize,
    announced: bool,
    /// Sent in this session.
    pub rows: u64,
    pub progress: Progress,
    moved: bool,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub enum Progress {
    #[default]
    Waiting,
    Reading {
        key: Option<Vec<String>>,
        ctid: Option<String>,
    },
    Done,
    Rewritten,
}

impl Snapshot {
    /// Takes the view. `lsn`: of the slot that exported it; its own where there is none.
    ///
    /// # Errors
    /// As [`Readers::start`].
    pub async fn start(options: Options, jobs: Vec<Job>, lsn: Option<u64>) -> Result<Self> {
        let ordered = options.sessions.min(jobs.len()) <= 1;
        let tables = jobs.iter().map(Reading::new).collect();
        let readers = Readers::start(options, jobs).await?;
        let view = readers.view.clone();
        Ok(Self {
            lsn: lsn.unwrap_or(view.lsn),
            view,
            readers: Some(readers),
            tables,
            ordered,
            draining: None,
            begun: Instant::now(),
            places: Places::new(),
        })
    }

    /// The next rows; waits for the first of them. True when there are no more.
    ///
    /// # Errors
    /// `postgres.*`
    pub async fn poll(&mut self, cx: &TaskContext, encode: &mut dyn Encode, out: &mut BatchBuilder) -> Result<bool> {
        let deadline = Instant::now() + cx.wait_max;
        let room = Room { bytes: cx.max_bytes.min(encode.batch_bytes()), records: cx.max_records };
        loop {
            if let Some(index) = self.draining {
                self.drain(index, encode, out, room, None)?;
                if self.draining.is_some() {
                    return Ok(false);
                }
            }
            if !out.is_empty() && room.is_full(out) {
                return Ok(false);
            }
            let Some(readers) = &mut self.readers else { return Ok(true) };
            let message = match readers.ready() {
                Some(message) => Some(message),
                None => {
                    // What is there is sent at once; a first row is waited for.
                    let wait = if out.is_empty() { deadline } else { Instant::now() };
                    tokio::select! {
                        biased;
                        message = readers.next() => message,
                        () = cx.interrupt.cancelled() => return Ok(false),
                        () = tokio::time::sleep_until(wait) => return Ok(false),
                    }
                }
            };
            match message {
                Some(message) => self.take(message?, encode, out, room).await?,
                None => {
                    if let Some(readers) = self.readers.take() {
                        readers.close().await;
                    }
                }
            }
        }
    }

    async fn take(&mut self, message: Message, encode: &mut dyn Encode, out: &mut BatchBuilder, room: Room) -> Result<()> {
        match message {
            Message::Begin { index, table, facts, cut } => {
                let reading = &mut self.tables[index];
                reading.table = table;
                encode.table(&reading.table).await?;
                (reading.facts, reading.cut, reading.moved) = (facts, cut, true);
                if reading.progress == Progress::Waiting {
                    reading.progress = Progress::Reading { key: None, ctid: None };
                }
            }
            Message::Rows { index, bytes } => {
                self.drain(index, encode, out, room, Some(false))?;
                let reading = &mut self.tables[index];
                let body = bytes.len().saturating_sub(1);
                reading.last = memrchr(b'\n', &bytes[..body]).map_or(0, |end| end + 1);
                (reading.block, reading.at) = (bytes, 0);
                self.draining = Some(index);
            }
            Message::End { index } => {
                self.drain(index, encode, out, room, Some(true))?;
                let reading = &mut self.tables[index];
                (reading.progress, reading.moved) = (Progress::Done, true);
                reading.block = Vec::new();
                reading.at = 0;
                tracing::info!(table = format!("{}.{}", reading.name.0, reading.name.1), rows = reading.rows, "table read");
            }
            Message::Rewritten { index } => {
                (self.tables[index].progress, self.tables[index].moved) = (Progress::Rewritten, true);
            }
        }
        Ok(())
    }

    /// Sends rows of the block at hand. `end`: the row that was held back goes too, as the table's last one or not; then no limit holds it up.
    fn drain(
        &mut self,
        index: usize,
        encode: &mut dyn Encode,
        out: &mut BatchBuilder,
        room: Room,
        end: Option<bool>,
    ) -> Result<()> {
        let (first_table, last_table) = (self.ordered && index == 0, self.ordered && index + 1 == self.tables.len());
        let reading = &mut self.tables[index];
        let stop = if end.is_some() { reading.block.len() } else { reading.last };
        // A row of a heap has its place behind its cells.
        let columns = reading.table.columns.len();
        let width = columns + usize::from(reading.cut == Cut::Blocks);
        let mut sent = false;
        while reading.at < stop {
            // Rows of one batch share its limits (invariant 6).
            if end.is_none() && !out.is_empty() && room.is_full(out) {
                break;
            }
            let next = copy::row(&mut reading.block, reading.at, width, &mut self.places)?;
            let mark = mark(first_table, last_table, !reading.announced, end == Some(true));
            let row = ReadRow { mark, lsn: self.lsn, xid: Some(self.view.seen.xmax), time_micros: self.view.time_micros };
            encode.read(&reading.table, &copy::cells(&reading.block, &self.places[..columns]), &row, out)?;
            reading.at = next;
            reading.rows += 1;
            (reading.announced, sent) = (true, true);
        }
        if sent {
            reading.moved = true;
            if let Progress::Reading { key, ctid } = &mut reading.progress {
                match &reading.cut {
                    Cut::Key(columns) => *key = Some(key_of(&reading.block, &self.places, columns)?),
                    Cut::Blocks => *ctid = key_of(&reading.block, &self.places, &[columns])?.pop(),
                    Cut::Whole => {}
                }
            }
        }
        if end.is_none() && reading.at >= stop {
            self.draining = None;
        }
        Ok(())
    }

    /// What moved since this was asked last.
    pub fn take_moved(&mut self) -> impl Iterator<Item = &Reading> {
        self.tables.iter_mut().filter_map(|reading| std::mem::take(&mut reading.moved).then_some(&*reading))
    }

    pub fn tables(&self) -> &[Reading] {
        &self.tables
    }

    pub fn begun(&self) -> Instant {
        self.begun
    }
}

impl Reading {
    fn new(job: &Job) -> Self {
        let resumes = job.after.is_some() || job.ctid.is_some();
        let progress = Progress::Reading { key: job.after.clone(), ctid: job.ctid.as_ref().map(|(ctid, _)| ctid.clone()) };
        Self {
            name: (job.table.schema.clone(), job.table.name.clone()),
            table: job.table.clone(),
            facts: Facts::default(),
            cut: Cut::Whole,
            block: Vec::new(),
            at: 0,
            last: 0,
            announced: resumes,
            rows: 0,
            progress: if resumes { progress } else { Progress::Waiting },
            moved: false,
        }
    }
}

/// As `RelationalSnapshotChangeEventSource.setSnapshotMarker`.
fn mark(first_table: bool, last_table: bool, first: bool, last: bool) -> Mark {
    match (first, last) {
        (_, true) if last_table => Mark::Last,
        (true, _) if first_table => Mark::First,
        (_, true) => Mark::LastInTable,
        (true, _) => Mark::FirstInTable,
        _ => Mark::True,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_are_debeziums() {
        assert_eq!(mark(true, true, true, true), Mark::Last);
        assert_eq!(mark(true, false, true, true), Mark::First);
        assert_eq!(mark(true, false, false, true), Mark::LastInTable);
        assert_eq!(mark(false, true, true, false), Mark::FirstInTable);
        assert_eq!(mark(false, false, false, false), Mark::True);
    }
}

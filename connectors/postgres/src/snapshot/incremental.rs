//! Reading tables in chunks while the stream goes on, after DBLog, but with the transactions that a chunk has seen in place of watermarks.
//!
//! A chunk is read in one transaction, whose view says which transactions it has seen. Its rows are sent when the stream has passed every one of
//! these, so nothing that follows is older than a row. Changes by transactions that the view has *not* seen may be sent before: each takes the row that
//! it replaces out of the chunk. So a row is sent at most once, never after a newer version of itself, and never left out. An update whose event leaves large
//! values out that did not change is put into the chunk's row instead: it follows the event, and has them.
//! Debezium tells the same from rows that it writes into the signal table before and after each chunk; here nothing needs to be written, and so a
//! standby and a role that may only read can do it. Where it may, a logical message moves an idle stream past the view at once.

use super::chunk::{self, Outcome, Told, Wanted, Window};
use super::state::Name;
use super::{Encode, Mark, ReadRow};
use crate::connection::Connect;
use crate::table::{Cell, Table};
use aqueduct_core::{BatchBuilder, Error, Result};
use sqlx::postgres::PgConnection;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

/// Names of rows that the stream changed while a chunk is being read, in bytes (invariant 6). When there are more the chunk is read again.
const NAMES_BYTES_MAX: usize = 16 << 20;
/// Of one chunk, about, in memory.
pub const CHUNK_BYTES: usize = 4 << 20;
/// Between two looks for transactions that must end first.
const LOOK_AGAIN: Duration = Duration::from_millis(200);

type Answer = Result<(PgConnection, Outcome)>;

/// The chunk at hand.
enum Stage {
    Idle,
    /// Not before this time.
    Later(Instant),
    Reading(Box<Reading>),
    Window(Box<Window>),
}

struct Reading {
    task: AbortOnDropHandle<Answer>,
    wanted: Wanted,
    /// Done: taken up by the next [`Chunks::advance`].
    done: Option<Answer>,
    /// What the stream changed meanwhile, and the transaction.
    changed: Vec<(Changed, u32)>,
    changed_bytes: usize,
    /// Too much changed, or it is not known what: the chunk is of no use.
    spoiled: bool,
    /// The columns that name a row; `None` before the table's first chunk.
    identity: Option<Vec<Arc<str>>>,
}

/// What an event does to rows that were read and not yet sent.
enum Changed {
    All,
    /// The row of this name is told as a whole, or gone.
    Replaced(Vec<u8>),
    /// It is told but for large values.
    Updated(Vec<u8>, Told),
}

impl Changed {
    fn bytes(&self) -> usize {
        let told = |told: &Told| told.iter().map(|(_, value)| 40 + value.as_ref().map_or(0, Vec::len)).sum::<usize>();
        match self {
            Changed::All => 0,
            Changed::Replaced(name) => name.len() + 40,
            Changed::Updated(name, values) => name.len() + 40 + told(values),
        }
    }

    fn take_from(self, window: &mut Window) {
        match self {
            Changed::All => window.truncated(),
            Changed::Replaced(name) => window.replaced(&name),
            Changed::Updated(name, told) => window.updated(&name, told),
        }
    }
}

/// One table at a time.
pub struct Chunks {
    connect: Connect,
    session: Option<PgConnection>,
    stage: Stage,
    /// Of the last chunk's table.
    identity: Option<(u32, Vec<Arc<str>>)>,
}

/// What came of a look at the chunk at hand.
#[derive(Debug, PartialEq)]
pub enum Event {
    /// Nothing can be done before the stream moves or the reading ends.
    Waiting,
    /// No chunk is at hand.
    Idle,
    /// Rows were sent, up to this key. `last`: the table is done.
    Sent {
        name: Name,
        key: Option<Vec<String>>,
        until: Option<Vec<String>>,
        rows: u64,
        last: bool,
        estimate: u64,
        row_bytes: usize,
    },
    Gone(Name),
    Keyless(Name),
    /// Transactions that began before the table was captured still run.
    Early,
}

/// How much may be put into a batch.
#[derive(Clone, Copy)]
pub struct Room {
    pub bytes: usize,
    pub records: usize,
}

impl Room {
    pub fn is_full(self, out: &BatchBuilder) -> bool {
        out.bytes() >= self.bytes || out.len() >= self.records
    }
}

impl Chunks {
    pub fn new(connect: Connect) -> Self {
        Self { connect, session: None, stage: Stage::Idle, identity: None }
    }

    /// Begins to read a chunk, if none is at hand.
    pub fn want(&mut self, wanted: impl FnOnce() -> Option<Wanted>) {
        if !matches!(self.stage, Stage::Idle) {
            return;
        }
        let Some(wanted) = wanted() else { return };
        let (connect, session, what) = (self.connect.clone(), self.session.take(), wanted.clone());
        let read = async move {
            let mut session = match session {
                Some(session) => session,
                None => connect.open().await?,
            };
            let outcome = chunk::read(&connect, &mut session, &what).await?;
            Ok((session, outcome))
        };
        #[allow(clippy::disallowed_methods, reason = "the stage owns the handle and aborts it when dropped")]
        let task = AbortOnDropHandle::new(tokio::spawn(read));
        let identity = self.identity.as_ref().filter(|(oid, _)| *oid == wanted.oid).map(|(_, identity)| identity.clone());
        self.stage = Stage::Reading(Box::new(Reading {
            task,
            wanted,
            done: None,
            changed: Vec::new(),
            changed_bytes: 0,
            spoiled: false,
            identity,
        }));
    }

    /// Forgets the chunk at hand: none of it that is not yet sent will be.
    pub fn drop_chunk(&mut self) {
        self.stage = Stage::Idle;
    }

    /// The table of the chunk at hand.
    pub fn table(&self) -> Option<u32> {
        match &self.stage {
            Stage::Reading(reading) => Some(reading.wanted.oid),
            Stage::Window(window) => Some(window.table.oid),
            _ => None,
        }
    }

    /// Resolves when a reading ends or a wait is over; never, where there is neither. Safe to cancel.
    pub async fn changed(&mut self) {
        match &mut self.stage {
            Stage::Reading(reading) if reading.done.is_none() => {
                let done = (&mut reading.task).await;
                reading.done =
                    Some(done.unwrap_or_else(|_| Err(Error::retriable("postgres.chunk", "the reading of a chunk was cut off"))));
            }
            Stage::Reading(_) => {}
            Stage::Later(at) => tokio::time::sleep_until(*at).await,
            Stage::Idle | Stage::Window(_) => std::future::pending().await,
        }
    }

    /// The stream sends a change of a row.
    pub fn change(&mut self, table: &Table, xid: u32, old: Option<&[Cell<'_>]>, new: Option<&[Cell<'_>]>) {
        match &mut self.stage {
            Stage::Reading(reading) if reading.wanted.oid == table.oid => reading.note(table, xid, old, new),
            Stage::Window(window) if window.table.oid == table.oid && !window.view.seen.sees(xid) => {
                match chunk::places(table, &window.identity()).filter(|_| window.fits(table)) {
                    Some(identity) => changes(table, &identity, old, new).for_each(|changed| changed.take_from(window)),
                    // Another version of the table: its rows are read again as they are now.
                    None => self.stage = Stage::Idle,
                }
            }
            _ => {}
        }
    }

    pub fn truncate(&mut self, oid: u32, xid: u32) {
        match &mut self.stage {
            Stage::Reading(reading) if reading.wanted.oid == oid => reading.changed.push((Changed::All, xid)),
            Stage::Window(window) if window.table.oid == oid && !window.view.seen.sees(xid) => window.truncated(),
            _ => {}
        }
    }

    /// The stream has sent everything that committed before `position`: sends what may follow it.
    ///
    /// # Errors
    /// Of the reading: `postgres.*`
    pub async fn advance(
        &mut self,
        position: u64,
        at: &ReadRow,
        encode: &mut dyn Encode,
        room: Room,
        out: &mut BatchBuilder,
    ) -> Result<Event> {
        if let Stage::Reading(reading) = &mut self.stage {
            if reading.done.is_none() && reading.task.is_finished() {
                self.changed().await;
            }
            if let Some(event) = self.finished()? {
                return Ok(event);
            }
        }
        let window = match &mut self.stage {
            Stage::Window(window) if position >= window.view.lsn => window,
            Stage::Idle => return Ok(Event::Idle),
            Stage::Later(at) if Instant::now() >= *at => {
                self.stage = Stage::Idle;
                return Ok(Event::Idle);
            }
            _ => return Ok(Event::Waiting),
        };
        encode.table(&window.table).await?;
        let table = window.table.clone();
        let mut rows = 0;
        while out.is_empty() || !room.is_full(out) {
            let Some(cells) = window.next_row() else { break };
            encode.read(&table, &cells, &ReadRow { mark: Mark::Incremental, ..*at }, out)?;
            rows += 1;
        }
        let sent = window.is_sent();
        let event = Event::Sent {
            name: (table.schema.clone(), table.name.clone()),
            key: window.position()?,
            until: window.until.clone(),
            rows,
            last: sent && window.last,
            estimate: window.estimate,
            row_bytes: window.row_bytes,
        };
        if sent {
            self.stage = Stage::Idle;
        }
        Ok(event)
    }

    /// Takes up what a reading brought.
    fn finished(&mut self) -> Result<Option<Event>> {
        let Stage::Reading(reading) = &mut self.stage else { return Ok(None) };
        let Some(done) = reading.done.take() else { return Ok(Some(Event::Waiting)) };
        let (changed, spoiled, name) = (std::mem::take(&mut reading.changed), reading.spoiled, reading.wanted.name.clone());
        let (guessed, oid) = (reading.identity.take(), reading.wanted.oid);
        self.stage = Stage::Idle;
        let (session, outcome) = done?;
        self.session = Some(session);
        let mut window = match outcome {
            Outcome::Chunk(window) => window,
            Outcome::Gone => return Ok(Some(Event::Gone(name))),
            Outcome::Keyless => return Ok(Some(Event::Keyless(name))),
            Outcome::Early => {
                self.stage = Stage::Later(Instant::now() + LOOK_AGAIN);
                return Ok(Some(Event::Early));
            }
        };
        let identity = window.identity();
        // Changes were noted by columns that were those of the chunk before.
        let unsure = spoiled || (!changed.is_empty() && guessed.as_ref() != Some(&identity));
        self.identity = Some((oid, identity));
        if unsure {
            return Ok(Some(Event::Waiting));
        }
        for (changed, xid) in changed {
            if !window.view.seen.sees(xid) {
                changed.take_from(&mut window);
            }
        }
        self.stage = Stage::Window(window);
        Ok(None)
    }

    pub async fn close(self) {
        if let Some(session) = self.session {
            crate::connection::close(session).await;
        }
    }
}

impl Reading {
    fn note(&mut self, table: &Table, xid: u32, old: Option<&[Cell<'_>]>, new: Option<&[Cell<'_>]>) {
        // Of the first chunk nothing says yet what a row is called; the next try knows.
        let Some(identity) = self.identity.as_ref().and_then(|identity| chunk::places(table, identity)) else {
            self.spoiled = true;
            return;
        };
        for changed in changes(table, &identity, old, new) {
            self.changed_bytes += changed.bytes();
            self.changed.push((changed, xid));
        }
        self.spoiled |= self.changed_bytes > NAMES_BYTES_MAX;
        if self.spoiled {
            self.changed = Vec::new();
        }
    }
}

/// What an event does to the row as it was called before and is called after.
fn changes(
    table: &Table,
    identity: &[usize],
    old: Option<&[Cell<'_>]>,
    new: Option<&[Cell<'_>]>,
) -> impl Iterator<Item = Changed> + use<> {
    let name = |cells: &[Cell<'_>]| chunk::name(identity.iter().map(|index| cells.get(*index).copied().unwrap_or(Cell::Null)));
    let (before, after) = (old.and_then(name), new.and_then(name));
    let changed = match (new.and_then(|new| chunk::told(table, new)), before, after) {
        // With another key the row is one of that name now; whatever had it before was deleted or renamed by an event of its own.
        (Some(told), Some(before), _) => [Some(Changed::Updated(before, told)), None],
        (Some(told), None, Some(after)) => [Some(Changed::Updated(after, told)), None],
        (_, before, after) => [before.map(Changed::Replaced), after.map(Changed::Replaced)],
    };
    changed.into_iter().flatten()
}

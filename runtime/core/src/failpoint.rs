//! Named points in the flow where a test can crash the process or fail a call, and bugs that a test can plant.
//!
//! Armed only by [`arm`], which the binary calls with `AQUEDUCT_FAILPOINTS`. Unarmed, a point costs one relaxed load for each *batch*.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};

/// The gaps of the flow (DESIGN §5). One name for each place where a crash or an error has its own consequence.
pub mod point {
    pub const SOURCE_POLLED: &str = "source.polled";
    pub const SOURCE_APPENDED: &str = "source.appended";
    pub const SOURCE_COMMITTED: &str = "source.committed";
    pub const LOG_DATA_WRITE: &str = "log.data.write";
    pub const LOG_DATA_WRITTEN: &str = "log.data.written";
    pub const LOG_DATA_SYNC: &str = "log.data.sync";
    pub const LOG_JOURNAL_WRITE: &str = "log.journal.write";
    pub const LOG_JOURNAL_WRITTEN: &str = "log.journal.written";
    pub const LOG_JOURNAL_SYNC: &str = "log.journal.sync";
    pub const LOG_COMMITTED: &str = "log.committed";
    pub const LOG_SEGMENT_ROLL: &str = "log.segment.roll";
    pub const LOG_CHECKPOINT_WRITTEN: &str = "log.checkpoint.written";
    pub const LOG_CHECKPOINT_RENAMED: &str = "log.checkpoint.renamed";
    /// The transactional id is fenced, what was open under it is ended.
    pub const KAFKA_OPENED: &str = "kafka.opened";
    /// A Produce request was answered, its transaction is open.
    pub const KAFKA_PRODUCED: &str = "kafka.produced";
    /// Everything of the transaction is written, EndTxn is not sent.
    pub const KAFKA_ENDING: &str = "kafka.ending";
    /// EndTxn is on its way, nobody knows what the broker does with it.
    pub const KAFKA_END_SENT: &str = "kafka.end_sent";
    /// The transaction is committed, nobody has been told.
    pub const KAFKA_ENDED: &str = "kafka.ended";
    pub const SINK_FETCHED: &str = "sink.fetched";
    pub const SINK_PUT: &str = "sink.put";
    pub const SINK_FLUSHED: &str = "sink.flushed";
    pub const SINK_COMMITTED: &str = "sink.committed";
    pub const FILE_SINK_WRITE: &str = "file_sink.write";
    pub const FILE_SINK_SYNC: &str = "file_sink.sync";
    pub const FILE_SINK_ROLLED: &str = "file_sink.rolled";
    pub const FILE_SINK_RENAMED: &str = "file_sink.renamed";

    pub const ALL: &[&str] = &[
        SOURCE_POLLED,
        SOURCE_APPENDED,
        SOURCE_COMMITTED,
        LOG_DATA_WRITE,
        LOG_DATA_WRITTEN,
        LOG_DATA_SYNC,
        LOG_JOURNAL_WRITE,
        LOG_JOURNAL_WRITTEN,
        LOG_JOURNAL_SYNC,
        LOG_COMMITTED,
        LOG_SEGMENT_ROLL,
        LOG_CHECKPOINT_WRITTEN,
        LOG_CHECKPOINT_RENAMED,
        KAFKA_OPENED,
        KAFKA_PRODUCED,
        KAFKA_ENDING,
        KAFKA_END_SENT,
        KAFKA_ENDED,
        SINK_FETCHED,
        SINK_PUT,
        SINK_FLUSHED,
        SINK_COMMITTED,
        FILE_SINK_WRITE,
        FILE_SINK_SYNC,
        FILE_SINK_ROLLED,
        FILE_SINK_RENAMED,
    ];
}

/// Bugs that exist only in builds with debug assertions, so that a test can show that the checker catches them.
pub mod bug {
    /// Commits resolve before anything is written.
    pub const ACK_BEFORE_WRITE: &str = "ack_before_write";
    /// Commits resolve before fdatasync.
    pub const ACK_BEFORE_SYNC: &str = "ack_before_sync";
    /// The source offset is stored one commit before its records.
    pub const OFFSET_BEFORE_RECORD: &str = "offset_before_record";
    /// A sink's positions are stored one commit before the dead letters of what they pass.
    pub const POSITION_BEFORE_LETTER: &str = "position_before_letter";
    /// The directory is not fsynced after a file was created or renamed.
    pub const SKIP_DIR_SYNC: &str = "skip_dir_sync";
    /// A connector does not fdatasync the file that it writes.
    pub const SKIP_FILE_SYNC: &str = "skip_file_sync";
    /// A file that rolls gets its name before its bytes are durable.
    pub const RENAME_BEFORE_SYNC: &str = "rename_before_sync";
    /// Recovery keeps what lies behind the last commit.
    pub const TAIL_NOT_CUT: &str = "tail_not_cut";
    /// Recovery does not write to the segments what only the journal holds.
    pub const NOT_WRITTEN_BACK: &str = "not_written_back";
    /// Recovery drops the last commit.
    pub const TAIL_LOST: &str = "tail_lost";
    /// The sink's position is committed before `put`.
    pub const SINK_COMMIT_BEFORE_PUT: &str = "sink_commit_before_put";
    /// The file sink does not cut its file back.
    pub const SINK_NO_TRUNCATE: &str = "sink_no_truncate";
    /// Two polled batches are appended in the wrong order.
    pub const REORDER: &str = "reorder";
    /// CRCs are not checked on reading.
    pub const CRC_UNCHECKED: &str = "crc_unchecked";

    pub const ALL: &[&str] = &[
        ACK_BEFORE_WRITE,
        ACK_BEFORE_SYNC,
        OFFSET_BEFORE_RECORD,
        POSITION_BEFORE_LETTER,
        SKIP_DIR_SYNC,
        SKIP_FILE_SYNC,
        RENAME_BEFORE_SYNC,
        TAIL_NOT_CUT,
        NOT_WRITTEN_BACK,
        TAIL_LOST,
        SINK_COMMIT_BEFORE_PUT,
        SINK_NO_TRUNCATE,
        REORDER,
        CRC_UNCHECKED,
    ];
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Action {
    Abort,
    /// An OS error number, for this many hits.
    Errno(i32),
}

#[derive(Debug)]
struct Armed {
    action: Action,
    /// The hit (from 1) at which it starts to act.
    first: u64,
    /// How many hits it acts on.
    times: u64,
    hits: AtomicU64,
}

static ARMED: AtomicBool = AtomicBool::new(false);
static PLAN: OnceLock<HashMap<String, Armed>> = OnceLock::new();
static BUGS: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// Arms points from a text such as `log.journal.written=abort@3;log.data.sync=eio@2x5;bug=reorder`: the point, what to do (`abort`, `eio`,
/// `enospc`, `emfile`), at which hit, and for how many hits (1 if not said).
///
/// # Errors
/// A message for the user when the text names an unknown point, action or bug. Called twice, the second plan is ignored.
pub fn arm(text: &str) -> Result<(), String> {
    let mut plan = HashMap::new();
    for item in text.split(';').map(str::trim).filter(|item| !item.is_empty()) {
        let (name, what) = item.split_once('=').ok_or_else(|| format!("{item:?}: expected point=action[@hit[xtimes]]"))?;
        if name == "bug" {
            plant(what)?;
            continue;
        }
        if !point::ALL.contains(&name) {
            return Err(format!("unknown failpoint {name:?}; known: {}", point::ALL.join(", ")));
        }
        let (action, at) = what.split_once('@').unwrap_or((what, "1"));
        let (first, times) = at.split_once('x').unwrap_or((at, "1"));
        let number = |text: &str| text.parse::<u64>().map_err(|_| format!("{item:?}: {text:?} is not a number"));
        let action = match action {
            "abort" => Action::Abort,
            "eio" => Action::Errno(5),
            "enospc" => Action::Errno(28),
            "emfile" => Action::Errno(24),
            other => return Err(format!("unknown action {other:?}; known: abort, eio, enospc, emfile")),
        };
        plan.insert(name.to_owned(), Armed { action, first: number(first)?, times: number(times)?, hits: AtomicU64::new(0) });
    }
    if !plan.is_empty() && PLAN.set(plan).is_ok() {
        ARMED.store(true, Ordering::Release);
    }
    Ok(())
}

/// The flow passes a point. Crashes the process, or returns the OS error number to fail with, when a test said so.
#[inline]
pub fn hit(name: &str) -> Option<i32> {
    if !ARMED.load(Ordering::Relaxed) {
        return None;
    }
    hit_armed(name)
}

/// As [`hit`], as an `io::Result` for `?`.
#[inline]
pub fn hit_io(name: &str) -> std::io::Result<()> {
    hit(name).map_or(Ok(()), |errno| Err(std::io::Error::from_raw_os_error(errno)))
}

#[cold]
#[allow(clippy::print_stderr, reason = "the test harness counts hits by this line; the process dies next")]
fn hit_armed(name: &str) -> Option<i32> {
    let armed = PLAN.get()?.get(name)?;
    let hit = armed.hits.fetch_add(1, Ordering::Relaxed) + 1;
    if hit < armed.first || hit - armed.first >= armed.times {
        return None;
    }
    match armed.action {
        Action::Abort => {
            eprintln!("failpoint {name} hit {hit}: abort");
            std::process::abort();
        }
        Action::Errno(errno) => {
            eprintln!("failpoint {name} hit {hit}: errno {errno}");
            Some(errno)
        }
    }
}

/// Plants a bug of [`bug`]; only in builds with debug assertions.
///
/// # Errors
/// When there is no such bug, or this is a release build.
pub fn plant(name: &str) -> Result<(), String> {
    if !cfg!(debug_assertions) {
        return Err("bugs can be planted in debug builds only".to_owned());
    }
    if !bug::ALL.contains(&name) {
        return Err(format!("unknown bug {name:?}; known: {}", bug::ALL.join(", ")));
    }
    BUGS.lock().unwrap_or_else(PoisonError::into_inner).push(name.to_owned());
    Ok(())
}

/// True when this bug was planted. Always false in release builds, where the optimiser removes the branch.
#[inline]
pub fn planted(name: &str) -> bool {
    cfg!(debug_assertions) && BUGS.lock().unwrap_or_else(PoisonError::into_inner).iter().any(|bug| bug == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_acts_at_its_hits_only() {
        assert!(arm("nonsense=abort").unwrap_err().contains("unknown failpoint"));
        assert!(arm("log.data.sync=explode").unwrap_err().contains("unknown action"));
        arm("log.data.sync=eio@2x2").unwrap();
        let hits: Vec<_> = (0..5).map(|_| hit(point::LOG_DATA_SYNC)).collect();
        assert_eq!(hits, [None, Some(5), Some(5), None, None]);
        assert_eq!(hit(point::LOG_DATA_WRITE), None);
    }
}

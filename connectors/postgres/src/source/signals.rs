//! The channel `file`: signals that someone writes into a file, one a line.

use crate::snapshot::Snapshots;
use aqueduct_core::{Error, Result, Signal, SourceOffset};
use serde_json::Value;
use std::io::ErrorKind;
use std::path::PathBuf;
use std::time::Duration;
use tokio::time::Instant;

/// Taken by a rename, so that what is written meanwhile is in another file; removed when what it asked for is durable, so that a crash loses nothing.
pub struct SignalFile {
    path: PathBuf,
    taken: PathBuf,
    every: Duration,
    next: Instant,
    /// Of the taken file, in bytes: read already.
    read: usize,
    stage: Stage,
}

/// Of the lines that were read.
#[derive(Debug, PartialEq)]
enum Stage {
    Idle,
    /// Carried out; the offsets that say so are not yet on their way.
    Told,
    /// They are durable when this one is.
    Sent(SourceOffset),
}

/// A file of signals is small; what is larger is none (invariant 6).
const BYTES_MAX: u64 = 1 << 20;

impl SignalFile {
    pub fn new(path: &str, every: Duration) -> Self {
        Self {
            path: path.into(),
            taken: format!("{path}.taken").into(),
            every,
            next: Instant::now(),
            read: 0,
            stage: Stage::Idle,
        }
    }

    /// Carries out what is new, where it is time to look.
    ///
    /// # Errors
    /// `postgres.signal_file` (retriable): it cannot be read or renamed.
    pub async fn look(&mut self, snapshots: &mut Snapshots) -> Result<()> {
        if Instant::now() < self.next || self.stage != Stage::Idle {
            return Ok(());
        }
        self.next = Instant::now() + self.every;
        let failed = |error: std::io::Error| {
            Error::retriable("postgres.signal_file", format!("cannot take the signals of {}: {error}", self.path.display()))
                .fix("Give the worker's user the right to rename the file of signal.file in its folder.")
        };
        if !tokio::fs::try_exists(&self.taken).await.map_err(failed)? {
            match tokio::fs::rename(&self.path, &self.taken).await {
                Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
                renamed => renamed.map_err(failed)?,
            }
            self.read = 0;
        }
        if tokio::fs::metadata(&self.taken).await.map_err(failed)?.len() > BYTES_MAX {
            tracing::error!(file = %self.taken.display(), "a file of signals of more than 1 MiB is left alone");
            return Ok(());
        }
        let text = tokio::fs::read(&self.taken).await.map_err(failed)?;
        let new = String::from_utf8_lossy(text.get(self.read..).unwrap_or_default()).into_owned();
        self.read = text.len();
        for line in new.lines().map(str::trim).filter(|line| !line.is_empty()) {
            match parse(line) {
                Some(signal) => match snapshots.signal(&signal) {
                    Ok(()) => tracing::info!(id = signal.id, kind = signal.kind, "signal from the file"),
                    Err(error) => tracing::warn!(id = signal.id, kind = signal.kind, "a line of the file of signals: {error}"),
                },
                None => tracing::warn!(line = line.get(..200).unwrap_or(line), "a line of the file of signals is no signal"),
            }
        }
        self.stage = Stage::Told;
        Ok(())
    }

    /// What a poll returned. `more`: it did not have all that moved.
    pub async fn sent(&mut self, resume: &[SourceOffset], more: bool) {
        if self.stage != Stage::Told {
            return;
        }
        match resume.last() {
            _ if more => {}
            Some(offset) => self.stage = Stage::Sent(offset.clone()),
            // Nothing that a restart would have to know.
            None => self.remove().await,
        }
    }

    /// The log has these.
    pub async fn durable(&mut self, durable: &[SourceOffset]) {
        if matches!(&self.stage, Stage::Sent(offset) if durable.contains(offset)) {
            self.remove().await;
        }
    }

    async fn remove(&mut self) {
        self.stage = Stage::Idle;
        // Whoever had it open may have written more of it: then it is read on.
        let whole = tokio::fs::metadata(&self.taken).await.is_ok_and(|meta| meta.len() == self.read as u64);
        if whole && let Err(error) = tokio::fs::remove_file(&self.taken).await {
            tracing::warn!(file = %self.taken.display(), %error, "signals that were carried out cannot be removed: a restart repeats them");
        }
    }
}

/// `{"id":"1","type":"execute-snapshot","data":{…}}`
fn parse(line: &str) -> Option<Signal> {
    let value: Value = serde_json::from_str(line).ok()?;
    let text = |key: &str| value.get(key).and_then(Value::as_str).map(str::to_owned);
    let data = value.get("data").cloned().unwrap_or(Value::Null);
    Some(Signal { id: text("id").unwrap_or_default(), kind: text("type")?, data })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_as_debeziums_users_write_them() {
        let signal =
            parse(r#"{"id":"1","type":"execute-snapshot","data":{"data-collections":["a.b"],"type":"INCREMENTAL"}}"#).unwrap();
        assert_eq!((signal.id.as_str(), signal.kind.as_str()), ("1", "execute-snapshot"));
        assert_eq!(signal.data["data-collections"][0], "a.b");
        assert!(parse("{}").is_none() && parse("1,execute-snapshot").is_none());
    }
}

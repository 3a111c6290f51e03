//! The lines that a guest writes, by the import `log` or to its standard output: bounded, of one line each, and without the secrets that it was given.

use crate::bindings::runtime::Level;
use crate::error::clean;
use aqueduct_config::providers::Resolved;
use parking_lot::Mutex;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

/// 10 GB of logs cost a counter.
const LINES_A_SECOND: u32 = 100;
const LINE_CHARS: usize = 8 << 10;

pub(crate) struct Lines {
    plugin: Arc<str>,
    /// What `allow.secrets` stands for, once the instance was given it.
    secrets: OnceLock<Resolved>,
    count: Mutex<Count>,
}

struct Count {
    second: Instant,
    told: u32,
    dropped: u64,
}

impl Lines {
    pub(crate) fn new(plugin: Arc<str>) -> Self {
        let count = Mutex::new(Count { second: Instant::now(), told: 0, dropped: 0 });
        Self { plugin, secrets: OnceLock::new(), count }
    }

    pub(crate) fn give(&self, secrets: Resolved) {
        let _ = self.secrets.set(secrets);
    }

    /// None: there are none in this call.
    pub(crate) fn secrets(&self) -> Option<&Resolved> {
        self.secrets.get()
    }

    /// Invariant 9.
    pub(crate) fn redact(&self, text: String) -> String {
        match self.secrets.get() {
            Some(secrets) => secrets.redact(text),
            None => text,
        }
    }

    pub(crate) fn write(&self, level: Level, message: &str) {
        if !self.counted() {
            return;
        }
        // Before it is cut: of a secret that the cut divides the front would stay.
        let message = match self.secrets.get() {
            Some(secrets) => clean(&secrets.redact(message.to_owned()), LINE_CHARS),
            None => clean(message, LINE_CHARS),
        };
        self.emit(level, &message);
    }

    fn emit(&self, level: Level, message: &str) {
        let plugin = &*self.plugin;
        match level {
            Level::Trace => tracing::trace!(plugin, "{message}"),
            Level::Debug => tracing::debug!(plugin, "{message}"),
            Level::Info => tracing::info!(plugin, "{message}"),
            Level::Warn => tracing::warn!(plugin, "{message}"),
            Level::Error => tracing::error!(plugin, "{message}"),
        }
    }

    /// False: it is one too many.
    fn counted(&self) -> bool {
        let mut count = self.count.lock();
        if count.second.elapsed() >= Duration::from_secs(1) {
            if count.dropped > 0 {
                tracing::warn!(plugin = &*self.plugin, dropped = count.dropped, "the plugin logs more than is kept");
            }
            *count = Count { second: Instant::now(), told: 0, dropped: 0 };
        }
        if count.told >= LINES_A_SECOND {
            count.dropped += 1;
            return false;
        }
        count.told += 1;
        true
    }
}

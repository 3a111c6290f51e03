//! Waiting for a condition with a deadline, for the tests of every crate; the only place that pauses.

use std::time::{Duration, Instant};

/// Probes every few milliseconds until it yields, or `None` at the deadline.
pub fn poll_for<T>(deadline: Duration, mut probe: impl FnMut() -> Option<T>) -> Option<T> {
    let end = Instant::now() + deadline;
    loop {
        if let Some(found) = probe() {
            return Some(found);
        }
        if Instant::now() >= end {
            return None;
        }
        pause(Duration::from_millis(10));
    }
}

/// A wait costs no more than what it waits for takes; a loaded machine with a slow disk takes several times what a quiet one does.
const PATIENCE: u32 = 3;

/// As [`poll_for`], for what must happen: waits [`PATIENCE`] times as long as a quiet machine may take.
///
/// # Panics
/// At the deadline, saying what did not happen.
#[track_caller]
pub fn wait_until<T>(deadline: Duration, what: &str, probe: impl FnMut() -> Option<T>) -> T {
    match poll_for(deadline * PATIENCE, probe) {
        Some(found) => found,
        None => panic!("not within {:?}: {what}", deadline * PATIENCE),
    }
}

/// The length of a fault or the moment of a kill is time itself; everything else waits with [`poll_for`].
#[allow(clippy::disallowed_methods, reason = "the interval of poll_for, and kill moments: nothing else may sleep")]
pub fn pause(time: Duration) {
    std::thread::sleep(time);
}

/// A number from the environment (`KILLS=300`), or the default.
///
/// # Panics
/// When it is set and not a number.
pub fn env_number(name: &str, default: u64) -> u64 {
    match std::env::var(name) {
        Ok(text) => text.trim().parse().unwrap_or_else(|_| panic!("{name}={text:?} is not a number")),
        Err(_) => default,
    }
}

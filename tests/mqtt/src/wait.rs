//! Waiting for a condition with a deadline; the only place that pauses.

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

/// As [`poll_for`].
///
/// # Panics
/// At the deadline, saying what did not happen.
#[track_caller]
pub fn wait_until<T>(deadline: Duration, what: &str, probe: impl FnMut() -> Option<T>) -> T {
    match poll_for(deadline, probe) {
        Some(found) => found,
        None => panic!("not within {deadline:?}: {what}"),
    }
}

#[allow(clippy::disallowed_methods, reason = "the interval of poll_for: nothing else may sleep")]
pub(crate) fn pause(time: Duration) {
    std::thread::sleep(time);
}

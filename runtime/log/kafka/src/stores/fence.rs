//! Whether this worker still owns the stores. Once another one does, nothing of this log may be written any more, for good (invariant 5).

use crate::log::Shared;
use aqueduct_core::{Error, Result};
use parking_lot::Mutex;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch as channel;
use tokio::time::{Instant, sleep};

/// One small question to one broker.
const CONFIRM_EVERY: Duration = Duration::from_secs(5);
/// Who has not asked for so long stood still or was cut off: another worker may have taken over meanwhile.
const CONFIRMED_MAX: Duration = Duration::from_secs(12);

pub(crate) struct Fence {
    fenced: channel::Sender<bool>,
    confirmed: Mutex<Instant>,
}

impl Default for Fence {
    fn default() -> Self {
        Self { fenced: channel::Sender::new(false), confirmed: Mutex::new(Instant::now()) }
    }
}

impl Fence {
    pub(super) fn raise(&self) {
        self.fenced.send_replace(true);
    }

    pub(crate) fn is_raised(&self) -> bool {
        *self.fenced.borrow()
    }

    pub(crate) async fn raised(&self) {
        let mut fenced = self.fenced.subscribe();
        // The sender lives as long as this.
        let _ = fenced.wait_for(|fenced| *fenced).await.is_ok();
    }

    fn is_stale(&self, now: Instant) -> bool {
        now.saturating_duration_since(*self.confirmed.lock()) > CONFIRMED_MAX
    }

    fn confirm(&self, asked: Instant) {
        let mut confirmed = self.confirmed.lock();
        *confirmed = confirmed.max(asked);
    }
}

/// Asks the coordinator at intervals, so that who was replaced stops though it writes nothing; then tells every member of this process.
pub(crate) async fn watch(shared: Arc<Shared>) {
    let asking = async {
        loop {
            sleep(CONFIRM_EVERY).await;
            if let Err(error) = confirm(&shared).await {
                tracing::debug!("whether the stores are still ours: {error}");
            }
        }
    };
    tokio::select! {
        () = asking => {}
        () = shared.closed.cancelled() => return,
        () = shared.stores.fence.raised() => {}
    }
    let why = super::broker::fenced(&shared);
    tracing::error!("{why}");
    shared.members.lose_all(&why);
}

async fn confirm(shared: &Arc<Shared>) -> Result<()> {
    let asked = Instant::now();
    shared.stores.writer.confirm(shared).await?;
    shared.stores.fence.confirm(asked);
    Ok(())
}

impl Shared {
    /// # Errors
    /// `log.fenced` (fatal).
    pub(crate) fn not_fenced(&self) -> Result<()> {
        if self.stores.fence.is_raised() { Err(self.why_fenced()) } else { Ok(()) }
    }

    pub(crate) fn why_fenced(&self) -> Error {
        super::broker::fenced(self)
    }

    /// To be called before anything is written: who stood still asks first.
    ///
    /// # Errors
    /// `log.fenced` (fatal); `kafka.unreachable` (retriable) when that could not be found out within `default.api.timeout.ms`.
    pub(crate) async fn confirmed(self: &Arc<Self>) -> Result<()> {
        self.not_fenced()?;
        if self.stores.fence.is_stale(Instant::now()) {
            self.admin.retry(|| confirm(self)).await?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_stood_still_asks_and_who_is_fenced_stays_so() {
        let fence = Fence::default();
        assert!(!fence.is_stale(Instant::now()) && !fence.is_raised());
        let later = Instant::now() + CONFIRMED_MAX + Duration::from_secs(1);
        assert!(fence.is_stale(later));
        fence.confirm(later);
        assert!(!fence.is_stale(later));
        // An old answer turns nothing back.
        fence.confirm(Instant::now());
        assert!(!fence.is_stale(later));
        fence.raise();
        tokio::time::timeout(Duration::from_secs(1), fence.raised()).await.unwrap();
        fence.confirm(Instant::now());
        assert!(fence.is_raised());
    }
}

//! The producers of this process by transactional id: the older is gone before the next one's InitProducerId, and sends nothing into its transactions.

use parking_lot::Mutex;
use rustc_hash::FxHashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

/// So long the older producer may write what it has taken; then it is abandoned, as if its process had died.
const HANDOVER_MAX: Duration = Duration::from_secs(5);
/// So long it may close its connections after that.
const ABANDON_MAX: Duration = Duration::from_secs(1);

#[derive(Default)]
pub(crate) struct LocalProducers(Arc<Mutex<FxHashMap<String, Arc<Tokens>>>>);

#[derive(Default)]
pub(crate) struct Tokens {
    /// Nothing more is taken.
    pub(crate) superseded: CancellationToken,
    /// Nothing more is sent, and what is under way is not awaited.
    pub(crate) abandoned: CancellationToken,
    gone: CancellationToken,
}

/// Of one producer, as long as it may send anything.
pub(crate) struct Registration {
    pub(crate) tokens: Arc<Tokens>,
    id: Option<String>,
    all: Arc<Mutex<FxHashMap<String, Arc<Tokens>>>>,
}

impl LocalProducers {
    /// Waits (bounded) until an older producer of this id is gone; without an id there is none.
    pub(crate) async fn register(&self, id: Option<&str>) -> Registration {
        let tokens = Arc::<Tokens>::default();
        let older = id.and_then(|id| self.0.lock().insert(id.to_owned(), tokens.clone()));
        let registration = Registration { tokens, id: id.map(str::to_owned), all: self.0.clone() };
        if let Some(older) = older {
            older.superseded.cancel();
            if timeout(HANDOVER_MAX, older.gone.cancelled()).await.is_err() {
                older.abandoned.cancel();
                let _ = timeout(ABANDON_MAX, older.gone.cancelled()).await;
            }
        }
        registration
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.tokens.gone.cancel();
        let Some(id) = &self.id else { return };
        let mut all = self.all.lock();
        if all.get(id).is_some_and(|tokens| Arc::ptr_eq(tokens, &self.tokens)) {
            all.remove(id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_older_is_gone_or_abandoned_before_the_next() {
        let producers = LocalProducers::default();
        let first = producers.register(Some("a")).await;
        let (tokens, began) = (first.tokens.clone(), tokio::time::Instant::now());
        // It ends by itself, and the next one waits for that.
        let ending = async {
            tokens.superseded.cancelled().await;
            tokio::time::sleep(Duration::from_secs(2)).await;
            drop(first);
        };
        let (second, ()) = tokio::join!(producers.register(Some("a")), ending);
        assert_eq!((began.elapsed().as_secs(), tokens.abandoned.is_cancelled()), (2, false));
        // It does not end.
        let began = tokio::time::Instant::now();
        let third = producers.register(Some("a")).await;
        assert!(second.tokens.abandoned.is_cancelled() && began.elapsed() <= HANDOVER_MAX + ABANDON_MAX);
        // Its late end is not taken for the third's.
        drop(second);
        let (fourth, ()) = tokio::join!(producers.register(Some("a")), async {
            third.tokens.superseded.cancelled().await;
            drop(third);
        });
        drop(fourth);
        assert!(producers.0.lock().is_empty());
        let (one, _other) = (producers.register(None).await, producers.register(None).await);
        assert!(!one.tokens.superseded.is_cancelled());
    }
}

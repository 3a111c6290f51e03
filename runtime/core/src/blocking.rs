//! A connector's share of the threads for blocking calls, so that one on a mount that hangs starves no other (invariant 10).
//!
//! The worker sets the limit around everything that a connector does; the connector asks for a permit before each `spawn_blocking` and moves it
//! into the closure: a call that hangs keeps its permit, also when its task is gone.

use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

tokio::task_local! {
    static LIMIT: Arc<Semaphore>;
}

/// Held as long as the call runs.
#[derive(Debug)]
pub struct Permit {
    _held: Option<OwnedSemaphorePermit>,
}

/// Runs `work` with this limit on [`permit`].
pub fn limited<T>(limit: Arc<Semaphore>, work: impl Future<Output = T>) -> impl Future<Output = T> {
    LIMIT.scope(limit, work)
}

/// Waits until the connector may make one more blocking call; at once where there is no limit (tests, examples).
pub async fn permit() -> Permit {
    let limit = LIMIT.try_with(Arc::clone).ok();
    let held = match limit {
        // Nobody closes it.
        Some(limit) => limit.acquire_owned().await.ok(),
        None => None,
    };
    Permit { _held: held }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    #[test]
    fn a_permit_is_held_until_the_call_is_over_and_only_where_there_is_a_limit() {
        let mut cx = Context::from_waker(Waker::noop());
        let limit = Arc::new(Semaphore::new(1));
        let mut ready = |limit: &Arc<Semaphore>| match pin!(limited(limit.clone(), permit())).poll(&mut cx) {
            Poll::Ready(permit) => Some(permit),
            Poll::Pending => None,
        };
        let first = ready(&limit).expect("free");
        assert!(ready(&limit).is_none());
        assert!(ready(&Arc::new(Semaphore::new(1))).is_some(), "another connector has its own");
        drop(first);
        assert!(ready(&limit).is_some());
        assert!(matches!(pin!(permit()).poll(&mut cx), Poll::Ready(Permit { _held: None })));
    }
}

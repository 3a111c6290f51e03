//! Signals on their way from an operator to a source's task: a bounded queue, taken between two polls.

use crate::admin::AdminError;
use aqueduct_core::{Result, Signal};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

/// Signals that wait for one task: an operator's, few. More at once are refused (invariant 6).
const QUEUE: usize = 16;
/// A poll ends within its `wait_max` (a second at most) and is asked to end at once: a task that has not taken a signal by then hangs or waits for
/// the log.
const TAKEN_WITHIN: Duration = Duration::from_secs(10);

/// A signal and who waits for the answer; gone when its time was up.
pub(crate) struct Asked {
    pub signal: Signal,
    pub answer: oneshot::Sender<Result<()>>,
}

pub(crate) type SignalSender = mpsc::Sender<Asked>;

/// The queue of one run of a task.
pub(crate) fn queue() -> (SignalSender, mpsc::Receiver<Asked>) {
    mpsc::channel(QUEUE)
}

/// Waits until `task` has taken the signal, within a deadline (invariant 10).
pub(crate) async fn send(task: &str, to: SignalSender, signal: Signal) -> std::result::Result<(), AdminError> {
    let conflict = |why: &str| AdminError::Conflict(format!("{task} {why}"));
    let deadline = Instant::now() + TAKEN_WITHIN;
    let (answer, answered) = oneshot::channel();
    to.try_send(Asked { signal, answer }).map_err(|_| conflict("has too many signals waiting, or has just ended; try again"))?;
    drop(to);
    match tokio::time::timeout_at(deadline, answered).await {
        Ok(Ok(Ok(()))) => Ok(()),
        Ok(Ok(Err(refused))) if refused.is_retriable() => Err(AdminError::Conflict(refused.trace())),
        Ok(Ok(Err(refused))) => Err(AdminError::BadRequest(refused.trace())),
        Ok(Err(_)) => Err(conflict("ended before it took the signal; send it again once it runs")),
        Err(_) => Err(conflict(&format!(
            "did not take the signal within {} s, and will not: it hangs, or waits for the log",
            TAKEN_WITHIN.as_secs()
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use aqueduct_core::Error;

    fn signal() -> Signal {
        Signal { id: "1".to_owned(), kind: "log".to_owned(), data: serde_json::Value::Null }
    }

    #[tokio::test(start_paused = true)]
    async fn every_end_of_a_signal_has_its_answer() {
        let (sender, mut queue) = queue();
        let (_, sent) = tokio::join!(
            async { queue.recv().await.map(|asked| asked.answer.send(Err(Error::fatal("a.b", "no such table")))) },
            send("c-0", sender.clone(), signal())
        );
        assert!(matches!(sent, Err(AdminError::BadRequest(text)) if text.contains("no such table")));
        // A task that hangs: the answer comes, and the signal is not taken afterwards.
        let sent = send("c-0", sender.clone(), signal()).await;
        assert!(matches!(&sent, Err(AdminError::Conflict(text)) if text.contains("within 10 s")), "{sent:?}");
        assert!(queue.recv().await.is_some_and(|asked| asked.answer.is_closed()));
        // A task that ends.
        let (_, sent) = tokio::join!(async { drop(queue.recv().await) }, send("c-0", sender.clone(), signal()));
        assert!(matches!(&sent, Err(AdminError::Conflict(text)) if text.contains("ended before")), "{sent:?}");
        // A queue that is full.
        for _ in 0..QUEUE {
            let _ = sender.try_send(Asked { signal: signal(), answer: oneshot::channel().0 });
        }
        let sent = send("c-0", sender, signal()).await;
        assert!(matches!(&sent, Err(AdminError::Conflict(text)) if text.contains("too many")), "{sent:?}");
    }
}

//! Runs one controller: takes keys off its queue, reconciles several at a time, and puts failed ones back with a
//! delay. A panic is a failure of that key, counted and backed off, never of the process.

use std::collections::HashMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use client::ObjectKey;
use futures::future::BoxFuture;
use tokio::task::{Id, JoinError, JoinSet};
use tokio_util::sync::CancellationToken;

use crate::error::ReconcileError;
use crate::queue::Queue;

/// What is to happen with a key after it was reconciled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// Nothing until something changes.
    Done,
    /// It is to be reconciled again after this time, changed or not.
    After(Duration),
}

impl Next {
    /// After the shorter of two waits, where there are any.
    pub(crate) fn soonest(waits: impl IntoIterator<Item = Option<Duration>>) -> Self {
        waits.into_iter().flatten().min().map_or(Self::Done, Self::After)
    }
}

/// One controller. `reconcile` is given no more than a key: it reads what it needs, and does it again if asked.
pub(crate) trait Reconcile: Send + Sync + 'static {
    fn reconcile(&self, key: ObjectKey) -> impl Future<Output = Result<Next, ReconcileError>> + Send;
}

type Outcome = Result<Next, ReconcileError>;

/// What is done with each key. One type for all controllers, or the loop would be there once for each.
type Work = Box<dyn Fn(ObjectKey) -> BoxFuture<'static, Outcome> + Send + Sync>;

/// Works until `stop`, then lets what is in flight come to its end.
pub(crate) fn run<R: Reconcile>(
    reconciler: Arc<R>,
    queue: Queue,
    workers: usize,
    stop: CancellationToken,
) -> impl Future<Output = ()> {
    let work: Work = Box::new(move |key| {
        let reconciler = reconciler.clone();
        Box::pin(async move { reconciler.reconcile(key).await })
    });
    work_off(work, queue, workers, stop)
}

async fn work_off(work: Work, queue: Queue, workers: usize, stop: CancellationToken) {
    let mut tasks: JoinSet<Outcome> = JoinSet::new();
    let mut keys: HashMap<Id, ObjectKey> = HashMap::new();
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            key = queue.next(), if tasks.len() < workers => {
                let task = tasks.spawn(work(key.clone()));
                keys.insert(task.id(), key);
            }
            Some(ended) = tasks.join_next_with_id() => settle(&queue, &mut keys, ended),
        }
    }
    while let Some(ended) = tasks.join_next_with_id().await {
        settle(&queue, &mut keys, ended);
    }
}

fn settle(queue: &Queue, keys: &mut HashMap<Id, ObjectKey>, ended: Result<(Id, Outcome), JoinError>) {
    let id = ended.as_ref().map_or_else(JoinError::id, |(id, _)| *id);
    let Some(key) = keys.remove(&id) else { return };
    match ended {
        Ok((_, Ok(next))) => {
            queue.succeeded(&key);
            if let Next::After(delay) = next {
                queue.add_after(key, delay);
            }
        }
        Ok((_, Err(error))) => {
            report(queue.name(), &key, &error);
            queue.failed(&key);
        }
        Err(error) => {
            tracing::error!(controller = queue.name(), %key, %error, "reconciliation panicked");
            queue.panicked(&key);
        }
    }
}

fn report(controller: &str, key: &ObjectKey, error: &ReconcileError) {
    let source = std::error::Error::source(error).map(ToString::to_string).unwrap_or_default();
    if error.is_expected() {
        tracing::debug!(controller, %key, %error, source, "reconciliation is to be repeated");
    } else {
        tracing::warn!(controller, %key, %error, source, "reconciliation failed");
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;
    use crate::metrics::{Metrics, QueueLabel};

    struct Flaky {
        calls: Arc<AtomicU32>,
        stop: CancellationToken,
    }

    impl Reconcile for Flaky {
        async fn reconcile(&self, _key: ObjectKey) -> Result<Next, ReconcileError> {
            match self.calls.fetch_add(1, Ordering::SeqCst) {
                0 => panic!("first"),
                1 => Err(ReconcileError::Blocked("second".into())),
                2 => Ok(Next::After(Duration::from_secs(5))),
                _ => {
                    self.stop.cancel();
                    Ok(Next::Done)
                }
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_key_survives_panic_and_failure_and_returns_when_it_asked_to() {
        let (metrics, calls, stop) = (Metrics::default(), Arc::new(AtomicU32::new(0)), CancellationToken::new());
        let queue = Queue::new("flaky", &metrics);
        queue.add(ObjectKey::cluster("a"));
        let started = tokio::time::Instant::now();
        run(Arc::new(Flaky { calls: calls.clone(), stop: stop.clone() }), queue, 2, stop).await;
        assert_eq!(calls.load(Ordering::SeqCst), 4);
        assert!(started.elapsed() >= Duration::from_secs(5));
        assert_eq!(metrics.panics.get_or_create(&QueueLabel { name: "flaky" }).get(), 1);
        assert_eq!(metrics.retries.get_or_create(&QueueLabel { name: "flaky" }).get(), 2);
    }
}

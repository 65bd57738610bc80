//! Delivery of changes to one subscriber. Pending changes are kept per key, as the state last delivered and the
//! newest state, so memory is bounded by the number of objects, the writer never waits, and nothing is lost but
//! intermediate states.

use std::collections::{HashMap, VecDeque};
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use futures::Stream;
use futures::task::AtomicWaker;
use kube::Resource;

use crate::key::ObjectKey;

/// One change of one object. Two objects of the same name with different UIDs are never merged into `Modified`:
/// the old one is `Deleted`, then the new one `Added`.
#[derive(Debug)]
pub enum Change<K> {
    Added(Arc<K>),
    Modified { old: Arc<K>, new: Arc<K> },
    Deleted(Arc<K>),
}

impl<K> Change<K> {
    /// The newest known state: of a deleted object, its last.
    pub fn object(&self) -> &Arc<K> {
        match self {
            Self::Added(object) | Self::Modified { new: object, .. } | Self::Deleted(object) => object,
        }
    }

    /// The state before, where there was one and it differs.
    pub fn old(&self) -> Option<&Arc<K>> {
        match self {
            Self::Modified { old, .. } => Some(old),
            Self::Added(_) | Self::Deleted(_) => None,
        }
    }
}

struct Pending<K> {
    old: Option<Arc<K>>,
    new: Option<Arc<K>>,
}

struct State<K> {
    order: VecDeque<ObjectKey>,
    pending: HashMap<ObjectKey, Pending<K>>,
    closed: bool,
}

/// The writer's end.
pub(super) struct Queue<K> {
    state: Mutex<State<K>>,
    waker: AtomicWaker,
}

impl<K> Queue<K> {
    pub(super) fn new() -> Self {
        let state = State { order: VecDeque::new(), pending: HashMap::new(), closed: false };
        Self { state: Mutex::new(state), waker: AtomicWaker::new() }
    }

    fn lock(&self) -> MutexGuard<'_, State<K>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn push(&self, key: &ObjectKey, old: Option<Arc<K>>, new: Option<Arc<K>>) {
        let mut state = self.lock();
        if let Some(pending) = state.pending.get_mut(key) {
            pending.new = new;
        } else {
            state.order.push_back(key.clone());
            state.pending.insert(key.clone(), Pending { old, new });
        }
        drop(state);
        self.waker.wake();
    }

    pub(super) fn close(&self) {
        self.lock().closed = true;
        self.waker.wake();
    }
}

impl<K: Resource> State<K> {
    fn pop(&mut self) -> Option<Change<K>> {
        while let Some(key) = self.order.pop_front() {
            let Some(Pending { old, new }) = self.pending.remove(&key) else { continue };
            match (old, new) {
                (None, None) => {}
                (None, Some(new)) => return Some(Change::Added(new)),
                (Some(old), None) => return Some(Change::Deleted(old)),
                (Some(old), Some(new)) if old.meta().uid != new.meta().uid => {
                    self.order.push_front(key.clone());
                    self.pending.insert(key, Pending { old: None, new: Some(new) });
                    return Some(Change::Deleted(old));
                }
                (Some(old), Some(new)) => return Some(Change::Modified { old, new }),
            }
        }
        None
    }
}

/// The reader's end: a stream of changes that ends when the informer is stopped.
pub struct Subscription<K> {
    queue: Arc<Queue<K>>,
}

impl<K: Resource> Subscription<K> {
    pub(super) fn new(queue: Arc<Queue<K>>) -> Self {
        Self { queue }
    }

    /// The next change; `None` once the informer is stopped. Cancel-safe.
    pub async fn next(&mut self) -> Option<Change<K>> {
        poll_fn(|cx| self.poll_change(cx)).await
    }

    /// The next change if one is pending.
    pub fn try_next(&mut self) -> Option<Change<K>> {
        self.queue.lock().pop()
    }

    fn poll_change(&self, cx: &Context<'_>) -> Poll<Option<Change<K>>> {
        self.queue.waker.register(cx.waker());
        let mut state = self.queue.lock();
        match state.pop() {
            Some(change) => Poll::Ready(Some(change)),
            None if state.closed => Poll::Ready(None),
            None => Poll::Pending,
        }
    }
}

impl<K: Resource> Stream for Subscription<K> {
    type Item = Change<K>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.poll_change(cx)
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::ConfigMap;

    use super::*;

    fn object(uid: &str) -> Option<Arc<ConfigMap>> {
        let mut object = ConfigMap::default();
        object.metadata.uid = Some(uid.into());
        Some(Arc::new(object))
    }

    fn uid(object: &ConfigMap) -> &str {
        object.metadata.uid.as_deref().unwrap()
    }

    fn subscription() -> (Arc<Queue<ConfigMap>>, Subscription<ConfigMap>) {
        let queue = Arc::new(Queue::new());
        (queue.clone(), Subscription::new(queue))
    }

    #[test]
    fn changes_of_one_key_coalesce_to_the_last_state() {
        let (queue, mut subscription) = subscription();
        let key = ObjectKey::new("ns", "a");
        queue.push(&key, None, object("1"));
        queue.push(&key, object("1"), object("1"));
        assert!(matches!(subscription.try_next(), Some(Change::Added(o)) if uid(&o) == "1"));
        assert!(subscription.try_next().is_none());
    }

    #[test]
    fn an_object_that_came_and_went_unseen_is_no_change() {
        let (queue, mut subscription) = subscription();
        let key = ObjectKey::new("ns", "a");
        queue.push(&key, None, object("1"));
        queue.push(&key, object("1"), None);
        assert!(subscription.try_next().is_none());
    }

    #[test]
    fn a_successor_of_the_same_name_is_a_deletion_and_an_addition() {
        let (queue, mut subscription) = subscription();
        let key = ObjectKey::new("ns", "a");
        queue.push(&key, object("1"), None);
        queue.push(&key, None, object("2"));
        assert!(matches!(subscription.try_next(), Some(Change::Deleted(o)) if uid(&o) == "1"));
        assert!(matches!(subscription.try_next(), Some(Change::Added(o)) if uid(&o) == "2"));
        assert!(subscription.try_next().is_none());
    }

    #[tokio::test]
    async fn a_stopped_informer_ends_the_stream_after_what_is_pending() {
        let (queue, mut subscription) = subscription();
        queue.push(&ObjectKey::new("ns", "a"), None, object("1"));
        queue.close();
        assert!(subscription.next().await.is_some());
        assert!(subscription.next().await.is_none());
    }
}

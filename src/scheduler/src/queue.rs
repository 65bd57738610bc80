//! Pods that wait for a node: those to try now, by priority; those backing off; and those that fit nowhere until
//! something changes. Pure: the time is a parameter.

use crate::state::PodInfo;
use jiff::{SignedDuration, Timestamp};
use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

const FIRST_BACKOFF: SignedDuration = SignedDuration::from_secs(1);
const LAST_BACKOFF: SignedDuration = SignedDuration::from_secs(10);

/// Higher priority first, then the older entry.
type Rank = (Reverse<i32>, u64);

#[derive(Debug)]
struct Waiting {
    pod: Arc<PodInfo>,
    rank: Rank,
    attempts: u32,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Active,
    /// Its turn comes at this time.
    Backoff(Timestamp),
    /// Waits for a change; the time is when its back-off ends.
    Unfit(Timestamp),
}

#[derive(Debug, Default)]
pub(crate) struct Queue {
    /// By uid.
    waiting: HashMap<String, Waiting>,
    active: BTreeMap<Rank, String>,
    sequence: u64,
}

impl Queue {
    /// Adds a pod, or takes over its new state; a changed spec or label makes a pod that fitted nowhere worth another
    /// try, a changed status does not.
    pub(crate) fn put(&mut self, pod: Arc<PodInfo>) {
        let uid = pod.uid().to_owned();
        if let Some(known) = self.waiting.get_mut(&uid)
            && known.pod.pod.spec == pod.pod.spec
            && known.pod.labels() == pod.labels()
        {
            known.pod = pod;
            return;
        }
        let known = self.waiting.remove(&uid);
        if let Some(known) = &known {
            self.active.remove(&known.rank);
        }
        self.sequence += 1;
        let order = known.as_ref().map_or(self.sequence, |known| known.rank.1);
        let rank = (Reverse(pod.priority()), order);
        let (attempts, state) = match known {
            Some(Waiting { attempts, state: State::Backoff(until), .. }) => (attempts, State::Backoff(until)),
            Some(Waiting { attempts, .. }) => (attempts, State::Active),
            None => (0, State::Active),
        };
        if state == State::Active {
            self.active.insert(rank, uid.clone());
        }
        self.waiting.insert(uid, Waiting { pod, rank, attempts, state });
    }

    pub(crate) fn remove(&mut self, uid: &str) {
        if let Some(waiting) = self.waiting.remove(uid) {
            self.active.remove(&waiting.rank);
        }
    }

    /// Takes the next pod to try. It stays known until [`Queue::remove`], [`Queue::unfit`] or [`Queue::retry`].
    pub(crate) fn pop(&mut self) -> Option<Arc<PodInfo>> {
        let (_, uid) = self.active.pop_first()?;
        let waiting = self.waiting.get_mut(&uid)?;
        waiting.attempts += 1;
        Some(waiting.pod.clone())
    }

    /// The pod fits nowhere: it waits for a change.
    pub(crate) fn unfit(&mut self, uid: &str, now: Timestamp) {
        if let Some(waiting) = self.waiting.get_mut(uid) {
            self.active.remove(&waiting.rank);
            waiting.state = State::Unfit(now + backoff(waiting.attempts));
        }
    }

    /// The attempt failed for a reason that time heals (an API error): it is tried again after a back-off.
    pub(crate) fn retry(&mut self, uid: &str, now: Timestamp) {
        if let Some(waiting) = self.waiting.get_mut(uid) {
            self.active.remove(&waiting.rank);
            waiting.state = State::Backoff(now + backoff(waiting.attempts));
        }
    }

    /// Something changed that may let the pods fit for which `concerns` holds.
    pub(crate) fn changed(&mut self, now: Timestamp, concerns: impl Fn(&PodInfo) -> bool) {
        for waiting in self.waiting.values_mut().filter(|waiting| concerns(&waiting.pod)) {
            if let State::Unfit(until) = waiting.state {
                waiting.state = State::Backoff(until);
            }
        }
        self.wake(now);
    }

    /// Moves pods whose back-off is over to the active ones.
    pub(crate) fn wake(&mut self, now: Timestamp) {
        for (uid, waiting) in &mut self.waiting {
            if matches!(waiting.state, State::Backoff(until) if until <= now) {
                waiting.state = State::Active;
                self.active.insert(waiting.rank, uid.clone());
            }
        }
    }

    /// When [`Queue::wake`] next has something to do; `None`: not before a change.
    pub(crate) fn next_wake(&self) -> Option<Timestamp> {
        let until = |waiting: &Waiting| match waiting.state {
            State::Backoff(until) => Some(until),
            State::Active | State::Unfit(_) => None,
        };
        self.waiting.values().filter_map(until).min()
    }
}

fn backoff(attempts: u32) -> SignedDuration {
    let doublings = attempts.saturating_sub(1).min(10);
    FIRST_BACKOFF.saturating_mul(1 << doublings).min(LAST_BACKOFF)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(uid: &str, priority: i32) -> Arc<PodInfo> {
        let pod = json!({"metadata": {"uid": uid}, "spec": {"containers": [], "priority": priority}});
        Arc::new(PodInfo::new(Arc::new(serde_json::from_value(pod).unwrap())))
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn the_more_important_then_the_older_comes_first() {
        let mut queue = Queue::default();
        for (uid, priority) in [("a", 0), ("b", 0), ("c", 9)] {
            queue.put(pod(uid, priority));
        }
        let order: Vec<_> = std::iter::from_fn(|| queue.pop().map(|pod| pod.uid().to_owned())).collect();
        assert_eq!(order, ["c", "a", "b"]);
    }

    #[test]
    fn an_unfit_pod_waits_for_a_change_and_its_backoff() {
        let mut queue = Queue::default();
        queue.put(pod("a", 0));
        queue.pop().unwrap();
        queue.unfit("a", at(100));
        assert_eq!(queue.next_wake(), None, "no timer while nothing changes");
        queue.changed(at(100), |_| true);
        assert!(queue.pop().is_none());
        assert_eq!(queue.next_wake(), Some(at(101)));
        queue.wake(at(101));
        assert!(queue.pop().is_some());
        queue.unfit("a", at(101));
        queue.changed(at(110), |_| true);
        assert!(queue.pop().is_some(), "a change after the back-off acts at once");
    }

    #[test]
    fn a_pod_whose_binding_is_refused_waits_longer_each_time() {
        let mut queue = Queue::default();
        queue.put(pod("a", 0));
        let mut now = at(100);
        for wait in [1, 2, 4, 8, 10, 10] {
            queue.pop().expect("its turn");
            // It comes back as the API has it by now: another state, or even another spec.
            queue.put(pod("a", wait));
            queue.retry("a", now);
            assert!(queue.pop().is_none(), "tried again without a pause");
            assert_eq!(queue.next_wake(), Some(now + SignedDuration::from_secs(i64::from(wait))));
            now += SignedDuration::from_secs(i64::from(wait));
            queue.wake(now);
        }
    }

    #[test]
    fn a_removed_pod_is_not_tried() {
        let mut queue = Queue::default();
        queue.put(pod("a", 0));
        queue.remove("a");
        assert!(queue.pop().is_none());
    }
}

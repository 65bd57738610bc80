//! The registry of pod workers: who looks after which pod, and how to reach them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use k8s_openapi::api::core::v1::Pod;
use tokio::sync::{Notify, watch};

use crate::plan::Verdict;

/// What a worker is to bring about.
#[derive(Clone)]
pub(crate) struct Desired {
    pub(crate) pod: Arc<Pod>,
    /// The API has forgotten the pod.
    pub(crate) gone: bool,
    /// The node has decided against the pod.
    pub(crate) verdict: Option<Verdict>,
}

#[derive(Clone)]
struct Handle {
    desired: watch::Sender<Desired>,
    wake: Arc<Notify>,
}

/// By pod UID.
#[derive(Default)]
pub(crate) struct Workers {
    handles: Mutex<HashMap<String, Handle>>,
}

impl Workers {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, Handle>> {
        self.handles.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hands the pod's newest state to its worker. Without one, what a new worker needs is given back.
    pub(crate) fn update(&self, uid: &str, pod: &Arc<Pod>) -> Option<(watch::Receiver<Desired>, Arc<Notify>)> {
        let mut handles = self.lock();
        if let Some(handle) = handles.get(uid) {
            handle.desired.send_modify(|desired| desired.pod = pod.clone());
            return None;
        }
        let (sender, receiver) = watch::channel(Desired { pod: pod.clone(), gone: false, verdict: None });
        let wake = Arc::new(Notify::new());
        handles.insert(uid.to_owned(), Handle { desired: sender, wake: wake.clone() });
        Some((receiver, wake))
    }

    pub(crate) fn has(&self, uid: &str) -> bool {
        self.lock().contains_key(uid)
    }

    /// Tells the worker that the API has forgotten its pod.
    pub(crate) fn gone(&self, uid: &str, last: &Arc<Pod>) {
        if let Some(handle) = self.lock().get(uid) {
            handle.desired.send_modify(|desired| {
                desired.gone = true;
                desired.pod = last.clone();
            });
        }
    }

    /// Ends the pod by the node's decision.
    pub(crate) fn condemn(&self, uid: &str, verdict: Verdict) {
        if let Some(handle) = self.lock().get(uid) {
            handle.desired.send_modify(|desired| {
                desired.verdict.get_or_insert(verdict);
            });
        }
    }

    pub(crate) fn wake(&self, uid: &str) {
        if let Some(handle) = self.lock().get(uid) {
            handle.wake.notify_one();
        }
    }

    pub(crate) fn wake_all(&self) {
        self.lock().values().for_each(|handle| handle.wake.notify_one());
    }

    pub(crate) fn remove(&self, uid: &str) {
        self.lock().remove(uid);
    }
}

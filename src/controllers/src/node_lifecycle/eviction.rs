//! Deletes pods from nodes with `NoExecute` taints that they do not tolerate, or no longer.

use std::collections::HashMap;
use std::sync::Mutex;

use client::{Change, EventRecorder, EventType, Informer, ObjectKey};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Pod, Taint};
use tokio::time::Instant;

use super::lock;
use super::plan::{Fate, Sentence, judge};
use super::taints::{NO_EXECUTE, taints_of};
use crate::context::{Context, synced};
use crate::disruption_target::{self, Disruption};
use crate::error::ReconcileError;
use crate::runner::{Next, Reconcile};
use crate::{pods, template};

const BY_TAINT: Disruption =
    Disruption { reason: "DeletionByTaintManager", message: "Taint manager: deleting due to NoExecute taint" };

struct Controller {
    context: Context,
    nodes: Informer<Node>,
    pods: Informer<Pod>,
    sentences: Mutex<HashMap<ObjectKey, Sentence>>,
    events: EventRecorder,
}

pub(super) fn start(context: &Context) {
    let (nodes, pods) = (context.informers.of::<Node>(), context.informers.of::<Pod>());
    let queue = context.queue("taint-eviction");
    let at = nodes.clone();
    context.feed(&pods, &queue, move |change| {
        let pod = change.object();
        let node = pods::node_name(pod).and_then(|node| at.get("", node));
        let concerned = matches!(change, Change::Deleted(_)) || node.is_some_and(|node| !evicting(&node).is_empty());
        if concerned { vec![ObjectKey::of(&**pod)] } else { Vec::new() }
    });
    let on = pods.clone();
    context.feed(&nodes, &queue, move |change| {
        let node = change.object();
        let before = change.old().map(|old| evicting(old)).unwrap_or_default();
        if evicting(node) == before {
            return Vec::new();
        }
        on.on_node(node.metadata.name.as_deref().unwrap_or_default()).iter().map(|pod| ObjectKey::of(&**pod)).collect()
    });
    let ready = vec![synced(&nodes), synced(&pods)];
    let events = context.recorder("taint-eviction-controller");
    let controller = Controller { context: context.clone(), nodes, pods, sentences: Mutex::default(), events };
    context.run(queue, controller, ready);
}

fn evicting(node: &Node) -> Vec<&Taint> {
    taints_of(node).iter().filter(|taint| taint.effect == NO_EXECUTE).collect()
}

impl Controller {
    fn judge(&self, key: &ObjectKey, pod: &Pod) -> Fate {
        let node = pods::node_name(pod).and_then(|node| self.nodes.get("", node));
        let taints = node.as_deref().map(evicting).unwrap_or_default();
        let mut sentences = lock(&self.sentences);
        let mut sentence = sentences.remove(key);
        let condemned = sentence.as_ref().map(|s| s.uid.clone());
        let fate = judge(pod, &taints, &mut sentence, Instant::now());
        if let Some(sentence) = sentence {
            sentences.insert(key.clone(), sentence);
        }
        drop(sentences);
        if fate == Fate::Stays && condemned == pod.metadata.uid {
            let message = format!("Cancelling deletion of Pod {key}");
            self.events.event(pod, EventType::Normal, "TaintManagerEviction", message);
        }
        fate
    }

    async fn evict(&self, key: &ObjectKey, pod: &Pod) -> Result<(), ReconcileError> {
        tracing::info!(pod = %key, "deleting pod from tainted node");
        self.events.event(pod, EventType::Normal, "TaintManagerEviction", format!("Marking for deletion Pod {key}"));
        let api = self.context.api::<Pod>(&key.namespace);
        if disruption_target::mark(&api, pod, Some(BY_TAINT), false, Timestamp::now()).await? {
            template::delete_pod(&api, pod).await?;
        }
        Ok(())
    }
}

impl Reconcile for Controller {
    async fn reconcile(&self, key: ObjectKey) -> Result<Next, ReconcileError> {
        let Some(pod) = self.pods.get_key(&key).filter(|pod| !pods::is_terminating(pod)) else {
            lock(&self.sentences).remove(&key);
            return Ok(Next::Done);
        };
        match self.judge(&key, &pod) {
            Fate::Stays => Ok(Next::Done),
            Fate::LeavesIn(left) => Ok(Next::After(left)),
            Fate::Leaves => self.evict(&key, &pod).await.map(|()| Next::Done),
        }
    }
}

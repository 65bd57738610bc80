//! Daemon sets: one pod of a template on every node that fits, and its updates node by node.

mod plan;
mod target;

use std::sync::Arc;

use client::retry::optional;
use client::{Change, EventRecorder, EventType, Informer, ObjectKey};
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{ControllerRevision, DaemonSet};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use serde_json::json;

use crate::context::{Context, synced};
use crate::error::ReconcileError;
use crate::runner::{Next, Reconcile};
use crate::writes::{LOOK_AGAIN, Writes};
use crate::{claim, pods, revisions, template};

struct Controller {
    context: Context,
    sets: Informer<DaemonSet>,
    pods: Informer<Pod>,
    nodes: Informer<Node>,
    revisions: Informer<ControllerRevision>,
    writes: Writes,
    history: Writes,
    events: EventRecorder,
}

pub(crate) fn start(context: &Context) {
    let (sets, pods) = (context.informers.of::<DaemonSet>(), context.informers.of::<Pod>());
    let (nodes, revisions) = (context.informers.of::<Node>(), context.informers.of::<ControllerRevision>());
    let queue = context.queue("daemonset");
    context.feed_own(&sets, &queue);
    let adopters = sets.clone();
    context.feed(&pods, &queue, move |change| {
        claim::owner_keys(change, &adopters, |set| Some(set.spec.as_ref()?.selector.clone()))
    });
    let adopters = sets.clone();
    context.feed(&revisions, &queue, move |change| claim::owner_keys(change, &adopters, |_| None));
    let all = sets.clone();
    context.feed(&nodes, &queue, move |change| sets_concerned(change, &all));
    let ready = vec![synced(&sets), synced(&pods), synced(&nodes), synced(&revisions)];
    let events = context.recorder("daemonset-controller");
    let (writes, history) = (Writes::default(), Writes::default());
    let controller = Controller { context: context.clone(), sets, pods, nodes, revisions, writes, history, events };
    context.run(queue, controller, ready);
}

/// The sets whose answer for a node changed with it.
fn sets_concerned(change: &Change<Node>, sets: &Informer<DaemonSet>) -> Vec<ObjectKey> {
    let differs = |set: &DaemonSet| match change {
        Change::Added(node) => plan::fits(set, node).0,
        Change::Modified { old, new } => plan::fits(set, old) != plan::fits(set, new),
        Change::Deleted(_) => true,
    };
    let quiet = change.old().is_some_and(|old| {
        let new = change.object();
        old.metadata.labels == new.metadata.labels && old.spec == new.spec
    });
    if quiet {
        return Vec::new();
    }
    sets.list().iter().filter(|set| differs(set)).map(|set| ObjectKey::of(&**set)).collect()
}

impl Controller {
    async fn claimed(&self, set: &DaemonSet) -> Result<Vec<Arc<Pod>>, ReconcileError> {
        let meta = &set.metadata;
        let namespace = meta.namespace.as_deref().unwrap_or_default();
        let uid = meta.uid.as_deref().unwrap_or_default();
        let selector = claim::selector(&set.spec.as_ref().map(|s| s.selector.clone()).unwrap_or_default())?;
        let candidates = claim::candidates(&self.pods, namespace, uid);
        let claims = claim::sort(candidates, &selector, uid, meta.deletion_timestamp.is_some());
        claim::settle(&self.context.api(namespace), &self.context.api(namespace), set, claims).await
    }

    /// The hash of the present template, whose revision is stored if it was not.
    async fn present_hash(&self, key: &ObjectKey, set: &DaemonSet) -> Result<String, ReconcileError> {
        let existing = self.revisions.by_owner(set.metadata.uid.as_deref().unwrap_or_default());
        let template = set.spec.as_ref().map(|s| s.template.clone()).unwrap_or_default();
        let collision = set.status.as_ref().and_then(|s| s.collision_count);
        let history = revisions::current(set, &template, collision, &existing)?;
        let api = self.context.api::<ControllerRevision>(&key.namespace);
        match history.change {
            revisions::Change::None => {}
            revisions::Change::Create => {
                let created = api.create(&PostParams::default(), &history.current).await?;
                self.history.wrote(key, &created);
            }
            revisions::Change::Renumber => {
                let patch = Patch::Merge(json!({"revision": history.current.revision}));
                let name = revisions::name(&history.current);
                let written = api.patch(name, &PatchParams::default(), &patch).await?;
                self.history.wrote(key, &written);
            }
        }
        Ok(revisions::hash(&history.current).to_owned())
    }

    async fn trim_history(&self, set: &DaemonSet, owned: &[Arc<Pod>], hash: &str) -> Result<(), ReconcileError> {
        let existing = self.revisions.by_owner(set.metadata.uid.as_deref().unwrap_or_default());
        let used = |revision: &ControllerRevision| {
            let of = revisions::hash(revision);
            of == hash || owned.iter().any(|pod| pods::label(pod, revisions::HASH) == Some(of))
        };
        let limit = set.spec.as_ref().and_then(|s| s.revision_history_limit);
        let api = self.context.api::<ControllerRevision>(set.metadata.namespace.as_deref().unwrap_or_default());
        for revision in revisions::surplus(&existing, used, limit) {
            optional(api.delete(revisions::name(&revision), &DeleteParams::default()).await)?;
        }
        Ok(())
    }

    async fn carry_out(
        &self,
        key: &ObjectKey,
        set: &DaemonSet,
        hash: &str,
        plan: &plan::Plan,
    ) -> Result<(), ReconcileError> {
        let api = self.context.api::<Pod>(&key.namespace);
        for pod in &plan.failed {
            let (name, node) = (pods::name(pod), pods::node_name(pod).unwrap_or_default());
            let failed = pods::is_failed(pod);
            let (word, reason) =
                if failed { ("failed", "FailedDaemonPod") } else { ("succeeded", "SucceededDaemonPod") };
            let kind = if failed { EventType::Warning } else { EventType::Normal };
            let text = format!("Found {word} daemon pod {}/{name} on node {node}, will try to kill it", key.namespace);
            self.events.event(set, kind, reason, text);
        }
        for pod in &plan.delete {
            self.writes.deleted(key, &**pod);
            if let Err(error) = template::delete_pod(&api, pod).await {
                self.writes.forget(key);
                return Err(error.into());
            }
            let text = format!("Deleted pod: {}", pods::name(pod));
            self.events.event(set, EventType::Normal, "SuccessfulDelete", text);
        }
        let pods = plan.create.iter().map(|node| target::pod_for(set, node, hash)).collect();
        let (created, error) = template::create_slowly(&api, pods).await;
        created.iter().for_each(|pod| self.writes.wrote(key, pod));
        template::report_created(&self.events, set, &created, error.as_ref());
        error.map_or(Ok(()), |error| Err(error.into()))
    }
}

impl Reconcile for Controller {
    async fn reconcile(&self, key: ObjectKey) -> Result<Next, ReconcileError> {
        let Some(set) = self.sets.get_key(&key) else {
            self.writes.forget(&key);
            self.history.forget(&key);
            return Ok(Next::Done);
        };
        if set.metadata.deletion_timestamp.is_some() {
            return Ok(Next::Done);
        }
        if !self.history.settled(&key, &self.revisions) || !self.writes.settled(&key, &self.pods) {
            return Ok(Next::After(LOOK_AGAIN));
        }
        let owned = self.claimed(&set).await?;
        let hash = self.present_hash(&key, &set).await?;
        let nodes = self.nodes.list();
        let plan =
            plan::plan(&plan::State { set: &set, nodes: &nodes, pods: &owned, hash: &hash, now: Timestamp::now() });
        let done = self.carry_out(&key, &set, &hash, &plan).await;
        if set.status.as_ref() != Some(&plan.status) {
            let object = DaemonSet { status: Some(plan.status), ..(*set).clone() };
            let api = self.context.api::<DaemonSet>(&key.namespace);
            api.replace_status(&key.name, &PostParams::default(), &object).await?;
        }
        done?;
        self.trim_history(&set, &owned, &hash).await?;
        Ok(Next::soonest([plan.again]))
    }
}

#[cfg(test)]
mod tests;

//! Stateful sets: pods with a name, an order and claims of their own.

mod identity;
mod plan;

use std::sync::Arc;

use client::retry::{is_already_exists, optional};
use client::{EventRecorder, EventType, Informer, ObjectKey};
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{ControllerRevision, StatefulSet};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use serde_json::json;

use crate::context::{Context, synced};
use crate::error::ReconcileError;
use crate::runner::{Next, Reconcile};
use crate::writes::{LOOK_AGAIN, Writes};
use crate::{claim, pods, revisions, template};

struct Controller {
    context: Context,
    sets: Informer<StatefulSet>,
    pods: Informer<Pod>,
    revisions: Informer<ControllerRevision>,
    writes: Writes,
    history: Writes,
    events: EventRecorder,
}

pub(crate) fn start(context: &Context) {
    let (sets, pods) = (context.informers.of::<StatefulSet>(), context.informers.of::<Pod>());
    let revisions = context.informers.of::<ControllerRevision>();
    let queue = context.queue("statefulset");
    context.feed_own(&sets, &queue);
    let adopters = sets.clone();
    context.feed(&pods, &queue, move |change| {
        claim::owner_keys(change, &adopters, |set| Some(set.spec.as_ref()?.selector.clone()))
    });
    let adopters = sets.clone();
    context.feed(&revisions, &queue, move |change| claim::owner_keys(change, &adopters, |_| None));
    let ready = vec![synced(&sets), synced(&pods), synced(&revisions)];
    let events = context.recorder("statefulset-controller");
    let (writes, history) = (Writes::default(), Writes::default());
    let controller = Controller { context: context.clone(), sets, pods, revisions, writes, history, events };
    context.run(queue, controller, ready);
}

impl Controller {
    /// The pods it owns. One whose name is not of this set is never adopted.
    async fn claimed(&self, set: &StatefulSet) -> Result<Vec<Arc<Pod>>, ReconcileError> {
        let meta = &set.metadata;
        let namespace = meta.namespace.as_deref().unwrap_or_default();
        let uid = meta.uid.as_deref().unwrap_or_default();
        let selector = claim::selector(&set.spec.as_ref().map(|s| s.selector.clone()).unwrap_or_default())?;
        let mut candidates = claim::candidates(&self.pods, namespace, uid);
        candidates.retain(|pod| identity::ordinal(set, pod).is_some());
        let claims = claim::sort(candidates, &selector, uid, meta.deletion_timestamp.is_some());
        claim::settle(&self.context.api(namespace), &self.context.api(namespace), set, claims).await
    }

    /// The revision of the present template, stored if it was not.
    async fn present(&self, key: &ObjectKey, set: &StatefulSet) -> Result<ControllerRevision, ReconcileError> {
        let existing = self.revisions.by_owner(set.metadata.uid.as_deref().unwrap_or_default());
        let template = set.spec.as_ref().map(|s| s.template.clone()).unwrap_or_default();
        let collision = set.status.as_ref().and_then(|s| s.collision_count).filter(|count| *count > 0);
        let history = revisions::current(set, &template, collision, &existing)?;
        let api = self.context.api::<ControllerRevision>(&key.namespace);
        match history.change {
            revisions::Change::None => return Ok(history.current),
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
        Ok(history.current)
    }

    /// The revision in force before the present update: the present one if there was none.
    fn before(&self, set: &StatefulSet, present: &ControllerRevision) -> ControllerRevision {
        let name = set.status.as_ref().and_then(|s| s.current_revision.as_deref()).unwrap_or_default();
        let existing = self.revisions.by_owner(set.metadata.uid.as_deref().unwrap_or_default());
        let found = existing.iter().find(|revision| revisions::name(revision) == name);
        found.map_or_else(|| present.clone(), |revision| (**revision).clone())
    }

    async fn make(
        &self,
        key: &ObjectKey,
        set: &StatefulSet,
        make: &plan::Make,
        revision: &ControllerRevision,
    ) -> Result<(), ReconcileError> {
        let claims = self.context.api::<PersistentVolumeClaim>(&key.namespace);
        for claim in identity::claims_of(set, make.ordinal) {
            match claims.create(&PostParams::default(), &claim).await {
                Err(error) if is_already_exists(&error) => {}
                other => drop(other?),
            }
        }
        let own = set.spec.as_ref().map(|s| s.template.clone()).unwrap_or_default();
        let template = if make.updated { own } else { identity::template_of(revision).unwrap_or(own) };
        let pod = identity::pod(set, &template, revisions::hash(revision), make.ordinal);
        let name = pods::name(&pod).to_owned();
        let set_name = &key.name;
        match self.context.api::<Pod>(&key.namespace).create(&PostParams::default(), &pod).await {
            Ok(created) => {
                self.writes.wrote(key, &created);
                let text = format!("create Pod {name} in StatefulSet {set_name} successful");
                self.events.event(set, EventType::Normal, "SuccessfulCreate", text);
                Ok(())
            }
            Err(error) => {
                let text = template::message(&error);
                let text = format!("create Pod {name} in StatefulSet {set_name} failed error: {text}");
                self.events.event(set, EventType::Warning, "FailedCreate", text);
                Err(error.into())
            }
        }
    }

    async fn delete(&self, key: &ObjectKey, set: &StatefulSet, pod: &Pod) -> Result<(), ReconcileError> {
        let (name, set_name) = (pods::name(pod), &key.name);
        if pods::is_terminal(pod) {
            let text = format!("StatefulSet {}/{set_name} is recreating failed Pod {name}", key.namespace);
            self.events.event(set, EventType::Warning, "RecreatingFailedPod", text);
        }
        self.writes.deleted(key, pod);
        template::delete_pod(&self.context.api(&key.namespace), pod).await?;
        let text = format!("delete Pod {name} in StatefulSet {set_name} successful");
        self.events.event(set, EventType::Normal, "SuccessfulDelete", text);
        Ok(())
    }

    async fn trim_history(&self, set: &StatefulSet, owned: &[Arc<Pod>], keep: [&str; 2]) -> Result<(), ReconcileError> {
        let existing = self.revisions.by_owner(set.metadata.uid.as_deref().unwrap_or_default());
        let used = |revision: &ControllerRevision| {
            let of = revisions::hash(revision);
            keep.contains(&of) || owned.iter().any(|pod| pods::label(pod, revisions::HASH) == Some(of))
        };
        let limit = set.spec.as_ref().and_then(|s| s.revision_history_limit);
        let api = self.context.api::<ControllerRevision>(set.metadata.namespace.as_deref().unwrap_or_default());
        for revision in revisions::surplus(&existing, used, limit) {
            optional(api.delete(revisions::name(&revision), &DeleteParams::default()).await)?;
        }
        Ok(())
    }
}

impl Reconcile for Controller {
    async fn reconcile(&self, key: ObjectKey) -> Result<Next, ReconcileError> {
        let Some(set) = self.sets.get_key(&key) else {
            self.writes.forget(&key);
            self.history.forget(&key);
            return Ok(Next::Done);
        };
        if !self.history.settled(&key, &self.revisions) || !self.writes.settled(&key, &self.pods) {
            return Ok(Next::After(LOOK_AGAIN));
        }
        let owned = self.claimed(&set).await?;
        let present = self.present(&key, &set).await?;
        let before = self.before(&set, &present);
        let (current, update) = (revisions::hash(&before), revisions::hash(&present));
        let state = plan::State { set: &set, pods: &owned, current, update, now: Timestamp::now() };
        let plan = plan::plan(&state);
        if set.status.as_ref() != Some(&plan.status) {
            let object = StatefulSet { status: Some(plan.status), ..(*set).clone() };
            let api = self.context.api::<StatefulSet>(&key.namespace);
            api.replace_status(&key.name, &PostParams::default(), &object).await?;
        }
        for make in &plan.create {
            self.make(&key, &set, make, if make.updated { &present } else { &before }).await?;
        }
        for pod in &plan.delete {
            self.delete(&key, &set, pod).await?;
        }
        self.trim_history(&set, &owned, [current, update]).await?;
        Ok(Next::soonest([plan.again]))
    }
}

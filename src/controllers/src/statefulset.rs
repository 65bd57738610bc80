//! Stateful sets: pods with lasting names and volumes, made, scaled and updated in order. Names are fixed, so a pod
//! cannot be made twice; but what was deleted has to show as deleted before more is.

#[cfg(test)]
mod fixture;
mod identity;
mod plan;
mod retention;
mod status;

use std::sync::Arc;

use client::Api;
use client::retry::{is_already_exists, optional};
use client::{EventRecorder, EventType, Informer, ObjectKey};
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{ControllerRevision, StatefulSet, StatefulSetStatus};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, PodTemplateSpec};
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use serde_json::json;

use self::plan::{Step, Version, View};
use crate::context::{Context, synced};
use crate::error::ReconcileError;
use crate::runner::{Next, Reconcile};
use crate::writes::{LOOK_AGAIN, Writes};
use crate::{claim, pods, revisions, template};

struct Controller {
    context: Context,
    sets: Informer<StatefulSet>,
    pods: Informer<Pod>,
    claims: Informer<PersistentVolumeClaim>,
    revisions: Informer<ControllerRevision>,
    writes: Writes,
    events: EventRecorder,
}

pub(crate) fn start(context: &Context) {
    let (sets, pods) = (context.informers.of::<StatefulSet>(), context.informers.of::<Pod>());
    let (claims, revisions) = (context.informers.of(), context.informers.of());
    let queue = context.queue("statefulset");
    context.feed_own(&sets, &queue);
    let owners = sets.clone();
    context.feed(&pods, &queue, move |change| {
        claim::owner_keys(change, &owners, |set: &StatefulSet| set.spec.as_ref().map(|s| s.selector.clone()))
    });
    let ready = vec![synced(&sets), synced(&pods), synced(&claims), synced(&revisions)];
    let events = context.recorder("statefulset-controller");
    let writes = Writes::default();
    context.run(queue, Controller { context: context.clone(), sets, pods, claims, revisions, writes, events }, ready);
}

/// The template that a revision stores.
fn template_of(revision: &ControllerRevision) -> Result<PodTemplateSpec, serde_json::Error> {
    let mut stored = revision.data.as_ref().map(|data| data.0["spec"]["template"].clone()).unwrap_or_default();
    if let Some(fields) = stored.as_object_mut() {
        fields.remove("$patch");
    }
    objects::decode::decode(stored).map_err(serde::de::Error::custom)
}

fn uid(set: &StatefulSet) -> &str {
    set.metadata.uid.as_deref().unwrap_or_default()
}

impl Controller {
    async fn owned_pods(&self, key: &ObjectKey, set: &StatefulSet) -> Result<Vec<Arc<Pod>>, ReconcileError> {
        let selector = claim::selector(&set.spec.as_ref().map(|s| s.selector.clone()).unwrap_or_default())?;
        let mut candidates = claim::candidates(&self.pods, &key.namespace, uid(set));
        candidates.retain(|pod| identity::ordinal(set, pods::name(pod)).is_some());
        let claims = claim::sort(candidates, &selector, uid(set), set.metadata.deletion_timestamp.is_some());
        claim::settle(&self.context.api(&key.namespace), &self.context.api(&key.namespace), set, claims).await
    }

    async fn owned_revisions(
        &self,
        key: &ObjectKey,
        set: &StatefulSet,
    ) -> Result<Vec<Arc<ControllerRevision>>, ReconcileError> {
        let selector = claim::selector(&set.spec.as_ref().map(|s| s.selector.clone()).unwrap_or_default())?;
        let mut candidates = claim::candidates(&self.revisions, &key.namespace, uid(set));
        let ours = |revision: &ControllerRevision| revisions::name(revision).strip_prefix(&key.name).is_some();
        candidates.retain(|revision| ours(revision));
        let claims = claim::sort(candidates, &selector, uid(set), set.metadata.deletion_timestamp.is_some());
        claim::settle(&self.context.api(&key.namespace), &self.context.api(&key.namespace), set, claims).await
    }

    /// The current and the new revision; the new one is stored if it was not.
    async fn versions(
        &self,
        key: &ObjectKey,
        set: &StatefulSet,
        existing: &[Arc<ControllerRevision>],
    ) -> Result<(Version, Version), ReconcileError> {
        let template = set.spec.as_ref().map(|s| s.template.clone()).unwrap_or_default();
        let collisions = set.status.as_ref().and_then(|s| s.collision_count).filter(|count| *count > 0);
        let history = revisions::current(set, &template, collisions, existing)?;
        let name = revisions::name(&history.current).to_owned();
        let api = self.context.api::<ControllerRevision>(&key.namespace);
        match history.change {
            revisions::Change::None => {}
            revisions::Change::Create => match api.create(&PostParams::default(), &history.current).await {
                Err(error) if is_already_exists(&error) => self.check_collision(set, &api, &name).await?,
                other => drop(other?),
            },
            revisions::Change::Renumber => {
                let patch = Patch::Merge(json!({"revision": history.current.revision}));
                api.patch(&name, &PatchParams::default(), &patch).await?;
            }
        }
        let update = Version { name, template };
        let recorded = set.status.as_ref().and_then(|s| s.current_revision.as_deref());
        let current = match existing.iter().find(|r| Some(revisions::name(r)) == recorded) {
            Some(revision) => Version { name: revisions::name(revision).to_owned(), template: template_of(revision)? },
            None => update.clone(),
        };
        Ok((current, update))
    }

    /// A revision of our name that is not ours makes us take another name; our own is one we do not see yet.
    async fn check_collision(
        &self,
        set: &StatefulSet,
        api: &Api<ControllerRevision>,
        name: &str,
    ) -> Result<(), ReconcileError> {
        let stored = api.get(name).await?;
        if claim::is_controlled_by(&stored.metadata, uid(set)) {
            return Ok(());
        }
        let mut status = set.status.clone().unwrap_or_default();
        status.collision_count = Some(status.collision_count.unwrap_or(0) + 1);
        self.write_status(set, status).await?;
        Err(ReconcileError::Blocked(format!("the name {name} is taken by another controller's revision")))
    }

    async fn write_status(&self, set: &StatefulSet, status: StatefulSetStatus) -> Result<(), ReconcileError> {
        if set.status.as_ref() == Some(&status) {
            return Ok(());
        }
        let written = StatefulSet { status: Some(status), ..set.clone() };
        let key = ObjectKey::of(set);
        let api = self.context.api::<StatefulSet>(&key.namespace);
        optional(api.replace_status(&key.name, &PostParams::default(), &written).await)?;
        Ok(())
    }

    /// Sets the owners of the claims of all pods there are.
    async fn settle_claims(&self, key: &ObjectKey, view: &View<'_>) -> Result<(), ReconcileError> {
        let wanted = view.wanted.iter().filter_map(|(ordinal, pod)| pod.as_ref().map(|pod| (*ordinal, pod, false)));
        let condemned = view.condemned.iter().map(|(ordinal, pod)| (*ordinal, pod, true));
        let api = self.context.api::<PersistentVolumeClaim>(&key.namespace);
        for (ordinal, pod, condemned) in wanted.chain(condemned) {
            for name in identity::claim_names(view.set, ordinal) {
                let Some(claim) = self.claims.get(&key.namespace, &name) else { continue };
                let Some(references) = retention::references(view.set, pod, condemned, &claim) else { continue };
                let meta = &claim.metadata;
                let patch = Patch::Merge(json!({"metadata": {
                    "uid": meta.uid, "resourceVersion": meta.resource_version, "ownerReferences": references
                }}));
                optional(api.patch(&name, &PatchParams::default(), &patch).await)?;
            }
        }
        Ok(())
    }

    async fn carry_out(&self, key: &ObjectKey, view: &View<'_>) -> Result<(), ReconcileError> {
        if view.set.metadata.deletion_timestamp.is_none() {
            self.settle_claims(key, view).await?;
        }
        for step in view.steps() {
            match step {
                Step::Create { ordinal, pod } => self.create(key, view.set, ordinal, *pod).await?,
                Step::Claims { ordinal, pod } => self.ensure_claims(key, view.set, ordinal, pods::name(&pod)).await?,
                Step::ScaleDown { ordinal, pod } => {
                    tracing::debug!(set = %key, ordinal, "scaling down");
                    self.delete(key, view.set, &pod).await?;
                }
                Step::Update(pod) => self.delete(key, view.set, &pod).await?,
                Step::Replace(pod) => {
                    let (reason, word) = if pods::is_failed(&pod) {
                        ("RecreatingFailedPod", "failed")
                    } else {
                        ("RecreatingTerminatedPod", "terminated")
                    };
                    let message = format!("StatefulSet {key} is recreating {word} Pod {}", pods::name(&pod));
                    self.events.event(view.set, EventType::Warning, reason, message);
                    self.delete(key, view.set, &pod).await?;
                }
                Step::Repair(pod) => {
                    let api = self.context.api::<Pod>(&key.namespace);
                    let done = optional(api.replace(pods::name(&pod), &PostParams::default(), &pod).await);
                    self.tell(view.set, "Update", "update", pods::name(&pod), done.as_ref().err());
                    done?;
                }
            }
        }
        Ok(())
    }

    async fn create(&self, key: &ObjectKey, set: &StatefulSet, ordinal: i32, pod: Pod) -> Result<(), ReconcileError> {
        self.ensure_claims(key, set, ordinal, pods::name(&pod)).await?;
        let created = self.context.api::<Pod>(&key.namespace).create(&PostParams::default(), &pod).await;
        match created {
            Ok(pod) => {
                self.writes.wrote(key, &pod);
                self.tell(set, "Create", "create", pods::name(&pod), None);
                Ok(())
            }
            Err(error) => {
                if !is_already_exists(&error) {
                    self.tell(set, "Create", "create", pods::name(&pod), Some(&error));
                }
                Err(error.into())
            }
        }
    }

    async fn ensure_claims(
        &self,
        key: &ObjectKey,
        set: &StatefulSet,
        ordinal: i32,
        pod: &str,
    ) -> Result<(), ReconcileError> {
        let api = self.context.api::<PersistentVolumeClaim>(&key.namespace);
        for claim in identity::claims(set, ordinal) {
            let name = claim.metadata.name.as_deref().unwrap_or_default();
            if let Some(found) = self.claims.get(&key.namespace, name) {
                let pod_exists = self.pods.get(&key.namespace, pod).is_some();
                if found.metadata.deletion_timestamp.is_some() || (!pod_exists && retention::is_stale(pod, &found)) {
                    return Err(ReconcileError::Blocked(format!("pvc {name} is being deleted")));
                }
                continue;
            }
            let (kind, reason, message) = match api.create(&PostParams::default(), &claim).await {
                Err(error) if is_already_exists(&error) => continue,
                Err(error) => {
                    let why = template::message(&error);
                    let text =
                        format!("create Claim {name} for Pod {pod} in StatefulSet {} failed error: {why}", key.name);
                    self.events.event(set, EventType::Warning, "FailedCreate", text);
                    return Err(error.into());
                }
                Ok(_) => {
                    let text = format!("create Claim {name} Pod {pod} in StatefulSet {} success", key.name);
                    (EventType::Normal, "SuccessfulCreate", text)
                }
            };
            self.events.event(set, kind, reason, message);
        }
        Ok(())
    }

    async fn delete(&self, key: &ObjectKey, set: &StatefulSet, pod: &Pod) -> Result<(), ReconcileError> {
        self.writes.deleted(key, pod);
        let deleted = template::delete_pod(&self.context.api::<Pod>(&key.namespace), pod).await;
        self.tell(set, "Delete", "delete", pods::name(pod), deleted.as_ref().err());
        if deleted.is_err() {
            self.writes.forget(key);
        }
        deleted?;
        Ok(())
    }

    fn tell(&self, set: &StatefulSet, noun: &str, verb: &str, pod: &str, error: Option<&kube::Error>) {
        let name = identity::name(set);
        match error {
            None => {
                let message = format!("{verb} Pod {pod} in StatefulSet {name} successful");
                self.events.event(set, EventType::Normal, &format!("Successful{noun}"), message);
            }
            Some(error) => {
                let why = template::message(error);
                let message = format!("{verb} Pod {pod} in StatefulSet {name} failed error: {why}");
                self.events.event(set, EventType::Warning, &format!("Failed{noun}"), message);
            }
        }
    }

    async fn trim_history(
        &self,
        view: &View<'_>,
        owned: &[Arc<Pod>],
        existing: &[Arc<ControllerRevision>],
    ) -> Result<(), ReconcileError> {
        let used = |revision: &ControllerRevision| {
            let name = revisions::name(revision);
            name == view.current.name || name == view.update.name || owned.iter().any(|p| plan::revision_of(p) == name)
        };
        let limit = view.set.spec.as_ref().and_then(|s| s.revision_history_limit);
        let namespace = view.set.metadata.namespace.as_deref().unwrap_or_default();
        let api = self.context.api::<ControllerRevision>(namespace);
        for revision in revisions::surplus(existing, used, limit) {
            optional(api.delete(revisions::name(&revision), &DeleteParams::default()).await)?;
        }
        Ok(())
    }
}

impl Reconcile for Controller {
    async fn reconcile(&self, key: ObjectKey) -> Result<Next, ReconcileError> {
        let Some(set) = self.sets.get_key(&key) else {
            self.writes.forget(&key);
            return Ok(Next::Done);
        };
        let settled = self.writes.settled(&key, &self.pods);
        let owned = self.owned_pods(&key, &set).await?;
        let existing = self.owned_revisions(&key, &set).await?;
        let (current, update) = self.versions(&key, &set, &existing).await?;
        let view = View::new(&set, (&current, &update), &owned, Timestamp::now());
        let carried = if settled { self.carry_out(&key, &view).await } else { Ok(()) };
        let collisions = set.status.as_ref().and_then(|s| s.collision_count);
        let (status, next) = status::status(&view, collisions);
        self.write_status(&set, status).await?;
        self.trim_history(&view, &owned, &existing).await?;
        carried?;
        Ok(Next::soonest([next, (!settled).then_some(LOOK_AGAIN)]))
    }
}

#[cfg(test)]
mod tests;

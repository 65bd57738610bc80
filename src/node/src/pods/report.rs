//! Tells the API a pod's status: the newest only, and only what differs from what it knows.
//!
//! A task of its own per pod, so that a slow or absent API server never holds up the pod.

use std::sync::Arc;
use std::time::Duration;

use client::Api;
use k8s_openapi::api::core::v1::{Pod, PodStatus};
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::context::Context;
use crate::status::conditions::is_own;

/// Conditions of others in the status are theirs to write.
const OWNED: [&str; 5] = ["PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled"];

/// How long the states of a pod that does not run yet are gathered.
const MOMENT: Duration = Duration::from_millis(200);

pub(super) struct Reporter {
    wanted: watch::Sender<Wanted>,
    /// Counts the statuses the API has.
    told: watch::Receiver<Told>,
    _stop: DropGuard,
}

#[derive(Clone, Default)]
struct Wanted {
    status: PodStatus,
    /// Revision of a pod whose conditions somebody else overwrote: the status is to be told again.
    contradicted: u64,
}

#[derive(Clone, Default)]
struct Told {
    status: PodStatus,
    /// The pod's revision with that status.
    revision: u64,
    /// The API does not know the pod any more.
    gone: bool,
}

impl Reporter {
    pub(super) fn start(context: &Arc<Context>, pod: &Pod) -> Reporter {
        let known = pod.status.clone().unwrap_or_default();
        let (wanted, receiver) = watch::channel(Wanted { status: known.clone(), contradicted: 0 });
        let (sender, told) = watch::channel(Told { status: known, revision: revision(pod), gone: false });
        let stop = context.stop.child_token();
        let guard = CancellationToken::clone(&stop).drop_guard();
        let task = run(context.clone(), Identity::of(pod), receiver, sender);
        context.tasks.spawn(async move { stop.run_until_cancelled(task).await });
        Reporter { wanted, told, _stop: guard }
    }

    /// `pod` is what the API holds; the node lifecycle controller, for one, writes conditions of a node it gave up.
    pub(super) fn report(&self, pod: &Pod, status: &PodStatus) {
        let newer = revision(pod);
        let overwritten = newer > self.told.borrow().revision && pod.status.as_ref().is_some_and(|s| differ(status, s));
        self.wanted.send_if_modified(|wanted| {
            let differs = wanted.status != *status;
            if differs {
                wanted.status.clone_from(status);
            }
            let again = overwritten && wanted.contradicted < newer;
            if again {
                wanted.contradicted = newer;
            }
            differs || again
        });
    }

    /// Waits until the API has the last status; false when it has forgotten the pod.
    pub(super) async fn flush(&mut self) -> bool {
        let wanted = self.wanted.borrow().status.clone();
        let known = self.told.wait_for(|told| told.gone || told.status == wanted).await.map(|told| !told.gone);
        match known {
            Ok(known) => known,
            // The node is stopping: what is left to do for the pod is for its next life.
            Err(_) => std::future::pending().await,
        }
    }
}

struct Identity {
    namespace: String,
    name: String,
    uid: String,
}

impl Identity {
    fn of(pod: &Pod) -> Identity {
        let text = |field: &Option<String>| field.clone().unwrap_or_default();
        let meta = &pod.metadata;
        Identity { namespace: text(&meta.namespace), name: text(&meta.name), uid: text(&meta.uid) }
    }
}

async fn run(context: Arc<Context>, pod: Identity, mut wanted: watch::Receiver<Wanted>, told: watch::Sender<Told>) {
    let api: Api<Pod> = Api::namespaced(context.client.clone(), &pod.namespace);
    let mut pause = Duration::from_millis(100);
    loop {
        let Wanted { status, contradicted } = wanted.borrow_and_update().clone();
        let Told { status: known, revision: at, .. } = told.borrow().clone();
        if status != known || contradicted > at {
            let body = Patch::Strategic(patch(&pod.uid, &known, &status));
            match api.patch_status(&pod.name, &PatchParams::default(), &body).await {
                Ok(written) => {
                    pause = Duration::from_millis(100);
                    told.send_modify(|told| {
                        told.status = status;
                        told.revision = revision(&written).max(contradicted);
                    });
                    continue;
                }
                // 409: the name is another pod's now.
                Err(kube::Error::Api(error)) if matches!(error.code, 404 | 409) => {
                    told.send_modify(|told| told.gone = true);
                    return;
                }
                Err(error) => {
                    tracing::debug!(namespace = %pod.namespace, name = %pod.name, error = %error, "cannot write a pod's status");
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(Duration::from_secs(10));
                    continue;
                }
            }
        }
        if wanted.changed().await.is_err() {
            return;
        }
        let known = told.borrow().status.clone();
        settle(&mut wanted, &known).await;
    }
}

/// A pod that starts passes through several states within a moment, and so does a container that is replaced. Of those
/// the API is told the last: each write costs the store a flush, and the one that matters would wait behind the others.
async fn settle(wanted: &mut watch::Receiver<Wanted>, known: &PodStatus) {
    let arrived = wanted.wait_for(|wanted| !is_on_its_way(&wanted.status, known));
    // Whether it has arrived or not: now is the time.
    drop(tokio::time::timeout(MOMENT, arrived).await);
}

/// Whether the pod is starting, or one of its containers, running as the API knows, has just ended or begins anew.
fn is_on_its_way(status: &PodStatus, known: &PodStatus) -> bool {
    let runs = |status: &PodStatus, name: &str| {
        let mut containers = status.container_statuses.iter().flatten();
        containers.any(|c| c.name == name && c.state.as_ref().is_some_and(|state| state.running.is_some()))
    };
    match status.phase.as_deref() {
        Some("Pending") => true,
        Some("Running") => {
            let mut containers = status.container_statuses.iter().flatten();
            containers.any(|c| runs(known, &c.name) && !runs(status, &c.name))
        }
        _ => false,
    }
}

fn revision(pod: &Pod) -> u64 {
    pod.metadata.resource_version.as_deref().and_then(|text| text.parse().ok()).unwrap_or(0)
}

/// Whether the API holds another condition than the node has.
fn differ(own: &PodStatus, stored: &PodStatus) -> bool {
    let owned = stored.conditions.iter().flatten().filter(|c| OWNED.contains(&c.type_.as_str()));
    owned.into_iter().any(|condition| {
        let own = own.conditions.iter().flatten().find(|c| c.type_ == condition.type_);
        own.is_some_and(|own| own.status != condition.status)
    })
}

/// The patch from one status to the next. Others' conditions are left out; lists that shrink are replaced.
fn patch(uid: &str, known: &PodStatus, status: &PodStatus) -> Value {
    let mut body = to_value(status);
    let before = to_value(known);
    if let Some(conditions) = body.get_mut("conditions").and_then(Value::as_array_mut) {
        let text = |c: &Value, field: &str| c.get(field).and_then(Value::as_str).map(str::to_owned);
        conditions.retain(|c| text(c, "type").is_some_and(|kind| is_own(&kind, text(c, "reason").as_deref())));
        // What is merged by type keeps the words of the former state, unless they are taken back.
        let former = before.get("conditions").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
        for condition in conditions.iter_mut() {
            let same = former.iter().find(|c| c.get("type") == condition.get("type")).and_then(Value::as_object);
            let said = same.into_iter().flat_map(|c| c.keys()).filter(|f| matches!(f.as_str(), "reason" | "message"));
            if let Some(condition) = condition.as_object_mut() {
                for field in said {
                    condition.entry(field).or_insert(Value::Null);
                }
            }
        }
    }
    for list in ["podIPs", "hostIPs"] {
        let changed = before.get(list).is_some_and(|b| Some(b) != body.get(list));
        if changed && let Some(items) = body.get_mut(list).and_then(Value::as_array_mut) {
            items.insert(0, json!({"$patch": "replace"}));
        }
    }
    if let (Some(new), Some(old)) = (body.as_object_mut(), before.as_object()) {
        // The node does not write what others put there, and clears what it put there itself.
        new.remove("resourceClaimStatuses");
        new.remove("nominatedNodeName");
        for field in old.keys().filter(|f| matches!(f.as_str(), "reason" | "message" | "podIP" | "podIPs")) {
            new.entry(field).or_insert(Value::Null);
        }
    }
    json!({"metadata": {"uid": uid}, "status": body})
}

fn to_value(status: &PodStatus) -> Value {
    // A status is plain data: it always has a JSON form.
    serde_json::to_value(status).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(value: Value) -> PodStatus {
        serde_json::from_value(value).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn states_on_the_way_are_gathered_and_the_arrival_is_told_at_once() {
        let began = tokio::time::Instant::now();
        let in_phase = |phase: &str| Wanted { status: status(json!({"phase": phase})), contradicted: 0 };
        let (sender, mut receiver) = watch::channel(in_phase("Pending"));
        settle(&mut receiver, &PodStatus::default()).await;
        assert_eq!(began.elapsed(), MOMENT);
        let waiting = tokio::spawn(async move { settle(&mut receiver, &PodStatus::default()).await });
        tokio::task::yield_now().await;
        sender.send_replace(in_phase("Running"));
        waiting.await.unwrap();
        assert_eq!(began.elapsed(), MOMENT);
    }

    #[test]
    fn a_container_between_two_lives_is_waited_for_and_one_that_stays_away_is_told_once() {
        let with = |phase: &str, state: Value| {
            status(json!({"phase": phase, "containerStatuses": [{"name": "c", "image": "", "imageID": "",
                "ready": false, "restartCount": 0, "state": state}]}))
        };
        let (running, ended) = (json!({"running": {}}), json!({"terminated": {"exitCode": 0}}));
        let creating = json!({"waiting": {"reason": "ContainerCreating"}});
        let known = with("Running", running.clone());
        assert!(is_on_its_way(&with("Running", ended.clone()), &known));
        assert!(is_on_its_way(&with("Running", creating), &known));
        assert!(!is_on_its_way(&with("Running", running), &known));
        assert!(!is_on_its_way(&with("Failed", ended.clone()), &known));
        assert!(!is_on_its_way(&with("Running", ended.clone()), &with("Running", ended)));
    }

    #[test]
    fn others_conditions_are_not_written() {
        let new =
            status(json!({"conditions": [{"type": "Ready", "status": "True"}, {"type": "mine", "status": "True"}]}));
        let body = patch("u", &PodStatus::default(), &new);
        assert_eq!(body["metadata"]["uid"], "u");
        assert_eq!(body["status"]["conditions"].as_array().unwrap().len(), 1);
    }

    #[test]
    fn a_condition_that_holds_again_says_no_longer_why_it_did_not() {
        let old = status(json!({"conditions": [{"type": "Ready", "status": "False", "reason": "r", "message": "m"}]}));
        let new = status(json!({"conditions": [{"type": "Ready", "status": "True"}]}));
        let body = patch("u", &old, &new);
        let ready = &body["status"]["conditions"][0];
        assert_eq!((ready.get("reason"), ready.get("message")), (Some(&Value::Null), Some(&Value::Null)));
        assert!(patch("u", &new, &new)["status"]["conditions"][0].get("reason").is_none());
    }

    #[test]
    fn an_overwritten_condition_is_noticed() {
        let ready = |holds: &str| status(json!({"conditions": [{"type": "Ready", "status": holds}]}));
        assert!(differ(&ready("True"), &ready("False")));
        assert!(!differ(&ready("True"), &ready("True")));
        assert!(!differ(&ready("True"), &status(json!({"conditions": [{"type": "mine", "status": "False"}]}))));
    }

    #[test]
    fn a_new_address_replaces_the_old_one() {
        let old = status(json!({"podIP": "1.1.1.1", "podIPs": [{"ip": "1.1.1.1"}], "reason": "x"}));
        let new = status(json!({"podIP": "1.1.1.2", "podIPs": [{"ip": "1.1.1.2"}]}));
        let body = patch("u", &old, &new);
        assert_eq!(body["status"]["podIPs"], json!([{"$patch": "replace"}, {"ip": "1.1.1.2"}]));
        assert_eq!(body["status"]["reason"], Value::Null);
    }
}

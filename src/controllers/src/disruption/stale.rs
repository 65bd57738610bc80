//! Takes back the `DisruptionTarget` condition of pods that were to be deleted and, two minutes later, were not.

use std::time::Duration;

use client::retry::optional;
use client::{Change, Informer, ObjectKey};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Pod, PodCondition};
use kube::api::PostParams;

use crate::context::{Context, synced};
use crate::error::ReconcileError;
use crate::runner::{Next, Reconcile};
use crate::{conditions, pods};

const TYPE: &str = "DisruptionTarget";
const TIMEOUT: SignedDuration = SignedDuration::from_secs(120);

struct Controller {
    context: Context,
    pods: Informer<Pod>,
}

pub(super) fn start(context: &Context) {
    let pods = context.informers.of::<Pod>();
    let queue = context.queue("stale-pod-disruption");
    context.feed(&pods, &queue, |change| {
        let pod = change.object();
        let concerned = !matches!(change, Change::Deleted(_)) && target(pod).is_some();
        if concerned { vec![ObjectKey::of(&**pod)] } else { Vec::new() }
    });
    let ready = vec![synced(&pods)];
    context.run(queue, Controller { context: context.clone(), pods }, ready);
}

fn target(pod: &Pod) -> Option<&PodCondition> {
    let condition = conditions::find(pods::conditions(pod), TYPE)?;
    (pods::is_active(pod) && condition.status == "True").then_some(condition)
}

/// How long the condition still holds; `None` if there is none.
fn left(pod: &Pod, now: Timestamp) -> Option<Duration> {
    let since = target(pod)?.last_transition_time.as_ref().map_or(Timestamp::MIN, |t| t.0);
    Some(Duration::try_from(TIMEOUT - now.duration_since(since)).unwrap_or(Duration::ZERO))
}

fn taken_back(pod: &Pod, now: Timestamp) -> Pod {
    let mut pod = pod.clone();
    let all = pod.status.get_or_insert_default().conditions.get_or_insert_default();
    let condition = PodCondition { type_: TYPE.into(), status: "False".into(), ..PodCondition::default() };
    conditions::set(all, condition, now);
    pod
}

impl Reconcile for Controller {
    async fn reconcile(&self, key: ObjectKey) -> Result<Next, ReconcileError> {
        let Some(pod) = self.pods.get_key(&key) else { return Ok(Next::Done) };
        let now = Timestamp::now();
        match left(&pod, now) {
            None => return Ok(Next::Done),
            Some(left) if !left.is_zero() => return Ok(Next::After(left)),
            Some(_) => {}
        }
        let api = self.context.api::<Pod>(&key.namespace);
        optional(api.replace_status(&key.name, &PostParams::default(), &taken_back(&pod, now)).await)?;
        Ok(Next::Done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disruption_target::{Disruption, marked};
    use crate::pods::fixture::{at, ready};

    #[test]
    fn the_condition_is_taken_back_after_two_minutes_unless_the_pod_goes() {
        let why = Disruption { reason: "EvictionByEvictionAPI", message: "" };
        let pod = marked(&ready("a", "n", 0), Some(why), false, at(10)).unwrap();
        assert_eq!(left(&pod, at(100)), Some(Duration::from_secs(30)));
        assert_eq!(left(&pod, at(130)), Some(Duration::ZERO));
        assert_eq!(left(&taken_back(&pod, at(130)), at(131)), None);
        let mut going = pod;
        going.metadata.deletion_timestamp = Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(at(11)));
        assert_eq!(left(&going, at(200)), None);
    }
}

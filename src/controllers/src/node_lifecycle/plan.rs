//! How long a pod stays on a node with taints that evict. Pure: the time is a parameter.

use std::time::Duration;

use k8s_openapi::api::core::v1::{Pod, Taint, Toleration};
use tokio::time::Instant;

pub(crate) fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let effect = toleration.effect.as_deref().unwrap_or_default();
    let key = toleration.key.as_deref().unwrap_or_default();
    if (!effect.is_empty() && effect != taint.effect) || (!key.is_empty() && key != taint.key) {
        return false;
    }
    let wanted = toleration.value.as_deref().unwrap_or_default();
    let value = taint.value.as_deref().unwrap_or_default();
    let numbers = || Some((value.parse::<i64>().ok()?, wanted.parse::<i64>().ok()?));
    match toleration.operator.as_deref().unwrap_or_default() {
        "" | "Equal" => wanted == value,
        "Exists" => true,
        "Lt" => numbers().is_some_and(|(value, wanted)| value < wanted),
        "Gt" => numbers().is_some_and(|(value, wanted)| value > wanted),
        _ => false,
    }
}

/// How long the pod may stay, counted from when it met the taints; `None` is for ever.
pub(super) fn stay(pod: &Pod, taints: &[&Taint]) -> Option<Duration> {
    let tolerations = pod.spec.as_ref().and_then(|s| s.tolerations.as_deref()).unwrap_or_default();
    let mut shortest = None;
    for taint in taints {
        let Some(used) = tolerations.iter().find(|toleration| tolerates(toleration, taint)) else {
            return Some(Duration::ZERO);
        };
        if let Some(seconds) = used.toleration_seconds {
            let stay = Duration::from_secs(u64::try_from(seconds).unwrap_or(0));
            shortest = Some(shortest.map_or(stay, |shortest: Duration| shortest.min(stay)));
        }
    }
    shortest
}

/// A pod under taints that evict it sooner or later.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Sentence {
    pub(super) uid: String,
    pub(super) since: Instant,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Fate {
    Stays,
    Leaves,
    LeavesIn(Duration),
}

/// What is to happen to the pod now. `sentence` is what was noted for this pod before, and is brought up to date.
pub(super) fn judge(pod: &Pod, taints: &[&Taint], sentence: &mut Option<Sentence>, now: Instant) -> Fate {
    let Some(stay) = stay(pod, taints) else {
        *sentence = None;
        return Fate::Stays;
    };
    let uid = pod.metadata.uid.clone().unwrap_or_default();
    let since = sentence.take().filter(|s| s.uid == uid).map_or(now, |s| s.since);
    *sentence = Some(Sentence { uid, since });
    let left = stay.saturating_sub(now.duration_since(since));
    if left.is_zero() { Fate::Leaves } else { Fate::LeavesIn(left) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pods::fixture::ready;

    fn taint(key: &str) -> Taint {
        Taint { key: key.into(), effect: "NoExecute".into(), ..Taint::default() }
    }

    fn tolerating(key: &str, seconds: Option<i64>) -> Pod {
        let mut pod = ready("a", "n", 0);
        pod.spec.as_mut().unwrap().tolerations = Some(vec![Toleration {
            key: Some(key.into()),
            operator: Some("Exists".into()),
            toleration_seconds: seconds,
            ..Toleration::default()
        }]);
        pod
    }

    #[test]
    fn a_pod_leaves_after_the_time_it_tolerates_and_at_once_if_it_does_not() {
        let (taint, now) = (taint("down"), Instant::now());
        let mut sentence = None;
        let pod = tolerating("down", Some(300));
        assert_eq!(judge(&pod, &[&taint], &mut sentence, now), Fate::LeavesIn(Duration::from_secs(300)));
        let later = now + Duration::from_secs(299);
        assert_eq!(judge(&pod, &[&taint], &mut sentence, later), Fate::LeavesIn(Duration::from_secs(1)));
        assert_eq!(judge(&pod, &[&taint], &mut sentence, now + Duration::from_secs(300)), Fate::Leaves);
        assert_eq!(judge(&tolerating("other", None), &[&taint], &mut None, now), Fate::Leaves);
        assert_eq!(judge(&tolerating("down", None), &[&taint], &mut None, now), Fate::Stays);
    }

    #[test]
    fn the_time_starts_anew_when_the_taint_was_gone_or_the_pod_is_another() {
        let (taint, now) = (taint("down"), Instant::now());
        let mut pod = tolerating("down", Some(60));
        let mut sentence = None;
        judge(&pod, &[&taint], &mut sentence, now);
        let later = now + Duration::from_secs(50);
        assert_eq!(judge(&pod, &[], &mut sentence, later), Fate::Stays);
        assert_eq!(sentence, None);
        assert_eq!(judge(&pod, &[&taint], &mut sentence, later), Fate::LeavesIn(Duration::from_secs(60)));
        pod.metadata.uid = Some("successor".into());
        let last = later + Duration::from_secs(59);
        assert_eq!(judge(&pod, &[&taint], &mut sentence, last), Fate::LeavesIn(Duration::from_secs(60)));
    }

    #[test]
    fn the_least_tolerant_toleration_in_use_decides() {
        let mut pod = tolerating("a", Some(300));
        let mut more = tolerating("b", Some(5)).spec.unwrap().tolerations.unwrap();
        pod.spec.as_mut().unwrap().tolerations.as_mut().unwrap().append(&mut more);
        assert_eq!(stay(&pod, &[&taint("a"), &taint("b")]), Some(Duration::from_secs(5)));
        assert_eq!(stay(&pod, &[&taint("a")]), Some(Duration::from_secs(300)));
    }
}

//! Who a pod's claims go with: nobody, the set, or the pod when it was scaled away. The garbage collector does the
//! deleting; here owner references are set accordingly. Pure.

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;

use crate::claim::controller_reference;

fn deletes(set: &StatefulSet, when: impl Fn(&StatefulSet) -> Option<&str>) -> bool {
    when(set) == Some("Delete")
}

fn when_deleted(set: &StatefulSet) -> Option<&str> {
    set.spec.as_ref()?.persistent_volume_claim_retention_policy.as_ref()?.when_deleted.as_deref()
}

fn when_scaled(set: &StatefulSet) -> Option<&str> {
    set.spec.as_ref()?.persistent_volume_claim_retention_policy.as_ref()?.when_scaled.as_deref()
}

/// The claim's owner references as they are to be; `None` if they are so. `condemned`: the pod is scaled away.
pub(super) fn references(
    set: &StatefulSet,
    pod: &Pod,
    condemned: bool,
    claim: &PersistentVolumeClaim,
) -> Option<Vec<OwnerReference>> {
    let with_pod = condemned && deletes(set, when_scaled);
    let with_set = deletes(set, when_deleted) && !with_pod;
    let old = claim.metadata.owner_references.clone().unwrap_or_default();
    let mut new = old.clone();
    for (wanted, reference) in [(with_set, controller_reference(set)), (with_pod, controller_reference(pod))] {
        let position = new.iter().position(|r| r.uid == reference.uid);
        match (wanted, position) {
            (true, None) => new.push(reference),
            (false, Some(at)) => drop(new.remove(at)),
            _ => {}
        }
    }
    (new != old).then_some(new)
}

/// Whether the claim is about to go with an earlier pod of this name: a new pod has to wait until it is gone.
pub(super) fn is_stale(pod_name: &str, claim: &PersistentVolumeClaim) -> bool {
    claim.metadata.owner_references.iter().flatten().any(|r| r.kind == "Pod" && r.name == pod_name)
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::apps::v1::StatefulSetPersistentVolumeClaimRetentionPolicy as Policy;

    use super::super::fixture::set;
    use super::*;
    use crate::pods::fixture::pod;

    fn owners(deleted: &str, scaled: &str, condemned: bool, claim: &mut PersistentVolumeClaim) -> Vec<String> {
        let mut set = set(1);
        set.spec.as_mut().unwrap().persistent_volume_claim_retention_policy =
            Some(Policy { when_deleted: Some(deleted.into()), when_scaled: Some(scaled.into()) });
        if let Some(new) = references(&set, &pod("db-0", "Running"), condemned, claim) {
            claim.metadata.owner_references = Some(new);
        }
        claim.metadata.owner_references.iter().flatten().map(|r| r.kind.clone()).collect()
    }

    #[test]
    fn claims_go_with_whom_the_policy_says() {
        let mut claim = PersistentVolumeClaim::default();
        assert!(owners("Retain", "Retain", true, &mut claim).is_empty());
        assert_eq!(owners("Delete", "Retain", true, &mut claim), ["StatefulSet"]);
        assert_eq!(owners("Delete", "Delete", true, &mut claim), ["Pod"]);
        assert!(is_stale("db-0", &claim) && !is_stale("db-1", &claim));
        assert_eq!(owners("Delete", "Delete", false, &mut claim), ["StatefulSet"]);
        assert!(owners("Retain", "Delete", false, &mut claim).is_empty());
        assert_eq!(owners("Retain", "Delete", true, &mut claim), ["Pod"]);
    }
}

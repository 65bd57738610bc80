//! What becomes of an object, given the state of its owners. Pure.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};

use super::graph::has_finalizer;

/// The state of one owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Owner {
    /// There, and staying or not waiting for this object.
    Solid,
    /// Not there, or another object of the same name.
    Absent,
    /// Being deleted in the foreground, and waiting for this object.
    Waiting,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Policy {
    Background,
    Foreground,
    Orphan,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Keep,
    /// Some owners stay: forget the others.
    DropReferences(Vec<String>),
    Delete(Policy),
    /// As `Delete(Foreground)`, but first let no dependent wait for it, or a circle would never end.
    UnblockAndDelete,
}

/// `owners` are the states of the object's owner references, in their order.
pub(super) fn judge(meta: &ObjectMeta, owners: &[Owner], dependents_deleting: Option<bool>) -> Verdict {
    let references: &[OwnerReference] = meta.owner_references.as_deref().unwrap_or_default();
    let with = |state: Owner| -> Vec<String> {
        let pairs = references.iter().zip(owners).filter(|(_, owner)| **owner == state);
        pairs.map(|(reference, _)| reference.uid.clone()).collect()
    };
    let (solid, absent, waiting) = (with(Owner::Solid), with(Owner::Absent), with(Owner::Waiting));
    if references.is_empty() {
        return Verdict::Keep;
    }
    if !solid.is_empty() {
        let gone: Vec<String> = absent.into_iter().chain(waiting).collect();
        return if gone.is_empty() { Verdict::Keep } else { Verdict::DropReferences(gone) };
    }
    match dependents_deleting {
        Some(true) if !waiting.is_empty() => Verdict::UnblockAndDelete,
        Some(_) if !waiting.is_empty() => Verdict::Delete(Policy::Foreground),
        _ => Verdict::Delete(policy(meta)),
    }
}

/// What its own finalizers ask for, or background.
fn policy(meta: &ObjectMeta) -> Policy {
    if has_finalizer(meta, super::ORPHAN) {
        Policy::Orphan
    } else if has_finalizer(meta, super::FOREGROUND) {
        Policy::Foreground
    } else {
        Policy::Background
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(owners: &[&str]) -> ObjectMeta {
        let reference = |uid: &&str| OwnerReference { uid: (*uid).into(), ..OwnerReference::default() };
        ObjectMeta { owner_references: Some(owners.iter().map(reference).collect()), ..ObjectMeta::default() }
    }

    #[test]
    fn an_object_goes_with_its_last_owner() {
        assert_eq!(judge(&object(&["a"]), &[Owner::Absent], None), Verdict::Delete(Policy::Background));
        assert_eq!(judge(&object(&["a"]), &[Owner::Solid], None), Verdict::Keep);
        assert_eq!(judge(&object(&[]), &[], None), Verdict::Keep);
    }

    #[test]
    fn while_one_owner_stays_the_references_to_others_are_dropped() {
        let verdict = judge(&object(&["a", "b", "c"]), &[Owner::Solid, Owner::Absent, Owner::Waiting], None);
        assert_eq!(verdict, Verdict::DropReferences(vec!["b".into(), "c".into()]));
    }

    #[test]
    fn foreground_deletion_reaches_down_the_tree_and_cannot_go_in_circles() {
        let object = object(&["a"]);
        assert_eq!(judge(&object, &[Owner::Waiting], None), Verdict::Delete(Policy::Background));
        assert_eq!(judge(&object, &[Owner::Waiting], Some(false)), Verdict::Delete(Policy::Foreground));
        assert_eq!(judge(&object, &[Owner::Waiting], Some(true)), Verdict::UnblockAndDelete);
    }

    #[test]
    fn an_orphaning_object_orphans() {
        let mut object = object(&["a"]);
        object.finalizers = Some(vec!["orphan".into()]);
        assert_eq!(judge(&object, &[Owner::Absent], None), Verdict::Delete(Policy::Orphan));
    }
}

//! What a DELETE does to an object: remove it now, mark it, or leave it be.
//!
//! The pure core of the delete verb: preconditions, grace periods, finalizers and the garbage-collection policy.
//! The API server stores or removes according to the [`Deletion`] it gets.

use jiff::Timestamp;
use serde_json::Value;

use super::{Grace, Strategy};
use crate::status::Status;

/// `metav1.DeleteOptions`, the fields that decide.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DeleteOptions {
    pub grace_period_seconds: Option<i64>,
    pub uid: Option<String>,
    pub resource_version: Option<String>,
    pub propagation: Option<Propagation>,
}

/// `propagationPolicy`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Propagation {
    Orphan,
    Background,
    Foreground,
}

/// What to do with the stored object.
#[derive(Debug, Clone, PartialEq)]
pub enum Deletion {
    /// Remove it from the store.
    Remove,
    /// Store this marked version; it goes when its finalizers are gone and its grace is over.
    Mark(Value),
    /// It is already being deleted and nothing changes.
    Unchanged,
}

const ORPHAN: &str = "orphan";
const FOREGROUND: &str = "foregroundDeletion";

/// Decides a delete of `object`.
///
/// # Errors
/// `Conflict` when a precondition fails.
pub fn before_delete(
    strategy: &dyn Strategy,
    object: &Value,
    options: &DeleteOptions,
    now: Timestamp,
) -> Result<Deletion, Status> {
    check_preconditions(strategy, object, options)?;
    let requested = options.grace_period_seconds.map(|seconds| if seconds < 0 { 1 } else { seconds });
    let mut marked = object.clone();
    let Some(meta) = marked.get_mut("metadata").and_then(Value::as_object_mut) else {
        return Ok(Deletion::Remove);
    };
    set_policy_finalizers(meta, options.propagation, strategy.default_propagation());
    let already = deadline(meta).zip(meta.get("deletionGracePeriodSeconds").and_then(Value::as_i64));
    let grace = match already {
        Some((_, current)) => requested.map_or(current, |requested| requested.min(current)),
        None => match strategy.grace(object, requested) {
            Grace::Seconds(seconds) => seconds,
            Grace::Immediate => 0,
        },
    };
    if grace == 0 && !has_finalizers(meta) && !strategy.is_held(object) {
        return Ok(Deletion::Remove);
    }
    mark(meta, already, grace, now);
    strategy.mark_deleted(&mut marked);
    Ok(if marked == *object { Deletion::Unchanged } else { Deletion::Mark(marked) })
}

/// Whether an object already marked for deletion has nothing left to wait for: no finalizers and no grace. The
/// update verb removes such an object instead of storing it.
pub fn is_finished(strategy: &dyn Strategy, object: &Value) -> bool {
    let Some(meta) = object.get("metadata").and_then(Value::as_object) else { return false };
    let grace = meta.get("deletionGracePeriodSeconds").and_then(Value::as_i64);
    deadline(meta).is_some() && !has_finalizers(meta) && grace.is_none_or(|g| g == 0) && !strategy.is_held(object)
}

fn has_finalizers(meta: &serde_json::Map<String, Value>) -> bool {
    meta.get("finalizers").and_then(Value::as_array).is_some_and(|f| !f.is_empty())
}

fn deadline(meta: &serde_json::Map<String, Value>) -> Option<Timestamp> {
    meta.get("deletionTimestamp").and_then(Value::as_str).and_then(|text| text.parse().ok())
}

/// Whether the object is the one, and in the state, that the client means to delete.
///
/// # Errors
/// The conflict that says what differs.
pub fn check_preconditions(strategy: &dyn Strategy, object: &Value, options: &DeleteOptions) -> Result<(), Status> {
    let meta = |key| object.get("metadata").and_then(|m| m.get(key)).and_then(Value::as_str).unwrap_or_default();
    let resource = strategy.facts().qualified_resource();
    let failed = |what: &str, wanted: &str, found: &str| {
        let why = format!("Precondition failed: {what} in precondition: {wanted}, {what} in object meta: {found}");
        Status::conflict(resource, meta("name"), &why)
    };
    match (&options.uid, &options.resource_version) {
        (Some(uid), _) if uid != meta("uid") => Err(failed("UID", uid, meta("uid"))),
        (_, Some(version)) if version != meta("resourceVersion") => {
            Err(failed("ResourceVersion", version, meta("resourceVersion")))
        }
        _ => Ok(()),
    }
}

/// Puts the finalizer of the wanted policy and takes away the other one. Without an explicit policy, what is there
/// stays, and the kind's default applies.
fn set_policy_finalizers(
    meta: &mut serde_json::Map<String, Value>,
    explicit: Option<Propagation>,
    default: Propagation,
) {
    let mut finalizers = match meta.remove("finalizers") {
        Some(Value::Array(list)) => list,
        _ => Vec::new(),
    };
    let is_policy = |finalizer: &Value| finalizer.as_str().is_some_and(|f| f == ORPHAN || f == FOREGROUND);
    if explicit.is_some() || !finalizers.iter().any(is_policy) {
        let wanted = match explicit.unwrap_or(default) {
            Propagation::Orphan => Some(ORPHAN),
            Propagation::Foreground => Some(FOREGROUND),
            Propagation::Background => None,
        };
        finalizers.retain(|f| !is_policy(f) || f.as_str() == wanted);
        if let Some(wanted) = wanted
            && !finalizers.iter().any(is_policy)
        {
            finalizers.push(wanted.into());
        }
    }
    if !finalizers.is_empty() {
        meta.insert("finalizers".to_owned(), finalizers.into());
    }
}

/// Sets the deletion time, or brings it forward: a later delete can shorten the grace, never lengthen it.
fn mark(meta: &mut serde_json::Map<String, Value>, already: Option<(Timestamp, i64)>, grace: i64, now: Timestamp) {
    let deadline = match already {
        Some((_, current)) if current == grace => return,
        // The deadline counts from the first request, which is the old deadline less the old grace.
        Some((deadline, current)) => after(deadline, grace - current),
        None => after(now, grace),
    };
    meta.insert("deletionTimestamp".to_owned(), rfc3339(deadline).into());
    meta.insert("deletionGracePeriodSeconds".to_owned(), grace.into());
    let generation = meta.get("generation").and_then(Value::as_i64).filter(|g| *g > 0);
    if let (None, Some(generation)) = (already, generation) {
        meta.insert("generation".to_owned(), (generation + 1).into());
    }
}

fn after(time: Timestamp, seconds: i64) -> Timestamp {
    time.checked_add(jiff::SignedDuration::from_secs(seconds)).unwrap_or(time)
}

/// Seconds precision with a Z, as `metav1.Time` is written.
pub fn rfc3339(time: Timestamp) -> String {
    jiff::fmt::strtime::format("%Y-%m-%dT%H:%M:%SZ", time).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::strategy::strategy_for;
    use serde_json::json;

    const NOW: &str = "2026-01-02T03:04:05Z";

    fn delete(kind: (&str, &str, &str), object: &Value, options: &DeleteOptions) -> Deletion {
        let strategy = strategy_for(kind.0, kind.1, kind.2).unwrap();
        before_delete(strategy, object, options, NOW.parse().unwrap()).unwrap()
    }

    fn grace(seconds: i64) -> DeleteOptions {
        DeleteOptions { grace_period_seconds: Some(seconds), ..DeleteOptions::default() }
    }

    const POD: (&str, &str, &str) = ("", "v1", "Pod");

    fn running() -> Value {
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a", "namespace": "b", "generation": 1},
            "spec": {"nodeName": "n", "containers": [], "terminationGracePeriodSeconds": 30}})
    }

    #[test]
    fn a_running_pod_gets_its_grace_and_is_removed_by_zero() {
        let Deletion::Mark(marked) = delete(POD, &running(), &DeleteOptions::default()) else { panic!() };
        assert_eq!(marked["metadata"]["deletionTimestamp"], "2026-01-02T03:04:35Z");
        assert_eq!(marked["metadata"]["deletionGracePeriodSeconds"], 30);
        assert_eq!(marked["metadata"]["generation"], 2);
        assert_eq!(delete(POD, &marked, &DeleteOptions::default()), Deletion::Unchanged);
        assert_eq!(delete(POD, &marked, &grace(60)), Deletion::Unchanged);
        let Deletion::Mark(shorter) = delete(POD, &marked, &grace(5)) else { panic!() };
        assert_eq!(shorter["metadata"]["deletionTimestamp"], "2026-01-02T03:04:10Z");
        assert_eq!(delete(POD, &shorter, &grace(0)), Deletion::Remove);
    }

    #[test]
    fn unscheduled_and_finished_pods_go_at_once() {
        let mut pending = running();
        pending["spec"]["nodeName"] = json!("");
        assert_eq!(delete(POD, &pending, &DeleteOptions::default()), Deletion::Remove);
        let mut done = running();
        done["status"] = json!({"phase": "Succeeded"});
        assert_eq!(delete(POD, &done, &DeleteOptions::default()), Deletion::Remove);
    }

    #[test]
    fn finalizers_hold_an_object() {
        let kind = ("", "v1", "ConfigMap");
        let map = json!({"metadata": {"name": "a", "namespace": "b", "finalizers": ["x/y"]}});
        let Deletion::Mark(marked) = delete(kind, &map, &DeleteOptions::default()) else { panic!() };
        assert_eq!(marked["metadata"]["deletionTimestamp"], NOW);
        assert_eq!(marked["metadata"]["deletionGracePeriodSeconds"], 0);
        let strategy = strategy_for(kind.0, kind.1, kind.2).unwrap();
        assert!(!is_finished(strategy, &marked));
        let mut free = marked;
        free["metadata"]["finalizers"] = json!([]);
        assert!(is_finished(strategy, &free));
    }

    #[test]
    fn policies_become_finalizers() {
        let kind = ("apps", "v1", "Deployment");
        let object = json!({"metadata": {"name": "a", "namespace": "b"}});
        let with = |propagation| DeleteOptions { propagation, ..DeleteOptions::default() };
        let Deletion::Mark(marked) = delete(kind, &object, &with(Some(Propagation::Foreground))) else { panic!() };
        assert_eq!(marked["metadata"]["finalizers"], json!(["foregroundDeletion"]));
        let Deletion::Mark(orphaning) = delete(kind, &marked, &with(Some(Propagation::Orphan))) else { panic!() };
        assert_eq!(orphaning["metadata"]["finalizers"], json!(["orphan"]));
        assert_eq!(delete(kind, &orphaning, &with(Some(Propagation::Background))), Deletion::Remove);
        assert_eq!(delete(kind, &object, &with(None)), Deletion::Remove);
    }

    #[test]
    fn jobs_orphan_by_default() {
        let job = json!({"metadata": {"name": "a", "namespace": "b"}});
        let Deletion::Mark(marked) = delete(("batch", "v1", "Job"), &job, &DeleteOptions::default()) else { panic!() };
        assert_eq!(marked["metadata"]["finalizers"], json!(["orphan"]));
    }

    #[test]
    fn a_namespace_is_held_by_its_own_finalizers() {
        let kind = ("", "v1", "Namespace");
        let namespace = json!({"metadata": {"name": "a"}, "spec": {"finalizers": ["kubernetes"]},
            "status": {"phase": "Active"}});
        let Deletion::Mark(marked) = delete(kind, &namespace, &DeleteOptions::default()) else { panic!() };
        assert_eq!(marked["status"]["phase"], "Terminating");
        assert_eq!(delete(kind, &marked, &DeleteOptions::default()), Deletion::Unchanged);
        let mut free = marked;
        free["spec"] = json!({});
        assert!(is_finished(strategy_for("", "v1", "Namespace").unwrap(), &free));
    }

    #[test]
    fn preconditions_are_checked() {
        let strategy = strategy_for("", "v1", "ConfigMap").unwrap();
        let options = DeleteOptions { uid: Some("x".to_owned()), ..DeleteOptions::default() };
        let object = json!({"metadata": {"name": "a", "uid": "y"}});
        let error = before_delete(strategy, &object, &options, NOW.parse().unwrap()).unwrap_err();
        assert_eq!(
            error.message(),
            "Operation cannot be fulfilled on configmaps \"a\": Precondition failed: UID in precondition: x, UID in object meta: y"
        );
    }
}

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
    let mut marked = object.clone();
    let Some(meta) = marked.get_mut("metadata").and_then(Value::as_object_mut) else {
        return Ok(Deletion::Remove);
    };
    set_policy_finalizers(meta, options.propagation);
    let blocked = meta.get("finalizers").and_then(Value::as_array).is_some_and(|f| !f.is_empty());
    let grace = match strategy.grace(object, options.grace_period_seconds) {
        Grace::Seconds(seconds) => seconds,
        Grace::Immediate => 0,
    };
    if grace == 0 && !blocked {
        return Ok(Deletion::Remove);
    }
    mark(meta, grace, now);
    Ok(if marked == *object { Deletion::Unchanged } else { Deletion::Mark(marked) })
}

/// Whether an object already marked for deletion has nothing left to wait for: no finalizers and no grace. The
/// update verb removes such an object instead of storing it.
pub fn is_finished(object: &Value) -> bool {
    let Some(meta) = object.get("metadata") else { return false };
    let finalizers = meta.get("finalizers").and_then(Value::as_array).is_some_and(|f| !f.is_empty());
    let grace = meta.get("deletionGracePeriodSeconds").and_then(Value::as_i64);
    meta.get("deletionTimestamp").is_some_and(|t| !t.is_null()) && !finalizers && grace.is_none_or(|g| g == 0)
}

fn check_preconditions(strategy: &dyn Strategy, object: &Value, options: &DeleteOptions) -> Result<(), Status> {
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

fn set_policy_finalizers(meta: &mut serde_json::Map<String, Value>, propagation: Option<Propagation>) {
    let Some(propagation) = propagation else { return };
    let mut finalizers = match meta.remove("finalizers") {
        Some(Value::Array(list)) => list,
        _ => Vec::new(),
    };
    let wanted = match propagation {
        Propagation::Orphan => Some(ORPHAN),
        Propagation::Foreground => Some(FOREGROUND),
        Propagation::Background => None,
    };
    finalizers.retain(|f| f.as_str().is_none_or(|f| (f != ORPHAN && f != FOREGROUND) || wanted == Some(f)));
    if let Some(wanted) = wanted
        && !finalizers.iter().any(|f| f.as_str() == Some(wanted))
    {
        finalizers.push(wanted.into());
    }
    if !finalizers.is_empty() {
        meta.insert("finalizers".to_owned(), finalizers.into());
    }
}

/// Sets the deletion time, or brings it forward: a later delete can shorten the grace, never lengthen it.
fn mark(meta: &mut serde_json::Map<String, Value>, grace: i64, now: Timestamp) {
    let current = meta.get("deletionGracePeriodSeconds").and_then(Value::as_i64);
    let marked: Option<Timestamp> =
        meta.get("deletionTimestamp").and_then(Value::as_str).and_then(|text| text.parse().ok());
    let (deadline, grace) = match marked {
        None => (after(now, grace), grace),
        Some(_) if current.is_some_and(|current| grace >= current) => return,
        Some(deadline) => {
            // The deadline counts from the first request, which is the old deadline less the old grace.
            let asked = after(deadline, -current.unwrap_or(0));
            (after(asked, grace).min(deadline), grace)
        }
    };
    meta.insert("deletionTimestamp".to_owned(), rfc3339(deadline).into());
    meta.insert("deletionGracePeriodSeconds".to_owned(), grace.into());
    if marked.is_none()
        && let Some(generation) = meta.get("generation").and_then(Value::as_i64).filter(|g| *g > 0)
    {
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

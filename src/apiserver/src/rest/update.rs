//! PUT, and the read-modify-write loop that every other change of an object goes through: patches, status, scale,
//! evictions, bindings. Optimistic: the store's mod revision is compared, nothing is locked.

use bytes::Bytes;
use http::Response;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::coordination::v1::LeaseSpec;
use objects::{
    field::{Errors, Path},
    status::Status,
    strategy::{Context, Part, check_view, deletion},
};
use serde::Deserialize;
use serde_json::Value;
use storage::{Durability, KeyValue, Revision};

use super::{
    Place, body,
    create::{Created, create_object, strategy_user},
    options::WriteOptions,
    store::{self, Write, Written},
};
use crate::{
    admission::{self, Operation, Review, quota::Turn},
    authn::User,
    body::Body,
    convert, encoded,
    encoded::meta_str,
    handler::Call,
    managed, negotiate,
    registry::Resource,
    respond,
    server::Inner,
};

/// How often a change that does not insist on a revision is tried anew.
const TRIES: usize = 32;

/// What became of an update.
pub(crate) enum Outcome {
    Stored(Bytes, Revision),
    /// The update took away the last thing a deletion waited for; this is the final state.
    Removed(Value),
    /// What would have been stored.
    Dry(Value),
}

/// Who changes an object, and how.
pub(crate) struct Change<'c> {
    pub(crate) inner: &'c Inner,
    pub(crate) user: &'c User,
    pub(crate) part: Part,
    pub(crate) options: &'c WriteOptions,
    pub(crate) mode: Mode,
}

/// What the new state has been through already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Nothing: a client's object.
    Plain,
    /// Made from the stored state by a client's patch: when somebody else wrote in between, it is made anew.
    Patched,
    /// Made from the stored state by server-side apply: as `Patched`, and its managed fields are as they should be.
    Applied,
    /// Made by this server itself from the stored state: written as it is.
    Direct,
}

impl Mode {
    /// Whether a resourceVersion in the new state was put there by the client. What is made from the stored state has
    /// that state's; one that the patch itself names will differ from the next state's.
    fn insists(self) -> bool {
        matches!(self, Self::Plain | Self::Direct)
    }
}

/// Answers a PUT of an object or of one of its parts.
pub(crate) async fn update(call: &mut Call, place: &Place<'_>, part: Part) -> Result<Response<Body>, Status> {
    let options = WriteOptions::of(call)?;
    let object = body::object(call, place).await?;
    check_name(place, &object)?;
    let inner = call.inner.clone();
    let user = call.user.clone();
    let wanted_version = meta_str(&object, "resourceVersion").to_owned();
    check_version_given(place, &wanted_version)?;
    if part == Part::Main
        && place.resource.strategy.facts().allow_create_on_update
        && store::read(&inner, &place.store_key()).await?.is_none()
        && wanted_version.is_empty()
    {
        let created = create_object(&inner, &user, place, object, &options, &mut call.warnings).await?;
        return match created {
            Created::Stored(bytes, revision) => respond::stored(call, 201, &place.resource, &bytes, revision),
            Created::Dry(value) => answer(call, place, Outcome::Dry(value)),
        };
    }
    let change = Change { inner: &inner, user: &user, part, options: &options, mode: Mode::Plain };
    let outcome = apply(&change, place, &mut call.warnings, |_| Ok(object.clone())).await?;
    answer(call, place, outcome)
}

/// Sends what an update led to.
pub(crate) fn answer(call: &Call, place: &Place<'_>, outcome: Outcome) -> Result<Response<Body>, Status> {
    match outcome {
        Outcome::Stored(bytes, revision) => respond::stored(call, 200, &place.resource, &bytes, revision),
        Outcome::Removed(value) | Outcome::Dry(value) => {
            let form = negotiate::form(call.headers(), &call.query, !place.resource.kind.custom)?;
            respond::object(call, 200, &place.resource, convert::from_stored(&place.resource, value)?, form)
        }
    }
}

fn check_name(place: &Place<'_>, object: &Value) -> Result<(), Status> {
    let (name, namespace) = (meta_str(object, "name"), meta_str(object, "namespace"));
    if name.is_empty() {
        return Err(Status::bad_request("name must be provided"));
    }
    if name != place.name {
        return Err(Status::bad_request(format!(
            "the name of the object ({name}) does not match the name on the URL ({})",
            place.name
        )));
    }
    if place.resource.kind.is_namespaced() && !namespace.is_empty() && namespace != place.namespace {
        return Err(Status::bad_request(format!(
            "the namespace of the object ({namespace}) does not match the namespace on the URL ({})",
            place.namespace
        )));
    }
    Ok(())
}

fn check_version_given(place: &Place<'_>, version: &str) -> Result<(), Status> {
    let strategy = &place.resource.strategy;
    if version.is_empty() && !strategy.facts().allow_unconditional_update {
        let mut errors = Errors::default();
        let metadata = Path::root("metadata");
        errors.invalid(&metadata.child("resourceVersion"), 0_i64, "must be specified for an update");
        return Err(Status::invalid(place.resource.qualified_kind(), place.name, errors.as_slice()));
    }
    Ok(())
}

/// Reads the object, lets `next` say what it should become, and writes that; again from the start when somebody else
/// wrote in between, unless the new state names the resourceVersion it was made from.
pub(crate) async fn apply(
    change: &Change<'_>,
    place: &Place<'_>,
    warnings: &mut Vec<String>,
    next: impl Fn(&Value) -> Result<Value, Status> + Send,
) -> Result<Outcome, Status> {
    let key = place.store_key();
    let mut found = store::read(change.inner, &key).await?;
    for _ in 0..TRIES {
        let kv = found.ok_or_else(|| place.not_found())?;
        let old = encoded::decode(&kv.value, kv.mod_revision)?;
        let new = next(&old)?;
        let pinned = check_preconditions(place, &new, &old)? && change.mode.insists();
        let (value, turn) = Box::pin(prepare(change, place, warnings, new, &old)).await?;
        match write(change, place, &kv, value, &old, turn).await? {
            Some(outcome) => return Ok(outcome),
            None if pinned => return Err(Status::modified(place.resource.qualified(), place.name)),
            None => found = store::read(change.inner, &key).await?,
        }
    }
    Err(Status::modified(place.resource.qualified(), place.name))
}

/// Whether the new state insists on a revision; an error when that, or its UID, is not the stored one's.
fn check_preconditions(place: &Place<'_>, new: &Value, old: &Value) -> Result<bool, Status> {
    let (uid, stored_uid) = (meta_str(new, "uid"), meta_str(old, "uid"));
    if !uid.is_empty() && uid != stored_uid {
        let why = format!("Precondition failed: UID in precondition: {uid}, UID in object meta: {stored_uid}");
        return Err(Status::conflict(place.resource.qualified(), place.name, &why));
    }
    let version = meta_str(new, "resourceVersion");
    if version.is_empty() || version == "0" {
        return Ok(false);
    }
    if version.parse::<u64>().is_err() {
        return Err(super::get::invalid_version(version));
    }
    if version != meta_str(old, "resourceVersion") {
        return Err(Status::modified(place.resource.qualified(), place.name));
    }
    Ok(true)
}

/// Everything between the client's new state and the one to store, and the turn to keep until it is visible.
async fn prepare(
    change: &Change<'_>,
    place: &Place<'_>,
    warnings: &mut Vec<String>,
    new: Value,
    old: &Value,
) -> Result<(Value, Option<Turn>), Status> {
    if change.mode == Mode::Direct {
        return Ok((new, None));
    }
    let strategy = &*place.resource.strategy;
    let mut object = strategy.decode(new)?;
    let mut review = Review {
        inner: change.inner,
        user: change.user,
        place,
        operation: Operation::Update,
        old: Some(old),
        warnings: Vec::new(),
    };
    if admission::mutate(&mut review, &mut object).await? {
        object = strategy.decode(object)?;
    }
    if change.part == Part::Main {
        change.inner.allocators.assign(change.inner, &place.resource, &mut object, Some(old))?;
    }
    let requester = strategy_user(change.user);
    let context = Context {
        namespace: place.resource.kind.is_namespaced().then_some(place.namespace),
        name: Some(place.name),
        now: Timestamp::now(),
        uid: "",
        name_suffix: "",
        user: Some(&requester),
    };
    let mut value = strategy.update(change.part, object, old, &context)?;
    check_view(&place.resource.kind, &value, Some(old))?;
    if change.mode != Mode::Applied {
        managed::record_update(&place.resource, &mut value, old, &change.options.field_manager, place.subresource);
    }
    let turn = admission::validate(&mut review, Some(&value)).await?;
    warnings.append(&mut review.warnings);
    Ok((value, turn))
}

/// Whether a write says no more than that the holder of a Lease is still there, in good time: such writes wait for each
/// other, several seconds where there are several servers. Others wait for a change of the holder, and a renewal that is
/// late cannot wait.
fn is_heartbeat(resource: &Resource, new: &Value, old: &Value) -> bool {
    let spec = |lease: &Value| lease.get("spec").and_then(|spec| LeaseSpec::deserialize(spec).ok());
    if !resource.is("coordination.k8s.io", "leases") {
        return false;
    }
    let (Some(new), Some(old)) = (spec(new), spec(old)) else { return false };
    let passed = new.renew_time.zip(old.renew_time).map(|(new, old)| new.0.duration_since(old.0));
    let half = new.lease_duration_seconds.map(|seconds| SignedDuration::from_secs(i64::from(seconds)) / 2);
    let in_time = passed.zip(half).is_some_and(|(passed, half)| passed < half && !passed.is_negative());
    in_time && new.holder_identity == old.holder_identity
}

/// Writes the final state; `None` when somebody else wrote in between.
async fn write(
    change: &Change<'_>,
    place: &Place<'_>,
    kv: &KeyValue,
    value: Value,
    old: &Value,
    turn: Option<Turn>,
) -> Result<Option<Outcome>, Status> {
    let (inner, resource) = (change.inner, &place.resource);
    let finished = deletion::is_finished(&*resource.strategy, &value);
    if change.options.dry_run {
        return Ok(Some(Outcome::Dry(value)));
    }
    if finished {
        let extra = inner.allocators.extra(resource, None, Some(old))?;
        return Ok(match store::remove(inner, kv.key.clone(), kv.mod_revision, extra).await? {
            Written::At(_) => Some(Outcome::Removed(value)),
            Written::Raced => None,
        });
    }
    let bytes = encoded::encode(&value, &resource.storage_api_version, &resource.kind.kind)?;
    if bytes == kv.value || managed::only_times_differ(&value, old) {
        return Ok(Some(Outcome::Stored(kv.value.clone(), kv.mod_revision)));
    }
    let mut extra = inner.allocators.extra(resource, Some(&value), Some(old))?;
    turn.iter().for_each(|turn| turn.guard(&mut extra));
    let durability = if is_heartbeat(resource, &value, old) { Durability::Coalesced } else { Durability::Synced };
    let write = Write { key: kv.key.clone(), value: bytes.clone(), expected: kv.mod_revision, durability };
    Ok(match store::write(inner, resource, write, extra).await? {
        Written::At(revision) => {
            if turn.is_some() {
                inner.hub.wait_for(revision).await?;
            }
            Some(Outcome::Stored(bytes, revision))
        }
        Written::Raced => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_renewal_in_good_time_by_the_same_holder_may_wait() {
        let resource =
            crate::registry::Registry::built_in().load().find("coordination.k8s.io/v1", "leases").cloned().unwrap();
        let lease = |holder: &str, second: u32| {
            let time = format!("2026-01-01T00:00:{second:02}.000000Z");
            serde_json::json!({"spec": {"holderIdentity": holder, "leaseDurationSeconds": 15, "renewTime": time}})
        };
        let waits = |new: Value, old: Value| is_heartbeat(&resource, &new, &old);
        assert!(waits(lease("a", 5), lease("a", 0)));
        assert!(!waits(lease("a", 8), lease("a", 0)), "late");
        assert!(!waits(lease("b", 5), lease("a", 0)), "another holder");
        assert!(!waits(lease("", 5), lease("a", 0)), "given up");
        assert!(!waits(lease("a", 5), serde_json::json!({"spec": {}})), "nobody's before");
    }
}

//! DELETE of one object: at once, or marked and left to its finalizers and grace period.

use http::Response;
use jiff::Timestamp;
use objects::{
    status::Status,
    strategy::deletion::{self, DeleteOptions, Deletion},
};
use serde_json::Value;
use storage::Durability;

use super::{
    Place, body, options,
    store::{self, Write, Written},
};
use crate::{
    admission::{self, Operation, Review},
    alloc::Extra,
    authn::User,
    body::Body,
    convert, encoded,
    encoded::meta_str,
    handler::Call,
    negotiate, respond,
    server::Inner,
};

const TRIES: usize = 32;
/// Kinds whose removal is answered with the object rather than a Status.
const RETURNS_OBJECT: [&str; 7] = [
    "pods",
    "services",
    "serviceaccounts",
    "persistentvolumes",
    "persistentvolumeclaims",
    "podtemplates",
    "resourcequotas",
];

/// What became of a delete.
pub(crate) enum Deleted {
    /// Gone from the store; this is its last state.
    Gone(Value),
    /// Waiting for finalizers or its grace period.
    Marked(Value),
}

/// Answers a DELETE.
pub(crate) async fn delete(call: &mut Call, place: &Place<'_>) -> Result<Response<Body>, Status> {
    let body = body::optional_value(call, "DeleteOptions").await?;
    let (options, dry_run) = options::delete_options(&call.query, body.as_ref())?;
    let mut warnings = Vec::new();
    let deleted = delete_object(&call.inner, &call.user, place, &options, dry_run, &mut warnings).await?;
    call.warnings.append(&mut warnings);
    let resource = &place.resource;
    match deleted {
        Deleted::Gone(value) if !RETURNS_OBJECT.contains(&resource.prefix()) => {
            let status = Status::deleted(resource.qualified(), place.name, meta_str(&value, "uid"));
            let value = serde_json::to_value(&status).map_err(Status::internal)?;
            respond::value(call, 200, &value)
        }
        Deleted::Gone(value) | Deleted::Marked(value) => {
            let form = negotiate::form(call.headers(), &call.query, !resource.kind.custom)?;
            respond::object(call, 200, resource, convert::from_stored(resource, value)?, form)
        }
    }
}

/// Deletes one object as `user`.
pub(crate) async fn delete_object(
    inner: &Inner,
    user: &User,
    place: &Place<'_>,
    options: &DeleteOptions,
    dry_run: bool,
    warnings: &mut Vec<String>,
) -> Result<Deleted, Status> {
    let key = place.store_key();
    for _ in 0..TRIES {
        let kv = store::read(inner, &key).await?.ok_or_else(|| place.not_found())?;
        let old = encoded::decode(&kv.value, kv.mod_revision)?;
        let mut review =
            Review { inner, user, place, operation: Operation::Delete, old: Some(&old), warnings: Vec::new() };
        admission::validate(&mut review, None).await?;
        let decided = deletion::before_delete(&*place.resource.strategy, &old, options, Timestamp::now())?;
        warnings.append(&mut review.warnings);
        let done = match decided {
            Deletion::Unchanged => Some(Deleted::Marked(old)),
            Deletion::Remove if dry_run => Some(Deleted::Gone(old)),
            Deletion::Mark(value) if dry_run => Some(Deleted::Marked(value)),
            Deletion::Remove => {
                let extra = inner.allocators.extra(&place.resource, None, Some(&old))?;
                match store::remove(inner, key.clone(), kv.mod_revision, extra).await? {
                    Written::At(_) => Some(Deleted::Gone(old)),
                    Written::Raced => None,
                }
            }
            Deletion::Mark(mut value) => {
                let resource = &place.resource;
                let bytes = encoded::encode(&value, &resource.storage_api_version, &resource.kind.kind)?;
                let write =
                    Write { key: key.clone(), value: bytes, expected: kv.mod_revision, durability: Durability::Synced };
                match store::write(inner, resource, write, Extra::default()).await? {
                    Written::At(revision) => {
                        encoded::metadata_mut(&mut value).insert("resourceVersion".into(), revision.to_string().into());
                        Some(Deleted::Marked(value))
                    }
                    Written::Raced => None,
                }
            }
        };
        if let Some(done) = done {
            return Ok(done);
        }
    }
    Err(Status::modified(place.resource.qualified(), place.name))
}

//! PATCH: JSON patch, merge patch, strategic merge patch, and server-side apply. The patch is applied to the stored
//! object anew each time somebody else wrote in between.

use bytes::Bytes;
use http::Response;
use objects::{
    patch::{json_patch, merge_patch, parse_json_patch, strategic_merge},
    schema,
    status::Status,
    strategy::Part,
};
use serde_json::Value;

use super::{
    Place, body,
    body::FieldValidation,
    create::{Created, create_object},
    options::WriteOptions,
    store,
    update::{self, Change, Mode, answer},
};
use crate::{
    body::Body,
    convert,
    encoded::meta_str,
    handler::Call,
    managed,
    negotiate::{BodyKind, PATCH_TYPES, body_kind},
    registry::Resource,
    respond,
};

/// Answers a PATCH of an object or of one of its parts.
pub(crate) async fn patch(call: &mut Call, place: &Place<'_>, part: Part) -> Result<Response<Body>, Status> {
    let options = WriteOptions::of(call)?;
    let kind = body_kind(call.headers());
    let bytes = body::read(call).await?;
    match kind {
        Some(BodyKind::ApplyPatch) => apply(call, place, part, &options, &bytes).await,
        Some(BodyKind::JsonPatch | BodyKind::MergePatch | BodyKind::StrategicMergePatch) => {
            let patch = Patch::parse(kind, bytes, &place.resource)?;
            let validation = FieldValidation::of(call)?;
            let inner = call.inner.clone();
            let user = call.user.clone();
            let change = Change { inner: &inner, user: &user, part, options: &options, mode: Mode::Patched };
            let resource = place.resource.clone();
            let problems = std::sync::Mutex::new(Vec::new());
            let next = |old: &Value| {
                let patched = patch.apply(old, &resource)?;
                let found = check(&resource, &patched, validation)?;
                *problems.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = found;
                convert::to_stored(&resource, patched)
            };
            let outcome = update::apply(&change, place, &mut call.warnings, next).await?;
            call.warnings.append(&mut problems.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner));
            answer(call, place, outcome)
        }
        _ => Err(Status::unsupported_media_type(&PATCH_TYPES)),
    }
}

/// Unknown fields of a patched object: an error or warnings.
fn check(resource: &Resource, patched: &Value, validation: FieldValidation) -> Result<Vec<String>, Status> {
    if validation == FieldValidation::Ignore {
        return Ok(Vec::new());
    }
    let problems = schema::unknown_fields(patched, &resource.schema);
    if validation == FieldValidation::Strict && !problems.is_empty() {
        let mut errors = objects::field::Errors::default();
        errors.invalid(
            &objects::field::Path::root("patch"),
            objects::field::BadValue::json(patched),
            &schema::strict_error(&problems),
        );
        return Err(Status::invalid(resource.qualified_kind(), meta_str(patched, "name"), errors.as_slice()));
    }
    Ok(problems)
}

/// A parsed patch.
enum Patch {
    Json(Bytes),
    Merge(Value),
    Strategic(Value),
}

impl Patch {
    fn parse(kind: Option<BodyKind>, bytes: Bytes, resource: &Resource) -> Result<Patch, Status> {
        if kind == Some(BodyKind::JsonPatch) {
            parse_json_patch(&bytes)?;
            return Ok(Patch::Json(bytes));
        }
        // Patches in YAML are common by hand; JSON is a part of it but much quicker to read.
        let value = serde_json::from_slice(&bytes)
            .or_else(|error| serde_yaml_ng::from_slice(&bytes).map_err(|_| error))
            .map_err(|error| Status::bad_request(format!("error decoding patch: {error}")))?;
        match kind {
            Some(BodyKind::StrategicMergePatch) if resource.kind.custom => {
                Err(Status::unsupported_media_type(&[PATCH_TYPES[0], PATCH_TYPES[1], PATCH_TYPES[3]]))
            }
            Some(BodyKind::StrategicMergePatch) => Ok(Patch::Strategic(value)),
            _ => Ok(Patch::Merge(value)),
        }
    }

    /// The patched object, in the version of the request.
    fn apply(&self, old: &Value, resource: &Resource) -> Result<Value, Status> {
        let mut object = convert::from_stored(resource, old.clone())?;
        match self {
            Patch::Json(bytes) => json_patch(&mut object, parse_json_patch(bytes)?)?,
            Patch::Merge(patch) => merge_patch(&mut object, patch.clone()),
            Patch::Strategic(patch) => strategic_merge(&mut object, patch.clone(), &resource.schema)?,
        }
        body::check_kind(resource, &mut object)?;
        if meta_str(&object, "name") != meta_str(old, "name") {
            return Err(Status::bad_request("the name of the object does not match the name on the URL"));
        }
        Ok(object)
    }
}

/// Server-side apply: creates what is missing, merges into what is there by field ownership.
async fn apply(
    call: &mut Call,
    place: &Place<'_>,
    part: Part,
    options: &WriteOptions,
    bytes: &Bytes,
) -> Result<Response<Body>, Status> {
    if call.query.text("fieldManager").is_none() {
        let mut errors = objects::field::Errors::default();
        errors.required(&objects::field::Path::root("fieldManager"), "is required for apply patch");
        let kind = objects::status::Qualified::new("meta.k8s.io", "PatchOptions");
        return Err(Status::invalid(kind, "", errors.as_slice()));
    }
    let mut applied: Value = serde_json::from_slice(bytes)
        .or_else(|_| serde_yaml_ng::from_slice(bytes))
        .map_err(|error| Status::bad_request(format!("error decoding YAML: {error}")))?;
    body::check_kind(&place.resource, &mut applied)?;
    body::check_fields(call, &place.resource, &applied, Vec::new())?;
    if applied.pointer("/metadata/managedFields").and_then(Value::as_array).is_some_and(|list| !list.is_empty()) {
        return Err(Status::bad_request("metadata.managedFields must be nil"));
    }
    let inner = call.inner.clone();
    let user = call.user.clone();
    let resource = place.resource.clone();
    if part == Part::Main && store::read(&inner, &place.store_key()).await?.is_none() {
        let object = managed::apply_new(&resource, &applied, place.name, options)?;
        let created = create_object(&inner, &user, place, object, options, &mut call.warnings).await;
        match created {
            Ok(Created::Stored(bytes, revision)) => {
                return respond::stored(call, 201, &place.resource, &bytes, revision);
            }
            Ok(Created::Dry(value)) => return answer(call, place, update::Outcome::Dry(value)),
            // Somebody else was quicker: merge into theirs.
            Err(status) if status.reason() == objects::status::Reason::AlreadyExists => {}
            Err(status) => return Err(status),
        }
    }
    let change = Change { inner: &inner, user: &user, part, options, mode: Mode::Applied };
    let next = |old: &Value| managed::apply_to(&resource, old, &applied, options, place.subresource);
    let outcome = update::apply(&change, place, &mut call.warnings, next).await?;
    answer(call, place, outcome)
}

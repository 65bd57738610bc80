//! The `/scale` subresource of workloads and custom resources.

use http::{Method, Response};
use objects::{
    patch::{json_patch, merge_patch, parse_json_patch},
    status::Status,
    strategy::Part,
};
use serde_json::Value;

use super::{Place, body, options::WriteOptions, store, update};
use crate::{
    body::Body,
    encoded::{self, child_mut},
    handler::Call,
    negotiate::{self, BodyKind, View, body_kind},
    respond,
    views::{self, Include},
};

/// Answers GET, PUT and PATCH of a scale.
pub(crate) async fn scale(call: &mut Call, place: &Place<'_>) -> Result<Response<Body>, Status> {
    let numbers = |object: &Value| place.resource.strategy.scale(object).ok_or_else(Status::unknown_path);
    let view = |object: &Value| Ok::<_, Status>(numbers(object)?.to_object(object));
    if call.method == Method::GET {
        let kv = store::read(&call.inner, &place.store_key()).await?.ok_or_else(|| place.not_found())?;
        let object = encoded::decode(&kv.value, kv.mod_revision)?;
        let form = negotiate::form(call.headers(), &call.query, true)?;
        let shown = match form.view {
            View::Table => views::scale_table(&numbers(&object)?, &object, Include::of(&call.query)),
            View::PartialMetadata | View::PartialMetadataList => views::partial(&view(&object)?),
            View::Full => view(&object)?,
        };
        return Ok(respond::bytes(call, 200, form.encoding, respond::encode(&shown, form.encoding)?.into()));
    }
    let options = WriteOptions::of(call)?;
    let kind = if call.method == Method::PATCH { body_kind(call.headers()) } else { None };
    let bytes = body::read(call).await?;
    let (inner, user) = (call.inner.clone(), call.user.clone());
    let change =
        update::Change { inner: &inner, user: &user, part: Part::Main, options: &options, mode: update::Mode::Plain };
    let next = |old: &Value| {
        let mut wanted = view(old)?;
        match kind {
            Some(BodyKind::JsonPatch) => json_patch(&mut wanted, parse_json_patch(&bytes)?)?,
            _ => {
                let sent: Value = serde_json::from_slice(&bytes)
                    .map_err(|error| Status::bad_request(format!("cannot read the Scale: {error}")))?;
                // A Scale has no lists, so strategic and merge patches are the same, and so is a whole object.
                if kind.is_none() {
                    wanted = sent;
                } else {
                    merge_patch(&mut wanted, sent);
                }
            }
        }
        let replicas = wanted.pointer("/spec/replicas").and_then(Value::as_i64).unwrap_or(0);
        let replicas = i32::try_from(replicas).ok().filter(|n| *n >= 0).ok_or_else(|| {
            let mut errors = objects::field::Errors::default();
            let spec = objects::field::Path::root("spec");
            errors.invalid(&spec.child("replicas"), replicas, "must be greater than or equal to 0");
            let kind = objects::status::Qualified::new("autoscaling", "Scale");
            Status::invalid(kind, place.name, errors.as_slice())
        })?;
        let mut object = old.clone();
        place.resource.strategy.set_scale(&mut object, replicas);
        let metadata = child_mut(&mut object, "metadata");
        match wanted.pointer("/metadata/resourceVersion").and_then(Value::as_str) {
            Some(version) if call.method == Method::PUT && !version.is_empty() => {
                metadata.insert("resourceVersion".into(), version.into())
            }
            _ => metadata.remove("resourceVersion"),
        };
        Ok(object)
    };
    match update::apply(&change, place, &mut Vec::new(), next).await? {
        update::Outcome::Stored(bytes, revision) => {
            respond::value(call, 200, &view(&encoded::decode(&bytes, revision)?)?)
        }
        update::Outcome::Removed(value) | update::Outcome::Dry(value) => respond::value(call, 200, &view(&value)?),
    }
}

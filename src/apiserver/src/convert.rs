//! Between the version of a request and the version an object is stored in. Versions of one shape differ in their
//! header alone; the two Events and the two HorizontalPodAutoscalers are views with fields of other names.

use objects::{convert, status::Status};
use serde_json::Value;

use crate::{encoded, registry::Resource};

/// Appends the JSON text of a stored object in the resource's own version.
pub(crate) fn write(out: &mut Vec<u8>, resource: &Resource, stored: &[u8], revision: u64) -> Result<(), Status> {
    if resource.same_shape {
        encoded::splice(out, stored, revision, &resource.api_version, &resource.kind.kind);
        return Ok(());
    }
    let value = from_stored(resource, encoded::decode(stored, revision)?)?;
    serde_json::to_writer(out, &value).map_err(Status::internal)
}

/// The stored form as the resource's own version.
pub(crate) fn from_stored(resource: &Resource, mut object: Value) -> Result<Value, Status> {
    let kind = &resource.kind;
    if !resource.same_shape && !kind.custom {
        object = convert::from_stored(&kind.group, &kind.version, &kind.kind, object).map_err(Status::internal)?;
    }
    if !resource.same_shape && resource.kind.custom {
        objects::schema::default(&mut object, &resource.schema);
    }
    object["apiVersion"] = resource.api_version.as_str().into();
    object["kind"] = kind.kind.as_ref().into();
    Ok(object)
}

/// The resource's own version as the stored form.
pub(crate) fn to_stored(resource: &Resource, mut object: Value) -> Result<Value, Status> {
    let kind = &resource.kind;
    if !resource.same_shape && !kind.custom {
        object = convert::to_stored(&kind.group, &kind.version, &kind.kind, object).map_err(|error| {
            let (kind, version) = (&kind.kind, &kind.version);
            Status::bad_request(format!("{kind} in version \"{version}\" cannot be handled as a {kind}: {error}"))
        })?;
    }
    object["apiVersion"] = resource.storage_api_version.as_str().into();
    object["kind"] = kind.kind.as_ref().into();
    Ok(object)
}

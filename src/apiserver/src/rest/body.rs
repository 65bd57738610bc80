//! Reading request bodies: size limit, encodings, strict field validation, version and kind checks.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use objects::{schema, status::Status};
use serde_json::Value;

use super::Place;
use crate::{
    body::RequestBody,
    convert,
    handler::Call,
    negotiate::{BodyKind, OBJECT_TYPES, body_kind},
    registry::Resource,
    wire,
};

/// Largest body of a request, as upstream.
const LIMIT: usize = 3 * 1024 * 1024;
/// For all of a body to arrive, as long as upstream gives a request as a whole.
const PATIENCE: Duration = Duration::from_secs(60);

/// The whole body.
pub(crate) async fn read(call: &mut Call) -> Result<Bytes, Status> {
    let Some(body) = call.take_body() else { return Ok(Bytes::new()) };
    tokio::time::timeout(PATIENCE, whole(body))
        .await
        .unwrap_or_else(|_| Err(Status::bad_request("the request body did not arrive in time")))
}

async fn whole(mut body: RequestBody) -> Result<Bytes, Status> {
    let mut whole = Bytes::new();
    let mut buffer = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| Status::bad_request(format!("cannot read the request body: {error}")))?;
        let Ok(data) = frame.into_data() else { continue };
        if whole.len() + buffer.len() + data.len() > LIMIT {
            return Err(Status::too_large(&format!("limit is {LIMIT}")));
        }
        // Most bodies come in one piece, which is then used as it is.
        if whole.is_empty() && buffer.is_empty() {
            whole = data;
        } else {
            buffer.extend_from_slice(&std::mem::take(&mut whole));
            buffer.extend_from_slice(&data);
        }
    }
    Ok(if buffer.is_empty() { whole } else { buffer.freeze() })
}

/// How strictly unknown and duplicate fields are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FieldValidation {
    Ignore,
    Warn,
    Strict,
}

impl FieldValidation {
    pub(crate) fn of(call: &Call) -> Result<FieldValidation, Status> {
        match call.query.text("fieldValidation") {
            None | Some("Warn") => Ok(FieldValidation::Warn),
            Some("Ignore") => Ok(FieldValidation::Ignore),
            Some("Strict") => Ok(FieldValidation::Strict),
            Some(other) => Err(Status::bad_request(format!(
                "fieldValidation: Unsupported value: \"{other}\": supported values: \"Ignore\", \"Strict\", \"Warn\""
            ))),
        }
    }
}

/// Parses a body as JSON or YAML or protobuf, whichever it says it is. The second part lists duplicate fields.
fn parse(kind: BodyKind, bytes: &Bytes, expected: &str) -> Result<(Value, Vec<String>), Status> {
    let unreadable = |what: &str, error: &dyn std::fmt::Display| {
        Status::bad_request(format!(
            "the object provided is unrecognized (must be of type {expected}): couldn't get version/kind; {what} parse error: {error}"
        ))
    };
    match kind {
        BodyKind::Json => {
            let value = serde_json::from_slice(bytes).map_err(|error| unreadable("json", &error))?;
            Ok((value, schema::duplicate_fields(bytes)))
        }
        BodyKind::Yaml => {
            let value = serde_yaml_ng::from_slice(bytes).map_err(|error| unreadable("yaml", &error))?;
            Ok((value, Vec::new()))
        }
        BodyKind::Protobuf => Ok((wire::from_protobuf(bytes)?, Vec::new())),
        _ => Err(Status::unsupported_media_type(&OBJECT_TYPES)),
    }
}

/// An object of any kind from the body; `None` for an empty body.
pub(crate) async fn optional_value(call: &mut Call, expected: &str) -> Result<Option<Value>, Status> {
    let kind = body_kind(call.headers());
    let bytes = read(call).await?;
    if bytes.is_empty() {
        return Ok(None);
    }
    let kind = kind.ok_or_else(|| Status::unsupported_media_type(&OBJECT_TYPES))?;
    let (value, _) = parse(kind, &bytes, expected)?;
    if !value.is_object() {
        return Err(Status::bad_request(format!(
            "the object provided is unrecognized (must be of type {expected}): not an object"
        )));
    }
    Ok(Some(value))
}

/// The object in the body, of the place's kind, checked and in storage form but not yet decoded by its strategy.
pub(crate) async fn object(call: &mut Call, place: &Place<'_>) -> Result<Value, Status> {
    let kind = body_kind(call.headers()).ok_or_else(|| Status::unsupported_media_type(&OBJECT_TYPES))?;
    let bytes = read(call).await?;
    let resource = &place.resource;
    let (mut value, duplicates) = parse(kind, &bytes, &resource.kind.kind)?;
    check_kind(resource, &mut value)?;
    check_fields(call, resource, &value, duplicates)?;
    convert::to_stored(resource, value)
}

/// The body's apiVersion and kind must be the path's; missing ones are filled in.
pub(crate) fn check_kind(resource: &Resource, value: &mut Value) -> Result<(), Status> {
    if !value.is_object() {
        return Err(Status::bad_request(format!(
            "the object provided is unrecognized (must be of type {}): not an object",
            resource.kind.kind
        )));
    }
    let text = |name: &str| value.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
    let (api_version, kind) = (text("apiVersion"), text("kind"));
    if !api_version.is_empty() && api_version != resource.api_version {
        return Err(Status::bad_request(format!(
            "the API version in the data ({api_version}) does not match the expected API version ({})",
            resource.api_version
        )));
    }
    if !kind.is_empty() && kind != resource.kind.kind {
        return Err(Status::bad_request(format!(
            "the kind in the data ({kind}) does not match the expected kind ({})",
            resource.kind.kind
        )));
    }
    value["apiVersion"] = resource.api_version.as_str().into();
    value["kind"] = resource.kind.kind.as_ref().into();
    Ok(())
}

/// Unknown and duplicate fields: an error, warnings or nothing, as the request wants.
pub(crate) fn check_fields(
    call: &mut Call,
    resource: &Resource,
    value: &Value,
    duplicates: Vec<String>,
) -> Result<(), Status> {
    let validation = FieldValidation::of(call)?;
    if validation == FieldValidation::Ignore {
        return Ok(());
    }
    let mut problems = schema::unknown_fields(value, &resource.schema);
    problems.extend(duplicates);
    if problems.is_empty() {
        return Ok(());
    }
    if validation == FieldValidation::Warn {
        call.warnings.extend(problems);
        return Ok(());
    }
    let kind = &resource.kind;
    Err(Status::bad_request(format!(
        "{0} in version \"{1}\" cannot be handled as a {0}: {2}",
        kind.kind,
        kind.version,
        schema::strict_error(&problems)
    )))
}

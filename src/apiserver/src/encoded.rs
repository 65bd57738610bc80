//! The stored form of an object and the way back to the wire without parsing.
//!
//! Stored JSON always begins `{"apiVersion":…,"kind":…,"metadata":{` and holds no resourceVersion: that is the
//! store's mod revision, spliced in right behind `"metadata":{` when the object is sent. Whatever the version an
//! object is asked for in, its header is written anew, so versions of one shape need no conversion.

use bytes::Bytes;
use objects::status::Status;
use serde_json::{Map, Value, value::RawValue};

const METADATA: &[u8] = b"\"metadata\":{";

/// Encodes an object for the store. `api_version` and `kind` are those of the storage form.
pub(crate) fn encode(object: &Value, api_version: &str, kind: &str) -> Result<Bytes, Status> {
    let Value::Object(fields) = object else { return Err(Status::internal("object is not a JSON object")) };
    let mut out = Vec::with_capacity(1024);
    write_header(&mut out, api_version, kind);
    let metadata = fields.get("metadata").and_then(Value::as_object);
    let kept: Vec<(&String, &Value)> = metadata
        .into_iter()
        .flatten()
        .filter(|(name, _)| !matches!(name.as_str(), "resourceVersion" | "selfLink"))
        .collect();
    for (index, (name, value)) in kept.into_iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        write_member(&mut out, name, value)?;
    }
    out.push(b'}');
    for (name, value) in fields {
        if !matches!(name.as_str(), "apiVersion" | "kind" | "metadata") {
            out.push(b',');
            write_member(&mut out, name, value)?;
        }
    }
    out.push(b'}');
    out.shrink_to_fit();
    Ok(Bytes::from(out))
}

fn write_header(out: &mut Vec<u8>, api_version: &str, kind: &str) {
    out.extend_from_slice(b"{\"apiVersion\":\"");
    out.extend_from_slice(api_version.as_bytes());
    out.extend_from_slice(b"\",\"kind\":\"");
    out.extend_from_slice(kind.as_bytes());
    out.extend_from_slice(b"\",\"metadata\":{");
}

fn write_member(out: &mut Vec<u8>, name: &str, value: &Value) -> Result<(), Status> {
    serde_json::to_writer(&mut *out, name).map_err(Status::internal)?;
    out.push(b':');
    serde_json::to_writer(out, value).map_err(Status::internal)
}

/// Where the members of `metadata` begin.
fn members_at(stored: &[u8]) -> Option<usize> {
    stored.windows(METADATA.len()).position(|window| window == METADATA).map(|at| at + METADATA.len())
}

/// Writes a stored object as the wire form of `api_version` and `kind`, its revision included.
pub(crate) fn splice(out: &mut Vec<u8>, stored: &[u8], revision: u64, api_version: &str, kind: &str) {
    let Some(at) = members_at(stored) else {
        // Not written by this server; better unchanged than lost.
        out.extend_from_slice(stored);
        return;
    };
    write_header(out, api_version, kind);
    out.extend_from_slice(b"\"resourceVersion\":\"");
    out.extend_from_slice(revision.to_string().as_bytes());
    out.push(b'"');
    let rest = &stored[at..];
    if rest.first() != Some(&b'}') {
        out.push(b',');
    }
    out.extend_from_slice(rest);
}

/// Writes the PartialObjectMetadata of a stored object; only its metadata is read.
pub(crate) fn splice_partial(out: &mut Vec<u8>, stored: &[u8], revision: u64) -> Result<(), Status> {
    let at = members_at(stored).ok_or_else(|| Status::internal("object without metadata"))?;
    let metadata = serde_json::Deserializer::from_slice(&stored[at - 1..]).into_iter::<&RawValue>().next();
    let metadata = metadata.transpose().map_err(Status::internal)?.map_or("{}", RawValue::get);
    write_header(out, "meta.k8s.io/v1", "PartialObjectMetadata");
    out.extend_from_slice(b"\"resourceVersion\":\"");
    out.extend_from_slice(revision.to_string().as_bytes());
    out.push(b'"');
    let members = &metadata[1..];
    if !members.starts_with('}') {
        out.push(b',');
    }
    out.extend_from_slice(members.as_bytes());
    out.push(b'}');
    Ok(())
}

/// Parses a stored object; its revision becomes `metadata.resourceVersion`.
pub(crate) fn decode(stored: &[u8], revision: u64) -> Result<Value, Status> {
    let mut object: Value = serde_json::from_slice(stored).map_err(Status::internal)?;
    metadata_mut(&mut object).insert("resourceVersion".into(), revision.to_string().into());
    Ok(object)
}

/// The metadata of an object; made when missing.
pub(crate) fn metadata_mut(object: &mut Value) -> &mut Map<String, Value> {
    if !object.is_object() {
        *object = Value::Object(Map::new());
    }
    child_mut(object, "metadata")
}

/// An object member of an object; made when missing or of another type.
pub(crate) fn child_mut<'v>(object: &'v mut Value, name: &str) -> &'v mut Map<String, Value> {
    if !object[name].is_object() {
        object[name] = Value::Object(Map::new());
    }
    match &mut object[name] {
        Value::Object(map) => map,
        _ => unreachable!("made an object just above"),
    }
}

/// A string member of the metadata; empty when missing.
pub(crate) fn meta_str<'v>(object: &'v Value, name: &str) -> &'v str {
    object.get("metadata").and_then(|m| m.get(name)).and_then(Value::as_str).unwrap_or_default()
}

/// Whether deletion of the object has begun.
pub(crate) fn is_terminating(object: &Value) -> bool {
    !meta_str(object, "deletionTimestamp").is_empty()
}

/// The finalizers of an object.
pub(crate) fn finalizers(object: &Value) -> impl Iterator<Item = &str> {
    object.pointer("/metadata/finalizers").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn encode_then_splice_gives_the_revision_first_in_metadata() {
        let object = json!({"data": {"a": "\"metadata\":{"}, "metadata": {"name": "x", "resourceVersion": "1"}});
        let stored = encode(&object, "v1", "ConfigMap").unwrap();
        assert!(!stored.windows(15).any(|w| w == b"resourceVersion"));
        let mut out = Vec::new();
        splice(&mut out, &stored, 42, "v1", "ConfigMap");
        assert!(
            out.starts_with(br#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"resourceVersion":"42","name":"x"}"#)
        );
        let back: Value = serde_json::from_slice(&out).unwrap();
        assert_eq!(back["data"]["a"], "\"metadata\":{");
    }

    #[test]
    fn splice_rewrites_the_version() {
        let stored = encode(&json!({"metadata": {"name": "x"}, "spec": 1}), "g/v1", "K").unwrap();
        let mut out = Vec::new();
        splice(&mut out, &stored, 7, "g/v1beta1", "K");
        let back: Value = serde_json::from_slice(&out).unwrap();
        assert_eq!((&back["apiVersion"], &back["spec"]), (&json!("g/v1beta1"), &json!(1)));
        assert_eq!(decode(&stored, 7).unwrap()["metadata"]["resourceVersion"], "7");
    }

    #[test]
    fn partial_metadata_is_spliced_without_the_rest() {
        let object = json!({"metadata": {"name": "x", "labels": {"a": "}"}}, "spec": {"metadata": {}}});
        for (object, expected) in [
            (object, json!({"resourceVersion": "7", "name": "x", "labels": {"a": "}"}})),
            (json!({"spec": 1}), json!({"resourceVersion": "7"})),
        ] {
            let mut out = Vec::new();
            splice_partial(&mut out, &encode(&object, "v1", "K").unwrap(), 7).unwrap();
            let back: Value = serde_json::from_slice(&out).unwrap();
            assert_eq!(back["metadata"], expected);
            assert_eq!(back["kind"], "PartialObjectMetadata");
        }
    }

    #[test]
    fn empty_metadata_still_splices_to_valid_json() {
        let stored = encode(&json!({}), "v1", "K").unwrap();
        let mut out = Vec::new();
        splice(&mut out, &stored, 1, "v1", "K");
        assert!(serde_json::from_slice::<Value>(&out).is_ok());
    }
}

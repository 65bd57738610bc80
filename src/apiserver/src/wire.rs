//! Protobuf on the wire: the `k8s\0` envelope around messages, driven by the tag table.

use bytes::Bytes;
use objects::status::Status;
use serde_json::Value;

use crate::negotiate::OBJECT_TYPES;

/// Whether answers can be given as protobuf.
pub(crate) const AVAILABLE: bool = false;

/// Encodes an object in its envelope.
pub(crate) fn to_protobuf(_: &Value) -> Result<Vec<u8>, Status> {
    Err(Status::not_acceptable(&OBJECT_TYPES[..2]))
}

/// Decodes an object from its envelope.
pub(crate) fn from_protobuf(_: &Bytes) -> Result<Value, Status> {
    Err(Status::unsupported_media_type(&OBJECT_TYPES[..2]))
}

/// Writes a length-delimited watch event.
pub(crate) fn watch_frame(_: &mut Vec<u8>, _: &str, _: &Value) {}

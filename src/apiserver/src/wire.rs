//! Protobuf on the wire: the `k8s\0` envelope around messages, as `objects` writes and reads it.

use bytes::Bytes;
use objects::{
    protobuf::{self, ProtobufError},
    status::Status,
};
use serde_json::Value;

use crate::negotiate::OBJECT_TYPES;

/// Encodes an object in its envelope.
pub(crate) fn to_protobuf(value: &Value) -> Result<Vec<u8>, Status> {
    protobuf::encode(value).map_err(|error| match error {
        ProtobufError::Unknown(_) => Status::not_acceptable(&OBJECT_TYPES[..2]),
        other => Status::internal(other),
    })
}

/// Decodes an object from its envelope.
pub(crate) fn from_protobuf(bytes: &Bytes) -> Result<Value, Status> {
    match protobuf::decode(bytes) {
        Ok(decoded) => Ok(decoded.value),
        Err(ProtobufError::Unknown(_)) => Err(Status::unsupported_media_type(&OBJECT_TYPES[..2])),
        Err(error) => Err(Status::bad_request(format!("cannot read the protobuf object: {error}"))),
    }
}

/// Writes a length-delimited watch event.
pub(crate) fn watch_frame(out: &mut Vec<u8>, event: &str, value: &Value) {
    match protobuf::encode(value) {
        Ok(enveloped) => out.extend_from_slice(&protobuf::encode_watch_frame(event, &enveloped)),
        Err(error) => tracing::warn!(%error, "an object cannot be sent as protobuf"),
    }
}

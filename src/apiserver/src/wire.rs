//! Protobuf on the wire: the `k8s\0` envelope around messages, as `objects` writes and reads it.

use bytes::Bytes;
use objects::{
    protobuf::{self, ProtobufError},
    status::Status,
};
use serde_json::Value;

use crate::negotiate::OBJECT_TYPES;

/// An object that is not written, as clients see it.
pub(crate) fn refusal(error: ProtobufError) -> Status {
    match error {
        ProtobufError::Unknown(_) => Status::not_acceptable(&OBJECT_TYPES[..2]),
        other => Status::internal(other),
    }
}

/// Encodes an object in its envelope.
pub(crate) fn to_protobuf(value: &Value) -> Result<Vec<u8>, Status> {
    protobuf::encode(value).map_err(refusal)
}

/// Decodes an object from its envelope.
pub(crate) fn from_protobuf(bytes: &Bytes) -> Result<Value, Status> {
    match protobuf::decode(bytes) {
        Ok(decoded) => Ok(decoded.value),
        Err(ProtobufError::Unknown(_)) => Err(Status::unsupported_media_type(&OBJECT_TYPES[..2])),
        Err(error) => Err(Status::bad_request(format!("cannot read the protobuf object: {error}"))),
    }
}

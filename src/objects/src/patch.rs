//! The patch formats of the Kubernetes API, on JSON values: JSON patch (RFC 6902), JSON merge patch (RFC 7386),
//! strategic merge patch, and server-side apply ([`crate::apply`]). Called by the API server's PATCH verb.

mod json;
mod merge;
mod strategic;

pub use json::{MAX_OPERATIONS, Operation, json_patch, parse_json_patch};
pub use merge::merge_patch;
pub use strategic::strategic_merge;

use crate::status::{Reason, Status};

/// Why a patch could not be applied.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PatchError {
    /// The patch itself is malformed: 400.
    #[error("{0}")]
    Malformed(String),
    /// The patch does not fit the object: 422.
    #[error("{0}")]
    Unprocessable(String),
    /// More than [`MAX_OPERATIONS`] operations: 413.
    #[error("The allowed maximum operations in a JSON patch is {MAX_OPERATIONS}, got {0}")]
    TooMany(usize),
}

impl From<PatchError> for Status {
    fn from(error: PatchError) -> Self {
        let text = error.to_string();
        match error {
            PatchError::Malformed(_) => Status::bad_request(text),
            PatchError::Unprocessable(_) => Status::custom(422, Reason::Invalid, text),
            PatchError::TooMany(_) => Status::custom(413, Reason::RequestEntityTooLarge, text),
        }
    }
}

//! OpenAPI documents: routed and cached here, made by `objects`.

use http::Response;
use objects::status::Status;

use crate::{body::Body, handler::Call};

/// Answers `/openapi/...`.
pub(crate) fn dispatch(_: &Call, _: &str) -> Result<Response<Body>, Status> {
    Err(Status::unknown_path())
}

//! GET of one object: straight from the store, spliced, not parsed.

use http::Response;
use objects::status::Status;

use super::{Place, store};
use crate::{body::Body, handler::Call, respond};

/// Answers a GET.
pub(crate) async fn get(call: &Call, place: &Place<'_>) -> Result<Response<Body>, Status> {
    let key = place.store_key();
    let found = match call.query.text("resourceVersion") {
        // Not older than what the client has seen: no need to ask the other members.
        Some(version) => {
            let revision: u64 = version.parse().map_err(|_| invalid_version(version))?;
            if revision > call.inner.config.store.revision() {
                call.inner.hub.wait_for(revision).await?;
            }
            store::read_local(&call.inner, &key)?
        }
        None => store::read(&call.inner, &key).await?,
    };
    let kv = found.ok_or_else(|| place.not_found())?;
    respond::stored(call, 200, &place.resource, &kv.value, kv.mod_revision)
}

/// A resourceVersion that is no number.
pub(crate) fn invalid_version(version: &str) -> Status {
    Status::bad_request(format!(
        "Invalid value: \"{version}\": strconv.ParseUint: parsing \"{version}\": invalid syntax"
    ))
}

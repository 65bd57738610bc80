//! DELETE of a collection: every object that the selectors accept, one by one.

use http::Response;
use objects::status::Status;

use super::{Place, body, delete, options};
use crate::{body::Body, handler::Call, respond, selection::Selection};

/// Answers a DELETE of a collection with an empty list, as upstream's clients only look at the code.
pub(crate) async fn delete_collection(call: &mut Call, place: &Place<'_>) -> Result<Response<Body>, Status> {
    let selection = Selection::of(&call.query, &place.resource)?;
    call.query.integer("timeoutSeconds")?;
    let body = body::optional_value(call, "DeleteOptions").await?;
    let (options, dry_run) = options::delete_options(&call.query, body.as_ref())?;
    call.inner.hub.linearize().await?;
    let cache = call.inner.hub.of(&place.resource)?;
    let listing = cache.list(place.namespace, |entry| selection.matches(entry));
    let mut warnings = Vec::new();
    let mut items = Vec::new();
    for entry in &listing.entries {
        let one = Place {
            resource: place.resource.clone(),
            namespace: entry.namespace(),
            name: entry.name(),
            subresource: "",
        };
        match delete::delete_object(&call.inner, &call.user, &one, &options, dry_run, &mut warnings).await {
            Ok(delete::Deleted::Gone(value) | delete::Deleted::Marked(value)) => items.push(value),
            Err(status) if status.is_not_found() => {}
            Err(status) => return Err(status),
        }
    }
    call.warnings.append(&mut warnings);
    let list = serde_json::json!({
        "apiVersion": place.resource.api_version,
        "kind": place.resource.kind.list_kind,
        "metadata": {"resourceVersion": call.inner.config.store.revision().to_string()},
        "items": items,
    });
    respond::value(call, 200, &list)
}

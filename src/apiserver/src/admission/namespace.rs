//! NamespaceLifecycle: nothing is created in a namespace that is not there or is going away.

use objects::status::{Qualified, Status};

use super::{Operation, Review};
use crate::{cache::Entry, rest::store};

/// Checks the namespace of a create.
pub(super) async fn check(review: &Review<'_>) -> Result<(), Status> {
    let place = review.place;
    if review.operation != Operation::Create || place.namespace.is_empty() || !place.subresource.is_empty() {
        return Ok(());
    }
    // The namespace controller's own questions.
    if place.resource.is("authorization.k8s.io", "localsubjectaccessreviews") {
        return Ok(());
    }
    let terminating = match review.inner.hub.kind("namespaces")?.get(place.namespace) {
        Some(entry) => is_terminating(&entry),
        None => {
            // Perhaps made a moment ago: the store knows.
            let key = crate::keys::object("namespaces", "", place.namespace);
            if store::read(review.inner, &key).await?.is_none() {
                return Err(Status::not_found(Qualified::new("", "namespaces"), place.namespace));
            }
            false
        }
    };
    if terminating {
        let why =
            format!("unable to create new content in namespace {} because it is being terminated", place.namespace);
        let message = format!("namespace {} is being terminated", place.namespace);
        return Err(review.forbid("", &why).with_cause("NamespaceTerminating", &message, "metadata.namespace"));
    }
    Ok(())
}

fn is_terminating(entry: &Entry) -> bool {
    entry.projection.terminating
}

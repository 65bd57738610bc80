//! Admission: what an authorized write still has to pass. First the steps that may change the object, then those
//! that only look, each in upstream's order. A step is a function; which ones a request meets follows from its
//! resource and operation, so a ConfigMap meets two and a Pod a dozen.

mod certificates;
mod defaults;
mod escalation;
mod limit_ranger;
mod namespace;
pub(crate) mod node_restriction;
mod owner;
mod pod_security;
mod pods;
pub(crate) mod quota;
mod service_account;

use objects::status::Status;
use serde_json::Value;

use self::quota::Turn;
use crate::{authn::User, namespaces, rest::Place, server::Inner};

/// What a request does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Operation {
    Create,
    Update,
    Delete,
}

/// One request under review.
pub(crate) struct Review<'r> {
    pub(crate) inner: &'r Inner,
    pub(crate) user: &'r User,
    pub(crate) place: &'r Place<'r>,
    pub(crate) operation: Operation,
    /// The stored object, for updates and deletes.
    pub(crate) old: Option<&'r Value>,
    /// Texts for `Warning` headers.
    pub(crate) warnings: Vec<String>,
}

impl Review<'_> {
    fn is(&self, group: &str, plural: &str) -> bool {
        self.place.resource.is(group, plural)
    }

    /// A create or update of the object itself, not of a subresource.
    fn is_main(&self, group: &str, plural: &str, operation: Operation) -> bool {
        self.operation == operation && self.place.subresource.is_empty() && self.is(group, plural)
    }

    /// The step's refusal of this object.
    fn forbid(&self, name: &str, why: &str) -> Status {
        Status::forbidden(self.place.resource.qualified(), name, why)
    }
}

/// Steps that may change the object. True when one did.
pub(crate) async fn mutate(review: &mut Review<'_>, object: &mut Value) -> Result<bool, Status> {
    namespace::check(review).await?;
    let mut changed = false;
    if review.is_main("", "pods", Operation::Create) {
        service_account::mutate(review, object).await?;
        pods::mutate(review, object)?;
        limit_ranger::mutate(review, object)?;
        changed = true;
    } else if review.is_main("", "pods", Operation::Update) {
        changed = pods::mutate_update(object)?;
    } else if review.operation == Operation::Create {
        changed = defaults::mutate(review, object)?;
    }
    Ok(changed)
}

/// Steps that only look. `object` is the final state; none for a delete. The turn, where there is one, is to be kept
/// until the object is written and visible.
pub(crate) async fn validate(review: &mut Review<'_>, object: Option<&Value>) -> Result<Option<Turn>, Status> {
    if review.operation == Operation::Delete {
        namespaces::check_delete(&review.place.resource, review.place.name)?;
    }
    node_restriction::validate(review, object)?;
    if let Some(object) = object {
        owner::validate(review, object)?;
        if review.is("", "pods") || review.is("", "persistentvolumeclaims") {
            limit_ranger::validate(review, object)?;
        }
        if review.is("", "pods") {
            pod_security::validate(review, object)?;
        }
        escalation::validate(review, object)?;
        certificates::validate(review, object)?;
        return quota::validate(review, object).await;
    }
    Ok(None)
}

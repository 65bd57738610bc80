//! Authorization: may this user do that. `system:masters` may do all; nodes may do what their pods need
//! ([`node`]); everything else is RBAC ([`rbac`]), read from the watch cache through an index.

pub(crate) mod node;
pub(crate) mod rbac;
pub(crate) mod roles;

use std::sync::Arc;

use objects::status::{Status, quote};

use self::{node::NodeAuthorizer, rbac::Rbac};
use crate::{
    authn::{User, user::MASTERS},
    cache::Hub,
};

/// What somebody wants to do.
#[derive(Clone, Copy)]
pub(crate) struct Attributes<'a> {
    pub(crate) user: &'a User,
    pub(crate) verb: &'a str,
    pub(crate) group: &'a str,
    pub(crate) resource: &'a str,
    pub(crate) subresource: &'a str,
    pub(crate) namespace: &'a str,
    pub(crate) name: &'a str,
    /// The `spec.nodeName` that a field selector narrows the request to.
    pub(crate) selected_node: &'a str,
    /// For requests that are not about a resource; then all the above but user and verb are empty.
    pub(crate) path: &'a str,
}

impl<'a> Attributes<'a> {
    /// Nothing but the user, to fill in.
    pub(crate) fn of(user: &'a User) -> Attributes<'a> {
        Attributes {
            user,
            verb: "",
            group: "",
            resource: "",
            subresource: "",
            namespace: "",
            name: "",
            selected_node: "",
            path: "",
        }
    }

    pub(crate) fn is_resource(&self) -> bool {
        self.path.is_empty()
    }

    /// Upstream's wording of a refusal, behind `... is forbidden: `.
    pub(crate) fn refusal(&self, reason: &str) -> String {
        let resource = if self.subresource.is_empty() {
            self.resource.to_owned()
        } else {
            format!("{}/{}", self.resource, self.subresource)
        };
        let scope = if self.namespace.is_empty() {
            "at the cluster scope".to_owned()
        } else {
            format!("in the namespace {}", quote(self.namespace))
        };
        let mut text = format!(
            "User {} cannot {} resource {} in API group {} {scope}",
            quote(&self.user.name),
            self.verb,
            quote(&resource),
            quote(self.group)
        );
        if !reason.is_empty() {
            text.push_str(": ");
            text.push_str(reason);
        }
        text
    }
}

/// An authorizer's answer, with its reason.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Decision {
    Allow(String),
    NoOpinion(String),
}

/// The chain.
pub(crate) struct Authorizer {
    pub(crate) rbac: Rbac,
    node: NodeAuthorizer,
}

impl Authorizer {
    pub(crate) fn new(hub: Arc<Hub>) -> Authorizer {
        Authorizer { rbac: Rbac::new(hub.clone()), node: NodeAuthorizer::new(hub) }
    }

    /// Asks the chain. A failure to read the rules refuses.
    pub(crate) fn authorize(&self, attributes: &Attributes<'_>) -> Decision {
        if attributes.user.in_group(MASTERS) {
            return Decision::Allow(String::new());
        }
        match self.try_authorize(attributes) {
            Ok(decision) => decision,
            Err(status) => {
                tracing::warn!(error = %status, "authorization failed");
                Decision::NoOpinion(status.to_string())
            }
        }
    }

    fn try_authorize(&self, attributes: &Attributes<'_>) -> Result<Decision, Status> {
        let mut why = String::new();
        if let Some(node) = attributes.user.node_name() {
            match self.node.authorize(node, attributes)? {
                Decision::NoOpinion(reason) => why = reason,
                decided => return Ok(decided),
            }
        }
        match self.rbac.authorize(attributes)? {
            Decision::NoOpinion(reason) if !reason.is_empty() => Ok(Decision::NoOpinion(reason)),
            Decision::NoOpinion(_) => Ok(Decision::NoOpinion(why)),
            decided => Ok(decided),
        }
    }
}

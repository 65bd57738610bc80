//! A user as Kubernetes knows one: a name, groups, and whatever else the credential said.

use std::collections::BTreeMap;

/// Group of everyone who showed a valid credential.
pub(crate) const AUTHENTICATED: &str = "system:authenticated";
/// Group of everyone who showed none.
pub(crate) const UNAUTHENTICATED: &str = "system:unauthenticated";
/// Group that authorization lets do everything.
pub(crate) const MASTERS: &str = "system:masters";
/// Whose certificates open the store itself, past every rule of the API. Only the cluster's CA gives them out, never a
/// certificate signing request.
pub const ETCD_CLIENTS: &str = "system:rk:etcd";
/// Group of a cluster's servers. It opens the paths on which they speak to each other, and nothing of the API: whoever has
/// such a certificate has the CA's key as well. Only servers give it out, never a certificate signing request.
pub const SERVERS: &str = "system:rk:servers";
/// Group of nodes.
pub(crate) const NODES: &str = "system:nodes";
const NODE_PREFIX: &str = "system:node:";

/// Who a request is from.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct User {
    /// Unique name, for example `system:node:edge-1`.
    pub name: String,
    /// Empty where the credential has none.
    pub uid: String,
    /// Groups, `system:authenticated` included.
    pub groups: Vec<String>,
    /// Further facts of the credential.
    pub extra: BTreeMap<String, Vec<String>>,
}

impl User {
    /// An authenticated user of that name and these groups.
    pub fn new(name: impl Into<String>, groups: impl IntoIterator<Item = impl Into<String>>) -> User {
        let groups = groups.into_iter().map(Into::into).collect();
        User { name: name.into(), groups, ..User::default() }.authenticated()
    }

    /// Whoever shows no credential.
    pub fn anonymous() -> User {
        User { name: "system:anonymous".into(), groups: vec![UNAUTHENTICATED.into()], ..User::default() }
    }

    /// Adds the group of all authenticated users.
    #[must_use]
    pub(crate) fn authenticated(mut self) -> User {
        if !self.in_group(AUTHENTICATED) {
            self.groups.push(AUTHENTICATED.into());
        }
        self
    }

    /// Whether the user is in `group`.
    pub fn in_group(&self, group: &str) -> bool {
        self.groups.iter().any(|g| g == group)
    }

    /// Name of the node that this user is, if it is one.
    pub(crate) fn node_name(&self) -> Option<&str> {
        self.name.strip_prefix(NODE_PREFIX).filter(|_| self.in_group(NODES))
    }

    /// Namespace and name of the service account that this user is, if it is one.
    pub(crate) fn service_account(&self) -> Option<(&str, &str)> {
        self.name.strip_prefix("system:serviceaccount:").and_then(|rest| rest.split_once(':'))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_needs_both_name_and_group() {
        assert_eq!(User::new("system:node:a", ["system:nodes"]).node_name(), Some("a"));
        assert_eq!(User::new("system:node:a", ["other"]).node_name(), None);
        assert_eq!(User::new("a", ["system:nodes"]).node_name(), None);
    }
}

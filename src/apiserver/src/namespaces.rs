//! Namespaces that the cluster cannot be without.

use objects::status::Status;

use crate::registry::Resource;

const IMMORTAL: [&str; 3] = ["default", "kube-system", "kube-public"];

/// Refuses to delete one of them.
pub(crate) fn check_delete(resource: &Resource, name: &str) -> Result<(), Status> {
    if resource.is("", "namespaces") && IMMORTAL.contains(&name) {
        return Err(Status::forbidden(resource.qualified(), name, "this namespace may not be deleted"));
    }
    Ok(())
}

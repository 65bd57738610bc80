//! What a pod may ask of the runtime that this node can't give: runtime classes, user namespaces, AppArmor profiles.

use client::Api;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::node::v1::RuntimeClass;

use crate::context::Context;

/// Handlers that all mean rk's own runtime; `runc` so that manifests made for other distributions work.
const HANDLERS: [&str; 3] = ["", "rk", "runc"];

#[derive(Debug, thiserror::Error)]
pub(super) enum HandlerError {
    #[error("RuntimeClass \"{0}\" not found")]
    NoClass(String),
    #[error("no runtime for \"{0}\" is configured")]
    NoHandler(String),
    #[error("user namespaces (hostUsers: false) are not supported by this node")]
    UserNamespaces,
    #[error("cannot ask for the pod's RuntimeClass")]
    Api(#[source] Box<kube::Error>),
}

/// Checks that the runtime can do what the pod asks for.
pub(super) async fn check(context: &Context, pod: &Pod) -> Result<(), HandlerError> {
    let Some(spec) = &pod.spec else { return Ok(()) };
    if spec.host_users == Some(false) {
        return Err(HandlerError::UserNamespaces);
    }
    let Some(name) = spec.runtime_class_name.as_deref().filter(|n| !n.is_empty()) else { return Ok(()) };
    let classes: Api<RuntimeClass> = Api::all(context.client.clone());
    let class = classes.get_opt(name).await.map_err(|error| HandlerError::Api(Box::new(error)))?;
    let class = class.ok_or_else(|| HandlerError::NoClass(name.to_owned()))?;
    if HANDLERS.contains(&class.handler.as_str()) { Ok(()) } else { Err(HandlerError::NoHandler(class.handler)) }
}

//! Lifecycle hooks: postStart and preStop.

use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, LifecycleHandler};
use runtime::ContainerId;

use crate::context::Context;
use crate::probes::action::{self, Action, ActionError};

#[derive(Debug, thiserror::Error)]
pub(super) enum HookError {
    #[error("{0}")]
    Failed(String),
    #[error(transparent)]
    Action(#[from] ActionError),
    #[error("invalid handler")]
    Invalid,
}

/// Hooks end by themselves or with the container's grace period; this only bounds a single connection.
const LIMIT: Duration = Duration::from_secs(24 * 3600);

/// Runs the hook to its end. The caller bounds the time.
pub(super) async fn run(
    context: &Context,
    container: &Container,
    id: &ContainerId,
    hook: &LifecycleHandler,
    pod_ip: Option<&str>,
) -> Result<(), HookError> {
    if let Some(sleep) = &hook.sleep {
        tokio::time::sleep(Duration::from_secs(sleep.seconds.max(0).unsigned_abs())).await;
        return Ok(());
    }
    let action = if let Some(exec) = &hook.exec {
        Action::exec(exec)
    } else if let Some(http) = &hook.http_get {
        Action::http(http, container, pod_ip)?
    } else if let Some(tcp) = &hook.tcp_socket {
        Action::tcp(tcp, container, pod_ip)?
    } else {
        return Err(HookError::Invalid);
    };
    let outcome = action::perform(&context.runtime, id, &action, LIMIT).await;
    if outcome.success { Ok(()) } else { Err(HookError::Failed(outcome.output)) }
}

//! Pod → what the runtime and the network are told. Pure: no tokio, files or clock.
//!
//! Called by `pods` while a pod is started; everything that must be fetched (objects, images, addresses) is an input.

pub mod amounts;
pub mod container;
pub mod env;
pub mod expand;
pub mod fields;
pub mod files;
pub mod pod;
pub mod resources;
pub mod security;

use k8s_openapi::api::core::v1::{Container, EphemeralContainer, Pod};

/// `name_namespace(uid)`, as upstream's messages name a pod.
pub fn describe(pod: &Pod) -> String {
    let meta = &pod.metadata;
    let text = |field: &Option<String>| field.clone().unwrap_or_default();
    format!("{}_{}({})", text(&meta.name), text(&meta.namespace), text(&meta.uid))
}

/// What part a container plays in its pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// Runs to completion before the next one starts.
    Init,
    /// An init container that is kept running (`restartPolicy: Always`).
    Sidecar,
    Main,
    /// Added by a debugger; never restarted.
    Ephemeral,
}

/// The pod's containers with their parts, in the order they start.
pub fn containers(pod: &Pod) -> Vec<(Role, std::borrow::Cow<'_, Container>)> {
    use std::borrow::Cow;
    let Some(spec) = &pod.spec else { return Vec::new() };
    let init = spec.init_containers.iter().flatten().map(|c| {
        let sidecar = c.restart_policy.as_deref() == Some("Always");
        (if sidecar { Role::Sidecar } else { Role::Init }, Cow::Borrowed(c))
    });
    let ephemeral = spec.ephemeral_containers.iter().flatten();
    init.chain(spec.containers.iter().map(|c| (Role::Main, Cow::Borrowed(c))))
        .chain(ephemeral.map(|c| (Role::Ephemeral, Cow::Owned(from_ephemeral(c)))))
        .collect()
}

/// The container called `name`.
pub fn find<'a>(pod: &'a Pod, name: &str) -> Option<(Role, std::borrow::Cow<'a, Container>)> {
    containers(pod).into_iter().find(|(_, c)| c.name == name)
}

/// The container that the debugger called `name` was made for.
pub fn debug_target<'a>(pod: &'a Pod, name: &str) -> Option<&'a str> {
    let mut debuggers = pod.spec.as_ref()?.ephemeral_containers.iter().flatten();
    let debugger = debuggers.find(|c| c.name == name)?;
    debugger.target_container_name.as_deref().filter(|target| !target.is_empty())
}

fn from_ephemeral(from: &EphemeralContainer) -> Container {
    Container {
        args: from.args.clone(),
        command: from.command.clone(),
        env: from.env.clone(),
        env_from: from.env_from.clone(),
        image: from.image.clone(),
        image_pull_policy: from.image_pull_policy.clone(),
        name: from.name.clone(),
        resources: from.resources.clone(),
        security_context: from.security_context.clone(),
        stdin: from.stdin,
        stdin_once: from.stdin_once,
        termination_message_path: from.termination_message_path.clone(),
        termination_message_policy: from.termination_message_policy.clone(),
        tty: from.tty,
        volume_mounts: from.volume_mounts.clone(),
        working_dir: from.working_dir.clone(),
        ..Container::default()
    }
}

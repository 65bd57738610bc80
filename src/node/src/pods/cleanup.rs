//! Clears what is left of pods: after their end, and at the start for pods the API no longer knows.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use client::Api;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{DeleteParams, Preconditions};
use net::NetError;
use runtime::{ContainerState, PodId, PodStatus};

use crate::context::Context;
use crate::network::chain;
use crate::spec::container as container_spec;
use crate::spec::pod::labels;
use crate::volumes::table;

/// Ends and removes the pods of the runtime, and the folders, that belong to no pod of the API.
///
/// Must have returned before the first pod is taken up: an address given meanwhile would be taken for a former one.
pub(super) async fn orphans(context: &Arc<Context>) {
    let pods = context.pods.list();
    let known: BTreeSet<String> =
        pods.iter().filter(|p| context.is_mine(p)).filter_map(|p| p.metadata.uid.clone()).collect();
    let running = context.runtime.list_pods();
    let mut found: BTreeSet<String> = running.iter().map(|p| p.spec.id.to_string()).collect();
    for pod in running.into_iter().filter(|p| !known.contains(p.spec.id.as_str())) {
        let context = context.clone();
        let stop = context.stop.clone();
        let task = async move {
            tracing::info!(uid = %pod.spec.id, name = %pod.spec.name, "ending a pod that was deleted meanwhile");
            end(&context, &pod).await;
            remove(&context, pod.spec.id.as_str(), None).await;
        };
        context_spawn(stop, task);
    }
    found.extend(known);
    former_folders(context, &found);
    former_logs(context, &found);
    match context.net.retain(&found).await {
        Ok(gone) if !gone.is_empty() => tracing::info!(pods = gone.len(), "released addresses of former pods"),
        // Without a pod CIDR no address has been given yet.
        Ok(_) | Err(NetError::NotReady) => {}
        Err(error) => tracing::warn!(error = %chain(&error), "cannot release addresses of former pods"),
    }
}

fn former_folders(context: &Context, known: &BTreeSet<String>) {
    for folder in fs::read_dir(context.config.pods_root()).into_iter().flatten().flatten() {
        let name = folder.file_name();
        if let Some(uid) = name.to_str().filter(|uid| !known.contains(*uid)) {
            warn_of(uid, "folder", table::clear(&folder.path()).err());
        }
    }
}

/// Removes the logs of pods that nobody knows (`<namespace>_<name>_<uid>`), and links that lead nowhere.
fn former_logs(context: &Context, known: &BTreeSet<String>) {
    for folder in fs::read_dir(&context.config.pod_logs).into_iter().flatten().flatten() {
        let name = folder.file_name();
        let uid = name.to_str().and_then(|n| n.rsplit_once('_')).map(|(_, uid)| uid);
        if uid.is_some_and(|uid| !known.contains(uid)) {
            warn_of(uid.unwrap_or_default(), "logs", fs::remove_dir_all(folder.path()).err());
        }
    }
    for link in fs::read_dir(&context.config.container_logs).into_iter().flatten().flatten() {
        if link.file_type().is_ok_and(|t| t.is_symlink()) && !link.path().exists() {
            drop(fs::remove_file(link.path()));
        }
    }
}

fn context_spawn(stop: tokio_util::sync::CancellationToken, task: impl Future<Output = ()> + Send + 'static) {
    tokio::spawn(async move { stop.run_until_cancelled(task).await });
}

/// Ends the containers of a pod of which only the runtime knows, with the grace they were promised.
async fn end(context: &Context, pod: &PodStatus) {
    let running = pod.containers.iter().filter(|c| c.state != ContainerState::Exited);
    let stops = running.map(|container| {
        let grace = container.spec.annotations.get(labels::GRACE).and_then(|g| g.parse().ok()).unwrap_or(30);
        context.runtime.stop_container(&container.id, None, Duration::from_secs(grace))
    });
    for result in futures::future::join_all(stops).await {
        if let Err(error) = result {
            tracing::debug!(uid = %pod.spec.id, error = %chain(&error), "container did not stop");
        }
    }
}

/// Removes everything of the pod from this machine.
pub(super) async fn remove(context: &Context, uid: &str, pod: Option<&Pod>) {
    let records = context.runtime.pod_status(&PodId::new(uid)).map(|s| s.containers).unwrap_or_default();
    for container in &records {
        unlink_log(&context.config.container_logs, container.id.as_str());
    }
    warn_of(uid, "runtime", context.runtime.remove_pod(&PodId::new(uid)).await.err());
    warn_of(uid, "network", context.net.detach(uid).await.err());
    warn_of(uid, "folder", table::clear(&context.config.pod_root(uid)).err());
    let from_records = || records.iter().find_map(|c| Some(c.spec.log_path.as_ref()?.parent()?.parent()?.to_owned()));
    let logs = pod.map(|p| container_spec::log_directory(&context.config.pod_logs, p)).or_else(from_records);
    if let Some(logs) = logs.filter(|l| l.starts_with(&context.config.pod_logs))
        && let Err(error) = fs::remove_dir_all(&logs)
        && error.kind() != std::io::ErrorKind::NotFound
    {
        tracing::warn!(path = %logs.display(), error = %error, "cannot remove a pod's logs");
    }
}

fn warn_of(uid: &str, part: &str, error: Option<impl std::error::Error>) {
    if let Some(error) = error {
        tracing::warn!(uid, part, error = %chain(&error), "cannot remove all of a pod");
    }
}

/// Takes away the pod's volumes; its other files stay until it is removed.
pub(super) fn clear_volumes(context: &Context, uid: &str) {
    let root = context.config.pod_root(uid);
    for part in ["volume-subpaths", "volumes"] {
        warn_of(uid, part, table::clear(&root.join(part)).err());
    }
}

/// Gives back the disk that the pod's ended containers still take.
pub(crate) async fn shed_files(context: &Context, id: &PodId) {
    let containers = context.runtime.pod_status(id).map(|status| status.containers).unwrap_or_default();
    for container in containers.iter().filter(|container| container.state == ContainerState::Exited) {
        if let Err(error) = context.runtime.shed_files(&container.id).await {
            tracing::debug!(container = %container.id, error = %chain(&error), "a container's files are left");
        }
    }
}

/// Removes the link of a container's log.
pub(super) fn unlink_log(folder: &Path, id: &str) {
    let suffix = format!("-{id}.log");
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().ends_with(&suffix) {
            drop(fs::remove_file(entry.path()));
        }
    }
}

/// Tells the API that the pod has ended, by deleting this very pod for good. Retries until it is answered.
pub(super) async fn delete_object(context: &Context, pod: &Pod) {
    let api: Api<Pod> = Api::namespaced(context.client.clone(), pod.metadata.namespace.as_deref().unwrap_or_default());
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    let params = DeleteParams {
        grace_period_seconds: Some(0),
        preconditions: Some(Preconditions { uid: pod.metadata.uid.clone(), resource_version: None }),
        ..DeleteParams::default()
    };
    let mut pause = Duration::from_millis(100);
    loop {
        match api.delete(name, &params).await {
            Ok(_) => return,
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => return,
            Err(error) => tracing::debug!(name, error = %error, "cannot delete a pod's object yet"),
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_secs(10));
    }
}

//! Manifests applied by the server itself: its own, and those a user puts in `server/manifests`.
//!
//! Each document is applied server-side under one field manager, so what other writers own stays theirs. The folder
//! is watched by inotify: nothing runs while nothing changes.

use anyhow::Context;
use kube::api::{DynamicObject, Patch, PatchParams};
use kube::core::GroupVersionKind;
use kube::discovery::{Scope, pinned_kind};
use kube::{Api, Client};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use serde::Deserialize;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

const FIELD_MANAGER: &str = "rk-manifests";
/// A manifest that could not be applied (its CRD may still be coming) is tried again this much later.
const RETRY: Duration = Duration::from_secs(5);

/// Applies every document of a YAML or JSON text.
pub(crate) async fn apply(client: &Client, text: &str) -> anyhow::Result<()> {
    for object in documents(text).context("read the manifest")? {
        let name = object.metadata.name.clone().unwrap_or_default();
        apply_object(client, object).await.with_context(|| format!("apply {name:?}"))?;
    }
    Ok(())
}

/// Applies what the cluster cannot do without, until that has worked.
pub(crate) async fn insist(client: Client, text: String, what: &'static str, stop: CancellationToken) {
    let trying = async {
        while let Err(error) = apply(&client, &text).await {
            tracing::warn!(what, error = format!("{error:#}"), "not made yet; trying again");
            tokio::time::sleep(RETRY).await;
        }
    };
    stop.run_until_cancelled(trying).await;
}

fn documents(text: &str) -> anyhow::Result<Vec<DynamicObject>> {
    let mut objects = Vec::new();
    for document in serde_yaml_ng::Deserializer::from_str(text) {
        let value = serde_yaml_ng::Value::deserialize(document)?;
        if !value.is_null() {
            objects.push(serde_yaml_ng::from_value(value)?);
        }
    }
    Ok(objects)
}

async fn apply_object(client: &Client, object: DynamicObject) -> anyhow::Result<()> {
    let types = object.types.as_ref().context("the manifest has no apiVersion and kind")?;
    let kind = GroupVersionKind::try_from(types)?;
    let (resource, capabilities) =
        pinned_kind(client, &kind).await.with_context(|| format!("find kind {}", kind.kind))?;
    let name = object.metadata.name.clone().context("the manifest has no metadata.name")?;
    let api: Api<DynamicObject> = match capabilities.scope {
        Scope::Cluster => Api::all_with(client.clone(), &resource),
        Scope::Namespaced => {
            let namespace = object.metadata.namespace.as_deref().unwrap_or("default");
            Api::namespaced_with(client.clone(), namespace, &resource)
        }
    };
    api.patch(&name, &PatchParams::apply(FIELD_MANAGER).force(), &Patch::Apply(&object)).await?;
    Ok(())
}

/// Applies the manifests of `folder` now and whenever one changes, until told to stop.
pub(crate) async fn follow(client: Client, folder: PathBuf, stop: CancellationToken) {
    let followed = tokio::select! {
        () = stop.cancelled() => Ok(()),
        followed = run(&client, &folder) => followed,
    };
    if let Err(error) = followed {
        tracing::error!(folder = %folder.display(), error = format!("{error:#}"), "manifests are not followed");
    }
}

async fn run(client: &Client, folder: &Path) -> anyhow::Result<()> {
    std::fs::create_dir_all(folder).context("make the folder")?;
    let inotify = Inotify::init(InitFlags::IN_CLOEXEC).context("start inotify")?;
    inotify
        .add_watch(folder, AddWatchFlags::IN_CLOSE_WRITE | AddWatchFlags::IN_MOVED_TO)
        .context("watch the folder")?;
    let mut changes = changes(inotify);
    let mut pending = files(folder)?;
    loop {
        let mut failed = Vec::new();
        for path in pending {
            if let Err(error) = apply_file(client, &path).await {
                tracing::warn!(file = %path.display(), error = format!("{error:#}"), "manifest not applied");
                failed.push(path);
            }
        }
        let retry =
            async { if failed.is_empty() { std::future::pending().await } else { tokio::time::sleep(RETRY).await } };
        pending = tokio::select! {
            names = changes.recv() => {
                let names = names.context("the folder cannot be watched any longer")?.into_iter();
                let mut paths: Vec<_> = names.map(|name| folder.join(name)).filter(|path| is_manifest(path)).collect();
                paths.extend(failed);
                paths.sort();
                paths.dedup();
                paths
            }
            () = retry => failed,
        };
    }
}

/// Names that inotify tells of, read on a thread of its own, which ends with the process.
fn changes(inotify: Inotify) -> mpsc::Receiver<Vec<OsString>> {
    let (sender, receiver) = mpsc::channel(16);
    std::thread::spawn(move || {
        while let Ok(events) = inotify.read_events() {
            let names = events.into_iter().filter_map(|event| event.name).collect();
            if sender.blocking_send(names).is_err() {
                return;
            }
        }
    });
    receiver
}

async fn apply_file(client: &Client, path: &Path) -> anyhow::Result<()> {
    let text = match tokio::fs::read_to_string(path).await {
        Ok(text) => text,
        // Removed meanwhile: what it made stays, as with k3s.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    apply(client, &text).await
}

fn files(folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mut paths: Vec<_> = std::fs::read_dir(folder)?.flatten().map(|entry| entry.path()).collect();
    paths.retain(|path| is_manifest(path));
    paths.sort();
    Ok(paths)
}

fn is_manifest(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "yaml" || extension == "yml" || extension == "json")
}

//! A pod's volumes on this node: made before its containers, kept up to date, taken away after them.
//!
//! Layout: `<root>/pods/<uid>/volumes/kubernetes.io~<kind>/<name>`. Everything is idempotent, so a restarted node
//! goes through the same steps for a pod it adopts.

mod atomic;
mod claims;
mod host_path;
pub(crate) mod mounts;
mod ownership;
pub(crate) mod payload;
pub(crate) mod references;
mod subpath;
pub(crate) mod table;
mod tokens;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{EmptyDirVolumeSource, Pod, Volume};
use tokio::sync::Notify;

use crate::context::Context;
use crate::spec::amounts;
use crate::spec::fields::{Addresses, Allocatable};
use payload::{PayloadError, PayloadInput};

/// Why a volume can't be had; told as `FailedMount`.
#[derive(Debug, thiserror::Error)]
pub(crate) enum VolumeError {
    #[error(transparent)]
    Payload(#[from] PayloadError),
    #[error(transparent)]
    HostPath(#[from] host_path::HostPathError),
    #[error(transparent)]
    Claim(#[from] claims::ClaimError),
    #[error("failed to fetch token")]
    Token(#[source] Box<kube::Error>),
    #[error("{0} volumes are not supported by this node")]
    Unsupported(&'static str),
    #[error("volume {0:?} is not in the pod's specification")]
    Unknown(String),
    #[error("{}", path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("subPath {sub:?} of volume {volume:?}")]
    SubPath { volume: String, sub: String, source: io::Error },
    #[error("variable {0} in subPathExpr is not set")]
    SubPathExpr(String),
}

/// A volume that is there.
#[derive(Clone, Debug)]
pub(crate) struct Mounted {
    pub(crate) path: PathBuf,
    /// Whatever the container asks for.
    pub(crate) read_only: bool,
}

/// The volumes of one pod.
pub(crate) struct PodVolumes {
    pub(crate) held: references::Held,
    tokens: tokens::Tokens,
    pub(crate) mounted: BTreeMap<String, Mounted>,
    wake: Arc<Notify>,
}

/// Values the downward API needs beside the pod.
pub(crate) struct Surroundings {
    pub(crate) addresses: Addresses,
    pub(crate) allocatable: Allocatable,
}

impl PodVolumes {
    pub(crate) fn new(wake: Arc<Notify>) -> PodVolumes {
        PodVolumes {
            held: references::Held::default(),
            tokens: tokens::Tokens::default(),
            mounted: BTreeMap::new(),
            wake,
        }
    }

    /// Holds the objects the pod names and waits until it is known whether they exist.
    pub(crate) async fn hold(&mut self, context: &Context, pod: &Pod) {
        self.held.update(&context.references, pod, &self.wake);
        self.held.synced().await;
    }

    /// As [`Self::hold`], without waiting; true when all is known. The worker is woken when it becomes so.
    pub(crate) fn hold_now(&mut self, context: &Context, pod: &Pod) -> bool {
        self.held.update(&context.references, pod, &self.wake);
        self.held.is_synced()
    }

    /// As [`Self::hold`], for a pod whose volumes stand; gives up waiting soon.
    pub(crate) async fn hold_briefly(&mut self, context: &Context, pod: &Pod) {
        self.held.update_for(&context.references, pod, &self.wake).await;
    }

    /// Makes every volume. The name of the one that failed comes with its error.
    pub(crate) async fn set_up(
        &mut self,
        context: &Context,
        pod: &Pod,
        around: &Surroundings,
    ) -> Result<(), (String, VolumeError)> {
        let root = context.config.pod_root(pod.metadata.uid.as_deref().unwrap_or_default());
        for volume in pod.spec.iter().flat_map(|s| s.volumes.iter().flatten()) {
            let mounted = self.set_up_one(context, pod, volume, &root, around).await;
            let mounted = mounted.map_err(|error| (volume.name.clone(), error))?;
            self.mounted.insert(volume.name.clone(), mounted);
        }
        Ok(())
    }

    async fn set_up_one(
        &mut self,
        context: &Context,
        pod: &Pod,
        volume: &Volume,
        root: &Path,
        around: &Surroundings,
    ) -> Result<Mounted, VolumeError> {
        if payload::is_data(volume) {
            self.write_data(context, pod, volume, root, around).await?;
            return Ok(Mounted { path: data_path(root, volume), read_only: true });
        }
        if let Some(source) = &volume.empty_dir {
            let path = root.join("volumes/kubernetes.io~empty-dir").join(&volume.name);
            empty_dir(&path, source, payload::fs_group(pod))?;
            return Ok(Mounted { path, read_only: false });
        }
        if let Some(source) = &volume.host_path {
            let path = PathBuf::from(&source.path);
            host_path::check(&path, source.type_.as_deref().unwrap_or_default())?;
            return Ok(Mounted { path, read_only: false });
        }
        let claim = volume.persistent_volume_claim.as_ref().map(|c| (c.claim_name.clone(), c.read_only == Some(true)));
        let generic = volume
            .ephemeral
            .as_ref()
            .map(|_| (format!("{}-{}", pod.metadata.name.as_deref().unwrap_or_default(), volume.name), false));
        if let Some((claim, read_only)) = claim.or(generic) {
            let found = claims::resolve(context, pod, &claim).await?;
            host_path::check(&found.path, &found.kind)?;
            if let Some(group) = payload::fs_group(pod).filter(|_| found.owned_by_group) {
                let policy = pod.spec.as_ref().and_then(|s| s.security_context.as_ref());
                let on_mismatch = policy.and_then(|c| c.fs_group_change_policy.as_deref()) == Some("OnRootMismatch");
                ownership::give(&found.path, group, on_mismatch).map_err(at(&found.path))?;
            }
            return Ok(Mounted { path: found.path, read_only });
        }
        Err(VolumeError::Unsupported(unsupported_kind(volume)))
    }

    async fn write_data(
        &mut self,
        context: &Context,
        pod: &Pod,
        volume: &Volume,
        root: &Path,
        around: &Surroundings,
    ) -> Result<bool, VolumeError> {
        self.tokens.fetch(&context.client, pod, volume).await.map_err(|error| VolumeError::Token(Box::new(error)))?;
        let files = payload::payload(
            &PayloadInput {
                pod,
                config_map: &|name| self.held.config_map(name),
                secret: &|name| self.held.secret(name),
                token: &|path| self.tokens.get(&volume.name, path),
                addresses: &around.addresses,
                allocatable: &around.allocatable,
            },
            volume,
        )?;
        let path = data_path(root, volume);
        make_folder(&path, 0o755).map_err(at(&path))?;
        // Secrets never touch a disk.
        if volume.config_map.is_none() {
            table::tmpfs(&path, None).map_err(at(&path))?;
        }
        let stamp = format!("{}_{:08x}", Timestamp::now().strftime("%Y_%m_%d_%H_%M_%S"), rand::random::<u32>());
        atomic::write(&path, &files, payload::fs_group(pod), &stamp).map_err(at(&path))
    }

    /// Writes anew the data volumes whose sources have changed; says when tokens are due next.
    pub(crate) async fn refresh(
        &mut self,
        context: &Context,
        pod: &Pod,
        around: &Surroundings,
    ) -> (Option<Timestamp>, Result<(), (String, VolumeError)>) {
        self.held.update(&context.references, pod, &self.wake);
        let mut result = Ok(());
        // Before the first answer an object looks as if it did not exist.
        if self.held.is_synced() {
            let root = context.config.pod_root(pod.metadata.uid.as_deref().unwrap_or_default());
            for volume in pod.spec.iter().flat_map(|s| s.volumes.iter().flatten()).filter(|v| payload::is_data(v)) {
                if !self.mounted.contains_key(&volume.name) {
                    continue;
                }
                match self.write_data(context, pod, volume, &root, around).await {
                    Ok(true) => tracing::debug!(volume = %volume.name, "volume updated"),
                    Ok(false) => {}
                    Err(error) => result = Err((volume.name.clone(), error)),
                }
            }
        }
        (self.tokens.refresh_at(), result)
    }
}

fn data_path(root: &Path, volume: &Volume) -> PathBuf {
    let kind = if volume.config_map.is_some() {
        "configmap"
    } else if volume.secret.is_some() {
        "secret"
    } else if volume.downward_api.is_some() {
        "downward-api"
    } else {
        "projected"
    };
    root.join(format!("volumes/kubernetes.io~{kind}")).join(&volume.name)
}

fn empty_dir(path: &Path, source: &EmptyDirVolumeSource, group: Option<u32>) -> Result<(), VolumeError> {
    make_folder(path, 0o777).map_err(at(path))?;
    match source.medium.as_deref().unwrap_or_default() {
        "" => {}
        "Memory" => {
            let size = source.size_limit.as_ref().and_then(amounts::whole).and_then(|s| u64::try_from(s).ok());
            table::tmpfs(path, size.filter(|s| *s > 0)).map_err(at(path))?;
        }
        _ => return Err(VolumeError::Unsupported("emptyDir HugePages")),
    }
    match group {
        Some(group) => ownership::give(path, group, true).map_err(at(path)),
        None => Ok(()),
    }
}

fn make_folder(path: &Path, mode: u32) -> io::Result<()> {
    let fresh = !path.exists();
    fs::create_dir_all(path)?;
    if fresh {
        fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
    }
    Ok(())
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> VolumeError + '_ {
    move |source| VolumeError::Io { path: path.to_owned(), source }
}

fn unsupported_kind(volume: &Volume) -> &'static str {
    let kinds = [
        (volume.nfs.is_some(), "nfs"),
        (volume.csi.is_some(), "csi"),
        (volume.iscsi.is_some(), "iscsi"),
        (volume.image.is_some(), "image"),
        (volume.fc.is_some(), "fc"),
        (volume.flex_volume.is_some(), "flexVolume"),
        (volume.cephfs.is_some(), "cephfs"),
        (volume.rbd.is_some(), "rbd"),
    ];
    kinds.into_iter().find(|(given, _)| *given).map_or("these", |(_, name)| name)
}

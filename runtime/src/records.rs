//! The folder of a pod and the records in it.
//!
//! `<state>/pods/<pod>/`: `pod.json`, `shim.sock`, `shim.log`, `shm/`, `oci/` (libcontainer's own state) and for each
//! container `c/<id>/` with `container.json` (written by the runtime), `state.json` and `plan.json` (by the shim) and
//! `bundle/`. Every record is replaced by rename, so that a reader sees an old or a new one, never half of one.

use crate::images::ImageConfig;
use crate::spec::{ContainerId, ContainerSpec, PodId, PodSpec};
use jiff::Timestamp;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

#[derive(Clone, Debug)]
pub(crate) struct PodDir(PathBuf);

impl PodDir {
    pub(crate) const SOCKET: &'static str = "shim.sock";

    pub(crate) fn new(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }
    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
    pub(crate) fn record(&self) -> PathBuf {
        self.0.join("pod.json")
    }
    pub(crate) fn socket(&self) -> PathBuf {
        self.0.join(Self::SOCKET)
    }
    pub(crate) fn log(&self) -> PathBuf {
        self.0.join("shim.log")
    }
    pub(crate) fn shm(&self) -> PathBuf {
        self.0.join("shm")
    }
    pub(crate) fn oci_root(&self) -> PathBuf {
        self.0.join("oci")
    }
    pub(crate) fn containers(&self) -> PathBuf {
        self.0.join("c")
    }
    pub(crate) fn container(&self, id: &ContainerId) -> ContainerDir {
        ContainerDir(self.containers().join(id.as_str()))
    }
}

#[derive(Clone, Debug)]
pub(crate) struct ContainerDir(PathBuf);

impl ContainerDir {
    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
    pub(crate) fn record(&self) -> PathBuf {
        self.0.join("container.json")
    }
    pub(crate) fn state(&self) -> PathBuf {
        self.0.join("state.json")
    }
    pub(crate) fn plan(&self) -> PathBuf {
        self.0.join("plan.json")
    }
    pub(crate) fn bundle(&self) -> PathBuf {
        self.0.join("bundle")
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct PodRecord {
    pub spec: PodSpec,
    pub created_at: Timestamp,
    /// Tells a restart of the machine from a death of the shim.
    pub boot_id: String,
    pub cgroup_path: String,
    /// Where shims themselves live.
    pub shim_cgroup: String,
    /// Where the pod's network namespace is to be mounted; `None` with the host's.
    pub netns: Option<PathBuf>,
    #[serde(default)]
    pub stopped: bool,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct ContainerRecord {
    pub id: ContainerId,
    pub pod_id: PodId,
    pub spec: ContainerSpec,
    pub image_id: String,
    pub image: ImageConfig,
    /// Folders of the image's layers below `snapshots`, the topmost first.
    pub layers: Vec<String>,
    pub snapshots: PathBuf,
    /// Holds the writable layer (`upper`, `work`) and the mounted `rootfs`.
    pub writable: PathBuf,
    pub cgroup_path: String,
    pub created_at: Timestamp,
}

/// Replaces `path` by the JSON of `value`.
pub(crate) fn write(path: &Path, value: &impl Serialize) -> io::Result<()> {
    let mut new = path.as_os_str().to_owned();
    new.push(".new");
    fs::write(&new, serde_json::to_vec(value)?)?;
    fs::rename(&new, path)
}

pub(crate) fn read<T: DeserializeOwned>(path: &Path) -> io::Result<T> {
    Ok(serde_json::from_slice(&fs::read(path)?)?)
}

/// Differs after each restart of the machine.
pub(crate) fn boot_id() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").map_or_else(|_| String::new(), |id| id.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_replaced_as_a_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.json");
        write(&path, &vec![1, 2]).unwrap();
        write(&path, &vec![3]).unwrap();
        assert_eq!(read::<Vec<i32>>(&path).unwrap(), [3]);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}

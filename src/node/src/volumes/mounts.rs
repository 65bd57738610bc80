//! A container's `volumeMounts` as the runtime's mounts.

use std::collections::BTreeMap;
use std::path::PathBuf;

use k8s_openapi::api::core::v1::{Container, Pod, VolumeMount};
use runtime::spec::{Mount, MountKind, Propagation};

use super::{Mounted, PodVolumes, VolumeError, subpath};
use crate::config::NodeConfig;
use crate::spec::container::bind;
use crate::spec::expand::{expand, first_unknown};

/// All mounts of the container: its volumes, and the files every container gets.
pub(crate) fn of_container(
    config: &NodeConfig,
    pod: &Pod,
    container: &Container,
    env: &BTreeMap<String, String>,
    volumes: &PodVolumes,
) -> Result<Vec<Mount>, VolumeError> {
    let root = config.pod_root(pod.metadata.uid.as_deref().unwrap_or_default());
    let mut mounts = Vec::new();
    for (index, wanted) in container.volume_mounts.iter().flatten().enumerate() {
        let volume = volumes.mounted.get(&wanted.name).ok_or_else(|| VolumeError::Unknown(wanted.name.clone()))?;
        let source = match sub_path(wanted, env)? {
            None => volume.path.clone(),
            Some(sub) => {
                let at = root.join("volume-subpaths").join(&wanted.name).join(&container.name).join(index.to_string());
                subpath::bind(&volume.path, &sub, &at).map_err(|source| VolumeError::SubPath {
                    volume: wanted.name.clone(),
                    sub,
                    source,
                })?
            }
        };
        mounts.push(mount(wanted, volume, source));
    }
    for (path, file) in
        [("/etc/hosts", "etc-hosts"), ("/etc/hostname", "hostname"), ("/etc/resolv.conf", "resolv.conf")]
    {
        let taken = mounts.iter().any(|m| m.destination.as_os_str() == path);
        let source = root.join(file);
        if !taken && source.exists() {
            mounts.push(bind(source, path, false));
        }
    }
    Ok(mounts)
}

fn sub_path(mount: &VolumeMount, env: &BTreeMap<String, String>) -> Result<Option<String>, VolumeError> {
    let lookup = |name: &str| env.get(name).map(String::as_str);
    if let Some(expression) = mount.sub_path_expr.as_deref().filter(|e| !e.is_empty()) {
        if let Some(name) = first_unknown(expression, lookup) {
            return Err(VolumeError::SubPathExpr(name));
        }
        return Ok(Some(expand(expression, lookup)));
    }
    Ok(mount.sub_path.clone().filter(|s| !s.is_empty()))
}

fn mount(wanted: &VolumeMount, volume: &Mounted, source: PathBuf) -> Mount {
    let recursive = matches!(wanted.recursive_read_only.as_deref(), Some("Enabled" | "IfPossible"));
    Mount {
        destination: PathBuf::from(&wanted.mount_path),
        kind: MountKind::Bind { source, recursive_readonly: recursive && wanted.read_only == Some(true) },
        readonly: wanted.read_only == Some(true) || volume.read_only,
        propagation: match wanted.mount_propagation.as_deref() {
            Some("HostToContainer") => Propagation::HostToContainer,
            Some("Bidirectional") => Propagation::Bidirectional,
            _ => Propagation::Private,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sub_path_expressions_must_resolve() {
        let env = BTreeMap::from([("POD".to_owned(), "p1".to_owned())]);
        let mount = |expr: &str| VolumeMount { sub_path_expr: Some(expr.to_owned()), ..VolumeMount::default() };
        assert_eq!(sub_path(&mount("logs/$(POD)"), &env).unwrap().as_deref(), Some("logs/p1"));
        assert!(matches!(sub_path(&mount("$(NOPE)"), &env), Err(VolumeError::SubPathExpr(name)) if name == "NOPE"));
    }
}

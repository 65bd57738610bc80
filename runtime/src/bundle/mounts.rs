//! The mounts of a container: the kernel's file systems first, then the caller's, outer ones before inner ones.

use super::Facts;
use crate::spec::{ContainerSpec, Mount, MountKind, Propagation};
use libcontainer::oci_spec::OciSpecError;
use libcontainer::oci_spec::runtime::{Mount as OciMount, MountBuilder};
use std::path::Path;

pub(super) fn all(spec: &ContainerSpec, facts: &Facts) -> Result<Vec<OciMount>, OciSpecError> {
    let mut own: Vec<&Mount> = spec.mounts.iter().collect();
    own.sort_by_key(|m| m.destination.components().count());
    let mut mounts = kernel_mounts(spec, facts)?;
    mounts.retain(|m| !own.iter().any(|o| o.destination == *m.destination()));
    for mount in own {
        mounts.push(convert(mount)?);
    }
    Ok(mounts)
}

fn kernel_mounts(spec: &ContainerSpec, facts: &Facts) -> Result<Vec<OciMount>, OciSpecError> {
    let access = if spec.privileged { "rw" } else { "ro" };
    let pts = ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"];
    let mut mounts = vec![
        mount("/proc", "proc", "proc", &["nosuid", "noexec", "nodev"])?,
        mount("/dev", "tmpfs", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"])?,
        mount("/dev/pts", "devpts", "devpts", &pts)?,
        mount("/dev/mqueue", "mqueue", "mqueue", &["nosuid", "noexec", "nodev"])?,
        mount("/sys", "sysfs", "sysfs", &["nosuid", "noexec", "nodev", access])?,
        mount("/sys/fs/cgroup", "cgroup", "cgroup", &["nosuid", "noexec", "nodev", "relatime", access])?,
    ];
    mounts.push(
        MountBuilder::default()
            .destination("/dev/shm")
            .typ("bind")
            .source(facts.shm.clone())
            .options(owned(&["rbind", "nosuid", "noexec", "nodev"]))
            .build()?,
    );
    Ok(mounts)
}

fn mount(destination: &str, typ: &str, source: &str, options: &[&str]) -> Result<OciMount, OciSpecError> {
    MountBuilder::default().destination(destination).typ(typ).source(source).options(owned(options)).build()
}

fn owned(options: &[&str]) -> Vec<String> {
    options.iter().map(|o| (*o).to_owned()).collect()
}

fn convert(mount: &Mount) -> Result<OciMount, OciSpecError> {
    let access = if mount.readonly { "ro" } else { "rw" };
    match &mount.kind {
        MountKind::Bind { source, recursive_readonly } => {
            let propagation = match mount.propagation {
                Propagation::Private => "rprivate",
                Propagation::HostToContainer => "rslave",
                Propagation::Bidirectional => "rshared",
            };
            let access = if mount.readonly && *recursive_readonly { "rro" } else { access };
            bind(&mount.destination, source, owned(&["rbind", propagation, access]))
        }
        MountKind::Tmpfs { size, mode } => {
            let mut options = owned(&["nosuid", "nodev", access]);
            options.extend(size.map(|bytes| format!("size={bytes}")));
            options.push(format!("mode={:o}", mode.unwrap_or(0o1777)));
            MountBuilder::default()
                .destination(mount.destination.clone())
                .typ("tmpfs")
                .source("tmpfs")
                .options(options)
                .build()
        }
    }
}

fn bind(destination: &Path, source: &Path, options: Vec<String>) -> Result<OciMount, OciSpecError> {
    MountBuilder::default().destination(destination).typ("bind").source(source).options(options).build()
}

/// The container's root has to take part in the widest propagation any of its mounts asks for.
pub(super) fn rootfs_propagation(mounts: &[Mount]) -> String {
    let widest = |p| mounts.iter().any(|m| m.propagation == p);
    if widest(Propagation::Bidirectional) { "shared" } else { "slave" }.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bundle::tests::facts;

    fn bind_at(destination: &str) -> Mount {
        Mount {
            destination: destination.into(),
            kind: MountKind::Bind { source: "/src".into(), recursive_readonly: false },
            readonly: true,
            propagation: Propagation::Private,
        }
    }

    #[test]
    fn outer_mounts_come_before_inner_ones() {
        let spec = ContainerSpec { mounts: vec![bind_at("/a/b"), bind_at("/a")], ..ContainerSpec::default() };
        let mounts = all(&spec, &facts()).unwrap();
        let last: Vec<_> = mounts.iter().rev().take(2).map(|m| m.destination().to_str().unwrap()).collect();
        assert_eq!(last, ["/a/b", "/a"]);
    }

    #[test]
    fn a_mount_of_the_callers_replaces_the_default_at_its_place() {
        let spec = ContainerSpec { mounts: vec![bind_at("/dev/shm")], ..ContainerSpec::default() };
        let mounts = all(&spec, &facts()).unwrap();
        let shm: Vec<_> = mounts.iter().filter(|m| m.destination() == Path::new("/dev/shm")).collect();
        assert_eq!(shm.len(), 1);
        assert_eq!(shm[0].source().as_deref(), Some(Path::new("/src")));
    }

    #[test]
    fn only_privileged_containers_may_write_to_sysfs() {
        for (privileged, access) in [(false, "ro"), (true, "rw")] {
            let spec = ContainerSpec { privileged, ..ContainerSpec::default() };
            let mounts = all(&spec, &facts()).unwrap();
            let sys = mounts.iter().find(|m| m.destination() == Path::new("/sys")).unwrap();
            assert!(sys.options().as_ref().unwrap().iter().any(|o| o == access));
        }
    }
}

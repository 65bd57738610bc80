//! `rk kill-all`: ends every container of this machine and removes what rk made outside its data folder.

use crate::cli::KillAllArgs;
use crate::{images, preflight};
use anyhow::Context;
use net::{Net, NetConfig};
use nix::errno::Errno;
use nix::mount::{MntFlags, umount2};
use runtime::images::RegistriesConfig;
use runtime::{Runtime, RuntimeConfig};
use std::path::{Path, PathBuf};

pub(crate) async fn run(args: KillAllArgs) -> anyhow::Result<()> {
    let KillAllArgs { data_dir, state_dir, cgroup_root } = args;
    preflight::require_root("rk kill-all")?;
    let data_dir = crate::config::real_path(&data_dir)?;
    let state_dir = crate::config::real_path(&state_dir)?;
    let runtime = Runtime::open(RuntimeConfig {
        root: images::store_path(&data_dir),
        state: state_dir.clone(),
        exe: std::env::current_exe().context("find rk's own executable")?,
        cgroup_parent: cgroup_root.clone(),
        registries: RegistriesConfig::default(),
    })
    .await
    .context("find the containers")?;
    for pod in runtime.list_pods() {
        runtime.stop_pod(&pod.spec.id).await.with_context(|| format!("stop pod {}", pod.spec.id))?;
        runtime.remove_pod(&pod.spec.id).await.with_context(|| format!("remove pod {}", pod.spec.id))?;
    }
    runtime.remove_cgroup(&cgroup_root).context("remove the cgroups")?;
    unmount_below(&[&data_dir, &state_dir])?;
    Net::remove(&NetConfig { state_dir: data_dir.join("agent/net"), ..NetConfig::default() })
        .await
        .context("remove the pod network")
}

/// Unmounts all that is mounted below `folders`: volumes and root file systems of pods.
fn unmount_below(folders: &[&Path]) -> anyhow::Result<()> {
    let table = std::fs::read_to_string("/proc/self/mountinfo").context("read /proc/self/mountinfo")?;
    // Later mounts may lie on earlier ones.
    for point in mount_points(&table).into_iter().rev().filter(|point| folders.iter().any(|top| point.starts_with(top)))
    {
        match umount2(&point, MntFlags::MNT_DETACH) {
            // Gone with another one, or never a mount of this namespace.
            Ok(()) | Err(Errno::EINVAL | Errno::ENOENT) => {}
            Err(error) => return Err(error).with_context(|| format!("unmount {}", point.display())),
        }
    }
    Ok(())
}

/// The fifth field of each line, with its octal escapes (proc_pid_mountinfo(5)).
fn mount_points(table: &str) -> Vec<PathBuf> {
    let point = |line: &str| line.split(' ').nth(4).map(|field| PathBuf::from(field.replace("\\040", " ")));
    table.lines().filter_map(point).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_points_are_read_with_their_blanks() {
        let table = "22 1 0:21 / /sys rw - sysfs sysfs rw\n23 1 0:22 / /var/a\\040b rw - tmpfs tmpfs rw\n";
        assert_eq!(mount_points(table), [PathBuf::from("/sys"), PathBuf::from("/var/a b")]);
    }
}

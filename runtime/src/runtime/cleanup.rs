//! Ends: stopping pods, and removing what they and their containers leave. Every step is fine with what is missing.

use super::{Inner, Result};
use crate::error::RuntimeError;
use crate::link::Link;
use crate::pod::Pod;
use crate::protocol::Call;
use crate::records::{self, ContainerRecord};
use crate::shim::SERVING;
use crate::status::PodPhase;
use nix::errno::Errno;
use nix::mount::{MntFlags, umount2};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// What the kernel needs to end killed processes, generously.
const KILL_PATIENCE: Duration = Duration::from_secs(10);

pub(super) async fn stop(inner: &Arc<Inner>, pod: &Arc<Pod>) -> Result<()> {
    if pod.phase() == PodPhase::Ready {
        pod.begin_stop();
        let mut changes = pod.changes();
        let stopped = match &pod.link {
            Some(link) => tokio::time::timeout(KILL_PATIENCE * 2, link.call(Call::Shutdown)).await,
            None => Ok(Ok(crate::protocol::Reply::Done)),
        };
        match stopped {
            Ok(Ok(_) | Err(RuntimeError::ShimGone { .. } | RuntimeError::Channel { .. })) => {}
            Ok(Err(error)) => return Err(error),
            Err(_) => kill_shim(pod),
        }
        // The watching task sees the socket close and settles the pod's phase.
        let settled = tokio::time::timeout(KILL_PATIENCE, async {
            while pod.phase() == PodPhase::Ready {
                if changes.changed().await.is_err() {
                    return;
                }
            }
        });
        if settled.await.is_err() {
            kill_shim(pod);
        }
        let stopped = records::PodRecord { stopped: true, ..pod.record.clone() };
        if let Err(error) = records::write(&pod.dir.record(), &stopped) {
            tracing::warn!(pod = %pod.record.spec.id, %error, "pod record is not updated");
        }
    }
    kill_leftovers(inner, pod).await;
    release_namespaces(pod);
    Ok(())
}

fn kill_shim(pod: &Pod) {
    let pid = pod.shim_pid();
    tracing::warn!(pod = %pod.record.spec.id, pid, "shim does not end and is killed");
    kill_process(pid);
}

/// Ends a shim that took the connection and then did not answer: whoever takes its place must find the pod's folder
/// its own.
pub(super) fn kill_peer(link: &Link) {
    if let Some(pid) = link.peer() {
        tracing::warn!(pid, "shim does not answer and is killed");
        kill_process(pid);
    }
}

fn kill_process(pid: i32) {
    if pid > 0
        && let Err(errno) = kill(Pid::from_raw(pid), Signal::SIGKILL)
        && errno != Errno::ESRCH
    {
        tracing::warn!(pid, %errno, "shim cannot be killed");
    }
}

/// The shim's socket was closed: settle the states and end what it leaves behind.
pub(super) async fn after_shim(inner: &Arc<Inner>, pod: &Arc<Pod>) {
    let reason = death(&fs::read_to_string(pod.dir.log()).unwrap_or_default());
    kill_leftovers(inner, pod).await;
    for event in pod.shim_left(&reason) {
        inner.publish(event);
    }
}

/// What the log of a shim that is no more says of its end: its last line, if it is about that.
fn death(log: &str) -> String {
    let serving = log.trim().lines().rev().take_while(|line| *line != SERVING);
    match serving.into_iter().next().filter(|_| log.lines().any(|line| line == SERVING)) {
        Some(last) => format!("the shim died: {last}"),
        None => "the shim died".to_owned(),
    }
}

/// Containers' first processes survive their shim; nothing of a pod without one may go on.
pub(super) async fn kill_leftovers(inner: &Arc<Inner>, pod: &Arc<Pod>) {
    let (inner, path) = (Arc::clone(inner), pod.record.cgroup_path.clone());
    let killed = tokio::task::spawn_blocking(move || {
        if let Err(error) = inner.cgroups.kill_all(&path, KILL_PATIENCE) {
            tracing::warn!(path, %error, "processes of a pod are left");
        }
    });
    if let Err(error) = killed.await {
        tracing::error!(%error, "killing a pod's processes panicked");
    }
}

fn release_namespaces(pod: &Pod) {
    if let Some(netns) = &pod.record.netns {
        unmount(netns);
        if let Err(error) = fs::remove_file(netns)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(path = ?netns, %error, "namespace file is left");
        }
    }
    unmount(&pod.dir.shm());
}

/// Removes all that is left of a stopped pod.
pub(super) async fn remove(inner: &Arc<Inner>, pod: &Arc<Pod>) -> Result<()> {
    let (inner, pod) = (Arc::clone(inner), Arc::clone(pod));
    let removed = tokio::task::spawn_blocking(move || {
        release_namespaces(&pod);
        for id in pod.container_ids() {
            if let Some(record) = pod.container_record(&id) {
                container_files(&inner, &pod, &record);
            }
            pod.forget(&id);
        }
        let path = pod.record.cgroup_path.clone();
        inner.cgroups.remove(&path).map_err(|source| RuntimeError::Cgroup { path, source })?;
        remove_folder(pod.dir.path());
        Ok(())
    });
    removed.await.unwrap_or_else(|error| Err(RuntimeError::Refused(format!("removing the pod panicked: {error}"))))
}

/// Removes a dead container's mount, cgroup and files.
pub(super) fn container_files(inner: &Inner, pod: &Pod, record: &ContainerRecord) {
    if let Err(error) = inner
        .cgroups
        .kill_all(&record.cgroup_path, KILL_PATIENCE)
        .and_then(|()| inner.cgroups.remove(&record.cgroup_path))
    {
        tracing::warn!(container = %record.id, %error, "cgroup is left");
    }
    writable_layer(record);
    remove_folder(&pod.dir.oci_root().join(record.id.as_str()));
    remove_folder(pod.dir.container(&record.id).path());
}

/// Removes what a dead container wrote into its own file system.
pub(super) fn writable_layer(record: &ContainerRecord) {
    unmount(&record.writable.join("rootfs"));
    remove_folder(&record.writable);
}

/// Detaches whatever is mounted at the path, however often.
pub(super) fn unmount(path: &Path) {
    loop {
        match umount2(path, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW) {
            Ok(()) => {}
            // Nothing is mounted there, or nothing is there.
            Err(Errno::EINVAL | Errno::ENOENT) => return,
            Err(errno) => {
                tracing::warn!(?path, %errno, "mount is left");
                return;
            }
        }
    }
}

pub(super) fn remove_folder(path: &Path) {
    let removed = match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    if let Err(error) = removed
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!(?path, %error, "folder is left");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_death_is_not_explained_by_what_went_wrong_at_the_start() {
        assert_eq!(death("oom_score_adj stays as it is\nserving\n"), "the shim died");
        assert_eq!(death("serving\nlog: no space\nshim ends: bad\n"), "the shim died: shim ends: bad");
        assert_eq!(death(""), "the shim died");
    }
}

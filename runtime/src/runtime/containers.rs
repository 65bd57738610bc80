//! Containers: create, start, stop, remove, exec, attach.

use super::{Result, Runtime, cleanup, io_error};
use crate::error::RuntimeError;
use crate::images::ImageError;
use crate::link;
use crate::pod::{Entry, Pod};
use crate::protocol::{Call, Reply, StateRecord};
use crate::records::{self, ContainerRecord};
use crate::session::{Session, Wanted};
use crate::spec::{AttachSpec, ContainerId, ContainerSpec, ExecSpec, PodId, Resources};
use crate::status::{ContainerState, ContainerStatus, PodPhase};
use jiff::Timestamp;
use rand::RngCore;
use std::fmt::Write;
use std::fs;
use std::sync::Arc;
use std::time::Duration;

/// A killed process that stays longer hangs in the kernel.
const KILL_PATIENCE: Duration = Duration::from_secs(30);

fn draw_id() -> ContainerId {
    let mut bytes = [0u8; 32];
    rand::rng().fill_bytes(&mut bytes);
    ContainerId::new(bytes.iter().fold(String::with_capacity(64), |mut id, byte| {
        // Writing to a string cannot fail.
        write!(id, "{byte:02x}").unwrap_or_default();
        id
    }))
}

async fn call(pod: &Pod, call: Call) -> Result<Reply> {
    match (&pod.link, pod.phase()) {
        (Some(link), PodPhase::Ready) => link.call(call).await,
        (_, PodPhase::Gone { reason }) => Err(RuntimeError::ShimGone { pod: pod.record.spec.id.clone(), reason }),
        _ => Err(RuntimeError::ShimGone { pod: pod.record.spec.id.clone(), reason: "the pod is stopped".into() }),
    }
}

impl Runtime {
    /// Makes the container up to the point where its process waits to be started.
    pub async fn create_container(&self, pod: &PodId, spec: ContainerSpec) -> Result<ContainerId> {
        let pod = self.inner.pod(pod)?;
        let images = &self.inner.images;
        let image = images.get(&spec.image).ok_or_else(|| ImageError::NotPresent(spec.image.clone()))?;
        let layers = images.layer_folders(&image);
        let lease = images.lease(&layers);
        let id = draw_id();
        let record = ContainerRecord {
            id: id.clone(),
            pod_id: pod.record.spec.id.clone(),
            image_id: image.id,
            image: image.config,
            layers,
            snapshots: images.snapshots_folder(),
            writable: self.inner.containers_folder().join(id.as_str()),
            cgroup_path: format!("{}/{id}", pod.record.cgroup_path),
            created_at: Timestamp::now(),
            spec,
        };
        let dir = pod.dir.container(&id);
        for folder in [dir.path(), &record.writable] {
            fs::create_dir_all(folder).map_err(io_error(folder))?;
        }
        records::write(&dir.record(), &record).map_err(io_error(&dir.record()))?;
        let state = StateRecord { state: ContainerState::Created, pid: 0, started_at: None, exit: None };
        // Known before the shim speaks of it.
        pod.insert(Entry::new(record, state, lease));
        if let Err(error) = call(&pod, Call::Create(id.clone())).await {
            self.discard(&pod, &id).await;
            return Err(error);
        }
        Ok(id)
    }

    pub async fn start_container(&self, id: &ContainerId) -> Result<()> {
        call(&*self.inner.owner(id)?, Call::Start(id.clone())).await.map(drop)
    }

    /// Sends `signal` (`None`: the image's stop signal, else SIGTERM), waits up to `grace`, then kills. Returns when it
    /// has ended.
    pub async fn stop_container(&self, id: &ContainerId, signal: Option<i32>, grace: Duration) -> Result<()> {
        let pod = self.inner.owner(id)?;
        let record = pod.container_record(id);
        let status = self.container_status(id)?;
        if status.state == ContainerState::Running && !grace.is_zero() {
            let own = record.as_ref().and_then(|r| r.image.stop_signal.as_deref()).and_then(parse_signal);
            match self.kill(id, signal.or(own).unwrap_or(libc::SIGTERM)).await {
                Ok(()) | Err(RuntimeError::NotRunning(_)) => {}
                Err(error) => return Err(error),
            }
            if tokio::time::timeout(grace, self.wait_container(id)).await.is_ok() {
                return Ok(());
            }
        }
        match self.kill(id, libc::SIGKILL).await {
            Ok(()) => {}
            // The shim does not know one whose making failed while nobody was there to be told.
            Err(RuntimeError::NotRunning(_) | RuntimeError::NoSuchContainer(_) | RuntimeError::ShimGone { .. }) => {
                return Ok(());
            }
            Err(error) => return Err(error),
        }
        match tokio::time::timeout(KILL_PATIENCE, self.wait_container(id)).await {
            Ok(result) => result.map(drop),
            Err(_) => Err(RuntimeError::Refused(format!("container {id} does not end on SIGKILL"))),
        }
    }

    /// Sends a signal to the container's first process.
    pub async fn kill(&self, id: &ContainerId, signal: i32) -> Result<()> {
        call(&*self.inner.owner(id)?, Call::Kill(id.clone(), signal)).await.map(drop)
    }

    /// Removes the container, killing it if need be. Fine when it does not exist.
    pub async fn remove_container(&self, id: &ContainerId) -> Result<()> {
        let Ok(pod) = self.inner.owner(id) else { return Ok(()) };
        self.stop_container(id, None, Duration::ZERO).await?;
        if pod.phase() == PodPhase::Ready {
            call(&pod, Call::Forget(id.clone())).await?;
        }
        self.discard(&pod, id).await;
        Ok(())
    }

    /// Gives back the disk that an ended container's own files take. Its record and its log stay; one that still runs
    /// is left alone.
    pub async fn shed_files(&self, id: &ContainerId) -> Result<()> {
        if self.container_status(id)?.state != ContainerState::Exited {
            return Ok(());
        }
        let Some(record) = self.inner.owner(id)?.container_record(id) else { return Ok(()) };
        let removed = tokio::task::spawn_blocking(move || cleanup::writable_layer(&record)).await;
        removed.map_err(|error| RuntimeError::Refused(format!("removing files panicked: {error}")))
    }

    /// Removes the files and then the record of a container that has no process.
    async fn discard(&self, pod: &Arc<Pod>, id: &ContainerId) {
        let Some(record) = pod.container_record(id) else { return };
        let (inner, owner) = (Arc::clone(&self.inner), Arc::clone(pod));
        let removed = tokio::task::spawn_blocking(move || cleanup::container_files(&inner, &owner, &record)).await;
        if let Err(error) = removed {
            tracing::error!(container = %id, %error, "removing a container panicked");
        }
        pod.forget(id);
    }

    /// Resolves when the container has exited.
    pub async fn wait_container(&self, id: &ContainerId) -> Result<ContainerStatus> {
        let pod = self.inner.owner(id)?;
        let mut changes = pod.changes();
        loop {
            let status = pod.container(id).ok_or_else(|| RuntimeError::NoSuchContainer(id.clone()))?;
            if status.state == ContainerState::Exited || changes.changed().await.is_err() {
                return Ok(status);
            }
        }
    }

    pub async fn exec(&self, id: &ContainerId, spec: ExecSpec) -> Result<Session> {
        let pod = self.inner.owner(id)?;
        let wanted = Wanted { stdin: spec.stdin, stdout: true, stderr: !spec.tty };
        self.session(&pod, Call::Exec(id.clone(), spec), wanted).await
    }

    pub async fn attach(&self, id: &ContainerId, spec: AttachSpec) -> Result<Session> {
        let pod = self.inner.owner(id)?;
        let tty = self.container_status(id)?.spec.tty;
        let wanted = Wanted { stdin: spec.stdin, stdout: spec.stdout, stderr: spec.stderr && !tty };
        self.session(&pod, Call::Attach(id.clone(), spec), wanted).await
    }

    async fn session(&self, pod: &Pod, call: Call, wanted: Wanted) -> Result<Session> {
        if let PodPhase::Gone { reason } = pod.phase() {
            return Err(RuntimeError::ShimGone { pod: pod.record.spec.id.clone(), reason });
        }
        let stream = link::open_session(&pod.record.spec.id, &pod.dir, call).await?;
        Ok(Session::start(stream, wanted))
    }

    /// Changes limits of a living container; those not given stay.
    pub async fn update_resources(&self, id: &ContainerId, resources: &Resources) -> Result<()> {
        let pod = self.inner.owner(id)?;
        let record = pod.container_record(id).ok_or_else(|| RuntimeError::NoSuchContainer(id.clone()))?;
        let path = &record.cgroup_path;
        self.inner.cgroups.apply(path, resources).map_err(|source| RuntimeError::Cgroup { path: path.clone(), source })
    }

    /// Opens a fresh log file (after somebody moved it away).
    pub async fn reopen_log(&self, id: &ContainerId) -> Result<()> {
        call(&*self.inner.owner(id)?, Call::ReopenLog(id.clone())).await.map(drop)
    }
}

/// `SIGTERM`, `TERM` or a number, as images have it.
fn parse_signal(text: &str) -> Option<i32> {
    let name = text.trim().to_ascii_uppercase();
    if let Ok(number) = name.parse::<i32>() {
        return (1..=64).contains(&number).then_some(number);
    }
    let name = if name.starts_with("SIG") { name } else { format!("SIG{name}") };
    if let Some(offset) = name.strip_prefix("SIGRTMIN") {
        let offset: i32 = if offset.is_empty() { 0 } else { offset.parse().ok()? };
        return Some(libc::SIGRTMIN() + offset);
    }
    name.parse::<nix::sys::signal::Signal>().ok().map(|signal| signal as i32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stop_signals_come_in_several_spellings() {
        assert_eq!(parse_signal("SIGQUIT"), Some(libc::SIGQUIT));
        assert_eq!(parse_signal("term"), Some(libc::SIGTERM));
        assert_eq!(parse_signal("9"), Some(9));
        assert_eq!(parse_signal("SIGRTMIN+3"), Some(libc::SIGRTMIN() + 3));
        assert_eq!(parse_signal("SIGNOPE"), None);
    }

    #[test]
    fn container_ids_are_long_hexadecimal() {
        let id = draw_id();
        assert_eq!(id.as_str().len(), 64);
        assert!(id.is_safe());
    }
}

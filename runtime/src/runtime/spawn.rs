//! Making a pod: its records and cgroup, then the shim, then the line to it.

use super::{Inner, Result, cleanup, io_error};
use crate::error::RuntimeError;
use crate::link::{self, Inbox, Link, lock};
use crate::open_files;
use crate::pod::Pod;
use crate::protocol::{Reply, StateRecord};
use crate::records::{self, PodDir, PodRecord};
use crate::shim::READY;
use crate::spec::{ContainerId, PodId, PodSpec};
use crate::status::PodPhase;
use jiff::Timestamp;
use std::fs;
use std::process::{Command, Stdio};
use std::sync::{Arc, Weak};
use std::time::Duration;

pub(super) async fn pod(inner: &Arc<Inner>, spec: PodSpec) -> Result<Arc<Pod>> {
    let id = spec.id.clone();
    let dir = PodDir::new(inner.pods_folder().join(id.as_str()));
    let record = PodRecord {
        created_at: Timestamp::now(),
        boot_id: records::boot_id(),
        cgroup_path: if spec.cgroup_path.is_empty() {
            format!("{}/pod{id}", inner.config.cgroup_parent.trim_end_matches('/'))
        } else {
            spec.cgroup_path.clone()
        },
        shim_cgroup: inner.shim_cgroup(),
        netns: (!spec.host_network).then(|| inner.netns_folder().join(id.as_str())),
        stopped: false,
        spec,
    };
    match start(inner, &dir, &record).await {
        Ok((link, inbox, pid)) => {
            let pod = Arc::new(Pod::new(dir, record, PodPhase::Ready, pid, Some(link)));
            lock(&inner.pods).insert(id, Arc::clone(&pod));
            watch(inner, &pod, inbox);
            Ok(pod)
        }
        Err(error) => {
            let failed = Pod::new(dir, record, PodPhase::Stopped, 0, None);
            if let Err(error) = cleanup::remove(inner, &Arc::new(failed)).await {
                tracing::warn!(pod = %id, %error, "leftovers of a pod that did not start");
            }
            Err(error)
        }
    }
}

async fn start(inner: &Arc<Inner>, dir: &PodDir, record: &PodRecord) -> Result<(Link, Inbox, i32)> {
    for folder in [dir.containers(), dir.oci_root()] {
        fs::create_dir_all(&folder).map_err(io_error(&folder))?;
    }
    records::write(&dir.record(), record).map_err(io_error(&dir.record()))?;
    inner
        .cgroups
        .create(&record.cgroup_path)
        .map_err(|source| RuntimeError::Cgroup { path: record.cgroup_path.clone(), source })?;
    launch(inner, dir).await?;
    let (link, mut inbox) =
        reach(&record.spec.id, dir).map_err(|source| RuntimeError::Channel { pod: record.spec.id.clone(), source })?;
    match hello(&link, &mut inbox).await {
        Ok((pid, _)) => Ok((link, inbox, pid)),
        Err(error) => {
            cleanup::kill_peer(&link);
            Err(error)
        }
    }
}

/// Runs the executable; it answers when the shim serves, which by then is a process of its own.
async fn launch(inner: &Arc<Inner>, dir: &PodDir) -> Result<()> {
    let log = fs::File::create(dir.log()).map_err(io_error(&dir.log()))?;
    let mut command = Command::new(&inner.config.exe);
    command.arg("shim").arg(dir.path()).env_clear().envs(open_files::for_shim());
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log);
    let output = tokio::task::spawn_blocking(move || command.output())
        .await
        .map_err(|error| RuntimeError::ShimStart(error.to_string()))?
        .map_err(io_error(&inner.config.exe))?;
    let answer = String::from_utf8_lossy(&output.stdout);
    let answer = answer.trim();
    if answer == READY {
        return Ok(());
    }
    let log = fs::read_to_string(dir.log()).unwrap_or_default();
    Err(RuntimeError::ShimStart(match (answer, log.trim()) {
        ("", "") => format!("it ended with {}", output.status),
        ("", log) => log.to_owned(),
        (answer, _) => answer.to_owned(),
    }))
}

pub(super) fn reach(pod: &PodId, dir: &PodDir) -> std::io::Result<(Link, Inbox)> {
    Ok(Link::new(pod.clone(), link::connect(dir)?))
}

/// The shim's pid and what it knows of its containers.
pub(super) async fn hello(link: &Link, inbox: &mut Inbox) -> Result<(i32, Vec<(ContainerId, StateRecord)>)> {
    let greeting = tokio::time::timeout(Duration::from_secs(10), link.greet(inbox));
    match greeting.await {
        Ok(Ok(Reply::Hello { pid, containers })) => Ok((pid, containers)),
        Ok(Ok(Reply::Done)) => Err(RuntimeError::Refused("the shim did not say who it is".into())),
        Ok(Err(error)) => Err(error),
        Err(_) => Err(RuntimeError::Refused("the shim does not answer".into())),
    }
}

/// Follows the shim for as long as it lives.
pub(super) fn watch(inner: &Arc<Inner>, pod: &Arc<Pod>, mut inbox: Inbox) {
    let (inner, pod): (Weak<Inner>, Arc<Pod>) = (Arc::downgrade(inner), Arc::clone(pod));
    tokio::spawn(async move {
        let Some(link) = &pod.link else { return };
        loop {
            let notice = link.next_notice(&mut inbox).await;
            let Some(inner) = inner.upgrade() else { return };
            match notice {
                Some(notice) => {
                    if let Some(event) = pod.apply(notice) {
                        inner.publish(event);
                    }
                }
                None => {
                    cleanup::after_shim(&inner, &pod).await;
                    return;
                }
            }
        }
    });
}

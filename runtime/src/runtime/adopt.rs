//! At start: pods whose shims have outlived the last runtime are taken over; of the others only records are left.

use super::{Inner, Result, cleanup, io_error, spawn};
use crate::link::{Link, lock};
use crate::pod::{Entry, Pod, unknown_exit};
use crate::protocol::StateRecord;
use crate::records::{self, ContainerRecord, PodDir, PodRecord};
use crate::spec::{ContainerId, PodId};
use crate::status::{ContainerState, PodPhase};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::sync::Arc;

pub(super) async fn all(inner: &Arc<Inner>) -> Result<()> {
    let folder = inner.pods_folder();
    for entry in fs::read_dir(&folder).map_err(io_error(&folder))?.flatten() {
        let dir = PodDir::new(entry.path());
        match records::read::<PodRecord>(&dir.record()) {
            Ok(record) => one(inner, dir, record).await,
            Err(error) => {
                tracing::warn!(folder = ?dir.path(), %error, "pod without a record is removed");
                cleanup::remove_folder(dir.path());
            }
        }
    }
    sweep(inner);
    Ok(())
}

async fn one(inner: &Arc<Inner>, dir: PodDir, record: PodRecord) {
    let id = record.spec.id.clone();
    let alive = match spawn::reach(&id, &dir) {
        Ok((link, mut inbox)) => match spawn::hello(&link, &mut inbox).await {
            Ok((pid, containers)) => Some((link, inbox, pid, containers)),
            Err(error) => {
                tracing::warn!(pod = %id, %error, "shim does not answer");
                cleanup::kill_peer(&link);
                None
            }
        },
        Err(_) => None,
    };
    match alive {
        Some((link, inbox, pid, states)) => {
            tracing::info!(pod = %id, pid, containers = states.len(), "shim taken over");
            let pod = assemble(inner, dir, record, PodPhase::Ready, pid, Some(link), states.into_iter().collect());
            lock(&inner.pods).insert(id, Arc::clone(&pod));
            spawn::watch(inner, &pod, inbox);
        }
        None => dead(inner, dir, record, id).await,
    }
}

async fn dead(inner: &Arc<Inner>, dir: PodDir, record: PodRecord, id: PodId) {
    let phase = if record.stopped {
        PodPhase::Stopped
    } else if record.boot_id == records::boot_id() {
        PodPhase::Gone { reason: "the shim died".into() }
    } else {
        PodPhase::Gone { reason: "the machine was restarted".into() }
    };
    tracing::info!(pod = %id, ?phase, "pod found without its shim");
    let pod = assemble(inner, dir, record, phase, 0, None, BTreeMap::new());
    cleanup::kill_leftovers(inner, &pod).await;
    lock(&inner.pods).insert(id, pod);
}

/// Puts a pod together from its records and from what its shim says.
fn assemble(
    inner: &Arc<Inner>,
    dir: PodDir,
    record: PodRecord,
    phase: PodPhase,
    pid: i32,
    link: Option<Link>,
    mut states: BTreeMap<ContainerId, StateRecord>,
) -> Arc<Pod> {
    let living = link.is_some();
    let pod = Pod::new(dir, record, phase.clone(), pid, link);
    let Ok(folders) = fs::read_dir(pod.dir.containers()) else { return Arc::new(pod) };
    for folder in folders.flatten() {
        let id = ContainerId::new(folder.file_name().to_string_lossy());
        let container = pod.dir.container(&id);
        let record: ContainerRecord = match records::read(&container.record()) {
            Ok(record) => record,
            Err(error) => {
                tracing::warn!(container = %id, %error, "container without a record is removed");
                cleanup::remove_folder(container.path());
                continue;
            }
        };
        let state = match (states.remove(&id), records::read::<StateRecord>(&container.state())) {
            (Some(state), _) => state,
            (None, Ok(state)) if state.state == ContainerState::Exited => state,
            (None, _) if living => {
                // The last runtime died between writing the record and asking for the container.
                cleanup::container_files(inner, &pod, &record);
                continue;
            }
            (None, state) => lost(state.ok(), &phase),
        };
        let layers = inner.images.lease(&record.layers);
        pod.insert(Entry::new(record, state, layers));
    }
    Arc::new(pod)
}

fn lost(state: Option<StateRecord>, phase: &PodPhase) -> StateRecord {
    let reason = match phase {
        PodPhase::Gone { reason } => reason.as_str(),
        _ => "the pod was stopped",
    };
    StateRecord {
        state: ContainerState::Exited,
        pid: 0,
        started_at: state.and_then(|s| s.started_at),
        exit: Some(unknown_exit(reason)),
    }
}

/// Removes writable layers and namespaces that belong to no known pod (the state folder does not outlive the machine).
fn sweep(inner: &Arc<Inner>) {
    let (containers, pods): (BTreeSet<String>, BTreeSet<String>) = {
        let pods = lock(&inner.pods);
        let containers = pods.values().flat_map(|pod| pod.container_ids()).map(|id| id.to_string()).collect();
        (containers, pods.keys().map(ToString::to_string).collect())
    };
    for (folder, known) in [(inner.containers_folder(), &containers), (inner.netns_folder(), &pods)] {
        for path in strangers(&folder, known) {
            tracing::info!(?path, "leftover is removed");
            cleanup::unmount(&path.join("rootfs"));
            cleanup::unmount(&path);
            cleanup::remove_folder(&path);
        }
    }
}

fn strangers(folder: &Path, known: &BTreeSet<String>) -> Vec<std::path::PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    entries.flatten().filter(|e| !known.contains(&*e.file_name().to_string_lossy())).map(|e| e.path()).collect()
}

//! Watches memory, disk and PIDs; tells of pressure, frees images, and evicts pods as the last resort.

use std::sync::Arc;
use std::time::Instant;

use client::EventType;
use k8s_openapi::api::core::v1::Pod;

use crate::config::Eviction;
use crate::context::Context;
use crate::machine::{self, meminfo};
use crate::network::chain;
use crate::plan::Verdict;
use crate::pods::cleanup;
use crate::spec::resources::{self, QosClass};
use crate::status::phase;

/// What the node's conditions are made of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Health {
    pub(crate) memory: bool,
    pub(crate) disk: bool,
    pub(crate) pids: bool,
    /// The pods' network can be used.
    pub(crate) network: bool,
}

/// One look at the machine.
#[derive(Clone, Copy, Debug)]
struct Sample {
    memory_available: u64,
    node_disk_percent: u64,
    inodes_percent: u64,
    image_disk_percent: u64,
    pids_percent: u64,
}

impl Sample {
    fn lacks_disk(&self, eviction: &Eviction) -> bool {
        self.node_disk_percent < u64::from(eviction.nodefs_available_percent)
            || self.image_disk_percent < u64::from(eviction.imagefs_available_percent)
            || self.inodes_percent < u64::from(eviction.inodes_free_percent)
    }
}

/// Looks for ever.
pub(crate) fn task(context: &Arc<Context>) -> futures::future::BoxFuture<'static, ()> {
    let context = context.clone();
    Box::pin(run(context))
}

async fn run(context: Arc<Context>) {
    let mut ticks = tokio::time::interval(context.config.timing.pressure_check);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut since = Since::default();
    loop {
        ticks.tick().await;
        let mut sample = sample_now(&context);
        collect_images(&context, sample).await;
        let now = Instant::now();
        let eviction = &context.config.eviction;
        let memory = sample.memory_available < eviction.memory_available;
        let disk = sample.lacks_disk(eviction);
        if disk {
            // What nobody uses goes before any pod has to.
            shed_files(&context).await;
            sample = sample_now(&context);
        }
        let told = Health {
            memory: since.settle(0, memory, now, eviction.settle),
            disk: since.settle(1, disk, now, eviction.settle),
            pids: since.settle(2, sample.pids_percent < 5, now, eviction.settle),
            network: false,
        };
        context.health.send_if_modified(|health| {
            let next = Health { network: health.network, ..told };
            let changed = *health != next;
            *health = next;
            changed
        });
        if memory {
            evict(&context, "memory").await;
        } else if sample.lacks_disk(eviction) {
            evict(&context, "ephemeral-storage").await;
        }
    }
}

/// When each kind of pressure was last seen: it is told a while longer, so that pods do not come straight back.
#[derive(Default)]
struct Since([Option<Instant>; 3]);

impl Since {
    fn settle(&mut self, kind: usize, now_pressed: bool, now: Instant, settle: std::time::Duration) -> bool {
        let Some(seen) = self.0.get_mut(kind) else { return now_pressed };
        if now_pressed {
            *seen = Some(now);
        }
        seen.is_some_and(|at| now.duration_since(at) < settle)
    }
}

fn sample_now(context: &Context) -> Sample {
    let percent = |part: u64, whole: u64| part.saturating_mul(100).checked_div(whole).unwrap_or(100);
    let memory = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let (size, free, inodes, inodes_free) = machine::file_system(&context.config.root).unwrap_or((0, 0, 0, 0));
    let images = context.runtime.images().fs_usage().ok();
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let running = load.split(['/', ' ']).nth(4).and_then(|n| n.parse::<u64>().ok()).unwrap_or(0);
    let max = context.machine.max_pids;
    Sample {
        memory_available: meminfo(&memory, "MemAvailable").unwrap_or(u64::MAX),
        node_disk_percent: percent(free, size),
        inodes_percent: percent(inodes_free, inodes),
        image_disk_percent: images.map_or(100, |(_, available, capacity)| percent(available, capacity)),
        pids_percent: percent(max.saturating_sub(running), max),
    }
}

/// Removes unused images when their file system is filling up.
async fn collect_images(context: &Arc<Context>, sample: Sample) {
    if sample.image_disk_percent >= 100 - u64::from(context.config.image_gc.high_percent) {
        return;
    }
    let pods = context.runtime.list_pods();
    let mut used: std::collections::HashSet<String> =
        pods.iter().flat_map(|p| p.containers.iter().map(|c| c.image_id.clone())).collect();
    let young = jiff::SignedDuration::try_from(context.config.image_gc.minimum_age).unwrap_or_default();
    let now = jiff::Timestamp::now();
    let images = context.runtime.images().list();
    used.extend(images.into_iter().filter(|i| now.duration_since(i.added_at) < young).map(|i| i.id));
    let store = context.runtime.images().clone();
    match tokio::task::spawn_blocking(move || store.gc(&used)).await {
        Ok(Ok(0)) => {}
        Ok(Ok(freed)) => {
            tracing::info!(bytes = freed, "removed unused images");
            context.puller.note_change();
        }
        Ok(Err(error)) => tracing::warn!(error = %chain(&error), "cannot remove unused images"),
        Err(error) => tracing::warn!(error = %error, "removing unused images failed"),
    }
}

/// Removes what ended containers wrote, of crashed ones that were restarted too.
async fn shed_files(context: &Context) {
    for pod in context.runtime.list_pods() {
        cleanup::shed_files(context, &pod.spec.id).await;
    }
}

/// Ends one pod, the least deserving; the next look says whether that was enough.
async fn evict(context: &Arc<Context>, resource: &'static str) {
    context.node_event(EventType::Warning, "EvictionThresholdMet", format!("Attempting to reclaim {resource}"));
    let mut ranked = Vec::new();
    for pod in context.pods.list().into_iter().filter(|p| context.is_mine(p) && evictable(p)) {
        let usage = usage(context, &pod, resource).await;
        ranked.push((rank(&pod, usage, resource), pod));
    }
    ranked.sort_by_key(|(rank, _)| *rank);
    let Some((_, pod)) = ranked.last() else { return };
    let message = format!("The node was low on resource: {resource}. ");
    context.pod_event(pod, EventType::Warning, "Evicted", message.clone());
    let uid = pod.metadata.uid.as_deref().unwrap_or_default();
    context.workers.condemn(uid, Verdict { reason: "Evicted".to_owned(), message });
}

fn evictable(pod: &Pod) -> bool {
    let critical = pod.spec.as_ref().and_then(|s| s.priority).unwrap_or(0) >= 2_000_000_000;
    let phase = pod.status.as_ref().and_then(|s| s.phase.as_deref()).unwrap_or_default();
    !critical && !phase::is_final(phase) && pod.metadata.deletion_timestamp.is_none()
}

async fn usage(context: &Context, pod: &Pod, resource: &str) -> u64 {
    let id = runtime::PodId::new(pod.metadata.uid.clone().unwrap_or_default());
    let Ok(stats) = context.runtime.pod_stats(&id).await else { return 0 };
    match resource {
        "memory" => stats.memory.working_set,
        _ => stats.containers.iter().map(|(_, c)| c.filesystem.used_bytes).sum(),
    }
}

/// Larger goes first: above its request, then low priority, then by how far it is above.
fn rank(pod: &Pod, usage: u64, resource: &str) -> (bool, std::cmp::Reverse<i32>, i128) {
    let spec = pod.spec.as_ref();
    let requested = spec.map_or(0, |s| resources::request(s, resource)) / 1000;
    let above = i128::from(usage) - requested;
    let best_effort = QosClass::of(pod) == QosClass::BestEffort;
    let priority = spec.and_then(|s| s.priority).unwrap_or(0);
    (above > 0 || best_effort, std::cmp::Reverse(priority), above)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn pod(priority: i32, memory: &str) -> Pod {
        serde_json::from_value(serde_json::json!({"metadata": {}, "spec": {"priority": priority, "containers": [
            {"name": "c", "resources": {"requests": {"memory": memory}}}]}}))
        .unwrap()
    }

    #[test]
    fn those_above_their_request_go_first_then_the_least_important() {
        let above_low = rank(&pod(0, "1Mi"), 5 << 20, "memory");
        let above_high = rank(&pod(100, "1Mi"), 9 << 20, "memory");
        let below = rank(&pod(0, "1Gi"), 5 << 20, "memory");
        assert!(above_low > above_high && above_high > below);
    }

    #[test]
    fn pressure_settles_slowly() {
        let mut since = Since::default();
        let (start, settle) = (Instant::now(), Duration::from_secs(10));
        assert!(!since.settle(0, false, start, settle));
        assert!(since.settle(0, true, start, settle));
        assert!(since.settle(0, false, start + Duration::from_secs(5), settle));
        assert!(!since.settle(0, false, start + Duration::from_secs(11), settle));
    }
}

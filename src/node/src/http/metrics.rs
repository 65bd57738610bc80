//! `/metrics`, `/metrics/resource` and `/metrics/cadvisor` in the Prometheus text format. The samples of others
//! (containers, the machine) are taken when asked for; nothing is collected between.

use std::fmt::{self, Write as _};

use http::{Response, StatusCode};
use runtime::{ContainerState, ContainerStats, ContainerStatus, PodStats, PodStatus};

use super::answer::{self, Body};
use super::host::Host;

const FORMAT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Metrics being written, family by family.
#[derive(Default)]
struct Text(String);

impl Text {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        self.put(format_args!("# HELP {name} {help}\n# TYPE {name} {kind}\n"));
    }

    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: f64) {
        self.put(format_args!("{name}"));
        let mut before = '{';
        for (label, value) in labels {
            let value = value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
            self.put(format_args!("{before}{label}=\"{value}\""));
            before = ',';
        }
        if !labels.is_empty() {
            self.0.push('}');
        }
        self.put(format_args!(" {value}\n"));
    }

    fn single(&mut self, name: &str, kind: &str, help: &str, value: f64) {
        self.family(name, kind, help);
        self.sample(name, &[], value);
    }

    fn put(&mut self, text: fmt::Arguments<'_>) {
        // Writing to a string cannot fail.
        self.0.write_fmt(text).unwrap_or_default();
    }

    fn answer(self) -> Response<Body> {
        answer::typed(StatusCode::OK, FORMAT, self.0)
    }
}

#[expect(clippy::cast_precision_loss, reason = "samples are floating point in this format")]
fn number(value: u64) -> f64 {
    value as f64
}

fn seconds(nanoseconds: u64) -> f64 {
    number(nanoseconds) / 1e9
}

/// One running container with its figures.
struct Measured<'a> {
    pod: &'a PodStatus,
    container: &'a ContainerStatus,
    stats: &'a ContainerStats,
}

async fn measure(host: &dyn Host) -> Vec<(PodStatus, PodStats)> {
    let mut measured = Vec::new();
    for status in host.running() {
        if let Some(stats) = host.pod_stats(status.spec.id.as_str()).await {
            measured.push((status, stats));
        }
    }
    measured
}

fn containers(pods: &[(PodStatus, PodStats)]) -> Vec<Measured<'_>> {
    pods.iter().flat_map(|(pod, stats)| running(pod, stats)).collect()
}

fn running<'a>(pod: &'a PodStatus, stats: &'a PodStats) -> impl Iterator<Item = Measured<'a>> {
    stats.containers.iter().filter_map(move |(id, stats)| {
        let container = pod.containers.iter().find(|c| c.id == *id && c.state == ContainerState::Running)?;
        Some(Measured { pod, container, stats })
    })
}

/// Name, kind, help, and the value where there is one.
type Figure = (&'static str, &'static str, &'static str, fn(&Measured<'_>) -> Option<f64>);
type PodFigure = (&'static str, &'static str, &'static str, fn(&PodStats) -> f64);

fn started(container: &ContainerStatus) -> Option<f64> {
    let at = container.started_at?;
    Some(std::time::Duration::try_from(at.duration_since(jiff::Timestamp::UNIX_EPOCH)).ok()?.as_secs_f64())
}

const RESOURCE_CONTAINER: &[Figure] = &[
    (
        "container_cpu_usage_seconds_total",
        "counter",
        "[STABLE] Cumulative cpu time consumed by the container in core-seconds",
        |m| Some(seconds(m.stats.cpu.usage_ns)),
    ),
    ("container_memory_working_set_bytes", "gauge", "[STABLE] Current working set of the container in bytes", |m| {
        Some(number(m.stats.memory.working_set))
    }),
    (
        "container_start_time_seconds",
        "gauge",
        "[STABLE] Start time of the container since unix epoch in seconds",
        |m| started(m.container),
    ),
];

const RESOURCE_POD: &[PodFigure] = &[
    (
        "pod_cpu_usage_seconds_total",
        "counter",
        "[STABLE] Cumulative cpu time consumed by the pod in core-seconds",
        |s| seconds(s.cpu.usage_ns),
    ),
    ("pod_memory_working_set_bytes", "gauge", "[STABLE] Current working set of the pod in bytes", |s| {
        number(s.memory.working_set)
    }),
];

pub(super) async fn resource(host: &dyn Host) -> Response<Body> {
    let pods = measure(host).await;
    let containers = containers(&pods);
    let machine = host.machine();
    let mut text = Text::default();
    for (name, kind, help, value) in RESOURCE_CONTAINER {
        text.family(name, kind, help);
        for m in &containers {
            let labels = [
                ("container", m.container.spec.name.as_str()),
                ("namespace", &m.pod.spec.namespace),
                ("pod", &m.pod.spec.name),
            ];
            value(m).into_iter().for_each(|v| text.sample(name, &labels, v));
        }
    }
    for (name, kind, help, value) in RESOURCE_POD {
        text.family(name, kind, help);
        for (pod, stats) in &pods {
            let labels = [("namespace", pod.spec.namespace.as_str()), ("pod", &pod.spec.name)];
            text.sample(name, &labels, value(stats));
        }
    }
    let help = "[STABLE] Cumulative cpu time consumed by the node in core-seconds";
    text.single("node_cpu_usage_seconds_total", "counter", help, seconds(machine.cpu_ns));
    let used = machine.memory.saturating_sub(machine.memory_available);
    let help = "[STABLE] Current working set of the node in bytes";
    text.single("node_memory_working_set_bytes", "gauge", help, number(used));
    let help = "[STABLE] 1 if there was an error while getting container metrics, 0 otherwise";
    text.single("resource_scrape_error", "gauge", help, 0.0);
    text.answer()
}

const CADVISOR: &[Figure] = &[
    ("container_cpu_usage_seconds_total", "counter", "Cumulative cpu time consumed in seconds.", |m| {
        Some(seconds(m.stats.cpu.usage_ns))
    }),
    ("container_cpu_cfs_throttled_periods_total", "counter", "Number of throttled period intervals.", |m| {
        Some(number(m.stats.cpu.throttled_periods))
    }),
    (
        "container_cpu_cfs_throttled_seconds_total",
        "counter",
        "Total time duration the container has been throttled.",
        |m| Some(seconds(m.stats.cpu.throttled_ns)),
    ),
    ("container_memory_usage_bytes", "gauge", "Current memory usage in bytes, including all memory.", |m| {
        Some(number(m.stats.memory.usage))
    }),
    ("container_memory_working_set_bytes", "gauge", "Current working set in bytes.", |m| {
        Some(number(m.stats.memory.working_set))
    }),
    ("container_memory_rss", "gauge", "Size of RSS in bytes.", |m| Some(number(m.stats.memory.rss))),
    ("container_spec_memory_limit_bytes", "gauge", "Memory limit for the container.", |m| {
        Some(number(m.stats.memory.limit.unwrap_or(0)))
    }),
    ("container_fs_usage_bytes", "gauge", "Number of bytes that are consumed by the container.", |m| {
        Some(number(m.stats.filesystem.used_bytes))
    }),
    ("container_processes", "gauge", "Number of processes running inside the container.", |m| {
        Some(number(m.stats.pids))
    }),
    ("container_start_time_seconds", "gauge", "Start time of the container since unix epoch in seconds.", |m| {
        started(m.container)
    }),
];

pub(super) async fn cadvisor(host: &dyn Host) -> Response<Body> {
    let pods = measure(host).await;
    let containers = containers(&pods);
    let machine = host.machine();
    let mut text = Text::default();
    for (name, kind, help, value) in CADVISOR {
        text.family(name, kind, help);
        for m in &containers {
            let id = format!("{}/{}", m.pod.cgroup_path, m.container.id);
            let labels = [
                ("container", m.container.spec.name.as_str()),
                ("id", &id),
                ("image", &m.container.image_id),
                ("name", m.container.id.as_str()),
                ("namespace", &m.pod.spec.namespace),
                ("pod", &m.pod.spec.name),
            ];
            value(m).into_iter().for_each(|v| text.sample(name, &labels, v));
        }
    }
    text.single("machine_cpu_cores", "gauge", "Number of logical CPU cores.", machine.cpus.into());
    text.single("machine_memory_bytes", "gauge", "Amount of memory installed on the machine.", number(machine.memory));
    text.answer()
}

/// The node's own.
pub(super) fn own(host: &dyn Host) -> Response<Body> {
    let pods = host.running();
    let mut text = Text::default();
    text.family("kubelet_node_name", "gauge", "[ALPHA] The node's name. The count is always 1.");
    text.sample("kubelet_node_name", &[("node", host.node_name())], 1.0);
    let help = "[ALPHA] Number of pods that have a running pod sandbox";
    text.single("kubelet_running_pods", "gauge", help, number(pods.len() as u64));
    text.family("kubelet_running_containers", "gauge", "[ALPHA] Number of containers currently running");
    for (name, state) in
        [("created", ContainerState::Created), ("exited", ContainerState::Exited), ("running", ContainerState::Running)]
    {
        let count = pods.iter().flat_map(|p| &p.containers).filter(|c| c.state == state).count();
        text.sample("kubelet_running_containers", &[("container_state", name)], number(count as u64));
    }
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    if let Some(resident) = crate::machine::meminfo(&status, "VmRSS") {
        text.single("process_resident_memory_bytes", "gauge", "Resident memory size in bytes.", number(resident));
    }
    text.answer()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_escaped() {
        let mut text = Text::default();
        text.sample("x", &[("a", "1\"\\\n"), ("b", "2")], 1.5);
        text.single("y", "gauge", "help", 3.0);
        assert_eq!(text.0, "x{a=\"1\\\"\\\\\\n\",b=\"2\"} 1.5\n# HELP y help\n# TYPE y gauge\ny 3\n");
    }
}

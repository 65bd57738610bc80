//! What was measured, against its budget: as Markdown tables (which a terminal shows well enough) and as JSON.

use std::fmt::Write as _;

use serde::Serialize;

use super::executable::Executable;
use super::idle::Idle;
use super::latency::Latencies;
use super::load::Phase;
use super::machine::Machine;
use super::processes::Memory;
use super::start::Start;

#[derive(Debug, Serialize)]
struct Row {
    what: String,
    value: f64,
    unit: &'static str,
    /// The most it should be.
    budget: Option<f64>,
    met: Option<bool>,
}

#[derive(Debug, Serialize)]
pub(super) struct Report {
    machine: Machine,
    executable: Executable,
    results: Vec<Row>,
    api: Vec<Phase>,
}

const MIB: f64 = 1024.0;

impl Report {
    pub(super) fn new(machine: Machine, executable: Executable) -> Self {
        let megabytes = u32::try_from(executable.bytes / 1_000).map_or(f64::INFINITY, |kb| f64::from(kb) / 1e3);
        let mut report = Self { machine, executable, results: Vec::new(), api: Vec::new() };
        report.add("executable", megabytes, "MB", Some(40.0));
        report
    }

    pub(super) fn add(&mut self, what: &str, value: f64, unit: &'static str, budget: Option<f64>) {
        let met = budget.map(|most| value <= most);
        self.results.push(Row { what: what.to_owned(), value, unit, budget, met });
    }

    pub(super) fn add_starts(&mut self, starts: &[Start]) {
        let median = |figure: fn(&Start) -> f64| {
            let mut figures: Vec<_> = starts.iter().map(figure).collect();
            figures.sort_by(f64::total_cmp);
            figures.get(figures.len() / 2).copied().unwrap_or_default()
        };
        let of = format!("median of {}", starts.len());
        self.add(&format!("start → API ready, fresh data dir, {of}"), median(|start| start.api_ready_ms), "ms", None);
        let budget = Some(1500.0);
        let ready = median(|start| start.node_ready_ms);
        self.add(&format!("start → node Ready, fresh data dir, {of}"), ready, "ms", budget);
    }

    pub(super) fn add_idle(&mut self, idle: &Idle, seconds: u64) {
        self.add_memory(&format!("memory idle at {seconds} s, PSS"), &idle.memory, Some(100.0));
        self.add(&format!("CPU idle over {seconds} s"), idle.cpu_percent, "% of a core", Some(0.5));
        let budget = Some(1000.0);
        self.add(&format!("disk writes idle over {seconds} s"), idle.written_bytes_per_second, "B/s", budget);
    }

    pub(super) fn add_memory(&mut self, what: &str, memory: &Memory, budget: Option<f64>) {
        let mib = |kib: u64| f64::from(u32::try_from(kib).unwrap_or(u32::MAX)) / MIB;
        self.add(what, mib(memory.total_kib()), "MiB", budget);
        if let Some(each) = memory.shims_kib.checked_div(memory.shims) {
            self.add(&format!("… of it each of {} shims", memory.shims), mib(each), "MiB", Some(3.0));
        }
    }

    pub(super) fn add_pods(&mut self, pods: &Latencies) {
        let what = |percent: usize| format!("pod create → Running, p{percent} of {}", pods.len());
        self.add(&what(50), pods.percentile(50), "ms", Some(150.0));
        self.add(&what(99), pods.percentile(99), "ms", Some(500.0));
    }

    pub(super) fn add_phases(&mut self, phases: Vec<Phase>) {
        self.api.extend(phases);
    }

    pub(super) fn json(&self) -> anyhow::Result<String> {
        Ok(serde_json::to_string_pretty(self)? + "\n")
    }

    pub(super) fn text(&self) -> String {
        let mut out = String::new();
        // Writing to a String cannot fail.
        self.write(&mut out).unwrap_or_default();
        out
    }

    fn write(&self, out: &mut String) -> std::fmt::Result {
        let Machine { cpu, cores, memory_mib, kernel, fdatasync_p50_ms, load } = &self.machine;
        writeln!(
            out,
            "Machine: {cpu}, {cores} cores, {memory_mib} MiB, Linux {kernel}, fdatasync p50 {fdatasync_p50_ms:.2} ms, load {load}"
        )?;
        let linkage = if self.executable.is_static { "static" } else { "dynamic" };
        writeln!(out, "Executable: {}, {linkage}\n", self.executable.version)?;
        writeln!(out, "| what | measured | budget | |\n|---|---|---|---|")?;
        for row in &self.results {
            let budget = row.budget.map(|most| format!("≤ {most} {}", row.unit)).unwrap_or_default();
            let verdict = match row.met {
                Some(true) => "met",
                Some(false) => "missed",
                None => "",
            };
            writeln!(out, "| {} | {} {} | {budget} | {verdict} |", row.what, figure(row.value), row.unit)?;
        }
        writeln!(out, "\n| API | clients | requests | /s | p50 ms | p99 ms | server CPU-s | answer KB |")?;
        writeln!(out, "|---|---|---|---|---|---|---|---|")?;
        for phase in &self.api {
            let Phase { what, clients, requests, per_second, p50_ms, p99_ms, server_cpu_seconds, answer_bytes } = phase;
            let kilobytes = answer_bytes.map(|bytes| bytes.div_ceil(1000).to_string()).unwrap_or_default();
            writeln!(
                out,
                "| {what} | {clients} | {requests} | {per_second:.0} | {p50_ms:.1} | {p99_ms:.1} | {server_cpu_seconds:.1} | {kilobytes} |"
            )?;
        }
        Ok(())
    }
}

/// Three figures or so are all a measurement is good for.
fn figure(value: f64) -> String {
    match value.abs() {
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        let machine = Machine {
            cpu: "Test CPU".into(),
            cores: 2,
            memory_mib: 1024,
            kernel: "6.1".into(),
            fdatasync_p50_ms: 0.5,
            load: "0.10".into(),
        };
        let executable =
            Executable { path: "/rk".into(), version: "rk 0.1.0".into(), bytes: 41_500_000, is_static: true };
        Report::new(machine, executable)
    }

    #[test]
    fn a_figure_over_its_budget_is_missed_in_table_and_json() {
        let mut report = report();
        let start = |node_ready_ms| Start { api_ready_ms: 100.0, node_ready_ms };
        report.add_starts(&[start(9000.0), start(900.0), start(1200.0)]);
        let text = report.text();
        assert!(text.contains("| executable | 41.5 MB | ≤ 40 MB | missed |"), "{text}");
        assert!(
            text.contains("| start → node Ready, fresh data dir, median of 3 | 1200 ms | ≤ 1500 ms | met |"),
            "{text}"
        );
        let json: serde_json::Value = serde_json::from_str(&report.json().unwrap()).unwrap();
        assert_eq!(json["results"][0]["met"], false);
        assert_eq!(json["executable"]["static"], true);
    }

    #[test]
    fn shims_are_shown_per_pod() {
        let mut report = report();
        report.add_memory("memory", &Memory { server_kib: 10 * 1024, shims_kib: 4 * 1024, shims: 2 }, None);
        assert!(report.text().contains("| … of it each of 2 shims | 2.00 MiB | ≤ 3 MiB | met |"));
    }
}

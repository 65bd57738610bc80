//! What was measured, against its goals, as a Markdown table.

use std::fmt;

use crate::load::Figures;

#[derive(Default)]
pub(crate) struct Table {
    rows: Vec<[String; 5]>,
}

fn verdict(met: bool) -> String {
    if met { "met" } else { "missed" }.to_owned()
}

impl Table {
    /// A rate beside etcd's; the goal is a multiple of it.
    pub(crate) fn compare(&mut self, what: &str, ours: &Figures, theirs: Option<&Figures>, goal: f64) {
        let show = |figures: &Figures| {
            let Figures { per_second, p50_ms, p99_ms, cpu_us: (server, _) } = figures;
            format!("{per_second:.0}/s (p50 {p50_ms:.2} ms, p99 {p99_ms:.2} ms, CPU {server:.0} µs)")
        };
        let (beside, met) = match theirs {
            None => (String::new(), String::new()),
            Some(theirs) => {
                let ratio = ours.per_second / theirs.per_second;
                (format!("etcd {}: {ratio:.1} ×", show(theirs)), verdict(ratio >= goal))
            }
        };
        self.rows.push([what.to_owned(), show(ours), beside, format!("≥ {goal} × etcd"), met]);
    }

    pub(crate) fn least(&mut self, what: &str, value: f64, unit: &str, goal: f64, beside: &str) {
        let (shown, wanted) = (format!("{value:.2} {unit}"), format!("≥ {goal} {unit}"));
        self.rows.push([what.to_owned(), shown, beside.to_owned(), wanted, verdict(value >= goal)]);
    }

    pub(crate) fn most(&mut self, what: &str, value: f64, unit: &str, goal: f64, beside: &str) {
        let (shown, wanted) = (format!("{value:.2} {unit}"), format!("≤ {goal} {unit}"));
        self.rows.push([what.to_owned(), shown, beside.to_owned(), wanted, verdict(value <= goal)]);
    }

    pub(crate) fn plain(&mut self, what: &str, value: f64, unit: &str, beside: &str) {
        self.rows.push([
            what.to_owned(),
            format!("{value:.0} {unit}"),
            beside.to_owned(),
            String::new(),
            String::new(),
        ]);
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "| what | measured | beside | goal | |\n|---|---|---|---|---|")?;
        for row in &self.rows {
            writeln!(f, "| {} |", row.join(" | "))?;
        }
        Ok(())
    }
}

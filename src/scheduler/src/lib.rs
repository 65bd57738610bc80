//! The scheduler: gives each pod a node.
//!
//! A pure cycle (`cycle`, `plugins`, `preempt`) decides over a [`state::Cluster`] and knows no clock, task or
//! network; `run` is the shell that feeds it from informers, binds, and reports. Pods that fit nowhere wait in
//! `queue` until something in the cluster changes: nothing is retried on a timer alone.
#![forbid(unsafe_code)]

mod affinity;
mod cycle;
mod plugins;
mod preempt;
mod queue;
mod run;
mod state;

pub use run::run;

/// Settings of the scheduler.
#[derive(Debug, Clone)]
pub struct Config {
    /// `spec.schedulerName` of the pods this scheduler takes.
    pub name: String,
}

impl Default for Config {
    fn default() -> Self {
        Self { name: "default-scheduler".to_owned() }
    }
}

//! A pod's status from its specification, what runs, and the status before. Pure; time is a parameter.
//!
//! The former status is an input for what the runtime forgets: ended containers, restart counts, transition times.

pub mod conditions;
pub mod containers;
pub mod phase;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{HostIP, Pod, PodIP, PodStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::plan::Memory;
use crate::plan::view::PodView;
use crate::spec::Role;
use crate::spec::resources::QosClass;

/// Computes the status.
///
/// `finished`: nothing of the pod runs any more nor will again, so a final phase may be told.
pub fn compute(
    pod: &Pod,
    view: &PodView,
    memory: &Memory,
    host_ips: &[String],
    finished: bool,
    now: Timestamp,
) -> PodStatus {
    let old = &memory.last_status;
    let list = |wanted: &[Role]| {
        let all = crate::spec::containers(pod);
        let list: Vec<_> = all
            .iter()
            .filter(|(role, _)| wanted.contains(role))
            .map(|(role, c)| containers::status(pod, *role, c, view, memory, finished))
            .collect();
        (!list.is_empty()).then_some(list)
    };
    let mut status = PodStatus {
        init_container_statuses: list(&[Role::Init, Role::Sidecar]),
        container_statuses: list(&[Role::Main]),
        ephemeral_container_statuses: list(&[Role::Ephemeral]),
        host_ip: host_ips.first().cloned(),
        host_ips: Some(host_ips.iter().map(|ip| HostIP { ip: ip.clone() }).collect()),
        qos_class: Some(QosClass::of(pod).to_string()),
        start_time: old.start_time.clone().or(Some(Time(now))),
        observed_generation: pod.metadata.generation,
        // Others' fields pass through.
        conditions: old.conditions.clone(),
        nominated_node_name: old.nominated_node_name.clone(),
        resource_claim_statuses: old.resource_claim_statuses.clone(),
        extended_resource_claim_status: old.extended_resource_claim_status.clone(),
        message: old.message.clone(),
        reason: old.reason.clone(),
        ..PodStatus::default()
    };
    let mut ips: Vec<String> = memory.pod_ips.clone();
    if ips.is_empty() {
        ips = old.pod_ips.iter().flatten().map(|p| p.ip.clone()).collect();
    }
    if !ips.is_empty() {
        status.pod_ip = ips.first().cloned();
        status.pod_ips = Some(ips.into_iter().map(|ip| PodIP { ip }).collect());
    }
    let computed = phase::of(pod, &status, memory, finished);
    let before = old.phase.as_deref().unwrap_or("Pending");
    status.phase = Some(match (phase::is_final(computed), finished) {
        _ if phase::is_final(before) => before.to_owned(),
        // "Succeeded" while a sidecar still runs would be a lie that clients act upon.
        (true, false) if view.any_alive() => before.to_owned(),
        _ => computed.to_owned(),
    });
    if let Some(verdict) = &memory.verdict {
        status.reason = Some(verdict.reason.clone());
        status.message = Some(verdict.message.clone());
    }
    status.conditions = Some(conditions::all(pod, &status, view, old, now));
    if memory.verdict.is_some() && phase::is_final(status.phase.as_deref().unwrap_or_default()) {
        forget_never_created(&mut status);
    }
    status
}

/// A pod that was turned away has no containers; a table would show one that waits in place of the reason.
fn forget_never_created(status: &mut PodStatus) {
    let lists = || [&status.init_container_statuses, &status.container_statuses, &status.ephemeral_container_statuses];
    if lists().into_iter().flat_map(|list| list.iter().flatten()).all(|container| container.container_id.is_none()) {
        status.init_container_statuses = None;
        status.container_statuses = None;
        status.ephemeral_container_statuses = None;
    }
}

#[cfg(test)]
#[path = "status_tests.rs"]
mod tests;

//! A job's policies: what one failed pod means, and which successes are enough. Pure.

use k8s_openapi::api::batch::v1::{
    JobSpec, PodFailurePolicyOnExitCodesRequirement, PodFailurePolicyOnPodConditionsPattern,
};
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};

use super::indexes::Indexes;
use crate::pods;

/// The position of the first rule of the success policy that the completed indexes satisfy.
pub(super) fn success_rule(spec: &JobSpec, completed: &Indexes) -> Option<usize> {
    let completions = spec.completions.unwrap_or(i32::MAX);
    let mut rules = spec.success_policy.iter().flat_map(|policy| &policy.rules);
    rules.position(|rule| {
        let wanted = rule.succeeded_indexes.as_deref().map(|text| Indexes::parse(text, completions));
        let reached = match &wanted {
            Some(wanted) => wanted.0.intersection(&completed.0).count(),
            None => completed.0.len(),
        };
        let enough = match (rule.succeeded_count, &wanted) {
            (Some(count), _) => usize::try_from(count).unwrap_or(0),
            (None, Some(wanted)) => wanted.0.len(),
            (None, None) => return false,
        };
        reached >= enough
    })
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Ruling {
    /// It counts towards the back-off limit.
    Count,
    Ignore,
    /// The job fails at once, with this message.
    FailJob(String),
    /// The pod's index fails for good.
    FailIndex,
}

pub(super) fn rule_on(spec: &JobSpec, pod: &Pod) -> Ruling {
    let rules = spec.pod_failure_policy.iter().flat_map(|policy| &policy.rules);
    for (position, rule) in rules.enumerate() {
        let by_code = rule.on_exit_codes.as_ref().and_then(|requirement| by_exit_code(requirement, pod));
        let by_condition = || rule.on_pod_conditions.iter().flatten().find_map(|pattern| by_condition(pattern, pod));
        let Some(what) = by_code.or_else(by_condition) else { continue };
        return match rule.action.as_str() {
            "Ignore" => Ruling::Ignore,
            "FailIndex" => Ruling::FailIndex,
            "FailJob" => Ruling::FailJob(format!("{what} matching FailJob rule at index {position}")),
            _ => Ruling::Count,
        };
    }
    Ruling::Count
}

fn by_exit_code(requirement: &PodFailurePolicyOnExitCodesRequirement, pod: &Pod) -> Option<String> {
    let status = pod.status.as_ref()?;
    let all = status.init_container_statuses.iter().flatten().chain(pods::container_statuses(pod));
    let named =
        |container: &&ContainerStatus| requirement.container_name.as_ref().is_none_or(|name| *name == container.name);
    let failed = all.filter(named).filter_map(|container| {
        let code = container.state.as_ref()?.terminated.as_ref()?.exit_code;
        let listed = requirement.values.contains(&code);
        (code != 0 && (requirement.operator == "In") == listed).then_some((container, code))
    });
    let (container, code) = failed.into_iter().next()?;
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let name = &container.name;
    Some(format!("Container {name} for pod {namespace}/{} failed with exit code {code}", pods::name(pod)))
}

fn by_condition(pattern: &PodFailurePolicyOnPodConditionsPattern, pod: &Pod) -> Option<String> {
    let wanted = pattern.status.as_deref().unwrap_or("True");
    let found = pods::conditions(pod).iter().any(|c| c.type_ == pattern.type_ && c.status == wanted);
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    found.then(|| format!("Pod {namespace}/{} has condition {}", pods::name(pod), pattern.type_))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::pods::fixture::pod;

    fn failed(code: i32) -> Pod {
        let mut pod = pod("p", "Failed");
        let statuses = json!([{"name": "c", "image": "i", "imageID": "", "ready": false, "restartCount": 0,
                               "state": {"terminated": {"exitCode": code}}}]);
        pod.status.as_mut().unwrap().container_statuses = serde_json::from_value(statuses).unwrap();
        pod
    }

    #[test]
    fn indexes_a_count_or_a_count_of_indexes_are_enough_to_succeed() {
        let rule = |rules: serde_json::Value, completed: &str| {
            let spec = json!({"template": {}, "completions": 5, "successPolicy": {"rules": rules}});
            success_rule(&serde_json::from_value(spec).unwrap(), &Indexes::parse(completed, 5))
        };
        let (leader, any) = (json!({"succeededIndexes": "0,3-4"}), json!({"succeededCount": 2}));
        assert_eq!(rule(json!([leader]), "0,3"), None);
        assert_eq!(rule(json!([leader, any]), "0,3"), Some(1));
        assert_eq!(rule(json!([leader]), "0,3-4"), Some(0));
        assert_eq!(rule(json!([{"succeededIndexes": "0-2", "succeededCount": 1}]), "3,4"), None);
        assert_eq!(rule(json!([{"succeededIndexes": "0-2", "succeededCount": 1}]), "2-4"), Some(0));
    }

    #[test]
    fn the_first_rule_that_matches_decides() {
        let spec: JobSpec = serde_json::from_value(json!({"template": {}, "podFailurePolicy": {"rules": [
            {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
            {"action": "FailJob", "onExitCodes": {"operator": "In", "values": [42]}},
        ]}}))
        .unwrap();
        assert_eq!(rule_on(&spec, &failed(1)), Ruling::Count);
        let message = "Container c for pod ns/p failed with exit code 42 matching FailJob rule at index 1";
        assert_eq!(rule_on(&spec, &failed(42)), Ruling::FailJob(message.into()));
        let mut disrupted = failed(42);
        disrupted.status.as_mut().unwrap().conditions =
            serde_json::from_value(json!([{"type": "DisruptionTarget", "status": "True"}])).unwrap();
        assert_eq!(rule_on(&spec, &disrupted), Ruling::Ignore);
    }
}

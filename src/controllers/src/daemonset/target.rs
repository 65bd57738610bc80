//! A daemon pod and the node it is for: the pod names its node by affinity, and the scheduler binds it. Pure.

use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::{NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, Pod, PodSpec, Toleration};

use crate::claim::controller_reference;
use crate::{pods, revisions, template};

const NAME: &str = "metadata.name";

/// The node a pod is on, or for.
pub(super) fn node_of(pod: &Pod) -> Option<&str> {
    pods::node_name(pod).or_else(|| {
        let affinity = pod.spec.as_ref()?.affinity.as_ref()?.node_affinity.as_ref()?;
        let terms = &affinity.required_during_scheduling_ignored_during_execution.as_ref()?.node_selector_terms;
        let mut fields = terms.iter().flat_map(|term| term.match_fields.iter().flatten());
        let named = fields.find(|field| field.key == NAME && field.operator == "In")?;
        named.values.as_ref()?.first().map(String::as_str)
    })
}

/// The template's tolerations, and those that every daemon pod has.
pub(super) fn tolerations(spec: &PodSpec) -> Vec<Toleration> {
    let mut all = spec.tolerations.clone().unwrap_or_default();
    let mut add = |key: &str, effect: &str| {
        let known = |t: &Toleration| t.key.as_deref() == Some(key) && t.effect.as_deref() == Some(effect);
        if !all.iter().any(known) {
            all.push(Toleration {
                key: Some(key.to_owned()),
                operator: Some("Exists".to_owned()),
                effect: Some(effect.to_owned()),
                ..Toleration::default()
            });
        }
    };
    add("node.kubernetes.io/not-ready", "NoExecute");
    add("node.kubernetes.io/unreachable", "NoExecute");
    for pressure in ["disk-pressure", "memory-pressure", "pid-pressure", "unschedulable"] {
        add(&format!("node.kubernetes.io/{pressure}"), "NoSchedule");
    }
    if spec.host_network == Some(true) {
        add("node.kubernetes.io/network-unavailable", "NoSchedule");
    }
    all
}

/// The set's pod for one node.
pub(super) fn pod_for(set: &DaemonSet, node: &str, hash: &str) -> Pod {
    let meta = &set.metadata;
    let template = set.spec.as_ref().map(|s| s.template.clone()).unwrap_or_default();
    let namespace = meta.namespace.as_deref().unwrap_or_default();
    let mut pod =
        template::pod(&template, meta.name.as_deref().unwrap_or_default(), namespace, controller_reference(set));
    let labels = pod.metadata.labels.get_or_insert_default();
    labels.insert(revisions::HASH.to_owned(), hash.to_owned());
    let generation = meta.annotations.as_ref().and_then(|a| a.get("deprecated.daemonset.template.generation"));
    if let Some(generation) = generation {
        labels.insert("pod-template-generation".to_owned(), generation.clone());
    }
    let spec = pod.spec.get_or_insert_default();
    spec.tolerations = Some(tolerations(spec));
    let affinity = spec.affinity.get_or_insert_default().node_affinity.get_or_insert_default();
    let named = NodeSelectorRequirement {
        key: NAME.to_owned(),
        operator: "In".to_owned(),
        values: Some(vec![node.to_owned()]),
    };
    // The template's own terms were judged when the node was chosen.
    affinity.required_during_scheduling_ignored_during_execution = Some(NodeSelector {
        node_selector_terms: vec![NodeSelectorTerm { match_fields: Some(vec![named]), match_expressions: None }],
    });
    pod
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_daemon_pod_names_its_node_until_it_is_bound() {
        let mut pod = pod_for(&DaemonSet::default(), "n1", "h");
        assert_eq!(node_of(&pod), Some("n1"));
        assert_eq!(pods::label(&pod, revisions::HASH), Some("h"));
        pod.spec.as_mut().unwrap().node_name = Some("n2".into());
        assert_eq!(node_of(&pod), Some("n2"));
        assert_eq!(pod.spec.unwrap().tolerations.unwrap().len(), 6);
    }
}

//! The cycle over small clusters, with upstream's wording.

use super::*;
use serde_json::{Value, json};
use std::sync::Arc;

fn node(name: &str, more: &Value) -> Arc<k8s_openapi::api::core::v1::Node> {
    let mut node = json!({
        "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name, "zone": &name[..1]}},
        "spec": {},
        "status": {"allocatable": {"cpu": "2", "memory": "4Gi", "pods": "110"}},
    });
    objects::patch::merge_patch(&mut node, more.clone());
    Arc::new(serde_json::from_value(node).unwrap())
}

fn pod(name: &str, more: &Value) -> PodInfo {
    let mut pod = json!({
        "metadata": {"name": name, "namespace": "default", "uid": name, "labels": {"app": "web"}},
        "spec": {"containers": [{"name": "c", "image": "i"}]},
    });
    objects::patch::merge_patch(&mut pod, more.clone());
    PodInfo::new(Arc::new(serde_json::from_value(pod).unwrap()))
}

fn asking(name: &str, cpu: &str) -> PodInfo {
    pod(name, &json!({"spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": cpu}}}]}}))
}

fn cluster(names: &[&str]) -> Cluster {
    let mut cluster = Cluster::default();
    names.iter().for_each(|name| cluster.set_node(node(name, &json!({}))));
    cluster
}

fn message(pod: &PodInfo, cluster: &Cluster) -> String {
    schedule(pod, cluster, 0).unwrap_err().message(None)
}

#[test]
fn without_nodes_the_message_is_upstreams() {
    assert_eq!(message(&pod("p", &json!({})), &cluster(&[])), "no nodes available to schedule pods");
}

#[test]
fn reasons_are_counted_and_sorted() {
    let mut cluster = cluster(&["a1", "a2", "b1"]);
    cluster.set_node(node("a2", &json!({"spec": {"taints": [{"key": "k", "effect": "NoSchedule"}]}})));
    cluster.set_node(node("b1", &json!({"spec": {"unschedulable": true}})));
    let wanted = "0/3 nodes are available: 1 Insufficient cpu, 1 node(s) had untolerated taint(s), 1 node(s) were unschedulable.";
    assert_eq!(message(&asking("p", "3"), &cluster), wanted);
}

#[test]
fn the_emptier_node_is_better_and_ties_are_spread() {
    let mut cluster = cluster(&["a1", "b1"]);
    assert_ne!(schedule(&asking("p", "1"), &cluster, 0), schedule(&asking("p", "1"), &cluster, 1));
    cluster.place(Arc::new(asking("other", "1")), "a1");
    assert_eq!(schedule(&asking("p", "1"), &cluster, 0).unwrap(), "b1");
    cluster.place(Arc::new(asking("more", "2")), "b1");
    assert_eq!(schedule(&asking("p", "1"), &cluster, 0).unwrap(), "a1");
    cluster.forget("more");
    assert_eq!(schedule(&asking("p", "2"), &cluster, 0).unwrap(), "b1");
}

#[test]
fn selectors_and_affinity_restrict_the_nodes() {
    let cluster = cluster(&["a1", "b1"]);
    let chosen = pod("p", &json!({"spec": {"nodeSelector": {"zone": "b"}}}));
    assert_eq!(schedule(&chosen, &cluster, 0).unwrap(), "b1");
    let terms = json!([{"matchExpressions": [{"key": "zone", "operator": "NotIn", "values": ["a", "b"]}]}]);
    let none = pod(
        "p",
        &json!({"spec": {"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}}}}),
    );
    assert_eq!(
        message(&none, &cluster),
        "0/2 nodes are available: 2 node(s) didn't match Pod's node affinity/selector."
    );
    let by_name = json!([{"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["a1"]}]}]);
    let named = pod(
        "p",
        &json!({"spec": {"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": by_name}}}}}),
    );
    assert_eq!(schedule(&named, &cluster, 1).unwrap(), "a1");
}

fn inter_pod(kind: &str, key: &str) -> Value {
    json!({"spec": {"affinity": {kind: {"requiredDuringSchedulingIgnoredDuringExecution": [
        {"labelSelector": {"matchLabels": {"app": "web"}}, "topologyKey": key}]}}}})
}

#[test]
fn anti_affinity_holds_in_both_directions() {
    let mut cluster = cluster(&["a1", "b1"]);
    let lonely = pod("lonely", &inter_pod("podAntiAffinity", "kubernetes.io/hostname"));
    cluster.place(Arc::new(lonely), "a1");
    assert_eq!(schedule(&pod("p", &json!({})), &cluster, 0).unwrap(), "b1", "a placed pod keeps others away");
    cluster.place(Arc::new(pod("q", &json!({}))), "b1");
    let another = pod("another", &inter_pod("podAntiAffinity", "kubernetes.io/hostname"));
    let wanted = "0/2 nodes are available: 2 node(s) didn't match pod anti-affinity rules.";
    assert_eq!(message(&another, &cluster), wanted);
}

#[test]
fn affinity_follows_a_pod_and_lets_the_first_of_a_kind_in() {
    let mut cluster = cluster(&["a1", "a2", "b1"]);
    let near = pod("near", &inter_pod("podAffinity", "zone"));
    assert!(schedule(&near, &cluster, 0).is_ok(), "it matches its own term");
    let stranger = pod("near", &{
        let mut terms = inter_pod("podAffinity", "zone");
        terms["metadata"] = json!({"labels": {"app": "other"}});
        terms
    });
    assert!(message(&stranger, &cluster).contains("3 node(s) didn't match pod affinity rules"));
    cluster.place(Arc::new(pod("web", &json!({}))), "b1");
    assert_eq!(schedule(&near, &cluster, 2).unwrap(), "b1");
}

#[test]
fn spread_constraints_bound_the_skew() {
    let mut cluster = cluster(&["a1", "a2", "b1"]);
    let spread = json!({"spec": {"topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": "zone",
        "whenUnsatisfiable": "DoNotSchedule", "labelSelector": {"matchLabels": {"app": "web"}}}]}});
    cluster.place(Arc::new(pod("one", &json!({}))), "a1");
    assert_eq!(schedule(&pod("p", &spread), &cluster, 0).unwrap(), "b1");
    cluster.set_node(node("b1", &json!({"spec": {"unschedulable": true}})));
    let text = message(&pod("p", &spread), &cluster);
    assert!(text.contains("2 node(s) didn't match pod topology spread constraints"), "{text}");
}

#[test]
fn host_ports_clash_only_on_the_same_address_and_protocol() {
    let with = |name: &str, ip: &str, protocol: &str| {
        pod(
            name,
            &json!({"spec": {"containers": [{"name": "c", "ports": [{"containerPort": 1, "hostPort": 80, "hostIP": ip, "protocol": protocol}]}]}}),
        )
    };
    let mut cluster = cluster(&["a1"]);
    cluster.place(Arc::new(with("one", "127.0.0.1", "TCP")), "a1");
    assert!(schedule(&with("p", "127.0.0.2", "TCP"), &cluster, 0).is_ok());
    assert!(schedule(&with("p", "127.0.0.1", "UDP"), &cluster, 0).is_ok());
    assert!(message(&with("p", "", "TCP"), &cluster).contains("didn't have free ports"));
}

#[test]
fn claims_hold_a_pod_back_until_they_are_bound() {
    let mut cluster = cluster(&["a1", "b1"]);
    let with = pod("p", &json!({"spec": {"volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "data"}}]}}));
    assert_eq!(message(&with, &cluster), "0/2 nodes are available: persistentvolumeclaim \"data\" not found.");
    let claim = |volume: &str| {
        serde_json::from_value(json!({"metadata": {"name": "data"}, "spec": {"volumeName": volume}})).unwrap()
    };
    let key = ("default".to_owned(), "data".to_owned());
    cluster.claims.insert(key.clone(), Arc::new(claim("")));
    assert!(message(&with, &cluster).contains("pod has unbound immediate PersistentVolumeClaims"));
    cluster.claims.insert(key, Arc::new(claim("vol")));
    let affinity = json!({"required": {"nodeSelectorTerms": [{"matchExpressions": [{"key": "zone", "operator": "In", "values": ["b"]}]}]}});
    let volume =
        serde_json::from_value(json!({"metadata": {"name": "vol"}, "spec": {"nodeAffinity": affinity}})).unwrap();
    cluster.volumes.insert("vol".to_owned(), Arc::new(volume));
    assert_eq!(schedule(&with, &cluster, 0).unwrap(), "b1");
}

//! What happens on a node that is full: preemption, rejection, and room that is given back.
#![forbid(unsafe_code)]

use rk_tests::kubectl::Kubectl;
use rk_tests::{Cluster, need, one_at_a_time};
use std::time::Duration;

const SOON: Duration = Duration::from_secs(90);
/// Does not end on SIGTERM.
const DEAF: &str = "trap '' TERM; while :; do sleep 1; done";
const WILLING: &str = "trap 'exit 0' TERM; while :; do sleep 0.1; done";

/// Half of what the node has, in thousandths of a core.
fn half(kubectl: &Kubectl<'_>) -> u64 {
    let cpu = kubectl.ok(&["get", "node", "server", "-o", "jsonpath={.status.allocatable.cpu}"]);
    let thousandths = cpu.strip_suffix('m').map_or_else(|| cpu.parse::<u64>().map(|cores| cores * 1000), str::parse);
    thousandths.expect("the node has processors") / 2
}

struct Pod<'a> {
    name: &'a str,
    cpu: u64,
    class: &'a str,
    grace: u64,
    script: &'a str,
    /// Further lines of the specification.
    more: &'a str,
}

impl Pod<'_> {
    fn create(&self, kubectl: &Kubectl<'_>) {
        let Pod { name, cpu, class, grace, script, more } = self;
        let manifest = format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, labels: {{app: {name}}}}}\nspec:\n  priorityClassName: {class}\n  terminationGracePeriodSeconds: {grace}\n{more}  containers:\n  - name: main\n    image: rk.local/busybox:test\n    imagePullPolicy: Never\n    command: [sh, -c, {script:?}]\n    resources: {{requests: {{cpu: {cpu}m}}}}\n"
        );
        kubectl.ok_with(&["create", "-f", "-"], &manifest);
    }
}

fn wait_ready(kubectl: &Kubectl<'_>, name: &str) {
    kubectl.ok(&["wait", "--for=condition=Ready", &format!("pod/{name}"), "--timeout=90s"]);
}

fn field(kubectl: &Kubectl<'_>, pod: &str, path: &str) -> String {
    kubectl.ok(&["get", "pod", pod, "-o", &format!("jsonpath={{{path}}}")])
}

fn event(kubectl: &Kubectl<'_>, pod: &str, reason: &str) -> String {
    let selector = format!("--field-selector=involvedObject.name={pod},reason={reason}");
    kubectl.until(SOON, &["get", "events", &selector, "-o", "jsonpath={.items[*].message}"], |text| !text.is_empty())
}

fn classes(kubectl: &Kubectl<'_>) {
    kubectl.ok(&["create", "priorityclass", "high", "--value=1000"]);
    kubectl.ok(&["create", "priorityclass", "low", "--value=1"]);
}

#[test]
fn an_important_pod_takes_the_place_of_a_lesser_one_and_nobody_slips_in() {
    if !need::met("an_important_pod_takes_the_place_of_a_lesser_one_and_nobody_slips_in", need::CLUSTER) {
        return;
    }
    let _turn = one_at_a_time();
    Cluster::ready().kubectl(|kubectl| {
        classes(kubectl);
        let cpu = half(kubectl);
        let low = |name, grace, script| Pod { name, cpu, class: "low", grace, script, more: "" };
        low("guarded", 0, WILLING).create(kubectl);
        low("victim", 12, DEAF).create(kubectl);
        wait_ready(kubectl, "guarded");
        wait_ready(kubectl, "victim");
        kubectl.ok(&["create", "pdb", "guard", "--selector=app=guarded", "--min-available=1"]);
        let healthy = "jsonpath={.status.currentHealthy} {.status.disruptionsAllowed}";
        kubectl.until(SOON, &["get", "pdb", "guard", "-o", healthy], |text| text == "1 0");

        Pod { name: "high", cpu, class: "high", grace: 0, script: WILLING, more: "" }.create(kubectl);
        let nominated = "jsonpath={.status.nominatedNodeName}";
        kubectl.until(SOON, &["get", "pod", "high", "-o", nominated], |node| node == "server");
        // Waits for the same room, and must not get it when the victim has gone.
        low("late", 0, WILLING).create(kubectl);
        let condition = ".status.conditions[?(@.type==\"DisruptionTarget\")]";
        assert_eq!(field(kubectl, "victim", &format!("{condition}.reason")), "PreemptionByScheduler");
        assert_eq!(
            field(kubectl, "victim", &format!("{condition}.message")),
            "default-scheduler: preempting to accommodate a higher priority pod"
        );
        let uid = field(kubectl, "high", ".metadata.uid");
        assert_eq!(event(kubectl, "victim", "Preempted"), format!("Preempted by pod {uid} on node server"));
        assert_eq!(event(kubectl, "high", "FailedScheduling"), "0/1 nodes are available: 1 Insufficient cpu.");
        wait_ready(kubectl, "high");
        kubectl.fails(&["get", "pod", "victim"], None);
        assert_eq!(field(kubectl, "high", ".status.nominatedNodeName"), "", "the room is taken");
        assert_eq!(field(kubectl, "guarded", ".status.phase"), "Running");
        assert_eq!(field(kubectl, "late", ".spec.nodeName"), "");
        // Victims without a grace period go at once.
        Pod { name: "higher", cpu, class: "high", grace: 0, script: WILLING, more: "" }.create(kubectl);
        wait_ready(kubectl, "higher");
        kubectl.fails(&["get", "pod", "guarded"], None);
        let refused = "0/1 nodes are available: 1 Insufficient cpu. no new claims to deallocate, preemption: 0/1 nodes are available: 1 No preemption victims found for incoming pod.";
        assert!(event(kubectl, "late", "FailedScheduling").contains(refused));
    });
}

#[test]
fn a_full_node_turns_pods_away_until_its_room_is_free_again() {
    if !need::met("a_full_node_turns_pods_away_until_its_room_is_free_again", need::CLUSTER) {
        return;
    }
    let _turn = one_at_a_time();
    Cluster::ready().kubectl(|kubectl| {
        classes(kubectl);
        let cpu = half(kubectl) * 2;
        let here = "  nodeName: server\n";
        let whole = |name, more| Pod { name, cpu, class: "low", grace: 12, script: DEAF, more };
        whole("first", here).create(kubectl);
        wait_ready(kubectl, "first");
        whole("refused", here).create(kubectl);
        kubectl.until(SOON, &["get", "pod", "refused", "-o", "jsonpath={.status.phase}"], |phase| phase == "Failed");
        assert_eq!(field(kubectl, "refused", ".status.reason"), "OutOfcpu");
        let why = format!("Node didn't have enough resource: cpu, requested: {cpu}, used: {cpu}, capacity: {cpu}");
        assert_eq!(field(kubectl, "refused", ".status.message"), format!("Pod was rejected: {why}"));
        assert_eq!(event(kubectl, "refused", "OutOfcpu"), why);
        let row = kubectl.ok(&["get", "pod", "refused", "--no-headers"]);
        assert!(row.contains("0/1") && row.contains("OutOfcpu"), "{row}");
        Pod { cpu: 0, more: "  nodeName: server\n  nodeSelector: {disk: none}\n", ..whole("stray", "") }
            .create(kubectl);
        kubectl.until(SOON, &["get", "pod", "stray", "-o", "jsonpath={.status.reason}"], |why| why == "NodeAffinity");
        assert_eq!(
            field(kubectl, "stray", ".status.message"),
            "Pod was rejected: Predicate NodeAffinity failed: node(s) didn't match Pod's node affinity/selector"
        );
        // The scheduler waits for the room of a pod that ends, and the node has it when the pod comes.
        kubectl.ok(&["delete", "pod", "first", "--wait=false"]);
        whole("next", "").create(kubectl);
        assert_eq!(field(kubectl, "next", ".spec.nodeName"), "", "the room is not free before the other has ended");
        wait_ready(kubectl, "next");
        kubectl.fails(&["get", "pod", "first"], None);
        // One that is deleted by force ends while its successor starts already.
        kubectl.ok(&["delete", "pod", "next", "--grace-period=0", "--force"]);
        whole("last", "").create(kubectl);
        wait_ready(kubectl, "last");
    });
}

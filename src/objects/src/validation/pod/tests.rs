//! Pod validation, in upstream's words.

use crate::strategy::{Context, Part, strategy_for};
use serde_json::{Value, json};

fn context() -> Context<'static> {
    Context { uid: "u-1", ..Context::sample(Some("default")) }
}

fn pod(spec: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, "spec": spec})
}

fn create_pod(spec: Value) -> Result<Value, String> {
    let strategy = strategy_for("", "v1", "Pod").unwrap();
    let decoded = strategy.decode(pod(spec)).map_err(|s| s.message().to_owned())?;
    strategy.create(decoded, &context()).map_err(|s| s.message().to_owned())
}

fn errors_of(spec: Value) -> String {
    let message = create_pod(spec).unwrap_err();
    message.strip_prefix("Pod \"x\" is invalid: ").map(str::to_owned).unwrap_or(message)
}

#[test]
fn a_small_pod_gets_its_defaults() {
    let pod = create_pod(json!({"containers": [{"name": "a", "image": "nginx:1"}]})).unwrap();
    assert_eq!(
        pod,
        json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": "x", "namespace": "default", "uid": "u-1", "generation": 1,
                "creationTimestamp": "2026-01-02T03:04:05Z"},
            "spec": {
                "containers": [{"name": "a", "image": "nginx:1", "imagePullPolicy": "IfNotPresent", "resources": {},
                    "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File"}],
                "dnsPolicy": "ClusterFirst", "enableServiceLinks": true, "restartPolicy": "Always",
                "schedulerName": "default-scheduler", "securityContext": {}, "terminationGracePeriodSeconds": 30
            },
            "status": {"phase": "Pending", "qosClass": "BestEffort"}
        })
    );
}

#[test]
fn required_fields_are_named() {
    assert_eq!(errors_of(json!({})), "spec.containers: Required value");
    assert_eq!(errors_of(json!({"containers": [{"name": "a"}]})), "spec.containers[0].image: Required value");
    let upper = errors_of(json!({"containers": [{"name": "A", "image": "b"}]}));
    assert!(
        upper.starts_with("spec.containers[0].name: Invalid value: \"A\": a lowercase RFC 1123 label must consist of")
    );
}

#[test]
fn containers_are_checked_against_each_other_and_the_volumes() {
    let with = |extra: Value| {
        let mut container = json!({"name": "a", "image": "b"});
        container.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        errors_of(json!({"containers": [container]}))
    };
    assert_eq!(
        errors_of(json!({"containers": [{"name": "a", "image": "b"}, {"name": "a", "image": "b"}]})),
        "spec.containers[1].name: Duplicate value: \"a\""
    );
    assert_eq!(
        with(json!({"volumeMounts": [{"name": "v", "mountPath": "/x"}]})),
        "spec.containers[0].volumeMounts[0].name: Not found: \"v\""
    );
    assert_eq!(
        with(json!({"ports": [{"containerPort": 70000}]})),
        "spec.containers[0].ports[0].containerPort: Invalid value: 70000: must be between 1 and 65535, inclusive"
    );
    assert_eq!(
        with(json!({"resources": {"limits": {"cpu": "1"}, "requests": {"cpu": "2"}}})),
        "spec.containers[0].resources.requests: Invalid value: \"2\": must be less than or equal to cpu limit of 1"
    );
    assert_eq!(
        with(json!({"imagePullPolicy": "Sometimes"})),
        "spec.containers[0].imagePullPolicy: Unsupported value: \"Sometimes\": supported values: \"Always\", \"IfNotPresent\", \"Never\""
    );
    assert_eq!(
        with(json!({"livenessProbe": {"tcpSocket": {"port": 80}, "exec": {"command": ["a"]}}})),
        "spec.containers[0].livenessProbe.tcpSocket: Forbidden: may not specify more than 1 handler type"
    );
    assert_eq!(
        with(json!({"readinessProbe": {"periodSeconds": -1, "tcpSocket": {"port": 80}}})),
        "spec.containers[0].readinessProbe.periodSeconds: Invalid value: -1: must be greater than or equal to 0"
    );
    assert_eq!(
        with(json!({"env": [{"name": "a", "valueFrom": {}}]})),
        "spec.containers[0].env[0].valueFrom: Invalid value: \"\": must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`"
    );
}

#[test]
fn init_containers_may_be_sidecars_only_with_always() {
    let init = |extra: Value| {
        let mut container = json!({"name": "i", "image": "b"});
        container.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        create_pod(json!({"containers": [{"name": "a", "image": "b"}], "initContainers": [container]}))
    };
    let probe = json!({"tcpSocket": {"port": 80}});
    assert!(init(json!({"restartPolicy": "Always", "readinessProbe": probe})).is_ok());
    assert_eq!(
        init(json!({"readinessProbe": probe})).unwrap_err(),
        "Pod \"x\" is invalid: spec.initContainers[0].readinessProbe: Forbidden: may not be set for init containers without restartPolicy=Always"
    );
}

#[test]
fn affinity_spread_and_tolerations_are_checked() {
    let with = |extra: Value| {
        let mut spec = json!({"containers": [{"name": "a", "image": "b"}]});
        spec.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        errors_of(spec)
    };
    assert_eq!(
        with(
            json!({"topologySpreadConstraints": [{"maxSkew": 0, "topologyKey": "z", "whenUnsatisfiable": "DoNotSchedule"}]})
        ),
        "spec.topologySpreadConstraints[0].maxSkew: Invalid value: 0: must be greater than 0"
    );
    assert_eq!(
        with(json!({"tolerations": [{"effect": "NoSchedule"}]})),
        "spec.tolerations[0].operator: Invalid value: \"\": operator must be Exists when `key` is empty, which means \"match all values and all keys\""
    );
    assert_eq!(
        with(
            json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": []}}}})
        ),
        "spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms: Required value: must have at least one node selector term"
    );
    assert_eq!(
        with(json!({"restartPolicy": "Maybe"})),
        "spec.restartPolicy: Unsupported value: \"Maybe\": supported values: \"Always\", \"OnFailure\", \"Never\""
    );
    assert_eq!(
        with(json!({"volumes": [{"name": "v", "emptyDir": {}, "hostPath": {"path": "/x"}}]})),
        "spec.volumes[0].hostPath: Forbidden: may not specify more than 1 volume type"
    );
}

fn update_pod(part: Part, change: impl FnOnce(&mut Value)) -> Result<Value, String> {
    let mut old = create_pod(json!({"containers": [{"name": "a", "image": "b"}]})).unwrap();
    old["metadata"]["resourceVersion"] = json!("5");
    let mut new = old.clone();
    change(&mut new);
    let strategy = strategy_for("", "v1", "Pod").unwrap();
    strategy.update(part, new, &old, &context()).map_err(|s| s.message().to_owned())
}

#[test]
fn only_some_fields_of_a_pod_may_change() {
    let updated = update_pod(Part::Main, |pod| pod["spec"]["containers"][0]["image"] = json!("c")).unwrap();
    assert_eq!(updated["metadata"]["generation"], 2);
    let labelled = update_pod(Part::Main, |pod| pod["metadata"]["labels"] = json!({"a": "b"})).unwrap();
    assert_eq!(labelled["metadata"]["generation"], 1);
    let refused = update_pod(Part::Main, |pod| pod["spec"]["hostname"] = json!("h")).unwrap_err();
    assert!(
        refused.starts_with("Pod \"x\" is invalid: spec: Forbidden: pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)\n"),
        "{refused}"
    );
    assert!(refused.contains("+ hostname: \"h\""));
    let added = update_pod(Part::Main, |pod| {
        pod["spec"]["containers"].as_array_mut().unwrap().push(json!({"name": "z", "image": "y"}));
    });
    assert_eq!(
        added.unwrap_err(),
        "Pod \"x\" is invalid: spec.containers: Forbidden: pod updates may not add or remove containers"
    );
}

#[test]
fn a_status_update_changes_the_status_alone() {
    let updated = update_pod(Part::Status, |pod| {
        pod["spec"]["containers"][0]["image"] = json!("c");
        pod["status"]["phase"] = json!("Running");
    })
    .unwrap();
    assert_eq!(updated["spec"]["containers"][0]["image"], "b");
    assert_eq!(updated["status"]["phase"], "Running");
    assert_eq!(updated["metadata"]["generation"], 1);
    let main = update_pod(Part::Main, |pod| pod["status"]["phase"] = json!("Running")).unwrap();
    assert_eq!(main["status"]["phase"], "Pending");
}

#[test]
fn ephemeral_containers_are_only_added() {
    let updated = update_pod(Part::EphemeralContainers, |pod| {
        pod["spec"]["ephemeralContainers"] = json!([{"name": "d", "image": "busybox"}]);
        pod["spec"]["containers"][0]["image"] = json!("c");
    })
    .unwrap();
    assert_eq!(updated["spec"]["ephemeralContainers"][0]["terminationMessagePolicy"], "File");
    assert_eq!(updated["spec"]["containers"][0]["image"], "b");
}

#[test]
fn a_resize_changes_cpu_and_memory_alone() {
    let updated = update_pod(Part::Resize, |pod| {
        pod["spec"]["containers"][0]["resources"] = json!({"requests": {"cpu": "1"}});
    });
    assert_eq!(
        updated.unwrap_err(),
        "Pod \"x\" is invalid: spec: Invalid value: \"Burstable\": Pod QOS Class may not change as a result of resizing"
    );
}

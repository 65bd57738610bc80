//! The priority levels and flow schemas every cluster has, as upstream suggests them. This server shapes no traffic by
//! them: they are here for clients that read or change them.

use objects::status::Status;
use serde_json::{Value, json};

use super::Writer;

const GROUP: &str = "flowcontrol.apiserver.k8s.io/v1";
const AUTOUPDATE: &str = "apf.kubernetes.io/autoupdate-spec";

/// Queues, hand size and length.
type Queues = (i32, i32, i32);

/// Name, shares, lendable percent, and where requests queue rather than be rejected, how.
const LIMITED: &[(&str, i32, i32, Option<Queues>)] = &[
    ("catch-all", 5, 0, None),
    ("global-default", 20, 50, Some((128, 6, 50))),
    ("leader-election", 10, 0, Some((16, 4, 50))),
    ("node-high", 40, 25, Some((64, 6, 50))),
    ("system", 30, 33, Some((64, 6, 50))),
    ("workload-high", 40, 50, Some((128, 6, 50))),
    ("workload-low", 100, 90, Some((128, 6, 50))),
];

/// One flow schema.
struct Flow {
    name: &'static str,
    level: &'static str,
    precedence: i32,
    /// `ByUser`, `ByNamespace` or nothing.
    by: &'static str,
    rules: Vec<Value>,
}

fn group(name: &str) -> Value {
    json!({"kind": "Group", "group": {"name": name}})
}

fn user(name: &str) -> Value {
    json!({"kind": "User", "user": {"name": name}})
}

fn account(name: &str) -> Value {
    json!({"kind": "ServiceAccount", "serviceAccount": {"namespace": "kube-system", "name": name}})
}

fn everybody() -> [Value; 2] {
    [group("system:authenticated"), group("system:unauthenticated")]
}

/// A rule on resources of the cluster (`namespaces` empty) or of namespaces.
fn resources(verbs: &[&str], groups: &[&str], resources: &[&str], namespaces: &[&str]) -> Value {
    let mut rule = json!({"verbs": verbs, "apiGroups": groups, "resources": resources});
    if namespaces.is_empty() || namespaces == ["*"] {
        rule["clusterScope"] = true.into();
    }
    if !namespaces.is_empty() {
        rule["namespaces"] = json!(namespaces);
    }
    rule
}

fn anything() -> Value {
    resources(&["*"], &["*"], &["*"], &["*"])
}

fn in_namespaces(verbs: &[&str], groups: &[&str], names: &[&str], namespaces: &[&str]) -> Value {
    let mut rule = resources(verbs, groups, names, namespaces);
    if let Value::Object(fields) = &mut rule {
        fields.remove("clusterScope");
    }
    rule
}

fn all(subjects: &[Value]) -> Value {
    json!({"subjects": subjects, "resourceRules": [anything()],
           "nonResourceRules": [{"verbs": ["*"], "nonResourceURLs": ["*"]}]})
}

fn on(subjects: &[Value], rules: &[Value]) -> Value {
    json!({"subjects": subjects, "resourceRules": rules})
}

fn flow(name: &'static str, level: &'static str, precedence: i32, by: &'static str, rules: Vec<Value>) -> Flow {
    Flow { name, level, precedence, by, rules }
}

fn flows() -> Vec<Flow> {
    let leases = |namespaces: &[&str]| {
        in_namespaces(&["get", "create", "update"], &["coordination.k8s.io"], &["leases"], namespaces)
    };
    let probes = json!({"subjects": everybody(),
        "nonResourceRules": [{"verbs": ["get"], "nonResourceURLs": ["/healthz", "/readyz", "/livez"]}]});
    let managers = [user("system:kube-controller-manager"), user("system:kube-scheduler")];
    let endpoints = [
        in_namespaces(&["get", "create", "update"], &[""], &["endpoints"], &["*"]),
        in_namespaces(&["get", "create", "update"], &["discovery.k8s.io"], &["endpointslices"], &["*"]),
    ];
    let endpoint_users = [
        user("system:kube-controller-manager"),
        account("endpoint-controller"),
        account("endpointslice-controller"),
        account("endpointslicemirroring-controller"),
    ];
    let node_rules = [
        in_namespaces(&["*"], &["coordination.k8s.io"], &["leases"], &["*"]),
        resources(&["*"], &[""], &["nodes", "nodes/status"], &["*"]),
    ];
    let nodes = [group("system:nodes")];
    let accounts = [group("system:serviceaccounts")];
    let system_accounts = [group("system:serviceaccounts:kube-system")];
    let election_users =
        [managers[0].clone(), managers[1].clone(), account("kube-controller-manager"), account("kube-scheduler")];
    vec![
        flow("exempt", "exempt", 1, "", vec![all(&[group("system:masters")])]),
        flow("probes", "exempt", 2, "", vec![probes]),
        flow(
            "system-leader-election",
            "leader-election",
            100,
            "ByUser",
            vec![on(&election_users, &[leases(&["kube-system"])])],
        ),
        flow("endpoint-controller", "workload-high", 150, "ByUser", vec![on(&endpoint_users, &endpoints)]),
        flow(
            "workload-leader-election",
            "leader-election",
            200,
            "ByUser",
            vec![on(&[account("*")], &[leases(&["*"])])],
        ),
        flow("system-node-high", "node-high", 400, "ByUser", vec![on(&nodes, &node_rules)]),
        flow("system-nodes", "system", 500, "ByUser", vec![all(&nodes)]),
        flow("kube-controller-manager", "workload-high", 800, "ByNamespace", vec![all(&managers[..1])]),
        flow("kube-scheduler", "workload-high", 800, "ByNamespace", vec![all(&managers[1..])]),
        flow("kube-system-service-accounts", "workload-high", 900, "ByNamespace", vec![all(&system_accounts)]),
        flow("service-accounts", "workload-low", 9000, "ByUser", vec![all(&accounts)]),
        flow("global-default", "global-default", 9900, "ByUser", vec![all(&everybody())]),
        flow("catch-all", "catch-all", 10000, "ByUser", vec![all(&everybody())]),
    ]
}

fn metadata(name: &str) -> Value {
    json!({"name": name, "annotations": {AUTOUPDATE: "true"}})
}

fn levels() -> Vec<Value> {
    let exempt = json!({"metadata": metadata("exempt"),
        "spec": {"type": "Exempt", "exempt": {"nominalConcurrencyShares": 0, "lendablePercent": 0}}});
    let limited = LIMITED.iter().map(|(name, shares, lendable, queues)| {
        let response = match queues {
            Some((queues, hand, length)) => json!({"type": "Queue",
                "queuing": {"queues": queues, "handSize": hand, "queueLengthLimit": length}}),
            None => json!({"type": "Reject"}),
        };
        let limited =
            json!({"nominalConcurrencyShares": shares, "lendablePercent": lendable, "limitResponse": response});
        json!({"metadata": metadata(name), "spec": {"type": "Limited", "limited": limited}})
    });
    std::iter::once(exempt).chain(limited).collect()
}

fn schemas() -> Vec<Value> {
    let schema = |flow: Flow| {
        let mut spec = json!({"matchingPrecedence": flow.precedence, "rules": flow.rules,
                              "priorityLevelConfiguration": {"name": flow.level}});
        if !flow.by.is_empty() {
            spec["distinguisherMethod"] = json!({"type": flow.by});
        }
        json!({"metadata": metadata(flow.name), "spec": spec})
    };
    flows().into_iter().map(schema).collect()
}

/// Writes them. One that an administrator has taken out of updates is left as it is.
pub(super) async fn write(writer: &Writer<'_>) -> Result<(), Status> {
    writer.ensure_all(GROUP, "prioritylevelconfigurations", levels(), restore).await?;
    writer.ensure_all(GROUP, "flowschemas", schemas(), restore).await
}

fn restore(object: &mut Value, wanted: &Value) -> bool {
    let updated = object.pointer("/metadata/annotations").and_then(|annotations| annotations.get(AUTOUPDATE));
    if updated.is_some_and(|updated| updated == "true") {
        object["spec"] = wanted["spec"].clone();
        return true;
    }
    false
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::flowcontrol::v1::{FlowSchema, PriorityLevelConfiguration};

    use super::*;

    #[test]
    fn every_schema_reads_and_has_its_level() {
        let levels: Vec<PriorityLevelConfiguration> =
            levels().into_iter().map(|level| serde_json::from_value(level).unwrap()).collect();
        for schema in schemas() {
            let schema: FlowSchema = serde_json::from_value(schema).unwrap();
            let name = schema.spec.unwrap().priority_level_configuration.name;
            assert!(levels.iter().any(|level| level.metadata.name.as_ref() == Some(&name)), "{name}");
        }
    }
}

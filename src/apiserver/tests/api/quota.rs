//! Resource quotas and limit ranges.

use futures::future::join_all;
use serde_json::{Value, json};

use crate::server::{Client, Server};

const PODS: &str = "/api/v1/namespaces/default/pods";
const QUOTAS: &str = "/api/v1/namespaces/default/resourcequotas";
const SERVICES: &str = "/api/v1/namespaces/default/services";

async fn start() -> (Server, Client) {
    let server = Server::start().await;
    let admin = server.admin();
    admin.create("/api/v1/namespaces/default/serviceaccounts", json!({"metadata": {"name": "default"}})).await;
    (server, admin)
}

fn pod(name: &str, resources: Value) -> Value {
    json!({"metadata": {"name": name}, "spec": {"containers": [{"name": "c", "image": "i", "resources": resources}]}})
}

async fn limit(admin: &Client, spec: Value) {
    admin.create(QUOTAS, json!({"metadata": {"name": "q"}, "spec": spec})).await;
}

fn message(answer: &(u16, Value)) -> &str {
    answer.1["message"].as_str().unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn concurrent_creates_do_not_pass_a_quota_together() {
    let (_server, admin) = start().await;
    limit(&admin, json!({"hard": {"pods": "5"}})).await;
    let creates = (0..50).map(|n| {
        let admin = admin.clone();
        tokio::spawn(async move { admin.post(PODS, pod(&format!("p{n}"), json!({}))).await })
    });
    let answers: Vec<(u16, Value)> = join_all(creates).await.into_iter().map(Result::unwrap).collect();
    assert_eq!(answers.iter().filter(|answer| answer.0 == 201).count(), 5);
    let refused = answers.iter().find(|answer| answer.0 == 403).unwrap();
    assert!(
        message(refused).ends_with("is forbidden: exceeded quota: q, requested: pods=1, used: pods=5, limited: pods=5"),
        "{refused:?}"
    );
    let (_, pods) = admin.get(PODS).await;
    assert_eq!(pods["items"].as_array().map(Vec::len), Some(5));
}

#[tokio::test]
async fn a_quota_holds_from_the_moment_it_is_made_and_finished_pods_make_room() {
    let (_server, admin) = start().await;
    for round in 0..20 {
        let (quota, first, second) = (format!("q{round}"), format!("a{round}"), format!("b{round}"));
        limit_named(&admin, &quota, json!({"hard": {"pods": "1"}})).await;
        admin.create(PODS, pod(&first, json!({}))).await;
        let refused = admin.post(PODS, pod(&second, json!({}))).await;
        assert_eq!(refused.0, 403, "{refused:?}");
        let done = json!({"status": {"phase": "Succeeded"}});
        admin.patch(&format!("{PODS}/{first}/status"), "application/merge-patch+json", done).await;
        admin.create(PODS, pod(&second, json!({}))).await;
        for name in [&first, &second] {
            admin.delete(&format!("{PODS}/{name}?gracePeriodSeconds=0")).await;
        }
        admin.delete(&format!("{QUOTAS}/{quota}")).await;
    }
}

async fn limit_named(admin: &Client, name: &str, spec: Value) {
    admin.create(QUOTAS, json!({"metadata": {"name": name}, "spec": spec})).await;
}

#[tokio::test]
async fn compute_amounts_are_summed_and_must_be_given() {
    let (_server, admin) = start().await;
    limit(&admin, json!({"hard": {"requests.cpu": "1", "limits.memory": "1Gi"}})).await;
    let answer = admin.post(PODS, pod("p", json!({"requests": {"cpu": "1"}}))).await;
    assert_eq!(answer.0, 403);
    assert_eq!(message(&answer), "pods \"p\" is forbidden: failed quota: q: must specify limits.memory for: c");
    let resources = |cpu: &str| json!({"requests": {"cpu": cpu}, "limits": {"memory": "256Mi"}});
    admin.create(PODS, pod("one", resources("600m"))).await;
    let answer = admin.post(PODS, pod("two", resources("500m"))).await;
    assert_eq!(
        message(&answer),
        "pods \"two\" is forbidden: exceeded quota: q, requested: requests.cpu=500m, used: requests.cpu=600m, \
         limited: requests.cpu=1"
    );
    admin.create(PODS, pod("two", resources("400m"))).await;
}

#[tokio::test]
async fn scopes_narrow_what_is_counted() {
    let (_server, admin) = start().await;
    limit(&admin, json!({"hard": {"pods": "1"}, "scopes": ["BestEffort"]})).await;
    admin.create(PODS, pod("a", json!({}))).await;
    assert_eq!(admin.post(PODS, pod("b", json!({}))).await.0, 403);
    admin.create(PODS, pod("c", json!({"requests": {"cpu": "1"}}))).await;
}

#[tokio::test]
async fn updates_are_charged_with_what_they_add() {
    let (_server, admin) = start().await;
    // One of the three is the server's own.
    limit(&admin, json!({"hard": {"services": "3", "services.nodeports": "1", "services.loadbalancers": "0"}})).await;
    let service =
        |name: &str, kind: &str| json!({"metadata": {"name": name}, "spec": {"type": kind, "ports": [{"port": 80}]}});
    admin.create(SERVICES, service("a", "NodePort")).await;
    admin.create(SERVICES, service("b", "ClusterIP")).await;
    let answer = admin.post(SERVICES, service("c", "ClusterIP")).await;
    assert!(message(&answer).contains("requested: services=1, used: services=3, limited: services=3"), "{answer:?}");
    let merge = "application/merge-patch+json";
    let answer = admin.patch(&format!("{SERVICES}/b"), merge, json!({"spec": {"type": "NodePort"}})).await;
    assert_eq!(answer.0, 403);
    assert!(message(&answer).contains("requested: services.nodeports=1, used: services.nodeports=1"), "{answer:?}");
    let answer = admin.patch(&format!("{SERVICES}/a"), merge, json!({"metadata": {"labels": {"x": "y"}}})).await;
    assert_eq!(answer.0, 200, "{answer:?}");
    let answer = admin.patch(&format!("{SERVICES}/a"), merge, json!({"spec": {"type": "LoadBalancer"}})).await;
    assert!(message(&answer).contains("limited: services.loadbalancers=0"), "{answer:?}");
}

#[tokio::test]
async fn claims_and_plain_objects_are_counted() {
    let (_server, admin) = start().await;
    let class = "fast.storageclass.storage.k8s.io/requests.storage";
    let hard = json!({"requests.storage": "3Gi", class: "1Gi", "configmaps": "1", "count/deployments.apps": "0"});
    limit(&admin, json!({ "hard": hard })).await;
    let claims = "/api/v1/namespaces/default/persistentvolumeclaims";
    let claim = |name: &str, class: &str, size: &str| {
        json!({"metadata": {"name": name}, "spec": {"accessModes": ["ReadWriteOnce"], "storageClassName": class,
            "resources": {"requests": {"storage": size}}}})
    };
    admin.create(claims, claim("a", "fast", "1Gi")).await;
    let answer = admin.post(claims, claim("b", "fast", "1Gi")).await;
    assert!(message(&answer).contains(&format!("used: {class}=1Gi")), "{answer:?}");
    admin.create(claims, claim("b", "slow", "2Gi")).await;
    let answer = admin.post(claims, claim("c", "slow", "1Gi")).await;
    assert!(message(&answer).contains("used: requests.storage=3Gi, limited: requests.storage=3Gi"), "{answer:?}");
    let maps = "/api/v1/namespaces/default/configmaps";
    admin.create(maps, json!({"metadata": {"name": "a"}})).await;
    assert_eq!(admin.post(maps, json!({"metadata": {"name": "b"}})).await.0, 403);
    let labels = json!({"app": "x"});
    let deployment = json!({"metadata": {"name": "d"}, "spec": {"selector": {"matchLabels": labels},
        "template": {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "c", "image": "i"}]}}}});
    let answer = admin.post("/apis/apps/v1/namespaces/default/deployments", deployment).await;
    assert!(message(&answer).contains("requested: count/deployments.apps=1"), "{answer:?}");
}

#[tokio::test]
async fn limit_ranges_fill_in_and_bound() {
    let (_server, admin) = start().await;
    let limits = json!([
        {"type": "Container", "max": {"cpu": "1"}, "default": {"cpu": "200m"}, "defaultRequest": {"cpu": "100m"}},
        {"type": "PersistentVolumeClaim", "max": {"storage": "1Gi"}}]);
    let ranges = "/api/v1/namespaces/default/limitranges";
    admin.create(ranges, json!({"metadata": {"name": "l"}, "spec": {"limits": limits}})).await;
    let made = admin.create(PODS, pod("a", json!({}))).await;
    let resources = &made["spec"]["containers"][0]["resources"];
    assert_eq!(resources, &json!({"requests": {"cpu": "100m"}, "limits": {"cpu": "200m"}}));
    assert_eq!(
        made["metadata"]["annotations"]["kubernetes.io/limit-ranger"],
        "LimitRanger plugin set: cpu request for container c; cpu limit for container c"
    );
    let answer = admin.post(PODS, pod("b", json!({"limits": {"cpu": "2"}}))).await;
    assert_eq!(message(&answer), "pods \"b\" is forbidden: maximum cpu usage per Container is 1, but limit is 2");
    let claim = json!({"metadata": {"name": "c"}, "spec": {"accessModes": ["ReadWriteOnce"],
        "resources": {"requests": {"storage": "2Gi"}}}});
    let answer = admin.post("/api/v1/namespaces/default/persistentvolumeclaims", claim).await;
    assert!(
        message(&answer).ends_with("maximum storage usage per PersistentVolumeClaim is 1Gi, but request is 2Gi"),
        "{answer:?}"
    );
}

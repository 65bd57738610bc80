//! Who may do what.

use serde_json::json;

use crate::server::Server;

#[tokio::test]
async fn a_refusal_says_who_what_and_where() {
    let server = Server::start().await;
    let (code, refused) = server.client("jane", &[]).get("/api/v1/namespaces/default/pods").await;
    assert_eq!(code, 403);
    assert_eq!(
        refused["message"],
        "pods is forbidden: User \"jane\" cannot list resource \"pods\" in API group \"\" in the namespace \"default\""
    );
    let (code, refused) = server.client("jane", &[]).get("/metrics").await;
    assert_eq!((code, &refused["message"]), (403, &json!("forbidden: User \"jane\" cannot get path \"/metrics\"")));
    assert_eq!(server.client("jane", &[]).get("/apis").await.0, 200);
}

#[tokio::test]
async fn a_binding_takes_effect_and_aggregated_roles_are_sums() {
    let server = Server::start().await;
    let admin = server.admin();
    let binding = json!({"metadata": {"name": "jane"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "view"},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "jane"}]});
    admin.create("/apis/rbac.authorization.k8s.io/v1/namespaces/default/rolebindings", binding).await;
    let jane = server.client("jane", &[]);
    jane.until("/api/v1/namespaces/default/pods", |code, _| code == 200).await;
    assert_eq!(jane.get("/api/v1/namespaces/default/secrets").await.0, 403);
    assert_eq!(jane.get("/api/v1/namespaces/kube-system/pods").await.0, 403);
}

#[tokio::test]
async fn reviews_answer_for_others() {
    let server = Server::start().await;
    let admin = server.admin();
    let path = "/apis/authorization.k8s.io/v1/subjectaccessreviews";
    let review = |group: &str| json!({"spec": {"user": "x", "groups": [group], "resourceAttributes": {"verb": "delete", "resource": "nodes"}}});
    assert_eq!(admin.create(path, review("system:masters")).await["status"]["allowed"], true);
    assert_eq!(admin.create(path, review("nobody")).await["status"]["allowed"], false);
    let me = admin.create("/apis/authentication.k8s.io/v1/selfsubjectreviews", json!({})).await;
    assert_eq!(me["status"]["userInfo"]["username"], "admin");
}

#[tokio::test]
async fn a_token_is_good_while_its_account_lives() {
    let server = Server::start().await;
    let admin = server.admin();
    let accounts = "/api/v1/namespaces/default/serviceaccounts";
    admin.create(accounts, json!({"metadata": {"name": "robot"}})).await;
    let request = admin.create(&format!("{accounts}/robot/token"), json!({"spec": {}})).await;
    let token = request["status"]["token"].as_str().unwrap().to_owned();
    let reviews = "/apis/authentication.k8s.io/v1/tokenreviews";
    let review = admin.create(reviews, json!({"spec": {"token": token}})).await;
    assert_eq!(review["status"]["user"]["username"], "system:serviceaccount:default:robot");
    let other = admin.create(reviews, json!({"spec": {"token": token, "audiences": ["elsewhere"]}})).await;
    assert_eq!(other["status"]["authenticated"], json!(null));
    admin.delete(&format!("{accounts}/robot")).await;
    let review = admin.create(reviews, json!({"spec": {"token": token}})).await;
    assert_ne!(review["status"]["authenticated"], true);
}

#[tokio::test]
async fn a_node_reads_only_what_its_pods_use() {
    let server = Server::start().await;
    let admin = server.admin();
    let secrets = "/api/v1/namespaces/default/secrets";
    for name in ["used", "other"] {
        admin.create(secrets, json!({"metadata": {"name": name}})).await;
    }
    admin.create("/api/v1/namespaces/default/serviceaccounts", json!({"metadata": {"name": "default"}})).await;
    let pod = json!({"metadata": {"name": "p"}, "spec": {"nodeName": "n1", "containers": [
        {"name": "c", "image": "i", "envFrom": [{"secretRef": {"name": "used"}}]}]}});
    admin.create("/api/v1/namespaces/default/pods", pod).await;
    let node = server.client("system:node:n1", &["system:nodes"]);
    node.until(&format!("{secrets}/used"), |code, _| code == 200).await;
    assert_eq!(node.get(&format!("{secrets}/other")).await.0, 403);
    assert_eq!(node.get(secrets).await.0, 403);
    assert_eq!(node.get("/api/v1/pods?fieldSelector=spec.nodeName%3Dn1").await.0, 200);
    assert_eq!(node.get("/api/v1/pods").await.0, 403);
    let other = server.client("system:node:n2", &["system:nodes"]);
    assert_eq!(other.get(&format!("{secrets}/used")).await.0, 403);
    assert_eq!(other.get("/api/v1/namespaces/default/pods/p").await.0, 403);
}

#[tokio::test]
async fn a_node_gets_tokens_for_its_own_pods_only() {
    let server = Server::start().await;
    let admin = server.admin();
    let accounts = "/api/v1/namespaces/default/serviceaccounts";
    admin.create(accounts, json!({"metadata": {"name": "default"}})).await;
    let pods = "/api/v1/namespaces/default/pods";
    let pod = |name: &str, node: &str| json!({"metadata": {"name": name}, "spec": {"nodeName": node, "containers": [{"name": "c", "image": "i"}]}});
    let own = admin.create(pods, pod("own", "n1")).await;
    let other = admin.create(pods, pod("other", "n2")).await;
    let node = server.client("system:node:n1", &["system:nodes"]);
    node.until(&format!("{pods}/own"), |code, _| code == 200).await;
    let path = format!("{accounts}/default/token");
    let bound = |pod: &serde_json::Value, audiences: &[&str]| {
        let reference =
            json!({"apiVersion": "v1", "kind": "Pod", "name": pod["metadata"]["name"], "uid": pod["metadata"]["uid"]});
        json!({"spec": {"boundObjectRef": reference, "audiences": audiences}})
    };
    let token = node.create(&path, bound(&own, &[])).await["status"]["token"].as_str().unwrap().to_owned();
    for (request, why) in [
        (json!({"spec": {}}), "node requested token not bound to a pod"),
        (bound(&other, &[]), "node requested token bound to a pod scheduled on a different node"),
        (bound(&own, &["vault"]), "audience \"vault\" not found in pod spec volume"),
    ] {
        let (code, refused) = node.post(&path, request).await;
        assert_eq!(code, 403, "{refused}");
        assert!(refused["message"].as_str().is_some_and(|m| m.ends_with(why)), "{refused}");
    }
    let reviews = "/apis/authentication.k8s.io/v1/tokenreviews";
    let review = json!({"spec": {"token": token}});
    assert_eq!(admin.create(reviews, review.clone()).await["status"]["authenticated"], true);
    admin.delete(&format!("{pods}/own?gracePeriodSeconds=0")).await;
    assert_ne!(admin.create(reviews, review).await["status"]["authenticated"], true);
}

#[tokio::test]
async fn a_node_cannot_reach_secrets_by_pods_it_makes() {
    let server = Server::start().await;
    let admin = server.admin();
    let node = admin.create("/api/v1/nodes", json!({"metadata": {"name": "n1"}})).await;
    admin.create("/api/v1/namespaces/default/secrets", json!({"metadata": {"name": "s"}})).await;
    let agent = server.client("system:node:n1", &["system:nodes"]);
    let pods = "/api/v1/namespaces/default/pods";
    let mirror = |name: &str, extra: serde_json::Value| {
        let owner = json!({"apiVersion": "v1", "kind": "Node", "name": "n1", "uid": node["metadata"]["uid"], "controller": true});
        let mut container = json!({"name": "c", "image": "i"});
        if !extra.is_null() {
            container["envFrom"] = json!([extra]);
        }
        json!({"metadata": {"name": name, "annotations": {"kubernetes.io/config.mirror": "x"}, "ownerReferences": [owner]},
            "spec": {"nodeName": "n1", "containers": [container]}})
    };
    let plain =
        json!({"metadata": {"name": "plain"}, "spec": {"nodeName": "n1", "containers": [{"name": "c", "image": "i"}]}});
    admin.create("/api/v1/namespaces/default/serviceaccounts", json!({"metadata": {"name": "default"}})).await;
    assert_eq!(agent.post(pods, plain).await.0, 403);
    for extra in [json!({"secretRef": {"name": "s"}}), json!({"configMapRef": {"name": "m"}})] {
        let (code, refused) = agent.post(pods, mirror("m", extra)).await;
        assert_eq!(code, 403, "{refused}");
    }
    let mut orphan = mirror("m", json!(null));
    orphan["metadata"]["ownerReferences"] = json!([]);
    assert_eq!(agent.post(pods, orphan).await.0, 403);
    agent.create(pods, mirror("m", json!(null))).await;
    let labels = json!({"metadata": {"labels": {"node-role.kubernetes.io/control-plane": ""}}});
    let (code, refused) = agent.patch("/api/v1/nodes/n1", "application/merge-patch+json", labels.clone()).await;
    assert_eq!(code, 403, "{refused}");
    let second = server.client("system:node:n2", &["system:nodes"]);
    let mut fresh = labels;
    fresh["metadata"]["name"] = "n2".into();
    let (code, refused) = second.post("/api/v1/nodes", fresh).await;
    assert_eq!(code, 403, "{refused}");
    assert_eq!(agent.get("/api/v1/namespaces/default/secrets/s").await.0, 403);
}

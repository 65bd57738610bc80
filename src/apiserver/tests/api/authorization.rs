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

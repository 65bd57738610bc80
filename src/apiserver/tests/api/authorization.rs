//! Who may do what.

use std::sync::Arc;

use apiserver::{Body, ExtraRoute, RequestBody, User};
use base64::{Engine, engine::general_purpose::STANDARD};
use futures::future::BoxFuture;
use http::{Request, Response};
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

#[tokio::test]
async fn a_token_secret_is_filled_and_goes_with_its_account() {
    let server = Server::start().await;
    let admin = server.admin();
    let accounts = "/api/v1/namespaces/default/serviceaccounts";
    let secrets = "/api/v1/namespaces/default/secrets";
    let account = admin.create(accounts, json!({"metadata": {"name": "robot"}})).await;
    let secret = json!({"metadata": {"name": "t", "annotations": {"kubernetes.io/service-account.name": "robot"}},
        "type": "kubernetes.io/service-account-token"});
    admin.create(secrets, secret).await;
    let filled = admin.until(&format!("{secrets}/t"), |_, secret| secret["data"]["token"].is_string()).await;
    assert_eq!(filled["metadata"]["annotations"]["kubernetes.io/service-account.uid"], account["metadata"]["uid"]);
    assert_eq!(filled["data"]["namespace"], "ZGVmYXVsdA==");
    assert!(filled["data"]["ca.crt"].is_string());
    let token = STANDARD.decode(filled["data"]["token"].as_str().unwrap()).unwrap();
    let review = json!({"spec": {"token": String::from_utf8(token).unwrap()}});
    let reviews = "/apis/authentication.k8s.io/v1/tokenreviews";
    let answer = admin.create(reviews, review.clone()).await;
    assert_eq!(answer["status"]["user"]["username"], "system:serviceaccount:default:robot", "{answer}");
    assert_eq!(answer["status"]["user"]["uid"], account["metadata"]["uid"]);
    admin.delete(&format!("{accounts}/robot")).await;
    assert_ne!(admin.create(reviews, review).await["status"]["authenticated"], true);
    admin.until(&format!("{secrets}/t"), |code, _| code == 404).await;
}

#[tokio::test]
async fn a_token_dies_with_the_secret_it_is_bound_to() {
    let server = Server::start().await;
    let admin = server.admin();
    let accounts = "/api/v1/namespaces/default/serviceaccounts";
    let secrets = "/api/v1/namespaces/default/secrets";
    admin.create(accounts, json!({"metadata": {"name": "robot"}})).await;
    admin.create(secrets, json!({"metadata": {"name": "s"}})).await;
    let bound = json!({"apiVersion": "v1", "kind": "Secret", "name": "s"});
    let request = json!({"spec": {"boundObjectRef": bound}});
    let token = admin.create(&format!("{accounts}/robot/token"), request).await["status"]["token"].clone();
    let review = json!({"spec": {"token": token}});
    let reviews = "/apis/authentication.k8s.io/v1/tokenreviews";
    assert_eq!(admin.create(reviews, review.clone()).await["status"]["authenticated"], true);
    admin.delete(&format!("{secrets}/s")).await;
    assert_ne!(admin.create(reviews, review).await["status"]["authenticated"], true);
}

#[tokio::test]
async fn acting_as_another_takes_a_permission_for_each_part() {
    let server = Server::start().await;
    let admin = server.admin();
    let who = "/apis/authentication.k8s.io/v1/selfsubjectreviews";
    let as_jane = [
        ("impersonate-user", "jane"),
        ("impersonate-group", "dev"),
        ("impersonate-uid", "7"),
        ("impersonate-extra-acme.com%2fproject", "x"),
    ];
    let me = admin.with(&as_jane).create(who, json!({})).await;
    let info = &me["status"]["userInfo"];
    assert_eq!((&info["username"], &info["uid"]), (&json!("jane"), &json!("7")));
    assert_eq!(info["groups"], json!(["dev", "system:authenticated"]));
    assert_eq!(info["extra"], json!({"acme.com/project": ["x"]}));
    let rbac = "/apis/rbac.authorization.k8s.io/v1";
    let rules = json!([{"verbs": ["impersonate"], "apiGroups": [""], "resources": ["users", "groups"]}]);
    admin.create(&format!("{rbac}/clusterroles"), json!({"metadata": {"name": "i"}, "rules": rules})).await;
    let binding = json!({"metadata": {"name": "i"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "i"},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "boss"}]});
    admin.create(&format!("{rbac}/clusterrolebindings"), binding).await;
    let boss = server.client("boss", &[]);
    let (code, answer) = boss.with(&as_jane[..2]).post(who, json!({})).await;
    assert_eq!(code, 201, "{answer}");
    let (code, refused) = boss.with(&as_jane[..3]).post(who, json!({})).await;
    assert_eq!(code, 403, "{refused}");
    assert_eq!(
        refused["message"],
        "uids.authentication.k8s.io \"7\" is forbidden: User \"boss\" cannot impersonate resource \"uids\" in API group \"authentication.k8s.io\" at the cluster scope"
    );
    let (code, refused) = boss.with(&as_jane[1..2]).post(who, json!({})).await;
    assert_eq!(code, 400, "{refused}");
}

/// Says by whom it is asked.
struct Who;

impl ExtraRoute for Who {
    fn handle(&self, _: Request<RequestBody>, user: Arc<User>) -> BoxFuture<'static, Response<Body>> {
        let text = json!({"name": user.name, "groups": user.groups}).to_string();
        Box::pin(async move { Response::new(Body::Full(text.into())) })
    }
}

#[tokio::test]
async fn paths_beyond_the_api_are_asked_by_who_is_impersonated() {
    let server = Server::start().await;
    server.api.add_route("/beyond/v1/", Arc::new(Who));
    let admin = server.admin();
    let jane = [("impersonate-user", "jane"), ("impersonate-group", "dev")];
    let masters = [("impersonate-user", "jane"), ("impersonate-group", "system:masters")];
    assert_eq!(admin.get("/beyond/v1/who").await.1["name"], "admin");
    let (code, who) = admin.with(&jane).get("/beyond/v1/who").await;
    assert_eq!((code, who), (200, json!({"name": "jane", "groups": ["dev", "system:authenticated"]})));
    // Who may not act as another is told so, and the route is not asked.
    let (code, refused) = server.client("somebody", &[]).with(&masters).get("/beyond/v1/who").await;
    assert_eq!(code, 403);
    let message = refused["message"].as_str().unwrap();
    assert!(message.contains("User \"somebody\" cannot impersonate resource \"users\""), "{message}");
    assert_eq!(admin.with(&jane[1..]).get("/beyond/v1/who").await.0, 400);
}

#[tokio::test]
async fn the_rules_that_hold_are_told() {
    let server = Server::start().await;
    let admin = server.admin();
    let binding = json!({"metadata": {"name": "jane"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "view"},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "jane"}]});
    admin.create("/apis/rbac.authorization.k8s.io/v1/namespaces/default/rolebindings", binding).await;
    let jane = server.client("jane", &[]);
    jane.until("/api/v1/namespaces/default/pods", |code, _| code == 200).await;
    let path = "/apis/authorization.k8s.io/v1/selfsubjectrulesreviews";
    let has_pods = |review: &serde_json::Value| {
        let rules = review["status"]["resourceRules"].as_array().unwrap();
        rules.iter().any(|rule| rule["resources"].as_array().is_some_and(|r| r.contains(&json!("pods"))))
    };
    let review = jane.create(path, json!({"spec": {"namespace": "default"}})).await;
    assert!(has_pods(&review) && !review["status"]["nonResourceRules"].as_array().unwrap().is_empty());
    let review = jane.create(path, json!({"spec": {"namespace": "kube-system"}})).await;
    assert!(!has_pods(&review));
}

#[tokio::test]
async fn bindings_and_roles_take_effect_as_they_change() {
    let server = Server::start().await;
    let admin = server.admin();
    let rbac = "/apis/rbac.authorization.k8s.io/v1/namespaces/default";
    let jane = server.client("jane", &[]);
    let maps = "/api/v1/namespaces/default/configmaps";
    assert_eq!(jane.get(maps).await.0, 403);
    let subject = |name: &str| json!([{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": name}]);
    let binding = json!({"metadata": {"name": "b"}, "subjects": subject("jane"),
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "r"}});
    admin.create(&format!("{rbac}/rolebindings"), binding).await;
    let rule = |resource: &str| json!([{"verbs": ["list"], "apiGroups": [""], "resources": [resource]}]);
    admin.create(&format!("{rbac}/roles"), json!({"metadata": {"name": "r"}, "rules": rule("configmaps")})).await;
    jane.until(maps, |code, _| code == 200).await;
    let merge = "application/merge-patch+json";
    admin.patch(&format!("{rbac}/roles/r"), merge, json!({"rules": rule("secrets")})).await;
    jane.until(maps, |code, _| code == 403).await;
    let secrets = "/api/v1/namespaces/default/secrets";
    assert_eq!(jane.get(secrets).await.0, 200);
    admin.patch(&format!("{rbac}/rolebindings/b"), merge, json!({"subjects": subject("joe")})).await;
    jane.until(secrets, |code, _| code == 403).await;
    let joe = server.client("joe", &[]);
    assert_eq!(joe.get(secrets).await.0, 200);
    admin.delete(&format!("{rbac}/rolebindings/b")).await;
    joe.until(secrets, |code, _| code == 403).await;
}

#[tokio::test]
async fn certificate_requests_are_approved_and_signed_by_those_who_may() {
    let server = Server::start().await;
    let admin = server.admin();
    let requests = "/apis/certificates.k8s.io/v1/certificatesigningrequests";
    let (_, pem) = pki::authority::signing_request().unwrap();
    let spec = json!({"request": STANDARD.encode(pem), "signerName": "kubernetes.io/kube-apiserver-client",
        "usages": ["client auth"]});
    let mut csr = admin.create(requests, json!({"metadata": {"name": "jane"}, "spec": spec})).await;
    let rbac = "/apis/rbac.authorization.k8s.io/v1";
    let rules = json!([
        {"verbs": ["update"], "apiGroups": ["certificates.k8s.io"],
         "resources": ["certificatesigningrequests/approval", "certificatesigningrequests/status"]}]);
    admin.create(&format!("{rbac}/clusterroles"), json!({"metadata": {"name": "writer"}, "rules": rules})).await;
    let bind = |role: &str| {
        json!({"metadata": {"name": role.replace(':', "-")},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "clerk"}]})
    };
    admin.create(&format!("{rbac}/clusterrolebindings"), bind("writer")).await;
    let clerk = server.client("clerk", &[]);
    csr["status"] = json!({"conditions": [{"type": "Approved", "status": "True", "reason": "X"}]});
    let approval = format!("{requests}/jane/approval");
    let (code, refused) = clerk.put(&approval, &csr).await;
    assert_eq!(code, 403, "{refused}");
    let why = "user not permitted to approve requests with signerName \"kubernetes.io/kube-apiserver-client\"";
    assert!(refused["message"].as_str().is_some_and(|m| m.ends_with(why)), "{refused}");
    let approver = "system:certificates.k8s.io:kube-apiserver-client-approver";
    admin.create(&format!("{rbac}/clusterrolebindings"), bind(approver)).await;
    let (code, mut approved) = clerk.put(&approval, &csr).await;
    assert_eq!(code, 200, "{approved}");
    approved["status"]["certificate"] = STANDARD.encode("-----BEGIN CERTIFICATE-----").into();
    let (code, refused) = clerk.put(&format!("{requests}/jane/status"), &approved).await;
    assert_eq!(code, 403, "{refused}");
}

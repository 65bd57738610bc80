//! What clients ask before they ask for objects: health, version, metrics, discovery, schemas.

use http::Method;
use http_body_util::BodyExt;
use serde_json::{Value, json};

use crate::server::{Client, Server};

async fn text(client: &Client, path: &str) -> (u16, String) {
    let response = client.send(Method::GET, path, "application/json", None).await;
    let code = response.status().as_u16();
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    (code, String::from_utf8_lossy(&bytes).into_owned())
}

#[tokio::test]
async fn health_version_and_metrics_answer() {
    let server = Server::start().await;
    let admin = server.admin();
    for path in ["/healthz", "/livez", "/readyz"] {
        assert_eq!(text(&admin, path).await, (200, "ok".to_owned()));
        let (_, verbose) = text(&admin, &format!("{path}?verbose")).await;
        let name = path.trim_start_matches('/');
        assert!(
            verbose.starts_with("[+]ping ok\n") && verbose.ends_with(&format!("{name} check passed\n")),
            "{verbose}"
        );
    }
    assert_eq!(text(&admin, "/readyz/ping").await.1, "ok");
    let (_, version) = admin.get("/version").await;
    assert_eq!((&version["major"], &version["minor"]), (&json!("1"), &json!("36")));
    let (_, metrics) = text(&admin, "/metrics").await;
    assert!(metrics.contains("apiserver_request_total"), "{metrics}");
}

#[tokio::test]
async fn discovery_comes_in_the_form_asked_for() {
    let server = Server::start().await;
    let accept = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json";
    let admin = server.admin().with(&[("accept", accept)]);
    let response = admin.send(Method::GET, "/apis", "application/json", None).await;
    let kind = response.headers()["content-type"].to_str().unwrap().to_owned();
    assert_eq!(kind, "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList");
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    let groups: Value = serde_json::from_slice(&bytes).unwrap();
    assert_eq!(groups["kind"], "APIGroupDiscoveryList");
    let names: Vec<_> = groups["items"].as_array().unwrap().iter().map(|g| g["metadata"]["name"].clone()).collect();
    assert!(names.contains(&json!("flowcontrol.apiserver.k8s.io")) && names.contains(&json!("apps")), "{names:?}");
    let (_, index) = server.admin().get("/openapi/v3").await;
    let url = index["paths"]["apis/apps/v1"]["serverRelativeURL"].as_str().unwrap().to_owned();
    let (code, document) = server.admin().get(&url).await;
    assert_eq!((code, &document["openapi"]), (200, &json!("3.0.0")));
    let (code, swagger) = server.admin().get("/openapi/v2").await;
    assert_eq!((code, &swagger["swagger"]), (200, &json!("2.0")));
}

#[tokio::test]
async fn flow_control_is_there_for_those_who_look() {
    let server = Server::start().await;
    let admin = server.admin();
    let group = "/apis/flowcontrol.apiserver.k8s.io/v1";
    let (_, levels) = admin.get(&format!("{group}/prioritylevelconfigurations")).await;
    assert_eq!(levels["items"].as_array().map(Vec::len), Some(8));
    let (_, schemas) = admin.get(&format!("{group}/flowschemas")).await;
    assert_eq!(schemas["items"].as_array().map(Vec::len), Some(13));
    let (_, catch_all) = admin.get(&format!("{group}/flowschemas/catch-all")).await;
    assert_eq!(catch_all["spec"]["matchingPrecedence"], 10000);
}

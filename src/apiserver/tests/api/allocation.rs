//! Cluster IPs and node ports.

use serde_json::{Value, json};

use crate::server::Server;

const SERVICES: &str = "/api/v1/namespaces/default/services";

fn service(name: &str, kind: &str) -> Value {
    json!({"metadata": {"name": name}, "spec": {"type": kind, "ports": [{"port": 80}], "selector": {"a": "b"}}})
}

#[tokio::test]
async fn addresses_and_ports_are_given_once_and_freed() {
    let server = Server::start().await;
    let admin = server.admin();
    let one = admin.create(SERVICES, service("one", "NodePort")).await;
    let address = one["spec"]["clusterIP"].as_str().unwrap();
    let port = one["spec"]["ports"][0]["nodePort"].as_i64().unwrap();
    assert!(address.starts_with("10.43.0.") && (30000..=30100).contains(&port));
    let mut same = service("two", "NodePort");
    same["spec"]["clusterIP"] = address.into();
    let (code, refused) = admin.post(SERVICES, same.clone()).await;
    assert_eq!(code, 422);
    assert!(refused["message"].as_str().is_some_and(|m| m.contains("provided IP is already allocated")), "{refused}");
    let (_, held) = admin.get(&format!("/apis/networking.k8s.io/v1/ipaddresses/{address}")).await;
    assert_eq!(held["spec"]["parentRef"]["name"], "one");
    admin.delete(&format!("{SERVICES}/one")).await;
    assert_eq!(admin.get(&format!("/apis/networking.k8s.io/v1/ipaddresses/{address}")).await.0, 404);
    same["spec"]["ports"][0]["nodePort"] = port.into();
    admin.create(SERVICES, same).await;
}

#[tokio::test]
async fn an_update_keeps_the_address_and_a_headless_service_has_none() {
    let server = Server::start().await;
    let admin = server.admin();
    let made = admin.create(SERVICES, service("kept", "ClusterIP")).await;
    let change = json!({"spec": {"type": "NodePort"}});
    let (code, changed) = admin.patch(&format!("{SERVICES}/kept"), "application/merge-patch+json", change).await;
    assert_eq!(code, 200, "{changed}");
    assert_eq!(changed["spec"]["clusterIP"], made["spec"]["clusterIP"]);
    assert!(changed["spec"]["ports"][0]["nodePort"].is_number());
    let mut headless = service("headless", "ClusterIP");
    headless["spec"]["clusterIP"] = "None".into();
    assert_eq!(admin.create(SERVICES, headless).await["spec"]["clusterIPs"], json!(["None"]));
}

#[tokio::test]
async fn the_range_runs_out_with_an_error() {
    let server = Server::start().await;
    let admin = server.admin();
    let mut last = (0, Value::Null);
    // 254 addresses, one of which is the server's own.
    for n in 0..254 {
        last = admin.post(SERVICES, service(&format!("s{n}"), "ClusterIP")).await;
    }
    assert_eq!(last.0, 422, "{}", last.1);
    assert!(last.1["message"].as_str().is_some_and(|m| m.contains("range is full")), "{}", last.1);
}

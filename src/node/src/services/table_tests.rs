//! Cases of the service table, from objects as the API has them.

use serde_json::{Value, json};

use super::*;

fn service(spec: Value) -> Arc<Service> {
    let object = json!({"metadata": {"namespace": "default", "name": "web"}, "spec": spec});
    Arc::new(serde_json::from_value(object).unwrap())
}

fn slice(port: Value, endpoints: Value) -> Arc<EndpointSlice> {
    let labels = json!({"kubernetes.io/service-name": "web"});
    let object = json!({"metadata": {"namespace": "default", "name": "web-1", "labels": labels}, "addressType": "IPv4",
        "ports": [port], "endpoints": endpoints});
    Arc::new(serde_json::from_value(object).unwrap())
}

fn place() -> Place {
    Place { node: "here".into(), zone: Some("east".into()) }
}

fn build_one(service: Arc<Service>, slices: &[Arc<EndpointSlice>]) -> Vec<ServicePort> {
    build(&[service], slices, &place(), &Skip { dns: vec![Ipv4Addr::new(10, 43, 0, 10)] }).ports
}

fn http() -> Value {
    json!({"clusterIP": "10.43.0.5", "ports": [{"name": "http", "port": 80, "targetPort": "web"}]})
}

fn with(mut spec: Value, extra: Value) -> Value {
    let (Some(spec_fields), Value::Object(extra)) = (spec.as_object_mut(), extra) else { return spec };
    spec_fields.extend(extra);
    spec
}

fn port() -> Value {
    json!({"name": "http", "port": 8080})
}

fn endpoint(ip: &str, node: &str) -> Value {
    json!({"addresses": [ip], "nodeName": node, "conditions": {"ready": true}})
}

fn ending(ip: &str, node: &str) -> Value {
    json!({"addresses": [ip], "nodeName": node, "conditions": {"ready": false, "serving": true, "terminating": true}})
}

fn ips(row: &ServicePort) -> Vec<String> {
    row.endpoints.iter().map(|e| format!("{}:{}{}", e.ip, e.port, if e.local { "*" } else { "" })).collect()
}

#[test]
fn ready_endpoints_of_all_slices_are_taken_once() {
    let slices = [
        slice(port(), json!([endpoint("10.42.0.2", "here"), endpoint("10.42.1.2", "there")])),
        slice(
            port(),
            json!([endpoint("10.42.1.2", "there"), {"addresses": ["10.42.1.3"], "conditions": {"ready": false}}]),
        ),
        slice(json!({"name": "other", "port": 1}), json!([endpoint("10.42.1.9", "there")])),
        slice(json!({"name": "http", "port": 1, "protocol": "UDP"}), json!([endpoint("10.42.1.9", "there")])),
    ];
    let rows = build_one(service(http()), &slices);
    assert_eq!(rows.len(), 1);
    assert_eq!((rows[0].name.as_str(), rows[0].port), ("default/web:http", 80));
    assert_eq!(ips(&rows[0]), ["10.42.0.2:8080*", "10.42.1.2:8080"]);
}

#[test]
fn endpoints_outside_of_the_pod_network_are_taken_this_nodes_own_among_them() {
    // The servers of the cluster, as the Service `kubernetes` has them: no node is named, and one has failed.
    let address = |ip: &str, ready: bool| json!({"addresses": [ip], "conditions": {"ready": ready}});
    let servers = json!([address("10.99.0.11", true), address("10.99.0.12", false), address("10.99.0.13", true)]);
    let spec = json!({"clusterIP": "10.43.0.1", "ports": [{"name": "https", "port": 443, "targetPort": 6443}]});
    let rows = build_one(service(spec), &[slice(json!({"name": "https", "port": 6443}), servers)]);
    assert_eq!(ips(&rows[0]), ["10.99.0.11:6443", "10.99.0.13:6443"]);
    assert_eq!((rows[0].port, rows[0].internal_policy), (443, TrafficPolicy::Cluster));
}

#[test]
fn ending_endpoints_serve_when_nobody_else_is_left() {
    let gone =
        json!({"addresses": ["10.42.0.9"], "conditions": {"ready": false, "serving": false, "terminating": true}});
    let only = slice(port(), json!([ending("10.42.0.2", "here"), gone]));
    assert_eq!(ips(&build_one(service(http()), &[only])[0]), ["10.42.0.2:8080*"]);
    let both = slice(port(), json!([ending("10.42.0.2", "here"), endpoint("10.42.1.2", "there")]));
    assert_eq!(ips(&build_one(service(http()), &[both])[0]), ["10.42.1.2:8080"]);
}

#[test]
fn a_service_without_endpoints_keeps_its_row() {
    let rows = build_one(service(http()), &[]);
    assert!(rows[0].endpoints.is_empty());
    assert_eq!(rows[0].cluster_ip, Some(Ipv4Addr::new(10, 43, 0, 5)));
}

#[test]
fn headless_external_and_dns_services_have_no_row() {
    for extra in [
        json!({"clusterIP": "None"}),
        json!({"clusterIP": ""}),
        json!({"clusterIP": "10.43.0.10"}),
        json!({"type": "ExternalName"}),
    ] {
        assert_eq!(build_one(service(with(http(), extra)), &[]), []);
    }
}

#[test]
fn ways_in_from_outside_are_listed() {
    let mut object = (*service(with(
        http(),
        json!({"type": "LoadBalancer", "externalIPs": ["192.0.2.1"], "externalTrafficPolicy": "Local",
            "loadBalancerSourceRanges": ["198.51.100.0/24"], "sessionAffinity": "ClientIP",
            "ports": [{"port": 80, "nodePort": 30080}]}),
    )))
    .clone();
    object.status = serde_json::from_value(json!({"loadBalancer": {"ingress": [
        {"ip": "203.0.113.1"}, {"ip": "203.0.113.2", "ipMode": "Proxy"}, {"hostname": "x"}]}}))
    .unwrap();
    let row = &build_one(Arc::new(object), &[])[0];
    assert_eq!(row.name, "default/web");
    assert_eq!((row.node_port, row.affinity), (Some(30080), Some(Duration::from_secs(10_800))));
    assert_eq!(row.external_ips, [Ipv4Addr::new(192, 0, 2, 1)]);
    assert_eq!(row.load_balancer_ips, [Ipv4Addr::new(203, 0, 113, 1)]);
    assert_eq!(row.source_ranges.len(), 1);
    assert_eq!((row.internal_policy, row.external_policy), (TrafficPolicy::Cluster, TrafficPolicy::Local));
}

#[test]
fn zone_hints_narrow_only_when_all_endpoints_have_them() {
    let hinted = |ip: &str, zone: &str| with(endpoint(ip, "there"), json!({"hints": {"forZones": [{"name": zone}]}}));
    let all = slice(port(), json!([hinted("10.42.1.1", "east"), hinted("10.42.1.2", "west")]));
    assert_eq!(ips(&build_one(service(http()), &[all])[0]), ["10.42.1.1:8080"]);
    let some = slice(port(), json!([hinted("10.42.1.1", "east"), endpoint("10.42.1.2", "there")]));
    assert_eq!(build_one(service(http()), &[some])[0].endpoints.len(), 2);
    let elsewhere = slice(port(), json!([hinted("10.42.1.1", "north"), hinted("10.42.1.2", "west")]));
    assert_eq!(build_one(service(http()), &[elsewhere])[0].endpoints.len(), 2);
}

#[test]
fn node_hints_win_over_zone_hints() {
    let hinted = |ip: &str, node: &str| {
        let hints = json!({"hints": {"forZones": [{"name": "east"}], "forNodes": [{"name": node}]}});
        with(endpoint(ip, node), hints)
    };
    let slices = [slice(port(), json!([hinted("10.42.0.1", "here"), hinted("10.42.1.2", "there")]))];
    assert_eq!(ips(&build_one(service(http()), &slices)[0]), ["10.42.0.1:8080*"]);
}

#[test]
fn local_endings_take_a_row_of_their_own_for_the_local_policy() {
    let spec = with(
        http(),
        json!({"type": "NodePort", "externalTrafficPolicy": "Local",
            "ports": [{"name": "http", "port": 80, "nodePort": 30080}]}),
    );
    let slices = [slice(port(), json!([ending("10.42.0.2", "here"), endpoint("10.42.1.2", "there")]))];
    let rows = build_one(service(spec.clone()), &slices);
    assert_eq!(rows.len(), 2);
    assert_eq!((ips(&rows[0]), rows[0].node_port), (vec!["10.42.1.2:8080".to_owned()], None));
    assert_eq!(rows[1].name, "default/web:http@external");
    assert_eq!((rows[1].cluster_ip, rows[1].node_port), (None, Some(30080)));
    assert_eq!(ips(&rows[1]), ["10.42.0.2:8080*", "10.42.1.2:8080"]);
    let ready = [slice(port(), json!([endpoint("10.42.0.2", "here"), endpoint("10.42.1.2", "there")]))];
    assert_eq!(build_one(service(spec), &ready).len(), 1);
}

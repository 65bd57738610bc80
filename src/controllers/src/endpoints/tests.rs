//! Endpoints and slices against an API server that behaves, and fixtures for the plans.

use client::Informers;
use client::testing::FakeApi;
use k8s_openapi::api::core::v1::{Endpoints, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::Config;
use crate::context::Context;
use crate::pods::fixture;

pub(super) fn service() -> Service {
    serde_json::from_value(json!({
        "metadata": {"name": "web", "namespace": "ns", "uid": "svc"},
        "spec": {"selector": {"app": "web"}, "clusterIP": "10.43.0.7", "ipFamilies": ["IPv4"],
                 "ports": [{"port": 80, "targetPort": "http", "protocol": "TCP"}]}
    }))
    .unwrap()
}

pub(super) fn pod(name: &str, address: &str, ready: bool) -> Pod {
    let pod = if ready { fixture::ready(name, "n1", 0) } else { fixture::pod(name, "Running") };
    let mut pod = fixture::labelled(pod, &[("app", "web")]);
    pod.status.as_mut().unwrap().pod_ip = Some(address.into());
    let ports = json!([{"name": "c", "ports": [{"name": "http", "containerPort": 8080}]}]);
    pod.spec.as_mut().unwrap().containers = serde_json::from_value(ports).unwrap();
    pod
}

#[tokio::test]
async fn both_objects_follow_the_pods_of_a_service() {
    let fake = FakeApi::new();
    let config = Config::new(String::new(), "10.42.0.0/16".parse().unwrap());
    let context = Context::new(fake.client(), Informers::new(fake.client()), config, CancellationToken::new());
    super::start(&context);
    fake.put(&service()).unwrap();
    fake.put(&pod("a", "10.0.0.1", true)).unwrap();
    let slice_addresses = |f: &FakeApi| -> Vec<String> {
        f.list::<EndpointSlice>().into_iter().flat_map(|s| s.endpoints).flatten().flat_map(|e| e.addresses).collect()
    };
    fake.wait_for(|f| (slice_addresses(f) == ["10.0.0.1"]).then_some(())).await.expect("first pod");
    fake.put(&pod("b", "10.0.0.2", true)).unwrap();
    fake.wait_for(|f| (slice_addresses(f).len() == 2).then_some(())).await.expect("second pod");
    fake.delete::<Pod>("ns", "a").unwrap();
    fake.put(&{
        let mut gone = pod("a", "10.0.0.1", true);
        gone.status.as_mut().unwrap().phase = Some("Succeeded".into());
        gone
    })
    .unwrap();
    fake.wait_for(|f| (slice_addresses(f) == ["10.0.0.2"]).then_some(())).await.expect("first pod ended");
    let listed = |f: &FakeApi| f.get::<Endpoints>("ns", "web")?.subsets?.first()?.addresses.clone();
    fake.wait_for(|f| listed(f).filter(|a| a.len() == 1 && a[0].ip == "10.0.0.2")).await.expect("endpoints");
    fake.delete::<Service>("ns", "web").unwrap();
    fake.wait_for(|f| f.get::<Endpoints>("ns", "web").is_none().then_some(())).await.expect("endpoints gone");
}

//! Mirroring against an API server that behaves.

use client::Informers;
use client::testing::FakeApi;
use k8s_openapi::api::core::v1::{Endpoints, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::MANAGER;
use crate::Config;
use crate::context::Context;
use crate::endpoints::slices::MANAGED_BY;

fn endpoints(name: &str, ip: &str) -> Endpoints {
    serde_json::from_value(json!({
        "metadata": {"name": name, "namespace": "ns", "uid": format!("endpoints-{name}")},
        "subsets": [{"addresses": [{"ip": ip}], "ports": [{"port": 5432}]}]
    }))
    .unwrap()
}

fn service(name: &str) -> Service {
    serde_json::from_value(json!({
        "metadata": {"name": name, "namespace": "ns", "uid": name},
        "spec": {"clusterIP": "10.43.0.9", "ipFamilies": ["IPv4"], "ports": [{"port": 5432, "protocol": "TCP"}]}
    }))
    .unwrap()
}

fn addresses(fake: &FakeApi) -> Vec<String> {
    let ours = |slice: &EndpointSlice| slice.metadata.labels.as_ref().is_some_and(|l| l[MANAGED_BY] == MANAGER);
    let slices = fake.list::<EndpointSlice>().into_iter().filter(ours);
    slices.flat_map(|slice| slice.endpoints).flatten().flat_map(|endpoint| endpoint.addresses).collect()
}

#[tokio::test]
async fn slices_follow_the_endpoints_of_a_service_without_selector() {
    let fake = FakeApi::new();
    let config = Config::new(String::new(), "10.42.0.0/16".parse().unwrap());
    let context = Context::new(fake.client(), Informers::new(fake.client()), config, CancellationToken::new());
    super::start(&context);
    fake.put(&endpoints("alone", "10.0.0.7")).unwrap();
    fake.put(&service("db")).unwrap();
    fake.put(&endpoints("db", "10.0.0.1")).unwrap();
    fake.wait_for(|f| (addresses(f) == ["10.0.0.1"]).then_some(())).await.expect("mirrored");
    fake.put(&endpoints("db", "10.0.0.2")).unwrap();
    fake.wait_for(|f| (addresses(f) == ["10.0.0.2"]).then_some(())).await.expect("followed");
    fake.delete::<Endpoints>("ns", "db").unwrap();
    fake.wait_for(|f| addresses(f).is_empty().then_some(())).await.expect("gone");
}

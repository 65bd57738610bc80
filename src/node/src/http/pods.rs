//! `/pods` and `/runningpods/`: the node's pods as the API has them, and as the runtime has them.

use http::Response;
use k8s_openapi::api::core::v1::{Container, Pod, PodSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use runtime::{ContainerState, PodStatus};
use serde::Serialize;

use super::answer::{self, Body};
use super::host::Host;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct List<T> {
    kind: &'static str,
    api_version: &'static str,
    metadata: Empty,
    items: Vec<T>,
}

#[derive(Serialize)]
struct Empty {}

fn answer<T: Serialize>(items: Vec<T>) -> Response<Body> {
    answer::json(&List { kind: "PodList", api_version: "v1", metadata: Empty {}, items })
}

pub(super) fn list(host: &dyn Host) -> Response<Body> {
    answer(host.pods())
}

pub(super) fn running(host: &dyn Host) -> Response<Body> {
    answer(host.running().iter().map(from_runtime).collect())
}

/// As much of a pod as the runtime knows.
fn from_runtime(status: &PodStatus) -> Pod {
    let running = status.containers.iter().filter(|c| c.state == ContainerState::Running);
    let container = |c: &runtime::ContainerStatus| Container {
        name: c.spec.name.clone(),
        image: Some(c.image_id.clone()),
        ..Container::default()
    };
    Pod {
        metadata: ObjectMeta {
            name: Some(status.spec.name.clone()),
            namespace: Some(status.spec.namespace.clone()),
            uid: Some(status.spec.id.to_string()),
            ..ObjectMeta::default()
        },
        spec: Some(PodSpec { containers: running.map(container).collect(), ..PodSpec::default() }),
        status: None,
    }
}

//! How long the server itself takes for long lists, without TLS and a network:
//! `cargo test --release -p apiserver --test api -- --ignored --nocapture measure`.

use std::time::{Duration, Instant};

use http::Method;
use http_body_util::BodyExt;
use serde_json::json;

use crate::server::Server;

const PODS: &str = "/api/v1/namespaces/default/pods";

#[tokio::test]
#[ignore = "a measurement"]
async fn lists_of_two_thousand_pods() {
    let server = Server::start().await;
    let admin = server.admin();
    admin.create("/api/v1/namespaces/default/serviceaccounts", json!({"metadata": {"name": "default"}})).await;
    for n in 0..2000 {
        let env: Vec<_> = (0..5).map(|at| json!({"name": format!("E{at}"), "value": format!("value-{at}")})).collect();
        let container = json!({"name": "c", "image": "registry.k8s.io/e2e-test-images/busybox:1.37.0-1", "env": env,
            "command": ["sleep", "3600"], "resources": {"requests": {"cpu": "10m", "memory": "16Mi"}, "limits": {"memory": "64Mi"}},
            "readinessProbe": {"httpGet": {"path": "/", "port": 80}}});
        let labels = json!({"app": "load", "shard": (n % 10).to_string()});
        let metadata = json!({"name": format!("pod-{n:05}"), "labels": labels});
        admin
            .create(PODS, json!({"metadata": metadata, "spec": {"schedulerName": "nobody", "containers": [container]}}))
            .await;
    }
    let table = "application/json;as=Table;v=v1;g=meta.k8s.io";
    for accept in ["application/json", "application/vnd.kubernetes.protobuf", table] {
        for path in [PODS.to_owned(), format!("{PODS}?resourceVersion=0")] {
            let client = admin.with(&[("accept", accept)]);
            let (mut best, mut size, begun) = (Duration::MAX, 0, Instant::now());
            while begun.elapsed() < Duration::from_secs(5) {
                let begin = Instant::now();
                let mut body = client.send(Method::GET, &path, "application/json", None).await.into_body();
                size = 0;
                while let Some(frame) = body.frame().await {
                    size += frame.unwrap().into_data().unwrap().len();
                }
                best = best.min(begin.elapsed());
            }
            println!("{accept} {path}: {size} B, best {best:?}");
        }
    }
}

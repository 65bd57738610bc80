//! `rk server --demo`: a small web app, made of rk itself, so that nothing has to be pulled.

use crate::progress::Progress;
use crate::{config::ServerConfig, manifests};
use anyhow::Context;
use client::Informers;
use k8s_openapi::api::apps::v1::Deployment;
use kube::Client;
use runtime::images::{FileSource, ImageFile};
use runtime::{ImageConfig, Images};
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::time::Duration;

const IMAGE: &str = "rk.local/hello";
const NODE_PORT: u16 = 30080;
const LIMIT: Duration = Duration::from_secs(60);

/// Builds the image of the demo: rk as its only file.
pub(crate) async fn build_image(images: Images) -> anyhow::Result<()> {
    let build = move || -> anyhow::Result<()> {
        let executable = std::env::current_exe().context("find rk's own executable")?;
        let file = ImageFile { path: PathBuf::from("/rk"), mode: 0o755, source: FileSource::Host(executable) };
        let config = ImageConfig {
            entrypoint: vec!["/rk".into(), "hello".into()],
            exposed_ports: vec!["8080/tcp".into()],
            ..ImageConfig::default()
        };
        images.add_layer_image(&IMAGE.parse()?, &[file], &config).context("build the demo image")?;
        Ok(())
    };
    tokio::task::spawn_blocking(build).await.context("the build stopped")?
}

/// Until the node port leads to a pod: the node learns of ready pods a moment after the API.
async fn answers() {
    let mut again = tokio::time::interval(Duration::from_millis(20));
    loop {
        again.tick().await;
        if tokio::net::TcpStream::connect((Ipv4Addr::LOCALHOST, NODE_PORT)).await.is_ok() {
            return;
        }
    }
}

/// Applies the demo, waits until it runs, and says what to try.
pub(crate) async fn run(
    client: &Client,
    informers: &Informers,
    config: &ServerConfig,
    progress: &Progress,
) -> anyhow::Result<()> {
    manifests::apply(client, embedded::DEMO).await.context("apply the demo")?;
    progress.step("demo applied: Deployment and Service hello");
    let deployments = informers.of::<Deployment>();
    let available = deployments.until("default", "hello", |deployment| {
        let status = deployment.status.as_ref();
        let wanted = deployment.spec.as_ref().and_then(|spec| spec.replicas);
        wanted.is_some() && status.and_then(|status| status.ready_replicas) == wanted
    });
    let running = tokio::time::timeout(LIMIT, available)
        .await
        .context("the demo's pods are not all ready after a minute: see `kubectl describe pods`")?;
    anyhow::ensure!(running, "the server is stopping");
    tokio::time::timeout(LIMIT, answers())
        .await
        .with_context(|| format!("the demo's pods are ready, but port {NODE_PORT} of this machine does not answer"))?;
    progress.step("demo running: 3 pods ready");
    progress.line(&format!(
        "\nTry:\n  curl http://localhost:{NODE_PORT}\n  export KUBECONFIG={}\n  kubectl get pods -o wide\n  kubectl scale deployment hello --replicas=5\n\nCtrl-C stops the cluster.",
        config.kubeconfig.display()
    ));
    Ok(())
}

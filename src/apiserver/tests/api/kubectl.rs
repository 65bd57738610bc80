//! The real kubectl over TLS.

use std::io::Write as _;
use std::{path::Path, process::Output};

use tokio::process::Command;

use crate::server::Server;

const KUBECTL: &str = "/usr/bin/kubectl";

/// Whether there is a kubectl; says so loudly when not.
fn is_there() -> bool {
    let there = Path::new(KUBECTL).exists();
    if !there {
        drop(writeln!(std::io::stderr(), "SKIPPED: {KUBECTL} is not installed"));
    }
    there
}

async fn run(config: &Path, arguments: &[&str]) -> Output {
    let home = config.parent().unwrap();
    let mut command = Command::new(KUBECTL);
    command.env("KUBECONFIG", config).env("HOME", home).args(arguments);
    command.output().await.unwrap()
}

async fn ok(config: &Path, line: &str) -> String {
    let arguments: Vec<&str> = line.split_whitespace().collect();
    let output = run(config, &arguments).await;
    assert!(output.status.success(), "kubectl {line}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

const DEPLOYMENT: &str = r#"
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, labels: {app: web}}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec: {containers: [{name: c, image: nginx}]}
"#;

#[tokio::test]
async fn everyday_commands_work() {
    if !is_there() {
        return;
    }
    let server = Server::start().await;
    let admin = server.kubeconfig("admin", "system:masters");
    let file = server.dir().join("web.yaml");
    std::fs::write(&file, DEPLOYMENT).unwrap();
    let file = file.to_str().unwrap();
    assert!(ok(&admin, "get namespaces").await.contains("kube-system"));
    assert!(ok(&admin, "api-resources").await.contains("deployments"));
    ok(&admin, &format!("apply -f {file}")).await;
    assert!(ok(&admin, &format!("apply -f {file}")).await.contains("unchanged"));
    ok(&admin, &format!("apply --server-side --force-conflicts -f {file}")).await;
    ok(&admin, "scale deployment web --replicas 4").await;
    assert_eq!(ok(&admin, "get deployment web -o jsonpath={.spec.replicas}").await, "4");
    ok(&admin, "set image deployment/web c=nginx:2").await;
    ok(&admin, "label deployment web tier=front").await;
    ok(&admin, "expose deployment web --port 80").await;
    assert!(ok(&admin, "get service web -o wide").await.contains("app=web"));
    assert!(ok(&admin, "describe service web").await.contains("Selector"));
    ok(&admin, "create serviceaccount default").await;
    ok(&admin, "run p --image=busybox").await;
    assert!(ok(&admin, "get pods -A -o wide").await.contains("Pending"));
    assert!(ok(&admin, "explain pods.spec.containers.image").await.contains("image"));
    assert_eq!(ok(&admin, "create token default").await.split('.').count(), 3);
    assert!(ok(&admin, "auth whoami").await.contains("system:masters"));
    assert!(ok(&admin, "version").await.contains("v1.36.0"));
    ok(&admin, "delete pod p --grace-period=0 --force").await;
    ok(&admin, "delete deployment,service web").await;
}

#[tokio::test]
async fn a_stranger_is_refused_and_an_unknown_field_named() {
    if !is_there() {
        return;
    }
    let server = Server::start().await;
    let jane = server.kubeconfig("jane", "dev");
    let refused = run(&jane, &["get", "secrets"]).await;
    assert!(!refused.status.success());
    assert!(String::from_utf8_lossy(&refused.stderr).contains("User \"jane\" cannot list resource \"secrets\""));
    let admin = server.kubeconfig("admin", "system:masters");
    let file = server.dir().join("odd.yaml");
    std::fs::write(&file, DEPLOYMENT.replace("replicas: 2", "replicas: 2\n  foo: 1")).unwrap();
    let refused = run(&admin, &["create", "-f", file.to_str().unwrap()]).await;
    assert!(String::from_utf8_lossy(&refused.stderr).contains("unknown field \"spec.foo\""));
}

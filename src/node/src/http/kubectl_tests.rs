//! The real kubectl against the node's API. What stands between them is as little of an API server as kubectl accepts:
//! discovery, one pod, and the forward of its subresources, upgrades included.

use std::convert::Infallible;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Output, Stdio};
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response, StatusCode, Uri};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, ChildStdout, Command};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::answer::{self, Body};
use super::testing::FakeNode;
use super::{Api, serve};

const TIME: Duration = Duration::from_secs(60);

fn kubectl_path() -> Option<PathBuf> {
    let folders = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&folders).map(|f| f.join("kubectl")).find(|k| k.is_file());
    if found.is_none() {
        drop(writeln!(std::io::stderr(), "SKIPPED: there is no kubectl in PATH"));
    }
    found
}

/// A forwarding server and the client's command line.
struct Lab {
    kubectl: PathBuf,
    server: String,
    home: tempfile::TempDir,
}

impl Lab {
    async fn new(node: &Arc<FakeNode>) -> Option<Lab> {
        let kubectl = kubectl_path()?;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = format!("http://{}", listener.local_addr().unwrap());
        let node = node.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(front(stream, node.clone()));
            }
        });
        Some(Lab { kubectl, server, home: tempfile::tempdir().unwrap() })
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.kubectl);
        command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default()).env("HOME", self.home.path());
        command.args(["--server", &self.server]).args(args).kill_on_drop(true);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    async fn output(&self, mut command: Command, input: &[u8]) -> Output {
        let mut child = command.spawn().unwrap();
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(input).await.unwrap();
        }
        tokio::time::timeout(TIME, child.wait_with_output()).await.expect("kubectl in time").unwrap()
    }

    async fn run(&self, args: &[&str]) -> (Option<i32>, String, String) {
        let output = self.output(self.command(args), b"").await;
        (output.status.code(), text(&output.stdout), text(&output.stderr))
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

async fn front(stream: TcpStream, node: Arc<FakeNode>) {
    let service = hyper::service::service_fn(move |request| {
        let node = node.clone();
        async move { Ok::<_, Infallible>(route(request, &node).await) }
    });
    let connection = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
    drop(connection.with_upgrades().await);
}

async fn route(request: Request<Incoming>, node: &Arc<FakeNode>) -> Response<Body> {
    let path = request.uri().path().to_owned();
    let pod = "/api/v1/namespaces/default/pods/web";
    let found = |value: Value| answer::json(&value);
    match path.strip_prefix(pod) {
        Some("") => found(json!({"apiVersion": "v1", "kind": "Pod",
            "metadata": {"namespace": "default", "name": "web", "uid": "u-1"},
            "spec": {"containers": [{"name": "app", "stdin": true}]},
            "status": {"phase": "Running", "containerStatuses": [{"name": "app", "state": {"running": {}}}]}})),
        Some(subresource) => forward(request, subresource.trim_start_matches('/'), node).await,
        None => match path.as_str() {
            "/api" => found(json!({"kind": "APIVersions", "versions": ["v1"]})),
            "/apis" => found(json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": []})),
            "/api/v1" => found(json!({"kind": "APIResourceList", "groupVersion": "v1", "resources": [
                {"name": "pods", "singularName": "pod", "namespaced": true, "kind": "Pod", "verbs": ["get"]}]})),
            _ => answer::text(StatusCode::NOT_FOUND, "not here"),
        },
    }
}

/// Passes the request on to the node, and both directions of an upgraded connection.
async fn forward(mut request: Request<Incoming>, subresource: &str, node: &Arc<FakeNode>) -> Response<Body> {
    let target = match subresource {
        "log" => "/containerLogs/default/web/app",
        "exec" => "/exec/default/web/app",
        "attach" => "/attach/default/web/app",
        "portforward" => "/portForward/default/web",
        _ => return answer::text(StatusCode::NOT_FOUND, "no such subresource"),
    };
    let query = request.uri().query().unwrap_or_default();
    *request.uri_mut() = format!("{target}?{query}").parse::<Uri>().unwrap();
    let (ours, theirs) = tokio::io::duplex(64 << 10);
    tokio::spawn(serve(ours, Api::new(node.clone(), TaskTracker::new(), CancellationToken::new())));
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(theirs)).await.unwrap();
    tokio::spawn(connection.with_upgrades());
    let near = hyper::upgrade::on(&mut request);
    let mut response = sender.send_request(request).await.unwrap();
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        let far = hyper::upgrade::on(&mut response);
        tokio::spawn(async move {
            let (near, far) = tokio::try_join!(near, far).unwrap();
            drop(tokio::io::copy_bidirectional(&mut TokioIo::new(near), &mut TokioIo::new(far)).await);
        });
    }
    response
        .map(|body| http_body_util::BodyExt::map_err(body, std::io::Error::other))
        .map(http_body_util::BodyExt::boxed)
}

/// The newest kubectl speaks WebSocket; told not to, it speaks SPDY.
const WIRES: [(&str, &str); 2] = [("true", "WebSocket"), ("false", "SPDY")];

fn wire(command: &mut Command, websocket: &str) {
    command.env("KUBECTL_REMOTE_COMMAND_WEBSOCKETS", websocket).env("KUBECTL_PORT_FORWARD_WEBSOCKETS", websocket);
}

#[tokio::test]
async fn kubectl_execs_over_both_wires() {
    let node = FakeNode::new();
    let Some(lab) = Lab::new(&node).await else { return };
    for (websocket, name) in WIRES {
        let mut command = lab.command(&["exec", "-i", "web", "--", "cat"]);
        wire(&mut command, websocket);
        command.stdin(Stdio::piped());
        let output = lab.output(command, &b"0123456789".repeat(20_000)).await;
        assert_eq!(output.stdout.len(), 200_000, "{name}: {}", text(&output.stderr));
        assert_eq!(output.status.code(), Some(0), "{name}");
        // Some versions of kubectl lose what comes before they have made all of a WebSocket's streams. Once they have sent
        // the end of the input, they have.
        let mut command = lab.command(&["exec", "-i", "web", "--", "exit", "7", "later"]);
        wire(&mut command, websocket);
        command.stdin(Stdio::piped());
        let output = lab.output(command, b"").await;
        assert_eq!(output.status.code(), Some(7), "{name}: {}", text(&output.stderr));
        assert_eq!(text(&output.stderr), "command terminated with exit code 7\n", "{name}");
        let mut command = lab.command(&["exec", "-i", "web", "--", "warn", "later"]);
        wire(&mut command, websocket);
        command.stdin(Stdio::piped());
        assert_eq!(text(&lab.output(command, b"").await.stderr), "careful", "{name}");
    }
}

#[tokio::test]
async fn kubectl_attaches() {
    let node = FakeNode::new();
    let Some(lab) = Lab::new(&node).await else { return };
    for (websocket, name) in WIRES {
        let mut command = lab.command(&["attach", "-i", "-q", "web"]);
        wire(&mut command, websocket);
        command.stdin(Stdio::piped());
        let output = lab.output(command, b"hello").await;
        assert_eq!(text(&output.stdout), "hello", "{name}: {}", text(&output.stderr));
    }
}

#[tokio::test]
async fn kubectl_reads_logs() {
    let node = FakeNode::new();
    let Some(lab) = Lab::new(&node).await else { return };
    (0..10).for_each(|n| node.log(&format!("line {n}")));
    let (code, out, err) = lab.run(&["logs", "web", "--tail", "2"]).await;
    assert_eq!((code, out.as_str()), (Some(0), "line 8\nline 9\n"), "{err}");
    let (code, _, err) = lab.run(&["logs", "web", "--previous"]).await;
    let words = "Error from server (BadRequest): previous terminated container \"app\" in pod \"web\" not found\n";
    assert_eq!((code, err.as_str()), (Some(1), words));
    let mut follower = lab.command(&["logs", "-f", "web", "--tail", "1"]).spawn().unwrap();
    let mut lines = BufReader::new(follower.stdout.take().unwrap()).lines();
    let mut next = async || tokio::time::timeout(TIME, lines.next_line()).await.unwrap().unwrap();
    assert_eq!(next().await.as_deref(), Some("line 9"));
    node.log("more");
    assert_eq!(next().await.as_deref(), Some("more"));
    node.running.send_replace(Some(false));
    assert_eq!(next().await, None);
    assert!(tokio::time::timeout(TIME, follower.wait()).await.unwrap().unwrap().success());
}

/// The port kubectl listens on, from what it prints, and the rest of that: it ends when nobody reads it.
async fn forwarding(child: &mut Child) -> (u16, Lines<BufReader<ChildStdout>>) {
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let line = tokio::time::timeout(TIME, lines.next_line()).await.unwrap().unwrap().unwrap_or_default();
    let port = line.strip_prefix("Forwarding from 127.0.0.1:").and_then(|rest| rest.split(' ').next()?.parse().ok());
    (port.unwrap_or_else(|| panic!("kubectl says {line:?}")), lines)
}

#[tokio::test]
async fn kubectl_forwards_ports_over_both_wires() {
    let node = FakeNode::new();
    let Some(lab) = Lab::new(&node).await else { return };
    if !super::tests::may_enter_namespaces() {
        return;
    }
    let target = super::tests::shouting_server().await;
    for (websocket, name) in WIRES {
        let mut command = lab.command(&["port-forward", "web", &format!(":{target}"), "--address", "127.0.0.1"]);
        wire(&mut command, websocket);
        let mut child = command.spawn().unwrap();
        let (port, _output) = forwarding(&mut child).await;
        for _ in 0..3 {
            let talk = async {
                let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
                stream.write_all(b"hello").await.unwrap();
                stream.shutdown().await.unwrap();
                let mut answer = String::new();
                stream.read_to_string(&mut answer).await.unwrap();
                answer
            };
            assert_eq!(tokio::time::timeout(TIME, talk).await.expect(name), "HELLO", "{name}");
        }
        child.kill().await.unwrap();
    }
}

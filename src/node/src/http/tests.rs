//! The API as the API server uses it: one request on a byte stream, upgraded where it is one to be.

use std::io::Write as _;
use std::sync::Arc;
use std::time::Duration;

use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::net::TcpListener;

use super::testing::{FakeNode, send};
use crate::streaming::spdy::testing::Client as Spdy;
use crate::streaming::websocket::frame::{Opcode, encode_as_client};

type Io = TokioIo<Upgraded>;

async fn within<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(10), what).await.expect("in time")
}

fn get(path: &str) -> Request<Empty<&'static [u8]>> {
    Request::get(path).body(Empty::new()).unwrap()
}

async fn body(response: Response<Incoming>) -> (StatusCode, String) {
    let status = response.status();
    let bytes = within(response.into_body().collect()).await.unwrap().to_bytes();
    (status, String::from_utf8(bytes.to_vec()).unwrap())
}

async fn fetch(node: &Arc<FakeNode>, path: &str) -> (StatusCode, String) {
    body(send(node, get(path)).await).await
}

fn upgrade(path: &str, to: &str, protocol: &str) -> Request<Empty<&'static [u8]>> {
    let request = Request::get(path).header(header::CONNECTION, "Upgrade").header(header::UPGRADE, to);
    let request = if to == "websocket" {
        request
            .header(header::SEC_WEBSOCKET_VERSION, "13")
            .header(header::SEC_WEBSOCKET_KEY, "dGhlIHNhbXBsZSBub25jZQ==")
            .header(header::SEC_WEBSOCKET_PROTOCOL, protocol)
    } else {
        request.header("X-Stream-Protocol-Version", protocol)
    };
    request.body(Empty::new()).unwrap()
}

async fn upgraded(node: &Arc<FakeNode>, path: &str, to: &str, protocol: &str) -> Io {
    let response = send(node, upgrade(path, to, protocol)).await;
    assert_eq!(response.status(), StatusCode::SWITCHING_PROTOCOLS);
    let name = if to == "websocket" { "sec-websocket-protocol" } else { "x-stream-protocol-version" };
    assert_eq!(response.headers()[name], protocol);
    TokioIo::new(hyper::upgrade::on(response).await.unwrap())
}

/// A WebSocket client: what came on each channel, and the close code.
struct WebSocket {
    io: Io,
    channels: [String; 5],
    closed: Option<u16>,
    pongs: Vec<Vec<u8>>,
}

impl WebSocket {
    async fn open(node: &Arc<FakeNode>, path: &str, protocol: &str) -> Self {
        let io = upgraded(node, path, "websocket", protocol).await;
        Self { io, channels: Default::default(), closed: None, pongs: Vec::new() }
    }

    async fn send(&mut self, opcode: Opcode, payload: &[u8]) {
        let mut wire = Vec::new();
        encode_as_client(&mut wire, true, opcode, payload);
        self.io.write_all(&wire).await.unwrap();
    }

    async fn channel(&mut self, channel: u8, data: &[u8]) {
        self.send(Opcode::Binary, &[&[channel], data].concat()).await;
    }

    async fn frame(&mut self) -> (u8, Vec<u8>) {
        let head = self.io.read_u16().await.unwrap().to_be_bytes();
        let length = match head[1] {
            126 => usize::from(self.io.read_u16().await.unwrap()),
            127 => usize::try_from(self.io.read_u64().await.unwrap()).unwrap(),
            short => usize::from(short),
        };
        let mut payload = vec![0; length];
        self.io.read_exact(&mut payload).await.unwrap();
        (head[0] & 0x0f, payload)
    }

    async fn step(&mut self) {
        match within(self.frame()).await {
            (8, code) => self.closed = Some(u16::from_be_bytes([code[0], code[1]])),
            (10, payload) => self.pongs.push(payload),
            (_, payload) => {
                let channel = usize::from(payload[0] & 0x0f);
                self.channels[channel].push_str(std::str::from_utf8(&payload[1..]).unwrap());
            }
        }
    }

    async fn finish(mut self) -> Self {
        while self.closed.is_none() {
            self.step().await;
        }
        assert_eq!(self.closed, Some(1000));
        self.send(Opcode::Close, &1000u16.to_be_bytes()).await;
        self
    }

    fn status(&self) -> Value {
        serde_json::from_str(&self.channels[3]).unwrap()
    }
}

const EXEC: &str = "/exec/default/web/app";

#[tokio::test]
async fn plain_answers() {
    let node = FakeNode::new();
    assert_eq!(fetch(&node, "/healthz").await, (StatusCode::OK, "ok".into()));
    assert_eq!(fetch(&node, "/nowhere").await.0, StatusCode::NOT_FOUND);
    let pods: Value = serde_json::from_str(&fetch(&node, "/pods").await.1).unwrap();
    assert_eq!((&pods["kind"], &pods["items"][0]["metadata"]["name"]), (&"PodList".into(), &"web".into()));
    let summary: Value = serde_json::from_str(&fetch(&node, "/stats/summary").await.1).unwrap();
    assert_eq!(summary["node"]["memory"]["workingSetBytes"], 60);
    assert!(fetch(&node, "/metrics/resource").await.1.contains("\nnode_cpu_usage_seconds_total 5\n"));
    assert!(fetch(&node, "/metrics/cadvisor").await.1.contains("\nmachine_cpu_cores 2\n"));
    assert!(fetch(&node, "/metrics").await.1.contains("kubelet_node_name{node=\"n1\"} 1\n"));
}

#[tokio::test]
async fn log_errors_are_status_objects_in_upstreams_words() {
    let node = FakeNode::new();
    let message = async |path: &str| {
        let (code, text) = fetch(&node, path).await;
        let status: Value = serde_json::from_str(&text).unwrap();
        (code.as_u16(), status["message"].as_str().unwrap().to_owned())
    };
    assert_eq!(message("/containerLogs/default/gone/app").await, (404, "pods \"gone\" not found".into()));
    let previous = message("/containerLogs/default/web/app?previous=true").await;
    assert_eq!(previous, (400, "previous terminated container \"app\" in pod \"web\" not found".into()));
    node.running.send_replace(None);
    let waiting = message("/containerLogs/default/web/app").await;
    assert_eq!(waiting, (400, "container \"app\" in pod \"web\" is waiting to start: ContainerCreating".into()));
    assert_eq!(message("/containerLogs/default/web/app?tailLines=-3").await.0, 422);
}

#[tokio::test]
async fn a_follower_sees_lines_as_they_come_until_the_container_ends() {
    let node = FakeNode::new();
    node.running.send_replace(None);
    let starting = {
        let node = node.clone();
        async move {
            // The request is under way before the container starts.
            node.running.subscribe();
            tokio::task::yield_now().await;
            node.log("first");
            node.running.send_replace(Some(true));
        }
    };
    let request = send(&node, get("/containerLogs/default/web/app?follow=true&tailLines=5"));
    let (response, ()) = tokio::join!(request, starting);
    assert_eq!(response.status(), StatusCode::OK);
    let mut body = response.into_body();
    let mut next = async || {
        let frame = within(body.frame()).await?;
        Some(String::from_utf8(frame.unwrap().into_data().unwrap().to_vec()).unwrap())
    };
    assert_eq!(next().await.as_deref(), Some("first\n"));
    node.log("second");
    assert_eq!(next().await.as_deref(), Some("second\n"));
    node.running.send_replace(Some(false));
    assert_eq!(next().await, None);
}

#[tokio::test]
async fn a_log_that_cannot_be_read_on_is_broken_off_not_ended() {
    let node = FakeNode::new();
    node.log("first");
    let mut body = send(&node, get("/containerLogs/default/web/app?follow=true")).await.into_body();
    let first = within(body.frame()).await.unwrap().unwrap().into_data().unwrap();
    assert_eq!(&first[..], b"first\n");
    std::fs::rename(node.log_path(), node.logs.path().join("0.log.1")).unwrap();
    std::fs::create_dir(node.log_path()).unwrap();
    assert!(within(body.frame()).await.unwrap().is_err());
}

#[tokio::test]
async fn exec_over_websocket_5_ends_with_its_input() {
    let node = FakeNode::new();
    let path = format!("{EXEC}?command=cat&stdin=true&stdout=true&stderr=true");
    let mut client = WebSocket::open(&node, &path, "v5.channel.k8s.io").await;
    client.send(Opcode::Ping, b"alive").await;
    client.channel(0, b"hello ").await;
    client.channel(0, b"world").await;
    client.channel(255, &[0]).await;
    let client = client.finish().await;
    assert_eq!(client.channels[1], "hello world");
    assert_eq!(client.pongs, [b"alive"]);
    assert_eq!(client.status()["status"], "Success");
}

#[tokio::test]
async fn exit_codes_and_failures_are_told_as_a_status() {
    let node = FakeNode::new();
    let run = async |command: &str, protocol: &str| {
        let path = format!("{EXEC}?{command}&output=1&error=1");
        WebSocket::open(&node, &path, protocol).await.finish().await
    };
    let exit = run("command=exit&command=7", "v4.channel.k8s.io").await.status();
    assert_eq!(exit["reason"], "NonZeroExitCode");
    assert_eq!(exit["details"]["causes"][0]["message"], "7");
    let none = run("command=none", "v5.channel.k8s.io").await.status();
    assert_eq!(none["reason"], "InternalError");
    assert!(none["message"].as_str().unwrap().contains("executable file not found in $PATH"), "{none}");
    let warn = run("command=warn", "v5.channel.k8s.io").await;
    assert_eq!((warn.channels[1].as_str(), warn.channels[2].as_str()), ("", "careful"));
    let old = run("command=exit&command=7", "channel.k8s.io").await;
    assert!(old.channels[3].starts_with("command terminated with non-zero exit code"), "{}", old.channels[3]);
}

#[tokio::test]
async fn terminals_are_told_their_size() {
    let node = FakeNode::new();
    let path = format!("{EXEC}?command=size&stdout=true&stdin=true&tty=true");
    let mut client = WebSocket::open(&node, &path, "v5.channel.k8s.io").await;
    client.channel(4, br#"{"Width":132,"Height":43}"#).await;
    assert_eq!(client.finish().await.channels[1], "132x43");
}

#[tokio::test]
async fn base64_channels_carry_text() {
    let node = FakeNode::new();
    let path = format!("{EXEC}?command=hi&stdout=true");
    let mut client = WebSocket::open(&node, &path, "v4.base64.channel.k8s.io").await;
    let mut frames = Vec::new();
    loop {
        let (opcode, payload) = within(client.frame()).await;
        if opcode == 8 {
            break;
        }
        frames.push(String::from_utf8(payload).unwrap());
    }
    // The empty greeting, then ["hi"] in Base64, then the status.
    assert_eq!(frames[..2], ["1", "1WyJoaSJd"]);
    assert!(frames[2].starts_with('3'));
}

#[tokio::test]
async fn a_client_that_breaks_the_rules_is_sent_away() {
    let node = FakeNode::new();
    let path = format!("{EXEC}?command=sleep&stdin=true&stdout=true");
    let mut client = WebSocket::open(&node, &path, "v5.channel.k8s.io").await;
    client.send(Opcode::Continuation, b"of nothing").await;
    while client.closed.is_none() {
        client.step().await;
    }
    assert_eq!(client.closed, Some(1002));
}

#[tokio::test]
async fn upgrades_are_refused_in_words() {
    let node = FakeNode::new();
    let path = format!("{EXEC}?command=cat&stdout=true");
    assert_eq!(fetch(&node, &path).await.0, StatusCode::BAD_REQUEST);
    let unknown = body(send(&node, upgrade(&path, "websocket", "chat")).await).await;
    assert_eq!(unknown.0, StatusCode::FORBIDDEN);
    let missing = upgrade("/exec/default/web/nope?command=cat&stdout=1", "websocket", "v5.channel.k8s.io");
    let missing = body(send(&node, missing).await).await;
    assert_eq!(missing, (StatusCode::INTERNAL_SERVER_ERROR, "container not found (\"nope\")".into()));
    let gone = upgrade("/exec/default/gone/app?command=cat&stdout=1", "SPDY/3.1", "v4.channel.k8s.io");
    let gone = body(send(&node, gone).await).await;
    assert_eq!(gone, (StatusCode::NOT_FOUND, "pod does not exist".into()));
    let empty = upgrade(&format!("{EXEC}?stdout=1"), "SPDY/3.1", "v4.channel.k8s.io");
    assert_eq!(send(&node, empty).await.status(), StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn exec_over_spdy_runs_on_named_streams() {
    let node = FakeNode::new();
    let path = format!("{EXEC}?command=cat&input=1&output=1&error=1");
    let mut client = Spdy::new(upgraded(&node, &path, "SPDY/3.1", "v4.channel.k8s.io").await);
    let error = client.open(&[("streamtype", "error")], false).await;
    let stdin = client.open(&[("streamtype", "stdin")], false).await;
    let stdout = client.open(&[("streamtype", "stdout")], false).await;
    let stderr = client.open(&[("streamtype", "stderr")], false).await;
    client.data(stdin, b"over spdy", true).await;
    let status: Value = serde_json::from_str(&within(client.read_to_end(error)).await).unwrap();
    assert_eq!(status["status"], "Success");
    assert_eq!(client.text(stdout), "over spdy");
    assert!(client.ended(stdout) && client.ended(stderr));
}

#[tokio::test]
async fn attach_joins_the_container_as_it_was_made() {
    let node = FakeNode::new();
    let path = "/attach/default/web/u-1/app?stdin=true&stdout=true&stderr=true";
    let mut client = WebSocket::open(&node, path, "v5.channel.k8s.io").await;
    client.channel(0, b"to the container").await;
    client.channel(255, &[0]).await;
    let client = client.finish().await;
    assert_eq!((client.channels[1].as_str(), &client.status()["status"]), ("to the container", &"Success".into()));
    let spec = node.attached.lock().unwrap().unwrap();
    assert!(spec.stdin && spec.stdout && spec.stderr);
}

#[tokio::test]
async fn run_answers_with_the_output() {
    let node = FakeNode::new();
    let post = |cmd: &str| {
        Request::post(format!("/run/default/web/app?cmd={cmd}")).body(Empty::<&'static [u8]>::new()).unwrap()
    };
    assert_eq!(body(send(&node, post("hello")).await).await, (StatusCode::OK, "[\"hello\"]".into()));
    assert_eq!(send(&node, post("exit%203")).await.status(), StatusCode::INTERNAL_SERVER_ERROR);
}

/// Entering a namespace, even one's own, takes privileges.
pub(super) fn may_enter_namespaces() -> bool {
    let root = nix::unistd::geteuid().is_root();
    if !root {
        drop(writeln!(std::io::stderr(), "SKIPPED: port-forward tests need root to enter network namespaces"));
    }
    root
}

/// Answers each connection with what it was sent, in upper case, when that has ended.
pub(super) async fn shouting_server() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut text = String::new();
            stream.read_to_string(&mut text).await.unwrap();
            stream.write_all(text.to_uppercase().as_bytes()).await.unwrap();
        }
    });
    port
}

async fn closed_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port()
}

async fn forward<I>(client: &mut Spdy<I>, request: &str, port: u16) -> (u32, u32)
where
    I: tokio::io::AsyncRead + tokio::io::AsyncWrite,
{
    let port = port.to_string();
    let headers = |kind| [("streamtype", kind), ("port", port.as_str()), ("requestid", request)];
    let error = client.open(&headers("error"), true).await;
    let data = client.open(&headers("data"), false).await;
    (error, data)
}

async fn forwards_work<I>(mut client: Spdy<I>)
where
    I: tokio::io::AsyncRead + tokio::io::AsyncWrite,
{
    let port = shouting_server().await;
    let (first_error, first) = forward(&mut client, "0", port).await;
    let (second_error, second) = forward(&mut client, "1", port).await;
    client.data(second, b"two", true).await;
    client.data(first, b"one", true).await;
    assert_eq!(within(client.read_to_end(first)).await, "ONE");
    assert_eq!(within(client.read_to_end(second)).await, "TWO");
    assert_eq!(within(client.read_to_end(first_error)).await, "");
    assert_eq!(within(client.read_to_end(second_error)).await, "");
    let port = closed_port().await;
    let (error, _) = forward(&mut client, "2", port).await;
    let text = within(client.read_to_end(error)).await;
    let expected = format!("error forwarding port {port} to pod web, uid u-1: failed to connect to localhost:{port}");
    assert!(text.starts_with(&expected) && text.contains("refused"), "{text}");
}

#[tokio::test]
async fn ports_are_forwarded_over_spdy() {
    if may_enter_namespaces() {
        let node = FakeNode::new();
        let io = upgraded(&node, "/portForward/default/web", "SPDY/3.1", "portforward.k8s.io").await;
        forwards_work(Spdy::new(io)).await;
    }
}

/// A client's end of a WebSocket tunnel, as a byte stream.
fn tunnel(io: Io) -> DuplexStream {
    let (near, far) = tokio::io::duplex(16 << 10);
    let (mut from_near, mut to_near) = tokio::io::split(far);
    let (mut input, mut output) = tokio::io::split(io);
    tokio::spawn(async move {
        let mut buffer = vec![0; 1000];
        while let Ok(read @ 1..) = from_near.read(&mut buffer).await {
            let mut wire = Vec::new();
            encode_as_client(&mut wire, true, Opcode::Binary, &buffer[..read]);
            output.write_all(&wire).await.unwrap();
        }
    });
    tokio::spawn(async move {
        while let Ok(head) = input.read_u16().await {
            let length = match head & 0x7f {
                126 => u64::from(input.read_u16().await.unwrap()),
                127 => input.read_u64().await.unwrap(),
                short => u64::from(short),
            };
            tokio::io::copy(&mut (&mut input).take(length), &mut to_near).await.unwrap();
        }
    });
    near
}

#[tokio::test]
async fn ports_are_forwarded_over_spdy_in_a_websocket() {
    if may_enter_namespaces() {
        let node = FakeNode::new();
        let protocol = "SPDY/3.1+portforward.k8s.io";
        let io = upgraded(&node, "/portForward/default/web", "websocket", protocol).await;
        forwards_work(Spdy::new(tunnel(io))).await;
    }
}

#[tokio::test]
async fn ports_are_forwarded_over_websocket_channels() {
    if may_enter_namespaces() {
        let node = FakeNode::new();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let path = format!("/portForward/default/web?ports={port}");
        let io = upgraded(&node, &path, "websocket", "v4.channel.k8s.io").await;
        let mut client = WebSocket { io, channels: Default::default(), closed: None, pongs: Vec::new() };
        let greeting = port.to_le_bytes();
        for channel in [0, 1] {
            assert_eq!(within(client.frame()).await.1, [channel, greeting[0], greeting[1]]);
        }
        client.channel(0, b"ping").await;
        let (mut stream, _) = within(listener.accept()).await.unwrap();
        let mut buffer = [0; 4];
        within(stream.read_exact(&mut buffer)).await.unwrap();
        stream.write_all(b"pong").await.unwrap();
        assert_eq!((&buffer, within(client.frame()).await.1), (b"ping", b"\0pong".to_vec()));
    }
}

#[tokio::test]
async fn ports_of_a_pod_that_does_not_run_are_refused() {
    let node = FakeNode::new();
    node.running.send_replace(Some(false));
    let request = upgrade("/portForward/default/web", "SPDY/3.1", "portforward.k8s.io");
    let (status, text) = body(send(&node, request).await).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    assert!(text.starts_with("unable to forward port because pod is not running"), "{text}");
}

#[tokio::test]
async fn connect_relays_bytes() {
    let node = FakeNode::new();
    let connect = |port: u16| {
        let uri = format!("127.0.0.1:{port}");
        Request::builder().method(Method::CONNECT).uri(uri).body(Empty::<&'static [u8]>::new()).unwrap()
    };
    let response = send(&node, connect(shouting_server().await)).await;
    assert_eq!(response.status(), StatusCode::OK);
    let mut io = TokioIo::new(hyper::upgrade::on(response).await.unwrap());
    io.write_all(b"through").await.unwrap();
    io.shutdown().await.unwrap();
    let mut text = String::new();
    within(io.read_to_string(&mut text)).await.unwrap();
    assert_eq!(text, "THROUGH");
    assert_eq!(send(&node, connect(closed_port().await)).await.status(), StatusCode::BAD_GATEWAY);
}

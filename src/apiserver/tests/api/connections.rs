//! Bounds: idle connections, open connections, requests in flight. Over TLS, as the network comes in.

use std::time::{Duration, Instant};

use apiserver::Limits;
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::client::TlsStream;

use crate::server::{SOON, Server};

const IDLE: Duration = Duration::from_millis(300);

fn request(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
}

/// Sends a request and reads all that comes.
async fn answer(mut connection: TlsStream<TcpStream>, request: &str) -> String {
    connection.write_all(request.as_bytes()).await.unwrap();
    let mut text = Vec::new();
    // The server need not say goodbye to TLS.
    drop(timeout(SOON, connection.read_to_end(&mut text)).await.unwrap());
    String::from_utf8_lossy(&text).into_owned()
}

#[tokio::test]
async fn a_connection_that_does_nothing_is_closed() {
    let server = Server::start_with(Limits { idle: IDLE, ..Limits::default() }).await;
    let half = "GET /version HTTP/1.1\r\nhost: loc";
    for (protocol, sent) in [("h2", ""), ("http/1.1", ""), ("none", half), ("http/1.1", half), ("h2", "PRI * HTTP/2.0")]
    {
        let protocols: &[&str] = if protocol == "none" { &[] } else { &[protocol] };
        let mut connection = server.connect("u", "g", protocols).await;
        connection.write_all(sent.as_bytes()).await.unwrap();
        let mut rest = Vec::new();
        let closed = timeout(SOON, connection.read_to_end(&mut rest)).await;
        assert!(closed.is_ok(), "{protocol} after {sent:?}");
    }
}

#[tokio::test]
async fn a_watch_is_no_idle_connection_and_one_connection_serves_many_requests() {
    let server = Server::start_with(Limits { idle: IDLE, ..Limits::default() }).await;
    let watch = "/api/v1/namespaces?watch=true&timeoutSeconds=2";
    let begin = Instant::now();
    let text = answer(server.connect("admin", "system:masters", &["http/1.1"]).await, &request(watch)).await;
    // It ends by itself and whole, long after an idle connection would have been closed.
    assert!(begin.elapsed() >= Duration::from_millis(1900), "{text}");
    assert!(text.contains("\"kube-system\"") && text.ends_with("0\r\n\r\n"), "{text}");
    let both = [request("/version").replace("close", "keep-alive"), request("/readyz")].concat();
    let text = answer(server.connect("u", "g", &["http/1.1"]).await, &both).await;
    assert_eq!(text.matches("HTTP/1.1 200 OK").count(), 2, "{text}");
}

#[tokio::test]
async fn more_connections_than_there_may_be_wait_their_turn() {
    let server = Server::start_with(Limits { connections: 1, ..Limits::default() }).await;
    let mut first = server.connect("u", "g", &["http/1.1"]).await;
    let mut second = Box::pin(server.connect("u", "g", &["http/1.1"]));
    let mut seen = [0; 1024];
    for _ in 0..3 {
        first.write_all(request("/version").replace("close", "keep-alive").as_bytes()).await.unwrap();
        // The second is served no sooner than the first has gone, however long the first talks.
        let read = tokio::select! {
            read = first.read(&mut seen) => read.unwrap(),
            _ = &mut second => panic!("one too many"),
        };
        assert!(seen[..read].starts_with(b"HTTP/1.1 200 OK"));
    }
    drop(first);
    let second = timeout(SOON, second).await.unwrap();
    assert!(answer(second, &request("/version")).await.starts_with("HTTP/1.1 200 OK"));
}

#[tokio::test]
async fn who_comes_to_a_full_server_is_asked_to_come_again() {
    let server = Server::start_with(Limits { reading: 0, ..Limits::default() }).await;
    let get = async |user: &str, group: &str, path: &str| {
        answer(server.connect(user, group, &["http/1.1"]).await, &request(path)).await.to_lowercase()
    };
    let refused = get("u", "g", "/version").await;
    assert!(refused.starts_with("http/1.1 429 too many requests"), "{refused}");
    assert!(refused.contains("\r\nretry-after: 1\r\n"), "{refused}");
    assert!(refused.contains("too many requests, please try again later."), "{refused}");
    assert!(get("u", "g", "/readyz").await.starts_with("http/1.1 200"));
    assert!(get("admin", "system:masters", "/api/v1/namespaces").await.starts_with("http/1.1 200"));
    // A component of this process is not kept from its work.
    let component = server.client("system:kube-scheduler", &[]);
    assert_eq!(component.get("/version").await.0, 200);
    let review = json!({"spec": {"resourceAttributes": {"verb": "get", "resource": "pods"}}});
    assert_eq!(component.post("/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", review).await.0, 201);
}

#[tokio::test]
async fn at_a_stop_the_other_servers_are_served_until_the_port_is_given_up() {
    let server = Server::start().await;
    let mut others = server.connect("u", "g", &["http/1.1"]).await;
    let begin = Instant::now();
    let open = server.connect("system:rk:server:b", "system:rk:servers", &["http/1.1"]).await;
    // One whose connection stays open is not waited for.
    server.api.drain(SOON).await;
    assert!(begin.elapsed() < SOON, "{:?}", begin.elapsed());
    let mut rest = Vec::new();
    drop(timeout(SOON, others.read_to_end(&mut rest)).await.expect("anybody else's connection ends"));
    assert!(answer(open, &request("/livez")).await.starts_with("HTTP/1.1 "));
    let again = server.connect("system:rk:server:b", "system:rk:servers", &["http/1.1"]).await;
    assert!(answer(again, &request("/livez")).await.starts_with("HTTP/1.1 "));
    // With HTTP/1.1 and TLS 1.3 a client hears of its refusal when it reads.
    assert_eq!(answer(server.connect("u", "g", &["http/1.1"]).await, &request("/livez")).await, "");
    server.api.close().await;
    assert!(server.refuses().await, "the port is given up");
}

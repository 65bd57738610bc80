//! Plain GETs on the endpoint's port, by HTTP/1.1 and by HTTP/2.

use storage::etcd::Endpoint;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::server;

async fn http1(endpoint: &Endpoint, request: &str) -> String {
    let (mut near, far) = tokio::io::duplex(64 << 10);
    let endpoint = endpoint.clone();
    tokio::spawn(async move { endpoint.serve(far).await });
    // In two pieces, with a pause of no length between.
    let (first, rest) = request.split_at(request.len() / 2);
    near.write_all(first.as_bytes()).await.unwrap();
    tokio::task::yield_now().await;
    near.write_all(rest.as_bytes()).await.unwrap();
    let mut answer = String::new();
    near.read_to_string(&mut answer).await.unwrap();
    answer
}

async fn http2(endpoint: &Endpoint, method: &str, path: &str) -> (u16, String) {
    let (near, far) = tokio::io::duplex(64 << 10);
    let endpoint = endpoint.clone();
    tokio::spawn(async move { endpoint.serve(far).await });
    let (mut client, connection) = h2::client::handshake(near).await.unwrap();
    tokio::spawn(connection);
    let request = http::Request::builder().method(method).uri(format!("http://rk{path}")).body(()).unwrap();
    let (response, _) = client.send_request(request, true).unwrap();
    let (head, mut body) = response.await.unwrap().into_parts();
    let mut text = Vec::new();
    while let Some(chunk) = body.data().await {
        text.extend_from_slice(&chunk.unwrap());
    }
    (head.status.as_u16(), String::from_utf8(text).unwrap())
}

fn value(metrics: &str, name: &str) -> u64 {
    let line = metrics.lines().find_map(|line| line.strip_prefix(&format!("{name} ")));
    line.unwrap_or_else(|| unreachable!("no {name} in {metrics}")).parse().unwrap()
}

#[tokio::test]
async fn metrics_are_read_by_either_version_of_http_and_are_true() {
    let server = server().await;
    server.put("a", "1").await;
    let answer = http1(&server.endpoint, "GET /metrics HTTP/1.1\r\nHost: rk\r\nAccept-Encoding: gzip\r\n\r\n").await;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n") && head.contains("Content-Type: text/plain; version=0.0.4\r\n"));
    assert!(head.contains(&format!("Content-Length: {}\r\n", body.len())), "{head}");
    let (code, other) = http2(&server.endpoint, "GET", "/metrics").await;
    assert_eq!(code, 200);
    for text in [body, &other] {
        assert!(value(text, "process_resident_memory_bytes") > 1 << 20);
        assert_eq!((value(text, "etcd_server_has_leader"), value(text, "etcd_server_is_leader")), (1, 1));
        assert_eq!(value(text, "etcd_debugging_mvcc_keys_total"), 1);
        assert_eq!(value(text, "etcd_debugging_mvcc_current_revision"), server.store.revision());
    }
    let (code, health) = http2(&server.endpoint, "GET", "/health").await;
    assert_eq!((code, health.as_str()), (200, r#"{"health":"true","reason":""}"#));
    assert!(http1(&server.endpoint, "GET /version HTTP/1.0\r\n\r\n").await.ends_with(r#""etcdcluster":"3.5.21"}"#));
}

#[tokio::test]
async fn nothing_else_is_served_that_is_not_grpc() {
    let server = server().await;
    for (request, code) in [
        ("GET /v2/keys HTTP/1.1\r\nHost: rk\r\n\r\n", "404"),
        ("POST /metrics HTTP/1.1\r\nHost: rk\r\n\r\n", "405"),
        ("SSH-2.0-client\r\n\r\n", "400"),
    ] {
        let answer = http1(&server.endpoint, request).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {code} ")), "{request}: {answer}");
    }
    assert_eq!(http2(&server.endpoint, "GET", "/etcdserverpb.KV/Range").await.0, 404);
    assert_eq!(http2(&server.endpoint, "PUT", "/metrics").await.0, 405);
    // Others on the port are served all the same.
    server.put("a", "1").await;
}

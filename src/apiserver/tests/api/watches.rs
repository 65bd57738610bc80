//! Watches.

use std::time::Duration;

use apiserver::Body;
use http::Method;
use http_body_util::BodyExt;
use serde_json::{Value, json};

use crate::server::{Client, SOON, Server};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

pub(crate) struct Events {
    body: Body,
    pending: Vec<u8>,
}

impl Events {
    pub(crate) async fn open(client: &Client, query: &str) -> Events {
        Events::open_at(client, &format!("{MAPS}?watch=1{query}")).await
    }

    pub(crate) async fn open_at(client: &Client, path: &str) -> Events {
        let response = client.send(Method::GET, path, "application/json", None).await;
        assert_eq!(response.status(), 200);
        Events { body: response.into_body(), pending: Vec::new() }
    }

    /// The next event; `None` when the watch has ended.
    pub(crate) async fn next(&mut self) -> Option<Value> {
        loop {
            if let Some(end) = self.pending.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.pending.drain(..=end).collect();
                return Some(serde_json::from_slice(&line).unwrap());
            }
            let frame = tokio::time::timeout(SOON, self.body.frame()).await.expect("an event in time")?;
            self.pending.extend_from_slice(&frame.unwrap().into_data().unwrap());
        }
    }

    pub(crate) async fn expect(&mut self, kind: &str, name: &str) -> Value {
        let event = self.next().await.expect("the watch goes on");
        assert_eq!(
            (event["type"].as_str(), event["object"]["metadata"]["name"].as_str()),
            (Some(kind), Some(name)),
            "{event}"
        );
        event
    }
}

fn map(name: &str, color: &str) -> Value {
    json!({"metadata": {"name": name, "labels": {"color": color}}})
}

#[tokio::test]
async fn changes_come_in_order_behind_the_revision() {
    let server = Server::start().await;
    let admin = server.admin();
    admin.create(MAPS, map("old", "red")).await;
    let (_, list) = admin.get(MAPS).await;
    let version = list["metadata"]["resourceVersion"].as_str().unwrap();
    let mut events = Events::open(&admin, &format!("&resourceVersion={version}")).await;
    let made = admin.create(MAPS, map("a", "red")).await;
    let added = events.expect("ADDED", "a").await;
    assert_eq!(added["object"], made);
    admin.patch(&format!("{MAPS}/a"), "application/merge-patch+json", json!({"data": {"x": "y"}})).await;
    events.expect("MODIFIED", "a").await;
    admin.delete(&format!("{MAPS}/a")).await;
    let gone = events.expect("DELETED", "a").await;
    assert_ne!(gone["object"]["metadata"]["resourceVersion"], made["metadata"]["resourceVersion"]);
}

#[tokio::test]
async fn an_object_that_leaves_the_selector_is_deleted_with_its_former_state() {
    let server = Server::start().await;
    let admin = server.admin();
    let mut events = Events::open(&admin, "&labelSelector=color%3Dred").await;
    admin.create(MAPS, map("b", "blue")).await;
    admin.create(MAPS, map("a", "red")).await;
    events.expect("ADDED", "a").await;
    let change = json!({"metadata": {"labels": {"color": "blue"}}});
    admin.patch(&format!("{MAPS}/a"), "application/merge-patch+json", change).await;
    let left = events.expect("DELETED", "a").await;
    assert_eq!(left["object"]["metadata"]["labels"]["color"], "red");
    let change = json!({"metadata": {"labels": {"color": "red"}}});
    admin.patch(&format!("{MAPS}/a"), "application/merge-patch+json", change).await;
    events.expect("ADDED", "a").await;
}

#[tokio::test]
async fn initial_events_end_with_a_bookmark() {
    let server = Server::start().await;
    let admin = server.admin();
    admin.create(MAPS, map("a", "red")).await;
    let query = "&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true";
    let mut events = Events::open(&admin, query).await;
    events.expect("ADDED", "a").await;
    let end = events.next().await.unwrap();
    assert_eq!(end["type"], "BOOKMARK");
    assert_eq!(end["object"]["metadata"]["annotations"]["k8s.io/initial-events-end"], "true");
}

#[tokio::test]
async fn a_watch_ends_after_its_time() {
    let server = Server::start().await;
    let admin = server.admin();
    let mut events = Events::open(&admin, "&timeoutSeconds=1").await;
    let ended = tokio::time::timeout(Duration::from_secs(10), events.next()).await.expect("an end in time");
    assert!(ended.is_none(), "{ended:?}");
}

#[tokio::test]
async fn a_stop_ends_open_watches() {
    let server = Server::start().await;
    let mut events = Events::open(&server.admin(), "").await;
    server.api.shutdown(Duration::from_secs(5)).await;
    assert!(events.next().await.is_none());
}

#[tokio::test]
async fn a_watch_begins_before_anybody_has_looked_at_the_kind() {
    let server = Server::start().await;
    let admin = server.admin();
    // Nothing has read this kind before these writes, so no cache of it has seen them.
    let policies = "/apis/networking.k8s.io/v1/namespaces/default/networkpolicies";
    let (_, namespace) = admin.get("/api/v1/namespaces/default").await;
    let version = namespace["metadata"]["resourceVersion"].as_str().unwrap().to_owned();
    let policy = |name: &str| json!({"metadata": {"name": name}, "spec": {"podSelector": {}}});
    admin.create(policies, policy("a")).await;
    admin.create(policies, policy("b")).await;
    let labels = json!({"metadata": {"labels": {"x": "y"}}});
    admin.patch(&format!("{policies}/a"), "application/merge-patch+json", labels).await;
    admin.delete(&format!("{policies}/b")).await;
    let mut events = Events::open_at(&admin, &format!("{policies}?watch=1&resourceVersion={version}")).await;
    events.expect("ADDED", "a").await;
    events.expect("ADDED", "b").await;
    assert_eq!(events.expect("MODIFIED", "a").await["object"]["metadata"]["labels"]["x"], "y");
    events.expect("DELETED", "b").await;
    admin.create(policies, policy("c")).await;
    events.expect("ADDED", "c").await;
}

#[tokio::test]
async fn a_watcher_that_fell_out_of_the_window_goes_on_in_the_log() {
    let server = Server::start().await;
    let admin = server.admin();
    let (_, list) = admin.get(MAPS).await;
    let version = list["metadata"]["resourceVersion"].as_str().unwrap().to_owned();
    let mut events = Events::open(&admin, &format!("&resourceVersion={version}")).await;
    // The window keeps a few megabytes only.
    let bulk = "x".repeat(100_000);
    for n in 0..140 {
        let object = json!({"metadata": {"name": format!("m{n:03}")}, "data": {"bulk": bulk}});
        admin.create(MAPS, object).await;
    }
    for n in 0..140 {
        events.expect("ADDED", &format!("m{n:03}")).await;
    }
}

#[tokio::test]
async fn what_is_compacted_is_answered_with_gone() {
    let server = Server::start().await;
    let admin = server.admin();
    let first = admin.create(MAPS, map("a", "red")).await;
    admin.create(MAPS, map("b", "red")).await;
    let version = first["metadata"]["resourceVersion"].as_str().unwrap();
    server.store().compact(server.store().revision()).await.unwrap();
    let endpoints = "/api/v1/namespaces/default/endpoints";
    let mut events = Events::open_at(&admin, &format!("{endpoints}?watch=1&resourceVersion={version}")).await;
    let event = events.next().await.unwrap();
    assert_eq!((&event["type"], &event["object"]["code"]), (&json!("ERROR"), &json!(410)), "{event}");
    assert!(events.next().await.is_none());
}

#[tokio::test]
async fn initial_events_are_asked_for_or_not() {
    let server = Server::start().await;
    let admin = server.admin();
    admin.create(MAPS, map("a", "red")).await;
    let all = "&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true";
    for version in ["", "&resourceVersion=0"] {
        let mut events = Events::open(&admin, &format!("{all}{version}")).await;
        events.expect("ADDED", "a").await;
        let end = events.next().await.unwrap();
        assert_eq!(end["type"], "BOOKMARK");
        assert_eq!(end["object"]["metadata"]["annotations"]["k8s.io/initial-events-end"], "true");
    }
    let none = "&sendInitialEvents=false&resourceVersionMatch=NotOlderThan&resourceVersion=0";
    let mut events = Events::open(&admin, none).await;
    admin.create(MAPS, map("b", "red")).await;
    events.expect("ADDED", "b").await;
    let (code, _) = admin.get(&format!("{MAPS}?watch=1&sendInitialEvents=true")).await;
    assert_eq!(code, 422);
    let (code, _) = admin.get(&format!("{MAPS}?sendInitialEvents=true&resourceVersionMatch=NotOlderThan")).await;
    assert_eq!(code, 422);
}

//! What a client can rely on with several servers, whichever of them it asks.

use std::{collections::BTreeSet, time::Duration};

use http::Method;
use serde_json::{Value, json};
use storage::MemberId;
use tokio::time::{Instant, timeout};

use crate::{
    cluster::{Cluster, PATIENCE, address},
    server::Client,
    watches::Events,
};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const SLICE: &str = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices/kubernetes";

fn map(name: &str) -> Value {
    json!({"metadata": {"name": name}, "data": {"x": "0"}})
}

fn names(list: &Value) -> Vec<String> {
    let items = list["items"].as_array().into_iter().flatten();
    items.filter_map(|item| item["metadata"]["name"].as_str().map(str::to_owned)).collect()
}

fn version(object: &Value) -> u64 {
    object["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap()
}

#[tokio::test]
async fn what_one_server_has_answered_every_other_one_shows_at_once() {
    let cluster = Cluster::of(3).await;
    for round in 0..10 {
        for writer in cluster.ids() {
            let path = format!("{MAPS}/m{writer}-{round}");
            let author = cluster.admin(writer);
            let mut made = author.create(MAPS, map(&format!("m{writer}-{round}"))).await;
            for reader in cluster.ids() {
                let admin = cluster.admin(reader);
                assert_eq!(admin.get(&path).await, (200, made.clone()), "{writer} wrote, {reader} reads");
                let (_, list) = admin.get(MAPS).await;
                let found = list["items"].as_array().unwrap().iter().find(|item| version(item) == version(&made));
                assert!(found.is_some() && version(&list) >= version(&made), "{writer} wrote, {reader} lists");
                let at_least = format!("{path}?resourceVersion={}", version(&made));
                assert_eq!(admin.get(&at_least).await.1, made);
                let change = json!({"data": {"x": format!("by {reader}")}});
                let (code, changed) = admin.patch(&path, "application/merge-patch+json", change).await;
                assert_eq!((code, &changed["data"]["x"]), (200, &json!(format!("by {reader}"))));
                assert_eq!(author.get(&path).await.1, changed);
                made = changed;
                // Insists on the revision that the other server has answered.
                made["data"]["y"] = "z".into();
                let (code, replaced) = author.put(&path, &made).await;
                assert_eq!(code, 200, "{replaced}");
                made = replaced;
            }
            let other = cluster.admin(writer % 3 + 1);
            assert_eq!(other.delete(&path).await.0, 200);
            assert_eq!(author.get(&path).await.0, 404);
            let again = author.create(MAPS, map(&format!("m{writer}-{round}"))).await;
            assert_eq!(other.get(&path).await.1, again);
        }
    }
}

#[tokio::test]
async fn a_namespace_a_quota_and_an_address_count_at_once_on_every_server() {
    let cluster = Cluster::of(3).await;
    let (one, other) = (cluster.admin(cluster.leader().await), cluster.admin(cluster.follower().await));
    for round in 0..5 {
        let (one, other) = if round % 2 == 0 { (&one, &other) } else { (&other, &one) };
        let ns = format!("n{round}");
        one.create("/api/v1/namespaces", json!({"metadata": {"name": ns}})).await;
        let maps = format!("/api/v1/namespaces/{ns}/configmaps");
        other.create(&maps, map("a")).await;
        let quota = json!({"metadata": {"name": "q"}, "spec": {"hard": {"count/configmaps": "1"}}});
        one.create(&format!("/api/v1/namespaces/{ns}/resourcequotas"), quota).await;
        assert_eq!(other.post(&maps, map("b")).await.0, 403, "the quota is used up");
        other.delete(&format!("{maps}/a")).await;
        one.create(&maps, map("c")).await;
        let services = format!("/api/v1/namespaces/{ns}/services");
        let service = json!({"metadata": {"name": "s"}, "spec": {"clusterIP": "10.43.0.77", "ports": [{"port": 80}]}});
        one.create(&services, service.clone()).await;
        let taken = json!({"metadata": {"name": "t"}, "spec": {"clusterIP": "10.43.0.77", "ports": [{"port": 80}]}});
        assert_eq!(other.post(&services, taken).await.0, 422);
        assert_eq!(one.delete(&format!("{services}/s")).await.0, 200);
        other.create(&services, service).await;
        assert_eq!(one.delete(&format!("{services}/s")).await.0, 200);
    }
}

#[tokio::test]
async fn quotas_and_addresses_are_given_once_under_contention_of_all_servers() {
    let cluster = Cluster::of(3).await;
    let admin = cluster.admin(1);
    let quota = json!({"metadata": {"name": "q"}, "spec": {"hard": {"count/configmaps": "7"}}});
    admin.create("/api/v1/namespaces/default/resourcequotas", quota).await;
    let (_, before) = admin.get(MAPS).await;
    let free = 7 - names(&before).len();
    let tasks: Vec<_> = (0..18_u64)
        .map(|n| {
            let admin = cluster.admin(n % 3 + 1);
            tokio::spawn(async move {
                let service =
                    json!({"metadata": {"generateName": "s-"}, "spec": {"type": "NodePort", "ports": [{"port": 80}]}});
                let made = admin.create("/api/v1/namespaces/default/services", service).await;
                let (code, _) = admin.post(MAPS, map(&format!("c{n}"))).await;
                (code, made["spec"]["clusterIP"].to_string(), made["spec"]["ports"][0]["nodePort"].to_string())
            })
        })
        .collect();
    let (mut within, mut addresses, mut ports) = (0, BTreeSet::new(), BTreeSet::new());
    for task in tasks {
        let (code, address, port) = task.await.unwrap();
        within += usize::from(code == 201);
        assert!(code == 201 || code == 403, "{code}");
        assert!(addresses.insert(address) && ports.insert(port), "given twice");
    }
    assert_eq!(within, free);
}

#[tokio::test]
async fn a_list_goes_on_at_another_server_and_shows_one_moment() {
    let cluster = Cluster::of(3).await;
    let admins: Vec<Client> = cluster.ids().into_iter().map(|id| cluster.admin(id)).collect();
    for n in 0..20 {
        admins[n % 3].create(MAPS, map(&format!("m{n:02}"))).await;
    }
    for round in 0..10_usize {
        let name = format!("late{round}");
        admins[round % 3].create(MAPS, map(&name)).await;
        let (_, all) = admins[round % 3].get(MAPS).await;
        let (mut seen, mut token, mut server) = (Vec::new(), String::new(), round);
        loop {
            let query = if token.is_empty() { String::new() } else { format!("&continue={token}") };
            let (code, page) = admins[server % 3].get(&format!("{MAPS}?limit=4{query}")).await;
            assert_eq!(code, 200, "{page}");
            assert_eq!(version(&page), version(&all));
            seen.extend(names(&page));
            // What is written meanwhile is not in it.
            token = page["metadata"]["continue"].as_str().unwrap_or_default().to_owned();
            if token.is_empty() {
                break;
            }
            server += 1;
            let change = json!({"data": {"y": format!("{server}")}});
            admins[server % 3]
                .patch(
                    "/api/v1/namespaces/kube-system/configmaps/extension-apiserver-authentication",
                    "application/merge-patch+json",
                    change,
                )
                .await;
        }
        assert_eq!(seen, names(&all));
    }
}

#[tokio::test]
async fn a_custom_resource_can_be_used_on_any_server_once_one_says_that_it_is_established() {
    let cluster = Cluster::of(3).await;
    let (leader, follower) = (cluster.leader().await, cluster.follower().await);
    let definition = json!({
        "metadata": {"name": "things.example.com"},
        "spec": {"group": "example.com", "scope": "Namespaced",
            "names": {"plural": "things", "singular": "thing", "kind": "Thing", "listKind": "ThingList"},
            "versions": [{"name": "v1", "served": true, "storage": true,
                "schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}}}]},
    });
    let crds = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
    cluster.admin(follower).create(crds, definition).await;
    let established = |_: u16, object: &Value| {
        let conditions = object.pointer("/status/conditions").and_then(Value::as_array);
        conditions.into_iter().flatten().any(|one| one["type"] == "Established" && one["status"] == "True")
    };
    cluster.admin(leader).until(&format!("{crds}/things.example.com"), established).await;
    let thing = json!({"apiVersion": "example.com/v1", "kind": "Thing", "metadata": {"name": "t"}});
    let things = "/apis/example.com/v1/namespaces/default/things";
    let made = cluster.admin(follower).create(things, thing).await;
    for id in cluster.ids() {
        assert_eq!(cluster.admin(id).get(&format!("{things}/t")).await, (200, made.clone()), "on {id}");
    }
    let services = "/apis/apiregistration.k8s.io/v1/apiservices/v1.example.com";
    cluster.admin(follower).until(services, |code, _| code == 200).await;
}

/// Writes until told to stop, over again whatever was not acknowledged; the names that were.
async fn write(client: Client, prefix: &str, count: usize) -> Vec<String> {
    let mut acknowledged = Vec::new();
    for n in 0..count {
        let name = format!("{prefix}-{n:03}");
        let deadline = Instant::now() + PATIENCE;
        loop {
            let (code, answer) = client.post(MAPS, map(&name)).await;
            match code {
                201 => break,
                // Written, as it turns out, by a try that was not acknowledged.
                409 => break,
                503 | 504 => assert!(Instant::now() < deadline, "{answer}"),
                _ => panic!("{code} {answer}"),
            }
        }
        acknowledged.push(name);
    }
    acknowledged
}

#[tokio::test]
async fn a_watch_on_a_follower_goes_on_in_order_and_complete_while_the_leader_is_killed() {
    let mut cluster = Cluster::of(3).await;
    let leader = cluster.leader().await;
    let followers: Vec<MemberId> = cluster.ids().into_iter().filter(|id| *id != leader).collect();
    let (_, list) = cluster.admin(followers[0]).get(MAPS).await;
    let from = format!("&resourceVersion={}&allowWatchBookmarks=true", version(&list));
    let mut events = Events::open(&cluster.admin(followers[0]), &from).await;
    let writing = cluster.admin(followers[1]);
    let writer = tokio::spawn(async move { write(writing, "w", 60).await });
    let mut seen = Vec::new();
    let mut last = version(&list);
    while seen.len() < 60 {
        let event = timeout(PATIENCE, events.next()).await.unwrap().expect("the watch goes on");
        assert!(version(&event["object"]) > last, "{event}");
        last = version(&event["object"]);
        assert_eq!(event["type"], "ADDED");
        seen.push(event["object"]["metadata"]["name"].as_str().unwrap().to_owned());
        if seen.len() == 10 {
            cluster.kill(leader);
        }
    }
    assert_eq!(seen, writer.await.unwrap());
}

#[tokio::test]
async fn a_watch_whose_history_went_with_a_snapshot_is_told_to_list_again() {
    let cluster = Cluster::with_small_files(3).await;
    let follower = cluster.follower().await;
    let admin = cluster.admin(cluster.leader().await);
    admin.create(MAPS, map("before")).await;
    cluster.admin(follower).until(&format!("{MAPS}/before"), |code, _| code == 200).await;
    let mut events = Events::open(&cluster.admin(follower), "").await;
    events.expect("ADDED", "before").await;
    cluster.cut(follower);
    let body = "x".repeat(8 << 10);
    for n in 0..60 {
        admin.create(MAPS, json!({"metadata": {"name": format!("big{n}")}, "data": {"x": body}})).await;
    }
    let store = cluster.store(cluster.leader().await);
    store.compact(store.revision()).await.unwrap();
    cluster.heal();
    // The follower lists what there is now, and its watch either went on completely or has ended with 410.
    let newest = admin.create(MAPS, map("newest")).await;
    let (code, list) = cluster.admin(follower).get(MAPS).await;
    assert_eq!((code, names(&list).len()), (200, 62), "{}", list["message"]);
    assert!(version(&list) >= version(&newest));
    let mut seen = 0;
    loop {
        let event = timeout(PATIENCE, events.next()).await.unwrap().expect("an event or the reason why there is none");
        match event["type"].as_str() {
            Some("ADDED") => seen += 1,
            Some("ERROR") => {
                assert_eq!((&event["object"]["code"], &event["object"]["reason"]), (&json!(410), &json!("Expired")));
                break;
            }
            other => panic!("{other:?}"),
        }
        if event["object"]["metadata"]["name"] == "newest" {
            assert_eq!(seen, 61, "all or 410");
            break;
        }
    }
}

async fn text(client: &Client, path: &str) -> u16 {
    client.send(Method::GET, path, "application/json", None).await.status().as_u16()
}

#[tokio::test]
async fn without_a_quorum_a_server_says_so_in_time_and_shows_what_it_has() {
    let cluster = Cluster::of(3).await;
    let follower = cluster.follower().await;
    let admin = cluster.admin(follower);
    let made = admin.create(MAPS, map("kept")).await;
    let anonymous = cluster.anonymous(follower);
    assert_eq!((text(&anonymous, "/readyz").await, text(&anonymous, "/livez").await), (200, 200));
    let mut events = Events::open(&admin, "&resourceVersion=0").await;
    events.expect("ADDED", "kept").await;
    cluster.cut(follower);
    let begun = Instant::now();
    let (code, refused) = admin.get(&format!("{MAPS}/kept")).await;
    assert_eq!((code, &refused["reason"]), (503, &json!("ServiceUnavailable")));
    let message = refused["message"].as_str().unwrap();
    assert!(message.contains("no leader: most of the voters cannot be reached"), "{message}");
    assert_eq!(refused["details"]["retryAfterSeconds"], Value::Null, "kubectl would come again ten times");
    assert!(begun.elapsed() < Duration::from_secs(7), "{:?}", begun.elapsed());
    // By now it knows.
    let begun = Instant::now();
    let (code, _) = admin.post(MAPS, map("refused")).await;
    assert_eq!(code, 503);
    assert_eq!(admin.get(MAPS).await.0, 503);
    assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
    assert_eq!((text(&anonymous, "/readyz").await, text(&anonymous, "/livez").await), (500, 200));
    // What need not be new is there.
    assert_eq!(admin.get(&format!("{MAPS}/kept?resourceVersion=0")).await, (200, made.clone()));
    let (code, list) = admin.get(&format!("{MAPS}?resourceVersion=0")).await;
    assert!(code == 200 && names(&list).contains(&"kept".to_owned()));
    // The others go on, and a revision that this one does not have is said to be too large.
    let other = cluster.ids().into_iter().find(|id| *id != follower).unwrap();
    let newer = cluster.admin(other).create(MAPS, map("newer")).await;
    let (code, refused) = admin.get(&format!("{MAPS}/newer?resourceVersion={}", version(&newer))).await;
    assert_eq!(code, 504);
    assert_eq!(refused["details"]["causes"][0]["reason"], "ResourceVersionTooLarge");
    cluster.heal();
    events.expect("ADDED", "newer").await;
    admin.until(&format!("{MAPS}/newer"), |code, object| code == 200 && *object == newer).await;
    let ready = async { while text(&anonymous, "/readyz").await != 200 {} };
    timeout(PATIENCE, ready).await.expect("ready again");
}

#[tokio::test]
async fn a_server_that_cannot_know_what_there_is_does_not_answer_as_if_it_did() {
    let mut cluster = Cluster::of(2).await;
    cluster.admin(1).create(MAPS, map("a")).await;
    cluster.join(3).await;
    cluster.cut(3);
    let late = cluster.open(3);
    let admin = cluster.admin(3);
    let (code, refused) = admin.get(MAPS).await;
    assert_eq!((code, &refused["details"]["retryAfterSeconds"]), (503, &json!(1)));
    assert!(late.bootstrap().await.is_err());
    let somebody = cluster.anonymous(3);
    assert_eq!((text(&somebody, "/readyz").await, text(&somebody, "/livez").await), (503, 200));
    cluster.heal();
    let up = async { while late.bootstrap().await.is_err() {} };
    timeout(PATIENCE, up).await.expect("it comes up");
    assert_eq!(names(&admin.get(MAPS).await.1), ["a"]);
    assert_eq!(text(&somebody, "/readyz").await, 200);
}

fn endpoints(slice: &Value) -> Vec<String> {
    let endpoints = slice["endpoints"].as_array().into_iter().flatten();
    endpoints.map(|one| one["addresses"][0].as_str().unwrap_or_default().to_owned()).collect()
}

fn ips(ids: &[MemberId]) -> Vec<String> {
    ids.iter().map(|id| address(*id).ip().to_string()).collect()
}

async fn until_endpoints(cluster: &Cluster, by: MemberId, ids: &[MemberId]) -> Duration {
    let (begun, wanted) = (Instant::now(), ips(ids));
    let waiting = async {
        let mut pause = tokio::time::interval(Duration::from_millis(20));
        loop {
            pause.tick().await;
            let (_, slice) = cluster.admin(by).get(SLICE).await;
            if endpoints(&slice) == wanted {
                return;
            }
        }
    };
    timeout(PATIENCE, waiting).await.unwrap_or_else(|_| panic!("never {wanted:?}"));
    begun.elapsed()
}

#[tokio::test]
async fn the_kubernetes_service_has_every_living_server() {
    let mut cluster = Cluster::of(1).await;
    until_endpoints(&cluster, 1, &[1]).await;
    for id in 2..=4 {
        cluster.join(id).await;
        cluster.open(id).bootstrap().await.unwrap();
    }
    until_endpoints(&cluster, 2, &[1, 2, 3, 4]).await;
    let (_, endpoints) = cluster.admin(3).get("/api/v1/namespaces/default/endpoints/kubernetes").await;
    let listed = endpoints["subsets"][0]["addresses"].as_array().unwrap().iter();
    assert_eq!(listed.map(|one| one["ip"].as_str().unwrap().to_owned()).collect::<Vec<_>>(), ips(&[1, 2, 3, 4]));
    // Whoever meddles with it is put right.
    cluster.admin(2).delete(SLICE).await;
    until_endpoints(&cluster, 2, &[1, 2, 3, 4]).await;
    // Removed: at once.
    cluster.store(1).remove_member(4).await.unwrap();
    let removed = until_endpoints(&cluster, 1, &[1, 2, 3]).await;
    assert!(removed < Duration::from_secs(8), "{removed:?}");
    cluster.kill(4);
    // Killed: when its lease is over.
    let killed = cluster.leader().await;
    cluster.kill(killed);
    let rest = cluster.ids();
    let expired = until_endpoints(&cluster, rest[0], &rest).await;
    assert!(expired > Duration::from_secs(8), "{expired:?}");
    // Stopped in order: at once.
    let follower = cluster.follower().await;
    cluster.server(follower).shutdown(Duration::from_secs(5)).await;
    let leader = cluster.leader().await;
    let stopped = until_endpoints(&cluster, leader, &[leader]).await;
    assert!(stopped < Duration::from_secs(8), "{stopped:?}");
}

#[tokio::test]
async fn old_history_is_forgotten_once_for_all_servers() {
    let cluster = Cluster::of(3).await;
    let follower = cluster.follower().await;
    let first = cluster.admin(follower).create(MAPS, map("a")).await;
    for n in 0..20 {
        let change = json!({"data": {"x": format!("{n}")}});
        cluster.admin(follower).patch(&format!("{MAPS}/a"), "application/merge-patch+json", change).await;
    }
    cluster
        .wait("the compaction everywhere", || {
            cluster.ids().iter().all(|id| cluster.store(*id).compacted() >= version(&first)).then_some(())
        })
        .await;
    for id in cluster.ids() {
        let exact = format!("{MAPS}?resourceVersion={}&resourceVersionMatch=Exact", version(&first) - 1);
        assert_eq!(cluster.admin(id).get(&exact).await.0, 410, "on {id}");
    }
}

#[tokio::test]
async fn servers_that_start_at_the_same_time_do_not_disturb_each_other() {
    let mut cluster = Cluster::of(1).await;
    cluster.join(2).await;
    cluster.join(3).await;
    // As an upgrade would find them: what a server completes at its start is missing.
    let role = "/apis/rbac.authorization.k8s.io/v1/clusterroles/system:kube-scheduler";
    let (_, whole) = cluster.admin(1).get(role).await;
    cluster.admin(1).patch(role, "application/merge-patch+json", json!({"rules": []})).await;
    cluster.admin(1).delete("/api/v1/namespaces/default/services/kubernetes").await;
    cluster.admin(1).delete("/apis/flowcontrol.apiserver.k8s.io/v1/flowschemas/probes").await;
    let (one, other) = (cluster.open(2), cluster.open(3));
    let (one, other) = tokio::join!(one.bootstrap(), other.bootstrap());
    one.unwrap();
    other.unwrap();
    let (_, found) = cluster.admin(2).get(role).await;
    assert_eq!(found["rules"], whole["rules"]);
    let (_, service) = cluster.admin(3).get("/api/v1/namespaces/default/services/kubernetes").await;
    assert_eq!(service["spec"]["clusterIP"], "10.43.0.1");
}

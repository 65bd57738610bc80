//! Lists: selectors, pages, revisions, views.

use serde_json::{Value, json};

use crate::server::{Client, Server};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

async fn make(admin: &Client, count: usize) {
    for n in 0..count {
        let color = if n % 2 == 0 { "red" } else { "blue" };
        let object = json!({"metadata": {"name": format!("m{n:02}"), "labels": {"color": color}}});
        admin.create(MAPS, object).await;
    }
}

fn names(list: &Value) -> Vec<&str> {
    list["items"].as_array().into_iter().flatten().filter_map(|item| item["metadata"]["name"].as_str()).collect()
}

#[tokio::test]
async fn selectors_choose() {
    let server = Server::start().await;
    let admin = server.admin();
    make(&admin, 4).await;
    let (_, red) = admin.get(&format!("{MAPS}?labelSelector=color%3Dred")).await;
    assert_eq!(names(&red), ["m00", "m02"]);
    let (_, one) = admin.get(&format!("{MAPS}?fieldSelector=metadata.name%3Dm01")).await;
    assert_eq!(names(&one), ["m01"]);
    let (code, refused) = admin.get(&format!("{MAPS}?fieldSelector=data.x%3D1")).await;
    assert_eq!(code, 400, "{refused}");
}

#[tokio::test]
async fn pages_show_one_revision() {
    let server = Server::start().await;
    let admin = server.admin();
    make(&admin, 5).await;
    let (_, first) = admin.get(&format!("{MAPS}?limit=2")).await;
    assert_eq!(names(&first), ["m00", "m01"]);
    assert_eq!(first["metadata"]["remainingItemCount"], 3);
    admin.delete(&format!("{MAPS}/m03")).await;
    let token = first["metadata"]["continue"].as_str().unwrap();
    let (_, second) = admin.get(&format!("{MAPS}?limit=2&continue={token}")).await;
    assert_eq!(names(&second), ["m02", "m03"]);
    assert_eq!(second["metadata"]["resourceVersion"], first["metadata"]["resourceVersion"]);
    let token = second["metadata"]["continue"].as_str().unwrap();
    let (_, last) = admin.get(&format!("{MAPS}?limit=2&continue={token}")).await;
    assert_eq!(names(&last), ["m04"]);
    assert!(last["metadata"].get("continue").is_none());
}

#[tokio::test]
async fn an_exact_revision_shows_the_past() {
    let server = Server::start().await;
    let admin = server.admin();
    make(&admin, 2).await;
    let (_, before) = admin.get(MAPS).await;
    let version = before["metadata"]["resourceVersion"].as_str().unwrap();
    admin.delete(&format!("{MAPS}/m00")).await;
    let (_, past) = admin.get(&format!("{MAPS}?resourceVersion={version}&resourceVersionMatch=Exact")).await;
    assert_eq!(names(&past), ["m00", "m01"]);
    let (_, present) = admin.get(MAPS).await;
    assert_eq!(names(&present), ["m01"]);
    let (code, refused) = admin.get(&format!("{MAPS}?resourceVersionMatch=Exact")).await;
    assert_eq!(code, 422, "{refused}");
}

#[tokio::test]
async fn a_collection_is_deleted_by_selector() {
    let server = Server::start().await;
    let admin = server.admin();
    make(&admin, 4).await;
    let (code, _) = admin.delete(&format!("{MAPS}?labelSelector=color%3Dred")).await;
    assert_eq!(code, 200);
    let (_, left) = admin.get(MAPS).await;
    assert_eq!(names(&left), ["m01", "m03"]);
}

#[tokio::test]
async fn both_events_are_views_of_one() {
    let server = Server::start().await;
    let admin = server.admin();
    let event = json!({"metadata": {"name": "e", "namespace": "default"}, "reason": "R", "message": "text", "type": "Normal",
        "involvedObject": {"kind": "Pod", "namespace": "default", "name": "p"}});
    admin.create("/api/v1/namespaces/default/events", event).await;
    let (_, other) = admin.get("/apis/events.k8s.io/v1/namespaces/default/events/e").await;
    assert_eq!((&other["note"], &other["regarding"]["name"]), (&json!("text"), &json!("p")));
}

#[tokio::test]
async fn a_list_goes_on_after_its_revision_is_compacted() {
    let server = Server::start().await;
    let admin = server.admin();
    make(&admin, 5).await;
    let (_, first) = admin.get(&format!("{MAPS}?limit=2")).await;
    let token = first["metadata"]["continue"].as_str().unwrap().to_owned();
    let version = first["metadata"]["resourceVersion"].as_str().unwrap().to_owned();
    admin.delete(&format!("{MAPS}/m02")).await;
    server.store().compact(server.store().revision()).await.unwrap();
    let (code, expired) = admin.get(&format!("{MAPS}?limit=2&continue={token}")).await;
    assert_eq!((code, &expired["reason"]), (410, &json!("Expired")));
    let message = expired["message"].as_str().unwrap();
    assert!(message.starts_with("The provided continue parameter is too old to display a consistent list result."));
    let token = expired["metadata"]["continue"].as_str().unwrap();
    let (code, rest) = admin.get(&format!("{MAPS}?limit=2&continue={token}")).await;
    assert_eq!((code, names(&rest)), (200, vec!["m03", "m04"]));
    assert_ne!(rest["metadata"]["resourceVersion"], version);
    let (code, gone) = admin.get(&format!("{MAPS}?resourceVersion={version}&resourceVersionMatch=Exact")).await;
    assert_eq!((code, &gone["reason"]), (410, &json!("Expired")));
}

#[tokio::test]
async fn any_state_will_do_for_revision_zero() {
    let server = Server::start().await;
    let admin = server.admin();
    make(&admin, 3).await;
    admin.get(MAPS).await;
    let (code, all) = admin.get(&format!("{MAPS}?resourceVersion=0&limit=2")).await;
    assert_eq!((code, names(&all).len()), (200, 3));
    let (_, now) = admin.get(MAPS).await;
    let version: u64 = now["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap();
    let newer = format!("{MAPS}?resourceVersion={version}&resourceVersionMatch=NotOlderThan");
    assert_eq!(names(&admin.get(&newer).await.1).len(), 3);
    let (code, early) = admin.get(&format!("{MAPS}?resourceVersion={}", version + 1000)).await;
    assert_eq!((code, &early["reason"]), (504, &json!("Timeout")));
    assert_eq!(early["details"]["causes"][0]["reason"], "ResourceVersionTooLarge");
}

#[tokio::test]
async fn tables_and_bare_metadata_have_rows_for_all() {
    let server = Server::start().await;
    let admin = server.admin();
    make(&admin, 2).await;
    let table = admin.with(&[("accept", "application/json;as=Table;v=v1;g=meta.k8s.io")]);
    let (_, rows) = table.get(MAPS).await;
    assert_eq!(rows["kind"], "Table");
    assert_eq!(rows["columnDefinitions"][0]["name"], "Name");
    assert_eq!(rows["rows"][1]["cells"][0], "m01");
    assert_eq!(rows["rows"][1]["object"]["kind"], "PartialObjectMetadata");
    assert_eq!(rows["rows"][1]["object"]["metadata"]["labels"], json!({"color": "blue"}));
    assert!(rows["metadata"]["resourceVersion"].is_string());
    let (_, bare) = table.get(&format!("{MAPS}?includeObject=None")).await;
    assert!(bare["rows"][0].get("object").is_none());
    let (_, whole) = table.get(&format!("{MAPS}?includeObject=Object")).await;
    assert_eq!(whole["rows"][0]["object"]["kind"], "ConfigMap");
    let partial = admin.with(&[("accept", "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io")]);
    let (_, list) = partial.get(MAPS).await;
    assert_eq!((&list["kind"], names(&list)), (&json!("PartialObjectMetadataList"), vec!["m00", "m01"]));
    assert!(list["items"][0]["metadata"]["uid"].is_string());
}

/// The answer's frames, as the transport asks for them.
async fn frames(client: &Client, path: &str) -> Vec<bytes::Bytes> {
    let mut body = client.send(http::Method::GET, path, "application/json", None).await.into_body();
    let mut frames = Vec::new();
    while let Some(frame) = http_body_util::BodyExt::frame(&mut body).await {
        frames.push(frame.unwrap().into_data().unwrap());
    }
    frames
}

#[tokio::test]
async fn long_lists_come_in_chunks_whatever_their_form() {
    let server = Server::start().await;
    let admin = server.admin();
    for n in 0..40 {
        let labels = json!({"n": n.to_string(), "long": "l".repeat(63)});
        let annotations = json!({"a": "a".repeat(12_000)});
        let object = json!({"metadata": {"name": format!("m{n:02}"), "labels": labels, "annotations": annotations}, "data": {"k": "d"}});
        admin.create(MAPS, object).await;
    }
    let (_, expected) = admin.get(MAPS).await;
    assert_eq!(names(&expected).len(), 40);
    for (accept, shown) in [
        ("application/json", "items"),
        ("application/json;as=Table;v=v1;g=meta.k8s.io", "rows"),
        ("application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io", "items"),
        ("application/vnd.kubernetes.protobuf", "items"),
    ] {
        let frames = frames(&admin.with(&[("accept", accept)]), MAPS).await;
        assert!(frames.len() > 4, "{accept}: {} frames", frames.len());
        assert!(frames.iter().all(|frame| frame.len() <= 256 * 1024), "{accept}");
        let whole = frames.concat();
        let list: Value = match accept {
            "application/vnd.kubernetes.protobuf" => objects::protobuf::decode(&whole).unwrap().value,
            _ => serde_json::from_slice(&whole).unwrap(),
        };
        assert_eq!(list["metadata"]["resourceVersion"], expected["metadata"]["resourceVersion"], "{accept}");
        let items = list[shown].as_array().unwrap();
        assert_eq!(items.len(), 40, "{accept}");
        for (item, expected) in items.iter().zip(expected["items"].as_array().unwrap()) {
            let item = if shown == "rows" { &item["object"] } else { item };
            for name in ["name", "labels", "annotations", "resourceVersion", "uid", "managedFields"] {
                assert_eq!(item["metadata"].get(name), expected["metadata"].get(name), "{accept}: {name}");
            }
        }
    }
}

#[tokio::test]
async fn a_protobuf_list_is_right_in_each_version_that_shares_the_stored_object() {
    let server = Server::start().await;
    let admin = server.admin();
    let event = json!({"metadata": {"name": "e", "namespace": "default"}, "reason": "R", "message": "text", "type": "Normal",
        "involvedObject": {"kind": "Pod", "namespace": "default", "name": "p"}});
    admin.create("/api/v1/namespaces/default/events", event).await;
    let binary = admin.with(&[("accept", "application/vnd.kubernetes.protobuf")]);
    // Twice: sizes that were kept for one version must not be taken for the other's.
    for _ in 0..2 {
        for (path, text) in [("/api/v1/events", "message"), ("/apis/events.k8s.io/v1/events", "note")] {
            let list = objects::protobuf::decode(&frames(&binary, path).await.concat()).unwrap().value;
            assert_eq!(list["items"][0][text], "text", "{path}: {list}");
        }
    }
    let one = frames(&binary, "/apis/events.k8s.io/v1/namespaces/default/events/e").await.concat();
    assert_eq!(objects::protobuf::decode(&one).unwrap().value["note"], "text");
    let watch = "/api/v1/namespaces/default/events?watch=true&timeoutSeconds=1";
    let (_, stored) = admin.get("/api/v1/namespaces/default/events/e").await;
    let watched = frames(&binary, watch).await.concat();
    let mut enveloped = Vec::new();
    let text = stored.to_string();
    objects::protobuf::Transcoder::default().object(&mut enveloped, "v1", "Event", text.as_bytes()).unwrap();
    assert!(watched.windows(enveloped.len()).any(|window| window == enveloped));
}

//! The fake's HTTP face.

use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;
use futures::stream;
use http::{Method, Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Frame;
use kube::client::Body;
use serde_json::{Value, json};

use super::FakeApi;
use super::path::{self, Collection, ROWS, Target};
use super::state::{Failure, Logged, State};

pub(crate) type Reply = Response<UnsyncBoxBody<Bytes, std::convert::Infallible>>;

pub(super) async fn serve(api: FakeApi, request: Request<Body>) -> Result<Reply, kube::Error> {
    let (parts, body) = request.into_parts();
    let body = body.collect_bytes().await?;
    let body: Value = if body.is_empty() { Value::Null } else { serde_json::from_slice(&body).unwrap_or_default() };
    let path = parts.uri.path().to_owned();
    let query = query(parts.uri.query().unwrap_or_default());
    if parts.method != Method::GET {
        api.state().writes.push(format!("{} {path}", parts.method));
    }
    if let Some(failure) = take_failure(&mut api.state(), parts.method.as_str(), &path) {
        return Ok(refuse(&failure));
    }
    let accept = parts.headers.get("accept").and_then(|v| v.to_str().ok()).unwrap_or_default();
    let partial = accept.contains("as=PartialObjectMetadata");
    if let Some(found) = discovery(&path) {
        return Ok(reply(StatusCode::OK, &found));
    }
    let Some(target) = path::parse(&path) else {
        return Ok(refuse(&Failure::new(404, "NotFound", "the server could not find the requested resource")));
    };
    let filter = Filter::new(&target, &query, partial);
    if query.get("watch").is_some_and(|w| w == "true" || w == "1") {
        return Ok(watch(api, target.collection, filter, &query));
    }
    let result = if target.name.is_empty() && parts.method == Method::GET {
        Ok(list(&api, &target.collection, &filter))
    } else {
        act(&api, &parts.method, &target, body, &filter)
    };
    Ok(match result {
        Ok(object) => reply(if parts.method == Method::POST { StatusCode::CREATED } else { StatusCode::OK }, &object),
        Err(failure) => refuse(&failure),
    })
}

fn act(api: &FakeApi, method: &Method, t: &Target, body: Value, filter: &Filter) -> Result<Value, Failure> {
    let (collection, ns, name) = (&t.collection, t.namespace.as_str(), t.name.as_str());
    match (method.as_str(), t.subresource.as_str()) {
        ("GET", _) => api.state().get(collection, ns, name).map(|object| filter.show(object)),
        ("POST", "") => api.edit(|state| state.create(collection, ns, body)),
        ("POST", "binding") => api.edit(|state| {
            let mut pod = state.get(collection, ns, name)?;
            pod["spec"]["nodeName"] = body["target"]["name"].clone();
            state.update(collection, (ns, name, ""), pod)
        }),
        ("POST", "eviction") => api.edit(|state| state.delete(collection, ns, name, &body["deleteOptions"])),
        ("PUT", sub) => api.edit(|state| state.update(collection, (ns, name, sub), body)),
        ("PATCH", sub) => api.edit(|state| {
            let mut object = state.get(collection, ns, name)?;
            object["metadata"]["resourceVersion"] = Value::Null;
            merge(&mut object, &body);
            state.update(collection, (ns, name, sub), object)
        }),
        ("DELETE", _) if name.is_empty() => api.edit(|state| {
            for object in state.list(collection).into_iter().filter(|object| filter.selects(object)) {
                state.delete(collection, ns, object["metadata"]["name"].as_str().unwrap_or_default(), &body)?;
            }
            Ok(json!({"kind": "Status", "status": "Success"}))
        }),
        ("DELETE", _) => api.edit(|state| state.delete(collection, ns, name, &body)),
        _ => Err(Failure::new(405, "MethodNotAllowed", "the server does not allow this method")),
    }
}

fn take_failure(state: &mut State, method: &str, path: &str) -> Option<Failure> {
    let position = state.failures.iter().position(|(m, p, _)| m == method && path.contains(p.as_str()))?;
    Some(state.failures.remove(position).2)
}

/// JSON merge patch (RFC 7386); strategic patches are taken for merge patches.
fn merge(into: &mut Value, patch: &Value) {
    let Value::Object(fields) = patch else {
        *into = patch.clone();
        return;
    };
    if !into.is_object() {
        *into = json!({});
    }
    for (name, value) in fields {
        if value.is_null() {
            if let Some(object) = into.as_object_mut() {
                object.remove(name);
            }
        } else {
            merge(&mut into[name.as_str()], value);
        }
    }
}

struct Filter {
    namespace: String,
    fields: BTreeMap<String, String>,
    labels: BTreeMap<String, String>,
    partial: bool,
}

fn pairs(selector: Option<&String>) -> BTreeMap<String, String> {
    let terms = selector.map(String::as_str).unwrap_or_default().split(',').filter(|t| !t.is_empty());
    terms.filter_map(|t| t.split_once('=')).map(|(k, v)| (k.into(), v.trim_start_matches('=').into())).collect()
}

impl Filter {
    fn new(target: &Target, query: &HashMap<String, String>, partial: bool) -> Self {
        let (fields, labels) = (pairs(query.get("fieldSelector")), pairs(query.get("labelSelector")));
        Self { namespace: target.namespace.clone(), fields, labels, partial }
    }

    fn selects(&self, object: &Value) -> bool {
        let field = |path: &str| path.split('.').fold(object, |value, part| &value[part]).as_str().unwrap_or_default();
        (self.namespace.is_empty() || field("metadata.namespace") == self.namespace)
            && self.fields.iter().all(|(path, wanted)| field(path) == wanted)
            && self.labels.iter().all(|(name, wanted)| object["metadata"]["labels"][name.as_str()] == **wanted)
    }

    fn show(&self, mut object: Value) -> Value {
        if self.partial {
            let metadata = object["metadata"].take();
            return json!({"apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadata", "metadata": metadata});
        }
        object
    }

    /// The watch event an entry of the log is to this watcher. Leaving the selector is a deletion.
    fn event(&self, entry: &Logged) -> Option<Value> {
        let was = entry.old.as_ref().filter(|object| self.selects(object));
        let is = entry.new.as_ref().filter(|object| self.selects(object));
        let (kind, object) = match (was, is) {
            (None, None) => return None,
            (None, Some(new)) => ("ADDED", new),
            (Some(_), Some(new)) => ("MODIFIED", new),
            (Some(old), None) => ("DELETED", old),
        };
        let mut object = object.clone();
        object["metadata"]["resourceVersion"] = entry.revision.to_string().into();
        Some(json!({"type": kind, "object": self.show(object)}))
    }
}

fn list(api: &FakeApi, collection: &Collection, filter: &Filter) -> Value {
    let state = api.state();
    let items: Vec<Value> = state.list(collection).into_iter().filter(|o| filter.selects(o)).collect();
    let items: Vec<Value> = items.into_iter().map(|object| filter.show(object)).collect();
    json!({"apiVersion": collection.api_version(), "kind": "List",
           "metadata": {"resourceVersion": state.revision.to_string()}, "items": items})
}

fn watch(api: FakeApi, collection: Collection, filter: Filter, query: &HashMap<String, String>) -> Reply {
    let from: u64 = query.get("resourceVersion").and_then(|v| v.parse().ok()).unwrap_or(0);
    let oldest = {
        let state = api.state();
        state.log.first().map_or(state.revision + 1, |entry| entry.revision)
    };
    if from + 1 < oldest {
        return refuse(&Failure::new(410, "Expired", "too old resource version"));
    }
    let revisions = api.revision.subscribe();
    let stream = stream::unfold((api, from, revisions), move |(api, mut from, mut revisions)| {
        let (collection, filter) = (collection.clone(), filter.clone_shallow());
        async move {
            loop {
                revisions.borrow_and_update();
                let fresh: Vec<Logged> = {
                    let state = api.state();
                    state.log.iter().filter(|e| e.revision > from && e.collection == collection).cloned().collect()
                };
                let mut text = String::new();
                for entry in &fresh {
                    from = entry.revision;
                    if let Some(event) = filter.event(entry) {
                        text.push_str(&event.to_string());
                        text.push('\n');
                    }
                }
                if !text.is_empty() {
                    return Some((Ok(Frame::data(Bytes::from(text))), (api, from, revisions)));
                }
                revisions.changed().await.ok()?;
            }
        }
    });
    Response::new(StreamBody::new(stream).boxed_unsync())
}

impl Filter {
    fn clone_shallow(&self) -> Self {
        Self {
            namespace: self.namespace.clone(),
            fields: self.fields.clone(),
            labels: self.labels.clone(),
            partial: self.partial,
        }
    }
}

fn discovery(path: &str) -> Option<Value> {
    let resources = |group: &str, version: &str| -> Vec<Value> {
        let rows = ROWS.iter().filter(|row| row.0 == group && row.1 == version);
        rows.map(|row| {
            json!({"name": row.2, "kind": row.3, "namespaced": row.4, "singularName": "",
            "verbs": ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"]})
        })
        .collect()
    };
    let list = |gv: &str, resources| json!({"kind": "APIResourceList", "groupVersion": gv, "resources": resources});
    match *path.trim_matches('/').split('/').collect::<Vec<_>>() {
        ["api"] => Some(json!({"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": []})),
        ["api", version] => Some(list(version, resources("", version))),
        ["apis"] => {
            let groups: BTreeMap<&str, &str> = ROWS.iter().filter(|r| !r.0.is_empty()).map(|r| (r.0, r.1)).collect();
            let group = |(name, version): (&str, &str)| {
                let gv = json!({"groupVersion": format!("{name}/{version}"), "version": version});
                json!({"name": name, "versions": [gv], "preferredVersion": gv})
            };
            Some(json!({"kind": "APIGroupList", "groups": groups.into_iter().map(group).collect::<Vec<_>>()}))
        }
        ["apis", group, version] => Some(list(&format!("{group}/{version}"), resources(group, version))),
        _ => None,
    }
}

fn query(text: &str) -> HashMap<String, String> {
    text.split('&').filter_map(|pair| pair.split_once('=')).map(|(k, v)| (k.to_owned(), unescape(v))).collect()
}

fn unescape(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        let code = tail.get(..2).and_then(|hex| u8::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok());
        match (first, code) {
            (b'%', Some(code)) => {
                bytes.push(code);
                rest = &tail[2..];
            }
            (b'+', _) => {
                bytes.push(b' ');
                rest = tail;
            }
            _ => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn reply(code: StatusCode, value: &Value) -> Reply {
    let mut response = Response::new(Full::new(Bytes::from(value.to_string())).boxed_unsync());
    *response.status_mut() = code;
    response
}

fn refuse(failure: &Failure) -> Reply {
    let status = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": failure.code,
                        "reason": failure.reason, "message": failure.message});
    reply(StatusCode::from_u16(failure.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR), &status)
}

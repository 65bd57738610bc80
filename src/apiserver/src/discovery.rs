//! Discovery documents, rendered once for each state of the registry and kept as bytes.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use bytes::Bytes;
use http::{
    HeaderMap, HeaderValue, Response,
    header::{ACCEPT, CONTENT_TYPE, ETAG, IF_NONE_MATCH, VARY},
};
use objects::{
    discovery::{AggregatedVersion, Root, aggregated, api_versions, group, group_list, resource_list},
    kinds::Catalog,
    status::Status,
};
use ring::digest::{SHA256, digest};
use serde::Serialize;

use crate::{body::Body, handler::Call, registry::Table};

/// A rendered document.
#[derive(Clone)]
struct Document {
    bytes: Bytes,
    content_type: HeaderValue,
    etag: HeaderValue,
}

#[derive(Default)]
struct Rendered {
    /// Which state of the registry the documents are of.
    table: Option<Arc<Table>>,
    by_key: HashMap<String, Document>,
}

/// The documents of the present registry.
#[derive(Default)]
pub(crate) struct Documents {
    rendered: Mutex<Rendered>,
}

impl Documents {
    /// The document under `key`, made by `render` when it is not there yet.
    fn get(
        &self,
        table: &Arc<Table>,
        key: &str,
        content_type: &'static str,
        render: impl FnOnce() -> Option<Result<Vec<u8>, serde_json::Error>>,
    ) -> Result<Document, Status> {
        let mut rendered = self.rendered.lock().unwrap_or_else(PoisonError::into_inner);
        if !rendered.table.as_ref().is_some_and(|known| Arc::ptr_eq(known, table)) {
            *rendered = Rendered { table: Some(table.clone()), by_key: HashMap::new() };
        }
        if let Some(document) = rendered.by_key.get(key) {
            return Ok(document.clone());
        }
        let bytes = render().ok_or_else(Status::unknown_path)?.map_err(Status::internal)?;
        let hash: String = digest(&SHA256, &bytes).as_ref().iter().map(|byte| format!("{byte:02X}")).collect();
        let etag = HeaderValue::from_str(&format!("\"{hash}\"")).map_err(Status::internal)?;
        let document = Document { bytes: bytes.into(), content_type: HeaderValue::from_static(content_type), etag };
        rendered.by_key.insert(key.to_owned(), document.clone());
        Ok(document)
    }
}

/// Rows of the custom resources in a table.
pub(crate) fn catalog(table: &Table) -> Catalog<'_> {
    Catalog::new(table.rows().iter().map(|row| &row.kind).filter(|kind| kind.custom))
}

/// `/api`, `/apis`, and what lies below them without naming a resource.
pub(crate) fn dispatch(call: &Call, path: &str) -> Result<Response<Body>, Status> {
    let table = call.inner.registry.table();
    let documents = &call.inner.documents;
    let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
    let document = match parts.as_slice() {
        [root @ ("api" | "apis")] => match aggregated_version(call.headers()) {
            Some(version) => {
                let (key, which) = if *root == "api" { ("agg-api", Root::Api) } else { ("agg-apis", Root::Apis) };
                let key = format!("{key}-{}", version.content_type());
                documents.get(&table, &key, version.content_type(), || {
                    Some(serde_json::to_vec(&aggregated(&catalog(&table), which, version)))
                })?
            }
            None if *root == "api" => {
                let address = call.inner.config.advertise.to_string();
                documents.get(&table, "api", JSON, || Some(serde_json::to_vec(&api_versions(address))))?
            }
            None => documents.get(&table, "apis", JSON, || Some(serde_json::to_vec(&group_list(&catalog(&table)))))?,
        },
        ["api", version] => documents.get(&table, path, JSON, || json(resource_list(&catalog(&table), "", version)))?,
        ["apis", name] => documents.get(&table, path, JSON, || json(group(&catalog(&table), name)))?,
        ["apis", name, version] => {
            documents.get(&table, path, JSON, || json(resource_list(&catalog(&table), name, version)))?
        }
        _ => return Err(Status::unknown_path()),
    };
    Ok(send(call.headers(), &document))
}

const JSON: &str = "application/json";

fn json(document: Option<impl Serialize>) -> Option<Result<Vec<u8>, serde_json::Error>> {
    document.map(|document| serde_json::to_vec(&document))
}

/// A JSON document that is rendered once for each state of the registry.
pub(crate) fn kept(call: &Call, key: &str, render: impl FnOnce() -> Vec<u8>) -> Result<Response<Body>, Status> {
    let document = call.inner.documents.get(&call.inner.registry.table(), key, JSON, || Some(Ok(render())))?;
    Ok(send(call.headers(), &document))
}

/// The aggregated form that the client asks for first, if it asks for one before plain JSON.
fn aggregated_version(headers: &HeaderMap) -> Option<AggregatedVersion> {
    let accept = headers.get(ACCEPT)?.to_str().ok()?;
    for alternative in accept.split(',') {
        let has = |text: &str| alternative.split(';').any(|part| part.trim() == text);
        if has("as=APIGroupDiscoveryList") && has("g=apidiscovery.k8s.io") && has(JSON) {
            if has("v=v2") {
                return Some(AggregatedVersion::V2);
            }
            if has("v=v2beta1") {
                return Some(AggregatedVersion::V2Beta1);
            }
        } else if alternative.trim() == JSON {
            return None;
        }
    }
    None
}

fn send(headers: &HeaderMap, document: &Document) -> Response<Body> {
    let same = headers.get(IF_NONE_MATCH).is_some_and(|tag| tag == document.etag);
    let mut response = Response::new(if same { Body::Empty } else { Body::Full(document.bytes.clone()) });
    if same {
        *response.status_mut() = http::StatusCode::NOT_MODIFIED;
    }
    response.headers_mut().insert(CONTENT_TYPE, document.content_type.clone());
    response.headers_mut().insert(ETAG, document.etag.clone());
    response.headers_mut().insert(VARY, HeaderValue::from_static("Accept"));
    response
}

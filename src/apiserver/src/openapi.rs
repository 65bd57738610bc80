//! OpenAPI documents: routed here, made by `objects`. Only the index is kept: documents are large and clients keep
//! them by their hash.

use http::{
    HeaderValue, Response,
    header::{ACCEPT, CACHE_CONTROL, CONTENT_TYPE, ETAG, IF_NONE_MATCH},
};
use objects::{
    openapi::{CustomSchema, Source, V2_PROTOBUF},
    status::Status,
};

use crate::{body::Body, discovery, handler::Call, registry::Table, respond};

/// Answers `/openapi/...`.
pub(crate) fn dispatch(call: &Call, path: &str) -> Result<Response<Body>, Status> {
    let table = call.inner.registry.table();
    let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
    match parts.as_slice() {
        ["openapi", "v2"] => {
            let accept = call.headers().get(ACCEPT).and_then(|v| v.to_str().ok()).unwrap_or_default();
            let protobuf = accept.contains("proto-openapi.spec.v2");
            let bytes = with_source(&table, |source| if protobuf { source.v2_protobuf() } else { source.v2() });
            let mut response = respond::bytes(call, 200, crate::negotiate::Encoding::Json, bytes.into());
            if protobuf {
                response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(V2_PROTOBUF));
            }
            Ok(response)
        }
        ["openapi", "v3"] => discovery::kept(call, "openapi-v3", || with_source(&table, |source| source.index())),
        ["openapi", "v3", "api", version] => v3(call, &table, "", version),
        ["openapi", "v3", "apis", group, version] => v3(call, &table, group, version),
        _ => Err(Status::unknown_path()),
    }
}

fn with_source<T>(table: &Table, make: impl FnOnce(&Source<'_>) -> T) -> T {
    let catalog = discovery::catalog(table);
    let custom: Vec<CustomSchema<'_>> = table
        .rows()
        .iter()
        .filter_map(|row| {
            let custom = row.custom.as_ref()?;
            let schema = Some(&custom.open_api).filter(|schema| !schema.is_null());
            Some(CustomSchema { definition: &row.kind.schema, schema })
        })
        .collect();
    make(&Source { catalog: &catalog, custom: &custom, descriptions: embedded::API_DESCRIPTIONS })
}

fn v3(call: &Call, table: &Table, group: &str, version: &str) -> Result<Response<Body>, Status> {
    let hash = with_source(table, |source| source.hash(group, version)).ok_or_else(Status::unknown_path)?;
    let etag = HeaderValue::from_str(&format!("\"{hash}\"")).map_err(Status::internal)?;
    let mut response = if call.headers().get(IF_NONE_MATCH).is_some_and(|known| *known == etag) {
        let mut response = Response::new(Body::Empty);
        *response.status_mut() = http::StatusCode::NOT_MODIFIED;
        response
    } else {
        let bytes = with_source(table, |source| source.v3(group, version)).ok_or_else(Status::unknown_path)?;
        respond::bytes(call, 200, crate::negotiate::Encoding::Json, bytes.into())
    };
    response.headers_mut().insert(ETAG, etag);
    // The index names documents by their hash, so a document under its hash never changes.
    if call.query.text("hash").is_some_and(|asked| asked == hash) {
        response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("public, immutable"));
    }
    Ok(response)
}

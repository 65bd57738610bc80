//! Answers: stored bytes or JSON values in the form the client asked for.

use bytes::Bytes;
use futures::stream;
use http::{
    HeaderValue, Response, StatusCode,
    header::{ACCEPT_ENCODING, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_TYPE, RETRY_AFTER, VARY, WARNING},
};
use objects::{protobuf::Transcoder, status::Status};
use serde_json::Value;

use crate::{
    body::Body,
    chunks::{Chunks, Gzipped},
    convert, encoded,
    handler::Call,
    negotiate::{self, Encoding, Form, View},
    registry::Resource,
    views, wire,
};

/// Answers larger than this are compressed for remote clients that take gzip.
const GZIP_FROM: usize = 128 * 1024;

const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// A failure, or a bare success, as an answer.
pub(crate) fn status(status: &Status) -> Response<Body> {
    let mut response = Response::new(Body::from(status.to_json()));
    *response.status_mut() = StatusCode::from_u16(status.code()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    response.headers_mut().insert(CONTENT_TYPE, JSON);
    if let Some(seconds) = status.retry_after() {
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
    if status.code() == 401 {
        response.headers_mut().insert(http::header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    response
}

/// Plain text.
pub(crate) fn text(code: StatusCode, text: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(Body::Full(text.into()));
    *response.status_mut() = code;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

/// A JSON document as it is.
pub(crate) fn json(bytes: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(Body::Full(bytes.into()));
    response.headers_mut().insert(CONTENT_TYPE, JSON);
    response
}

/// Bytes in the wire form that `encoding` names, compressed when that pays.
pub(crate) fn bytes(call: &Call, code: u16, encoding: Encoding, bytes: Bytes) -> Response<Body> {
    let packed = (bytes.len() >= GZIP_FROM && takes_gzip(call)).then(|| Body::gzip(&bytes));
    match packed {
        Some(Ok(packed)) => headed(Body::Full(packed), code, encoding, true),
        _ => headed(Body::Full(bytes), code, encoding, false),
    }
}

/// An answer that is made as the client reads it, when it is a long one; compressed when that pays.
pub(crate) fn chunks(call: &Call, encoding: Encoding, mut chunks: Chunks) -> Result<Response<Body>, Status> {
    let first = chunks.fill(GZIP_FROM)?;
    if chunks.is_done() {
        return Ok(bytes(call, 200, encoding, first));
    }
    let chunks = std::iter::once(Ok(first)).chain(chunks);
    Ok(if takes_gzip(call) {
        headed(Body::stream(stream::iter(Gzipped::new(chunks))), 200, encoding, true)
    } else {
        headed(Body::stream(stream::iter(chunks)), 200, encoding, false)
    })
}

/// Whether compressing pays: for a client on this machine it costs more than it saves.
fn takes_gzip(call: &Call) -> bool {
    let accepted = call.headers().get(ACCEPT_ENCODING).and_then(|value| value.to_str().ok());
    !call.local && accepted.is_some_and(|value| value.contains("gzip"))
}

fn headed(body: Body, code: u16, encoding: Encoding, gzip: bool) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let content_type = match encoding {
        Encoding::Json | Encoding::PrettyJson => JSON,
        Encoding::Yaml => HeaderValue::from_static("application/yaml"),
        Encoding::Protobuf => HeaderValue::from_static("application/vnd.kubernetes.protobuf"),
    };
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, content_type);
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    if gzip {
        headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        headers.insert(VARY, HeaderValue::from_static("Accept-Encoding"));
    }
    response
}

/// A value in the form the client asked for; for objects that are not stored (reviews, Scale, Status).
pub(crate) fn value(call: &Call, code: u16, value: &Value) -> Result<Response<Body>, Status> {
    let form = negotiate::form(call.headers(), &call.query, true)?;
    let encoding = form.encoding;
    Ok(bytes(call, code, encoding, encode(value, encoding)?.into()))
}

/// A stored object in the form the client asked for.
pub(crate) fn stored(
    call: &Call,
    code: u16,
    resource: &Resource,
    stored: &Bytes,
    revision: u64,
) -> Result<Response<Body>, Status> {
    let form = negotiate::form(call.headers(), &call.query, !resource.kind.custom)?;
    let mut out = Vec::with_capacity(stored.len() + 64);
    match (form.encoding, form.view) {
        (Encoding::Json, View::Full) => convert::write(&mut out, resource, stored, revision)?,
        (Encoding::Protobuf, View::Full) => {
            let mut json = Vec::with_capacity(stored.len() + 64);
            convert::write(&mut json, resource, stored, revision)?;
            let written = Transcoder::default().object(&mut out, &resource.api_version, &resource.kind.kind, &json);
            written.map_err(wire::refusal)?;
        }
        _ => {
            let value = convert::from_stored(resource, encoded::decode(stored, revision)?)?;
            return object(call, code, resource, value, form);
        }
    }
    Ok(bytes(call, code, form.encoding, out.into()))
}

/// An object that is at hand as a value, in the form the client asked for.
pub(crate) fn object(
    call: &Call,
    code: u16,
    resource: &Resource,
    value: Value,
    form: Form,
) -> Result<Response<Body>, Status> {
    let shown = match form.view {
        View::Full => value,
        View::Table => views::table(resource, std::iter::once(value), views::Include::of(&call.query), None),
        View::PartialMetadata | View::PartialMetadataList => views::partial(&value),
    };
    Ok(bytes(call, code, form.encoding, encode(&shown, form.encoding)?.into()))
}

/// Encodes a value.
pub(crate) fn encode(value: &Value, encoding: Encoding) -> Result<Vec<u8>, Status> {
    match encoding {
        Encoding::Json => serde_json::to_vec(value).map_err(Status::internal),
        Encoding::PrettyJson => serde_json::to_vec_pretty(value)
            .map(|mut bytes| {
                bytes.push(b'\n');
                bytes
            })
            .map_err(Status::internal),
        Encoding::Yaml => serde_yaml_ng::to_string(value).map(String::into_bytes).map_err(Status::internal),
        Encoding::Protobuf => wire::to_protobuf(value),
    }
}

/// Adds `Warning` headers, each text once.
pub(crate) fn with_warnings(mut response: Response<Body>, warnings: &[String]) -> Response<Body> {
    for (index, warning) in warnings.iter().enumerate() {
        if warnings[..index].contains(warning) {
            continue;
        }
        let quoted = warning.replace('\\', "\\\\").replace('"', "\\\"").replace(['\n', '\r'], " ");
        if let Ok(value) = HeaderValue::from_str(&format!("299 - \"{quoted}\"")) {
            response.headers_mut().append(WARNING, value);
        }
    }
    response
}

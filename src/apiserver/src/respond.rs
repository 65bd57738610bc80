//! Answers: stored bytes or JSON values in the form the client asked for.

use bytes::Bytes;
use http::{
    HeaderValue, Response, StatusCode,
    header::{ACCEPT_ENCODING, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_TYPE, RETRY_AFTER, VARY, WARNING},
};
use objects::status::Status;
use serde_json::Value;

use crate::{
    body::Body,
    convert, encoded,
    handler::Call,
    negotiate::{self, Encoding, Form, View},
    registry::Resource,
    views,
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

/// Bytes in the wire form `form` names, compressed when that pays.
pub(crate) fn bytes(call: &Call, code: u16, encoding: Encoding, bytes: Bytes) -> Response<Body> {
    let gzip = !call.local
        && bytes.len() >= GZIP_FROM
        && call.headers().get(ACCEPT_ENCODING).and_then(|v| v.to_str().ok()).is_some_and(|v| v.contains("gzip"));
    let mut response = match gzip.then(|| Body::gzip(&bytes)) {
        Some(Ok(packed)) => {
            let mut response = Response::new(Body::Full(packed));
            response.headers_mut().insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
            response.headers_mut().insert(VARY, HeaderValue::from_static("Accept-Encoding"));
            response
        }
        _ => Response::new(Body::Full(bytes)),
    };
    *response.status_mut() = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let content_type = match encoding {
        Encoding::Json | Encoding::PrettyJson => JSON,
        Encoding::Yaml => HeaderValue::from_static("application/yaml"),
        Encoding::Protobuf => HeaderValue::from_static("application/vnd.kubernetes.protobuf"),
    };
    response.headers_mut().insert(CONTENT_TYPE, content_type);
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
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
    if form == Form::PLAIN && resource.same_shape {
        let mut out = Vec::with_capacity(stored.len() + 64);
        encoded::splice(&mut out, stored, revision, &resource.api_version, &resource.kind.kind);
        return Ok(bytes(call, code, Encoding::Json, out.into()));
    }
    let value = convert::from_stored(resource, encoded::decode(stored, revision)?)?;
    object(call, code, resource, value, form)
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
        Encoding::Protobuf => crate::wire::to_protobuf(value),
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

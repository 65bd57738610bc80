//! Content negotiation: what form the client wants the answer in, and what form it sent the body in.

use http::{
    HeaderMap,
    header::{ACCEPT, CONTENT_TYPE, USER_AGENT},
};
use objects::status::Status;

use crate::query::Query;

/// Encoding of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Encoding {
    Json,
    PrettyJson,
    Yaml,
    Protobuf,
}

/// Which view of the object is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum View {
    Full,
    Table,
    PartialMetadata,
    PartialMetadataList,
}

/// The answer's form.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Form {
    pub(crate) encoding: Encoding,
    pub(crate) view: View,
}

/// Media types of whole objects, in the order the error message names them.
const ACCEPTED: [&str; 3] = ["application/json", "application/yaml", "application/vnd.kubernetes.protobuf"];

/// Chooses the first alternative of the Accept header that can be served. Clients list them in order of preference.
/// Only built-in kinds have a protobuf form.
pub(crate) fn form(headers: &HeaderMap, query: &Query, protobuf: bool) -> Result<Form, Status> {
    choose(headers, query, protobuf, |_| true)
}

/// As [`form`], for what has neither columns nor metadata to be viewed by, such as reviews.
pub(crate) fn whole(headers: &HeaderMap, query: &Query) -> Result<Encoding, Status> {
    choose(headers, query, true, |form| form.view == View::Full).map(|form| form.encoding)
}

fn choose(
    headers: &HeaderMap,
    query: &Query,
    protobuf: bool,
    accepted: impl Fn(&Form) -> bool,
) -> Result<Form, Status> {
    let json = if wants_pretty(headers, query) { Encoding::PrettyJson } else { Encoding::Json };
    let mut any = false;
    for header in headers.get_all(ACCEPT) {
        let Ok(text) = header.to_str() else { continue };
        for alternative in text.split(',').map(str::trim).filter(|a| !a.is_empty()) {
            any = true;
            if let Some(form) = alternative_form(alternative, json, protobuf).filter(&accepted) {
                return Ok(form);
            }
        }
    }
    if any { Err(Status::not_acceptable(&ACCEPTED)) } else { Ok(Form { encoding: json, view: View::Full }) }
}

fn wants_pretty(headers: &HeaderMap, query: &Query) -> bool {
    if query.get("pretty").is_some() {
        return query.flag("pretty");
    }
    let agent = headers.get(USER_AGENT).and_then(|v| v.to_str().ok()).unwrap_or_default();
    ["curl/", "Wget/", "Mozilla/"].iter().any(|prefix| agent.starts_with(prefix))
}

fn alternative_form(alternative: &str, json: Encoding, protobuf: bool) -> Option<Form> {
    let mut parts = alternative.split(';').map(str::trim);
    let encoding = match parts.next()? {
        "application/json" | "application/*" | "*/*" => json,
        "application/yaml" => Encoding::Yaml,
        "application/vnd.kubernetes.protobuf" if protobuf => Encoding::Protobuf,
        _ => return None,
    };
    let (mut view, mut group, mut version) = (None, None, None);
    for (name, value) in parts.filter_map(|p| p.split_once('=')) {
        match name {
            "as" => view = Some(value),
            "g" => group = Some(value),
            "v" => version = Some(value),
            "stream" if value != "watch" => return None,
            _ => {}
        }
    }
    let view = match view {
        None => View::Full,
        Some(_) if group != Some("meta.k8s.io") || version != Some("v1") => return None,
        Some("Table") => View::Table,
        Some("PartialObjectMetadata") => View::PartialMetadata,
        Some("PartialObjectMetadataList") => View::PartialMetadataList,
        Some(_) => return None,
    };
    // Views are served as JSON; a client that also accepts JSON names it as a later alternative.
    if view != View::Full && encoding == Encoding::Protobuf {
        return None;
    }
    Some(Form { encoding, view })
}

/// Encoding of a request body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BodyKind {
    Json,
    Yaml,
    Protobuf,
    Cbor,
    JsonPatch,
    MergePatch,
    StrategicMergePatch,
    ApplyPatch,
}

/// Reads the Content-Type of a request; a missing one is JSON.
pub(crate) fn body_kind(headers: &HeaderMap) -> Option<BodyKind> {
    let text = headers.get(CONTENT_TYPE).map_or(Some("application/json"), |v| v.to_str().ok())?;
    match text.split(';').next().unwrap_or_default().trim() {
        "" | "application/json" | "*/*" => Some(BodyKind::Json),
        "application/yaml" => Some(BodyKind::Yaml),
        "application/vnd.kubernetes.protobuf" => Some(BodyKind::Protobuf),
        "application/cbor" => Some(BodyKind::Cbor),
        "application/json-patch+json" => Some(BodyKind::JsonPatch),
        "application/merge-patch+json" => Some(BodyKind::MergePatch),
        "application/strategic-merge-patch+json" => Some(BodyKind::StrategicMergePatch),
        "application/apply-patch+yaml" => Some(BodyKind::ApplyPatch),
        _ => None,
    }
}

/// Media types of objects in request bodies, for the 415 message.
pub(crate) const OBJECT_TYPES: [&str; 3] = ACCEPTED;
/// Media types of patches, for the 415 message.
pub(crate) const PATCH_TYPES: [&str; 4] = [
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
    "application/apply-patch+yaml",
];

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(accept: &str) -> Result<Form, Status> {
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, accept.parse().unwrap());
        form(&headers, &Query::default(), false)
    }

    #[test]
    fn kubectl_gets_a_table() {
        let accept = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json";
        assert_eq!(chosen(accept).unwrap().view, View::Table);
    }

    #[test]
    fn metadata_clients_fall_back_to_json() {
        let accept = "application/vnd.kubernetes.protobuf;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json";
        let form = chosen(accept).unwrap();
        assert_eq!((form.encoding, form.view), (Encoding::Json, View::PartialMetadataList));
    }

    #[test]
    fn unknown_types_are_not_acceptable() {
        assert_eq!(chosen("text/html").unwrap_err().code(), 406);
        assert_eq!(chosen("text/html, */*").unwrap(), Form { encoding: Encoding::Json, view: View::Full });
    }

    #[test]
    fn what_has_no_columns_is_no_table() {
        let table = "application/json;as=Table;v=v1;g=meta.k8s.io";
        let choose = |accept: String| {
            let headers = HeaderMap::from_iter([(ACCEPT, accept.parse().unwrap())]);
            whole(&headers, &Query::default())
        };
        assert_eq!(choose(table.to_owned()).unwrap_err().code(), 406);
        assert_eq!(choose(format!("{table},application/json")).unwrap(), Encoding::Json);
    }

    #[test]
    fn body_kinds() {
        let mut headers = HeaderMap::new();
        assert_eq!(body_kind(&headers), Some(BodyKind::Json));
        headers.insert(CONTENT_TYPE, "application/apply-patch+yaml; charset=utf-8".parse().unwrap());
        assert_eq!(body_kind(&headers), Some(BodyKind::ApplyPatch));
        headers.insert(CONTENT_TYPE, "text/plain".parse().unwrap());
        assert_eq!(body_kind(&headers), None);
    }
}

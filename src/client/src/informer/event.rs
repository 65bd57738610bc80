//! Events of a watch, one a line. Taken apart by hand: kube's own type is read through a buffer of serde's, which would be
//! the code of every kind once more.

use kube::core::Status;
use serde::Deserialize;
use serde::de::{DeserializeOwned, Error};
use serde_json::value::RawValue;

#[derive(Debug)]
pub(super) enum Event<K> {
    /// Added or modified.
    Present(K),
    Deleted(K),
    /// Nothing at or before this revision is still to come.
    Bookmark(String),
    Error(Box<Status>),
}

#[derive(Deserialize)]
struct Line<'a> {
    r#type: &'a str,
    #[serde(borrow)]
    object: &'a RawValue,
}

#[derive(Deserialize)]
struct Bookmark {
    metadata: BookmarkMeta,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct BookmarkMeta {
    resource_version: String,
}

/// Reads one line.
pub(super) fn parse<K: DeserializeOwned>(line: &str) -> serde_json::Result<Event<K>> {
    let Line { r#type, object } = serde_json::from_slice(line.as_bytes())?;
    let object = object.get().as_bytes();
    match r#type {
        "ADDED" | "MODIFIED" => serde_json::from_slice(object).map(Event::Present),
        "DELETED" => serde_json::from_slice(object).map(Event::Deleted),
        "BOOKMARK" => serde_json::from_slice(object).map(|bookmark: Bookmark| {
            let BookmarkMeta { resource_version } = bookmark.metadata;
            Event::Bookmark(resource_version)
        }),
        "ERROR" => serde_json::from_slice(object).map(Event::Error),
        other => Err(serde_json::Error::custom(format_args!("unknown kind of event {other:?}"))),
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::ConfigMap;

    use super::*;

    #[test]
    fn each_kind_of_event_is_told_apart() {
        let object = r#"{"metadata":{"name":"a","resourceVersion":"7"}}"#;
        let event = |kind: &str, object: &str| {
            parse::<ConfigMap>(&format!(r#"{{"type":"{kind}","object":{object}}}"#)).unwrap()
        };
        for kind in ["ADDED", "MODIFIED"] {
            assert!(matches!(event(kind, object), Event::Present(map) if map.metadata.name.as_deref() == Some("a")));
        }
        assert!(matches!(event("DELETED", object), Event::Deleted(_)));
        assert!(matches!(event("BOOKMARK", object), Event::Bookmark(revision) if revision == "7"));
        let gone = r#"{"kind":"Status","status":"Failure","message":"too old","reason":"Expired","code":410}"#;
        assert!(matches!(event("ERROR", gone), Event::Error(status) if status.code == 410));
    }

    #[test]
    fn half_a_line_is_an_unexpected_end() {
        assert!(parse::<ConfigMap>(r#"{"type":"ADDED","obj"#).unwrap_err().is_eof());
        assert!(parse::<ConfigMap>(r#"{"type":"ODD","object":{}}"#).is_err());
    }
}

//! Events of a watch, one a line. Taken apart by hand: kube's own type is read through a buffer of serde's, which would be
//! the code of every kind once more.

use kube::core::Status;
use serde::Deserialize;
use serde::de::Error;
use serde_json::value::RawValue;

#[derive(Debug)]
pub(super) enum Event<'a> {
    /// Added or modified: the encoded object.
    Present(&'a [u8]),
    Deleted(&'a [u8]),
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
pub(super) fn parse(line: &str) -> serde_json::Result<Event<'_>> {
    let Line { r#type, object } = serde_json::from_slice(line.as_bytes())?;
    let object = object.get().as_bytes();
    match r#type {
        "ADDED" | "MODIFIED" => Ok(Event::Present(object)),
        "DELETED" => Ok(Event::Deleted(object)),
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
    use super::*;

    #[test]
    fn each_kind_of_event_is_told_apart() {
        let object = r#"{"metadata":{"name":"a","resourceVersion":"7"}}"#;
        let line = |kind: &str, object: &str| format!(r#"{{"type":"{kind}","object":{object}}}"#);
        for kind in ["ADDED", "MODIFIED"] {
            let line = line(kind, object);
            assert!(matches!(parse(&line).unwrap(), Event::Present(found) if found == object.as_bytes()));
        }
        assert!(
            matches!(parse(&line("DELETED", object)).unwrap(), Event::Deleted(found) if found == object.as_bytes())
        );
        assert!(matches!(parse(&line("BOOKMARK", object)).unwrap(), Event::Bookmark(revision) if revision == "7"));
        let gone = r#"{"kind":"Status","status":"Failure","message":"too old","reason":"Expired","code":410}"#;
        assert!(matches!(parse(&line("ERROR", gone)).unwrap(), Event::Error(status) if status.code == 410));
    }

    #[test]
    fn half_a_line_is_an_unexpected_end() {
        assert!(parse(r#"{"type":"ADDED","obj"#).unwrap_err().is_eof());
        assert!(parse(r#"{"type":"ODD","object":{}}"#).is_err());
    }
}

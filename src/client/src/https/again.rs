//! Which requests may be sent to a second server after the first gave no answer. Pure.

use std::error::Error;

use http::Method;
use serde::Deserialize;

#[derive(Default, Deserialize)]
struct Written {
    #[serde(default)]
    metadata: Option<Guard>,
    /// Of a deletion.
    #[serde(default)]
    preconditions: Option<Guard>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Guard {
    #[serde(default)]
    resource_version: Option<String>,
    #[serde(default)]
    uid: Option<String>,
}

/// Whether the request does no harm when the first server had already done it: reads, and writes that name the
/// revision they change, for such a write cannot be done twice: its repetition is a conflict. Deletions that name the
/// object's UID or revision likewise.
pub(super) fn may_repeat(method: &Method, body: &[u8]) -> bool {
    let written = || serde_json::from_slice::<Written>(body).unwrap_or_default();
    let named = |text: Option<String>| text.is_some_and(|text| !text.is_empty() && text != "0");
    match *method {
        Method::GET | Method::HEAD | Method::OPTIONS => true,
        Method::PUT | Method::PATCH => written().metadata.is_some_and(|guard| named(guard.resource_version)),
        Method::DELETE => {
            written().preconditions.is_some_and(|guard| named(guard.uid) || named(guard.resource_version))
        }
        _ => false,
    }
}

/// Whether the server said that it has not begun the request: its connection was about to close, or it took no more.
pub(super) fn was_refused(error: &hyper::Error) -> bool {
    let mut source = error.source();
    while let Some(error) = source {
        if let Some(error) = error.downcast_ref::<h2::Error>() {
            return error.is_remote() && (error.is_go_away() || error.reason() == Some(h2::Reason::REFUSED_STREAM));
        }
        source = error.source();
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_are_repeated_only_when_they_name_what_they_change() {
        let may = |method: Method, body: &str| may_repeat(&method, body.as_bytes());
        let revision = r#"{"kind":"Lease","metadata":{"name":"edge","resourceVersion":"7"},"spec":{}}"#;
        assert!(may(Method::GET, ""));
        assert!(may(Method::PUT, revision) && may(Method::PATCH, revision));
        assert!(!may(Method::POST, revision));
        for body in ["", "{}", "[]", r#"{"metadata":{"resourceVersion":""}}"#, r#"{"metadata":null}"#] {
            assert!(!may(Method::PUT, body) && !may(Method::PATCH, body) && !may(Method::DELETE, body), "{body}");
        }
        assert!(may(Method::DELETE, r#"{"preconditions":{"uid":"u"}}"#));
        assert!(!may(Method::DELETE, revision));
    }
}

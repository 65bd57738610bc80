//! Where a kind's collection is, and the list and watch requests on it.

use std::fmt::Write;

use http::{Request, header};

use crate::informers::Scope;

const METADATA_LIST: &str = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1";
const METADATA: &str = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1";
const JSON: &str = "application/json";
/// How long one watch request lasts before the server ends it and the reflector takes up the next, in seconds.
const WATCH_SECONDS: u32 = 1_800;

/// A collection's path with the selectors that narrow it.
#[derive(Clone, Debug)]
pub struct Endpoint {
    path: String,
    selectors: String,
    metadata_only: bool,
}

impl Endpoint {
    /// `path` is absolute, such as `/apis/apps/v1/deployments`.
    pub fn new(path: String) -> Self {
        Self { path, selectors: String::new(), metadata_only: false }
    }

    #[must_use]
    pub fn scoped(mut self, scope: &Scope) -> Self {
        for (name, selector) in [("fieldSelector", &scope.fields), ("labelSelector", &scope.labels)] {
            if let Some(selector) = selector {
                self.selectors.push('&');
                self.selectors.push_str(name);
                self.selectors.push('=');
                self.selectors.push_str(&escape(selector));
            }
        }
        self
    }

    #[must_use]
    pub fn metadata_only(mut self) -> Self {
        self.metadata_only = true;
        self
    }

    pub(super) fn is_metadata_only(&self) -> bool {
        self.metadata_only
    }

    pub fn path(&self) -> &str {
        &self.path
    }

    pub(super) fn list(&self, limit: u32, continue_token: Option<&str>) -> http::Result<Request<Vec<u8>>> {
        let token = continue_token.map(|t| format!("&continue={}", escape(t))).unwrap_or_default();
        let accept = if self.metadata_only { METADATA_LIST } else { JSON };
        self.request(&format!("limit={limit}{token}{}", self.selectors), accept)
    }

    pub(super) fn watch(&self, from: &str) -> http::Result<Request<Vec<u8>>> {
        let accept = if self.metadata_only { METADATA } else { JSON };
        let query = format!(
            "watch=true&allowWatchBookmarks=true&timeoutSeconds={WATCH_SECONDS}&resourceVersion={}{}",
            escape(from),
            self.selectors
        );
        self.request(&query, accept)
    }

    fn request(&self, query: &str, accept: &str) -> http::Result<Request<Vec<u8>>> {
        Request::get(format!("{}?{query}", self.path)).header(header::ACCEPT, accept).body(Vec::new())
    }
}

/// Percent-encodes a query value: all but RFC 3986's unreserved characters.
fn escape(value: &str) -> String {
    let mut out = String::with_capacity(value.len());
    for byte in value.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            write!(out, "%{byte:02X}").unwrap_or_default();
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn selectors_are_escaped_into_the_query() {
        let endpoint = Endpoint::new("/api/v1/pods".into()).scoped(&Scope::fields("spec.nodeName=edge 1"));
        let request = endpoint.list(500, Some("a+b")).unwrap();
        assert_eq!(
            request.uri().to_string(),
            "/api/v1/pods?limit=500&continue=a%2Bb&fieldSelector=spec.nodeName%3Dedge%201"
        );
    }

    #[test]
    fn a_watch_asks_for_bookmarks_from_a_revision() {
        let request = Endpoint::new("/api/v1/nodes".into()).metadata_only().watch("42").unwrap();
        assert!(request.uri().query().unwrap().contains("allowWatchBookmarks=true"));
        assert!(request.uri().query().unwrap().ends_with("resourceVersion=42"));
        assert_eq!(request.headers()[header::ACCEPT], METADATA);
    }
}

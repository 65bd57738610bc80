//! Request path → what is asked for. Borrows from the path; allocates only where a segment is percent-encoded.
//! The shapes are those of the Kubernetes API conventions: `/api/v1/...` for the core group, `/apis/G/V/...` for the
//! others, `namespaces/NS/` before a namespaced resource. Called once for each request, before authorization.

use std::borrow::Cow;

use percent_encoding::percent_decode_str;

/// What a path names.
#[derive(Debug, PartialEq)]
pub(crate) enum Target<'p> {
    /// Anything that is not an object or a collection: `/version`, `/healthz`, `/api`, `/openapi/v3`...
    NonResource,
    /// An object, a collection or a subresource.
    Resource(ResourcePath<'p>),
}

/// The parts of a resource path.
#[derive(Debug, PartialEq, Clone)]
pub(crate) struct ResourcePath<'p> {
    /// `v1` or `apps/v1`, as it stands in the path.
    pub(crate) group_version: &'p str,
    pub(crate) namespace: Cow<'p, str>,
    pub(crate) resource: &'p str,
    /// Empty for a collection.
    pub(crate) name: Cow<'p, str>,
    pub(crate) subresource: &'p str,
    /// What follows the subresource (proxy paths), without the leading slash.
    pub(crate) rest: &'p str,
    /// The deprecated `/api/v1/watch/...` form.
    pub(crate) watch_prefix: bool,
}

impl<'p> ResourcePath<'p> {
    /// Group of the path; empty for core.
    pub(crate) fn group(&self) -> &'p str {
        self.group_version.rsplit_once('/').map_or("", |(group, _)| group)
    }

    #[cfg(test)]
    fn version(&self) -> &'p str {
        self.group_version.rsplit_once('/').map_or(self.group_version, |(_, version)| version)
    }
}

fn decode(segment: &str) -> Cow<'_, str> {
    percent_decode_str(segment).decode_utf8_lossy()
}

/// Parses a path.
pub(crate) fn parse(path: &str) -> Target<'_> {
    resource_path(path).map_or(Target::NonResource, Target::Resource)
}

fn resource_path(path: &str) -> Option<ResourcePath<'_>> {
    let (group_version, rest) = if let Some(rest) = path.strip_prefix("/api/") {
        split(rest)
    } else {
        let rest = path.strip_prefix("/apis/")?;
        let group_end = rest.find('/')?;
        let version_len = rest[group_end + 1..].find('/').unwrap_or(rest.len() - group_end - 1);
        let end = group_end + 1 + version_len;
        (&rest[..end], rest[end..].trim_start_matches('/'))
    };
    let (watch_prefix, rest) = match rest.strip_prefix("watch/") {
        Some(rest) => (true, rest),
        None => (false, rest),
    };
    let rest = rest.trim_end_matches('/');
    if rest.is_empty() {
        return None;
    }
    let mut parsed = ResourcePath {
        group_version,
        namespace: Cow::Borrowed(""),
        resource: "",
        name: Cow::Borrowed(""),
        subresource: "",
        rest: "",
        watch_prefix,
    };
    let (first, after) = split(rest);
    let (resource, tail) = match (first, split(after)) {
        ("namespaces", (ns, inner)) if !ns.is_empty() => {
            parsed.namespace = decode(ns);
            let (second, inner_tail) = split(inner);
            // A namespace's own subresources look like a resource inside it.
            if second.is_empty() || (group_version == "v1" && matches!(second, "status" | "finalize")) {
                parsed.resource = "namespaces";
                parsed.name = decode(ns);
                parsed.subresource = second;
                parsed.rest = inner_tail;
                return Some(parsed);
            }
            (second, inner_tail)
        }
        _ => (first, after),
    };
    parsed.resource = resource;
    let (name, tail) = split(tail);
    parsed.name = decode(name);
    (parsed.subresource, parsed.rest) = split(tail);
    Some(parsed)
}

/// First segment and what follows its slash.
fn split(path: &str) -> (&str, &str) {
    path.split_once('/').unwrap_or((path, ""))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resource(path: &str) -> ResourcePath<'_> {
        match parse(path) {
            Target::Resource(resource) => resource,
            Target::NonResource => panic!("{path} is not a resource path"),
        }
    }

    #[test]
    fn core_namespaced_object() {
        let r = resource("/api/v1/namespaces/default/pods/web");
        assert_eq!((r.group(), r.version(), &*r.namespace, r.resource, &*r.name), ("", "v1", "default", "pods", "web"));
    }

    #[test]
    fn group_collection_and_subresource() {
        let r = resource("/apis/apps/v1/deployments");
        assert_eq!((r.group(), r.version(), r.resource, &*r.name), ("apps", "v1", "deployments", ""));
        let r = resource("/apis/apps/v1/namespaces/a/deployments/b/scale");
        assert_eq!((&*r.namespace, r.resource, &*r.name, r.subresource), ("a", "deployments", "b", "scale"));
    }

    #[test]
    fn a_namespace_is_both_scope_and_object() {
        let r = resource("/api/v1/namespaces/x/finalize");
        assert_eq!((r.resource, &*r.name, r.subresource, &*r.namespace), ("namespaces", "x", "finalize", "x"));
        let r = resource("/api/v1/namespaces");
        assert_eq!((r.resource, &*r.name, &*r.namespace), ("namespaces", "", ""));
    }

    #[test]
    fn proxy_keeps_the_rest_and_names_are_decoded() {
        let r = resource("/api/v1/namespaces/d/services/https:web:443/proxy/a/b/");
        assert_eq!((&*r.name, r.subresource, r.rest), ("https:web:443", "proxy", "a/b"));
        let r = resource("/apis/rbac.authorization.k8s.io/v1/clusterroles/system%3Anode");
        assert_eq!(r.name, "system:node");
    }

    #[test]
    fn discovery_paths_are_not_resources() {
        for path in ["/", "/api", "/api/v1", "/apis", "/apis/apps", "/apis/apps/v1", "/apis/apps/v1/", "/version"] {
            assert_eq!(parse(path), Target::NonResource, "{path}");
        }
    }

    #[test]
    fn watch_prefix_is_stripped() {
        let r = resource("/api/v1/watch/namespaces/d/pods");
        assert!(r.watch_prefix);
        assert_eq!((&*r.namespace, r.resource), ("d", "pods"));
    }
}

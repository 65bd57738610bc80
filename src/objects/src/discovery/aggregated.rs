//! Aggregated discovery (KEP-3352): every group version and resource in one document per root path.

use serde::Serialize;

use crate::kinds::{Catalog, GroupRows, Kind, Scope, Subresource, VersionRows};

/// Which root is asked: `/api` holds the core group alone, `/apis` all others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Root {
    Api,
    Apis,
}

/// Versions of `apidiscovery.k8s.io` that clients accept; the documents differ in nothing but the name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AggregatedVersion {
    V2,
    V2Beta1,
}

impl AggregatedVersion {
    fn api_version(self) -> &'static str {
        match self {
            Self::V2 => "apidiscovery.k8s.io/v2",
            Self::V2Beta1 => "apidiscovery.k8s.io/v2beta1",
        }
    }

    /// The media type such an answer is labelled with.
    pub fn content_type(self) -> &'static str {
        match self {
            Self::V2 => "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList",
            Self::V2Beta1 => "application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList",
        }
    }
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct GroupDiscoveryList {
    kind: &'static str,
    api_version: &'static str,
    metadata: Empty,
    items: Vec<GroupDiscovery>,
}

#[derive(Debug, Serialize)]
struct Empty {}

#[derive(Debug, Serialize)]
struct GroupDiscovery {
    metadata: Name,
    versions: Vec<VersionDiscovery>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Name {
    #[serde(skip_serializing_if = "String::is_empty")]
    name: String,
    /// Always null; clients written in Go expect the field.
    creation_timestamp: Option<()>,
}

#[derive(Debug, Serialize)]
struct VersionDiscovery {
    version: String,
    resources: Vec<ResourceDiscovery>,
    freshness: &'static str,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct ResourceDiscovery {
    resource: String,
    response_kind: GroupVersionKind,
    scope: &'static str,
    singular_resource: String,
    verbs: Vec<&'static str>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    short_names: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    categories: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    subresources: Vec<SubresourceDiscovery>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct SubresourceDiscovery {
    subresource: &'static str,
    response_kind: GroupVersionKind,
    verbs: Vec<&'static str>,
}

#[derive(Debug, Serialize)]
struct GroupVersionKind {
    group: String,
    version: String,
    kind: String,
}

pub fn aggregated(catalog: &Catalog<'_>, root: Root, version: AggregatedVersion) -> GroupDiscoveryList {
    let wanted = |group: &GroupRows<'_, '_>| group.name().is_empty() == (root == Root::Api);
    GroupDiscoveryList {
        kind: "APIGroupDiscoveryList",
        api_version: version.api_version(),
        metadata: Empty {},
        items: catalog.groups().filter(wanted).map(describe_group).collect(),
    }
}

fn describe_group(group: GroupRows<'_, '_>) -> GroupDiscovery {
    let metadata = Name { name: group.name().into(), creation_timestamp: None };
    GroupDiscovery { metadata, versions: group.versions().map(describe_version).collect() }
}

fn describe_version(version: VersionRows<'_, '_>) -> VersionDiscovery {
    VersionDiscovery {
        version: version.version.into(),
        resources: version.rows.iter().map(|kind| describe_resource(kind)).collect(),
        freshness: "Current",
    }
}

fn describe_resource(kind: &Kind) -> ResourceDiscovery {
    ResourceDiscovery {
        resource: kind.plural.to_string(),
        response_kind: GroupVersionKind {
            group: kind.group.to_string(),
            version: kind.version.to_string(),
            kind: kind.kind.to_string(),
        },
        scope: match kind.scope {
            Scope::Namespaced => "Namespaced",
            Scope::Cluster => "Cluster",
        },
        singular_resource: kind.singular.to_string(),
        verbs: kind.verbs.iter().map(|v| v.as_str()).collect(),
        short_names: kind.short_names.iter().map(ToString::to_string).collect(),
        categories: kind.categories.iter().map(ToString::to_string).collect(),
        subresources: kind.subresources.iter().map(describe_subresource).collect(),
    }
}

fn describe_subresource(sub: &Subresource) -> SubresourceDiscovery {
    SubresourceDiscovery {
        subresource: sub.name,
        response_kind: GroupVersionKind {
            group: sub.group.to_string(),
            version: sub.version.to_string(),
            kind: sub.kind.to_string(),
        },
        verbs: sub.verbs.iter().map(|v| v.as_str()).collect(),
    }
}

//! Discovery documents (`/api`, `/apis`, `/api/v1`, `/apis/G`, `/apis/G/V`), built from the rows a [`Catalog`] holds.
//!
//! Pure: the API server serializes the answers. Clients that ask for the aggregated form get one document per root
//! instead of one per group version ([`aggregated`]).

mod aggregated;
#[cfg(test)]
mod tests;

use base64::Engine as _;
use serde::Serialize;
use sha2::{Digest as _, Sha256};

pub use aggregated::{AggregatedVersion, GroupDiscoveryList, Root, aggregated};

use crate::kinds::{Catalog, GroupRows, Kind, Subresource, VersionRows};

/// `GET /api`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ApiVersions {
    kind: &'static str,
    versions: Vec<&'static str>,
    #[serde(rename = "serverAddressByClientCIDRs")]
    server_addresses: Vec<ServerAddress>,
}

#[derive(Debug, Serialize)]
struct ServerAddress {
    #[serde(rename = "clientCIDR")]
    client_cidr: &'static str,
    #[serde(rename = "serverAddress")]
    server_address: String,
}

/// `GET /apis`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ApiGroupList {
    kind: &'static str,
    api_version: &'static str,
    groups: Vec<ApiGroup>,
}

/// `GET /apis/G`, and an entry of [`ApiGroupList`].
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ApiGroup {
    #[serde(skip_serializing_if = "Option::is_none")]
    kind: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    api_version: Option<&'static str>,
    name: String,
    versions: Vec<GroupVersion>,
    preferred_version: Option<GroupVersion>,
}

#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct GroupVersion {
    group_version: String,
    version: String,
}

/// `GET /api/v1`, `GET /apis/G/V`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ApiResourceList {
    kind: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    api_version: Option<&'static str>,
    group_version: String,
    resources: Vec<ApiResource>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct ApiResource {
    name: String,
    singular_name: String,
    namespaced: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    group: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<String>,
    kind: String,
    verbs: Vec<&'static str>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    short_names: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    categories: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    storage_version_hash: Option<String>,
}

/// `server_address` is the `host:port` clients outside reach the server at.
pub fn api_versions(server_address: impl Into<String>) -> ApiVersions {
    let address = ServerAddress { client_cidr: "0.0.0.0/0", server_address: server_address.into() };
    ApiVersions { kind: "APIVersions", versions: vec!["v1"], server_addresses: vec![address] }
}

pub fn group_list(catalog: &Catalog<'_>) -> ApiGroupList {
    let groups = catalog.groups().filter(|g| !g.name().is_empty()).map(describe_group).collect();
    ApiGroupList { kind: "APIGroupList", api_version: "v1", groups }
}

/// `None` if no such group is served.
pub fn group(catalog: &Catalog<'_>, name: &str) -> Option<ApiGroup> {
    let group = catalog.group(name).filter(|_| !name.is_empty())?;
    Some(ApiGroup { kind: Some("APIGroup"), api_version: Some("v1"), ..describe_group(group) })
}

/// The resources of one group version (`""` is the core group); `None` if it is not served.
pub fn resource_list(catalog: &Catalog<'_>, group: &str, version: &str) -> Option<ApiResourceList> {
    let rows = catalog.version(group, version)?;
    Some(ApiResourceList {
        kind: "APIResourceList",
        api_version: (!group.is_empty()).then_some("v1"),
        group_version: rows.api_version(),
        resources: rows.rows.iter().flat_map(|kind| resources(kind)).collect(),
    })
}

fn describe_group(group: GroupRows<'_, '_>) -> ApiGroup {
    let describe = |v: VersionRows<'_, '_>| GroupVersion { group_version: v.api_version(), version: v.version.into() };
    let versions: Vec<GroupVersion> = group.versions().map(describe).collect();
    let preferred_version = versions.first().cloned();
    ApiGroup { kind: None, api_version: None, name: group.name().into(), versions, preferred_version }
}

fn resources(kind: &Kind) -> impl Iterator<Item = ApiResource> + '_ {
    let main = ApiResource {
        name: kind.plural.to_string(),
        singular_name: kind.singular.to_string(),
        namespaced: kind.is_namespaced(),
        group: None,
        version: None,
        kind: kind.kind.to_string(),
        verbs: kind.verbs.iter().map(|v| v.as_str()).collect(),
        short_names: kind.short_names.iter().map(ToString::to_string).collect(),
        categories: kind.categories.iter().map(ToString::to_string).collect(),
        storage_version_hash: storage_version_hash(kind),
    };
    std::iter::once(main).chain(kind.subresources.iter().map(|sub| subresource(kind, sub)))
}

fn subresource(kind: &Kind, sub: &Subresource) -> ApiResource {
    let foreign = sub.group != kind.group || sub.version != kind.version;
    ApiResource {
        name: format!("{}/{}", kind.plural, sub.name),
        singular_name: String::new(),
        namespaced: kind.is_namespaced(),
        group: foreign.then(|| sub.group.to_string()),
        version: foreign.then(|| sub.version.to_string()),
        kind: sub.kind.to_string(),
        verbs: sub.verbs.iter().map(|v| v.as_str()).collect(),
        short_names: Vec::new(),
        categories: Vec::new(),
        storage_version_hash: None,
    }
}

/// An opaque mark of the form objects are stored in, equal to upstream's; `None` for kinds that are not stored.
fn storage_version_hash(kind: &Kind) -> Option<String> {
    if !kind.is_stored() {
        return None;
    }
    let stored = format!("{}/{}/{}", kind.storage_group, kind.storage_version, kind.kind);
    let hash = Sha256::digest(stored.as_bytes());
    Some(base64::engine::general_purpose::STANDARD.encode(&hash[..8]))
}

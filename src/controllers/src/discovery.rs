//! What the API serves, from its discovery documents. Used by the controllers that deal with every kind.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::APIResource as Served;
use kube::discovery::ApiResource;

/// One kind, in its group's preferred version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Kind {
    pub(crate) resource: ApiResource,
    pub(crate) namespaced: bool,
    verbs: Vec<String>,
}

impl Kind {
    pub(crate) fn can(&self, verb: &str) -> bool {
        self.verbs.iter().any(|v| v == verb)
    }
}

/// What discovery told, and what it failed to.
#[derive(Debug, Default)]
pub(crate) struct Discovered {
    pub(crate) kinds: Vec<Kind>,
    /// Groups that could not be asked, as `group/version`.
    pub(crate) failed: Vec<String>,
}

pub(crate) async fn discover(client: &kube::Client) -> kube::Result<Discovered> {
    let mut found = Discovered::default();
    let groups = client.list_api_groups().await?.groups.into_iter().filter_map(|group| {
        let version = group.preferred_version.or_else(|| group.versions.into_iter().next())?;
        Some((group.name, version.version))
    });
    let versions: Vec<_> = std::iter::once((String::new(), "v1".to_owned())).chain(groups).collect();
    for (group, version) in versions {
        let listed = if group.is_empty() {
            client.list_core_api_resources(&version).await
        } else {
            client.list_api_group_resources(&format!("{group}/{version}")).await
        };
        match listed {
            Ok(list) => found.kinds.extend(list.resources.into_iter().filter_map(|r| kind(&group, &version, r))),
            // The group went away between the two requests: then so did its objects.
            Err(error) if client::retry::is_not_found(&error) => {}
            Err(_) => found.failed.push(format!("{group}/{version}")),
        }
    }
    Ok(found)
}

fn kind(group: &str, version: &str, served: Served) -> Option<Kind> {
    if served.name.contains('/') {
        return None;
    }
    let resource = ApiResource {
        group: group.to_owned(),
        version: version.to_owned(),
        api_version: if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") },
        kind: served.kind,
        plural: served.name,
    };
    Some(Kind { resource, namespaced: served.namespaced, verbs: served.verbs })
}

//! All rows served at one moment: the built-in ones and those of the cluster's CustomResourceDefinitions, by group
//! and version in the order discovery gives them.

use std::cmp::Reverse;

use super::{KINDS, Kind};

/// Groups in the order kube-apiserver lists them; kubectl resolves an ambiguous name to the first. Groups not named
/// here (custom ones) follow, by name.
const GROUP_ORDER: &[&str] = &[
    "",
    "apiregistration.k8s.io",
    "apps",
    "events.k8s.io",
    "authentication.k8s.io",
    "authorization.k8s.io",
    "autoscaling",
    "batch",
    "certificates.k8s.io",
    "networking.k8s.io",
    "policy",
    "rbac.authorization.k8s.io",
    "storage.k8s.io",
    "admissionregistration.k8s.io",
    "apiextensions.k8s.io",
    "scheduling.k8s.io",
    "coordination.k8s.io",
    "node.k8s.io",
    "discovery.k8s.io",
    "resource.k8s.io",
    "flowcontrol.apiserver.k8s.io",
];

/// Rows sorted by group, version (most preferred first) and resource name.
#[derive(Clone, Debug)]
pub struct Catalog<'a> {
    rows: Vec<&'a Kind>,
}

/// The rows of one group.
#[derive(Clone, Copy, Debug)]
pub struct GroupRows<'c, 'a> {
    rows: &'c [&'a Kind],
}

/// The rows of one version of a group; never empty.
#[derive(Clone, Copy, Debug)]
pub struct VersionRows<'c, 'a> {
    pub group: &'c str,
    pub version: &'c str,
    pub rows: &'c [&'a Kind],
}

impl<'a> Catalog<'a> {
    pub fn new(custom: impl IntoIterator<Item = &'a Kind>) -> Self {
        let mut rows: Vec<&'a Kind> = KINDS.iter().chain(custom).collect();
        rows.sort_by(|a, b| sort_key(a).cmp(&sort_key(b)));
        Self { rows }
    }

    pub fn rows(&self) -> &[&'a Kind] {
        &self.rows
    }

    /// Groups in discovery order, the core group first.
    pub fn groups(&self) -> impl Iterator<Item = GroupRows<'_, 'a>> {
        self.rows.chunk_by(|a, b| a.group == b.group).map(|rows| GroupRows { rows })
    }

    pub fn group(&self, name: &str) -> Option<GroupRows<'_, 'a>> {
        self.groups().find(|g| g.name() == name)
    }

    pub fn version(&self, group: &str, version: &str) -> Option<VersionRows<'_, 'a>> {
        self.group(group)?.versions().find(|v| v.version == version)
    }
}

impl<'c, 'a> GroupRows<'c, 'a> {
    pub fn name(&self) -> &'c str {
        self.rows.first().map_or("", |k| &k.group)
    }

    /// Most preferred version first.
    pub fn versions(self) -> impl Iterator<Item = VersionRows<'c, 'a>> {
        self.rows.chunk_by(|a, b| a.version == b.version).filter_map(|rows| {
            let first = rows.first()?;
            Some(VersionRows { group: &first.group, version: &first.version, rows })
        })
    }
}

impl VersionRows<'_, '_> {
    pub fn api_version(&self) -> String {
        super::api_version(self.group, self.version)
    }
}

fn sort_key(kind: &Kind) -> impl Ord + '_ {
    let place = GROUP_ORDER.iter().position(|g| *g == kind.group).unwrap_or(GROUP_ORDER.len());
    (place, kind.group.as_ref(), Reverse(version_rank(&kind.version)), kind.version.as_ref(), kind.plural.as_ref())
}

/// Preference among versions as Kubernetes ranks them, higher is better: `v2` > `v1` > `v2beta1` > `v1alpha3`, then
/// names of any other form.
pub fn version_rank(version: &str) -> (u8, u32, u32) {
    let parse = || {
        let rest = version.strip_prefix('v')?;
        let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        let major = rest[..end].parse().ok()?;
        let (stability, minor) = match &rest[end..] {
            "" => (3, 0),
            tail => match (tail.strip_prefix("beta"), tail.strip_prefix("alpha")) {
                (Some(n), _) => (2, n.parse().ok()?),
                (_, Some(n)) => (1, n.parse().ok()?),
                _ => return None,
            },
        };
        Some((stability, major, minor))
    };
    parse().unwrap_or((0, 0, 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_rank_stable_then_beta_then_alpha_then_the_rest() {
        let mut versions = ["foo1", "v1", "v3beta1", "v10", "v12alpha1", "v11alpha2", "v10beta3", "v2"];
        versions.sort_by_key(|v| Reverse(version_rank(v)));
        assert_eq!(versions, ["v10", "v2", "v1", "v10beta3", "v3beta1", "v12alpha1", "v11alpha2", "foo1"]);
    }

    #[test]
    fn groups_come_in_upstream_order_with_custom_ones_last() {
        let mut custom = KINDS[0].clone();
        custom.group = "example.com".into();
        let catalog = Catalog::new([&custom]);
        let names: Vec<&str> = catalog.groups().map(|g| g.name()).collect();
        assert_eq!(names[..3], ["", "apiregistration.k8s.io", "apps"]);
        assert_eq!(names.last(), Some(&"example.com"));
        let hpa: Vec<&str> =
            catalog.group("autoscaling").into_iter().flat_map(|g| g.versions()).map(|v| v.version).collect();
        assert_eq!(hpa, ["v2", "v1"]);
    }

    #[test]
    fn every_built_in_group_has_a_place_in_the_order() {
        for kind in KINDS.iter() {
            assert!(GROUP_ORDER.contains(&kind.group.as_ref()), "{}", kind.group);
        }
    }
}

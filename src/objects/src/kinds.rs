//! The KINDS table: one row per kind the API server serves.
//!
//! Routes, discovery, OpenAPI, storage prefixes and coverage tests are all derived from these rows. Built-in rows
//! come from [`KINDS`]; a CustomResourceDefinition adds rows of the same type at run time, so built-in and custom
//! kinds share every code path. Nothing here depends on strategies or storage.

mod catalog;
mod custom;
mod rows;
#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::sync::LazyLock;

pub use catalog::{Catalog, GroupRows, VersionRows, version_rank};
pub use custom::{custom_definition_name, custom_rows};

/// A string that is static for built-in rows and owned for rows made from a CustomResourceDefinition.
pub type Text = Cow<'static, str>;

/// Whether objects of a kind live in a namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scope {
    Namespaced,
    Cluster,
}

/// The request verbs of the Kubernetes API, as discovery and RBAC name them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Verb {
    Create,
    Delete,
    DeleteCollection,
    Get,
    List,
    Patch,
    Update,
    Watch,
}

impl Verb {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Delete => "delete",
            Self::DeleteCollection => "deletecollection",
            Self::Get => "get",
            Self::List => "list",
            Self::Patch => "patch",
            Self::Update => "update",
            Self::Watch => "watch",
        }
    }
}

/// Verb sets that rows share.
pub mod verbs {
    use super::Verb::{self, Create, Delete, DeleteCollection, Get, List, Patch, Update, Watch};

    pub const ALL: &[Verb] = &[Create, Delete, DeleteCollection, Get, List, Patch, Update, Watch];
    pub const NO_COLLECTION_DELETE: &[Verb] = &[Create, Delete, Get, List, Patch, Update, Watch];
    pub const CREATE: &[Verb] = &[Create];
    pub const READ: &[Verb] = &[Get];
    pub const READ_LIST: &[Verb] = &[Get, List];
    pub const UPDATE: &[Verb] = &[Update];
    pub const READ_WRITE: &[Verb] = &[Get, Patch, Update];
    pub const CONNECT: &[Verb] = &[Create, Get];
    pub const PROXY: &[Verb] = &[Create, Delete, Get, Patch, Update];
}

/// A subresource of a kind, e.g. `pods/eviction`; group, version and kind are those of its body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subresource {
    pub name: &'static str,
    pub group: Text,
    pub version: Text,
    pub kind: Text,
    pub verbs: &'static [Verb],
}

/// One served version of one resource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kind {
    /// `""` is the core group.
    pub group: Text,
    pub version: Text,
    pub kind: Text,
    pub list_kind: Text,
    pub plural: Text,
    pub singular: Text,
    pub short_names: Vec<Text>,
    pub categories: Vec<Text>,
    pub scope: Scope,
    pub verbs: &'static [Verb],
    pub subresources: Vec<Subresource>,
    /// Key prefix of stored objects, without slashes at either end: `pods`, `apps/deployments`. Kinds that are views
    /// of the same objects (both Events, both HorizontalPodAutoscalers) have the same prefix.
    pub storage_prefix: Text,
    /// Group and version in which objects are stored; differs from the row's own for views and for CRD versions that
    /// are served but not stored.
    pub storage_group: Text,
    pub storage_version: Text,
    /// Definition name in OpenAPI, e.g. `io.k8s.api.core.v1.Pod`; for built-in rows also the key for
    /// [`crate::schema::definition`].
    pub schema: Text,
    /// True for rows made from a CustomResourceDefinition.
    pub custom: bool,
}

impl Kind {
    /// `v1` for the core group, else `group/version`.
    pub fn api_version(&self) -> String {
        api_version(&self.group, &self.version)
    }

    /// The `apiVersion` objects are stored with.
    pub fn storage_api_version(&self) -> String {
        api_version(&self.storage_group, &self.storage_version)
    }

    /// `pods` for the core group, else `deployments.apps`: how errors and RBAC messages name a resource.
    pub fn qualified_plural(&self) -> String {
        if self.group.is_empty() { self.plural.to_string() } else { format!("{}.{}", self.plural, self.group) }
    }

    pub fn is_namespaced(&self) -> bool {
        self.scope == Scope::Namespaced
    }

    pub fn has_verb(&self, verb: Verb) -> bool {
        self.verbs.contains(&verb)
    }

    pub fn subresource(&self, name: &str) -> Option<&Subresource> {
        self.subresources.iter().find(|s| s.name == name)
    }

    /// True where objects are kept: false for kinds that are only created and answered (reviews, Binding) or computed
    /// (ComponentStatus).
    pub fn is_stored(&self) -> bool {
        self.has_verb(Verb::Watch)
    }

    /// The built-in row whose form this row's objects are stored in; `None` for custom rows.
    pub fn storage_kind(&self) -> Option<&'static Kind> {
        find_kind(&self.storage_group, &self.storage_version, &self.kind)
    }
}

/// `v1` for the core group, else `group/version`.
pub fn api_version(group: &str, version: &str) -> String {
    if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") }
}

/// Splits an `apiVersion` into group and version; the core group is `""`.
pub fn split_api_version(api_version: &str) -> (&str, &str) {
    api_version.split_once('/').unwrap_or(("", api_version))
}

/// Every built-in kind, ordered by group, then resource.
pub static KINDS: LazyLock<Vec<Kind>> = LazyLock::new(rows::build);

/// The built-in row for a resource path segment.
pub fn find_resource(group: &str, version: &str, plural: &str) -> Option<&'static Kind> {
    KINDS.iter().find(|k| k.plural == plural && k.group == group && k.version == version)
}

/// The built-in row for a group, version and kind.
pub fn find_kind(group: &str, version: &str, kind: &str) -> Option<&'static Kind> {
    KINDS.iter().find(|k| k.kind == kind && k.group == group && k.version == version)
}

/// The built-in row for an object's `apiVersion` and `kind`.
pub fn find_object(api_version: &str, kind: &str) -> Option<&'static Kind> {
    let (group, version) = split_api_version(api_version);
    find_kind(group, version, kind)
}

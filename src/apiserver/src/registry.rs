//! The resources being served: the KINDS rows, and rows made from CustomResourceDefinitions. Looked up once for each
//! request, by the path's own text; replaced as a whole when a CRD changes.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use arc_swap::{ArcSwap, Guard};
use objects::{
    kinds::{KINDS, Kind},
    schema::{self, Schema},
    status::Qualified,
};

use crate::{
    cache::Projector,
    crd::{CustomResource, strategy::unstored},
    strategies::{self, StrategyRef},
};

/// One served version of one resource, with all that the generic verbs need of it.
pub(crate) struct Resource {
    pub(crate) kind: Kind,
    pub(crate) api_version: String,
    pub(crate) storage_api_version: String,
    pub(crate) strategy: StrategyRef,
    pub(crate) schema: SchemaRef,
    pub(crate) projector: Projector,
    /// Stored objects become this version's by a change of their header alone.
    pub(crate) same_shape: bool,
    /// For rows made from a CustomResourceDefinition.
    pub(crate) custom: Option<Arc<CustomResource>>,
}

/// A schema from the built-in table or from a CRD.
#[derive(Clone)]
pub(crate) enum SchemaRef {
    BuiltIn(&'static Schema),
    Custom(Arc<Schema>),
}

impl std::ops::Deref for SchemaRef {
    type Target = Schema;

    fn deref(&self) -> &Schema {
        match self {
            SchemaRef::BuiltIn(schema) => schema,
            SchemaRef::Custom(schema) => schema,
        }
    }
}

impl Resource {
    fn built_in(kind: &Kind) -> Option<Resource> {
        let schema = SchemaRef::BuiltIn(schema::of(kind)?);
        let strategy = match strategies::built_in(kind) {
            Some(strategy) => strategy,
            None if kind.is_stored() => return None,
            None => StrategyRef::Custom(Arc::new(unstored(kind, schema.clone()))),
        };
        Some(Resource {
            api_version: kind.api_version(),
            storage_api_version: kind.storage_api_version(),
            projector: Projector::of_built_in(&kind.storage_prefix),
            same_shape: kind.api_version() == kind.storage_api_version(),
            kind: kind.clone(),
            strategy,
            schema,
            custom: None,
        })
    }

    /// Group and plural, for error messages.
    pub(crate) fn qualified(&self) -> Qualified<'_> {
        Qualified::new(&self.kind.group, &self.kind.plural)
    }

    /// Group and kind, for `Invalid` messages.
    pub(crate) fn qualified_kind(&self) -> Qualified<'_> {
        Qualified::new(&self.kind.group, &self.kind.kind)
    }

    /// Whether this is the built-in resource `plural` of `group`.
    pub(crate) fn is(&self, group: &str, plural: &str) -> bool {
        !self.kind.custom && self.kind.group == group && self.kind.plural == plural
    }

    /// `pods` or `deployments.apps`.
    pub(crate) fn prefix(&self) -> &str {
        &self.kind.storage_prefix
    }
}

/// One immutable state of the registry.
pub(crate) struct Table {
    by_path: HashMap<Box<str>, HashMap<Box<str>, Arc<Resource>>>,
    rows: Vec<Arc<Resource>>,
}

impl Table {
    fn new(rows: Vec<Arc<Resource>>) -> Table {
        let mut by_path: HashMap<Box<str>, HashMap<Box<str>, Arc<Resource>>> = HashMap::new();
        for row in &rows {
            by_path
                .entry(row.api_version.as_str().into())
                .or_default()
                .insert(row.kind.plural.as_ref().into(), row.clone());
        }
        Table { by_path, rows }
    }

    /// The resource under `/apis/<group_version>/<plural>`.
    pub(crate) fn find(&self, group_version: &str, plural: &str) -> Option<&Arc<Resource>> {
        self.by_path.get(group_version)?.get(plural)
    }

    /// The resource of an object's `apiVersion` and `kind`.
    pub(crate) fn of_object(&self, api_version: &str, kind: &str) -> Option<&Arc<Resource>> {
        self.by_path.get(api_version)?.values().find(|row| row.kind.kind == kind)
    }

    /// Every served version of every resource.
    pub(crate) fn rows(&self) -> &[Arc<Resource>] {
        &self.rows
    }
}

/// The table in force.
pub(crate) struct Registry {
    built_in: Vec<Arc<Resource>>,
    table: ArcSwap<Table>,
    changing: Mutex<()>,
}

impl Registry {
    /// Only the built-in kinds.
    pub(crate) fn built_in() -> Registry {
        let built_in: Vec<_> = KINDS.iter().filter_map(Resource::built_in).map(Arc::new).collect();
        let table = ArcSwap::from_pointee(Table::new(built_in.clone()));
        Registry { built_in, table, changing: Mutex::default() }
    }

    /// The present table.
    pub(crate) fn load(&self) -> Guard<Arc<Table>> {
        self.table.load()
    }

    /// The present table, to keep.
    pub(crate) fn table(&self) -> Arc<Table> {
        self.table.load_full()
    }

    /// Held by whoever makes a new table from the present one.
    pub(crate) fn changing(&self) -> MutexGuard<'_, ()> {
        self.changing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Replaces all custom rows.
    pub(crate) fn set_custom(&self, custom: Vec<Arc<Resource>>) {
        let rows = self.built_in.iter().cloned().chain(custom).collect();
        self.table.store(Arc::new(Table::new(rows)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_stored_kind_is_served() {
        let registry = Registry::built_in();
        let table = registry.load();
        let missing: Vec<_> = KINDS
            .iter()
            .filter(|kind| table.find(&kind.api_version(), &kind.plural).is_none())
            .map(|kind| kind.qualified_plural())
            .collect();
        assert!(missing.is_empty(), "not served: {missing:?}");
    }
}

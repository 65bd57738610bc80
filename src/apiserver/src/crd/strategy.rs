//! The strategy of custom resources: metadata and generation as for any kind, the rest from the CRD's schema.

use std::{
    collections::HashSet,
    sync::{Mutex, PoisonError},
};

use jiff::Timestamp;
use objects::{
    columns::Column,
    kinds::Kind,
    schema,
    status::Status,
    strategy::{Context, Facts, Part, SelectableField, Strategy, deletion::rfc3339, scale::Scale},
};
use serde_json::{Map, Value};

use crate::{
    encoded::{child_mut, is_terminating, meta_str, metadata_mut},
    registry::SchemaRef,
};

/// Where a CRD keeps what `/scale` shows, as steps from the root.
#[derive(Debug, Clone)]
pub(crate) struct ScalePaths {
    pub(crate) spec: Vec<String>,
    pub(crate) status: Vec<String>,
    pub(crate) selector: Option<Vec<String>>,
}

/// One extra printer column: its path is a JSONPath in the CRD.
#[derive(Debug, Clone)]
pub(crate) struct PrintedColumn {
    pub(crate) path: String,
    pub(crate) kind: String,
}

/// See the module's documentation.
pub(crate) struct CustomStrategy {
    pub(crate) facts: Facts,
    pub(crate) schema: SchemaRef,
    pub(crate) has_status: bool,
    pub(crate) scale: Option<ScalePaths>,
    pub(crate) fields: Vec<SelectableField>,
    pub(crate) columns: Vec<Column>,
    /// For the columns behind Name.
    pub(crate) printed: Vec<PrintedColumn>,
}

/// A text that lives as long as the process. Repeated texts share one allocation, so redefining a CRD leaks nothing.
pub(crate) fn intern(text: &str) -> &'static str {
    static TEXTS: Mutex<Option<HashSet<&'static str>>> = Mutex::new(None);
    let mut texts = TEXTS.lock().unwrap_or_else(PoisonError::into_inner);
    let texts = texts.get_or_insert_default();
    if let Some(known) = texts.get(text) {
        return known;
    }
    let leaked: &'static str = Box::leak(text.to_owned().into_boxed_str());
    texts.insert(leaked);
    leaked
}

/// The steps of a path, under the same terms.
pub(crate) fn intern_path(path: &[String]) -> &'static [&'static str] {
    static PATHS: Mutex<Option<HashSet<&'static [&'static str]>>> = Mutex::new(None);
    let path: Vec<&'static str> = path.iter().map(|step| intern(step)).collect();
    let mut paths = PATHS.lock().unwrap_or_else(PoisonError::into_inner);
    let paths = paths.get_or_insert_default();
    if let Some(known) = paths.get(path.as_slice()) {
        return known;
    }
    let leaked: &'static [&'static str] = Box::leak(path.into_boxed_slice());
    paths.insert(leaked);
    leaked
}

/// Metadata that only the server writes; an update keeps the stored one's.
const KEPT: [&str; 6] =
    ["uid", "creationTimestamp", "generation", "deletionTimestamp", "deletionGracePeriodSeconds", "selfLink"];

impl CustomStrategy {
    fn complete(&self, object: &mut Value) {
        schema::prune(object, &self.schema);
        schema::default(object, &self.schema);
    }

    fn validate(&self, object: &Value) -> Result<(), Status> {
        crate::validation::custom(self.facts.qualified_kind(), self.facts.namespaced, &self.schema, object)
    }
}

/// What a row without rules of its own says of its kind.
pub(super) fn facts(kind: &Kind) -> Facts {
    Facts {
        group: intern(&kind.group),
        version: intern(&kind.version),
        kind: intern(&kind.kind),
        resource: intern(&kind.plural),
        namespaced: kind.is_namespaced(),
        allow_create_on_update: false,
        allow_unconditional_update: false,
    }
}

/// For kinds that are answered and never stored.
pub(crate) fn unstored(kind: &Kind, schema: SchemaRef) -> CustomStrategy {
    CustomStrategy {
        facts: facts(kind),
        schema,
        has_status: false,
        scale: None,
        fields: Vec::new(),
        columns: vec![Column::NAME],
        printed: Vec::new(),
    }
}

/// Whether anything but metadata and status differs.
fn desired_state_changed(new: &Value, old: &Value, has_status: bool) -> bool {
    let part = |object: &Value| -> Map<String, Value> {
        object
            .as_object()
            .into_iter()
            .flatten()
            .filter(|(name, _)| name.as_str() != "metadata" && !(has_status && name.as_str() == "status"))
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect()
    };
    part(new) != part(old)
}

/// Fills what the server decides in the metadata of a new object.
pub(crate) fn prepare_new(object: &mut Value, context: &Context<'_>) {
    let now = rfc3339(context.now);
    let metadata = metadata_mut(object);
    let text = |metadata: &Map<String, Value>, key: &str| {
        metadata.get(key).and_then(Value::as_str).unwrap_or_default().to_owned()
    };
    if text(metadata, "name").is_empty() && !text(metadata, "generateName").is_empty() {
        let name = format!("{}{}", text(metadata, "generateName"), context.name_suffix);
        metadata.insert("name".into(), name.into());
    }
    match context.namespace {
        Some(namespace) => metadata.insert("namespace".into(), namespace.into()),
        None => metadata.remove("namespace"),
    };
    for gone in ["resourceVersion", "selfLink", "deletionTimestamp", "deletionGracePeriodSeconds"] {
        metadata.remove(gone);
    }
    metadata.insert("uid".into(), context.uid.into());
    metadata.insert("creationTimestamp".into(), now.into());
    metadata.insert("generation".into(), 1.into());
}

/// Takes over from `old` what an update may not change in the metadata.
fn keep_metadata(new: &mut Value, old: &Value) {
    let old = old.get("metadata").and_then(Value::as_object);
    let metadata = metadata_mut(new);
    for key in KEPT {
        match old.and_then(|m| m.get(key)) {
            Some(value) => metadata.insert(key.into(), value.clone()),
            None => metadata.remove(key),
        };
    }
}

impl Strategy for CustomStrategy {
    fn facts(&self) -> &Facts {
        &self.facts
    }

    fn decode(&self, mut object: Value) -> Result<Value, Status> {
        self.complete(&mut object);
        Ok(object)
    }

    fn create(&self, mut object: Value, context: &Context<'_>) -> Result<Value, Status> {
        prepare_new(&mut object, context);
        if self.has_status
            && let Some(fields) = object.as_object_mut()
        {
            fields.remove("status");
        }
        self.complete(&mut object);
        self.validate(&object)?;
        Ok(object)
    }

    fn update(&self, part: Part, mut new: Value, old: &Value, _: &Context<'_>) -> Result<Value, Status> {
        let mut object = match part {
            Part::Status => {
                let mut object = old.clone();
                object["status"] = new.get_mut("status").map(Value::take).unwrap_or_default();
                if object["status"].is_null()
                    && let Some(fields) = object.as_object_mut()
                {
                    fields.remove("status");
                }
                if let Some(managed) = new.pointer_mut("/metadata/managedFields").map(Value::take) {
                    metadata_mut(&mut object).insert("managedFields".into(), managed);
                }
                object
            }
            _ => {
                keep_metadata(&mut new, old);
                if self.has_status
                    && let Some(fields) = new.as_object_mut()
                {
                    fields.remove("status");
                    if let Some(status) = old.get("status") {
                        fields.insert("status".into(), status.clone());
                    }
                }
                new
            }
        };
        self.complete(&mut object);
        if part == Part::Main && desired_state_changed(&object, old, self.has_status) {
            let generation = old.pointer("/metadata/generation").and_then(Value::as_i64).unwrap_or(0);
            metadata_mut(&mut object).insert("generation".into(), (generation + 1).into());
        }
        if !is_terminating(old) || part == Part::Main {
            self.validate(&object)?;
        }
        Ok(object)
    }

    fn selectable_fields(&self) -> &[SelectableField] {
        &self.fields
    }

    fn columns(&self) -> &[Column] {
        &self.columns
    }

    fn cells(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        let mut cells = vec![Value::from(meta_str(object, "name"))];
        cells.extend(self.printed.iter().map(|column| super::columns::cell(column, object, now)));
        cells
    }

    fn scale(&self, object: &Value) -> Option<Scale> {
        let paths = self.scale.as_ref()?;
        let at = |path: &[String]| path.iter().try_fold(object, |at, step| at.get(step));
        let number =
            |path: &[String]| at(path).and_then(Value::as_i64).and_then(|n| i32::try_from(n).ok()).unwrap_or_default();
        Some(Scale {
            spec_replicas: number(&paths.spec),
            status_replicas: number(&paths.status),
            selector: paths.selector.as_deref().and_then(at).and_then(Value::as_str).unwrap_or_default().to_owned(),
        })
    }

    fn set_scale(&self, object: &mut Value, replicas: i32) -> bool {
        let Some((last, parents)) = self.scale.as_ref().and_then(|paths| paths.spec.split_last()) else { return false };
        let mut at = object;
        for step in parents {
            child_mut(at, step);
            at = &mut at[step.as_str()];
        }
        at[last.as_str()] = replicas.into();
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_that_comes_again_takes_no_more_memory() {
        let path = || intern_path(&["spec".to_owned(), "interned".to_owned()]);
        assert!(std::ptr::eq(path(), path()));
    }
}

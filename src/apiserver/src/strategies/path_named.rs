//! RBAC objects are named more freely than others: any path segment will do (`system:node`). Their strategy sees a
//! plain name in its place while it checks everything else.

use jiff::Timestamp;
use objects::{
    columns::Column,
    field::{BadValue, Errors, Path},
    names,
    status::Status,
    strategy::{Context, Facts, Grace, Part, SelectableField, Strategy},
};
use serde_json::Value;

use crate::encoded::{meta_str, metadata_mut};

const PLACEHOLDER: &str = "placeholder";

/// A strategy whose objects may have any path segment as their name.
pub(crate) struct PathNamed(pub(crate) &'static dyn Strategy);

fn rename(object: &mut Value, name: &str) {
    metadata_mut(object).insert("name".into(), name.into());
}

impl PathNamed {
    fn check(&self, name: &str) -> Result<(), Status> {
        let mut errors = Errors::default();
        let metadata = Path::root("metadata");
        for message in names::path_segment(name, false) {
            errors.invalid(&metadata.child("name"), BadValue::from(name), &message);
        }
        if errors.is_empty() {
            return Ok(());
        }
        Err(Status::invalid(self.facts().qualified_kind(), name, errors.as_slice()))
    }
}

impl Strategy for PathNamed {
    fn facts(&self) -> &Facts {
        self.0.facts()
    }

    fn decode(&self, object: Value) -> Result<Value, Status> {
        self.0.decode(object)
    }

    fn create(&self, mut object: Value, context: &Context<'_>) -> Result<Value, Status> {
        let mut name = meta_str(&object, "name").to_owned();
        let prefix = meta_str(&object, "generateName");
        if name.is_empty() && !prefix.is_empty() {
            name = names::generate(prefix, context.name_suffix);
        }
        if name.is_empty() {
            return self.0.create(object, context);
        }
        self.check(&name)?;
        let prefix = metadata_mut(&mut object).remove("generateName");
        rename(&mut object, PLACEHOLDER);
        let mut made = self.0.create(object, context)?;
        rename(&mut made, &name);
        if let Some(prefix) = prefix {
            metadata_mut(&mut made).insert("generateName".into(), prefix);
        }
        Ok(made)
    }

    fn update(&self, part: Part, mut new: Value, old: &Value, context: &Context<'_>) -> Result<Value, Status> {
        let name = meta_str(old, "name").to_owned();
        let mut old = old.clone();
        for object in [&mut new, &mut old] {
            rename(object, PLACEHOLDER);
            metadata_mut(object).remove("generateName");
        }
        let mut made = self.0.update(part, new, &old, context)?;
        rename(&mut made, &name);
        Ok(made)
    }

    fn selectable_fields(&self) -> &[SelectableField] {
        self.0.selectable_fields()
    }

    fn columns(&self) -> &[Column] {
        self.0.columns()
    }

    fn cells(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        self.0.cells(object, now)
    }

    fn grace(&self, object: &Value, requested: Option<i64>) -> Grace {
        self.0.grace(object, requested)
    }
}

//! Definitions: nodes of the facts table in OpenAPI's words.

use std::collections::BTreeSet;

use serde::ser::{Serialize, SerializeMap as _, Serializer};
use serde_json::{Map, Value, json};

use super::custom::{self, CustomSchema};
use super::texts::{DefinitionTexts, Texts};
use super::{Dialect, operations};
use crate::kinds::{Kind, Verb, VersionRows};
use crate::schema::{Format, ListType, MapType, Schema, Type, definition};

pub(super) const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1";

/// Names of the built-in definitions that some group versions refer to, directly or not.
pub(super) struct Closure(BTreeSet<&'static str>);

impl Closure {
    pub(super) fn of(versions: &[VersionRows<'_, '_>]) -> Self {
        let mut closure = Self(BTreeSet::new());
        for kind in versions.iter().flat_map(|v| v.rows.iter()) {
            closure.add(&kind.schema);
            closure.add(&format!("{}List", kind.schema));
            for sub in &kind.subresources {
                if let Some(name) = operations::body_definition(kind, sub) {
                    closure.add(&name);
                }
            }
        }
        for name in ["DeleteOptions", "ListMeta", "ObjectMeta", "Patch", "Status", "APIResourceList"] {
            closure.add(&format!("{META}.{name}"));
        }
        closure
    }

    fn add(&mut self, name: &str) {
        let known = crate::schema::definition_names();
        let Ok(at) = known.binary_search(&name) else { return };
        let Some(node) = definition(known[at]).filter(|_| self.0.insert(known[at])) else { return };
        self.visit(node);
    }

    fn visit(&mut self, node: &Schema) {
        if let Some(name) = node.definition_name() {
            self.add(name);
            return;
        }
        node.fields().iter().for_each(|(_, field)| self.visit(field));
        node.items().into_iter().chain(node.values()).for_each(|child| self.visit(child));
    }
}

pub(super) struct Definitions<'a> {
    pub(super) dialect: Dialect,
    pub(super) versions: &'a [VersionRows<'a, 'a>],
    pub(super) custom: &'a [CustomSchema<'a>],
    pub(super) closure: &'a Closure,
    pub(super) texts: &'a Texts,
}

impl Serialize for Definitions<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        let mut result = Ok(());
        self.each(&mut |name, definition| {
            if result.is_ok() {
                result = map.serialize_entry(name, &definition);
            }
        });
        result?;
        map.end()
    }
}

impl Definitions<'_> {
    /// Calls `f` with each definition, one at a time.
    pub(super) fn each(&self, f: &mut dyn FnMut(&str, Value)) {
        for name in &self.closure.0 {
            if let Some(node) = definition(name) {
                f(name, self.definition(name, node));
            }
        }
        for kind in self.versions.iter().flat_map(|v| v.rows.iter()).filter(|k| k.custom) {
            let schema = self.custom.iter().find(|c| c.definition == kind.schema).and_then(|c| c.schema);
            f(&kind.schema, custom::object(self.dialect, kind, schema, self.texts));
            f(&format!("{}List", kind.schema), custom::list(self.dialect, kind, self.texts));
        }
    }

    fn definition(&self, name: &str, node: &Schema) -> Value {
        let texts = self.texts.of(name);
        let mut out = Map::new();
        set_text(&mut out, texts.own());
        if node.definition_name().is_none() {
            // an alias stands for a value of several shapes: nothing is said of its type
            self.shape(&mut out, node, &texts);
        }
        set_map_type(&mut out, node.own_map_type());
        let kinds = self.group_version_kinds(name);
        if !kinds.is_empty() {
            out.insert("x-kubernetes-group-version-kind".into(), kinds.into());
        }
        Value::Object(out)
    }

    /// Which kinds a definition is the body of.
    fn group_version_kinds(&self, name: &str) -> Vec<Value> {
        if let Some(kind) = name.strip_prefix(META).and_then(|n| n.strip_prefix('.')) {
            return match kind {
                "DeleteOptions" => self.versions.iter().map(|v| gvk(v.group, v.version, kind)).collect(),
                "Status" | "APIResourceList" => vec![gvk("", "v1", kind)],
                _ => Vec::new(),
            };
        }
        let built_in = crate::kinds::KINDS.iter();
        let found = built_in.filter_map(|row| {
            let rest = name.strip_prefix(row.schema.as_ref())?;
            match rest {
                "" => Some(gvk(&row.group, &row.version, &row.kind)),
                "List" => Some(gvk(&row.group, &row.version, &row.list_kind)),
                _ => None,
            }
        });
        let found: Vec<Value> = found.take(1).collect();
        if found.is_empty() { operations::answer_kind(name).into_iter().collect() } else { found }
    }

    fn shape(&self, out: &mut Map<String, Value>, node: &Schema, texts: &DefinitionTexts<'_>) {
        set_type(out, node, self.dialect);
        if !node.fields().is_empty() {
            let properties = node.fields().iter().map(|(name, field)| {
                let mut property = self.node(field);
                if let (Some(text), Value::Object(map)) = (texts.field(name), &mut property) {
                    map.insert("description".into(), text.into());
                }
                (name.to_string(), property)
            });
            out.insert("properties".into(), Value::Object(properties.collect()));
        }
        if !node.required().is_empty() {
            out.insert("required".into(), node.required().iter().map(|r| Value::from(r.as_ref())).collect());
        }
    }

    /// A property, item or map value.
    fn node(&self, node: &Schema) -> Value {
        let mut out = Map::new();
        if let Some(target) = node.definition_name() {
            let reference = self.dialect.reference(target);
            match (self.dialect, reference) {
                // beside a $ref, OpenAPI 3.0 allows nothing else
                (Dialect::V3, reference) => drop(out.insert("allOf".into(), json!([reference]))),
                (Dialect::V2, Value::Object(reference)) => out.extend(reference),
                (Dialect::V2, _) => {}
            }
        } else {
            set_type(&mut out, node, self.dialect);
        }
        if let Some(items) = node.items().filter(|_| node.is_list()) {
            out.insert("items".into(), self.node(items));
            set_list(&mut out, node);
        }
        if let (Some(values), None) = (node.values(), node.definition_name()) {
            out.insert("additionalProperties".into(), self.node(values));
        }
        set_map_type(&mut out, node.own_map_type());
        set_patch(&mut out, node);
        if let Some(extra) = node.extra() {
            if !extra.enumeration.is_empty() && self.dialect == Dialect::V3 {
                out.insert("enum".into(), extra.enumeration.clone().into());
            }
            if let Some(value) = &extra.default {
                out.insert("default".into(), value.clone());
            }
        }
        Value::Object(out)
    }
}

pub(super) fn gvk(group: &str, version: &str, kind: &str) -> Value {
    json!({"group": group, "version": version, "kind": kind})
}

pub(super) fn set_text(out: &mut Map<String, Value>, text: Option<String>) {
    if let Some(text) = text {
        out.insert("description".into(), text.into());
    }
}

fn set_type(out: &mut Map<String, Value>, node: &Schema, dialect: Dialect) {
    let mut set = |key: &str, value: &str| drop(out.insert(key.into(), value.into()));
    match (node.ty(), dialect) {
        (Type::Any, _) => {}
        (Type::String, _) | (Type::Quantity, Dialect::V2) => set("type", "string"),
        (Type::Integer, _) => set("type", "integer"),
        (Type::Number, _) => set("type", "number"),
        (Type::Boolean, _) => set("type", "boolean"),
        (Type::Object | Type::Map, _) => set("type", "object"),
        (Type::List, _) => set("type", "array"),
        (Type::IntOrString, Dialect::V2) => {
            set("type", "string");
            set("format", "int-or-string");
        }
        (Type::IntOrString, Dialect::V3) => {
            set("format", "int-or-string");
            out.insert("oneOf".into(), json!([{"type": "integer"}, {"type": "string"}]));
        }
        (Type::Quantity, Dialect::V3) => {
            out.insert("oneOf".into(), json!([{"type": "string"}, {"type": "number"}]));
        }
    }
    let format = match node.format() {
        Format::None => return,
        Format::Int32 => "int32",
        Format::Int64 => "int64",
        Format::Double => "double",
        Format::Byte => "byte",
        Format::DateTime => "date-time",
        Format::Other(name) => name,
    };
    out.insert("format".into(), format.into());
}

fn set_list(out: &mut Map<String, Value>, node: &Schema) {
    let kind = match node.list_type() {
        ListType::Set => "set",
        ListType::Map => "map",
        ListType::Atomic if node.patch_strategy().merge => return,
        ListType::Atomic => "atomic",
    };
    out.insert("x-kubernetes-list-type".into(), kind.into());
    if !node.map_keys().is_empty() {
        let keys = node.map_keys().iter().map(|k| Value::from(k.as_ref())).collect();
        out.insert("x-kubernetes-list-map-keys".into(), keys);
    }
}

fn set_map_type(out: &mut Map<String, Value>, map_type: Option<MapType>) {
    let kind = match map_type {
        None => return,
        Some(MapType::Atomic) => "atomic",
        Some(MapType::Granular) => "granular",
    };
    out.insert("x-kubernetes-map-type".into(), kind.into());
}

fn set_patch(out: &mut Map<String, Value>, node: &Schema) {
    let strategy = node.patch_strategy();
    let text = match (strategy.merge, strategy.retain_keys, strategy.replace) {
        (true, true, _) => "merge,retainKeys",
        (true, false, _) => "merge",
        (false, true, _) => "retainKeys",
        (false, false, true) => "replace",
        (false, false, false) => return,
    };
    out.insert("x-kubernetes-patch-strategy".into(), text.into());
    if let Some(key) = node.merge_key() {
        out.insert("x-kubernetes-patch-merge-key".into(), key.into());
    }
}

/// True for kinds that have a list form.
pub(super) fn has_list(kind: &Kind) -> bool {
    kind.has_verb(Verb::List)
}

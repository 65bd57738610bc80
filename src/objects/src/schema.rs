//! Schemas of API objects: one node type for the built-in facts table and for CustomResourceDefinitions.
//!
//! Strategic merge, server-side apply, pruning, defaulting, strict decoding and value validation all walk these nodes.
//! Built-in nodes live in a table decoded once on first use ([`definition`]); a CRD's nodes are parsed from its
//! `openAPIV3Schema` ([`Schema::from_crd`]). References between built-in definitions are followed by every accessor,
//! so callers never see them. Facts only: descriptions are joined in by [`crate::openapi`] when a document is served.

mod crd;
mod defaulting;
mod duplicate;
mod format;
mod pruning;
mod structural;

mod table;
#[cfg(test)]
mod tests;
mod unknown;
mod validation;

use serde_json::Value;

pub use crate::kinds::Text;
pub use crd::CrdSchemaError;
pub use defaulting::default;
pub use duplicate::duplicate_fields;
pub use pruning::prune;
pub use structural::check_structural;

pub(crate) use table::text as table_text;
pub use table::{definition, definition_names};
pub use unknown::{strict_error, undeclared_fields, unknown_fields};
pub use validation::validate;

/// JSON shape of a node. References are never a shape: accessors follow them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Type {
    /// Anything goes: raw extensions, `x-kubernetes-preserve-unknown-fields` without a type, JSON.
    #[default]
    Any,
    String,
    Integer,
    Number,
    Boolean,
    /// An object with named properties, or with neither properties nor a value schema.
    Object,
    /// An object with arbitrary keys and one value schema.
    Map,
    List,
    /// A string or an integer.
    IntOrString,
    /// `resource.Quantity`: a string or a number.
    Quantity,
}

/// `format` of a scalar.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub enum Format {
    #[default]
    None,
    Int32,
    Int64,
    Double,
    Byte,
    DateTime,
    Other(Box<str>),
}

/// `x-kubernetes-list-type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum ListType {
    /// Also where nothing is said.
    #[default]
    Atomic,
    Set,
    Map,
}

/// `x-kubernetes-map-type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum MapType {
    #[default]
    Granular,
    Atomic,
}

/// `x-kubernetes-patch-strategy` of a field (strategic merge patch). All false: objects are merged, lists replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct PatchStrategy {
    /// A list is merged, by its merge key or as a set of scalars.
    pub merge: bool,
    /// Fields of the object that the patch does not name are dropped.
    pub retain_keys: bool,
    /// An object is replaced whole.
    pub replace: bool,
}

/// One node. Cheap to borrow, costly to clone: share custom schemas behind an `Arc`.
#[derive(Clone, Debug, Default)]
pub struct Schema {
    ty: Type,
    body: Body,
    format: Format,
    nullable: bool,
    preserve_unknown: bool,
    embedded_resource: bool,
    list_type: ListType,
    /// `None`: nothing said here; a definition referred to may say.
    map_type: Option<MapType>,
    patch: PatchStrategy,
    extra: Option<Box<Extra>>,
}

#[derive(Clone, Debug, Default)]
enum Body {
    #[default]
    None,
    Object(Box<ObjectBody>),
    /// `additionalProperties`.
    Map(Box<Schema>),
    List(Box<ListBody>),
    /// Index of a built-in definition.
    Definition(u16),
}

#[derive(Clone, Debug, Default)]
struct ObjectBody {
    /// Sorted by name.
    fields: Vec<(Text, Schema)>,
    required: Vec<Text>,
}

#[derive(Clone, Debug, Default)]
struct ListBody {
    items: Schema,
    map_keys: Vec<Text>,
    merge_key: Option<Text>,
}

/// What only few nodes carry.
#[derive(Clone, Debug, Default)]
pub struct Extra {
    pub default: Option<Value>,
    pub enumeration: Vec<Value>,
    pub limits: Limits,
    pub all_of: Vec<Schema>,
    pub any_of: Vec<Schema>,
    pub one_of: Vec<Schema>,
    pub not: Option<Schema>,
    /// `x-kubernetes-validations`, kept for a CEL evaluator; [`validate`] does not look at them.
    pub rules: Vec<Rule>,
}

/// JSON-schema value bounds.
#[derive(Clone, Debug, Default)]
pub struct Limits {
    pub minimum: Option<f64>,
    pub exclusive_minimum: bool,
    pub maximum: Option<f64>,
    pub exclusive_maximum: bool,
    pub multiple_of: Option<f64>,
    pub min_length: Option<u64>,
    pub max_length: Option<u64>,
    pub pattern: Option<regex_lite::Regex>,
    pub min_items: Option<u64>,
    pub max_items: Option<u64>,
    pub unique_items: bool,
    pub min_properties: Option<u64>,
    pub max_properties: Option<u64>,
}

/// One entry of `x-kubernetes-validations`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    pub rule: String,
    pub message: Option<String>,
    pub message_expression: Option<String>,
    pub reason: Option<String>,
    pub field_path: Option<String>,
}

impl Schema {
    /// Parses one version's `openAPIV3Schema`. `apiVersion`, `kind` and `metadata` are added at the root and in
    /// embedded resources.
    pub fn from_crd(schema: &Value) -> Result<Self, CrdSchemaError> {
        crd::root(schema)
    }

    /// The schema of an object of which nothing is known: everything but the object's envelope is kept.
    pub fn preserve_all() -> Self {
        crd::preserve_all()
    }

    fn resolved(&self) -> &Self {
        let mut node = self;
        while let Body::Definition(index) = node.body {
            node = table::by_index(index);
        }
        node
    }

    pub fn ty(&self) -> Type {
        self.resolved().ty
    }

    pub fn format(&self) -> &Format {
        &self.resolved().format
    }

    pub fn is_list(&self) -> bool {
        self.ty() == Type::List
    }

    /// An object or a map.
    pub fn is_object(&self) -> bool {
        matches!(self.ty(), Type::Object | Type::Map)
    }

    /// The schema of the value under `name`: the named property, or a map's value schema.
    pub fn field(&self, name: &str) -> Option<&Self> {
        match &self.resolved().body {
            Body::Object(body) => {
                body.fields.binary_search_by(|(n, _)| n.as_ref().cmp(name)).ok().map(|i| &body.fields[i].1)
            }
            Body::Map(values) => Some(values),
            _ => None,
        }
    }

    /// Follows a dotted path of field names; lists are stepped into by `[]`: `spec.containers.[].name`.
    pub fn at(&self, path: &str) -> Option<&Self> {
        path.split('.').try_fold(self, |node, step| if step == "[]" { node.items() } else { node.field(step) })
    }

    /// Named properties, sorted by name.
    pub fn fields(&self) -> &[(Text, Self)] {
        match &self.resolved().body {
            Body::Object(body) => &body.fields,
            _ => &[],
        }
    }

    pub fn required(&self) -> &[Text] {
        match &self.resolved().body {
            Body::Object(body) => &body.required,
            _ => &[],
        }
    }

    /// `additionalProperties`.
    pub fn values(&self) -> Option<&Self> {
        match &self.resolved().body {
            Body::Map(values) => Some(values),
            _ => None,
        }
    }

    pub fn items(&self) -> Option<&Self> {
        match &self.resolved().body {
            Body::List(body) => Some(&body.items),
            _ => None,
        }
    }

    pub fn list_type(&self) -> ListType {
        self.list_type
    }

    /// `x-kubernetes-list-map-keys`.
    pub fn map_keys(&self) -> &[Text] {
        match &self.resolved().body {
            Body::List(body) => &body.map_keys,
            _ => &[],
        }
    }

    /// What the field says, else what the type it refers to says.
    pub fn map_type(&self) -> MapType {
        self.map_type.or(self.resolved().map_type).unwrap_or_default()
    }

    /// `x-kubernetes-map-type` as said at this very node.
    pub(crate) fn own_map_type(&self) -> Option<MapType> {
        self.map_type
    }

    /// `x-kubernetes-patch-strategy`.
    pub fn patch_strategy(&self) -> PatchStrategy {
        self.patch
    }

    /// `x-kubernetes-patch-merge-key`.
    pub fn merge_key(&self) -> Option<&str> {
        match &self.resolved().body {
            Body::List(body) => body.merge_key.as_deref(),
            _ => None,
        }
    }

    /// `x-kubernetes-preserve-unknown-fields`: unknown properties are kept.
    pub fn preserves_unknown(&self) -> bool {
        let node = self.resolved();
        node.preserve_unknown || node.ty == Type::Any
    }

    /// `x-kubernetes-embedded-resource`.
    pub fn is_embedded_resource(&self) -> bool {
        self.resolved().embedded_resource
    }

    pub fn is_nullable(&self) -> bool {
        self.nullable
    }

    pub fn default_value(&self) -> Option<&Value> {
        self.extra().and_then(|e| e.default.as_ref())
    }

    pub fn extra(&self) -> Option<&Extra> {
        self.extra.as_deref().or_else(|| self.resolved().extra.as_deref())
    }

    /// Name of the built-in definition this node refers to, if it does.
    pub fn definition_name(&self) -> Option<&'static str> {
        match self.body {
            Body::Definition(index) => Some(table::name_of(index)),
            _ => None,
        }
    }
}

/// The schema of a built-in row.
pub fn of(kind: &crate::kinds::Kind) -> Option<&'static Schema> {
    definition(&kind.schema)
}

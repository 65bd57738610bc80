//! The OpenAPI definitions that `kubernetes-validate` carries.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::Context as _;
use serde::Deserialize;
use serde_json::Value;

const FILE: &str = "kubernetes_validate/kubernetes-json-schema/v1.36.0-local/_definitions.json";
const REFERENCE: &str = "#/$defs/";

#[derive(Deserialize)]
struct File {
    #[serde(rename = "$defs")]
    definitions: BTreeMap<String, Node>,
}

/// What a definition or property says, prose left out.
#[derive(Deserialize, Default)]
#[serde(default)]
pub(super) struct Node {
    #[serde(rename = "$ref")]
    reference: Option<String>,
    #[serde(rename = "type")]
    types: Option<Value>,
    pub(super) format: Option<String>,
    pub(super) properties: BTreeMap<String, Node>,
    pub(super) required: Vec<String>,
    pub(super) items: Option<Box<Node>>,
    #[serde(rename = "additionalProperties")]
    pub(super) values: Option<Box<Node>>,
    #[serde(rename = "x-kubernetes-list-type")]
    pub(super) list_type: Option<String>,
    #[serde(rename = "x-kubernetes-list-map-keys")]
    pub(super) map_keys: Vec<String>,
    #[serde(rename = "x-kubernetes-map-type")]
    pub(super) map_type: Option<String>,
    #[serde(rename = "x-kubernetes-patch-merge-key")]
    pub(super) merge_key: Option<String>,
    #[serde(rename = "x-kubernetes-patch-strategy")]
    pub(super) patch_strategy: Option<String>,
}

impl Node {
    /// Name of the definition referred to.
    pub(super) fn reference(&self) -> Option<&str> {
        self.reference.as_deref().and_then(|r| r.strip_prefix(REFERENCE))
    }

    /// The JSON type; `null` alternatives are left out.
    pub(super) fn json_type(&self) -> Option<&str> {
        match self.types.as_ref()? {
            Value::String(name) => Some(name),
            Value::Array(names) => names.iter().filter_map(Value::as_str).find(|name| *name != "null"),
            _ => None,
        }
    }
}

/// Definitions by name; alpha and beta versions left out.
pub(super) fn load(wheel: &Path) -> anyhow::Result<BTreeMap<String, Node>> {
    let path = wheel.join(FILE);
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let file: File = serde_json::from_str(&text).with_context(|| format!("cannot parse {}", path.display()))?;
    let stable = |name: &str| !super::is_unstable(name.rsplit_once('.').map_or("", |(package, _)| package));
    Ok(file.definitions.into_iter().filter(|(name, _)| stable(name)).collect())
}

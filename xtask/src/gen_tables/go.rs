//! What only the Go types say: JSON names behind protobuf tags, presence, defaults and enumerations.
//!
//! A line scanner, not a Go parser: the API's types files are machine-formatted, one field a line.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use anyhow::Context as _;

/// One struct field.
#[derive(Clone, Default)]
pub(super) struct Field {
    /// Empty for inlined structs.
    pub(super) json: String,
    pub(super) inline: bool,
    pub(super) omit_empty: bool,
    pub(super) pointer: bool,
    /// Protobuf field number; 0 if none.
    pub(super) tag: u32,
    /// Go type without pointer and list marks, qualified by the file's package where it has none.
    ty: String,
    default: Option<String>,
}

#[derive(Default)]
pub(super) struct Go {
    /// Definition name → fields, in source order.
    structs: BTreeMap<String, Vec<Field>>,
    /// Types marked as enumerations, and their constants' values.
    enums: BTreeMap<String, BTreeSet<String>>,
}

impl Go {
    /// The field of JSON name `json`, looking into inlined structs.
    pub(super) fn field(&self, definition: &str, json: &str) -> Option<&Field> {
        let fields = self.structs.get(definition)?;
        fields
            .iter()
            .find(|f| !f.inline && f.json == json)
            .or_else(|| fields.iter().filter(|f| f.inline).find_map(|f| self.field(&f.ty, json)))
    }

    pub(super) fn by_tag(&self, definition: &str, tag: u32) -> Option<&Field> {
        self.structs.get(definition)?.iter().find(|f| f.tag == tag)
    }

    pub(super) fn enumeration(&self, field: &Field) -> Option<Vec<&str>> {
        let values = self.enums.get(&field.ty)?;
        Some(values.iter().map(String::as_str).collect())
    }

    /// The default as JSON; markers that name a constant are left out.
    pub(super) fn default_of<'a>(&self, field: &'a Field) -> Option<&'a str> {
        field.default.as_deref().filter(|value| serde_json::from_str::<serde_json::Value>(value).is_ok())
    }
}

pub(super) fn load(root: &Path) -> anyhow::Result<Go> {
    let mut go = Go::default();
    let folders = [
        "k8s.io/api",
        "k8s.io/apimachinery/pkg/apis/meta/v1",
        "k8s.io/apimachinery/pkg/runtime",
        "k8s.io/apimachinery/pkg/util/intstr",
        "k8s.io/apimachinery/pkg/api/resource",
        "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1",
        "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1",
    ];
    for folder in folders {
        visit(root, folder, &mut go)?;
    }
    Ok(go)
}

fn visit(root: &Path, folder: &str, go: &mut Go) -> anyhow::Result<()> {
    let path = root.join(folder);
    let package = super::definition_package(folder);
    if super::is_unstable(&package) {
        return Ok(());
    }
    for entry in fs::read_dir(&path).with_context(|| format!("cannot read {}", path.display()))? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if entry.file_type()?.is_dir() {
            if name != "testdata" {
                visit(root, &format!("{folder}/{name}"), go)?;
            }
        } else if name.ends_with(".go") && !name.ends_with("_test.go") && !name.contains("generated") {
            scan(&fs::read_to_string(entry.path())?, &package, go);
        }
    }
    Ok(())
}

#[derive(Default)]
struct Scan {
    aliases: BTreeMap<String, String>,
    current: Option<String>,
    default: Option<String>,
    enumeration: bool,
}

fn scan(text: &str, package: &str, go: &mut Go) {
    let mut scan = Scan::default();
    for line in text.lines() {
        let line = line.trim_end();
        let trimmed = line.trim_start();
        if let Some((alias, path)) = import(trimmed) {
            scan.aliases.insert(alias, super::definition_package(&path));
        } else if let Some(value) = trimmed.strip_prefix("// +default=") {
            scan.default = Some(value.trim().to_owned());
        } else if trimmed == "// +enum" {
            scan.enumeration = true;
        } else if trimmed.starts_with("//") || trimmed.is_empty() {
            if trimmed.is_empty() {
                scan.default = None;
            }
        } else if let Some(rest) = line.strip_prefix("type ") {
            declare(rest, package, go, &mut scan);
        } else if line == "}" {
            scan.current = None;
        } else if let Some(current) = &scan.current {
            if let Some(field) = field(trimmed, package, &scan) {
                go.structs.entry(current.clone()).or_default().push(field);
            }
            scan.default = None;
        } else {
            constant(trimmed, package, go);
        }
    }
}

fn declare(rest: &str, package: &str, go: &mut Go, scan: &mut Scan) {
    let mut words = rest.split_whitespace();
    let (Some(name), Some(kind)) = (words.next(), words.next()) else { return };
    let name = format!("{package}.{name}");
    if kind == "struct" {
        go.structs.entry(name.clone()).or_default();
        scan.current = (!rest.ends_with('}')).then_some(name);
    } else if scan.enumeration && kind == "string" {
        go.enums.entry(name).or_default();
    }
    scan.enumeration = false;
}

/// `metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"` → alias and path.
fn import(line: &str) -> Option<(String, String)> {
    let (alias, rest) = line.split_once('"')?;
    let path = rest.strip_suffix('"')?;
    if !path.starts_with("k8s.io/") {
        return None;
    }
    let alias = alias.trim().trim_start_matches("import").trim();
    let alias = if alias.is_empty() { path.rsplit('/').next()? } else { alias };
    Some((alias.to_owned(), path.to_owned()))
}

/// `Name Type = "value"` inside a const block, or the same after `const`.
fn constant(line: &str, package: &str, go: &mut Go) {
    let Some((left, right)) = line.trim_start_matches("const ").split_once('=') else { return };
    let Some(ty) = left.split_whitespace().nth(1) else { return };
    let value = right.trim().strip_prefix('"').and_then(|v| v.split('"').next());
    if let (Some(values), Some(value)) = (go.enums.get_mut(&format!("{package}.{ty}")), value) {
        values.insert(value.to_owned());
    }
}

fn field(line: &str, package: &str, scan: &Scan) -> Option<Field> {
    let (head, tags) = line.split_once('`')?;
    let json = tag(tags, "json")?;
    let (name, options) = json.split_once(',').unwrap_or((json, ""));
    let ty = head.split_whitespace().last()?;
    let base = ty.trim_start_matches(['*', '[', ']']);
    let qualified = match base.split_once('.') {
        Some((alias, name)) => format!("{}.{name}", scan.aliases.get(alias)?),
        None => format!("{package}.{base}"),
    };
    let protobuf = tag(tags, "protobuf").unwrap_or("");
    Some(Field {
        json: name.to_owned(),
        inline: options.split(',').any(|o| o == "inline") || (name.is_empty() && head.split_whitespace().count() == 1),
        omit_empty: options.split(',').any(|o| o == "omitempty" || o == "omitzero"),
        pointer: ty.starts_with('*'),
        tag: protobuf.split(',').nth(1).and_then(|n| n.parse().ok()).unwrap_or(0),
        ty: qualified,
        default: scan.default.clone(),
    })
}

fn tag<'a>(tags: &'a str, name: &str) -> Option<&'a str> {
    tags.split_once(&format!("{name}:\""))?.1.split('"').next()
}

//! Messages of the `generated.proto` files: field numbers and wire types.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::Context as _;

pub(super) struct Field {
    pub(super) name: String,
    pub(super) tag: u32,
    /// In the table's grammar: `string`, `[]T`, `{}T`, `*<definition>`.
    pub(super) ty: String,
}

pub(super) type Messages = BTreeMap<String, Vec<Field>>;

/// Messages by definition name; alpha and beta packages left out.
pub(super) fn load(root: &Path) -> anyhow::Result<Messages> {
    let mut messages = Messages::new();
    visit(root, "k8s.io", &mut messages)?;
    Ok(messages)
}

fn visit(root: &Path, folder: &str, messages: &mut Messages) -> anyhow::Result<()> {
    let path = root.join(folder);
    for entry in fs::read_dir(&path).with_context(|| format!("cannot read {}", path.display()))? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if entry.file_type()?.is_dir() {
            visit(root, &format!("{folder}/{name}"), messages)?;
        } else if name == "generated.proto" && served(folder) {
            scan(&fs::read_to_string(entry.path())?, &super::definition_package(folder), messages);
        }
    }
    Ok(())
}

fn served(folder: &str) -> bool {
    let package = super::definition_package(folder);
    // clients ask for partial metadata and tables in v1beta1 forms too
    (!super::is_unstable(&package) || package.ends_with("meta.v1beta1"))
        && !folder.contains("testapigroup")
        && !folder.contains("/examples/")
}

fn scan(text: &str, package: &str, messages: &mut Messages) {
    let mut current: Option<String> = None;
    for line in text.lines().map(str::trim) {
        if let Some(name) = line.strip_prefix("message ") {
            let name = format!("{package}.{}", name.trim_end_matches('{').trim());
            messages.entry(name.clone()).or_default();
            current = Some(name);
        } else if line == "}" {
            current = None;
        } else if let Some(message) = &current
            && !line.starts_with("//")
            && let Some(field) = field(line, package)
        {
            messages.entry(message.clone()).or_default().push(field);
        }
    }
}

/// `optional string name = 1;`, `repeated X x = 2;`, `map<string, X> m = 3;`.
fn field(line: &str, package: &str) -> Option<Field> {
    let (left, tag) = line.strip_suffix(';')?.split_once('=')?;
    let tag = tag.trim().parse().ok()?;
    let (ty, name) = left.trim().rsplit_once(' ')?;
    let ty = ty.trim();
    let ty = if let Some(entry) = ty.strip_prefix("map<") {
        let (_, value) = entry.strip_suffix('>')?.split_once(',')?;
        format!("{{}}{}", type_name(value.trim(), package))
    } else if let Some(item) = ty.strip_prefix("repeated ") {
        format!("[]{}", type_name(item, package))
    } else {
        type_name(ty.strip_prefix("optional ")?, package)
    };
    Some(Field { name: name.to_owned(), tag, ty })
}

fn type_name(name: &str, package: &str) -> String {
    match name {
        "string" | "bool" | "int32" | "int64" | "double" | "bytes" => name.to_owned(),
        _ => match name.strip_prefix(".k8s.io.") {
            Some(full) => format!("*io.k8s.{}", full.replace("apiextensions_apiserver", "apiextensions-apiserver")),
            None => format!("*{package}.{name}"),
        },
    }
}

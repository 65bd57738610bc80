//! `/openapi/v3`: the group versions and a hash of each one's document.

use std::fmt::Write as _;
use std::sync::LazyLock;

use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};

use super::Source;
use crate::kinds::VersionRows;

/// Of everything the documents' wording comes from in this executable.
static TABLES: LazyLock<Sha256> = LazyLock::new(|| {
    let mut hash = Sha256::new();
    hash.update(env!("CARGO_PKG_VERSION"));
    hash.update(crate::schema::table_text());
    hash
});

pub(super) fn render(source: &Source<'_>) -> Vec<u8> {
    let mut paths = Map::new();
    for version in source.catalog.groups().flat_map(|g| g.versions()) {
        let path = path(version.group, version.version);
        let url = format!("/openapi/v3/{path}?hash={}", hash(source, version));
        paths.insert(path, json!({"serverRelativeURL": url}));
    }
    json!({"paths": Value::Object(paths)}).to_string().into_bytes()
}

fn path(group: &str, version: &str) -> String {
    if group.is_empty() { format!("api/{version}") } else { format!("apis/{group}/{version}") }
}

pub(super) fn hash(source: &Source<'_>, version: VersionRows<'_, '_>) -> String {
    let mut hash = TABLES.clone();
    // descriptions differ only between builds: their size and check sum (the last bytes) tell them apart
    let tail = source.descriptions.len().saturating_sub(8);
    hash.update(source.descriptions.get(tail..).unwrap_or_default());
    for kind in version.rows {
        hash.update(format!("{kind:?}"));
        let schema = source.custom.iter().find(|c| c.definition == kind.schema).and_then(|c| c.schema);
        if let Some(schema) = schema {
            hash.update(schema.to_string());
        }
    }
    let mut text = String::with_capacity(64);
    for byte in hash.finalize() {
        // writing to a String cannot fail
        write!(text, "{byte:02X}").unwrap_or_default();
    }
    text
}

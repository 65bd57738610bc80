//! OpenAPI documents, made when asked for from the facts table, the KINDS rows and the CRDs' own schemas.
//!
//! Nothing is kept: a document of a group version is written straight to bytes, one definition at a time, and given
//! away. The prose (`kubectl explain`) comes from a compressed table that the caller hands in and that is unpacked
//! only for as long as a document is being written.

mod custom;
mod gnostic;
mod index;
mod operations;
mod paths;
mod schemas;
#[cfg(test)]
mod tests;
mod texts;

use serde::Serializer as _;
use serde::ser::SerializeMap as _;
use serde_json::{Map, Value, json};

pub use custom::CustomSchema;
pub use gnostic::CONTENT_TYPE as V2_PROTOBUF;

use crate::kinds::{Catalog, VersionRows};
use paths::Paths;
use schemas::{Closure, Definitions};
use texts::Texts;

/// The version the documents state, that of the API.
const API_VERSION: &str = "v1.36.0";

/// Which form a document has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Dialect {
    /// Swagger 2.0: one document of everything.
    V2,
    /// OpenAPI 3.0: one document a group version.
    V3,
}

impl Dialect {
    fn reference(self, definition: &str) -> Value {
        match self {
            Self::V2 => json!({"$ref": format!("#/definitions/{definition}")}),
            Self::V3 => json!({"$ref": format!("#/components/schemas/{definition}")}),
        }
    }
}

/// What documents are made from.
#[derive(Clone, Copy, Debug)]
pub struct Source<'a> {
    pub catalog: &'a Catalog<'a>,
    /// Schemas of the custom rows in the catalog; a custom row without one is published as an object of any fields.
    pub custom: &'a [CustomSchema<'a>],
    /// The compressed description table (`embedded::API_DESCRIPTIONS`); empty: no descriptions.
    pub descriptions: &'a [u8],
}

impl Source<'_> {
    /// `GET /openapi/v3`: where each group version's document is, with a hash that changes when it does.
    pub fn index(&self) -> Vec<u8> {
        index::render(self)
    }

    /// The hash the index gives for one group version; `None` if it is not served. Serves as the document's ETag.
    pub fn hash(&self, group: &str, version: &str) -> Option<String> {
        Some(index::hash(self, self.catalog.version(group, version)?))
    }

    /// `GET /openapi/v3/api/v1`, `GET /openapi/v3/apis/G/V`; `None` if the group version is not served.
    pub fn v3(&self, group: &str, version: &str) -> Option<Vec<u8>> {
        let rows = self.catalog.version(group, version)?;
        Some(self.render(Dialect::V3, &[rows]))
    }

    /// `GET /openapi/v2`, as JSON.
    pub fn v2(&self) -> Vec<u8> {
        self.render(Dialect::V2, &self.all())
    }

    /// `GET /openapi/v2`, as [`V2_PROTOBUF`].
    pub fn v2_protobuf(&self) -> Vec<u8> {
        let versions = self.all();
        let (texts, closure) = (Texts::unpack(self.descriptions), Closure::of(&versions));
        let paths = Paths { dialect: Dialect::V2, versions: &versions };
        let definitions = self.definitions(Dialect::V2, &versions, &closure, &texts);
        gnostic::render(&frame(Dialect::V2), &paths, &definitions)
    }

    fn all(&self) -> Vec<VersionRows<'_, '_>> {
        self.catalog.groups().flat_map(|g| g.versions()).collect()
    }

    fn definitions<'d>(
        &'d self,
        dialect: Dialect,
        versions: &'d [VersionRows<'d, 'd>],
        closure: &'d Closure,
        texts: &'d Texts,
    ) -> Definitions<'d> {
        Definitions { dialect, versions, custom: self.custom, closure, texts }
    }

    fn render(&self, dialect: Dialect, versions: &[VersionRows<'_, '_>]) -> Vec<u8> {
        let mut out = Vec::with_capacity(256 * 1024);
        // every value is plain data and the sink is memory: writing cannot fail
        self.write(dialect, versions, &mut out).unwrap_or_default();
        out
    }

    fn write(&self, dialect: Dialect, versions: &[VersionRows<'_, '_>], out: &mut Vec<u8>) -> serde_json::Result<()> {
        let (texts, closure) = (Texts::unpack(self.descriptions), Closure::of(versions));
        let definitions = self.definitions(dialect, versions, &closure, &texts);
        let mut serializer = serde_json::Serializer::new(out);
        let mut root = serializer.serialize_map(None)?;
        for (key, value) in frame(dialect) {
            root.serialize_entry(&key, &value)?;
        }
        root.serialize_entry("paths", &Paths { dialect, versions })?;
        match dialect {
            Dialect::V2 => root.serialize_entry("definitions", &definitions)?,
            Dialect::V3 => root.serialize_entry("components", &Components { definitions })?,
        }
        root.end()
    }
}

/// What a document says beside its paths and definitions.
fn frame(dialect: Dialect) -> Map<String, Value> {
    let mut out = Map::new();
    let mut set = |key: &str, value: Value| drop(out.insert(key.to_owned(), value));
    set("info", json!({"title": "Kubernetes", "version": API_VERSION}));
    set("security", json!([{"BearerToken": []}]));
    match dialect {
        Dialect::V2 => {
            set("swagger", "2.0".into());
            set("securityDefinitions", security(dialect));
        }
        Dialect::V3 => set("openapi", "3.0.0".into()),
    }
    out
}

fn security(dialect: Dialect) -> Value {
    let mut token = json!({"type": "apiKey", "in": "header", "name": "authorization"});
    if dialect == Dialect::V2 {
        token["description"] = "Bearer token".into();
    }
    json!({"BearerToken": token})
}

struct Components<'a> {
    definitions: Definitions<'a>,
}

impl serde::Serialize for Components<'_> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("schemas", &self.definitions)?;
        map.serialize_entry("securitySchemes", &security(Dialect::V3))?;
        map.end()
    }
}

//! Views of objects that clients ask for in the Accept header: Table rows and bare metadata.

use jiff::Timestamp;
use objects::columns::Column;
use objects::status::Status;
use objects::strategy::scale::{self, Scale};
use serde_json::{Map, Value, json};

use crate::{cache::Entry, convert, encoded, query::Query, registry::Resource};

/// What a table row carries besides its cells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Include {
    None,
    Metadata,
    Object,
}

impl Include {
    pub(crate) fn of(query: &Query) -> Include {
        match query.text("includeObject") {
            Some("None") => Include::None,
            Some("Object") => Include::Object,
            _ => Include::Metadata,
        }
    }
}

/// The PartialObjectMetadata of an object.
pub(crate) fn partial(object: &Value) -> Value {
    json!({
        "kind": "PartialObjectMetadata",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": object.get("metadata").cloned().unwrap_or_else(|| Value::Object(Map::new())),
    })
}

/// A Table of objects. `metadata` is the list's; a single object's own resourceVersion is used without.
pub(crate) fn table(
    resource: &Resource,
    objects: impl Iterator<Item = Value>,
    include: Include,
    metadata: Option<Value>,
) -> Value {
    let now = Timestamp::now();
    let mut version = Value::Null;
    let rows: Vec<Value> = objects
        .map(|object| {
            version = object.pointer("/metadata/resourceVersion").cloned().unwrap_or_default();
            row(resource, object, include, now)
        })
        .collect();
    let metadata = metadata.unwrap_or_else(|| json!({ "resourceVersion": version }));
    table_of(resource.strategy.columns(), &rows, &metadata)
}

/// A Table of one Scale, which is no stored object.
pub(crate) fn scale_table(scale: &Scale, object: &Value, include: Include) -> Value {
    let shown = scale.to_object(object);
    let metadata = json!({"resourceVersion": shown.pointer("/metadata/resourceVersion")});
    let row = row_of(scale.cells(object, Timestamp::now()), shown, include);
    table_of(scale::COLUMNS, &[row], &metadata)
}

fn table_of(columns: &[Column], rows: &[Value], metadata: &Value) -> Value {
    json!({
        "kind": "Table",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": metadata,
        "columnDefinitions": definitions(columns),
        "rows": rows,
    })
}

/// Appends a table row of a stored object: its cells are read from the bytes and its metadata is copied.
pub(crate) fn write_row(
    out: &mut Vec<u8>,
    resource: &Resource,
    entry: &Entry,
    include: Include,
    now: Timestamp,
) -> Result<(), Status> {
    if !resource.same_shape {
        let row = row(resource, convert::from_stored(resource, entry.decode()?)?, include, now);
        return serde_json::to_writer(out, &row).map_err(Status::internal);
    }
    out.extend_from_slice(b"{\"cells\":");
    let cells = resource.strategy.cells_of_json(&entry.value, now);
    serde_json::to_writer(&mut *out, &cells).map_err(Status::internal)?;
    if include != Include::None {
        out.extend_from_slice(b",\"object\":");
    }
    match include {
        Include::None => {}
        Include::Metadata => encoded::splice_partial(out, &entry.value, entry.revision)?,
        Include::Object => convert::write(out, resource, &entry.value, entry.revision)?,
    }
    out.push(b'}');
    Ok(())
}

/// Appends the PartialObjectMetadata of a stored object.
pub(crate) fn write_partial(out: &mut Vec<u8>, resource: &Resource, entry: &Entry) -> Result<(), Status> {
    if resource.same_shape {
        return encoded::splice_partial(out, &entry.value, entry.revision);
    }
    let object = convert::from_stored(resource, entry.decode()?)?;
    serde_json::to_writer(out, &partial(&object)).map_err(Status::internal)
}

/// A table's columns, as it describes them.
pub(crate) fn definitions(columns: &[Column]) -> Value {
    let definition = |column: &Column| {
        json!({
            "name": column.name,
            "type": column.kind,
            "format": column.format,
            "description": column.description,
            "priority": column.priority,
        })
    };
    columns.iter().map(definition).collect()
}

fn row(resource: &Resource, object: Value, include: Include, now: Timestamp) -> Value {
    row_of(resource.strategy.cells(&object, now), object, include)
}

fn row_of(cells: Vec<Value>, object: Value, include: Include) -> Value {
    let carried = match include {
        Include::None => return json!({ "cells": cells }),
        Include::Metadata => partial(&object),
        Include::Object => object,
    };
    json!({ "cells": cells, "object": carried })
}

//! Watch events on the wire: one JSON document per line, or length-delimited protobuf, in the view the client wants.

use objects::{protobuf::Transcoder, status::Status};
use serde_json::{Value, json};
use storage::Revision;

use crate::{
    cache::Entry,
    convert, encoded,
    negotiate::{Encoding, Form, View},
    query::Query,
    registry::Resource,
    rest::Place,
    views::{self, Include},
    wire,
};
use std::sync::Arc;

/// `type` of a watch event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum EventType {
    Added,
    Modified,
    Deleted,
    Bookmark,
    Error,
}

impl EventType {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            EventType::Added => "ADDED",
            EventType::Modified => "MODIFIED",
            EventType::Deleted => "DELETED",
            EventType::Bookmark => "BOOKMARK",
            EventType::Error => "ERROR",
        }
    }
}

/// Writes events of one watch.
pub(crate) struct Frames {
    resource: Arc<Resource>,
    form: Form,
    include: Include,
    transcoder: Transcoder,
    json: Vec<u8>,
}

impl Frames {
    pub(crate) fn new(query: &Query, place: &Place<'_>, form: Form) -> Frames {
        Frames {
            resource: place.resource.clone(),
            form,
            include: Include::of(query),
            transcoder: Transcoder::default(),
            json: Vec::new(),
        }
    }

    /// An object's event; `revision` is the object's, or that of its removal.
    pub(crate) fn event(&mut self, out: &mut Vec<u8>, kind: EventType, entry: &Entry, revision: Revision) {
        let begin = out.len();
        if let Err(status) = self.object(out, kind, entry, revision) {
            out.truncate(begin);
            self.error(out, &status);
        }
    }

    fn object(&mut self, out: &mut Vec<u8>, kind: EventType, entry: &Entry, revision: Revision) -> Result<(), Status> {
        let resource = &self.resource;
        match (self.form.encoding, self.form.view) {
            (Encoding::Protobuf, _) => {
                self.json.clear();
                convert::write(&mut self.json, resource, &entry.value, revision)?;
                let types = (resource.api_version.as_str(), resource.kind.kind.as_ref());
                self.transcoder.watch_frame(out, kind.as_str(), types, &self.json).map_err(wire::refusal)?;
            }
            (_, View::Full) => {
                begin(out, kind);
                convert::write(out, resource, &entry.value, revision)?;
                out.extend_from_slice(b"}\n");
            }
            _ => {
                let value = convert::from_stored(resource, encoded::decode(&entry.value, revision)?)?;
                let view = self.view(value);
                self.value(out, kind, &view);
            }
        }
        Ok(())
    }

    fn view(&self, value: Value) -> Value {
        match self.form.view {
            View::Full => value,
            View::Table => views::table(&self.resource, std::iter::once(value), self.include, None),
            View::PartialMetadata | View::PartialMetadataList => views::partial(&value),
        }
    }

    /// A bookmark: nothing older than `revision` is still to come.
    pub(crate) fn bookmark(&mut self, out: &mut Vec<u8>, revision: Revision, ends_initial: bool) {
        let mut metadata = json!({"resourceVersion": revision.to_string(), "creationTimestamp": null});
        if ends_initial {
            metadata["annotations"] = json!({"k8s.io/initial-events-end": "true"});
        }
        let (api_version, kind) = match self.form.view {
            View::PartialMetadata | View::PartialMetadataList => ("meta.k8s.io/v1", "PartialObjectMetadata"),
            _ => (self.resource.api_version.as_str(), self.resource.kind.kind.as_ref()),
        };
        let object = json!({"kind": kind, "apiVersion": api_version, "metadata": metadata});
        let object = match self.form.view {
            View::Table => json!({
                "kind": "Table",
                "apiVersion": "meta.k8s.io/v1",
                "metadata": {"resourceVersion": revision.to_string()},
                "columnDefinitions": null,
                "rows": [{"cells": [], "object": object}],
            }),
            _ => object,
        };
        self.value(out, EventType::Bookmark, &object);
    }

    /// The event that ends a watch with a failure.
    pub(crate) fn error(&mut self, out: &mut Vec<u8>, status: &Status) {
        self.value(out, EventType::Error, &serde_json::to_value(status).unwrap_or_default());
    }

    fn value(&mut self, out: &mut Vec<u8>, kind: EventType, value: &Value) {
        if self.form.encoding == Encoding::Protobuf {
            let text = |name: &str| value.get(name).and_then(Value::as_str).unwrap_or_default();
            let (types, json) = ((text("apiVersion"), text("kind")), value.to_string());
            if let Err(error) = self.transcoder.watch_frame(out, kind.as_str(), types, json.as_bytes()) {
                tracing::warn!(%error, "an object cannot be sent as protobuf");
            }
            return;
        }
        begin(out, kind);
        // Writing JSON values to memory cannot fail.
        serde_json::to_writer(&mut *out, value).unwrap_or_default();
        out.extend_from_slice(b"}\n");
    }
}

fn begin(out: &mut Vec<u8>, kind: EventType) {
    out.extend_from_slice(b"{\"type\":\"");
    out.extend_from_slice(kind.as_str().as_bytes());
    out.extend_from_slice(b"\",\"object\":");
}

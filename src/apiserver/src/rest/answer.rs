//! How a page of a collection is sent: head, items one by one, end. Items are written as the client reads them, each
//! from its stored bytes. Forms for people to read (YAML, indented JSON) are made whole. Called by `list`.

use std::sync::Arc;

use http::Response;
use jiff::Timestamp;
use objects::{
    protobuf::{ListForm, Transcoder},
    status::Status,
};
use serde_json::{Map, Value};

use crate::{
    body::Body,
    cache::Entry,
    chunks::{Chunks, Pieces},
    convert,
    handler::Call,
    negotiate::{Encoding, Form, View},
    registry::Resource,
    respond, views, wire,
};

/// Objects to send, with the list's own metadata.
pub(super) struct Answer {
    pub(super) resource: Arc<Resource>,
    pub(super) entries: Vec<Arc<Entry>>,
    pub(super) metadata: Map<String, Value>,
}

/// Appends one item.
type WriteItem = Box<dyn FnMut(&mut Vec<u8>, &Entry) -> Result<(), Status> + Send>;

/// An answer but for its entries.
struct Parts {
    head: Vec<u8>,
    separator: &'static [u8],
    write: WriteItem,
    end: Vec<u8>,
}

pub(super) fn send(call: &Call, answer: Answer, form: Form) -> Result<Response<Body>, Status> {
    let include = views::Include::of(&call.query);
    let parts = match (form.encoding, form.view) {
        (Encoding::PrettyJson | Encoding::Yaml, _) => return whole(call, &answer, include, form),
        (Encoding::Protobuf, _) => protobuf(&answer)?,
        (Encoding::Json, View::Full) => full(&answer)?,
        (Encoding::Json, View::Table) => table(&answer, include)?,
        (Encoding::Json, View::PartialMetadata | View::PartialMetadataList) => partial(&answer)?,
    };
    respond::chunks(call, form.encoding, Chunks::new(pieces(parts, answer.entries)))
}

fn pieces(mut parts: Parts, entries: Vec<Arc<Entry>>) -> Pieces {
    let mut entries = entries.into_iter();
    let mut before = std::mem::take(&mut parts.head);
    Box::new(move |out| {
        out.append(&mut before);
        let Some(entry) = entries.next() else {
            out.append(&mut parts.end);
            return Ok(false);
        };
        (parts.write)(out, &entry)?;
        if entries.len() > 0 {
            out.extend_from_slice(parts.separator);
        }
        Ok(true)
    })
}

/// Parts of a JSON document: `members` stand before its items.
fn json_parts(kind: &str, api_version: &str, members: &[(&str, &Value)], items: &str, write: WriteItem) -> Parts {
    let mut head = format!("{{\"kind\":\"{kind}\",\"apiVersion\":\"{api_version}\"");
    for (name, value) in members {
        head.push_str(&format!(",\"{name}\":{value}"));
    }
    head.push_str(&format!(",\"{items}\":["));
    Parts { head: head.into_bytes(), separator: b",", write, end: b"]}".to_vec() }
}

fn full(answer: &Answer) -> Result<Parts, Status> {
    let resource = answer.resource.clone();
    let (kind, metadata) = (resource.kind.list_kind.clone(), Value::Object(answer.metadata.clone()));
    let version = resource.api_version.clone();
    let write = move |out: &mut Vec<u8>, entry: &Entry| convert::write(out, &resource, &entry.value, entry.revision);
    Ok(json_parts(&kind, &version, &[("metadata", &metadata)], "items", Box::new(write)))
}

fn table(answer: &Answer, include: views::Include) -> Result<Parts, Status> {
    let resource = answer.resource.clone();
    let metadata = Value::Object(answer.metadata.clone());
    let columns = views::definitions(resource.strategy.columns());
    let now = Timestamp::now();
    let write = move |out: &mut Vec<u8>, entry: &Entry| views::write_row(out, &resource, entry, include, now);
    let members = [("metadata", &metadata), ("columnDefinitions", &columns)];
    Ok(json_parts("Table", "meta.k8s.io/v1", &members, "rows", Box::new(write)))
}

fn partial(answer: &Answer) -> Result<Parts, Status> {
    let resource = answer.resource.clone();
    let metadata = Value::Object(answer.metadata.clone());
    let write = move |out: &mut Vec<u8>, entry: &Entry| views::write_partial(out, &resource, entry);
    let members = [("metadata", &metadata)];
    Ok(json_parts("PartialObjectMetadataList", "meta.k8s.io/v1", &members, "items", Box::new(write)))
}

/// The head of a protobuf list says how long all items are: each entry remembers its size once it was written.
fn protobuf(answer: &Answer) -> Result<Parts, Status> {
    let resource = answer.resource.clone();
    let (version, kind) = (resource.api_version.clone(), resource.kind.list_kind.clone());
    let form = ListForm::of(&version, &kind).map_err(wire::refusal)?;
    let mut writer = ItemWriter { resource, form, transcoder: Transcoder::default(), json: Vec::new() };
    let mut scratch = Vec::new();
    let mut size = 0;
    for entry in &answer.entries {
        size += match entry.protobuf_size(form.item_definition()) {
            Some(known) => known,
            None => {
                scratch.clear();
                writer.write(&mut scratch, entry)?;
                scratch.len()
            }
        };
    }
    let own = serde_json::json!({ "metadata": answer.metadata }).to_string();
    let (mut head, mut end) = (Vec::new(), Vec::new());
    form.head(&mut head, (&version, &kind), own.as_bytes(), size).map_err(wire::refusal)?;
    ListForm::end(&mut end);
    Ok(Parts { head, separator: b"", write: Box::new(move |out, entry| writer.write(out, entry)), end })
}

struct ItemWriter {
    resource: Arc<Resource>,
    form: ListForm,
    transcoder: Transcoder,
    json: Vec<u8>,
}

impl ItemWriter {
    fn write(&mut self, out: &mut Vec<u8>, entry: &Entry) -> Result<(), Status> {
        self.json.clear();
        convert::write(&mut self.json, &self.resource, &entry.value, entry.revision)?;
        let begin = out.len();
        self.form.item(&mut self.transcoder, out, &self.json).map_err(wire::refusal)?;
        entry.keep_protobuf_size(self.form.item_definition(), out.len() - begin);
        Ok(())
    }
}

fn whole(call: &Call, answer: &Answer, include: views::Include, form: Form) -> Result<Response<Body>, Status> {
    let resource = &answer.resource;
    let objects = answer.entries.iter().map(|entry| convert::from_stored(resource, entry.decode()?));
    let objects: Vec<Value> = objects.collect::<Result<_, Status>>()?;
    let metadata = Value::Object(answer.metadata.clone());
    let list = match form.view {
        View::Table => views::table(resource, objects.into_iter(), include, Some(metadata)),
        View::PartialMetadata | View::PartialMetadataList => serde_json::json!({
            "kind": "PartialObjectMetadataList",
            "apiVersion": "meta.k8s.io/v1",
            "metadata": metadata,
            "items": objects.iter().map(views::partial).collect::<Vec<_>>(),
        }),
        View::Full => serde_json::json!({
            "kind": resource.kind.list_kind,
            "apiVersion": resource.api_version,
            "metadata": metadata,
            "items": objects,
        }),
    };
    Ok(respond::bytes(call, 200, form.encoding, respond::encode(&list, form.encoding)?.into()))
}

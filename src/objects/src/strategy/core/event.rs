//! Core events. `events.k8s.io` events are a view of these.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Event;
use serde_json::Value;

use crate::columns::{self, Column};
use crate::field::{Errors, Path};
use crate::strategy::typed::Rules;
use crate::strategy::{Absent, SelectableField};
use crate::validation::text;

/// Fields of events, in whichever form.
pub const FIELDS: &[SelectableField] = &[
    SelectableField { label: "metadata.name", path: &["metadata", "name"], absent: Absent::Text("") },
    SelectableField { label: "metadata.namespace", path: &["metadata", "namespace"], absent: Absent::Text("") },
    SelectableField { label: "involvedObject.kind", path: &["involvedObject", "kind"], absent: Absent::Text("") },
    SelectableField {
        label: "involvedObject.namespace",
        path: &["involvedObject", "namespace"],
        absent: Absent::Text(""),
    },
    SelectableField { label: "involvedObject.name", path: &["involvedObject", "name"], absent: Absent::Text("") },
    SelectableField { label: "involvedObject.uid", path: &["involvedObject", "uid"], absent: Absent::Text("") },
    SelectableField {
        label: "involvedObject.apiVersion",
        path: &["involvedObject", "apiVersion"],
        absent: Absent::Text(""),
    },
    SelectableField {
        label: "involvedObject.resourceVersion",
        path: &["involvedObject", "resourceVersion"],
        absent: Absent::Text(""),
    },
    SelectableField {
        label: "involvedObject.fieldPath",
        path: &["involvedObject", "fieldPath"],
        absent: Absent::Text(""),
    },
    SelectableField { label: "reason", path: &["reason"], absent: Absent::Text("") },
    SelectableField { label: "reportingComponent", path: &["reportingComponent"], absent: Absent::Text("") },
    SelectableField { label: "source", path: &["source", "component"], absent: Absent::Field(&["reportingComponent"]) },
    SelectableField { label: "type", path: &["type"], absent: Absent::Text("") },
];

const fn of_view(label: &'static str, path: &'static [&'static str]) -> SelectableField {
    SelectableField { label, path, absent: Absent::Text("") }
}

/// What `events.k8s.io` calls the fields of an event, which is stored in its core form.
pub const VIEW_FIELDS: &[SelectableField] = &[
    of_view("metadata.name", &["metadata", "name"]),
    of_view("metadata.namespace", &["metadata", "namespace"]),
    of_view("regarding.kind", &["involvedObject", "kind"]),
    of_view("regarding.namespace", &["involvedObject", "namespace"]),
    of_view("regarding.name", &["involvedObject", "name"]),
    of_view("regarding.uid", &["involvedObject", "uid"]),
    of_view("regarding.apiVersion", &["involvedObject", "apiVersion"]),
    of_view("regarding.resourceVersion", &["involvedObject", "resourceVersion"]),
    of_view("regarding.fieldPath", &["involvedObject", "fieldPath"]),
    of_view("reason", &["reason"]),
    of_view("reportingController", &["reportingComponent"]),
    of_view("type", &["type"]),
];

pub struct EventRules;

impl Rules for EventRules {
    type Object = Event;
    const CREATE_ON_UPDATE: bool = true;
    const FIELDS: &'static [SelectableField] = FIELDS;
    const COLUMNS: &'static [Column] = columns::core::EVENT;

    fn validate(event: &Event, errors: &mut Errors) {
        let own = text(event.metadata.namespace.as_ref());
        let path = Path::root("involvedObject");
        // Events about cluster-scoped objects live in the default namespace.
        match text(event.involved_object.namespace.as_ref()) {
            "" if own != "default" && own != "kube-system" => {
                errors.invalid(&path.child("namespace"), "", "does not match event.namespace");
            }
            "" => {}
            other if other != own => {
                errors.invalid(&path.child("namespace"), other, "does not match event.namespace");
            }
            _ => {}
        }
        if event.event_time.is_some() {
            let required = [
                ("reportingComponent", &event.reporting_component),
                ("reportingInstance", &event.reporting_instance),
                ("action", &event.action),
                ("reason", &event.reason),
            ];
            for (field, value) in required {
                if text(value.as_ref()).is_empty() {
                    errors.required(&Path::root(field), "");
                }
            }
        }
    }

    fn validate_update(_new: &Event, _old: &Event, _errors: &mut Errors) {}

    fn cells(event: &Event, now: Timestamp) -> Vec<Value> {
        columns::core::event(event, now)
    }
}

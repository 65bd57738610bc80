//! Strategies of kinds that are views of stored ones.

use jiff::Timestamp;
use k8s_openapi::api::events::v1::Event;
use serde_json::Value;

use super::typed::Rules;
use super::{Absent, SelectableField};
use crate::columns::{self, Column};
use crate::field::{Errors, Path};
use crate::validation::text;

const EVENT_FIELDS: &[SelectableField] = &[
    SelectableField { label: "metadata.name", path: &["metadata", "name"], absent: Absent::Text("") },
    SelectableField { label: "metadata.namespace", path: &["metadata", "namespace"], absent: Absent::Text("") },
    SelectableField { label: "regarding.kind", path: &["involvedObject", "kind"], absent: Absent::Text("") },
    SelectableField { label: "regarding.namespace", path: &["involvedObject", "namespace"], absent: Absent::Text("") },
    SelectableField { label: "regarding.name", path: &["involvedObject", "name"], absent: Absent::Text("") },
    SelectableField { label: "regarding.uid", path: &["involvedObject", "uid"], absent: Absent::Text("") },
    SelectableField {
        label: "regarding.apiVersion",
        path: &["involvedObject", "apiVersion"],
        absent: Absent::Text(""),
    },
    SelectableField {
        label: "regarding.resourceVersion",
        path: &["involvedObject", "resourceVersion"],
        absent: Absent::Text(""),
    },
    SelectableField { label: "regarding.fieldPath", path: &["involvedObject", "fieldPath"], absent: Absent::Text("") },
    SelectableField { label: "reason", path: &["reason"], absent: Absent::Text("") },
    SelectableField { label: "reportingController", path: &["reportingComponent"], absent: Absent::Text("") },
    SelectableField { label: "type", path: &["type"], absent: Absent::Text("") },
];

/// `events.k8s.io` events, which are held to more than core ones.
pub struct NewEventRules;

impl Rules for NewEventRules {
    type Object = Event;
    const CREATE_ON_UPDATE: bool = true;
    const FIELDS: &'static [SelectableField] = EVENT_FIELDS;
    const COLUMNS: &'static [Column] = columns::core::EVENT;

    fn validate_create(event: &Event, errors: &mut Errors) {
        if event.event_time.is_none() {
            errors.required(&Path::root("eventTime"), "");
        }
        let required = [
            ("reportingController", &event.reporting_controller),
            ("reportingInstance", &event.reporting_instance),
            ("action", &event.action),
            ("reason", &event.reason),
        ];
        for (field, value) in required {
            let value = text(value.as_ref());
            if value.is_empty() {
                errors.required(&Path::root(field), "");
            } else if value.len() > 128 {
                errors.invalid(&Path::root(field), "", "can have at most 128 characters");
            }
        }
        if text(event.note.as_ref()).len() > 1024 {
            errors.invalid(&Path::root("message"), "", "can have at most 1024 characters");
        }
        let kind = text(event.type_.as_ref());
        if !matches!(kind, "Normal" | "Warning") {
            errors.invalid(&Path::root("type"), "", "has invalid value: ");
        }
    }

    fn cells(event: &Event, now: Timestamp) -> Vec<Value> {
        let stored = serde_json::to_value(event).ok();
        let stored = stored.and_then(|value| crate::convert::to_stored("events.k8s.io", "v1", "Event", value).ok());
        let core = stored.and_then(|value| serde_json::from_value(value).ok());
        core.map(|core| columns::core::event(&core, now)).unwrap_or_default()
    }
}

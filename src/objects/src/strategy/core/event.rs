//! Core events. `events.k8s.io` events are a view of these.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Event;
use serde_json::Value;

use crate::columns::{self, Column};
use crate::field::{Errors, Path};
use crate::names;
use crate::strategy::typed::Rules;
use crate::strategy::{Absent, SelectableField};
use crate::validation::{check, immutable, text};

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

const LONGEST_NAME: usize = 128;
const LONGEST_NOTE: usize = 1024;

fn at_most(errors: &mut Errors, path: &Path<'_>, value: &str, most: usize) {
    if value.len() > most {
        errors.invalid(path, "", &format!("can have at most {most} characters"));
    }
}

/// What `events.k8s.io` asks for beyond that of an event that is written through it, new or in place of `old`. Fields
/// are called as in the stored form, also by upstream.
pub fn check_view(event: &Event, old: Option<&Event>) -> Errors {
    let mut errors = Errors::default();
    match old {
        None => check_new(event, &mut errors),
        Some(old) => check_changed(event, old, &mut errors),
    }
    errors
}

fn check_new(event: &Event, errors: &mut Errors) {
    series(event, errors);
    if event.event_time.is_none() {
        errors.required(&Path::root("eventTime"), "");
    }
    let kind = text(event.type_.as_ref());
    if !matches!(kind, "Normal" | "Warning") {
        errors.invalid(&Path::root("type"), "", &format!("has invalid value: {kind}"));
    }
    let source = event.source.as_ref();
    let from = source.map(|source| (text(source.component.as_ref()), text(source.host.as_ref())));
    for (field, set) in [
        ("firstTimestamp", event.first_timestamp.is_some()),
        ("lastTimestamp", event.last_timestamp.is_some()),
        ("count", event.count.unwrap_or(0) != 0),
        ("source", from.is_some_and(|from| from != ("", ""))),
    ] {
        if set {
            errors.invalid(&Path::root(field), "", "needs to be unset");
        }
    }
}

/// Only the series goes on.
fn check_changed(new: &Event, old: &Event, errors: &mut Errors) {
    if new.series != old.series {
        series(new, errors);
    }
    immutable(errors, &Path::root("involvedObject"), &new.involved_object, &old.involved_object);
    immutable(errors, &Path::root("reason"), &new.reason, &old.reason);
    immutable(errors, &Path::root("message"), &new.message, &old.message);
    let source = |event: &Event| event.source.clone().unwrap_or_default();
    immutable(errors, &Path::root("source"), &source(new), &source(old));
    immutable(errors, &Path::root("firstTimestamp"), &new.first_timestamp, &old.first_timestamp);
    immutable(errors, &Path::root("lastTimestamp"), &new.last_timestamp, &old.last_timestamp);
    immutable(errors, &Path::root("count"), &new.count.unwrap_or(0), &old.count.unwrap_or(0));
    immutable(errors, &Path::root("type"), &new.type_, &old.type_);
    immutable(errors, &Path::root("eventTime"), &new.event_time, &old.event_time);
    immutable(errors, &Path::root("action"), &new.action, &old.action);
    immutable(errors, &Path::root("related"), &new.related, &old.related);
    let controller = |event: &Event| text(event.reporting_component.as_ref()).to_owned();
    immutable(errors, &Path::root("reportingController"), &controller(new), &controller(old));
    let instance = |event: &Event| text(event.reporting_instance.as_ref()).to_owned();
    immutable(errors, &Path::root("reportingInstance"), &instance(new), &instance(old));
}

fn series(event: &Event, errors: &mut Errors) {
    let Some(series) = &event.series else { return };
    if series.count.unwrap_or(0) < 2 {
        errors.invalid(&Path::root("series.count"), "", "should be at least 2");
    }
    if series.last_observed_time.is_none() {
        errors.required(&Path::root("series.lastObservedTime"), "");
    }
}

pub struct EventRules;

impl Rules for EventRules {
    type Object = Event;
    const CREATE_ON_UPDATE: bool = true;
    const FIELDS: &'static [SelectableField] = FIELDS;
    const COLUMNS: &'static [Column] = columns::core::EVENT;

    fn validate(event: &Event, errors: &mut Errors) {
        let own = text(event.metadata.namespace.as_ref());
        let path = Path::root("involvedObject");
        // Events about cluster-scoped objects live in the default namespace. Those with an eventTime are of the newer
        // kind, which has more rules.
        let newer = event.event_time.is_some();
        let mismatch = match text(event.involved_object.namespace.as_ref()) {
            "" => own != "default" && !(newer && own == "kube-system"),
            other => !newer && other != own,
        };
        if mismatch {
            let shown = text(event.involved_object.namespace.as_ref());
            errors.invalid(&path.child("namespace"), shown, "does not match event.namespace");
        }
        if !newer {
            return;
        }
        let controller = text(event.reporting_component.as_ref());
        let path = Path::root("reportingController");
        if controller.is_empty() {
            errors.required(&path, "");
        }
        check(errors, &path, controller, names::qualified_name(controller));
        for (field, value) in
            [("reportingInstance", &event.reporting_instance), ("action", &event.action), ("reason", &event.reason)]
        {
            let (path, value) = (Path::root(field), text(value.as_ref()));
            if value.is_empty() {
                errors.required(&path, "");
            }
            at_most(errors, &path, value, LONGEST_NAME);
        }
        at_most(errors, &Path::root("message"), text(event.message.as_ref()), LONGEST_NOTE);
    }

    fn cells(event: &Event, now: Timestamp) -> Vec<Value> {
        columns::core::event(event, now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn event(change: &Value) -> Event {
        let mut object = json!({"metadata": {"name": "e", "namespace": "d"}, "involvedObject": {"namespace": "d"}, "action": "A",
            "reason": "R", "type": "Normal", "eventTime": "2026-01-01T00:00:00.000001Z", "reportingComponent": "example.com/c",
            "reportingInstance": "i"});
        crate::patch::merge_patch(&mut object, change.clone());
        serde_json::from_value(object).unwrap()
    }

    fn told(errors: &Errors) -> Vec<String> {
        errors.as_slice().iter().map(ToString::to_string).collect()
    }

    fn legacy(change: &Value) -> Vec<String> {
        let mut errors = Errors::default();
        EventRules::validate(&event(change), &mut errors);
        told(&errors)
    }

    #[test]
    fn events_of_the_newer_kind_say_who_reports_them() {
        assert_eq!(legacy(&json!({})), Vec::<String>::new());
        let empty = json!({"reportingComponent": null, "reportingInstance": "", "action": null, "reason": ""});
        let missing = legacy(&empty);
        for field in ["reportingController", "reportingInstance", "action", "reason"] {
            assert!(missing.contains(&format!("{field}: Required value")), "{missing:?}");
        }
        let long = legacy(&json!({"action": "a".repeat(129), "message": "m".repeat(1025)}));
        assert_eq!(long[0], "action: Invalid value: \"\": can have at most 128 characters");
        assert_eq!(long.len(), 2);
        let older = json!({"eventTime": null, "reportingComponent": null, "involvedObject": {"namespace": "other"}});
        assert_eq!(
            legacy(&older),
            ["involvedObject.namespace: Invalid value: \"other\": does not match event.namespace"]
        );
    }

    #[test]
    fn what_is_written_by_the_newer_api_is_of_the_newer_kind() {
        assert!(check_view(&event(&json!({})), None).is_empty());
        let old = json!({"eventTime": null, "type": "Odd", "firstTimestamp": "2026-01-01T00:00:00Z", "count": 1,
            "source": {"component": "c"}, "series": {"count": 1}});
        let refused = told(&check_view(&event(&old), None));
        assert_eq!(
            refused,
            [
                "series.count: Invalid value: \"\": should be at least 2",
                "series.lastObservedTime: Required value",
                "eventTime: Required value",
                "type: Invalid value: \"\": has invalid value: Odd",
                "firstTimestamp: Invalid value: \"\": needs to be unset",
                "count: Invalid value: \"\": needs to be unset",
                "source: Invalid value: \"\": needs to be unset",
            ]
        );
    }

    #[test]
    fn only_the_series_of_an_event_goes_on() {
        let stored = event(&json!({}));
        let series = json!({"series": {"count": 2, "lastObservedTime": "2026-01-01T00:00:01.000000Z"}});
        assert!(check_view(&event(&series), Some(&stored)).is_empty());
        let refused = told(&check_view(&event(&json!({"reason": "Other", "message": "m"})), Some(&stored)));
        assert_eq!(refused.len(), 2, "{refused:?}");
        assert!(refused[0].starts_with("reason: Invalid value: \"Other\": field is immutable"), "{refused:?}");
    }
}

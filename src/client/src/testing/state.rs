//! The fake's objects and their history.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::{Value, json};

use super::path::Collection;

/// A refused request: HTTP code, reason and message of the Status.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{code} {reason}: {message}")]
pub struct Failure {
    pub code: u16,
    pub reason: String,
    pub message: String,
}

impl Failure {
    pub fn new(code: u16, reason: &str, message: impl Into<String>) -> Self {
        Self { code, reason: reason.into(), message: message.into() }
    }
}

#[derive(Clone)]
pub(super) struct Logged {
    pub(super) revision: u64,
    pub(super) collection: Collection,
    pub(super) old: Option<Value>,
    pub(super) new: Option<Value>,
}

type Key = (Collection, String, String);

#[derive(Default)]
pub(super) struct State {
    pub(super) revision: u64,
    objects: BTreeMap<Key, Value>,
    pub(super) log: Vec<Logged>,
    pub(super) failures: Vec<(String, String, Failure)>,
    pub(super) writes: Vec<String>,
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn now() -> Value {
    serde_json::to_value(Time(Timestamp::now())).unwrap_or_default()
}

fn no_finalizers(object: &Value) -> bool {
    let empty = |list: &Value| list.as_array().is_none_or(Vec::is_empty);
    empty(&object["metadata"]["finalizers"]) && (object["kind"] != "Namespace" || empty(&object["spec"]["finalizers"]))
}

impl State {
    fn key(collection: &Collection, namespace: &str, name: &str) -> Key {
        (collection.clone(), namespace.to_owned(), name.to_owned())
    }

    pub(super) fn get(&self, collection: &Collection, namespace: &str, name: &str) -> Result<Value, Failure> {
        self.objects
            .get(&Self::key(collection, namespace, name))
            .cloned()
            .ok_or_else(|| Failure::new(404, "NotFound", format!("{} \"{name}\" not found", collection.plural)))
    }

    pub(super) fn list(&self, collection: &Collection) -> Vec<Value> {
        self.objects.iter().filter(|((c, ..), _)| c == collection).map(|(_, value)| value.clone()).collect()
    }

    fn commit(&mut self, key: Key, new: Option<Value>) -> Value {
        self.revision += 1;
        let old = self.objects.get(&key).cloned();
        let mut shown = new.clone().or_else(|| old.clone()).unwrap_or_default();
        shown["metadata"]["resourceVersion"] = self.revision.to_string().into();
        let collection = key.0.clone();
        let (old, new) = if new.is_some() {
            self.objects.insert(key, shown.clone());
            (old, Some(shown.clone()))
        } else {
            self.objects.remove(&key);
            (Some(shown.clone()), None)
        };
        self.log.push(Logged { revision: self.revision, collection, old, new });
        shown
    }

    pub(super) fn put_raw(
        &mut self,
        collection: &Collection,
        namespace: &str,
        mut value: Value,
    ) -> Result<(), Failure> {
        let key = Self::key(collection, namespace, value["metadata"]["name"].as_str().unwrap_or_default());
        let old = self.objects.get(&key);
        let old_meta = old.map(|old| old["metadata"].clone()).unwrap_or_default();
        self.stamp(&mut value, &old_meta);
        self.commit(key, Some(value));
        Ok(())
    }

    fn stamp(&self, value: &mut Value, old: &Value) {
        for (field, fresh) in [("uid", json!(format!("uid-{}", self.revision + 1))), ("creationTimestamp", now())] {
            if value["metadata"][field].is_null() {
                value["metadata"][field] = if old[field].is_null() { fresh } else { old[field].clone() };
            }
        }
    }

    pub(super) fn create(
        &mut self,
        collection: &Collection,
        namespace: &str,
        mut value: Value,
    ) -> Result<Value, Failure> {
        if let Some(row) = collection.row() {
            value["kind"] = row.3.into();
            value["apiVersion"] = collection.api_version().into();
        }
        let mut name = text(&value["metadata"]["name"]);
        if name.is_empty() {
            name = format!("{}{:05x}", text(&value["metadata"]["generateName"]), self.revision + 0x1000);
            value["metadata"]["name"] = name.clone().into();
        }
        if !namespace.is_empty() {
            value["metadata"]["namespace"] = namespace.into();
        }
        let key = Self::key(collection, namespace, &name);
        if self.objects.contains_key(&key) {
            let message = format!("{} \"{name}\" already exists", collection.plural);
            return Err(Failure::new(409, "AlreadyExists", message));
        }
        if value["kind"] == "Namespace" {
            value["spec"]["finalizers"] = json!(["kubernetes"]);
            value["status"]["phase"] = "Active".into();
        }
        value["metadata"]["generation"] = 1.into();
        self.stamp(&mut value, &Value::Null);
        Ok(self.commit(key, Some(value)))
    }

    pub(super) fn update(
        &mut self,
        collection: &Collection,
        (namespace, name, subresource): (&str, &str, &str),
        mut value: Value,
    ) -> Result<Value, Failure> {
        let old = self.get(collection, namespace, name)?;
        let wanted = &value["metadata"]["resourceVersion"];
        if !wanted.is_null() && wanted != "" && *wanted != old["metadata"]["resourceVersion"] {
            let message = format!(
                "Operation cannot be fulfilled on {} \"{name}\": the object has been modified; \
                                   please apply your changes to the latest version and try again",
                collection.plural
            );
            return Err(Failure::new(409, "Conflict", message));
        }
        let wanted_uid = &value["metadata"]["uid"];
        if !wanted_uid.is_null() && *wanted_uid != old["metadata"]["uid"] {
            return Err(Failure::new(409, "Conflict", "Precondition failed: UID in precondition"));
        }
        match subresource {
            "status" => {
                let status = value["status"].clone();
                value = old.clone();
                value["status"] = status;
            }
            "finalize" => {
                let finalizers = value["spec"]["finalizers"].clone();
                value = old.clone();
                value["spec"]["finalizers"] = finalizers;
            }
            _ => {
                value["status"] = old["status"].clone();
                value["metadata"]["deletionTimestamp"] = old["metadata"]["deletionTimestamp"].clone();
                if value["spec"] != old["spec"] {
                    let generation = old["metadata"]["generation"].as_i64().unwrap_or(1) + 1;
                    value["metadata"]["generation"] = generation.into();
                }
            }
        }
        for field in ["uid", "creationTimestamp", "namespace", "name", "resourceVersion"] {
            value["metadata"][field] = old["metadata"][field].clone();
        }
        for field in ["kind", "apiVersion"] {
            value[field] = old[field].clone();
        }
        strip_nulls(&mut value);
        let mut plain_old = old.clone();
        strip_nulls(&mut plain_old);
        if value == plain_old {
            return Ok(old);
        }
        let key = Self::key(collection, namespace, name);
        let finished = !value["metadata"]["deletionTimestamp"].is_null() && no_finalizers(&value);
        let graceful = value["metadata"]["deletionGracePeriodSeconds"].as_i64().unwrap_or(0) > 0;
        if finished && !graceful {
            self.commit(key.clone(), Some(value));
            return Ok(self.commit(key, None));
        }
        Ok(self.commit(key, Some(value)))
    }

    pub(super) fn delete(
        &mut self,
        collection: &Collection,
        namespace: &str,
        name: &str,
        options: &Value,
    ) -> Result<Value, Failure> {
        let mut object = self.get(collection, namespace, name)?;
        let uid = &options["preconditions"]["uid"];
        if !uid.is_null() && *uid != object["metadata"]["uid"] {
            return Err(Failure::new(409, "Conflict", "Precondition failed: UID in precondition"));
        }
        let key = Self::key(collection, namespace, name);
        let extra = match options["propagationPolicy"].as_str() {
            Some("Orphan") => Some("orphan"),
            Some("Foreground") => Some("foregroundDeletion"),
            _ => None,
        };
        let mut finalizers = object["metadata"]["finalizers"].as_array().cloned().unwrap_or_default();
        if let Some(extra) = extra.filter(|extra| !finalizers.iter().any(|f| f == extra)) {
            finalizers.push(extra.into());
        }
        let grace = options["gracePeriodSeconds"].as_i64().unwrap_or(30);
        let running = object["kind"] == "Pod" && !object["spec"]["nodeName"].is_null() && grace > 0;
        object["metadata"]["finalizers"] = finalizers.into();
        if no_finalizers(&object) && !running {
            return Ok(self.commit(key, None));
        }
        if object["metadata"]["deletionTimestamp"].is_null() {
            object["metadata"]["deletionTimestamp"] = now();
            if running {
                object["metadata"]["deletionGracePeriodSeconds"] = grace.into();
            }
            if object["kind"] == "Namespace" {
                object["status"]["phase"] = "Terminating".into();
            }
            return Ok(self.commit(key, Some(object)));
        }
        Ok(object)
    }
}

/// Drops what a JSON decoder of Kubernetes would not tell from absent.
pub(super) fn strip_nulls(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.retain(|_, field| !field.is_null());
            fields.values_mut().for_each(strip_nulls);
        }
        Value::Array(items) => items.iter_mut().for_each(strip_nulls),
        _ => {}
    }
}

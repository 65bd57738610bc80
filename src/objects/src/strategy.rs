//! What a kind does with its objects: decoding, defaults, preparation, validation, columns, scale, deletion.
//!
//! The API server's generic verbs call a [`Strategy`] and nothing else about a kind. At this seam objects are
//! `serde_json::Value`; inside, built-in kinds are typed ([`typed`]). No clock, no randomness, no I/O: time, the
//! new object's UID and the random name suffix come in a [`Context`].
//!
//! Order of calls for a create: [`Strategy::decode`] → mutating admission → [`Strategy::create`] → validating
//! admission → store. For an update: decode → mutating admission → [`Strategy::update`] → validating admission →
//! store. For a delete: [`deletion::before_delete`].

pub mod admission;
pub mod apps;
pub mod autoscaling;
pub mod batch;
pub mod certificates;
pub mod core;
pub mod deletion;
pub mod extensions;
pub mod flow_control;
pub mod networking;
pub mod policy;
pub mod rbac;
pub mod registry;
pub mod scale;
pub mod scheduling;
pub mod storage;
pub mod typed;
pub use jiff::Timestamp;
use serde_json::Value;

pub use deletion::Propagation;
pub use registry::{check_view, fields_of, for_kind, strategy_for};

use crate::columns::Column;
use crate::status::{Qualified, Status};

/// What a strategy has to know about the request.
#[derive(Debug, Clone, Copy)]
pub struct Context<'a> {
    /// Namespace of the request path; `None` for a cluster-scoped kind.
    pub namespace: Option<&'a str>,
    /// Name of the request path, where there is one (updates and subresources).
    pub name: Option<&'a str>,
    pub now: Timestamp,
    /// UID to give to a new object.
    pub uid: &'a str,
    /// Five random characters for `generateName` (see [`crate::names::suffix`]).
    pub name_suffix: &'a str,
    pub user: Option<&'a User>,
}

#[cfg(test)]
impl<'a> Context<'a> {
    /// A request on a namespace, or on a cluster-scoped kind.
    pub(crate) fn sample(namespace: Option<&'a str>) -> Self {
        let now = "2026-01-02T03:04:05Z".parse().unwrap();
        Self { namespace, name: None, now, uid: "u", name_suffix: "abcde", user: None }
    }
}

/// Who makes the request; certificate signing requests record it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct User {
    pub name: String,
    pub uid: String,
    pub groups: Vec<String>,
    pub extra: Vec<(String, Vec<String>)>,
}

/// The part of an object that an update may change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// All but the status (PUT or PATCH of the resource itself).
    Main,
    /// `/status`
    Status,
    /// `/approval` of certificate signing requests
    Approval,
    /// `/ephemeralcontainers` of pods
    EphemeralContainers,
    /// `/resize` of pods
    Resize,
    /// `/finalize` of namespaces
    Finalize,
}

/// Facts of a kind that generic code asks for.
#[derive(Debug, Clone, Copy)]
pub struct Facts {
    pub group: &'static str,
    pub version: &'static str,
    pub kind: &'static str,
    /// Plural resource name.
    pub resource: &'static str,
    pub namespaced: bool,
    /// Whether PUT of a missing object creates it.
    pub allow_create_on_update: bool,
    /// Whether PUT without a resourceVersion overwrites.
    pub allow_unconditional_update: bool,
}

impl Facts {
    pub fn qualified_resource(&self) -> Qualified<'static> {
        Qualified::new(self.group, self.resource)
    }

    pub fn qualified_kind(&self) -> Qualified<'static> {
        Qualified::new(self.group, self.kind)
    }
}

/// A field that `fieldSelector` may name.
#[derive(Debug, Clone, Copy)]
pub struct SelectableField {
    pub label: &'static str,
    /// Steps from the root of the object as it is stored.
    pub path: &'static [&'static str],
    /// What to take when the field is absent.
    pub absent: Absent,
}

/// What stands for a field that is not there.
#[derive(Debug, Clone, Copy)]
pub enum Absent {
    Text(&'static str),
    /// The field at this path, if that is there.
    Field(&'static [&'static str]),
}

/// How a kind wants to be deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Grace {
    /// The kind knows no graceful deletion: it goes at once (finalizers aside).
    Immediate,
    /// Wait so many seconds; 0 removes the object now.
    Seconds(i64),
}

/// All that generic API code needs of a kind. Implemented by [`typed::Typed`] for built-in kinds and by the API
/// server for custom resources.
pub trait Strategy: Send + Sync {
    fn facts(&self) -> &Facts;

    /// Checks types, drops unknown fields, brings quantities into canonical form, applies defaults.
    ///
    /// # Errors
    /// A bad-request Status with upstream's decoding message.
    fn decode(&self, object: Value) -> Result<Value, Status>;

    /// Fills system metadata (name, namespace, uid, creation time, generation), resets what a client may not set,
    /// defaults again and validates. The result is what to store.
    ///
    /// # Errors
    /// `Invalid` with every refused field, or `BadRequest`.
    fn create(&self, object: Value, context: &Context<'_>) -> Result<Value, Status>;

    /// Takes from `new` what the part may change and the rest from `old`; bumps the generation when the desired
    /// state changed; validates, immutability included. The result is what to store.
    ///
    /// # Errors
    /// `Invalid` with every refused field, or `BadRequest`.
    fn update(&self, part: Part, new: Value, old: &Value, context: &Context<'_>) -> Result<Value, Status>;

    /// Fields that a field selector may name, `metadata.name` and `metadata.namespace` included.
    fn selectable_fields(&self) -> &[SelectableField];

    /// The Table's columns, Name first.
    fn columns(&self) -> &[Column];

    /// One cell per column.
    fn cells(&self, object: &Value, now: Timestamp) -> Vec<Value>;

    /// [`Strategy::cells`] of an encoded object, without a tree in between.
    fn cells_of_json(&self, json: &[u8], now: Timestamp) -> Vec<Value> {
        serde_json::from_slice(json).map(|object| self.cells(&object, now)).unwrap_or_default()
    }

    /// The grace a delete of `object` gets when the client asked for `requested` seconds.
    fn grace(&self, object: &Value, requested: Option<i64>) -> Grace {
        let (_, _) = (object, requested);
        Grace::Immediate
    }

    /// What becomes of dependents when a delete does not say.
    fn default_propagation(&self) -> Propagation {
        Propagation::Background
    }

    /// Whether something beside `metadata.finalizers` and the grace period keeps a deleted object in the store
    /// (a namespace's `spec.finalizers`).
    fn is_held(&self, object: &Value) -> bool {
        let _ = object;
        false
    }

    /// Changes that go with being marked for deletion (a namespace's phase).
    fn mark_deleted(&self, object: &mut Value) {
        let _ = object;
    }

    /// Reads the `/scale` view, for kinds that have one.
    fn scale(&self, object: &Value) -> Option<scale::Scale> {
        let _ = object;
        None
    }

    /// Writes the replica count of `/scale`. False when the kind has none.
    fn set_scale(&self, object: &mut Value, replicas: i32) -> bool {
        let (_, _) = (object, replicas);
        false
    }
}

impl SelectableField {
    /// The field's text in `object`, as selectors compare it.
    pub fn value(&self, object: &Value) -> String {
        let text = |path: &[&str]| match path.iter().try_fold(object, |at, step| at.get(step)) {
            None | Some(Value::Null) => None,
            Some(Value::String(text)) => Some(text.clone()),
            Some(other) => Some(other.to_string()),
        };
        match (text(self.path), self.absent) {
            (None, Absent::Text(absent)) => absent.to_owned(),
            (Some(found), Absent::Field(_)) if !found.is_empty() => found,
            (_, Absent::Field(path)) => text(path).unwrap_or_default(),
            (Some(found), Absent::Text(_)) => found,
        }
    }
}

//! The generic strategy of built-in kinds: `Value` outside, `k8s_openapi` types inside.
//!
//! A kind states its [`Rules`]; [`Typed`] turns them into a [`Strategy`] and does what is the same for all kinds:
//! decoding, system metadata, keeping or resetting the status, generations, metadata validation.

use std::marker::PhantomData;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::{ClusterResourceScope, Metadata, NamespaceResourceScope, Resource};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::scale::Scale;
use super::{Context, Facts, Grace, Part, Propagation, SelectableField, Strategy};
use crate::columns::{self, Column};
use crate::decode::{DecodeError, decode};
use crate::field::Errors;
use crate::names::{self, NameRule};
use crate::status::Status;
use crate::validation::metadata;

/// Whether a scope has namespaces.
pub trait Scoped {
    const NAMESPACED: bool;
}

impl Scoped for ClusterResourceScope {
    const NAMESPACED: bool = false;
}

impl Scoped for NamespaceResourceScope {
    const NAMESPACED: bool = true;
}

/// A type that can be stored.
pub trait Object:
    Resource<Scope: Scoped> + Metadata<Ty = ObjectMeta> + DeserializeOwned + Serialize + Send + Sync + 'static
{
}

impl<T> Object for T where
    T: Resource<Scope: Scoped> + Metadata<Ty = ObjectMeta> + DeserializeOwned + Serialize + Send + Sync + 'static
{
}

/// When an update makes a new generation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Generation {
    /// The kind has none.
    None,
    /// On any change outside metadata and status.
    Spec,
    /// On those, and on changed annotations (deployments).
    SpecAndAnnotations,
}

/// What becomes of `status` when an object is created or its main part updated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StatusPolicy {
    /// The kind has no status part of its own.
    None,
    /// Dropped on create, kept from the old object on update.
    Own,
    /// Taken on create, kept from the old object on update (nodes).
    SetOnCreate,
}

pub(crate) const METADATA_FIELDS: &[SelectableField] = &[
    SelectableField { label: "metadata.name", path: &["metadata", "name"], absent: "" },
    SelectableField { label: "metadata.namespace", path: &["metadata", "namespace"], absent: "" },
];

/// A kind's own rules. The defaults are those of a plain kind: typed, metadata checked, nothing more.
pub trait Rules: Send + Sync + 'static {
    type Object: Object;

    const STATUS: StatusPolicy = StatusPolicy::None;
    const GENERATION: Generation = Generation::None;
    const NAMES: NameRule = names::subdomain;
    const CREATE_ON_UPDATE: bool = false;
    const UNCONDITIONAL_UPDATE: bool = true;
    const FIELDS: &'static [SelectableField] = METADATA_FIELDS;
    const COLUMNS: &'static [Column] = columns::NAME_AND_CREATED;

    /// Upstream's `SetDefaults_*`.
    fn default(object: &mut Self::Object) {
        let _ = object;
    }

    /// Changes to a new object before it is validated.
    fn prepare_create(object: &mut Self::Object, context: &Context<'_>) {
        let (_, _) = (object, context);
    }

    /// Rules that hold for every version of the object.
    fn validate(object: &Self::Object, errors: &mut Errors) {
        let (_, _) = (object, errors);
    }

    /// Rules for a new object.
    fn validate_create(object: &Self::Object, errors: &mut Errors) {
        Self::validate(object, errors);
    }

    /// Changes to an updated object before it is validated.
    fn prepare_update(new: &mut Self::Object, old: &Self::Object) {
        let (_, _) = (new, old);
    }

    /// Rules for a changed object, immutability included.
    fn validate_update(new: &Self::Object, old: &Self::Object, errors: &mut Errors) {
        let _ = old;
        Self::validate(new, errors);
    }

    /// Builds the object to store from an update of `/status` or another part: starts as `new`, returns what may
    /// stay. The wrapper has already put the old object's other fields in place for [`Part::Status`].
    fn prepare_part(part: Part, new: &mut Self::Object, old: &Self::Object) {
        let (_, _, _) = (part, new, old);
    }

    /// Rules for an update of `/status` or another part.
    fn validate_part(part: Part, new: &Self::Object, old: &Self::Object, errors: &mut Errors) {
        let (_, _, _, _) = (part, new, old, errors);
    }

    /// One cell per column.
    fn cells(object: &Self::Object, now: Timestamp) -> Vec<Value> {
        let _ = now;
        columns::name_and_created(object.metadata())
    }

    fn grace(object: &Self::Object, requested: Option<i64>) -> Grace {
        let (_, _) = (object, requested);
        Grace::Immediate
    }

    /// What becomes of dependents when a delete does not say.
    const PROPAGATION: Propagation = Propagation::Background;

    /// See [`Strategy::is_held`].
    fn is_held(object: &Self::Object) -> bool {
        let _ = object;
        false
    }

    /// See [`Strategy::mark_deleted`].
    fn mark_deleted(object: &mut Self::Object) {
        let _ = object;
    }

    fn scale(object: &Self::Object) -> Option<Scale> {
        let _ = object;
        None
    }

    fn set_scale(object: &mut Self::Object, replicas: i32) -> bool {
        let (_, _) = (object, replicas);
        false
    }
}

/// A kind without rules of its own.
pub struct Plain<T>(PhantomData<fn() -> T>);

impl<T: Object> Rules for Plain<T> {
    type Object = T;
}

/// A kind that has a status part and generations, and no other rules.
pub struct PlainWithStatus<T>(PhantomData<fn() -> T>);

impl<T: Object> Rules for PlainWithStatus<T> {
    type Object = T;
    const STATUS: StatusPolicy = StatusPolicy::Own;
    const GENERATION: Generation = Generation::Spec;
}

/// The strategy that follows `R`.
pub struct Typed<R>(PhantomData<fn() -> R>);

impl<R: Rules> Default for Typed<R> {
    fn default() -> Self {
        Self::NEW
    }
}

impl<R: Rules> Typed<R> {
    pub const NEW: Self = Self(PhantomData);

    const NAMESPACED: bool = <<R::Object as Resource>::Scope as Scoped>::NAMESPACED;

    const FACTS: Facts = Facts {
        group: <R::Object as Resource>::GROUP,
        version: <R::Object as Resource>::VERSION,
        kind: <R::Object as Resource>::KIND,
        resource: <R::Object as Resource>::URL_PATH_SEGMENT,
        namespaced: Self::NAMESPACED,
        allow_create_on_update: R::CREATE_ON_UPDATE,
        allow_unconditional_update: R::UNCONDITIONAL_UPDATE,
    };

    /// Decodes a client's object.
    fn read(mut object: Value) -> Result<R::Object, Status> {
        let Some(map) = object.as_object_mut() else {
            return Err(Status::bad_request("the object provided is unrecognized: it is not a JSON object"));
        };
        let identity = [("apiVersion", <R::Object as Resource>::API_VERSION), ("kind", <R::Object as Resource>::KIND)];
        for (key, value) in identity {
            map.insert(key.to_owned(), value.into());
        }
        decode(object).map_err(|error| {
            let Facts { kind, version, .. } = Self::FACTS;
            Status::bad_request(format!("{kind} in version \"{version}\" cannot be handled as a {kind}: {error}"))
        })
    }

    /// Reads an object that this server stored. By the same decoder: each further one is the code of every type again.
    fn stored(object: &Value) -> Result<R::Object, DecodeError> {
        decode(object.clone())
    }

    fn write(object: &R::Object) -> Result<Value, Status> {
        let mut value = serde_json::to_value(object).map_err(Status::internal)?;
        if R::STATUS != StatusPolicy::None
            && let Some(map) = value.as_object_mut()
        {
            // Upstream's status is a struct, never absent.
            map.entry("status").or_insert_with(|| Value::Object(Map::new()));
        }
        Ok(value)
    }

    fn finish(object: &R::Object, errors: &Errors) -> Result<Value, Status> {
        if !errors.is_empty() {
            let name = object.metadata().name.as_deref().unwrap_or_default();
            return Err(Status::invalid(Self::FACTS.qualified_kind(), name, errors.as_slice()));
        }
        Self::write(object)
    }

    fn update_main(mut new: Value, old_value: &Value) -> Result<Value, Status> {
        if R::STATUS != StatusPolicy::None {
            set(&mut new, "status", old_value.get("status"));
        }
        let mut new = Self::read(new)?;
        let old = Self::stored(old_value).map_err(Status::internal)?;
        Self::keep_metadata(&mut new, &old);
        R::default(&mut new);
        R::prepare_update(&mut new, &old);
        let changed = Self::write(&new)?;
        let bump = match R::GENERATION {
            Generation::None => false,
            Generation::Spec => desired_changed(&changed, old_value),
            Generation::SpecAndAnnotations => {
                desired_changed(&changed, old_value) || new.metadata().annotations != old.metadata().annotations
            }
        };
        if bump {
            new.metadata_mut().generation = Some(old.metadata().generation.unwrap_or(0) + 1);
        }
        let mut errors = Errors::default();
        metadata::validate_update(&mut errors, new.metadata(), old.metadata());
        R::validate_update(&new, &old, &mut errors);
        Self::finish(&new, &errors)
    }

    fn update_part(part: Part, new: Value, old_value: &Value) -> Result<Value, Status> {
        let merged = match part {
            Part::Status => {
                let mut merged = old_value.clone();
                set(&mut merged, "status", new.get("status"));
                set(&mut merged, "metadata", new.get("metadata"));
                merged
            }
            _ => new,
        };
        let mut new = Self::read(merged)?;
        let old = Self::stored(old_value).map_err(Status::internal)?;
        Self::keep_metadata(&mut new, &old);
        R::default(&mut new);
        R::prepare_part(part, &mut new, &old);
        if R::GENERATION != Generation::None && desired_changed(&Self::write(&new)?, old_value) {
            new.metadata_mut().generation = Some(old.metadata().generation.unwrap_or(0) + 1);
        }
        let mut errors = Errors::default();
        metadata::validate_update(&mut errors, new.metadata(), old.metadata());
        R::validate_part(part, &new, &old, &mut errors);
        Self::finish(&new, &errors)
    }

    fn keep_metadata(new: &mut R::Object, old: &R::Object) {
        let (new, old) = (new.metadata_mut(), old.metadata());
        metadata::keep(new, old, Self::NAMESPACED);
        if R::UNCONDITIONAL_UPDATE && new.resource_version.as_deref().is_none_or(str::is_empty) {
            new.resource_version.clone_from(&old.resource_version);
        }
    }
}

fn set(object: &mut Value, key: &str, value: Option<&Value>) {
    if let Some(map) = object.as_object_mut() {
        match value {
            Some(value) => map.insert(key.to_owned(), value.clone()),
            None => map.remove(key),
        };
    }
}

/// Whether anything but metadata and status differs.
fn desired_changed(new: &Value, old: &Value) -> bool {
    let desired = |key: &str| !matches!(key, "metadata" | "status" | "apiVersion" | "kind");
    let (Some(new), Some(old)) = (new.as_object(), old.as_object()) else { return true };
    new.iter().any(|(key, value)| desired(key) && old.get(key) != Some(value))
        || old.keys().any(|key| desired(key) && !new.contains_key(key))
}

impl<R: Rules> Strategy for Typed<R> {
    fn facts(&self) -> &Facts {
        &Self::FACTS
    }

    fn decode(&self, object: Value) -> Result<Value, Status> {
        let mut object = Self::read(object)?;
        R::default(&mut object);
        serde_json::to_value(&object).map_err(Status::internal)
    }

    fn create(&self, mut object: Value, context: &Context<'_>) -> Result<Value, Status> {
        if R::STATUS == StatusPolicy::Own {
            set(&mut object, "status", None);
        }
        let mut object = Self::read(object)?;
        let meta = object.metadata_mut();
        metadata::fill(meta, Self::NAMESPACED, context)?;
        meta.generation = (R::GENERATION != Generation::None).then_some(1);
        R::default(&mut object);
        R::prepare_create(&mut object, context);
        let mut errors = Errors::default();
        metadata::validate(&mut errors, object.metadata(), Self::NAMESPACED, R::NAMES);
        R::validate_create(&object, &mut errors);
        Self::finish(&object, &errors)
    }

    fn update(&self, part: Part, new: Value, old: &Value, _context: &Context<'_>) -> Result<Value, Status> {
        match part {
            Part::Main => Self::update_main(new, old),
            _ => Self::update_part(part, new, old),
        }
    }

    fn selectable_fields(&self) -> &[SelectableField] {
        R::FIELDS
    }

    fn columns(&self) -> &[Column] {
        R::COLUMNS
    }

    fn cells(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        Self::stored(object).map(|object| R::cells(&object, now)).unwrap_or_default()
    }

    fn cells_of_json(&self, json: &[u8], now: Timestamp) -> Vec<Value> {
        serde_json::from_slice(json).map(|object| R::cells(&object, now)).unwrap_or_default()
    }

    fn grace(&self, object: &Value, requested: Option<i64>) -> Grace {
        Self::stored(object).map_or(Grace::Immediate, |object| R::grace(&object, requested))
    }

    fn default_propagation(&self) -> Propagation {
        R::PROPAGATION
    }

    fn is_held(&self, object: &Value) -> bool {
        Self::stored(object).is_ok_and(|object| R::is_held(&object))
    }

    fn mark_deleted(&self, object: &mut Value) {
        change::<R>(object, |typed| {
            R::mark_deleted(typed);
            true
        });
    }

    fn scale(&self, object: &Value) -> Option<Scale> {
        R::scale(&Self::stored(object).ok()?)
    }

    fn set_scale(&self, object: &mut Value, replicas: i32) -> bool {
        change::<R>(object, |typed| R::set_scale(typed, replicas))
    }
}

/// Applies a typed change to an object. False, and nothing done, when `change` refuses or changes nothing.
fn change<R: Rules>(object: &mut Value, change: impl FnOnce(&mut R::Object) -> bool) -> bool {
    let Ok(mut typed) = Typed::<R>::stored(object) else { return false };
    if !change(&mut typed) {
        return false;
    }
    let Ok(mut value) = serde_json::to_value(&typed) else { return false };
    if let (None, Some(status)) = (value.get("status"), object.get("status")) {
        value["status"] = status.clone();
    }
    *object = value;
    true
}

//! POST: decode, admit, prepare, validate, write if absent.

use bytes::Bytes;
use http::Response;
use jiff::Timestamp;
use objects::{
    names,
    status::Status,
    strategy::{Context, User as StrategyUser, check_view},
};
use serde_json::Value;
use storage::{Durability, Revision};

use super::{
    Place, body,
    options::WriteOptions,
    store::{self, Write, Written},
};
use crate::{
    admission::{self, Operation, Review, quota::Turn},
    authn::User,
    body::Body,
    convert, encoded,
    encoded::meta_str,
    handler::Call,
    keys, managed, negotiate, respond,
    server::Inner,
};

/// How many generated names are tried.
const NAME_TRIES: usize = 8;
/// How often a create is tried while others take the addresses, ports or quota it was to get.
const CONTENDED_TRIES: usize = 32;

/// Answers a POST to a collection.
pub(crate) async fn create(call: &mut Call, place: &Place<'_>) -> Result<Response<Body>, Status> {
    let options = WriteOptions::of(call)?;
    let object = body::object(call, place).await?;
    check_namespace(place, &object)?;
    let created = create_object(&call.inner, &call.user, place, object, &options, &mut call.warnings).await?;
    match created {
        Created::Stored(bytes, revision) => respond::stored(call, 201, &place.resource, &bytes, revision),
        Created::Dry(value) => {
            let form = negotiate::form(call.headers(), &call.query, !place.resource.kind.custom)?;
            respond::object(call, 201, &place.resource, convert::from_stored(&place.resource, value)?, form)
        }
    }
}

fn check_namespace(place: &Place<'_>, object: &Value) -> Result<(), Status> {
    let given = meta_str(object, "namespace");
    if place.resource.kind.is_namespaced() && !given.is_empty() && given != place.namespace {
        return Err(Status::bad_request(
            "the namespace of the provided object does not match the namespace sent on the request",
        ));
    }
    Ok(())
}

/// A new object.
pub(crate) enum Created {
    Stored(Bytes, Revision),
    /// What would have been stored.
    Dry(Value),
}

/// Facts of the requester that strategies may record.
pub(crate) fn strategy_user(user: &User) -> StrategyUser {
    StrategyUser {
        name: user.name.clone(),
        uid: user.uid.clone(),
        groups: user.groups.clone(),
        extra: user.extra.iter().map(|(key, values)| (key.clone(), values.clone())).collect(),
    }
}

/// Creates an object that is in storage form; `place.name` is not looked at.
pub(crate) async fn create_object(
    inner: &Inner,
    user: &User,
    place: &Place<'_>,
    object: Value,
    options: &WriteOptions,
    warnings: &mut Vec<String>,
) -> Result<Created, Status> {
    let generated = meta_str(&object, "name").is_empty() && !meta_str(&object, "generateName").is_empty();
    let tries = if generated { NAME_TRIES } else { 1 };
    let mut attempt = 0;
    loop {
        attempt += 1;
        let (value, name, turn) = prepare(inner, user, place, object.clone(), options, warnings).await?;
        if options.dry_run {
            return match store::read(inner, &keys::object(place.resource.prefix(), place.namespace, &name)).await? {
                Some(_) => Err(Status::already_exists(place.resource.qualified(), &name)),
                None => Ok(Created::Dry(value)),
            };
        }
        let resource = &place.resource;
        let bytes = encoded::encode(&value, &resource.storage_api_version, &resource.kind.kind)?;
        let key = keys::object(resource.prefix(), place.namespace, &name);
        let mut extra = inner.allocators.extra(resource, Some(&value), None)?;
        turn.iter().for_each(|turn| turn.guard(&mut extra));
        let contended = !extra.is_empty();
        let write = Write { key: key.clone(), value: bytes.clone(), expected: 0, durability: Durability::Synced };
        match store::write(inner, resource, write, extra).await? {
            Written::At(revision) => {
                if turn.is_some() {
                    inner.hub.wait_for(revision).await?;
                }
                return Ok(Created::Stored(bytes, revision));
            }
            Written::Raced if attempt < tries => {}
            // Not the name, but an address, port or quota was taken in between.
            Written::Raced if contended && attempt < CONTENDED_TRIES && store::read(inner, &key).await?.is_none() => {}
            Written::Raced if generated => return Err(Status::generated_name_taken(resource.qualified(), &name)),
            Written::Raced => return Err(Status::already_exists(resource.qualified(), &name)),
        }
    }
}

/// Everything before the write: the final value, its name, and the turn to keep until it is written and visible.
async fn prepare(
    inner: &Inner,
    user: &User,
    place: &Place<'_>,
    object: Value,
    options: &WriteOptions,
    warnings: &mut Vec<String>,
) -> Result<(Value, String, Option<Turn>), Status> {
    // What was made a moment ago, perhaps through another server, counts: namespaces, limits, quotas, addresses in use.
    inner.hub.barrier().await?;
    let strategy = &*place.resource.strategy;
    let mut object = strategy.decode(object)?;
    let mut review = Review { inner, user, place, operation: Operation::Create, old: None, warnings: Vec::new() };
    if admission::mutate(&mut review, &mut object).await? {
        object = strategy.decode(object)?;
    }
    inner.allocators.assign(inner, &place.resource, &mut object, None)?;
    let uid = uuid::Uuid::new_v4().to_string();
    let suffix = names::suffix(rand::random());
    let requester = strategy_user(user);
    let context = Context {
        namespace: place.resource.kind.is_namespaced().then_some(place.namespace),
        name: None,
        now: Timestamp::now(),
        uid: &uid,
        name_suffix: &suffix,
        user: Some(&requester),
    };
    let mut value = strategy.create(object, &context)?;
    check_view(&place.resource.kind, &value, None)?;
    managed::record_create(&place.resource, &mut value, &options.field_manager, "");
    let turn = admission::validate(&mut review, Some(&value)).await?;
    warnings.append(&mut review.warnings);
    let name = meta_str(&value, "name").to_owned();
    Ok((value, name, turn))
}

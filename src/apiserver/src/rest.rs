//! The generic verbs: one code path for all rows of the registry. [`dispatch`] looks the resource up and hands over to
//! the verb's file, or to the subresource's.

pub(crate) mod answer;
pub(crate) mod body;
pub(crate) mod collection;
pub(crate) mod create;
pub(crate) mod delete;
pub(crate) mod get;
pub(crate) mod list;
pub(crate) mod options;
pub(crate) mod page;
pub(crate) mod patch;
pub(crate) mod scale;
pub(crate) mod store;
pub(crate) mod update;
pub(crate) mod watch;
pub(crate) mod yaml;

use std::sync::Arc;

use http::{Method, Response};
use objects::{kinds::Verb, status::Status, strategy::Part};

use crate::{body::Body, handler::Call, path::ResourcePath, registry::Resource, server::Inner, subresource};

/// The object or collection that a request is about.
pub(crate) struct Place<'p> {
    pub(crate) resource: Arc<Resource>,
    /// Empty for cluster-scoped resources and for all namespaces.
    pub(crate) namespace: &'p str,
    /// Empty for a collection.
    pub(crate) name: &'p str,
    pub(crate) subresource: &'p str,
}

impl Place<'_> {
    pub(crate) fn not_found(&self) -> Status {
        Status::not_found(self.resource.qualified(), self.name)
    }

    /// Key within the kind: `namespace/name` or `name`.
    pub(crate) fn store_key(&self) -> bytes::Bytes {
        crate::keys::object(self.resource.prefix(), self.namespace, self.name)
    }
}

/// Answers an authorized request on a resource path.
pub(crate) async fn dispatch(call: &mut Call, at: &ResourcePath<'_>) -> Result<Response<Body>, Status> {
    let resource = resource(&call.inner, at).await?;
    let namespaced = resource.kind.is_namespaced();
    // A namespace's own path carries its name as a namespace too.
    let namespace = if namespaced { at.namespace.as_ref() } else { "" };
    if !namespaced && !at.namespace.is_empty() && !resource.is("", "namespaces") {
        return Err(Status::unknown_path());
    }
    let place = Place { resource, namespace, name: &at.name, subresource: at.subresource };
    if !at.subresource.is_empty() {
        return subresource::dispatch(call, &place).await;
    }
    if namespaced && namespace.is_empty() && (!place.name.is_empty() || call.method == Method::POST) {
        let nameless_create = call.method == Method::POST && place.resource.kind.group == "authorization.k8s.io";
        if !nameless_create {
            return Err(Status::unknown_path());
        }
    }
    let verb = verb(call, at)?;
    if !place.resource.kind.has_verb(verb) {
        return Err(Status::method_not_on_path());
    }
    if !place.resource.kind.is_stored() {
        return crate::virtuals::dispatch(call, &place, verb).await;
    }
    match verb {
        Verb::Get => get::get(call, &place).await,
        Verb::List => list::list(call, &place).await,
        Verb::Watch => watch::watch(call, &place).await,
        Verb::Create => create::create(call, &place).await,
        Verb::Update => update::update(call, &place, Part::Main).await,
        Verb::Patch => patch::patch(call, &place, Part::Main).await,
        Verb::Delete => delete::delete(call, &place).await,
        Verb::DeleteCollection => collection::delete_collection(call, &place).await,
    }
}

async fn resource(inner: &Inner, at: &ResourcePath<'_>) -> Result<Arc<Resource>, Status> {
    let find = || inner.registry.load().find(at.group_version, at.resource).cloned();
    if let Some(found) = find() {
        return Ok(found);
    }
    // Perhaps its definition was established a moment ago, and another server has told the client so.
    if !inner.config.store.is_sole_member() {
        inner.hub.linearize().await?;
        crate::crd::registrar::sync(inner)?;
    }
    find().ok_or_else(Status::unknown_path)
}

fn verb(call: &Call, at: &ResourcePath<'_>) -> Result<Verb, Status> {
    let named = !at.name.is_empty();
    Ok(match (&call.method, named) {
        (&Method::GET | &Method::HEAD, _) if at.watch_prefix => Verb::Watch,
        (&Method::GET | &Method::HEAD, true) => Verb::Get,
        (&Method::GET | &Method::HEAD, false) if call.query.flag("watch") => Verb::Watch,
        (&Method::GET | &Method::HEAD, false) => Verb::List,
        (&Method::POST, false) => Verb::Create,
        (&Method::PUT, true) => Verb::Update,
        (&Method::PATCH, true) => Verb::Patch,
        (&Method::DELETE, true) => Verb::Delete,
        (&Method::DELETE, false) => Verb::DeleteCollection,
        _ => return Err(Status::method_not_on_path()),
    })
}

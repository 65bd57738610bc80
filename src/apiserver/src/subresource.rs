//! Subresources: which file answers which.

pub(crate) mod binding;
mod eviction;
mod token;

use http::{Method, Response};
use objects::{kinds::Verb, status::Status, strategy::Part};

use crate::{
    body::Body,
    handler::Call,
    proxy,
    rest::{Place, get, patch, scale, update},
};

/// Answers an authorized request on a subresource.
pub(crate) async fn dispatch(call: &mut Call, place: &Place<'_>) -> Result<Response<Body>, Status> {
    let resource = place.resource.clone();
    let Some(subresource) = resource.kind.subresource(place.subresource) else {
        return Err(Status::unknown_path());
    };
    if place.name.is_empty() {
        return Err(Status::unknown_path());
    }
    if subresource.name == "proxy" {
        // Its methods are the target's matter.
        return proxy::proxy(call, place).await;
    }
    let verb = match call.method {
        Method::GET | Method::HEAD => Verb::Get,
        Method::POST => Verb::Create,
        Method::PUT => Verb::Update,
        Method::PATCH => Verb::Patch,
        Method::DELETE => Verb::Delete,
        _ => return Err(Status::method_not_on_path()),
    };
    if !subresource.verbs.contains(&verb) {
        return Err(Status::method_not_on_path());
    }
    let part = match subresource.name {
        "scale" => return scale::scale(call, place).await,
        "token" => return token::create(call, place).await,
        "binding" => return binding::create(call, place).await,
        "eviction" => return eviction::create(call, place).await,
        "log" | "exec" | "attach" | "portforward" => return proxy::kubelet(call, place).await,
        "status" => Part::Status,
        "approval" => Part::Approval,
        "ephemeralcontainers" => Part::EphemeralContainers,
        "resize" => Part::Resize,
        "finalize" => Part::Finalize,
        _ => return Err(Status::unknown_path()),
    };
    match verb {
        Verb::Get => get::get(call, place).await,
        Verb::Update => update::update(call, place, part).await,
        _ => patch::patch(call, place, part).await,
    }
}

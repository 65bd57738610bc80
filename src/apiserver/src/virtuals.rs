//! Kinds that are not stored: reviews that are answered at once, bindings, component statuses.

mod access;
mod components;
mod identity;
mod rules;

use http::Response;
use objects::{kinds::Verb, status::Status};
use serde_json::Value;

use crate::{
    body::Body,
    handler::Call,
    negotiate, respond,
    rest::{Place, body},
    subresource,
};

/// Answers a request on a kind that is not stored.
pub(crate) async fn dispatch(call: &mut Call, place: &Place<'_>, verb: Verb) -> Result<Response<Body>, Status> {
    if place.resource.is("", "componentstatuses") {
        return components::answer(call, place, verb).await;
    }
    if place.resource.is("", "bindings") {
        return subresource::binding::create(call, place).await;
    }
    let review = body::object(call, place).await?;
    let answered = match place.resource.kind.kind.as_ref() {
        "SelfSubjectReview" => identity::who_am_i(call, review),
        "TokenReview" => identity::token_review(call, review).await?,
        "SelfSubjectAccessReview" => access::own(call, review)?,
        "SubjectAccessReview" => access::any(call, review, "")?,
        "LocalSubjectAccessReview" => access::any(call, review, place.namespace)?,
        "SelfSubjectRulesReview" => rules::own(call, review)?,
        _ => return Err(Status::unknown_path()),
    };
    let encoding = negotiate::whole(call.headers(), &call.query)?;
    Ok(respond::bytes(call, 201, encoding, respond::encode(&with_metadata(answered), encoding)?.into()))
}

fn with_metadata(mut review: Value) -> Value {
    if !review["metadata"].is_object() {
        review["metadata"] = serde_json::json!({ "creationTimestamp": null });
    }
    review
}

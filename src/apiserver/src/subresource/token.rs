//! `serviceaccounts/token`: a bound token, made on request.

use std::time::Duration;

use http::Response;
use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequestSpec};
use objects::{
    field::{Errors, Path},
    status::{Qualified, Status},
    strategy::deletion::rfc3339,
};
use serde_json::{Value, json};

use crate::{
    admission::node_restriction,
    authn::service_account::{Bound, ObjectRef},
    body::Body,
    encoded::{self, meta_str},
    handler::Call,
    keys, respond,
    rest::{Place, body, store},
};

const MINIMUM: i64 = 600;
const DEFAULT: i64 = 3600;
const REQUEST: Qualified<'static> = Qualified { group: "authentication.k8s.io", name: "TokenRequest" };

/// Answers the POST of a TokenRequest.
pub(super) async fn create(call: &mut Call, place: &Place<'_>) -> Result<Response<Body>, Status> {
    let mut request = body::optional_value(call, "TokenRequest").await?.unwrap_or_else(|| json!({}));
    let spec: TokenRequestSpec = match request.get("spec").cloned() {
        Some(spec) => objects::decode::decode(spec)
            .map_err(|error| Status::bad_request(format!("cannot read the TokenRequest: {error}")))?,
        None => TokenRequestSpec::default(),
    };
    let config = &call.inner.config.service_accounts;
    let lifetime = check_lifetime(spec.expiration_seconds.unwrap_or(DEFAULT), config.max_expiration)?;
    let kv = store::read(&call.inner, &place.store_key()).await?.ok_or_else(|| place.not_found())?;
    let account = encoded::decode(&kv.value, kv.mod_revision)?;
    let mut bound = Bound {
        namespace: place.namespace.to_owned(),
        serviceaccount: ObjectRef { name: place.name.to_owned(), uid: meta_str(&account, "uid").to_owned() },
        pod: None,
        secret: None,
        node: None,
    };
    let pod = match &spec.bound_object_ref {
        Some(reference) => bind(call, place, reference, &mut bound).await?,
        None => None,
    };
    node_restriction::token(call, place, &spec, pod.as_ref())?;
    let mut audiences = spec.audiences.clone().unwrap_or_default();
    if audiences.is_empty() {
        audiences.extend(config.audiences.first().cloned());
    }
    let (token, expires) =
        call.inner.authn.service_accounts.issue(bound, audiences.clone(), lifetime).map_err(Status::internal)?;
    let expires = jiff::Timestamp::from_second(expires).map(rfc3339).unwrap_or_default();
    request["apiVersion"] = "authentication.k8s.io/v1".into();
    request["kind"] = "TokenRequest".into();
    request["metadata"] =
        json!({"name": place.name, "namespace": place.namespace, "creationTimestamp": rfc3339(jiff::Timestamp::now())});
    request["spec"]["audiences"] = json!(audiences);
    request["spec"]["expirationSeconds"] = lifetime.as_secs().into();
    request["status"] = json!({"token": token, "expirationTimestamp": expires});
    respond::value(call, 201, &request)
}

fn check_lifetime(seconds: i64, longest: Duration) -> Result<Duration, Status> {
    let path = Path::root("spec.expirationSeconds");
    let mut errors = Errors::default();
    if seconds < MINIMUM {
        errors.invalid(&path, seconds, "may not specify a duration less than 10 minutes");
    } else if seconds > 1 << 32 {
        errors.invalid(&path, seconds, "may not specify a duration larger than 2^32 seconds");
    }
    if !errors.is_empty() {
        return Err(Status::invalid(REQUEST, "", errors.as_slice()));
    }
    Ok(Duration::from_secs(seconds.unsigned_abs()).min(longest))
}

/// Checks the object the token is to be bound to, and notes it. Returns it if it is a pod.
async fn bind(
    call: &Call,
    place: &Place<'_>,
    reference: &BoundObjectReference,
    bound: &mut Bound,
) -> Result<Option<Value>, Status> {
    let name = reference.name.clone().unwrap_or_default();
    let kind = reference.kind.as_deref().unwrap_or_default();
    let (prefix, namespace) = match kind {
        "Pod" => ("pods", place.namespace),
        "Secret" => ("secrets", place.namespace),
        "Node" => ("nodes", ""),
        other => {
            let mut errors = Errors::default();
            errors.invalid(&Path::root("spec.boundObjectRef"), other, "cannot bind token to this kind of object");
            return Err(Status::invalid(REQUEST, "", errors.as_slice()));
        }
    };
    let kv = store::read(&call.inner, &keys::object(prefix, namespace, &name)).await?;
    let kv = kv.ok_or_else(|| Status::not_found(Qualified::new("", prefix), &name))?;
    let object = encoded::decode(&kv.value, kv.mod_revision)?;
    let uid = meta_str(&object, "uid").to_owned();
    if let Some(wanted) = reference.uid.as_ref().filter(|wanted| !wanted.is_empty() && **wanted != uid) {
        let why = format!(
            "the UID in the bound object reference ({wanted}) does not match the UID in record. The object might have been deleted and then recreated"
        );
        return Err(Status::conflict(Qualified::new("", prefix), &name, &why));
    }
    let reference = Some(ObjectRef { name, uid });
    match kind {
        "Pod" => {
            let account = object.pointer("/spec/serviceAccountName").and_then(Value::as_str).unwrap_or_default();
            if account != place.name {
                return Err(Status::bad_request(format!(
                    "cannot bind token for serviceaccount \"{}\" to pod running with different serviceaccount name.",
                    place.name
                )));
            }
            bound.node = node_of(call, &object).await?;
            bound.pod = reference;
        }
        "Secret" => bound.secret = reference,
        _ => bound.node = reference,
    }
    Ok(Some(object).filter(|_| kind == "Pod"))
}

async fn node_of(call: &Call, pod: &Value) -> Result<Option<ObjectRef>, Status> {
    let Some(name) = pod.pointer("/spec/nodeName").and_then(Value::as_str).filter(|name| !name.is_empty()) else {
        return Ok(None);
    };
    let kv = store::read(&call.inner, &keys::object("nodes", "", name)).await?;
    let uid = match kv {
        Some(kv) => meta_str(&encoded::decode(&kv.value, kv.mod_revision)?, "uid").to_owned(),
        None => String::new(),
    };
    Ok(Some(ObjectRef { name: name.to_owned(), uid }))
}

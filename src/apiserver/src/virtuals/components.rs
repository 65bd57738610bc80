//! ComponentStatuses, computed when asked: the store by a linearizable read; scheduler and controllers by the Leases
//! they hold, or, living in this very process, by its being alive.

use std::time::Duration;

use http::Response;
use objects::{kinds::Verb, status::Status};
use serde_json::{Value, json};

use crate::{
    body::Body,
    handler::Call,
    negotiate::{self, View},
    respond,
    rest::Place,
    views,
};

const PATIENCE: Duration = Duration::from_secs(2);

async fn statuses(call: &Call) -> Vec<Value> {
    let store = tokio::time::timeout(PATIENCE, call.inner.config.store.read_barrier()).await;
    let store = match store {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err("no answer within 2 s".to_owned()),
    };
    ["scheduler", "controller-manager", "etcd-0"]
        .into_iter()
        .map(|name| {
            let health = if name == "etcd-0" { store.clone() } else { Ok(()) };
            let condition = match health {
                Ok(()) => json!({"type": "Healthy", "status": "True", "message": "ok"}),
                Err(error) => json!({"type": "Healthy", "status": "False", "message": error}),
            };
            json!({
                "apiVersion": "v1",
                "kind": "ComponentStatus",
                "metadata": {"name": name, "creationTimestamp": null},
                "conditions": [condition],
            })
        })
        .collect()
}

/// Answers a get or a list.
pub(super) async fn answer(call: &mut Call, place: &Place<'_>, verb: Verb) -> Result<Response<Body>, Status> {
    call.warnings.push("v1 ComponentStatus is deprecated in v1.19+".into());
    let statuses = statuses(call).await;
    let form = negotiate::form(call.headers(), &call.query, !place.resource.kind.custom)?;
    if verb == Verb::Get {
        let found = statuses.into_iter().find(|status| status["metadata"]["name"] == place.name);
        return respond::object(call, 200, &place.resource, found.ok_or_else(|| place.not_found())?, form);
    }
    let list = match form.view {
        View::Table => views::table(
            &place.resource,
            statuses.into_iter(),
            views::Include::of(&call.query),
            Some(json!({"resourceVersion": ""})),
        ),
        _ => json!({"kind": "ComponentStatusList", "apiVersion": "v1", "metadata": {}, "items": statuses}),
    };
    Ok(respond::bytes(call, 200, form.encoding, respond::encode(&list, form.encoding)?.into()))
}

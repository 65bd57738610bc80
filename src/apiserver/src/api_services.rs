//! APIService objects for every group version that this server itself serves, custom ones included. All are local and
//! available; they are there for clients that look.

use std::sync::Arc;

use futures::{StreamExt, TryStreamExt};
use objects::{
    status::{Reason, Status},
    strategy::{Part, deletion::rfc3339},
};
use serde_json::{Value, json};

use crate::{
    authn::{User, user::MASTERS},
    encoded::child_mut,
    rest::{
        Place,
        create::create_object,
        delete::delete_object,
        options::WriteOptions,
        update::{self, Change, Mode},
    },
    server::Inner,
};

const MANAGED: &str = "kube-aggregator.kubernetes.io/automanaged";
const SIDE_BY_SIDE: usize = 32;

/// `v1.apps`, or `v1.` for the core group.
fn name_of(group: &str, version: &str) -> String {
    format!("{version}.{group}")
}

/// Creates what is missing and deletes what was ours and is no longer served.
pub(crate) async fn sync(inner: &Arc<Inner>) -> Result<(), Status> {
    let table = inner.registry.table();
    let mut served: Vec<(String, String)> =
        table.rows().iter().map(|row| (row.kind.group.to_string(), row.kind.version.to_string())).collect();
    served.sort();
    served.dedup();
    let cache = inner.hub.kind("apiregistration.k8s.io/apiservices")?;
    inner.hub.linearize().await?;
    let missing: Vec<_> =
        served.iter().filter(|(group, version)| cache.get(&name_of(group, version)).is_none()).cloned().collect();
    futures::stream::iter(missing)
        .map(|(group, version)| create(inner.clone(), group, version))
        .buffer_unordered(SIDE_BY_SIDE)
        .try_collect::<()>()
        .await?;
    let names: Vec<String> = served.iter().map(|(group, version)| name_of(group, version)).collect();
    let ours = cache.list("", |entry| entry.projection.labels.contains_key(MANAGED)).entries;
    for entry in ours.iter().filter(|entry| !names.iter().any(|name| **name == *entry.key)) {
        let Some(place) = place(inner, &entry.key) else { continue };
        match delete_object(inner, &user(), &place, &Default::default(), false, &mut Vec::new()).await {
            Ok(_) => {}
            Err(status) if status.is_not_found() => {}
            Err(status) => return Err(status),
        }
    }
    Ok(())
}

fn user() -> User {
    User::new("system:apiserver", [MASTERS])
}

fn place<'p>(inner: &Inner, name: &'p str) -> Option<Place<'p>> {
    let resource = inner.registry.load().find("apiregistration.k8s.io/v1", "apiservices").cloned()?;
    Some(Place { resource, namespace: "", name, subresource: "" })
}

async fn create(inner: Arc<Inner>, group: String, version: String) -> Result<(), Status> {
    let name = name_of(&group, &version);
    let Some(place) = place(&inner, &name) else { return Ok(()) };
    let custom = inner.registry.load().rows().iter().any(|row| row.kind.custom && row.kind.group == group);
    let object = json!({
        "metadata": {"name": name, "labels": {MANAGED: if custom { "true" } else { "onstart" }}},
        "spec": {
            "group": group,
            "version": version,
            "groupPriorityMinimum": if group.is_empty() { 18000 } else if custom { 1000 } else { 17000 },
            "versionPriority": if version == "v1" { 15 } else { 9 },
        },
    });
    let options = WriteOptions { field_manager: "rk".into(), ..WriteOptions::default() };
    match create_object(&inner, &user(), &place, object, &options, &mut Vec::new()).await {
        Ok(_) => {}
        Err(status) if status.reason() == Reason::AlreadyExists => {}
        Err(status) => return Err(status),
    }
    let user = user();
    let change = Change { inner: &inner, user: &user, part: Part::Status, options: &options, mode: Mode::Direct };
    let next = |old: &Value| {
        let mut new = old.clone();
        let condition = json!({
            "type": "Available",
            "status": "True",
            "reason": "Local",
            "message": "Local APIServices are always available",
            "lastTransitionTime": rfc3339(jiff::Timestamp::now()),
        });
        child_mut(&mut new, "status").insert("conditions".into(), json!([condition]));
        Ok(new)
    };
    match update::apply(&change, &place, &mut Vec::new(), next).await {
        Ok(_) => Ok(()),
        Err(status) if status.is_not_found() => Ok(()),
        Err(status) => Err(status),
    }
}

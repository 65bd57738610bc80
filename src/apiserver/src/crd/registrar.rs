//! Keeps the registry's custom rows in step with the CustomResourceDefinitions in the store, and answers on their
//! status: names accepted, established.

use std::{collections::HashSet, sync::Arc};

use jiff::Timestamp;
use objects::{
    status::{Reason, Status},
    strategy::{Part, deletion::rfc3339},
};
use serde_json::{Value, json};

use super::rows;
use crate::{
    authn::{User, user::MASTERS},
    cache::Entry,
    encoded::{child_mut, is_terminating},
    registry::Resource,
    rest::{
        Place,
        options::WriteOptions,
        update::{self, Change, Mode},
    },
    server::Inner,
};

const PREFIX: &str = "apiextensions.k8s.io/customresourcedefinitions";
/// Names that a definition reserves at its cluster: plural, singular, short names and kinds.
type Names = HashSet<(String, String)>;

/// Keeps the rows until the server stops: on every server.
pub(crate) async fn keep_rows(inner: Arc<Inner>) {
    let mut changes = match inner.hub.kind(PREFIX) {
        Ok(cache) => cache.changes(),
        Err(error) => return tracing::error!(%error, "cannot watch custom resource definitions"),
    };
    loop {
        warn_of("cannot read the custom resource definitions", sync(&inner));
        tokio::select! {
            () = inner.stop.cancelled() => return,
            changed = changes.changed() => if changed.is_err() { return },
        }
    }
}

/// Answers on the definitions' status: on one server.
pub(crate) async fn keep_status(inner: Arc<Inner>) {
    let mut changes = match inner.hub.kind(PREFIX) {
        Ok(cache) => cache.changes(),
        Err(error) => return tracing::error!(%error, "cannot watch custom resource definitions"),
    };
    loop {
        warn_of("cannot write the status of a custom resource definition", answer_all(&inner).await);
        tokio::select! {
            () = inner.stop.cancelled() => return,
            changed = changes.changed() => if changed.is_err() { return },
        }
    }
}

fn warn_of(what: &str, outcome: Result<(), Status>) {
    if let Err(error) = outcome {
        tracing::warn!(%error, "{what}");
    }
}

fn definitions(inner: &Inner) -> Result<Vec<Arc<Entry>>, Status> {
    Ok(inner.hub.kind(PREFIX)?.list("", |_| true).entries)
}

/// Makes the rows of all established definitions.
pub(crate) fn sync(inner: &Inner) -> Result<(), Status> {
    let _alone = inner.registry.changing();
    let mut made: Vec<Arc<Resource>> = Vec::new();
    let before = inner.registry.table();
    for entry in definitions(inner)? {
        let definition = entry.decode()?;
        if !is_true(&definition, "Established") {
            continue;
        }
        match rows::of(&definition, &before) {
            Ok(rows) => made.extend(rows),
            Err(error) => tracing::warn!(definition = %entry.key, %error, "definition cannot be served"),
        }
    }
    let same = |a: &Arc<Resource>, b: &Arc<Resource>| Arc::ptr_eq(a, b);
    let old: Vec<_> = before.rows().iter().filter(|row| row.kind.custom).cloned().collect();
    if old.len() == made.len() && old.iter().zip(&made).all(|(a, b)| same(a, b)) {
        return Ok(());
    }
    for row in &old {
        if !made.iter().any(|new| same(new, row)) {
            inner.hub.forget(row.prefix());
        }
    }
    inner.registry.set_custom(made);
    Ok(())
}

fn condition<'d>(definition: &'d Value, kind: &str) -> Option<&'d Value> {
    let conditions = definition.pointer("/status/conditions").and_then(Value::as_array)?;
    conditions.iter().find(|condition| condition["type"] == kind)
}

fn is_true(definition: &Value, kind: &str) -> bool {
    condition(definition, kind).is_some_and(|condition| condition["status"] == "True")
}

/// Writes the status of every definition whose status is not what it should be.
async fn answer_all(inner: &Arc<Inner>) -> Result<(), Status> {
    let mut taken: Names = objects::kinds::KINDS
        .iter()
        .flat_map(|kind| {
            let group = kind.group.to_string();
            [(group.clone(), kind.plural.to_string()), (group, kind.kind.to_string())]
        })
        .collect();
    let entries = definitions(inner)?;
    // Those that have their names already keep them.
    let (accepted, others): (Vec<_>, Vec<_>) = entries
        .iter()
        .filter_map(|entry| entry.decode().ok())
        .partition(|definition| is_true(definition, "NamesAccepted"));
    for definition in accepted.into_iter().chain(others) {
        let conflict = claim(&definition, &mut taken);
        let wanted = status(&definition, conflict);
        if definition.get("status") != Some(&wanted) {
            write(inner, &definition, wanted).await?;
        }
    }
    sync(inner)?;
    crate::api_services::sync(inner).await
}

/// Takes a definition's names, or says which one is taken already.
fn claim(definition: &Value, taken: &mut Names) -> Option<String> {
    let group = definition.pointer("/spec/group").and_then(Value::as_str).unwrap_or_default();
    let names = definition.pointer("/spec/names");
    let text = |name: &str| names.and_then(|n| n.get(name)).and_then(Value::as_str).map(str::to_owned);
    let short = names.and_then(|n| n.get("shortNames")).and_then(Value::as_array).into_iter().flatten();
    let wanted: Vec<String> = [text("plural"), text("singular"), text("kind"), text("listKind")]
        .into_iter()
        .flatten()
        .chain(short.filter_map(Value::as_str).map(str::to_owned))
        .filter(|name| !name.is_empty())
        .collect();
    let key = |name: &String| (group.to_owned(), name.clone());
    if let Some(name) = wanted.iter().find(|name| taken.contains(&key(name))) {
        return Some(name.clone());
    }
    taken.extend(wanted.iter().map(key));
    None
}

/// The status a definition should have.
fn status(definition: &Value, conflict: Option<String>) -> Value {
    let mut status = definition.get("status").cloned().unwrap_or_else(|| json!({}));
    let names = definition.pointer("/spec/names").cloned().unwrap_or_else(|| json!({}));
    let stored = definition.pointer("/spec/versions").and_then(Value::as_array).into_iter().flatten();
    let stored = stored.filter(|v| v["storage"] == true).filter_map(|v| v["name"].as_str());
    let mut versions: Vec<Value> = status["storedVersions"].as_array().cloned().unwrap_or_default();
    for version in stored {
        if !versions.iter().any(|known| known == version) {
            versions.push(version.into());
        }
    }
    status["storedVersions"] = Value::Array(versions);
    match conflict {
        Some(name) => {
            let message = format!("\"{name}\" is already in use");
            set(&mut status, "NamesAccepted", false, "NameConflict", &message);
            if condition(definition, "Established").is_none() {
                set(&mut status, "Established", false, "NotAccepted", "not all names are accepted");
            }
            if status.get("acceptedNames").is_none() {
                status["acceptedNames"] = json!({"plural": "", "kind": ""});
            }
        }
        None => {
            status["acceptedNames"] = names;
            set(&mut status, "NamesAccepted", true, "NoConflicts", "no conflicts found");
            set(&mut status, "Established", true, "InitialNamesAccepted", "the initial names have been accepted");
        }
    }
    status
}

/// Sets a condition; its time moves only when its status does.
fn set(status: &mut Value, kind: &str, holds: bool, reason: &str, message: &str) {
    let holds = if holds { "True" } else { "False" };
    if !status["conditions"].is_array() {
        status["conditions"] = json!([]);
    }
    let Some(conditions) = status["conditions"].as_array_mut() else { return };
    let wanted = |time: Value| json!({"type": kind, "status": holds, "reason": reason, "message": message, "lastTransitionTime": time});
    match conditions.iter_mut().find(|condition| condition["type"] == kind) {
        Some(known) if known["status"] == holds => {
            let time = known["lastTransitionTime"].clone();
            let observed = known.get("observedGeneration").cloned();
            *known = wanted(time);
            if let Some(observed) = observed {
                known["observedGeneration"] = observed;
            }
        }
        Some(known) => *known = wanted(rfc3339(Timestamp::now()).into()),
        None => conditions.push(wanted(rfc3339(Timestamp::now()).into())),
    }
}

async fn write(inner: &Arc<Inner>, definition: &Value, wanted: Value) -> Result<(), Status> {
    let table = inner.registry.table();
    let Some(resource) = table.find("apiextensions.k8s.io/v1", "customresourcedefinitions") else { return Ok(()) };
    let name = crate::encoded::meta_str(definition, "name");
    let place = Place { resource: resource.clone(), namespace: "", name, subresource: "status" };
    let user = User::new("system:apiserver", [MASTERS]);
    let options = WriteOptions { field_manager: "rk".into(), ..WriteOptions::default() };
    let change = Change { inner, user: &user, part: Part::Status, options: &options, mode: Mode::Plain };
    let next = |old: &Value| {
        let mut new = old.clone();
        child_mut(&mut new, "status");
        new["status"] = wanted.clone();
        Ok(new)
    };
    if is_terminating(definition) {
        return Ok(());
    }
    match update::apply(&change, &place, &mut Vec::new(), next).await {
        Ok(_) => Ok(()),
        Err(status) if matches!(status.reason(), Reason::NotFound | Reason::Conflict) => Ok(()),
        Err(status) => Err(status),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn definition(kind: &str) -> Value {
        json!({"metadata": {"name": "as.g"}, "spec": {"group": "g", "names": {"plural": "as", "kind": kind},
            "versions": [{"name": "v1", "storage": true, "served": true}]}})
    }

    #[test]
    fn a_second_claim_of_a_name_is_refused() {
        let mut taken = Names::new();
        assert_eq!(claim(&definition("A"), &mut taken), None);
        assert_eq!(claim(&definition("B"), &mut taken).as_deref(), Some("as"));
    }

    #[test]
    fn an_accepted_definition_is_established_once() {
        let mut object = definition("A");
        let first = status(&object, None);
        object["status"] = first.clone();
        assert!(is_true(&object, "Established") && is_true(&object, "NamesAccepted"));
        assert_eq!(status(&object, None), first);
        assert_eq!(first["storedVersions"], json!(["v1"]));
    }
}

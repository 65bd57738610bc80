//! Options of writes: dry run, field manager, force; and of deletes.

use objects::{
    status::{Qualified, Status},
    strategy::deletion::{DeleteOptions, Propagation},
};
use serde_json::Value;

use crate::{handler::Call, query::Query};

/// Options of create, update and patch.
#[derive(Debug, Clone, Default)]
pub(crate) struct WriteOptions {
    pub(crate) dry_run: bool,
    pub(crate) field_manager: String,
    pub(crate) force: bool,
}

impl WriteOptions {
    pub(crate) fn of(call: &Call) -> Result<WriteOptions, Status> {
        let manager = call.query.text("fieldManager").unwrap_or_else(|| default_manager(call.user_agent()));
        Ok(WriteOptions {
            dry_run: dry_run(&call.query)?,
            field_manager: manager.chars().take(128).collect(),
            force: call.query.flag("force"),
        })
    }
}

/// The part of the user agent before the first slash, as upstream names a manager that did not name itself.
fn default_manager(user_agent: &str) -> &str {
    let name = user_agent.split('/').next().unwrap_or_default();
    if name.is_empty() { "unknown" } else { name }
}

fn dry_run(query: &Query) -> Result<bool, Status> {
    let mut values = query.all("dryRun").filter(|v| !v.is_empty()).peekable();
    if values.peek().is_none() {
        return Ok(false);
    }
    match values.find(|v| *v != "All") {
        None => Ok(true),
        Some(other) => {
            let mut errors = objects::field::Errors::default();
            errors.not_supported(&objects::field::Path::root("dryRun"), other, &["All"]);
            Err(Status::invalid(Qualified::new("meta.k8s.io", "CreateOptions"), "", errors.as_slice()))
        }
    }
}

/// Delete options from the body, where there is one, else from the query.
pub(crate) fn delete_options(query: &Query, body: Option<&Value>) -> Result<(DeleteOptions, bool), Status> {
    let text = |pointer: &str, name: &str| -> Option<String> {
        match body {
            Some(body) => body.pointer(pointer).and_then(Value::as_str).map(str::to_owned),
            None => query.text(name).map(str::to_owned),
        }
    };
    let grace_period_seconds = match body {
        Some(body) => body.get("gracePeriodSeconds").and_then(Value::as_i64),
        None => match query.text("gracePeriodSeconds") {
            Some(seconds) => Some(seconds.parse().map_err(|_| {
                Status::bad_request(format!("gracePeriodSeconds: invalid value \"{seconds}\": not a number"))
            })?),
            None => None,
        },
    };
    let orphan = match body {
        Some(body) => body.get("orphanDependents").and_then(Value::as_bool),
        None => query.get("orphanDependents").map(|_| query.flag("orphanDependents")),
    };
    let propagation = match text("/propagationPolicy", "propagationPolicy").as_deref() {
        Some("Orphan") => Some(Propagation::Orphan),
        Some("Background") => Some(Propagation::Background),
        Some("Foreground") => Some(Propagation::Foreground),
        Some(other) => {
            let mut errors = objects::field::Errors::default();
            let path = objects::field::Path::root("propagationPolicy");
            errors.not_supported(&path, other, &["Foreground", "Background", "Orphan", "nil"]);
            return Err(Status::invalid(Qualified::new("meta.k8s.io", "DeleteOptions"), "", errors.as_slice()));
        }
        None => orphan.map(|orphan| if orphan { Propagation::Orphan } else { Propagation::Background }),
    };
    let in_body = body.and_then(|b| b.get("dryRun")).and_then(Value::as_array).is_some_and(|list| !list.is_empty());
    let options = DeleteOptions {
        grace_period_seconds,
        uid: text("/preconditions/uid", "preconditions.uid"),
        resource_version: text("/preconditions/resourceVersion", "preconditions.resourceVersion"),
        propagation,
    };
    Ok((options, in_body || dry_run(query)?))
}

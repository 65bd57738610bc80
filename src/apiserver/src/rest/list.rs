//! GET of a collection. From the watch cache when the newest state, or any state not older than one, will do; from
//! the store's history for an exact revision and for the following pages of a limited list.

use std::sync::Arc;

use http::Response;
use objects::{
    field::{Errors, Path},
    status::{Qualified, Status},
};
use serde_json::{Map, Value};
use storage::{RangeError, RangeRequest, Revision, prefix_end};

use super::{
    Place,
    answer::{self, Answer},
    get::invalid_version,
    page::Continue,
};
use crate::{body::Body, cache::Entry, handler::Call, keys, negotiate, query::Query, selection::Selection};

/// Most objects read at once when selectors leave most of them out.
const CHUNK: usize = 500;

/// Objects to send, in key order.
struct Page {
    entries: Vec<Arc<Entry>>,
    revision: Revision,
    token: Option<String>,
    remaining: Option<u64>,
}

/// Which state of the collection is wanted.
enum Freshness {
    Newest,
    NotOlderThan(Revision),
    Exact(Revision),
}

/// Answers a list.
pub(crate) async fn list(call: &Call, place: &Place<'_>) -> Result<Response<Body>, Status> {
    let form = negotiate::form(call.headers(), &call.query, !place.resource.kind.custom)?;
    let selection = Selection::of(&call.query, &place.resource)?;
    let limit = limit(&call.query)?;
    // A list takes no such time, but the option must be one.
    call.query.integer("timeoutSeconds")?;
    let page = match call.query.text("continue") {
        Some(token) => {
            let from = Continue::parse(token)?;
            check_continue(&call.query)?;
            if call.query.text("resourceVersion").is_some_and(|v| v != "0") {
                return Err(Status::bad_request("specifying resource version is not allowed when using continue"));
            }
            match from.revision {
                // The page before may have come from a server that is ahead of this one.
                Some(revision) if revision > call.inner.config.store.revision() => {
                    call.inner.hub.wait_for(revision).await?;
                }
                Some(_) => {}
                None => drop(call.inner.hub.barrier().await?),
            }
            history(call, place, &selection, &from, limit)?
        }
        None => match freshness(&call.query)? {
            Freshness::Exact(revision) => {
                let from = Continue { revision: Some(revision), start: String::new() };
                if revision > call.inner.config.store.revision() {
                    call.inner.hub.wait_for(revision).await?;
                }
                history(call, place, &selection, &from, limit)?
            }
            Freshness::Newest => {
                call.inner.hub.linearize().await?;
                cached(call, place, &selection, limit)?
            }
            Freshness::NotOlderThan(revision) => {
                call.inner.hub.wait_for(revision).await?;
                // A list that takes any state is answered whole, as upstream answers it from its cache.
                cached(call, place, &selection, if revision == 0 { 0 } else { limit })?
            }
        },
    };
    let metadata = list_metadata(&page);
    answer::send(call, Answer { resource: place.resource.clone(), entries: page.entries, metadata }, form)
}

/// How many objects are wanted at most; 0 for all.
fn limit(query: &Query) -> Result<usize, Status> {
    Ok(query.integer("limit")?.and_then(|limit| usize::try_from(limit).ok()).unwrap_or(0))
}

fn refusal(field: &str, detail: &str) -> Status {
    let mut errors = Errors::default();
    errors.forbidden(&Path::root(field), detail);
    Status::invalid(Qualified::new("meta.k8s.io", "ListOptions"), "", errors.as_slice())
}

/// A token says which state it goes on in: nothing else may.
fn check_continue(query: &Query) -> Result<(), Status> {
    match query.text("resourceVersionMatch") {
        Some(_) => {
            let detail = "resourceVersionMatch is forbidden when continue is provided";
            Err(refusal("resourceVersionMatch", detail))
        }
        None => Ok(()),
    }
}

fn freshness(query: &Query) -> Result<Freshness, Status> {
    let version = query.text("resourceVersion");
    let rule = query.text("resourceVersionMatch");
    let refuse = |detail: &str| Err(refusal("resourceVersionMatch", detail));
    if query.get("sendInitialEvents").is_some() {
        return Err(refusal("sendInitialEvents", "sendInitialEvents is forbidden for list"));
    }
    let Some(version) = version else {
        return match rule {
            Some(_) => refuse("resourceVersionMatch is forbidden unless resourceVersion is provided"),
            None => Ok(Freshness::Newest),
        };
    };
    let revision: Revision = version.parse().map_err(|_| invalid_version(version))?;
    match rule {
        Some("Exact") if revision == 0 => {
            refuse("resourceVersionMatch \"Exact\" is forbidden for resourceVersion \"0\"")
        }
        Some("Exact") => Ok(Freshness::Exact(revision)),
        // Paging through a state the client named has always meant exactly that state.
        None if revision > 0 && query.text("limit").is_some_and(|l| l != "0") => Ok(Freshness::Exact(revision)),
        None | Some("NotOlderThan") => Ok(Freshness::NotOlderThan(revision)),
        Some(other) => {
            let mut errors = Errors::default();
            errors.not_supported(&Path::root("resourceVersionMatch"), other, &["Exact", "NotOlderThan", ""]);
            Err(Status::invalid(Qualified::new("meta.k8s.io", "ListOptions"), "", errors.as_slice()))
        }
    }
}

fn cached(call: &Call, place: &Place<'_>, selection: &Selection, limit: usize) -> Result<Page, Status> {
    let cache = call.inner.hub.of(&place.resource)?;
    // Read before the list: whatever this revision covers, the list has.
    let seen = call.inner.hub.revision();
    let listing = match selection.name() {
        Some(name) if !place.namespace.is_empty() || !place.resource.kind.is_namespaced() => {
            let mut listing = cache.list("\0", |_| false);
            listing.entries =
                cache.get_in(place.namespace, name).filter(|entry| selection.matches(entry)).into_iter().collect();
            listing
        }
        _ => cache.list(place.namespace, |entry| selection.matches(entry)),
    };
    let revision = seen.max(listing.revision);
    let mut entries = listing.entries;
    let total = entries.len();
    if limit == 0 || total <= limit {
        return Ok(Page { entries, revision, token: None, remaining: None });
    }
    entries.truncate(limit);
    let token = entries.last().map(|entry| Continue::after(&entry.key, revision));
    let remaining = selection.is_empty().then_some((total - limit) as u64);
    Ok(Page { entries, revision, token, remaining })
}

/// Reads one revision from the store.
fn history(
    call: &Call,
    place: &Place<'_>,
    selection: &Selection,
    from: &Continue,
    limit: usize,
) -> Result<Page, Status> {
    let resource = &place.resource;
    let revision = from.revision.unwrap_or_else(|| call.inner.config.store.revision());
    let kind = keys::collection(resource.prefix(), "");
    let scope = keys::collection(resource.prefix(), place.namespace);
    let mut start = if from.start.is_empty() { scope.clone() } else { format!("{kind}{}", from.start) };
    if !start.starts_with(&scope) {
        return Err(Status::bad_request("continue key is not valid"));
    }
    let mut entries = Vec::new();
    loop {
        let wanted =
            if limit == 0 { 0 } else { (limit - entries.len()).max(if selection.is_empty() { 1 } else { CHUNK }) };
        let request = RangeRequest {
            key: start.clone().into(),
            end: Some(prefix_end(scope.as_bytes())),
            revision: Some(revision),
            limit: wanted,
            ..RangeRequest::default()
        };
        let range = call.inner.config.store.range(&request).map_err(|error| range_status(error, &from.start))?;
        for (index, kv) in range.kvs.iter().enumerate() {
            let Some(key) = kv.key.get(kind.len()..).and_then(|key| std::str::from_utf8(key).ok()) else { continue };
            let entry = Entry::new(key, kv, &resource.projector);
            if !selection.matches(&entry) {
                continue;
            }
            entries.push(Arc::new(entry));
            let behind = range.count - index as u64 - 1;
            if entries.len() == limit && behind > 0 {
                let token = Some(Continue::after(key, revision));
                let remaining = selection.is_empty().then_some(behind);
                return Ok(Page { entries, revision, token, remaining });
            }
        }
        match range.kvs.last() {
            Some(last) if range.more => {
                start = String::from_utf8_lossy(&last.key).into_owned() + "\0";
            }
            _ => return Ok(Page { entries, revision, token: None, remaining: None }),
        }
    }
}

/// Upstream's answer to a list that cannot be read. One that was going on from `start` may do so without consistency.
fn range_status(error: RangeError, start: &str) -> Status {
    match error {
        RangeError::Compacted { .. } if start.is_empty() => {
            Status::expired("The resourceVersion for the provided list is too old.")
        }
        RangeError::Compacted { .. } => {
            Status::continue_expired(Continue { revision: None, start: start.to_owned() }.encode())
        }
        RangeError::Future { revision, current } => Status::too_large_revision(revision, current),
    }
}

fn list_metadata(page: &Page) -> Map<String, Value> {
    let mut metadata = Map::new();
    if let Some(token) = &page.token {
        metadata.insert("continue".into(), token.as_str().into());
    }
    if let Some(remaining) = page.remaining {
        metadata.insert("remainingItemCount".into(), remaining.into());
    }
    metadata.insert("resourceVersion".into(), page.revision.to_string().into());
    metadata
}

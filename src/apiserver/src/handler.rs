//! One request from its bytes to its answer: authentication, impersonation, routing, authorization, dispatch. Every
//! transport calls [`handle`]; whatever fails inside becomes a Status, a panic included.

use std::{
    net::SocketAddr,
    panic::AssertUnwindSafe,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use futures::FutureExt;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri, header::CACHE_CONTROL, request::Parts};
use objects::{
    selector::FieldSelector,
    status::{Qualified, Status},
};

use crate::{
    authn::{User, impersonate},
    authz::{Attributes, Decision},
    body::{Body, RequestBody},
    metrics::{RequestLabels, VerbLabels},
    nonresource,
    path::{self, ResourcePath, Target},
    query::Query,
    respond, rest,
    server::Inner,
};

/// When to ask a server again that has just started, in seconds.
const COME_AGAIN: u32 = 1;

/// Where a request came from.
pub(crate) struct Origin {
    pub(crate) peer: Option<SocketAddr>,
    /// What the client certificate said.
    pub(crate) certificate: Option<Arc<User>>,
    /// The user of an in-process transport.
    pub(crate) fixed: Option<Arc<User>>,
}

/// As upstream's default of --authorization-always-allow-paths.
const ALWAYS_ALLOWED: [&str; 3] = ["/healthz", "/livez", "/readyz"];

/// One authenticated request.
pub(crate) struct Call {
    pub(crate) inner: Arc<Inner>,
    pub(crate) user: Arc<User>,
    pub(crate) method: Method,
    pub(crate) uri: Uri,
    pub(crate) query: Query,
    pub(crate) head: Parts,
    /// Taken by whoever reads it. The lock is never contended: it only makes the body shareable.
    body: Mutex<Option<RequestBody>>,
    /// Whether the client is on this machine: then compressing the answer costs more than it saves.
    pub(crate) local: bool,
    /// Texts for `Warning` headers.
    pub(crate) warnings: Vec<String>,
}

impl Call {
    /// The body; `None` when it was taken before.
    pub(crate) fn take_body(&self) -> Option<RequestBody> {
        self.body.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    pub(crate) fn headers(&self) -> &HeaderMap {
        &self.head.headers
    }

    /// Name of the client program, as managed fields default to.
    pub(crate) fn user_agent(&self) -> &str {
        self.headers().get(http::header::USER_AGENT).and_then(|v| v.to_str().ok()).unwrap_or_default()
    }
}

/// Answers one request.
pub(crate) async fn handle(inner: Arc<Inner>, origin: Origin, request: Request<RequestBody>) -> Response<Body> {
    let started = Instant::now();
    let uri = request.uri().clone();
    let method = request.method().clone();
    inner.metrics.in_flight.inc();
    let answered = AssertUnwindSafe(Box::pin(answer(inner.clone(), origin, request))).catch_unwind().await;
    inner.metrics.in_flight.dec();
    let mut response = match answered {
        Ok(Ok(response)) => response,
        Ok(Err(status)) => respond::status(&status),
        Err(_) => {
            inner.metrics.panics.inc();
            tracing::error!(%method, path = uri.path(), "request panicked");
            respond::status(&Status::internal(format!("this request caused apiserver to panic: {}", uri.path())))
        }
    };
    // Errors above all: kubectl keeps what it is not told to forget, and would go on waiting for a server that is up.
    response.headers_mut().entry(CACHE_CONTROL).or_insert(HeaderValue::from_static("no-cache, private"));
    count(&inner, &method, &uri, response.status(), started.elapsed());
    response
}

fn count(inner: &Inner, method: &Method, uri: &Uri, code: StatusCode, elapsed: Duration) {
    let target = path::parse(uri.path());
    let table = inner.registry.load();
    // Only names that are served become labels: clients must not make series at will.
    let served = match &target {
        Target::Resource(at) => table.find(at.group_version, at.resource).map(|resource| (at, resource)),
        Target::NonResource => None,
    };
    let (verb, group, resource, subresource) = match served {
        Some((at, resource)) => {
            let subresource = resource.kind.subresource(at.subresource).map_or("", |known| known.name);
            (verb_of(method, at, uri.query()), at.group(), at.resource, subresource)
        }
        None => (non_resource_verb(method), "", "", ""),
    };
    let labels = RequestLabels {
        verb: verb.to_owned(),
        group: group.to_owned(),
        resource: resource.to_owned(),
        subresource: subresource.to_owned(),
        code: code.as_u16(),
    };
    inner.metrics.requests.get_or_create(&labels).inc();
    if verb != "watch" {
        let labels = VerbLabels { verb: verb.to_owned(), resource: resource.to_owned() };
        inner.metrics.durations.get_or_create(&labels).observe(elapsed.as_secs_f64());
    }
    tracing::debug!(%method, path = uri.path(), code = code.as_u16(), elapsed_us = elapsed.as_micros(), "request");
}

async fn answer(inner: Arc<Inner>, origin: Origin, request: Request<RequestBody>) -> Result<Response<Body>, Status> {
    let user = match &origin.fixed {
        Some(user) => user.clone(),
        None => inner.authn.authenticate(request.headers(), origin.certificate.as_ref()).await?,
    };
    let uri = request.uri().clone();
    let route = inner.routes.load().iter().find(|(prefix, _)| uri.path().starts_with(prefix.as_str())).cloned();
    if let Some((_, route)) = route {
        // These decide by the user alone: it has to be the one that is asked for.
        let user = impersonated(&inner, user, request.headers())?;
        return Ok(route.handle(request, user).await);
    }
    if let Some(what) = inner.starting.load().as_deref()
        && (!nonresource::is_health(uri.path()) || uri.path().starts_with("/readyz"))
    {
        // Roles are not there yet to say who may ask, and what there is may be old.
        let why = format!("the server is starting, and waits for {what}");
        return Err(Status::unavailable(why).with_retry_after(COME_AGAIN));
    }
    let user = impersonated(&inner, user, request.headers())?;
    let target = path::parse(uri.path());
    let verb = match &target {
        Target::NonResource => non_resource_verb(request.method()),
        Target::Resource(at) => verb_of(request.method(), at, uri.query()),
    };
    // The components of this process bound themselves, and must not be kept from their work by who floods the server.
    let _room = match origin.fixed {
        Some(_) => None,
        None => inner.room.for_request(&user, &target, verb, uri.path())?,
    };
    let (head, body) = request.into_parts();
    let mut call = Call {
        method: head.method.clone(),
        query: Query::parse(uri.query()),
        local: origin.peer.is_none_or(|peer| peer.ip().is_loopback()),
        body: Mutex::new(Some(body)),
        warnings: Vec::new(),
        inner,
        user,
        uri: uri.clone(),
        head,
    };
    let response = match target {
        Target::NonResource => {
            authorize_path(&call, verb, uri.path())?;
            nonresource::dispatch(&mut call).await
        }
        Target::Resource(at) => {
            authorize_resource(&call, &at, verb)?;
            Box::pin(rest::dispatch(&mut call, &at)).await
        }
    }?;
    Ok(respond::with_warnings(response, &call.warnings))
}

fn impersonated(inner: &Inner, user: Arc<User>, headers: &HeaderMap) -> Result<Arc<User>, Status> {
    let Some(wanted) = impersonate::requested(headers)? else { return Ok(user) };
    for check in &wanted.checks {
        let attributes = Attributes {
            user: &user,
            verb: "impersonate",
            group: check.group,
            resource: check.resource,
            subresource: &check.subresource,
            namespace: &check.namespace,
            name: &check.name,
            ..Attributes::of(&user)
        };
        permit(inner.authz.authorize(&attributes), &attributes)?;
    }
    Ok(Arc::new(wanted.user))
}

fn authorize_path(call: &Call, verb: &str, path: &str) -> Result<(), Status> {
    // Asked before there are any rules, and never a secret.
    if ALWAYS_ALLOWED.contains(&path) {
        return Ok(());
    }
    let attributes = Attributes { user: &call.user, verb, path, ..Attributes::of(&call.user) };
    match call.inner.authz.authorize(&attributes) {
        Decision::Allow(_) => Ok(()),
        Decision::NoOpinion(_) => Err(Status::forbidden_path(&call.user.name, verb, path)),
    }
}

fn authorize_resource(call: &Call, at: &ResourcePath<'_>, verb: &str) -> Result<(), Status> {
    let mut name = at.name.as_ref();
    let fields = selected_fields(&call.query);
    if name.is_empty() {
        name = fields.exact("metadata.name").unwrap_or_default();
    }
    let attributes = Attributes {
        user: &call.user,
        verb,
        group: at.group(),
        resource: at.resource,
        subresource: at.subresource,
        namespace: &at.namespace,
        name,
        selected_node: fields.exact("spec.nodeName").unwrap_or_default(),
        path: "",
    };
    permit(call.inner.authz.authorize(&attributes), &attributes)
}

/// `fieldSelector=metadata.name=x` narrows a list or watch to one object, for authorization as well. Read by the parser
/// that the list itself uses, so that both mean the same; what does not parse narrows nothing, and is refused later.
fn selected_fields(query: &Query) -> FieldSelector {
    query.text("fieldSelector").and_then(|text| FieldSelector::parse(text).ok()).unwrap_or_default()
}

fn permit(decision: Decision, attributes: &Attributes<'_>) -> Result<(), Status> {
    match decision {
        Decision::Allow(_) => Ok(()),
        Decision::NoOpinion(reason) => {
            let why = attributes.refusal(&reason);
            let resource = if attributes.subresource.is_empty() {
                attributes.resource.to_owned()
            } else {
                format!("{}/{}", attributes.resource, attributes.subresource)
            };
            // Upstream names the resource without its subresource here; the refusal itself has both.
            let named = resource.split('/').next().unwrap_or_default();
            Err(Status::forbidden(Qualified::new(attributes.group, named), attributes.name, &why))
        }
    }
}

/// The API verb of a request on a resource.
pub(crate) fn verb_of(method: &Method, at: &ResourcePath<'_>, query: Option<&str>) -> &'static str {
    match *method {
        Method::POST => "create",
        Method::PUT => "update",
        Method::PATCH => "patch",
        Method::DELETE if at.name.is_empty() => "deletecollection",
        Method::DELETE => "delete",
        Method::GET | Method::HEAD if at.watch_prefix => "watch",
        Method::GET | Method::HEAD if !at.name.is_empty() => "get",
        Method::GET | Method::HEAD if Query::parse(query).flag("watch") => "watch",
        Method::GET | Method::HEAD => "list",
        _ => "",
    }
}

fn non_resource_verb(method: &Method) -> &'static str {
    match *method {
        Method::GET => "get",
        Method::HEAD => "head",
        Method::POST => "post",
        Method::PUT => "put",
        Method::PATCH => "patch",
        Method::DELETE => "delete",
        Method::OPTIONS => "options",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_condition_on_the_name_itself_narrows_what_is_authorized() {
        let name = |selector: &str| {
            let query = Query::parse(Some(&format!("fieldSelector={selector}")));
            selected_fields(&query).exact("metadata.name").map(str::to_owned)
        };
        assert_eq!(name("metadata.name=mine").as_deref(), Some("mine"));
        assert_eq!(name("type=x,metadata.name==mine").as_deref(), Some("mine"));
        // These select other objects than `mine`.
        for selector in ["metadata.name!=mine", "type!=x\\,metadata.name=mine", "metadata.name=mine=", ""] {
            assert_eq!(name(selector), None, "{selector}");
        }
    }
}

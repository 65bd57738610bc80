//! rk's own paths on the API port, below `/rk/v1/`: the CA certificate, joins of agents and servers, agents' tunnels, and
//! what servers say to each other. Each path decides by itself who may use it; none counts against the API's limits.

use crate::join::server::{Joins, Proof};
use crate::join::{CA_PATH, JOIN_PATH};
use crate::members::gate::{self, Gate};
use crate::members::{ENTER_PATH, MEMBERS_PATH, RAFT_PATH, TOKENS_PATH};
use crate::snapshot::{Snapshots, route};
use crate::tunnel::{self, server::Tunnels};
use apiserver::{Body, ExtraRoute, RequestBody, SERVERS, User};
use bytes::Bytes;
use futures::future::BoxFuture;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Limited};
use hyper_util::rt::TokioIo;
use pki::leaf::SERVER_USER;
use serde::Serialize;
use std::sync::Arc;
use std::time::Duration;
use storage::{MAX_RPC_BYTES, PeerIdentity};
use tokio::sync::Semaphore;

pub(crate) const PREFIX: &str = "/rk/v1/";
const MAX_JOIN_BYTES: usize = 64 * 1024;
/// For a body to arrive: anybody may begin to send one, and none holds a connection for ever.
const SMALL_BODY: Duration = Duration::from_secs(20);
/// For one of another server, which may be a piece of a snapshot on a slow line.
const RAFT_BODY: Duration = Duration::from_secs(60);
/// Joins that are looked at together; who comes beyond these is asked to come again. Each costs the store a round.
const MOST_JOINS: usize = 64;
const NODE_USER: &str = "system:node:";
const ADMINISTRATORS: &str = "system:masters";

#[derive(Clone)]
pub(crate) struct Routes {
    joins: Joins,
    tunnels: Tunnels,
    gate: Gate,
    snapshots: Snapshots,
    joining: Arc<Semaphore>,
}

impl ExtraRoute for Routes {
    fn handle(&self, request: Request<RequestBody>, user: Arc<User>) -> BoxFuture<'static, Response<Body>> {
        let routes = self.clone();
        Box::pin(async move {
            let place = (request.method().clone(), request.uri().path().to_owned());
            match (&place.0, place.1.as_str()) {
                (&Method::GET, CA_PATH) => {
                    text(StatusCode::OK, "application/x-pem-file", routes.joins.ca.cert_pem().to_owned())
                }
                (&Method::POST, JOIN_PATH) => routes.join(request, &user).await,
                (&Method::GET, tunnel::PATH) => routes.tunnel(request, &user),
                (&Method::POST, route::PATH) => routes.snapshot(request, &user).await,
                (&Method::POST, RAFT_PATH) => routes.raft(request, &user).await,
                (&Method::POST, ENTER_PATH) => routes.enter(request, &user).await,
                (&Method::POST, MEMBERS_PATH) => routes.place(request, &user).await,
                (&Method::POST, TOKENS_PATH) => routes.tokens(request, &user).await,
                (method, path) if path.starts_with(MEMBERS_PATH) => {
                    routes.members(method, path, request.uri().query(), &user).await
                }
                _ => explain(StatusCode::NOT_FOUND, "no such path"),
            }
        })
    }
}

impl Routes {
    pub(crate) fn new(joins: Joins, tunnels: Tunnels, gate: Gate, snapshots: Snapshots) -> Self {
        Self { joins, tunnels, gate, snapshots, joining: Arc::new(Semaphore::new(MOST_JOINS)) }
    }

    async fn join(&self, request: Request<RequestBody>, user: &User) -> Response<Body> {
        let (head, body) = request.into_parts();
        let Some(body) = small(body).await else { return too_large() };
        let authorization = head.headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        let Ok(_room) = self.joining.try_acquire() else { return busy() };
        let proof = Proof { authorization, node: user.name.strip_prefix(NODE_USER) };
        let joined = self.joins.join(proof, &body).await;
        match joined.map(|response| serde_json::to_string(&response)) {
            Ok(Ok(json)) => text(StatusCode::OK, "application/json", json),
            Ok(Err(error)) => explain(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()),
            Err(refusal) => {
                let (status, text) = (refusal.status(), refusal.to_string());
                if status == StatusCode::SERVICE_UNAVAILABLE {
                    tracing::warn!(error = format!("{:#}", anyhow::Error::new(refusal)), "join not answered");
                }
                explain(status, &text)
            }
        }
    }

    async fn snapshot(&self, request: Request<RequestBody>, user: &User) -> Response<Body> {
        let Some(body) = small(request.into_body()).await else { return too_large() };
        match route::answer(&self.snapshots, &user.groups, &body).await {
            Ok(json) => text(StatusCode::OK, "application/json", json),
            Err(refusal) => explain(refusal.status(), &refusal.to_string()),
        }
    }

    /// A request of another server's store. It is carried out to its end even if the sender stops waiting.
    async fn raft(&self, request: Request<RequestBody>, user: &User) -> Response<Body> {
        let Some(name) = server_name(user).map(str::to_owned) else {
            return explain(StatusCode::FORBIDDEN, "this path is for the cluster's servers");
        };
        let Some(body) = whole(request.into_body(), MAX_RPC_BYTES, RAFT_BODY).await else { return too_large() };
        let store = self.gate.store.clone();
        let peer = PeerIdentity { name: Some(name) };
        match tokio::spawn(async move { store.handle(body, &peer).await }).await {
            Ok(answer) => Response::new(Body::Full(answer)),
            Err(_) => explain(StatusCode::INTERNAL_SERVER_ERROR, "the request was not answered"),
        }
    }

    async fn enter(&self, request: Request<RequestBody>, user: &User) -> Response<Body> {
        let (head, body) = request.into_parts();
        let Some(body) = small(body).await else { return too_large() };
        let authorization = head.headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        let Ok(_room) = self.joining.try_acquire() else { return busy() };
        answer(self.gate.enter(authorization, server_name(user), &body).await)
    }

    async fn place(&self, request: Request<RequestBody>, user: &User) -> Response<Body> {
        let Some(name) = server_name(user) else {
            return explain(StatusCode::FORBIDDEN, "this path is for the cluster's servers");
        };
        let Some(body) = small(request.into_body()).await else { return too_large() };
        answer(self.gate.place(name, &body).await)
    }

    async fn tokens(&self, request: Request<RequestBody>, user: &User) -> Response<Body> {
        if !user.in_group(ADMINISTRATORS) {
            return explain(StatusCode::FORBIDDEN, "this takes an administrator's certificate");
        }
        let Some(body) = small(request.into_body()).await else { return too_large() };
        answer(self.gate.rotate_tokens(&body).await)
    }

    async fn members(&self, method: &Method, path: &str, query: Option<&str>, user: &User) -> Response<Body> {
        let administrator = user.in_group(ADMINISTRATORS);
        let rest: Vec<_> = path.trim_start_matches(MEMBERS_PATH).trim_matches('/').split('/').collect();
        match (method, rest.as_slice()) {
            (&Method::GET, [""]) if administrator || server_name(user).is_some() => {
                answer(Ok(self.gate.list(query == Some("here")).await))
            }
            _ if !administrator => explain(StatusCode::FORBIDDEN, "this takes an administrator's certificate"),
            (&Method::DELETE, [which]) => answer(self.gate.remove(which).await),
            (&Method::POST, [which, "promote"]) => answer(self.gate.promote(which).await),
            _ => explain(StatusCode::NOT_FOUND, "no such path"),
        }
    }

    fn tunnel(&self, mut request: Request<RequestBody>, user: &User) -> Response<Body> {
        let Some(node) = user.name.strip_prefix(NODE_USER).map(str::to_owned) else {
            return explain(StatusCode::FORBIDDEN, "a tunnel takes a node's certificate");
        };
        if request.headers().get(header::UPGRADE).is_none_or(|value| value != tunnel::PROTOCOL) {
            return explain(StatusCode::UPGRADE_REQUIRED, "a tunnel takes Upgrade: rk-tunnel/1");
        }
        let tunnels = self.tunnels.clone();
        let connection = hyper::upgrade::on(&mut request);
        tokio::spawn(async move {
            match connection.await {
                Ok(connection) => tunnels.serve(node, TokioIo::new(connection)).await,
                Err(error) => tracing::debug!(%node, %error, "tunnel not opened"),
            }
        });
        let mut response = Response::new(Body::Empty);
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        response.headers_mut().insert(header::CONNECTION, header::HeaderValue::from_static("Upgrade"));
        response.headers_mut().insert(header::UPGRADE, header::HeaderValue::from_static(tunnel::PROTOCOL));
        response
    }
}

/// The name of the server that this user is, if it is one.
fn server_name(user: &User) -> Option<&str> {
    user.name.strip_prefix(SERVER_USER).filter(|name| !name.is_empty() && user.in_group(SERVERS))
}

/// A body that is no larger than joins are.
async fn small(body: RequestBody) -> Option<Bytes> {
    whole(body, MAX_JOIN_BYTES, SMALL_BODY).await
}

/// A body of so many bytes at most, if it arrives in time.
async fn whole(body: RequestBody, limit: usize, patience: Duration) -> Option<Bytes> {
    let body = tokio::time::timeout(patience, Limited::new(body, limit).boxed_unsync().collect()).await;
    body.ok()?.ok().map(|body| body.to_bytes())
}

fn busy() -> Response<Body> {
    explain(StatusCode::SERVICE_UNAVAILABLE, "too many machines join at this moment: try again")
}

fn too_large() -> Response<Body> {
    explain(StatusCode::PAYLOAD_TOO_LARGE, "the request broke off, came too slowly, or is too large")
}

fn answer<T: Serialize>(outcome: Result<T, gate::Refusal>) -> Response<Body> {
    match outcome.map(|answer| serde_json::to_string(&answer)) {
        Ok(Ok(json)) => text(StatusCode::OK, "application/json", json),
        Ok(Err(error)) => explain(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()),
        Err(refusal) => {
            let (status, text) = (refusal.status(), refusal.to_string());
            tracing::info!(error = format!("{:#}", anyhow::Error::new(refusal)), "a server was not let in, or changed");
            explain(status, &text)
        }
    }
}

fn explain(status: StatusCode, message: &str) -> Response<Body> {
    // As the API says it, so that kubectl shows it.
    let reason = match status {
        StatusCode::UNAUTHORIZED => "Unauthorized",
        StatusCode::FORBIDDEN => "Forbidden",
        StatusCode::NOT_FOUND => "NotFound",
        StatusCode::CONFLICT => "Conflict",
        StatusCode::PAYLOAD_TOO_LARGE => "RequestEntityTooLarge",
        StatusCode::INTERNAL_SERVER_ERROR => "InternalError",
        StatusCode::SERVICE_UNAVAILABLE => "ServiceUnavailable",
        _ => "",
    };
    let told = serde_json::json!({
        "kind": "Status", "apiVersion": "v1", "status": "Failure", "message": message, "reason": reason,
        "code": status.as_u16(),
    });
    text(status, "application/json", told.to_string())
}

fn text(status: StatusCode, content_type: &'static str, body: String) -> Response<Body> {
    let mut response = Response::new(Body::Full(Bytes::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(content_type));
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::{Full, StreamBody};
    use hyper::body::Frame;
    use std::convert::Infallible;

    fn body<B>(body: B) -> RequestBody
    where
        B: hyper::body::Body<Data = Bytes, Error = Infallible> + Send + 'static,
    {
        apiserver::request_body(body.map_err(|never| match never {}))
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_is_too_large_or_too_slow_is_given_up() {
        assert!(small(body(Full::new(Bytes::from_static(b"{}")))).await.is_some());
        assert!(small(body(Full::new(Bytes::from(vec![0; MAX_JOIN_BYTES + 1])))).await.is_none());
        let drop_by_drop = futures::stream::unfold((), |()| async {
            tokio::time::sleep(Duration::from_secs(5)).await;
            Some((Ok::<_, Infallible>(Frame::data(Bytes::from_static(b" "))), ()))
        });
        let begun = tokio::time::Instant::now();
        assert!(small(body(StreamBody::new(drop_by_drop))).await.is_none());
        assert_eq!(begun.elapsed(), SMALL_BODY);
    }
}

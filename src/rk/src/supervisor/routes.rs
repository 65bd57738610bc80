//! rk's own paths on the API port, below `/rk/v1/`: the CA certificate, joins, and agents' tunnels.

use crate::join::server::{Joins, Proof, Refusal};
use crate::join::{CA_PATH, JOIN_PATH};
use crate::snapshot::{Snapshots, route};
use crate::tunnel::{self, server::Tunnels};
use apiserver::{Body, ExtraRoute, RequestBody, User};
use bytes::Bytes;
use futures::future::BoxFuture;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Limited};
use hyper_util::rt::TokioIo;
use std::sync::Arc;

pub(crate) const PREFIX: &str = "/rk/v1/";
const MAX_JOIN_BYTES: usize = 64 * 1024;
const NODE_USER: &str = "system:node:";

#[derive(Clone)]
pub(crate) struct Routes {
    pub(crate) joins: Joins,
    pub(crate) tunnels: Tunnels,
    pub(crate) snapshots: Snapshots,
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
                _ => explain(StatusCode::NOT_FOUND, "no such path"),
            }
        })
    }
}

impl Routes {
    async fn join(&self, request: Request<RequestBody>, user: &User) -> Response<Body> {
        let (head, body) = request.into_parts();
        let Ok(body) = Limited::new(body, MAX_JOIN_BYTES).boxed_unsync().collect().await else {
            return explain(StatusCode::PAYLOAD_TOO_LARGE, "the join request is too large");
        };
        let authorization = head.headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        let proof = Proof { authorization, node: user.name.strip_prefix(NODE_USER) };
        let joined = self.joins.join(proof, &body.to_bytes()).await;
        match joined.map(|response| serde_json::to_string(&response)) {
            Ok(Ok(json)) => text(StatusCode::OK, "application/json", json),
            Ok(Err(error)) => explain(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()),
            Err(refusal) => {
                if let Refusal::Store(error) = &refusal {
                    tracing::warn!(%error, "join not answered");
                }
                explain(refusal.status(), &refusal.to_string())
            }
        }
    }

    async fn snapshot(&self, request: Request<RequestBody>, user: &User) -> Response<Body> {
        let Ok(body) = Limited::new(request.into_body(), MAX_JOIN_BYTES).boxed_unsync().collect().await else {
            return explain(StatusCode::PAYLOAD_TOO_LARGE, "the request is too large");
        };
        match route::answer(&self.snapshots, &user.groups, &body.to_bytes()).await {
            Ok(json) => text(StatusCode::OK, "application/json", json),
            Err(refusal) => explain(refusal.status(), &refusal.to_string()),
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

fn explain(status: StatusCode, message: &str) -> Response<Body> {
    text(status, "application/json", serde_json::json!({ "message": message }).to_string())
}

fn text(status: StatusCode, content_type: &'static str, body: String) -> Response<Body> {
    let mut response = Response::new(Body::Full(Bytes::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(content_type));
    response
}

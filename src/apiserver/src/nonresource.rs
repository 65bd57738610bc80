//! Everything that is not a resource: health, version, metrics, discovery, OpenAPI, the token issuer's documents.

use std::{sync::atomic::Ordering, time::Duration};

use http::{Method, Response, StatusCode};
use objects::status::Status;
use serde_json::json;
use storage::StoreError::{Excluded, NoLeader, Unknown};

use crate::{body::Body, discovery, handler::Call, respond};

/// As long as upstream waits for etcd when asked after its health.
const STORE_CHECK: Duration = Duration::from_secs(2);

/// Answers an authorized request.
pub(crate) async fn dispatch(call: &mut Call) -> Result<Response<Body>, Status> {
    let uri = call.uri.clone();
    let path = uri.path();
    if call.method != Method::GET && call.method != Method::HEAD {
        return Err(Status::method_not_on_path());
    }
    match path.trim_end_matches('/') {
        "" => root(),
        "/api" | "/apis" => discovery::dispatch(call, path),
        "/version" => version(call),
        "/metrics" => {
            let text = call.inner.metrics.render().map_err(Status::internal)?;
            Ok(respond::text(StatusCode::OK, text))
        }
        "/openid/v1/jwks" => document(&call.inner.signing_key.jwks()),
        "/.well-known/openid-configuration" => issuer(call),
        health if is_health(health) => health_check(call, health).await,
        other if other.starts_with("/api/") || other.starts_with("/apis/") => discovery::dispatch(call, other),
        other if other.starts_with("/openapi/") => crate::openapi::dispatch(call, other),
        _ => Err(Status::unknown_path()),
    }
}

fn document(value: &serde_json::Value) -> Result<Response<Body>, Status> {
    Ok(respond::json(serde_json::to_vec(value).map_err(Status::internal)?))
}

fn root() -> Result<Response<Body>, Status> {
    let paths = [
        "/.well-known/openid-configuration",
        "/api",
        "/api/v1",
        "/apis",
        "/healthz",
        "/livez",
        "/metrics",
        "/openapi/v2",
        "/openapi/v3",
        "/openid/v1/jwks",
        "/readyz",
        "/version",
    ];
    document(&json!({ "paths": paths }))
}

/// `v1.36.0+rk0.1.0` as the numbers that clients compare.
fn version(call: &Call) -> Result<Response<Body>, Status> {
    let text = call.inner.config.version.as_str();
    let mut numbers = text.trim_start_matches('v').split('.');
    let (major, minor) = (numbers.next().unwrap_or_default(), numbers.next().unwrap_or_default());
    document(&json!({
        "major": major,
        "minor": minor,
        "gitVersion": text,
        "gitCommit": "",
        "gitTreeState": "clean",
        "buildDate": "1970-01-01T00:00:00Z",
        "goVersion": "",
        "compiler": "rustc",
        "platform": format!("{}/{}", std::env::consts::OS, arch()),
    }))
}

/// This machine's architecture by the name Go, and so Kubernetes, uses.
fn arch() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn issuer(call: &Call) -> Result<Response<Body>, Status> {
    let config = &call.inner.config;
    document(&json!({
        "issuer": config.service_accounts.issuer,
        "jwks_uri": format!("https://{}/openid/v1/jwks", config.advertise),
        "response_types_supported": ["id_token"],
        "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": call.inner.signing_key.algorithms(),
    }))
}

/// Whether a path asks after the server's health.
pub(crate) fn is_health(path: &str) -> bool {
    ["/healthz", "/livez", "/readyz"].iter().any(|root| path == *root || path.starts_with(&format!("{root}/")))
}

/// Upstream's text form: `ok`, or a line for each check with `?verbose` and on failure.
async fn health_check(call: &Call, path: &str) -> Result<Response<Body>, Status> {
    let inner = &call.inner;
    let ready = path.starts_with("/readyz");
    let store = tokio::time::timeout(STORE_CHECK, inner.config.store.read_barrier()).await.unwrap_or(Err(NoLeader));
    // That others cannot be reached is nothing that a restart of this server helps against; a disk that failed is.
    let store_works = match &store {
        Err(NoLeader | Unknown | Excluded(_)) => path.starts_with("/livez"),
        Err(_) => false,
        Ok(_) => true,
    };
    let mut checks = vec![("ping", true), ("log", true), ("etcd", store_works)];
    if ready {
        let current = match store {
            Ok(revision) => inner.hub.wait_for(revision).await.is_ok(),
            Err(_) => false,
        };
        checks.push(("informer-sync", current));
        checks.push(("poststarthook/rbac/bootstrap-roles", inner.ready.load(Ordering::Acquire)));
        checks.push(("shutdown", !inner.stop.is_cancelled()));
    }
    let excluded: Vec<&str> = call.query.all("exclude").collect();
    checks.retain(|(name, _)| !excluded.contains(name));
    let root = path.trim_start_matches('/').split('/').next().unwrap_or_default();
    if let Some(one) = path.trim_start_matches('/').split_once('/').map(|(_, name)| name) {
        return match checks.iter().find(|(name, _)| *name == one) {
            Some((_, true)) => Ok(respond::text(StatusCode::OK, "ok")),
            Some((_, false)) => Ok(respond::text(StatusCode::INTERNAL_SERVER_ERROR, "internal server error: not ok\n")),
            None => Err(Status::unknown_path()),
        };
    }
    let healthy = checks.iter().all(|(_, ok)| *ok);
    if healthy && call.query.get("verbose").is_none() {
        return Ok(respond::text(StatusCode::OK, "ok"));
    }
    let mut text = String::new();
    for (name, ok) in &checks {
        text.push_str(&if *ok { format!("[+]{name} ok\n") } else { format!("[-]{name} failed: reason withheld\n") });
    }
    text.push_str(&format!("{root} check {}\n", if healthy { "passed" } else { "failed" }));
    Ok(respond::text(if healthy { StatusCode::OK } else { StatusCode::INTERNAL_SERVER_ERROR }, text))
}

//! The node's HTTP/1.1 API, with the paths of the kubelet's: logs, exec, attach, port-forward, stats, metrics.
//!
//! Served over any byte stream that somebody else has authenticated: the API server is the only caller, through the
//! agent's own connection. What a client asked of the API server arrives as it was sent, upgrades included, so every
//! streaming protocol is spoken here (see [`crate::streaming`]).
//!
//! Errors are worded for the person at the far end: log errors are Status objects, which the API server passes on;
//! upgrade errors are plain text, which kubectl shows after "unable to upgrade connection".

mod answer;
mod connect;
mod exec;
pub mod host;
mod logs;
mod metrics;
mod node;
mod pods;
mod query;
mod route;
mod stats;

use std::convert::Infallible;
use std::sync::Arc;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::answer::Body;
use self::host::Host;
use self::route::Route;
use crate::Node;

/// What the API serves from.
pub struct Api {
    host: Arc<dyn Host>,
    /// Upgraded connections live on here after their HTTP part has ended.
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl Api {
    /// Connections end when `stop` is cancelled; their tasks run on `tasks`.
    pub fn new(host: Arc<dyn Host>, tasks: TaskTracker, stop: CancellationToken) -> Arc<Api> {
        Arc::new(Api { host, tasks, stop })
    }

    /// The API of a node.
    pub fn of(node: &Node) -> Arc<Api> {
        Api::new(Arc::new(node.clone()), node.tasks().clone(), node.stopping().clone())
    }

    /// Runs a streaming session beside the connection that it came from.
    fn spawn(&self, session: impl Future<Output = ()> + Send + 'static) {
        let stop = self.stop.clone();
        self.tasks.spawn(async move {
            stop.run_until_cancelled(session).await;
        });
    }
}

/// Serves one connection until it is closed, upgraded, or the node stops.
pub async fn serve<I>(io: I, api: Arc<Api>) -> hyper::Result<()>
where
    I: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let stop = api.stop.clone();
    let service = hyper::service::service_fn(move |request| {
        let api = api.clone();
        async move { Ok::<_, Infallible>(handle(&api, request).await) }
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .half_close(false)
        .serve_connection(TokioIo::new(io), service)
        .with_upgrades();
    stop.run_until_cancelled(connection).await.unwrap_or(Ok(()))
}

async fn handle(api: &Arc<Api>, request: Request<Incoming>) -> Response<Body> {
    let route = match Route::of(request.method(), request.uri()) {
        Ok(route) => route,
        Err(refusal) => return answer::text(refusal.status(), refusal),
    };
    tracing::debug!(method = %request.method(), path = request.uri().path(), "node API request");
    match route {
        Route::Healthz => answer::text(http::StatusCode::OK, "ok"),
        Route::Pods => pods::list(&*api.host),
        Route::RunningPods => pods::running(&*api.host),
        Route::Logs(target) => logs::serve(api, &target, &request).await,
        Route::Exec(target) => exec::exec(api, &target, request),
        Route::Attach(target) => exec::attach(api, &target, request),
        Route::Run(target) => exec::run(api, &target, &request).await,
        Route::PortForward(pod) => exec::port_forward(api, &pod, request),
        Route::StatsSummary => stats::summary(&*api.host).await,
        Route::Metrics => metrics::own(&*api.host),
        Route::ResourceMetrics => metrics::resource(&*api.host).await,
        Route::CadvisorMetrics => metrics::cadvisor(&*api.host).await,
        Route::Configz => answer::json(&api.host.configuration()),
        Route::Connect(target) => connect::relay(api, target, request).await,
    }
}

#[cfg(test)]
mod kubectl_tests;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

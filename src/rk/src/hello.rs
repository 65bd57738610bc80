//! The demo's web app: answers every GET with pod name, node and address. The image `rk.local/hello` is rk itself,
//! run as `rk hello`.

use anyhow::Context;
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::convert::Infallible;
use std::net::SocketAddr;
use tokio::signal::unix::{SignalKind, signal};

/// Serves until SIGTERM or SIGINT.
pub(crate) async fn serve(listen: SocketAddr) -> anyhow::Result<()> {
    let listener = tokio::net::TcpListener::bind(listen).await.with_context(|| format!("listen on {listen}"))?;
    let page = Bytes::from(page(|name| std::env::var(name).ok()));
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    println!("listening on {listen}");
    loop {
        let (stream, _peer) = tokio::select! {
            accepted = listener.accept() => accepted.context("accept a connection")?,
            _ = terminate.recv() => return Ok(()),
            _ = interrupt.recv() => return Ok(()),
        };
        let page = page.clone();
        tokio::spawn(async move {
            let answer = service_fn(move |_request: Request<Incoming>| {
                let page = page.clone();
                async move { Ok::<_, Infallible>(Response::new(Full::new(page))) }
            });
            // Half closed: `nc` and the like send their request and no more, and still want the page.
            let served = hyper::server::conn::http1::Builder::new()
                .half_close(true)
                .timer(TokioTimer::new())
                .serve_connection(TokioIo::new(stream), answer)
                .await;
            if let Err(error) = served {
                eprintln!("connection ended: {error}");
            }
        });
    }
}

fn page(variable: impl Fn(&str) -> Option<String>) -> String {
    let value = |name| variable(name).unwrap_or_else(|| "unknown".to_owned());
    let pod = variable("POD_NAME").or_else(|| variable("HOSTNAME")).unwrap_or_else(|| "unknown".to_owned());
    format!("Hello from rk!\npod: {pod}\nnode: {}\naddress: {}\n", value("NODE_NAME"), value("POD_IP"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_names_pod_node_and_address() {
        let text = page(|name| Some(format!("<{name}>")));
        assert_eq!(text, "Hello from rk!\npod: <POD_NAME>\nnode: <NODE_NAME>\naddress: <POD_IP>\n");
        assert!(page(|_| None).contains("pod: unknown"));
    }
}

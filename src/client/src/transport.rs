//! The in-process transport: requests go to a tower service of this process instead of a socket. The service is
//! the API server's own front door, so authentication, authorization and admission are the same as over HTTPS.

use bytes::Bytes;
use http::{Request, Response};
use kube::client::Body;
use tower::{BoxError, Service};

/// A client whose requests `service` answers. Must be called within a tokio runtime.
pub fn in_process<S, B>(service: S) -> kube::Client
where
    S: Service<Request<Body>, Response = Response<B>> + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Into<BoxError>,
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    kube::Client::new(service, "default")
}

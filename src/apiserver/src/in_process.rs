//! The transport of components that live in this process: a tower service with a fixed user. It enters the same chain
//! (authorization, admission, verbs) as a request from the network; only TLS and authentication are left out.

use std::{
    convert::Infallible,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use futures::future::BoxFuture;
use http::{Request, Response};

use crate::{
    authn::User,
    body::{Body, BoxError, request_body},
    handler::{self, Origin},
    server::Inner,
};

/// See [`crate::ApiServer::service_for`]. Accepts any request body, `kube::client::Body` among them.
#[derive(Clone)]
pub struct InProcess {
    inner: Arc<Inner>,
    user: Arc<User>,
}

impl InProcess {
    pub(crate) fn new(inner: Arc<Inner>, user: Arc<User>) -> InProcess {
        InProcess { inner, user }
    }
}

impl<B> tower::Service<Request<B>> for InProcess
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let origin = Origin { peer: None, certificate: None, fixed: Some(self.user.clone()) };
        let inner = self.inner.clone();
        Box::pin(async move { Ok(handler::handle(inner, origin, request.map(request_body)).await) })
    }
}

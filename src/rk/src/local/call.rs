//! The calling side: one request over the socket.

use super::{FORCE, IMAGES, IMPORT, PULL, Pull, socket_path};
use anyhow::{Context, bail};
use bytes::Bytes;
use futures::TryStreamExt;
use http::Request;
use http_body_util::{BodyExt, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::body::Frame;
use hyper_util::rt::TokioIo;
use runtime::ImageRecord;
use serde::de::DeserializeOwned;
use std::io;
use std::path::Path;
use tokio::io::AsyncRead;
use tokio::net::UnixStream;
use tokio_util::io::ReaderStream;

type Body = UnsyncBoxBody<Bytes, io::Error>;

/// A connection to the rk that runs on this machine.
pub(crate) struct Local {
    stream: UnixStream,
}

impl Local {
    /// `None` when no rk runs with this state folder.
    pub(crate) async fn connect(state_dir: &Path) -> anyhow::Result<Option<Self>> {
        let path = socket_path(state_dir);
        match UnixStream::connect(&path).await {
            Ok(stream) => Ok(Some(Self { stream })),
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {
                Ok(None)
            }
            Err(error) => Err(error).with_context(|| format!("connect to {}", path.display())),
        }
    }

    pub(crate) async fn images(self) -> anyhow::Result<Vec<ImageRecord>> {
        self.call(Request::get(IMAGES).body(whole(Bytes::new()))?).await
    }

    pub(crate) async fn import(self, archive: impl AsyncRead + Send + 'static) -> anyhow::Result<Vec<ImageRecord>> {
        let chunks = ReaderStream::with_capacity(archive, 256 * 1024).map_ok(Frame::data);
        self.call(Request::post(IMPORT).body(StreamBody::new(chunks).boxed_unsync())?).await
    }

    pub(crate) async fn pull(self, image: String, credentials: Option<String>) -> anyhow::Result<Vec<ImageRecord>> {
        let request = serde_json::to_vec(&Pull { image, credentials })?;
        self.call(Request::post(PULL).body(whole(request.into()))?).await
    }

    /// Answers with the containers that go on using the image.
    pub(crate) async fn remove(self, image: &str, force: bool) -> anyhow::Result<Vec<String>> {
        let force = if force { FORCE } else { "" };
        self.call(Request::delete(format!("{IMAGES}?name={image}{force}")).body(whole(Bytes::new()))?).await
    }

    async fn call<T: DeserializeOwned>(self, request: Request<Body>) -> anyhow::Result<T> {
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(self.stream)).await?;
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "local connection ended");
            }
        });
        let (head, body) = sender.send_request(request).await.context("ask the running rk")?.into_parts();
        let body = body.collect().await.context("read its answer")?.to_bytes();
        if !head.status.is_success() {
            bail!("{}", String::from_utf8_lossy(&body));
        }
        serde_json::from_slice(&body).context("read its answer")
    }
}

fn whole(bytes: Bytes) -> Body {
    Full::new(bytes).map_err(|never| match never {}).boxed_unsync()
}

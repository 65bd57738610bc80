//! The running rk's own door for commands on the same machine: HTTP over a unix socket that only root can open.
//!
//! The image store belongs to one process; `rk images` asks that process through here. Paths: `GET /images`,
//! `POST /images/import` (an archive), `POST /images/pull` ([`Pull`]), `DELETE /images?name=NAME[&force]` (answered with
//! the containers that go on using it).

mod call;

pub(crate) use call::Local;

use crate::config::registries::parse_pair;
use anyhow::Context;
use bytes::Bytes;
use futures::TryStreamExt;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, BodyStream, Full, Limited};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use runtime::{Auth, ImageRecord, ImageRef, Images, Runtime};
use serde::{Deserialize, Serialize};
use std::convert::Infallible;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::net::UnixListener;
use tokio_util::io::{StreamReader, SyncIoBridge};
use tokio_util::sync::CancellationToken;

const IMAGES: &str = "/images";
const IMPORT: &str = "/images/import";
const PULL: &str = "/images/pull";
const FORCE: &str = "&force";
const MAX_REQUEST: usize = 64 * 1024;
/// After a failed accept (out of file descriptors), rather than spinning.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

pub(crate) fn socket_path(state_dir: &Path) -> PathBuf {
    state_dir.join("rk.sock")
}

/// Asks for an image; `credentials` are `user:password`.
#[derive(Serialize, Deserialize)]
struct Pull {
    image: String,
    credentials: Option<String>,
}

/// Binds the socket, mode 0600; one that a dead process left is replaced.
pub(crate) fn bind(state_dir: &Path) -> anyhow::Result<UnixListener> {
    let path = socket_path(state_dir);
    std::fs::create_dir_all(state_dir).with_context(|| format!("make {}", state_dir.display()))?;
    if let Err(error) = std::fs::remove_file(&path)
        && error.kind() != io::ErrorKind::NotFound
    {
        return Err(error).with_context(|| format!("replace {}", path.display()));
    }
    let listener = UnixListener::bind(&path).with_context(|| format!("listen on {}", path.display()))?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// Serves until `stop`.
pub(crate) async fn serve(listener: UnixListener, runtime: Runtime, stop: CancellationToken) {
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "cannot accept a local connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let runtime = runtime.clone();
        tokio::spawn(async move {
            let service = service_fn(move |request| {
                let runtime = runtime.clone();
                async move { Ok::<_, Infallible>(answer(&runtime, request).await) }
            });
            let served =
                hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
            if let Err(error) = served {
                tracing::debug!(%error, "local connection ended");
            }
        });
    }
}

async fn answer(runtime: &Runtime, request: Request<Incoming>) -> Response<Full<Bytes>> {
    let images = runtime.images().clone();
    let result = match (request.method(), request.uri().path()) {
        (&Method::GET, IMAGES) => json(&images.list()),
        (&Method::POST, IMPORT) => import(images, request.into_body()).await.and_then(|records| json(&records)),
        (&Method::POST, PULL) => pull(images, request.into_body()).await.and_then(|records| json(&records)),
        (&Method::DELETE, IMAGES) => remove(runtime, request.uri().query().unwrap_or_default()),
        _ => Err(anyhow::anyhow!("no such path")),
    };
    let (status, body) = match result {
        Ok(body) => (StatusCode::OK, body),
        Err(error) => (StatusCode::UNPROCESSABLE_ENTITY, format!("{error:#}").into_bytes()),
    };
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response
}

fn json(value: &impl Serialize) -> anyhow::Result<Vec<u8>> {
    Ok(serde_json::to_vec(value)?)
}

async fn import(images: Images, body: Incoming) -> anyhow::Result<Vec<ImageRecord>> {
    let chunks = TryStreamExt::map_err(BodyStream::new(body), io::Error::other);
    let chunks = chunks.try_filter_map(|frame| std::future::ready(Ok(frame.into_data().ok())));
    let mut archive = SyncIoBridge::new(StreamReader::new(Box::pin(chunks)));
    let imported = tokio::task::spawn_blocking(move || {
        let imported = images.import(&mut archive);
        // Read to its end whatever came of it: the command listens for the answer when all is sent.
        if let Err(error) = io::copy(&mut archive, &mut io::sink()) {
            tracing::debug!(%error, "the rest of an archive did not come");
        }
        imported
    });
    Ok(imported.await.context("the import stopped")??)
}

async fn pull(images: Images, body: Incoming) -> anyhow::Result<Vec<ImageRecord>> {
    let body = Limited::new(body, MAX_REQUEST).collect().await.map_err(|error| anyhow::anyhow!(error))?;
    let Pull { image, credentials } = serde_json::from_slice(&body.to_bytes())?;
    let name: ImageRef = image.parse()?;
    let auth = credentials.as_deref().map_or(Ok(Auth::Anonymous), parse_pair)?;
    Ok(vec![images.pull(&name, &auth, |_| ()).await?])
}

fn remove(runtime: &Runtime, query: &str) -> anyhow::Result<Vec<u8>> {
    let name = query.strip_prefix("name=").context("which image?")?;
    let (name, force) = match name.strip_suffix(FORCE) {
        Some(name) => (name, true),
        None => (name, false),
    };
    json(&runtime.remove_image(name, force)?)
}

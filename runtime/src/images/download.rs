//! Downloading a blob into the ingest folder. What an interrupted download left there is gone on with, also after a
//! restart; the digest is checked over all of it.

use super::digest;
use super::manifest::Descriptor;
use super::registry::Session;
use super::store::{Store, bad_digest, remove_all};
use super::{ImageError, Progress};
use crate::link::lock;
use http::StatusCode;
use http_body_util::BodyExt;
use sha2::{Digest, Sha256};
use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;
use tokio::fs::File;
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufWriter};

const ATTEMPTS: u32 = 4;
const STALL: Duration = Duration::from_secs(60);
/// Progress is told in steps of this many bytes.
const STEP: u64 = 1 << 20;

/// Partial files somebody writes to: one blob may be part of two images being pulled.
static CLAIMED: Mutex<Option<HashSet<PathBuf>>> = Mutex::new(None);

/// A complete, checked blob; the file goes with it.
pub(super) struct Blob {
    pub path: PathBuf,
}

impl Drop for Blob {
    fn drop(&mut self) {
        remove_all(&self.path);
    }
}

/// The right to write to a partial file.
struct Claim(PathBuf);

impl Claim {
    fn take(path: &Path) -> Option<Self> {
        let mut claimed = lock(&CLAIMED);
        claimed.get_or_insert_default().insert(path.to_path_buf()).then(|| Self(path.to_path_buf()))
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        if let Some(claimed) = lock(&CLAIMED).as_mut() {
            claimed.remove(&self.0);
        }
    }
}

pub(super) async fn download(
    store: &Store,
    session: &Session<'_>,
    layer: &Descriptor,
    tell: impl Fn(Progress),
) -> Result<Blob, ImageError> {
    let hex = digest::hex(&layer.digest).ok_or_else(|| bad_digest(&layer.digest))?;
    let folder = store.ingest_folder();
    let shared = folder.join(format!("{hex}.part"));
    let claim = Claim::take(&shared);
    // Somebody else is at it: an own copy costs the bytes twice, but waits for nobody.
    let partial = if claim.is_some() { shared } else { store.temporary(&folder) };
    let mut attempt = 0;
    loop {
        attempt += 1;
        match fetch(session, layer, &partial, &tell).await {
            Ok(()) => break,
            Err(error @ ImageError::Unreachable { .. }) if attempt < ATTEMPTS => {
                tracing::info!(digest = layer.digest, %error, attempt, "download is gone on with");
                tokio::time::sleep(Duration::from_millis(250 << attempt)).await;
            }
            Err(error) => return Err(error),
        }
    }
    let path = store.temporary(&folder);
    tokio::fs::rename(&partial, &path).await.map_err(ImageError::io(&partial))?;
    Ok(Blob { path })
}

/// What of the blob is on disk already.
async fn begun(partial: &Path) -> std::io::Result<(Sha256, u64)> {
    let mut hasher = Sha256::new();
    let mut length = 0;
    let Ok(mut file) = File::open(partial).await else { return Ok((hasher, 0)) };
    let mut buffer = vec![0; 256 << 10];
    loop {
        let count = file.read(&mut buffer).await?;
        if count == 0 {
            return Ok((hasher, length));
        }
        hasher.update(&buffer[..count]);
        length += count as u64;
    }
}

async fn fetch(
    session: &Session<'_>,
    layer: &Descriptor,
    partial: &Path,
    tell: &impl Fn(Progress),
) -> Result<(), ImageError> {
    let on_disk = ImageError::io(partial);
    let (mut hasher, mut done) = begun(partial).await.map_err(&on_disk)?;
    let complete = layer.size > 0 && done >= layer.size;
    if !complete {
        let from = (done > 0).then_some(done);
        let answer = session.get(&format!("blobs/{}", layer.digest), &[], from).await?;
        if answer.status() == StatusCode::RANGE_NOT_SATISFIABLE || (done > 0 && answer.status() == StatusCode::OK) {
            remove_all(partial);
            (hasher, done) = (Sha256::new(), 0);
        }
        let answer = if answer.status() == StatusCode::RANGE_NOT_SATISFIABLE {
            session.get(&format!("blobs/{}", layer.digest), &[], None).await?
        } else {
            answer
        };
        let file = File::options().create(true).append(true).open(partial).await.map_err(&on_disk)?;
        let mut file = BufWriter::with_capacity(1 << 20, file);
        let result = copy(answer, &mut file, layer, &mut hasher, &mut done, tell).await;
        // What has come is kept for the next attempt.
        file.flush().await.map_err(&on_disk)?;
        result?;
    }
    let actual = digest::finish(hasher);
    if actual != layer.digest {
        remove_all(partial);
        let (what, expected) = (format!("layer from {}", session.endpoint.authority), layer.digest.clone());
        return Err(ImageError::DigestMismatch { what, expected, actual });
    }
    Ok(())
}

async fn copy(
    answer: http::Response<hyper::body::Incoming>,
    file: &mut BufWriter<File>,
    layer: &Descriptor,
    hasher: &mut Sha256,
    done: &mut u64,
    tell: &impl Fn(Progress),
) -> Result<(), ImageError> {
    let broken = |reason: String| ImageError::Unreachable { host: "registry".into(), reason };
    let mut body = answer.into_body();
    let mut told = *done;
    loop {
        let frame = match tokio::time::timeout(STALL, body.frame()).await {
            Ok(Some(frame)) => frame.map_err(|e| broken(e.to_string()))?,
            Ok(None) => break,
            Err(_) => return Err(broken("the download stalled".into())),
        };
        let Ok(data) = frame.into_data() else { continue };
        // Of what is longer than announced no more is taken: the rest might fill the disk.
        if layer.size > 0 && *done + data.len() as u64 > layer.size {
            let what = format!("layer {}", layer.digest);
            return Err(ImageError::Malformed { what, reason: format!("it is longer than {} bytes", layer.size) });
        }
        hasher.update(&data);
        file.write_all(&data).await.map_err(ImageError::io(Path::new("ingest")))?;
        *done += data.len() as u64;
        if *done - told >= STEP {
            told = *done;
            tell(Progress::Downloading { digest: layer.digest.clone(), done: *done, total: layer.size });
        }
    }
    if layer.size > 0 && *done < layer.size {
        return Err(broken(format!("the download ended after {done} of {} bytes", layer.size)));
    }
    tell(Progress::Downloading { digest: layer.digest.clone(), done: *done, total: layer.size.max(*done) });
    Ok(())
}

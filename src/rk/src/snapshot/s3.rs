//! A bucket of an S3-compatible service. `rusty-s3` signs; requests go over our own connections.
//!
//! Signed URLs hold the access key's id and a signature: they are never logged. Names are this module's, so no key of the
//! bucket is ever empty or leads up.

mod exchange;

use super::folder::{self, Entry, State};
use super::settings::S3Settings;
use anyhow::{Context, ensure};
use exchange::{Exchange, Upload};
use http::Method;
use rusty_s3::S3Action;
use rusty_s3::actions::{CreateMultipartUpload, ListObjectsV2};
use std::path::Path;
use std::time::Duration;
use storage::archive;
use tokio::fs::File;
use tokio::io::AsyncWriteExt;

/// How long a signed URL is good for. Each attempt has its own.
const SIGNED_FOR: Duration = Duration::from_secs(3600);
/// More than this no service takes.
const MOST_PARTS: u64 = 10_000;
/// Bytes from the beginning of an object that hold nearly every head.
const USUAL_HEAD: u64 = 128 << 10;

/// The way to one bucket.
pub(super) struct S3 {
    settings: S3Settings,
    exchange: Exchange,
}

impl S3 {
    pub(super) fn new(settings: &S3Settings) -> anyhow::Result<Self> {
        let exchange = Exchange::new(settings)?;
        Ok(Self { settings: settings.clone(), exchange })
    }

    /// As shown to people.
    fn place(&self, key: &str) -> String {
        format!("s3://{}/{key}", self.settings.bucket.name())
    }

    fn key(&self, name: &str) -> anyhow::Result<String> {
        ensure!(folder::is_name(name), "{name:?} cannot be the name of a snapshot");
        Ok(format!("{}{name}", self.settings.folder))
    }

    /// Puts a file into the bucket, under its own name.
    pub(super) async fn upload(&self, path: &Path) -> anyhow::Result<()> {
        let name = path.file_name().and_then(|name| name.to_str()).context("the file has no name")?;
        let key = self.key(name)?;
        let size = tokio::fs::metadata(path).await.with_context(|| format!("look at {}", path.display()))?.len();
        // Each part can be sent again.
        let sent = match size <= self.settings.part_size {
            true => self.put(&key, path, size).await,
            false => self.put_parts(&key, path, size).await,
        };
        sent.with_context(|| format!("upload to {}", self.place(&key)))?;
        tracing::info!(place = self.place(&key), size, "snapshot uploaded");
        Ok(())
    }

    async fn put(&self, key: &str, path: &Path, size: u64) -> anyhow::Result<()> {
        let S3Settings { bucket, credentials, .. } = &self.settings;
        let upload = Upload { path, from: 0, size };
        let sign = || bucket.put_object(Some(credentials), key).sign(SIGNED_FOR);
        self.exchange.send(Method::PUT, sign, Some(upload)).await.map(drop)
    }

    async fn put_parts(&self, key: &str, path: &Path, size: u64) -> anyhow::Result<()> {
        let S3Settings { bucket, credentials, .. } = &self.settings;
        let sign = || bucket.create_multipart_upload(Some(credentials), key).sign(SIGNED_FOR);
        let answer = self.exchange.text(Method::POST, sign, None).await?;
        let begun = CreateMultipartUpload::parse_response(&answer).map_err(anyhow::Error::msg);
        let begun = begun.context("the service's answer to the beginning of an upload is malformed")?;
        let outcome = self.finish_parts(key, begun.upload_id(), path, size).await;
        if outcome.is_err() {
            // Parts without a whole cost money.
            let sign = || bucket.abort_multipart_upload(Some(credentials), key, begun.upload_id()).sign(SIGNED_FOR);
            if let Err(error) = self.exchange.send(Method::DELETE, sign, None).await {
                tracing::warn!(place = self.place(key), error = format!("{error:#}"), "parts of an upload stay behind");
            }
        }
        outcome
    }

    async fn finish_parts(&self, key: &str, id: &str, path: &Path, size: u64) -> anyhow::Result<()> {
        let S3Settings { bucket, credentials, .. } = &self.settings;
        let part = self.settings.part_size.max(size.div_ceil(MOST_PARTS));
        let mut tags = Vec::new();
        for (number, from) in (1u16..).zip((0..size).step_by(usize::try_from(part)?)) {
            let upload = Upload { path, from, size: part.min(size - from) };
            let sign = || bucket.upload_part(Some(credentials), key, number, id).sign(SIGNED_FOR);
            let answer = self.exchange.send(Method::PUT, sign, Some(upload)).await?;
            let tag = answer.headers().get(http::header::ETAG).and_then(|tag| tag.to_str().ok());
            tags.push(tag.context("the service names no tag of a part")?.to_owned());
        }
        let tags = || tags.iter().map(String::as_str);
        let sign = || bucket.complete_multipart_upload(Some(credentials), key, id, tags()).sign(SIGNED_FOR);
        let body = bucket.complete_multipart_upload(Some(credentials), key, id, tags()).body();
        let answer = self.exchange.text(Method::POST, sign, Some(body)).await?;
        // An error may come with the status of success.
        let failed = exchange::explanation(&answer);
        ensure!(failed.is_none(), "the service did not put the parts together: {}", failed.unwrap_or_default());
        Ok(())
    }

    /// Writes an object to a file; an attempt that breaks off begins anew.
    pub(super) async fn download(&self, key: &str, target: &Path) -> anyhow::Result<()> {
        let S3Settings { bucket, credentials, .. } = &self.settings;
        ensure!(is_key(key), "{key:?} is no key of a snapshot");
        let sign = || bucket.get_object(Some(credentials), key).sign(SIGNED_FOR);
        let mut file = File::options().write(true).create_new(true).mode(0o600).open(target).await?;
        let fetched = self.exchange.fetch(sign, &mut file).await;
        fetched.with_context(|| format!("download {}", self.place(key)))?;
        file.flush().await.context("write the download")?;
        file.sync_all().await.context("write the download")
    }

    /// The object of a snapshot in the folder of the flags.
    pub(super) async fn download_named(&self, name: &str, target: &Path) -> anyhow::Result<()> {
        self.download(&self.key(name)?, target).await
    }

    /// Everything in the folder, newest first, by the heads of the objects.
    pub(super) async fn list(&self) -> anyhow::Result<Vec<Entry>> {
        let mut entries = Vec::new();
        let mut more = None;
        loop {
            let page = self
                .page(more.as_deref())
                .await
                .with_context(|| format!("list {}", self.place(&self.settings.folder)))?;
            for object in page.contents {
                let Some(name) = object.key.strip_prefix(&self.settings.folder) else { continue };
                if name.is_empty() || name.contains('/') {
                    continue;
                }
                let state = self.look(&object.key, object.size.unwrap_or(0)).await;
                let (name, location) = (name.to_owned(), self.place(&object.key));
                entries.push(Entry { name, location, size: object.size.unwrap_or(0), state });
            }
            more = page.next_continuation_token;
            if more.is_none() {
                break;
            }
        }
        folder::sort(&mut entries);
        Ok(entries)
    }

    async fn page(&self, after: Option<&str>) -> anyhow::Result<rusty_s3::actions::ListObjectsV2Response> {
        let S3Settings { bucket, credentials, folder, .. } = &self.settings;
        let sign = || {
            let mut list = bucket.list_objects_v2(Some(credentials));
            list.with_delimiter("/");
            if !folder.is_empty() {
                list.with_prefix(folder.as_str());
            }
            if let Some(after) = after {
                list.with_continuation_token(after);
            }
            list.sign(SIGNED_FOR)
        };
        let answer = self.exchange.text(Method::GET, sign, None).await?;
        let page = ListObjectsV2::parse_response(&answer).map_err(anyhow::Error::msg);
        page.context("the service's list is malformed")
    }

    async fn look(&self, key: &str, size: u64) -> State {
        let S3Settings { bucket, credentials, .. } = &self.settings;
        if !is_key(key) || size == 0 {
            return State::Bad { error: "it is not a snapshot of rk".to_owned() };
        }
        let sign = || bucket.get_object(Some(credentials), key).sign(SIGNED_FOR);
        let head = async {
            let head = self.exchange.beginning(sign, USUAL_HEAD).await?;
            match archive::head_bytes(&head) {
                Some(all) if all > head.len() as u64 => self.exchange.beginning(sign, all).await,
                _ => Ok(head),
            }
        };
        match head.await {
            Ok(head) => State::of(archive::describe_bytes(Path::new(&self.place(key)), &head)),
            Err(error) => State::Bad { error: format!("{error:#}") },
        }
    }

    /// Removes snapshots of the node and base beyond the newest `keep`; returns their names.
    pub(super) async fn prune(&self, base: &str, node: &str, keep: usize) -> anyhow::Result<Vec<String>> {
        let entries = self.list().await?;
        let mut removed = Vec::new();
        for entry in folder::surplus(&entries, base, node, keep) {
            self.delete(&entry.name).await?;
            removed.push(entry.name.clone());
        }
        Ok(removed)
    }

    /// Removes an object; one that is not there is removed already.
    pub(super) async fn delete(&self, name: &str) -> anyhow::Result<()> {
        let S3Settings { bucket, credentials, .. } = &self.settings;
        let key = self.key(name)?;
        let sign = || bucket.delete_object(Some(credentials), &key).sign(SIGNED_FOR);
        let deleted = self.exchange.send(Method::DELETE, sign, None).await;
        deleted.map(drop).with_context(|| format!("delete {}", self.place(&key)))
    }
}

/// A URL cannot say every key.
fn is_key(key: &str) -> bool {
    !key.is_empty() && key.split('/').all(|part| !matches!(part, "" | "." | ".."))
}

//! `rk snapshot restore`: a snapshot in the place of a stopped server's state, or on a new box.
//!
//! The file is verified as a whole before anything changes. Keys come first, the store last: its change of place is one
//! step that a power cut cannot halve, and only it makes the box another cluster's server.

use super::about::About;
use super::folder;
use super::keys;
use super::s3::S3;
use super::settings::S3Settings;
use crate::cli::snapshot::S3Args;
use crate::members::kept::{self, Kept};
use anyhow::{Context, bail, ensure};
use std::path::{Path, PathBuf};
use storage::archive::{self, Restored};
use storage::{Config, Member};

/// What there is to know.
pub(super) struct Order {
    pub(super) data_dir: PathBuf,
    pub(super) dir: PathBuf,
    pub(super) node: String,
    pub(super) snapshot: String,
    pub(super) token: Option<String>,
    pub(super) s3: S3Args,
}

/// A snapshot at hand.
enum Source {
    File(PathBuf),
    /// Removed when done.
    Fetched(PathBuf),
}

impl Source {
    fn path(&self) -> &Path {
        match self {
            Self::File(path) | Self::Fetched(path) => path,
        }
    }
}

impl Drop for Source {
    fn drop(&mut self) {
        if let Self::Fetched(path) = self
            && let Err(error) = std::fs::remove_file(&path)
        {
            eprintln!("rk: {} stays behind: {error}", path.display());
        }
    }
}

pub(super) async fn run(order: Order) -> anyhow::Result<()> {
    let db = kept::store_folder(&order.data_dir);
    ensure!(
        !archive::in_use(&db)?,
        "the server of {} is running: stop it first (systemctl stop rk); its pods go on",
        order.data_dir.display()
    );
    let Order { data_dir, dir, node, snapshot, token, s3 } = order;
    let source = find(&dir, &snapshot, s3).await?;
    let restored = tokio::task::spawn_blocking(move || restore(&data_dir, &node, source.path(), token.as_deref()));
    restored.await.context("the restore stopped")??.tell();
    Ok(())
}

/// Finds the file, or fetches it.
async fn find(dir: &Path, snapshot: &str, s3: S3Args) -> anyhow::Result<Source> {
    if let Some(object) = snapshot.strip_prefix("s3://") {
        let (bucket, key) =
            object.split_once('/').with_context(|| format!("{snapshot:?} must look like s3://BUCKET/KEY"))?;
        let settings = S3Settings::resolve_for(s3, Some(bucket.to_owned()))?;
        let target = place_for_download(dir)?;
        S3::new(&settings)?.download(key, &target).await?;
        return Ok(Source::Fetched(target));
    }
    if snapshot.contains('/') {
        return Ok(Source::File(snapshot.into()));
    }
    let named = folder::path(dir, snapshot)?;
    if named.exists() {
        return Ok(Source::File(named));
    }
    if Path::new(snapshot).exists() {
        return Ok(Source::File(snapshot.into()));
    }
    let Some(settings) = S3Settings::resolve(s3)? else {
        bail!("there is no snapshot {snapshot:?} in {}: `rk snapshot ls` lists those there are", dir.display());
    };
    let target = place_for_download(dir)?;
    S3::new(&settings)?.download_named(snapshot, &target).await?;
    Ok(Source::Fetched(target))
}

fn place_for_download(dir: &Path) -> anyhow::Result<PathBuf> {
    crate::preflight::private_folder(dir)?;
    let target = dir.join(format!(".download-{}.tmp", std::process::id()));
    if target.exists() {
        std::fs::remove_file(&target).with_context(|| format!("remove {}", target.display()))?;
    }
    Ok(target)
}

/// What has been done.
struct Done {
    restored: Restored,
    about: About,
    node: String,
    keys: Vec<PathBuf>,
}

fn restore(data_dir: &Path, node: &str, file: &Path, token: Option<&str>) -> anyhow::Result<Done> {
    let manifest = archive::verify(file)?;
    let about = About::of(&manifest).with_context(|| format!("{} does not say what it is of", file.display()))?;
    let own = keys::ca_hash(data_dir)?;
    if let Some(own) = own.filter(|own| *own != about.ca) {
        bail!(
            "{} is of the cluster with CA {}, and {} is of the cluster with CA {}: give another --data-dir, or move \
             {} aside",
            file.display(),
            keys::short(&about.ca),
            data_dir.display(),
            keys::short(&own),
            data_dir.join("server").display()
        );
    }
    let mut written = Vec::new();
    if keys::incomplete(data_dir) || token.is_some() {
        let token = token.with_context(|| {
            format!(
                "this box does not have the cluster's keys, and those in {} are encrypted: give the join token that the \
                 cluster had then with --token",
                file.display()
            )
        })?;
        let opened = keys::unseal(&about.keys, token, &about.ca)?;
        crate::preflight::private_folder(&data_dir.join("server"))?;
        written = opened.write_missing(data_dir)?;
    }
    if let Some(settings) = about.cluster.clone().filter(|_| !kept::is_there(data_dir)) {
        // The store says which generation it is, once the server runs.
        Kept { settings, servers: Vec::new(), generation: 0 }.store(data_dir)?;
    }
    let member = Member { name: node.to_owned(), addresses: Vec::new() };
    let config = Config { member, ..Config::new(kept::store_folder(data_dir), 0) };
    let restored = archive::restore(&config, file)?;
    // It may have been removed from the cluster that was; it is the first server of the one that is.
    match std::fs::remove_file(kept::removed_path(data_dir)) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error).context("forget the removal"),
        Ok(()) | Err(_) => {}
    }
    Ok(Done { restored, about, node: node.to_owned(), keys: written })
}

impl Done {
    fn tell(&self) {
        let Self { restored, about, node, keys } = self;
        let Restored { manifest, revision, aside, .. } = restored;
        println!(
            "restored {} keys of revision {}, which go on from revision {revision}",
            manifest.keys, manifest.revision
        );
        if let Some(aside) = aside {
            println!("what was there before is in {}", aside.display());
        }
        for path in keys {
            println!("restored {}", path.display());
        }
        if about.node != *node {
            println!(
                "the snapshot is of the server {}: if that box is gone, `kubectl delete node {}`",
                about.node, about.node
            );
        }
        println!("now start the server; other servers of the old cluster must join again");
    }
}

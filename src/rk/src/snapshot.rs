//! `rk snapshot`, and the snapshots that a server takes by itself (docs/snapshots.md, ADR 0015).
//!
//! `storage::archive` knows what a file holds and how it is verified; what is here says which file, when, where it goes,
//! and what of a cluster is not in its store. `maker` and `schedule` run in the server, the rest in the command.

mod about;
mod folder;
mod keys;
mod maker;
mod restore;
pub(crate) mod route;
mod s3;
mod schedule;
mod settings;

pub(crate) use maker::Snapshots;
pub(crate) use settings::Settings;

use crate::cli::snapshot::{Output, SnapshotArgs, SnapshotCommand};
use crate::config;
use crate::members::kept::{Kept, store_folder};
use about::About;
use anyhow::{Context, ensure};
use folder::{Entry, State};
use jiff::Timestamp;
use maker::{Saved, Target};
use restore::Order;
use s3::S3;
use settings::S3Settings;
use std::path::Path;
use storage::{Config, archive};

pub(crate) async fn run(args: SnapshotArgs) -> anyhow::Result<()> {
    let SnapshotArgs { config: _, data_dir, snapshot_dir, node_name, s3, command } = args;
    let data_dir = config::real_path(&data_dir)?;
    let elsewhere = snapshot_dir.is_some();
    let dir = settings::resolve_dir(snapshot_dir, &data_dir)?;
    let node = config::node_name(node_name)?;
    match command {
        SnapshotCommand::Save { name, kubeconfig } => {
            let s3 = S3Settings::resolve(s3)?;
            let saved = if archive::in_use(&store_folder(&data_dir))? {
                route::ask(&kubeconfig, &name, elsewhere.then_some(dir)).await?
            } else {
                let (dir, base) = (dir.clone(), name.clone());
                tokio::task::spawn_blocking(move || save_at_rest(&data_dir, &dir, &base, &node)).await??
            };
            println!(
                "{}: revision {}, {} keys, {} bytes",
                saved.path.display(),
                saved.revision,
                saved.keys,
                saved.size
            );
            if let Some(s3) = s3 {
                let uploaded = S3::new(&s3)?.upload(&saved.path).await;
                uploaded.with_context(|| format!("{} is on this box, but not in the bucket", saved.path.display()))?;
                println!("uploaded");
            }
        }
        SnapshotCommand::Ls { output } => {
            let mut entries = tokio::task::spawn_blocking(move || folder::list(&dir)).await??;
            if let Some(s3) = S3Settings::resolve(s3)? {
                entries.extend(S3::new(&s3)?.list().await?);
            }
            match output {
                Output::Table => print!("{}", table(&entries)),
                Output::Json => println!("{}", serde_json::to_string_pretty(&entries)?),
            }
        }
        SnapshotCommand::Restore { snapshot, token, token_file } => {
            let token = match token_file {
                Some(path) => Some(pki::files::read(&path).context("--token-file")?),
                None => token,
            };
            restore::run(Order { data_dir, dir, node, snapshot, token, s3 }).await?;
        }
        SnapshotCommand::Prune { keep, name } => {
            let (own, base) = (node.clone(), name.clone());
            let removed = tokio::task::spawn_blocking(move || folder::prune(&dir, &base, &own, keep)).await??;
            removed.iter().for_each(|name| println!("removed {name}"));
            if let Some(s3) = S3Settings::resolve(s3)? {
                let removed = S3::new(&s3)?.prune(&name, &node, keep).await?;
                removed.iter().for_each(|name| println!("removed {name} from the bucket"));
            }
        }
        SnapshotCommand::Delete { names } => {
            let bucket = S3Settings::resolve(s3)?.map(|s3| S3::new(&s3)).transpose()?;
            for name in names {
                delete(&dir, &name, bucket.as_ref()).await?;
            }
        }
    }
    Ok(())
}

/// A snapshot of a server that is stopped. Blocking.
fn save_at_rest(data_dir: &Path, dir: &Path, base: &str, node: &str) -> anyhow::Result<Saved> {
    let cluster = Kept::load(data_dir)?.map(|kept| kept.settings);
    let about = About::gather(data_dir, base, node, cluster)?;
    let target = Target::new(dir, &about)?;
    let label = target.label(&about)?;
    let manifest = archive::save_offline(&Config::new(store_folder(data_dir), 0), &target.path, label)?;
    target.saved(&manifest)
}

async fn delete(dir: &Path, name: &str, bucket: Option<&S3>) -> anyhow::Result<()> {
    let path = folder::path(dir, name)?;
    let there = path.exists();
    ensure!(there || bucket.is_some(), "there is no snapshot {name:?} in {}", dir.display());
    if there {
        // What is no snapshot is somebody's own.
        let foreign = matches!(archive::describe(&path), Err(archive::ArchiveError::Foreign { .. }));
        ensure!(!foreign, "{} is not a snapshot of rk: remove it by hand", path.display());
        std::fs::remove_file(&path).with_context(|| format!("remove {}", path.display()))?;
        println!("removed {}", path.display());
    }
    if let Some(bucket) = bucket {
        bucket.delete(name).await?;
        println!("removed {name} from the bucket");
    }
    Ok(())
}

fn table(entries: &[Entry]) -> String {
    let mut rows = vec![["NAME", "LOCATION", "SIZE", "CREATED", "REVISION", "STATUS"].map(str::to_owned)];
    for Entry { name, location, size, state } in entries {
        let (created, revision, status) = match state {
            State::Good(facts) => {
                let created = Timestamp::from_second(facts.created).map(|time| time.to_string());
                (created.unwrap_or_default(), facts.revision.to_string(), "ok".to_owned())
            }
            State::Bad { error } => ("-".to_owned(), "-".to_owned(), error.clone()),
        };
        rows.push([name.clone(), location.clone(), size.to_string(), created, revision, status]);
    }
    let widths: Vec<_> = (0..5).map(|column| rows.iter().map(|row| row[column].len()).max().unwrap_or(0)).collect();
    let line = |row: &[String; 6]| {
        let cells = widths.iter().zip(row).map(|(width, cell)| format!("{cell:width$}   "));
        cells.collect::<String>() + &row[5] + "\n"
    };
    rows.iter().map(line).collect()
}

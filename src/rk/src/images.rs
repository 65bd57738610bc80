//! `rk images`: import, list, remove and pull. The image store belongs to the running rk, which is asked over its
//! socket; when none runs, the command opens the store itself.

use crate::cli::{ImagesArgs, ImagesCommand};
use crate::config::registries;
use crate::local::Local;
use anyhow::Context;
use runtime::{Auth, ImageRecord, ImageRef, Images, Runtime, RuntimeConfig};
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

/// Where a node keeps images and writable layers.
pub(crate) fn store_path(data_dir: &Path) -> PathBuf {
    data_dir.join("agent/containers")
}

pub(crate) async fn run(args: ImagesArgs) -> anyhow::Result<()> {
    crate::preflight::require_root("rk images")?;
    let door = Door::open(&args).await?;
    match args.command {
        ImagesCommand::Import { file } => {
            for record in door.import(file).await? {
                let told = if record.names.is_empty() { std::slice::from_ref(&record.id) } else { &record.names[..] };
                told.iter().for_each(|name| println!("{name}"));
            }
        }
        ImagesCommand::Ls => {
            let records = match door {
                Door::Running(rk) => rk.images().await?,
                Door::Own(runtime) => runtime.images().list(),
            };
            print!("{}", table(&records));
        }
        ImagesCommand::Rm { force, images: names } => {
            let mut door = Some(door);
            for name in names {
                let users = match door.take() {
                    Some(Door::Own(runtime)) => {
                        let users = runtime.remove_image(&name, force)?;
                        door = Some(Door::Own(runtime));
                        users
                    }
                    Some(Door::Running(rk)) => rk.remove(&name, force).await?,
                    None => {
                        let rk = Local::connect(&args.state_dir).await?.context("rk was stopped meanwhile")?;
                        rk.remove(&name, force).await?
                    }
                };
                match users.is_empty() {
                    true => println!("removed {name}"),
                    false => println!("removed {name}; its layers stay for {}", users.join(", ")),
                }
            }
        }
        ImagesCommand::Pull { image, creds } => {
            let records = match door {
                Door::Running(rk) => rk.pull(image, creds).await?,
                Door::Own(runtime) => {
                    let name: ImageRef = image.parse()?;
                    let auth = creds.as_deref().map_or(Ok(Auth::Anonymous), registries::parse_pair)?;
                    vec![runtime.images().pull(&name, &auth, |_| ()).await?]
                }
            };
            records.iter().for_each(|record| println!("{}", record.id));
        }
    }
    Ok(())
}

/// The way to the store.
enum Door {
    Running(Local),
    Own(Runtime),
}

impl Door {
    async fn open(args: &ImagesArgs) -> anyhow::Result<Self> {
        if let Some(rk) = Local::connect(&args.state_dir).await? {
            return Ok(Self::Running(rk));
        }
        let data_dir = crate::config::real_path(&args.data_dir)?;
        // Opened with the containers: layers that one of them still uses stay.
        let runtime = Runtime::open(RuntimeConfig {
            root: store_path(&data_dir),
            state: crate::config::real_path(&args.state_dir)?,
            exe: std::env::current_exe().context("find rk's own executable")?,
            cgroup_parent: args.cgroup_root.clone(),
            registries: registries::load(&args.registries)?,
        })
        .await
        .context("open the image store")?;
        Ok(Self::Own(runtime))
    }

    async fn import(self, file: PathBuf) -> anyhow::Result<Vec<ImageRecord>> {
        let rk = match self {
            Self::Own(runtime) => return import(runtime.images().clone(), file).await,
            Self::Running(rk) => rk,
        };
        if file.as_os_str() == "-" {
            return rk.import(tokio::io::stdin()).await;
        }
        let archive = tokio::fs::File::open(&file).await.with_context(|| format!("open {}", file.display()))?;
        rk.import(archive).await.with_context(|| format!("import {}", file.display()))
    }
}

/// Imports an archive; `-` is standard input.
pub(crate) async fn import(images: Images, file: PathBuf) -> anyhow::Result<Vec<ImageRecord>> {
    tokio::task::spawn_blocking(move || {
        let archive: Box<dyn Read> = if file.as_os_str() == "-" {
            Box::new(std::io::stdin().lock())
        } else {
            Box::new(File::open(&file).with_context(|| format!("open {}", file.display()))?)
        };
        images.import(archive).with_context(|| format!("import {}", file.display()))
    })
    .await
    .context("the import stopped")?
}

fn table(records: &[ImageRecord]) -> String {
    let mut rows = vec![["IMAGE".to_owned(), "ID".to_owned(), "SIZE".to_owned()]];
    for record in records {
        let id: String = record.id.trim_start_matches("sha256:").chars().take(12).collect();
        let names = if record.names.is_empty() { vec!["<none>".to_owned()] } else { record.names.clone() };
        rows.extend(names.into_iter().map(|name| [name, id.clone(), human_size(record.size)]));
    }
    let width = |column: usize| rows.iter().map(|row| row[column].len()).max().unwrap_or(0);
    let (name, id) = (width(0), width(1));
    rows.iter().map(|row| format!("{:name$}   {:id$}   {}\n", row[0], row[1], row[2])).collect()
}

fn human_size(bytes: u64) -> String {
    match bytes {
        0..1_000 => format!("{bytes} B"),
        1_000..1_000_000 => format!("{}.{} kB", bytes / 1_000, bytes % 1_000 / 100),
        1_000_000..1_000_000_000 => format!("{}.{} MB", bytes / 1_000_000, bytes % 1_000_000 / 100_000),
        _ => format!("{}.{} GB", bytes / 1_000_000_000, bytes % 1_000_000_000 / 100_000_000),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_decimal() {
        assert_eq!([999, 1_500, 2_340_000, 7_000_000_000].map(human_size), ["999 B", "1.5 kB", "2.3 MB", "7.0 GB"]);
    }
}

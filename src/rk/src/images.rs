//! `rk images`: import, list, remove and pull, straight on the node's image store.

use crate::cli::{ImagesArgs, ImagesCommand};
use crate::config::registries;
use anyhow::Context;
use runtime::{Auth, ImageRecord, ImageRef, Images, Progress};
use std::fs::File;
use std::io::Read;
use std::path::Path;

/// Where a node keeps images and writable layers.
pub(crate) fn store_path(data_dir: &Path) -> std::path::PathBuf {
    data_dir.join("agent/containers")
}

pub(crate) async fn run(args: ImagesArgs) -> anyhow::Result<()> {
    let ImagesArgs { data_dir, registries, command } = args;
    crate::preflight::require_root("rk images")?;
    let images = Images::open(&store_path(&data_dir), registries::load(&registries)?)?;
    match command {
        ImagesCommand::Import { file } => {
            for record in import(images, file).await? {
                println!("{}", record.names.first().unwrap_or(&record.id));
            }
        }
        ImagesCommand::Ls => print!("{}", table(&images.list())),
        ImagesCommand::Rm { images: names } => {
            for name in names {
                images.remove(&name)?;
                println!("removed {name}");
            }
        }
        ImagesCommand::Pull { image, creds } => {
            let name: ImageRef = image.parse()?;
            let auth = creds.as_deref().map_or(Ok(Auth::Anonymous), registries::parse_pair)?;
            let record = images.pull(&name, &auth, show).await?;
            println!("{} {}", name, record.id);
        }
    }
    Ok(())
}

/// Imports an archive; `-` is standard input.
pub(crate) async fn import(images: Images, file: std::path::PathBuf) -> anyhow::Result<Vec<ImageRecord>> {
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

fn show(progress: Progress) {
    match progress {
        Progress::Resolved { digest, layers } => println!("{digest}: {layers} layers"),
        Progress::LayerPresent { digest } => println!("{digest}: present"),
        Progress::Unpacked { digest } => println!("{digest}: unpacked"),
        Progress::Downloading { .. } => {}
    }
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

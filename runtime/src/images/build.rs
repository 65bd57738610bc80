//! Images of a single layer made from files, such as the one that carries rk's own executable.

use super::digest;
use super::manifest::{ConfigFile, RootFs, RunConfig, architecture};
use super::store::{Store, layer_folders};
use super::{FileSource, ImageConfig, ImageError, ImageFile, ImageRecord, ImageRef};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::sync::Arc;
use tar::{Builder, EntryType, Header};

pub(super) fn build(
    store: &Arc<Store>,
    name: &ImageRef,
    files: &[ImageFile],
    config: &ImageConfig,
) -> Result<ImageRecord, ImageError> {
    let path = store.temporary(&store.ingest_folder());
    let result = File::options()
        .create_new(true)
        .read(true)
        .write(true)
        .open(&path)
        .and_then(|file| write_layer(files, file))
        .map_err(ImageError::io(&path))
        .and_then(|mut tar| register(store, name, config, &mut tar));
    super::store::remove_all(&path);
    result
}

fn register(
    store: &Arc<Store>,
    name: &ImageRef,
    config: &ImageConfig,
    tar: &mut File,
) -> Result<ImageRecord, ImageError> {
    let folder = store.ingest_folder();
    tar.seek(SeekFrom::Start(0)).map_err(ImageError::io(&folder))?;
    let (diff_id, _) = digest::Hashing::new(&mut *tar).finish().map_err(ImageError::io(&folder))?;
    let file = ConfigFile {
        created: None,
        architecture: architecture().to_owned(),
        os: "linux".to_owned(),
        config: Some(run_config(config)),
        rootfs: RootFs { kind: "layers".to_owned(), diff_ids: vec![diff_id] },
    };
    let diff_ids = &file.rootfs.diff_ids;
    let _lease = Store::lease(store, &layer_folders(diff_ids));
    if !store.has_layer(&diff_ids[0]) {
        tar.seek(SeekFrom::Start(0)).map_err(ImageError::io(&folder))?;
        store.add_layer(diff_ids, 0, tar)?;
    }
    let bytes = serde_json::to_vec(&file)
        .map_err(|error| ImageError::Malformed { what: name.to_string(), reason: error.to_string() })?;
    let id = digest::of(&bytes);
    store.write_blob(&id, &bytes)?;
    let digest = format!("{}@{id}", name.repository());
    store.register(&id, &file, &[name.tagged_name().unwrap_or_default()], Some(digest), true)
}

fn run_config(config: &ImageConfig) -> RunConfig {
    let set = |names: &[String]| -> BTreeMap<String, Value> {
        names.iter().map(|name| (name.clone(), Value::Object(serde_json::Map::new()))).collect()
    };
    RunConfig {
        user: config.user.clone(),
        env: config.env.clone(),
        entrypoint: config.entrypoint.clone(),
        cmd: config.cmd.clone(),
        working_dir: config.working_dir.clone(),
        exposed_ports: set(&config.exposed_ports),
        volumes: set(&config.volumes),
        stop_signal: config.stop_signal.clone(),
        labels: config.labels.clone(),
    }
}

/// Owners and times are zero, so that the same files make the same layer.
fn write_layer<W: Write>(files: &[ImageFile], into: W) -> io::Result<W> {
    let mut tar = Builder::new(into);
    for file in files {
        let path = file.path.strip_prefix("/").unwrap_or(&file.path);
        let mut header = Header::new_gnu();
        header.set_mode(file.mode);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_size(0);
        match &file.source {
            FileSource::Bytes(bytes) => append(&mut tar, header, path, bytes.len() as u64, &bytes[..])?,
            FileSource::Host(source) => {
                let source = File::open(source)?;
                let size = source.metadata()?.len();
                append(&mut tar, header, path, size, source.take(size))?;
            }
            FileSource::Directory => {
                header.set_entry_type(EntryType::Directory);
                tar.append_data(&mut header, path, io::empty())?;
            }
            FileSource::Symlink(target) => {
                header.set_entry_type(EntryType::Symlink);
                tar.append_link(&mut header, path, target)?;
            }
        }
    }
    tar.into_inner()
}

fn append<W: Write>(
    tar: &mut Builder<W>,
    mut header: Header,
    path: &std::path::Path,
    size: u64,
    data: impl Read,
) -> io::Result<()> {
    header.set_entry_type(EntryType::Regular);
    header.set_size(size);
    tar.append_data(&mut header, path, data)
}

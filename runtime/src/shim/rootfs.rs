//! The container's root: its image's layers under a writable one, and files in it looked up without leaving it.

use crate::records::ContainerRecord;
use crate::sys::fs::{Confine, open_confined};
use nix::mount::{MsFlags, mount};
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Component, Path, PathBuf};

/// Longer files are no passwd or group files.
const MAX_TEXT: u64 = 4 << 20;

/// Mounts the overlay and returns where. The mount stays until the runtime removes the container.
pub(super) fn mount_overlay(record: &ContainerRecord) -> io::Result<PathBuf> {
    let folder = |name: &str| record.writable.join(name);
    for name in ["upper", "work", "rootfs"] {
        fs::create_dir_all(folder(name))?;
    }
    // Lower folders are named relative to the snapshots' folder: all of them have to fit into one page.
    std::env::set_current_dir(&record.snapshots)?;
    let options = format!(
        "lowerdir={},upperdir={},workdir={}",
        record.layers.iter().map(|layer| format!("{layer}/fs")).collect::<Vec<_>>().join(":"),
        folder("upper").display(),
        folder("work").display(),
    );
    let rootfs = folder("rootfs");
    mount(Some("overlay"), &rootfs, Some("overlay"), MsFlags::empty(), Some(options.as_str()))?;
    std::env::set_current_dir("/")?;
    Ok(rootfs)
}

/// A text file of the container; empty when it has none.
pub(super) fn read_text(rootfs: &Path, path: &str) -> io::Result<String> {
    let root = File::open(rootfs)?;
    let relative = Path::new(path.trim_start_matches('/'));
    let file = match open_confined(&root, relative, libc::O_RDONLY | libc::O_NONBLOCK, 0, Confine::InRoot) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(String::new()),
        other => File::from(other?),
    };
    if !file.metadata()?.is_file() {
        return Ok(String::new());
    }
    let mut text = Vec::new();
    file.take(MAX_TEXT).read_to_end(&mut text)?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}

/// Makes the folder, with its parents, where it is missing.
pub(super) fn ensure_folder(rootfs: &Path, path: &str) -> io::Result<()> {
    let root = File::open(rootfs)?;
    let mut done = PathBuf::new();
    for component in Path::new(path).components() {
        let Component::Normal(name) = component else { continue };
        let parent = open_confined(&root, &done, libc::O_PATH | libc::O_DIRECTORY, 0, Confine::InRoot)?;
        done.push(name);
        if open_confined(&root, &done, libc::O_PATH, 0, Confine::InRoot).is_ok() {
            continue;
        }
        nix::sys::stat::mkdirat(
            Some(std::os::fd::AsRawFd::as_raw_fd(&parent)),
            name,
            nix::sys::stat::Mode::from_bits_truncate(0o755),
        )?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_looked_up_as_the_container_sees_them() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("etc")).unwrap();
        fs::write(dir.path().join("real"), "inside").unwrap();
        std::os::unix::fs::symlink("/real", dir.path().join("etc/passwd")).unwrap();
        assert_eq!(read_text(dir.path(), "/etc/passwd").unwrap(), "inside");
        assert_eq!(read_text(dir.path(), "/etc/group").unwrap(), "");
    }

    #[test]
    fn a_link_cannot_lead_a_new_folder_outside() {
        let dir = tempfile::tempdir().unwrap();
        let outside = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink(outside.path(), dir.path().join("out")).unwrap();
        assert!(ensure_folder(dir.path(), "/out/x").is_err());
        assert!(!outside.path().join("x").exists());
        ensure_folder(dir.path(), "/a/b").unwrap();
        assert!(dir.path().join("a/b").is_dir());
    }
}

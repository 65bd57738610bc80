//! `subPath`: a place inside a volume, which no symlink may lead out of.
//!
//! The place is opened with the kernel's own confinement (openat2, RESOLVE_BENEATH) and bind-mounted by its
//! descriptor, so that nothing done in the volume afterwards can redirect the mount.

use std::fs;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Component, Path, PathBuf};

use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::stat::{Mode, mkdirat};

use super::table;

/// Binds `sub` of the volume at `root` to `at`, making folders that are missing. What is bound there already stays if
/// it is still what `sub` names: a ConfigMap that has changed since the last container gives the next one a new file.
pub(crate) fn bind(root: &Path, sub: &str, at: &Path) -> io::Result<PathBuf> {
    let place = Place::open(root, Path::new(sub))?;
    let source = PathBuf::from(format!("/proc/self/fd/{}", place.fd()));
    let wanted = fs::metadata(&source)?;
    while table::is_mounted(at) {
        let bound = fs::metadata(at)?;
        if (bound.dev(), bound.ino()) == (wanted.dev(), wanted.ino()) {
            return Ok(at.to_owned());
        }
        // Containers have mounts of their own; only the way to this one goes.
        umount2(at, MntFlags::MNT_DETACH)?;
    }
    if let Some(parent) = at.parent() {
        fs::create_dir_all(parent)?;
    }
    match fs::symlink_metadata(at) {
        Ok(old) if old.is_dir() != wanted.is_dir() => {
            if old.is_dir() {
                fs::remove_dir(at)?
            } else {
                fs::remove_file(at)?
            }
        }
        _ => {}
    }
    if wanted.is_dir() {
        fs::create_dir_all(at)?;
    } else if fs::symlink_metadata(at).is_err() {
        fs::write(at, b"")?;
    }
    mount(Some(&source), at, None::<&str>, MsFlags::MS_BIND | MsFlags::MS_REC, None::<&str>)?;
    Ok(at.to_owned())
}

/// An open descriptor, closed on drop through the file that owns it.
struct Place(fs::File);

impl Place {
    fn fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }

    fn open(root: &Path, sub: &Path) -> io::Result<Place> {
        let parts: Vec<_> = sub.components().filter(|c| *c != Component::CurDir).collect();
        if parts.iter().any(|part| !matches!(part, Component::Normal(_))) {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "subPath must be relative and not contain '..'"));
        }
        let top = Self::top(root)?;
        if parts.is_empty() {
            return Ok(top);
        }
        let whole: PathBuf = parts.iter().collect();
        match top.beneath(&whole) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            found => return found,
        }
        let mut made = PathBuf::new();
        for part in parts {
            let parent = if made.as_os_str().is_empty() { Self::top(root)? } else { top.beneath(&made)? };
            made.push(part);
            match mkdirat(Some(parent.fd()), part.as_os_str(), Mode::from_bits_truncate(0o750)) {
                Ok(()) => {
                    // What the volume's root grants its users, a folder made for them grants too.
                    let mode = fs::metadata(root)?.permissions();
                    let folder = top.beneath(&made)?;
                    fs::set_permissions(format!("/proc/self/fd/{}", folder.fd()), mode)?;
                }
                Err(nix::errno::Errno::EEXIST) => {}
                Err(error) => return Err(error.into()),
            }
        }
        top.beneath(&whole)
    }

    fn top(root: &Path) -> io::Result<Place> {
        fs::File::open(root).map(Place)
    }

    fn beneath(&self, path: &Path) -> io::Result<Place> {
        let how = OpenHow::new()
            .flags(OFlag::O_PATH | OFlag::O_CLOEXEC)
            .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_MAGICLINKS);
        let fd = openat2(self.fd(), path, how)?;
        adopt(fd)
    }
}

fn adopt(fd: RawFd) -> io::Result<Place> {
    // nix 0.29 gives a bare number; going through /proc hands it to an owner without unsafe code, and the
    // bare one is closed.
    let owned = reopen(fd);
    nix::unistd::close(fd)?;
    owned
}

fn reopen(fd: RawFd) -> io::Result<Place> {
    use std::os::unix::fs::OpenOptionsExt as _;
    let path = format!("/proc/self/fd/{fd}");
    let file = fs::OpenOptions::new().read(true).custom_flags(OFlag::O_PATH.bits()).open(path)?;
    Ok(Place(file))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn links_out_of_the_volume_are_refused() {
        let volume = tempfile::tempdir().unwrap();
        symlink("/etc", volume.path().join("out")).unwrap();
        symlink("../..", volume.path().join("up")).unwrap();
        fs::create_dir(volume.path().join("real")).unwrap();
        symlink("real", volume.path().join("in")).unwrap();
        assert!(Place::open(volume.path(), Path::new("out/passwd")).is_err());
        assert!(Place::open(volume.path(), Path::new("up")).is_err());
        assert!(Place::open(volume.path(), Path::new("../x")).is_err());
        assert!(Place::open(volume.path(), Path::new("in")).is_ok());
    }

    #[test]
    fn missing_folders_are_made() {
        let volume = tempfile::tempdir().unwrap();
        Place::open(volume.path(), Path::new("a/b/c")).unwrap();
        assert!(volume.path().join("a/b/c").is_dir());
    }
}

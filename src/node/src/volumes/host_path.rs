//! hostPath volumes: what their `type` demands of the path.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::Path;

#[derive(Debug, thiserror::Error)]
pub(crate) enum HostPathError {
    #[error("hostPath type check failed: {path} is not a {wanted}")]
    Mismatch { path: String, wanted: &'static str },
    #[error("unknown hostPath type {0:?}")]
    UnknownType(String),
    #[error("cannot make {path}")]
    Make { path: String, source: io::Error },
}

/// Checks the path, making it where the type says so. Without a type a missing path becomes a folder.
pub(crate) fn check(path: &Path, kind: &str) -> Result<(), HostPathError> {
    let meta = fs::metadata(path).ok();
    let text = || path.display().to_string();
    let need = |holds: bool, wanted| if holds { Ok(()) } else { Err(HostPathError::Mismatch { path: text(), wanted }) };
    let is = |test: fn(&fs::Metadata) -> bool| meta.as_ref().is_some_and(test);
    let make = |result: io::Result<()>| result.map_err(|source| HostPathError::Make { path: text(), source });
    match kind {
        "" if meta.is_some() => Ok(()),
        "" => make(fs::create_dir_all(path)),
        "DirectoryOrCreate" if meta.is_none() => {
            make(fs::create_dir_all(path).and_then(|()| fs::set_permissions(path, fs::Permissions::from_mode(0o755))))
        }
        "DirectoryOrCreate" | "Directory" => need(is(fs::Metadata::is_dir), "directory"),
        "FileOrCreate" if meta.is_none() => {
            make(fs::write(path, b"").and_then(|()| fs::set_permissions(path, fs::Permissions::from_mode(0o644))))
        }
        "FileOrCreate" | "File" => need(is(fs::Metadata::is_file), "file"),
        "Socket" => need(is(|m| m.file_type().is_socket()), "socket"),
        "CharDevice" => need(is(|m| m.file_type().is_char_device()), "character device"),
        "BlockDevice" => need(is(|m| m.file_type().is_block_device()), "block device"),
        other => Err(HostPathError::UnknownType(other.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_are_checked_and_created() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        check(&at("d"), "DirectoryOrCreate").unwrap();
        check(&at("f"), "FileOrCreate").unwrap();
        check(&at("any/deep"), "").unwrap();
        check(&at("d"), "Directory").unwrap();
        check(&at("f"), "File").unwrap();
        check(Path::new("/dev/null"), "CharDevice").unwrap();
        let error = check(&at("f"), "Directory").unwrap_err().to_string();
        assert!(error.starts_with("hostPath type check failed: ") && error.ends_with("is not a directory"));
        assert!(check(&at("none"), "File").is_err());
        assert!(check(&at("d"), "Socket").is_err());
    }
}

//! Files that hold keys and certificates: 0600, replaced atomically, synced before they count.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// A file operation that failed, with the path it was about.
#[derive(Debug, thiserror::Error)]
#[error("{action} {path}")]
pub struct FileError {
    action: &'static str,
    path: PathBuf,
    source: io::Error,
}

impl FileError {
    fn new(action: &'static str, path: &Path, source: io::Error) -> Self {
        Self { action, path: path.to_owned(), source }
    }

    /// Whether the file simply is not there.
    pub fn is_missing(&self) -> bool {
        self.source.kind() == io::ErrorKind::NotFound
    }
}

/// Reads a text file (PEM, token).
pub fn read(path: &Path) -> Result<String, FileError> {
    fs::read_to_string(path).map_err(|source| FileError::new("read", path, source))
}

/// Reads a text file that may not exist yet.
pub fn read_if_present(path: &Path) -> Result<Option<String>, FileError> {
    match read(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.is_missing() => Ok(None),
        Err(error) => Err(error),
    }
}

/// Writes `content` to `path` with mode 0600: a synced temporary file in the same folder, renamed over the target,
/// and the folder synced, so that after a power cut the file is the old one or the new one, whole.
pub fn write_private(path: &Path, content: &[u8]) -> Result<(), FileError> {
    let folder = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(folder).map_err(|source| FileError::new("create folder", folder, source))?;
    let temporary = path.with_extension(format!("tmp{}", std::process::id()));
    let written = (|| {
        // Born here: what lies there already is of a process that died, or a link laid by somebody else.
        match fs::remove_file(&temporary) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
        file.write_all(content)?;
        file.sync_all()?;
        fs::rename(&temporary, path)?;
        File::open(folder)?.sync_all()
    })();
    written.map_err(|source| FileError::new("write", path, source))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn private_files_are_0600_and_replaced_whole() {
        let folder = std::env::temp_dir().join(format!("rk-pki-files-{}", std::process::id()));
        let path = folder.join("a/key.pem");
        write_private(&path, b"one").unwrap();
        write_private(&path, b"two").unwrap();
        assert_eq!(read(&path).unwrap(), "two");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(folder.join("a")).unwrap().count(), 1, "no temporary file stays behind");
        let leftover = path.with_extension(format!("tmp{}", std::process::id()));
        std::os::unix::fs::symlink(folder.join("elsewhere"), &leftover).unwrap();
        write_private(&path, b"three").unwrap();
        assert!(!folder.join("elsewhere").exists() && !leftover.exists(), "a link in the way is not followed");
        assert_eq!(read_if_present(&folder.join("absent")).unwrap(), None);
        fs::remove_dir_all(&folder).unwrap();
    }
}

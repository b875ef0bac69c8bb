//! Files that are replaced while a host runs: secrets, certificates and their keys.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::paths::read;

/// What identifies the contents of a file: device, inode, length, and when it was changed (s, ns).
pub(crate) type Stamp = Option<(u64, u64, u64, i64, i64)>;

/// Returns the stamp of a file; none if there is no file.
pub(crate) fn stamp(path: &Path) -> Stamp {
    let file = std::fs::metadata(path).ok()?;
    Some((file.dev(), file.ino(), file.size(), file.mtime(), file.mtime_nsec()))
}

/// A file, as it was seen last.
#[derive(Debug)]
pub(crate) struct Watched {
    path: PathBuf,
    seen: Stamp,
}

impl Watched {
    /// A file that was just read.
    pub(crate) fn seen(path: &Path) -> Watched {
        Watched { path: path.to_owned(), seen: stamp(path) }
    }

    /// A file that may have changed since it was read.
    pub(crate) fn unseen(path: &Path) -> Watched {
        Watched { path: path.to_owned(), seen: None }
    }

    /// The file.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether it has changed since the last call. A file that is missing has not: it may be about to be replaced.
    pub(crate) fn has_changed(&mut self) -> bool {
        let now = stamp(&self.path);
        let has_changed = now.is_some() && now != self.seen;
        if has_changed {
            self.seen = now;
        }
        has_changed
    }
}

/// Reads a secret: the text of a file without its trailing newline. A pipe or a device is refused: it is read again when it changes.
pub(crate) fn read_secret(path: &Path) -> Result<String, String> {
    let wrong = |error: &dyn std::fmt::Display| format!("cannot read {}: {error}", path.display());
    let bytes = read(path).map_err(|error| wrong(&error))?;
    let text = String::from_utf8(bytes).map_err(|error| wrong(&error.utf8_error()))?;
    let text = text.strip_suffix('\n').map_or(text.as_str(), |text| text.strip_suffix('\r').unwrap_or(text));
    if text.is_empty() { Err(format!("{} is empty", path.display())) } else { Ok(text.to_owned()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_replaced_has_changed_once_and_one_that_is_missing_has_not() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("secret");
        std::fs::write(&path, "first\n").expect("writable");
        let (mut seen, mut unseen) = (Watched::seen(&path), Watched::unseen(&path));
        assert_eq!([seen.has_changed(), unseen.has_changed(), unseen.has_changed()], [false, true, false]);
        let replace = |text: &str| {
            std::fs::write(folder.path().join("next"), text).expect("writable");
            std::fs::rename(folder.path().join("next"), &path).expect("writable");
        };
        replace("other");
        assert_eq!([seen.has_changed(), seen.has_changed()], [true, false]);
        assert_eq!(read_secret(&path).as_deref(), Ok("other"));
        std::fs::remove_file(&path).expect("writable");
        assert!(!seen.has_changed());
        replace("");
        assert!(seen.has_changed());
        assert_eq!(read_secret(&path), Err(format!("{} is empty", path.display())));
    }
}

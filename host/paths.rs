//! What a path leads to: whether opening it can wait for ever, and whether two paths lead to the same file; and names of new files, which
//! survive a power cut only once the folder that holds them is synced. Opens nothing but files and folders.

use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

/// Symbolic links, each to the next, that are followed to a file that is not there.
const MOST_LINKS: usize = 40;

/// Whether opening it can wait for ever, or what is written to it is not kept.
pub(crate) fn is_pipe_or_device(found: &Metadata) -> bool {
    !found.is_file() && !found.is_dir()
}

/// Whether this names standard input or output, where one of them can be named.
pub(crate) fn is_stream(path: &Path) -> bool {
    path.as_os_str() == "-"
}

/// Refuses a pipe or a device before it is opened. `why` says what is done with a file that neither of them allows.
pub(crate) fn refuse_pipe_or_device(path: &Path, why: &str) -> Result<(), String> {
    match std::fs::metadata(path) {
        Ok(found) if is_pipe_or_device(&found) => {
            Err(format!("{} is a pipe or a device, and {why}; name a file", path.display()))
        }
        _ => Ok(()),
    }
}

/// Reads a whole file, and no pipe or device, which may have no end.
pub(crate) fn read(path: &Path) -> io::Result<Vec<u8>> {
    if is_pipe_or_device(&std::fs::metadata(path)?) {
        return Err(io::Error::other("it is a pipe or a device; name a file"));
    }
    std::fs::read(path)
}

/// Syncs the folder that names a file, so that a new file is still there after a power cut. What is in it is synced apart.
pub(crate) fn sync_name(path: &Path) -> io::Result<()> {
    let real = path.canonicalize()?;
    real.parent().map_or(Ok(()), sync_folder)
}

/// Creates a folder and those above it that are missing, so that they are still there after a power cut.
pub(crate) fn create_folder(path: &Path) -> io::Result<()> {
    let path = std::path::absolute(path)?;
    let missing: Vec<&Path> = path.ancestors().take_while(|folder| !folder.exists()).collect();
    std::fs::create_dir_all(&path)?;
    missing.into_iter().filter_map(Path::parent).try_for_each(sync_folder)
}

fn sync_folder(folder: &Path) -> io::Result<()> {
    match File::open(folder)?.sync_all() {
        // Some file systems cannot sync a folder.
        Err(e) if matches!(e.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported) => Ok(()),
        synced => synced,
    }
}

/// Returns whether both paths lead to the same file, which need not exist: by `.`, `..` and links too.
pub(crate) fn same_file(one: &Path, other: &Path) -> bool {
    let id = |path| std::fs::metadata(path).ok().filter(Metadata::is_file).map(|file| (file.dev(), file.ino()));
    real(one, MOST_LINKS) == real(other, MOST_LINKS) || id(one).is_some_and(|one| id(other) == Some(one))
}

/// The absolute path without `.`, `..` and symbolic links.
fn real(path: &Path, links: usize) -> PathBuf {
    if let Ok(real) = path.canonicalize() {
        return real;
    }
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let Some(folder) = path.parent().map(|folder| real(folder, links)) else { return path };
    match path.components().next_back() {
        Some(Component::Normal(name)) => {
            let file = folder.join(name);
            match std::fs::read_link(&file) {
                Ok(target) if links > 0 => real(&folder.join(target), links - 1),
                _ => file,
            }
        }
        Some(Component::ParentDir) => folder.parent().map_or_else(|| folder.clone(), Path::to_owned),
        _ => folder,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn one_file_has_many_paths() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = |name: &str| folder.path().join(name);
        std::fs::create_dir(path("inner")).expect("writable");
        std::fs::write(path("file"), "").expect("writable");
        std::fs::hard_link(path("file"), path("hard")).expect("writable");
        symlink("file", path("soft")).expect("writable");
        symlink(".", path("here")).expect("writable");
        symlink("inner/new", path("dangling")).expect("writable");
        symlink("dangling", path("again")).expect("writable");
        symlink("round", path("round")).expect("writable");
        for (one, other) in [
            ("file", "inner/../file"),
            ("file", "./file"),
            ("file", "soft"),
            ("file", "hard"),
            ("file", "here/here/soft"),
            ("new", "inner/../new"),
            ("new", "absent/../new"),
            ("inner/new", "dangling"),
            ("again", "here/inner/./new"),
            ("round", "here/round"),
        ] {
            assert!(same_file(&path(one), &path(other)) && same_file(&path(other), &path(one)), "{one} {other}");
        }
        for (one, other) in [("file", "inner/file"), ("file", "new"), ("new", "inner/new"), ("again", "new")] {
            assert!(!same_file(&path(one), &path(other)), "{one} {other}");
        }
    }

    #[test]
    fn a_pipe_and_a_device_are_neither_opened_nor_read() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let pipe = folder.path().join("pipe");
        let made = std::process::Command::new("mkfifo").arg(&pipe).status().expect("mkfifo is there");
        assert!(made.success());
        for path in [&pipe, Path::new("/dev/zero"), Path::new("/dev/null")] {
            let error = refuse_pipe_or_device(path, "it is written").expect_err("no file");
            assert!(error.ends_with(" is a pipe or a device, and it is written; name a file"), "{error}");
            assert!(read(path).expect_err("no file").to_string().contains("a pipe or a device"));
        }
        for path in [folder.path(), &folder.path().join("absent")] {
            assert_eq!(refuse_pipe_or_device(path, "it is written"), Ok(()));
            read(path).expect_err("no file");
        }
    }
}

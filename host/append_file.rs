//! An append-only file of lines, truncated at recovery to the length that a checkpoint covers. Owns the file's length and its lock, and waits
//! while the disk is full; knows nothing of rows and dead letters.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use crate::backoff::{Backoff, Outage};
use crate::paths::{refuse_pipe_or_device, sync_name};

/// Why a pipe or a device is refused.
const NO_FILE: &str = "what is written is synced and cut back at a recovery";

/// Bytes that are read at once in search of a line break.
const CHUNK: usize = 64 << 10;

/// An open file.
#[derive(Debug)]
pub(crate) struct AppendFile {
    path: PathBuf,
    file: File,
    /// Length of all complete writes; a partial write is truncated to it.
    length: u64,
    backoff: Backoff,
}

impl AppendFile {
    /// Opens the file or creates it; its folder must exist.
    pub(crate) fn open(path: &Path) -> Result<AppendFile, String> {
        refuse_pipe_or_device(path, NO_FILE)?;
        let mut file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(path)
            .map_err(|e| refusal(path, &e))?;
        let length = file.seek(SeekFrom::End(0)).map_err(|e| refusal(path, &e))?;
        if length == 0 {
            sync_name(path).map_err(|e| refusal(path, &e))?; // it may be new
        }
        let backoff = Backoff::new(path.display().to_string());
        Ok(AppendFile { path: path.to_owned(), file, length, backoff })
    }

    /// Locks the file, so that no other host writes it as long as this one has it open. Retries until `deadline`. Other programs may read it.
    pub(crate) fn claim(&mut self, deadline: Instant) -> Result<(), String> {
        loop {
            match self.file.try_lock() {
                Ok(()) => break,
                Err(TryLockError::WouldBlock) => {
                    if !self.backoff.pause_until(Some(deadline), &"another host is writing this file") {
                        return Err(format!(
                            "cannot write {}: another host is writing it; stop that host, or give this one a file of its own",
                            self.path.display()
                        ));
                    }
                }
                Err(TryLockError::Error(e)) if e.kind() == io::ErrorKind::Unsupported => break,
                Err(TryLockError::Error(e)) => return Err(refusal(&self.path, &e)),
            }
        }
        self.backoff.over();
        // The other host may have appended to it.
        self.length = self.file.seek(SeekFrom::End(0)).map_err(|e| refusal(&self.path, &e))?;
        Ok(())
    }

    /// Returns the availability of the file; it is unavailable while the disk is full.
    pub(crate) fn outage(&self) -> Arc<Outage> {
        self.backoff.outage()
    }

    /// Checks whether [`AppendFile::open`] would succeed, without creating the file.
    pub(crate) fn check(path: &Path) -> Result<String, String> {
        refuse_pipe_or_device(path, NO_FILE)?;
        match OpenOptions::new().write(true).open(path) {
            Ok(file) => {
                let length = file.metadata().map_err(|e| refusal(path, &e))?.len();
                Ok(format!("{} has {length} bytes", path.display()))
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound && folder(path).is_dir() => {
                Ok(format!("{} will be created", path.display()))
            }
            Err(e) => Err(refusal(path, &e)),
        }
    }

    /// Appends `lines`. Waits while the disk is full; returns any other error.
    pub(crate) fn append(&mut self, lines: &[u8]) -> Result<(), String> {
        while let Err(e) = self.file.write_all(lines) {
            if !matches!(e.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) {
                return Err(refusal(&self.path, &e));
            }
            self.cut(self.length)?;
            self.backoff.pause(&e);
        }
        self.backoff.over();
        self.length += lines.len() as u64;
        Ok(())
    }

    /// Syncs the file to disk and returns its length.
    pub(crate) fn sync(&mut self) -> Result<u64, String> {
        self.file.sync_data().map_err(|e| refusal(&self.path, &e))?;
        Ok(self.length)
    }

    /// Truncates the file to `length`.
    pub(crate) fn truncate(&mut self, length: u64) -> Result<(), String> {
        if length > self.length {
            return Err(format!(
                "{} has {} bytes, but the checkpoint covers {length}: the file was truncated or replaced; restore it, or move it \
                 away and start over with `keyfold reset`",
                self.path.display(),
                self.length
            ));
        }
        self.cut(length)?;
        self.length = length;
        Ok(())
    }

    /// Ends a last line that was broken off, so that what is appended next stands on a line of its own. It is cut if it began at `ours` or
    /// later, since nobody was told that it was written; otherwise it gets a line break.
    pub(crate) fn end_line(&mut self, ours: Option<u64>) -> Result<(), String> {
        if self.ends_with_line_break()? {
            return Ok(());
        }
        let begin = ours.map(|ours| self.line_since(ours)).transpose()?.flatten();
        let bytes = begin.map_or(0, |begin| self.length - begin);
        match begin {
            Some(begin) => self.truncate(begin)?,
            None => self.append(b"\n")?,
        }
        tracing::warn!(
            event = "line-broken-off",
            file = %self.path.display(),
            cut = bytes,
            "last line has no line break: cut if this pipeline wrote it, given a line break otherwise"
        );
        Ok(())
    }

    /// Returns whether there is nothing after the last line break.
    pub(crate) fn ends_with_line_break(&self) -> Result<bool, String> {
        ends_with_line_break(&self.file, self.length).map_err(|e| refusal(&self.path, &e))
    }

    /// Returns where the last line, which has no line break, begins; none if that is before `least`.
    fn line_since(&self, least: u64) -> Result<Option<u64>, String> {
        let (least, mut end) = (least.min(self.length), self.length);
        let mut chunk = [0; CHUNK];
        // A line begins at `least` if the byte before is a line break.
        let first = least.saturating_sub(1);
        while end > first {
            let begin = first.max(end.saturating_sub(CHUNK as u64));
            let chunk = &mut chunk[..usize::try_from(end - begin).expect("no longer than a chunk")];
            self.file.read_exact_at(chunk, begin).map_err(|e| refusal(&self.path, &e))?;
            if let Some(at) = memchr::memrchr(b'\n', chunk) {
                return Ok(Some(begin + at as u64 + 1));
            }
            end = begin;
        }
        Ok((least == 0).then_some(0))
    }

    fn cut(&mut self, length: u64) -> Result<(), String> {
        let cut = self.file.set_len(length).and_then(|()| self.file.seek(SeekFrom::Start(length)));
        cut.map(drop).map_err(|e| refusal(&self.path, &e))
    }
}

/// Returns whether a file of this length has nothing after its last line break.
pub(crate) fn ends_with_line_break(file: &File, length: u64) -> io::Result<bool> {
    let Some(last) = length.checked_sub(1) else { return Ok(true) };
    let mut byte = [0];
    file.read_exact_at(&mut byte, last)?;
    Ok(byte == *b"\n")
}

fn folder(path: &Path) -> &Path {
    path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn refusal(path: &Path, error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => {
            format!("cannot open {}: the folder {} does not exist; create it", path.display(), folder(path).display())
        }
        io::ErrorKind::PermissionDenied => {
            format!("cannot open {}: {error}; give this user write access", path.display())
        }
        _ => format!("cannot write {}: {error}", path.display()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_truncated_and_grows_from_there() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("lines");
        let mut file = AppendFile::open(&path).expect("opens");
        file.append(b"one\ntwo\n").expect("appends");
        assert_eq!(file.sync(), Ok(8));
        drop(file);

        let mut file = AppendFile::open(&path).expect("opens again");
        file.truncate(4).expect("cuts");
        file.append(b"three\n").expect("appends");
        assert_eq!(file.sync(), Ok(10));
        assert_eq!(std::fs::read_to_string(&path).expect("reads"), "one\nthree\n");
    }

    #[test]
    fn i8_a_file_is_written_by_one_host_at_a_time() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("lines");
        let now = crate::clock::instant;
        let mut first = AppendFile::open(&path).expect("opens");
        first.claim(now()).expect("nobody has it");
        let mut second = AppendFile::open(&path).expect("opens");
        let error = second.claim(now()).expect_err("the first one has it");
        assert!(error.contains("lines: another host is writing it; stop that host"), "{error}");
        first.append(b"one\n").expect("appends");
        drop(first);
        second.claim(now()).expect("nobody has it");
        second.append(b"two\n").expect("appends");
        assert_eq!(second.sync(), Ok(8));
        assert_eq!(std::fs::read_to_string(&path).expect("reads"), "one\ntwo\n");
    }

    #[test]
    fn a_line_that_was_broken_off_is_cut_if_it_is_ours_and_ended_if_not() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("lines");
        let long = "x".repeat(3 * CHUNK);
        for (before, ours, after) in [
            ("", Some(0), ""),
            ("one\n", Some(0), "one\n"),
            ("one\nha", Some(0), "one\n"),
            ("one\nha", Some(4), "one\n"),
            ("one\nha", Some(5), "one\nha\n"),
            ("one\nha", Some(99), "one\nha\n"),
            ("one\nha", None, "one\nha\n"),
            ("ha", Some(0), ""),
            ("ha", Some(1), "ha\n"),
            (&format!("one\n{long}"), Some(4), "one\n"),
            (&format!("one\n{long}"), Some(0), "one\n"),
            (&long, Some(0), ""),
            (&long, Some(7), &format!("{long}\n")),
        ] {
            std::fs::write(&path, before).expect("writable");
            let mut file = AppendFile::open(&path).expect("opens");
            file.end_line(ours).expect("ends the line");
            assert_eq!(file.ends_with_line_break(), Ok(true));
            file.append(b"next\n").expect("appends");
            assert_eq!(file.sync(), Ok(after.len() as u64 + 5));
            let found = std::fs::read_to_string(&path).expect("reads");
            assert_eq!(found.len(), after.len() + 5, "{} {ours:?}", before.len());
            assert_eq!(found, format!("{after}next\n"));
        }
    }

    #[test]
    fn a_device_is_refused_before_it_is_opened() {
        let device = Path::new("/dev/null");
        for error in [AppendFile::open(device).expect_err("no file"), AppendFile::check(device).expect_err("no file")] {
            assert!(error.starts_with("/dev/null is a pipe or a device") && error.ends_with("name a file"), "{error}");
        }
    }

    #[test]
    fn a_file_shorter_than_its_checkpoint_is_refused() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mut file = AppendFile::open(&folder.path().join("lines")).expect("opens");
        let error = file.truncate(4).expect_err("is shorter");
        assert!(error.contains("has 0 bytes, but the checkpoint covers 4"), "{error}");
    }

    #[test]
    fn a_missing_folder_is_refused_by_name() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("no/lines");
        for error in [AppendFile::open(&path).expect_err("no folder"), AppendFile::check(&path).expect_err("no folder")]
        {
            assert!(error.contains("no does not exist; create it"), "{error}");
        }
    }
}

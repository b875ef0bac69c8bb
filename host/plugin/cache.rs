//! compiled components that are kept on disk. They are native code, which whoever writes it runs, so they are kept in a folder of the
//! user alone, and never beside the state, which others may be able to write.

use std::fs::{DirBuilder, File, OpenOptions};
use std::hash::{Hash, Hasher};
use std::io::{Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};
use wasmtime::Engine;
use wasmtime::component::Component;

use crate::plugin::Digest;
use crate::record::hex;

/// Files that are kept; the oldest ones go first. A plugin in JavaScript takes some 40 MiB.
const KEPT: usize = 32;
/// Bits of a mode by which others than the owner may write.
const OTHERS_WRITE: u32 = 0o022;

/// The place of one compiled component.
pub(super) struct Entry {
    file: PathBuf,
    name: String,
}

impl Entry {
    /// Returns the place of this plugin, compiled for this engine. Fails with the reason if what lies in the folder cannot be trusted.
    pub(super) fn of(engine: &Engine, digest: &Digest, folder: &Path) -> Result<Entry, String> {
        let name = name(engine, digest);
        // Fails below if it is not there afterwards.
        let _ = DirBuilder::new().recursive(true).mode(0o700).create(folder);
        let found = std::fs::metadata(folder).map_err(|error| error.to_string())?;
        owned(&found)?;
        Ok(Entry { file: folder.join(&name), name })
    }

    /// Loads it: a SHA-256, and the code that it is of. Returns none if it is missing, was left half written by a crash, lies under a name that
    /// is not its own, or is another user's.
    pub(super) fn load(&self, engine: &Engine) -> Option<Component> {
        let mut file = File::open(&self.file).ok()?;
        owned(&file.metadata().ok()?).ok()?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).ok()?;
        let (digest, compiled) = bytes.split_at_checked(32)?;
        if self.digest(compiled)[..] != *digest {
            return None;
        }
        // SAFETY: written below by an engine of the same version and settings, into a file and a folder that only this user can write.
        unsafe { Component::deserialize(engine, compiled) }.ok()
    }

    /// Keeps a compiled component.
    pub(super) fn store(&self, compiled: &[u8]) -> std::io::Result<()> {
        let partial = self.file.with_extension(format!("{}.partial", std::process::id()));
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&partial)?;
        file.write_all(&self.digest(compiled))?;
        file.write_all(compiled)?;
        std::fs::rename(&partial, &self.file)?;
        self.forget_old()
    }

    fn forget_old(&self) -> std::io::Result<()> {
        let folder = self.file.parent().expect("it lies in the folder");
        let mut files: Vec<_> = std::fs::read_dir(folder)?
            .flatten()
            .filter(|entry| entry.path().extension().is_some_and(|extension| extension == "cwasm"))
            .filter_map(|entry| Some((entry.metadata().ok()?.modified().ok()?, entry.path())))
            .collect();
        files.sort();
        let surplus = files.len().saturating_sub(KEPT);
        files.iter().take(surplus).try_for_each(|(_, file)| std::fs::remove_file(file))
    }

    fn digest(&self, compiled: &[u8]) -> Vec<u8> {
        Sha256::new().chain_update(&self.name).chain_update(compiled).finalize().to_vec()
    }
}

/// Refuses what this user does not own, or what others can write.
fn owned(found: &std::fs::Metadata) -> Result<(), String> {
    // SAFETY: it takes nothing and cannot fail.
    let user = unsafe { libc::geteuid() };
    if found.uid() != user {
        return Err(format!("it belongs to user {}, and keyfold runs as user {user}", found.uid()));
    }
    if found.mode() & OTHERS_WRITE != 0 {
        return Err(format!("other users can write it (mode {:o}); run chmod 700", found.mode() & 0o7777));
    }
    Ok(())
}

fn name(engine: &Engine, digest: &Digest) -> String {
    struct Sha(Sha256);
    impl Hasher for Sha {
        fn finish(&self) -> u64 {
            0
        }
        fn write(&mut self, bytes: &[u8]) {
            self.0.update(bytes);
        }
    }
    // The hash covers wasmtime's version, the target and every setting of the engine.
    let mut settings = Sha(Sha256::new());
    engine.precompile_compatibility_hash().hash(&mut settings);
    format!("{}-{}.cwasm", digest.0, &hex(&settings.0.finalize())[..16])
}

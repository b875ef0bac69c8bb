//! What a link of a lane's manifests says: the lane's checkpoint, and the files that hold its keyed state. A checkpoint is valid once its
//! manifest is written. Pure.

use serde::{Deserialize, Serialize};

use crate::state::checkpoint::Checkpoint;
use crate::state::file::FileInfo;

/// The format of manifests. Another format of checkpoints needs another one of these.
const FORMAT: u32 = 1;

/// A checkpoint and its files.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Contents {
    /// What the lane needs to resume, besides its keyed state; `None` if it begins anew.
    pub checkpoint: Option<Checkpoint>,
    /// Its keyed state: runs of files, the newest run first. In a run, keys do not overlap and files are in key order.
    pub runs: Vec<Vec<FileInfo>>,
}

/// What a manifest says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Manifest {
    /// The last checkpoint.
    pub contents: Contents,
    /// The last one before a deployment that can still be withdrawn, with its number.
    pub undo: Option<(u64, Contents)>,
}

/// A manifest as it is stored.
#[derive(Serialize, Deserialize)]
struct Stored {
    format: u32,
    checkpoint: Option<Checkpoint>,
    runs: Vec<Vec<FileInfo>>,
    undo: Option<(u64, Contents)>,
}

impl Manifest {
    /// Encodes it.
    pub fn encode(&self) -> Vec<u8> {
        let Manifest { contents: Contents { checkpoint, runs }, undo } = self.clone();
        serde_json::to_vec(&Stored { format: FORMAT, checkpoint, runs, undo }).expect("plain data becomes JSON")
    }

    /// Decodes it. The error of another format names its number.
    pub fn decode(bytes: &[u8]) -> Result<Manifest, String> {
        #[derive(Deserialize)]
        struct Head {
            format: u32,
        }
        let damaged = |e| format!("it is damaged: {e}; run `keyfold reset` to rebuild the state from the log");
        let Head { format } = serde_json::from_slice(bytes).map_err(damaged)?;
        if format != FORMAT {
            return Err(format!("it has format {format}, and this version reads format {FORMAT}; run a newer keyfold"));
        }
        let Stored { checkpoint, runs, undo, .. } = serde_json::from_slice(bytes).map_err(damaged)?;
        let contents = Contents { checkpoint, runs };
        Ok(Manifest { contents, undo })
    }

    /// All files that it names.
    pub fn files(&self) -> impl Iterator<Item = &FileInfo> {
        let undo = self.undo.iter().map(|(_, contents)| contents);
        [&self.contents].into_iter().chain(undo).flat_map(|contents| contents.runs.iter().flatten())
    }
}

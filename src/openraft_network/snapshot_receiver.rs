//! Receives a snapshot: checks every chunk and writes the files beside the state.
//!
//! Runs on a thread that may block. What has arrived is synced piece by piece,
//! so that the disk never has much to catch up with while others wait for it.
//! Nothing the sender says is believed: names, sizes, sums, the order of frames
//! and what the files hold are checked, because what this lets through is
//! installed. What is left of a broken transfer is removed.

use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::path::{Component, Path};

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};
use twox_hash::XxHash3_64;

use super::snapshot_sender::Checksum;
use super::wire::{Encoding, FrameDecoder, SnapshotFile, SnapshotFrame, WireError};
use crate::error::StorageError;
use crate::store::data_dir::sync_dir;
use crate::store::snapshot::SnapshotDir;
use crate::{SnapshotMeta, Vote};

/// How many bytes may be written before they are synced.
const SYNC_EVERY_BYTES: u64 = 4 << 20;

/// Why a snapshot was not received.
#[derive(Debug, thiserror::Error)]
pub enum ReceiveError {
    /// The bytes make no sense.
    #[error(transparent)]
    Wire(#[from] WireError),
    /// The frames make no sense.
    #[error("the snapshot's stream is not valid: {0}")]
    Invalid(String),
    /// This node could not write it.
    #[error(transparent)]
    Storage(#[from] StorageError),
}

/// A snapshot that has arrived whole.
#[derive(Debug)]
pub struct Received {
    /// The sender's vote.
    pub vote: Vote,
    /// What it covers, as announced and as found in its files.
    pub meta: SnapshotMeta,
    /// Its files.
    pub dir: SnapshotDir,
}

/// What the sender announced; told before any file is written.
#[derive(Debug, Clone)]
pub struct Announced {
    /// The sender's vote.
    pub vote: Vote,
}

/// Reads the stream's pieces from `pieces` until the end frame and writes the
/// files into a new folder under `snapshots`. Blocks its thread while it writes.
///
/// The announcement goes to `announced` first; when its receiver drops it
/// without asking to go on (sends nothing on `go_on`), nothing is written.
///
/// # Errors
/// See [`ReceiveError`]; the folder is then removed.
pub async fn receive(
    pieces: mpsc::Receiver<Bytes>,
    encoding: Encoding,
    snapshots: &Path,
    name: &str,
    announced: oneshot::Sender<Announced>,
    go_on: oneshot::Receiver<()>,
) -> Result<Received, ReceiveError> {
    let mut frames = Frames { pieces, decoder: FrameDecoder::new(encoding) };
    let begin = frames.next().await?;
    let mut total = Checksum::of(&begin);
    let SnapshotFrame::Begin { vote, meta, files } = begin else {
        return Err(invalid("it does not start with the begin frame"));
    };
    if announced.send(Announced { vote }).is_err() || go_on.await.is_err() {
        return Err(invalid("it is not wanted any more"));
    }
    check_names(&files)?;
    let dir = SnapshotDir::incoming(snapshots, name)?;
    for file in &files {
        let mut target = TargetFile::create(dir.path(), file)?;
        while target.missing > 0 {
            let SnapshotFrame::Chunk { checksum, data } = frames.next().await? else {
                return Err(invalid("a file is shorter than announced"));
            };
            if XxHash3_64::oneshot(&data) != checksum {
                return Err(invalid("a chunk was damaged on the way"));
            }
            total.add(checksum);
            target.write(&data)?;
        }
        target.finish()?;
    }
    let SnapshotFrame::End { checksum } = frames.next().await? else {
        return Err(invalid("there is more than was announced"));
    };
    if checksum != total.value() {
        return Err(invalid(
            "chunks are missing or out of order, or the announcement was damaged on the way",
        ));
    }
    sync_dir(dir.path())?;
    let found = dir.meta().map_err(|error| ReceiveError::Invalid(error.to_string()))?;
    if found != meta {
        return Err(ReceiveError::Invalid(format!("it was announced as {meta:?} but holds {found:?}")));
    }
    Ok(Received { vote, meta, dir })
}

/// The frames of a stream.
struct Frames {
    pieces: mpsc::Receiver<Bytes>,
    decoder: FrameDecoder,
}

impl Frames {
    async fn next(&mut self) -> Result<SnapshotFrame, ReceiveError> {
        loop {
            if let Some(frame) = self.decoder.next_frame()? {
                return Ok(frame);
            }
            match self.pieces.recv().await {
                Some(piece) => self.decoder.push(&piece),
                None => return Err(invalid("it ends before its end frame")),
            }
        }
    }
}

fn invalid(why: &str) -> ReceiveError {
    ReceiveError::Invalid(why.to_owned())
}

/// Names must be plain file names, because they are joined to a folder of ours,
/// and each stands for one file.
fn check_names(files: &[SnapshotFile]) -> Result<(), ReceiveError> {
    let mut seen = BTreeSet::new();
    for SnapshotFile { name, .. } in files {
        let mut parts = Path::new(name).components();
        let is_plain =
            matches!((parts.next(), parts.next()), (Some(Component::Normal(part)), None) if part == &**name);
        if !is_plain {
            return Err(ReceiveError::Invalid(format!("{name:?} is no plain file name")));
        }
        if !seen.insert(name) {
            return Err(ReceiveError::Invalid(format!("{name:?} comes twice")));
        }
    }
    Ok(())
}

struct TargetFile<'a> {
    path: std::path::PathBuf,
    file: File,
    announced: &'a SnapshotFile,
    missing: u64,
    unsynced: u64,
}

impl<'a> TargetFile<'a> {
    fn create(dir: &Path, announced: &'a SnapshotFile) -> Result<Self, ReceiveError> {
        let path = dir.join(&announced.name);
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .open(&path)
            .map_err(|error| StorageError::file("creating", &path, &error))?;
        Ok(Self { path, file, announced, missing: announced.size, unsynced: 0 })
    }

    fn write(&mut self, data: &[u8]) -> Result<(), ReceiveError> {
        let length = data.len() as u64;
        if length == 0 || length > self.missing {
            return Err(ReceiveError::Invalid(format!("{} is longer than announced", self.announced.name)));
        }
        self.file.write_all(data).map_err(|error| StorageError::file("writing", &self.path, &error))?;
        self.missing -= length;
        self.unsynced += length;
        if self.unsynced >= SYNC_EVERY_BYTES {
            self.sync()?;
        }
        Ok(())
    }

    fn sync(&mut self) -> Result<(), ReceiveError> {
        self.unsynced = 0;
        self.file.sync_data().map_err(|error| StorageError::file("syncing", &self.path, &error).into())
    }

    fn finish(self) -> Result<(), ReceiveError> {
        self.file.sync_all().map_err(|error| StorageError::file("syncing", &self.path, &error).into())
    }
}

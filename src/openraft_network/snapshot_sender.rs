//! Sends a snapshot to a peer: its files as a stream of checksummed chunks.
//!
//! Never more than a few chunks are in memory, whatever the snapshot's size, and
//! the pace is bounded so that the transfer leaves disk and network to others. A
//! peer that takes nothing, or does not answer in the end, is given up.

use std::fs::File;
use std::future::Future;
use std::io::{self, Read as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Limited, StreamBody};
use hyper::body::Frame;
use openraft::alias::SnapshotOf;
use openraft::errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::raft::SnapshotResponse;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;
use twox_hash::XxHash3_64;

use super::append_stream::to_rpc_error;
use super::transport::{PeerBody, Purpose, Transport};
use super::wire::{
    BINARY_STREAM, Encoding, JSON_STREAM, Message as _, SnapshotFile, SnapshotFrame, encode_frame,
};
use crate::store::snapshot::SnapshotDir;
use crate::tasks::{self, Handle};
use crate::{NodeId, SnapshotMeta, TypeConfig, Vote};

/// Bytes of a file in one chunk.
const CHUNK_BYTES: usize = 256 << 10;
/// Chunks that may wait between the disk and the network.
const CHUNKS_AHEAD: usize = 4;
/// How long a peer may take no chunk before the transfer is given up.
const STALL: Duration = Duration::from_secs(30);
/// How long a peer may take to install what it has received.
const INSTALL: Duration = Duration::from_secs(600);
/// The longest sleep between two looks whether anyone still listens.
const NAP: Duration = Duration::from_millis(100);
/// Answers are a vote: anything larger is not one.
const MAX_ANSWER_BYTES: usize = 64 << 10;

/// How fast a snapshot may be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    /// Bytes per second; zero is unlimited.
    pub bytes_per_second: u64,
}

impl Pace {
    /// How long to wait so that `sent` bytes since `started` keep the pace.
    fn pause(self, sent: u64, started: Instant) -> Duration {
        if self.bytes_per_second == 0 {
            return Duration::ZERO;
        }
        let due = Duration::from_secs_f64(sent as f64 / self.bytes_per_second as f64);
        due.saturating_sub(started.elapsed())
    }
}

/// Sends `snapshot` and returns the peer's answer once it is installed there.
///
/// # Errors
/// When the peer can't be reached, refuses or breaks off, or when `cancel` ends
/// first.
pub async fn send(
    transport: &Transport,
    target: NodeId,
    addr: &str,
    vote: Vote,
    snapshot: SnapshotOf<TypeConfig, SnapshotDir>,
    pace: Pace,
    cancel: impl Future<Output = ReplicationClosed>,
) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
    let encoding = transport.encoding();
    let (frames, receiver) = mpsc::channel(CHUNKS_AHEAD);
    let progress = Arc::new(AtomicU64::new(0));
    let job = ReadJob {
        vote,
        meta: snapshot.meta,
        dir: snapshot.snapshot,
        encoding,
        pace,
        frames,
        progress: Arc::clone(&progress),
    };
    let reader = tasks::spawn_waiting(&Handle::current(), job.run());
    let body: PeerBody = StreamBody::new(ReceiverStream::new(receiver)).boxed_unsync();
    let content_type = match encoding {
        Encoding::Binary => BINARY_STREAM,
        Encoding::Json => JSON_STREAM,
    };
    let exchange = async {
        let opening = transport.open(Purpose::Snapshot, target, addr, "/snapshot", content_type, body);
        let response = opening.await.map_err(|error| to_rpc_error(&error))?;
        let answer = Limited::new(response.into_body(), MAX_ANSWER_BYTES)
            .collect()
            .await
            .map_err(|error| RPCError::Network(NetworkError::from_string(error)))?;
        SnapshotResponse::decode(encoding, answer.to_bytes())
            .map_err(|error| RPCError::Network(NetworkError::new(&error)))
    };
    tokio::select! {
        // A file that can't be read explains a broken exchange better.
        biased;
        closed = cancel => Err(StreamingError::Closed(closed)),
        error = give_up(reader, &progress, STALL, INSTALL) => {
            tracing::error!(%error, target, "a snapshot could not be sent");
            Err(StreamingError::Unreachable(Unreachable::new(&error)))
        }
        answer = exchange => Ok(answer?),
    }
}

/// Ends when there is no point in waiting for the exchange to end: the files can't
/// be read, the peer took none of them for `stall`, or it has had all of them for
/// `install`.
async fn give_up(
    mut reader: JoinHandle<io::Result<()>>,
    progress: &AtomicU64,
    stall: Duration,
    install: Duration,
) -> io::Error {
    let timed_out = |what: &str| io::Error::new(io::ErrorKind::TimedOut, what);
    loop {
        let before = progress.load(Ordering::Relaxed);
        match tokio::time::timeout(stall, &mut reader).await {
            Ok(Ok(Ok(()))) => {
                tokio::time::sleep(install).await;
                return timed_out("the peer does not say whether it has installed the snapshot");
            }
            Ok(Ok(Err(error))) => return error,
            Ok(Err(panicked)) => return io::Error::other(panicked),
            Err(_) if progress.load(Ordering::Relaxed) == before => {
                return timed_out("the peer takes no more of the snapshot");
            }
            Err(_) => {}
        }
    }
}

/// Reads the files, on a thread that may block.
struct ReadJob {
    vote: Vote,
    meta: SnapshotMeta,
    dir: SnapshotDir,
    encoding: Encoding,
    pace: Pace,
    frames: mpsc::Sender<Result<Frame<Bytes>, io::Error>>,
    /// Goes up as long as the exchange goes on.
    progress: Arc<AtomicU64>,
}

impl ReadJob {
    /// A failure ends the stream without its end frame, so that the peer can't take
    /// a part for the whole.
    async fn run(self) -> io::Result<()> {
        let files: Vec<_> =
            self.dir.files()?.into_iter().map(|(name, size)| SnapshotFile { name, size }).collect();
        let begin = SnapshotFrame::Begin { vote: self.vote, meta: self.meta.clone(), files: files.clone() };
        let mut total = Checksum::of(&begin);
        if !self.send(&begin).await {
            return Ok(());
        }
        let started = Instant::now();
        let mut sent = 0_u64;
        for file in files {
            let mut source = File::open(self.dir.path().join(&file.name))?;
            let mut left = file.size;
            while left > 0 {
                let mut data = vec![0; CHUNK_BYTES.min(usize::try_from(left).unwrap_or(CHUNK_BYTES))];
                source.read_exact(&mut data)?;
                left -= data.len() as u64;
                sent += data.len() as u64;
                let checksum = XxHash3_64::oneshot(&data);
                total.add(checksum);
                if !self.send(&SnapshotFrame::Chunk { checksum, data: data.into() }).await {
                    return Ok(());
                }
                self.keep_pace(sent, started).await;
            }
        }
        self.send(&SnapshotFrame::End { checksum: total.value() }).await;
        Ok(())
    }

    async fn keep_pace(&self, sent: u64, started: Instant) {
        loop {
            let pause = self.pace.pause(sent, started);
            if pause.is_zero() || self.frames.is_closed() {
                return;
            }
            tasks::rest(pause.min(NAP)).await;
            self.progress.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Whether the exchange still wants frames.
    async fn send(&self, frame: &SnapshotFrame) -> bool {
        let is_wanted = self.frames.send(Ok(Frame::data(encode_frame(frame, self.encoding)))).await.is_ok();
        self.progress.fetch_add(1, Ordering::Relaxed);
        is_wanted
    }
}

/// xxh3-64 over the begin frame and the chunks' checksums in order: whatever is
/// missing, doubled, swapped or damaged on the way changes it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Checksum(u64);

impl Checksum {
    /// The sum after the begin frame; its binary form counts in either encoding.
    pub(super) fn of(begin: &SnapshotFrame) -> Self {
        Self(XxHash3_64::oneshot(&begin.encode(Encoding::Binary)))
    }

    pub(super) fn add(&mut self, chunk: u64) {
        self.0 = XxHash3_64::oneshot_with_seed(self.0, &chunk.to_le_bytes());
    }

    pub(super) fn value(self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests;

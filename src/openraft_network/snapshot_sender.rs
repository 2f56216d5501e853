//! Sends a snapshot to a peer: its files as a stream of checksummed chunks.
//!
//! Never more than a few chunks are in memory, whatever the snapshot's size, and
//! the pace is bounded so that the transfer leaves disk and network to others.

use std::fs::File;
use std::future::Future;
use std::io::{self, Read as _};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Limited, StreamBody};
use hyper::body::Frame;
use openraft::alias::SnapshotOf;
use openraft::errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::raft::SnapshotResponse;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use twox_hash::XxHash3_64;

use super::append_stream::to_rpc_error;
use super::transport::{PeerBody, Purpose, Transport};
use super::wire::{
    BINARY_STREAM, Encoding, JSON_STREAM, Message as _, SnapshotFile, SnapshotFrame, encode_frame,
};
use crate::store::snapshot::SnapshotDir;
use crate::{NodeId, SnapshotMeta, TypeConfig, Vote};

/// Bytes of a file in one chunk.
const CHUNK_BYTES: usize = 256 << 10;
/// Chunks that may wait between the disk and the network.
const CHUNKS_AHEAD: usize = 4;
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
    let job = ReadJob { vote, meta: snapshot.meta, dir: snapshot.snapshot, encoding, pace, frames };
    let reader = tokio::task::spawn_blocking(move || job.run());
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
    let answer: Result<SnapshotResponse<TypeConfig>, RPCError<TypeConfig>> = tokio::select! {
        answer = exchange => answer,
        closed = cancel => return Err(StreamingError::Closed(closed)),
    };
    match answer {
        Ok(answer) => Ok(answer),
        Err(error) => {
            // A file that can't be read explains a broken exchange better.
            if let Ok(Err(read_error)) = reader.await {
                tracing::error!(%read_error, target, "a snapshot's files can't be read");
                return Err(StreamingError::Unreachable(Unreachable::new(&read_error)));
            }
            Err(error.into())
        }
    }
}

/// Reads the files on a thread that may block.
struct ReadJob {
    vote: Vote,
    meta: SnapshotMeta,
    dir: SnapshotDir,
    encoding: Encoding,
    pace: Pace,
    frames: mpsc::Sender<Result<Frame<Bytes>, io::Error>>,
}

impl ReadJob {
    fn run(self) -> io::Result<()> {
        let result = self.read_all();
        if let Err(error) = &result {
            // Breaks the request off, so that the peer can't take a part for the whole.
            let broken = io::Error::new(error.kind(), error.to_string());
            let _ = self.frames.blocking_send(Err(broken));
        }
        result
    }

    fn read_all(&self) -> io::Result<()> {
        let files: Vec<_> =
            self.dir.files()?.into_iter().map(|(name, size)| SnapshotFile { name, size }).collect();
        let begin = SnapshotFrame::Begin { vote: self.vote, meta: self.meta.clone(), files: files.clone() };
        if !self.send(&begin) {
            return Ok(());
        }
        let started = Instant::now();
        let mut sent = 0_u64;
        let mut total = Checksum::default();
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
                if !self.send(&SnapshotFrame::Chunk { checksum, data: data.into() }) {
                    return Ok(());
                }
                std::thread::sleep(self.pace.pause(sent, started));
            }
        }
        self.send(&SnapshotFrame::End { checksum: total.value() });
        Ok(())
    }

    /// Whether the exchange still wants frames.
    fn send(&self, frame: &SnapshotFrame) -> bool {
        self.frames.blocking_send(Ok(Frame::data(encode_frame(frame, self.encoding)))).is_ok()
    }
}

/// xxh3-64 over the chunks' checksums in order: a missing, doubled or swapped
/// chunk changes it.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Checksum(u64);

impl Checksum {
    pub(super) fn add(&mut self, chunk: u64) {
        self.0 = XxHash3_64::oneshot_with_seed(self.0, &chunk.to_le_bytes());
    }

    pub(super) fn value(self) -> u64 {
        self.0
    }
}

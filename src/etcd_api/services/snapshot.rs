//! A snapshot file as a stream of pieces, the checksum last and alone, as etcd sends it.
//!
//! A task of its own makes it, and reads it as the client takes it. When the client goes away
//! or takes nothing for [`PATIENCE`], so does the file.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{Stream, stream};
use kvorum_etcd_proto::etcdserverpb as pb;
use tokio::sync::mpsc;
use tonic::Status;
use tonic::codegen::BoxStream;

use super::status;
use crate::service::{EtcdExport, EtcdSnapshot};

/// Bytes of a piece.
const PIECE_BYTES: u64 = 64 << 10;
/// Bytes of the checksum at the end of the file.
const CHECKSUM_BYTES: u64 = 32;
/// The version of etcd in whose form the file is, and from which on etcd restores it.
const STORAGE_VERSION: &str = "3.5.0";

/// How long the client may take for a piece.
const PATIENCE: Duration = Duration::from_secs(30);
/// Pieces that may wait for the client.
const PIECES_AHEAD: usize = 1;

/// A piece, or the end of the snapshot.
type Next = Result<Option<pb::SnapshotResponse>, Status>;

/// Makes the snapshot and streams it.
pub(super) fn stream(export: EtcdExport) -> BoxStream<pb::SnapshotResponse> {
    let (next, receiver) = mpsc::channel(PIECES_AHEAD);
    tokio::spawn(async move {
        let made = tokio::select! {
            made = export.make() => made,
            () = next.closed() => return,
        };
        let made = match made {
            Ok(made) => made,
            // Nobody receives it if the client is gone.
            Err(error) => return drop(next.send(Err(status::of(&error))).await),
        };
        // What is left of it is its place, which is given back at the end of this task.
        let EtcdSnapshot { file, size, .. } = made;
        hand_over(file, size, next, PATIENCE).await;
    });
    Box::pin(pieces(receiver))
}

/// Hands over all pieces and the end, unless the client is gone or lets one wait for `patience`.
async fn hand_over(file: File, size: u64, next: mpsc::Sender<Next>, patience: Duration) {
    let file = Arc::new(file);
    let mut at = 0;
    loop {
        let (end, left) = piece_end(at, size);
        let piece = if end == at { Ok(None) } else { piece(&file, at, end, left).await.map(Some) };
        let is_last = !matches!(piece, Ok(Some(_)));
        if next.send_timeout(piece, patience).await.is_err() || is_last {
            return;
        }
        at = end;
    }
}

/// The pieces as they are handed over. Without the end, the client has let one wait too long.
fn pieces(receiver: mpsc::Receiver<Next>) -> impl Stream<Item = Result<pb::SnapshotResponse, Status>> {
    stream::try_unfold(receiver, async |mut receiver| match receiver.recv().await {
        Some(Ok(piece)) => Ok(piece.map(|piece| (piece, receiver))),
        Some(Err(status)) => Err(status),
        None => Err(Status::deadline_exceeded("etcdserver: the snapshot was not read in time")),
    })
}

async fn piece(file: &Arc<File>, at: u64, end: u64, left: u64) -> Result<pb::SnapshotResponse, Status> {
    let file = Arc::clone(file);
    let blob = tokio::task::spawn_blocking(move || read(&file, at, end)).await;
    let blob = blob.map_err(std::io::Error::other).and_then(|read| read);
    let blob =
        blob.map_err(|error| Status::internal(format!("etcdserver: the snapshot can't be read: {error}")))?;
    Ok(pb::SnapshotResponse {
        header: None,
        remaining_bytes: left,
        blob: blob.into(),
        version: STORAGE_VERSION.to_owned(),
    })
}

/// Where the piece from `at` on ends in a file of `size` bytes, and what then remains of the
/// database before the checksum.
fn piece_end(at: u64, size: u64) -> (u64, u64) {
    let database = size.saturating_sub(CHECKSUM_BYTES);
    if at >= database {
        return (size, 0);
    }
    let end = at.saturating_add(PIECE_BYTES).min(database);
    (end, database - end)
}

fn read(file: &File, at: u64, end: u64) -> std::io::Result<Vec<u8>> {
    let mut blob = vec![0; usize::try_from(end - at).map_err(std::io::Error::other)?];
    file.read_exact_at(&mut blob, at)?;
    Ok(blob)
}

#[cfg(test)]
mod tests {
    use futures_util::StreamExt as _;
    use tonic::Code;

    use super::*;

    fn file_of(pieces: u64) -> (File, u64) {
        let file = tempfile::tempfile().unwrap();
        let size = pieces * PIECE_BYTES + CHECKSUM_BYTES;
        file.set_len(size).unwrap();
        (file, size)
    }

    #[tokio::test]
    async fn a_snapshot_that_is_read_comes_to_its_end() {
        let (file, size) = file_of(3);
        let (next, receiver) = mpsc::channel(PIECES_AHEAD);
        let taking = pieces(receiver).map(|piece| piece.unwrap().blob.len() as u64).collect::<Vec<_>>();
        let ((), taken) = tokio::join!(hand_over(file, size, next, PATIENCE), taking);
        assert_eq!(taken, [PIECE_BYTES, PIECE_BYTES, PIECE_BYTES, CHECKSUM_BYTES]);
    }

    #[tokio::test]
    async fn a_client_that_takes_nothing_loses_its_snapshot() {
        let (file, size) = file_of(3);
        let (next, receiver) = mpsc::channel(PIECES_AHEAD);
        hand_over(file, size, next, Duration::from_millis(20)).await;
        let taken: Vec<_> = pieces(receiver).collect().await;
        assert_eq!(taken.len(), PIECES_AHEAD + 1);
        assert_eq!(taken.last().unwrap().as_ref().unwrap_err().code(), Code::DeadlineExceeded);
    }

    #[test]
    fn the_checksum_comes_last_and_alone() {
        let size = 2 * PIECE_BYTES + 100 + CHECKSUM_BYTES;
        let mut pieces = Vec::new();
        let mut at = 0;
        loop {
            let (end, left) = piece_end(at, size);
            if end == at {
                break;
            }
            pieces.push((end - at, left));
            at = end;
        }
        let expected = [(PIECE_BYTES, PIECE_BYTES + 100), (PIECE_BYTES, 100), (100, 0), (CHECKSUM_BYTES, 0)];
        assert_eq!(pieces, expected);
    }
}

//! A snapshot file as a stream of pieces, the checksum last and alone, as etcd sends it.
//!
//! It is made once the client waits for the first piece, and read as the client takes it. When
//! the client goes away, so does the file.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use futures_util::stream;
use kvorum_etcd_proto::etcdserverpb as pb;
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

enum Progress {
    Making(EtcdExport),
    Reading { snapshot: Arc<EtcdSnapshot>, at: u64 },
}

/// Makes the snapshot and streams it.
pub(super) fn stream(export: EtcdExport) -> BoxStream<pb::SnapshotResponse> {
    let pieces = stream::try_unfold(Progress::Making(export), async |progress| {
        let (snapshot, at) = match progress {
            Progress::Making(export) => {
                let made = export.make().await.map_err(|error| status::of(&error))?;
                (Arc::new(made), 0)
            }
            Progress::Reading { snapshot, at } => (snapshot, at),
        };
        let (end, left) = piece_end(at, snapshot.size);
        if end == at {
            return Ok(None);
        }
        let reading = Arc::clone(&snapshot);
        let blob = tokio::task::spawn_blocking(move || read(&reading.file, at, end)).await;
        let blob = blob.map_err(std::io::Error::other).and_then(|read| read);
        let blob = blob
            .map_err(|error| Status::internal(format!("etcdserver: the snapshot can't be read: {error}")))?;
        let piece = pb::SnapshotResponse {
            header: None,
            remaining_bytes: left,
            blob: blob.into(),
            version: STORAGE_VERSION.to_owned(),
        };
        Ok(Some((piece, Progress::Reading { snapshot, at: end })))
    });
    Box::pin(pieces)
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
    use super::*;

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

//! Openraft's own storage suite over the log store and the state machine.
//!
//! Half of its cases apply entries that they never appended: in Raft's terms,
//! the state comes from a snapshot. In production the state machine waits for
//! the log's durable end, which such a case would never reach. Here it watches a
//! log that is always durable instead, through the same constructor; that it
//! waits is a matter of `replicas`.

use openraft::StorageError;
use openraft::testing::log::{StoreBuilder, Suite};

use super::*;
use crate::TypeConfig;
use crate::store::{LogOptions, RocksLogStore};

struct Builder;

/// What a case needs until it ends.
struct Folder {
    _durable: watch::Sender<Option<LogId>>,
    _data: DataDir,
    _dir: TempDir,
}

impl StoreBuilder<TypeConfig, RocksLogStore, StateMachineStore, Folder> for Builder {
    async fn build(&self) -> Result<(Folder, RocksLogStore, StateMachineStore), StorageError<TypeConfig>> {
        let Node { store, durable, data, dir } = Node::new();
        let log =
            RocksLogStore::open(&data.log(), LogOptions::default(), std::sync::Arc::new(|_| {})).unwrap();
        Ok((Folder { _durable: durable, _data: data, _dir: dir }, log, store))
    }
}

#[tokio::test]
async fn openraft_s_storage_suite_passes() {
    Suite::test_all(Builder).await.unwrap();
}

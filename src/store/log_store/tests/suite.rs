//! Openraft's own suite, with a state machine that only knows how far it is.

use openraft::StorageError as RaftError;
use openraft::alias::{SnapshotMetaOf, SnapshotOf};
use openraft::storage::{EntryResponder, RaftSnapshotBuilder, RaftStateMachine};
use openraft::testing::log::{StoreBuilder, Suite};
use tempfile::TempDir;

use super::super::super::log_codec::StoredMembership;
use super::*;
use crate::command::{Outcome, OutcomeResult};

#[derive(Default)]
struct MemoryMachine {
    applied: Option<LogId>,
    membership: StoredMembership,
    snapshot: Arc<Mutex<Option<SnapshotMetaOf<TypeConfig>>>>,
}

struct MemoryBuilder {
    meta: SnapshotMetaOf<TypeConfig>,
    snapshot: Arc<Mutex<Option<SnapshotMetaOf<TypeConfig>>>>,
}

impl RaftSnapshotBuilder<TypeConfig> for MemoryBuilder {
    type SnapshotData = ();

    async fn build_snapshot(&mut self) -> Result<SnapshotOf<TypeConfig, ()>, io::Error> {
        *self.snapshot.lock() = Some(self.meta.clone());
        Ok(SnapshotOf::<TypeConfig, ()> { meta: self.meta.clone(), snapshot: () })
    }
}

impl RaftStateMachine<TypeConfig> for MemoryMachine {
    type SnapshotData = ();
    type SnapshotBuilder = MemoryBuilder;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), io::Error> {
        Ok((self.applied, self.membership.clone()))
    }

    async fn apply<S>(&mut self, mut entries: S) -> Result<(), io::Error>
    where
        S: Stream<Item = Result<EntryResponder<TypeConfig>, io::Error>> + Unpin + OptionalSend,
    {
        while let Some((entry, responder)) = entries.try_next().await? {
            self.applied = Some(entry.log_id);
            if let Payload::Membership(membership) = entry.payload {
                self.membership = StoredMembership::new(self.applied, membership);
            }
            if let Some(responder) = responder {
                responder.send(Outcome { revision: 0, result: OutcomeResult::Nothing });
            }
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> MemoryBuilder {
        let meta = SnapshotMetaOf::<TypeConfig> {
            last_log_id: self.applied,
            last_membership: self.membership.clone(),
        };
        MemoryBuilder { meta, snapshot: Arc::clone(&self.snapshot) }
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMetaOf<TypeConfig>, (): ()) -> Result<(), io::Error> {
        self.applied = meta.last_log_id;
        self.membership = meta.last_membership.clone();
        *self.snapshot.lock() = Some(meta.clone());
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<SnapshotOf<TypeConfig, ()>>, io::Error> {
        Ok(self.snapshot.lock().clone().map(|meta| SnapshotOf::<TypeConfig, ()> { meta, snapshot: () }))
    }
}

struct Builder;

impl StoreBuilder<TypeConfig, RocksLogStore, MemoryMachine, TempDir> for Builder {
    async fn build(&self) -> Result<(TempDir, RocksLogStore, MemoryMachine), RaftError<TypeConfig>> {
        let dir = tempfile::tempdir().unwrap();
        // A cache of nothing: what is written is read from disk.
        let options = LogOptions { cache_bytes: 0, ..LogOptions::default() };
        let store = RocksLogStore::open(dir.path(), options, panicking()).unwrap();
        Ok((dir, store, MemoryMachine::default()))
    }
}

#[tokio::test]
async fn openraft_s_log_suite_passes() {
    Suite::test_all(Builder).await.unwrap();
}

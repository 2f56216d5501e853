//! Reads: confirm first if the caller wants the latest, then read the local state.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::time::Instant;

use super::handle::{RequestCounters, Service};
use crate::error::Error;
use crate::mutants::Mutant;
use crate::mvcc::{Lookup, Page, RangeQuery, ReadError, Store};
use crate::openraft_network::forward::ForwardError;

/// How up to date a read must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Consistency {
    /// Sees every write that was acknowledged before the read began, whichever
    /// node serves it.
    Linearizable,
    /// What a leader's lease permits. Openraft does not restore the promise
    /// behind a lease when a node restarts, so this is served as
    /// [`Self::Linearizable`]: never weaker than asked for.
    Lease,
    /// What this node has applied, which may be behind.
    Local,
}

impl Service {
    /// Reads one key, now or at the revision `at`.
    ///
    /// # Errors
    /// When the revision can't be read, or no leader confirms in time.
    pub async fn get(&self, key: &[u8], at: Option<i64>, consistency: Consistency) -> Result<Lookup, Error> {
        let deadline = Instant::now() + self.inner.options.request_timeout;
        self.wait_to_read(consistency, deadline).await?;
        self.inner.store.store().get(key, at).map_err(|error| error.into_answer(self.node_id()))
    }

    /// The revision of the data, which then has every write that was acknowledged
    /// before the call if `consistency` demands that.
    ///
    /// # Errors
    /// When no leader confirms in time.
    pub async fn revision_as_of(&self, consistency: Consistency) -> Result<i64, Error> {
        let deadline = Instant::now() + self.inner.options.request_timeout;
        self.wait_for(consistency, deadline).await?;
        Ok(self.inner.store.store().revision())
    }

    /// Reads one page of a range.
    ///
    /// # Errors
    /// When the revision can't be read, or no leader confirms in time.
    pub async fn range(&self, query: RangeQuery, consistency: Consistency) -> Result<Page, Error> {
        let deadline = Instant::now() + self.inner.options.request_timeout;
        self.wait_to_read(consistency, deadline).await?;
        self.scan(deadline, move |store| store.range(&query)).await
    }

    /// Runs a read that may take thousands of keys from disk: not on a thread that
    /// serves others, and few at a time, which bounds what they hold in memory.
    pub(super) async fn scan<T: Send + 'static>(
        &self,
        deadline: Instant,
        read: impl FnOnce(&Store) -> Result<T, ReadError> + Send + 'static,
    ) -> Result<T, Error> {
        let turn = Arc::clone(&self.inner.scans).acquire_owned();
        let Ok(turn) = tokio::time::timeout_at(deadline, turn).await else {
            return Err(Error::ReadTimeout(self.inner.options.request_timeout));
        };
        let store = self.inner.store.clone();
        let scanned = self.inner.runtime.spawn_blocking(move || {
            // Until the scan ends, also when nobody waits for it any more.
            let _turn = turn;
            read(&store.store())
        });
        match scanned.await {
            Ok(found) => found.map_err(|error| error.into_answer(self.node_id())),
            Err(error) => Err(Error::Internal { node: self.node_id(), reason: error.to_string() }),
        }
    }

    /// Waits until the local state is as recent as `consistency` demands.
    pub(super) async fn wait_for(&self, consistency: Consistency, deadline: Instant) -> Result<(), Error> {
        match consistency {
            Consistency::Linearizable | Consistency::Lease if Mutant::ReadWithoutIndex.is_awake() => Ok(()),
            Consistency::Local => {
                RequestCounters::add(&self.inner.counters.reads_local);
                Ok(())
            }
            Consistency::Linearizable | Consistency::Lease => {
                RequestCounters::add(&self.inner.counters.reads_linearizable);
                // Confirming has no effect, so an attempt whose fate is unknown
                // may be repeated, unlike a write's.
                let confirm = || async {
                    self.inner.read_index.get().await.map_err(|error| match error {
                        ForwardError::Unknown(reason) => ForwardError::Unavailable(reason),
                        other @ (ForwardError::NotLeader { .. } | ForwardError::Unavailable(_)) => other,
                    })
                };
                let confirmed = tokio::time::timeout_at(deadline, self.on_leader(deadline, confirm)).await;
                let index = confirmed
                    .unwrap_or_else(|_| Err(Error::ReadTimeout(self.inner.options.request_timeout)))?;
                self.wait_applied(index, deadline).await
            }
        }
    }

    /// Waits until this node has applied the log entry at `index`.
    pub(super) async fn wait_applied(&self, index: u64, deadline: Instant) -> Result<(), Error> {
        let applied = self.inner.store.applied_index();
        if applied.load(Ordering::Acquire) >= index {
            return Ok(());
        }
        let mut progress = self.inner.store.watch_applied();
        let reached = progress.wait_for(|applied| *applied >= index);
        match tokio::time::timeout_at(deadline, reached).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) => Err(self.state_machine_stopped()),
            Err(_) => Err(Error::ReadTimeout(self.inner.options.request_timeout)),
        }
    }

    pub(super) fn state_machine_stopped(&self) -> Error {
        Error::Internal { node: self.node_id(), reason: "the state machine stopped".to_owned() }
    }
}

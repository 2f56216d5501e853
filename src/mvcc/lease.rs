//! Leases as they are stored, and the keys attached to them.

use bytes::Bytes;

use super::{Lease, Store};
use crate::error::StorageError;

impl Store {
    /// The lease of this id, also while it is ending.
    pub fn lease(&self, _id: i64) -> Result<Option<Lease>, StorageError> {
        Ok(None)
    }

    /// Leases with ids greater than `after`, in the order of their ids: at most
    /// `limit` of them.
    pub fn leases(&self, _after: i64, _limit: usize) -> Result<Vec<Lease>, StorageError> {
        Ok(Vec::new())
    }

    /// Keys that are attached to the lease `id`, in order, from the one after
    /// `after` on: at most `limit` of them.
    pub fn lease_keys(
        &self,
        _id: i64,
        _after: Option<&[u8]>,
        _limit: usize,
    ) -> Result<Vec<Bytes>, StorageError> {
        Ok(Vec::new())
    }

    /// Where the lease clock stands, in milliseconds.
    pub fn lease_clock(&self) -> Result<u64, StorageError> {
        Ok(0)
    }
}

//! Everything that the store holds, as it was at one moment: for copies of it.
//!
//! A moment is read part by part, each in one pass and without holding more than one
//! entry: what was there at the compacted revision, the changes since, the leases.
//! Together they are the store; writes and compactions meanwhile are not seen.

use std::ops::ControlFlow;

use bytes::Bytes;

use super::schema::{self, CHANGES, HISTORY, LEASE_CLOCK_CELL, LEASES, META};
use super::view::{Bounds, View, corrupt_change, corrupt_record};
use super::{Change, ChangeKind, KeyValue, Lease, Record, Store};
use crate::engine::{Cursor, Scan};
use crate::error::StorageError;

/// Copies fill no cache: nobody reads all of it again.
const ALL: Scan = Scan { start: None, end: None, bypass_cache: true };

/// A change with what it left its key with; `None` after a deletion.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeptChange {
    /// The revision of the command.
    pub main: i64,
    /// The position among the command's changes, from zero.
    pub sub: u32,
    /// The key.
    pub key: Bytes,
    /// What it holds since.
    pub record: Option<Record>,
}

/// The store at one moment. While it lives, what is overwritten and compacted keeps
/// its space on disk.
pub struct Moment<'a> {
    view: View<'a>,
}

impl Store {
    /// The store as it is now, to be copied.
    ///
    /// # Errors
    /// When the storage fails.
    pub fn moment(&self) -> Result<Moment<'_>, StorageError> {
        Ok(Moment { view: View::new(&self.shared)? })
    }
}

impl Moment<'_> {
    /// The revision of that moment.
    pub fn revision(&self) -> i64 {
        self.view.head.revision
    }

    /// The revision below which nothing can be read; zero if nothing was compacted.
    pub fn compacted(&self) -> i64 {
        self.view.head.compacted
    }

    /// Visits what was there at the compacted revision, in the order of keys.
    ///
    /// # Errors
    /// Those of `visit`, and when the storage fails.
    pub fn base<E: From<StorageError>>(
        &self,
        mut visit: impl FnMut(KeyValue) -> Result<(), E>,
    ) -> Result<(), E> {
        if self.compacted() == 0 {
            return Ok(());
        }
        let everything = Bounds { start: Bytes::new(), end: None, bypass_cache: true };
        let mut failed = None;
        self.view.walk(&everything, self.compacted(), |key, stored| {
            let record = Record::decode(stored).map_err(corrupt_record)?;
            Ok(match visit(KeyValue { key: Bytes::copy_from_slice(key), record }) {
                Ok(()) => ControlFlow::Continue(()),
                Err(error) => {
                    failed = Some(error);
                    ControlFlow::Break(())
                }
            })
        })?;
        failed.map_or(Ok(()), Err)
    }

    /// Visits the changes after the compacted revision, in their order.
    ///
    /// # Errors
    /// Those of `visit`, and when the storage fails or lacks a change.
    pub fn changes<E: From<StorageError>>(
        &self,
        mut visit: impl FnMut(KeptChange) -> Result<(), E>,
    ) -> Result<(), E> {
        let shared = self.view.shared;
        let mut changes = self.view.db.cursor(shared.family(CHANGES), ALL);
        let mut history = self.view.db.cursor(shared.family(HISTORY), ALL);
        let mut reached = self.view.head.oldest();
        changes.seek(&schema::change_key(reached + 1, 0))?;
        while let Some((key, value)) = changes.entry() {
            let Change { main, sub, kind, key, .. } = Change::decode(key, value).map_err(corrupt_change)?;
            if main != reached && main != reached + 1 {
                break;
            }
            reached = main;
            let record = match kind {
                ChangeKind::Put => Some(self.written(&mut history, &key, main)?),
                ChangeKind::Delete => None,
            };
            visit(KeptChange { main, sub, key, record })?;
            changes.step()?;
        }
        if reached == self.revision() {
            return Ok(());
        }
        // A copy without it would look like one of another history.
        Err(lost(format!("no change is stored for revision {}", reached + 1)).into())
    }

    /// What the change at `revision` left `key` with.
    fn written(&self, history: &mut Cursor<'_>, key: &Bytes, revision: i64) -> Result<Record, StorageError> {
        if let Some(record) = self.view.get(key)?
            && record.mod_revision == revision
        {
            return Ok(record);
        }
        let (mut wanted, mut end) = (Vec::new(), Vec::new());
        schema::history_key(&mut wanted, key, revision + 1);
        schema::escape_key_end(&mut end, key);
        history.seek(&wanted)?;
        let image = history.entry().filter(|(stored, _)| *stored < end.as_slice());
        let record = image.map(|(_, stored)| Record::decode(stored)).transpose().map_err(corrupt_record)?;
        record
            .filter(|record| record.mod_revision == revision)
            .ok_or_else(|| lost(format!("no record is stored for a change at revision {revision}")))
    }

    /// Visits the leases in the order of their ids, each with the milliseconds that
    /// the lease clock has to go until it may be ended.
    ///
    /// # Errors
    /// Those of `visit`, and when the storage fails.
    pub fn leases<E: From<StorageError>>(
        &self,
        mut visit: impl FnMut(Lease, u64) -> Result<(), E>,
    ) -> Result<(), E> {
        let shared = self.view.shared;
        let clock = self.view.db.get(shared.family(META), LEASE_CLOCK_CELL)?;
        let clock = clock
            .map_or(Ok(0), |value| schema::decode_lease_clock(&value))
            .map_err(|source| StorageError::Corrupt { what: "the lease clock", source })?;
        let mut cursor = self.view.db.cursor(shared.family(LEASES), ALL);
        cursor.first()?;
        while let Some((key, value)) = cursor.entry() {
            let lease = Lease::decode(key, value)
                .map_err(|source| StorageError::Corrupt { what: "a lease", source })?;
            visit(lease, lease.expires_at.saturating_sub(clock))?;
            cursor.step()?;
        }
        Ok(())
    }
}

fn lost(reason: String) -> StorageError {
    StorageError::Database { action: "copying the store", reason }
}

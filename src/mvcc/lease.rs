//! Leases as they are stored, and the keys attached to them.
//!
//! Which key belongs to which lease follows from the keys' records; the index kept
//! here only finds them without a scan of everything. When a lease ends is for
//! others to say: nothing here looks at the lease clock.

use std::collections::BTreeMap;
use std::ops::Bound;

use bytes::Bytes;

use super::schema::{self, ATTACHMENT_PREFIX_BYTES, LEASE_CLOCK_CELL, LEASE_KEYS, LEASES, META};
use super::store::Shared;
use super::{Lease, LeaseChange, Store, WriteSession};
use crate::codec::DecodeError;
use crate::engine::Scan;
use crate::error::StorageError;

impl Store {
    /// The lease of this id, also while it is ending.
    pub fn lease(&self, id: i64) -> Result<Option<Lease>, StorageError> {
        stored_lease(&self.shared, id)
    }

    /// Leases with ids greater than `after`, in the order of their ids: at most
    /// `limit` of them.
    pub fn leases(&self, after: i64, limit: usize) -> Result<Vec<Lease>, StorageError> {
        let shared = &*self.shared;
        let mut cursor = shared.db.cursor(shared.family(LEASES), Scan::default());
        cursor.seek(&schema::lease_key(after))?;
        let mut leases = Vec::new();
        while let Some((key, value)) = cursor.entry()
            && leases.len() < limit
        {
            let lease = Lease::decode(key, value).map_err(corrupt_lease)?;
            if lease.id > after || (after == i64::MIN && lease.id == after) {
                leases.push(lease);
            }
            cursor.step()?;
        }
        Ok(leases)
    }

    /// Keys that are attached to the lease `id`, in order, from the one after
    /// `after` on: at most `limit` of them.
    pub fn lease_keys(
        &self,
        id: i64,
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<Vec<Bytes>, StorageError> {
        let mut keys = Vec::new();
        walk_attachments(&self.shared, id, after, |key| {
            if keys.len() < limit {
                keys.push(Bytes::copy_from_slice(key));
            }
            keys.len() < limit
        })?;
        Ok(keys)
    }

    /// Where the lease clock stands, in milliseconds.
    pub fn lease_clock(&self) -> Result<u64, StorageError> {
        stored_clock(&self.shared)
    }
}

impl WriteSession<'_> {
    /// The lease of this id as it is now, also while it is ending.
    pub fn lease(&self, id: i64) -> Result<Option<Lease>, StorageError> {
        match self.leases.get(&id) {
            Some(lease) => Ok(*lease),
            None => stored_lease(self.shared, id),
        }
    }

    /// Stores a lease under its id.
    pub fn set_lease(&mut self, lease: Lease) {
        self.batch.put(self.families.leases, &schema::lease_key(lease.id), &lease.encode());
        self.leases.insert(lease.id, Some(lease));
        self.committed.leases.push(LeaseChange::Set(lease));
    }

    /// Removes a lease. Keys that are still attached stay.
    pub fn remove_lease(&mut self, id: i64) {
        self.batch.delete(self.families.leases, &schema::lease_key(id));
        self.leases.insert(id, None);
        self.swept.insert(id, None);
        self.committed.leases.push(LeaseChange::Removed(id));
    }

    /// Says that the lease `id` takes no more keys and has none up to `key`: they are not looked
    /// for again. Whoever says so or does not finds the same keys, only faster.
    pub fn lease_keys_are_gone(&mut self, id: i64, key: Bytes) {
        self.swept.insert(id, Some(key));
    }

    /// Up to which key the lease has none.
    fn swept(&self, id: i64) -> Option<Bytes> {
        match self.swept.get(&id) {
            Some(swept) => swept.clone(),
            None => self.shared.swept.lock().get(&id).cloned(),
        }
    }

    /// Keys that are attached to the lease `id` now, in order: at most `limit`.
    pub fn lease_keys(&self, id: i64, limit: usize) -> Result<Vec<Bytes>, StorageError> {
        let swept = self.swept(id);
        let from = match &swept {
            Some(key) => Bound::Excluded((id, key.clone())),
            None => Bound::Included((id, Bytes::new())),
        };
        let changed: BTreeMap<&[u8], bool> = self
            .attachments
            .range((from, Bound::Unbounded))
            .take_while(|((lease, _), _)| *lease == id)
            .map(|((_, key), attached)| (key.as_ref(), *attached))
            .collect();
        let mut added = changed.iter().filter(|(_, attached)| **attached).map(|(key, _)| *key).peekable();
        let mut keys: Vec<Bytes> = Vec::new();
        walk_attachments(self.shared, id, swept.as_deref(), |stored| {
            while keys.len() < limit
                && let Some(key) = added.next_if(|key| *key < stored)
            {
                keys.push(Bytes::copy_from_slice(key));
            }
            // What the session changed is among the added ones, or gone.
            if keys.len() < limit && !changed.contains_key(stored) {
                keys.push(Bytes::copy_from_slice(stored));
            }
            keys.len() < limit
        })?;
        while keys.len() < limit
            && let Some(key) = added.next()
        {
            keys.push(Bytes::copy_from_slice(key));
        }
        Ok(keys)
    }

    /// Where the lease clock stands, in milliseconds.
    pub fn lease_clock(&self) -> Result<u64, StorageError> {
        self.lease_clock.map_or_else(|| stored_clock(self.shared), Ok)
    }

    /// Sets the lease clock.
    pub fn set_lease_clock(&mut self, clock: u64) {
        self.batch.put(self.families.meta, LEASE_CLOCK_CELL, &clock.to_le_bytes());
        self.lease_clock = Some(clock);
        self.committed.leases.push(LeaseChange::Clock(clock));
    }

    /// Keeps the index of attachments true when a key goes from one lease to
    /// another; zero is none.
    pub(super) fn move_attachment(&mut self, key: &Bytes, from: i64, to: i64) {
        if from == to {
            return;
        }
        let mut stored = Vec::with_capacity(ATTACHMENT_PREFIX_BYTES + key.len());
        if from != 0 {
            schema::attachment_key(&mut stored, from, key);
            self.batch.delete(self.families.lease_keys, &stored);
            self.attachments.insert((from, key.clone()), false);
        }
        if to != 0 {
            stored.clear();
            schema::attachment_key(&mut stored, to, key);
            self.batch.put(self.families.lease_keys, &stored, &[]);
            self.attachments.insert((to, key.clone()), true);
        }
    }
}

impl Shared {
    /// Takes over what a batch that was committed has said.
    pub(super) fn note_swept(&self, swept: BTreeMap<i64, Option<Bytes>>) {
        if swept.is_empty() {
            return;
        }
        let mut known = self.swept.lock();
        for (id, key) in swept {
            match key {
                Some(key) => known.insert(id, key),
                None => known.remove(&id),
            };
        }
    }
}

fn stored_lease(shared: &Shared, id: i64) -> Result<Option<Lease>, StorageError> {
    let key = schema::lease_key(id);
    let found = shared.db.get(shared.family(LEASES), &key)?;
    found.map(|value| Lease::decode(&key, &value)).transpose().map_err(corrupt_lease)
}

fn stored_clock(shared: &Shared) -> Result<u64, StorageError> {
    let found = shared.db.get(shared.family(META), LEASE_CLOCK_CELL)?;
    found
        .map_or(Ok(0), |value| schema::decode_lease_clock(&value))
        .map_err(|source| StorageError::Corrupt { what: "the lease clock", source })
}

/// Visits the stored keys of a lease in order until `visit` has enough.
fn walk_attachments(
    shared: &Shared,
    id: i64,
    after: Option<&[u8]>,
    mut visit: impl FnMut(&[u8]) -> bool,
) -> Result<(), StorageError> {
    let mut start = Vec::new();
    schema::attachment_key(&mut start, id, after.unwrap_or_default());
    if after.is_some() {
        start.push(0);
    }
    // The last id of all has no next one; its keys end with the family.
    let end = id.checked_add(1).map(|next| schema::lease_key(next).to_vec());
    let scan = Scan { start: Some(start), end, bypass_cache: false };
    let mut cursor = shared.db.cursor(shared.family(LEASE_KEYS), scan);
    cursor.first()?;
    while let Some(stored) = cursor.key() {
        let (_, key) = stored.split_at_checked(ATTACHMENT_PREFIX_BYTES).ok_or(StorageError::Corrupt {
            what: "an attachment to a lease",
            source: DecodeError::Truncated {
                field: "lease id",
                need: ATTACHMENT_PREFIX_BYTES,
                have: stored.len(),
            },
        })?;
        if !visit(key) {
            break;
        }
        cursor.step()?;
    }
    Ok(())
}

fn corrupt_lease(source: DecodeError) -> StorageError {
    StorageError::Corrupt { what: "a lease", source }
}

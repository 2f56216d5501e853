//! Walks over a column family in key order.

use rocksdb::{DBRawIterator, ReadOptions};

use super::database_error;
use crate::error::StorageError;

/// What a cursor may visit, and how it reads.
#[derive(Debug, Clone, Default)]
pub struct Scan {
    /// The first key; `None` is the start of the family.
    pub start: Option<Vec<u8>>,
    /// The key before which it ends; `None` is the end of the family.
    pub end: Option<Vec<u8>>,
    /// Keeps the blocks out of the cache: for long scans that would displace
    /// what point reads need.
    pub bypass_cache: bool,
}

impl Scan {
    pub(super) fn read_options(self) -> ReadOptions {
        let mut options = ReadOptions::default();
        if let Some(start) = self.start {
            options.set_iterate_lower_bound(start);
        }
        if let Some(end) = self.end {
            options.set_iterate_upper_bound(end);
        }
        options.fill_cache(!self.bypass_cache);
        options
    }
}

/// A position in a column family, pinned to the state at its creation.
///
/// It starts nowhere: seek first. A step that meets a read error answers it, so
/// that an error can't pass for the end of the data.
pub struct Cursor<'a> {
    inner: DBRawIterator<'a>,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(inner: DBRawIterator<'a>) -> Self {
        Self { inner }
    }

    /// Goes to the first entry.
    pub fn first(&mut self) -> Result<(), StorageError> {
        self.inner.seek_to_first();
        self.check()
    }

    /// Goes to the last entry.
    pub fn last(&mut self) -> Result<(), StorageError> {
        self.inner.seek_to_last();
        self.check()
    }

    /// Goes to the first entry at or after `key`.
    pub fn seek(&mut self, key: &[u8]) -> Result<(), StorageError> {
        self.inner.seek(key);
        self.check()
    }

    /// Goes to the last entry at or before `key`.
    pub fn seek_for_prev(&mut self, key: &[u8]) -> Result<(), StorageError> {
        self.inner.seek_for_prev(key);
        self.check()
    }

    /// Goes one entry on. Does nothing past the end.
    pub fn step(&mut self) -> Result<(), StorageError> {
        if self.inner.valid() {
            self.inner.next();
        }
        self.check()
    }

    /// The key here; `None` past either end.
    pub fn key(&self) -> Option<&[u8]> {
        self.inner.key()
    }

    /// The key and value here; `None` past either end.
    pub fn entry(&self) -> Option<(&[u8], &[u8])> {
        self.inner.item()
    }

    fn check(&self) -> Result<(), StorageError> {
        if self.inner.valid() {
            return Ok(());
        }
        self.inner.status().map_err(|error| database_error("reading a range", &error))
    }
}

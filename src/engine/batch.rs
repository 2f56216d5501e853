//! Changes that become visible together or not at all.

use super::Family;

/// Collects changes for [`super::Db::write`]; later ones win over earlier ones.
#[derive(Default)]
pub struct Batch {
    inner: rocksdb::WriteBatch,
}

impl Batch {
    /// An empty batch.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets `key` to `value`.
    pub fn put(&mut self, family: Family<'_>, key: &[u8], value: &[u8]) {
        self.inner.put_cf(&family.handle(), key, value);
    }

    /// Removes `key`, if it is there.
    pub fn delete(&mut self, family: Family<'_>, key: &[u8]) {
        self.inner.delete_cf(&family.handle(), key);
    }

    /// Removes every key from `start` up to, but not including, `end`.
    pub fn delete_range(&mut self, family: Family<'_>, start: &[u8], end: &[u8]) {
        self.inner.delete_range_cf(&family.handle(), start, end);
    }

    /// Whether there is nothing to write.
    pub fn is_empty(&self) -> bool {
        self.inner.is_empty()
    }

    /// Roughly the bytes the batch holds.
    pub fn size_in_bytes(&self) -> usize {
        self.inner.size_in_bytes()
    }

    pub(super) fn into_inner(self) -> rocksdb::WriteBatch {
        self.inner
    }
}

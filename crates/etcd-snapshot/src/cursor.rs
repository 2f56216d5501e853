//! Walks the tree of one bucket of a bbolt database that nobody vouches for.
//!
//! Of a page no more than its elements' fixed parts and one page size is held; longer
//! records are read one at a time. A walk ends on any input: the depth is bounded,
//! every page below the root must hold something, and keys must ascend, so a page
//! that is met again is an error.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use bytes::Bytes;

use crate::page::{
    BRANCH, BUCKET_BYTES, BUCKET_FLAG, ELEMENT_BYTES, HEADER_BYTES, Header, LEAF, u32_at, u64_at,
};
use crate::reader::ReadError;

/// Trees of 1 KiB pages with the longest keys in use are far below this.
const MAX_DEPTH: usize = 32;
/// No key and value together may be longer, so that a damaged length cannot take all
/// memory. Twice of what a writer may write: the limit is about memory, not format.
const MAX_RECORD_BYTES: u64 = 1 << 31;
/// The first page after the two meta pages.
const FIRST_PAGE: u64 = 2;

/// A database's pages.
#[derive(Debug)]
pub(crate) struct Database {
    pub(crate) file: File,
    pub(crate) page_size: u32,
    /// The first page id that is not used.
    pub(crate) high_water: u64,
}

/// Where a bucket's tree starts.
#[derive(Debug, Clone)]
pub(crate) enum Root {
    Page(u64),
    /// The only page, out of the parent's record.
    Inline(Bytes),
}

impl Root {
    /// Reads a bucket's record in its parent.
    pub(crate) fn decode(record: &Bytes) -> Option<Self> {
        let root = u64_at(record, 0)?;
        if record.len() < BUCKET_BYTES {
            return None;
        }
        Some(if root == 0 { Self::Inline(record.slice(BUCKET_BYTES..)) } else { Self::Page(root) })
    }
}

/// A key with its value, or with its bucket's record.
#[derive(Debug, Clone)]
pub(crate) struct Record {
    pub(crate) key: Bytes,
    pub(crate) value: Bytes,
    pub(crate) is_bucket: bool,
    /// The page that holds it, for messages.
    pub(crate) page: u64,
}

/// A page's elements.
#[derive(Debug)]
struct Page {
    id: u64,
    is_leaf: bool,
    count: u64,
    /// All of it, in bytes, including pages that it runs over.
    extent: u64,
    /// Its start: all elements' fixed parts at least.
    head: Bytes,
}

fn damaged(page: u64, reason: &'static str) -> ReadError {
    ReadError::Damaged { page, reason }
}

fn header_of(page: u64, head: &[u8]) -> Result<Header, ReadError> {
    Header::decode(head).ok_or_else(|| damaged(page, "it is too short"))
}

impl Page {
    fn load(database: &Database, id: u64) -> Result<Self, ReadError> {
        let size = u64::from(database.page_size);
        let Some(pages_left) =
            database.high_water.checked_sub(id).filter(|left| *left > 0 && id >= FIRST_PAGE)
        else {
            return Err(damaged(id, "it lies outside of the database"));
        };
        // `id` is below the high-water mark, and that many pages fit into the file.
        let head = database.read(id * size, size)?;
        let header = header_of(id, &head)?;
        if header.id != id {
            return Err(damaged(id, "it says that it is another page"));
        }
        let pages = u64::from(header.overflow) + 1;
        if pages > pages_left {
            return Err(damaged(id, "it runs over the end of the database"));
        }
        let mut page = Self::new(id, header, head, pages * size)?;
        let fixed = page.fixed_bytes();
        if fixed > size {
            page.head = database.read(id * size, fixed)?;
        }
        Ok(page)
    }

    fn inline(record: Bytes) -> Result<Self, ReadError> {
        let extent = record.len() as u64;
        Self::new(0, header_of(0, &record)?, record, extent)
    }

    fn new(id: u64, header: Header, head: Bytes, extent: u64) -> Result<Self, ReadError> {
        let is_leaf = match header.flags {
            LEAF => true,
            BRANCH => false,
            _ => return Err(damaged(id, "it is neither a leaf nor a branch")),
        };
        let page = Self { id, is_leaf, count: u64::from(header.count), extent, head };
        if page.fixed_bytes() > extent {
            return Err(damaged(id, "its elements run over its end"));
        }
        Ok(page)
    }

    fn fixed_bytes(&self) -> u64 {
        HEADER_BYTES as u64 + self.count * ELEMENT_BYTES as u64
    }

    /// The place of element `index` in the page, and its fixed part.
    fn element(&self, index: u64) -> Option<(u64, &[u8])> {
        if index >= self.count {
            return None;
        }
        let at = HEADER_BYTES + index as usize * ELEMENT_BYTES;
        Some((at as u64, self.head.get(at..at + ELEMENT_BYTES)?))
    }

    /// The page below a branch's element.
    fn child(&self, index: u64) -> Option<u64> {
        self.element(index).and_then(|(_, element)| u64_at(element, 8))
    }

    fn record(&self, database: &Database, index: u64) -> Result<Record, ReadError> {
        let parts = self.element(index).and_then(|(at, element)| {
            let [flags, position, key, value] = [0, 4, 8, 12].map(|field| u32_at(element, field));
            Some((at + u64::from(position?), u64::from(key?), u64::from(value?), flags?))
        });
        let Some((start, key_bytes, value_bytes, flags)) = parts else {
            return Err(damaged(self.id, "an element is cut off"));
        };
        let length = key_bytes + value_bytes;
        if start < self.fixed_bytes() || start + length > self.extent {
            return Err(damaged(self.id, "a record lies outside of it"));
        }
        if length > MAX_RECORD_BYTES {
            return Err(damaged(self.id, "a record is longer than any may be"));
        }
        let mut record = if start + length <= self.head.len() as u64 {
            self.head.slice(start as usize..(start + length) as usize)
        } else {
            database.read(self.id * u64::from(database.page_size) + start, length)?
        };
        let key = record.split_to(key_bytes as usize);
        Ok(Record { key, value: record, is_bucket: flags & BUCKET_FLAG != 0, page: self.id })
    }
}

impl Database {
    /// The caller has checked that the file is as long.
    fn read(&self, at: u64, length: u64) -> io::Result<Bytes> {
        let mut bytes = vec![0; length as usize];
        self.file.read_exact_at(&mut bytes, at)?;
        Ok(bytes.into())
    }

    fn root_page(&self, root: &Root) -> Result<Page, ReadError> {
        match root {
            Root::Page(id) => Page::load(self, *id),
            Root::Inline(record) => Page::inline(record.clone()),
        }
    }

    /// The record with the highest key of a bucket.
    pub(crate) fn last(&self, root: &Root) -> Result<Option<Record>, ReadError> {
        let mut page = self.root_page(root)?;
        for _ in 0..MAX_DEPTH {
            let Some(last) = page.count.checked_sub(1) else { return Ok(None) };
            if page.is_leaf {
                return page.record(self, last).map(Some);
            }
            let child = page.child(last).ok_or_else(|| damaged(page.id, "an element is cut off"))?;
            page = Page::load(self, child)?;
        }
        Err(damaged(page.id, "it lies deeper than any page may"))
    }

    /// All records of a bucket, by ascending key.
    pub(crate) fn walk<'a>(&'a self, root: &'a Root) -> Walk<'a> {
        Walk { database: self, root: Some(root), path: Vec::new(), last_key: None }
    }
}

/// Iterates over a bucket's records; after an error it ends.
#[derive(Debug)]
pub(crate) struct Walk<'a> {
    database: &'a Database,
    /// Until the walk has started.
    root: Option<&'a Root>,
    /// The pages from the root down, each with its next element.
    path: Vec<(Page, u64)>,
    last_key: Option<Bytes>,
}

impl Walk<'_> {
    fn step(&mut self) -> Result<Option<Record>, ReadError> {
        if let Some(root) = self.root.take() {
            self.path.push((self.database.root_page(root)?, 0));
        }
        while let Some((page, next)) = self.path.last_mut() {
            if *next == page.count {
                self.path.pop();
                continue;
            }
            let index = *next;
            *next += 1;
            if page.is_leaf {
                let record = page.record(self.database, index)?;
                if self.last_key.as_ref().is_some_and(|last| *last >= record.key) {
                    return Err(damaged(record.page, "its keys do not ascend"));
                }
                self.last_key = Some(record.key.clone());
                return Ok(Some(record));
            }
            let child = page.child(index).ok_or_else(|| damaged(page.id, "an element is cut off"))?;
            let child = Page::load(self.database, child)?;
            if child.count == 0 {
                return Err(damaged(child.id, "it is empty"));
            }
            if self.path.len() == MAX_DEPTH {
                return Err(damaged(child.id, "it lies deeper than any page may"));
            }
            self.path.push((child, 0));
        }
        Ok(None)
    }
}

impl Iterator for Walk<'_> {
    type Item = Result<Record, ReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        let step = self.step();
        if step.is_err() {
            self.path.clear();
        }
        step.transpose()
    }
}

//! Builds the tree of one bucket from keys in ascending order.
//!
//! Pages are appended as they fill up, leaves and branches alike, so a tree needs
//! memory for one page a level. Trees that grow side by side may share a file. Of
//! what a record means, nothing is known here.
//!
//! A branch page gets at least two children: bbolt never makes one with fewer, and
//! stops the process when it meets one while it deletes.

use std::fs::File;
use std::io::{self, BufWriter, Write};

use crate::page::{BRANCH, ELEMENT_BYTES, HEADER_BYTES, Header, LEAF, PAGE_SIZE, bucket_record};

/// A bucket whose only page is no larger than this lives in its parent's record.
const INLINE_BYTES: usize = PAGE_SIZE / 4;

/// Appends pages to a file and numbers them.
#[derive(Debug)]
pub(crate) struct Pages {
    out: BufWriter<File>,
    next: u64,
}

impl Pages {
    /// Appends to `file`, which is positioned at the start of page `next`.
    pub(crate) fn new(file: File, next: u64) -> Self {
        Self { out: BufWriter::with_capacity(64 * PAGE_SIZE, file), next }
    }

    /// Writes out what is buffered; the file and the first page id not used.
    pub(crate) fn finish(self) -> io::Result<(File, u64)> {
        Ok((self.out.into_inner().map_err(io::IntoInnerError::into_error)?, self.next))
    }

    fn append(&mut self, level: &Level, flags: u16) -> io::Result<u64> {
        let id = self.next;
        let size = level.size();
        let pages = size.div_ceil(PAGE_SIZE);
        self.out.write_all(&level.header(id, flags, pages - 1).encode())?;
        level.write_elements(flags, &mut self.out)?;
        let padding = pages * PAGE_SIZE - size;
        self.out.write_all(ZEROS.get(..padding).expect("padding is shorter than a page"))?;
        self.next += pages as u64;
        Ok(id)
    }
}

static ZEROS: [u8; PAGE_SIZE] = [0; PAGE_SIZE];

/// A page that fills up.
#[derive(Debug, Default)]
struct Level {
    elements: Vec<Element>,
    /// Keys and values of all elements, one after another.
    data: Vec<u8>,
}

#[derive(Debug, Clone, Copy)]
struct Element {
    key_bytes: u32,
    value_bytes: u32,
    /// A leaf's flags or a branch's child page.
    tag: u64,
}

impl Element {
    fn data_bytes(self) -> usize {
        self.key_bytes as usize + self.value_bytes as usize
    }
}

impl Level {
    fn size(&self) -> usize {
        HEADER_BYTES + self.elements.len() * ELEMENT_BYTES + self.data.len()
    }

    fn has_room_for(&self, data: usize) -> bool {
        self.size() + ELEMENT_BYTES + data <= PAGE_SIZE
    }

    fn add(&mut self, key: &[u8], value: &[u8], tag: u64) {
        let bytes =
            |part: &[u8]| u32::try_from(part.len()).expect("the writer bounds records far below 4 GiB");
        self.elements.push(Element { key_bytes: bytes(key), value_bytes: bytes(value), tag });
        self.data.extend_from_slice(key);
        self.data.extend_from_slice(value);
    }

    fn first_key(&self) -> &[u8] {
        let bytes = self.elements.first().map_or(0, |first| first.key_bytes as usize);
        self.data.get(..bytes).unwrap_or_default()
    }

    /// Takes the last element off, into a page of its own.
    fn split_last(&mut self) -> Self {
        let elements = self.elements.split_off(self.elements.len().saturating_sub(1));
        let bytes: usize = elements.iter().map(|element| element.data_bytes()).sum();
        let data = self.data.split_off(self.data.len() - bytes);
        Self { elements, data }
    }

    fn header(&self, id: u64, flags: u16, overflow: usize) -> Header {
        Header {
            id,
            flags,
            count: u16::try_from(self.elements.len()).expect("a page has room for some hundred elements"),
            overflow: u32::try_from(overflow).expect("the writer bounds records far below 4 GiB"),
        }
    }

    fn write_elements(&self, flags: u16, out: &mut impl Write) -> io::Result<()> {
        // Each element says where its key starts, counted from the element itself.
        let mut position = self.elements.len() * ELEMENT_BYTES;
        for element in &self.elements {
            let start = u32::try_from(position).expect("the writer bounds records far below 4 GiB");
            if flags == BRANCH {
                out.write_all(&start.to_le_bytes())?;
                out.write_all(&element.key_bytes.to_le_bytes())?;
                out.write_all(&element.tag.to_le_bytes())?;
            } else {
                out.write_all(&(element.tag as u32).to_le_bytes())?;
                out.write_all(&start.to_le_bytes())?;
                out.write_all(&element.key_bytes.to_le_bytes())?;
                out.write_all(&element.value_bytes.to_le_bytes())?;
            }
            position = position + element.data_bytes() - ELEMENT_BYTES;
        }
        out.write_all(&self.data)
    }
}

/// The pages of one bucket that are not yet written, from the leaf upwards.
#[derive(Debug)]
pub(crate) struct Tree {
    leaf: Level,
    branches: Vec<Level>,
}

impl Tree {
    pub(crate) fn new() -> Self {
        Self { leaf: Level::default(), branches: Vec::new() }
    }

    /// Appends a record; `flags` mark a bucket. The caller keeps keys ascending.
    pub(crate) fn push(&mut self, pages: &mut Pages, key: &[u8], value: &[u8], flags: u32) -> io::Result<()> {
        if !self.leaf.elements.is_empty() && !self.leaf.has_room_for(key.len() + value.len()) {
            let leaf = std::mem::take(&mut self.leaf);
            self.grow(pages, &leaf)?;
        }
        self.leaf.add(key, value, u64::from(flags));
        Ok(())
    }

    fn grow(&mut self, pages: &mut Pages, leaf: &Level) -> io::Result<()> {
        let child = pages.append(leaf, LEAF)?;
        self.enter(pages, 0, leaf.first_key().to_vec(), child)
    }

    /// Enters a page into the branches from `height` up, writing those that it fills.
    fn enter(&mut self, pages: &mut Pages, height: usize, key: Vec<u8>, child: u64) -> io::Result<()> {
        let (mut key, mut child) = (key, child);
        for branch in self.branches.iter_mut().skip(height) {
            if branch.has_room_for(key.len()) || branch.elements.len() < 3 {
                branch.add(&key, &[], child);
                return Ok(());
            }
            // The last child moves on to the next page, which so never ends with one.
            let mut rest = branch.split_last();
            rest.add(&key, &[], child);
            let full = std::mem::replace(branch, rest);
            child = pages.append(&full, BRANCH)?;
            key = full.first_key().to_vec();
        }
        let mut top = Level::default();
        top.add(&key, &[], child);
        self.branches.push(top);
        Ok(())
    }

    /// Writes what is left; the page at which the tree starts.
    pub(crate) fn finish(mut self, pages: &mut Pages) -> io::Result<u64> {
        let leaf = std::mem::take(&mut self.leaf);
        if self.branches.is_empty() {
            return pages.append(&leaf, LEAF);
        }
        self.grow(pages, &leaf)?;
        let mut root = 0;
        let mut height = 0;
        while let Some(branch) = self.branches.get_mut(height).map(std::mem::take) {
            root = pages.append(&branch, BRANCH)?;
            height += 1;
            if height < self.branches.len() {
                self.enter(pages, height, branch.first_key().to_vec(), root)?;
            }
        }
        Ok(root)
    }

    /// Writes what is left; the value by which the parent finds the bucket.
    pub(crate) fn finish_bucket(self, pages: &mut Pages) -> io::Result<Vec<u8>> {
        if self.branches.is_empty() && self.leaf.size() <= INLINE_BYTES {
            let mut record = bucket_record(0).to_vec();
            record.extend_from_slice(&self.leaf.header(0, LEAF, 0).encode());
            self.leaf.write_elements(LEAF, &mut record)?;
            return Ok(record);
        }
        Ok(bucket_record(self.finish(pages)?).to_vec())
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Seek};

    use proptest::prelude::*;

    use super::*;
    use crate::page::{u32_at, u64_at};

    /// Builds a tree of records with keys of one size; its pages and where it starts.
    fn built(records: u32, key_bytes: usize, value_bytes: usize) -> (Vec<u8>, u64) {
        let mut pages = Pages::new(tempfile::tempfile().unwrap(), 0);
        let mut tree = Tree::new();
        for record in 0..records {
            let mut key = vec![0; key_bytes];
            key[..4].copy_from_slice(&record.to_be_bytes());
            tree.push(&mut pages, &key, &vec![1; value_bytes], 0).unwrap();
        }
        let root = tree.finish(&mut pages).unwrap();
        let (mut file, next) = pages.finish().unwrap();
        file.rewind().unwrap();
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).unwrap();
        assert_eq!(bytes.len() as u64, next * PAGE_SIZE as u64);
        (bytes, root)
    }

    /// The pages and records of the tree that starts at `id`.
    fn count(bytes: &[u8], id: u64) -> (u64, u64) {
        let page = &bytes[id as usize * PAGE_SIZE..];
        let header = Header::decode(page).unwrap();
        assert_eq!(header.id, id);
        let mut pages = u64::from(header.overflow) + 1;
        if header.flags == LEAF {
            return (pages, u64::from(header.count));
        }
        assert_eq!(header.flags, BRANCH);
        assert!(header.count >= 2, "bbolt stops at a branch with a single child");
        let mut records = 0;
        for element in 0..usize::from(header.count) {
            let at = HEADER_BYTES + element * ELEMENT_BYTES;
            let child = u64_at(page, at + 8).unwrap();
            // A branch names each child by the first key below it.
            let key = &page[at + u32_at(page, at).unwrap() as usize..][..4];
            assert_eq!(key, first_key(bytes, child));
            let (more_pages, more_records) = count(bytes, child);
            pages += more_pages;
            records += more_records;
        }
        (pages, records)
    }

    fn first_key(bytes: &[u8], id: u64) -> &[u8] {
        let page = &bytes[id as usize * PAGE_SIZE..];
        let is_leaf = Header::decode(page).unwrap().flags == LEAF;
        let position = u32_at(page, HEADER_BYTES + if is_leaf { 4 } else { 0 }).unwrap();
        &page[HEADER_BYTES + position as usize..][..4]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(100))]

        #[test]
        fn every_page_is_reached_once_and_no_branch_has_a_single_child(
            records in 0_u32..3000, key_bytes in prop_oneof![4_usize..40, 400_usize..1500, 1000_usize..5000], value_bytes in 0_usize..600,
        ) {
            let records = if key_bytes > 400 { records / 10 } else { records };
            let (bytes, root) = built(records, key_bytes, value_bytes);
            prop_assert_eq!(count(&bytes, root), (bytes.len() as u64 / PAGE_SIZE as u64, u64::from(records)));
        }
    }

    #[test]
    fn no_branch_has_a_single_child_wherever_a_tree_ends() {
        // Each record fills a leaf; a branch page has room for some 120 of 17 bytes.
        for records in 1..500 {
            let (bytes, root) = built(records, 17, 3000);
            assert_eq!(count(&bytes, root).1, u64::from(records));
        }
    }
}

//! The bytes of a bbolt page: headers, elements and the two meta pages.
//!
//! A database is a sequence of pages of one size. A page longer than that size
//! (because of a large value) says how many more it runs over. Integers are
//! little-endian, as on every machine that etcd supports.

/// The size of the pages that are written; what is read says its own.
pub(crate) const PAGE_SIZE: usize = 4096;
/// Page id, flags, count of elements, pages that follow as part of this one.
pub(crate) const HEADER_BYTES: usize = 16;
/// Every element of a leaf or a branch has a fixed part of this size.
pub(crate) const ELEMENT_BYTES: usize = 16;
/// A bucket's record in its parent: root page and sequence, both 64 bits.
pub(crate) const BUCKET_BYTES: usize = 16;

pub(crate) const BRANCH: u16 = 0x01;
pub(crate) const LEAF: u16 = 0x02;
const META: u16 = 0x04;
pub(crate) const FREELIST: u16 = 0x10;

/// Set on a leaf's element whose value is a bucket.
pub(crate) const BUCKET_FLAG: u32 = 0x01;

const MAGIC: u32 = 0xED0C_DAED;
const VERSION: u32 = 2;
/// Of a meta page: its header and 64 bytes.
pub(crate) const META_BYTES: usize = HEADER_BYTES + 64;
/// What of it the checksum covers.
const CHECKED_BYTES: std::ops::Range<usize> = HEADER_BYTES..META_BYTES - 8;

pub(crate) const SMALLEST_PAGE: u32 = 1024;
pub(crate) const LARGEST_PAGE: u32 = 65_536;

/// A page's first bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) id: u64,
    pub(crate) flags: u16,
    pub(crate) count: u16,
    pub(crate) overflow: u32,
}

impl Header {
    pub(crate) fn encode(self) -> [u8; HEADER_BYTES] {
        let mut out = [0; HEADER_BYTES];
        put(&mut out, 0, &self.id.to_le_bytes());
        put(&mut out, 8, &self.flags.to_le_bytes());
        put(&mut out, 10, &self.count.to_le_bytes());
        put(&mut out, 12, &self.overflow.to_le_bytes());
        out
    }

    /// `None` if the bytes end before the header does.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        Some(Self {
            id: u64_at(bytes, 0)?,
            flags: u16::from_le_bytes(array_at(bytes, 8)?),
            count: u16::from_le_bytes(array_at(bytes, 10)?),
            overflow: u32_at(bytes, 12)?,
        })
    }
}

/// Where a database's tree of buckets starts and where its pages end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Meta {
    pub(crate) page_size: u32,
    /// The page at which the bucket of all top-level buckets starts.
    pub(crate) root: u64,
    /// The page that lists unused pages; all ones where the database keeps no list.
    pub(crate) freelist: u64,
    /// The first page id that has never been used.
    pub(crate) high_water: u64,
    /// Of the two meta pages, the one with the later transaction holds.
    pub(crate) transaction: u64,
}

impl Meta {
    /// The bytes with which page `id` (0 or 1) starts.
    pub(crate) fn encode(self, id: u64) -> [u8; META_BYTES] {
        let mut out = [0; META_BYTES];
        put(&mut out, 0, &Header { id, flags: META, count: 0, overflow: 0 }.encode());
        put(&mut out, 16, &MAGIC.to_le_bytes());
        put(&mut out, 20, &VERSION.to_le_bytes());
        put(&mut out, 24, &self.page_size.to_le_bytes());
        // Bytes 28 to 32 are flags that nobody uses; 40 to 48 the root's sequence.
        put(&mut out, 32, &self.root.to_le_bytes());
        put(&mut out, 48, &self.freelist.to_le_bytes());
        put(&mut out, 56, &self.high_water.to_le_bytes());
        put(&mut out, 64, &self.transaction.to_le_bytes());
        let checksum = fnv_1a(out.get(CHECKED_BYTES).unwrap_or_default());
        put(&mut out, 72, &checksum.to_le_bytes());
        out
    }

    /// `None` unless the bytes start a meta page whose checksum is right.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let meta = Self {
            page_size: u32_at(bytes, 24)?,
            root: u64_at(bytes, 32)?,
            freelist: u64_at(bytes, 48)?,
            high_water: u64_at(bytes, 56)?,
            transaction: u64_at(bytes, 64)?,
        };
        let size = meta.page_size;
        let sound = Header::decode(bytes)?.flags == META
            && u32_at(bytes, 16)? == MAGIC
            && u32_at(bytes, 20)? == VERSION
            && u64_at(bytes, 72)? == fnv_1a(bytes.get(CHECKED_BYTES)?)
            && (SMALLEST_PAGE..=LARGEST_PAGE).contains(&size)
            && size.is_power_of_two();
        sound.then_some(meta)
    }
}

/// The bytes of a bucket's record in its parent; root 0 says that the bucket's only
/// page follows in the record itself.
pub(crate) fn bucket_record(root: u64) -> [u8; BUCKET_BYTES] {
    let mut out = [0; BUCKET_BYTES];
    put(&mut out, 0, &root.to_le_bytes());
    out
}

/// FNV-1a of 64 bits.
fn fnv_1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

fn array_at<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.first_chunk().copied()
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    array_at(bytes, at).map(u32::from_le_bytes)
}

pub(crate) fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    array_at(bytes, at).map(u64::from_le_bytes)
}

/// Lays `field` into `out` at a place that the format fixes.
fn put(out: &mut [u8], at: usize, field: &[u8]) {
    let place = out.get_mut(at..at + field.len()).expect("the format's places lie within its records");
    place.copy_from_slice(field);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fnv_1a_gives_the_published_values() {
        assert_eq!(fnv_1a(b""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(fnv_1a(b"a"), 0xaf63_dc4c_8601_ec8c);
        assert_eq!(fnv_1a(b"foobar"), 0x8594_4171_f739_67e8);
    }

    #[test]
    fn a_meta_page_round_trips_and_any_changed_bit_of_it_is_noticed() {
        let meta = Meta { page_size: 4096, root: 7, freelist: 2, high_water: 8, transaction: 3 };
        let bytes = meta.encode(1);
        assert_eq!(Meta::decode(&bytes), Some(meta));
        for at in CHECKED_BYTES.start..META_BYTES {
            for bit in 0..8 {
                let mut changed = bytes;
                changed[at] ^= 1 << bit;
                assert_eq!(Meta::decode(&changed), None, "bit {bit} of byte {at}");
            }
        }
    }

    #[test]
    fn a_header_round_trips_and_short_input_is_none() {
        let header = Header { id: 9, flags: LEAF, count: 3, overflow: 70_000 };
        assert_eq!(Header::decode(&header.encode()), Some(header));
        assert_eq!(Header::decode(&header.encode()[..15]), None);
    }
}

//! The stored form of everything the MVCC engine keeps. `docs/format.md` is its
//! description; a change here without a new format version breaks old data.

use bytes::{BufMut, Bytes};

use super::alarm::Alarms;
use super::{Change, Lease, Record};
use crate::codec::DecodeError;
use crate::command::{Alarm, AlarmKind};
use crate::engine::{FamilySpec, Workload};

/// The version of the state folder's format that this release writes.
pub const FORMAT_VERSION: u32 = 2;
/// The oldest version that this release reads; it becomes the newest when it is
/// opened, for that only added what was empty before.
pub(super) const OLDEST_FORMAT_VERSION: u32 = 1;
/// The revision of an empty store, and the oldest that can ever be read.
pub const OLDEST_REVISION: i64 = 1;
/// The state hash of an empty store.
pub(super) const EMPTY_HASH: u64 = 0;

/// Key → newest record.
pub(super) const CURRENT: &str = "current";
/// Escaped key, revision at which the record was superseded → the record.
pub(super) const HISTORY: &str = "history";
/// Revision → what changed.
pub(super) const CHANGES: &str = "changes";
/// Opaque entries of the layer above.
pub(super) const DEDUP: &str = "dedup";
/// Lease id → what was promised.
pub(super) const LEASES: &str = "leases";
/// Lease id, key → nothing.
pub(super) const LEASE_KEYS: &str = "lease_keys";
/// Named cells.
pub(super) const META: &str = "meta";

pub(super) const FAMILIES: [FamilySpec; 7] = [
    FamilySpec { name: CURRENT, workload: Workload::Lookup },
    FamilySpec { name: HISTORY, workload: Workload::Scan },
    FamilySpec { name: CHANGES, workload: Workload::Queue },
    FamilySpec { name: DEDUP, workload: Workload::Lookup },
    FamilySpec { name: LEASES, workload: Workload::Lookup },
    FamilySpec { name: LEASE_KEYS, workload: Workload::Scan },
    FamilySpec { name: META, workload: Workload::Cells },
];

/// The cell with the format version.
pub(super) const FORMAT_CELL: &[u8] = b"format";
/// The cell with the [`Head`].
pub(super) const HEAD_CELL: &[u8] = b"head";
/// The cell with the lease clock.
pub(super) const LEASE_CLOCK_CELL: &[u8] = b"lease_clock";
/// The cell with the raised alarms.
pub(super) const ALARMS_CELL: &[u8] = b"alarms";

/// The cell of a blob that the layer above calls `name`. The prefix keeps its
/// names apart from the engine's own.
pub(super) fn blob_cell(name: &str) -> Vec<u8> {
    [b"blob/", name.as_bytes()].concat()
}

/// Where the store is: changes with every batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Head {
    /// The last main revision.
    pub(super) revision: i64,
    /// The state hash after it.
    pub(super) hash: u64,
    /// Revisions below can't be read. Zero until something is compacted.
    pub(super) compacted: i64,
}

const HEAD_BYTES: usize = 24;

impl Head {
    pub(super) const EMPTY: Self = Self { revision: OLDEST_REVISION, hash: EMPTY_HASH, compacted: 0 };

    /// The oldest revision that can be read.
    pub(super) fn oldest(&self) -> i64 {
        self.compacted.max(OLDEST_REVISION)
    }

    pub(super) fn encode(&self) -> [u8; HEAD_BYTES] {
        let mut out = [0; HEAD_BYTES];
        let mut rest = out.as_mut_slice();
        rest.put_i64_le(self.revision);
        rest.put_u64_le(self.hash);
        rest.put_i64_le(self.compacted);
        out
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut fields = Fields(bytes);
        let head = Self {
            revision: i64::from_le_bytes(fields.array("revision")?),
            hash: u64::from_le_bytes(fields.array("state hash")?),
            compacted: i64::from_le_bytes(fields.array("compacted revision")?),
        };
        fields.finish()?;
        Ok(head)
    }
}

const RECORD_VERSION: u8 = 1;
const RECORD_HEADER_BYTES: usize = 33;

impl Record {
    /// Appends the stored form: a fixed header, then the value to the end.
    pub(super) fn encode_to(&self, out: &mut Vec<u8>) {
        out.reserve(RECORD_HEADER_BYTES + self.value.len());
        out.push(RECORD_VERSION);
        out.put_i64_le(self.create_revision);
        out.put_i64_le(self.mod_revision);
        out.put_i64_le(self.version);
        out.put_i64_le(self.lease);
        out.extend_from_slice(&self.value);
    }

    /// Reads what [`Self::encode_to`] wrote; the value is copied, once.
    pub(super) fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let (header, value) = Self::decode_header(bytes)?;
        Ok(Self { value: Bytes::copy_from_slice(value), ..header })
    }

    /// Reads all but the value, which is left empty and returned as it lies.
    pub(super) fn decode_header(bytes: &[u8]) -> Result<(Self, &[u8]), DecodeError> {
        let mut fields = Fields(bytes);
        let [found] = fields.array("record version")?;
        if found != RECORD_VERSION {
            return Err(DecodeError::Version { what: "record", found, known: RECORD_VERSION });
        }
        let header = Self {
            value: Bytes::new(),
            create_revision: i64::from_le_bytes(fields.array("create revision")?),
            mod_revision: i64::from_le_bytes(fields.array("mod revision")?),
            version: i64::from_le_bytes(fields.array("version")?),
            lease: i64::from_le_bytes(fields.array("lease")?),
        };
        Ok((header, fields.0))
    }
}

/// What a change did to its key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChangeKind {
    /// It was set.
    Put,
    /// It was removed.
    Delete,
}

impl ChangeKind {
    pub(super) fn tag(self) -> u8 {
        match self {
            Self::Put => 1,
            Self::Delete => 2,
        }
    }

    fn from_tag(tag: u8) -> Result<Self, DecodeError> {
        match tag {
            1 => Ok(Self::Put),
            2 => Ok(Self::Delete),
            tag => Err(DecodeError::UnknownTag { field: "change kind", tag }),
        }
    }
}

/// The key of a change: big-endian, so that byte order is revision order.
pub(super) fn change_key(main: i64, sub: u32) -> [u8; 12] {
    let mut out = [0; 12];
    let mut rest = out.as_mut_slice();
    rest.put_i64(main);
    rest.put_u32(sub);
    out
}

/// Appends the value of a change.
pub(super) fn encode_change(out: &mut Vec<u8>, kind: ChangeKind, hash: u64, key: &[u8]) {
    out.push(kind.tag());
    out.put_u64_le(hash);
    out.extend_from_slice(key);
}

impl Change {
    pub(super) fn decode(key: &[u8], value: &[u8]) -> Result<Self, DecodeError> {
        let mut position = Fields(key);
        let main = i64::from_be_bytes(position.array("main revision")?);
        let sub = u32::from_be_bytes(position.array("sub revision")?);
        position.finish()?;
        let mut fields = Fields(value);
        let [kind] = fields.array("change kind")?;
        let kind = ChangeKind::from_tag(kind)?;
        let hash = u64::from_le_bytes(fields.array("state hash")?);
        Ok(Self { main, sub, kind, key: Bytes::copy_from_slice(fields.0), hash })
    }
}

const ESCAPE: u8 = 0x00;
const ESCAPED_ZERO: u8 = 0xff;
const TERMINATOR: u8 = 0x01;
const PAST_TERMINATOR: u8 = 0x02;

/// Appends `key` so that byte order stays key order whatever follows, even if
/// one key is a prefix of another: a zero byte is escaped, and the end is marked
/// by a pair that sorts before every continuation.
pub(super) fn escape_key(out: &mut Vec<u8>, key: &[u8]) {
    escape_with_end(out, key, TERMINATOR);
}

/// Appends what sorts after every entry of `key` and before those of later keys.
pub(super) fn escape_key_end(out: &mut Vec<u8>, key: &[u8]) {
    escape_with_end(out, key, PAST_TERMINATOR);
}

fn escape_with_end(out: &mut Vec<u8>, key: &[u8], end: u8) {
    out.reserve(key.len() + 2 + size_of::<i64>());
    let mut rest = key;
    while let Some(zero) = rest.iter().position(|byte| *byte == ESCAPE) {
        let (before, after) = rest.split_at(zero);
        out.extend_from_slice(before);
        out.extend_from_slice(&[ESCAPE, ESCAPED_ZERO]);
        rest = after.get(1..).unwrap_or_default();
    }
    out.extend_from_slice(rest);
    out.extend_from_slice(&[ESCAPE, end]);
}

/// Appends the history key of the record of `key` that was superseded at
/// `revision`. A command changes a key at most once, so this is unique.
pub(super) fn history_key(out: &mut Vec<u8>, key: &[u8], revision: i64) {
    escape_key(out, key);
    out.put_i64(revision);
}

/// Splits a history key: puts the plain key into `key` (instead of what was
/// there) and returns the revision.
pub(super) fn split_history_key(stored: &[u8], key: &mut Vec<u8>) -> Result<i64, DecodeError> {
    key.clear();
    let mut rest = stored;
    loop {
        let zero = rest.iter().position(|byte| *byte == ESCAPE).unwrap_or(rest.len());
        let (plain, marked) = rest.split_at(zero);
        key.extend_from_slice(plain);
        match marked {
            [_, ESCAPED_ZERO, after @ ..] => {
                key.push(ESCAPE);
                rest = after;
            }
            [_, TERMINATOR, after @ ..] => {
                let mut fields = Fields(after);
                let revision = i64::from_be_bytes(fields.array("superseding revision")?);
                fields.finish()?;
                return Ok(revision);
            }
            [_, tag, ..] => return Err(DecodeError::UnknownTag { field: "key escape", tag: *tag }),
            [] | [_] => {
                return Err(DecodeError::Truncated { field: "escaped key", need: 2, have: marked.len() });
            }
        }
    }
}

/// The key of a lease. With the sign bit turned, byte order is the order of ids.
pub(super) fn lease_key(id: i64) -> [u8; 8] {
    (id.cast_unsigned() ^ (1 << 63)).to_be_bytes()
}

/// Appends the key of an attachment.
pub(super) fn attachment_key(out: &mut Vec<u8>, id: i64, key: &[u8]) {
    out.extend_from_slice(&lease_key(id));
    out.extend_from_slice(key);
}

/// What precedes the plain key in the key of an attachment.
pub(super) const ATTACHMENT_PREFIX_BYTES: usize = 8;

const LEASE_VERSION: u8 = 1;

impl Lease {
    /// The stored form, but for the id, which is its key.
    pub(super) fn encode(&self) -> [u8; 18] {
        let mut out = [0; 18];
        let mut rest = out.as_mut_slice();
        rest.put_u8(LEASE_VERSION);
        rest.put_i64_le(self.ttl);
        rest.put_u64_le(self.expires_at);
        rest.put_u8(u8::from(self.ending));
        out
    }

    pub(super) fn decode(key: &[u8], value: &[u8]) -> Result<Self, DecodeError> {
        let mut name = Fields(key);
        let id = (u64::from_be_bytes(name.array("lease id")?) ^ (1 << 63)).cast_signed();
        name.finish()?;
        let mut fields = Fields(value);
        let [found] = fields.array("lease version")?;
        if found != LEASE_VERSION {
            return Err(DecodeError::Version { what: "lease", found, known: LEASE_VERSION });
        }
        let ttl = i64::from_le_bytes(fields.array("time to live")?);
        let expires_at = u64::from_le_bytes(fields.array("expiry time")?);
        let ending = match fields.array("ending")? {
            [0] => false,
            [1] => true,
            [tag] => return Err(DecodeError::UnknownTag { field: "ending", tag }),
        };
        fields.finish()?;
        Ok(Self { id, ttl, expires_at, ending })
    }
}

/// Reads the lease clock's cell.
pub(super) fn decode_lease_clock(value: &[u8]) -> Result<u64, DecodeError> {
    let mut fields = Fields(value);
    let clock = u64::from_le_bytes(fields.array("lease clock")?);
    fields.finish()?;
    Ok(clock)
}

const ALARMS_VERSION: u8 = 1;

impl Alarms {
    /// The stored form: each alarm as kind and member, in their order, to the end.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut out = vec![ALARMS_VERSION];
        for Alarm { kind, member } in &self.0 {
            out.push(kind.tag());
            out.put_u64_le(*member);
        }
        out
    }

    pub(super) fn decode(value: &[u8]) -> Result<Self, DecodeError> {
        let mut fields = Fields(value);
        let [found] = fields.array("alarms version")?;
        if found != ALARMS_VERSION {
            return Err(DecodeError::Version { what: "list of alarms", found, known: ALARMS_VERSION });
        }
        let mut alarms = Self::default();
        while !fields.0.is_empty() {
            let [kind] = fields.array("alarm kind")?;
            let kind = AlarmKind::from_tag(kind)?;
            alarms.0.insert(Alarm { kind, member: u64::from_le_bytes(fields.array("member")?) });
        }
        Ok(alarms)
    }
}

/// Reads fixed-width fields from the front of borrowed bytes.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn array<const N: usize>(&mut self, field: &'static str) -> Result<[u8; N], DecodeError> {
        let have = self.0.len();
        let (array, rest) =
            self.0.split_first_chunk::<N>().ok_or(DecodeError::Truncated { field, need: N, have })?;
        self.0 = rest;
        Ok(*array)
    }

    fn finish(self) -> Result<(), DecodeError> {
        if self.0.is_empty() { Ok(()) } else { Err(DecodeError::Trailing(self.0.len())) }
    }
}

#[cfg(test)]
mod tests {
    //! Stored forms round-trip, keep their order, and are fixed to the byte.

    use super::*;
    use proptest::prelude::*;

    /// Keys in which escapes, terminators and prefixes of one another are common.
    fn awkward_key() -> impl Strategy<Value = Vec<u8>> {
        proptest::collection::vec(
            prop_oneof![Just(0_u8), Just(1), Just(2), Just(0xfe), Just(0xff), any::<u8>()],
            0..8,
        )
    }

    fn stored_history_key(key: &[u8], revision: i64) -> Vec<u8> {
        let mut out = Vec::new();
        history_key(&mut out, key, revision);
        out
    }

    proptest! {
        #[test]
        fn history_keys_sort_by_key_then_revision(
            a in (awkward_key(), 1..i64::MAX),
            b in (awkward_key(), 1..i64::MAX),
        ) {
            prop_assert_eq!(stored_history_key(&a.0, a.1).cmp(&stored_history_key(&b.0, b.1)), a.cmp(&b));
        }

        #[test]
        fn the_end_of_a_key_sorts_between_it_and_the_next(a in awkward_key(), b in awkward_key()) {
            let mut end = Vec::new();
            escape_key_end(&mut end, &a);
            prop_assert!(stored_history_key(&a, i64::MAX) < end);
            if a < b {
                prop_assert!(end < stored_history_key(&b, 1));
            }
        }

        #[test]
        fn history_keys_round_trip(key in awkward_key(), revision in 1..i64::MAX) {
            let mut plain = b"left over".to_vec();
            let split = split_history_key(&stored_history_key(&key, revision), &mut plain);
            prop_assert_eq!(split, Ok(revision));
            prop_assert_eq!(plain, key);
        }

        #[test]
        fn records_round_trip(
            value in any::<Vec<u8>>(),
            create_revision in any::<i64>(),
            mod_revision in any::<i64>(),
            version in any::<i64>(),
            lease in any::<i64>(),
        ) {
            let record = Record { value: value.into(), create_revision, mod_revision, version, lease };
            let mut out = Vec::new();
            record.encode_to(&mut out);
            prop_assert_eq!(Record::decode(&out), Ok(record));
        }

        #[test]
        fn changes_round_trip_and_sort_by_revision(
            key in any::<Vec<u8>>(),
            hash in any::<u64>(),
            a in (1..i64::MAX, any::<u32>()),
            b in (1..i64::MAX, any::<u32>()),
        ) {
            for kind in [ChangeKind::Put, ChangeKind::Delete] {
                let mut value = Vec::new();
                encode_change(&mut value, kind, hash, &key);
                let change = Change { main: a.0, sub: a.1, kind, key: Bytes::from(key.clone()), hash };
                prop_assert_eq!(Change::decode(&change_key(a.0, a.1), &value), Ok(change));
            }
            prop_assert_eq!(change_key(a.0, a.1).cmp(&change_key(b.0, b.1)), a.cmp(&b));
        }

        #[test]
        fn heads_round_trip(revision in any::<i64>(), hash in any::<u64>(), compacted in any::<i64>()) {
            let head = Head { revision, hash, compacted };
            prop_assert_eq!(Head::decode(&head.encode()), Ok(head));
        }

        #[test]
        fn leases_round_trip_and_sort_by_id(
            a in any::<(i64, i64, u64, bool)>(),
            b in any::<i64>(),
        ) {
            let (id, ttl, expires_at, ending) = a;
            let lease = Lease { id, ttl, expires_at, ending };
            prop_assert_eq!(Lease::decode(&lease_key(id), &lease.encode()), Ok(lease));
            prop_assert_eq!(lease_key(id).cmp(&lease_key(b)), id.cmp(&b));
        }

        #[test]
        fn alarms_round_trip(raised in any::<Vec<(bool, u64)>>()) {
            let kind = |corrupt| if corrupt { AlarmKind::Corrupt } else { AlarmKind::NoSpace };
            let alarm = |(corrupt, member)| Alarm { kind: kind(corrupt), member };
            let alarms = Alarms(raised.into_iter().map(alarm).collect());
            prop_assert_eq!(Alarms::decode(&alarms.encode()), Ok(alarms));
        }

        #[test]
        fn any_bytes_decode_or_are_refused(input in any::<Vec<u8>>(), key in any::<Vec<u8>>()) {
            let _ = Lease::decode(&key, &input);
            let _ = decode_lease_clock(&input);
            let _ = Alarms::decode(&input);
            let _ = Record::decode(&input);
            let _ = Head::decode(&input);
            let _ = Change::decode(&key, &input);
            let _ = split_history_key(&input, &mut Vec::new());
        }
    }

    #[test]
    fn stored_bytes_are_those_of_the_format_description() {
        let record = Record {
            value: Bytes::from_static(b"v"),
            create_revision: 2,
            mod_revision: 3,
            version: 4,
            lease: 5,
        };
        let mut out = Vec::new();
        record.encode_to(&mut out);
        assert_eq!(
            out,
            [
                [1].as_slice(),
                &[2, 0, 0, 0, 0, 0, 0, 0],
                &[3, 0, 0, 0, 0, 0, 0, 0],
                &[4, 0, 0, 0, 0, 0, 0, 0],
                &[5, 0, 0, 0, 0, 0, 0, 0],
                b"v",
            ]
            .concat()
        );
        assert_eq!(stored_history_key(b"a\0b", 258), b"a\0\xffb\0\x01\0\0\0\0\0\0\x01\x02");
        assert_eq!(change_key(258, 1), *b"\0\0\0\0\0\0\x01\x02\0\0\0\x01");
        let mut change = Vec::new();
        encode_change(&mut change, ChangeKind::Delete, 0x0102, b"k");
        assert_eq!(change, b"\x02\x02\x01\0\0\0\0\0\0k");
        let alarm = |kind, member| Alarm { kind, member };
        let alarms = Alarms([alarm(AlarmKind::Corrupt, 258), alarm(AlarmKind::NoSpace, 3)].into());
        assert_eq!(alarms.encode(), b"\x01\x01\x03\0\0\0\0\0\0\0\x02\x02\x01\0\0\0\0\0\0");
    }

    #[test]
    fn a_record_of_an_unknown_version_is_refused() {
        assert_eq!(
            Record::decode(&[9; 40]),
            Err(DecodeError::Version { what: "record", found: 9, known: RECORD_VERSION })
        );
    }
}

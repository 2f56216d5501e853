//! Writes a snapshot file in one pass.
//!
//! Events and leases may be pushed in any mixture, each kind in its own order: every
//! bucket's tree grows by itself, and their pages interleave in the file. The two
//! meta pages come first in the file but are known last, so the SHA-256 is taken by
//! reading the finished database once.

use std::fs::File;
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::FileExt;

use prost::Message;
use sha2::{Digest, Sha256};

use crate::page::{BUCKET_FLAG, FREELIST, Header, Meta, PAGE_SIZE};
use crate::record::{
    BUCKETS, CLUSTER_BUCKET, CLUSTER_VERSION, CONF_STATE, CONSISTENT_INDEX, ConfState, Event,
    FINISHED_COMPACTION, KEY_BUCKET, LEASE_BUCKET, Lease, MEMBERS_BUCKET, META_BUCKET, Member, Revision,
    SCHEDULED_COMPACTION, TERM,
};
use crate::tree::{Pages, Tree};

/// Where the list of unused pages is; the two meta pages come before it.
const FREELIST_PAGE: u64 = 2;
const FIRST_TREE_PAGE: u64 = FREELIST_PAGE + 1;
/// No key and value together may be longer: etcd's own requests are far below.
const MAX_RECORD_BYTES: usize = 1 << 30;

/// Why a snapshot cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// The file could not be written, or not be read back for its checksum.
    #[error("snapshot file: {0}")]
    Io(#[from] io::Error),
    /// Something came that must have come before something else.
    #[error("{what} {this} does not come after {last}")]
    OutOfOrder {
        /// What is ordered.
        what: &'static str,
        /// What came.
        this: String,
        /// What had come before it.
        last: String,
    },
    /// etcd would stop at this, or lose it.
    #[error("{what} is invalid: {reason}")]
    Invalid {
        /// What came.
        what: &'static str,
        /// What is wrong with it.
        reason: String,
    },
}

/// What a snapshot says besides keys and leases.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotInfo {
    /// The Raft term of the last entry that is applied; above 0, or etcd 3.6 takes the
    /// file for one of an etcd before 3.5.
    pub term: u64,
    /// The Raft index of that entry.
    pub applied_index: u64,
    /// Revisions below this are no longer to be read; `None` if never compacted.
    pub compact_revision: Option<i64>,
    /// The version of etcd whose features the cluster agreed on, such as `3.5.0`. A
    /// restore keeps it, and an etcd that is older may refuse to start from it, so leave
    /// it out unless that is meant: the restored cluster then settles on its own.
    pub cluster_version: Option<String>,
    /// The members. A restore forgets them.
    pub members: Vec<Member>,
}

/// A finished snapshot.
#[derive(Debug)]
pub struct Sealed {
    /// The file, positioned at its start; not yet synced to disk.
    pub file: File,
    /// Its size in bytes, including the checksum.
    pub size: u64,
    /// The checksum with which the file ends: SHA-256 of everything before it.
    pub sha256: [u8; 32],
}

/// Lays out a snapshot file while its content is pushed.
#[derive(Debug)]
pub struct Writer {
    pages: Pages,
    info: SnapshotInfo,
    keys: Tree,
    leases: Tree,
    last_revision: Option<Revision>,
    last_lease: Option<i64>,
    /// Reused for every record's value.
    value: Vec<u8>,
}

impl Writer {
    /// Starts a snapshot in `file`, which must be open for reading and writing; what
    /// it holds is dropped.
    ///
    /// # Errors
    /// `Invalid` if `info` is not what etcd could have; `Io`.
    pub fn new(mut file: File, info: SnapshotInfo) -> Result<Self, WriteError> {
        check_info(&info)?;
        file.set_len(0)?;
        file.seek(SeekFrom::Start(FIRST_TREE_PAGE * PAGE_SIZE as u64))?;
        Ok(Self {
            pages: Pages::new(file, FIRST_TREE_PAGE),
            info,
            keys: Tree::new(),
            leases: Tree::new(),
            last_revision: None,
            last_lease: None,
            value: Vec::new(),
        })
    }

    /// Appends an event; each must be of a later revision than the one before.
    ///
    /// Of each key, what is pushed must be what etcd keeps of it: every event above
    /// the compact revision and, at or below it, at most the newest, if that is a put.
    /// The last event or the compact revision, whichever is later, becomes the
    /// revision of the restored store.
    ///
    /// # Errors
    /// `OutOfOrder`; `Invalid` for an event that etcd could not have made; `Io`, after
    /// which the file is of no use.
    pub fn push(&mut self, revision: Revision, event: &Event) -> Result<(), WriteError> {
        check_event(revision, event)?;
        if let Some(last) = self.last_revision.filter(|last| *last >= revision) {
            let shown = |revision: Revision| format!("{}.{}", revision.main, revision.sub);
            return Err(WriteError::OutOfOrder {
                what: "revision",
                this: shown(revision),
                last: shown(last),
            });
        }
        self.value.clear();
        let is_tombstone = match event {
            Event::Put(put) => {
                put.encode_raw(&mut self.value);
                false
            }
            Event::Delete { key } => {
                let tombstone = crate::KeyValue { key: key.clone(), ..Default::default() };
                tombstone.encode_raw(&mut self.value);
                true
            }
        };
        self.keys.push(&mut self.pages, &revision.key(is_tombstone), &self.value, 0)?;
        self.last_revision = Some(revision);
        Ok(())
    }

    /// Appends a lease; each must have a higher id than the one before. A key's lease
    /// must be among them, or etcd drops the key's tie to it.
    ///
    /// # Errors
    /// `OutOfOrder`; `Invalid` for a lease that etcd could not have granted; `Io`, after
    /// which the file is of no use.
    pub fn lease(&mut self, lease: &Lease) -> Result<(), WriteError> {
        if lease.id <= 0 || lease.ttl <= 0 || lease.remaining_ttl < 0 {
            return Err(invalid("lease", format!("{lease:?}")));
        }
        if let Some(last) = self.last_lease.filter(|last| *last >= lease.id) {
            let shown = |id: i64| format!("{id:016x}");
            return Err(WriteError::OutOfOrder { what: "lease", this: shown(lease.id), last: shown(last) });
        }
        self.value.clear();
        lease.encode_raw(&mut self.value);
        self.leases.push(&mut self.pages, &lease.id.to_be_bytes(), &self.value, 0)?;
        self.last_lease = Some(lease.id);
        Ok(())
    }

    /// Completes the database and appends its SHA-256, for which it is read once.
    ///
    /// # Errors
    /// `Io`, after which the file is of no use.
    pub fn finish(self) -> Result<Sealed, WriteError> {
        let Self { mut pages, info, keys, leases, .. } = self;
        let mut keys = Some(keys);
        let mut leases = Some(leases);
        let mut root = Tree::new();
        for name in BUCKETS {
            let tree = match name {
                KEY_BUCKET => keys.take(),
                LEASE_BUCKET => leases.take(),
                MEMBERS_BUCKET => Some(members(&mut pages, &info)?),
                META_BUCKET => Some(meta(&mut pages, &info)?),
                CLUSTER_BUCKET => Some(cluster(&mut pages, &info)?),
                _ => None,
            };
            let record = tree.unwrap_or_else(Tree::new).finish_bucket(&mut pages)?;
            root.push(&mut pages, name.as_bytes(), &record, BUCKET_FLAG)?;
        }
        let root = root.finish(&mut pages)?;
        let (mut file, high_water) = pages.finish()?;

        // Two transactions, of which the second, on page 0, holds: bbolt itself leaves
        // a copy of a database like this.
        let header = Header { id: FREELIST_PAGE, flags: FREELIST, count: 0, overflow: 0 };
        file.write_all_at(&header.encode(), FREELIST_PAGE * PAGE_SIZE as u64)?;
        for id in [0, 1] {
            let meta = Meta {
                page_size: PAGE_SIZE as u32,
                root,
                freelist: FREELIST_PAGE,
                high_water,
                transaction: 2 - id,
            };
            file.write_all_at(&meta.encode(id), id * PAGE_SIZE as u64)?;
        }

        let database = high_water * PAGE_SIZE as u64;
        let sha256 = sha256_of(&file, database)?;
        file.write_all_at(&sha256, database)?;
        file.rewind()?;
        Ok(Sealed { file, size: database + sha256.len() as u64, sha256 })
    }
}

/// SHA-256 of the first `bytes` bytes of a file.
pub(crate) fn sha256_of(file: &File, bytes: u64) -> io::Result<[u8; 32]> {
    let mut hash = Sha256::new();
    let mut block = vec![0; 1 << 20];
    let mut at = 0;
    while at < bytes {
        let length = block.len().min(usize::try_from(bytes - at).unwrap_or(usize::MAX));
        let part = block.get_mut(..length).expect("the part is no longer than the block");
        file.read_exact_at(part, at)?;
        hash.update(&*part);
        at += length as u64;
    }
    Ok(hash.finalize().into())
}

fn invalid(what: &'static str, reason: impl Into<String>) -> WriteError {
    WriteError::Invalid { what, reason: reason.into() }
}

fn check_info(info: &SnapshotInfo) -> Result<(), WriteError> {
    if info.term == 0 || info.applied_index == 0 {
        return Err(invalid("applied log id", "term and index start at 1"));
    }
    if info.compact_revision.is_some_and(|revision| revision <= 0) {
        return Err(invalid("compact revision", "it is not above 0"));
    }
    let mut ids: Vec<u64> = info.members.iter().map(|member| member.id).collect();
    ids.sort_unstable();
    ids.dedup();
    if ids.len() < info.members.len() || ids.first() == Some(&0) {
        return Err(invalid("members", "ids are not distinct and above 0"));
    }
    Ok(())
}

fn check_event(revision: Revision, event: &Event) -> Result<(), WriteError> {
    if revision.main <= 0 || revision.sub < 0 {
        return Err(invalid("revision", format!("{}.{} is not above 0", revision.main, revision.sub)));
    }
    if event.key().is_empty() {
        return Err(invalid("event", "its key is empty"));
    }
    if let Event::Put(put) = event {
        let is_sound = put.mod_revision == revision.main
            && (1..=revision.main).contains(&put.create_revision)
            && put.version > 0
            && put.lease >= 0;
        if !is_sound {
            let history = format!(
                "created {}, modified {}, version {}, at revision {}",
                put.create_revision, put.mod_revision, put.version, revision.main
            );
            return Err(invalid("event", history));
        }
        if put.key.len().saturating_add(put.value.len()) > MAX_RECORD_BYTES {
            return Err(invalid("event", format!("key and value are longer than {MAX_RECORD_BYTES} bytes")));
        }
    } else if event.key().len() > MAX_RECORD_BYTES {
        return Err(invalid("event", format!("its key is longer than {MAX_RECORD_BYTES} bytes")));
    }
    Ok(())
}

fn json(value: &impl serde::Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("numbers, strings and lists have a JSON form")
}

fn small_bucket(pages: &mut Pages, mut records: Vec<(Vec<u8>, Vec<u8>)>) -> io::Result<Tree> {
    records.sort();
    let mut tree = Tree::new();
    for (key, value) in records {
        tree.push(pages, &key, &value, 0)?;
    }
    Ok(tree)
}

fn members(pages: &mut Pages, info: &SnapshotInfo) -> io::Result<Tree> {
    let records = info.members.iter().map(|member| (format!("{:x}", member.id).into(), json(member)));
    small_bucket(pages, records.collect())
}

fn cluster(pages: &mut Pages, info: &SnapshotInfo) -> io::Result<Tree> {
    let version = info.cluster_version.iter();
    small_bucket(pages, version.map(|version| (CLUSTER_VERSION.into(), version.clone().into())).collect())
}

fn meta(pages: &mut Pages, info: &SnapshotInfo) -> io::Result<Tree> {
    let ids = |learners: bool| {
        let mut ids: Vec<u64> = info
            .members
            .iter()
            .filter(|member| member.is_learner == learners)
            .map(|member| member.id)
            .collect();
        ids.sort_unstable();
        ids
    };
    let votes = ConfState { voters: ids(false), learners: ids(true), auto_leave: false };
    let mut records = vec![
        (CONF_STATE.into(), json(&votes)),
        (CONSISTENT_INDEX.into(), info.applied_index.to_be_bytes().into()),
        (TERM.into(), info.term.to_be_bytes().into()),
    ];
    if let Some(main) = info.compact_revision {
        let key = Revision { main, sub: 0 }.key(false);
        records.push((SCHEDULED_COMPACTION.into(), key.clone()));
        records.push((FINISHED_COMPACTION.into(), key));
    }
    small_bucket(pages, records)
}

//! Reads a snapshot file, or the database out of an etcd's data folder.
//!
//! Whether the file is whole is checked once, when it is opened; what it holds is
//! read as it is asked for, and an error ends the iterator that met it.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use prost::Message;

use crate::cursor::{Database, Record, Root, Walk};
use crate::page::{LARGEST_PAGE, META_BYTES, Meta, SMALLEST_PAGE};
use crate::record::{
    AUTH_BUCKET, AUTH_ENABLED, CLUSTER_BUCKET, CLUSTER_VERSION, CONSISTENT_INDEX, Event, FINISHED_COMPACTION,
    KEY_BUCKET, KeyValue, LEASE_BUCKET, Lease, MEMBERS_BUCKET, META_BUCKET, Member, Revision,
    SCHEDULED_COMPACTION, STORAGE_VERSION, TERM,
};
use crate::writer::sha256_of;

const CHECKSUM_BYTES: u64 = 32;
/// A database is a multiple of this, so what is left over tells of a checksum.
const SECTOR_BYTES: u64 = 512;

/// Why a snapshot cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The file could not be read.
    #[error("snapshot file: {0}")]
    Io(#[from] io::Error),
    /// The file does not hold what it held when it was made.
    #[error("the SHA-256 at the end of the file is not that of its content")]
    Checksum,
    /// This is no database of etcd's.
    #[error("not a snapshot of etcd: {0}")]
    NotEtcd(&'static str),
    /// A page is not as it must be.
    #[error("page {page} is damaged: {reason}")]
    Damaged {
        /// The page's id; 0 for one within another page.
        page: u64,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A record is not what etcd writes.
    #[error("a {what} on page {page} cannot be decoded")]
    Undecodable {
        /// What the record should be.
        what: &'static str,
        /// The page that holds it; 0 for one within another page.
        page: u64,
    },
}

/// What a snapshot says besides keys, leases and members.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Info {
    /// The Raft index up to which entries are applied.
    pub applied_index: u64,
    /// The Raft term of that entry; 0 before etcd 3.5.
    pub term: u64,
    /// Revisions below this are no longer to be read; `None` if never compacted.
    pub compact_revision: Option<i64>,
    /// The version of etcd whose features the cluster agreed on; absent before 3.5.
    pub cluster_version: Option<String>,
    /// The version of the form in which the database is stored; absent before 3.6.
    pub storage_version: Option<String>,
    /// Whether clients had to authenticate. Users and roles are not read.
    pub auth_enabled: bool,
}

/// The buckets that are read, where the database has them.
#[derive(Debug, Default)]
struct Buckets {
    keys: Option<Root>,
    leases: Option<Root>,
    members: Option<Root>,
    meta: Option<Root>,
    cluster: Option<Root>,
    auth: Option<Root>,
}

/// An open snapshot.
#[derive(Debug)]
pub struct Reader {
    database: Database,
    buckets: Buckets,
    has_checksum: bool,
    info: Info,
}

impl Reader {
    /// Opens a snapshot and, if it ends with a checksum, verifies it, for which the
    /// whole file is read. A database that was copied out of a data folder ends with
    /// none.
    ///
    /// # Errors
    /// `Checksum`, `NotEtcd`, `Damaged`, `Undecodable` and `Io`.
    pub fn open(file: File) -> Result<Self, ReadError> {
        let size = file.metadata()?.len();
        let has_checksum = size % SECTOR_BYTES == CHECKSUM_BYTES;
        let database_bytes = if has_checksum { size - CHECKSUM_BYTES } else { size };
        if has_checksum {
            let mut told = [0; CHECKSUM_BYTES as usize];
            file.read_exact_at(&mut told, database_bytes)?;
            if sha256_of(&file, database_bytes)? != told {
                return Err(ReadError::Checksum);
            }
        }

        let meta = meta_of(&file, database_bytes)?;
        let pages = database_bytes / u64::from(meta.page_size);
        if meta.high_water > pages {
            return Err(ReadError::Damaged { page: pages, reason: "the file ends before it" });
        }
        let database = Database { file, page_size: meta.page_size, high_water: meta.high_water };
        let buckets = buckets_of(&database, meta.root)?;
        let info = info_of(&database, &buckets)?;
        Ok(Self { database, buckets, has_checksum, info })
    }

    /// Whether the file ended with a checksum; if so, it was right.
    pub fn has_checksum(&self) -> bool {
        self.has_checksum
    }

    /// What the snapshot says of itself.
    pub fn info(&self) -> &Info {
        &self.info
    }

    /// The store's revision: that of the last event or the compact revision, whichever
    /// is later; 1 if nothing was ever written, as in etcd.
    ///
    /// # Errors
    /// `Damaged`, `Undecodable` and `Io`.
    pub fn revision(&self) -> Result<i64, ReadError> {
        let last = self.buckets.keys.as_ref().map(|root| self.database.last(root)).transpose()?.flatten();
        let last = last.map(|last| revision(&last, &last.key)).transpose()?;
        let last = last.map_or(0, |(revision, _)| revision.main);
        Ok(last.max(self.info.compact_revision.unwrap_or_default()).max(1))
    }

    /// All events that are kept, in the order of their revisions.
    ///
    /// Events below the compact revision tell what was live there, not all that
    /// happened: such a put may be superseded or deleted by any event that follows.
    /// Keys and values share the memory of the page that holds them.
    pub fn keys(&self) -> Keys<'_> {
        Keys(self.walk(self.buckets.keys.as_ref()))
    }

    /// All leases, by ascending id.
    pub fn leases(&self) -> Leases<'_> {
        Leases(self.walk(self.buckets.leases.as_ref()))
    }

    /// The members, in the order of the bytes of their ids in hexadecimal.
    pub fn members(&self) -> Members<'_> {
        Members(self.walk(self.buckets.members.as_ref()))
    }

    fn walk<'a>(&'a self, root: Option<&'a Root>) -> Option<Walk<'a>> {
        root.map(|root| self.database.walk(root))
    }
}

/// The meta page that holds: of those with a right checksum, the later one.
fn meta_of(file: &File, size: u64) -> Result<Meta, ReadError> {
    let meta_at = |at: u64| -> io::Result<Option<Meta>> {
        if at + META_BYTES as u64 > size {
            return Ok(None);
        }
        let mut bytes = [0; META_BYTES];
        file.read_exact_at(&mut bytes, at)?;
        Ok(Meta::decode(&bytes))
    };
    let first = meta_at(0)?;
    let mut page_size = first.map_or(SMALLEST_PAGE, |meta| meta.page_size);
    let last_size = first.map_or(LARGEST_PAGE, |meta| meta.page_size);
    // Without the first page nobody says where the second one starts.
    let mut second = None;
    while second.is_none() && page_size <= last_size {
        second = meta_at(u64::from(page_size))?.filter(|meta| meta.page_size == page_size);
        page_size *= 2;
    }
    let later = first.into_iter().chain(second).max_by_key(|meta| meta.transaction);
    later.ok_or(ReadError::NotEtcd("the file starts with no sound meta page of a bbolt database"))
}

fn buckets_of(database: &Database, root: u64) -> Result<Buckets, ReadError> {
    let mut buckets = Buckets::default();
    let root = Root::Page(root);
    for record in database.walk(&root) {
        let record = record?;
        let place = match str::from_utf8(&record.key) {
            Ok(KEY_BUCKET) => &mut buckets.keys,
            Ok(LEASE_BUCKET) => &mut buckets.leases,
            Ok(MEMBERS_BUCKET) => &mut buckets.members,
            Ok(META_BUCKET) => &mut buckets.meta,
            Ok(CLUSTER_BUCKET) => &mut buckets.cluster,
            Ok(AUTH_BUCKET) => &mut buckets.auth,
            _ => continue,
        };
        let bucket = Root::decode(&record.value).filter(|_| record.is_bucket);
        *place = Some(bucket.ok_or(undecodable("bucket", &record))?);
    }
    if buckets.keys.is_none() || buckets.meta.is_none() {
        return Err(ReadError::NotEtcd("the database has no bucket of keys, or none about itself"));
    }
    Ok(buckets)
}

fn info_of(database: &Database, buckets: &Buckets) -> Result<Info, ReadError> {
    let mut info = Info {
        applied_index: 0,
        term: 0,
        compact_revision: None,
        cluster_version: None,
        storage_version: None,
        auth_enabled: false,
    };
    for root in [&buckets.meta, &buckets.cluster, &buckets.auth].into_iter().flatten() {
        for record in database.walk(root) {
            let record = record?;
            match str::from_utf8(&record.key) {
                Ok(CONSISTENT_INDEX) => info.applied_index = number(&record)?,
                Ok(TERM) => info.term = number(&record)?,
                // A compaction that etcd had begun, it would carry on before it serves.
                Ok(SCHEDULED_COMPACTION | FINISHED_COMPACTION) => {
                    let (revision, _) = revision(&record, &record.value)?;
                    info.compact_revision = info.compact_revision.max(Some(revision.main));
                }
                Ok(STORAGE_VERSION) => info.storage_version = Some(text(&record)?),
                Ok(CLUSTER_VERSION) => info.cluster_version = Some(text(&record)?),
                Ok(AUTH_ENABLED) => info.auth_enabled = *record.value == [1],
                _ => {}
            }
        }
    }
    Ok(info)
}

fn undecodable(what: &'static str, record: &Record) -> ReadError {
    ReadError::Undecodable { what, page: record.page }
}

fn number(record: &Record) -> Result<u64, ReadError> {
    let bytes = record.value.as_ref().try_into().map_err(|_| undecodable("number", record))?;
    Ok(u64::from_be_bytes(bytes))
}

fn revision(record: &Record, bytes: &[u8]) -> Result<(Revision, bool), ReadError> {
    Revision::parse(bytes).ok_or_else(|| undecodable("revision", record))
}

fn text(record: &Record) -> Result<String, ReadError> {
    String::from_utf8(record.value.to_vec()).map_err(|_| undecodable("version", record))
}

fn decode<T: Message + Default>(what: &'static str, record: &Record) -> Result<T, ReadError> {
    T::decode(record.value.clone()).map_err(|_| undecodable(what, record))
}

/// The next record of a bucket that may be absent; buckets within it are passed over.
fn next_record(walk: &mut Option<Walk<'_>>) -> Option<Result<Record, ReadError>> {
    walk.as_mut()?.find(|record| record.as_ref().map_or(true, |record| !record.is_bucket))
}

/// Ends an iterator at its first error.
fn end_at_error<T>(walk: &mut Option<Walk<'_>>, item: Result<T, ReadError>) -> Result<T, ReadError> {
    if item.is_err() {
        *walk = None;
    }
    item
}

/// Iterates over the events of a [`Reader`].
#[derive(Debug)]
pub struct Keys<'a>(Option<Walk<'a>>);

fn event(record: &Record) -> Result<(Revision, Option<Event>), ReadError> {
    let (revision, is_tombstone) = revision(record, &record.key)?;
    let put: KeyValue = decode("key", record)?;
    // A restore that raises the revision leaves a record of it without a key.
    let event = match (put.key.is_empty(), is_tombstone) {
        (true, false) => None,
        (true, true) => return Err(undecodable("deletion", record)),
        (false, false) => Some(Event::Put(put)),
        (false, true) => Some(Event::Delete { key: put.key }),
    };
    Ok((revision, event))
}

impl Iterator for Keys<'_> {
    type Item = Result<(Revision, Event), ReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let item = next_record(&mut self.0)?.and_then(|record| event(&record));
            match end_at_error(&mut self.0, item) {
                Ok((revision, Some(event))) => return Some(Ok((revision, event))),
                Ok((_, None)) => {}
                Err(error) => return Some(Err(error)),
            }
        }
    }
}

/// Iterates over the leases of a [`Reader`].
#[derive(Debug)]
pub struct Leases<'a>(Option<Walk<'a>>);

impl Iterator for Leases<'_> {
    type Item = Result<Lease, ReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        let item = next_record(&mut self.0)?.and_then(|record| decode("lease", &record));
        Some(end_at_error(&mut self.0, item))
    }
}

/// Iterates over the members of a [`Reader`].
#[derive(Debug)]
pub struct Members<'a>(Option<Walk<'a>>);

impl Iterator for Members<'_> {
    type Item = Result<Member, ReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        let item = next_record(&mut self.0)?.and_then(|record| {
            serde_json::from_slice(&record.value).map_err(|_| undecodable("member", &record))
        });
        Some(end_at_error(&mut self.0, item))
    }
}

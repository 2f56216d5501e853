//! The database, its batches, snapshots and walks.

use std::fmt;
use std::fs;
use std::marker::PhantomData;
use std::ops::{Bound, Deref};
use std::path::Path;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::content::{Bytes, Change, Content, Family};
use crate::disk::{self, Lasting, Open};
use crate::options::{ColumnFamilyDescriptor, FlushOptions, Options, ReadOptions, ReadTier, WriteOptions};
use crate::properties::{ESTIMATE_NUM_KEYS, PropName};

/// The file that says whose folder it is.
pub(crate) const CURRENT: &str = "CURRENT";
/// The file of a copy's content; files of this kind are never written again.
pub(crate) const TABLE: &str = "000001.sst";
/// What [`CURRENT`] says in a copy.
pub(crate) const CHECKPOINT: &str = "checkpoint";

/// Why something was not done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error(String);

impl Error {
    pub(crate) fn new(reason: impl Into<String>) -> Self {
        Self(reason.into())
    }

    /// The reason.
    pub fn into_string(self) -> String {
        self.0
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Error {}

/// A column family of an open database.
#[derive(Debug, Clone)]
pub struct ColumnFamily(Arc<str>);

/// What names a column family.
pub trait AsColumnFamilyRef {
    /// Its name.
    fn name(&self) -> &Arc<str>;
}

impl AsColumnFamilyRef for ColumnFamily {
    fn name(&self) -> &Arc<str> {
        &self.0
    }
}

impl<T: AsColumnFamilyRef> AsColumnFamilyRef for &T {
    fn name(&self) -> &Arc<str> {
        (*self).name()
    }
}

/// Changes that are made together.
#[derive(Debug, Clone, Default)]
pub struct WriteBatch {
    changes: Vec<Change>,
    bytes: usize,
}

impl WriteBatch {
    /// Sets a key.
    pub fn put_cf(&mut self, cf: &impl AsColumnFamilyRef, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) {
        let (key, value) = (key.as_ref(), value.as_ref());
        self.bytes += key.len() + value.len();
        let family = Arc::clone(cf.name());
        self.changes.push(Change::Put { family, key: key.into(), value: value.into() });
    }

    /// Removes a key.
    pub fn delete_cf(&mut self, cf: &impl AsColumnFamilyRef, key: impl AsRef<[u8]>) {
        self.bytes += key.as_ref().len();
        self.changes.push(Change::Delete { family: Arc::clone(cf.name()), key: key.as_ref().into() });
    }

    /// Removes the keys from `start` up to, and without, `end`.
    pub fn delete_range_cf(
        &mut self,
        cf: &impl AsColumnFamilyRef,
        start: impl AsRef<[u8]>,
        end: impl AsRef<[u8]>,
    ) {
        let (start, end) = (start.as_ref(), end.as_ref());
        self.bytes += start.len() + end.len();
        let family = Arc::clone(cf.name());
        self.changes.push(Change::DeleteRange { family, start: start.into(), end: end.into() });
    }

    /// Whether it changes nothing.
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    /// Roughly its size.
    pub fn size_in_bytes(&self) -> usize {
        self.bytes
    }
}

/// A value.
pub struct DBPinnableSlice<'a>(Bytes, PhantomData<&'a ()>);

impl Deref for DBPinnableSlice<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

/// An open database.
pub struct DB {
    number: u64,
    families: Vec<ColumnFamily>,
    open: Arc<Mutex<Open>>,
    is_read_only: bool,
}

impl DB {
    /// Opens or creates the database in `dir`.
    pub fn open_cf_descriptors(
        _options: &Options,
        dir: impl AsRef<Path>,
        families: impl IntoIterator<Item = ColumnFamilyDescriptor>,
    ) -> Result<Self, Error> {
        let dir = dir.as_ref();
        let text = match fs::read_to_string(dir.join(CURRENT)) {
            Ok(text) => Some(text),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
            Err(error) => return Err(Error::new(error.to_string())),
        };
        let (number, lasting) = match text {
            Some(text) if text != CHECKPOINT => {
                let number = parse(&text)?;
                let lasting = disk::acquire(number)
                    .ok_or_else(|| Error::new(format!("{} is locked by another process", dir.display())))?;
                (number, lasting)
            }
            copied => {
                let number = disk::new_number();
                let flushed = if copied.is_some() { read_table(dir)? } else { Content::default() };
                fs::write(dir.join(CURRENT), number.to_string())
                    .map_err(|error| Error::new(error.to_string()))?;
                (number, Lasting { flushed, ..Lasting::default() })
            }
        };
        Ok(Self::start(number, dir, lasting, families, false))
    }

    /// Opens the database in `dir` to look at it.
    pub fn open_cf_descriptors_read_only(
        _options: &Options,
        dir: impl AsRef<Path>,
        families: impl IntoIterator<Item = ColumnFamilyDescriptor>,
        _fail_if_journal_exists: bool,
    ) -> Result<Self, Error> {
        let dir = dir.as_ref();
        let text = fs::read_to_string(dir.join(CURRENT)).map_err(|error| Error::new(error.to_string()))?;
        let flushed = if text == CHECKPOINT {
            read_table(dir)?
        } else {
            disk::peek(parse(&text)?).ok_or_else(|| Error::new("the database is in use"))?
        };
        let lasting = Lasting { flushed, ..Lasting::default() };
        Ok(Self::start(disk::new_number(), dir, lasting, families, true))
    }

    fn start(
        number: u64,
        dir: &Path,
        mut lasting: Lasting,
        families: impl IntoIterator<Item = ColumnFamilyDescriptor>,
        is_read_only: bool,
    ) -> Self {
        let families: Vec<_> = families.into_iter().map(|family| ColumnFamily(family.name.into())).collect();
        for family in &families {
            lasting.flushed.0.entry(family.0.to_string()).or_insert_with(Family::new_sync);
        }
        // Recovery writes what it finds in the journal into synced files.
        for batch in std::mem::take(&mut lasting.journal) {
            lasting.flushed.apply(&batch);
        }
        lasting.synced = 0;
        let memory = lasting.flushed.clone();
        let open = Open { dir: dir.to_owned(), memory, lasting, is_alive: true, fails: false, lies: false };
        let open = disk::register(number, open);
        Self { number, families, open, is_read_only }
    }

    /// The names of the families in `dir`.
    pub fn list_cf(_options: &Options, dir: impl AsRef<Path>) -> Result<Vec<String>, Error> {
        let dir = dir.as_ref();
        let text = fs::read_to_string(dir.join(CURRENT)).map_err(|error| Error::new(error.to_string()))?;
        let content =
            if text == CHECKPOINT { read_table(dir)? } else { disk::peek(parse(&text)?).unwrap_or_default() };
        Ok(content.0.into_keys().collect())
    }

    /// The family called `name`.
    pub fn cf_handle(&self, name: &str) -> Option<&ColumnFamily> {
        self.families.iter().find(|family| &*family.0 == name)
    }

    /// All of it as it is now.
    pub(crate) fn content(&self) -> Result<Content, Error> {
        let open = self.open.lock();
        if open.is_alive { Ok(open.memory.clone()) } else { Err(gone()) }
    }

    /// The value of a key.
    pub fn get_pinned_cf_opt(
        &self,
        cf: &impl AsColumnFamilyRef,
        key: impl AsRef<[u8]>,
        options: &ReadOptions,
    ) -> Result<Option<DBPinnableSlice<'_>>, Error> {
        let open = self.open.lock();
        if !open.is_alive {
            return Err(gone());
        }
        let content = match options.tier {
            ReadTier::All => &open.memory,
            ReadTier::Persisted => &open.lasting.flushed,
        };
        Ok(lookup(content, cf, key.as_ref()))
    }

    /// The value of a key, copied.
    pub fn get_cf(
        &self,
        cf: &impl AsColumnFamilyRef,
        key: impl AsRef<[u8]>,
    ) -> Result<Option<Vec<u8>>, Error> {
        let found = self.get_pinned_cf_opt(cf, key, &ReadOptions::default())?;
        Ok(found.map(|value| value.to_vec()))
    }

    /// A walk over a family as it is now.
    pub fn raw_iterator_cf(&self, cf: &impl AsColumnFamilyRef) -> DBRawIterator<'_> {
        self.raw_iterator_cf_opt(cf, ReadOptions::default())
    }

    /// A walk over a family as it is now.
    pub fn raw_iterator_cf_opt(
        &self,
        cf: &impl AsColumnFamilyRef,
        options: ReadOptions,
    ) -> DBRawIterator<'_> {
        let content = self.content();
        DBRawIterator::new(content.map(|content| family_of(&content, cf)), options)
    }

    /// All families as they are now.
    pub fn snapshot(&self) -> Snapshot<'_> {
        Snapshot { content: self.content(), lifetime: PhantomData }
    }

    /// Makes a batch visible.
    pub fn write_opt(&self, batch: WriteBatch, options: &WriteOptions) -> Result<(), Error> {
        if self.is_read_only {
            return Err(Error::new("the database is open for reading only"));
        }
        let flushes = options.without_journal && disk::flushes_by_itself();
        let mut open = self.open.lock();
        if !open.is_alive {
            return Err(gone());
        }
        let open = &mut *open;
        open.memory.apply(&batch.changes);
        if options.without_journal {
            if flushes {
                open.lasting.flushed = open.memory.clone();
            }
            return Ok(());
        }
        open.lasting.journal.push(batch.changes);
        if !options.sync {
            return Ok(());
        }
        if std::mem::take(&mut open.fails) {
            return Err(Error::new("IO error: the disk does not answer"));
        }
        if !open.lies {
            // All of it is synced: there is no telling it from what is flushed.
            for batch in open.lasting.journal.drain(..) {
                open.lasting.flushed.apply(&batch);
            }
        }
        Ok(())
    }

    /// Removes what lies in files that hold nothing but the given keys: here, drawn
    /// anew each time, all keys up to one of them.
    pub fn delete_file_in_range_cf(
        &self,
        cf: &impl AsColumnFamilyRef,
        start: impl AsRef<[u8]>,
        end: impl AsRef<[u8]>,
    ) -> Result<(), Error> {
        let (start, end) = (start.as_ref(), end.as_ref());
        let is_within = |key: &[u8]| start <= key && key <= end;
        let keys: Vec<Bytes> =
            family_of(&self.content()?, cf).keys().filter(|key| is_within(key)).cloned().collect();
        let files = disk::draw(keys.len() + 1);
        let Some(last) = keys.into_iter().take(files).last() else { return Ok(()) };
        let mut open = self.open.lock();
        let is_gone = |key: &[u8]| is_within(key) && *key <= *last;
        open.memory.delete(cf.name(), is_gone);
        open.lasting.flushed.delete(cf.name(), is_gone);
        Ok(())
    }

    /// Writes all that is in memory to synced files.
    pub fn flush_cfs_opt<C: AsColumnFamilyRef>(
        &self,
        _families: &[&C],
        _options: &FlushOptions,
    ) -> Result<(), Error> {
        let mut open = self.open.lock();
        if !open.is_alive {
            return Err(gone());
        }
        if std::mem::take(&mut open.fails) {
            return Err(Error::new("IO error: the disk does not answer"));
        }
        open.lasting.flushed = open.memory.clone();
        open.lasting.journal.clear();
        open.lasting.synced = 0;
        Ok(())
    }

    /// A figure of a family.
    pub fn property_int_value_cf(
        &self,
        cf: &impl AsColumnFamilyRef,
        name: &PropName,
    ) -> Result<Option<u64>, Error> {
        let keys = || self.content().map(|content| family_of(&content, cf).size() as u64);
        if name == ESTIMATE_NUM_KEYS { keys().map(Some) } else { Ok(None) }
    }

    /// There is none.
    pub fn cancel_all_background_work(&self, _wait: bool) {}

    /// Takes a family away. Its entries stay where nobody finds them: only a database whose
    /// folder goes is treated so.
    pub fn drop_cf(&mut self, name: &str) -> Result<(), Error> {
        self.families.retain(|family| &*family.0 != name);
        Ok(())
    }

    /// Nothing is deleted.
    pub fn disable_file_deletions(&self) -> Result<(), Error> {
        Ok(())
    }
}

impl Drop for DB {
    fn drop(&mut self) {
        let mut open = self.open.lock();
        if open.is_alive {
            open.is_alive = false;
            let lasting = std::mem::take(&mut open.lasting);
            drop(open);
            // Closing does not sync; what a process has written survives its end.
            disk::release(self.number, lasting);
        }
    }
}

fn gone() -> Error {
    Error::new("IO error: the machine is down")
}

fn parse(text: &str) -> Result<u64, Error> {
    text.trim().parse().map_err(|_| Error::new(format!("Corruption: CURRENT says {text:?}")))
}

fn read_table(dir: &Path) -> Result<Content, Error> {
    let file = fs::read(dir.join(TABLE)).map_err(|error| Error::new(error.to_string()))?;
    Content::decode(&file).ok_or_else(|| Error::new("Corruption: a table file is damaged"))
}

fn family_of(content: &Content, cf: &impl AsColumnFamilyRef) -> Family {
    content.0.get(&**cf.name()).cloned().unwrap_or_else(Family::new_sync)
}

fn lookup<'a>(content: &Content, cf: &impl AsColumnFamilyRef, key: &[u8]) -> Option<DBPinnableSlice<'a>> {
    let found = content.0.get(&**cf.name())?.get(key)?;
    Some(DBPinnableSlice(Arc::clone(found), PhantomData))
}

/// All families at one moment.
pub struct Snapshot<'a> {
    content: Result<Content, Error>,
    lifetime: PhantomData<&'a DB>,
}

impl Snapshot<'_> {
    /// The value of a key.
    pub fn get_pinned_cf(
        &self,
        cf: &impl AsColumnFamilyRef,
        key: impl AsRef<[u8]>,
    ) -> Result<Option<DBPinnableSlice<'_>>, Error> {
        match &self.content {
            Ok(content) => Ok(lookup(content, cf, key.as_ref())),
            Err(error) => Err(error.clone()),
        }
    }

    /// A walk over a family.
    pub fn raw_iterator_cf_opt(
        &self,
        cf: &impl AsColumnFamilyRef,
        options: ReadOptions,
    ) -> DBRawIterator<'_> {
        let content = self.content.as_ref().map_err(Clone::clone);
        DBRawIterator::new(content.map(|content| family_of(content, cf)), options)
    }
}

/// A walk over a family.
pub struct DBRawIterator<'a> {
    family: Result<Family, Error>,
    options: ReadOptions,
    at: Option<(Bytes, Bytes)>,
    lifetime: PhantomData<&'a DB>,
}

impl DBRawIterator<'_> {
    fn new(family: Result<Family, Error>, options: ReadOptions) -> Self {
        Self { family, options, at: None, lifetime: PhantomData }
    }

    /// Goes to the first or the last entry from `from` to `to` that is within bounds.
    fn go(&mut self, from: Bound<&[u8]>, to: Bound<&[u8]>, forwards: bool) {
        let lower = self.options.lower.as_deref();
        let upper = self.options.upper.as_deref();
        let from = match (from, lower) {
            (Bound::Unbounded, Some(lower)) => Bound::Included(lower),
            (Bound::Included(key) | Bound::Excluded(key), Some(lower)) if key < lower => {
                Bound::Included(lower)
            }
            (from, _) => from,
        };
        let to = match (to, upper) {
            (Bound::Unbounded, Some(upper)) => Bound::Excluded(upper),
            (Bound::Included(key) | Bound::Excluded(key), Some(upper)) if key >= upper => {
                Bound::Excluded(upper)
            }
            (to, _) => to,
        };
        let is_empty = match (from, to) {
            (Bound::Included(from), Bound::Included(to)) => from > to,
            (Bound::Included(from) | Bound::Excluded(from), Bound::Included(to) | Bound::Excluded(to)) => {
                from >= to
            }
            (Bound::Unbounded, _) | (_, Bound::Unbounded) => false,
        };
        self.at = match &self.family {
            Ok(family) if !is_empty => {
                let mut range = family.range::<[u8], _>((from, to));
                let entry = if forwards { range.next() } else { range.next_back() };
                entry.map(|(key, value)| (Arc::clone(key), Arc::clone(value)))
            }
            Ok(_) | Err(_) => None,
        };
    }

    /// Goes to the first entry.
    pub fn seek_to_first(&mut self) {
        self.go(Bound::Unbounded, Bound::Unbounded, true);
    }

    /// Goes to the last entry.
    pub fn seek_to_last(&mut self) {
        self.go(Bound::Unbounded, Bound::Unbounded, false);
    }

    /// Goes to the first entry at or after `key`.
    pub fn seek(&mut self, key: impl AsRef<[u8]>) {
        self.go(Bound::Included(key.as_ref()), Bound::Unbounded, true);
    }

    /// Goes to the last entry at or before `key`.
    pub fn seek_for_prev(&mut self, key: impl AsRef<[u8]>) {
        self.go(Bound::Unbounded, Bound::Included(key.as_ref()), false);
    }

    /// Goes one entry on.
    pub fn next(&mut self) {
        if let Some((key, _)) = self.at.take() {
            self.go(Bound::Excluded(&key), Bound::Unbounded, true);
        }
    }

    /// Whether it is at an entry.
    pub fn valid(&self) -> bool {
        self.at.is_some()
    }

    /// The key here.
    pub fn key(&self) -> Option<&[u8]> {
        self.at.as_ref().map(|(key, _)| &**key)
    }

    /// The key and the value here.
    pub fn item(&self) -> Option<(&[u8], &[u8])> {
        self.at.as_ref().map(|(key, value)| (&**key, &**value))
    }

    /// Why the walk is no good, if so.
    pub fn status(&self) -> Result<(), Error> {
        self.family.as_ref().map(|_| ()).map_err(Clone::clone)
    }
}

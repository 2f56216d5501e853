//! Logs that the database wrote, damaged on purpose or torn as power loss tears
//! them.
//!
//! The tests know where each fragment is by their own arithmetic, not from the
//! code under test. The limit is tested too: damage within the very last batch is
//! what power loss leaves, so it is accepted and the batch is gone.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::FileExt as _;

use openraft::vote::RaftLeaderId as _;
use proptest::collection::vec;
use proptest::prelude::*;

use super::super::log_codec::{Entry, LeaderId, LogId, Payload, Vote};
use super::super::log_db::{LogBatch, LogDb, oldest_needed};
use super::*;
use crate::command::Proposal;

const BUFFER: usize = 64 * 1024;

/// Where a batch is: the file, and where each fragment begins and ends.
#[derive(Debug, Clone)]
struct Place {
    file: PathBuf,
    fragments: Vec<(usize, usize)>,
}

impl Place {
    fn start(&self) -> usize {
        self.fragments[0].0
    }

    fn end(&self) -> usize {
        self.fragments[self.fragments.len() - 1].1
    }

    fn bytes(&self) -> usize {
        self.fragments.iter().map(|(start, end)| end - start).sum()
    }

    /// Where byte number `at` of its fragments is in the file.
    fn position(&self, mut at: usize) -> usize {
        for (start, end) in &self.fragments {
            if at < end - start {
                return start + at;
            }
            at -= end - start;
        }
        panic!("the batch is shorter")
    }
}

/// An open log that notes where each batch goes.
struct Log {
    db: LogDb,
    dir: tempfile::TempDir,
    places: Vec<Place>,
}

fn entry(index: u64, payload: Vec<u8>) -> Entry {
    let log_id = LogId::new(LeaderId::new(1, 1), index);
    Entry { log_id, payload: Payload::Normal(Proposal::from_bytes(payload.into())) }
}

/// Bytes that do not compress and differ from batch to batch.
fn noise(seed: u64, size: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(2).wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    (0..size).map(|_| next()).collect()
}

fn wals(dir: &Path) -> Vec<PathBuf> {
    files(dir).unwrap().into_iter().map(|(_, path)| path).collect()
}

impl Log {
    fn new(write_buffer_bytes: usize) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let db = LogDb::open(dir.path(), write_buffer_bytes).unwrap();
        Self { db, dir, places: Vec::new() }
    }

    fn of(sizes: &[usize], write_buffer_bytes: usize) -> Self {
        let mut log = Self::new(write_buffer_bytes);
        for size in sizes {
            log.write(noise(log.places.len() as u64, *size));
        }
        log
    }

    fn write(&mut self, payload: Vec<u8>) {
        let mut batch = LogBatch::default();
        batch.append(&self.db, &entry(self.places.len() as u64, payload));
        // The other family is flushed rarely and so keeps files needed.
        batch.vote(&self.db, &Vote::new(1, 1));
        let bytes = batch.bytes();
        self.db.write(batch).unwrap();
        let file = wals(self.dir.path()).pop().unwrap();
        let file = PathBuf::from(file.file_name().unwrap());
        let at = self.places.last().filter(|last| last.file == file).map_or(0, Place::end);
        self.places.push(Place { file, fragments: lay_out(at, bytes) });
    }

    fn last(&self) -> Place {
        self.places.last().unwrap().clone()
    }

    /// The batches that recovery would read.
    fn needed(&self, picture: &Picture) -> Vec<Place> {
        let oldest = PathBuf::from(format!("{:06}.log", picture.oldest.unwrap()));
        self.places.iter().filter(|place| place.file >= oldest).cloned().collect()
    }

    /// What a machine without power would have; background work does not stop for it.
    fn picture(&self) -> Picture {
        let list = || -> BTreeSet<(PathBuf, u64)> {
            let files = fs::read_dir(self.dir.path()).unwrap().filter_map(Result::ok);
            files.filter_map(|file| Some((file.path(), file.metadata().ok()?.len()))).collect()
        };
        loop {
            let (before, dir) = (list(), tempfile::tempdir().unwrap());
            let copy = |file: &Path| fs::copy(file, dir.path().join(file.file_name().unwrap()));
            if before.iter().all(|(file, _)| copy(file).is_ok()) && list() == before {
                let oldest = oldest_needed(dir.path()).unwrap();
                return Picture { dir, oldest };
            }
        }
    }
}

/// How the database breaks a batch into fragments.
fn lay_out(mut at: usize, mut bytes: usize) -> Vec<(usize, usize)> {
    let mut fragments = Vec::new();
    loop {
        if BLOCK - at % BLOCK < HEADER {
            at = at.next_multiple_of(BLOCK);
        }
        let taken = bytes.min(BLOCK - at % BLOCK - HEADER);
        fragments.push((at, at + HEADER + taken));
        at += HEADER + taken;
        bytes -= taken;
        if bytes == 0 {
            return fragments;
        }
    }
}

fn flip(file: &Path, at: usize, bit: u8) {
    let file = File::options().read(true).write(true).open(file).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at as u64).unwrap();
    byte[0] ^= 1 << bit;
    file.write_all_at(&byte, at as u64).unwrap();
}

/// A copy of a folder.
struct Picture {
    dir: tempfile::TempDir,
    /// The oldest file that recovery would read.
    oldest: Option<u64>,
}

impl Picture {
    fn path(&self) -> &Path {
        self.dir.path()
    }

    fn audit(&self) -> Result<(), StorageError> {
        audit(self.path(), self.oldest)
    }

    /// Checks that the log is refused because of damage to `place`.
    fn assert_refused(&self, place: &Place, what: &str) {
        assert_damaged(&self.audit(), place, what);
    }
}

fn assert_damaged(result: &Result<(), StorageError>, place: &Place, what: &str) {
    let Err(StorageError::DamagedLog { path, at, .. }) = result else {
        panic!("{what} was not noticed: {result:?}, {place:?}")
    };
    assert_eq!(path.file_name(), place.file.file_name(), "{what}");
    // Before the batch there may be an end of a block that fits no header.
    let (start, at) = (place.start().saturating_sub(HEADER), *at as usize);
    assert!((start..place.end()).contains(&at), "{what}: {at}, {place:?}");
}

/// How many entries the log has, once it is open.
fn entries(folder: &Path) -> u64 {
    LogDb::open(folder, BUFFER).unwrap().load().unwrap().last.map_or(0, |last| last.index() + 1)
}

const SIZES: [usize; 14] = [50, 3_000, 40_000, 100, 0, 100, 200_000, 700, 20, 33_000, 90, 17, 1_000, 600];

#[test]
fn a_whole_log_is_accepted_and_the_arithmetic_of_these_tests_is_right() {
    let log = Log::of(&SIZES, 1 << 20);
    let picture = log.picture();
    picture.audit().unwrap();
    let file = picture.path().join(&log.last().file);
    let survey = Survey::of(&file, 4).unwrap();
    assert_eq!(survey.stop as usize, log.last().end(), "{file:?}");
    assert_eq!(fs::metadata(&file).unwrap().len() as usize, log.last().end());
    assert_eq!(survey.next.unwrap() - survey.first.unwrap(), 2 * SIZES.len() as u64);
    assert_eq!(entries(picture.path()), SIZES.len() as u64);
    assert!(!picture.path().join("no-wal").exists());
}

#[test]
fn each_bit_of_each_header_counts_and_so_does_the_payload() {
    let log = Log::of(&SIZES, 1 << 20);
    let picture = log.picture();
    let (last, earlier) = log.places.split_last().unwrap();
    let file = picture.path().join(&last.file);
    for place in earlier {
        for (start, end) in &place.fragments {
            let headers = (*start..start + HEADER).flat_map(|at| (0..8).map(move |bit| (at, bit)));
            let payload = [(start + HEADER).min(end - 1), start.midpoint(*end), end - 1].map(|at| (at, 3));
            for (at, bit) in headers.chain(payload) {
                flip(&file, at, bit);
                picture.assert_refused(place, &format!("bit {bit} of byte {at}"));
                flip(&file, at, bit);
            }
        }
    }
    picture.audit().unwrap();
}

#[test]
fn a_damaged_log_is_not_opened_and_the_message_says_where_it_is_damaged_and_what_to_do() {
    let log = Log::of(&SIZES, 1 << 20);
    let picture = log.picture();
    let place = &log.places[3];
    flip(&picture.path().join(&place.file), place.start() + 20, 0);
    let before = fs::read(picture.path().join(&place.file)).unwrap();
    for _ in 0..2 {
        let refused = LogDb::open(picture.path(), BUFFER).err().unwrap().to_string();
        let wanted = format!("{} at byte {}:", place.file.display(), place.start());
        assert!(refused.contains(&wanted), "{refused}");
        assert!(refused.contains("whole at byte") && refused.contains("docs/operations.md"), "{refused}");
    }
    assert!(fs::read(picture.path().join(&place.file)).unwrap() == before);
}

#[test]
fn zeros_in_the_middle_are_damage() {
    let log = Log::of(&SIZES, 1 << 20);
    let picture = log.picture();
    let file = picture.path().join(&log.last().file);
    let mut bytes = fs::read(&file).unwrap();
    let place = &log.places[6];
    bytes[place.start()..place.end()].fill(0);
    fs::write(&file, bytes).unwrap();
    picture.assert_refused(place, "a hole");
}

#[test]
fn damage_of_the_last_batch_is_a_torn_write() {
    let log = Log::of(&SIZES, 1 << 20);
    let last = log.last();
    for at in [0, 5, 6, 8, 30, 400] {
        let picture = log.picture();
        flip(&picture.path().join(&last.file), last.position(at), 2);
        assert_eq!(entries(picture.path()), SIZES.len() as u64 - 1);
    }
}

#[test]
fn a_log_cut_within_its_last_batch_is_accepted() {
    let log = Log::of(&SIZES, 1 << 20);
    let picture = log.picture();
    let last = log.last();
    let file = picture.path().join(&last.file);
    for length in (last.start()..last.end()).rev() {
        File::options().write(true).open(&file).unwrap().set_len(length as u64).unwrap();
        picture.audit().unwrap();
    }
    assert_eq!(entries(picture.path()), SIZES.len() as u64 - 1);
}

/// A log in reused files, with the remains of older ones behind their ends, just
/// after it went on in another file and before the last one became superfluous.
fn reused() -> (Log, Picture) {
    let mut log = Log::of(&[3_000; 150], BUFFER);
    for _ in 0..200 {
        let before = (log.last().file, log.picture());
        log.write(noise(log.places.len() as u64, 3_000));
        let file = log.last().file;
        if before.0 == file {
            continue;
        }
        let new = fs::read(log.picture().path().join(&file)).unwrap();
        if new.len() > log.last().end() + 8_192 {
            fs::write(before.1.path().join(&file), new).unwrap();
            return (log, before.1);
        }
    }
    panic!("no file was reused")
}

#[test]
fn damage_in_a_reused_file_is_refused_and_a_torn_end_is_not() {
    let (log, picture) = reused();
    picture.audit().unwrap();
    let needed = log.needed(&picture);
    let (last, earlier) = needed.split_last().unwrap();
    // The last ones of an older file have no batch after them in their file.
    for place in earlier {
        let file = picture.path().join(&place.file);
        for at in [0, 4, 5, 6, 7, 10, 11, 500, place.bytes() - 1] {
            flip(&file, place.position(at), 1);
            picture.assert_refused(place, &format!("byte {at}"));
            flip(&file, place.position(at), 1);
        }
    }
    flip(&picture.path().join(&last.file), last.start() + 100, 1);
    assert_eq!(entries(picture.path()), log.places.len() as u64 - 1);
}

#[test]
fn a_log_that_lost_the_end_of_a_file_and_goes_on_in_the_next_is_refused() {
    let (log, picture) = reused();
    let needed = log.needed(&picture);
    let first = needed[0].file.clone();
    assert_ne!(first, log.last().file);
    let lost = needed.iter().rev().find(|place| place.file == first).unwrap();
    let file = picture.path().join(&first);
    File::options().write(true).open(&file).unwrap().set_len(lost.start() as u64).unwrap();
    let refused = picture.audit().unwrap_err().to_string();
    assert!(refused.contains("the log goes on in"), "{refused}");
}

#[test]
fn a_crash_while_a_torn_log_is_being_opened_leaves_a_log_that_opens() {
    let log = Log::of(&SIZES, 1 << 20);
    let (last, torn) = (log.last(), log.picture());
    flip(&torn.path().join(&last.file), last.start() + 100, 0);
    let opened = log.picture();
    flip(&opened.path().join(&last.file), last.start() + 100, 0);
    drop(LogDb::open(opened.path(), BUFFER).unwrap());
    // The new log is there, and the list of files does not know it yet.
    let new = wals(opened.path()).pop().unwrap();
    let bytes = fs::read(&new).unwrap();
    assert!(!bytes.is_empty(), "recovery wrote no mark into the new log");
    for length in 0..=bytes.len() {
        fs::write(torn.path().join(new.file_name().unwrap()), &bytes[..length]).unwrap();
        torn.audit().unwrap();
    }
    assert_eq!(entries(torn.path()), SIZES.len() as u64 - 1);
}

#[test]
fn a_file_that_is_not_needed_any_more_may_be_damaged() {
    let log = Log::of(&SIZES, 1 << 20);
    let picture = log.picture();
    let place = &log.places[2];
    let file = picture.path().join(&place.file);
    let bytes = fs::read(&file).unwrap();
    // Recovery writes what the log holds into tables and begins a new log.
    assert_eq!(entries(picture.path()), SIZES.len() as u64);
    fs::write(&file, bytes).unwrap();
    flip(&file, place.start() + 50, 0);
    assert_damaged(&audit(picture.path(), Some(0)), place, "damage");
    assert_eq!(entries(picture.path()), SIZES.len() as u64);
}

#[test]
fn a_log_without_its_list_of_files_is_refused() {
    let log = Log::of(&SIZES, 1 << 20);
    let picture = log.picture();
    fs::remove_file(picture.path().join("CURRENT")).unwrap();
    let refused = LogDb::open(picture.path(), BUFFER).err().unwrap().to_string();
    assert!(refused.contains("CURRENT"), "{refused}");
}

#[test]
fn what_a_client_stores_is_never_taken_for_a_batch() {
    // A value that is full of fragments of the very log it is in.
    let mut fake = vec![0; HEADER + 20];
    fake[4] = 20;
    fake[6] = Kind::Full.code();
    fake[7] = 4;
    let crc = crc32c::crc32c(&fake[6..]);
    fake[..4].copy_from_slice(&crc.rotate_right(15).wrapping_add(0xa282_ead8).to_le_bytes());
    assert!(fragment(&fake, 0, 4).is_some());
    let mut log = Log::of(&SIZES[..5], 1 << 20);
    assert_eq!(log.last().file, Path::new("000004.log"));
    log.write(fake.repeat(3_000));
    let (last, picture) = (log.last(), log.picture());
    let file = picture.path().join(&last.file);
    let whole = fs::read(&file).unwrap();
    for sector in last.start() / 512..last.end().div_ceil(512) {
        let mut bytes = whole.clone();
        let start = (sector * 512).max(last.start());
        bytes[start..((sector + 1) * 512).min(last.end())].fill(0);
        fs::write(&file, bytes).unwrap();
        picture.audit().unwrap();
    }
}

/// Puts sectors of `new` that are drawn into `old`, which is shorter or as long.
fn tear(old: &[u8], new: &[u8], sector: usize, lost: &[bool], from: usize) -> Vec<u8> {
    let mut mixed = new.to_vec();
    for (number, bytes) in mixed.chunks_mut(sector).enumerate() {
        if lost[number % lost.len()] {
            for (at, byte) in bytes.iter_mut().enumerate() {
                let position = number * sector + at;
                if position >= from {
                    *byte = old.get(position).copied().unwrap_or(0);
                }
            }
        }
    }
    mixed
}

fn sizes() -> impl Strategy<Value = Vec<usize>> {
    let size = prop_oneof![8 => 0..2_000_usize, 3 => 20_000..70_000_usize, 1 => 100_000..3_000_000_usize];
    vec(size, 2..12)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn whatever_is_missing_of_the_last_batch_the_log_opens(
        sizes in sizes(),
        reuse in any::<bool>(),
        sector in prop_oneof![Just(512_usize), Just(4096)],
        tears in vec((vec(any::<bool>(), 1..40), 0..1_000_usize), 1..8),
    ) {
        let mut log = if reuse { Log::of(&[9_000; 40], BUFFER) } else { Log::new(16 << 20) };
        let (last_size, first_sizes) = sizes.split_last().unwrap();
        for size in first_sizes {
            log.write(noise(log.places.len() as u64, *size));
        }
        let older = log.picture();
        log.write(noise(log.places.len() as u64, *last_size));
        let (last, newer) = (log.last(), log.picture());
        let file = newer.path().join(&last.file);
        let old = fs::read(older.path().join(&last.file)).unwrap_or_default();
        let new = fs::read(&file).unwrap();
        for (lost, cut) in tears {
            let mut torn = tear(&old, &new, sector, &lost, last.start());
            if old.len() < torn.len() {
                torn.truncate(old.len().max(torn.len() - torn.len().min(cut * 7)));
            }
            fs::write(&file, torn).unwrap();
            if let Err(refused) = newer.audit() {
                return Err(TestCaseError::fail(refused.to_string()));
            }
        }
        let found = entries(newer.path());
        let whole = log.places.len() as u64;
        prop_assert!(found == whole || found == whole - 1, "{} of {}", found, whole);
    }

    #[test]
    fn a_flipped_bit_in_an_earlier_batch_is_always_noticed(
        sizes in sizes(),
        flips in vec((any::<prop::sample::Index>(), any::<prop::sample::Index>(), 0..8_u8), 1..20),
    ) {
        let log = Log::of(&sizes, 64 << 20);
        let picture = log.picture();
        let (last, earlier) = log.places.split_last().unwrap();
        let file = picture.path().join(&last.file);
        for (batch, byte, bit) in flips {
            let place = &earlier[batch.index(earlier.len())];
            let at = place.position(byte.index(place.bytes()));
            flip(&file, at, bit);
            picture.assert_refused(place, &format!("bit {bit} of byte {at}"));
            flip(&file, at, bit);
        }
    }
}

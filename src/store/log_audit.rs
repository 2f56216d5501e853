//! Tells a log that is damaged in the middle from one whose last write was torn.
//!
//! Recovery reads the write-ahead log up to the first damage and takes what
//! follows for the remains of an older log. For the last batch of a machine that
//! lost power that is right: it was acknowledged to nobody. After a flipped bit it
//! silently loses what was acknowledged. So this reads the files first, and
//! refuses a log that goes on after damage.
//!
//! It leans on one premise: each batch is synced before the next one is written.
//! So nothing of a log can be on disk after a batch that power loss tore. Whatever
//! breaks the premise would keep nodes down after a power cut. It must never
//! change a file, and never refuse what a crash alone can leave.
//!
//! The files are in the format of `RocksDB` for logs that are reused: blocks of
//! 32 KiB, filled with fragments that never cross a block. Its integers are
//! little-endian. The remains of an older log may follow the end.
//!
//! | bytes | field |
//! |---|---|
//! | 4 | CRC-32C, masked, of everything from the type on |
//! | 2 | length of the payload |
//! | 1 | type: 5 a whole batch, 6 its first fragment, 7 a further one, 8 the last |
//! | 4 | number of the log, its low half |
//! | n | payload |

use std::fs::File;
use std::io::{ErrorKind, Read as _};
use std::path::{Path, PathBuf};

use crate::error::StorageError;

const BLOCK: usize = 32 * 1024;
const HEADER: usize = 11;
/// A batch begins with its sequence number (8) and the number of its operations (4).
const BATCH_HEADER: usize = 12;

/// Refuses the write-ahead log in `dir` if it lost something in the middle.
///
/// Files numbered below `oldest` are not needed any more and may hold anything:
/// even another log's batches, if power went while a file was being reused.
/// `None` says that the database does not exist, and so nothing was written to it.
///
/// # Errors
/// If a file can't be read, and [`StorageError::DamagedLog`].
pub(super) fn audit(dir: &Path, oldest: Option<u64>) -> Result<(), StorageError> {
    let mut before: Option<End> = None;
    for (number, path) in files(dir)? {
        if number < oldest.unwrap_or(0) {
            continue;
        }
        let survey = Survey::of(&path, number)?;
        if let Some(later) = survey.later {
            let why = format!("a batch that was written later is whole at byte {later}");
            return Err(StorageError::DamagedLog { path, at: survey.stop, why });
        }
        if let Some(first) = survey.first {
            if oldest.is_none() {
                let why = "the file CURRENT, which belongs beside it, is missing".to_owned();
                return Err(StorageError::DamagedLog { path, at: 0, why });
            }
            if let Some(end) = before.as_ref().filter(|end| end.next.is_none_or(|next| next < first)) {
                let why = format!("the log goes on in {number:06}.log, and what was between is missing");
                return Err(StorageError::DamagedLog { path: end.path.clone(), at: end.stop, why });
            }
        }
        // An empty file was created and never written.
        if survey.stop > 0 || survey.begun {
            let next = survey.next.or(before.and_then(|end| end.next));
            before = Some(End { path, stop: survey.stop, next });
        }
    }
    Ok(())
}

/// Where the files so far end.
struct End {
    path: PathBuf,
    stop: u64,
    /// The sequence number that comes next, if it is known.
    next: Option<u64>,
}

/// The write-ahead log's files, by number.
fn files(dir: &Path) -> Result<Vec<(u64, PathBuf)>, StorageError> {
    let failed = |error: std::io::Error| StorageError::file("listing", dir, &error);
    let mut files = Vec::new();
    for file in std::fs::read_dir(dir).map_err(failed)? {
        let path = file.map_err(failed)?.path();
        let number = path.file_stem().and_then(|stem| stem.to_str()).and_then(|stem| stem.parse().ok());
        if path.extension().is_some_and(|end| end == "log")
            && let Some(number) = number
        {
            files.push((number, path));
        }
    }
    files.sort();
    Ok(files)
}

/// What one file holds.
#[derive(Debug, Default)]
struct Survey {
    /// Whether the file has any bytes.
    begun: bool,
    /// Sequence number of the first batch that is not empty. (Recovery writes an
    /// empty one into a new log when it gave up the end of an old one.)
    first: Option<u64>,
    /// The sequence number after the last whole batch.
    next: Option<u64>,
    /// Where the last whole fragment that belongs there ends.
    stop: u64,
    /// Where a batch begins after that.
    later: Option<u64>,
}

/// A fragment's place within its batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Full,
    First,
    Middle,
    Last,
}

impl Kind {
    const ALL: [Self; 4] = [Self::Full, Self::First, Self::Middle, Self::Last];

    fn code(self) -> u8 {
        match self {
            Self::Full => 5,
            Self::First => 6,
            Self::Middle => 7,
            Self::Last => 8,
        }
    }

    fn begins(self) -> bool {
        matches!(self, Self::Full | Self::First)
    }

    fn ends(self) -> bool {
        matches!(self, Self::Full | Self::Last)
    }
}

/// The fields of a fragment, believed or not.
struct Header {
    crc: u32,
    len: usize,
    code: u8,
    log: u32,
}

impl Header {
    /// `None` if the block has no room for one there.
    fn at(block: &[u8], at: usize) -> Option<Self> {
        let &[c0, c1, c2, c3, l0, l1, code, n0, n1, n2, n3] = block.get(at..)?.first_chunk::<HEADER>()?;
        // Stored checksums are masked, so that data that holds some is checked as well as other data.
        let crc = u32::from_le_bytes([c0, c1, c2, c3]).wrapping_sub(0xa282_ead8).rotate_left(15);
        let len = usize::from(u16::from_le_bytes([l0, l1]));
        Some(Self { crc, len, code, log: u32::from_le_bytes([n0, n1, n2, n3]) })
    }

    fn kind(&self) -> Option<Kind> {
        Kind::ALL.into_iter().find(|kind| kind.code() == self.code)
    }
}

/// The checksum of a fragment's type and log number, to be continued.
fn seed(kind: Kind, log: u32) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&[kind.code()]), &log.to_le_bytes())
}

/// The whole fragment of the log at `at`, if there is one.
fn fragment(block: &[u8], at: usize, log: u32) -> Option<(Kind, &[u8])> {
    let header = Header::at(block, at)?;
    let kind = header.kind().filter(|_| header.log == log)?;
    let payload = block.get(at + HEADER..)?.get(..header.len)?;
    (crc32c::crc32c_append(seed(kind, log), payload) == header.crc).then_some((kind, payload))
}

/// Where the fragment after the damaged one at `at` must begin, if enough is left
/// to tell. Payloads are never searched: a client could have stored what looks
/// like a fragment.
fn after_damage(block: &[u8], at: usize, log: u32) -> Option<usize> {
    let header = Header::at(block, at)?;
    let rest = block.get(at + HEADER..)?;
    let stated = rest.get(..header.len);
    // The type or the log number is wrong, and all else is as the checksum says.
    if let Some(payload) = stated
        && Kind::ALL.into_iter().any(|kind| crc32c::crc32c_append(seed(kind, log), payload) == header.crc)
    {
        return Some(at + HEADER + header.len);
    }
    let kind = header.kind().filter(|_| header.log == log)?;
    // The length is wrong, and with another one all is as the checksum says.
    let mut crc = seed(kind, log);
    for (len, byte) in rest.iter().enumerate() {
        if crc == header.crc {
            return Some(at + HEADER + len);
        }
        crc = crc32c::crc32c_append(crc, std::slice::from_ref(byte));
    }
    // The payload or the checksum is wrong.
    stated.map(|payload| at + HEADER + payload.len())
}

/// A file, one block at a time.
struct Blocks<'a> {
    path: &'a Path,
    file: File,
    block: Vec<u8>,
    /// Where the block is in the file.
    start: u64,
}

impl<'a> Blocks<'a> {
    fn open(path: &'a Path) -> Result<Self, StorageError> {
        let file = File::open(path).map_err(|error| StorageError::file("opening", path, &error))?;
        let mut blocks = Self { path, file, block: Vec::with_capacity(BLOCK), start: 0 };
        blocks.fill()?;
        Ok(blocks)
    }

    fn fill(&mut self) -> Result<(), StorageError> {
        self.block.resize(BLOCK, 0);
        let mut filled = 0;
        while let Some(free) = self.block.get_mut(filled..).filter(|free| !free.is_empty()) {
            match self.file.read(free) {
                Ok(0) => break,
                Ok(read) => filled += read,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(StorageError::file("reading", self.path, &error)),
            }
        }
        self.block.truncate(filled);
        Ok(())
    }

    /// Goes to the next block; says whether there is one.
    fn advance(&mut self) -> Result<bool, StorageError> {
        if self.block.len() < BLOCK {
            return Ok(false);
        }
        self.start += BLOCK as u64;
        self.fill()?;
        Ok(!self.block.is_empty())
    }
}

impl Survey {
    fn of(path: &Path, number: u64) -> Result<Self, StorageError> {
        // The format has room for no more.
        let log = number as u32;
        let mut blocks = Blocks::open(path)?;
        let mut survey = Self { begun: !blocks.block.is_empty(), ..Self::default() };
        let at = survey.read(&mut blocks, log)?;
        survey.later = find_batch(&mut blocks, at, log)?;
        Ok(survey)
    }

    /// Reads as recovery does; returns where in the block that ended.
    fn read(&mut self, blocks: &mut Blocks<'_>, log: u32) -> Result<usize, StorageError> {
        let mut at = 0;
        let mut head = Vec::with_capacity(BATCH_HEADER);
        let mut within = false;
        loop {
            // What is too short for a header is left empty.
            if at + HEADER > BLOCK {
                if !blocks.advance()? {
                    return Ok(at);
                }
                at = 0;
            }
            let Some((kind, payload)) = fragment(&blocks.block, at, log) else { return Ok(at) };
            if kind.begins() == within {
                return Ok(at);
            }
            if kind.begins() {
                head.clear();
            }
            let missing = BATCH_HEADER - head.len();
            head.extend(payload.iter().take(missing));
            at += HEADER + payload.len();
            within = !kind.ends();
            self.stop = blocks.start + at as u64;
            if !within {
                self.count(&head);
            }
        }
    }

    /// Takes the header of a whole batch into account.
    fn count(&mut self, head: &[u8]) {
        let Some((sequence, rest)) = head.split_first_chunk::<8>() else { return };
        let Some(operations) = rest.first_chunk::<4>() else { return };
        let sequence = u64::from_le_bytes(*sequence);
        let operations = u64::from(u32::from_le_bytes(*operations));
        if operations > 0 && self.first.is_none() {
            self.first = Some(sequence);
        }
        self.next = Some(sequence.saturating_add(operations));
    }
}

/// Where the first batch of the log begins from `at` on, damage or not.
fn find_batch(blocks: &mut Blocks<'_>, mut at: usize, log: u32) -> Result<Option<u64>, StorageError> {
    loop {
        let mut next = Some(at);
        while let Some(at) = next {
            next = match fragment(&blocks.block, at, log) {
                Some((kind, _)) if kind.begins() => return Ok(Some(blocks.start + at as u64)),
                Some((_, payload)) => Some(at + HEADER + payload.len()),
                None => after_damage(&blocks.block, at, log),
            };
        }
        if !blocks.advance()? {
            return Ok(None);
        }
        at = 0;
    }
}

#[cfg(test)]
mod tests;

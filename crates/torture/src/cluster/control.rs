//! The file through which a node's disk is made to fail and its wall clock to jump.
//!
//! The library that is loaded into the node's process maps the file; what is written here
//! holds from the next call on.

use std::fmt;
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::time::Duration;

use super::error::HarnessError;
use super::layout;

/// The folders whose files are struck.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Folders {
    /// The Raft log.
    pub log: bool,
    /// The state.
    pub state: bool,
    /// All else in the data folder: snapshots, identity.
    pub other: bool,
}

impl Folders {
    /// The whole data folder.
    pub fn all() -> Self {
        Self { log: true, state: true, other: true }
    }

    fn or(self, more: Self) -> Self {
        Self { log: self.log || more.log, state: self.state || more.state, other: self.other || more.other }
    }

    fn bits(self) -> u64 {
        let bit = |is_set: bool, bit: u64| if is_set { bit } else { 0 };
        bit(self.log, layout::FOLDER_LOG)
            | bit(self.state, layout::FOLDER_STATE)
            | bit(self.other, layout::FOLDER_OTHER)
    }
}

/// What a disk does wrong.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DiskFaults {
    /// Where.
    pub folders: Folders,
    /// How many writes in a thousand fail.
    pub write_error_per_mille: u64,
    /// How many of the next writes fail.
    pub write_errors: u64,
    /// Half of a write that fails reaches the file.
    pub torn: bool,
    /// How many syncs in a thousand fail.
    pub sync_error_per_mille: u64,
    /// How many of the next syncs fail.
    pub sync_errors: u64,
    /// How many bytes there still is room for; `None` is any number.
    pub room_bytes: Option<u64>,
    /// Syncs do nothing and succeed.
    pub lies: bool,
    /// How much longer each sync takes.
    pub sync_delay: Duration,
    /// How much longer each write takes.
    pub write_delay: Duration,
}

impl DiskFaults {
    /// Both at once.
    #[must_use]
    pub fn and(&self, more: &Self) -> Self {
        let rooms = [self.room_bytes, more.room_bytes];
        Self {
            folders: self.folders.or(more.folders),
            write_error_per_mille: self.write_error_per_mille.max(more.write_error_per_mille),
            write_errors: self.write_errors.max(more.write_errors),
            torn: self.torn || more.torn,
            sync_error_per_mille: self.sync_error_per_mille.max(more.sync_error_per_mille),
            sync_errors: self.sync_errors.max(more.sync_errors),
            room_bytes: rooms.into_iter().flatten().min(),
            lies: self.lies || more.lies,
            sync_delay: self.sync_delay.max(more.sync_delay),
            write_delay: self.write_delay.max(more.write_delay),
        }
    }

    /// Whether a node that meets this may end itself.
    pub fn may_end_a_node(&self) -> bool {
        self.write_error_per_mille > 0
            || self.write_errors > 0
            || self.sync_error_per_mille > 0
            || self.sync_errors > 0
            || self.room_bytes.is_some()
    }
}

/// What the library did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Writes that failed.
    pub failed_writes: u64,
    /// Syncs that failed.
    pub failed_syncs: u64,
    /// Writes for which there was no room.
    pub refused_writes: u64,
    /// Writes and syncs that were made slow.
    pub delayed: u64,
    /// How often the process was told another time than the system's.
    pub clock_reads: u64,
}

impl Counts {
    /// What was done since they were as in `before`.
    #[must_use]
    pub fn since(self, before: Self) -> Self {
        Self {
            failed_writes: self.failed_writes - before.failed_writes,
            failed_syncs: self.failed_syncs - before.failed_syncs,
            refused_writes: self.refused_writes - before.refused_writes,
            delayed: self.delayed - before.delayed,
            clock_reads: self.clock_reads - before.clock_reads,
        }
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} writes and {} syncs failed, {} writes refused, {} calls delayed",
            self.failed_writes, self.failed_syncs, self.refused_writes, self.delayed
        )
    }
}

/// The control file of one node.
#[derive(Debug)]
pub struct ControlFile {
    file: File,
}

impl ControlFile {
    /// A new one, which lets everything pass. Random choices of the library begin at
    /// `seed`.
    pub fn create(path: &Path, seed: u64) -> Result<Self, HarnessError> {
        let what = || HarnessError::io(format!("the control file {}", path.display()));
        let file = File::options().create(true).truncate(true).read(true).write(true).open(path);
        let file = file.map_err(what())?;
        file.set_len((layout::WORDS * size_of::<u64>()) as u64).map_err(what())?;
        let control = Self { file };
        control.set(layout::SEED, seed)?;
        control.set(layout::MAGIC, layout::MAGIC_VALUE)?;
        Ok(control)
    }

    /// Sets the wall clock ahead of the system's, or behind it.
    pub fn set_clock(&self, seconds: i64) -> Result<(), HarnessError> {
        self.set(layout::CLOCK_OFFSET, seconds.cast_unsigned())
    }

    /// Makes the disk do this and nothing else wrong.
    pub fn set_disk(&self, faults: &DiskFaults) -> Result<(), HarnessError> {
        // Nothing is struck while the words do not belong together.
        self.set(layout::FOLDERS, 0)?;
        for (place, value) in [
            (layout::WRITE_ERROR_PER_MILLE, faults.write_error_per_mille),
            (layout::WRITE_ERRORS, faults.write_errors),
            (layout::TORN, u64::from(faults.torn)),
            (layout::SYNC_ERROR_PER_MILLE, faults.sync_error_per_mille),
            (layout::SYNC_ERRORS, faults.sync_errors),
            (layout::BOUNDED, u64::from(faults.room_bytes.is_some())),
            (layout::ROOM_BYTES, faults.room_bytes.unwrap_or(0)),
            (layout::LYING, u64::from(faults.lies)),
            (layout::SYNC_DELAY_MICROS, faults.sync_delay.as_micros() as u64),
            (layout::WRITE_DELAY_MICROS, faults.write_delay.as_micros() as u64),
        ] {
            self.set(place, value)?;
        }
        self.set(layout::FOLDERS, faults.folders.bits())
    }

    /// What the library has done in all processes of the node so far.
    pub fn counts(&self) -> Result<Counts, HarnessError> {
        Ok(Counts {
            failed_writes: self.get(layout::FAILED_WRITES)?,
            failed_syncs: self.get(layout::FAILED_SYNCS)?,
            refused_writes: self.get(layout::REFUSED_WRITES)?,
            delayed: self.get(layout::DELAYED)?,
            clock_reads: self.get(layout::CLOCK_READS)?,
        })
    }

    fn set(&self, place: usize, value: u64) -> Result<(), HarnessError> {
        let written = self.file.write_all_at(&value.to_ne_bytes(), (place * size_of::<u64>()) as u64);
        written.map_err(HarnessError::io("writing a control file"))
    }

    fn get(&self, place: usize) -> Result<u64, HarnessError> {
        let mut word = [0; size_of::<u64>()];
        let read = self.file.read_exact_at(&mut word, (place * size_of::<u64>()) as u64);
        read.map_err(HarnessError::io("reading a control file"))?;
        Ok(u64::from_ne_bytes(word))
    }
}

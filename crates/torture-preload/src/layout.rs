//! The control file: words of eight bytes, in the machine's order, that the harness
//! writes and a node's process reads.
//!
//! Both sides compile this file, so that they can't disagree. It must hold nothing
//! but the places of the words and what they mean.

use std::ffi::CStr;

/// How many words the file has.
pub(crate) const WORDS: usize = 24;

/// What stands in [`MAGIC`]: this layout and no other.
pub(crate) const MAGIC_VALUE: u64 = 0x6b76_746f_7274_0001;

/// Place of the number that tells that this is a control file.
pub(crate) const MAGIC: usize = 0;
/// Seconds by which the wall clock is ahead, signed.
pub(crate) const CLOCK_OFFSET: usize = 1;
/// The folders whose files are struck, bits of [`FOLDER_LOG`] and the like; 0 is none,
/// whatever else is set.
pub(crate) const FOLDERS: usize = 2;
/// How many writes in a thousand fail with EIO.
pub(crate) const WRITE_ERROR_PER_MILLE: usize = 3;
/// How many of the next writes fail with EIO.
pub(crate) const WRITE_ERRORS: usize = 4;
/// Not 0: half of a write that fails has reached the file.
pub(crate) const TORN: usize = 5;
/// How many syncs in a thousand fail with EIO.
pub(crate) const SYNC_ERROR_PER_MILLE: usize = 6;
/// How many of the next syncs fail with EIO.
pub(crate) const SYNC_ERRORS: usize = 7;
/// Not 0: the disk has room for [`ROOM_BYTES`] more, and then writes fail with ENOSPC.
pub(crate) const BOUNDED: usize = 8;
/// How many bytes the disk still has room for.
pub(crate) const ROOM_BYTES: usize = 9;
/// Microseconds that each sync takes longer.
pub(crate) const SYNC_DELAY_MICROS: usize = 10;
/// Microseconds that each write takes longer.
pub(crate) const WRITE_DELAY_MICROS: usize = 11;
/// Where random numbers begin.
pub(crate) const SEED: usize = 12;

/// Not 0: syncs do nothing and succeed.
pub(crate) const LYING: usize = 13;

/// Counted by the process: writes that failed with EIO.
pub(crate) const FAILED_WRITES: usize = 16;
/// Counted by the process: syncs that failed with EIO.
pub(crate) const FAILED_SYNCS: usize = 17;
/// Counted by the process: writes that failed with ENOSPC.
pub(crate) const REFUSED_WRITES: usize = 18;
/// Counted by the process: writes and syncs that were made slow.
pub(crate) const DELAYED: usize = 19;
/// Counted by the process: times it was told another time than the system's.
pub(crate) const CLOCK_READS: usize = 20;

/// Files below `log/`.
pub(crate) const FOLDER_LOG: u64 = 1;
/// Files below `state/`.
pub(crate) const FOLDER_STATE: u64 = 2;
/// All other files of the data folder.
pub(crate) const FOLDER_OTHER: u64 = 4;

/// The environment variable that names the control file.
pub(crate) const ENV_CONTROL: &CStr = c"KVORUM_TORTURE_CONTROL";
/// The environment variable that names the data folder, without symbolic links.
pub(crate) const ENV_DATA: &CStr = c"KVORUM_TORTURE_DATA";

//! The few calls of the system that no safe library of ours has.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd as _;

use tokio::runtime::{Handle, RuntimeFlavor};

/// What a process is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Signal {
    /// Stop in an orderly way.
    Terminate,
    /// Stand still.
    Stop,
    /// Go on.
    Continue,
}

/// Sends a signal to a process that was started here and not yet waited for, so that its
/// id can't belong to another.
#[expect(unsafe_code, reason = "the standard library sends no other signal than the one that kills")]
pub(crate) fn signal(process: u32, signal: Signal) -> io::Result<()> {
    let number = match signal {
        Signal::Terminate => libc::SIGTERM,
        Signal::Stop => libc::SIGSTOP,
        Signal::Continue => libc::SIGCONT,
    };
    let process = libc::pid_t::try_from(process).map_err(io::Error::other)?;
    // SAFETY: numbers only.
    if unsafe { libc::kill(process, number) } == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// What becomes of a file system's journal when its power is lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Journal {
    /// What is in memory of it is lost too.
    Lost,
    /// It is written: as if it had been its turn a moment ago.
    Written,
}

/// Shuts down the file system on which an open folder lies: what is not on its device
/// now never gets there, and all that is done to it from now on fails.
#[expect(unsafe_code, reason = "no library knows this request")]
pub(crate) fn shut_down_file_system(folder: &File, journal: Journal) -> io::Result<()> {
    /// `FS_IOC_SHUTDOWN`, which is `_IOR('X', 125, __u32)`.
    const REQUEST: libc::c_ulong = 0x8004_587d;
    let flags: u32 = match journal {
        Journal::Written => 1,
        Journal::Lost => 2,
    };
    // SAFETY: the descriptor is open, and the request reads the number behind the pointer.
    let result = unsafe { libc::ioctl(folder.as_raw_fd(), REQUEST as libc::Ioctl, &raw const flags) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Does something that takes its time, without holding up the tasks of a runtime around
/// it that has other threads.
pub(crate) fn blocking<T>(act: impl FnOnce() -> T) -> T {
    let flavor = Handle::try_current().map(|runtime| runtime.runtime_flavor());
    if matches!(flavor, Ok(RuntimeFlavor::MultiThread)) { tokio::task::block_in_place(act) } else { act() }
}

/// Whether this process may mount file systems.
#[expect(unsafe_code, reason = "the standard library does not tell the user's id")]
pub(crate) fn is_root() -> bool {
    // SAFETY: it has no arguments and always succeeds.
    unsafe { libc::geteuid() == 0 }
}

//! Writes and syncs of files, which may fail or be slow as the control file says.
//!
//! Which file a descriptor is of is asked of the system each time, and only while
//! something is to go wrong: nothing is remembered that a reused descriptor could make
//! wrong. RocksDB's own account of itself (`LOG`) is left alone.

use std::sync::atomic::Ordering;

use libc::{c_int, c_long, c_uint, c_void, iovec, off_t, size_t, ssize_t};

use crate::{control, layout};

/// Longer paths than this are of no file of ours.
const MAX_PATH: usize = 1_024;

enum Verdict {
    Pass,
    /// Only so much of it, as on a disk that is almost full.
    Short(usize),
    /// So much of it reaches the file, and then it fails.
    Torn(usize),
    Fail(c_int),
}

fn verdict_on_write(fd: c_int, bytes: usize) -> Verdict {
    if !is_struck(fd) {
        return Verdict::Pass;
    }
    delay(layout::WRITE_DELAY_MICROS);
    if control::take(layout::WRITE_ERRORS) || control::roll(layout::WRITE_ERROR_PER_MILLE) {
        control::count(layout::FAILED_WRITES);
        return match (control::get(layout::TORN), bytes / 2) {
            (0, _) | (_, 0) => Verdict::Fail(libc::EIO),
            (_, half) => Verdict::Torn(half),
        };
    }
    if control::get(layout::BOUNDED) == 0 || bytes == 0 {
        return Verdict::Pass;
    }
    let room = take_room(bytes);
    if room == bytes {
        Verdict::Pass
    } else if room > 0 {
        Verdict::Short(room)
    } else {
        control::count(layout::REFUSED_WRITES);
        Verdict::Fail(libc::ENOSPC)
    }
}

/// Takes what there is of so much room.
fn take_room(bytes: usize) -> usize {
    let Some(room) = control::word(layout::ROOM_BYTES) else { return bytes };
    let wanted = bytes as u64;
    let take = |left: u64| Some(left - left.min(wanted));
    let before = room.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).unwrap_or(0);
    before.min(wanted) as usize
}

/// Carries out a sync of a file, after the time that it takes; or it fails, or it is said
/// to be done and is not.
fn sync_as(fd: c_int, sync: impl FnOnce() -> c_long) -> c_int {
    if !is_struck(fd) {
        return sync() as c_int;
    }
    delay(layout::SYNC_DELAY_MICROS);
    if control::take(layout::SYNC_ERRORS) || control::roll(layout::SYNC_ERROR_PER_MILLE) {
        control::count(layout::FAILED_SYNCS);
        fail(libc::EIO) as c_int
    } else if control::get(layout::LYING) != 0 {
        0
    } else {
        sync() as c_int
    }
}

fn delay(place: usize) {
    let micros = control::get(place);
    if micros == 0 {
        return;
    }
    control::count(layout::DELAYED);
    let time = libc::timespec {
        tv_sec: (micros / 1_000_000) as libc::time_t,
        tv_nsec: (micros % 1_000_000 * 1_000) as c_long,
    };
    // SAFETY: `time` may be read; the rest of an interrupted sleep is not asked for.
    unsafe { libc::nanosleep(&raw const time, std::ptr::null_mut()) };
}

/// Whether the descriptor is of a file in one of the folders that are to be struck.
fn is_struck(fd: c_int) -> bool {
    let folders = control::get(layout::FOLDERS);
    folders != 0 && folder_of(fd) & folders != 0
}

/// The folder in which a descriptor's file lies; 0 if it is none of the data folder's.
fn folder_of(fd: c_int) -> u64 {
    let Some(data) = control::data_folder() else { return 0 };
    let mut path = [0; MAX_PATH];
    let Some(path) = path_of(fd, &mut path) else { return 0 };
    let inside = path.strip_prefix(data).and_then(|rest| rest.strip_prefix(b"/"));
    let Some(inside) = inside else { return 0 };
    let name = inside.rsplit(|byte| *byte == b'/').next().unwrap_or(inside);
    if name.starts_with(b"LOG") {
        0
    } else if inside.starts_with(b"log/") {
        layout::FOLDER_LOG
    } else if inside.starts_with(b"state/") {
        layout::FOLDER_STATE
    } else {
        layout::FOLDER_OTHER
    }
}

fn path_of(fd: c_int, into: &mut [u8; MAX_PATH]) -> Option<&[u8]> {
    const FOLDER: &[u8] = b"/proc/self/fd/";
    let mut link = [0_u8; 32];
    let (folder, number) = link.split_at_mut(FOLDER.len());
    folder.copy_from_slice(FOLDER);
    let mut left = u32::try_from(fd).ok()?;
    let mut digits = 1;
    while left >= 10_u32.pow(digits) && digits < 9 {
        digits += 1;
    }
    // The byte behind the digits stays 0, which ends the name.
    for digit in number.get_mut(..digits as usize)?.iter_mut().rev() {
        *digit = b'0' + (left % 10) as u8;
        left /= 10;
    }
    if left > 0 {
        return None;
    }
    // SAFETY: the name is a C string, and as many bytes may be written as there are.
    let length = without_errno(|| unsafe {
        let name = link.as_ptr();
        libc::syscall(libc::SYS_readlinkat, libc::AT_FDCWD, name, into.as_mut_ptr(), MAX_PATH)
    });
    into.get(..usize::try_from(length).ok()?)
}

/// Does something that must not show in `errno`.
fn without_errno<T>(act: impl FnOnce() -> T) -> T {
    // SAFETY: the place belongs to this thread and always is there.
    unsafe {
        let errno = libc::__errno_location();
        let before = *errno;
        let result = act();
        *errno = before;
        result
    }
}

fn fail(errno: c_int) -> c_long {
    // SAFETY: the place belongs to this thread and always is there.
    unsafe { *libc::__errno_location() = errno };
    -1
}

/// Carries out a write of some bytes as the verdict says.
fn write_as(fd: c_int, bytes: usize, write: impl Fn(usize) -> c_long) -> ssize_t {
    let result = match verdict_on_write(fd, bytes) {
        Verdict::Pass => write(bytes),
        Verdict::Short(part) => write(part),
        Verdict::Torn(part) => {
            write(part);
            fail(libc::EIO)
        }
        Verdict::Fail(errno) => fail(errno),
    };
    result as ssize_t
}

/// Carries out a change of the file that is done as a whole or not at all.
fn change_as(fd: c_int, bytes: usize, change: impl Fn() -> c_long) -> c_long {
    match verdict_on_write(fd, bytes) {
        Verdict::Pass => change(),
        Verdict::Short(_) => fail(libc::ENOSPC),
        Verdict::Torn(_) => fail(libc::EIO),
        Verdict::Fail(errno) => fail(errno),
    }
}

/// Replaces the C library's.
///
/// # Safety
/// As for the function that it replaces.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn write(fd: c_int, from: *const c_void, bytes: size_t) -> ssize_t {
    // SAFETY: as the caller promises; no more than `bytes` are written.
    write_as(fd, bytes, |part| unsafe { libc::syscall(libc::SYS_write, fd, from, part) })
}

/// Replaces the C library's.
///
/// # Safety
/// As for the function that it replaces.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pwrite(fd: c_int, from: *const c_void, bytes: size_t, at: off_t) -> ssize_t {
    // SAFETY: as the caller promises; no more than `bytes` are written.
    write_as(fd, bytes, |part| unsafe { libc::syscall(libc::SYS_pwrite64, fd, from, part, at) })
}

/// Replaces the C library's.
///
/// # Safety
/// As for the function that it replaces.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pwrite64(fd: c_int, from: *const c_void, bytes: size_t, at: off_t) -> ssize_t {
    // SAFETY: as the caller promises.
    unsafe { pwrite(fd, from, bytes, at) }
}

/// Replaces the C library's.
///
/// # Safety
/// As for the function that it replaces.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn writev(fd: c_int, pieces: *const iovec, count: c_int) -> ssize_t {
    // SAFETY: as the caller promises.
    let all = || unsafe { libc::syscall(libc::SYS_writev, fd, pieces, count) };
    if control::get(layout::FOLDERS) == 0 || count <= 0 {
        return all() as ssize_t;
    }
    // SAFETY: as the caller promises.
    let bytes = unsafe { std::slice::from_raw_parts(pieces, count as usize) };
    let bytes = bytes.iter().map(|piece| piece.iov_len).sum();
    change_as(fd, bytes, all) as ssize_t
}

/// Replaces the C library's.
///
/// # Safety
/// As for the function that it replaces.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn copy_file_range(
    from: c_int,
    from_at: *mut off_t,
    to: c_int,
    to_at: *mut off_t,
    bytes: size_t,
    flags: c_uint,
) -> ssize_t {
    // SAFETY: as the caller promises; no more than `bytes` are copied.
    write_as(to, bytes, |part| unsafe {
        libc::syscall(libc::SYS_copy_file_range, from, from_at, to, to_at, part, flags)
    })
}

/// Replaces the C library's.
///
/// # Safety
/// As for the function that it replaces.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ftruncate(fd: c_int, length: off_t) -> c_int {
    // SAFETY: numbers only.
    change_as(fd, 0, || unsafe { libc::syscall(libc::SYS_ftruncate, fd, length) }) as c_int
}

/// Replaces the C library's.
///
/// # Safety
/// As for the function that it replaces.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ftruncate64(fd: c_int, length: off_t) -> c_int {
    // SAFETY: as the caller promises.
    unsafe { ftruncate(fd, length) }
}

/// Replaces the C library's.
///
/// # Safety
/// As for the function that it replaces.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fallocate(fd: c_int, mode: c_int, at: off_t, length: off_t) -> c_int {
    let too_much = || {
        control::get(layout::BOUNDED) != 0
            && is_struck(fd)
            && control::get(layout::ROOM_BYTES) < length.cast_unsigned()
    };
    if too_much() {
        control::count(layout::REFUSED_WRITES);
        return fail(libc::ENOSPC) as c_int;
    }
    // SAFETY: numbers only.
    change_as(fd, 0, || unsafe { libc::syscall(libc::SYS_fallocate, fd, mode, at, length) }) as c_int
}

/// Replaces the C library's.
///
/// # Safety
/// As for the function that it replaces.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fallocate64(fd: c_int, mode: c_int, at: off_t, length: off_t) -> c_int {
    // SAFETY: as the caller promises.
    unsafe { fallocate(fd, mode, at, length) }
}

/// Replaces the C library's.
///
/// # Safety
/// As for the function that it replaces.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fsync(fd: c_int) -> c_int {
    // SAFETY: numbers only.
    sync_as(fd, || unsafe { libc::syscall(libc::SYS_fsync, fd) })
}

/// Replaces the C library's.
///
/// # Safety
/// As for the function that it replaces.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fdatasync(fd: c_int) -> c_int {
    // SAFETY: numbers only.
    sync_as(fd, || unsafe { libc::syscall(libc::SYS_fdatasync, fd) })
}

/// Replaces the C library's.
///
/// # Safety
/// As for the function that it replaces.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn sync_file_range(fd: c_int, at: off_t, bytes: off_t, flags: c_uint) -> c_int {
    // SAFETY: numbers only.
    sync_as(fd, || unsafe { libc::syscall(libc::SYS_sync_file_range, fd, at, bytes, flags) })
}

//! The wall clock, ahead or behind by what the control file says.
//!
//! The monotonic clock is never touched: it can't jump on a real machine either.

use std::sync::atomic::{AtomicPtr, Ordering};

use libc::{c_int, c_void, clockid_t, pthread_cond_t, pthread_mutex_t, time_t, timespec, timeval};

use crate::{control, layout};

type ClockGetTime = unsafe extern "C" fn(clockid_t, *mut timespec) -> c_int;
type TimedWait = unsafe extern "C" fn(*mut pthread_cond_t, *mut pthread_mutex_t, *const timespec) -> c_int;

/// A point in time with more seconds than this is of the wall clock; the other clocks
/// count from the start of the machine.
const SURELY_WALL_CLOCK: time_t = 1_000_000_000;

static CLOCK_GETTIME: AtomicPtr<c_void> = AtomicPtr::new(std::ptr::null_mut());
static COND_TIMEDWAIT: AtomicPtr<c_void> = AtomicPtr::new(std::ptr::null_mut());

/// The version of `pthread_cond_timedwait` for the condition variables of today: a
/// search without a version may find the one for those of 2002.
#[cfg(target_arch = "x86_64")]
const COND_VERSION: &std::ffi::CStr = c"GLIBC_2.3.2";
#[cfg(not(target_arch = "x86_64"))]
const COND_VERSION: &std::ffi::CStr = c"GLIBC_2.17";

/// Looks up the functions that stand behind these.
pub(crate) fn begin() {
    // SAFETY: names are C strings; called once, before the program begins.
    unsafe {
        CLOCK_GETTIME.store(libc::dlsym(libc::RTLD_NEXT, c"clock_gettime".as_ptr()), Ordering::Release);
        let name = c"pthread_cond_timedwait";
        let mut found = libc::dlvsym(libc::RTLD_NEXT, name.as_ptr(), COND_VERSION.as_ptr());
        if found.is_null() {
            found = libc::dlsym(libc::RTLD_NEXT, name.as_ptr());
        }
        COND_TIMEDWAIT.store(found, Ordering::Release);
    }
}

fn offset() -> time_t {
    let offset = control::get(layout::CLOCK_OFFSET).cast_signed();
    if offset != 0 {
        control::count(layout::CLOCK_READS);
    }
    offset
}

/// The system's own answer.
///
/// # Safety
/// `into` is null or may be written.
unsafe fn system_time(clock: clockid_t, into: *mut timespec) -> c_int {
    let found = CLOCK_GETTIME.load(Ordering::Acquire);
    if found.is_null() {
        // Before the library has begun.
        // SAFETY: as the caller promises; the kernel checks the rest.
        return unsafe { libc::syscall(libc::SYS_clock_gettime, clock, into) as c_int };
    }
    // SAFETY: it is the C library's function of this name, which has this type.
    unsafe { std::mem::transmute::<*mut c_void, ClockGetTime>(found)(clock, into) }
}

fn wall_clock() -> timespec {
    let mut now = timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `now` may be written. The call can't fail for this clock.
    unsafe { system_time(libc::CLOCK_REALTIME, &raw mut now) };
    now.tv_sec += offset();
    now
}

/// Replaces the C library's.
///
/// # Safety
/// As for the function that it replaces.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn clock_gettime(clock: clockid_t, into: *mut timespec) -> c_int {
    // SAFETY: as the caller promises.
    let result = unsafe { system_time(clock, into) };
    if result == 0 && (clock == libc::CLOCK_REALTIME || clock == libc::CLOCK_REALTIME_COARSE) {
        // SAFETY: the call has just written there.
        unsafe { (*into).tv_sec += offset() };
    }
    result
}

/// Replaces the C library's.
///
/// # Safety
/// As for the function that it replaces.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn gettimeofday(into: *mut timeval, _zone: *mut c_void) -> c_int {
    if !into.is_null() {
        let now = wall_clock();
        let now = timeval { tv_sec: now.tv_sec, tv_usec: now.tv_nsec / 1_000 };
        // SAFETY: as the caller promises.
        unsafe { into.write(now) };
    }
    0
}

/// Replaces the C library's.
///
/// # Safety
/// As for the function that it replaces.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn time(into: *mut time_t) -> time_t {
    let now = wall_clock().tv_sec;
    if !into.is_null() {
        // SAFETY: as the caller promises.
        unsafe { into.write(now) };
    }
    now
}

/// Replaces the C library's: a deadline that was reckoned from the shifted wall clock is
/// shifted back, because the kernel waits by its own.
///
/// # Safety
/// As for the function that it replaces.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pthread_cond_timedwait(
    condition: *mut pthread_cond_t,
    mutex: *mut pthread_mutex_t,
    deadline: *const timespec,
) -> c_int {
    let found = COND_TIMEDWAIT.load(Ordering::Acquire);
    if found.is_null() {
        return libc::ENOSYS;
    }
    // SAFETY: it is the C library's function of this name, which has this type.
    let wait = unsafe { std::mem::transmute::<*mut c_void, TimedWait>(found) };
    // SAFETY: as the caller promises.
    let mut shifted = unsafe { *deadline };
    if shifted.tv_sec > SURELY_WALL_CLOCK {
        shifted.tv_sec -= offset();
    }
    // SAFETY: as the caller promises.
    unsafe { wait(condition, mutex, &raw const shifted) }
}

//! The two things that a process gets from its system and that no seed would repeat:
//! random numbers and the time. While a run is on, both come from the run.
//!
//! The C functions are defined here, under their own names, so that whatever asks (the
//! standard library's hash maps, Tokio, `rand`, Kvorum) asks the run. A process that runs
//! no seed has the system's.

use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};

use libc::{c_int, c_uint, c_void, clockid_t, size_t, ssize_t, timespec};

/// Whether a run is on.
static RUNS: AtomicBool = AtomicBool::new(false);
/// The state of the random numbers (`SplitMix64`).
static RANDOM: AtomicU64 = AtomicU64::new(0);
/// Nanoseconds since the run began.
static NOW: AtomicU64 = AtomicU64::new(0);
/// How far the wall clock of the node whose task runs is off, in nanoseconds.
static SKEW: AtomicI64 = AtomicI64::new(0);

/// When runs begin: a Thursday in 2026.
const EPOCH_NANOS: i64 = 1_790_000_000_000_000_000;

/// Begins a run: from now on all of the process's random numbers are those of `seed`.
pub(crate) fn begin(seed: u64) {
    RANDOM.store(seed ^ 0x5851_f42d_4c95_7f2d, Ordering::Relaxed);
    RUNS.store(true, Ordering::Relaxed);
}

/// What the clocks show from now on.
pub(crate) fn set_clock(nanos: u64, skew: i64) {
    NOW.store(nanos, Ordering::Relaxed);
    SKEW.store(skew, Ordering::Relaxed);
}

/// Nanoseconds since the run began.
pub(crate) fn now() -> u64 {
    NOW.load(Ordering::Relaxed)
}

fn next() -> u64 {
    let state =
        RANDOM.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed).wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut mixed = state;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

#[expect(unsafe_code, reason = "the C function of this name is what everyone asks for random numbers")]
// SAFETY: it has the name, the signature and the meaning of the C library's function.
#[unsafe(no_mangle)]
extern "C" fn getrandom(buffer: *mut c_void, length: size_t, flags: c_uint) -> ssize_t {
    if !RUNS.load(Ordering::Relaxed) {
        // SAFETY: the arguments are those that the system's call of this name takes.
        return unsafe { libc::syscall(libc::SYS_getrandom, buffer, length, flags) } as ssize_t;
    }
    // SAFETY: the caller gives a buffer of this length, as the C function demands.
    let buffer = unsafe { std::slice::from_raw_parts_mut(buffer.cast::<u8>(), length) };
    for piece in buffer.chunks_mut(8) {
        let bytes = next().to_le_bytes();
        for (target, byte) in piece.iter_mut().zip(bytes) {
            *target = byte;
        }
    }
    length as ssize_t
}

#[expect(unsafe_code, reason = "the C function of this name is what everyone asks for the time")]
// SAFETY: it has the name, the signature and the meaning of the C library's function.
#[unsafe(no_mangle)]
extern "C" fn clock_gettime(clock: clockid_t, time: *mut timespec) -> c_int {
    if !RUNS.load(Ordering::Relaxed) {
        // SAFETY: the arguments are those that the system's call of this name takes.
        return unsafe { libc::syscall(libc::SYS_clock_gettime, clock, time) } as c_int;
    }
    let since = NOW.load(Ordering::Relaxed) as i64;
    let nanos = if clock == libc::CLOCK_REALTIME {
        EPOCH_NANOS + since + SKEW.load(Ordering::Relaxed)
    } else {
        // Whoever subtracts from a moment must not get below the clock's beginning.
        86_400_000_000_000 + since
    };
    // SAFETY: the caller gives a place for the time, as the C function demands.
    unsafe {
        (*time).tv_sec = nanos / 1_000_000_000;
        (*time).tv_nsec = nanos % 1_000_000_000;
    }
    0
}

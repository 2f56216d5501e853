//! Makes the disk of a node under torture fail and its wall clock jump.
//!
//! The dynamic linker loads this library before the C library (`LD_PRELOAD`), so that
//! the process's calls of `write`, `fsync`, `clock_gettime` and the like arrive here.
//! What is to go wrong stands in a small file that the harness shares with it
//! (`layout.rs`). Without that file all calls pass as they are.
//!
//! It must never allocate, lock or panic: it runs inside any call of any thread, also
//! before the program's own allocator is ready. It touches files of the data folder
//! alone; sockets and what is logged pass untouched, and so does the monotonic clock.

#![expect(
    unsafe_code,
    reason = "functions of the C library have raw pointers, and are replaced by their names"
)]

pub mod clock;
mod control;
pub mod disk;
mod layout;

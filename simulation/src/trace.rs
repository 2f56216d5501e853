//! What happened in a run, as a hash and for people.

use std::cell::RefCell;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::system;

/// Everything so far.
#[derive(Default)]
struct Trace {
    hash: u64,
    steps: u64,
}

/// Of the process: a run has a thread of its own.
static IS_SHOWN: AtomicBool = AtomicBool::new(false);

thread_local! {
    static TRACE: RefCell<Trace> = RefCell::default();
}

/// Shows what happens from now on.
pub(crate) fn show() {
    IS_SHOWN.store(true, Ordering::Relaxed);
}

fn mix(hash: u64, word: u64) -> u64 {
    (hash.rotate_left(5) ^ word).wrapping_mul(0x517c_c1b7_2722_0a95)
}

/// A task takes a step.
pub(crate) fn step(node: u64, task: u64) {
    TRACE.with_borrow_mut(|trace| {
        trace.steps += 1;
        trace.hash = mix(mix(mix(trace.hash, node), task), system::now());
    });
}

/// Something that people want to know happened.
pub(crate) fn note(what: impl FnOnce() -> String) {
    let what = what();
    TRACE.with_borrow_mut(|trace| {
        trace.hash = what.bytes().fold(trace.hash, |hash, byte| mix(hash, u64::from(byte)));
    });
    if IS_SHOWN.load(Ordering::Relaxed) {
        let now = system::now();
        eprintln!("{:>6}.{:03} {what}", now / 1_000_000_000, now / 1_000_000 % 1_000);
    }
}

/// The hash of all that happened, and the number of steps.
pub(crate) fn sum() -> (u64, u64) {
    TRACE.with_borrow(|trace| (trace.hash, trace.steps))
}

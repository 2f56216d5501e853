//! The bound on the bytes that requests in flight hold, of all fronts together.
//!
//! Whoever holds more than fits is refused at once, because what waits in line here would hold
//! its bytes meanwhile. What is held is given back when its [`Held`] is dropped, whatever way the
//! request ends. An answer counts from where its items are collected until it has left: the
//! [`AnswerBytes`] that count it go with it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Answers up to this size are not counted: counting them would cost more than it tells. As
/// many of these as there may be requests in flight take as much as may be counted.
pub const UNCOUNTED_ANSWER_BYTES: usize = 16 << 10;

/// Counts the bytes in flight.
#[derive(Debug)]
pub struct InflightBytes {
    held: AtomicUsize,
    max: usize,
}

impl InflightBytes {
    /// Nothing is in flight yet; at most `max` bytes may be.
    pub fn new(max: usize) -> Arc<Self> {
        Arc::new(Self { held: AtomicUsize::new(0), max })
    }

    /// What a request holds, which is nothing at first.
    pub fn hold(self: &Arc<Self>) -> Held {
        Held { bytes: 0, of: Arc::clone(self) }
    }

    /// What an answer of `bytes` counts; `None` if that is too much.
    pub fn hold_answer(self: &Arc<Self>, bytes: usize) -> Option<AnswerBytes> {
        if bytes <= UNCOUNTED_ANSWER_BYTES {
            return Some(AnswerBytes::default());
        }
        let mut held = self.hold();
        held.grow(bytes).then(|| held.into())
    }

    /// Bytes in flight.
    pub fn held(&self) -> usize {
        self.held.load(Ordering::Relaxed)
    }
}

/// The bytes that one request holds, given back when dropped.
#[derive(Debug)]
pub struct Held {
    bytes: usize,
    of: Arc<InflightBytes>,
}

impl Held {
    /// Counts `bytes` more; false, and nothing changed, if that is too much.
    pub fn grow(&mut self, bytes: usize) -> bool {
        let taken = take(&self.of.held, bytes, self.of.max);
        if taken {
            self.bytes += bytes;
        }
        taken
    }

    /// The bytes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Gives back what is more than `bytes`.
    pub fn shrink_to(&mut self, bytes: usize) {
        self.shrink(self.bytes.saturating_sub(bytes));
    }

    /// Gives `bytes` back, of those that [`Self::grow`] took.
    pub fn shrink(&mut self, bytes: usize) {
        let bytes = bytes.min(self.bytes);
        self.bytes -= bytes;
        self.of.held.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// What an answer counts, until the last clone is dropped. No part of what the answer says, so
/// that any two are equal.
#[derive(Debug, Clone, Default)]
pub struct AnswerBytes(Option<Arc<Held>>);

impl AnswerBytes {
    /// The bytes; zero if the answer is too small to count.
    pub fn count(&self) -> usize {
        self.0.as_ref().map_or(0, |held| held.bytes)
    }
}

impl From<Held> for AnswerBytes {
    fn from(held: Held) -> Self {
        Self((held.bytes > 0).then(|| Arc::new(held)))
    }
}

impl PartialEq for AnswerBytes {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for AnswerBytes {}

impl Drop for Held {
    fn drop(&mut self) {
        self.of.held.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// Adds `amount` if the sum stays within `limit`. The counters order nothing
/// else, so relaxed is enough.
pub(crate) fn take(counter: &AtomicUsize, amount: usize, limit: usize) -> bool {
    let before = counter.fetch_add(amount, Ordering::Relaxed);
    let fits = before.checked_add(amount).is_some_and(|sum| sum <= limit);
    if !fits {
        counter.fetch_sub(amount, Ordering::Relaxed);
    }
    fits
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_beyond_the_bound_are_refused_and_given_back_by_whoever_held_them() {
        let inflight = InflightBytes::new(10);
        let (mut first, mut second) = (inflight.hold(), inflight.hold());
        assert!(first.grow(6));
        assert!(!second.grow(5));
        assert!(!second.grow(usize::MAX));
        assert!(second.grow(4));
        assert_eq!(inflight.held(), 10);
        first.shrink(1);
        assert!(second.grow(1));
        first.shrink(100);
        assert_eq!(inflight.held(), 5);
        drop((first, second));
        assert_eq!(inflight.held(), 0);
    }

    #[test]
    fn an_answer_counts_once_until_its_last_copy_is_gone() {
        let inflight = InflightBytes::new(3 * UNCOUNTED_ANSWER_BYTES);
        let small = inflight.hold_answer(UNCOUNTED_ANSWER_BYTES).unwrap();
        assert_eq!((small.count(), inflight.held()), (0, 0));
        let large = inflight.hold_answer(2 * UNCOUNTED_ANSWER_BYTES).unwrap();
        let copy = large.clone();
        drop(large);
        assert_eq!((copy.count(), inflight.held()), (2 * UNCOUNTED_ANSWER_BYTES, 2 * UNCOUNTED_ANSWER_BYTES));
        assert!(inflight.hold_answer(UNCOUNTED_ANSWER_BYTES + 1).is_none());
        drop(copy);
        assert_eq!(inflight.held(), 0);
    }
}

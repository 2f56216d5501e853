//! The bound on what is in flight: requests, and the bytes they hold.
//!
//! One [`Admission`] is shared by all workers of a server. A request takes a
//! [`Permit`] before its body is read and keeps it until its answer has been
//! handed over; beyond the bound it is refused at once, because a request that
//! waits in line here would only time out later.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Counts what is in flight.
#[derive(Debug)]
pub(super) struct Admission {
    requests: AtomicUsize,
    bytes: AtomicUsize,
    max_requests: usize,
    max_bytes: usize,
}

impl Admission {
    /// Nothing is in flight yet.
    pub(super) fn new(max_requests: usize, max_bytes: usize) -> Arc<Self> {
        Arc::new(Self { requests: AtomicUsize::new(0), bytes: AtomicUsize::new(0), max_requests, max_bytes })
    }

    /// Lets a request in, or refuses it.
    pub(super) fn admit(self: &Arc<Self>) -> Option<Permit> {
        take(&self.requests, 1, self.max_requests).then(|| Permit { admission: Arc::clone(self), bytes: 0 })
    }
}

/// A request's place, given back when dropped.
#[derive(Debug)]
pub(super) struct Permit {
    admission: Arc<Admission>,
    bytes: usize,
}

impl Permit {
    /// Counts `bytes` more as held by this request; false if that is too much.
    pub(super) fn grow(&mut self, bytes: usize) -> bool {
        let taken = take(&self.admission.bytes, bytes, self.admission.max_bytes);
        if taken {
            self.bytes += bytes;
        }
        taken
    }

    /// Gives `bytes` back, of those that [`Self::grow`] took.
    pub(super) fn shrink(&mut self, bytes: usize) {
        let bytes = bytes.min(self.bytes);
        self.bytes -= bytes;
        self.admission.bytes.fetch_sub(bytes, Ordering::Relaxed);
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.admission.bytes.fetch_sub(self.bytes, Ordering::Relaxed);
        self.admission.requests.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Adds `amount` if the sum stays within `limit`. The counters order nothing
/// else, so relaxed is enough.
fn take(counter: &AtomicUsize, amount: usize, limit: usize) -> bool {
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
    fn requests_beyond_the_bound_are_refused_until_one_ends() {
        let admission = Admission::new(2, 10);
        let first = admission.admit().unwrap();
        let _second = admission.admit().unwrap();
        assert!(admission.admit().is_none());
        drop(first);
        assert!(admission.admit().is_some());
    }

    #[test]
    fn bytes_beyond_the_bound_are_refused_and_given_back_with_the_permit() {
        let admission = Admission::new(9, 10);
        let mut first = admission.admit().unwrap();
        let mut second = admission.admit().unwrap();
        assert!(first.grow(6));
        assert!(!second.grow(5));
        assert!(!second.grow(usize::MAX));
        assert!(second.grow(4));
        first.shrink(1);
        assert!(second.grow(1));
        drop(first);
        drop(second);
        assert_eq!(admission.bytes.load(Ordering::Relaxed), 0);
        assert_eq!(admission.requests.load(Ordering::Relaxed), 0);
    }
}

//! The bound on what is in flight: requests, and the bytes they hold.
//!
//! One [`Admission`] is shared by all workers of a server. A request takes a
//! [`Permit`] before its body is read and keeps it until its answer has been
//! handed over; beyond the bound it is refused at once, because a request that
//! waits in line here would only time out later.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::inflight::{Held, InflightBytes, take};

/// Counts what is in flight.
#[derive(Debug)]
pub(super) struct Admission {
    requests: AtomicUsize,
    max_requests: usize,
    bytes: Arc<InflightBytes>,
}

impl Admission {
    /// Nothing is in flight yet here; `bytes` may be others' too.
    pub(super) fn new(max_requests: usize, bytes: Arc<InflightBytes>) -> Arc<Self> {
        Arc::new(Self { requests: AtomicUsize::new(0), max_requests, bytes })
    }

    /// Lets a request in, or refuses it.
    pub(super) fn admit(self: &Arc<Self>) -> Option<Permit> {
        take(&self.requests, 1, self.max_requests)
            .then(|| Permit { admission: Arc::clone(self), held: self.bytes.hold() })
    }
}

/// A request's place, given back when dropped.
#[derive(Debug)]
pub(super) struct Permit {
    admission: Arc<Admission>,
    held: Held,
}

impl Permit {
    /// Counts `bytes` more as held by this request; false if that is too much.
    pub(super) fn grow(&mut self, bytes: usize) -> bool {
        self.held.grow(bytes)
    }

    /// Gives `bytes` back, of those that [`Self::grow`] took.
    pub(super) fn shrink(&mut self, bytes: usize) {
        self.held.shrink(bytes);
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.admission.requests.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_beyond_the_bound_are_refused_until_one_ends() {
        let bytes = InflightBytes::new(10);
        let admission = Admission::new(2, Arc::clone(&bytes));
        let mut first = admission.admit().unwrap();
        let _second = admission.admit().unwrap();
        assert!(admission.admit().is_none());
        assert!(first.grow(10));
        drop(first);
        assert_eq!(bytes.held(), 0);
        assert!(admission.admit().is_some());
    }
}

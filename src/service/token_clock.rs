//! The time by which idempotency keys grow old: never faster than time itself.
//!
//! Each node runs a clock on top of the replicated one, which stands at the latest time that an
//! applied command carried, and whoever proposes gives its own. A node's clock goes on from
//! the replicated one by monotonic time only, so by induction over all commands none of them
//! carries more time than has passed since the first. A wall clock must not come into this: one
//! that jumps forward, on any node, would let all keys be forgotten at once, and writes that
//! are retried happen twice.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// The running clock of a node.
#[derive(Debug)]
pub(super) struct TokenClock(Mutex<Reading>);

#[derive(Debug, Clone, Copy)]
struct Reading {
    /// Milliseconds.
    time: u64,
    at: Instant,
}

impl TokenClock {
    /// A clock that shows what is replicated when it is read first.
    pub(super) fn starting(now: Instant) -> Self {
        Self(Mutex::new(Reading { time: 0, at: now }))
    }

    /// The time in milliseconds at `now`, given where the replicated clock stands.
    pub(super) fn read(&self, replicated: u64, now: Instant) -> u64 {
        let mut last = self.0.lock();
        // Whole milliseconds only, so that what is left over counts the next time.
        let passed = now.saturating_duration_since(last.at).as_millis();
        let passed = u64::try_from(passed).unwrap_or(u64::MAX);
        let ran =
            Reading { time: last.time.saturating_add(passed), at: last.at + Duration::from_millis(passed) };
        *last = if replicated > ran.time { Reading { time: replicated, at: now } } else { ran };
        last.time
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn it_goes_on_from_the_replicated_clock_with_time() {
        let start = Instant::now();
        let clock = TokenClock::starting(start);
        assert_eq!(clock.read(0, start), 0);
        assert_eq!(clock.read(5_000, start + ms(10)), 5_000);
        assert_eq!(clock.read(5_000, start + ms(610)), 5_600);
        // What others proposed meanwhile is behind it.
        assert_eq!(clock.read(5_300, start + ms(710)), 5_700);
        assert_eq!(clock.read(9_000, start + ms(711)), 9_000);
    }

    #[test]
    fn parts_of_milliseconds_are_not_lost() {
        let start = Instant::now();
        let clock = TokenClock::starting(start);
        for step in 1..=2_000_u32 {
            clock.read(0, start + Duration::from_micros(700) * step);
        }
        assert_eq!(clock.read(0, start + ms(1_400)), 1_400);
    }

    proptest! {
        /// However proposals of nodes fall together, and whichever of them start anew, the
        /// replicated clock never shows more time than has passed.
        #[test]
        fn no_clock_runs_faster_than_time(steps in proptest::collection::vec((0..3_usize, 0..10_000_u64, any::<bool>()), 1..200)) {
            let start = Instant::now();
            let mut clocks = [(); 3].map(|()| TokenClock::starting(start));
            let (mut replicated, mut passed) = (0, 0);
            for (node, pause, restarts) in steps {
                passed += pause;
                let now = start + ms(passed);
                if restarts {
                    clocks[node] = TokenClock::starting(now);
                }
                let proposed = clocks[node].read(replicated, now);
                prop_assert!(proposed >= replicated && proposed <= passed, "{proposed} of {passed}");
                replicated = proposed;
            }
        }
    }
}

//! The time by which idempotency keys grow old: never faster than time itself.
//!
//! The replicated clock stands at the latest time that an applied command carried. Only the
//! leader gives commands a time, and only from when it has applied an entry of its own term:
//! it then knows where all earlier leaders left the clock, and goes on from there by monotonic
//! time. So between any two commands the clock moves by no more than passed between them.
//!
//! A wall clock must not come into this: one that jumps forward would let all keys be forgotten
//! at once, and writes that are retried happen twice. Nor must the time that another node
//! believes it to be: one that has run on for long would do the same to keys that a younger
//! one gave their time.

use std::time::Instant;

use openraft::ServerState;
use parking_lot::Mutex;
use tokio::sync::watch;

use super::handle::View;
use crate::store::StateMachineStore;

/// The clock of a node, which runs while it leads.
#[derive(Debug)]
pub(super) struct TokenClock {
    store: StateMachineStore,
    view: watch::Receiver<View>,
    reign: Mutex<Option<Reign>>,
}

/// From where the clock runs in a term of this node's as the leader.
#[derive(Debug, Clone, Copy)]
struct Reign {
    term: u64,
    /// Milliseconds.
    time: u64,
    since: Instant,
}

impl TokenClock {
    /// The clock of the node whose state `store` is, and whose part `view` tells.
    pub(super) fn new(store: StateMachineStore, view: watch::Receiver<View>) -> Self {
        Self { store, view, reign: Mutex::default() }
    }

    /// The time in milliseconds for what is proposed now; zero, which moves no clock, as long
    /// as this node does not know that it leads and where the clock stands.
    pub(super) fn read(&self) -> u64 {
        let term = {
            let view = self.view.borrow();
            (view.state == ServerState::Leader).then_some(view.vote.leader_id.term)
        };
        let Some(term) = term else { return 0 };
        let inherited = || {
            let applied = self.store.applied_log_id()?;
            // A state that can't be read ends the node elsewhere.
            let clock = self.store.token_clock().ok()?;
            (applied.leader_id.term == term).then_some(clock)
        };
        read(&mut self.reign.lock(), term, inherited, Instant::now()).unwrap_or(0)
    }
}

/// The time at `now` in `term`. What was `inherited` is asked for once in a term.
fn read(
    reign: &mut Option<Reign>,
    term: u64,
    inherited: impl FnOnce() -> Option<u64>,
    now: Instant,
) -> Option<u64> {
    let known = reign.filter(|reign| reign.term == term);
    let current = match known {
        Some(current) => current,
        None => *reign.insert(Reign { term, time: inherited()?, since: now }),
    };
    let passed = now.saturating_duration_since(current.since).as_millis();
    Some(current.time.saturating_add(u64::try_from(passed).unwrap_or(u64::MAX)))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn a_leader_goes_on_from_where_the_clock_was_left() {
        let (start, mut reign) = (Instant::now(), None);
        assert_eq!(read(&mut reign, 3, || None, start), None, "it has not applied its own term yet");
        assert_eq!(read(&mut reign, 3, || Some(5_000), start + ms(10)), Some(5_000));
        assert_eq!(read(&mut reign, 3, || panic!("it is known"), start + ms(610)), Some(5_600));
        // In its next term it forgets what it believed, however long it has run on.
        assert_eq!(read(&mut reign, 5, || Some(5_300), start + ms(9_000)), Some(5_300));
        assert_eq!(read(&mut reign, 5, || None, start + ms(9_050)), Some(5_350));
    }

    proptest! {
        /// Whoever leads, restarts, or runs on for long without leading: between two commands
        /// the clock moves by no more than passed.
        #[test]
        fn no_clock_runs_faster_than_time(
            steps in proptest::collection::vec((0..3_usize, 0..100_000_u64, 0..10_u8), 1..200),
        ) {
            let start = Instant::now();
            let mut nodes = [None; 3];
            let (mut leader, mut term, mut replicated, mut passed) = (0, 1, 0, 0);
            let mut before: Option<(u64, u64)> = None;
            for (node, pause, happening) in steps {
                passed += pause;
                match happening {
                    0 => nodes[node] = None,
                    1 | 2 => (leader, term) = (node, term + 1),
                    _ => {
                        let now = start + ms(passed);
                        let time = read(&mut nodes[leader], term, || Some(replicated), now);
                        replicated = time.unwrap_or(0).max(replicated);
                        if let Some((clock, at)) = before {
                            prop_assert!(replicated - clock <= passed - at);
                        }
                        before = Some((replicated, passed));
                    }
                }
            }
        }
    }
}

//! The leases of the replicated state, mirrored in memory on every node.
//!
//! The state machine tells each change after it was committed, so the mirror is
//! never ahead of the store and shows whatever an applied entry did. It decides
//! nothing: that a lease's time is up is found here by the leader, and becomes
//! true only through the log. The one thing that is this node's own is when it
//! last saw the lease clock move, from which times to live are answered between
//! two moves; nothing of the replicated state ever depends on it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::RwLock;
use tokio::sync::Notify;

use crate::error::StorageError;
use crate::mvcc::{Lease, LeaseChange, Store};

/// What a lease gets on top of its time to live, in milliseconds: the clock that
/// it is counted from may be as much behind the leader's.
pub const SLACK_MS: u64 = 500;
/// For how long the lease clock is taken to run on after it was seen to move. The
/// leader moves it about twice a second, so one that stood longer stands still.
const RUNS_ON: Duration = Duration::from_secs(2);
/// Leases that are read at once when the mirror is filled.
const LOAD_PAGE: usize = 4_096;

/// The mirror; all its methods take a lock for a short time.
#[derive(Debug)]
pub struct LeaseTable {
    inner: RwLock<Inner>,
    /// Told when there is something to do for whoever ends leases.
    work: Arc<Notify>,
}

/// All but the id. About a hundred bytes for each lease, with its places in the
/// two orders.
#[derive(Debug, Clone, Copy)]
struct Entry {
    expires_at: u64,
    ttl: i64,
    ending: bool,
}

#[derive(Debug)]
struct Inner {
    leases: BTreeMap<i64, Entry>,
    /// Those that are not ending, by the time at which they may be ended.
    by_expiry: BTreeSet<(u64, i64)>,
    ending: BTreeSet<i64>,
    clock: u64,
    clock_seen: Instant,
}

/// What the next one to end a lease has to know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Upcoming {
    /// Where the replicated lease clock stands.
    pub clock: u64,
    /// When the next lease may be ended; `None` if no lease lives.
    pub first_expiry: Option<u64>,
    /// Whether there are leases that have ended and still hold keys.
    pub has_ending: bool,
}

impl Upcoming {
    /// Whether there is no lease at all.
    pub fn is_empty(&self) -> bool {
        self.first_expiry.is_none() && !self.has_ending
    }
}

impl Default for LeaseTable {
    fn default() -> Self {
        Self { inner: RwLock::new(Inner::new(0)), work: Arc::new(Notify::new()) }
    }
}

impl LeaseTable {
    /// Replaces the mirror by what `store` holds.
    ///
    /// # Errors
    /// When the store can't be read.
    pub fn load(&self, store: &Store) -> Result<(), StorageError> {
        let mut fresh = Inner::new(store.lease_clock()?);
        let mut after = i64::MIN;
        loop {
            let page = store.leases(after, LOAD_PAGE)?;
            let Some(last) = page.last() else { break };
            after = last.id;
            for lease in page {
                fresh.set(lease);
            }
        }
        let has_work = !fresh.leases.is_empty();
        *self.inner.write() = fresh;
        if has_work {
            self.work.notify_one();
        }
        Ok(())
    }

    /// Follows committed changes, in their order.
    pub fn apply(&self, changes: &[LeaseChange]) {
        if changes.is_empty() {
            return;
        }
        let mut inner = self.inner.write();
        let (was_empty, had_ending) = (inner.leases.is_empty(), !inner.ending.is_empty());
        for change in changes {
            match change {
                LeaseChange::Set(lease) => inner.set(*lease),
                LeaseChange::Removed(id) => inner.remove(*id),
                LeaseChange::Clock(clock) => {
                    inner.clock = *clock;
                    inner.clock_seen = Instant::now();
                }
            }
        }
        let is_empty = inner.leases.is_empty();
        if was_empty && !is_empty {
            // The clock stood while there was no lease.
            inner.clock_seen = Instant::now();
        }
        let has_work = (was_empty && !is_empty) || (!had_ending && !inner.ending.is_empty());
        drop(inner);
        if has_work {
            self.work.notify_one();
        }
    }

    /// Told when the first lease comes, and when one begins to end. Remembers one
    /// notice for whoever comes too late to wait for it; for one listener only.
    pub fn work(&self) -> Arc<Notify> {
        Arc::clone(&self.work)
    }

    /// The lease of this id, also while it is ending.
    pub fn get(&self, id: i64) -> Option<Lease> {
        self.inner.read().get(id)
    }

    /// How many whole seconds the living lease `id` is promised at least, with
    /// the lease itself; `None` if there is none or it is ending.
    pub fn remaining(&self, id: i64, now: Instant) -> Option<(Lease, i64)> {
        let inner = self.inner.read();
        let lease = inner.get(id).filter(|lease| !lease.ending)?;
        let since_seen = now.saturating_duration_since(inner.clock_seen).min(RUNS_ON);
        let running = inner.clock.saturating_add(millis(since_seen));
        let left = lease.expires_at.saturating_sub(SLACK_MS).saturating_sub(running);
        Some((lease, i64::try_from(left / 1_000).unwrap_or(i64::MAX)))
    }

    /// Ids of living leases that may be ended when the clock is at `clock`, the
    /// longest due first: at most `limit` of them.
    pub fn due(&self, clock: u64, limit: usize) -> Vec<i64> {
        let inner = self.inner.read();
        let due = inner.by_expiry.iter().take_while(|(expires_at, _)| *expires_at <= clock);
        due.take(limit).map(|(_, id)| *id).collect()
    }

    /// Ids of leases that have ended and still hold keys: at most `limit` of them.
    pub fn ending(&self, limit: usize) -> Vec<i64> {
        self.inner.read().ending.iter().take(limit).copied().collect()
    }

    /// Ids of the living leases, the next to expire first.
    pub fn ids(&self) -> Vec<i64> {
        self.inner.read().by_expiry.iter().map(|(_, id)| *id).collect()
    }

    /// How many leases live.
    pub fn len(&self) -> usize {
        self.inner.read().by_expiry.len()
    }

    /// Whether no lease lives.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Where the replicated lease clock stands, in milliseconds.
    pub fn clock(&self) -> u64 {
        self.inner.read().clock
    }

    /// What is to be done next, all as of one moment.
    pub fn upcoming(&self) -> Upcoming {
        let inner = self.inner.read();
        Upcoming {
            clock: inner.clock,
            first_expiry: inner.by_expiry.first().map(|(expires_at, _)| *expires_at),
            has_ending: !inner.ending.is_empty(),
        }
    }
}

impl Inner {
    fn new(clock: u64) -> Self {
        Self {
            leases: BTreeMap::new(),
            by_expiry: BTreeSet::new(),
            ending: BTreeSet::new(),
            clock,
            clock_seen: Instant::now(),
        }
    }

    fn get(&self, id: i64) -> Option<Lease> {
        let Entry { expires_at, ttl, ending } = *self.leases.get(&id)?;
        Some(Lease { id, ttl, expires_at, ending })
    }

    fn set(&mut self, lease: Lease) {
        let Lease { id, ttl, expires_at, ending } = lease;
        let replaced = self.leases.insert(id, Entry { expires_at, ttl, ending });
        if let Some(before) = replaced {
            self.forget_order(id, before);
        }
        if ending {
            self.ending.insert(id);
        } else {
            self.by_expiry.insert((expires_at, id));
        }
    }

    fn remove(&mut self, id: i64) {
        if let Some(before) = self.leases.remove(&id) {
            self.forget_order(id, before);
        }
    }

    fn forget_order(&mut self, id: i64, before: Entry) {
        if before.ending {
            self.ending.remove(&id);
        } else {
            self.by_expiry.remove(&(before.expires_at, id));
        }
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn lease(id: i64, ttl: i64, expires_at: u64) -> Lease {
        Lease { id, ttl, expires_at, ending: false }
    }

    fn with(changes: &[LeaseChange]) -> LeaseTable {
        let table = LeaseTable::default();
        table.apply(changes);
        table
    }

    #[test]
    fn due_leases_come_in_the_order_of_their_expiry_and_ending_ones_apart() {
        let table = with(&[
            LeaseChange::Set(lease(1, 5, 6_000)),
            LeaseChange::Set(lease(2, 3, 4_000)),
            LeaseChange::Set(lease(3, 9, 10_000)),
            LeaseChange::Set(Lease { ending: true, ..lease(4, 2, 1_000) }),
        ]);
        assert!(table.due(3_999, 10).is_empty());
        assert_eq!(table.due(6_000, 10), [2, 1]);
        assert_eq!(table.due(60_000, 2), [2, 1]);
        assert_eq!(table.ending(10), [4]);
        assert_eq!(table.ids(), [2, 1, 3]);
        assert_eq!((table.len(), table.get(4).map(|lease| lease.ending)), (3, Some(true)));
        assert_eq!(table.upcoming(), Upcoming { clock: 0, first_expiry: Some(4_000), has_ending: true });
    }

    #[test]
    fn a_renewed_lease_is_due_at_its_new_time_only() {
        let table = with(&[LeaseChange::Set(lease(1, 5, 6_000)), LeaseChange::Set(lease(1, 5, 9_000))]);
        assert!(table.due(8_999, 10).is_empty());
        assert_eq!(table.due(9_000, 10), [1]);
        table.apply(&[LeaseChange::Removed(1), LeaseChange::Removed(1)]);
        assert!(table.is_empty() && table.upcoming().is_empty());
    }

    #[test]
    fn the_remaining_time_goes_on_between_two_moves_of_the_clock() {
        let expires_at = 110_000 + SLACK_MS;
        let table = with(&[LeaseChange::Set(lease(1, 10, expires_at)), LeaseChange::Clock(100_000)]);
        let seen = table.inner.read().clock_seen;
        let after = |millis| table.remaining(1, seen + Duration::from_millis(millis)).map(|(_, left)| left);
        assert_eq!(after(0), Some(10));
        assert_eq!(after(1), Some(9));
        assert_eq!(after(1_001), Some(8));
        // A clock that stands still takes no more time from the lease.
        assert_eq!(after(600_000), Some(8));
        table.apply(&[LeaseChange::Clock(110_500)]);
        assert_eq!(after(0), Some(0));
        assert_eq!(table.remaining(2, seen), None);
    }

    #[test]
    fn the_time_without_any_lease_is_not_counted() {
        let table = with(&[LeaseChange::Clock(100_000)]);
        let long_ago = Instant::now().checked_sub(Duration::from_secs(1)).unwrap();
        table.inner.write().clock_seen = long_ago;
        table.apply(&[LeaseChange::Set(lease(1, 10, 111_000))]);
        assert!(table.inner.read().clock_seen > long_ago);
    }

    #[test]
    fn the_first_lease_and_the_first_ending_one_are_told() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            let told = async |table: &LeaseTable| {
                tokio::time::timeout(Duration::from_millis(1), table.work().notified()).await.is_ok()
            };
            let table = with(&[LeaseChange::Clock(1)]);
            assert!(!told(&table).await);
            table.apply(&[LeaseChange::Set(lease(1, 5, 6_000))]);
            assert!(told(&table).await);
            table.apply(&[LeaseChange::Set(lease(2, 5, 6_000))]);
            assert!(!told(&table).await);
            table.apply(&[LeaseChange::Set(Lease { ending: true, ..lease(2, 5, 6_000) })]);
            assert!(told(&table).await);
        });
    }

    fn changes() -> impl Strategy<Value = Vec<LeaseChange>> {
        let change = prop_oneof![
            4 => (0_i64..8, 0_u64..6, any::<bool>()).prop_map(|(id, expires_at, ending)| {
                LeaseChange::Set(Lease { id, ttl: 2, expires_at, ending })
            }),
            2 => (0_i64..8).prop_map(LeaseChange::Removed),
            1 => (0_u64..9).prop_map(LeaseChange::Clock),
        ];
        proptest::collection::vec(change, 0..60)
    }

    proptest! {
        #[test]
        fn both_orders_hold_just_the_leases_that_are_there(changes in changes()) {
            let table = with(&changes);
            let mut model = BTreeMap::new();
            for change in changes {
                match change {
                    LeaseChange::Set(lease) => drop(model.insert(lease.id, lease)),
                    LeaseChange::Removed(id) => drop(model.remove(&id)),
                    LeaseChange::Clock(_) => {}
                }
            }
            let mut living: Vec<_> =
                model.values().filter(|lease| !lease.ending).map(|lease| (lease.expires_at, lease.id)).collect();
            living.sort_unstable();
            prop_assert_eq!(table.ids(), living.into_iter().map(|(_, id)| id).collect::<Vec<_>>());
            let ending: Vec<_> = model.values().filter(|lease| lease.ending).map(|lease| lease.id).collect();
            prop_assert_eq!(table.ending(usize::MAX), ending);
            for id in 0..8 {
                prop_assert_eq!(table.get(id), model.get(&id).copied());
            }
        }
    }
}

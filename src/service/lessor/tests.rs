//! The lessor against a node that it takes for real: a table of leases, and a log
//! whose term, failures and majority the test decides on.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use parking_lot::Mutex;

use super::*;
use crate::mvcc::{Lease, LeaseChange};
use crate::store::lease_table::SLACK_MS;
use crate::{StoredMembership, Vote};

#[derive(Default)]
struct World {
    leases: LeaseTable,
    /// The term of the entries that the log takes.
    log_term: AtomicU64,
    has_majority: AtomicBool,
    confirmed: AtomicUsize,
    /// How many leases each tick named, in order.
    ticks: Mutex<Vec<usize>>,
    /// What becomes of the next ticks; they take effect when there is none.
    failures: Mutex<VecDeque<Failure>>,
    expired: AtomicUsize,
}

enum Failure {
    /// It takes effect, and nobody learns it.
    Unheard,
    /// It never does.
    Lost,
}

impl World {
    fn new(term: u64, leases: impl IntoIterator<Item = (i64, u64)>) -> Arc<Self> {
        let world = Self::default();
        world.log_term.store(term, Ordering::SeqCst);
        world.has_majority.store(true, Ordering::SeqCst);
        let lease = |(id, expires_at)| LeaseChange::Set(Lease { id, ttl: 2, expires_at, ending: false });
        world.leases.apply(&leases.into_iter().map(lease).collect::<Vec<_>>());
        Arc::new(world)
    }

    fn apply(&self, term: u64, clock: u64, expired: &[i64]) {
        self.ticks.lock().push(expired.len());
        if term != self.log_term.load(Ordering::SeqCst) {
            return;
        }
        let mut changes = vec![LeaseChange::Clock(clock.max(self.leases.clock()))];
        let is_due =
            |id: &&i64| self.leases.get(**id).is_some_and(|lease| lease.ending || lease.expires_at <= clock);
        changes.extend(expired.iter().filter(is_due).map(|id| LeaseChange::Removed(*id)));
        self.leases.apply(&changes);
    }

    fn ended(&self) -> bool {
        self.leases.upcoming().is_empty()
    }
}

impl Leader for Arc<World> {
    fn leases(&self) -> &LeaseTable {
        &self.leases
    }

    async fn confirm(&self) -> Result<(), ForwardError> {
        if self.has_majority.load(Ordering::SeqCst) {
            self.confirmed.fetch_add(1, Ordering::SeqCst);
            return Ok(());
        }
        Err(ForwardError::Unavailable("no majority".to_owned()))
    }

    async fn tick(&self, term: u64, clock: u64, expired: Vec<i64>) -> Result<(), ForwardError> {
        let failure = self.failures.lock().pop_front();
        if !matches!(failure, Some(Failure::Lost)) {
            self.apply(term, clock, &expired);
        }
        match failure {
            Some(_) => Err(ForwardError::Unknown("lost".to_owned())),
            None => Ok(()),
        }
    }

    fn count_expired(&self, count: usize) {
        self.expired.fetch_add(count, Ordering::SeqCst);
    }
}

fn view(state: ServerState, term: u64) -> View {
    let membership = Arc::new(StoredMembership::default());
    View { state, vote: Vote::new(term, 1), leader: None, membership }
}

/// A lessor at work, and the view that it follows.
struct AtWork {
    view: watch::Sender<View>,
    task: tokio::task::JoinHandle<()>,
}

fn start(world: &Arc<World>, state: ServerState, term: u64) -> AtWork {
    let (sender, receiver) = watch::channel(view(state, term));
    let weak = Arc::downgrade(world);
    let task = tokio::spawn(run(move || weak.upgrade(), receiver, world.leases.work()));
    AtWork { view: sender, task }
}

async fn until(condition: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !condition() {
        assert!(Instant::now() < deadline, "it did not happen in time");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn run_test(test: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(test);
}

#[test]
fn many_leases_that_are_due_end_in_small_commands_each_confirmed() {
    run_test(async {
        let world = World::new(3, (1..=2_200).map(|id| (id, 0)));
        let at_work = start(&world, ServerState::Leader, 3);
        until(|| world.ended()).await;
        let ticks = world.ticks.lock().clone();
        assert_eq!(ticks.iter().sum::<usize>(), 2_200);
        assert!(ticks[0] == LEAST_NAMED && ticks.iter().all(|named| *named <= MAX_LEASES_ENDED), "{ticks:?}");
        // Once more when the reign began.
        assert_eq!(world.confirmed.load(Ordering::SeqCst), ticks.len() + 1);
        until(|| world.expired.load(Ordering::SeqCst) == 2_200).await;
        at_work.task.abort();
    });
}

#[test]
fn a_lease_ends_when_its_time_is_up_and_no_sooner() {
    run_test(async {
        let world = World::new(1, []);
        let at_work = start(&world, ServerState::Leader, 1);
        tokio::time::sleep(Duration::from_millis(300)).await;
        // The wait before it counts nothing.
        let began = Instant::now();
        let expires_at = 1_000 + SLACK_MS;
        world.leases.apply(&[LeaseChange::Set(Lease { id: 7, ttl: 1, expires_at, ending: false })]);
        until(|| world.ended()).await;
        assert!(began.elapsed() >= Duration::from_millis(expires_at), "took {:?}", began.elapsed());
        assert!(world.leases.clock() >= expires_at);
        assert_eq!(world.expired.load(Ordering::SeqCst), 1);
        // Two ticks on the way, the last of all names the lease.
        assert_eq!(world.ticks.lock().last(), Some(&1));
        assert!(world.ticks.lock().iter().rev().skip(1).all(|named| *named == 0));
        at_work.task.abort();
    });
}

#[test]
fn who_does_not_lead_ends_nothing_and_a_new_reign_goes_on() {
    run_test(async {
        let world = World::new(4, [(1, 0)]);
        let at_work = start(&world, ServerState::Follower, 3);
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert!(world.ticks.lock().is_empty());
        // It was deposed already, and will learn it later.
        at_work.view.send_replace(view(ServerState::Leader, 3));
        until(|| !world.ticks.lock().is_empty()).await;
        assert!(!world.ended());
        at_work.view.send_replace(view(ServerState::Follower, 4));
        tokio::time::sleep(RETRY + Duration::from_millis(50)).await;
        let before = world.ticks.lock().len();
        tokio::time::sleep(2 * RETRY).await;
        assert_eq!(world.ticks.lock().len(), before);
        at_work.view.send_replace(view(ServerState::Leader, 4));
        until(|| world.ended()).await;
        assert_eq!(world.expired.load(Ordering::SeqCst), 1);
        at_work.task.abort();
    });
}

#[test]
fn without_a_majority_nothing_is_ended() {
    run_test(async {
        let world = World::new(1, [(1, 0)]);
        world.has_majority.store(false, Ordering::SeqCst);
        let at_work = start(&world, ServerState::Leader, 1);
        tokio::time::sleep(3 * RETRY).await;
        assert!(world.ticks.lock().is_empty());
        world.has_majority.store(true, Ordering::SeqCst);
        until(|| world.ended()).await;
        at_work.task.abort();
    });
}

#[test]
fn a_tick_whose_fate_is_unknown_is_followed_by_another() {
    run_test(async {
        for failure in [Failure::Unheard, Failure::Lost] {
            let world = World::new(1, [(1, 0), (2, 300)]);
            world.failures.lock().push_back(failure);
            let at_work = start(&world, ServerState::Leader, 1);
            until(|| world.ended()).await;
            at_work.task.abort();
        }
    });
}

#[test]
fn leases_that_are_ending_are_named_until_they_are_gone() {
    run_test(async {
        let world = World::new(1, [(1, 60_000)]);
        let at_work = start(&world, ServerState::Leader, 1);
        tokio::time::sleep(Duration::from_millis(50)).await;
        let ending = Lease { id: 2, ttl: 2, expires_at: 90_000, ending: true };
        world.leases.apply(&[LeaseChange::Set(ending)]);
        until(|| world.leases.get(2).is_none()).await;
        assert_eq!(world.leases.len(), 1);
        // Its end is not its time's doing.
        assert_eq!(world.expired.load(Ordering::SeqCst), 0);
        at_work.task.abort();
    });
}

#[test]
fn it_stops_with_the_node_and_with_raft() {
    run_test(async {
        let world = World::new(1, [(1, 60_000)]);
        let at_work = start(&world, ServerState::Leader, 1);
        tokio::time::sleep(Duration::from_millis(20)).await;
        drop(at_work.view);
        tokio::time::timeout(Duration::from_secs(5), at_work.task).await.unwrap().unwrap();

        let at_work = start(&world, ServerState::Leader, 1);
        tokio::time::sleep(Duration::from_millis(20)).await;
        // It must not keep alive what it serves.
        assert_eq!(Arc::strong_count(&world), 1);
        drop(world);
        tokio::time::timeout(Duration::from_secs(5), at_work.task).await.unwrap().unwrap();
    });
}

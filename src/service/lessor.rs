//! Lease time passes by the leader's hand: it ticks, and ends what is due.
//!
//! One task on every node; it does something only while this node leads and there
//! are leases. Nothing is ended by it directly: it proposes, for its own term
//! only, and what the log says happens. A keep-alive that the log holds before
//! the end of its lease wins, so no answer to a keep-alive is ever taken back.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use openraft::ServerState;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use super::handle::{RequestCounters, Service, View};
use super::lease_clock::{LeaseClock, Step};
use crate::command::{AlarmKind, Command, OutcomeResult, Write};
use crate::mutants::Mutant;
use crate::openraft_network::forward::ForwardError;
use crate::store::lease_table::Upcoming;
use crate::store::{KEYS_IN_PART, LeaseTable, MAX_LEASES_ENDED};

/// How long to wait after something did not work.
const RETRY: Duration = Duration::from_millis(200);
/// Bounds of the pause after a command that ended leases: others' writes get at
/// least as much time as that took.
const BREATHER: (Duration, Duration) = (Duration::from_millis(2), Duration::from_millis(100));
/// Fewest leases that a command names, which is where a reign begins.
const LEAST_NAMED: usize = 100;
/// How long others' writes may be held up by a command that ends leases: above, the
/// next one names half as many, and far below, twice as many.
const HOLD_UP: Duration = Duration::from_millis(12);
/// What removing a part of the many keys of a lease counts for, in leases.
const PART_WEIGHT: usize = KEYS_IN_PART / 2;

/// What the lessor needs of its node.
pub(super) trait Leader: Send + Sync {
    /// The leases as this node knows them.
    fn leases(&self) -> &LeaseTable;

    /// Confirms with a majority that this node leads, and waits until it has
    /// applied all that was committed before.
    fn confirm(&self) -> impl Future<Output = Result<(), ForwardError>> + Send;

    /// Proposes a tick as the leader, never through another node, and waits until
    /// it is applied here.
    fn tick(
        &self,
        term: u64,
        clock: u64,
        expired: Vec<i64>,
    ) -> impl Future<Output = Result<(), ForwardError>> + Send;

    /// Counts leases that ended because their time was up.
    fn count_expired(&self, count: usize);
}

/// Follows `view` and ends when Raft does, or when there is no `node` any more.
/// It is asked for anew each time, so that a task which waits keeps nothing open.
pub(super) async fn run<L: Leader>(
    node: impl Fn() -> Option<L> + Send,
    mut view: watch::Receiver<View>,
    work: Arc<Notify>,
) {
    loop {
        let reign =
            view.wait_for(|view| view.state == ServerState::Leader).await.map(|view| Reign::of(&view));
        let Ok(Some(reign)) = reign else { return };
        let mut lessor = Lessor {
            node: &node,
            view: &mut view,
            work: &work,
            reign,
            share: LEAST_NAMED,
            usual: Duration::ZERO,
        };
        if lessor.lead().await.is_err() {
            return;
        }
    }
}

/// A term of this node's as the leader.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Reign {
    term: u64,
}

impl Reign {
    fn of(view: &View) -> Option<Self> {
        (view.state == ServerState::Leader).then_some(Self { term: view.vote.leader_id.term })
    }
}

/// The node or Raft has ended.
struct Stopped;

struct Lessor<'a, F> {
    node: &'a F,
    view: &'a mut watch::Receiver<View>,
    work: &'a Notify,
    reign: Reign,
    /// How many leases the next command names at most.
    share: usize,
    /// How long the last command took that ended nothing.
    usual: Duration,
}

impl<L: Leader, F: Fn() -> Option<L> + Send> Lessor<'_, F> {
    /// Lets lease time pass for as long as the reign lasts.
    async fn lead(&mut self) -> Result<(), Stopped> {
        // What earlier leaders did must be known before time goes on from there.
        while self.reigns() {
            let confirmed = self.node()?.confirm().await;
            if confirmed.is_ok() {
                break;
            }
            self.pause(RETRY).await?;
        }
        let mut clock = None;
        while self.reigns() {
            let upcoming = self.node()?.leases().upcoming();
            if upcoming.is_empty() {
                clock = None;
                self.wait_for_work().await?;
                continue;
            }
            if let Err(error) = self.round(&mut clock, &upcoming).await? {
                tracing::debug!(%error, "a lease tick did not take effect; it is tried again");
                // Whatever became of it, time goes on from what is replicated.
                if !Mutant::DeposedLessor.is_awake() {
                    clock = None;
                }
                self.pause(RETRY).await?;
            }
        }
        Ok(())
    }

    async fn round(
        &mut self,
        clock: &mut Option<LeaseClock>,
        upcoming: &Upcoming,
    ) -> Result<Result<(), ForwardError>, Stopped> {
        let now = Instant::now();
        let clock = clock.get_or_insert_with(|| LeaseClock::anchored(upcoming.clock, now));
        match clock.step(upcoming, now) {
            Step::Wait(until) => {
                self.pause(until - now).await?;
                Ok(Ok(()))
            }
            Step::Tick(time) => {
                clock.proposing(now);
                let ticked = self.tick(&self.node()?, time, Vec::new()).await;
                self.usual = now.elapsed();
                Ok(ticked)
            }
            Step::Expire(time) => {
                clock.proposing(now);
                let ended = self.end_due(&self.node()?, time).await;
                if let Ok(cost) = ended {
                    let (least, most) = BREATHER;
                    self.pause(cost.clamp(least, most)).await?;
                }
                Ok(ended.map(drop))
            }
        }
    }

    /// Ends a part of the leases that are due at `time`. Answers what that took on top of any
    /// other command.
    async fn end_due(&mut self, node: &L, time: u64) -> Result<Duration, ForwardError> {
        // A leader that nobody follows any more had better leave its leases alone.
        node.confirm().await?;
        let leases = node.leases();
        let due = leases.due(time, self.share);
        // Last: clients take them for gone already.
        let parts = (self.share - due.len()) / PART_WEIGHT;
        let ending = leases.ending(parts);
        let named: Vec<_> = due.iter().chain(ending.iter().cycle().take(parts)).copied().collect();
        let began = Instant::now();
        if Mutant::DeposedLessor.is_awake() {
            // It still wants to end what was due by its own clock while nobody heard it.
            while self.tick(node, time, named.clone()).await.is_err() {
                tokio::time::sleep(RETRY).await;
            }
        } else {
            self.tick(node, time, named).await?;
        }
        let cost = began.elapsed().saturating_sub(self.usual);
        if cost > HOLD_UP {
            self.share = (self.share / 2).max(LEAST_NAMED);
        } else if cost < HOLD_UP / 3 {
            self.share = (self.share * 2).min(MAX_LEASES_ENDED);
        }
        node.count_expired(due.iter().filter(|id| leases.get(**id).is_none_or(|lease| lease.ending)).count());
        Ok(cost)
    }

    async fn tick(&self, node: &L, time: u64, expired: Vec<i64>) -> Result<(), ForwardError> {
        node.tick(self.reign.term, time, expired).await?;
        if node.leases().clock() < time {
            // It came into another term's log, where it says nothing.
            return Err(ForwardError::NotLeader { leader: None });
        }
        Ok(())
    }

    fn reigns(&mut self) -> bool {
        if Mutant::DeposedLessor.is_awake() {
            return true;
        }
        Reign::of(&self.view.borrow_and_update()) == Some(self.reign)
    }

    fn node(&self) -> Result<L, Stopped> {
        (self.node)().ok_or(Stopped)
    }

    /// Waits for `time`, or less if the leader changes.
    async fn pause(&mut self, time: Duration) -> Result<(), Stopped> {
        match tokio::time::timeout(time, self.view.changed()).await {
            Ok(Err(_)) => Err(Stopped),
            Ok(Ok(())) | Err(_) => Ok(()),
        }
    }

    /// Waits until the first lease comes, or the leader changes.
    async fn wait_for_work(&mut self) -> Result<(), Stopped> {
        tokio::select! {
            () = self.work.notified() => Ok(()),
            changed = self.view.changed() => changed.map_err(|_| Stopped),
        }
    }
}

impl Leader for Service {
    fn leases(&self) -> &LeaseTable {
        self.inner.store.leases()
    }

    async fn confirm(&self) -> Result<(), ForwardError> {
        if Mutant::DeposedLessor.is_awake() {
            return Ok(());
        }
        let deadline = Instant::now() + self.inner.options.request_timeout;
        let index = self.inner.read_index.get_as_leader().await?;
        let applied = self.wait_applied(index, deadline).await;
        applied.map_err(|error| ForwardError::Unavailable(error.to_string()))
    }

    async fn tick(&self, term: u64, clock: u64, expired: Vec<i64>) -> Result<(), ForwardError> {
        // Applying it would end nothing, and it would be proposed again at once.
        if !expired.is_empty()
            && let Some(alarm) = self.inner.store.store().alarm_of(AlarmKind::Corrupt)
        {
            return Err(ForwardError::Unavailable(format!("no lease ends: the alarm {alarm} is raised")));
        }
        let command = Command::of(Write::LeaseTick { term, clock, expired });
        let deadline = Instant::now() + self.inner.options.request_timeout;
        let outcome = if Mutant::DeposedLessor.is_awake() {
            let committed = self.commit_by(&command.encode(), deadline).await;
            committed.map_err(|error| ForwardError::Unavailable(error.to_string()))?
        } else {
            self.propose(command.encode(), deadline).await?
        };
        if let OutcomeResult::Rejected(rejection) = outcome.result {
            return Err(ForwardError::Unavailable(rejection.to_string()));
        }
        Ok(())
    }

    fn count_expired(&self, count: usize) {
        RequestCounters::add_many(&self.inner.counters.leases_expired, count);
    }
}

#[cfg(test)]
mod tests;

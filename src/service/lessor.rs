//! Lease time passes by the leader's hand: it ticks, and ends what is due.
//!
//! One task on every node; it does something only while this node leads and there
//! are leases. Nothing is ended by it directly: it proposes, for its own term
//! only, and what the log says happens. A keep-alive that the log holds before
//! the end of its lease wins, so no answer to a keep-alive is ever taken back.

use std::sync::{Arc, Weak};
use std::time::Duration;

use openraft::ServerState;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use super::handle::{Inner, RequestCounters, Service, View};
use super::lease_clock::{LeaseClock, Step, TICK};
use crate::command::{Command, OutcomeResult, Write};
use crate::openraft_network::forward::ForwardError;
use crate::store::lease_table::Upcoming;

/// Most leases that one command ends, so that applying it holds nobody up.
const MAX_BATCH: usize = 500;
/// How long to wait after something did not work.
const RETRY: Duration = Duration::from_millis(200);
/// Bounds of the pause after a command that ended leases: others' writes get at
/// least as much time as that took.
const BREATHER: (Duration, Duration) = (Duration::from_millis(2), Duration::from_millis(100));

/// Follows `view` and ends when Raft or the service does.
pub(super) async fn run(service: Weak<Inner>, mut view: watch::Receiver<View>, work: Arc<Notify>) {
    loop {
        let reign =
            view.wait_for(|view| view.state == ServerState::Leader).await.map(|view| Reign::of(&view));
        let Ok(Some(reign)) = reign else { return };
        let mut lessor =
            Lessor { service: service.clone(), view: view.clone(), work: Arc::clone(&work), reign };
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

/// The service or Raft has ended.
struct Stopped;

struct Lessor {
    service: Weak<Inner>,
    view: watch::Receiver<View>,
    work: Arc<Notify>,
    reign: Reign,
}

impl Lessor {
    /// Lets lease time pass for as long as the reign lasts.
    async fn lead(&mut self) -> Result<(), Stopped> {
        // What earlier leaders did must be known before time goes on from there.
        while self.reigns() {
            if self.service()?.confirm_leadership().await.is_ok() {
                break;
            }
            self.pause(RETRY).await?;
        }
        let mut clock = None;
        while self.reigns() {
            let upcoming = self.service()?.inner.store.leases().upcoming();
            if upcoming.is_empty() {
                clock = None;
                self.wait_for_work().await?;
                continue;
            }
            if let Err(error) = self.round(&mut clock, &upcoming).await? {
                tracing::debug!(%error, "a lease tick did not take effect; it is tried again");
                // Whatever became of it, time goes on from what is replicated.
                clock = None;
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
                Ok(self.service()?.tick(self.reign.term, time, Vec::new()).await)
            }
            Step::Expire(time) => {
                clock.proposing(now);
                let service = self.service()?;
                let ended = service.end_due(self.reign.term, time).await;
                drop(service);
                if ended.is_ok() {
                    let (least, most) = BREATHER;
                    self.pause(now.elapsed().clamp(least, most)).await?;
                }
                Ok(ended)
            }
        }
    }

    fn reigns(&mut self) -> bool {
        Reign::of(&self.view.borrow_and_update()) == Some(self.reign)
    }

    /// The service for one step: held longer, it would outlive the node.
    fn service(&self) -> Result<Service, Stopped> {
        self.service.upgrade().map(|inner| Service { inner }).ok_or(Stopped)
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

impl Service {
    /// Confirms with a majority that this node leads, and waits until it has
    /// applied all that was committed before.
    async fn confirm_leadership(&self) -> Result<(), ForwardError> {
        let deadline = Instant::now() + self.inner.options.request_timeout;
        let index = self.inner.read_index.get_as_leader().await?;
        let applied = self.wait_applied(index, deadline).await;
        applied.map_err(|error| ForwardError::Unavailable(error.to_string()))
    }

    /// Ends a part of the leases that are due at `time`.
    async fn end_due(&self, term: u64, time: u64) -> Result<(), ForwardError> {
        // A leader that nobody follows any more had better leave its leases alone.
        self.confirm_leadership().await?;
        let leases = self.inner.store.leases();
        let due = leases.due(time, MAX_BATCH);
        // Last: clients take them for gone already.
        let ending = leases.ending(MAX_BATCH - due.len());
        self.tick(term, time, [due.as_slice(), &ending].concat()).await?;
        let ended = due.iter().filter(|id| leases.get(**id).is_none_or(|lease| lease.ending)).count();
        RequestCounters::add_many(&self.inner.counters.leases_expired, ended);
        Ok(())
    }

    /// Proposes a tick as the leader and waits until it took effect.
    async fn tick(&self, term: u64, clock: u64, expired: Vec<i64>) -> Result<(), ForwardError> {
        let command = Command::of(Write::LeaseTick { term, clock, expired });
        let deadline = Instant::now() + self.inner.options.request_timeout.max(TICK);
        let outcome = self.propose(command.encode(), deadline).await?;
        if let OutcomeResult::Rejected(rejection) = outcome.result {
            return Err(ForwardError::Unavailable(rejection.to_string()));
        }
        if self.inner.store.leases().clock() < clock {
            // It came into another term's log.
            return Err(ForwardError::NotLeader { leader: None });
        }
        Ok(())
    }
}

//! The closed-loop clients: ask, wait for the answer, ask again.
//!
//! A driver plays one client, or several that take turns because their protocol
//! answers one request of a connection at a time: their order is fixed, so it
//! only remembers since when each of them waits. Latency counts from when a
//! client wants to ask. How the server is asked is in [`Ask`]; what is asked,
//! when it counts and how long is waited after a failure is here, and the same
//! for every protocol.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use tokio::time::{Instant, sleep_until};

use crate::run::Shared;
use crate::stats::{Gap, Stats};
use crate::workload::Operation;

/// The first wait after a failure; doubled up to the longest.
const FIRST_BACK_OFF: Duration = Duration::from_millis(5);
const LONGEST_BACK_OFF: Duration = Duration::from_millis(80);
/// A connection that idled this long is made anew: the server may have closed it.
const LONGEST_IDLE: Duration = Duration::from_secs(1);
/// How often a waiting client looks whether the run is over.
const LOOK: Duration = Duration::from_millis(100);

/// How an operation ended. Failures carry a short name, under which they are
/// counted, and what is shown of one of them.
#[derive(Debug)]
pub(crate) enum Ended {
    Succeeded { absent: bool },
    Refused { kind: String, detail: String, retry_after: Option<Duration> },
    Wrong { detail: String },
    Broke { kind: String, detail: String },
}

/// Asks one server at a time, in one protocol.
pub(crate) trait Ask: Send + 'static {
    /// Chooses a server and connects. A server that is down shows as failed
    /// operations once the run began.
    fn prepare(&mut self) -> impl Future<Output = ()> + Send;

    /// Carries an operation out, within the plan's time limit.
    fn ask(&mut self, operation: Operation, key: u64, rng: &mut StdRng)
    -> impl Future<Output = Ended> + Send;

    /// Learns that a while will pass before the next operation.
    fn rest(&mut self);

    /// Goes on where it makes sense after the server refused.
    fn after_refusal(&mut self) -> impl Future<Output = ()> + Send;

    /// Goes on where it makes sense after the server broke off.
    fn after_break(&mut self) -> impl Future<Output = ()> + Send;

    /// The `host:port` that is asked.
    fn server(&self) -> &str;
}

/// One client, or several that take turns.
pub(crate) struct Driver<A> {
    shared: Arc<Shared>,
    stats: Arc<Mutex<Stats>>,
    asker: A,
    clients: usize,
    rng: StdRng,
    back_off: Duration,
}

impl<A: Ask> Driver<A> {
    /// The driver `number` of a run, whose `clients` ask by `asker`.
    pub(crate) fn new(
        shared: Arc<Shared>,
        stats: Arc<Mutex<Stats>>,
        number: usize,
        asker: A,
        clients: usize,
    ) -> Self {
        let rng = StdRng::seed_from_u64(shared.plan.seed.wrapping_add(number as u64).wrapping_add(1));
        Self { shared, stats, asker, clients, rng, back_off: FIRST_BACK_OFF }
    }

    /// Connects, waits for all others to have done so, and works until the run
    /// is over.
    pub(crate) async fn drive(mut self) {
        let shared = Arc::clone(&self.shared);
        self.asker.prepare().await;
        let began = shared.begin().await;
        let mut waiting: VecDeque<Instant> = std::iter::repeat_n(began, self.clients).collect();
        let mut now = began;
        while let Some(since) = waiting.pop_front() {
            let Some(ticket) = shared.next(now, &mut self.rng) else { break };
            let measured = shared.is_measured(now);
            loop {
                let ended = self.asker.ask(ticket.operation, ticket.key, &mut self.rng).await;
                now = Instant::now();
                self.count(ticket.operation, ticket.key, &ended, measured, since, now);
                match ended {
                    Ended::Succeeded { .. } => break self.back_off = FIRST_BACK_OFF,
                    // Not asked again: the server believes that it was carried out.
                    Ended::Wrong { .. } => break,
                    Ended::Refused { retry_after, .. } => {
                        let asked = retry_after.filter(|_| !shared.plan.ignore_retry_after);
                        let wait = asked.unwrap_or_else(|| self.next_back_off());
                        self.wait(wait).await;
                        self.asker.after_refusal().await;
                    }
                    Ended::Broke { .. } => {
                        let wait = self.next_back_off();
                        self.wait(wait).await;
                        self.asker.after_break().await;
                    }
                }
                now = Instant::now();
                if !ticket.until_done || shared.is_over(now) {
                    break;
                }
            }
            waiting.push_back(now);
        }
    }

    fn count(
        &self,
        operation: Operation,
        key: u64,
        ended: &Ended,
        measured: bool,
        since: Instant,
        now: Instant,
    ) {
        let shared = &self.shared;
        shared.live.count(matches!(ended, Ended::Succeeded { .. }));
        if !measured {
            return;
        }
        let at = shared.since_start(now);
        // Nothing in here panics half-way, so counts behind a poisoned lock are whole.
        let mut stats = self.stats.lock().unwrap_or_else(PoisonError::into_inner);
        let (kind, what) = match ended {
            Ended::Succeeded { absent } => {
                stats.absent = stats.absent.saturating_add(u64::from(*absent));
                stats.succeeded(operation, at, now.saturating_duration_since(since));
                if operation.is_write() {
                    let before = shared.live.acknowledged(at);
                    stats.gap(Gap { length: at.saturating_sub(before), began: before });
                }
                return;
            }
            Ended::Wrong { detail } => {
                stats.wrong = stats.wrong.saturating_add(1);
                ("wrong answer", detail)
            }
            Ended::Refused { kind, detail, .. } | Ended::Broke { kind, detail } => (kind.as_str(), detail),
        };
        let server = self.asker.server();
        stats.failed(kind, &format!("{} of key {key} at {server}: {what}", operation.name()), at);
    }

    fn next_back_off(&mut self) -> Duration {
        let longest = self.back_off;
        self.back_off = longest.saturating_mul(2).min(LONGEST_BACK_OFF);
        // Spread out, so that a server that comes back is not met by all at once.
        longest.mul_f64(self.rng.random_range(0.5..1.0))
    }

    async fn wait(&mut self, wait: Duration) {
        if wait >= LONGEST_IDLE {
            self.asker.rest();
        }
        let until = Instant::now() + wait;
        loop {
            let now = Instant::now();
            if now >= until || self.shared.is_over(now) {
                return;
            }
            sleep_until(until.min(now + LOOK)).await;
        }
    }
}

//! Clients that work on a cluster whatever happens to it, and write down what they were told.
//!
//! Every call is made once, at one node, within a short time; no library repeats anything. What
//! a client was told is judged strictly. Nothing here knows what is being done to
//! the cluster meanwhile, and nothing here decides whether an answer was right.

mod crew;
mod http;
mod judge;
mod locks;
mod network;
mod over_grpc;
mod over_http;
mod registers;
mod session;
mod slots;
mod txns;
mod watch;
mod wire;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use tokio::task::JoinHandle;

pub use self::crew::Crew;
use self::network::Network;
pub use self::session::{Phase, Shared};
pub use self::wire::{Granted, Renewal, Wire};
pub use crate::cluster::Endpoint;
use crate::dice::Dice;
use crate::history::{History, Holding, NodeState, Operation, Outcome, WatchLog, WatchNote, Way};
use crate::record::Clock;

/// How much of what is done: numbers that stand to each other as the calls shall.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Weights {
    /// Registers.
    pub registers: usize,
    /// The seed's calls.
    pub seeds: usize,
    /// Lists that transactions read and append to.
    pub lists: usize,
    /// Counters.
    pub counters: usize,
    /// The bank.
    pub bank: usize,
}

impl Default for Weights {
    fn default() -> Self {
        Self { registers: 40, seeds: 15, lists: 18, counters: 12, bank: 15 }
    }
}

/// How many clients there are, and how fast they work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// Clients that read and write.
    pub clients: usize,
    /// Clients that take locks.
    pub lockers: usize,
    /// Watchers of everything.
    pub complete_watchers: usize,
    /// Watchers that come and go.
    pub casual_watchers: usize,
    /// What the clients do.
    pub weights: Weights,
    /// Registers at a time.
    pub registers: usize,
    /// The mean of the pause of a client after a call.
    pub pause: Duration,
    /// How long a call may take.
    pub limit: Duration,
    /// How long watchers of everything may take to see the last revision.
    pub patience: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            clients: 24,
            lockers: 4,
            complete_watchers: 3,
            casual_watchers: 4,
            weights: Weights::default(),
            registers: 12,
            pause: Duration::from_millis(12),
            limit: Duration::from_millis(2_500),
            patience: Duration::from_secs(60),
        }
    }
}

/// What the clients did, and what they were told.
#[derive(Debug, Default)]
pub struct Recorded {
    /// All calls.
    pub operations: Vec<Operation>,
    /// All watchers.
    pub watches: Vec<WatchLog>,
    /// All times during which a lock was held.
    pub holdings: Vec<Holding>,
    /// The sum of all accounts of the bank, if there is one.
    pub bank_total: Option<i64>,
    /// Promises that were broken where no checker looks, in words: a lease that ended before
    /// its time, an answer that has not the documented form. Each of them is a problem.
    pub broken: Vec<String>,
}

impl Recorded {
    /// Adds what another client did.
    pub fn take_in(&mut self, mut more: Self) {
        self.operations.append(&mut more.operations);
        self.watches.append(&mut more.watches);
        self.holdings.append(&mut more.holdings);
        self.bank_total = self.bank_total.or(more.bank_total);
        self.broken.append(&mut more.broken);
    }

    /// What the checkers judge, but for [`Self::broken`].
    pub fn into_history(self, final_states: Vec<NodeState>) -> History {
        let Self { operations, watches, holdings, bank_total, broken: _ } = self;
        History { operations, watches, holdings, bank_total, final_states }
    }
}

/// The running clients.
pub struct Clients {
    shared: Arc<Shared>,
    endpoints: tokio::sync::watch::Sender<Arc<[Endpoint]>>,
    phase: tokio::sync::watch::Sender<Phase>,
    workers: Vec<JoinHandle<Recorded>>,
    watchers: Vec<JoinHandle<WatchLog>>,
    seen: Vec<Arc<AtomicI64>>,
    patience: Duration,
    recorded: Recorded,
}

impl Clients {
    /// Starts clients at these nodes. All of their choices follow from `dice`; how they fall
    /// together is up to the machine.
    ///
    /// Must be called within a tokio runtime.
    pub fn start(endpoints: Vec<Endpoint>, options: &Options, clock: Clock, mut dice: Dice) -> Self {
        let nodes: Vec<_> = endpoints.iter().map(|endpoint| endpoint.node).collect();
        let (endpoints, known) = tokio::sync::watch::channel(Arc::from(endpoints));
        let (phase, told) = tokio::sync::watch::channel(Phase::Work);
        let shared = Arc::new(Shared::new(clock, options.limit, known, told));
        let crew = Crew::new(Arc::clone(&shared), options.registers, options.weights.clone(), options.pause);
        let crew = Arc::new(crew);

        let mut watchers = Vec::new();
        let mut seen = Vec::new();
        for (number, node) in nodes.iter().cycle().take(options.complete_watchers).enumerate() {
            let way = if number % 2 == 0 { Way::Grpc } else { Way::Http };
            let place = Arc::new(AtomicI64::new(1));
            seen.push(Arc::clone(&place));
            let watcher = watch::complete(Arc::clone(&shared), dice.fork(), way, *node, place);
            watchers.push(tokio::spawn(watcher));
        }
        let mut workers = Vec::new();
        for _ in 0..options.clients {
            let (crew, network) = (Arc::clone(&crew), Network::new(Arc::clone(&shared)));
            let dice = dice.fork();
            workers.push(tokio::spawn(async move { crew.work(dice, network).await }));
        }
        for _ in 0..options.lockers {
            let (crew, network) = (Arc::clone(&crew), Network::new(Arc::clone(&shared)));
            let dice = dice.fork();
            workers.push(tokio::spawn(async move { crew.lock(dice, network).await }));
        }
        for _ in 0..options.casual_watchers {
            let watching = watch::casual(Arc::clone(&shared), dice.fork());
            workers.push(tokio::spawn(
                async move { Recorded { watches: watching.await, ..Recorded::default() } },
            ));
        }
        let bank_total = (options.clients > 0 && options.weights.bank > 0).then_some(txns::BANK_TOTAL);
        let recorded = Recorded { bank_total, ..Recorded::default() };
        let patience = options.patience;
        Self { shared, endpoints, phase, workers, watchers, seen, patience, recorded }
    }

    /// Tells the clients which nodes there are from now on.
    pub fn set_endpoints(&self, endpoints: Vec<Endpoint>) {
        self.endpoints.send_replace(Arc::from(endpoints));
    }

    /// The revision up to which all watchers of everything have seen all: nothing above it may
    /// be compacted.
    pub fn safe_revision(&self) -> i64 {
        self.seen().safe_revision()
    }

    /// The same, to be asked for as long as the clients live.
    pub fn seen(&self) -> Seen {
        Seen { places: self.seen.clone(), shared: Arc::clone(&self.shared) }
    }

    /// The newest revision that any client was told of.
    pub fn newest_revision(&self) -> i64 {
        self.shared.newest.load(Ordering::Relaxed)
    }

    /// Ends all calls; only the watchers of everything go on. Returns when the last call is
    /// over, which takes at most a few time limits.
    ///
    /// # Panics
    /// If a client did.
    pub async fn halt(&mut self) {
        self.phase.send_if_modified(|phase| std::mem::replace(phase, Phase::Halt) != Phase::Halt);
        for worker in self.workers.drain(..) {
            self.recorded.take_in(worker.await.expect("a client does not panic"));
        }
    }

    /// Ends all clients, once the watchers of everything have seen `final_revision` or their
    /// patience is over, and gives what was recorded.
    ///
    /// # Panics
    /// If a client did.
    pub async fn stop(mut self, final_revision: i64) -> Recorded {
        self.halt().await;
        let deadline = tokio::time::Instant::now() + self.patience;
        self.phase.send_replace(Phase::Finish { revision: final_revision, deadline });
        for watcher in self.watchers.drain(..) {
            let log = watcher.await.expect("a watcher does not panic");
            self.recorded.watches.push(log);
        }
        let strange = strange_answers(&self.recorded);
        self.recorded.broken.extend(strange);
        self.recorded
    }
}

/// Answers that no call of these workloads may get, each kind once.
fn strange_answers(recorded: &Recorded) -> Vec<String> {
    let answers = recorded.operations.iter().filter_map(|operation| match &operation.outcome {
        Outcome::Failed { reason } | Outcome::Unknown { reason } => Some(reason),
        Outcome::Done { .. } | Outcome::SeedWritten | Outcome::SeedFound { .. } => None,
    });
    let notes = recorded.watches.iter().flat_map(|watch| &watch.notes).filter_map(|note| match note {
        WatchNote::Lost { reason, .. } => Some(reason),
        WatchNote::Opened { .. }
        | WatchNote::Events { .. }
        | WatchNote::Progress { .. }
        | WatchNote::Compacted { .. } => None,
    });
    // Malformed requests are none of what clients send, so being told of one is strange, too.
    let is_strange = |reason: &&String| {
        ["strange ", "400 ", "InvalidArgument "].iter().any(|word| reason.starts_with(word))
    };
    let mut counts = BTreeMap::<&String, u64>::new();
    for reason in answers.chain(notes).filter(is_strange) {
        *counts.entry(reason).or_default() += 1;
    }
    counts
        .into_iter()
        .map(|(reason, count)| format!("told {count} times what none may be told: {reason}"))
        .collect()
}

/// How far the watchers of everything have come.
#[derive(Clone)]
pub struct Seen {
    places: Vec<Arc<AtomicI64>>,
    shared: Arc<Shared>,
}

impl Seen {
    /// See [`Clients::safe_revision`].
    pub fn safe_revision(&self) -> i64 {
        let places = self.places.iter().map(|seen| seen.load(Ordering::Relaxed));
        places.min().unwrap_or_else(|| self.shared.newest.load(Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests;

//! One run from start to end: threads, phases, progress and samples.
//!
//! Connections live on threads of their own, each with a single-threaded
//! runtime, so that no answer crosses threads. What all of them share is in
//! [`Shared`]: atomics only on the path of an operation.

use std::io;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread;
use std::time::Duration;

use rand::RngExt as _;
use rand::rngs::StdRng;
use tokio::sync::{Barrier, oneshot};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::client::Driver;
use crate::over_grpc::{GrpcAsker, SharedConnection};
use crate::over_http::HttpAsker;
use crate::plan::{Api, Plan};
use crate::process::Watched;
use crate::route::Route;
use crate::stats::{Gap, Stats};
use crate::workload::{Operation, Values, Workload};

/// How often processes are sampled and the end conditions looked at.
const TICK: Duration = Duration::from_millis(100);

/// Why there is no result.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RunError {
    #[error("no endpoint of {0} says that it is the leader")]
    NoLeader(String),
    #[error("there is no process {0}, or this system has no /proc")]
    NoProcess(u32),
    #[error("the load generator's threads cannot run: {0}")]
    Threads(#[from] io::Error),
    #[error("a thread of the load generator ended before its work")]
    ThreadLost,
}

/// Counts that the progress lines need while the run goes on.
#[derive(Debug, Default)]
pub(crate) struct Live {
    succeeded: AtomicU64,
    failed: AtomicU64,
    /// When the last write was acknowledged, nanoseconds from the start.
    last_acknowledged: AtomicU64,
    /// The longest time between two such moments since the last progress line.
    longest_gap: AtomicU64,
}

impl Live {
    pub(crate) fn count(&self, succeeded: bool) {
        let counter = if succeeded { &self.succeeded } else { &self.failed };
        counter.fetch_add(1, Relaxed);
    }

    /// Notes that a write was acknowledged at `at` from the start, and gives
    /// when the one before was.
    pub(crate) fn acknowledged(&self, at: Duration) -> Duration {
        let at = nanos(at);
        let before = self.last_acknowledged.fetch_max(at, Relaxed);
        self.longest_gap.fetch_max(at.saturating_sub(before), Relaxed);
        Duration::from_nanos(before)
    }

    fn last_acknowledged(&self) -> Duration {
        Duration::from_nanos(self.last_acknowledged.load(Relaxed))
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// What a client does next.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ticket {
    pub(crate) operation: Operation,
    /// The number of the key.
    pub(crate) key: u64,
    /// Whether it is tried again until it succeeds.
    pub(crate) until_done: bool,
}

/// What all connections share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) plan: Plan,
    pub(crate) route: Route,
    pub(crate) values: Values,
    pub(crate) live: Live,
    ready: Barrier,
    /// When the warm-up began.
    began: OnceLock<Instant>,
    stop: AtomicBool,
    /// Operations of a bounded run that were handed out.
    claimed: AtomicU64,
    /// Keys of a sequential run that were handed out.
    sequence: AtomicU64,
}

impl Shared {
    fn new(plan: Plan) -> Self {
        Self {
            route: Route::new(plan.endpoints.clone(), plan.leader_only),
            values: Values::new(plan.value_size, plan.seed),
            live: Live::default(),
            ready: Barrier::new(match plan.api {
                Api::Http => plan.connections,
                Api::Grpc => plan.clients,
            }),
            began: OnceLock::new(),
            stop: AtomicBool::new(false),
            claimed: AtomicU64::new(0),
            sequence: AtomicU64::new(0),
            plan,
        }
    }

    /// Waits until every driver is ready; all get the same moment.
    pub(crate) async fn begin(&self) -> Instant {
        self.ready.wait().await;
        *self.began.get_or_init(Instant::now)
    }

    /// When measuring starts; unknown while connections are being made.
    fn start(&self) -> Option<Instant> {
        self.began.get().map(|began| *began + self.plan.warmup)
    }

    /// Whether an operation that begins now counts.
    pub(crate) fn is_measured(&self, now: Instant) -> bool {
        self.start().is_some_and(|start| now >= start)
    }

    /// The time since measuring started; zero before.
    pub(crate) fn since_start(&self, now: Instant) -> Duration {
        self.start().map_or(Duration::ZERO, |start| now.saturating_duration_since(start))
    }

    /// Whether no further operation may begin.
    pub(crate) fn is_over(&self, now: Instant) -> bool {
        let past_end = self
            .plan
            .duration
            .is_some_and(|duration| self.is_measured(now) && self.since_start(now) >= duration);
        past_end || self.stop.load(Relaxed)
    }

    /// The next operation; `None` when the run is over.
    pub(crate) fn next(&self, now: Instant, rng: &mut StdRng) -> Option<Ticket> {
        if self.is_over(now) {
            return None;
        }
        let plan = &self.plan;
        if let Some(ops) = plan.ops
            && self.is_measured(now)
            && self.claimed.fetch_add(1, Relaxed) >= ops
        {
            return None;
        }
        let operation = match plan.operations() {
            [only] => *only,
            _ if rng.random_range(0..100) < plan.read_percent => Operation::Get,
            _ => Operation::Put,
        };
        let key = if plan.sequential {
            self.sequence.fetch_add(1, Relaxed) % plan.keys
        } else {
            rng.random_range(0..plan.keys)
        };
        Some(Ticket { operation, key, until_done: plan.workload == Workload::Load })
    }
}

/// What a run found out.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) plan: Plan,
    pub(crate) stats: Stats,
    pub(crate) elapsed: Duration,
    /// The load generator itself.
    pub(crate) client: Option<Watched>,
    pub(crate) servers: Vec<Watched>,
    /// Whether the run ended because nothing succeeded any more.
    pub(crate) gave_up: bool,
}

/// Carries the plan out. Ctrl-C ends it early with what was counted so far.
pub(crate) async fn carry_out(plan: Plan) -> Result<Outcome, RunError> {
    carry_out_until(plan, std::future::pending()).await
}

/// Carries the plan out, and ends it early when `enough` is over.
pub(crate) async fn carry_out_until(
    plan: Plan,
    enough: impl Future<Output = ()>,
) -> Result<Outcome, RunError> {
    let shared = Arc::new(Shared::new(plan));
    let plan = &shared.plan;
    if plan.leader_only && shared.route.leader().await.is_none() {
        return Err(RunError::NoLeader(plan.endpoints.join(", ")));
    }
    let servers = plan.pids.iter().map(|&pid| Watched::start(pid).ok_or(RunError::NoProcess(pid)));
    let mut observer = Observer::new(Arc::clone(&shared), servers.collect::<Result<_, _>>()?);
    let mut threads = (0..plan.threads)
        .map(|thread| spawn(Arc::clone(&shared), thread))
        .collect::<io::Result<JoinSet<_>>>()?;
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut interrupt = pin!(tokio::signal::ctrl_c());
    let mut interrupted = false;
    let mut enough = pin!(enough);
    let mut is_enough = false;
    let mut stats = Stats::new();
    loop {
        tokio::select! {
            part = threads.join_next() => match part {
                Some(part) => stats.merge(&part.ok().flatten().ok_or(RunError::ThreadLost)?),
                None => break,
            },
            _ = ticks.tick() => observer.tick(Instant::now()),
            () = &mut enough, if !is_enough => {
                is_enough = true;
                shared.stop.store(true, Relaxed);
            }
            outcome = &mut interrupt, if !interrupted => {
                interrupted = true;
                // Without a handler for the signal, the signal ends the process.
                if outcome.is_ok() {
                    shared.stop.store(true, Relaxed);
                }
            }
        }
    }
    observer.sample();
    // A timed run lasts its time even when nothing was answered towards its end.
    let early = plan.ops.is_some() || shared.stop.load(Relaxed);
    let least = plan.duration.filter(|_| !early).unwrap_or_default();
    let elapsed = stats.last_end.max(least);
    if plan.writes() {
        // A run that ended while no write was acknowledged must not look better
        // than one in which they came back.
        let began = shared.live.last_acknowledged();
        stats.gap(Gap { length: elapsed.saturating_sub(began), began });
    }
    Ok(Outcome {
        plan: plan.clone(),
        stats,
        elapsed,
        client: observer.client,
        servers: observer.servers,
        gave_up: observer.gave_up,
    })
}

/// Starts a thread for every `threads`-th connection; the task ends with its counts.
fn spawn(
    shared: Arc<Shared>,
    thread: usize,
) -> io::Result<impl Future<Output = Option<Stats>> + Send + 'static> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (done, result) = oneshot::channel();
    thread::Builder::new().name(format!("bench-{thread}")).spawn(move || {
        let stats = Arc::new(Mutex::new(Stats::new()));
        let (connections, threads) = (shared.plan.connections, shared.plan.threads);
        runtime.block_on(async {
            let mut drivers = JoinSet::new();
            for number in (thread..connections).step_by(threads) {
                let clients = share(shared.plan.clients, connections, number);
                start(&mut drivers, &shared, &stats, number, clients);
            }
            drivers.join_all().await;
        });
        let stats =
            std::mem::replace(&mut *stats.lock().unwrap_or_else(PoisonError::into_inner), Stats::new());
        // Nobody waits for the counts when the run was abandoned.
        let _ = done.send(stats);
    })?;
    Ok(async move { result.await.ok() })
}

/// Starts what drives the connection `number`, which carries `clients`.
fn start(
    drivers: &mut JoinSet<()>,
    shared: &Arc<Shared>,
    stats: &Arc<Mutex<Stats>>,
    number: usize,
    clients: usize,
) {
    match shared.plan.api {
        Api::Http => {
            let asker = HttpAsker::new(Arc::clone(shared), number);
            drivers.spawn(Driver::new(Arc::clone(shared), Arc::clone(stats), number, asker, clients).drive());
        }
        Api::Grpc => {
            let connection = Arc::new(SharedConnection::new(number));
            for client in 0..clients {
                let number = number.saturating_add(client.saturating_mul(shared.plan.connections));
                let asker = GrpcAsker::new(Arc::clone(shared), Arc::clone(&connection));
                drivers.spawn(Driver::new(Arc::clone(shared), Arc::clone(stats), number, asker, 1).drive());
            }
        }
    }
}

/// How many of `clients` the connection `number` of `connections` carries.
pub(crate) fn share(clients: usize, connections: usize, number: usize) -> usize {
    let each = clients.checked_div(connections).unwrap_or_default();
    let left_over = clients.checked_rem(connections).unwrap_or_default();
    each.saturating_add(usize::from(number < left_over))
}

/// Watches the run from outside: progress lines, processes, end conditions.
struct Observer {
    shared: Arc<Shared>,
    client: Option<Watched>,
    servers: Vec<Watched>,
    measuring: bool,
    gave_up: bool,
    last_line: Instant,
    seen: (u64, u64),
    last_success: (u64, Instant),
}

impl Observer {
    fn new(shared: Arc<Shared>, servers: Vec<Watched>) -> Self {
        let now = Instant::now();
        Self {
            shared,
            client: Watched::start(std::process::id()),
            servers,
            measuring: false,
            gave_up: false,
            last_line: now,
            seen: (0, 0),
            last_success: (0, now),
        }
    }

    fn sample(&mut self) {
        for process in self.client.iter_mut().chain(&mut self.servers) {
            process.sample();
        }
    }

    fn tick(&mut self, now: Instant) {
        self.sample();
        if !self.measuring && self.shared.is_measured(now) {
            self.measuring = true;
            for process in self.client.iter_mut().chain(&mut self.servers) {
                process.rebase();
            }
        }
        let succeeded = self.shared.live.succeeded.load(Relaxed);
        if succeeded > self.last_success.0 {
            self.last_success = (succeeded, now);
        } else if now.saturating_duration_since(self.last_success.1) >= self.shared.plan.give_up {
            self.gave_up = true;
            self.shared.stop.store(true, Relaxed);
        }
        let every = self.shared.plan.interval;
        if !every.is_zero() && now.saturating_duration_since(self.last_line) >= every {
            self.print_progress(now, succeeded);
        }
    }

    fn print_progress(&mut self, now: Instant, succeeded: u64) {
        let live = &self.shared.live;
        let failed = live.failed.load(Relaxed);
        let (succeeded_before, failed_before) = self.seen;
        let passed = now.saturating_duration_since(self.last_line);
        let rate = succeeded.saturating_sub(succeeded_before) as f64 / passed.as_secs_f64();
        let errors = failed.saturating_sub(failed_before);
        let at = self.shared.since_start(now);
        let phase =
            if self.measuring { format!("{:6.1} s", at.as_secs_f64()) } else { " warm-up".to_owned() };
        let gap = if self.measuring && self.shared.plan.writes() {
            let ended = Duration::from_nanos(live.longest_gap.swap(0, Relaxed));
            let open = at.saturating_sub(live.last_acknowledged());
            let ms = ended.max(open).as_secs_f64() * 1e3;
            format!("  longest gap between acknowledged writes {ms:.1} ms")
        } else {
            String::new()
        };
        eprintln!("{phase}  {rate:9.0} ops/s  {errors} errors{gap}");
        self.last_line = now;
        self.seen = (succeeded, failed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_client_is_on_one_connection() {
        for (clients, connections) in [(1, 1), (10, 3), (1000, 1000), (7, 5)] {
            let shares: Vec<usize> =
                (0..connections).map(|number| share(clients, connections, number)).collect();
            assert_eq!(shares.iter().sum::<usize>(), clients);
            assert!(shares.iter().max().unwrap() - shares.iter().min().unwrap() <= 1);
        }
    }

    #[test]
    fn a_gap_counts_from_the_latest_acknowledgement() {
        let live = Live::default();
        let ms = Duration::from_millis;
        assert_eq!(live.acknowledged(ms(5)), Duration::ZERO);
        assert_eq!(live.acknowledged(ms(3)), ms(5), "an older one that comes late opens no gap");
        assert_eq!(live.acknowledged(ms(9)), ms(5));
        assert_eq!(live.longest_gap.load(Relaxed), 5_000_000);
    }
}

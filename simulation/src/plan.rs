//! What a seed draws before its run begins: sizes, times, faults. Runs that have all
//! faults at once find less than runs that have a few, each other ones.

use std::time::Duration;

use kvorum_torture::dice::Dice;
use kvorum_torture::workload::Weights;

/// A kind of fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub(crate) enum Fault {
    /// A process ends without warning.
    Kill,
    /// A machine loses what it has not synced.
    PowerLoss,
    /// Several machines do at once.
    Blackout,
    /// A node is stopped as an operator would.
    Stop,
    /// Two groups of nodes can't reach each other.
    Partition,
    /// Messages from one node to another do not arrive.
    OneWay,
    /// Some links are slow.
    SlowLinks,
    /// A node stands still.
    Pause,
    /// A disk takes long to sync.
    SlowDisk,
    /// A disk fails.
    FailedSync,
    /// A node builds a snapshot and purges its log.
    Snapshot,
    /// Old revisions are compacted.
    Compact,
    /// Leadership is handed over.
    Transfer,
    /// Members are removed and added.
    Membership,
    /// A wall clock is wrong.
    Clock,
}

/// All kinds.
const FAULTS: [Fault; 15] = [
    Fault::Kill,
    Fault::PowerLoss,
    Fault::Blackout,
    Fault::Stop,
    Fault::Partition,
    Fault::OneWay,
    Fault::SlowLinks,
    Fault::Pause,
    Fault::SlowDisk,
    Fault::FailedSync,
    Fault::Snapshot,
    Fault::Compact,
    Fault::Transfer,
    Fault::Membership,
    Fault::Clock,
];

/// Everything, only registers, and mostly transactions.
const WEIGHTS: [Weights; 3] = [
    Weights { registers: 40, seeds: 15, lists: 18, counters: 12, bank: 15 },
    Weights { registers: 85, seeds: 15, lists: 0, counters: 0, bank: 0 },
    Weights { registers: 5, seeds: 5, lists: 45, counters: 10, bank: 35 },
];

/// What is made worse than it is, to see that it is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Canary {
    /// A restarted leader goes on in its term.
    LeaderRestore,
    /// Disks answer syncs that they have not done.
    LyingDisk,
}

/// A run.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) seed: u64,
    /// Voters at the start.
    pub(crate) voters: u64,
    /// Nodes beside them that may join.
    pub(crate) spares: u64,
    pub(crate) clients: usize,
    /// Clients that take locks.
    pub(crate) lockers: usize,
    /// What the other clients do.
    pub(crate) weights: Weights,
    /// Registers at a time.
    pub(crate) registers: usize,
    /// How long faults happen.
    pub(crate) length: Duration,
    /// Mean pause of a client between two calls, in milliseconds.
    pub(crate) think_ms: u64,
    /// The kinds of faults that happen.
    pub(crate) faults: Vec<Fault>,
    /// Faults at once.
    pub(crate) nemeses: usize,
    /// Longest pause between two faults, in milliseconds.
    pub(crate) calm_ms: usize,
    /// Longest fault, in milliseconds.
    pub(crate) fault_ms: usize,
    /// Longest way of a message, in microseconds.
    pub(crate) latency_us: usize,
    /// How many of ten thousand messages break their connection.
    pub(crate) breaks: usize,
    /// How often a task lets others go first, in percent.
    pub(crate) jitter: usize,
    /// How often memory reaches the disk by itself, in percent.
    pub(crate) flushes: usize,
    /// Longest sync, in milliseconds.
    pub(crate) sync_ms: usize,
    pub(crate) heartbeat: Duration,
    pub(crate) request_timeout: Duration,
    pub(crate) snapshot_entries: u64,
    pub(crate) keep_entries: u64,
    pub(crate) log_cache: usize,
    pub(crate) is_json: bool,
    pub(crate) snapshot_rate: u64,
    pub(crate) canary: Option<Canary>,
    /// For the parts of the run.
    pub(crate) dice: Dice,
}

impl Plan {
    /// What `seed` draws.
    pub(crate) fn draw(seed: u64, canary: Option<Canary>) -> Self {
        let mut dice = Dice::new(seed);
        let share = *dice.pick(&[20, 40, 60]);
        let mut faults: Vec<Fault> = FAULTS.into_iter().filter(|_| dice.chance(share)).collect();
        if canary.is_some() {
            faults.push(Fault::PowerLoss);
            faults.push(Fault::Blackout);
        }
        Self {
            seed,
            voters: *dice.pick(&[3, 3, 3, 5]),
            spares: if faults.contains(&Fault::Membership) { 2 } else { 0 },
            clients: 2 + dice.below(5),
            lockers: *dice.pick(&[0, 0, 1, 3]),
            weights: dice.pick(&WEIGHTS).clone(),
            registers: *dice.pick(&[1, 2, 5, 20]),
            length: dice.millis(4_000, 12_000),
            think_ms: *dice.pick(&[10, 40, 150]),
            nemeses: *dice.pick(&[1, 1, 2]),
            calm_ms: *dice.pick(&[500, 2_000, 4_000]),
            fault_ms: *dice.pick(&[300, 1_500, 5_000]),
            latency_us: *dice.pick(&[200, 2_000, 10_000, 40_000]),
            breaks: *dice.pick(&[0, 0, 10, 100]),
            jitter: *dice.pick(&[0, 0, 2, 20]),
            flushes: *dice.pick(&[0, 1, 10, 50]),
            sync_ms: *dice.pick(&[1, 5, 20]),
            heartbeat: Duration::from_millis(*dice.pick(&[50, 75, 100])),
            request_timeout: Duration::from_millis(*dice.pick(&[1_000, 3_000, 5_000])),
            snapshot_entries: *dice.pick(&[10, 50, 200, 100_000]),
            keep_entries: *dice.pick(&[0, 5, 50, 1_000]),
            log_cache: *dice.pick(&[0, 1 << 10, 1 << 20]),
            is_json: dice.chance(10),
            snapshot_rate: *dice.pick(&[0, 0, 64 << 10]),
            canary,
            faults,
            dice,
        }
    }

    /// All nodes that there may be.
    pub(crate) fn nodes(&self) -> u64 {
        self.voters + self.spares
    }
}

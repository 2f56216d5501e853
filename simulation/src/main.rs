//! Runs a whole cluster of Kvorum in one thread, from one seed.
//!
//! A run starts three or five nodes and lets clients work on them while machines lose
//! power, links break and operators interfere. Time is simulated: when nobody has
//! anything to do it jumps to the next moment at which somebody has, so that a minute
//! takes some milliseconds. Everything that is left to chance is drawn from the seed, so
//! a run that fails can be had again, step by step.
//!
//! **Real** is the node: Openraft, the log store with its group commit, the state
//! machine, snapshots and generations, the MVCC engine, the inbound checks, what peers
//! send and how it is encoded, the service (proposer, forwarder, read index, leases and
//! their clock, membership), watches.
//!
//! **Simulated** is what lies below and beside it:
//! - RocksDB, by a crate with its interface (`rocksdb/`) that keeps in memory what the
//!   real one would keep, and loses at a crash what the real one may lose: see there.
//!   Kvorum's own files (identity, `CURRENT`, snapshots) are real ones in memory; they
//!   are written atomically and lose nothing.
//! - the network (`net.rs`): connections in place of Kvorum's HTTP client, with delays,
//!   cuts and breaks, and in place of its server a dispatch that does the same
//!   (`peer.rs`).
//! - threads: the log's writer, reclaiming and blocking work are tasks. All tasks of a node
//!   belong to its present life (`kvorum::simulation::Scope`) and end with it at once.
//! - clocks and random numbers (`system.rs`).
//!
//! The order in which tasks run is Tokio's, shaken by tasks that let others go first as
//! the seed draws it.
//!
//! What it **can't find**: data races and deadlocks of threads, since there are none;
//! what the HTTP and gRPC fronts do; what RocksDB does wrong; torn or damaged files; what
//! only shows with much data or many nodes.
//!
//! Each run is a process of its own (`batch.rs`): what a run leaves in a process would
//! change the next one.

mod batch;
mod clients;
mod cluster;
mod nemesis;
mod net;
mod peer;
mod plan;
mod run;
mod system;
mod trace;
mod watcher;
mod world;

use std::process::ExitCode;

fn main() -> ExitCode {
    batch::main()
}

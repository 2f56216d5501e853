//! Runs a whole cluster of Kvorum in one thread, from one seed.

mod batch;
mod check;
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

//! Random faults against real processes, and a check that no promise was broken.
//!
//! Writers and readers work on a few keys while nodes are killed, frozen, cut off
//! and told to hand leadership over or to build snapshots. Every value is written
//! once, so that the history of versions, read at the end, tells which writes of
//! unknown outcome took place and where. The seed is printed; `KVORUM_FAULT_SEED`
//! repeats its choices (not its timing), and `KVORUM_FAULT_SECONDS` sets how long
//! faults go on.

#[cfg(test)]
mod checker;
#[cfg(test)]
mod clients;
#[cfg(test)]
mod history;
#[cfg(test)]
mod nemesis;
#[cfg(test)]
#[path = "../support/mod.rs"]
#[expect(dead_code, reason = "the cluster tests use the rest")]
mod support;

use std::time::Duration;

use self::clients::Clients;
use self::nemesis::Nemesis;
use self::support::cluster::Builder;

/// How long faults go on unless told otherwise.
const DEFAULT_SECONDS: u64 = 20;

fn setting(name: &str) -> Option<u64> {
    std::env::var(name)
        .ok()
        .map(|text| text.parse().unwrap_or_else(|_| panic!("{name} is {text:?}, no number")))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_promise_is_broken_under_random_faults() {
    let seed = setting("KVORUM_FAULT_SEED").unwrap_or_else(|| getrandom::u64().unwrap());
    let seconds = setting("KVORUM_FAULT_SECONDS").unwrap_or(DEFAULT_SECONDS);
    println!("seed {seed}: repeat with KVORUM_FAULT_SEED={seed} KVORUM_FAULT_SECONDS={seconds}");

    let mut cluster = Builder::new()
        .with_links()
        .options(|options| {
            options.request_timeout_ms = Some(1_500);
            options.snapshot_log_entries = Some(300);
            options.log_entries_to_keep = Some(50);
        })
        .form(3)
        .await;
    let clients = Clients::start(&cluster, seed);
    let mut nemesis = Nemesis::new(seed);
    nemesis.run(&mut cluster, Duration::from_secs(seconds)).await;
    nemesis.end(&mut cluster).await;
    let operations = clients.stop().await;
    let settled = cluster.settle().await;
    let versions = history::versions(&cluster, settled.revision).await;
    let report = checker::check(&operations, &versions, settled.revision);
    println!("{}\n{report}", nemesis.summary());
    assert!(report.problems.is_empty(), "seed {seed} broke promises");
    assert!(report.acknowledged > 20, "hardly anything was acknowledged: {report}");
}

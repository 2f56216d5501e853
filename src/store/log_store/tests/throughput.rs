//! How fast appends become durable. Run by hand:
//! `cargo test --release throughput -- --ignored --nocapture --test-threads 1`.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn throughput_of_durable_appends() {
    for waiting in [1, 64, 1024] {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path());
        let payload = Payload::Normal(Proposal::from_bytes(vec![7; 256].into()));
        let mut flushed = VecDeque::new();
        let mut times = Vec::new();
        let started = Instant::now();
        let mut index = 0;
        while started.elapsed() < Duration::from_secs(4) {
            while flushed.len() < waiting {
                let entry = Entry { log_id: log_id(1, index), payload: payload.clone() };
                flushed.push_back((Instant::now(), append(&store, vec![entry]).await));
                index += 1;
            }
            let (begun, done) = flushed.pop_front().unwrap();
            done.await.unwrap().unwrap();
            times.push(begun.elapsed());
        }
        let took = started.elapsed();
        times.sort_unstable();
        let metrics = store.metrics();
        println!(
            "{waiting} waiting: {:.0} appends/s, p50 {:?}, p99 {:?}, {:.0} syncs/s of {} us, {:.1} entries each",
            times.len() as f64 / took.as_secs_f64(),
            times[times.len() / 2],
            times[times.len() * 99 / 100],
            metrics.syncs as f64 / took.as_secs_f64(),
            metrics.sync_micros / metrics.syncs,
            metrics.appended_entries as f64 / metrics.syncs as f64,
        );
        store.close().await.unwrap();
    }
}

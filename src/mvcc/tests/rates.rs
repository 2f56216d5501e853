//! Rates and memory, by `cargo test --release -- --ignored --nocapture rates`.
//! `KVORUM_RATES_KEYS` sets how many keys there are.

use std::time::{Duration, Instant};

use super::super::{EngineOptions, RangeQuery, Store};
use super::ANYTHING;

const VALUE_BYTES: usize = 256;
const DEFAULT_KEYS: u64 = 1_000_000;

/// Spreads numbers over the keyspace the same way in every run.
fn scatter(number: u64) -> u64 {
    number.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(23).wrapping_mul(0xbf58_476d_1ce4_e5b9)
}

fn key(number: u64) -> Vec<u8> {
    format!("key/{:016x}", scatter(number)).into_bytes()
}

/// A value that compresses to about half.
fn value(number: u64) -> Vec<u8> {
    (0..VALUE_BYTES as u64 / 8)
        .flat_map(|word| if word % 2 == 0 { scatter(number ^ word << 48).to_le_bytes() } else { [b'.'; 8] })
        .collect()
}

fn resident_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let kib =
        status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.split_whitespace().next()?.parse().ok());
    kib.unwrap_or(0_u64) / 1024
}

/// Time that passed, and time of it that this thread had a processor: on a
/// busy machine the second one says more.
struct Stopwatch {
    start: Instant,
    start_on_processor: Duration,
}

impl Stopwatch {
    fn start() -> Self {
        Self { start: Instant::now(), start_on_processor: on_processor() }
    }

    fn stop(self) -> (Duration, Duration) {
        (self.start.elapsed(), on_processor().saturating_sub(self.start_on_processor))
    }
}

fn on_processor() -> Duration {
    let figures = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let nanos = figures.split_whitespace().next().and_then(|nanos| nanos.parse().ok());
    Duration::from_nanos(nanos.unwrap_or(0))
}

fn report(what: &str, count: u64, (took, processor): (Duration, Duration)) {
    println!(
        "{what:<44} {:>9.0}/s  {:>7.2} us each, {:>6.2} on a processor  {:>5} MiB resident",
        count as f64 / took.as_secs_f64(),
        took.as_secs_f64() * 1e6 / count as f64,
        processor.as_secs_f64() * 1e6 / count as f64,
        resident_mib()
    );
}

fn puts(store: &Store, numbers: std::ops::Range<u64>, batch: u64, salt: u64) -> (Duration, Duration) {
    let keys: Vec<_> = numbers.clone().map(key).collect();
    let watch = Stopwatch::start();
    for chunk in keys.chunks(batch as usize) {
        let mut session = store.begin();
        for key in chunk {
            let value = value(salt ^ session.revision() as u64);
            session.put(key.clone().into(), value.into(), 0).unwrap();
        }
        session.set_meta("applied", vec![0; 24]);
        session.commit().unwrap();
    }
    watch.stop()
}

#[test]
#[ignore = "a measurement, not a check"]
fn rates_of_puts_gets_and_scans() {
    let keys = std::env::var("KVORUM_RATES_KEYS").ok().map_or(DEFAULT_KEYS, |keys| keys.parse().unwrap());
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path(), &EngineOptions::default()).unwrap();
    let some = keys.min(200_000);

    for first in (0..keys).step_by(1_000_000) {
        let numbers = first..keys.min(first + 1_000_000);
        let count = numbers.end - numbers.start;
        report("put of a new key, 64 a batch", count, puts(&store, numbers, 64, 0));
    }
    report("put of an old key, 64 a batch", some, puts(&store, 0..some, 64, 1));
    report("put of an old key, 1 a batch", some, puts(&store, 0..some, 1, 2));

    let watch = Stopwatch::start();
    store.flush().unwrap();
    println!("flush took {:?}", watch.stop().0);
    let watch = Stopwatch::start();
    store.checkpoint(&dir.path().join("checkpoint")).unwrap();
    println!("checkpoint took {:?}", watch.stop().0);

    let wanted: Vec<_> = (0..some).map(|number| key(scatter(number) % keys)).collect();
    for round in ["cold", "warm"] {
        let watch = Stopwatch::start();
        for key in &wanted {
            assert!(store.get(key, None).unwrap().record.is_some());
        }
        report(&format!("get, random, {round}"), some, watch.stop());
    }
    let missing: Vec<_> = (0..some).map(|number| key(keys + number)).collect();
    let watch = Stopwatch::start();
    for key in &missing {
        assert!(store.get(key, None).unwrap().record.is_none());
    }
    report("get of an absent key", some, watch.stop());
    let old = keys as i64;
    let watch = Stopwatch::start();
    for key in wanted.iter().take(20_000) {
        store.get(key, Some(old)).unwrap();
    }
    report("get at an old revision", 20_000, watch.stop());

    for (what, at) in [("now", None), ("at an old revision", Some(old))] {
        let watch = Stopwatch::start();
        let page = store.range(&RangeQuery { at, limit: 10_000, ..ANYTHING }).unwrap();
        report(&format!("scan of a page of 10,000, {what}"), page.items.len() as u64, watch.stop());
    }
    let watch = Stopwatch::start();
    let count = store.range(&RangeQuery { count_only: true, ..ANYTHING }).unwrap().count.unwrap();
    report("count of all keys", count, watch.stop());
    println!("{} bytes on disk, {:?}", store.disk_bytes(), store.memory_bytes());
}

//! Latencies and memory, by `cargo test --release -- --ignored --nocapture watch::`.

use std::time::{Duration, Instant};

use super::*;
use crate::watch::WatchHub;

fn resident_bytes() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let kib =
        status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.split_whitespace().next()?.parse().ok());
    kib.unwrap_or(0_usize) * 1024
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

fn write(memory: &Memory, key: &[u8]) {
    let events = memory.state.lock().change(&[(key, Some(&[b'v'; 100]))]);
    memory.recent.push(vec![events]);
}

/// Opens `sessions` with `watchers` each, puts ten times, and reports how long it
/// takes until all of them were told.
fn fan_out(sessions: usize, watchers: usize) {
    let runtime = runtime();
    let memory = Arc::new(Memory::new(16 << 20));
    let hub = WatchHub::start(Arc::clone(&memory), WatchOptions::default(), runtime.handle());
    let (told, mut all_told) = tokio::sync::mpsc::channel::<Instant>(1024);
    let mut readers = Vec::new();
    for _ in 0..sessions {
        let mut session = hub.session();
        for _ in 0..watchers {
            session.create(one("hot")).unwrap();
        }
        let told = told.clone();
        readers.push(runtime.spawn(async move {
            let mut left = watchers;
            loop {
                let message = session.next().await;
                if matches!(message, WatchMessage::Closed) {
                    return;
                }
                left -= usize::from(matches!(message, WatchMessage::Events { .. }));
                if left == 0 {
                    left = watchers;
                    told.send(Instant::now()).await.unwrap();
                }
            }
        }));
    }
    let mut took = Vec::new();
    for _ in 0..10 {
        std::thread::sleep(Duration::from_millis(20));
        let start = Instant::now();
        write(&memory, b"hot");
        let last = (0..sessions).map(|_| all_told.blocking_recv().unwrap()).max().unwrap();
        took.push(last - start);
    }
    took.sort();
    println!(
        "{sessions} sessions of {watchers} watchers of one key: {:?} median, {:?} most",
        took[5], took[9]
    );
    runtime.block_on(hub.stop());
}

#[test]
#[ignore = "a measurement, not a check"]
fn rates_of_fan_out() {
    fan_out(1, 1);
    fan_out(1_000, 1);
    fan_out(1, 10_000);
    fan_out(100, 100);
    fan_out(10_000, 1);
}

#[test]
#[ignore = "a measurement, not a check"]
fn rates_of_idle_watchers() {
    let count = 100_000;
    // All are kept until the end, so that none lives in memory that another gave back.
    let mut kept = Vec::new();
    for (what, per_session, is_range) in [
        ("keys, one session", count, false),
        ("prefixes, one session", count, true),
        ("keys, each a session", 1, false),
    ] {
        let fixture = Fixture::new(WatchOptions::default());
        let before = resident_bytes();
        let start = Instant::now();
        let mut sessions = Vec::new();
        for number in 0..count {
            if number % per_session == 0 {
                sessions.push(fixture.session());
            }
            let session = sessions.last_mut().unwrap();
            let name = format!("/registry/pods/namespace/{number:08}");
            session.create(if is_range { prefix(&name) } else { one(&name) }).unwrap();
            session.try_next();
        }
        let took = start.elapsed();
        let bytes = resident_bytes().saturating_sub(before) / count;
        println!(
            "{count} idle watchers of {what}: {bytes} bytes each, {:?} to create each",
            took / count as u32
        );

        let key = b"/registry/pods/namespace/00077777/a";
        let events = fixture.memory.state.lock().change(&[(key, Some(b"v"))]);
        let start = Instant::now();
        for revision in 2..100_002 {
            fixture.hub.dispatch(&Arc::new(RevisionEvents { revision, ..events.clone() }));
        }
        println!("  {:?} for a revision that one of them or none wants", start.elapsed() / 100_000);
        kept.push((fixture, sessions));
    }
    for (_fixture, sessions) in kept {
        let start = Instant::now();
        drop(sessions);
        println!("  {:?} to end {count} of them", start.elapsed());
    }
}

#[test]
#[ignore = "a measurement, not a check"]
fn rates_of_catching_up() {
    let fixture = Fixture::with_ring(WatchOptions::default(), 0);
    for number in 0..100_000 {
        fixture.put(&format!("{number}"));
    }
    let mut session = fixture.session();
    session.create(WatchRequest { from: Some(2), ..prefix("") }).unwrap();
    let start = Instant::now();
    let mut count = 0;
    while count < 100_000 {
        fixture.catch_up();
        count += told(&drain(&mut session)).len();
    }
    println!(
        "catching up without a disk: {:.0} changes/s",
        f64::from(100_000) / start.elapsed().as_secs_f64()
    );
}

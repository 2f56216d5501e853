//! Killed processes.
//!
//! The test starts itself again as a child that works on a log at random and
//! says before each step that it tries it, and after each confirmed one that it
//! is done. The parent kills it with SIGKILL at a random moment, replays the same
//! steps on the model, and opens the log. What it finds must be the model after
//! some step between the last one confirmed and the last one tried: nothing
//! confirmed is lost, nothing is half there, nothing truncated or purged is back,
//! and the vote is the last one. The next round goes on from there, with the same
//! folder, so damage would pile up.
//!
//! `KVORUM_CRASH_ROUNDS` (30) and `KVORUM_CRASH_SEED` choose the run.

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use super::*;

const FOLDER: &str = "KVORUM_CRASH_FOLDER";
const SEED: &str = "KVORUM_CRASH_SEED";

fn options() -> LogOptions {
    // Small buffers, so that files, flushes and recycled logs are part of it.
    LogOptions { cache_bytes: 50_000, write_buffer_bytes: 128 * 1024, ..LogOptions::default() }
}

/// The child; does nothing when run as a test.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn child_of_the_crash_test() {
    let Ok(folder) = std::env::var(FOLDER) else { return };
    let mut dice = Dice(seed_of(SEED));
    let store = RocksLogStore::open(Path::new(&folder), options(), panicking()).unwrap();
    let mut model = Model::of(&store).await;
    println!("\nopen");
    let (confirm, mut waiting) = mpsc::channel::<(u64, Flushed)>(64);
    tokio::spawn(async move {
        while let Some((step, flushed)) = waiting.recv().await {
            flushed.await.unwrap().unwrap();
            println!("done {step}");
        }
    });
    for number in 1.. {
        let step = model.choose(dice.draw());
        println!("try {number}");
        match request(&store, &step).await {
            // Several appends wait at the same time, as Raft has it.
            Some(flushed) => confirm.send((number, flushed)).await.unwrap(),
            None if step.is_confirmed() => println!("done {number}"),
            None => {}
        }
        model.apply(&step);
    }
}

/// What the child said: whether it began, and the steps confirmed and tried.
struct Said {
    began: bool,
    done: u64,
    tried: u64,
}

fn run_and_kill(folder: &Path, seed: u64, after: Duration) -> Said {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "store::log_store::tests::crash::child_of_the_crash_test", "--nocapture"])
        .env(FOLDER, folder)
        .env(SEED, seed.to_string())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let output = BufReader::new(child.stdout.take().unwrap());
    let (opened, child_opened) = sync_channel(1);
    let listener = thread::Builder::new()
        .spawn(move || {
            let mut said = Said { began: false, done: 0, tried: 0 };
            for line in output.lines().map(Result::unwrap) {
                match line.split_once(' ') {
                    Some(("done", step)) => said.done = said.done.max(step.parse().unwrap()),
                    Some(("try", step)) => said.tried = step.parse().unwrap(),
                    _ if line == "open" => {
                        said.began = true;
                        let _ = opened.send(());
                    }
                    _ => {}
                }
            }
            said
        })
        .unwrap();
    // A child that dies at once ends its output, and the wait with it.
    let _ = child_opened.recv_timeout(Duration::from_secs(60));
    thread::sleep(after);
    child.kill().unwrap();
    let status = child.wait().unwrap();
    assert!(!status.success(), "the child ended by itself");
    listener.join().unwrap()
}

#[tokio::test]
async fn killed_at_any_moment_the_log_is_what_it_was_after_some_step_not_before_the_last_confirmed() {
    if std::env::var(FOLDER).is_ok() {
        return;
    }
    let rounds = std::env::var("KVORUM_CRASH_ROUNDS").map_or(30, |rounds| rounds.parse().unwrap());
    let seed = seed_of(SEED);
    println!("{SEED}={seed}");
    let mut dice = Dice(seed);
    let dir = tempfile::tempdir().unwrap();
    let mut before = {
        let store = open(dir.path());
        let model = Model::of(&store).await;
        store.close().await.unwrap();
        model
    };
    let mut total = 0;
    for round in 0..rounds {
        let seed = dice.roll(u64::MAX);
        let said = run_and_kill(dir.path(), seed, Duration::from_millis(dice.roll(120)));
        assert!(said.began, "round {round}: the child did not open the log");
        total += said.done;

        let store = RocksLogStore::open(dir.path(), options(), panicking()).unwrap();
        let found = Model::of(&store).await;
        store.close().await.unwrap();
        let (mut child, mut model) = (Dice(seed), before);
        // What was known to be committed after the last step that is what was found.
        let mut known = None;
        for step in 0..=said.tried {
            if step > 0 {
                let next = model.choose(child.draw());
                model.apply(&next);
            }
            if step >= said.done && found.agrees_with(&model) {
                known = Some(model.committed);
            }
        }
        let Some(known) = known else {
            let (done, tried) = (said.done, said.tried);
            panic!(
                "round {round}, child seed {seed}: {done} confirmed, {tried} tried\nfound {found:?}\nlast {model:?}"
            )
        };
        // It may lag, but it must not be a guess.
        assert!(found.committed <= known, "round {round}, child seed {seed}");
        before = found;
    }
    println!("{rounds} rounds, {total} confirmed steps");
}

/// The child of the next test; does nothing when run as a test.
#[tokio::test]
async fn child_of_the_failure_test() {
    let Ok(folder) = std::env::var(FOLDER) else { return };
    let (probe, syncs) = stepper();
    let reason = "the disk is gone".to_owned();
    syncs.send(Err(StorageError::Database { action: "syncing", reason })).unwrap();
    let store = open_with(Path::new(&folder), probe, exit_on_failure());
    drop(append(&store, entries(1, 0..1)).await);
    std::future::pending::<()>().await;
}

#[test]
fn a_failed_sync_ends_the_process_with_code_1() {
    let dir = tempfile::tempdir().unwrap();
    let status = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "store::log_store::tests::crash::child_of_the_failure_test"])
        .env(FOLDER, dir.path())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .unwrap();
    assert_eq!(status.code(), Some(1));
}

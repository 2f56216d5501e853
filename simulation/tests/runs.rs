//! Runs of the program as a whole: they repeat, and they find what they should.

use std::process::{Command, Output};

fn run(args: &[&str]) -> Output {
    let program = env!("CARGO_BIN_EXE_kvorum-simulation");
    Command::new(program).args(args).output().expect("the program can be run")
}

fn report(seed: u64) -> serde_json::Value {
    let output = run(&["--seed", &seed.to_string()]);
    serde_json::from_slice(&output.stdout).expect("a run ends with a report")
}

#[test]
fn a_seed_gives_the_same_trace_in_another_process() {
    for seed in 1..=10 {
        let (first, second) = (report(seed), report(seed));
        assert_eq!(first, second, "seed {seed}");
        assert!(first["steps"].as_u64() > Some(1_000), "{first}");
    }
    assert_ne!(report(1)["hash"], report(2)["hash"]);
}

#[test]
fn what_happens_is_shown() {
    let output = run(&["--seed", "1", "--show"]);
    let shown = String::from_utf8_lossy(&output.stderr);
    assert!(shown.lines().count() > 100 && shown.contains("a client at"), "{shown}");
}

#[test]
fn a_disk_that_lies_is_found() {
    let output = run(&["--seeds", "12", "--canary", "lie"]);
    assert_eq!(output.status.code(), Some(1), "{}", String::from_utf8_lossy(&output.stdout));
}

#[test]
fn a_leader_that_resumes_its_term_is_found() {
    let output = run(&["--seeds", "30", "--canary", "restore"]);
    assert_eq!(output.status.code(), Some(1), "{}", String::from_utf8_lossy(&output.stdout));
}

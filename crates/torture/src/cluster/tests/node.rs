//! What a node is allowed to do, with a script in the server's place.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::cluster::links::Links;
use crate::cluster::node::{End, Node};
use crate::cluster::ports::Ports;
use crate::cluster::{DiskFaults, Folders, Settings};

const PATIENCE: Duration = Duration::from_secs(20);
/// A server that does nothing until it is told to stop.
const IDLE: &str = "trap 'exit 0' TERM; while :; do sleep 0.01; done";

fn node(root: &TempDir, script: &str) -> Node {
    let binary = root.path().join("server");
    fs::write(&binary, format!("#!/bin/sh\n{script}\n")).unwrap();
    fs::set_permissions(&binary, fs::Permissions::from_mode(0o755)).unwrap();
    let settings = Settings::new(binary, root.path(), 1);
    Node::new(1, &settings, &mut Ports::new(12_000..32_000), &Links::default()).unwrap()
}

async fn end_of(node: &mut Node) -> End {
    let begun = Instant::now();
    loop {
        if let Some(end) = node.reap().unwrap() {
            return end;
        }
        assert!(begun.elapsed() < PATIENCE, "it does not end: {}", node.log());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Waits until the script has set its trap.
async fn start(node: &mut Node) {
    node.start().unwrap();
    tokio::time::sleep(Duration::from_millis(300)).await;
}

/// Waits until the system says that the process stands still, or that it does not.
async fn wait_until_still(root: &Path, is_still: bool) {
    let begun = Instant::now();
    while (state_of(root) == "T") != is_still {
        assert!(begun.elapsed() < PATIENCE, "{}", state_of(root));
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn state_of(root: &Path) -> String {
    let pid = fs::read_to_string(root.join("node-1/pid")).unwrap();
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    stat.split(") ").nth(1).unwrap().chars().take(1).collect()
}

#[tokio::test]
async fn an_end_that_nobody_asked_for_is_a_problem() {
    for (script, told) in [
        ("exit 0", "exit status: 0"),
        ("echo 'all is lost' >&2; exit 1", "all is lost"),
        ("kill -SEGV $$", "signal: 11"),
    ] {
        let root = tempfile::tempdir().unwrap();
        let mut node = node(&root, script);
        node.start().unwrap();
        match end_of(&mut node).await {
            End::Problem(what) => assert!(what.contains(told), "{script}: {what}"),
            end @ (End::Stopped | End::Allowed(_) | End::PortTaken) => panic!("{script}: {end:?}"),
        }
    }
}

#[tokio::test]
async fn a_failing_disk_allows_an_orderly_end_and_no_crash() {
    for (script, is_allowed) in
        [("exit 1", true), ("exit 0", false), ("exit 101", false), ("kill -ABRT $$", false)]
    {
        let root = tempfile::tempdir().unwrap();
        let mut node = node(&root, &format!("sleep 0.1; {script}"));
        node.start().unwrap();
        let faults = DiskFaults { folders: Folders::all(), sync_errors: 1, ..DiskFaults::default() };
        let number = node.begin_disk_faults(faults).unwrap();
        let end = end_of(&mut node).await;
        assert_eq!(matches!(end, End::Allowed(_)), is_allowed, "{script}: {end:?}");
        tokio::time::sleep(Duration::from_millis(600)).await;
        assert!(!node.wants_start(), "its disk is not yet mended");
        node.end_disk_faults(number).unwrap();
        assert!(node.wants_start());
        // After the next start the disk is good, and is no excuse.
        node.start().unwrap();
        let end = end_of(&mut node).await;
        assert!(matches!(end, End::Problem(_)), "{script}: {end:?}");
    }
}

#[tokio::test]
async fn a_slow_disk_and_a_jump_of_the_clock_allow_no_end() {
    let root = tempfile::tempdir().unwrap();
    let mut node = node(&root, "sleep 0.1; exit 1");
    node.start().unwrap();
    let slow = DiskFaults { sync_delay: Duration::from_millis(1), ..DiskFaults::default() };
    node.begin_disk_faults(slow).unwrap();
    node.shift_clock(3_600).unwrap();
    assert!(matches!(end_of(&mut node).await, End::Problem(_)));
}

#[tokio::test]
async fn a_stop_must_be_clean() {
    let root = tempfile::tempdir().unwrap();
    let mut clean = node(&root, IDLE);
    start(&mut clean).await;
    clean.terminate().unwrap();
    assert_eq!(end_of(&mut clean).await, End::Stopped);
    assert!(!clean.wants_start(), "it is held down");

    let root = tempfile::tempdir().unwrap();
    let mut other = node(&root, "trap 'exit 3' TERM; while :; do sleep 0.01; done");
    start(&mut other).await;
    other.terminate().unwrap();
    match end_of(&mut other).await {
        End::Problem(what) => assert!(what.contains("exit status: 3"), "{what}"),
        end @ (End::Stopped | End::Allowed(_) | End::PortTaken) => panic!("{end:?}"),
    }
}

#[tokio::test]
async fn only_who_has_said_nothing_yet_may_end_by_the_signal_itself() {
    let root = tempfile::tempdir().unwrap();
    let mut starting = node(&root, "exec sleep 60");
    start(&mut starting).await;
    starting.terminate().unwrap();
    assert_eq!(end_of(&mut starting).await, End::Stopped);

    let root = tempfile::tempdir().unwrap();
    let mut running = node(&root, "echo the node is running >&2; exec sleep 60");
    start(&mut running).await;
    running.terminate().unwrap();
    assert!(matches!(end_of(&mut running).await, End::Problem(_)));
}

#[tokio::test]
async fn an_end_just_before_a_kill_is_noticed() {
    let root = tempfile::tempdir().unwrap();
    let mut node = node(&root, "exit 1");
    start(&mut node).await;
    node.kill().unwrap();
    assert!(matches!(end_of(&mut node).await, End::Problem(_)));
}

#[tokio::test]
async fn a_node_runs_again_when_the_last_fault_lets_go() {
    let root = tempfile::tempdir().unwrap();
    let mut node = node(&root, IDLE);
    assert!(node.wants_start());
    start(&mut node).await;
    node.kill().unwrap();
    node.kill().unwrap();
    assert_eq!(node.reap().unwrap(), None, "it was killed, that is no end of its own");
    node.let_run();
    assert!(!node.wants_start());
    node.let_run();
    assert!(node.wants_start());

    start(&mut node).await;
    node.pause().unwrap();
    node.pause().unwrap();
    node.resume().unwrap();
    wait_until_still(root.path(), true).await;
    assert!(node.is_running() && !node.is_responsive());
    node.resume().unwrap();
    wait_until_still(root.path(), false).await;
    assert!(node.is_responsive());
}

#[tokio::test]
async fn a_node_that_never_starts_is_given_up() {
    let root = tempfile::tempdir().unwrap();
    let mut node = node(&root, "exit 1");
    let begun = Instant::now();
    let mut starts = 0;
    while !node.is_given_up() {
        if node.wants_start() {
            node.start().unwrap();
            starts += 1;
            assert!(matches!(end_of(&mut node).await, End::Problem(_)));
        }
        assert!(begun.elapsed() < PATIENCE);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(starts > 1 && !node.wants_start());
}

#[tokio::test]
async fn a_refusal_of_damage_is_allowed_and_final() {
    let root = tempfile::tempdir().unwrap();
    let mut node = node(&root, "echo 'checksum mismatch' >&2; exit 1");
    node.set_damage("bit 3".to_owned());
    node.start().unwrap();
    match end_of(&mut node).await {
        End::Allowed(why) => assert!(why.contains("checksum mismatch"), "{why}"),
        end @ (End::Stopped | End::PortTaken | End::Problem(_)) => panic!("{end:?}"),
    }
    tokio::time::sleep(Duration::from_millis(600)).await;
    assert!(!node.wants_start(), "it is to be replaced");
}

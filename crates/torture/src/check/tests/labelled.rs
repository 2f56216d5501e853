//! The search against the verdicts of others: histories of real etcd servers under
//! Jepsen's tests, with known labels, which the crate `todc-utils` ships with its own
//! checker; and that checker itself, on small random histories.
//!
//! The files are read where cargo keeps the crate: this repository has no copy.

use std::path::{Path, PathBuf};
use std::process::Command;

use todc_utils::linearizability::{WGLChecker, history as theirs};
use todc_utils::specifications::etcd::{EtcdOperation, EtcdSpecification, EtcdStatus};

use super::super::wgl::{ABSENT, Found, Item, MAX_STATES, State, search};
use crate::dice::Dice;

/// What a client asks of one register of small numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ask {
    Read,
    Write(u32),
    CompareAndSet(u32, u32),
}

/// What it is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Told {
    Found(Option<u32>),
    Done,
    Refused,
    Nothing,
}

/// A call in the order of lines: when it began, what was asked, and when it was told what.
#[derive(Debug, Clone, Copy)]
struct Line {
    begun: u64,
    ended: u64,
    process: usize,
    ask: Ask,
    told: Told,
}

fn state(value: u32) -> State {
    value + 1
}

/// What a line says; nothing if it is a read without an answer or a write that was not done.
fn item(operation: usize, line: &Line) -> Option<Item> {
    let (is, not, becomes) = match (line.ask, line.told) {
        (Ask::Read, Told::Found(found)) => (Some(found.map_or(ABSENT, state)), None, None),
        (Ask::Read, _) | (Ask::Write(_), Told::Refused) => return None,
        (Ask::Write(value), _) => (None, None, Some(state(value))),
        (Ask::CompareAndSet(old, _), Told::Refused) => (None, Some(state(old)), None),
        (Ask::CompareAndSet(old, new), _) => (Some(state(old)), None, Some(state(new))),
    };
    let ended = (line.told != Told::Nothing).then_some(line.ended);
    Some(Item { begun: line.begun, ended, operation, is, not, becomes })
}

fn is_linearizable(lines: &[Line]) -> bool {
    let items: Vec<Item> = lines.iter().enumerate().filter_map(|(index, line)| item(index, line)).collect();
    match search(&items, MAX_STATES) {
        Found::Order => true,
        Found::Contradiction { .. } => false,
        Found::TooMany => panic!("the search was given up"),
    }
}

/// The folder of a crate that this one depends on.
fn folder_of(name: &str) -> PathBuf {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml");
    let output = Command::new(cargo)
        .args(["metadata", "--format-version", "1", "--offline", "--manifest-path"])
        .arg(manifest)
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).expect("metadata is JSON");
    let packages = metadata["packages"].as_array().expect("there are packages");
    let package = packages.iter().find(|package| package["name"] == name).expect("it is a dependency");
    let manifest = package["manifest_path"].as_str().expect("it has a manifest");
    Path::new(manifest).parent().expect("a manifest is in a folder").to_owned()
}

/// Reads one of Jepsen's logs.
fn parse(text: &str) -> Vec<Line> {
    let mut lines: Vec<Line> = Vec::new();
    for (number, text) in text.lines().enumerate() {
        let words: Vec<&str> = text.split_whitespace().collect();
        let ["INFO", "jepsen.util", "-", process, what, ask, arguments @ ..] = words.as_slice() else {
            continue;
        };
        let Ok(process) = process.parse::<usize>() else { continue };
        let number = number as u64;
        let arguments: Vec<Option<u32>> = arguments
            .iter()
            .map(|argument| argument.trim_matches(|letter: char| !letter.is_ascii_digit()).parse().ok())
            .collect();
        if *what == ":invoke" {
            let ask = match (*ask, arguments.as_slice()) {
                (":read", _) => Ask::Read,
                (":write", [Some(value)]) => Ask::Write(*value),
                (":cas", [Some(old), Some(new)]) => Ask::CompareAndSet(*old, *new),
                _ => panic!("an unknown call: {text}"),
            };
            lines.push(Line { begun: number, ended: u64::MAX, process, ask, told: Told::Nothing });
            continue;
        }
        let line = lines.iter_mut().rev().find(|line| line.process == process).expect("it was asked");
        line.told = match (*what, line.ask, arguments.as_slice()) {
            (":ok", Ask::Read, [found]) => Told::Found(*found),
            (":ok", _, _) => Told::Done,
            (":fail", Ask::Read, _) | (":info", _, _) => Told::Nothing,
            (":fail", _, _) => Told::Refused,
            _ => panic!("an unknown answer: {text}"),
        };
        line.ended = number;
    }
    lines
}

/// The labels, out of the crate's own tests: lines such as `test_000: ("000", false),`.
fn labels(text: &str) -> Vec<(String, bool)> {
    let mut labels = Vec::new();
    for line in text.lines().map(str::trim).filter(|line| line.starts_with("test_")) {
        let (name, label) =
            line.split_once(": (\"").and_then(|(_, rest)| rest.split_once("\", ")).expect("a label");
        labels.push((name.to_owned(), label.trim_end_matches("),").parse().expect("a truth value")));
    }
    labels
}

#[test]
fn the_search_agrees_with_the_labels_of_real_histories() {
    let folder = folder_of("todc-utils").join("tests/linearizability");
    let source = std::fs::read_to_string(folder.join("etcd.rs")).expect("the labels are there");
    let labels = labels(&source);
    assert_eq!(labels.len(), 102, "labels");
    assert_eq!(labels.iter().filter(|(_, label)| *label).count(), 23, "linearizable ones");
    for (name, label) in labels {
        let path = folder.join(format!("etcd/etcd_{name}.log"));
        let text = std::fs::read_to_string(&path).expect("the history is there");
        let lines = parse(&text);
        assert!(lines.len() > 50, "{name} has {} calls", lines.len());
        assert_eq!(is_linearizable(&lines), label, "{name}");
    }
}

/// A random history of a register that is sometimes wrong, with few values and clients, so
/// that they meet.
fn random(dice: &mut Dice) -> Vec<Line> {
    let mut lines = Vec::new();
    let mut register: Option<u32> = None;
    let clients = 2 + dice.below(3);
    let mut free = vec![0_u64; clients];
    for step in 0..(4 + dice.below(8)) {
        let process = dice.below(clients);
        let now = (step as u64) * 10;
        let begun = (now.saturating_sub(dice.below(35) as u64)).max(free[process]) * 2;
        let ended = (now.max(free[process]) + 1 + dice.below(35) as u64) * 2 + 1;
        free[process] = ended / 2 + 1;
        let value = |dice: &mut Dice| dice.below(3) as u32;
        let ask = match dice.below(3) {
            0 => Ask::Read,
            1 => Ask::Write(value(dice)),
            _ => Ask::CompareAndSet(value(dice), value(dice)),
        };
        let happens = !dice.chance(20);
        let told = match ask {
            Ask::Read if dice.chance(8) => Told::Found(Some(value(dice))),
            Ask::Read => Told::Found(register),
            Ask::Write(value) => {
                register = if happens { Some(value) } else { register };
                if happens { Told::Done } else { Told::Nothing }
            }
            Ask::CompareAndSet(old, new) if register == Some(old) => {
                register = if dice.chance(90) { Some(new) } else { register };
                if happens { Told::Done } else { Told::Nothing }
            }
            Ask::CompareAndSet(..) => Told::Refused,
        };
        lines.push(Line { begun, ended, process: step, ask, told });
    }
    lines
}

/// The same for the other checker, which wants unknown outcomes at the end.
fn their_history(lines: &[Line]) -> theirs::History<EtcdOperation> {
    let operation = |ask: Ask, status: EtcdStatus, found: Option<u32>| match ask {
        Ask::Read => EtcdOperation::Read(status, found),
        Ask::Write(value) => EtcdOperation::Write(status, value),
        Ask::CompareAndSet(old, new) => EtcdOperation::CompareAndSwap(status, (old, new)),
    };
    let mut actions = Vec::new();
    for line in lines {
        let (status, found) = match line.told {
            Told::Found(found) => (EtcdStatus::Okay, found),
            Told::Done => (EtcdStatus::Okay, None),
            Told::Refused => (EtcdStatus::Fail, None),
            Told::Nothing => (EtcdStatus::Unknown, None),
        };
        let ended = if line.told == Told::Nothing { u64::MAX } else { line.ended };
        let call = theirs::Action::Call(operation(line.ask, EtcdStatus::Invoke, None));
        let response = theirs::Action::Response(operation(line.ask, status, found));
        // What ends when another one begins is concurrent with it.
        actions.push((line.begun, 0, line.process, call));
        actions.push((ended, 1, line.process, response));
    }
    actions.sort_by_key(|(at, order, process, _)| (*at, *order, *process));
    theirs::History::from_actions(
        actions.into_iter().map(|(_, _, process, action)| (process, action)).collect(),
    )
}

#[test]
fn the_search_agrees_with_another_checker_on_random_histories() {
    let mut dice = Dice::new(7);
    let mut linearizable = 0;
    for round in 0..4000 {
        let lines = random(&mut dice);
        let theirs = WGLChecker::<EtcdSpecification>::is_linearizable(their_history(&lines));
        assert_eq!(is_linearizable(&lines), theirs, "round {round}: {lines:#?}");
        linearizable += u32::from(theirs);
    }
    assert!((400..3600).contains(&linearizable), "{linearizable} of 4000 are linearizable");
}

//! Lists that transactions read and append to, judged as Elle does (Kingsbury & Alvaro,
//! "Elle: Inferring Isolation Anomalies from Experimental Observations", VLDB 2020).
//!
//! Elements are unique, so a list tells who wrote it and in which order. From that follow
//! dependencies between transactions, and with those of real time they must have no
//! cycle. Needs no revision but as a name for the list that a client had read.
//!
//! A transaction that puts `old,e` and compares a revision of the list has read `old`
//! and appended `e`, both at once.

use std::collections::HashSet;

use super::Verdict;
use super::answer::{Answer, compared};
use super::elements::{Fate, Lists, Touch};
use super::graph::{Edge, Graph, Shape, Why};
use crate::history::{Call, History, Nanos, Operation, Outcome, keys};

/// The checker's name.
pub(super) const CHECK: &str = "append";

/// Anomalies, the worst first, and how their cycles look.
const ANOMALIES: [(&str, Shape); 8] = [
    ("G0", Shape { along: |why| why == Why::WriteWrite, closed_by_read_write: false }),
    ("G1c", Shape { along: is_flow, closed_by_read_write: false }),
    ("G-single", Shape { along: is_flow, closed_by_read_write: true }),
    ("G2", Shape { along: |why| why != Why::RealTime, closed_by_read_write: true }),
    (
        "G0-realtime",
        Shape { along: |why| matches!(why, Why::WriteWrite | Why::RealTime), closed_by_read_write: false },
    ),
    ("G1c-realtime", Shape { along: |why| why != Why::ReadWrite, closed_by_read_write: false }),
    ("G-single-realtime", Shape { along: |why| why != Why::ReadWrite, closed_by_read_write: true }),
    ("G2-realtime", Shape { along: |_| true, closed_by_read_write: true }),
];

fn is_flow(why: Why) -> bool {
    matches!(why, Why::WriteWrite | Why::WriteRead)
}

/// Judges all lists.
pub(super) fn check(history: &History, verdict: &mut Verdict) {
    let lists = Lists::gather(history, verdict);
    lists.check_elements(verdict);
    lists.check_finals(history, verdict);
    let mut graph = Graph::default();
    let mut nodes: HashSet<usize> = HashSet::new();
    lists.add_writes(&mut graph, &mut nodes);
    for (index, operation) in history.operations.iter().enumerate() {
        if touches(operation) {
            for touch in lists.touches(index, operation) {
                nodes.insert(index);
                add_read(&lists, index, &touch, &mut graph, verdict);
            }
        }
    }
    verdict.count("append.transactions", nodes.len() as u64);
    verdict.count("append.dependencies", graph.len() as u64);
    let total = add_real_time(history, &nodes, &mut graph);
    graph.finish(total);
    classify(&graph, history.operations.len(), verdict);
}

/// Whether a transaction has to do with lists and was answered, or its outcome is unknown.
fn touches(operation: &Operation) -> bool {
    let Call::Txn { compares, .. } = &operation.call else { return false };
    let Some(answer) = Answer::of(operation) else {
        return matches!(operation.outcome, Outcome::Unknown { .. });
    };
    compares.iter().map(compared).any(|key| key.starts_with(keys::LIST))
        || answer.steps.iter().any(|step| super::answer::step_key(step).starts_with(keys::LIST))
}

/// Adds what follows from a transaction's having seen so much of a list.
fn add_read(lists: &Lists<'_>, index: usize, touch: &Touch<'_>, graph: &mut Graph, verdict: &mut Verdict) {
    let last = touch.seen.checked_sub(1).and_then(|place| lists.writer(touch.list, place));
    let next = lists.writer(touch.list, touch.seen);
    if let Some((writer, _)) = last {
        graph.add(writer, Why::WriteRead, index);
    }
    if let Some((writer, _)) = next {
        graph.add(index, Why::ReadWrite, writer);
    }
    if let (Some((last, fate)), Some((next, _))) = (last, next)
        && last == next
        && last != index
        && fate != Fate::Aborted
    {
        verdict.problem((CHECK, "G1b"), Some(touch.list), &[last, index], || {
            format!("a transaction saw {} as another one had it in between", touch.list)
        });
    }
}

/// Adds the order of real time. Each end is a node of its own behind the one before it, so
/// an operation begins behind one such node instead of all that had ended. Says how many
/// nodes there are.
fn add_real_time(history: &History, nodes: &HashSet<usize>, graph: &mut Graph) -> usize {
    let first = history.operations.len();
    let mut ends: Vec<(Nanos, usize)> = Vec::new();
    for index in nodes {
        if let Some(operation) = history.operations.get(*index)
            && matches!(operation.outcome, Outcome::Done { .. })
        {
            ends.push((operation.ended, *index));
        }
    }
    ends.sort_unstable();
    for (place, (_, index)) in ends.iter().enumerate() {
        graph.add(*index, Why::RealTime, first + place);
        if place + 1 < ends.len() {
            graph.add(first + place, Why::RealTime, first + place + 1);
        }
    }
    for index in nodes {
        let Some(operation) = history.operations.get(*index) else { continue };
        // A local read may see less than had ended before it.
        if matches!(operation.call, Call::Txn { local: true, .. }) {
            continue;
        }
        if let Some(place) = ends.partition_point(|(ended, _)| *ended < operation.begun).checked_sub(1) {
            graph.add(first + place, Why::RealTime, *index);
        }
    }
    first + ends.len()
}

/// Names what contradicts itself by the worst anomaly that it is.
fn classify(graph: &Graph, first: usize, verdict: &mut Verdict) {
    let Some((_, anything)) = ANOMALIES.last() else { return };
    if graph.knots(*anything).is_empty() {
        return;
    }
    let mut named: HashSet<usize> = HashSet::new();
    for (kind, shape) in ANOMALIES {
        for knot in graph.knots(shape) {
            if !knot.iter().any(|node| named.contains(node))
                && let Some(cycle) = graph.cycle(&knot, shape)
            {
                report(first, kind, &cycle, verdict);
                named.extend(knot);
            }
        }
    }
}

/// Tells of a cycle. Nodes from `first` on are no operations but ends of some.
fn report(first: usize, kind: &str, cycle: &[Edge], verdict: &mut Verdict) {
    let operations: Vec<usize> = cycle.iter().map(|(from, ..)| *from).filter(|node| *node < first).collect();
    verdict.problem((CHECK, kind), None, &operations, || {
        let mut text = String::from("transactions come before each other: ");
        let mut told = None;
        for (from, why, _) in cycle {
            let name = match why {
                Why::WriteWrite => " wrote what was replaced by ",
                Why::WriteRead => " was read by ",
                Why::ReadWrite => " did not see what was written by ",
                Why::RealTime => " ended before the beginning of ",
            };
            if *from < first {
                text.push_str(&from.to_string());
                text.push_str(name);
                told.get_or_insert(*from);
            }
        }
        if let Some(start) = told {
            text.push_str(&start.to_string());
        }
        text
    });
}

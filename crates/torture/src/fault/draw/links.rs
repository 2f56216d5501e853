//! Partitions, whole and partial, and bad links.

use std::time::Duration;

use super::{Draft, millis};
use crate::cluster::Effect;
use crate::fault::plan::{Act, End, Rank};

/// How long most cuts last: from shorter than an election to much longer.
fn cut_time(draft: &mut Draft<'_>) -> Duration {
    draft.dice.millis(300, 6_000)
}

fn both_ways(some: &[Rank], others: &[Rank]) -> Vec<(End, End)> {
    let pairs = some.iter().flat_map(|a| others.iter().map(move |b| (End::Node(*a), End::Node(*b))));
    pairs.flat_map(|(a, b)| [(a, b), (b, a)]).collect()
}

/// All links between the first node and the others.
pub(super) fn around_first(nodes: usize) -> Vec<(End, End)> {
    both_ways(&[0], &(1..nodes).collect::<Vec<_>>())
}

fn with_clients(ranks: &[Rank]) -> Vec<(End, End)> {
    let nodes = ranks.iter().map(|rank| End::Node(*rank));
    nodes.flat_map(|node| [(End::Clients, node), (node, End::Clients)]).collect()
}

fn cut(draft: &mut Draft<'_>, links: Vec<(End, End)>) {
    let time = cut_time(draft);
    draft.at(Duration::ZERO, Act::Lay { links, effect: Effect::cut() });
    draft.at(time, Act::LiftAll);
    draft.plan.detail = format!("{} for {time:?}", draft.plan.detail);
}

pub(super) fn partition(draft: &mut Draft<'_>) {
    let minority = 1 + draft.dice.below((draft.nodes - 1) / 2);
    draft.plan.leader_first = draft.dice.chance(60);
    split(draft, minority);
}

pub(super) fn isolate(draft: &mut Draft<'_>) {
    draft.plan.leader_first = true;
    split(draft, 1);
}

fn split(draft: &mut Draft<'_>, minority: usize) {
    let (few, many) = ((0..minority).collect::<Vec<_>>(), (minority..draft.nodes).collect::<Vec<_>>());
    let mut links = both_ways(&few, &many);
    draft.plan.struck = minority;
    draft.plan.detail = format!("{minority} of {} nodes", draft.nodes);
    if draft.dice.chance(25) {
        links.extend(with_clients(&few));
        draft.plan.detail += ", from clients too,";
    }
    cut(draft, links);
}

pub(super) fn one_way(draft: &mut Draft<'_>) {
    draft.plan.struck = 2;
    draft.plan.leader_first = draft.dice.chance(30);
    "the first does not reach the second".clone_into(&mut draft.plan.detail);
    let mut links = vec![(End::Node(0), End::Node(1))];
    if draft.dice.chance(20) {
        links.push((End::Node(0), End::Clients));
        draft.plan.detail += ", nor clients,";
    }
    cut(draft, links);
}

pub(super) fn one_way_leader(draft: &mut Draft<'_>) {
    draft.plan.leader_first = true;
    let others = (1..draft.nodes).map(End::Node);
    let links = if draft.dice.chance(50) {
        "the leader sends and does not hear".clone_into(&mut draft.plan.detail);
        others.map(|other| (other, End::Node(0))).collect()
    } else {
        "the leader hears and does not send".clone_into(&mut draft.plan.detail);
        others.map(|other| (End::Node(0), other)).collect()
    };
    cut(draft, links);
}

pub(super) fn bridge(draft: &mut Draft<'_>) {
    draft.plan.leader_first = draft.dice.chance(30);
    draft.plan.struck = draft.nodes;
    let others: Vec<_> = (1..draft.nodes).collect();
    let (some, rest) = others.split_at(others.len() / 2);
    "the first reaches all, the halves of the others don't reach each other"
        .clone_into(&mut draft.plan.detail);
    cut(draft, both_ways(some, rest));
}

pub(super) fn flapping(draft: &mut Draft<'_>) {
    draft.plan.leader_first = draft.dice.chance(50);
    let all = around_first(draft.nodes);
    let links = if draft.dice.chance(50) { all } else { all.into_iter().step_by(2).collect() };
    let times = 3 + draft.dice.below(8);
    let mut time = Duration::ZERO;
    for _ in 0..times {
        draft.at(time, Act::Lay { links: links.clone(), effect: Effect::cut() });
        time += draft.dice.millis(50, 900);
        draft.at(time, Act::LiftAll);
        time += draft.dice.millis(20, 600);
    }
    draft.plan.count = times as u64;
    draft.plan.detail = format!("{} links come and go {times} times", links.len());
}

/// The links of one node, or all links; with clients or without.
fn some_links(draft: &mut Draft<'_>) -> Vec<(End, End)> {
    draft.plan.leader_first = draft.dice.chance(40);
    let all: Vec<_> = (0..draft.nodes).collect();
    let struck = if draft.dice.chance(40) { draft.nodes } else { 1 };
    draft.plan.struck = struck;
    let some: Vec<_> = (0..struck).collect();
    let mut links = both_ways(&some, &all);
    links.retain(|(from, to)| from != to);
    if draft.dice.chance(30) {
        links.extend(with_clients(&some));
    }
    links
}

pub(super) fn slow(draft: &mut Draft<'_>) {
    let links = some_links(draft);
    let longest = if draft.dice.chance(50) { 60 } else { 500 };
    let delay = draft.dice.millis(5, longest);
    let jitter = draft.dice.millis(0, 200);
    let time = draft.dice.millis(1_000, 8_000);
    draft.plan.detail = format!("{} links, {delay:?} and up to {jitter:?} more for {time:?}", links.len());
    draft.at(Duration::ZERO, Act::Lay { links, effect: Effect { delay, jitter, ..Effect::default() } });
    draft.at(time, Act::LiftAll);
}

pub(super) fn trickle(draft: &mut Draft<'_>) {
    let links = some_links(draft);
    let rate = 400 + draft.dice.below(20_000) as u64;
    let time = draft.dice.millis(1_000, 8_000);
    draft.plan.detail = format!("{} links, {rate} bytes a second for {time:?}", links.len());
    let effect = Effect { bytes_per_second: Some(rate), ..Effect::default() };
    draft.at(Duration::ZERO, Act::Lay { links, effect });
    draft.at(time, Act::LiftAll);
}

pub(super) fn drop_connections(draft: &mut Draft<'_>) {
    let links = some_links(draft);
    let times = 1 + draft.dice.below(12);
    let mut time = Duration::ZERO;
    for _ in 0..times {
        draft.at(time, Act::Reset(links.clone()));
        time += draft.dice.millis(5, 600);
    }
    draft.plan.count = times as u64;
    draft.plan.detail = format!("{} links, {times} times in {:?}", links.len(), time.max(millis(1)));
}

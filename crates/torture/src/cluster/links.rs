//! What happens on the way between two nodes, or between clients and a node.
//!
//! A link has a direction. What happens on it is the sum of rules that were laid on it;
//! each rule is lifted by whoever laid it, so that faults may overlap. Nothing here moves
//! bytes: the proxies do, and ask here.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use crate::history::NodeId;

/// The sender or receiver that stands for all clients.
pub const CLIENTS: NodeId = 0;

/// From whom to whom.
pub type Link = (NodeId, NodeId);

/// What happens to bytes on a link.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Effect {
    /// They are held back, and delivered when that is over.
    pub cut: bool,
    /// They take so much longer.
    pub delay: Duration,
    /// They take up to so much longer again.
    pub jitter: Duration,
    /// So many of them pass in a second.
    pub bytes_per_second: Option<u64>,
}

impl Effect {
    /// Nothing passes.
    pub fn cut() -> Self {
        Self { cut: true, ..Self::default() }
    }

    fn and(self, other: Self) -> Self {
        let rates = [self.bytes_per_second, other.bytes_per_second];
        Self {
            cut: self.cut || other.cut,
            delay: self.delay + other.delay,
            jitter: self.jitter + other.jitter,
            bytes_per_second: rates.into_iter().flatten().min(),
        }
    }
}

/// Names a rule, to lift it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct RuleId(u64);

#[derive(Debug, Default)]
struct Weather {
    next_rule: u64,
    rules: BTreeMap<RuleId, (BTreeSet<Link>, Effect)>,
    resets: BTreeMap<Link, u64>,
}

impl Weather {
    fn effect(&self, link: Link) -> Effect {
        let of_link = self.rules.values().filter(|(links, _)| links.contains(&link));
        of_link.fold(Effect::default(), |sum, (_, effect)| sum.and(*effect))
    }
}

/// All links of a cluster; clones share them.
#[derive(Debug, Clone, Default)]
pub struct Links {
    weather: Arc<watch::Sender<Weather>>,
}

impl Links {
    /// Lays a rule on some links, until it is lifted.
    pub fn lay(&self, links: impl IntoIterator<Item = Link>, effect: Effect) -> RuleId {
        let links = links.into_iter().collect();
        let mut id = RuleId(0);
        self.weather.send_modify(|weather| {
            weather.next_rule += 1;
            id = RuleId(weather.next_rule);
            weather.rules.insert(id, (links, effect));
        });
        id
    }

    /// Lifts a rule; nothing happens if it was lifted before.
    pub fn lift(&self, rule: RuleId) {
        self.weather.send_modify(|weather| {
            weather.rules.remove(&rule);
        });
    }

    /// Lifts all rules.
    pub fn heal(&self) {
        self.weather.send_modify(|weather| weather.rules.clear());
    }

    /// Breaks all connections that pass over one of the links, with a reset.
    pub fn reset(&self, links: impl IntoIterator<Item = Link>) {
        self.weather.send_modify(|weather| {
            for link in links {
                *weather.resets.entry(link).or_default() += 1;
            }
        });
    }

    /// What happens on a link now.
    pub fn effect(&self, link: Link) -> Effect {
        self.weather.borrow().effect(link)
    }

    /// Waits until a link is not cut.
    pub(crate) async fn passable(&self, link: Link) {
        let mut weather = self.weather.subscribe();
        // The sender lives in `self`, so that it can't be closed.
        let _ = weather.wait_for(|weather| !weather.effect(link).cut).await;
    }

    /// Notes how often connections of two nodes were broken, before a connection begins.
    pub(crate) fn resets(&self, link: Link) -> Resets {
        let weather = self.weather.subscribe();
        let seen = resets_of(&weather.borrow(), link);
        Resets { weather, link, seen }
    }
}

fn resets_of(weather: &Weather, (from, to): Link) -> u64 {
    let of = |link| weather.resets.get(&link).copied().unwrap_or(0);
    of((from, to)) + of((to, from))
}

/// Waits for a connection to be broken.
#[derive(Debug)]
pub(crate) struct Resets {
    weather: watch::Receiver<Weather>,
    link: Link,
    seen: u64,
}

impl Resets {
    /// Waits until connections are broken.
    ///
    /// # Cancel safety
    /// May be dropped and called again.
    pub(crate) async fn broken(&mut self) {
        let (link, seen) = (self.link, self.seen);
        if self.weather.wait_for(|weather| resets_of(weather, link) != seen).await.is_err() {
            // Nobody is left who could break it.
            std::future::pending::<()>().await;
        }
    }
}

/// All links between nodes of one group and of another, both ways.
pub fn between(some: &[NodeId], others: &[NodeId]) -> Vec<Link> {
    let pairs = some.iter().flat_map(|a| others.iter().map(move |b| (*a, *b)));
    pairs.filter(|(a, b)| a != b).flat_map(|(a, b)| [(a, b), (b, a)]).collect()
}

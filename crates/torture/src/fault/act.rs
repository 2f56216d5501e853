//! Carries out a plan, step by step, on the nodes that have its ranks.

use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::json;

use super::flip::flip;
use super::nemesis::SafeRevision;
use super::plan::{Act, End, Plan, Rank};
use crate::cluster::{CLIENTS, Cluster, Counts, DiskFaults, HarnessError, Link, Node, RuleId, Way};
use crate::history::{Nanos, NodeId};
use crate::timeline::Mishap;

/// How long calls of an operator may take.
const CALL_LIMIT: Duration = Duration::from_secs(10);

/// How long a node with a damaged file may take to serve or to end.
const START_LIMIT: Duration = Duration::from_secs(20);

/// A plan that has begun.
#[derive(Debug)]
pub(super) struct Ongoing {
    plan: Plan,
    /// Who has which rank.
    order: Vec<NodeId>,
    /// When the first step was done: what happens before it is not its doing.
    begun_at: Option<Nanos>,
    /// From when the times of the steps count.
    base: Instant,
    /// Since when a step could not be done; those after it keep their distance to it.
    held_up: Option<Instant>,
    next: usize,
    rules: Vec<RuleId>,
    broken: Vec<(NodeId, u64, Counts)>,
    filled: Vec<(NodeId, u64)>,
    shifted: Vec<(NodeId, u64)>,
    replacement: Option<NodeId>,
    noted_log: Option<u64>,
    notes: Vec<String>,
}

/// Whether a step could be done.
enum Done {
    Yes,
    NotYet,
}

impl Ongoing {
    /// Settles who has which rank, and begins.
    pub(super) fn begin(plan: Plan, members: &[NodeId], leader: Option<NodeId>) -> Self {
        let mut order: Vec<_> = plan.order.iter().filter_map(|place| members.get(*place).copied()).collect();
        if let Some(leader) = leader.filter(|leader| plan.leader_first && order.contains(leader)) {
            order.retain(|id| *id != leader);
            order.insert(0, leader);
        }
        Self {
            plan,
            order,
            begun_at: None,
            base: Instant::now(),
            held_up: None,
            next: 0,
            rules: Vec::new(),
            broken: Vec::new(),
            filled: Vec::new(),
            shifted: Vec::new(),
            replacement: None,
            noted_log: None,
            notes: Vec::new(),
        }
    }

    /// Whether all its steps are done.
    pub(super) fn is_done(&self) -> bool {
        self.next >= self.plan.steps.len()
    }

    /// Whether all is whole again.
    pub(super) fn is_over(&self, cluster: &Cluster) -> bool {
        self.is_done() && !self.replacement.is_some_and(|new| cluster.is_replacing(new))
    }

    /// What happened, once it is over.
    pub(super) fn mishap(&self, cluster: &Cluster) -> Mishap {
        let ended = cluster.now();
        let mut detail = self.plan.detail.clone();
        for note in &self.notes {
            detail += "; ";
            detail += note;
        }
        Mishap {
            fault: self.plan.fault.name().to_owned(),
            kind: self.plan.fault.kind(),
            detail,
            nodes: self.order.iter().take(self.plan.struck).copied().collect(),
            count: self.plan.count,
            begun: self.begun_at.unwrap_or(ended),
            ended,
        }
    }

    /// Does all that is due; with `at_once`, all that is left.
    pub(super) async fn go_on(
        &mut self,
        cluster: &mut Cluster,
        safe_revision: Option<&SafeRevision>,
        at_once: bool,
    ) -> Result<(), HarnessError> {
        while let Some(step) = self.plan.steps.get(self.next) {
            let due = self.base + step.after;
            if !at_once && Instant::now() < due {
                return Ok(());
            }
            let act = step.act.clone();
            let now = cluster.now();
            match self.carry_out(cluster, &act, safe_revision).await? {
                Done::Yes => {
                    self.begun_at.get_or_insert(now);
                    self.next += 1;
                    if let Some(since) = self.held_up.take() {
                        self.base += since.elapsed();
                    }
                }
                Done::NotYet => {
                    self.held_up.get_or_insert_with(Instant::now);
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    fn id(&self, rank: Rank) -> Option<NodeId> {
        self.order.get(rank).copied()
    }

    fn ids(&self, links: &[(End, End)]) -> Vec<Link> {
        let id = |end: End| match end {
            End::Clients => Some(CLIENTS),
            End::Node(rank) => self.id(rank),
        };
        links.iter().filter_map(|(from, to)| Some((id(*from)?, id(*to)?))).collect()
    }

    async fn carry_out(
        &mut self,
        cluster: &mut Cluster,
        act: &Act,
        safe_revision: Option<&SafeRevision>,
    ) -> Result<Done, HarnessError> {
        match act {
            Act::Kill(rank) => self.on_node(cluster, *rank, Node::kill)?,
            Act::LosePower(rank, journal) => {
                self.on_node(cluster, *rank, |node| node.lose_power(*journal))?;
            }
            Act::Terminate(rank) => self.on_node(cluster, *rank, Node::terminate)?,
            Act::LetRun(rank) => self.on_node(cluster, *rank, |node| {
                node.let_run();
                Ok(())
            })?,
            Act::Pause(rank) => self.on_node(cluster, *rank, Node::pause)?,
            Act::Resume(rank) => self.on_node(cluster, *rank, Node::resume)?,
            Act::Wipe(rank) => self.on_node(cluster, *rank, Node::wipe)?,
            Act::Lay { links, effect } => self.rules.push(cluster.links().lay(self.ids(links), *effect)),
            Act::LiftAll => self.rules.drain(..).for_each(|rule| cluster.links().lift(rule)),
            Act::Reset(links) => cluster.links().reset(self.ids(links)),
            Act::BreakDisk(rank, faults) => self.break_disk(cluster, *rank, faults)?,
            Act::FillDisk(rank, left) => self.fill_disk(cluster, *rank, *left)?,
            Act::MendDisks => self.mend_disks(cluster)?,
            Act::ShiftClock(rank, seconds) => self.shift_clock(cluster, *rank, *seconds)?,
            Act::ShiftClocksBack => self.shift_clocks_back(cluster)?,
            Act::Transfer { through, to } => {
                let to = json!({ "to": self.id(*to) }).to_string();
                self.ask(cluster, *through, "/v1/leader/transfer", to);
            }
            Act::Snapshot(rank) => self.ask(cluster, *rank, "/v1/snapshot", String::new()),
            Act::Compact(rank) => self.compact(cluster, *rank, safe_revision),
            Act::Replace { rank, at_once, linger } => {
                let way = if *at_once { Way::AtOnce } else { Way::OneByOne };
                return self.replace(cluster, *rank, way, *linger);
            }
            Act::NoteLog(rank) => self.note_log(cluster, *rank).await,
            Act::CompareLog(rank) => return Ok(self.compare_log(cluster, *rank).await),
            Act::Flip { rank, place, seed, bits } => {
                return self.flip(cluster, *rank, |data| flip(data, *place, *seed, *bits));
            }
        }
        Ok(Done::Yes)
    }

    /// Does something to the node of a rank; nothing if it has been replaced meanwhile.
    fn on_node(
        &self,
        cluster: &mut Cluster,
        rank: Rank,
        act: impl FnOnce(&mut Node) -> Result<(), HarnessError>,
    ) -> Result<(), HarnessError> {
        self.id(rank).and_then(|id| cluster.node_mut(id)).map_or(Ok(()), act)
    }

    fn break_disk(
        &mut self,
        cluster: &mut Cluster,
        rank: Rank,
        faults: &DiskFaults,
    ) -> Result<(), HarnessError> {
        let Some(id) = self.id(rank) else { return Ok(()) };
        if let Some(node) = cluster.node_mut(id) {
            let before = node.control().counts()?;
            self.broken.push((id, node.begin_disk_faults(faults.clone())?, before));
        }
        Ok(())
    }

    fn fill_disk(&mut self, cluster: &mut Cluster, rank: Rank, left: u64) -> Result<(), HarnessError> {
        let Some(id) = self.id(rank) else { return Ok(()) };
        if let Some(node) = cluster.node_mut(id) {
            self.filled.push((id, node.fill_disk(left)?));
        }
        Ok(())
    }

    fn mend_disks(&mut self, cluster: &mut Cluster) -> Result<(), HarnessError> {
        let state = |node: &Node| if node.is_running() { "runs" } else { "has ended" };
        for (id, number, before) in self.broken.drain(..) {
            if let Some(node) = cluster.node_mut(id) {
                let counts = node.control().counts()?;
                self.notes.push(format!("node {id} {}, {}", state(node), counts.since(before)));
                node.end_disk_faults(number)?;
            }
        }
        for (id, number) in self.filled.drain(..) {
            if let Some(node) = cluster.node_mut(id) {
                self.notes.push(format!("node {id} {}", state(node)));
                node.free_disk(number)?;
            }
        }
        Ok(())
    }

    fn shift_clock(&mut self, cluster: &mut Cluster, rank: Rank, seconds: i64) -> Result<(), HarnessError> {
        let Some(id) = self.id(rank) else { return Ok(()) };
        if let Some(node) = cluster.node_mut(id) {
            self.shifted.push((id, node.shift_clock(seconds)?));
        }
        Ok(())
    }

    fn shift_clocks_back(&mut self, cluster: &mut Cluster) -> Result<(), HarnessError> {
        for (id, number) in self.shifted.drain(..) {
            if let Some(node) = cluster.node_mut(id) {
                node.shift_clock_back(number)?;
            }
        }
        Ok(())
    }

    fn ask(&mut self, cluster: &Cluster, rank: Rank, path: &str, body: String) {
        if let Some(id) = self.id(rank) {
            cluster.ask(id, path, body, CALL_LIMIT);
        }
    }

    fn compact(&mut self, cluster: &Cluster, rank: Rank, safe_revision: Option<&SafeRevision>) {
        let Some(revision) = safe_revision.and_then(|safe| safe()) else {
            self.notes.push("there is nothing to compact".to_owned());
            return;
        };
        self.notes.push(format!("up to revision {revision}"));
        self.ask(cluster, rank, "/v1/compact", json!({ "revision": revision }).to_string());
    }

    fn replace(
        &mut self,
        cluster: &mut Cluster,
        rank: Rank,
        way: Way,
        linger: Duration,
    ) -> Result<Done, HarnessError> {
        // One change of the members after the other.
        if cluster.is_changing() {
            return Ok(Done::NotYet);
        }
        let Some(old) = self.id(rank).filter(|id| cluster.node(*id).is_some()) else { return Ok(Done::Yes) };
        let new = cluster.replace(old, way, linger)?;
        let state = cluster.node(old).map_or("", |node| if node.is_running() { "runs" } else { "is down" });
        self.notes.push(format!("node {old}, which {state}, is replaced by node {new}"));
        self.replacement = Some(new);
        Ok(Done::Yes)
    }

    async fn note_log(&mut self, cluster: &Cluster, rank: Rank) {
        let Some(id) = self.id(rank) else { return };
        self.noted_log = cluster.status(id).await.ok().and_then(|status| status.applied_index);
    }

    async fn compare_log(&mut self, cluster: &mut Cluster, rank: Rank) -> Done {
        let waited = self.held_up.map(|since| since.elapsed()).unwrap_or_default();
        let Some((id, noted)) = self.id(rank).zip(self.noted_log) else { return Done::Yes };
        let Some(node) = cluster.node(id).filter(|node| node.damage().is_some()) else { return Done::Yes };
        if node.has_refused_damage() {
            self.notes.push("it refused".to_owned());
            return Done::Yes;
        }
        let status = match cluster.status(id).await {
            Ok(status) => status,
            Err(error) if waited > START_LIMIT => {
                let what = format!("with a damaged file, it neither serves nor ends: {error}");
                cluster.add_problem(id, what);
                return Done::Yes;
            }
            Err(_) => return Done::NotYet,
        };
        let last = status.last_log_index.unwrap_or(0);
        if last < noted {
            let damage = self.notes.join("; ");
            cluster.add_problem(
                id,
                format!("it had applied its log to {noted}; after damage ({damage}) it runs with a log that ends at {last}"),
            );
        }
        self.notes.push(format!("it runs with a log to {last}, {noted} were applied before"));
        Done::Yes
    }

    fn flip(
        &mut self,
        cluster: &mut Cluster,
        rank: Rank,
        flip: impl FnOnce(&Path) -> Result<Option<String>, HarnessError>,
    ) -> Result<Done, HarnessError> {
        let Some(node) = self.id(rank).and_then(|id| cluster.node_mut(id)) else { return Ok(Done::Yes) };
        if node.is_running() {
            return Ok(Done::NotYet);
        }
        match flip(&node.open_disk()?.data())? {
            Some(damage) => {
                node.note(&format!("damaged {damage}"))?;
                self.notes.push(damage.clone());
                node.set_damage(damage);
            }
            None => self.notes.push("there is nothing to damage".to_owned()),
        }
        Ok(Done::Yes)
    }
}

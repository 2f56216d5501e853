//! Does one thing after the other, and several at once, until it is told to end.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Fault;
use super::act::Ongoing;
use super::draw;
use super::plan::{Act, Plan};
use crate::cluster::{Cluster, HarnessError};
use crate::dice::Dice;
use crate::history::NodeId;
use crate::timeline::Mishap;

/// How often it is looked what is due.
const LOOK: Duration = Duration::from_millis(15);
/// How long a cluster that is whole may take to recover.
const RECOVERY_LIMIT: Duration = Duration::from_secs(90);

/// Tells up to which revision history may be compacted, if any.
pub type SafeRevision = Arc<dyn Fn() -> Option<i64> + Send + Sync>;

/// What the machine allows to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Abilities {
    /// Disks can lose power and be full.
    pub image_disks: bool,
    /// Calls of the nodes can be interposed.
    pub preload: bool,
}

impl Abilities {
    /// What a cluster was made for.
    pub fn of(cluster: &Cluster) -> Self {
        let settings = cluster.settings();
        Self { image_disks: settings.image_bytes.is_some(), preload: settings.preload.is_some() }
    }

    fn allow(self, plan: &Plan) -> bool {
        plan.steps.iter().all(|step| match step.act {
            Act::LosePower(..) | Act::FillDisk(..) => self.image_disks,
            Act::BreakDisk(..) | Act::ShiftClock(..) => self.preload,
            Act::Kill(_)
            | Act::Terminate(_)
            | Act::LetRun(_)
            | Act::Pause(_)
            | Act::Resume(_)
            | Act::Lay { .. }
            | Act::LiftAll
            | Act::Reset(_)
            | Act::MendDisks
            | Act::ShiftClocksBack
            | Act::Transfer { .. }
            | Act::Snapshot(_)
            | Act::Compact(_)
            | Act::Replace { .. }
            | Act::Wipe(_)
            | Act::NoteLog(_)
            | Act::CompareLog(_)
            | Act::Flip { .. } => true,
        })
    }
}

/// Some plans that overlap, and what comes after them.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Round {
    /// Each with the time after the beginning of the round at which it begins.
    pub(super) plans: Vec<(Duration, Plan)>,
    /// How long nothing new happens afterwards; `None` is until the cluster has
    /// recovered.
    pub(super) rest: Option<Duration>,
}

/// Who makes the trouble.
pub struct Nemesis {
    faults: Vec<Fault>,
    safe_revision: Option<SafeRevision>,
    ongoing: Vec<Ongoing>,
    mishaps: Vec<Mishap>,
    skipped: BTreeMap<Fault, u64>,
}

impl Nemesis {
    /// Does these faults and no others. Without `safe_revision`, nothing is compacted.
    pub fn new(faults: Vec<Fault>, safe_revision: Option<SafeRevision>) -> Self {
        Self { faults, safe_revision, ongoing: Vec::new(), mishaps: Vec::new(), skipped: BTreeMap::new() }
    }

    /// What was done so far and is over.
    pub fn mishaps(&self) -> &[Mishap] {
        &self.mishaps
    }

    /// Which faults were drawn and could not be done on this machine, and how often.
    pub fn skipped(&self) -> &BTreeMap<Fault, u64> {
        &self.skipped
    }

    /// Does one round of faults after the other until `until`, then makes everything
    /// whole and waits until the cluster has recovered. Gives all that was done.
    ///
    /// # Errors
    /// When the cluster does not recover though everything is whole, or the harness
    /// itself fails; [`Self::mishaps`] then tells what was done before.
    pub async fn run(
        &mut self,
        cluster: &mut Cluster,
        until: Instant,
        dice: &mut Dice,
    ) -> Result<Vec<Mishap>, HarnessError> {
        while Instant::now() < until && !self.faults.is_empty() {
            let round = draw_round(&self.faults, cluster.settings().nodes as usize, &mut dice.fork());
            self.play(cluster, round, until).await?;
        }
        self.end(cluster).await?;
        Ok(self.mishaps.clone())
    }

    /// Does one fault, makes everything whole and waits until the cluster has recovered.
    pub async fn inflict(
        &mut self,
        cluster: &mut Cluster,
        fault: Fault,
        dice: &mut Dice,
    ) -> Result<(), HarnessError> {
        let plan = draw::plan(fault, cluster.settings().nodes as usize, dice);
        let until = Instant::now() + plan.length() + RECOVERY_LIMIT;
        let round = Round { plans: vec![(Duration::ZERO, plan)], rest: Some(Duration::ZERO) };
        self.play(cluster, round, until).await?;
        self.end(cluster).await
    }

    async fn play(
        &mut self,
        cluster: &mut Cluster,
        round: Round,
        until: Instant,
    ) -> Result<(), HarnessError> {
        let begun = Instant::now();
        let mut waiting = round.plans.into_iter().peekable();
        loop {
            while let Some((_, plan)) = waiting.next_if(|(after, _)| begun.elapsed() >= *after) {
                self.begin(cluster, plan).await?;
            }
            self.look(cluster).await?;
            let is_played = waiting.peek().is_none() && self.ongoing.iter().all(Ongoing::is_done);
            if is_played || Instant::now() >= until {
                break;
            }
            tokio::time::sleep(LOOK).await;
        }
        match round.rest {
            Some(rest) => {
                let end = until.min(Instant::now() + rest);
                while Instant::now() < end {
                    self.look(cluster).await?;
                    tokio::time::sleep(LOOK).await;
                }
                Ok(())
            }
            None => self.recover(cluster).await,
        }
    }

    async fn begin(&mut self, cluster: &mut Cluster, plan: Plan) -> Result<(), HarnessError> {
        if !Abilities::of(cluster).allow(&plan) {
            *self.skipped.entry(plan.fault).or_default() += 1;
            return Ok(());
        }
        if plan.fault.is_destructive() {
            // Whatever is lost now must be on all the others.
            self.finish(cluster).await?;
        }
        let leader = if plan.leader_first { cluster.leader().await } else { None };
        let members = members_of(cluster);
        self.ongoing.push(Ongoing::begin(plan, &members, leader));
        Ok(())
    }

    /// Does what is due and notes what is over.
    async fn look(&mut self, cluster: &mut Cluster) -> Result<(), HarnessError> {
        for ongoing in &mut self.ongoing {
            ongoing.go_on(cluster, self.safe_revision.as_ref(), false).await?;
        }
        cluster.tick().await?;
        self.note_what_is_over(cluster);
        Ok(())
    }

    fn note_what_is_over(&mut self, cluster: &Cluster) {
        let mishaps = &mut self.mishaps;
        self.ongoing.retain(|ongoing| {
            let is_over = ongoing.is_over(cluster);
            if is_over {
                mishaps.push(ongoing.mishap(cluster));
            }
            !is_over
        });
    }

    /// Does all that is left of what has begun, and waits until the cluster has
    /// recovered from it.
    async fn finish(&mut self, cluster: &mut Cluster) -> Result<(), HarnessError> {
        let end = Instant::now() + RECOVERY_LIMIT;
        while !self.ongoing.is_empty() && Instant::now() < end {
            for ongoing in &mut self.ongoing {
                ongoing.go_on(cluster, self.safe_revision.as_ref(), true).await?;
            }
            cluster.tick().await?;
            self.note_what_is_over(cluster);
            tokio::time::sleep(LOOK).await;
        }
        cluster.settle(RECOVERY_LIMIT).await
    }

    async fn recover(&mut self, cluster: &mut Cluster) -> Result<(), HarnessError> {
        self.finish(cluster).await
    }

    async fn end(&mut self, cluster: &mut Cluster) -> Result<(), HarnessError> {
        self.finish(cluster).await?;
        cluster.recover(RECOVERY_LIMIT).await
    }
}

/// The members: all nodes but those that are still to become members.
fn members_of(cluster: &Cluster) -> Vec<NodeId> {
    cluster.endpoints().borrow().iter().map(|endpoint| endpoint.node).collect()
}

/// Draws what happens next.
pub(super) fn draw_round(faults: &[Fault], nodes: usize, dice: &mut Dice) -> Round {
    let count = match dice.below(100) {
        0..60 => 1,
        60..88 => 2,
        _ => 3,
    };
    let mut plans = Vec::new();
    let mut after = Duration::ZERO;
    for _ in 0..count {
        let fault = *dice.pick(faults);
        let plan = draw::plan(fault, nodes, dice);
        let length = plan.length().as_millis() as usize;
        plans.push((after, plan));
        // The next one begins before this one is over.
        after += dice.millis(0, length.clamp(1, 4_000));
    }
    let rest = match dice.below(100) {
        0..35 => Some(dice.millis(20, 500)),
        35..75 => Some(dice.millis(500, 3_000)),
        _ => None,
    };
    Round { plans, rest }
}

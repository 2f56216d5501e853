//! Draws plans from a seed.
//!
//! What is drawn must depend on the dice and the number of nodes alone, not on what the
//! machine can do or the cluster does.

mod disks;
mod links;
mod members;
mod processes;

use std::time::Duration;

use super::Fault;
use super::plan::{Act, Plan, Step};
use crate::dice::Dice;

/// Draws a plan of a fault for a cluster of so many nodes.
pub(super) fn plan(fault: Fault, nodes: usize, dice: &mut Dice) -> Plan {
    let mut draft = Draft::new(fault, nodes, dice);
    match fault {
        Fault::KillOne | Fault::KillLeader | Fault::KillMajority | Fault::KillAll => {
            processes::kill(&mut draft);
        }
        Fault::PowerLossOne | Fault::PowerLossMajority | Fault::PowerLossAll => {
            processes::lose_power(&mut draft);
        }
        Fault::Pause | Fault::PauseLeader => processes::pause(&mut draft),
        Fault::Restart => processes::restart(&mut draft),
        Fault::ClockJump => processes::clock_jump(&mut draft),
        Fault::PartitionMajority => links::partition(&mut draft),
        Fault::IsolateLeader => links::isolate(&mut draft),
        Fault::OneWay => links::one_way(&mut draft),
        Fault::OneWayLeader => links::one_way_leader(&mut draft),
        Fault::Bridge => links::bridge(&mut draft),
        Fault::Flapping => links::flapping(&mut draft),
        Fault::SlowLink => links::slow(&mut draft),
        Fault::DropConnections => links::drop_connections(&mut draft),
        Fault::Trickle => links::trickle(&mut draft),
        Fault::DiskFull => disks::full(&mut draft),
        Fault::WriteError => disks::write_error(&mut draft),
        Fault::FsyncError => disks::sync_error(&mut draft),
        Fault::SlowDisk => disks::slow(&mut draft),
        Fault::Membership => members::membership(&mut draft),
        Fault::Wipe => members::wipe(&mut draft),
        Fault::BitFlip => members::bit_flip(&mut draft),
        Fault::Transfer => members::transfer(&mut draft),
        Fault::Snapshot => members::snapshot(&mut draft),
        Fault::Compact => members::compact(&mut draft),
    }
    draft.finish()
}

/// A plan that is being drawn.
struct Draft<'d> {
    plan: Plan,
    nodes: usize,
    dice: &'d mut Dice,
}

impl<'d> Draft<'d> {
    fn new(fault: Fault, nodes: usize, dice: &'d mut Dice) -> Self {
        let order = shuffled(nodes, dice);
        let plan = Plan {
            fault,
            order,
            leader_first: false,
            struck: 1,
            count: 1,
            detail: String::new(),
            steps: Vec::new(),
        };
        Self { plan, nodes, dice }
    }

    fn majority(&self) -> usize {
        self.nodes / 2 + 1
    }

    fn at(&mut self, after: Duration, act: Act) {
        self.plan.steps.push(Step { after, act });
    }

    /// Strikes the nodes of the first so many ranks.
    fn strike(&mut self, nodes: usize) {
        self.plan.struck = nodes;
        self.plan.count = nodes as u64;
    }

    fn finish(mut self) -> Plan {
        // Stable: what is planned for the same moment keeps its order.
        self.plan.steps.sort_by_key(|step| step.after);
        self.plan
    }
}

/// The numbers below `count`, in any order.
fn shuffled(count: usize, dice: &mut Dice) -> Vec<usize> {
    let mut order: Vec<_> = (0..count).collect();
    for last in (1..count).rev() {
        order.swap(last, dice.below(last + 1));
    }
    order
}

fn millis(count: u64) -> Duration {
    Duration::from_millis(count)
}

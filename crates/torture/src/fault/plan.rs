//! What a fault will do and when, before it is known to whom.
//!
//! Nodes stand in the plan by their rank in an order that the plan itself draws; who has
//! which rank is settled when it begins, and the leader comes first where the fault is
//! meant for it. So the same seed gives the same plan, whatever the cluster does.

use std::time::Duration;

use super::Fault;
use crate::cluster::{DiskFaults, Effect, Journal};

/// A place in the plan's order of nodes.
pub type Rank = usize;

/// A fault with all its parameters.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// Which fault.
    pub fault: Fault,
    /// The order: places in the list of members, sorted by id.
    pub order: Vec<usize>,
    /// The leader is moved to rank 0.
    pub leader_first: bool,
    /// How many nodes are struck; they have the first ranks.
    pub struck: usize,
    /// How many such things it counts as.
    pub count: u64,
    /// What is done, for people.
    pub detail: String,
    /// What is done, by time. After the last one all is whole again.
    pub steps: Vec<Step>,
}

/// One thing that is done.
#[derive(Debug, Clone, PartialEq)]
pub struct Step {
    /// How long after the beginning of the plan.
    pub after: Duration,
    /// What.
    pub act: Act,
}

/// One end of a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum End {
    /// All clients.
    Clients,
    /// A node.
    Node(Rank),
}

/// Which file is damaged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// A table of the Raft log.
    LogTable,
    /// A write-ahead log of the Raft log.
    LogAhead,
    /// A table of the state.
    StateTable,
}

/// What is done to a node or to links.
#[derive(Debug, Clone, PartialEq)]
pub enum Act {
    /// Kills a node, which stays down.
    Kill(Rank),
    /// Takes its disk's power, and it stays down.
    LosePower(Rank, Journal),
    /// Tells it to stop, and it stays down.
    Terminate(Rank),
    /// Lets it run again after one of these.
    LetRun(Rank),
    /// Makes it stand still.
    Pause(Rank),
    /// Lets it go on.
    Resume(Rank),
    /// Something happens on links from now on.
    Lay {
        /// From whom to whom.
        links: Vec<(End, End)>,
        /// What.
        effect: Effect,
    },
    /// Nothing of what this plan laid on links happens any more.
    LiftAll,
    /// Connections over links break.
    Reset(Vec<(End, End)>),
    /// A disk goes wrong from now on.
    BreakDisk(Rank, DiskFaults),
    /// A disk is filled up but for so many bytes.
    FillDisk(Rank, u64),
    /// Disks that this plan broke or filled are good again.
    MendDisks,
    /// A wall clock jumps by so many seconds.
    ShiftClock(Rank, i64),
    /// Wall clocks that this plan shifted jump back.
    ShiftClocksBack,
    /// A node is asked to make a node the leader.
    Transfer {
        /// Who is asked.
        through: Rank,
        /// Who is to lead.
        to: Rank,
    },
    /// A node is asked to build a snapshot.
    Snapshot(Rank),
    /// A node is asked to compact what nobody needs any more.
    Compact(Rank),
    /// A member begins to be replaced by a new node.
    Replace {
        /// The member.
        rank: Rank,
        /// In one step, or with one voter more in between.
        at_once: bool,
        /// How long it runs on after its removal.
        linger: Duration,
    },
    /// A node ends and its disk is lost.
    Wipe(Rank),
    /// Notes how far a node has applied its log.
    NoteLog(Rank),
    /// Demands of a node that runs though a file of it is damaged that its log still goes
    /// as far as was noted. Nobody must reach it meanwhile, who could send it again what
    /// it forgot.
    CompareLog(Rank),
    /// Bits of a file of a node that is down turn.
    Flip {
        /// The node.
        rank: Rank,
        /// Which kind of file.
        place: Place,
        /// Which file of that kind, and which bits.
        seed: u64,
        /// How many bits.
        bits: usize,
    },
}

impl Plan {
    /// How long it takes, if nothing holds it up.
    pub fn length(&self) -> Duration {
        self.steps.iter().map(|step| step.after).max().unwrap_or_default()
    }
}

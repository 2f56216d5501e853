//! What was done to the cluster, and when.

use serde::{Deserialize, Serialize};

use crate::history::{Nanos, NodeId};

/// One fault, from its beginning to its end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mishap {
    /// Its name in the list of faults, such as `kill-leader`.
    pub fault: String,
    /// Which kind of thing it counts as in the ledger.
    pub kind: Kind,
    /// What exactly was done, for people.
    pub detail: String,
    /// The nodes that it struck.
    pub nodes: Vec<NodeId>,
    /// How many such things it was: killing all three nodes is three kills.
    pub count: u64,
    /// When it began.
    pub begun: Nanos,
    /// When all was whole again; the cluster may still need time to recover.
    pub ended: Nanos,
}

/// Kinds of faults that the ledger counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// `kill -9`.
    Kill,
    /// What was not synced is gone.
    PowerLoss,
    /// Nodes that can't reach each other, both ways, in two groups.
    Partition,
    /// One direction only, or a bridge: one node reaches all, the others don't reach
    /// each other.
    PartialPartition,
    /// Links that are slow, flap, or drop connections.
    BadLink,
    /// A process that stands still.
    Pause,
    /// A full, failing or slow disk.
    Disk,
    /// A jump of the wall clock.
    Clock,
    /// A change of the members.
    Membership,
    /// A damaged file.
    BitFlip,
    /// A clean stop and start.
    Restart,
    /// Leadership that is handed over.
    Transfer,
    /// A snapshot or compaction that is forced.
    Maintenance,
}

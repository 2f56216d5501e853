//! What is done to the cluster: all faults, drawn from a seed and carried out.
//!
//! A fault is first drawn as a plan ([`plan`]), which depends on the seed and the number
//! of nodes alone, and then carried out step by step. Nothing here judges what clients
//! were told.

mod act;
mod draw;
mod flip;
mod nemesis;
pub mod plan;
#[cfg(test)]
mod tests;

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

pub use self::nemesis::{Abilities, Nemesis, SafeRevision};
use crate::timeline::Kind;

/// All faults.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fault {
    /// A node is killed and started again.
    KillOne,
    /// The leader is.
    KillLeader,
    /// A majority is, at about the same time.
    KillMajority,
    /// All nodes are.
    KillAll,
    /// A node loses power.
    PowerLossOne,
    /// A majority does, at about the same time.
    PowerLossMajority,
    /// All nodes do.
    PowerLossAll,
    /// A node stands still for longer than an election takes.
    Pause,
    /// The leader does.
    PauseLeader,
    /// A minority, often with the leader, and a majority don't reach each other.
    PartitionMajority,
    /// The leader reaches nobody and nobody reaches it.
    IsolateLeader,
    /// One node does not reach another one, which reaches it.
    OneWay,
    /// The leader sends and does not hear, or the reverse.
    OneWayLeader,
    /// Two groups don't reach each other, and one node in the middle reaches all.
    Bridge,
    /// Links come and go.
    Flapping,
    /// Links are slow.
    SlowLink,
    /// Connections break.
    DropConnections,
    /// Links let a few bytes pass in a second.
    Trickle,
    /// A disk is full.
    DiskFull,
    /// Writes to a disk fail.
    WriteError,
    /// Syncs of a disk fail.
    FsyncError,
    /// A disk is slow.
    SlowDisk,
    /// The wall clock jumps.
    ClockJump,
    /// A member is replaced by a new one.
    Membership,
    /// A disk is lost and its node replaced by a new one.
    Wipe,
    /// Leadership is handed over.
    Transfer,
    /// A snapshot is built.
    Snapshot,
    /// History is compacted.
    Compact,
    /// All nodes are stopped and started, one after the other.
    Restart,
    /// Bits of a file turn.
    BitFlip,
}

impl Fault {
    /// All of them.
    pub const ALL: [Self; 30] = [
        Self::KillOne,
        Self::KillLeader,
        Self::KillMajority,
        Self::KillAll,
        Self::PowerLossOne,
        Self::PowerLossMajority,
        Self::PowerLossAll,
        Self::Pause,
        Self::PauseLeader,
        Self::PartitionMajority,
        Self::IsolateLeader,
        Self::OneWay,
        Self::OneWayLeader,
        Self::Bridge,
        Self::Flapping,
        Self::SlowLink,
        Self::DropConnections,
        Self::Trickle,
        Self::DiskFull,
        Self::WriteError,
        Self::FsyncError,
        Self::SlowDisk,
        Self::ClockJump,
        Self::Membership,
        Self::Wipe,
        Self::Transfer,
        Self::Snapshot,
        Self::Compact,
        Self::Restart,
        Self::BitFlip,
    ];

    /// Its name, as lists of faults have it.
    pub fn name(self) -> &'static str {
        match self {
            Self::KillOne => "kill-one",
            Self::KillLeader => "kill-leader",
            Self::KillMajority => "kill-majority",
            Self::KillAll => "kill-all",
            Self::PowerLossOne => "power-loss-one",
            Self::PowerLossMajority => "power-loss-majority",
            Self::PowerLossAll => "power-loss-all",
            Self::Pause => "pause",
            Self::PauseLeader => "pause-leader",
            Self::PartitionMajority => "partition-majority",
            Self::IsolateLeader => "isolate-leader",
            Self::OneWay => "one-way",
            Self::OneWayLeader => "one-way-leader",
            Self::Bridge => "bridge",
            Self::Flapping => "flapping",
            Self::SlowLink => "slow-link",
            Self::DropConnections => "drop-connections",
            Self::Trickle => "trickle",
            Self::DiskFull => "disk-full",
            Self::WriteError => "write-error",
            Self::FsyncError => "fsync-error",
            Self::SlowDisk => "slow-disk",
            Self::ClockJump => "clock-jump",
            Self::Membership => "membership",
            Self::Wipe => "wipe",
            Self::Transfer => "transfer",
            Self::Snapshot => "snapshot",
            Self::Compact => "compact",
            Self::Restart => "restart",
            Self::BitFlip => "bit-flip",
        }
    }

    /// Which kind of thing it counts as.
    pub fn kind(self) -> Kind {
        match self {
            Self::KillOne | Self::KillLeader | Self::KillMajority | Self::KillAll => Kind::Kill,
            Self::PowerLossOne | Self::PowerLossMajority | Self::PowerLossAll => Kind::PowerLoss,
            Self::Pause | Self::PauseLeader => Kind::Pause,
            Self::PartitionMajority | Self::IsolateLeader => Kind::Partition,
            Self::OneWay | Self::OneWayLeader | Self::Bridge => Kind::PartialPartition,
            Self::Flapping | Self::SlowLink | Self::DropConnections | Self::Trickle => Kind::BadLink,
            Self::DiskFull | Self::WriteError | Self::FsyncError | Self::SlowDisk => Kind::Disk,
            Self::ClockJump => Kind::Clock,
            Self::Membership | Self::Wipe => Kind::Membership,
            Self::Transfer => Kind::Transfer,
            Self::Snapshot | Self::Compact => Kind::Maintenance,
            Self::Restart => Kind::Restart,
            Self::BitFlip => Kind::BitFlip,
        }
    }

    /// Whether it destroys data of a node for good: there must be no second such node
    /// before the first one is replaced.
    pub fn is_destructive(self) -> bool {
        matches!(self, Self::Wipe | Self::BitFlip)
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A name that no fault has.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("there is no fault {name:?}; there are {}", Fault::ALL.map(Fault::name).join(", "))]
pub struct UnknownFault {
    /// The name.
    pub name: String,
}

impl FromStr for Fault {
    type Err = UnknownFault;

    fn from_str(name: &str) -> Result<Self, UnknownFault> {
        let found = Self::ALL.into_iter().find(|fault| fault.name() == name);
        found.ok_or_else(|| UnknownFault { name: name.to_owned() })
    }
}

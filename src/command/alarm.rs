//! Alarms: what an operator declares to be wrong with a member, until it is
//! disarmed. What they forbid is said where commands are applied.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::codec::DecodeError;

/// What is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AlarmKind {
    /// There is no room for more.
    NoSpace,
    /// The data may be damaged.
    Corrupt,
}

impl AlarmKind {
    /// The number by which it is stored and sent.
    pub(crate) fn tag(self) -> u8 {
        match self {
            Self::NoSpace => 1,
            Self::Corrupt => 2,
        }
    }

    /// Reads what [`Self::tag`] wrote.
    pub(crate) fn from_tag(tag: u8) -> Result<Self, DecodeError> {
        match tag {
            1 => Ok(Self::NoSpace),
            2 => Ok(Self::Corrupt),
            tag => Err(DecodeError::UnknownTag { field: "alarm kind", tag }),
        }
    }
}

impl fmt::Display for AlarmKind {
    /// The name that operators know from etcd.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoSpace => "NOSPACE",
            Self::Corrupt => "CORRUPT",
        })
    }
}

/// An alarm of one member. They sort by kind, and then by member.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Alarm {
    /// What is wrong.
    pub kind: AlarmKind,
    /// With whom. Any number; zero, which no member has, is one of its own.
    pub member: u64,
}

impl fmt::Display for Alarm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} on member {}", self.kind, self.member)
    }
}

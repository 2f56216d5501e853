//! Client calls that one node carries to the leader for another.
//!
//! One hop: the receiver carries the call out if it leads and says so if it does
//! not; it never forwards again. Writes travel as the proposals that go into the
//! log, many in one request. Management calls are rare and travel as JSON.

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::{BufMut, Bytes};
use serde::{Deserialize, Serialize};

use super::wire::WIRE_VERSION;
use crate::NodeId;
use crate::codec::{DecodeError, Reader, put_bytes, put_option};
use crate::command::{Outcome, OutcomeResult, Proposal};
use crate::error::Error;
use crate::inflight::{AnswerBytes, UNCOUNTED_ANSWER_BYTES};

/// `Content-Type` of forwarded writes and read-index requests.
pub const FORWARD: &str = "application/vnd.kvorum.forward";

/// What is asked of the leader on the hot path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ForwardRequest {
    /// Propose these, in this order.
    Write(Vec<Proposal>),
    /// Confirm that you lead and tell the index that a read must wait for.
    ReadIndex,
}

/// Why the leader did not carry a forwarded call out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ForwardError {
    /// Certainly not carried out: the receiver does not lead.
    #[error("the node that was asked does not lead")]
    NotLeader {
        /// Whom it knows as leader, with the peer address.
        leader: Option<(NodeId, String)>,
    },
    /// Certainly not carried out: no majority, or too busy.
    #[error("{0}")]
    Unavailable(String),
    /// It may still be carried out.
    #[error("{0}")]
    Unknown(String),
}

/// The leader's answer to a [`ForwardRequest`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ForwardResponse {
    /// What became of the proposals.
    Write {
        /// One result for each proposal, in order.
        results: Vec<Result<Outcome, ForwardError>>,
        /// The log index up to which the leader has applied, all these included.
        applied_index: u64,
    },
    /// The log index that a linearizable read must have applied.
    ReadIndex(Result<u64, ForwardError>),
}

impl ForwardRequest {
    /// The binary form.
    pub fn encode(&self) -> Bytes {
        let mut out = vec![WIRE_VERSION];
        match self {
            Self::Write(proposals) => {
                out.push(1);
                out.put_u32_le(count(proposals.len()));
                for proposal in proposals {
                    put_bytes(&mut out, proposal.as_bytes());
                }
            }
            Self::ReadIndex => out.push(2),
        }
        out.into()
    }

    /// Reads what [`Self::encode`] wrote.
    pub fn decode(input: Bytes) -> Result<Self, DecodeError> {
        let mut r = Reader::new(input);
        r.version("forwarded request", WIRE_VERSION)?;
        let request = match r.u8("forwarded request")? {
            1 => {
                let count = r.u32("proposal count")? as usize;
                let mut proposals = Vec::with_capacity(count.min(r.remaining()));
                for _ in 0..count {
                    proposals.push(Proposal::from_bytes(r.bytes("proposal")?));
                }
                Self::Write(proposals)
            }
            2 => Self::ReadIndex,
            tag => return Err(DecodeError::UnknownTag { field: "forwarded request", tag }),
        };
        r.finish()?;
        Ok(request)
    }
}

impl ForwardResponse {
    /// The binary form.
    pub fn encode(&self) -> Bytes {
        let mut out = vec![WIRE_VERSION];
        match self {
            Self::Write { results, applied_index } => {
                out.push(1);
                out.put_u32_le(count(results.len()));
                for result in results {
                    put_result(&mut out, result, |out, outcome| put_bytes(out, &outcome.encode()));
                }
                out.put_u64_le(*applied_index);
            }
            Self::ReadIndex(result) => {
                out.push(2);
                put_result(&mut out, result, |out, index| out.put_u64_le(*index));
            }
        }
        out.into()
    }

    /// What the answers in it count on this node.
    pub fn counted(&self) -> Vec<AnswerBytes> {
        let Self::Write { results, .. } = self else { return Vec::new() };
        let of_result = |result: &Result<Outcome, ForwardError>| match result {
            Ok(Outcome { result: OutcomeResult::Txn(done), .. }) if done.counted.count() > 0 => {
                Some(done.counted.clone())
            }
            Ok(_) | Err(_) => None,
        };
        results.iter().filter_map(of_result).collect()
    }

    /// Reads what [`Self::encode`] wrote.
    pub fn decode(input: Bytes) -> Result<Self, DecodeError> {
        // What is kept of a large answer must not keep all of it.
        let apart = input.len() > UNCOUNTED_ANSWER_BYTES;
        let own = |bytes: Bytes| if apart { Bytes::copy_from_slice(&bytes) } else { bytes };
        let mut r = Reader::new(input);
        r.version("forwarded answer", WIRE_VERSION)?;
        let response = match r.u8("forwarded answer")? {
            1 => {
                let count = r.u32("result count")? as usize;
                let mut results = Vec::with_capacity(count.min(r.remaining()));
                for _ in 0..count {
                    results.push(read_result(&mut r, |r| Outcome::decode(own(r.bytes("outcome")?)))?);
                }
                Self::Write { results, applied_index: r.u64("applied index")? }
            }
            2 => Self::ReadIndex(read_result(&mut r, |r| r.u64("read index"))?),
            tag => return Err(DecodeError::UnknownTag { field: "forwarded answer", tag }),
        };
        r.finish()?;
        Ok(response)
    }
}

fn count(len: usize) -> u32 {
    u32::try_from(len).expect("a forwarded batch is bounded")
}

fn put_result<T>(out: &mut Vec<u8>, result: &Result<T, ForwardError>, write: impl FnOnce(&mut Vec<u8>, &T)) {
    match result {
        Ok(value) => {
            out.push(0);
            write(out, value);
        }
        Err(ForwardError::NotLeader { leader }) => {
            out.push(1);
            put_option(out, leader.as_ref(), |out, (id, addr)| {
                out.put_u64_le(*id);
                put_bytes(out, addr.as_bytes());
            });
        }
        Err(ForwardError::Unavailable(reason)) => {
            out.push(2);
            put_bytes(out, reason.as_bytes());
        }
        Err(ForwardError::Unknown(reason)) => {
            out.push(3);
            put_bytes(out, reason.as_bytes());
        }
    }
}

fn read_result<T>(
    r: &mut Reader,
    read: impl FnOnce(&mut Reader) -> Result<T, DecodeError>,
) -> Result<Result<T, ForwardError>, DecodeError> {
    match r.u8("result")? {
        0 => Ok(Ok(read(r)?)),
        1 => {
            let leader = r.option("leader", |r| Ok((r.u64("leader id")?, r.string("leader address")?)))?;
            Ok(Err(ForwardError::NotLeader { leader }))
        }
        2 => Ok(Err(ForwardError::Unavailable(r.string("reason")?))),
        3 => Ok(Err(ForwardError::Unknown(r.string("reason")?))),
        tag => Err(DecodeError::UnknownTag { field: "result", tag }),
    }
}

/// A management call for the leader.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ManageRequest {
    /// Add a learner and wait until it has caught up.
    AddLearner {
        /// The new node.
        id: NodeId,
        /// Its peer address.
        addr: String,
    },
    /// Make exactly these the voters.
    ChangeMembership {
        /// The new voters.
        voters: BTreeSet<NodeId>,
        /// Whether to go on without a reachable majority of them.
        force: bool,
    },
    /// Make a learner a voter.
    Promote {
        /// The learner.
        id: NodeId,
    },
    /// Remove a voter or learner.
    RemoveMember {
        /// The member.
        id: NodeId,
        /// Whether to go on without a reachable majority of the rest.
        force: bool,
    },
    /// Hand leadership over.
    TransferLeader {
        /// To whom; the most up-to-date voter when absent.
        to: Option<NodeId>,
    },
    /// Tell how far each member's log matches.
    Replication,
}

/// The leader's answer to a [`ManageRequest`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ManageResponse {
    /// Carried out.
    Done,
    /// Leadership was handed over to this node.
    Leader(NodeId),
    /// How far the members' logs match the leader's.
    Replication {
        /// The leader's last log index.
        last_log_index: Option<u64>,
        /// Matching index by member; absent for those that never answered.
        matched: Vec<(NodeId, Option<u64>)>,
    },
    /// Not carried out, or not in time.
    Failed(ManageError),
}

/// An [`Error`] of a management call, as it travels.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ManageError {
    /// See [`Error::Invalid`].
    Invalid(String),
    /// See [`Error::NotFound`].
    NotFound(String),
    /// See [`Error::Conflict`].
    Conflict {
        /// The stable code.
        code: String,
        /// What to do.
        message: String,
    },
    /// See [`Error::NotLeader`].
    NotLeader {
        /// The node that answers.
        node: NodeId,
        /// Whom it knows as leader.
        leader: Option<(NodeId, String)>,
    },
    /// See [`Error::Unavailable`].
    Unavailable(String),
    /// See [`Error::StillRunning`].
    StillRunning(String),
    /// See [`Error::CatchUp`].
    CatchUp {
        /// What to do.
        message: String,
        /// The learner's matching log index.
        matched_index: Option<u64>,
        /// The leader's last log index.
        last_log_index: Option<u64>,
    },
    /// See [`Error::Unknown`].
    Unknown(String),
    /// Anything else, with the node that met it.
    Internal {
        /// The node.
        node: NodeId,
        /// What failed.
        reason: String,
    },
}

/// The codes that an [`Error::Conflict`] may carry, so that one that travelled
/// keeps its place in the documented list.
const CONFLICT_CODES: [&str; 7] = [
    "already_initialized",
    "membership_change_in_progress",
    "unreachable_majority",
    "unreachable_successor",
    "node_id_in_use",
    "wrong_node",
    "not_a_voter",
];

impl ManageError {
    /// The travelling form of `error`, met at `node`.
    pub fn from_error(node: NodeId, error: Error) -> Self {
        match error {
            Error::Invalid(message) => Self::Invalid(message),
            Error::NotFound(message) => Self::NotFound(message),
            Error::Conflict { code, message } => Self::Conflict { code: code.to_owned(), message },
            Error::NotLeader { node, leader } => Self::NotLeader { node, leader },
            Error::Unavailable { reason, .. } => Self::Unavailable(reason),
            Error::StillRunning(message) => Self::StillRunning(message),
            Error::CatchUp { message, matched_index, last_log_index } => {
                Self::CatchUp { message, matched_index, last_log_index }
            }
            Error::Unknown { reason } => Self::Unknown(reason),
            other @ (Error::TooLarge { .. }
            | Error::Unauthorized(_)
            | Error::ConditionFailed { .. }
            | Error::IdempotencyMismatch
            | Error::LeaseNotFound { .. }
            | Error::LeaseExists { .. }
            | Error::LeaseTtlTooLarge { .. }
            | Error::KeyNotFound
            | Error::DuplicateKey
            | Error::TooManyOperations { .. }
            | Error::DeletionTooLarge { .. }
            | Error::AnswerTooLarge { .. }
            | Error::AnswerLost { .. }
            | Error::NoSpace { .. }
            | Error::Corrupt { .. }
            | Error::Compacted { .. }
            | Error::FutureRevision { .. }
            | Error::Overloaded { .. }
            | Error::ReadTimeout(_)
            | Error::Internal { .. }) => Self::Internal { node, reason: other.to_string() },
        }
    }

    /// The error as the caller sees it.
    pub fn into_error(self) -> Error {
        match self {
            Self::Invalid(message) => Error::Invalid(message),
            Self::NotFound(message) => Error::NotFound(message),
            Self::Conflict { code, message } => {
                let code = CONFLICT_CODES.into_iter().find(|known| *known == code).unwrap_or("conflict");
                Error::Conflict { code, message }
            }
            Self::NotLeader { node, leader } => Error::NotLeader { node, leader },
            Self::Unavailable(reason) => Error::Unavailable { reason, retry_after: Duration::from_secs(1) },
            Self::StillRunning(message) => Error::StillRunning(message),
            Self::CatchUp { message, matched_index, last_log_index } => {
                Error::CatchUp { message, matched_index, last_log_index }
            }
            Self::Unknown(reason) => Error::Unknown { reason },
            Self::Internal { node, reason } => Error::Internal { node, reason },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::Command;
    use proptest::prelude::*;

    fn errors() -> impl Strategy<Value = ForwardError> {
        prop_oneof![
            proptest::option::of((any::<u64>(), ".{0,20}"))
                .prop_map(|leader| ForwardError::NotLeader { leader }),
            ".{0,20}".prop_map(ForwardError::Unavailable),
            ".{0,20}".prop_map(ForwardError::Unknown),
        ]
    }

    proptest! {
        #[test]
        fn requests_round_trip(keys in proptest::collection::vec("[a-z]{1,9}", 0..9)) {
            let request = ForwardRequest::Write(keys.into_iter().map(|key| Command::delete(key).encode()).collect());
            prop_assert_eq!(ForwardRequest::decode(request.encode()), Ok(request));
            prop_assert_eq!(ForwardRequest::decode(ForwardRequest::ReadIndex.encode()), Ok(ForwardRequest::ReadIndex));
        }

        #[test]
        fn responses_round_trip(results in proptest::collection::vec(proptest::result::maybe_err(any::<i64>(), errors()), 0..9), applied_index: u64, index in proptest::result::maybe_err(any::<u64>(), errors())) {
            let results = results
                .into_iter()
                .map(|result| result.map(|revision| Outcome { revision, result: OutcomeResult::Nothing }))
                .collect();
            let response = ForwardResponse::Write { results, applied_index };
            prop_assert_eq!(ForwardResponse::decode(response.encode()), Ok(response));
            let response = ForwardResponse::ReadIndex(index);
            prop_assert_eq!(ForwardResponse::decode(response.encode()), Ok(response));
        }

        #[test]
        fn any_bytes_decode_or_are_refused(input in any::<Vec<u8>>()) {
            let _ = ForwardRequest::decode(input.clone().into());
            let _ = ForwardResponse::decode(input.into());
        }
    }
}

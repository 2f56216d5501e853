//! What applying a log entry answered, and its stored and sent form.

use std::fmt;
use std::sync::Arc;

use bytes::{BufMut, Bytes};
use serde::{Deserialize, Serialize};

use super::txn::{MAX_TXN_DEPTH, put_list, read_list};
use crate::codec::{DecodeError, Reader, put_bytes, put_option};
use crate::inflight::{AnswerBytes, InflightBytes};
use crate::keyspace::{KeyValue, RangeResult, Record};

const OUTCOME_VERSION: u8 = 1;

/// Why the state machine refused a command. Deterministic: every replica refuses
/// the same command for the same reason.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "snake_case")]
pub enum Rejection {
    /// The condition did not hold.
    #[error("the condition does not hold: the key's modification revision is {mod_revision}")]
    ConditionFailed {
        /// The key's modification revision when the command was applied; zero if absent.
        mod_revision: i64,
    },
    /// The idempotency token was used by a different write.
    #[error("the idempotency key was used for a different write")]
    IdempotencyMismatch,
    /// The command does not decode on this release.
    #[error("the command cannot be decoded: {0}")]
    Undecodable(String),
    /// A lease that is named does not exist, or has ended.
    #[error("lease {id} does not exist")]
    LeaseNotFound {
        /// The lease.
        id: i64,
    },
    /// The lease to be granted exists already.
    #[error("lease {id} exists already")]
    LeaseExists {
        /// The lease.
        id: i64,
    },
    /// A put that keeps a key's value or lease met no key.
    #[error("the key whose value or lease should be kept does not exist")]
    KeyNotFound,
    /// The revision that is named was compacted.
    #[error("revision {requested} has been compacted; the oldest that can be read is {oldest}")]
    Compacted {
        /// The revision asked for.
        requested: i64,
        /// The oldest readable revision.
        oldest: i64,
    },
    /// The revision that is named is not written yet.
    #[error("revision {requested} is in the future; the current one is {current}")]
    FutureRevision {
        /// The revision asked for.
        requested: i64,
        /// The store's revision.
        current: i64,
    },
    /// The command was carried out, now or when its idempotency token was new, but
    /// its answer was too large to be kept.
    #[error("the write was carried out at revision {revision}; its answer was too large to be kept")]
    AnswerForgotten {
        /// The store's revision after it.
        revision: i64,
    },
    /// An alarm says that there is no room for more.
    #[error("the NOSPACE alarm is raised on member {member}")]
    NoSpace {
        /// The first member that it is raised on.
        member: u64,
    },
    /// An alarm says that the data may be damaged.
    #[error("the CORRUPT alarm is raised on member {member}")]
    Corrupt {
        /// The first member that it is raised on.
        member: u64,
    },
    /// The command would remove more than one may.
    #[error("it would remove more than {max_keys} keys, or {max_bytes} bytes of keys and values")]
    DeletionTooLarge {
        /// The most keys.
        max_keys: u64,
        /// The most bytes of keys and values.
        max_bytes: u64,
    },
}

/// What applying a log entry answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// The store's revision after the entry.
    pub revision: i64,
    /// What happened.
    pub result: OutcomeResult,
}

impl Outcome {
    /// The outcome as it is answered: without a long answer, if that does not fit among
    /// what is in `inflight`. Those who ask for long answers must not use up the memory of
    /// the node, and what is applied can't be refused any more.
    #[must_use]
    pub fn counted_in(self, inflight: &Arc<InflightBytes>) -> Self {
        let Self { revision, result: OutcomeResult::Txn(done) } = self else { return self };
        let result = match inflight.hold_answer(done.item_bytes(size_of::<KeyValue>())) {
            Some(counted) => OutcomeResult::Txn(TxnOutcome { counted, ..done }),
            None => OutcomeResult::Rejected(Rejection::AnswerForgotten { revision }),
        };
        Self { revision, result }
    }
}

/// The result part of an [`Outcome`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OutcomeResult {
    /// Nothing to tell: a new leader's blank entry, a membership, or a command
    /// that has no answer.
    Nothing,
    /// The key was set.
    Put {
        /// Whether the key was absent before.
        created: bool,
        /// How many times the key was set since it was created.
        version: i64,
    },
    /// The deletion was carried out.
    Deleted {
        /// How many keys were removed: none or one.
        count: u64,
    },
    /// The command was refused and changed nothing, unless the reason says that it
    /// was carried out.
    Rejected(Rejection),
    /// The transaction was carried out.
    Txn(TxnOutcome),
    /// What was asked to be compacted is no longer readable.
    Compacted,
    /// The lease was granted.
    LeaseGranted {
        /// The lease.
        id: i64,
        /// Its time to live in seconds, which may be more than was asked for.
        ttl: i64,
    },
    /// The lease has ended.
    LeaseRevoked {
        /// Whether keys of it are still to be removed, by revoking it again.
        more: bool,
    },
    /// The leases were renewed.
    LeasesRenewed {
        /// For each lease in the order asked, its time to live in seconds; zero if
        /// there is no such lease.
        ttls: Vec<i64>,
    },
    /// The alarm is raised or disarmed, as was asked.
    Alarm {
        /// Whether it was raised before.
        was_raised: bool,
    },
}

/// What a transaction did.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TxnOutcome {
    /// Whether all compares held.
    pub succeeded: bool,
    /// One answer for each operation of the branch that was taken. Empty on
    /// replicas that nobody waits for.
    pub responses: Vec<OpOutcome>,
    /// What it counts among all that is in flight.
    #[serde(skip)]
    pub counted: AnswerBytes,
}

impl TxnOutcome {
    /// The bytes of all keys and values of it, and `per_item` for each key besides.
    pub fn item_bytes(&self, per_item: usize) -> usize {
        let sum = |items: &[KeyValue]| -> usize {
            items.iter().map(|item| per_item + item.key.len() + item.record.value.len()).sum()
        };
        let of_response = |response: &OpOutcome| match response {
            OpOutcome::Put { revision: _, previous } => sum(previous.as_slice()),
            OpOutcome::Deleted { revision: _, count: _, previous } => sum(previous),
            OpOutcome::Range { revision: _, found } => sum(&found.items),
            OpOutcome::Txn(nested) => nested.item_bytes(per_item),
        };
        self.responses.iter().map(of_response).sum()
    }
}

/// What one operation of a transaction did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OpOutcome {
    /// A key was set.
    Put {
        /// The transaction's revision.
        revision: i64,
        /// What the key held, if it was asked for and there was something.
        previous: Option<KeyValue>,
    },
    /// A range was removed.
    Deleted {
        /// The revision after the operation: the transaction's if anything was
        /// changed up to here, else the one before it.
        revision: i64,
        /// How many keys were removed.
        count: u64,
        /// What they held, if it was asked for.
        previous: Vec<KeyValue>,
    },
    /// A range was read.
    Range {
        /// The revision as of the operation.
        revision: i64,
        /// What was found.
        found: RangeResult,
    },
    /// A nested transaction was carried out.
    Txn(TxnOutcome),
}

impl Outcome {
    /// The bytes that are stored for idempotency and sent to a forwarding node.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(32);
        out.push(OUTCOME_VERSION);
        out.put_i64_le(self.revision);
        match &self.result {
            OutcomeResult::Nothing => out.push(0),
            OutcomeResult::Put { created, version } => {
                out.push(1);
                out.push(u8::from(*created));
                out.put_i64_le(*version);
            }
            OutcomeResult::Deleted { count } => {
                out.push(2);
                out.put_u64_le(*count);
            }
            OutcomeResult::Rejected(rejection) => put_rejection(&mut out, rejection),
            OutcomeResult::Txn(txn) => {
                out.push(6);
                put_txn(&mut out, txn);
            }
            OutcomeResult::Compacted => out.push(7),
            OutcomeResult::LeaseGranted { id, ttl } => {
                out.push(8);
                out.put_i64_le(*id);
                out.put_i64_le(*ttl);
            }
            OutcomeResult::LeaseRevoked { more } => {
                out.push(9);
                out.push(u8::from(*more));
            }
            OutcomeResult::LeasesRenewed { ttls } => {
                out.push(10);
                put_list(&mut out, ttls, |out, ttl| out.put_i64_le(*ttl));
            }
            OutcomeResult::Alarm { was_raised } => {
                out.push(17);
                out.push(u8::from(*was_raised));
            }
        }
        out
    }

    /// Reads what [`Self::encode`] wrote.
    pub fn decode(bytes: Bytes) -> Result<Self, DecodeError> {
        let mut r = Reader::new(bytes);
        r.version("outcome", OUTCOME_VERSION)?;
        let revision = r.i64("revision")?;
        let result = match r.u8("outcome")? {
            0 => OutcomeResult::Nothing,
            1 => OutcomeResult::Put { created: r.bool("created")?, version: r.i64("version")? },
            2 => OutcomeResult::Deleted { count: r.u64("count")? },
            6 => OutcomeResult::Txn(read_txn(&mut r, MAX_TXN_DEPTH)?),
            7 => OutcomeResult::Compacted,
            8 => OutcomeResult::LeaseGranted { id: r.i64("lease")?, ttl: r.i64("time to live")? },
            9 => OutcomeResult::LeaseRevoked { more: r.bool("more keys")? },
            10 => OutcomeResult::LeasesRenewed {
                ttls: read_list(&mut r, "times to live", |r| r.i64("time to live"))?,
            },
            17 => OutcomeResult::Alarm { was_raised: r.bool("was raised")? },
            tag => OutcomeResult::Rejected(read_rejection(&mut r, tag)?),
        };
        r.finish()?;
        Ok(Self { revision, result })
    }
}

fn put_rejection(out: &mut Vec<u8>, rejection: &Rejection) {
    match rejection {
        Rejection::ConditionFailed { mod_revision } => {
            out.push(3);
            out.put_i64_le(*mod_revision);
        }
        Rejection::IdempotencyMismatch => out.push(4),
        Rejection::Undecodable(why) => {
            out.push(5);
            put_bytes(out, why.as_bytes());
        }
        Rejection::LeaseNotFound { id } => {
            out.push(11);
            out.put_i64_le(*id);
        }
        Rejection::LeaseExists { id } => {
            out.push(12);
            out.put_i64_le(*id);
        }
        Rejection::KeyNotFound => out.push(13),
        Rejection::Compacted { requested, oldest } => {
            out.push(14);
            out.put_i64_le(*requested);
            out.put_i64_le(*oldest);
        }
        Rejection::FutureRevision { requested, current } => {
            out.push(15);
            out.put_i64_le(*requested);
            out.put_i64_le(*current);
        }
        Rejection::AnswerForgotten { revision } => {
            out.push(16);
            out.put_i64_le(*revision);
        }
        Rejection::NoSpace { member } => {
            out.push(18);
            out.put_u64_le(*member);
        }
        Rejection::Corrupt { member } => {
            out.push(19);
            out.put_u64_le(*member);
        }
        Rejection::DeletionTooLarge { max_keys, max_bytes } => {
            out.push(20);
            out.put_u64_le(*max_keys);
            out.put_u64_le(*max_bytes);
        }
    }
}

fn read_rejection(r: &mut Reader, tag: u8) -> Result<Rejection, DecodeError> {
    Ok(match tag {
        3 => Rejection::ConditionFailed { mod_revision: r.i64("revision")? },
        4 => Rejection::IdempotencyMismatch,
        5 => Rejection::Undecodable(r.string("reason")?),
        11 => Rejection::LeaseNotFound { id: r.i64("lease")? },
        12 => Rejection::LeaseExists { id: r.i64("lease")? },
        13 => Rejection::KeyNotFound,
        14 => Rejection::Compacted { requested: r.i64("revision")?, oldest: r.i64("oldest revision")? },
        15 => Rejection::FutureRevision { requested: r.i64("revision")?, current: r.i64("revision")? },
        16 => Rejection::AnswerForgotten { revision: r.i64("revision")? },
        18 => Rejection::NoSpace { member: r.u64("member")? },
        19 => Rejection::Corrupt { member: r.u64("member")? },
        20 => Rejection::DeletionTooLarge { max_keys: r.u64("most keys")?, max_bytes: r.u64("most bytes")? },
        tag => return Err(DecodeError::UnknownTag { field: "outcome", tag }),
    })
}

fn put_txn(out: &mut Vec<u8>, txn: &TxnOutcome) {
    out.push(u8::from(txn.succeeded));
    put_list(out, &txn.responses, |out, response| match response {
        OpOutcome::Put { revision, previous } => {
            out.push(1);
            out.put_i64_le(*revision);
            put_option(out, previous.as_ref(), put_key_value);
        }
        OpOutcome::Deleted { revision, count, previous } => {
            out.push(2);
            out.put_i64_le(*revision);
            out.put_u64_le(*count);
            put_list(out, previous, put_key_value);
        }
        OpOutcome::Range { revision, found } => {
            out.push(3);
            out.put_i64_le(*revision);
            put_list(out, &found.items, put_key_value);
            out.push(u8::from(found.more));
            out.put_u64_le(found.count);
            out.push(u8::from(found.truncated));
        }
        OpOutcome::Txn(txn) => {
            out.push(4);
            put_txn(out, txn);
        }
    });
}

fn read_txn(r: &mut Reader, depth: usize) -> Result<TxnOutcome, DecodeError> {
    let Some(depth) = depth.checked_sub(1) else {
        return Err(DecodeError::TooDeep { field: "nested answer", limit: MAX_TXN_DEPTH });
    };
    let succeeded = r.bool("succeeded")?;
    let responses = read_list(r, "answers", |r| match r.u8("answer")? {
        1 => Ok(OpOutcome::Put {
            revision: r.i64("revision")?,
            previous: r.option("previous", read_key_value)?,
        }),
        2 => Ok(OpOutcome::Deleted {
            revision: r.i64("revision")?,
            count: r.u64("count")?,
            previous: read_list(r, "previous", read_key_value)?,
        }),
        3 => Ok(OpOutcome::Range {
            revision: r.i64("revision")?,
            found: RangeResult {
                items: read_list(r, "items", read_key_value)?,
                more: r.bool("more")?,
                count: r.u64("count")?,
                truncated: r.bool("truncated")?,
                counted: AnswerBytes::default(),
            },
        }),
        4 => Ok(OpOutcome::Txn(read_txn(r, depth)?)),
        tag => Err(DecodeError::UnknownTag { field: "answer", tag }),
    })?;
    Ok(TxnOutcome { succeeded, responses, counted: AnswerBytes::default() })
}

fn put_key_value(out: &mut Vec<u8>, item: &KeyValue) {
    put_bytes(out, &item.key);
    let Record { value, create_revision, mod_revision, version, lease } = &item.record;
    for number in [create_revision, mod_revision, version, lease] {
        out.put_i64_le(*number);
    }
    put_bytes(out, value);
}

fn read_key_value(r: &mut Reader) -> Result<KeyValue, DecodeError> {
    let key = r.bytes("key")?;
    let create_revision = r.i64("create revision")?;
    let mod_revision = r.i64("mod revision")?;
    let version = r.i64("version")?;
    let lease = r.i64("lease")?;
    let value = r.bytes("value")?;
    Ok(KeyValue { key, record: Record { value, create_revision, mod_revision, version, lease } })
}

impl fmt::Display for Outcome {
    /// Leaves keys and values out: they are the user's and stay out of logs.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match &self.result {
            OutcomeResult::Nothing => "nothing",
            OutcomeResult::Put { .. } => "put",
            OutcomeResult::Deleted { .. } => "deleted",
            OutcomeResult::Rejected(rejection) => {
                return write!(f, "{rejection} at revision {}", self.revision);
            }
            OutcomeResult::Txn(_) => "transaction done",
            OutcomeResult::Compacted => "compacted",
            OutcomeResult::LeaseGranted { .. } => "lease granted",
            OutcomeResult::LeaseRevoked { .. } => "lease revoked",
            OutcomeResult::LeasesRenewed { .. } => "leases renewed",
            OutcomeResult::Alarm { .. } => "alarm set",
        };
        write!(f, "{what} at revision {}", self.revision)
    }
}

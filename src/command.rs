//! All that crosses consensus: what a client asks to be written, and what
//! applying it answered.
//!
//! A [`Command`] is encoded once, by the node that takes the request, into a
//! [`Proposal`]. Those bytes travel to the leader, through the log and to every
//! replica unchanged and are decoded when they are applied. Commands carry no
//! clock of the node that applies them: where time matters, the proposer's time
//! is part of the command, so that every replica reads the same one.

use std::fmt;

use bytes::{BufMut, Bytes};
use serde::{Deserialize, Serialize};

use crate::codec::{DecodeError, Reader, put_bytes, put_option};

const COMMAND_VERSION: u8 = 1;
const OUTCOME_VERSION: u8 = 1;

/// What a write demands of the key before it happens (compare-and-set).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Condition {
    /// The key's modification revision is this one; zero means that it is absent.
    ModRevision(i64),
    /// The key exists.
    Exists,
    /// The key does not exist.
    Absent,
}

/// One change of one key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Write {
    /// Sets the key's value.
    Put {
        /// The key, 1 to the configured limit of bytes.
        #[serde(with = "json_bytes")]
        key: Bytes,
        /// The value, possibly empty.
        #[serde(with = "json_bytes")]
        value: Bytes,
        /// The lease the key is attached to; zero is none.
        #[serde(default)]
        lease: i64,
    },
    /// Removes the key, if it is there.
    Delete {
        /// The key.
        #[serde(with = "json_bytes")]
        key: Bytes,
    },
}

/// A client's token that makes a write apply at most once.
///
/// The state machine remembers the outcome under `token` until a later command
/// carries a time past `expires_at_ms`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Idempotency {
    /// The client's token.
    #[serde(with = "json_bytes")]
    pub token: Bytes,
    /// The proposer's wall clock, milliseconds since 1970. Replicas take it from
    /// the log and never from their own clock.
    pub proposed_at_ms: u64,
    /// When the outcome may be forgotten, on the same clock.
    pub expires_at_ms: u64,
}

/// What the log holds for the state machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Command {
    /// The change.
    pub write: Write,
    /// What must hold for the change to happen.
    #[serde(default)]
    pub condition: Option<Condition>,
    /// The token under which the outcome is remembered.
    #[serde(default)]
    pub idempotency: Option<Idempotency>,
}

impl Command {
    /// Sets `key` to `value`, unconditionally and without a lease.
    pub fn put(key: impl Into<Bytes>, value: impl Into<Bytes>) -> Self {
        Self {
            write: Write::Put { key: key.into(), value: value.into(), lease: 0 },
            condition: None,
            idempotency: None,
        }
    }

    /// Removes `key`, unconditionally.
    pub fn delete(key: impl Into<Bytes>) -> Self {
        Self { write: Write::Delete { key: key.into() }, condition: None, idempotency: None }
    }

    /// The same command, carried out only if `condition` holds.
    #[must_use]
    pub fn only_if(mut self, condition: Condition) -> Self {
        self.condition = Some(condition);
        self
    }

    /// The bytes that go into the log.
    pub fn encode(&self) -> Proposal {
        let mut out = Vec::with_capacity(64);
        out.push(COMMAND_VERSION);
        put_option(&mut out, self.condition.as_ref(), |out, condition| match condition {
            Condition::ModRevision(revision) => {
                out.push(1);
                out.put_i64_le(*revision);
            }
            Condition::Exists => out.push(2),
            Condition::Absent => out.push(3),
        });
        put_option(&mut out, self.idempotency.as_ref(), |out, idempotency| {
            put_bytes(out, &idempotency.token);
            out.put_u64_le(idempotency.proposed_at_ms);
            out.put_u64_le(idempotency.expires_at_ms);
        });
        match &self.write {
            Write::Put { key, value, lease } => {
                out.push(1);
                put_bytes(&mut out, key);
                out.put_i64_le(*lease);
                put_bytes(&mut out, value);
            }
            Write::Delete { key } => {
                out.push(2);
                put_bytes(&mut out, key);
            }
        }
        Proposal(out.into())
    }
}

/// An encoded [`Command`]: what Openraft carries as application data.
#[derive(Clone, PartialEq, Eq)]
pub struct Proposal(Bytes);

impl Proposal {
    /// Takes bytes from the log or the network without looking at them; whether
    /// they decode is found out by [`Self::decode`].
    pub fn from_bytes(bytes: Bytes) -> Self {
        Self(bytes)
    }

    /// The encoded bytes.
    pub fn as_bytes(&self) -> &Bytes {
        &self.0
    }

    /// Reads the command; keys and values share the proposal's memory.
    pub fn decode(&self) -> Result<Command, DecodeError> {
        let mut r = Reader::new(self.0.clone());
        r.version("command", COMMAND_VERSION)?;
        let condition = r.option("condition", |r| match r.u8("condition")? {
            1 => Ok(Condition::ModRevision(r.i64("condition revision")?)),
            2 => Ok(Condition::Exists),
            3 => Ok(Condition::Absent),
            tag => Err(DecodeError::UnknownTag { field: "condition", tag }),
        })?;
        let idempotency = r.option("idempotency", |r| {
            Ok(Idempotency {
                token: r.bytes("idempotency token")?,
                proposed_at_ms: r.u64("proposal time")?,
                expires_at_ms: r.u64("expiry time")?,
            })
        })?;
        let write = match r.u8("write")? {
            1 => {
                let key = r.bytes("key")?;
                let lease = r.i64("lease")?;
                let value = r.bytes("value")?;
                Write::Put { key, value, lease }
            }
            2 => Write::Delete { key: r.bytes("key")? },
            tag => return Err(DecodeError::UnknownTag { field: "write", tag }),
        };
        r.finish()?;
        Ok(Command { write, condition, idempotency })
    }
}

impl fmt::Debug for Proposal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Proposal {
    /// Names the size only: keys and values are the user's and stay out of logs.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "command of {} bytes", self.0.len())
    }
}

impl Serialize for Proposal {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.decode().map_err(serde::ser::Error::custom)?.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Proposal {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Command::deserialize(deserializer)?.encode())
    }
}

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
}

/// What applying a log entry answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// The store's revision after the entry.
    pub revision: i64,
    /// What happened.
    pub result: OutcomeResult,
}

/// The result part of an [`Outcome`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OutcomeResult {
    /// An entry without a command: a new leader's blank entry or a membership.
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
    /// The command was refused and changed nothing.
    Rejected(Rejection),
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
            OutcomeResult::Rejected(Rejection::ConditionFailed { mod_revision }) => {
                out.push(3);
                out.put_i64_le(*mod_revision);
            }
            OutcomeResult::Rejected(Rejection::IdempotencyMismatch) => out.push(4),
            OutcomeResult::Rejected(Rejection::Undecodable(why)) => {
                out.push(5);
                put_bytes(&mut out, why.as_bytes());
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
            3 => OutcomeResult::Rejected(Rejection::ConditionFailed { mod_revision: r.i64("revision")? }),
            4 => OutcomeResult::Rejected(Rejection::IdempotencyMismatch),
            5 => OutcomeResult::Rejected(Rejection::Undecodable(r.string("reason")?)),
            tag => return Err(DecodeError::UnknownTag { field: "outcome", tag }),
        };
        r.finish()?;
        Ok(Self { revision, result })
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} at revision {}", self.result, self.revision)
    }
}

/// JSON form of byte strings: a string when they are UTF-8, else `{"base64": "…"}`.
mod json_bytes {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    use bytes::Bytes;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    #[derive(Serialize, Deserialize)]
    #[serde(untagged)]
    enum Form {
        Text(String),
        Binary { base64: String },
    }

    pub(super) fn serialize<S: Serializer>(bytes: &Bytes, serializer: S) -> Result<S::Ok, S::Error> {
        match std::str::from_utf8(bytes) {
            Ok(text) => serializer.serialize_str(text),
            Err(_) => Form::Binary { base64: STANDARD.encode(bytes) }.serialize(serializer),
        }
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Bytes, D::Error> {
        match Form::deserialize(deserializer)? {
            Form::Text(text) => Ok(text.into()),
            Form::Binary { base64 } => {
                STANDARD.decode(base64).map(Bytes::from).map_err(serde::de::Error::custom)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn bytes() -> impl Strategy<Value = Bytes> {
        proptest::collection::vec(any::<u8>(), 0..40).prop_map(Bytes::from)
    }

    fn commands() -> impl Strategy<Value = Command> {
        let write = prop_oneof![
            (bytes(), bytes(), any::<i64>()).prop_map(|(key, value, lease)| Write::Put { key, value, lease }),
            bytes().prop_map(|key| Write::Delete { key }),
        ];
        let condition = proptest::option::of(prop_oneof![
            any::<i64>().prop_map(Condition::ModRevision),
            Just(Condition::Exists),
            Just(Condition::Absent),
        ]);
        let idempotency = proptest::option::of((bytes(), any::<u64>(), any::<u64>()).prop_map(
            |(token, proposed_at_ms, expires_at_ms)| Idempotency { token, proposed_at_ms, expires_at_ms },
        ));
        (write, condition, idempotency).prop_map(|(write, condition, idempotency)| Command {
            write,
            condition,
            idempotency,
        })
    }

    fn outcomes() -> impl Strategy<Value = Outcome> {
        let result = prop_oneof![
            Just(OutcomeResult::Nothing),
            (any::<bool>(), any::<i64>())
                .prop_map(|(created, version)| OutcomeResult::Put { created, version }),
            any::<u64>().prop_map(|count| OutcomeResult::Deleted { count }),
            any::<i64>().prop_map(|mod_revision| {
                OutcomeResult::Rejected(Rejection::ConditionFailed { mod_revision })
            }),
            Just(OutcomeResult::Rejected(Rejection::IdempotencyMismatch)),
            ".*".prop_map(|why| OutcomeResult::Rejected(Rejection::Undecodable(why))),
        ];
        (any::<i64>(), result).prop_map(|(revision, result)| Outcome { revision, result })
    }

    proptest! {
        #[test]
        fn commands_round_trip_in_binary_and_json(command in commands()) {
            let proposal = command.encode();
            prop_assert_eq!(proposal.decode(), Ok(command));
            let json = serde_json::to_string(&proposal).expect("a valid command has a JSON form");
            prop_assert_eq!(serde_json::from_str::<Proposal>(&json).expect("it parses"), proposal);
        }

        #[test]
        fn outcomes_round_trip(outcome in outcomes()) {
            prop_assert_eq!(Outcome::decode(outcome.encode().into()), Ok(outcome));
        }

        #[test]
        fn any_bytes_decode_or_are_refused(input in any::<Vec<u8>>()) {
            let _ = Proposal::from_bytes(input.clone().into()).decode();
            let _ = Outcome::decode(input.into());
        }

        #[test]
        fn a_cut_command_is_refused(command in commands(), cut in 1_usize..8) {
            let whole = command.encode().as_bytes().clone();
            let kept = whole.len().saturating_sub(cut);
            prop_assert!(Proposal::from_bytes(whole.slice(..kept)).decode().is_err());
        }
    }
}

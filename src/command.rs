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

mod alarm;
mod outcome;
mod txn;

pub use alarm::{Alarm, AlarmKind};
pub use outcome::{OpOutcome, Outcome, OutcomeResult, Rejection, TxnOutcome};
pub use txn::{Compare, DeleteOp, MAX_TXN_DEPTH, Op, PutOp, Relation, Target, Txn};

/// Puts and deletes of one key are written as the first release wrote them, so
/// that it can apply them; it stops at anything newer.
const SINGLE_KEY_VERSION: u8 = 1;
const COMMAND_VERSION: u8 = 2;

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

/// One change of the replicated state.
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
    /// Runs a transaction.
    Txn(Txn),
    /// Makes revisions below this one unreadable, so that what only they need can
    /// be given back to the disk.
    Compact {
        /// The oldest revision that stays readable.
        revision: i64,
    },
    /// Creates a lease.
    LeaseGrant {
        /// Its id; never zero.
        id: i64,
        /// Its time to live in seconds.
        ttl: i64,
    },
    /// Ends a lease and removes the keys that are attached to it: as many as one
    /// command may, the rest when it is asked for again.
    LeaseRevoke {
        /// The lease.
        id: i64,
    },
    /// Starts the time to live of leases anew.
    LeaseRenew {
        /// The leases, of which any may be gone.
        ids: Vec<i64>,
    },
    /// Moves the clock of leases on, and ends leases whose time is up by it.
    LeaseTick {
        /// The term of the leader that proposes it. In a log entry of another
        /// term it does nothing, so that a deposed leader's clock never counts.
        term: u64,
        /// Milliseconds on the clock of leases, which runs only while there is a
        /// leader and a lease.
        clock: u64,
        /// Leases that the leader holds to be expired. One that was renewed
        /// meanwhile is left alone.
        expired: Vec<i64>,
    },
    /// Raises or disarms an alarm.
    Alarm {
        /// What is wrong.
        kind: AlarmKind,
        /// With which member.
        member: u64,
        /// Whether it is raised from now on.
        raised: bool,
    },
}

impl Write {
    fn is_single_key(&self) -> bool {
        match self {
            Self::Put { .. } | Self::Delete { .. } => true,
            Self::Txn(_)
            | Self::Compact { .. }
            | Self::LeaseGrant { .. }
            | Self::LeaseRevoke { .. }
            | Self::LeaseRenew { .. }
            | Self::LeaseTick { .. }
            | Self::Alarm { .. } => false,
        }
    }
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
    /// The leader's clock of idempotency keys when it proposed the command, in
    /// milliseconds; zero before. Replicas take it from the log and never from their own
    /// clock.
    pub proposed_at_ms: u64,
    /// When the outcome may be forgotten, on the same clock.
    pub expires_at_ms: u64,
}

/// What the log holds for the state machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Command {
    /// The change.
    pub write: Write,
    /// What must hold for the change to happen; for puts and deletes of one key
    /// only.
    #[serde(default)]
    pub condition: Option<Condition>,
    /// The token under which the outcome is remembered.
    #[serde(default)]
    pub idempotency: Option<Idempotency>,
}

impl Command {
    /// Sets `key` to `value`, unconditionally and without a lease.
    pub fn put(key: impl Into<Bytes>, value: impl Into<Bytes>) -> Self {
        Self::of(Write::Put { key: key.into(), value: value.into(), lease: 0 })
    }

    /// Removes `key`, unconditionally.
    pub fn delete(key: impl Into<Bytes>) -> Self {
        Self::of(Write::Delete { key: key.into() })
    }

    /// Makes `write` happen, unconditionally.
    pub fn of(write: Write) -> Self {
        Self { write, condition: None, idempotency: None }
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
        out.push(if self.write.is_single_key() { SINGLE_KEY_VERSION } else { COMMAND_VERSION });
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
            Write::Txn(txn) => {
                out.push(3);
                txn.encode_to(&mut out);
            }
            Write::Compact { revision } => {
                out.push(4);
                out.put_i64_le(*revision);
            }
            Write::LeaseGrant { id, ttl } => {
                out.push(5);
                out.put_i64_le(*id);
                out.put_i64_le(*ttl);
            }
            Write::LeaseRevoke { id } => {
                out.push(6);
                out.put_i64_le(*id);
            }
            Write::LeaseRenew { ids } => {
                out.push(7);
                txn::put_list(&mut out, ids, |out, id| out.put_i64_le(*id));
            }
            Write::LeaseTick { term, clock, expired } => {
                out.push(8);
                out.put_u64_le(*term);
                out.put_u64_le(*clock);
                txn::put_list(&mut out, expired, |out, id| out.put_i64_le(*id));
            }
            Write::Alarm { kind, member, raised } => {
                out.push(9);
                out.push(kind.tag());
                out.put_u64_le(*member);
                out.push(u8::from(*raised));
            }
        }
        Proposal(out.into())
    }
}

/// Reads what stands between the version and the write.
fn read_head(r: &mut Reader) -> Result<(Option<Condition>, Option<Idempotency>), DecodeError> {
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
    Ok((condition, idempotency))
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

    /// Whether it sets or removes a single key, without a token, as far as its head tells:
    /// the rest is not read.
    pub fn is_single_write(&self) -> bool {
        let mut r = Reader::new(self.0.clone());
        matches!(r.u8("command"), Ok(SINGLE_KEY_VERSION)) && matches!(read_head(&mut r), Ok((_, None)))
    }

    /// Says that a command with a token is proposed at `now`: the token lives as long as
    /// before, from then on. Others are left as they are, and so is what does not decode.
    #[must_use]
    pub fn proposed_at(self, now: u64) -> Self {
        let mut r = Reader::new(self.0.clone());
        let head = r.u8("command").and_then(|_| read_head(&mut r));
        let Ok((_, Some(idempotency))) = head else { return self };
        let lifetime = idempotency.expires_at_ms.saturating_sub(idempotency.proposed_at_ms);
        let behind = self.0.len() - r.remaining();
        let mut bytes = self.0.to_vec();
        let times = [now, now.saturating_add(lifetime)].map(u64::to_le_bytes);
        if let Some(place) = bytes.get_mut(behind - size_of_val(&times)..behind) {
            place.copy_from_slice(times.as_flattened());
        }
        Self(bytes.into())
    }

    /// Reads the command; keys and values share the proposal's memory.
    pub fn decode(&self) -> Result<Command, DecodeError> {
        let mut r = Reader::new(self.0.clone());
        let version = r.u8("command")?;
        if !(SINGLE_KEY_VERSION..=COMMAND_VERSION).contains(&version) {
            return Err(DecodeError::Version { what: "command", found: version, known: COMMAND_VERSION });
        }
        let (condition, idempotency) = read_head(&mut r)?;
        let write = match r.u8("write")? {
            1 => {
                let key = r.bytes("key")?;
                let lease = r.i64("lease")?;
                let value = r.bytes("value")?;
                Write::Put { key, value, lease }
            }
            2 => Write::Delete { key: r.bytes("key")? },
            tag if version == SINGLE_KEY_VERSION => {
                return Err(DecodeError::UnknownTag { field: "write", tag });
            }
            3 => Write::Txn(Txn::decode_from(&mut r)?),
            4 => Write::Compact { revision: r.i64("revision")? },
            5 => Write::LeaseGrant { id: r.i64("lease")?, ttl: r.i64("time to live")? },
            6 => Write::LeaseRevoke { id: r.i64("lease")? },
            7 => Write::LeaseRenew { ids: txn::read_list(&mut r, "leases", |r| r.i64("lease"))? },
            8 => Write::LeaseTick {
                term: r.u64("term")?,
                clock: r.u64("lease clock")?,
                expired: txn::read_list(&mut r, "leases", |r| r.i64("lease"))?,
            },
            9 => Write::Alarm {
                kind: AlarmKind::from_tag(r.u8("alarm kind")?)?,
                member: r.u64("member")?,
                raised: r.bool("raised")?,
            },
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

/// JSON form of byte strings: a string when they are UTF-8, else `{"base64": "…"}`.
pub(crate) mod json_bytes {
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

    pub(crate) fn serialize<S: Serializer>(bytes: &Bytes, serializer: S) -> Result<S::Ok, S::Error> {
        match std::str::from_utf8(bytes) {
            Ok(text) => serializer.serialize_str(text),
            Err(_) => Form::Binary { base64: STANDARD.encode(bytes) }.serialize(serializer),
        }
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Bytes, D::Error> {
        match Form::deserialize(deserializer)? {
            Form::Text(text) => Ok(text.into()),
            Form::Binary { base64 } => {
                STANDARD.decode(base64).map(Bytes::from).map_err(serde::de::Error::custom)
            }
        }
    }

    /// The same where the bytes may be missing.
    pub(crate) mod option {
        use bytes::Bytes;
        use serde::{Deserialize, Deserializer, Serialize, Serializer};

        #[derive(Serialize, Deserialize)]
        struct Present(#[serde(with = "super")] Bytes);

        #[expect(clippy::ref_option, reason = "the signature that serde calls")]
        pub(crate) fn serialize<S: Serializer>(
            bytes: &Option<Bytes>,
            serializer: S,
        ) -> Result<S::Ok, S::Error> {
            bytes.clone().map(Present).serialize(serializer)
        }

        pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
            deserializer: D,
        ) -> Result<Option<Bytes>, D::Error> {
            Ok(Option::<Present>::deserialize(deserializer)?.map(|Present(bytes)| bytes))
        }
    }
}

#[cfg(test)]
mod tests;

//! Applies one command to the MVCC engine: the pure function of the log.
//!
//! Nothing here reads a clock, a random number, the environment or the order of
//! a hash map (I3): equal state and equal command give equal bytes on every
//! replica. Time enters only through the command itself.

use bytes::{BufMut, Bytes};
use twox_hash::XxHash3_64;

use crate::codec::{DecodeError, Reader, put_bytes};
use crate::command::{Command, Condition, Idempotency, Outcome, OutcomeResult, Proposal, Rejection, Write};
use crate::error::StorageError;
use crate::mvcc::WriteSession;

const TOKEN_VERSION: u8 = 1;
/// Tokens by name.
const TOKEN: u8 = b't';
/// Tokens by expiry, so that the oldest are found first.
const EXPIRY: u8 = b'e';
/// The replicated clock and the number of tokens.
const CLOCK: &[u8] = b"c";
/// How many tokens are remembered at most; the one that expires first makes room.
const MAX_TOKENS: u64 = 1 << 20;
/// How many expired tokens one command clears at most, so that a burst of them
/// never makes one write slow. More than the one it may add, so that it catches up.
const CLEARED_PER_COMMAND: usize = 8;

/// Applies `proposal` inside `session` and answers what happened.
///
/// Garbage is refused by every replica alike. A command of a newer version is
/// not: newer replicas carry it out, so this one stops rather than diverge.
///
/// # Errors
/// Trouble with this node's storage, or a command that only a newer release
/// understands; both must stop the node.
pub fn apply(session: &mut WriteSession<'_>, proposal: &Proposal) -> Result<Outcome, StorageError> {
    let command = match proposal.decode() {
        Ok(command) => command,
        Err(source @ DecodeError::Version { found, known, .. }) if found > known => {
            return Err(StorageError::Corrupt {
                what: "a log entry of a newer release; upgrade this node: it",
                source,
            });
        }
        Err(error) => {
            let result = OutcomeResult::Rejected(Rejection::Undecodable(error.to_string()));
            return Ok(Outcome { revision: session.revision(), result });
        }
    };
    match &command.idempotency {
        None => carry_out(session, &command),
        Some(idempotency) => carry_out_once(session, &command, idempotency),
    }
}

fn carry_out(session: &mut WriteSession<'_>, command: &Command) -> Result<Outcome, StorageError> {
    let single_key = match &command.write {
        Write::Put { key, .. } | Write::Delete { key } => Some(key),
        Write::Txn(_)
        | Write::Compact { .. }
        | Write::LeaseGrant { .. }
        | Write::LeaseRevoke { .. }
        | Write::LeaseRenew { .. }
        | Write::LeaseTick { .. } => None,
    };
    if let (Some(condition), Some(key)) = (command.condition, single_key) {
        let mod_revision = session.get(key)?.map_or(0, |record| record.mod_revision);
        let holds = match condition {
            Condition::ModRevision(wanted) => mod_revision == wanted,
            Condition::Exists => mod_revision != 0,
            Condition::Absent => mod_revision == 0,
        };
        if !holds {
            let result = OutcomeResult::Rejected(Rejection::ConditionFailed { mod_revision });
            return Ok(Outcome { revision: session.revision(), result });
        }
    }
    let result = match &command.write {
        Write::Put { key, value, lease } => {
            let done = session.put(key.clone(), value.clone(), *lease)?;
            OutcomeResult::Put { created: done.previous.is_none(), version: done.version }
        }
        Write::Delete { key } => {
            let deleted = session.delete(key.clone())?;
            OutcomeResult::Deleted { count: u64::from(deleted.is_some()) }
        }
        Write::Txn(_)
        | Write::Compact { .. }
        | Write::LeaseGrant { .. }
        | Write::LeaseRevoke { .. }
        | Write::LeaseRenew { .. }
        | Write::LeaseTick { .. } => OutcomeResult::Nothing,
    };
    Ok(Outcome { revision: session.revision(), result })
}

/// Carries the command out unless its token is known; then repeats the answer
/// that was given the first time.
fn carry_out_once(
    session: &mut WriteSession<'_>,
    command: &Command,
    idempotency: &Idempotency,
) -> Result<Outcome, StorageError> {
    let mut book = TokenBook::load(session)?;
    // The replicated clock never goes back, whichever node's clock proposed.
    book.clock = book.clock.max(idempotency.proposed_at_ms);
    book.clear_expired(session)?;

    let fingerprint = fingerprint(command);
    let name = Bytes::from([&[TOKEN], idempotency.token.as_ref()].concat());
    if let Some(stored) = session.dedup_get(&name)? {
        let known =
            Token::decode(stored).map_err(|source| corrupt("a remembered idempotency key", source))?;
        if known.expires_at > book.clock {
            book.save(session);
            return Ok(if known.fingerprint == fingerprint {
                known.outcome
            } else {
                let result = OutcomeResult::Rejected(Rejection::IdempotencyMismatch);
                Outcome { revision: session.revision(), result }
            });
        }
        session.dedup_delete(expiry_key(known.expires_at, &idempotency.token));
        book.count = book.count.saturating_sub(1);
    }
    // Only now: a token that is asked for again must not make room for itself.
    book.make_room(session)?;

    let outcome = carry_out(session, command)?;
    let lifetime = idempotency.expires_at_ms.saturating_sub(idempotency.proposed_at_ms);
    let expires_at = book.clock.saturating_add(lifetime);
    let token = Token { fingerprint, expires_at, outcome };
    session.dedup_put(name, token.encode().into());
    session.dedup_put(expiry_key(expires_at, &idempotency.token), Bytes::new());
    book.count += 1;
    book.save(session);
    Ok(token.outcome)
}

/// Identifies what a command asks for, apart from its token and times.
fn fingerprint(command: &Command) -> u64 {
    let bare = Command { idempotency: None, ..command.clone() };
    XxHash3_64::oneshot(bare.encode().as_bytes())
}

fn expiry_key(expires_at: u64, token: &[u8]) -> Bytes {
    let mut key = Vec::with_capacity(9 + token.len());
    key.push(EXPIRY);
    key.put_u64(expires_at);
    key.extend_from_slice(token);
    key.into()
}

fn read_expiry_key(key: Bytes) -> Result<(u64, Bytes), DecodeError> {
    let mut r = Reader::new(key);
    r.u8("kind")?;
    // Stored big-endian so that the keys sort by time; the reader is little-endian.
    let expires_at = r.u64("expiry time")?.swap_bytes();
    Ok((expires_at, r.rest()))
}

fn corrupt(what: &'static str, source: DecodeError) -> StorageError {
    StorageError::Corrupt { what, source }
}

/// What is remembered of a token.
#[derive(Debug, PartialEq, Eq)]
struct Token {
    fingerprint: u64,
    expires_at: u64,
    outcome: Outcome,
}

impl Token {
    fn encode(&self) -> Vec<u8> {
        let mut out = vec![TOKEN_VERSION];
        out.put_u64_le(self.fingerprint);
        out.put_u64_le(self.expires_at);
        put_bytes(&mut out, &self.outcome.encode());
        out
    }

    fn decode(bytes: Bytes) -> Result<Self, DecodeError> {
        let mut r = Reader::new(bytes);
        r.version("idempotency token", TOKEN_VERSION)?;
        let fingerprint = r.u64("fingerprint")?;
        let expires_at = r.u64("expiry time")?;
        let outcome = Outcome::decode(r.bytes("outcome")?)?;
        r.finish()?;
        Ok(Self { fingerprint, expires_at, outcome })
    }
}

/// The replicated clock and how many tokens there are.
struct TokenBook {
    clock: u64,
    count: u64,
}

impl TokenBook {
    fn load(session: &mut WriteSession<'_>) -> Result<Self, StorageError> {
        let Some(stored) = session.dedup_get(CLOCK)? else {
            return Ok(Self { clock: 0, count: 0 });
        };
        let mut r = Reader::new(stored);
        let mut read = || {
            r.version("idempotency clock", TOKEN_VERSION)?;
            Ok(Self { clock: r.u64("clock")?, count: r.u64("tokens")? })
        };
        read().map_err(|source| corrupt("the idempotency clock", source))
    }

    fn save(&self, session: &mut WriteSession<'_>) {
        let mut out = vec![TOKEN_VERSION];
        out.put_u64_le(self.clock);
        out.put_u64_le(self.count);
        session.dedup_put(Bytes::from_static(CLOCK), out.into());
    }

    fn clear_expired(&mut self, session: &mut WriteSession<'_>) -> Result<(), StorageError> {
        for _ in 0..CLEARED_PER_COMMAND {
            match first_to_expire(session)? {
                Some(first) if first.expires_at <= self.clock => self.forget(session, first),
                Some(_) | None => break,
            }
        }
        Ok(())
    }

    /// Forgets the token that expires first if there are as many as there may be.
    fn make_room(&mut self, session: &mut WriteSession<'_>) -> Result<(), StorageError> {
        if self.count >= MAX_TOKENS
            && let Some(first) = first_to_expire(session)?
        {
            self.forget(session, first);
        }
        Ok(())
    }

    fn forget(&mut self, session: &mut WriteSession<'_>, expiry: Expiry) {
        session.dedup_delete(expiry.key);
        session.dedup_delete([&[TOKEN], expiry.token.as_ref()].concat().into());
        self.count = self.count.saturating_sub(1);
    }
}

/// A token's entry in the order of expiry.
struct Expiry {
    key: Bytes,
    expires_at: u64,
    token: Bytes,
}

fn first_to_expire(session: &WriteSession<'_>) -> Result<Option<Expiry>, StorageError> {
    let Some((key, _)) = session.dedup_first(&[EXPIRY])? else { return Ok(None) };
    let (expires_at, token) =
        read_expiry_key(key.clone()).map_err(|source| corrupt("an idempotency expiry", source))?;
    Ok(Some(Expiry { key, expires_at, token }))
}

#[cfg(test)]
mod tests;

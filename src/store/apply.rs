//! Applies one command to the MVCC engine: the pure function of the log.
//!
//! Nothing here reads a clock, a random number, the environment or the order of
//! a hash map (I3): equal state and equal command give equal bytes on every
//! replica. Time enters only through the command itself.

use bytes::{BufMut, Bytes};
use twox_hash::XxHash3_64;

use super::lease_table::SLACK_MS;
use crate::codec::{DecodeError, Reader, put_bytes};
use crate::command::{
    Alarm, AlarmKind, Command, Condition, Idempotency, Op, Outcome, OutcomeResult, Proposal, Rejection, Write,
};
use crate::error::StorageError;
use crate::mutants::Mutant;
use crate::mvcc::{Lease, ReadError, Removal, Room, Store, WriteSession};

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

/// How many keys of leases one command removes at most, so that a lease with a
/// million keys never makes other writes wait. A lease that has no more loses them
/// at one revision.
const MAX_KEYS_REVOKED: usize = 1_000;
/// How many keys a lease that has more loses each time that it is named.
pub const KEYS_IN_PART: usize = 100;
/// How many leases one command names at most, for the same reason.
pub const MAX_LEASES_ENDED: usize = 500;
/// The shortest time to live, in seconds. A shorter one could end during an
/// election.
const MIN_LEASE_TTL: i64 = 2;
/// Bytes of items that one answer holds at most: of a range read, or of all that a
/// transaction reads, replaces and removes. etcd has no such bound; here it keeps a
/// careless read from taking the memory.
pub const MAX_ANSWER_BYTES: usize = 64 << 20;
/// Bytes of an answer that are remembered for an idempotency token.
const MAX_REMEMBERED_BYTES: usize = 64 << 10;
/// The room for an answer that is only made to be remembered. An item takes less than
/// four times as much of it as encoded, so that it never decides alone, but where much
/// was read to be sorted for a short answer.
const REMEMBERED_ROOM: usize = 4 * MAX_REMEMBERED_BYTES;
/// What one command removes at most: a batch holds all of it in memory, on every
/// replica. Not to be configured, for all replicas must refuse the same.
const MAX_REMOVAL: Removal = Removal { keys: 1_000_000, bytes: 256 << 20 };

/// What is known of a log entry besides its command.
#[derive(Debug, Clone, Copy)]
pub struct Context {
    /// The term of the leader that wrote it.
    pub term: u64,
    /// Whether somebody waits for what the command answers. Whether it does must
    /// change nothing of what is stored.
    pub wants_answer: bool,
}

/// Reads a command from the log.
///
/// Garbage is refused by every replica alike. A command of a newer version is
/// not: newer replicas carry it out, so this one stops rather than diverge.
///
/// # Errors
/// A command that only a newer release understands; it must stop the node.
pub fn decode(proposal: &Proposal) -> Result<Result<Command, Rejection>, StorageError> {
    match proposal.decode() {
        Ok(command) => Ok(Ok(command)),
        Err(source @ DecodeError::Version { found, known, .. }) if found > known => {
            Err(StorageError::Corrupt {
                what: "a log entry of a newer release; upgrade this node: it",
                source,
            })
        }
        Err(error) => Ok(Err(Rejection::Undecodable(error.to_string()))),
    }
}

/// Whether `command` reads revisions of the past, which needs a session that has
/// changed nothing yet.
pub fn reads_the_past(command: &Command) -> bool {
    fn any_past(ops: &[Op]) -> bool {
        ops.iter().any(|op| match op {
            Op::Range(request) => request.at.is_some(),
            Op::Txn(txn) => any_past(&txn.success) || any_past(&txn.failure),
            Op::Put(_) | Op::Delete(_) => false,
        })
    }
    match &command.write {
        Write::Txn(txn) => any_past(&txn.success) || any_past(&txn.failure),
        Write::Put { .. }
        | Write::Delete { .. }
        | Write::Compact { .. }
        | Write::LeaseGrant { .. }
        | Write::LeaseRevoke { .. }
        | Write::LeaseRenew { .. }
        | Write::LeaseTick { .. }
        | Write::Alarm { .. } => false,
    }
}

/// Applies `command` inside `session` and answers what happened.
///
/// # Errors
/// Trouble with this node's storage, which must stop the node.
pub fn apply(
    session: &mut WriteSession<'_>,
    command: &Command,
    context: Context,
) -> Result<Outcome, StorageError> {
    match &command.idempotency {
        None => match why_alarmed(session, &command.write) {
            Some(rejection) => Ok(refused(session, rejection)),
            None => carry_out(session, command, context, &mut Room::of(MAX_ANSWER_BYTES)),
        },
        Some(idempotency) => carry_out_once(session, command, idempotency, context),
    }
}

/// Why a raised alarm forbids `write`, if one does: without room for more, what
/// stores something; with data that may be damaged, every change of it.
fn why_alarmed(session: &WriteSession<'_>, write: &Write) -> Option<Rejection> {
    let (changes, stores) = match write {
        Write::Put { .. } | Write::LeaseGrant { .. } => (true, true),
        // Looked at only if it matters.
        Write::Txn(txn) => (true, session.alarm_of(AlarmKind::NoSpace).is_some() && txn.may_put()),
        Write::Delete { .. } | Write::Compact { .. } | Write::LeaseRevoke { .. } => (true, false),
        // A tick says itself what it leaves alone.
        Write::LeaseRenew { .. } | Write::LeaseTick { .. } | Write::Alarm { .. } => (false, false),
    };
    if changes && let Some(Alarm { member, .. }) = session.alarm_of(AlarmKind::Corrupt) {
        return Some(Rejection::Corrupt { member });
    }
    let alarm = session.alarm_of(AlarmKind::NoSpace).filter(|_| stores)?;
    Some(Rejection::NoSpace { member: alarm.member })
}

fn refused(session: &WriteSession<'_>, rejection: Rejection) -> Outcome {
    Outcome { revision: session.revision(), result: OutcomeResult::Rejected(rejection) }
}

fn carry_out(
    session: &mut WriteSession<'_>,
    command: &Command,
    context: Context,
    room: &mut Room,
) -> Result<Outcome, StorageError> {
    let result = match &command.write {
        Write::Put { key, value, lease } => {
            if let Some(rejection) = why_not(session, command.condition, key, *lease)? {
                OutcomeResult::Rejected(rejection)
            } else {
                let done = session.put(key.clone(), value.clone(), *lease)?;
                OutcomeResult::Put { created: done.previous.is_none(), version: done.version }
            }
        }
        Write::Delete { key } => {
            if let Some(rejection) = why_not(session, command.condition, key, 0)? {
                OutcomeResult::Rejected(rejection)
            } else {
                let deleted = session.delete(key.clone())?;
                OutcomeResult::Deleted { count: u64::from(deleted.is_some()) }
            }
        }
        Write::Txn(txn) => match session.run(txn, context.wants_answer, room, MAX_REMOVAL)? {
            Ok(done) => OutcomeResult::Txn(done),
            Err(rejection) => OutcomeResult::Rejected(rejection),
        },
        Write::Compact { revision } => compact(session, *revision)?,
        Write::LeaseGrant { id, ttl } => grant(session, *id, *ttl)?,
        Write::LeaseRevoke { id } => revoke(session, *id)?,
        Write::LeaseRenew { ids } => renew(session, ids)?,
        Write::LeaseTick { term, clock, expired } => {
            let is_deposed = *term != context.term;
            if !is_deposed || Mutant::DeposedLessor.is_awake() {
                tick(session, *clock, expired, is_deposed)?;
            }
            OutcomeResult::Nothing
        }
        Write::Alarm { kind, member, raised } => {
            let was_raised = session.set_alarm(Alarm { kind: *kind, member: *member }, *raised);
            OutcomeResult::Alarm { was_raised }
        }
    };
    Ok(Outcome { revision: session.revision(), result })
}

/// Why a change of one key can't be made, if so.
fn why_not(
    session: &mut WriteSession<'_>,
    condition: Option<Condition>,
    key: &[u8],
    lease: i64,
) -> Result<Option<Rejection>, StorageError> {
    if let Some(condition) = condition {
        let mod_revision = session.get(key)?.map_or(0, |record| record.mod_revision);
        let holds = match condition {
            Condition::ModRevision(wanted) => mod_revision == wanted,
            Condition::Exists => mod_revision != 0,
            Condition::Absent => mod_revision == 0,
        };
        if !holds {
            return Ok(Some(Rejection::ConditionFailed { mod_revision }));
        }
    }
    session.why_not_attach(lease)
}

fn compact(session: &mut WriteSession<'_>, revision: i64) -> Result<OutcomeResult, StorageError> {
    match session.compact(revision) {
        Ok(()) => Ok(OutcomeResult::Compacted),
        Err(ReadError::Compacted { requested, oldest }) => {
            Ok(OutcomeResult::Rejected(Rejection::Compacted { requested, oldest }))
        }
        Err(ReadError::FutureRevision { requested, current }) => {
            Ok(OutcomeResult::Rejected(Rejection::FutureRevision { requested, current }))
        }
        Err(ReadError::Storage(error)) => Err(error),
    }
}

fn grant(session: &mut WriteSession<'_>, id: i64, ttl: i64) -> Result<OutcomeResult, StorageError> {
    if session.lease(id)?.is_some() {
        return Ok(OutcomeResult::Rejected(Rejection::LeaseExists { id }));
    }
    let ttl = ttl.max(MIN_LEASE_TTL);
    let expires_at = expiry(session.lease_clock()?, ttl);
    session.set_lease(Lease { id, ttl, expires_at, ending: false });
    Ok(OutcomeResult::LeaseGranted { id, ttl })
}

fn expiry(clock: u64, ttl: i64) -> u64 {
    let ttl_ms = ttl.unsigned_abs().saturating_mul(1_000);
    clock.saturating_add(ttl_ms).saturating_add(SLACK_MS)
}

fn revoke(session: &mut WriteSession<'_>, id: i64) -> Result<OutcomeResult, StorageError> {
    let Some(lease) = session.lease(id)? else {
        return Ok(OutcomeResult::Rejected(Rejection::LeaseNotFound { id }));
    };
    let ended = end_lease(session, lease, MAX_KEYS_REVOKED)?;
    Ok(OutcomeResult::LeaseRevoked { more: !matches!(ended, Ended::Whole { .. }) })
}

/// How far a lease was ended.
enum Ended {
    /// It is gone, with so many keys.
    Whole { keys: usize },
    /// It has ended and lost so many keys of more.
    Part { keys: usize },
    /// It is as it was: its keys are more than there was room for.
    NotNow,
}

/// Ends a lease and removes its keys at one revision, if they are no more than
/// `room`. If they are more than any command may remove, the lease stays as one
/// that is ending, and loses a part of them.
fn end_lease(session: &mut WriteSession<'_>, lease: Lease, room: usize) -> Result<Ended, StorageError> {
    let most = if lease.ending { room.min(KEYS_IN_PART) } else { room };
    let mut keys = session.lease_keys(lease.id, most.saturating_add(1))?;
    let is_last = keys.len() <= most;
    if !is_last {
        if !lease.ending && room < MAX_KEYS_REVOKED {
            return Ok(Ended::NotNow);
        }
        keys.truncate(most.min(KEYS_IN_PART));
    }
    let count = keys.len();
    let last = keys.last().cloned();
    session.at_one_revision(|session| {
        for key in keys {
            session.delete(key)?;
        }
        Ok(())
    })?;
    if is_last {
        session.remove_lease(lease.id);
        return Ok(Ended::Whole { keys: count });
    }
    if !lease.ending {
        session.set_lease(Lease { ending: true, ..lease });
    }
    if let Some(last) = last {
        session.lease_keys_are_gone(lease.id, last);
    }
    Ok(Ended::Part { keys: count })
}

fn renew(session: &mut WriteSession<'_>, ids: &[i64]) -> Result<OutcomeResult, StorageError> {
    let clock = session.lease_clock()?;
    let mut ttls = Vec::with_capacity(ids.len());
    for id in ids {
        let lease = session.lease(*id)?.filter(|lease| !lease.ending);
        ttls.push(lease.map_or(0, |lease| lease.ttl));
        if let Some(lease) = lease {
            let expires_at = expiry(clock, lease.ttl);
            if expires_at > lease.expires_at {
                session.set_lease(Lease { expires_at, ..lease });
            }
        }
    }
    Ok(OutcomeResult::LeasesRenewed { ttls })
}

/// Moves the lease clock on, never back, and ends those of `expired` that have
/// expired by it, within the bounds of one command; the leader asks again for the
/// rest. A lease with very many keys may be named several times.
///
/// `is_deposed`, which only a planted bug sets, ends them whatever the clock says.
fn tick(
    session: &mut WriteSession<'_>,
    clock: u64,
    expired: &[i64],
    is_deposed: bool,
) -> Result<(), StorageError> {
    let before = session.lease_clock()?;
    let clock = clock.max(before);
    if clock > before {
        session.set_lease_clock(clock);
    }
    // The keys of a lease are not to be removed while they may be damaged.
    if session.alarm_of(AlarmKind::Corrupt).is_some() {
        return Ok(());
    }
    let mut room = MAX_KEYS_REVOKED;
    for id in expired.iter().take(MAX_LEASES_ENDED) {
        // A renewal that came first in the log wins.
        let due = session.lease(*id)?.filter(|lease| lease.ending || lease.expires_at <= clock || is_deposed);
        let Some(lease) = due else { continue };
        match end_lease(session, lease, room)? {
            Ended::Whole { keys } | Ended::Part { keys } => room -= keys,
            Ended::NotNow => break,
        }
        if room == 0 {
            break;
        }
    }
    Ok(())
}

/// Carries the command out unless its token is known; then repeats the answer
/// that was given the first time.
fn carry_out_once(
    session: &mut WriteSession<'_>,
    command: &Command,
    idempotency: &Idempotency,
    context: Context,
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
                refused(session, Rejection::IdempotencyMismatch)
            });
        }
        // Whole, also if nothing is remembered in its place.
        let (expires_at, token) = (known.expires_at, idempotency.token.clone());
        book.forget(session, Expiry { key: expiry_key(expires_at, &token), expires_at, token });
    }
    // Not remembered: once the alarm is disarmed, the same may be asked for again.
    if let Some(rejection) = why_alarmed(session, &command.write) {
        book.save(session);
        return Ok(refused(session, rejection));
    }
    // Only now: a token that is asked for again must not make room for itself.
    book.make_room(session)?;

    // What is remembered must be the same whoever waits. So an answer is made in any
    // case, and in how much room has no part in whether it is remembered.
    let mut room = Room::of(if context.wants_answer { MAX_ANSWER_BYTES } else { REMEMBERED_ROOM });
    let outcome = carry_out(session, command, Context { wants_answer: true, ..context }, &mut room)?;
    let lifetime = idempotency.expires_at_ms.saturating_sub(idempotency.proposed_at_ms);
    let expires_at = book.clock.saturating_add(lifetime);
    let is_small = !room.used_more_than(REMEMBERED_ROOM) && outcome.encode().len() <= MAX_REMEMBERED_BYTES;
    let kept = if is_small {
        outcome.clone()
    } else {
        let rejection = Rejection::AnswerForgotten { revision: outcome.revision };
        Outcome { revision: outcome.revision, result: OutcomeResult::Rejected(rejection) }
    };
    let token = Token { fingerprint, expires_at, outcome: kept };
    session.dedup_put(name, token.encode().into());
    session.dedup_put(expiry_key(expires_at, &idempotency.token), Bytes::new());
    book.count += 1;
    book.save(session);
    Ok(outcome)
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

/// Where the clock of idempotency keys stands, in milliseconds.
pub(super) fn token_clock(store: &Store) -> Result<u64, StorageError> {
    Ok(TokenBook::of(store.dedup(CLOCK)?)?.clock)
}

impl TokenBook {
    fn load(session: &mut WriteSession<'_>) -> Result<Self, StorageError> {
        Self::of(session.dedup_get(CLOCK)?)
    }

    fn of(stored: Option<Bytes>) -> Result<Self, StorageError> {
        let Some(stored) = stored else {
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

fn first_to_expire(session: &mut WriteSession<'_>) -> Result<Option<Expiry>, StorageError> {
    let Some((key, _)) = session.dedup_first(&[EXPIRY])? else { return Ok(None) };
    let (expires_at, token) =
        read_expiry_key(key.clone()).map_err(|source| corrupt("an idempotency expiry", source))?;
    Ok(Some(Expiry { key, expires_at, token }))
}

#[cfg(test)]
mod tests;

//! Leases: grant, revoke, renew, and what is known of them.
//!
//! A lease is part of the replicated state: granting, renewing and ending it are
//! commands like any other, so a change of the leader forgets nothing. Who asks
//! about leases is answered from this node's mirror of them, after the read index
//! was confirmed. (That time passes is the business of `lessor`.)

use std::sync::Weak;
use std::time::{Duration, Instant as StdInstant};

use bytes::Bytes;
use tokio::time::Instant;

use super::consensus::RETRY_PAUSE;
use super::handle::{Inner, RequestCounters, Service};
use super::kv::Consistency;
use super::renewals::{Renew, Renewed};
use crate::command::{Command, Outcome, OutcomeResult, Write};
use crate::error::Error;
use crate::inflight::AnswerBytes;
use crate::mvcc::{ReadError, Room, Store};

/// Longest time to live that can be asked for, in seconds.
pub const MAX_LEASE_TTL: i64 = 9_000_000_000;
/// How often another id is drawn when the one that was drawn is in use.
const ID_DRAWS: usize = 8;
/// How long a caller may wait for the end of a lease with very many keys.
const LONGEST_REVOCATION: Duration = Duration::from_secs(60);
/// How often it is asked for meanwhile, which tells whether there still is a leader.
const ASK_AGAIN: Duration = Duration::from_secs(1);
/// Attached keys that are read at once.
const KEYS_PAGE: usize = 1_000;

/// A lease that was granted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeaseGranted {
    /// The store's revision.
    pub revision: i64,
    /// The lease's id.
    pub id: i64,
    /// Its time to live in seconds, which may be more than was asked for.
    pub ttl: i64,
}

/// What a keep-alive did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeaseRenewed {
    /// The store's revision.
    pub revision: i64,
    /// The time to live that began anew, in seconds; zero if the lease is gone.
    pub ttl: i64,
}

/// What is known of a lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaseStatus {
    /// The store's revision.
    pub revision: i64,
    /// The lease's id.
    pub id: i64,
    /// Seconds that it will live on at least; -1 if it is gone.
    pub ttl: i64,
    /// Its whole time to live in seconds; zero if it is gone.
    pub granted_ttl: i64,
    /// The keys that are attached to it, in order, if they were asked for.
    pub keys: Vec<Bytes>,
    /// What they count among all that is in flight.
    pub counted: AnswerBytes,
}

impl Service {
    /// Grants a lease under `id`, or under one that is chosen if that is zero.
    ///
    /// # Errors
    /// [`Error::LeaseExists`], [`Error::LeaseTtlTooLarge`], and as [`Self::write`].
    pub async fn lease_grant(&self, id: i64, ttl: i64) -> Result<LeaseGranted, Error> {
        if ttl > MAX_LEASE_TTL {
            return Err(Error::LeaseTtlTooLarge { ttl, limit: MAX_LEASE_TTL });
        }
        // Lists of leases begin after it.
        if id == i64::MIN {
            return Err(Error::Invalid(format!("{id} can't be the id of a lease")));
        }
        if id != 0 {
            return self.grant(id, ttl).await;
        }
        let mut taken = 0;
        for _ in 0..ID_DRAWS {
            let drawn =
                random_lease_id().map_err(|reason| Error::Internal { node: self.node_id(), reason })?;
            match self.grant(drawn, ttl).await {
                Err(Error::LeaseExists { id }) => taken = id,
                granted => return granted,
            }
        }
        Err(Error::LeaseExists { id: taken })
    }

    async fn grant(&self, id: i64, ttl: i64) -> Result<LeaseGranted, Error> {
        let outcome = self.write(Command::of(Write::LeaseGrant { id, ttl })).await?;
        let OutcomeResult::LeaseGranted { id, ttl } = outcome.result else {
            return Err(self.unexpected("the grant of a lease"));
        };
        Ok(LeaseGranted { revision: outcome.revision, id, ttl })
    }

    /// Ends a lease and removes the keys that are attached to it; answers the
    /// store's revision after it.
    ///
    /// # Errors
    /// [`Error::LeaseNotFound`], [`Error::StillRunning`] when it has ended and its
    /// many keys are still being removed, and as [`Self::write`].
    pub async fn lease_revoke(&self, id: i64) -> Result<i64, Error> {
        let deadline = Instant::now() + LONGEST_REVOCATION;
        let mut ended = None;
        loop {
            match self.write(Command::of(Write::LeaseRevoke { id })).await {
                Ok(outcome) => {
                    let OutcomeResult::LeaseRevoked { more } = outcome.result else {
                        return Err(self.unexpected("the end of a lease"));
                    };
                    if !more {
                        return Ok(outcome.revision);
                    }
                    ended = Some(outcome.revision);
                }
                // Ending it goes on with the leader's ticks, which may come first.
                Err(Error::LeaseNotFound { id }) => match ended {
                    Some(revision) => return Ok(self.inner.store.store().revision().max(revision)),
                    None => return Err(Error::LeaseNotFound { id }),
                },
                Err(error) => return Err(error),
            }
            // The leader goes on with it, no faster than others' writes allow.
            let mut applied = self.inner.store.watch_applied();
            let gone = applied.wait_for(|_| self.inner.store.leases().get(id).is_none());
            let _ = tokio::time::timeout(ASK_AGAIN, gone).await;
            if Instant::now() >= deadline {
                return Err(Error::StillRunning(format!(
                    "lease {id} has ended; its keys are still being removed, which goes on by itself"
                )));
            }
        }
    }

    /// Starts the time to live of a lease anew.
    ///
    /// # Errors
    /// [`Error::Overloaded`] when too many wait for it, and as [`Self::write`],
    /// but for an unknown outcome: renewing again does no harm, so it was tried
    /// again until time was up.
    pub async fn lease_keep_alive(&self, id: i64) -> Result<LeaseRenewed, Error> {
        self.inner.renewals.renew(id).await
    }

    /// What is known of a lease, with its keys if `keys` is set.
    ///
    /// # Errors
    /// [`Error::AnswerTooLarge`] for more keys than an answer may hold, and when
    /// no leader confirms in time.
    pub async fn lease_time_to_live(&self, id: i64, keys: bool) -> Result<LeaseStatus, Error> {
        let deadline = Instant::now() + self.inner.options.request_timeout;
        self.wait_for(Consistency::Linearizable, deadline).await?;
        let known = self.inner.store.leases().remaining(id, StdInstant::now());
        let revision = self.inner.store.store().revision();
        let Some((lease, ttl)) = known else {
            let (keys, counted) = Default::default();
            return Ok(LeaseStatus { revision, id, ttl: -1, granted_ttl: 0, keys, counted });
        };
        let (keys, counted) = if keys {
            let read = move |store: &Store, room: &mut Room| attached_keys(store, id, room);
            let (keys, room) = self.read_into_room(deadline, false, read).await?;
            (keys.ok_or_else(|| self.no_room(&room))?, room.into_counted())
        } else {
            Default::default()
        };
        Ok(LeaseStatus { revision, id, ttl, granted_ttl: lease.ttl, keys, counted })
    }

    /// The store's revision and the ids of all living leases, the next to expire
    /// first.
    ///
    /// # Errors
    /// When no leader confirms in time.
    pub async fn leases(&self) -> Result<(i64, Vec<i64>), Error> {
        let deadline = Instant::now() + self.inner.options.request_timeout;
        self.wait_for(Consistency::Linearizable, deadline).await?;
        let ids = self.inner.store.leases().ids();
        Ok((self.inner.store.store().revision(), ids))
    }
}

/// All keys attached to a lease; `None` if there is not enough room for them.
fn attached_keys(store: &Store, id: i64, room: &mut Room) -> Result<Option<Vec<Bytes>>, ReadError> {
    let mut keys: Vec<Bytes> = Vec::new();
    loop {
        let page = store.lease_keys(id, keys.last().map(Bytes::as_ref), KEYS_PAGE)?;
        if page.is_empty() {
            return Ok(Some(keys));
        }
        // A key costs what holds it too.
        if !room.take_bytes(page.iter().map(|key| key.len() + size_of::<Bytes>()).sum()) {
            return Ok(None);
        }
        keys.extend(page);
    }
}

/// A positive number that is hardly ever in use. Of 53 bits, because readers of
/// JSON that take every number for a floating-point one keep those exact; the
/// highest is set, so that ids, and the keys of locks that end with them, are of one
/// length and sort alike.
fn random_lease_id() -> Result<i64, String> {
    let random = getrandom::u64().map_err(|error| format!("no random number for a lease's id: {error}"))?;
    Ok(i64::try_from(random >> 12 | 1 << 52).expect("53 bits are no negative number"))
}

/// Renews leases through the log.
pub(super) struct RenewByConsensus(pub(super) Weak<Inner>);

impl Renew for RenewByConsensus {
    async fn renew(&self, ids: Vec<i64>) -> Result<Renewed, Error> {
        let Some(inner) = self.0.upgrade() else {
            return Err(Error::Unknown { reason: "the node is stopping".to_owned() });
        };
        let service = Service { inner };
        let asked = ids.len();
        let proposal = Command::of(Write::LeaseRenew { ids }).encode();
        let deadline = Instant::now() + service.inner.options.request_timeout;
        loop {
            match service.commit_by(&proposal, deadline).await {
                Ok(Outcome { revision, result: OutcomeResult::LeasesRenewed { ttls } })
                    if ttls.len() == asked =>
                {
                    RequestCounters::add_many(&service.inner.counters.lease_renewals, asked);
                    return Ok(Renewed { revision, ttls });
                }
                Ok(Outcome { revision, result: OutcomeResult::Rejected(rejection) }) => {
                    return Err(service.refusal(rejection, revision));
                }
                Ok(_) => return Err(service.unexpected("a keep-alive")),
                // To renew twice does no harm.
                Err(Error::Unknown { .. }) if Instant::now() + RETRY_PAUSE < deadline => {
                    tokio::time::sleep(RETRY_PAUSE).await;
                }
                Err(error) => return Err(error),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drawn_ids_are_positive_and_exact_as_floating_point_numbers() {
        for _ in 0..1_000 {
            let id = random_lease_id().unwrap();
            assert!((1 << 52..1 << 53).contains(&id), "{id}");
        }
    }
}

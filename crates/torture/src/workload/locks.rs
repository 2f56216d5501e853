//! Locks that live by a lease: taken, held, and given up in every way there is.
//!
//! When a client believes that it holds a lock is worked out from moments before it sent what
//! was answered, never from moments at which answers came: see [`Holding`].

use tokio::time::Instant;

use super::session::Session;
use super::wire::{Granted, Renewal, Wire};
use crate::history::{Call, Compare, Holding, Outcome, Step, StepResult, keys};

/// Different locks; few, so that they are contended.
const LOCKS: usize = 4;

/// What a client of locks saw.
#[derive(Debug, Default)]
pub(super) struct Locked {
    /// The times during which it held a lock.
    pub(super) holdings: Vec<Holding>,
    /// Leases that ended before their time.
    pub(super) broken: Vec<String>,
}

impl Locked {
    /// A lease was told to be gone; nobody but this client could have revoked it, and it did not.
    fn lease_gone(&mut self, lease: i64, safe_until: Instant) {
        let early = safe_until.saturating_duration_since(Instant::now());
        if !early.is_zero() {
            self.broken
                .push(format!("lease {lease} was told to be gone {early:?} before it could have ended"));
        }
    }
}

/// A client that does nothing but take locks.
pub(super) async fn work(session: &mut Session<impl Wire>) -> Locked {
    let mut locked = Locked::default();
    while session.shared.goes_on() {
        let ttl = 2 + session.dice.below(4) as i64;
        let sent = Instant::now();
        if let Some(lease) = session.grant(ttl).await {
            if session.dice.chance(35) {
                queue(session, lease, sent + lease.ttl, &mut locked).await;
            } else {
                contend(session, lease, sent + lease.ttl, &mut locked).await;
            }
        }
        let time = session.dice.millis(20, 400);
        session.shared.pause(time).await;
    }
    locked
}

/// A lock that was taken.
struct Held {
    lock: String,
    /// The key that stands for it; the lock service gives each client one of its own.
    key: String,
    lease: i64,
    fencing: i64,
    from: Instant,
    /// Until when the lease lives at least.
    safe_until: Instant,
}

/// Tries to take a lock under a lease that lives at least until `safe_until`.
async fn contend(
    session: &mut Session<impl Wire>,
    lease: Granted,
    mut safe_until: Instant,
    locked: &mut Locked,
) {
    let lock = format!("{}{}", keys::LOCK, session.dice.below(LOCKS));
    for _ in 0..20 {
        if !session.shared.goes_on() || Instant::now() >= safe_until {
            break;
        }
        let client = session.client;
        let value = format!("v{}", session.shared.new_value());
        let take = Call::Txn {
            compares: vec![Compare::CreateRevision { key: lock.clone(), revision: 0 }],
            then: vec![Step::Put { key: lock.clone(), value, lease: Some(lease.id) }],
            otherwise: if session.dice.chance(50) {
                vec![Step::Get { key: lock.clone() }]
            } else {
                Vec::new()
            },
            local: false,
        };
        match session.call(take).await {
            Outcome::Done { revision, succeeded: true, .. } => {
                let from = Instant::now();
                let key = lock.clone();
                let held = Held { lock, key, lease: lease.id, fencing: revision, from, safe_until };
                hold(session, held, client, locked).await;
                return;
            }
            // It may have been taken, but nobody may act on that.
            Outcome::Unknown { .. } => break,
            Outcome::Done { .. }
            | Outcome::Failed { .. }
            | Outcome::SeedWritten
            | Outcome::SeedFound { .. } => {}
        }
        let time = session.dice.millis(20, 200);
        session.shared.pause(time).await;
        if safe_until.saturating_duration_since(Instant::now()) < lease.ttl / 2 {
            let sent = Instant::now();
            match session.keep_alive(lease.id).await {
                Renewal::Renewed(ttl) => safe_until = safe_until.max(sent + ttl),
                Renewal::Gone => {
                    locked.lease_gone(lease.id, safe_until);
                    return;
                }
                Renewal::Unknown => {}
            }
        }
    }
    if session.dice.chance(70) {
        session.revoke(lease.id).await;
    }
}

/// Takes a lock of etcd's lock service under a lease, waiting for its turn.
async fn queue(session: &mut Session<impl Wire>, lease: Granted, safe_until: Instant, locked: &mut Locked) {
    let lock = format!("{}{}", keys::MUTEX, session.dice.below(LOCKS));
    if let Some(key) = session.acquire(&lock, lease.id).await {
        // Its place in the queue is the revision at which its key came to be.
        let reading = Call::Txn {
            compares: Vec::new(),
            then: vec![Step::Get { key: key.clone() }],
            otherwise: Vec::new(),
            local: false,
        };
        if let Outcome::Done { results, .. } = session.call(reading).await
            && let Some(StepResult::Got(Some(record))) = results.first()
        {
            let (from, client) = (Instant::now(), session.client);
            let fencing = record.create_revision;
            let held = Held { lock, key, lease: lease.id, fencing, from, safe_until };
            hold(session, held, client, locked).await;
            return;
        }
    }
    // It may still be waiting its turn; then it goes with its lease.
    if session.dice.chance(70) {
        session.revoke(lease.id).await;
    }
}

/// Holds a lock for a while, keeping its lease alive, and gives it up.
async fn hold(session: &mut Session<impl Wire>, mut held: Held, client: u32, locked: &mut Locked) {
    // Some for so long that a leader which nobody hears meanwhile takes the lease to be over.
    let (least, most) = if session.dice.chance(30) { (5_000, 15_000) } else { (50, 5_000) };
    let wished = held.from + session.dice.millis(least, most);
    let mut lost = None;
    loop {
        let now = Instant::now();
        if now >= wished.min(held.safe_until) || !session.shared.goes_on() {
            break;
        }
        // Well before the lease could end, and now and then too late.
        let left = held.safe_until - now;
        let pause = if session.dice.chance(95) { left / 3 } else { left };
        session.shared.pause(pause.min(wished.saturating_duration_since(now))).await;
        let sent = Instant::now();
        if sent >= wished.min(held.safe_until) {
            break;
        }
        let asking = session.keep_alive(held.lease);
        match tokio::time::timeout_at(held.safe_until, asking).await {
            Ok(Renewal::Renewed(ttl)) => held.safe_until = held.safe_until.max(sent + ttl),
            Ok(Renewal::Gone) => {
                lost = Some(Instant::now());
                locked.lease_gone(held.lease, held.safe_until);
                break;
            }
            Ok(Renewal::Unknown) | Err(_) => {}
        }
    }
    let until = lost.unwrap_or_else(Instant::now).min(held.safe_until);
    // Who was told so late that the lease could have ended never believed it.
    if held.from < until {
        let clock = session.shared.clock;
        locked.holdings.push(Holding {
            client,
            lock: held.lock.clone(),
            lease: held.lease,
            fencing: held.fencing,
            from: clock.at(held.from.into_std()),
            until: clock.at(until.into_std()),
        });
    }
    if lost.is_none() {
        give_up(session, &held).await;
    }
}

async fn give_up(session: &mut Session<impl Wire>, held: &Held) {
    match session.dice.below(10) {
        0..5 => {
            if held.key == held.lock {
                // The lock may be somebody else's by now, so it is deleted only if it is not.
                let is_own = Compare::CreateRevision { key: held.key.clone(), revision: held.fencing };
                let release = Call::Txn {
                    compares: vec![is_own],
                    then: vec![Step::Delete { key: held.key.clone() }],
                    otherwise: Vec::new(),
                    local: false,
                };
                session.call(release).await;
            } else {
                session.release(&held.key).await;
            }
            if session.dice.chance(80) {
                session.revoke(held.lease).await;
            }
        }
        5..8 => session.revoke(held.lease).await,
        // Abandoned: the lease ends by itself.
        _ => {}
    }
}

//! Turns: whose key under a prefix is the oldest has the turn, and the others wait.
//!
//! Locks and elections are both this. A contender's key is named by its lease and lives by it,
//! so a contender that is gone gives its place up. Each waits for the one just before it alone,
//! so that a turn that is handed on wakes one call and not all.
//!
//! What holds whatever happens to calls, nodes and leases:
//!
//! 1. A turn is told only after a linearizable read has found the contender's key, and no older
//!    one. Ages are revisions of creation, so no key can come in before another.
//! 2. A call whose client is gone takes its key away, unless somebody may have been told that
//!    the key has the turn. Several calls may contend with one lease; each writes the key anew
//!    and answers for it from then on, and the earlier ones leave it alone.
//! 3. A call is carried out by a task of its own, which outlives the client's interest: what is
//!    on its way into the log can't be called back, only taken away afterwards.

use std::time::Duration;

use bytes::Bytes;
use tokio::sync::oneshot;
use tonic::Status;

use super::{Context, status};
use crate::command::{Compare, DeleteOp, Op, OpOutcome, PutOp, Relation, Target, Txn};
use crate::error::Error;
use crate::etcd_api::gate::Waiting;
use crate::keyspace::{KeyRange, KeyValue, RangeRequest, RevisionBounds, Sort, SortBy};
use crate::service::{Consistency, Service};
use crate::watch::{WatchMessage, WatchRefusal, WatchRequest};

/// Time to live of a lease that is granted to a contender without one, in seconds.
const LENT_TTL: i64 = 60;
/// How often such a lease is renewed while its contender waits.
const RENEWAL: Duration = Duration::from_secs(LENT_TTL as u64 / 3);
/// How long to wait after something did not work.
pub(super) const RETRY: Duration = Duration::from_millis(500);
/// How often the key of a client that is gone is tried to be taken away; then its lease does it.
const LEAVING: usize = 5;

/// Who wants the turn.
pub(super) struct Contender {
    /// The name of what there are turns of.
    pub(super) name: Bytes,
    /// The lease to live by; zero is one that is granted for this.
    pub(super) lease: i64,
    /// What the key is to hold.
    pub(super) value: Bytes,
    /// What is said to a contender whose key is gone before its turn.
    pub(super) lost: &'static str,
}

/// The turn that a contender has.
pub(super) struct Turn {
    /// The contender's key.
    pub(super) key: Bytes,
    /// The revision that created the key.
    pub(super) created: i64,
    /// The lease that the key lives by.
    pub(super) lease: i64,
    /// The revision at which the key had the turn.
    pub(super) revision: i64,
}

/// The keys of all who contend for `name`.
pub(super) fn contenders(name: &[u8]) -> KeyRange {
    KeyRange::prefix([name, b"/"].concat())
}

/// Reads the contender who has the turn, if there is one.
pub(super) fn first(name: &[u8]) -> RangeRequest {
    let sort = Some(Sort::ascending(SortBy::CreateRevision));
    RangeRequest { sort, limit: Some(1), ..RangeRequest::of(contenders(name)) }
}

/// Waits for the turn of `contender`.
///
/// # Errors
/// When the lease or the key is gone, too many wait, or the node stops.
///
/// # Cancel safety
/// A call that is dropped gives its place up, soon after.
pub(super) async fn take(
    context: &Context,
    waiting: Option<Waiting>,
    contender: Contender,
) -> Result<Turn, Status> {
    let (answer, turn) = oneshot::channel();
    let service = context.service();
    service.runtime().spawn(Box::pin(contend(service.clone(), waiting, contender, answer)));
    turn.await.unwrap_or_else(|_| Err(status::stopped()))
}

async fn contend(
    service: Service,
    waiting: Option<Waiting>,
    contender: Contender,
    mut answer: oneshot::Sender<Result<Turn, Status>>,
) {
    let taken = Place::take(&service, contender).await;
    let place = match taken {
        Ok(place) => place,
        Err(error) => return drop(answer.send(Err(status::of(&error)))),
    };
    let result = tokio::select! {
        turn = place.turn(&service, waiting.as_ref()) => Some(turn),
        () = answer.closed() => None,
        () = place.keep_alive(&service) => None,
        () = closed(waiting.clone()) => Some(Err(status::stopped())),
    };
    let told = match result {
        Some(Ok(turn)) => answer.send(Ok(turn)).is_ok(),
        Some(Err(status)) => {
            // Who does not listen any more needs no reason.
            let _ = answer.send(Err(status));
            false
        }
        None => false,
    };
    if !told {
        place.leave(&service).await;
    }
}

async fn closed(waiting: Option<Waiting>) {
    match waiting {
        Some(waiting) => waiting.closed().await,
        None => std::future::pending().await,
    }
}

/// A contender's key.
struct Place {
    name: Bytes,
    key: Bytes,
    lease: i64,
    /// Whether the lease was granted for this place alone.
    is_lent: bool,
    /// The revision that created the key.
    created: i64,
    /// The revision at which this call wrote it.
    written: i64,
    /// Whether there was none before this one.
    is_first: bool,
    lost: &'static str,
}

impl Place {
    async fn take(service: &Service, contender: Contender) -> Result<Self, Error> {
        let Contender { name, lease, value, lost } = contender;
        if lease != 0 {
            return Self::write(service, name, lease, false, value, lost).await;
        }
        let lease = service.lease_grant(0, LENT_TTL).await?.id;
        let taken = Self::write(service, name, lease, true, value, lost).await;
        if taken.is_err() {
            // Whatever became of the key, it can't outlive its lease.
            let _ = service.lease_revoke(lease).await;
        }
        taken
    }

    async fn write(
        service: &Service,
        name: Bytes,
        lease: i64,
        is_lent: bool,
        value: Bytes,
        lost: &'static str,
    ) -> Result<Self, Error> {
        let key = key(&name, lease);
        let put = PutOp { key: key.clone(), value: Some(value), lease: Some(lease), want_previous: true };
        let success = vec![Op::Put(put), Op::Range(RangeRequest { keys_only: true, ..first(&name) })];
        let txn = Txn { success, ..Txn::default() };
        let (written, done) = service.txn(txn, None, Consistency::Linearizable).await?;
        let mut created = written;
        let mut is_first = false;
        for response in done.responses {
            match response {
                OpOutcome::Put { revision: _, previous: Some(before) } => {
                    created = before.record.create_revision;
                }
                OpOutcome::Range { revision: _, found } => is_first = names(found.items.first(), &key),
                OpOutcome::Put { .. } | OpOutcome::Deleted { .. } | OpOutcome::Txn(_) => {}
            }
        }
        Ok(Self { name, key, lease, is_lent, created, written, is_first, lost })
    }

    /// Waits for the turn.
    async fn turn(&self, service: &Service, waiting: Option<&Waiting>) -> Result<Turn, Status> {
        if self.is_first {
            return Ok(self.at(self.written));
        }
        if let Some(waiting) = waiting {
            waiting.begin()?;
        }
        loop {
            match self.look(service).await {
                Ok(Standing::First { revision }) => return Ok(self.at(revision)),
                Ok(Standing::Behind { revision, before }) => {
                    self.change(service, revision, before).await?;
                }
                Ok(Standing::Lost) => return Err(Status::unknown(self.lost)),
                Err(error) if is_passing(&error) => tokio::time::sleep(RETRY).await,
                Err(error) => return Err(status::of(&error)),
            }
        }
    }

    fn at(&self, revision: i64) -> Turn {
        Turn { key: self.key.clone(), created: self.created, lease: self.lease, revision }
    }

    /// Who is before this place.
    async fn look(&self, service: &Service) -> Result<Standing, Error> {
        let just_before = RangeRequest {
            sort: Some(Sort::descending(SortBy::CreateRevision)),
            limit: Some(1),
            keys_only: true,
            revisions: RevisionBounds { max_create: self.created - 1, ..RevisionBounds::default() },
            ..RangeRequest::of(contenders(&self.name))
        };
        let own = RangeRequest { keys_only: true, ..RangeRequest::of(KeyRange::One(self.key.clone())) };
        let success = vec![Op::Range(just_before), Op::Range(own)];
        let txn = Txn { success, ..Txn::default() };
        let (revision, done) = service.txn(txn, None, Consistency::Linearizable).await?;
        let mut found = done.responses.into_iter().map(|response| match response {
            OpOutcome::Range { revision: _, found } => found.items.into_iter().next(),
            OpOutcome::Put { .. } | OpOutcome::Deleted { .. } | OpOutcome::Txn(_) => None,
        });
        let (before, own) = (found.next().flatten(), found.next().flatten());
        Ok(match (own, before) {
            (Some(own), _) if own.record.create_revision != self.created => Standing::Lost,
            (None, _) => Standing::Lost,
            (Some(_), None) => Standing::First { revision },
            (Some(_), Some(before)) => Standing::Behind { revision, before: before.key },
        })
    }

    /// Waits until this key or the one before it may be gone after `revision`.
    async fn change(&self, service: &Service, revision: i64, before: Bytes) -> Result<(), Status> {
        let mut session = service.watch().session();
        for key in [before, self.key.clone()] {
            let request = WatchRequest {
                from: Some(revision + 1),
                no_put: true,
                ..WatchRequest::of(KeyRange::One(key))
            };
            session.create(request).map_err(refused)?;
        }
        loop {
            match session.next().await {
                WatchMessage::Events { .. } | WatchMessage::Canceled { .. } => return Ok(()),
                WatchMessage::Created { .. } | WatchMessage::Progress { .. } => {}
                WatchMessage::Closed => return Err(status::stopped()),
            }
        }
    }

    /// Keeps a lease alive that nobody else knows; never ends.
    async fn keep_alive(&self, service: &Service) {
        if !self.is_lent {
            return std::future::pending().await;
        }
        loop {
            tokio::time::sleep(RENEWAL).await;
            // If that fails until the lease has ended, the key is seen to be gone.
            let _ = service.lease_keep_alive(self.lease).await;
        }
    }

    /// Takes the key away, for nobody waits for it any more.
    async fn leave(&self, service: &Service) {
        for _ in 0..LEAVING {
            let left = if self.is_lent {
                service.lease_revoke(self.lease).await.map(drop)
            } else {
                service.txn(self.leaving(), None, Consistency::Linearizable).await.map(drop)
            };
            match left {
                Ok(()) | Err(Error::LeaseNotFound { .. }) => return,
                Err(error) => {
                    tracing::debug!(%error, "a place that was given up is still taken; it is tried again");
                    tokio::time::sleep(RETRY).await;
                }
            }
        }
    }

    /// Takes the key away if it still is as this call wrote it. One that was there before may
    /// be what somebody was told to have the turn by, unless there still is an older one.
    fn leaving(&self) -> Txn {
        let own = KeyRange::One(self.key.clone());
        let delete = Op::Delete(DeleteOp { keys: own.clone(), want_previous: false });
        let delete = if self.created == self.written {
            delete
        } else {
            let none_is_older = Compare {
                keys: contenders(&self.name),
                target: Target::CreateRevision(self.created - 1),
                relation: Relation::Greater,
            };
            Op::Txn(Txn { compares: vec![none_is_older], success: Vec::new(), failure: vec![delete] })
        };
        let untouched =
            Compare { keys: own, target: Target::ModRevision(self.written), relation: Relation::Equal };
        Txn { compares: vec![untouched], success: vec![delete], failure: Vec::new() }
    }
}

enum Standing {
    First {
        revision: i64,
    },
    /// The key just before this one.
    Behind {
        revision: i64,
        before: Bytes,
    },
    /// The key is gone.
    Lost,
}

/// The key by which `lease` contends for `name`: its number in hexadecimal digits.
fn key(name: &[u8], lease: i64) -> Bytes {
    let sign = if lease < 0 { "-" } else { "" };
    [name, format!("/{sign}{:x}", lease.unsigned_abs()).as_bytes()].concat().into()
}

fn names(item: Option<&KeyValue>, key: &Bytes) -> bool {
    item.is_some_and(|item| item.key == key)
}

pub(super) fn refused(refusal: WatchRefusal) -> Status {
    Status::resource_exhausted(format!("etcdserver: {refusal}"))
}

/// Whether the same read may well succeed later, so that whoever waits may go on waiting.
pub(super) fn is_passing(error: &Error) -> bool {
    matches!(
        error,
        Error::NotLeader { .. }
            | Error::Unavailable { .. }
            | Error::Overloaded { .. }
            | Error::ReadTimeout(_)
            | Error::Unknown { .. }
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_carries_its_lease_in_hexadecimal_digits() {
        assert_eq!(key(b"name", 0x7b_2a), "name/7b2a");
        assert_eq!(key(b"", -9), "/-9");
        assert_eq!(key(b"a/b", i64::MIN), "a/b/-8000000000000000");
        assert!(contenders(b"a").contains(b"a/7"));
        assert!(!contenders(b"a").contains(b"a0") && !contenders(b"a").contains(b"a"));
    }

    fn place(created: i64, written: i64) -> Place {
        Place {
            name: "n".into(),
            key: "n/7".into(),
            lease: 7,
            is_lent: false,
            created,
            written,
            is_first: false,
            lost: "",
        }
    }

    #[test]
    fn only_a_key_of_the_call_itself_is_taken_away_whoever_is_before_it() {
        let delete = Op::Delete(DeleteOp { keys: KeyRange::One("n/7".into()), want_previous: false });
        let made = place(5, 5).leaving();
        assert_eq!((made.compares.len(), &made.success), (1, &vec![delete.clone()]));
        assert_eq!(made.compares[0].target, Target::ModRevision(5));
        let joined = place(5, 8).leaving();
        assert_eq!(joined.compares[0].target, Target::ModRevision(8));
        let [Op::Txn(nested)] = joined.success.as_slice() else { panic!("{joined:?}") };
        assert_eq!(nested.compares[0].target, Target::CreateRevision(4));
        assert_eq!((&nested.success, &nested.failure), (&Vec::new(), &vec![delete]));
    }
}

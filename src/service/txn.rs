//! Transactions, range reads as etcd means them, and compaction.
//!
//! What changes nothing never goes through the log: it is confirmed like any
//! other read and answered from the local state. Reads of single keys run where
//! they are; whatever may scan runs on a thread of its own, few at a time, and
//! with a bound on what one answer may hold.

use tokio::time::Instant;

use super::check::{check_range, check_txn};
use super::handle::{RequestCounters, Service};
use super::kv::Consistency;
use crate::command::{Command, Idempotency, Op, OpOutcome, OutcomeResult, Txn, TxnOutcome, Write};
use crate::error::Error;
use crate::inflight::AnswerBytes;
use crate::keyspace::{KeyRange, RangeRequest, RangeResult};
use crate::mvcc::{ReadError, Room, Store};
use crate::store::MAX_ANSWER_BYTES;

/// Most single keys that a transaction reads where it is.
const MAX_POINT_READS: usize = 16;
/// Bytes of an operation's answer in a message, and of a key's record, besides
/// keys and values.
const PER_ANSWER: usize = 32;
const PER_ITEM: usize = 40;

impl Service {
    /// Carries a transaction out at one revision; one that only reads is answered
    /// from a state as recent as `consistency` demands. Answers the store's
    /// revision with what happened.
    ///
    /// # Errors
    /// When the transaction breaks a rule or a limit, names what is not there, or
    /// can't be carried out, as [`Self::write`] says. [`Error::AnswerLost`] when it
    /// was carried out and only its answer is too large.
    pub async fn txn(
        &self,
        txn: Txn,
        idempotency: Option<Idempotency>,
        consistency: Consistency,
    ) -> Result<(i64, TxnOutcome), Error> {
        check_txn(&txn, self.limits())?;
        RequestCounters::add(&self.inner.counters.txns);
        if txn.is_read_only() {
            return self.read_txn(txn, consistency).await;
        }
        let command = Command { write: Write::Txn(txn), condition: None, idempotency };
        let outcome = self.write(command).await?;
        let OutcomeResult::Txn(done) = outcome.result else {
            return Err(self.unexpected("a transaction"));
        };
        Ok((outcome.revision, done))
    }

    async fn read_txn(&self, txn: Txn, consistency: Consistency) -> Result<(i64, TxnOutcome), Error> {
        let deadline = Instant::now() + self.inner.options.request_timeout;
        self.wait_to_read(consistency, deadline).await?;
        let at_once = reads_single_keys(&txn);
        let read = move |store: &Store, room: &mut Room| store.read_txn(&txn, room);
        let ((revision, done), room) = self.read_into_room(deadline, at_once, read).await?;
        if is_cut(&done) {
            return Err(self.no_room(&room));
        }
        Ok((revision, TxnOutcome { counted: room.into_counted(), ..done }))
    }

    /// Reads a range; answers the store's revision with what was found.
    ///
    /// # Errors
    /// When the revision can't be read, the answer would be too large, or no
    /// leader confirms in time.
    pub async fn read(
        &self,
        request: RangeRequest,
        consistency: Consistency,
    ) -> Result<(i64, RangeResult), Error> {
        check_range(&request)?;
        let deadline = Instant::now() + self.inner.options.request_timeout;
        self.wait_to_read(consistency, deadline).await?;
        let at_once = reads_one_key(&request);
        let read = move |store: &Store, room: &mut Room| store.read(&request, room);
        let ((revision, found), room) = self.read_into_room(deadline, at_once, read).await?;
        if found.truncated {
            return Err(self.no_room(&room));
        }
        Ok((revision, RangeResult { counted: room.into_counted(), ..found }))
    }

    /// Reads where it is, if that can be done `at_once`, or else as a scan; answers what
    /// was read with the room that it takes.
    pub(super) async fn read_into_room<T: Send + 'static>(
        &self,
        deadline: Instant,
        at_once: bool,
        read: impl FnOnce(&Store, &mut Room) -> Result<T, ReadError> + Send + 'static,
    ) -> Result<(T, Room), Error> {
        let mut room = Room::counted(MAX_ANSWER_BYTES, &self.inner.inflight);
        let read = move |store: &Store| read(store, &mut room).map(|found| (found, room));
        if at_once {
            let found = read(&self.inner.store.store());
            return found.map_err(|error| error.into_answer(self.node_id()));
        }
        self.scan(deadline, read).await
    }

    /// Counts an answer that holds `bytes` at a time as long as it is being sent.
    ///
    /// # Errors
    /// [`Error::Overloaded`] when too much is in flight.
    pub fn hold_answer(&self, bytes: usize) -> Result<AnswerBytes, Error> {
        let held = self.inner.inflight.hold_answer(bytes);
        held.ok_or_else(|| Error::Overloaded { node: self.node_id() })
    }

    /// Why there was no more room for the answer to a read.
    pub(super) fn no_room(&self, room: &Room) -> Error {
        if room.is_refused() {
            return Error::Overloaded { node: self.node_id() };
        }
        Error::AnswerTooLarge { limit: MAX_ANSWER_BYTES }
    }

    /// Makes revisions below `revision` unreadable; answers the store's revision.
    /// With `physical`, also waits until their space is no longer in use here.
    ///
    /// # Errors
    /// [`Error::Compacted`] when that was done before, [`Error::FutureRevision`]
    /// when the revision is not written yet.
    pub async fn compact(&self, revision: i64, physical: bool) -> Result<i64, Error> {
        let outcome = self.write(Command::of(Write::Compact { revision })).await?;
        if physical {
            self.reclaimed(revision).await?;
        }
        Ok(outcome.revision)
    }

    /// Waits until this node holds nothing that only revisions below `revision`
    /// needed.
    async fn reclaimed(&self, revision: i64) -> Result<(), Error> {
        let timeout = self.inner.options.request_timeout;
        let deadline = Instant::now() + timeout;
        let late = |what: &str| {
            Error::StillRunning(format!(
                "revision {revision} is compacted, but node {} {what}",
                self.node_id()
            ))
        };
        // Compaction takes effect with the batch that applies it, and this node may
        // have forwarded it and not applied it yet.
        let mut applied = self.inner.store.watch_applied();
        let reached = applied.wait_for(|_| self.inner.store.store().compacted_revision() >= revision);
        match tokio::time::timeout_at(deadline, reached).await {
            Ok(Ok(_)) => {}
            Ok(Err(_)) => return Err(self.state_machine_stopped()),
            Err(_) => return Err(late("does not know it yet")),
        }
        let store = self.inner.store.clone();
        let until = deadline.into_std();
        let waiting = self.inner.runtime.spawn_blocking(move || store.store().wait_reclaimed(until));
        match waiting.await {
            Ok(Ok(true)) => Ok(()),
            Ok(Ok(false)) => Err(late("is still removing what it made obsolete")),
            Ok(Err(error)) => Err(self.failed(&error)),
            Err(error) => Err(self.failed(&error)),
        }
    }

    fn failed(&self, error: &dyn std::error::Error) -> Error {
        Error::Internal { node: self.node_id(), reason: error.to_string() }
    }
}

/// Whether the request is for a single key as it is now.
fn reads_one_key(request: &RangeRequest) -> bool {
    request.at.is_none() && matches!(request.keys, KeyRange::One(_))
}

/// Whether the transaction reads a few single keys of the present and no more.
fn reads_single_keys(txn: &Txn) -> bool {
    let reads = txn.compares.len() + txn.success.len().max(txn.failure.len());
    reads <= MAX_POINT_READS
        && txn.compares.iter().all(|compare| matches!(compare.keys, KeyRange::One(_)))
        && txn.success.iter().chain(&txn.failure).all(|op| match op {
            Op::Range(request) => reads_one_key(request),
            Op::Put(_) | Op::Delete(_) | Op::Txn(_) => false,
        })
}

/// Whether a part of the answer was left out because it grew too large. What changed
/// something never comes back so: it is refused as a whole where it is applied.
fn is_cut(done: &TxnOutcome) -> bool {
    done.responses.iter().any(|response| match response {
        OpOutcome::Range { revision: _, found } => found.truncated,
        OpOutcome::Txn(nested) => is_cut(nested),
        OpOutcome::Put { .. } | OpOutcome::Deleted { .. } => false,
    })
}

/// About how many bytes a message takes that carries the answer.
pub(super) fn answer_bytes(done: &TxnOutcome) -> usize {
    fn answers(done: &TxnOutcome) -> usize {
        let nested = |response: &OpOutcome| match response {
            OpOutcome::Txn(nested) => answers(nested),
            OpOutcome::Put { .. } | OpOutcome::Deleted { .. } | OpOutcome::Range { .. } => 0,
        };
        done.responses.iter().map(|response| 1 + nested(response)).sum()
    }
    PER_ANSWER * answers(done) + done.item_bytes(PER_ITEM)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::command::{Compare, Outcome, Relation, Target};
    use crate::keyspace::{KeyValue, Record};

    fn one(key: &'static str) -> KeyRange {
        KeyRange::One(Bytes::from_static(key.as_bytes()))
    }

    #[test]
    fn only_few_single_keys_of_the_present_are_read_where_they_are() {
        let compare = |keys| Compare { keys, target: Target::Version(0), relation: Relation::Equal };
        let reading = |request: RangeRequest| Txn {
            compares: vec![compare(one("c"))],
            success: vec![Op::Range(request)],
            failure: Vec::new(),
        };
        let request = RangeRequest::of(one("k"));
        assert!(reads_single_keys(&reading(request.clone())));
        assert!(!reads_single_keys(&reading(RangeRequest { at: Some(3), ..request.clone() })));
        assert!(!reads_single_keys(&reading(RangeRequest::of(KeyRange::all()))));
        let mut txn = reading(request.clone());
        txn.compares.push(compare(KeyRange::all()));
        assert!(!reads_single_keys(&txn));
        let nested = Txn::of(Op::Txn(reading(request.clone())));
        assert!(!reads_single_keys(&nested));
        let many = Txn { success: vec![Op::Range(request); MAX_POINT_READS + 1], ..Txn::default() };
        assert!(!reads_single_keys(&many));
    }

    #[test]
    fn an_answer_is_weighed_as_it_is_sent() {
        let record =
            Record { value: Bytes::new(), create_revision: 3, mod_revision: 7, version: 2, lease: 0 };
        let item = |size: usize| {
            let record = Record { value: vec![7; size].into(), ..record.clone() };
            KeyValue { key: Bytes::from_static(b"key"), record }
        };
        let found = RangeResult { items: vec![item(100), item(0)], count: 2, ..RangeResult::default() };
        let outcome = |responses| TxnOutcome { succeeded: true, responses, ..TxnOutcome::default() };
        let inner = outcome(vec![OpOutcome::Range { revision: 1, found }]);
        let done = outcome(vec![
            OpOutcome::Put { revision: 1, previous: Some(item(1_000)) },
            OpOutcome::Put { revision: 1, previous: None },
            OpOutcome::Deleted { revision: 1, count: 1, previous: vec![item(10_000)] },
            OpOutcome::Txn(inner),
        ]);
        let weighed = answer_bytes(&done);
        let sent = Outcome { revision: 1, result: OutcomeResult::Txn(done) }.encode().len();
        assert!((sent..sent + 200).contains(&(weighed + 64)), "{weighed} for {sent}");
    }

    #[test]
    fn a_cut_answer_is_found_however_deep_it_lies() {
        let range = |truncated| OpOutcome::Range {
            revision: 1,
            found: RangeResult { truncated, ..RangeResult::default() },
        };
        let outcome = |responses| TxnOutcome { succeeded: true, responses, ..TxnOutcome::default() };
        let nested = |truncated| outcome(vec![range(false), OpOutcome::Txn(outcome(vec![range(truncated)]))]);
        assert!(is_cut(&nested(true)));
        assert!(!is_cut(&nested(false)));
    }
}

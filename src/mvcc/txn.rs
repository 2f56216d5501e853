//! Transactions: compare, choose a branch, run it at one revision.

use std::ops::ControlFlow;

use bytes::Bytes;

use super::range::{Room, Source, holds, read_range};
use super::{KeyValue, ReadError, WriteSession};
use crate::command::{DeleteOp, Op, OpOutcome, PutOp, Rejection, Txn, TxnOutcome};
use crate::error::StorageError;
use crate::keyspace::{KeyRange, RangeRequest};

/// What one command may remove.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Removal {
    /// Keys.
    pub keys: u64,
    /// Bytes of keys and values.
    pub bytes: u64,
}

impl Removal {
    /// Takes one key off; answers whether it was still there.
    fn take(&mut self, bytes: usize) -> bool {
        let left = self.keys.checked_sub(1).zip(self.bytes.checked_sub(bytes as u64));
        if let Some((keys, bytes)) = left {
            *self = Self { keys, bytes };
        }
        left.is_some()
    }
}

/// What the branches of a transaction come to, once all compares are looked at:
/// they ask about the state before it.
struct Plan<'t> {
    succeeded: bool,
    steps: Vec<Step<'t>>,
}

enum Step<'t> {
    Op(&'t Op),
    Nested(Plan<'t>),
}

impl WriteSession<'_> {
    /// Runs `txn`, all of it at one revision, or refuses it and changes nothing.
    ///
    /// Answers to operations are collected only if somebody `wants_answers`. What
    /// ranges find and what changes replace must find `room`; if it does not, the
    /// transaction is carried out all the same and [`Rejection::AnswerForgotten`] says
    /// so. One that would remove more than `most` is refused. A range at a revision of
    /// the past needs an untouched session, for what a session changed has no past yet.
    ///
    /// # Errors
    /// Trouble with the storage. The session must be dropped then.
    pub fn run(
        &mut self,
        txn: &Txn,
        wants_answers: bool,
        room: &mut Room,
        most: Removal,
    ) -> Result<Result<TxnOutcome, Rejection>, StorageError> {
        let plan = self.plan(txn)?;
        if let Some(rejection) = self.why_impossible(&plan)? {
            return Ok(Err(rejection));
        }
        let mut left = most;
        if !self.removes_within(&plan, &mut left)? {
            let Removal { keys, bytes } = most;
            return Ok(Err(Rejection::DeletionTooLarge { max_keys: keys, max_bytes: bytes }));
        }
        let done = self.at_one_revision(|session| session.carry_out(&plan, wants_answers, room))?;
        if room.is_short() {
            return Ok(Err(Rejection::AnswerForgotten { revision: self.revision() }));
        }
        Ok(Ok(done))
    }

    fn plan<'t>(&mut self, txn: &'t Txn) -> Result<Plan<'t>, StorageError> {
        let mut succeeded = true;
        for compare in &txn.compares {
            succeeded = succeeded && holds(self, compare)?;
        }
        let ops = if succeeded { &txn.success } else { &txn.failure };
        let mut steps = Vec::with_capacity(ops.len());
        for op in ops {
            steps.push(match op {
                Op::Txn(nested) => Step::Nested(self.plan(nested)?),
                Op::Put(_) | Op::Delete(_) | Op::Range(_) => Step::Op(op),
            });
        }
        Ok(Plan { succeeded, steps })
    }

    /// Looks for what can't be done before anything is, in the order of the operations: of
    /// several reasons, the first is told.
    fn why_impossible(&mut self, plan: &Plan<'_>) -> Result<Option<Rejection>, StorageError> {
        for step in &plan.steps {
            let rejection = match step {
                Step::Nested(nested) => self.why_impossible(nested)?,
                Step::Op(Op::Put(put)) => self.why_not_put(put)?,
                Step::Op(Op::Range(request)) => self.why_not_range(request)?,
                Step::Op(Op::Delete(_) | Op::Txn(_)) => None,
            };
            if rejection.is_some() {
                return Ok(rejection);
            }
        }
        Ok(None)
    }

    fn why_not_range(&self, request: &RangeRequest) -> Result<Option<Rejection>, StorageError> {
        let Some(at) = request.at else { return Ok(None) };
        match self.check_readable(at) {
            Ok(()) => Ok(None),
            Err(error) => rejection(error).map(Some),
        }
    }

    fn why_not_put(&mut self, put: &PutOp) -> Result<Option<Rejection>, StorageError> {
        if (put.value.is_none() || put.lease.is_none()) && self.get(&put.key)?.is_none() {
            return Ok(Some(Rejection::KeyNotFound));
        }
        self.why_not_attach(put.lease.unwrap_or_default())
    }

    /// Why no key can be attached to the lease `id`, if so; zero is none.
    pub fn why_not_attach(&self, id: i64) -> Result<Option<Rejection>, StorageError> {
        if id == 0 || self.lease(id)?.is_some_and(|lease| !lease.ending) {
            return Ok(None);
        }
        Ok(Some(Rejection::LeaseNotFound { id }))
    }

    /// Takes what the plan's deletions remove off what is `left` to remove; answers
    /// whether it was enough. A key that two of them name counts twice, and nothing is
    /// looked at beyond what may be removed.
    fn removes_within(&mut self, plan: &Plan<'_>, left: &mut Removal) -> Result<bool, StorageError> {
        for step in &plan.steps {
            let is_enough = match step {
                Step::Nested(nested) => self.removes_within(nested, left)?,
                Step::Op(Op::Delete(delete)) => self.range_is_within(&delete.keys, left)?,
                Step::Op(Op::Put(_) | Op::Range(_) | Op::Txn(_)) => true,
            };
            if !is_enough {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn range_is_within(&mut self, keys: &KeyRange, left: &mut Removal) -> Result<bool, StorageError> {
        if let KeyRange::One(key) = keys {
            return Ok(self.get(key)?.is_none_or(|record| left.take(key.len() + record.value.len())));
        }
        let mut is_enough = true;
        self.walk(keys, None, false, &mut |found| {
            is_enough = left.take(found.key.len() + found.value.len());
            Ok(if is_enough { ControlFlow::Continue(()) } else { ControlFlow::Break(()) })
        })?;
        Ok(is_enough)
    }

    fn carry_out(
        &mut self,
        plan: &Plan<'_>,
        wants_answers: bool,
        room: &mut Room,
    ) -> Result<TxnOutcome, StorageError> {
        let mut responses = Vec::new();
        for step in &plan.steps {
            let response = match step {
                Step::Nested(nested) => Some(OpOutcome::Txn(self.carry_out(nested, wants_answers, room)?)),
                Step::Op(Op::Put(put)) => Some(self.carry_out_put(put, wants_answers, room)?),
                Step::Op(Op::Delete(delete)) => Some(self.carry_out_delete(delete, wants_answers, room)?),
                // Nobody would hear of it.
                Step::Op(Op::Range(_)) if !wants_answers => None,
                Step::Op(Op::Range(request)) => {
                    let found = read_range(self, request, room)?;
                    Some(OpOutcome::Range { revision: self.revision(), found })
                }
                Step::Op(Op::Txn(_)) => unreachable!("a nested transaction has its own plan"),
            };
            if wants_answers {
                responses.extend(response);
            }
        }
        Ok(TxnOutcome { succeeded: plan.succeeded, responses, ..TxnOutcome::default() })
    }

    fn carry_out_put(
        &mut self,
        put: &PutOp,
        wants_answers: bool,
        room: &mut Room,
    ) -> Result<OpOutcome, StorageError> {
        let kept = if put.value.is_none() || put.lease.is_none() { self.get(&put.key)? } else { None };
        let value = match (&put.value, &kept) {
            (Some(value), _) => value.clone(),
            (None, Some(kept)) => kept.value.clone(),
            (None, None) => Bytes::new(),
        };
        let lease = put.lease.or(kept.map(|kept| kept.lease)).unwrap_or_default();
        let done = self.put(put.key.clone(), value, lease)?;
        let previous = done.previous.filter(|_| put.want_previous && wants_answers);
        let previous = previous.map(|record| KeyValue { key: put.key.clone(), record });
        let previous = previous.filter(|previous| room.take(previous));
        Ok(OpOutcome::Put { revision: done.revision, previous })
    }

    fn carry_out_delete(
        &mut self,
        delete: &DeleteOp,
        wants_answers: bool,
        room: &mut Room,
    ) -> Result<OpOutcome, StorageError> {
        let keys = self.keys_in(&delete.keys)?;
        let count = keys.len() as u64;
        let mut previous = Vec::new();
        for key in keys {
            let Some((_, record)) = self.delete(key.clone())? else { continue };
            if delete.want_previous && wants_answers {
                let removed = KeyValue { key, record };
                if room.take(&removed) {
                    previous.push(removed);
                }
            }
        }
        Ok(OpOutcome::Deleted { revision: self.revision(), count, previous })
    }
}

fn rejection(error: ReadError) -> Result<Rejection, StorageError> {
    match error {
        ReadError::Compacted { requested, oldest } => Ok(Rejection::Compacted { requested, oldest }),
        ReadError::FutureRevision { requested, current } => {
            Ok(Rejection::FutureRevision { requested, current })
        }
        ReadError::Storage(error) => Err(error),
    }
}

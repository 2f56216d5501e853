//! Transactions of the store in memory: enough of their rules to test a front.

use std::collections::BTreeSet;

use bytes::Bytes;

use super::State;
use crate::command::{Compare, Op, OpOutcome, Relation, Target, Txn, TxnOutcome};
use crate::config::Limits;
use crate::error::Error;
use crate::keyspace::{KeyRange, KeyValue, RangeRequest, RangeResult, SortBy};
use crate::mvcc::Record;

impl State {
    /// Refuses what the layer below would: too many operations, a lease or a kept
    /// key that is not there, a key that is set twice.
    pub(super) fn check_txn(&self, txn: &Txn, limits: &Limits) -> Result<(), Error> {
        let count = txn.compares.len().max(txn.success.len()).max(txn.failure.len());
        if count > limits.max_txn_ops {
            return Err(Error::TooManyOperations { count, limit: limits.max_txn_ops });
        }
        let mut set = BTreeSet::new();
        for op in &txn.success {
            match op {
                Op::Put(put) => {
                    let lease = put.lease.unwrap_or(0);
                    if lease != 0 && !self.leases.contains_key(&lease) {
                        return Err(Error::LeaseNotFound { id: lease });
                    }
                    let keeps = put.value.is_none() || put.lease.is_none();
                    if keeps && self.record(&put.key, self.revision).is_none() {
                        return Err(Error::KeyNotFound);
                    }
                    if !set.insert(&put.key) {
                        return Err(Error::DuplicateKey);
                    }
                }
                Op::Range(request) => {
                    self.check(request.at)?;
                }
                Op::Delete(_) | Op::Txn(_) => {}
            }
        }
        Ok(())
    }

    /// Runs a transaction at one revision.
    pub(super) fn run(&mut self, txn: &Txn) -> TxnOutcome {
        let before = self.revision;
        let mut changes = false;
        let done = self.run_at(txn, before, &mut changes);
        self.revision = before + i64::from(changes);
        done
    }

    fn run_at(&mut self, txn: &Txn, before: i64, changes: &mut bool) -> TxnOutcome {
        let succeeded = txn.compares.iter().all(|compare| self.holds(compare, before));
        let ops = if succeeded { &txn.success } else { &txn.failure };
        let next = before + 1;
        let mut responses = Vec::new();
        for op in ops {
            responses.push(match op {
                Op::Put(put) => {
                    let old = self.record(&put.key, next);
                    let record = Record {
                        value: put.value.clone().or(old.as_ref().map(|old| old.value.clone())).unwrap(),
                        create_revision: old.as_ref().map_or(next, |old| old.create_revision),
                        mod_revision: next,
                        version: old.as_ref().map_or(1, |old| old.version + 1),
                        lease: put.lease.or(old.as_ref().map(|old| old.lease)).unwrap(),
                    };
                    self.versions.entry(put.key.clone()).or_default().push((next, Some(record)));
                    *changes = true;
                    let previous = old.map(|record| KeyValue { key: put.key.clone(), record });
                    OpOutcome::Put { revision: next, previous: previous.filter(|_| put.want_previous) }
                }
                Op::Delete(delete) => {
                    let found = self.items(&delete.keys, next);
                    for item in &found {
                        self.versions.get_mut(&item.key).unwrap().push((next, None));
                        *changes = true;
                    }
                    let count = found.len() as u64;
                    let previous = if delete.want_previous { found } else { Vec::new() };
                    OpOutcome::Deleted { revision: before + i64::from(*changes), count, previous }
                }
                Op::Range(request) => {
                    let found = self.read(request, next);
                    OpOutcome::Range { revision: before + i64::from(*changes), found }
                }
                Op::Txn(txn) => OpOutcome::Txn(self.run_at(txn, before, changes)),
            });
        }
        TxnOutcome { succeeded, responses, ..TxnOutcome::default() }
    }

    fn items(&self, keys: &KeyRange, at: i64) -> Vec<KeyValue> {
        let found = self.versions.keys().filter(|key| keys.contains(key));
        found.filter_map(|key| Some(KeyValue { key: key.clone(), record: self.record(key, at)? })).collect()
    }

    fn read(&self, request: &RangeRequest, now: i64) -> RangeResult {
        let mut items = self.items(&request.keys, request.at.unwrap_or(now));
        let count = items.len() as u64;
        if request.count_only {
            return RangeResult { count, ..RangeResult::default() };
        }
        if let Some(sort) = request.sort {
            items.sort_by(|a, b| match sort.by {
                SortBy::Key => a.key.cmp(&b.key),
                SortBy::Version => a.record.version.cmp(&b.record.version),
                SortBy::CreateRevision => a.record.create_revision.cmp(&b.record.create_revision),
                SortBy::ModRevision => a.record.mod_revision.cmp(&b.record.mod_revision),
                SortBy::Value => a.record.value.cmp(&b.record.value),
            });
            if sort.descending {
                items.reverse();
            }
        }
        let limit = request.limit.map_or(usize::MAX, |limit| limit as usize);
        let more = items.len() > limit;
        items.truncate(limit);
        if request.keys_only {
            for item in &mut items {
                item.record.value = Bytes::new();
            }
        }
        RangeResult { items, more, count, ..RangeResult::default() }
    }

    fn holds(&self, compare: &Compare, at: i64) -> bool {
        let stands = |record: Option<&Record>| {
            let number = |of: fn(&Record) -> i64, given: i64| record.map_or(0, of).cmp(&given);
            let order = match &compare.target {
                Target::Version(given) => number(|record| record.version, *given),
                Target::CreateRevision(given) => number(|record| record.create_revision, *given),
                Target::ModRevision(given) => number(|record| record.mod_revision, *given),
                Target::Lease(given) => number(|record| record.lease, *given),
                Target::Value(given) => match record {
                    Some(record) => record.value.cmp(given),
                    None => return false,
                },
            };
            match compare.relation {
                Relation::Equal => order.is_eq(),
                Relation::NotEqual => order.is_ne(),
                Relation::Greater => order.is_gt(),
                Relation::Less => order.is_lt(),
            }
        };
        let items = self.items(&compare.keys, at);
        if items.is_empty() { stands(None) } else { items.iter().all(|item| stands(Some(&item.record))) }
    }
}

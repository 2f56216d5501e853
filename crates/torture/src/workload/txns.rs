//! Transactions over several keys: lists that are appended to, counters, and a bank.
//!
//! All of them read first, and then write under compares of the revisions that they read, so
//! that each is one transaction of a serial order if the store keeps its promise.

use tokio::sync::watch;

use super::session::Session;
use super::slots::Slots;
use super::wire::Wire;
use crate::history::{Call, Compare, Outcome, Record, Step, StepResult, keys};

/// Lists at a time.
const LISTS: usize = 6;
/// Appends to a list.
const ELEMENTS: u64 = 50;
/// Counters at a time.
const COUNTERS: usize = 3;
/// Attempts to count up a counter.
const COUNTS: u64 = 200;
/// Accounts of the bank.
const ACCOUNTS: usize = 6;
/// What an account holds in the beginning.
const BALANCE: i64 = 100;

/// The sum of all accounts.
pub(super) const BANK_TOTAL: i64 = ACCOUNTS as i64 * BALANCE;

fn read(keys: &[String], local: bool) -> Call {
    let then = keys.iter().map(|key| Step::Get { key: key.clone() }).collect();
    Call::Txn { compares: Vec::new(), then, otherwise: Vec::new(), local }
}

/// What a read found, if it was answered.
fn found(outcome: Outcome) -> Option<Vec<Option<Record>>> {
    let Outcome::Done { results, .. } = outcome else { return None };
    let records = results.into_iter().map(|result| match result {
        StepResult::Got(record) => Some(record),
        StepResult::Put | StepResult::Deleted(_) => None,
    });
    records.collect()
}

/// That keys are as they were read.
fn unchanged(keys: &[String], records: &[Option<Record>]) -> Vec<Compare> {
    let compare = |(key, record): (&String, &Option<Record>)| Compare::ModRevision {
        key: key.clone(),
        revision: record.as_ref().map_or(0, |record| record.mod_revision),
    };
    keys.iter().zip(records).map(compare).collect()
}

fn put(key: &str, value: String) -> Step {
    Step::Put { key: key.to_owned(), value, lease: None }
}

/// `count` different numbers below `bound`.
fn several(session: &mut Session<impl Wire>, count: usize, bound: usize) -> Vec<usize> {
    let mut numbers: Vec<_> = (0..bound).collect();
    while numbers.len() > count {
        let gone = session.dice.below(numbers.len());
        numbers.swap_remove(gone);
    }
    numbers
}

/// Lists, counters and accounts that all clients share.
#[derive(Debug)]
pub(super) struct Books {
    lists: Slots,
    counters: Slots,
    /// Whether the bank has opened.
    bank: watch::Sender<bool>,
}

impl Books {
    pub(super) fn new() -> Self {
        Self {
            lists: Slots::new(keys::LIST, LISTS, ELEMENTS),
            counters: Slots::new(keys::COUNTER, COUNTERS, COUNTS),
            bank: watch::Sender::new(false),
        }
    }

    /// Reads up to three lists in one transaction; then, mostly, appends to one or two of
    /// them in another one.
    pub(super) async fn list_step(&self, session: &mut Session<impl Wire>) {
        let count = 1 + session.dice.below(3);
        let slots = several(session, count, LISTS);
        let lists: Vec<_> = slots.iter().map(|slot| self.lists.key(*slot)).collect();
        let only_reads = session.dice.chance(30);
        let local = only_reads && session.dice.chance(20);
        let Some(records) = found(session.call(read(&lists, local)).await) else { return };
        if only_reads {
            return;
        }
        let appended = (1 + session.dice.below(2)).min(count);
        let then = slots.iter().zip(&lists).zip(&records).take(appended);
        let then = then.map(|((slot, list), record)| {
            self.lists.take(*slot);
            let element = session.shared.new_value();
            let value = match record {
                Some(record) => format!("{},{element}", record.value),
                None => element.to_string(),
            };
            put(list, value)
        });
        let then = then.collect();
        let otherwise = if session.dice.chance(40) {
            lists.iter().map(|key| Step::Get { key: key.clone() }).collect()
        } else {
            Vec::new()
        };
        let compares = unchanged(&lists, &records);
        session.call(Call::Txn { compares, then, otherwise, local: false }).await;
    }

    /// Counts a counter up.
    pub(super) async fn counter_step(&self, session: &mut Session<impl Wire>) {
        let slot = self.counters.any(&mut session.dice);
        let key = [self.counters.take(slot)];
        let local = session.dice.chance(10);
        let Some(records) = found(session.call(read(&key, local)).await) else { return };
        let [key_] = &key;
        // Only this workload writes counters; what is no number is not counted on.
        let next = match records.first() {
            Some(Some(record)) => record.value.parse::<i64>().ok().map(|count| count + 1),
            _ => Some(1),
        };
        let Some(next) = next else { return };
        let compares = match records.first() {
            Some(Some(record)) if session.dice.chance(30) => {
                vec![Compare::Value { key: key_.clone(), value: record.value.clone() }]
            }
            _ => unchanged(&key, &records),
        };
        let then = vec![put(key_, next.to_string())];
        session.call(Call::Txn { compares, then, otherwise: Vec::new(), local: false }).await;
    }

    /// Reads all accounts, or moves money from one to another.
    pub(super) async fn bank_step(&self, session: &mut Session<impl Wire>) {
        let accounts: Vec<_> = (0..ACCOUNTS).map(|number| format!("{}{number}", keys::BANK)).collect();
        if !*self.bank.borrow() {
            self.open_bank(session, &accounts).await;
            return;
        }
        if session.dice.chance(35) {
            let local = session.dice.chance(20);
            session.call(read(&accounts, local)).await;
            return;
        }
        let mut chosen = several(session, 2, ACCOUNTS);
        if session.dice.chance(50) {
            chosen.reverse();
        }
        let pair: Vec<_> = chosen.iter().filter_map(|number| accounts.get(*number).cloned()).collect();
        let Some(records) = found(session.call(read(&pair, false)).await) else { return };
        let ([from, to], [Some(source), Some(target)]) = (pair.as_slice(), records.as_slice()) else {
            return;
        };
        let (Ok(has), Ok(gets)) = (source.value.parse::<i64>(), target.value.parse::<i64>()) else { return };
        if has <= 0 {
            return;
        }
        let amount = 1 + session.dice.below(has.min(20) as usize) as i64;
        let then = vec![put(from, (has - amount).to_string()), put(to, (gets + amount).to_string())];
        let compares = unchanged(&pair, &records);
        session.call(Call::Txn { compares, then, otherwise: Vec::new(), local: false }).await;
    }

    /// Creates all accounts in one transaction, which can take effect only once.
    async fn open_bank(&self, session: &mut Session<impl Wire>, accounts: &[String]) {
        let compares = accounts.iter().map(|key| Compare::CreateRevision { key: key.clone(), revision: 0 });
        let then = accounts.iter().map(|key| put(key, BALANCE.to_string()));
        let call = Call::Txn {
            compares: compares.collect(),
            then: then.collect(),
            otherwise: accounts.first().map(|key| Step::Get { key: key.clone() }).into_iter().collect(),
            local: false,
        };
        // Somebody else's creation opens the bank as well.
        if matches!(session.call(call).await, Outcome::Done { .. }) {
            self.bank.send_replace(true);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_read_is_compared() {
        let record =
            Record { value: "5".to_owned(), create_revision: 3, mod_revision: 7, version: 2, lease: 0 };
        let keys = ["a".to_owned(), "b".to_owned()];
        let results = vec![StepResult::Got(Some(record.clone())), StepResult::Got(None)];
        let records = found(Outcome::Done { revision: 9, succeeded: true, results }).unwrap();
        assert_eq!(records, [Some(record), None]);
        let expected = [
            Compare::ModRevision { key: "a".to_owned(), revision: 7 },
            Compare::ModRevision { key: "b".to_owned(), revision: 0 },
        ];
        assert_eq!(unchanged(&keys, &records), expected);
        assert_eq!(found(Outcome::Failed { reason: String::new() }), None);
        assert_eq!(BANK_TOTAL, 600);
    }
}

//! The bank: money moves between accounts and is neither made nor lost.
//!
//! The bank opens with one transaction that sets all accounts; before it, and only
//! before it, there are none.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::Verdict;
use super::answer::{Answer, step_key};
use super::truth::Truth;
use crate::history::{Call, History, Record, keys};

const CHECK: &str = "bank";

/// Judges all that was seen of the bank.
pub(super) fn check(history: &History, truth: &Truth<'_>, verdict: &mut Verdict) {
    let Some(total) = history.bank_total else { return };
    let accounts = accounts(history);
    verdict.count("bank.accounts", accounts.len() as u64);
    for (index, operation) in history.operations.iter().enumerate() {
        let Some(answer) = Answer::of(operation) else { continue };
        // What it read before it changed the account itself.
        let mut seen: BTreeMap<&str, Option<&Record>> = BTreeMap::new();
        for (key, record) in answer.gets().filter(|(key, _)| key.starts_with(keys::BANK)) {
            seen.entry(key).or_insert(record);
        }
        let writes_first = answer.effects().any(|(key, _)| seen.contains_key(key));
        let balances = seen.iter().map(|(key, record)| (*key, *record));
        if seen.len() == accounts.len() && !writes_first {
            verdict.count("bank.whole_reads", 1);
            judge(total, balances, &[index], &format!("a read at revision {}", answer.revision), verdict);
        } else {
            for (key, record) in balances {
                if let Some(record) = record {
                    balance(key, record, &[index], verdict);
                }
            }
        }
    }
    let is_open = history
        .operations
        .iter()
        .filter_map(Answer::of)
        .any(|answer| answer.effects().any(|(key, _)| key.starts_with(keys::BANK)));
    for state in &history.final_states {
        let balances = accounts.iter().map(|key| (*key, state.records.get(*key)));
        judge(total, balances, &[], &format!("node {} in the end", state.node), verdict);
        if is_open && !accounts.iter().any(|key| state.records.contains_key(*key)) {
            verdict.problem((CHECK, "wrong-total"), None, &[], || {
                format!("node {} has no account in the end", state.node)
            });
        }
    }
    walk(total, truth, verdict);
}

/// All accounts that anybody asked for.
fn accounts(history: &History) -> BTreeSet<&str> {
    let mut accounts = BTreeSet::new();
    for operation in &history.operations {
        if let Call::Txn { then, otherwise, .. } = &operation.call {
            let steps = then.iter().chain(otherwise).map(step_key);
            accounts.extend(steps.filter(|key| key.starts_with(keys::BANK)));
        }
    }
    accounts
}

/// A balance, if it is one.
fn balance(key: &str, record: &Record, operations: &[usize], verdict: &mut Verdict) -> Option<i64> {
    match record.value.parse::<i64>() {
        Ok(balance) if balance >= 0 => return Some(balance),
        Ok(balance) => verdict.problem((CHECK, "negative"), Some(key), operations, || {
            format!("{key} is {balance} at revision {}", record.mod_revision)
        }),
        Err(_) => verdict.problem((CHECK, "no-balance"), Some(key), operations, || {
            format!("{key} is {:?} at revision {}", record.value, record.mod_revision)
        }),
    }
    None
}

/// Judges all accounts as they were seen at once.
fn judge<'a>(
    total: i64,
    balances: impl Iterator<Item = (&'a str, Option<&'a Record>)>,
    operations: &[usize],
    who: &str,
    verdict: &mut Verdict,
) {
    let (mut sum, mut absent, mut found, mut sound) = (0_i64, None, 0, true);
    for (key, record) in balances {
        let Some(record) = record else {
            absent = Some(key);
            continue;
        };
        found += 1;
        match balance(key, record, operations, verdict) {
            Some(balance) => sum = sum.saturating_add(balance),
            None => sound = false,
        }
    }
    if found == 0 || !sound {
        // The bank was not open yet, or it is told of already.
        return;
    }
    if sum != total || absent.is_some() {
        verdict.problem((CHECK, "wrong-total"), absent, operations, || {
            let missing = absent.map_or_else(String::new, |key| format!(" without {key}"));
            format!("{who} finds {sum} in all accounts{missing}, of {total}")
        });
    }
}

/// Judges every state that there ever was.
fn walk(total: i64, truth: &Truth<'_>, verdict: &mut Verdict) {
    let mut balances: HashMap<&str, i64> = HashMap::new();
    let mut sum = 0_i64;
    for (revision, facts) in truth.changes() {
        let mut moved = false;
        for fact in facts.iter().filter(|fact| fact.event.key.starts_with(keys::BANK)) {
            moved = true;
            let key = fact.event.key.as_str();
            let now = fact.event.record.as_ref().and_then(|record| balance(key, record, &[], verdict));
            let now = now.unwrap_or_default();
            let before = balances.insert(key, now).unwrap_or_default();
            sum = sum.saturating_add(now).saturating_sub(before);
        }
        if moved {
            verdict.count("bank.transfers", 1);
            if sum != total {
                verdict.problem((CHECK, "wrong-total"), None, &[], || {
                    format!("the accounts hold {sum} at revision {revision}, of {total}")
                });
                // One transfer that makes money shows in every state after it.
                return;
            }
        }
    }
}

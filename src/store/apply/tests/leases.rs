//! What the commands of leases do to leases, their keys and their clock.

use super::*;
use crate::command::{PutOp, Txn};
use crate::mvcc::LeaseChange;

fn grant(machine: &Machine, id: i64, ttl: i64) -> OutcomeResult {
    machine.run(&Command::of(Write::LeaseGrant { id, ttl })).result
}

fn attach(machine: &Machine, key: &'static str, lease: i64) -> OutcomeResult {
    machine.run(&Command::of(Write::Put { key: key.into(), value: "v".into(), lease })).result
}

fn revoke(machine: &Machine, id: i64) -> Outcome {
    machine.run(&Command::of(Write::LeaseRevoke { id }))
}

fn renew(machine: &Machine, ids: &[i64]) -> OutcomeResult {
    machine.run(&Command::of(Write::LeaseRenew { ids: ids.to_vec() })).result
}

fn tick(machine: &Machine, term: u64, clock: u64, expired: &[i64]) {
    let write = Write::LeaseTick { term, clock, expired: expired.to_vec() };
    assert_eq!(machine.run(&Command::of(write)).result, OutcomeResult::Nothing);
}

fn lease(machine: &Machine, id: i64) -> Option<Lease> {
    machine.store().lease(id).unwrap()
}

fn keys(machine: &Machine, id: i64) -> Vec<Bytes> {
    machine.store().lease_keys(id, None, usize::MAX).unwrap()
}

fn no_lease(id: i64) -> OutcomeResult {
    OutcomeResult::Rejected(Rejection::LeaseNotFound { id })
}

/// Attaches so many keys in batches.
fn attach_many(machine: &Machine, id: i64, count: usize) {
    let keys: Vec<_> = (0..count).map(|number| Bytes::from(format!("key {number:05}"))).collect();
    for keys in keys.chunks(500) {
        let put = |key: &Bytes| {
            Command::of(Write::Put { key: key.clone(), value: Bytes::new(), lease: id }).encode()
        };
        machine.batch(&keys.iter().map(put).collect::<Vec<_>>());
    }
}

#[test]
fn a_grant_raises_a_short_time_to_live_and_refuses_an_id_that_is_taken() {
    let machine = Machine::new();
    assert_eq!(grant(&machine, 7, -3), OutcomeResult::LeaseGranted { id: 7, ttl: MIN_LEASE_TTL });
    assert_eq!(grant(&machine, 7, 60), OutcomeResult::Rejected(Rejection::LeaseExists { id: 7 }));
    let granted = Lease { id: 7, ttl: 2, expires_at: 2_000 + SLACK_MS, ending: false };
    assert_eq!(lease(&machine, 7), Some(granted));
    assert_eq!(machine.store().revision(), 1, "a lease is not a change of a key");
}

#[test]
fn a_key_belongs_to_the_lease_that_it_was_last_set_with() {
    let mut machine = Machine::new();
    assert_eq!(attach(&machine, "k", 7), no_lease(7));
    grant(&machine, 7, 60);
    grant(&machine, 8, 60);
    attach(&machine, "k", 7);
    attach(&machine, "l", 7);
    assert_eq!(keys(&machine, 7), ["k", "l"]);
    attach(&machine, "k", 8);
    machine.put("l", "without");
    assert_eq!((keys(&machine, 7), keys(&machine, 8)), (Vec::<Bytes>::new(), vec!["k".into()]));
    machine.run(&Command::delete("k"));
    assert!(keys(&machine, 8).is_empty());
    machine.restart();
    assert_eq!(machine.store().leases(i64::MIN, 9).unwrap().len(), 2);
}

#[test]
fn a_transaction_with_an_unknown_lease_changes_nothing() {
    let machine = Machine::new();
    let put = |key: &'static str, lease| {
        let value = Some(Bytes::new());
        Op::Put(PutOp { key: key.into(), value, lease: Some(lease), want_previous: false })
    };
    let txn = Txn { success: vec![put("a", 0), put("b", 7)], ..Txn::default() };
    assert_eq!(machine.run(&Command::of(Write::Txn(txn))), outcome(1, no_lease(7)));
    assert_eq!(machine.value("a"), None);
}

#[test]
fn revoking_removes_the_keys_in_order_at_one_revision() {
    let machine = Machine::new();
    grant(&machine, 7, 60);
    for key in ["b", "a", "c"] {
        attach(&machine, key, 7);
    }
    machine.put("d", "stays");
    assert_eq!(revoke(&machine, 7), outcome(6, OutcomeResult::LeaseRevoked { more: false }));
    let changes = machine.store().changes(6, 9).unwrap();
    let found: Vec<_> = changes.iter().map(|change| (change.main, change.sub, change.key.as_ref())).collect();
    assert_eq!(found, [(6, 0, b"a".as_slice()), (6, 1, b"b"), (6, 2, b"c")]);
    assert_eq!(revoke(&machine, 7).result, no_lease(7));
    assert_eq!(lease(&machine, 7), None);
    assert!(machine.value("d").is_some());
}

#[test]
fn a_lease_with_very_many_keys_ends_at_once_and_loses_them_bit_by_bit() {
    let mut machine = Machine::new();
    grant(&machine, 7, 60);
    attach_many(&machine, 7, 2 * MAX_KEYS_REVOKED + 1);
    assert_eq!(revoke(&machine, 7).result, OutcomeResult::LeaseRevoked { more: true });
    let left = 2 * MAX_KEYS_REVOKED + 1 - KEYS_IN_PART;
    assert_eq!(keys(&machine, 7).len(), left);
    // It has ended for all but whoever removes the rest.
    assert_eq!(renew(&machine, &[7]), OutcomeResult::LeasesRenewed { ttls: vec![0] });
    assert_eq!(attach(&machine, "late", 7), no_lease(7));
    assert_eq!(grant(&machine, 7, 60), OutcomeResult::Rejected(Rejection::LeaseExists { id: 7 }));
    tick(&machine, TERM, 1, &[7]);
    assert_eq!(keys(&machine, 7).len(), left - KEYS_IN_PART);
    machine.restart();
    // A part for each time that it is named, and of all no more than a command may remove.
    tick(&machine, TERM, 2, &[7, 7]);
    let left = left - 3 * KEYS_IN_PART;
    assert_eq!(keys(&machine, 7).len(), left);
    tick(&machine, TERM, 3, &[7; 50]);
    assert_eq!(keys(&machine, 7).len(), left - MAX_KEYS_REVOKED);
    tick(&machine, TERM, 4, &[7; 50]);
    assert_eq!((keys(&machine, 7).len(), lease(&machine, 7)), (0, None));

    // The same id begins anew, with keys that come before those.
    grant(&machine, 7, 60);
    attach(&machine, "a", 7);
    assert_eq!(revoke(&machine, 7).result, OutcomeResult::LeaseRevoked { more: false });
    assert_eq!(machine.value("a"), None);
}

#[test]
fn a_lease_loses_its_keys_at_one_revision_unless_they_are_very_many() {
    let machine = Machine::new();
    for (id, prefix) in [(1, "a"), (2, "b")] {
        grant(&machine, id, 2);
        for part in 0..6 {
            let put = |number| {
                let key = Bytes::from(format!("{prefix}{part}{number:03}"));
                Command::of(Write::Put { key, value: Bytes::new(), lease: id }).encode()
            };
            machine.batch(&(0..100).map(put).collect::<Vec<_>>());
        }
    }
    let before = machine.store().revision();
    tick(&machine, TERM, 9_000, &[1, 2]);
    assert_eq!((machine.store().revision(), lease(&machine, 1)), (before + 1, None));
    // There was no room for all of the second's, so it waits.
    assert_eq!((lease(&machine, 2).map(|lease| lease.ending), keys(&machine, 2).len()), (Some(false), 600));
    tick(&machine, TERM, 9_000, &[2]);
    assert_eq!((machine.store().revision(), lease(&machine, 2)), (before + 2, None));
}

#[test]
fn one_command_ends_no_more_than_it_may() {
    let machine = Machine::new();
    let ids: Vec<i64> = (1..=MAX_LEASES_ENDED as i64 + 1).collect();
    for id in &ids {
        grant(&machine, *id, 2);
    }
    tick(&machine, TERM, 3_000, &ids);
    assert_eq!(machine.store().leases(i64::MIN, 9).unwrap().len(), 1);

    grant(&machine, 2_001, 2);
    attach_many(&machine, 2_001, MAX_KEYS_REVOKED);
    grant(&machine, 2_002, 2);
    attach(&machine, "one more", 2_002);
    tick(&machine, TERM, 9_000, &[2_001, 2_002]);
    assert_eq!(lease(&machine, 2_001), None);
    assert_eq!(lease(&machine, 2_002).map(|lease| lease.ending), Some(false));
    assert_eq!(keys(&machine, 2_002), ["one more"]);
}

#[test]
fn a_renewal_that_the_log_holds_first_saves_the_lease() {
    let machine = Machine::new();
    grant(&machine, 7, 2);
    let due = 2_000 + SLACK_MS;
    tick(&machine, TERM, due - 1, &[7]);
    assert!(lease(&machine, 7).is_some(), "not due, whatever the leader held it for");
    assert_eq!(renew(&machine, &[8, 7, 7]), OutcomeResult::LeasesRenewed { ttls: vec![0, 2, 2] });
    tick(&machine, TERM, due, &[7]);
    assert_eq!(lease(&machine, 7).map(|lease| lease.expires_at), Some(2 * due - 1));
    tick(&machine, TERM, 2 * due - 1, &[7]);
    assert_eq!(lease(&machine, 7), None);
    assert_eq!(renew(&machine, &[7]), OutcomeResult::LeasesRenewed { ttls: vec![0] });
}

#[test]
fn the_clock_obeys_the_leader_of_the_term_and_never_goes_back() {
    let machine = Machine::new();
    grant(&machine, 7, 2);
    for other in [TERM - 1, TERM + 1] {
        tick(&machine, other, 60_000, &[7]);
    }
    assert_eq!((machine.store().lease_clock().unwrap(), lease(&machine, 7).is_some()), (0, true));
    tick(&machine, TERM, 1_500, &[]);
    tick(&machine, TERM, 900, &[7]);
    assert_eq!(machine.store().lease_clock().unwrap(), 1_500);
}

#[test]
fn within_a_batch_leases_keys_and_clock_are_as_the_commands_before_left_them() {
    let machine = Machine::new();
    let put = |key: &'static str, lease| Write::Put { key: key.into(), value: Bytes::new(), lease };
    let proposals: Vec<_> = [
        Write::LeaseTick { term: TERM, clock: 10_000, expired: Vec::new() },
        Write::LeaseGrant { id: 7, ttl: 5 },
        put("a", 7),
        put("b", 7),
        put("a", 0),
        Write::LeaseRevoke { id: 7 },
        put("c", 7),
        Write::LeaseGrant { id: 7, ttl: 9 },
    ]
    .into_iter()
    .map(|write| Command::of(write).encode())
    .collect();
    let mut session = machine.store().begin();
    let results: Vec<_> =
        proposals.iter().map(|proposal| apply_proposal(&mut session, proposal).unwrap().result).collect();
    assert_eq!(
        results[4..],
        [
            set(false, 2),
            OutcomeResult::LeaseRevoked { more: false },
            no_lease(7),
            OutcomeResult::LeaseGranted { id: 7, ttl: 9 }
        ]
    );
    let granted = |ttl: i64| Lease { id: 7, ttl, expires_at: expiry(10_000, ttl), ending: false };
    assert_eq!(
        session.commit().unwrap().leases,
        [
            LeaseChange::Clock(10_000),
            LeaseChange::Set(granted(5)),
            LeaseChange::Removed(7),
            LeaseChange::Set(granted(9))
        ]
    );
    assert_eq!((machine.value("a"), machine.value("b")), (Some(Bytes::new()), None));
}

//! Random true histories with one random lie: none may pass.

use proptest::prelude::*;

use super::check;
use super::mutators::{
    duplicate_revision, early_progress, failed_write, forge_event, forget_revision, lose_event, lost_key,
    odd_node, old_fencing, other_value, overlapping_lock, reorder_messages, repeat_message, short_list,
    split_revision, stale_read, stale_seed_read, swap_reads, time_travel, wrong_compare, wrong_delete,
    wrong_total,
};
use super::simulated::simulate;
use crate::dice::Dice;
use crate::history::History;

/// Tells a lie, or says that the history has no place for it.
type Lie = fn(&mut History, &mut Dice) -> Option<()>;

const LIES: [(&str, Lie); 22] = [
    ("a revision that nobody saw", forget_revision),
    ("a read of the past", stale_read),
    ("reads that are swapped", swap_reads),
    ("a revision that two writes were told", duplicate_revision),
    ("an event that a watcher was not told", lose_event),
    ("messages in the wrong order", reorder_messages),
    ("a message told twice", repeat_message),
    ("a revision in two messages", split_revision),
    ("progress that comes too early", early_progress),
    ("an event of another record", forge_event),
    ("money that is made", wrong_total),
    ("a lock with two holders", overlapping_lock),
    ("a fencing number that is too low", old_fencing),
    ("a node that differs", odd_node),
    ("nodes that all lost a key", lost_key),
    ("an acknowledged write told to have failed", failed_write),
    ("a write that wrote something else", other_value),
    ("a stale read of the seed's", stale_seed_read),
    ("a compare that can't have held", wrong_compare),
    ("a write that came after its effect", time_travel),
    ("a list without its last element", short_list),
    ("a deletion of what was not there", wrong_delete),
];

/// A history with a lie: its name, and nothing if there is no place for it.
fn lie(history: &History, place: usize, seed: u64) -> Option<(&'static str, History)> {
    let (name, lie) = LIES[place];
    let mut lied = history.clone();
    let told = lie(&mut lied, &mut Dice::new(seed));
    (told.is_some() && lied != *history).then_some((name, lied))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_lie_is_believed(seed in any::<u64>(), calls in 60..300_usize, clients in 2..7_usize) {
        let history = simulate(seed, calls, clients, 3);
        for place in 0..LIES.len() {
            if let Some((name, lied)) = lie(&history, place, seed) {
                let verdict = check(&lied);
                prop_assert!(!verdict.passed(), "{name} was believed");
            }
        }
    }
}

#[test]
fn checkers_that_rest_on_different_things_find_the_same_lies() {
    let histories: Vec<History> = (0..8).map(|seed| simulate(seed, 400, 5, 3)).collect();
    for (name, checkers) in [
        ("a stale read of the seed's", ["revision", "wgl"]),
        ("a read of the past", ["revision", "wgl"]),
        ("a list without its last element", ["revision", "append"]),
        ("nodes that all lost a key", ["truth", "finals"]),
        ("a lock with two holders", ["lock", "lock"]),
        ("a revision that nobody saw", ["truth", "revision"]),
        ("an acknowledged write told to have failed", ["revision", "wgl"]),
        ("an acknowledged write told to have failed", ["revision", "append"]),
        ("money that is made", ["revision", "bank"]),
    ] {
        let place = LIES.iter().position(|(other, _)| *other == name).expect("it is one of the lies");
        for checker in checkers {
            let mut lied = histories.iter().zip(0..).filter_map(|(history, seed)| lie(history, place, seed));
            let found = |(_, lied): (_, History)| {
                check(&lied).problems.iter().any(|problem| problem.check == checker)
            };
            assert!(lied.any(found), "{checker} never found {name}");
        }
    }
}

#[test]
fn there_is_a_place_for_every_lie() {
    let histories: Vec<History> = (0..6).map(|seed| simulate(seed, 400, 5, 3)).collect();
    for (place, (name, _)) in LIES.iter().enumerate() {
        let told = histories.iter().filter_map(|history| lie(history, place, 3)).count();
        assert!(told >= 3, "{name} was told {told} times");
    }
}

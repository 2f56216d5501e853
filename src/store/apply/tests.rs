//! What each command answers and leaves behind, alone and after a retry.

use proptest::prelude::*;
use tempfile::TempDir;

use super::*;
use crate::engine::EngineOptions;
use crate::mvcc::Store;

mod alarms;
mod answers;
mod leases;

const TERM: u64 = 3;

/// Does what the state machine does with an entry of the log.
fn apply_proposal(session: &mut WriteSession<'_>, proposal: &Proposal) -> Result<Outcome, StorageError> {
    match decode(proposal)? {
        Ok(command) => apply(session, &command, Context { term: TERM, wants_answer: true }),
        Err(rejection) => {
            let result = OutcomeResult::Rejected(rejection);
            Ok(Outcome { revision: session.revision(), result })
        }
    }
}

struct Machine {
    store: Option<Store>,
    dir: TempDir,
}

impl Machine {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        Self { store: Some(open(&dir)), dir }
    }

    fn store(&self) -> &Store {
        self.store.as_ref().unwrap()
    }

    fn restart(&mut self) {
        self.store = None;
        self.store = Some(open(&self.dir));
    }

    /// Applies the proposals as one batch.
    fn batch(&self, proposals: &[Proposal]) -> Vec<Outcome> {
        let mut session = self.store().begin();
        let outcomes =
            proposals.iter().map(|proposal| apply_proposal(&mut session, proposal).unwrap()).collect();
        session.commit().unwrap();
        outcomes
    }

    fn run(&self, command: &Command) -> Outcome {
        self.batch(&[command.encode()]).remove(0)
    }

    fn put(&self, key: &'static str, value: &'static str) -> Outcome {
        self.run(&Command::put(key, value))
    }

    fn value(&self, key: &str) -> Option<Bytes> {
        self.store().get(key.as_bytes(), None).unwrap().record.map(|record| record.value)
    }

    fn book(&self) -> (u64, u64) {
        let book = TokenBook::load(&mut self.store().begin()).unwrap();
        (book.clock, book.count)
    }

    /// How many entries there are for tokens, by name and by expiry.
    fn entries(&self) -> (usize, usize) {
        let session = self.store().begin();
        let count = |kind: u8| {
            let (mut from, mut count) = (vec![kind], 0);
            while let Some((key, _)) = session.dedup_from(&[kind], &from).unwrap() {
                from = [key.as_ref(), &[0]].concat();
                count += 1;
            }
            count
        };
        (count(TOKEN), count(EXPIRY))
    }
}

fn open(dir: &TempDir) -> Store {
    let options = EngineOptions { block_cache_bytes: 1 << 20, write_buffer_bytes: 1 << 19 };
    Store::open(&dir.path().join("state"), &options).unwrap()
}

fn outcome(revision: i64, result: OutcomeResult) -> Outcome {
    Outcome { revision, result }
}

fn set(created: bool, version: i64) -> OutcomeResult {
    OutcomeResult::Put { created, version }
}

fn failed(mod_revision: i64) -> OutcomeResult {
    OutcomeResult::Rejected(Rejection::ConditionFailed { mod_revision })
}

const MISMATCH: OutcomeResult = OutcomeResult::Rejected(Rejection::IdempotencyMismatch);

/// The command under a token that was proposed at `now` and lives for `lifetime`.
fn once(token: &'static str, now: u64, lifetime: u64, command: Command) -> Command {
    let idempotency =
        Idempotency { token: token.into(), proposed_at_ms: now, expires_at_ms: now.saturating_add(lifetime) };
    Command { idempotency: Some(idempotency), ..command }
}

#[test]
fn puts_and_deletes_count_revisions_and_versions() {
    let machine = Machine::new();
    assert_eq!(machine.put("k", "1"), outcome(2, set(true, 1)));
    assert_eq!(machine.put("k", "2"), outcome(3, set(false, 2)));
    assert_eq!(
        machine.run(&Command::delete("absent")),
        outcome(3, OutcomeResult::Deleted { count: 0 }),
        "nothing was changed, so no revision is taken"
    );
    assert_eq!(machine.run(&Command::delete("k")), outcome(4, OutcomeResult::Deleted { count: 1 }));
    assert_eq!(machine.value("k"), None);
    assert_eq!(machine.put("k", ""), outcome(5, set(true, 1)));
    assert_eq!(machine.value("k"), Some(Bytes::new()));
}

#[test]
fn a_put_attaches_its_lease() {
    let machine = Machine::new();
    machine.run(&Command::of(Write::LeaseGrant { id: 77, ttl: 10 }));
    machine.run(&Command::of(Write::Put { key: "k".into(), value: "v".into(), lease: 77 }));
    assert_eq!(machine.store().get(b"k", None).unwrap().record.unwrap().lease, 77);
}

#[test]
fn each_condition_holds_when_it_says_and_else_changes_nothing() {
    let machine = Machine::new();
    machine.put("there", "v");
    machine.put("gone", "v");
    machine.run(&Command::delete("gone"));
    let revision = machine.store().revision();
    let cases = [
        ("there", Condition::Exists, None),
        ("there", Condition::Absent, Some(2)),
        ("there", Condition::ModRevision(2), None),
        ("there", Condition::ModRevision(3), Some(2)),
        ("there", Condition::ModRevision(0), Some(2)),
        ("gone", Condition::Exists, Some(0)),
        ("gone", Condition::Absent, None),
        ("gone", Condition::ModRevision(0), None),
        ("gone", Condition::ModRevision(3), Some(0)),
        ("never", Condition::ModRevision(0), None),
        ("never", Condition::Exists, Some(0)),
    ];
    for (key, condition, refused_at) in cases {
        for command in [Command::put(key, "new"), Command::delete(key)] {
            let mut session = machine.store().begin();
            let found = apply_proposal(&mut session, &command.only_if(condition).encode()).unwrap();
            match refused_at {
                Some(at) => assert_eq!(found, outcome(revision, failed(at)), "{key} {condition:?}"),
                None => assert!(
                    !matches!(found.result, OutcomeResult::Rejected(_)),
                    "{key} {condition:?}: {found:?}"
                ),
            }
            // Dropped: the next case finds the same state.
        }
    }
    assert_eq!(machine.store().revision(), revision);
}

#[test]
fn a_condition_sees_the_commands_before_it_in_the_same_batch() {
    let machine = Machine::new();
    let outcomes = machine.batch(&[
        Command::put("k", "1").only_if(Condition::Absent).encode(),
        Command::put("k", "2").only_if(Condition::Absent).encode(),
        Command::put("k", "3").only_if(Condition::ModRevision(2)).encode(),
        Command::delete("k").only_if(Condition::ModRevision(2)).encode(),
        Command::delete("k").only_if(Condition::Exists).encode(),
        Command::put("k", "4").only_if(Condition::Exists).encode(),
    ]);
    let results: Vec<_> =
        outcomes.into_iter().map(|Outcome { revision, result }| (revision, result)).collect();
    assert_eq!(
        results,
        [
            (2, set(true, 1)),
            (2, failed(2)),
            (3, set(false, 2)),
            (3, failed(3)),
            (4, OutcomeResult::Deleted { count: 1 }),
            (4, failed(0)),
        ]
    );
}

#[test]
fn what_does_not_decode_is_refused_and_changes_nothing() {
    let machine = Machine::new();
    machine.put("k", "v");
    let hash = machine.store().state_hash();
    let whole = Command::put("k", "w").encode().as_bytes().clone();
    let mut unversioned = whole.to_vec();
    unversioned[0] = 0;
    let mut longer = whole.to_vec();
    longer.push(0);
    for bytes in [Bytes::new(), whole.slice(..whole.len() - 1), unversioned.into(), longer.into()] {
        let outcome = machine.batch(&[Proposal::from_bytes(bytes)]).remove(0);
        assert!(matches!(outcome.result, OutcomeResult::Rejected(Rejection::Undecodable(_))), "{outcome:?}");
        assert_eq!(outcome.revision, 2);
    }
    assert_eq!(machine.store().state_hash(), hash);
    assert_eq!(machine.put("k", "w"), outcome(3, set(false, 2)));
}

#[test]
fn a_command_of_a_newer_release_stops_the_node_rather_than_diverge() {
    let machine = Machine::new();
    let mut newer = Command::put("k", "w").encode().as_bytes().to_vec();
    newer[0] += 2;
    let store = machine.store();
    let error = apply_proposal(&mut store.begin(), &Proposal::from_bytes(newer.into())).unwrap_err();
    assert!(error.to_string().contains("upgrade this node"), "{error}");
}

#[test]
fn a_repeated_token_repeats_the_answer_and_nothing_else() {
    let mut machine = Machine::new();
    let command = once("t", 1000, 500, Command::put("k", "1"));
    let first = machine.run(&command);
    machine.put("k", "2");
    // A retry is proposed later, and nothing but its times differ.
    let retry = once("t", 1400, 500, Command::put("k", "1"));
    assert_eq!(machine.run(&retry), first);
    assert_eq!(machine.batch(&[retry.encode(), retry.encode()]), [first.clone(), first.clone()]);
    assert_eq!(machine.value("k"), Some("2".into()));
    machine.restart();
    assert_eq!(machine.run(&retry), first);
    assert_eq!(machine.store().revision(), 3);
    assert_eq!(machine.entries(), (1, 1));
}

#[test]
fn a_token_works_within_the_batch_that_brings_it() {
    let machine = Machine::new();
    let command = once("t", 0, 10, Command::put("k", "v")).encode();
    let other = once("t", 0, 10, Command::put("k", "w")).encode();
    let outcomes = machine.batch(&[command.clone(), command, other]);
    assert_eq!(outcomes, [outcome(2, set(true, 1)), outcome(2, set(true, 1)), outcome(2, MISMATCH)]);
}

#[test]
fn a_token_of_another_write_is_refused() {
    let machine = Machine::new();
    machine.run(&once("t", 0, 1000, Command::put("k", "1")));
    for other in [
        Command::put("k", "2"),
        Command::put("l", "1"),
        Command::delete("k"),
        Command::put("k", "1").only_if(Condition::Exists),
    ] {
        assert_eq!(machine.run(&once("t", 1, 1000, other)), outcome(2, MISMATCH));
    }
    assert_eq!(machine.value("k"), Some("1".into()));
    // Under a name of its own it is another write.
    assert_eq!(machine.run(&once("u", 1, 1000, Command::put("k", "2"))), outcome(3, set(false, 2)));
}

#[test]
fn a_refusal_is_remembered_like_any_answer() {
    let machine = Machine::new();
    let command = once("t", 0, 1000, Command::put("k", "v").only_if(Condition::Exists));
    assert_eq!(machine.run(&command), outcome(1, failed(0)));
    machine.put("k", "there now");
    assert_eq!(machine.run(&command), outcome(1, failed(0)));
}

#[test]
fn a_token_expires_by_the_replicated_clock_alone() {
    let machine = Machine::new();
    let put = || Command::put("k", "v");
    assert_eq!(machine.run(&once("t", 1000, 100, put())), outcome(2, set(true, 1)));
    // Commands without a token carry no time.
    machine.put("other", "v");
    assert_eq!(machine.run(&once("t", 1099, 100, put())), outcome(2, set(true, 1)));
    // Another node's clock is past the end.
    machine.run(&once("u", 1100, 100, Command::delete("other")));
    assert_eq!(machine.run(&once("t", 1100, 100, put())), outcome(5, set(false, 2)));
    assert_eq!(machine.entries(), (2, 2));
    assert_eq!(machine.book(), (1100, 2));
}

#[test]
fn the_clock_never_goes_back_and_a_late_proposal_lives_its_whole_time() {
    let mut machine = Machine::new();
    machine.run(&once("ahead", 1_000_000, 10, Command::delete("a")));
    // Proposed by a node whose clock is behind: counts from the replicated clock.
    let behind = once("behind", 1000, 10, Command::put("k", "v"));
    machine.run(&behind);
    machine.restart();
    assert_eq!(machine.book(), (1_000_000, 2));
    machine.run(&once("x", 1_000_009, 10, Command::delete("a")));
    assert_eq!(machine.run(&behind), outcome(2, set(true, 1)));
    machine.run(&once("y", 1_000_010, 10, Command::delete("a")));
    assert_eq!(machine.run(&behind), outcome(3, set(false, 2)));
    assert_eq!(machine.book().0, 1_000_010);
}

#[test]
fn times_at_the_end_of_all_time_do_no_harm() {
    let machine = Machine::new();
    let forever = once("t", u64::MAX, u64::MAX, Command::put("k", "v"));
    machine.run(&forever);
    machine.run(&once("u", u64::MAX, 1, Command::put("k", "w")));
    // Expiry before proposal is no lifetime at all.
    let mut command = once("v", 50, 0, Command::put("l", "v"));
    command.idempotency.as_mut().unwrap().expires_at_ms = 10;
    machine.run(&command);
    assert_eq!(machine.run(&command).revision, 5, "nothing was remembered");
}

#[test]
fn expired_tokens_are_cleared_in_the_order_of_expiry_a_few_at_a_time() {
    let machine = Machine::new();
    let name = |number: u64| format!("token {number}").into_bytes();
    let command = |number: u64, now: u64| Command {
        idempotency: Some(Idempotency {
            token: name(number).into(),
            proposed_at_ms: now,
            expires_at_ms: now + 1 + number % 7,
        }),
        ..Command::put("k", "v")
    };
    machine.batch(&(0..100).map(|number| command(number, 0).encode()).collect::<Vec<_>>());
    assert_eq!((machine.entries(), machine.book().1), ((100, 100), 100));
    for round in 1..=20 {
        machine.run(&command(1000 + round, 1000));
        let left = 100_u64.saturating_sub(round * CLEARED_PER_COMMAND as u64) + round;
        assert_eq!(machine.entries(), (left as usize, left as usize));
        assert_eq!(machine.book(), (1000, left));
    }
}

#[test]
fn at_the_limit_the_token_that_expires_first_makes_room() {
    let machine = Machine::new();
    let (early, late) =
        (once("early", 0, 100, Command::put("e", "v")), once("late", 0, 900, Command::put("l", "v")));
    let (first, second) = (machine.run(&late), machine.run(&early));
    let mut session = machine.store().begin();
    TokenBook { clock: 0, count: MAX_TOKENS }.save(&mut session);
    session.commit().unwrap();

    // Asking again for what is remembered needs no room.
    assert_eq!(machine.run(&early), second);
    assert_eq!((machine.entries(), machine.book()), ((2, 2), (0, MAX_TOKENS)));
    machine.run(&once("new", 1, 500, Command::put("n", "v")));
    assert_eq!((machine.entries(), machine.book()), ((2, 2), (1, MAX_TOKENS)));
    assert_eq!(machine.run(&late), first);
    assert_eq!(machine.run(&early), outcome(5, set(false, 2)), "it was forgotten");
}

#[test]
fn a_token_that_expires_before_those_that_made_room_is_found_first() {
    let machine = Machine::new();
    machine.run(&once("late", 0, 900, Command::put("k", "v")));
    let mut session = machine.store().begin();
    TokenBook { clock: 0, count: MAX_TOKENS }.save(&mut session);
    session.commit().unwrap();
    // Each makes room for the next, whichever of them expires first.
    let mut revision = 2;
    for (token, lifetime) in [("a", 500), ("b", 300), ("c", 400), ("d", 100)] {
        revision += 1;
        let done = machine.run(&once(token, 0, lifetime, Command::put("k", "v")));
        assert_eq!(done.revision, revision);
        assert_eq!((machine.entries(), machine.book()), ((1, 1), (0, MAX_TOKENS)), "{token}");
    }
    // In one batch, too.
    let more = [("e", 90), ("f", 700), ("g", 80), ("h", 60)]
        .map(|(token, lifetime)| once(token, 0, lifetime, Command::put("k", "v")).encode());
    assert_eq!(machine.batch(&more)[3].revision, revision + 4);
    assert_eq!((machine.entries(), machine.book()), ((1, 1), (0, MAX_TOKENS)));
    // The replicated clock forgets the last of them.
    machine.run(&once("i", 60, 900, Command::put("k", "v")));
    assert_eq!((machine.entries(), machine.book()), ((1, 1), (60, MAX_TOKENS)));
}

proptest! {
    #[test]
    fn tokens_round_trip_and_expiry_keys_sort_by_time(
        fingerprint in any::<u64>(),
        a in any::<u64>(),
        b in any::<u64>(),
        token in any::<Vec<u8>>(),
    ) {
        let stored = Token { fingerprint, expires_at: a, outcome: outcome(7, set(true, 3)) };
        prop_assert_eq!(Token::decode(stored.encode().into()), Ok(stored));
        prop_assert_eq!(read_expiry_key(expiry_key(a, &token)), Ok((a, token.clone().into())));
        if a != b {
            prop_assert_eq!(expiry_key(a, &token) < expiry_key(b, &[]), a < b);
        }
    }

    #[test]
    fn any_bytes_are_a_token_or_refused(input in any::<Vec<u8>>()) {
        let _ = Token::decode(input.clone().into());
        let _ = read_expiry_key(input.into());
    }
}

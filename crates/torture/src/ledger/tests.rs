//! The ledger: that it reads what it wrote, and nothing else.

use proptest::prelude::*;

use super::*;

fn entry(seed: u64) -> Entry {
    Entry {
        date: "2026-01-31 12:00".to_owned(),
        commit: "757c1a6".to_owned(),
        nodes: 3,
        seed,
        seconds: 600,
        faults: BTreeMap::from([(Kind::Kill, 41), (Kind::Clock, 2)]),
        operations: 1_234_567,
        unknown: 89,
        problems: 0,
        recovery: Some((410, 2_300)),
        mutant: None,
    }
}

fn simulated(from: u64) -> Simulated {
    Simulated {
        date: "2026-02-01 09:30".to_owned(),
        commit: "757c1a6".to_owned(),
        from,
        seeds: 10_000,
        seconds: 140_000,
        steps: 480_000_000,
        operations: 4_000_000,
        unknown: 90_000,
        broken: 1,
    }
}

#[test]
fn simulated_clusters_have_a_table_and_totals_of_their_own() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ledger.md");
    append_simulated(&path, simulated(1)).unwrap();
    append(&path, entry(1)).unwrap();
    let ledger = append_simulated(&path, simulated(10_001)).unwrap();
    assert_eq!(Ledger::load(&path).unwrap(), ledger);
    let text = std::fs::read_to_string(&path).unwrap();
    for line in [
        "| Runs | 1 |",
        "| Simulated seeds | 20,000 |",
        "| Simulated seeds in which a promise was broken | 2 |",
        "| 2026-02-01 09:30 | 757c1a6 | 10001 | 10000 | 140000 | 480000000 | 4000000 | 90000 | 1 |",
    ] {
        assert!(text.lines().any(|found| found == line), "{line}\n{text}");
    }
    let damaged = text.replace(" | 480000000", "");
    std::fs::write(&path, damaged).unwrap();
    let error = append(&path, entry(2)).unwrap_err().to_string();
    assert!(error.contains("it has 8 cells instead of 9"), "{error}");
}

#[test]
fn ledgers_of_runs_at_once_become_one_in_the_order_of_time() {
    let folder = tempfile::tempdir().unwrap();
    let (one, other) = (folder.path().join("one.md"), folder.path().join("other.md"));
    let at = |seed, date: &str| Entry { date: date.to_owned(), ..entry(seed) };
    append(&one, at(1, "2026-01-31 12:00")).unwrap();
    append(&one, at(3, "2026-01-31 12:20")).unwrap();
    append(&other, at(2, "2026-01-31 12:10")).unwrap();
    append_simulated(&other, simulated(1)).unwrap();
    let ledger = merge(&one, &other).unwrap();
    assert_eq!(ledger.entries.iter().map(|entry| entry.seed).collect::<Vec<_>>(), [1, 2, 3]);
    assert_eq!(ledger.simulated.len(), 1);
    assert_eq!(Ledger::load(&one).unwrap(), ledger);
}

#[test]
fn runs_are_added_one_after_the_other() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ledger.md");
    append(&path, entry(1)).unwrap();
    append(&path, Entry { problems: 2, recovery: Some((900, 5_000)), ..entry(2) }).unwrap();
    let mutant = Entry { mutant: Some("stale-read".to_owned()), problems: 7, ..entry(3) };
    append(&path, mutant.clone()).unwrap();
    let missed = Entry { mutant: Some("lost-write".to_owned()), recovery: None, ..entry(4) };
    let ledger = append(&path, missed).unwrap();
    assert_eq!(Ledger::load(&path).unwrap(), ledger);
    assert_eq!(ledger.entries[2], mutant);
    let text = std::fs::read_to_string(&path).unwrap();
    for line in [
        "| Runs | 2 |",
        "| Runs in which every promise held | 1 |",
        "| Time under faults | 0 h 20 min 0 s |",
        "| Operations checked | 2,469,134 |",
        "| Promises broken | 2 |",
        "| Faults | 86 |",
        "| of these: kill | 82 |",
        "| of these: clock | 4 |",
        "| Recovery after a leader's kill, median of the runs' medians | 900 ms |",
        "| Recovery after a leader's kill, largest | 5,000 ms |",
        "| Runs with a mutant that was caught | 1 of 2 |",
    ] {
        assert!(text.lines().any(|found| found == line), "{line}\n{text}");
    }
    for cells in [
        "| held | 410 | 2300 | – |",
        "| 2 broken | 900",
        "| caught by 7 |",
        "| missed | – | – | lost-write |",
    ] {
        assert!(text.contains(cells), "{cells}\n{text}");
    }
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "no draft is left");
}

proptest! {
    #[test]
    fn what_is_written_is_read(
        seeds in proptest::collection::vec(any::<u64>(), 0..5), small in 0_u64..1_000,
        recovery: Option<(u64, u64)>, mutant in proptest::option::of("[a-z-]{1,9}"),
    ) {
        let entry = |seed| Entry {
            problems: seed % 3,
            recovery,
            mutant: mutant.clone(),
            operations: small,
            faults: BTreeMap::from([(Kind::BitFlip, small + 1)]),
            ..entry(seed)
        };
        let clusters = |seed| Simulated { from: seed, seeds: small, ..simulated(7) };
        let ledger = Ledger {
            simulated: seeds.iter().copied().map(clusters).take(2).collect(),
            entries: seeds.into_iter().map(entry).collect(),
        };
        prop_assert_eq!(Ledger::parse(&ledger.render()).unwrap(), ledger);
    }
}

#[test]
fn a_file_that_was_changed_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ledger.md");
    append(&path, entry(1)).unwrap();
    let whole = std::fs::read_to_string(&path).unwrap();
    let changes = [
        (
            whole.replace("| held |", "| 3 broken |"),
            "it should be \"| Runs in which every promise held | 0 |\"",
        ),
        (whole.replace("| 89 |", "| many |"), "unknown is \"many\""),
        (whole.replace("Each line of runs", "Some lines of runs"), "line 3: it should be"),
        (whole.replace("1,234,567", "1,234,568"), "it should be"),
        (whole.replace(" | 757c1a6", ""), "it has 23 cells instead of 24"),
        (format!("{whole}\n"), "it should be \"the end\""),
        (format!("{whole}more\n"), "it is no line of the table"),
        (whole[..whole.len() - 1].to_owned(), "it should be"),
        (String::new(), "the table of runs is missing"),
        ("# Something else\n".to_owned(), "the table of runs is missing"),
    ];
    for (text, reason) in changes {
        assert_ne!(text, whole, "{reason}");
        std::fs::write(&path, &text).unwrap();
        let error = append(&path, entry(2)).unwrap_err().to_string();
        assert!(error.contains(reason) && error.contains("restore it"), "{error}");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), text, "nothing is written");
    }
}

#[test]
fn a_run_that_would_damage_the_table_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ledger.md");
    for text in ["", "a|b", "a\nb", " a", "–"] {
        let unfit = [
            Entry { commit: text.to_owned(), ..entry(1) },
            Entry { date: text.to_owned(), ..entry(1) },
            Entry { mutant: Some(text.to_owned()), ..entry(1) },
        ];
        for entry in unfit {
            assert!(matches!(append(&path, entry), Err(LedgerError::Unfit { .. })), "{text:?}");
        }
    }
    assert!(!path.exists());
}

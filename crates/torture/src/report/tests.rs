//! Whole pages: that nothing hostile gets out of its place, and that all parts are there.

use super::*;
use crate::history::{
    Call, Event, Holding, Operation, Outcome, Record, Step, StepResult, WatchLog, WatchNote, Way,
};
use crate::timeline::Kind;

const SECOND: Nanos = 1_000_000_000;

/// Text that breaks out of whatever does not hold it.
const HOSTILE: &str =
    "</svg></script><script>alert(1)</script><img src=http://x/ onerror=\"a\">'\"&\0\u{202e}";

fn operations(text: &str, count: u64) -> Vec<Operation> {
    let operation = |number: u64| {
        let key = format!("reg/{text}");
        let value = format!("v{number}{text}");
        let then = if number.is_multiple_of(2) {
            vec![Step::Put { key: key.clone(), value: value.clone(), lease: None }]
        } else {
            vec![Step::Get { key: key.clone() }]
        };
        let record = Record { value, create_revision: 2, mod_revision: 3, version: 1, lease: 0 };
        let result = if number.is_multiple_of(2) { StepResult::Put } else { StepResult::Got(Some(record)) };
        let outcome = match number % 9 {
            7 => Outcome::Failed { reason: text.to_owned() },
            8 => Outcome::Unknown { reason: text.to_owned() },
            _ => Outcome::Done { revision: number as i64, succeeded: true, results: vec![result] },
        };
        let begun = number * SECOND / 20;
        Operation {
            client: (number % 5) as u32,
            node: 1 + number % 3,
            way: [Way::Http, Way::Grpc][(number % 2) as usize],
            begun,
            ended: begun + 3_000_000,
            call: Call::Txn { compares: Vec::new(), then, otherwise: Vec::new(), local: false },
            outcome,
        }
    };
    (0..count).map(operation).collect()
}

fn whole(text: &str) -> String {
    let notes = vec![
        WatchNote::Opened { at: 0, node: 1, from_revision: 2 },
        WatchNote::Events {
            at: 1,
            events: vec![Event { key: text.to_owned(), mod_revision: 3, record: None }],
        },
        WatchNote::Lost { at: 2, reason: text.to_owned() },
    ];
    let holding = Holding { client: 1, lock: text.to_owned(), lease: 1, fencing: 2, from: 3, until: 4 };
    let history = History {
        operations: operations(text, 400),
        watches: vec![WatchLog { watcher: 1, way: Way::Grpc, prefix: String::new(), notes }],
        holdings: vec![holding],
        ..History::default()
    };
    let mishap = |kind, nodes, begun| Mishap {
        fault: format!("fault {text}"),
        kind,
        detail: text.to_owned(),
        nodes,
        count: 1,
        begun: begun * SECOND,
        ended: (begun + 2) * SECOND,
    };
    let mishaps =
        [mishap(Kind::Kill, vec![2], 3), mishap(Kind::Clock, vec![], 8), mishap(Kind::Kill, vec![9], 12)];
    let problem = |key: Option<String>, operations| Problem {
        check: format!("linearizable {text}"),
        text: text.to_owned(),
        key,
        operations,
    };
    let mut problems = vec![
        problem(Some(format!("reg/{text}")), vec![0, 1, 2, 7, 8, 100_000]),
        problem(Some("another key".to_owned()), vec![3]),
        problem(None, (0..100).collect()),
    ];
    problems.extend((0..40).map(|_| problem(None, Vec::new())));
    let checks = vec![Check { name: text.to_owned(), checked: 9, unit: text.to_owned(), problems: 1 }];
    let run = Run {
        commit: text.to_owned(),
        date: text.to_owned(),
        nodes: 3,
        seed: 7,
        duration: 20 * SECOND,
        command: text.to_owned(),
        mutant: Some(text.to_owned()),
    };
    page(&run, &history, &mishaps, &Verdict { problems, checks })
}

#[test]
fn nothing_hostile_gets_out_of_its_place() {
    let page = whole(HOSTILE);
    for forbidden in ["<img", "alert(1)</script>", "onerror=\"", "\0", "\u{202e}"] {
        assert!(!page.contains(forbidden), "{forbidden}");
    }
    assert_eq!(page.matches("<script").count(), 1);
    assert_eq!(page.matches("</script>").count(), 1);
    // The same marks, whatever the texts are.
    let tags = |page: &str| page.matches('<').count();
    assert_eq!(tags(&page), tags(&whole("x")));
}

#[test]
fn the_page_is_whole_and_needs_nothing_else() {
    let page = whole("x");
    for part in [
        "43 promises were broken",
        "id=\"problems\"",
        "Timeline of faults",
        "Calls per second by outcome",
        "Latency of writes",
        "id=\"recovery\"",
        "Calls by workload and way",
        "Why calls did not succeed",
        "Watchers",
        "What was checked",
        "Drawing of problem 3",
        "60 later calls are not drawn",
        "18 more",
    ] {
        assert!(page.contains(part), "{part}");
    }
    for tag in ["section", "svg", "table", "details", "article", "div", "g", "ul", "tr", "td", "text"] {
        let opened = page.matches(&format!("<{tag}>")).count() + page.matches(&format!("<{tag} ")).count();
        assert_eq!(opened, page.matches(&format!("</{tag}>")).count(), "{tag}");
    }
    for outside in ["http://", "https://", "src=", "@import", "url(", "<link"] {
        assert!(!page.contains(outside), "{outside}");
    }
    assert!(!page.contains("NaN") && !page.contains("inf"), "a number is none");
}

#[test]
fn a_run_in_which_nothing_happened_has_a_page() {
    let page = page(&Run::default(), &History::default(), &[], &Verdict::default());
    assert!(page.contains("No promise was broken") && page.contains("class=\"held\""));
    assert!(!page.contains("id=\"problems\"") && !page.contains("NaN"));
}

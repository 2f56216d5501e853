//! Calls and answers in a few words, as far as one key is concerned.

use crate::history::{Call, Compare, Operation, Outcome, Record, Step, StepResult, Way};

/// The longest value that is shown whole.
const LONGEST: usize = 28;
/// The most parts of a transaction that are shown.
const PARTS: usize = 6;

/// The end of a long value, which is where lists differ.
fn short(value: &str) -> String {
    let length = value.chars().count();
    if length <= LONGEST {
        return value.to_owned();
    }
    format!("…{}", value.chars().skip(length - LONGEST).collect::<String>())
}

/// Whether `key` is of interest: the wanted one, or any if none is wanted.
fn wanted(key: &str, only: Option<&str>) -> bool {
    only.is_none_or(|only| only == key)
}

/// The key before a part, where it does not go without saying.
fn named(key: &str, only: Option<&str>, text: &str) -> String {
    if only.is_some() { text.to_owned() } else { format!("{key} {text}") }
}

fn joined(parts: Vec<String>) -> String {
    let more = parts.len().saturating_sub(PARTS);
    let text = parts.into_iter().take(PARTS).collect::<Vec<_>>().join(", ");
    if more > 0 { format!("{text}, {more} more") } else { text }
}

/// What a way is called.
pub(super) fn way_name(way: Way) -> &'static str {
    match way {
        Way::Http => "HTTP",
        Way::Grpc => "gRPC",
        Way::Seed => "seed",
    }
}

/// What was asked, of all keys or `only` of one.
pub(super) fn asked(call: &Call, only: Option<&str>) -> String {
    match call {
        Call::Txn { compares, then, otherwise, local } => {
            let compares = compares.iter().filter_map(|compare| condition(compare, only)).collect::<Vec<_>>();
            let then = then.iter().filter_map(|step| step_text(step, only)).collect::<Vec<_>>();
            let otherwise = otherwise.iter().filter_map(|step| step_text(step, only)).collect::<Vec<_>>();
            let mut text = String::new();
            if !compares.is_empty() {
                text = format!("if {}: ", joined(compares));
            }
            text.push_str(&joined(then));
            if !otherwise.is_empty() {
                text = format!("{text}; else {}", joined(otherwise));
            }
            if *local {
                text.push_str(" (local)");
            }
            text
        }
        Call::SeedWrite { key, value: Some(value) } => named(key, only, &format!("write {}", short(value))),
        Call::SeedWrite { key, value: None } => named(key, only, "delete"),
        Call::SeedRead { key } => named(key, only, "read"),
    }
}

fn condition(compare: &Compare, only: Option<&str>) -> Option<String> {
    let (key, text) = match compare {
        Compare::ModRevision { key, revision: 0 } | Compare::CreateRevision { key, revision: 0 } => {
            (key, "absent".to_owned())
        }
        Compare::ModRevision { key, revision } => (key, format!("mod={revision}")),
        Compare::CreateRevision { key, revision } => (key, format!("create={revision}")),
        Compare::Value { key, value } => (key, format!("value={}", short(value))),
    };
    wanted(key, only).then(|| named(key, only, &text))
}

fn step_text(step: &Step, only: Option<&str>) -> Option<String> {
    let (key, text) = match step {
        Step::Get { key } => (key, "get".to_owned()),
        Step::Put { key, value, lease: None } => (key, format!("put {}", short(value))),
        Step::Put { key, value, lease: Some(lease) } => (key, format!("put {} lease {lease}", short(value))),
        Step::Delete { key } => (key, "delete".to_owned()),
    };
    wanted(key, only).then(|| named(key, only, &text))
}

/// What was told, of all keys or `only` of one.
pub(super) fn told(operation: &Operation, only: Option<&str>) -> String {
    match &operation.outcome {
        Outcome::Done { revision, succeeded, results } => {
            let steps: &[Step] = match &operation.call {
                Call::Txn { then, .. } if *succeeded => then,
                Call::Txn { otherwise, .. } => otherwise,
                Call::SeedWrite { .. } | Call::SeedRead { .. } => &[],
            };
            let parts = steps.iter().zip(results).filter_map(|(step, result)| {
                let (Step::Get { key } | Step::Put { key, .. } | Step::Delete { key }) = step;
                wanted(key, only).then(|| named(key, only, &result_text(result)))
            });
            let text = joined(parts.collect());
            let held = if *succeeded { "" } else { "did not hold; " };
            format!("@{revision} {held}{text}").trim_end_matches([' ', ';']).to_owned()
        }
        Outcome::SeedWritten => "ok".to_owned(),
        Outcome::SeedFound { value } if value.is_empty() => "absent".to_owned(),
        Outcome::SeedFound { value } => short(value),
        Outcome::Failed { reason } => format!("failed: {reason}"),
        Outcome::Unknown { reason } => format!("unknown: {reason}"),
    }
}

fn result_text(result: &StepResult) -> String {
    match result {
        StepResult::Got(None) => "absent".to_owned(),
        StepResult::Got(Some(Record { value, mod_revision, .. })) => {
            format!("{} mod={mod_revision}", short(value))
        }
        StepResult::Put => "ok".to_owned(),
        StepResult::Deleted(count) => format!("deleted {count}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn operation(outcome: Outcome) -> Operation {
        let key = |name: &str| format!("list/{name}");
        let call = Call::Txn {
            compares: vec![
                Compare::ModRevision { key: key("a"), revision: 7 },
                Compare::ModRevision { key: key("b"), revision: 0 },
            ],
            then: vec![
                Step::Put { key: key("a"), value: "1,2".to_owned(), lease: None },
                Step::Get { key: key("b") },
            ],
            otherwise: vec![Step::Get { key: key("a") }],
            local: false,
        };
        Operation { client: 1, node: 1, way: Way::Http, begun: 0, ended: 1, call, outcome }
    }

    #[test]
    fn a_transaction_is_told_of_one_key_or_of_all() {
        let results = vec![StepResult::Put, StepResult::Got(None)];
        let done = operation(Outcome::Done { revision: 9, succeeded: true, results });
        assert_eq!(asked(&done.call, Some("list/a")), "if mod=7: put 1,2; else get");
        assert_eq!(told(&done, Some("list/a")), "@9 ok");
        assert_eq!(
            asked(&done.call, None),
            "if list/a mod=7, list/b absent: list/a put 1,2, list/b get; else list/a get"
        );
        assert_eq!(told(&done, None), "@9 list/a ok, list/b absent");
        let record =
            Record { value: "1".to_owned(), create_revision: 2, mod_revision: 8, version: 1, lease: 0 };
        let results = vec![StepResult::Got(Some(record))];
        let missed = operation(Outcome::Done { revision: 9, succeeded: false, results });
        assert_eq!(told(&missed, Some("list/a")), "@9 did not hold; 1 mod=8");
        let empty = operation(Outcome::Done { revision: 9, succeeded: false, results: Vec::new() });
        assert_eq!(told(&empty, Some("list/a")), "@9 did not hold");
        let unknown = operation(Outcome::Unknown { reason: "no answer".to_owned() });
        assert_eq!(told(&unknown, None), "unknown: no answer");
    }

    #[test]
    fn of_long_values_the_end_is_shown() {
        let value = (0..100).map(|number| number.to_string()).collect::<Vec<_>>().join(",");
        assert_eq!(short(&value).chars().count(), LONGEST + 1);
        assert!(short(&value).ends_with("98,99"));
        assert_eq!(asked(&Call::SeedRead { key: "k".to_owned() }, None), "k read");
    }
}

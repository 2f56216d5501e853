//! Calls as the HTTP API wants them, and what its answers mean.
//!
//! What has a call of its own (a plain get, put or delete, with or without a condition) may
//! go by it or as a transaction, so that both are proved. An answer that does not have the
//! documented form is never taken for one: its call's outcome is unknown.

use hyper::Method;
use serde_json::{Value, json};

use super::http::{Answer, Question};
use super::judge;
use crate::history::{Call, Compare, Outcome, Record, Step, StepResult};

/// Which of the API's calls a call went by, and so what its answer looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Route {
    Get,
    Put,
    Delete,
    Txn,
    SeedWrite,
    SeedRead,
}

/// How fresh a read that is not local is asked to be: the word of the API.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Freshness {
    /// `linearizable`.
    Confirmed,
    /// `lease`: the same as long as clocks run at about the same rate.
    Leased,
}

/// The question for a call; `plain` prefers the call's own route to a transaction.
pub(super) fn question(call: &Call, plain: bool, freshness: Freshness) -> (Route, Question) {
    match call {
        Call::Txn { compares, then, otherwise, local } => {
            let consistency = match (local, freshness) {
                (true, _) => "local",
                (false, Freshness::Confirmed) => "linearizable",
                (false, Freshness::Leased) => "lease",
            };
            let own = plain && otherwise.is_empty();
            own.then(|| own_route(compares, then, consistency))
                .flatten()
                .unwrap_or_else(|| txn(call, compares, then, otherwise, consistency))
        }
        Call::SeedWrite { key, value } => {
            let body = match value {
                Some(value) => json!({ "Put": { "key": key, "value": value } }),
                None => json!({ "Del": { "key": key } }),
            };
            (Route::SeedWrite, Question::new(Method::POST, "/write").with_body(body.to_string()))
        }
        Call::SeedRead { key } => {
            let question = Question::new(Method::POST, "/read?consistency=linearizable");
            (Route::SeedRead, question.with_body(json!(key).to_string()))
        }
    }
}

fn own_route(compares: &[Compare], then: &[Step], consistency: &str) -> Option<(Route, Question)> {
    let [step] = then else { return None };
    let condition = match compares {
        [] => None,
        [
            Compare::ModRevision { key, revision } | Compare::CreateRevision { key, revision: revision @ 0 },
        ] if key == step_key(step) => Some(if *revision == 0 {
            ("if-none-match", "*".to_owned())
        } else {
            ("if-match", format!("\"{revision}\""))
        }),
        _ => return None,
    };
    let path = format!("/v1/kv/{}", step_key(step));
    let (route, question) = match step {
        // A condition of a get means something else.
        Step::Get { .. } if condition.is_some() => return None,
        Step::Get { .. } => {
            (Route::Get, Question::new(Method::GET, format!("{path}?consistency={consistency}")))
        }
        Step::Put { value, lease, .. } => {
            let path = lease.map_or(path.clone(), |lease| format!("{path}?lease={lease}"));
            (Route::Put, Question::new(Method::PUT, path).with_body(value.clone()))
        }
        // Only a key that exists can be deleted under a condition.
        Step::Delete { .. } if condition.as_ref().is_some_and(|(name, _)| *name != "if-match") => {
            return None;
        }
        Step::Delete { .. } => (Route::Delete, Question::new(Method::DELETE, path)),
    };
    let question = match condition {
        Some((name, value)) => question.with(name, value),
        None => question,
    };
    Some((route, question))
}

fn step_key(step: &Step) -> &str {
    match step {
        Step::Get { key } | Step::Put { key, .. } | Step::Delete { key } => key,
    }
}

fn txn(
    call: &Call,
    compares: &[Compare],
    then: &[Step],
    otherwise: &[Step],
    consistency: &str,
) -> (Route, Question) {
    let compare = |compare: &Compare| match compare {
        Compare::ModRevision { key, revision } => {
            json!({ "key": key, "target": "mod_revision", "relation": "=", "number": revision })
        }
        Compare::CreateRevision { key, revision } => {
            json!({ "key": key, "target": "create_revision", "relation": "=", "number": revision })
        }
        Compare::Value { key, value } => {
            json!({ "key": key, "target": "value", "relation": "=", "value": value })
        }
    };
    let step = |step: &Step| match step {
        Step::Get { key } => json!({ "get": { "key": key } }),
        Step::Put { key, value, lease } => {
            json!({ "put": { "key": key, "value": value, "lease": lease.unwrap_or(0) } })
        }
        Step::Delete { key } => json!({ "delete": { "key": key } }),
    };
    let body = json!({
        "compare": compares.iter().map(compare).collect::<Vec<_>>(),
        "then": then.iter().map(step).collect::<Vec<_>>(),
        "else": otherwise.iter().map(step).collect::<Vec<_>>(),
    });
    let path =
        if call.only_reads() { format!("/v1/txn?consistency={consistency}") } else { "/v1/txn".into() };
    (Route::Txn, Question::new(Method::POST, path).with_body(body.to_string()))
}

/// What an answer means for a call that went by `route`.
pub(super) fn outcome(call: &Call, route: Route, answer: &Answer) -> Outcome {
    let told = match route {
        Route::Get => got(answer),
        Route::Put => put(answer),
        Route::Delete => deleted(answer),
        Route::Txn => txn_done(call, answer),
        Route::SeedWrite => {
            (answer.status == 200 && answer.json() == json!("Ok")).then_some(Outcome::SeedWritten)
        }
        Route::SeedRead => (answer.status == 200)
            .then(|| answer.json().as_str().map(|value| Outcome::SeedFound { value: value.to_owned() }))
            .flatten(),
    };
    told.unwrap_or_else(|| {
        if (200..300).contains(&answer.status) {
            let text = answer.text().unwrap_or_default();
            judge::unknown(format!("strange answer {} {text}", answer.status))
        } else {
            judge::refusal(call, answer)
        }
    })
}

fn done(revision: i64, result: StepResult) -> Outcome {
    Outcome::Done { revision, succeeded: true, results: vec![result] }
}

fn got(answer: &Answer) -> Option<Outcome> {
    let revision = answer.number("x-kvorum-revision")?;
    let record = match answer.status {
        200 => Some(Record {
            value: answer.text()?,
            create_revision: answer.number("x-kvorum-create-revision")?,
            mod_revision: answer.number("etag")?,
            version: answer.number("x-kvorum-version")?,
            lease: answer.number("x-kvorum-lease").unwrap_or(0),
        }),
        404 if answer.code().as_deref() == Some("not_found") => None,
        _ => return None,
    };
    Some(done(revision, StepResult::Got(record)))
}

/// Of a condition that did not hold, which is an answer as good as any.
fn condition_failed(answer: &Answer) -> Option<Outcome> {
    if answer.status != 412 || answer.code()? != "condition_failed" {
        return None;
    }
    let revision = answer.json().pointer("/error/details/revision")?.as_i64()?;
    Some(Outcome::Done { revision, succeeded: false, results: Vec::new() })
}

fn put(answer: &Answer) -> Option<Outcome> {
    match answer.status {
        200 | 201 => Some(done(number(&answer.json(), "revision")?, StepResult::Put)),
        _ => condition_failed(answer),
    }
}

fn deleted(answer: &Answer) -> Option<Outcome> {
    if answer.status != 200 {
        return condition_failed(answer);
    }
    let body = answer.json();
    Some(done(number(&body, "revision")?, StepResult::Deleted(number(&body, "deleted")?)))
}

fn number(of: &Value, name: &str) -> Option<i64> {
    of.get(name)?.as_i64()
}

fn txn_done(call: &Call, answer: &Answer) -> Option<Outcome> {
    let Call::Txn { then, otherwise, .. } = call else { return None };
    if answer.status != 200 {
        return None;
    }
    let body = answer.json();
    let succeeded = body.get("succeeded")?.as_bool()?;
    let asked = if succeeded { then } else { otherwise };
    let told = body.get("results")?.as_array()?;
    if told.len() != asked.len() {
        return None;
    }
    let results =
        asked.iter().zip(told).map(|(step, told)| step_result(step, told)).collect::<Option<_>>()?;
    Some(Outcome::Done { revision: number(&body, "revision")?, succeeded, results })
}

fn step_result(step: &Step, told: &Value) -> Option<StepResult> {
    Some(match step {
        Step::Get { key } => match told.pointer("/get/items")?.as_array()?.as_slice() {
            [] => StepResult::Got(None),
            [item] if item.get("key")?.as_str()? == key => StepResult::Got(Some(record(item)?)),
            _ => return None,
        },
        Step::Put { .. } => told.get("put").map(|_| StepResult::Put)?,
        Step::Delete { .. } => StepResult::Deleted(number(told.get("delete")?, "deleted")?),
    })
}

/// The record of an item, as listings, transactions and watches show it.
pub(super) fn record(item: &Value) -> Option<Record> {
    Some(Record {
        value: item.get("value")?.as_str()?.to_owned(),
        create_revision: number(item, "create_revision")?,
        mod_revision: number(item, "mod_revision")?,
        version: number(item, "version")?,
        lease: item.get("lease").map_or(Some(0), Value::as_i64)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(compares: Vec<Compare>, then: Vec<Step>, otherwise: Vec<Step>) -> Call {
        Call::Txn { compares, then, otherwise, local: false }
    }

    fn get() -> Step {
        Step::Get { key: "a/b".to_owned() }
    }

    fn set() -> Step {
        Step::Put { key: "a/b".to_owned(), value: "v".to_owned(), lease: Some(9) }
    }

    fn at(revision: i64) -> Compare {
        Compare::ModRevision { key: "a/b".to_owned(), revision }
    }

    fn asked(call: &Call, plain: bool) -> (Route, String, Vec<(&'static str, String)>) {
        let (route, question) = question(call, plain, Freshness::Confirmed);
        (route, format!("{} {}", question.method, question.path), question.headers)
    }

    #[test]
    fn simple_calls_go_by_their_own_routes() {
        let (route, line, _) = asked(&call(vec![], vec![get()], vec![]), true);
        assert_eq!((route, line.as_str()), (Route::Get, "GET /v1/kv/a/b?consistency=linearizable"));
        let (route, line, headers) = asked(&call(vec![at(7)], vec![set()], vec![]), true);
        assert_eq!((route, line.as_str()), (Route::Put, "PUT /v1/kv/a/b?lease=9"));
        assert_eq!(headers, [("if-match", "\"7\"".to_owned())]);
        let (_, _, headers) = asked(&call(vec![at(0)], vec![set()], vec![]), true);
        assert_eq!(headers, [("if-none-match", "*".to_owned())]);
        let delete = Step::Delete { key: "a/b".to_owned() };
        assert_eq!(asked(&call(vec![], vec![delete.clone()], vec![]), true).0, Route::Delete);
        let others = [
            call(vec![at(7)], vec![set()], vec![get()]),
            call(vec![at(7)], vec![get()], vec![]),
            call(vec![at(0)], vec![delete], vec![]),
            call(vec![at(7), at(7)], vec![set()], vec![]),
            call(vec![Compare::ModRevision { key: "c".to_owned(), revision: 7 }], vec![set()], vec![]),
            call(vec![Compare::Value { key: "a/b".to_owned(), value: "w".to_owned() }], vec![set()], vec![]),
        ];
        for other in others {
            assert_eq!(asked(&other, true).0, Route::Txn, "{other:?}");
        }
        let (route, line, _) = asked(&call(vec![], vec![get()], vec![]), false);
        assert_eq!((route, line.as_str()), (Route::Txn, "POST /v1/txn?consistency=linearizable"));
    }

    #[test]
    fn answers_of_own_routes_are_read() {
        let read = call(vec![], vec![get()], vec![]);
        let answer = Answer::of(200, "v")
            .with("etag", "\"7\"")
            .with("x-kvorum-revision", "9")
            .with("x-kvorum-create-revision", "5")
            .with("x-kvorum-version", "2")
            .with("x-kvorum-lease", "-4");
        let record =
            Record { value: "v".to_owned(), create_revision: 5, mod_revision: 7, version: 2, lease: -4 };
        assert_eq!(outcome(&read, Route::Get, &answer), done(9, StepResult::Got(Some(record))));
        let absent = Answer::of(404, r#"{"error":{"code":"not_found","details":{"revision":9}}}"#);
        let absent = absent.with("x-kvorum-revision", "9");
        assert_eq!(outcome(&read, Route::Get, &absent), done(9, StepResult::Got(None)));

        let write = call(vec![at(7)], vec![set()], vec![]);
        let created = Answer::of(201, r#"{"revision":7,"created":true,"version":1}"#);
        assert_eq!(outcome(&write, Route::Put, &created), done(7, StepResult::Put));
        let other = r#"{"error":{"code":"condition_failed","details":{"mod_revision":0,"revision":9}}}"#;
        let lost = Outcome::Done { revision: 9, succeeded: false, results: Vec::new() };
        assert_eq!(outcome(&write, Route::Put, &Answer::of(412, other)), lost);
        assert_eq!(outcome(&write, Route::Delete, &Answer::of(412, other)), lost);
        let gone = Answer::of(200, r#"{"revision":8,"deleted":1}"#);
        assert_eq!(outcome(&write, Route::Delete, &gone), done(8, StepResult::Deleted(1)));
    }

    #[test]
    fn answers_of_transactions_are_read() {
        let both = call(vec![at(7)], vec![set(), get()], vec![get()]);
        let body = r#"{"revision":9,"succeeded":true,"results":[{"put":{"revision":9}},{"get":{"revision":9,
            "items":[{"key":"a/b","value":"v","create_revision":5,"mod_revision":9,"version":2}],"count":1,"more":false}}]}"#;
        let Outcome::Done { revision: 9, succeeded: true, results } =
            outcome(&both, Route::Txn, &Answer::of(200, body))
        else {
            panic!("not done")
        };
        assert!(matches!(&results[..], [StepResult::Put, StepResult::Got(Some(found))] if found.lease == 0));
        let body = r#"{"revision":9,"succeeded":false,"results":[{"get":{"items":[]}}]}"#;
        let missed = Outcome::Done { revision: 9, succeeded: false, results: vec![StepResult::Got(None)] };
        assert_eq!(outcome(&both, Route::Txn, &Answer::of(200, body)), missed);
    }

    #[test]
    fn what_has_not_the_documented_form_is_unknown() {
        let write = call(vec![], vec![set()], vec![]);
        for (route, status, body) in [
            (Route::Put, 200, "{}"),
            (Route::Put, 204, ""),
            (Route::Txn, 200, r#"{"revision":9,"succeeded":true,"results":[]}"#),
            (Route::Txn, 200, r#"{"revision":9,"succeeded":true,"results":[{"get":{"items":[]}}]}"#),
            (Route::SeedWrite, 200, r#""No""#),
            (Route::SeedRead, 200, "7"),
            (Route::Get, 200, "v"),
        ] {
            let judged = outcome(&write, route, &Answer::of(status, body));
            assert!(matches!(judged, Outcome::Unknown { .. }), "{route:?} {body}: {judged:?}");
        }
    }

    #[test]
    fn the_seeds_calls_speak_json_strings() {
        let (_, question) =
            super::question(&Call::SeedWrite { key: "k".to_owned(), value: None }, true, Freshness::Leased);
        assert_eq!((question.path.as_str(), question.body.as_str()), ("/write", r#"{"Del":{"key":"k"}}"#));
        let read = Call::SeedRead { key: "k".to_owned() };
        let found = Outcome::SeedFound { value: String::new() };
        assert_eq!(outcome(&read, Route::SeedRead, &Answer::of(200, "\"\"")), found);
        let written = Call::SeedWrite { key: "k".to_owned(), value: Some("v".to_owned()) };
        assert_eq!(outcome(&written, Route::SeedWrite, &Answer::of(200, "\"Ok\"")), Outcome::SeedWritten);
    }
}

//! `import` against a scripted node that keeps what it is told to set.

use std::io::Cursor;
use std::path::Path;
use std::sync::{Arc, Mutex};

use kvorum_etcd_snapshot::{Event, KeyValue, Lease, Revision, SnapshotInfo, Writer};
use kvorum_scripted::{Request, Scripted, Step};

use super::*;
use crate::testing::Captured;

/// The operations of each request.
type Batches = Arc<Mutex<Vec<Vec<Value>>>>;

/// A node that answers the batch of each number by `answer`, or as done.
async fn node(mut answer: impl FnMut(usize) -> Option<Step> + Send + 'static) -> (Scripted, Batches) {
    let batches = Batches::default();
    let kept = Arc::clone(&batches);
    let node = Scripted::start(move |request: &Request| {
        assert_eq!((request.method.as_str(), request.target.as_str()), ("POST", "/v1/batch"));
        let body: Value = serde_json::from_slice(&request.body).unwrap();
        let operations = body["operations"].as_array().unwrap().clone();
        let count = operations.len();
        let number = {
            let mut kept = kept.lock().unwrap();
            kept.push(operations);
            kept.len()
        };
        let done = json!({ "revision": 100 + number, "operations": count, "transactions": 1 });
        answer(number).unwrap_or_else(|| Step::reply(200, done.to_string()))
    })
    .await;
    (node, batches)
}

async fn import(node: &Scripted, input: &str, more: &[&str]) -> (Exit, Captured) {
    let mut captured = Captured { input: Cursor::new(input.as_bytes().to_vec()), ..Captured::default() };
    let line: Vec<_> = ["import"].iter().chain(more).copied().collect();
    let exit = captured.run(node, &line).await;
    (exit, captured)
}

fn put(key: &str, value: &str) -> Value {
    json!({ "put": { "key": key, "value": value } })
}

fn lines(count: usize) -> String {
    (1..=count)
        .map(|number| json!({ "key": format!("k{number}"), "value": "v" }).to_string() + "\n")
        .collect()
}

fn error(status: u16, code: &str, completed: u64) -> Step {
    let details = json!({ "completed": completed });
    Step::reply(status, json!({ "error": { "code": code, "message": code, "details": details } }).to_string())
}

#[tokio::test]
async fn lines_become_puts_in_their_order() {
    let input = "{\"key\":\"a\",\"value\":\"1\",\"later\":{}}\n\n  \r\n\
                 {\"key_base64\":\"/w==\",\"value_base64\":\"gA==\"}\r\n{\"key\":\"b\",\"value\":\"\"}";
    let expected = [vec![
        put("a", "1"),
        json!({ "put": { "key_base64": "/w==", "value_base64": "gA==" } }),
        put("b", ""),
    ]];
    for (arguments, shown) in [
        (&["-"][..], "imported 3 keys (revision 101)\n"),
        (&["--json"], "{\"imported\":3,\"revision\":101}\n"),
    ] {
        let (node, batches) = node(|_| None).await;
        let (exit, captured) = import(&node, input, arguments).await;
        assert_eq!((exit, captured.out(), captured.err()), (Exit::Done, shown, ""));
        assert_eq!(*batches.lock().unwrap(), expected);
    }
}

#[tokio::test]
async fn nothing_is_imported_from_nothing() {
    let (node, batches) = node(|_| None).await;
    let (exit, captured) = import(&node, "\n", &["-"]).await;
    assert_eq!((exit, captured.out()), (Exit::Done, "imported 0 keys\n"));
    assert!(batches.lock().unwrap().is_empty());
}

#[tokio::test]
async fn batches_are_bounded_in_number_and_in_size() {
    let (many, batches) = node(|_| None).await;
    import(&many, &lines(2_500), &["-"]).await;
    let sizes: Vec<_> = batches.lock().unwrap().iter().map(Vec::len).collect();
    assert_eq!(sizes, [1_000, 1_000, 500]);

    let (large, batches) = node(|_| None).await;
    let value = |size: usize| json!({ "key": "k", "value": "x".repeat(size) }).to_string() + "\n";
    let input: String = [400_000, 400_000, 400_000, 2_000_000, 1].map(value).concat();
    let (exit, _) = import(&large, &input, &["-"]).await;
    let sizes: Vec<_> = batches.lock().unwrap().iter().map(Vec::len).collect();
    assert_eq!((exit, sizes), (Exit::Done, vec![2, 1, 1, 1]));
}

#[tokio::test]
async fn an_import_that_fails_says_where_it_stopped_and_how_to_go_on() {
    let (node, _) = node(|number| (number == 2).then(|| error(413, "too_large", 128))).await;
    let (exit, captured) = import(&node, &format!("\n{}", lines(1_500)), &["-"]).await;
    assert_eq!((exit, captured.out()), (Exit::Failed, ""));
    let expected = "error: too_large; the import stopped at line 1130: 1128 keys before it are imported\n\
                    hint: go on with --from-line 1130, or import everything again: keys are only set once more\n";
    assert_eq!(captured.err(), expected);
}

fn refusal(message: &str) -> Step {
    let error = json!({ "code": "invalid_request", "message": message, "details": {} });
    Step::reply(400, json!({ "error": error }).to_string())
}

#[tokio::test]
async fn a_key_that_is_refused_is_named_by_its_line_and_those_before_it_are_imported() {
    for (refusal, said) in [
        (refusal("operations[1].put.key is empty"), "line 1003: put.key is empty"),
        (refusal("operations[1].put: the value is too large"), "line 1003: put: the value is too large"),
    ] {
        let (node, batches) = node(move |number| (number == 2).then(|| refusal.clone())).await;
        let input = format!("{}\n{}", lines(1_001), lines(3));
        let (exit, captured) = import(&node, &input, &["-"]).await;
        let expected = format!(
            "error: {said}; the import stopped at line 1003: 1001 keys before it are imported\n\
             hint: go on with --from-line 1003, or import everything again: keys are only set once more\n"
        );
        assert_eq!((exit, captured.err()), (Exit::Failed, expected.as_str()));
        let sizes: Vec<_> = batches.lock().unwrap().iter().map(Vec::len).collect();
        assert_eq!(sizes, [1_000, 4, 1]);
    }
}

#[tokio::test]
async fn a_refusal_without_a_place_stops_before_the_whole_batch() {
    for message in ["operations is too long", "operations[9].put.key is empty", "operations[x] is strange"] {
        let (node, batches) = node(move |_| Some(refusal(message))).await;
        let (_, captured) = import(&node, &lines(3), &["-"]).await;
        let said = captured.err();
        assert!(said.contains(message) && said.contains("stopped at line 1: 0 keys"), "{said}");
        assert_eq!(batches.lock().unwrap().len(), 1);
    }
}

#[tokio::test]
async fn an_unknown_outcome_is_told_as_one() {
    for step in [Step::Close, error(504, "outcome_unknown", 0)] {
        let (node, _) = node(move |_| Some(step.clone())).await;
        let (exit, captured) = import(&node, &lines(3), &["-", "-o", "json"]).await;
        assert_eq!(exit, Exit::Unavailable);
        let error: Value = serde_json::from_str(captured.err()).unwrap();
        let error = &error["error"];
        assert_eq!((&error["code"], &error["details"]["stopped_at"]), (&json!("outcome_unknown"), &json!(1)));
        assert!(error["message"].as_str().unwrap().contains("some of what follows may be too"), "{error}");
    }
}

#[tokio::test]
async fn the_rest_of_a_batch_is_sent_again_when_it_certainly_did_not_happen() {
    let (node, batches) = node(|number| (number == 1).then(|| error(503, "unavailable", 2))).await;
    let (exit, captured) = import(&node, &lines(3), &["-"]).await;
    assert_eq!((exit, captured.out()), (Exit::Done, "imported 3 keys (revision 102)\n"));
    assert_eq!(batches.lock().unwrap()[1], [put("k3", "v")]);
}

#[tokio::test]
async fn a_line_that_means_nothing_stops_the_import_behind_the_ones_before() {
    for (line, reason) in [
        ("{\"key\":\"k\"", "line 3 is no JSON object of a key and a value: EOF while parsing"),
        ("[1]", "line 3 is no JSON object"),
        ("{\"value\":\"v\"}", "line 3 has neither \"key\" nor \"key_base64\""),
        (
            "{\"key\":\"k\",\"value\":\"v\",\"value_base64\":\"\"}",
            "line 3 has both \"value\" and \"value_base64\"",
        ),
        ("{\"key\":\"k\",\"value_base64\":\"?\"}", "line 3 holds no Base64"),
        ("\u{0}", "line 3 is no JSON object"),
    ] {
        let (node, batches) = node(|_| None).await;
        let (exit, captured) = import(&node, &format!("{}{line}\n{}", lines(2), lines(1)), &["-"]).await;
        assert_eq!(exit, Exit::Failed, "{line}");
        let said = captured.err();
        assert!(
            said.contains(reason) && said.contains("stopped at line 3: 2 keys before it"),
            "{line}: {said}"
        );
        assert_eq!(batches.lock().unwrap().concat().len(), 2, "{line}");
    }
}

#[tokio::test]
async fn an_import_goes_on_from_a_line() {
    let (node, batches) = node(|_| None).await;
    let (exit, captured) = import(&node, &lines(5), &["-", "--from-line", "4"]).await;
    assert_eq!((exit, captured.out()), (Exit::Done, "imported 2 keys (revision 101)\n"));
    assert_eq!(batches.lock().unwrap().concat(), [put("k4", "v"), put("k5", "v")]);
}

#[tokio::test]
async fn a_file_is_read_whole() {
    let path = std::env::temp_dir().join(format!("kvorum-import-{}", std::process::id()));
    std::fs::write(&path, lines(20_000)).unwrap();
    let (node, batches) = node(|_| None).await;
    let (exit, _) = import(&node, "", &[path.to_str().unwrap()]).await;
    std::fs::remove_file(&path).unwrap();
    let all = batches.lock().unwrap().concat();
    assert_eq!((exit, all.len(), &all[19_999]), (Exit::Done, 20_000, &put("k20000", "v")));
    let (exit, captured) = import(&node, "", &["/nowhere/at/all"]).await;
    assert!(exit == Exit::Failed && captured.err().contains("/nowhere/at/all"), "{}", captured.err());
}

fn write_snapshot(path: &Path) {
    let open = File::options().read(true).write(true).create(true).truncate(true).open(path);
    let info = SnapshotInfo {
        term: 1,
        applied_index: 9,
        compact_revision: None,
        cluster_version: None,
        members: Vec::new(),
    };
    let mut writer = Writer::new(open.unwrap(), info).unwrap();
    let event = |key: &'static str, value: &'static str, revision: i64, lease: i64| {
        Event::Put(KeyValue {
            key: key.into(),
            create_revision: revision,
            mod_revision: revision,
            version: 1,
            value: value.into(),
            lease,
        })
    };
    let events = [
        event("a", "old", 2, 0),
        event("gone", "x", 3, 0),
        event("b", "1", 4, 7),
        Event::Delete { key: "gone".into() },
        event("a", "new", 6, 0),
        Event::Delete { key: "b".into() },
        event("b", "again", 8, 7),
    ];
    for (event, main) in events.iter().zip(2..) {
        writer.push(Revision { main, sub: 0 }, event).unwrap();
    }
    for id in [7, 8] {
        writer.lease(&Lease { id, ttl: 60, remaining_ttl: 0 }).unwrap();
    }
    writer.finish().unwrap();
}

#[tokio::test]
async fn of_a_snapshot_of_etcd_the_last_state_is_imported_without_leases() {
    let path = std::env::temp_dir().join(format!("kvorum-import-etcd-{}", std::process::id()));
    write_snapshot(&path);
    let file = path.to_str().unwrap();
    let (node, batches) = node(|_| None).await;
    let (exit, captured) = import(&node, "", &["--etcd-snapshot", file]).await;
    let (_, json) = import(&node, "", &["--etcd-snapshot", file, "--json"]).await;
    let mut damaged = std::fs::read(&path).unwrap();
    damaged[5_000] ^= 1;
    std::fs::write(&path, damaged).unwrap();
    let (failed, refused) = import(&node, "", &["--etcd-snapshot", file]).await;
    std::fs::remove_file(&path).unwrap();

    assert_eq!((exit, captured.out()), (Exit::Done, "imported 2 keys (revision 101) of etcd's revision 8\n"));
    let warning = "warning: 2 leases are not carried over; 1 keys that had one stay until they are deleted\n";
    assert_eq!(captured.err(), warning);
    assert_eq!(batches.lock().unwrap()[0], [put("a", "new"), put("b", "again")]);
    let shown: Value = serde_json::from_str(json.out()).unwrap();
    let expected = json!({ "imported": 2, "revision": 102, "etcd_revision": 8, "leases_dropped": 2,
                           "keys_without_their_lease": 1 });
    assert_eq!(shown, expected);
    assert!(failed == Exit::Failed && refused.err().contains("SHA-256"), "{}", refused.err());
}

#[tokio::test]
async fn a_snapshot_whose_import_fails_counts_its_keys() {
    let path = std::env::temp_dir().join(format!("kvorum-import-stopped-{}", std::process::id()));
    write_snapshot(&path);
    let (node, _) = node(|_| Some(error(413, "too_large", 1))).await;
    let (exit, captured) = import(&node, "", &["--etcd-snapshot", path.to_str().unwrap()]).await;
    std::fs::remove_file(&path).unwrap();
    assert_eq!(exit, Exit::Failed);
    let said = captured.err();
    assert!(said.contains("stopped at key 2: 1 keys before it") && !said.contains("--from-line"), "{said}");
}

//! `lease` as a user sees it, against a scripted node.

use kvorum_scripted::{Scripted, Step};
use serde_json::{Value, json};

use crate::failure::Exit;
use crate::testing::Captured;

async fn run(steps: impl IntoIterator<Item = Step>, line: &[&str]) -> (Exit, Captured, Vec<String>) {
    let node = Scripted::steps(steps).await;
    let mut captured = Captured::default();
    let exit = captured.run(&node, line).await;
    let sent = node.requests().into_iter().map(|request| format!("{} {}", request.method, request.target));
    (exit, captured, sent.collect())
}

fn granted() -> Step {
    Step::reply(201, r#"{"revision":5,"id":7,"ttl":120}"#)
}

#[tokio::test]
async fn grant_prints_the_id_alone_so_that_a_variable_can_hold_it() {
    let (exit, captured, sent) = run([granted()], &["lease", "grant", "2m"]).await;
    assert_eq!((exit, captured.out()), (Exit::Done, "7\n"));
    assert_eq!(sent, ["POST /v1/leases"]);
    let (_, captured, _) = run([granted()], &["lease", "grant", "2m", "--json"]).await;
    assert_eq!(captured.out(), "{\"revision\":5,\"id\":7,\"ttl\":120}\n");
}

#[tokio::test]
async fn revoke_confirms_and_does_not_find_what_has_ended() {
    let done = Step::reply(200, r#"{"revision":6,"revoked":7}"#);
    let (exit, captured, sent) = run([done], &["lease", "revoke", "7"]).await;
    assert_eq!((exit, captured.out()), (Exit::Done, "revoked 7 (revision 6)\n"));
    assert_eq!(sent, ["DELETE /v1/leases/7"]);
    let (exit, captured, _) = run([Step::error(404, "lease_not_found")], &["lease", "revoke", "7"]).await;
    assert_eq!((exit, captured.err()), (Exit::NotFound, "error: lease_not_found\n"));
}

#[tokio::test]
async fn keep_alive_renews_until_the_lease_has_ended() {
    let renewed = || Step::reply(200, r#"{"revision":5,"id":7,"ttl":1}"#);
    // Trouble that passes while the lease lives is none.
    let steps = [renewed(), Step::error(500, "internal"), renewed(), Step::error(404, "lease_not_found")];
    let (exit, captured, sent) = run(steps, &["lease", "keep-alive", "7"]).await;
    assert_eq!((exit, captured.out()), (Exit::NotFound, "lease 7 lives 1 s\nlease 7 lives 1 s\n"));
    assert_eq!(sent, ["POST /v1/leases/7/keep-alive"; 4]);
    let (exit, _, sent) = run([renewed()], &["lease", "keep-alive", "7", "--once"]).await;
    assert_eq!((exit, sent.len()), (Exit::Done, 1));
}

#[tokio::test]
async fn a_lease_that_cannot_be_renewed_in_its_time_is_given_up_as_unavailable() {
    let steps = [Step::reply(200, r#"{"revision":5,"id":7,"ttl":1}"#), Step::error(503, "unavailable")];
    let (exit, captured, _) = run(steps, &["lease", "keep-alive", "7", "--json"]).await;
    let error: Value = serde_json::from_str(captured.err()).unwrap();
    assert_eq!((exit, &error["error"]["code"]), (Exit::Unavailable, &json!("lease_lost")));
}

#[tokio::test]
async fn list_has_one_id_a_line() {
    let listed = || Step::reply(200, r#"{"revision":5,"leases":[7,9]}"#);
    let (_, captured, _) = run([listed()], &["lease", "list"]).await;
    assert_eq!(captured.out(), "7\n9\n");
    let (_, captured, _) = run([listed()], &["lease", "list", "-o", "json"]).await;
    assert_eq!(captured.out(), "{\"revision\":5,\"leases\":[7,9]}\n");
}

#[tokio::test]
async fn show_tells_the_time_and_the_keys() {
    let status = || {
        let keys = json!([{ "key": "a\t" }, { "key_base64": "/w==" }]);
        let body = json!({ "revision": 5, "id": 7, "ttl": 28, "granted_ttl": 30, "keys": keys });
        Step::reply(200, body.to_string())
    };
    let (_, captured, sent) = run([status()], &["lease", "show", "7", "--keys"]).await;
    assert_eq!(captured.out(), "lease 7 lives 28 s of 30 s\na\\t\n\\xff\n");
    assert_eq!(sent, ["GET /v1/leases/7?keys=true"]);
    let (_, captured, _) = run([status()], &["lease", "show", "7", "--keys", "-o", "json"]).await;
    let shown: Value = serde_json::from_str(captured.out()).unwrap();
    assert_eq!(shown["keys"], json!([{ "key": "a\t" }, { "key_base64": "/w==" }]));
    let (_, captured, _) = run([status()], &["lease", "show", "7", "--keys", "-o", "table"]).await;
    assert!(captured.out().contains("GRANTED TTL"), "{}", captured.out());
}

//! `watch` in its forms, against a node whose stream ends with an error.

use kvorum_scripted::{Scripted, Step};
use serde_json::{Value, json};

use crate::failure::Exit;
use crate::testing::Captured;

fn stream() -> Step {
    let before = json!({ "key": "a", "value": "0", "create_revision": 3, "mod_revision": 3, "version": 1 });
    let events = json!([
        { "type": "put", "key": "a", "value": "1\n", "create_revision": 3, "mod_revision": 7, "version": 2,
          "previous": before },
        { "type": "delete", "key_base64": "/w==", "mod_revision": 7, "previous": before },
    ]);
    let error = json!({ "error": { "code": "compacted", "message": "gone", "details": { "oldest": 9 } } });
    Step::events(
        &[
            ("created", 5, json!({ "revision": 5 })),
            ("progress", 6, json!({ "revision": 6 })),
            ("change", 7, json!({ "revision": 7, "events": events })),
            ("error", 0, error),
        ],
        true,
    )
}

async fn run(step: Step, line: &[&str]) -> (Exit, Captured, Vec<String>) {
    let node = Scripted::steps([step]).await;
    let mut captured = Captured::default();
    let exit = captured.run(&node, line).await;
    (exit, captured, node.requests().into_iter().map(|request| request.target).collect())
}

#[tokio::test]
async fn text_has_one_event_a_line() {
    let (exit, captured, targets) = run(stream(), &["watch"]).await;
    assert_eq!((exit, captured.out()), (Exit::Failed, "7\tput\ta\t1\\n\n7\tdelete\t\\xff\n"));
    assert!(captured.err().starts_with("watching what follows revision 5\nerror: gone\nhint: list the keys"));
    assert_eq!(targets, ["/v1/watch"]);
    let (_, captured, targets) = run(stream(), &["watch", "a", "--previous"]).await;
    assert_eq!(captured.out(), "7\tput\ta\t1\\n\t0\n7\tdelete\t\\xff\t\t0\n");
    assert_eq!(targets, ["/v1/watch?key=a&previous=true"]);
}

#[tokio::test]
async fn json_has_one_revision_a_line_and_errors_alone_beside() {
    let line = ["watch", "--prefix", "p/", "--from-revision", "6", "--only", "delete", "--json"];
    let (_, captured, targets) = run(stream(), &line).await;
    let shown: Value = serde_json::from_str(captured.out()).unwrap();
    let before = json!({ "key": "a", "value": "0", "create_revision": 3, "mod_revision": 3, "version": 1 });
    let expected = json!({ "revision": 7, "events": [
        { "type": "put", "key": "a", "value": "1\n", "create_revision": 3, "mod_revision": 7, "version": 2,
          "previous": before },
        { "type": "delete", "key_base64": "/w==", "mod_revision": 7, "previous": before },
    ]});
    assert_eq!(shown, expected);
    let error: Value = serde_json::from_str(captured.err()).unwrap();
    assert_eq!(error["error"]["details"]["oldest"], 9);
    assert_eq!(targets, ["/v1/watch?prefix=p%2F&from_revision=6&only=delete"]);
}

#[tokio::test]
async fn a_watch_that_nobody_serves_any_more_says_where_to_go_on() {
    let step = Step::events(&[("created", 5, json!({ "revision": 5 }))], false);
    let node = Scripted::start({
        let mut first = Some(step);
        move |_| first.take().unwrap_or(Step::Close)
    })
    .await;
    let mut captured = Captured::default();
    let exit = captured.run(&node, &["watch", "--start", "a", "--timeout", "300ms"]).await;
    assert_eq!(exit, Exit::Unavailable);
    assert!(captured.err().contains("go on with --from-revision 6"), "{}", captured.err());
}

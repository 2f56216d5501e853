//! Transactions: the document that is sent, and how every kind of result is read.

use serde_json::json;

use super::*;
use kvorum_scripted::{Scripted, Step};

async fn node(steps: impl IntoIterator<Item = Step>) -> (Scripted, Client) {
    let node = Scripted::steps(steps).await;
    let client = Client::builder().endpoints([node.addr()]).build().unwrap();
    (node, client)
}

fn done() -> Step {
    Step::reply(200, r#"{"revision":9,"succeeded":true,"results":[]}"#)
}

fn body(node: &Scripted) -> Value {
    serde_json::from_slice(&node.requests()[0].body).unwrap()
}

#[tokio::test]
async fn everything_that_can_be_said_is_sent_as_the_api_documents() {
    let (node, client) = node([done()]).await;
    let put = Put { key: "b".into(), keep_lease: true, previous: true, ..Put::default() };
    let get = Get {
        range: Range::Between { start: None, end: Some("z".into()) },
        limit: Some(10),
        revision: Some(5),
        keys_only: true,
        count_only: true,
        sort_by: Some(SortBy::ModRevision),
        descending: true,
    };
    let txn = Txn::new()
        .when(Compare::new("a", Relation::NotEqual, Target::Value(vec![0xff].into())))
        .when(Compare { range: Range::All, relation: Relation::Less, target: Target::Version(3) })
        .when(Compare::exists("c"))
        .when(Compare::absent([0xff]))
        .when(Compare::new("d", Relation::Equal, Target::Lease(7)))
        .then(Operation::Put(Put { lease: Some(7), ..put.clone() }))
        .then(Operation::Put(Put { value: Some("1".into()), ..put }))
        .then(Operation::Delete { range: Range::prefix("p/"), previous: true })
        .otherwise(Operation::Get(get))
        .otherwise(Operation::Txn(Txn::new().then(Operation::get(Range::key("e")))));
    client.txn(&txn, TxnOptions::default()).await.unwrap();
    let expected = json!({
        "compare": [
            { "key": "a", "target": "value", "relation": "!=", "value_base64": "/w==" },
            { "start": "\0", "target": "version", "relation": "<", "number": 3 },
            { "key": "c", "target": "create_revision", "relation": ">", "number": 0 },
            { "key_base64": "/w==", "target": "create_revision", "relation": "=", "number": 0 },
            { "key": "d", "target": "lease", "relation": "=", "number": 7 },
        ],
        "then": [
            { "put": { "key": "b", "keep_value": true, "lease": 7, "keep_lease": true, "previous": true } },
            { "put": { "key": "b", "value": "1", "keep_lease": true, "previous": true } },
            { "delete": { "prefix": "p/", "previous": true } },
        ],
        "else": [
            { "get": { "start": "\0", "end": "z", "limit": 10, "revision": 5, "keys_only": true,
                       "count_only": true, "sort_by": "mod_revision", "descending": true } },
            { "txn": { "then": [{ "get": { "key": "e" } }] } },
        ],
    });
    assert_eq!(body(&node), expected);
    assert_eq!(node.requests()[0].target, "/v1/txn");
}

#[tokio::test]
async fn every_kind_of_result_is_read() {
    let item = json!({ "key": "a", "value": "1", "create_revision": 2, "mod_revision": 3, "version": 2 });
    let answer = json!({ "revision": 9, "succeeded": false, "results": [
        { "put": { "revision": 9, "previous": item } },
        { "put": { "revision": 9, "previous": null } },
        { "put": { "revision": 9 } },
        { "delete": { "revision": 9, "deleted": 1, "previous": [item] } },
        { "delete": { "revision": 9, "deleted": 2 } },
        { "get": { "revision": 9, "items": [item], "count": 5, "more": true } },
        { "txn": { "succeeded": true, "results": [{ "put": { "revision": 9 } }] } },
    ]});
    let document = answer.to_string();
    let (_node, client) = node([Step::reply(200, document.clone())]).await;
    let answer = client.txn(&Txn::new(), TxnOptions::default()).await.unwrap();
    assert_eq!(answer.document(), &document);
    let item = Item {
        key: "a".into(),
        value: Some("1".into()),
        create_revision: 2,
        mod_revision: 3,
        version: 2,
        lease: None,
    };
    let put = |previous| OperationResult::Put { revision: 9, previous };
    let expected = [
        put(Some(item.clone())),
        put(None),
        put(None),
        OperationResult::Delete { revision: 9, deleted: 1, previous: vec![item.clone()] },
        OperationResult::Delete { revision: 9, deleted: 2, previous: vec![] },
        OperationResult::Get { revision: 9, items: vec![item], count: 5, more: true },
        OperationResult::Txn { succeeded: true, results: vec![put(None)] },
    ];
    assert_eq!((answer.revision, answer.succeeded), (9, false));
    assert_eq!(answer.results, expected);
}

#[tokio::test]
async fn a_lost_transaction_is_repeated_only_if_that_is_safe() {
    let write = Txn::new().then(Operation::put("a", "1"));
    let read = Txn::new().otherwise(Operation::Txn(Txn::new().then(Operation::get(Range::All))));
    let keyed = TxnOptions { idempotency_key: Some("t".to_owned()), ..TxnOptions::default() };
    let cases = [
        (&write, TxnOptions::default(), 1),
        (&write, keyed, 2),
        (&read, TxnOptions { consistency: Consistency::Local, ..TxnOptions::default() }, 2),
    ];
    for (txn, options, requests) in cases {
        let (node, client) = node([Step::Close, done()]).await;
        let shown = format!("{options:?}");
        let outcome = client.txn(txn, options).await;
        assert_eq!(matches!(outcome, Err(Error::OutcomeUnknown { .. })), requests == 1, "{shown}");
        assert_eq!(node.requests().len(), requests, "{shown}");
    }
}

#[tokio::test]
async fn options_stand_where_the_api_wants_them() {
    let (node, client) = node([done()]).await;
    let options = TxnOptions { idempotency_key: Some("t".to_owned()), consistency: Consistency::Lease };
    let document = r#"{ "then": [], "then": [] }"#;
    client.txn_document(document, options).await.unwrap();
    let request = &node.requests()[0];
    assert_eq!(request.target, "/v1/txn?consistency=lease");
    assert_eq!(request.header("idempotency-key"), Some("t"));
    assert_eq!(request.header("content-type"), Some("application/json"));
    assert_eq!(request.body, document.as_bytes());
}

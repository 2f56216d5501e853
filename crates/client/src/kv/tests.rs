//! The bytes that single-key calls send and how their answers are read.

use super::*;
use kvorum_scripted::{Scripted, Step};

fn client(node: &Scripted) -> Client {
    Client::builder().endpoints([node.addr()]).build().unwrap()
}

#[tokio::test]
async fn put_sends_the_raw_value_with_its_conditions() {
    let node = Scripted::steps([Step::reply(200, r#"{"revision":8,"created":false,"version":3}"#)]).await;
    let client = client(&node);
    let put = |condition| PutOptions { condition, idempotency_key: None, lease: Some(5) };
    for condition in [None, Some(Condition::Exists), Some(Condition::Absent), Some(Condition::Revision(4))] {
        let done = client.put(b"a/b \xff", vec![0, 1, 2], put(condition)).await.unwrap();
        assert_eq!(done, Written { revision: 8, created: false, version: 3 });
    }
    let requests = node.requests();
    assert!(requests.iter().all(|r| r.method == "PUT" && r.target == "/v1/kv/a%2Fb%20%FF?lease=5"));
    assert!(requests.iter().all(|r| r.body == [0, 1, 2]));
    let conditions: Vec<_> =
        requests.iter().map(|r| (r.header("if-match"), r.header("if-none-match"))).collect();
    assert_eq!(conditions, [(None, None), (Some("*"), None), (None, Some("*")), (Some("\"4\""), None)]);
}

#[tokio::test]
async fn get_reads_the_value_and_its_headers() {
    let found = Step::reply(200, [0, 159])
        .with("etag", "\"3\"")
        .with("x-kvorum-revision", "9")
        .with("x-kvorum-create-revision", "2")
        .with("x-kvorum-version", "2")
        .with("x-kvorum-lease", "77");
    let node = Scripted::steps([found]).await;
    let options = GetOptions { revision: Some(9), consistency: Consistency::Local };
    let found = client(&node).get("k", options).await.unwrap().unwrap();
    assert_eq!(node.requests()[0].target, "/v1/kv/k?revision=9&consistency=local");
    let expected = Found {
        value: Bytes::from_static(&[0, 159]),
        create_revision: 2,
        mod_revision: 3,
        version: 2,
        lease: Some(77),
        revision: 9,
    };
    assert_eq!(found, expected);
}

#[tokio::test]
async fn an_absent_key_is_none() {
    let node = Scripted::steps([Step::error(404, "not_found")]).await;
    assert_eq!(client(&node).get("k", GetOptions::default()).await, Ok(None));
}

#[tokio::test]
async fn delete_tells_how_many_keys_went() {
    let node = Scripted::steps([Step::reply(200, r#"{"revision":8,"deleted":0}"#)]).await;
    let options =
        DeleteOptions { condition: Some(Condition::Exists), idempotency_key: Some("once".to_owned()) };
    let done = client(&node).delete("k", options).await.unwrap();
    assert_eq!(done, Deleted { revision: 8, deleted: 0 });
    let request = &node.requests()[0];
    assert_eq!((request.method.as_str(), request.header("if-match")), ("DELETE", Some("*")));
    assert_eq!(request.header("idempotency-key"), Some("once"));
}

#[tokio::test]
async fn what_makes_no_sense_is_not_sent() {
    let node = Scripted::steps([Step::error(500, "internal")]).await;
    let client = client(&node);
    for key in ["", ".", ".."] {
        let refused = client.get(key, GetOptions::default()).await;
        assert!(matches!(refused, Err(Error::InvalidInput(_))), "{key:?}");
    }
    for token in ["", "a\nb", " a", &"x".repeat(257)] {
        let options = PutOptions { idempotency_key: Some(token.to_owned()), ..PutOptions::default() };
        assert!(matches!(client.put("k", "v", options).await, Err(Error::InvalidInput(_))), "{token:?}");
    }
    let absent = DeleteOptions { condition: Some(Condition::Absent), ..DeleteOptions::default() };
    assert!(matches!(client.delete("k", absent).await, Err(Error::InvalidInput(_))));
    assert!(node.requests().is_empty());
}

#[tokio::test]
async fn keys_with_steps_in_them_stay_one_segment() {
    let node = Scripted::steps([Step::error(404, "not_found")]).await;
    client(&node).get("a/../b", GetOptions::default()).await.unwrap();
    assert_eq!(node.requests()[0].target, "/v1/kv/a%2F..%2Fb");
}

//! Listings: what pages hold, and how a scan follows their cursors.

use bytes::Bytes;

use super::*;
use kvorum_scripted::{Scripted, Step};

fn client(node: &Scripted) -> Client {
    Client::builder().endpoints([node.addr()]).build().unwrap()
}

fn page(keys: &[&str], cursor: Option<&str>) -> Step {
    let items: Vec<_> = keys
        .iter()
        .map(
            |key| serde_json::json!({"key":key,"value":"v","create_revision":2,"mod_revision":2,"version":1}),
        )
        .collect();
    let body = serde_json::json!({"revision":5,"items":items,"more":cursor.is_some(),"cursor":cursor});
    Step::reply(200, body.to_string())
}

async fn keys(mut scan: Scan) -> Result<Vec<Bytes>, Error> {
    let mut keys = Vec::new();
    while let Some(item) = scan.next().await? {
        keys.push(item.key);
    }
    Ok(keys)
}

#[tokio::test]
async fn scan_follows_cursors_to_the_end_even_over_an_empty_page() {
    let node =
        Scripted::steps([page(&["a", "b"], Some("c1")), page(&[], Some("c2")), page(&["c"], None)]).await;
    let mut scan = client(&node).scan(ListOptions::default());
    assert_eq!(scan.next_page().await.unwrap().unwrap().len(), 2);
    assert_eq!(scan.revision(), Some(5));
    assert!(scan.more());
    assert_eq!(scan.next_page().await.unwrap().unwrap().len(), 1);
    assert!(!scan.more());
    assert_eq!(scan.next_page().await.unwrap(), None);
    let targets: Vec<_> = node.requests().into_iter().map(|request| request.target).collect();
    assert_eq!(targets, ["/v1/kv", "/v1/kv?cursor=c1", "/v1/kv?cursor=c2"]);
}

#[tokio::test]
async fn scan_stops_at_its_limit_and_says_that_more_is_left() {
    let node = Scripted::steps([page(&["a", "b"], Some("c1")), page(&["c"], Some("c2"))]).await;
    let mut scan = client(&node).scan(ListOptions { limit: Some(3), ..ListOptions::default() });
    while scan.next().await.unwrap().is_some() {}
    assert!(scan.more());
    let targets: Vec<_> = node.requests().into_iter().map(|request| request.target).collect();
    assert_eq!(targets, ["/v1/kv?limit=3", "/v1/kv?limit=1&cursor=c1"]);
}

#[tokio::test]
async fn scan_gives_up_on_cursors_that_lead_nowhere() {
    let node = Scripted::steps([page(&["a"], Some("c1")), page(&[], Some("c1"))]).await;
    let outcome = keys(client(&node).scan(ListOptions::default())).await;
    assert!(matches!(outcome, Err(Error::Protocol { .. })), "{outcome:?}");
}

#[tokio::test]
async fn binary_keys_and_values_arrive_as_they_are() {
    let body = r#"{"revision":5,"items":[
        {"key_base64":"/wA=","value_base64":"gA==","create_revision":2,"mod_revision":3,"version":2,"lease":7},
        {"key":"k","create_revision":4,"mod_revision":4,"version":1}],"more":false,"cursor":null}"#;
    let node = Scripted::steps([Step::reply(200, body)]).await;
    let range = Range::Between { start: Some(Bytes::from_static(&[0xff])), end: None };
    let options = ListOptions { range, keys_only: true, revision: Some(5), ..ListOptions::default() };
    let page = client(&node).list(&options, None).await.unwrap();
    assert_eq!(node.requests()[0].target, "/v1/kv?start=%FF&revision=5&keys_only=true");
    assert_eq!(page.items[0].key, &[0xff, 0][..]);
    assert_eq!(page.items[0].value.as_deref(), Some(&[0x80][..]));
    assert_eq!((page.items[0].lease, page.items[1].value.clone()), (Some(7), None));
}

#[tokio::test]
async fn count_asks_for_the_number_alone() {
    let node = Scripted::steps([Step::reply(200, r#"{"revision":5,"count":12}"#)]).await;
    let options = ListOptions { range: Range::Prefix("a&b".into()), ..ListOptions::default() };
    assert_eq!(client(&node).count(&options).await.unwrap(), Count { revision: 5, count: 12 });
    assert_eq!(node.requests()[0].target, "/v1/kv?prefix=a%26b&count_only=true");
}

#[tokio::test]
async fn a_single_key_is_listed_as_a_range_of_one() {
    let node = Scripted::steps([Step::reply(200, r#"{"revision":5,"count":1}"#)]).await;
    let options = ListOptions { range: Range::key("k"), ..ListOptions::default() };
    client(&node).count(&options).await.unwrap();
    assert_eq!(node.requests()[0].target, "/v1/kv?start=k&end=k%00&count_only=true");
}

//! Bulk writes: many operations in one call, carried out in order and not as one.

use reqwest::Method;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::call::{Call, Effect};
use crate::{Client, Error, Operation};

/// The answer to a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct BatchAnswer {
    /// The store's revision after it.
    pub revision: i64,
    /// How many operations were carried out: all of them.
    pub operations: u64,
    /// In how many transactions, one after the other.
    pub transactions: u64,
}

impl Client {
    /// Carries puts and deletes out in their order, in as many transactions as that
    /// takes. Others may see and change what lies between two of them.
    ///
    /// # Errors
    /// `BatchStopped` if a part was carried out; any other error if certainly
    /// nothing was, except `OutcomeUnknown`, with which any part may have been.
    pub async fn batch(&self, operations: &[Operation]) -> Result<BatchAnswer, Error> {
        let writes = operations.iter().all(|operation| match operation {
            Operation::Put(_) | Operation::Delete { .. } => true,
            Operation::Get(_) | Operation::Txn(_) => false,
        });
        if !writes {
            return Err(Error::InvalidInput("a batch holds puts and deletes only".to_owned()));
        }
        let operations: Vec<Value> = operations.iter().map(Operation::json).collect();
        let call = Call::new(Method::POST, "/v1/batch", Effect::Batch);
        self.execute(&call.json(&json!({ "operations": operations }))).await?.json()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Put, Range};
    use kvorum_scripted::{Scripted, Step};

    fn client(node: &Scripted) -> Client {
        Client::builder().endpoints([node.addr()]).timeout(std::time::Duration::from_secs(2)).build().unwrap()
    }

    fn stopped(status: u16, code: &str, completed: u64) -> Step {
        let details = json!({ "completed": completed });
        let body = json!({ "error": { "code": code, "message": "m", "details": details } });
        Step::reply(status, body.to_string())
    }

    fn puts() -> [Operation; 2] {
        [Operation::put("a", "1"), Operation::put("b", "2")]
    }

    #[tokio::test]
    async fn operations_are_sent_in_their_order() {
        let node =
            Scripted::steps([Step::reply(200, r#"{"revision":12,"operations":2,"transactions":1}"#)]).await;
        let put = Put { key: "a".into(), value: Some(vec![0xff].into()), lease: Some(7), ..Put::default() };
        let operations = [Operation::Put(put), Operation::delete(Range::prefix("p/"))];
        let done = client(&node).batch(&operations).await.unwrap();
        assert_eq!(done, BatchAnswer { revision: 12, operations: 2, transactions: 1 });
        let request = &node.requests()[0];
        assert_eq!((request.method.as_str(), request.target.as_str()), ("POST", "/v1/batch"));
        let expected = json!({ "operations": [
            { "put": { "key": "a", "value_base64": "/w==", "lease": 7 } }, { "delete": { "prefix": "p/" } },
        ]});
        assert_eq!(serde_json::from_slice::<Value>(&request.body).unwrap(), expected);
    }

    #[tokio::test]
    async fn a_batch_of_which_a_part_has_happened_is_not_repeated() {
        for (status, code) in
            [(503, "unavailable"), (504, "outcome_unknown"), (413, "too_large"), (500, "internal")]
        {
            let node = Scripted::steps([stopped(status, code, 128)]).await;
            let Err(Error::BatchStopped { completed, cause }) = client(&node).batch(&puts()).await else {
                panic!("{code}: it stopped midway");
            };
            assert_eq!((completed, node.requests().len()), (128, 1), "{code}");
            let unknown = matches!(*cause, Error::OutcomeUnknown { .. });
            assert_eq!(unknown, status == 504 || status == 500, "{code}");
        }
    }

    #[tokio::test]
    async fn a_batch_of_which_nothing_has_happened_is_repeated() {
        let done = Step::reply(200, r#"{"revision":12,"operations":2,"transactions":1}"#);
        let node = Scripted::steps([stopped(503, "unavailable", 0), done]).await;
        client(&node).batch(&puts()).await.unwrap();
        assert_eq!(node.requests().len(), 2);
    }

    #[tokio::test]
    async fn a_lost_batch_is_sent_once() {
        let node = Scripted::steps([Step::Close]).await;
        let outcome = client(&node).batch(&puts()).await;
        assert!(matches!(outcome, Err(Error::OutcomeUnknown { .. })), "{outcome:?}");
        assert_eq!(node.requests().len(), 1);
    }

    #[tokio::test]
    async fn reads_have_no_place_in_a_batch() {
        let node = Scripted::steps([Step::Close]).await;
        let outcome = client(&node).batch(&[Operation::get(Range::All)]).await;
        assert!(matches!(outcome, Err(Error::InvalidInput(_))), "{outcome:?}");
        assert!(node.requests().is_empty());
    }
}

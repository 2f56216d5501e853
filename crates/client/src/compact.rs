//! Compaction: the past that nobody reads any more is given up.

use reqwest::Method;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::call::{Call, Effect, Settled};
use crate::{Client, Error};

/// The answer to a compaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Compacted {
    /// The store's revision.
    pub revision: i64,
    /// The oldest revision that can still be read.
    pub compacted_revision: i64,
}

impl Client {
    /// Gives up every revision below `revision`. With `physical` the answer comes
    /// only when the space has been given back on the node that answers; a call whose
    /// answer is lost is then not repeated, for a second one would not wait.
    ///
    /// # Errors
    /// `Api` with code `compacted` if that was done before this call, with
    /// `future_revision` if the revision has not been written yet. With `physical`,
    /// `Timeout` if the node waits no longer: the revisions are given up, and their
    /// space is still being given back.
    pub async fn compact(&self, revision: i64, physical: bool) -> Result<Compacted, Error> {
        let mut body = json!({ "revision": revision });
        if let (true, Some(body)) = (physical, body.as_object_mut()) {
            body.insert("physical".to_owned(), true.into());
        }
        let effect = if physical { Effect::Write } else { Effect::RepeatableWrite };
        let call = Call::new(Method::POST, "/v1/compact", effect).json(&body);
        match self.settle(&call, "compacted").await? {
            Settled::Done(answer) => answer.json(),
            Settled::Already { refusal } => {
                let oldest = if let Error::Api { details, .. } = &refusal {
                    details.get("oldest").and_then(Value::as_i64)
                } else {
                    None
                };
                let compacted_revision = oldest.unwrap_or(revision);
                let settled = format!("revision {compacted_revision} is compacted");
                Ok(Compacted { revision: self.revision_after(&settled).await?, compacted_revision })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kvorum_scripted::{Scripted, Step};

    #[tokio::test]
    async fn compact_names_the_revision_and_whether_to_wait() {
        let node = Scripted::steps([Step::reply(200, r#"{"revision":120,"compacted_revision":100}"#)]).await;
        let client = Client::builder().endpoints([node.addr()]).build().unwrap();
        let done = client.compact(100, false).await.unwrap();
        assert_eq!(done, Compacted { revision: 120, compacted_revision: 100 });
        client.compact(100, true).await.unwrap();
        let bodies: Vec<_> =
            node.requests().into_iter().map(|r| String::from_utf8(r.body).unwrap()).collect();
        assert_eq!(bodies, [r#"{"revision":100}"#, r#"{"physical":true,"revision":100}"#]);
    }

    fn compacted() -> Step {
        let details = json!({ "requested": 100, "oldest": 110 });
        let error = json!({ "code": "compacted", "message": "m", "details": details });
        Step::reply(410, json!({ "error": error }).to_string())
    }

    #[tokio::test]
    async fn a_compaction_whose_answer_was_lost_is_done_when_it_was_done_before() {
        let counted = Step::reply(200, r#"{"revision":120,"count":0}"#);
        let node = Scripted::steps([Step::Close, compacted(), counted]).await;
        let client = Client::builder().endpoints([node.addr()]).build().unwrap();
        let done = client.compact(100, false).await.unwrap();
        assert_eq!(done, Compacted { revision: 120, compacted_revision: 110 });

        let node = Scripted::steps([compacted()]).await;
        let client = Client::builder().endpoints([node.addr()]).build().unwrap();
        assert_eq!(client.compact(100, false).await.unwrap_err().code(), "compacted");
    }

    #[tokio::test]
    async fn a_compaction_that_waits_for_the_space_is_not_repeated() {
        let node = Scripted::steps([Step::Close, compacted()]).await;
        let client = Client::builder().endpoints([node.addr()]).build().unwrap();
        let outcome = client.compact(100, true).await;
        assert!(matches!(outcome, Err(Error::OutcomeUnknown { .. })), "{outcome:?}");
        assert_eq!(node.requests().len(), 1);
    }
}

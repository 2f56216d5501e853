//! Compaction: the past that nobody reads any more is given up.

use reqwest::Method;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::call::{Call, Effect};
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
    /// only when the space has been given back.
    ///
    /// # Errors
    /// `Api` with code `compacted` if that has been done already, also by this very
    /// call, if an answer was lost and the call repeated; with `future_revision` if
    /// the revision has not been written yet.
    pub async fn compact(&self, revision: i64, physical: bool) -> Result<Compacted, Error> {
        let mut body = json!({ "revision": revision });
        if let (true, Some(body)) = (physical, body.as_object_mut()) {
            body.insert("physical".to_owned(), true.into());
        }
        let call = Call::new(Method::POST, "/v1/compact", Effect::RepeatableWrite);
        self.execute(&call.json(&body)).await?.json()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scripted::{Scripted, Step};

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
}

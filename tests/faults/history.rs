//! What clients saw, and what the store remembers of its past.

use std::collections::BTreeMap;
use std::time::Instant;

use crate::support::cluster::TestCluster;

/// The keys that clients work on: few, so that operations meet.
pub(crate) const KEYS: [&str; 4] = ["a", "b", "c", "d"];

/// How a write ended for its client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Acknowledged, at this revision.
    Acknowledged(i64),
    /// Certainly not carried out.
    Refused,
    /// It may have been carried out, or may still be.
    Unknown,
}

/// What a client asked for and was told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Action {
    /// A put of a value that is written only once.
    Write { key: &'static str, value: String, outcome: Outcome },
    /// A read that was answered.
    Read {
        key: &'static str,
        linearizable: bool,
        /// The store's revision that the answer reflects.
        revision: i64,
        /// The value and its modification revision, unless absent.
        found: Option<(String, i64)>,
    },
}

/// An action and when it took place, by the one clock of the test.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Operation {
    pub(crate) begun: Instant,
    pub(crate) ended: Instant,
    pub(crate) action: Action,
}

/// Every write that took place, by revision: its key and value.
pub(crate) type Versions = BTreeMap<i64, (&'static str, String)>;

/// Reads every version of every key out of the store's past, newest first.
pub(crate) async fn versions(cluster: &TestCluster, revision: i64) -> Versions {
    let mut versions = Versions::new();
    let node = cluster.leader().await;
    for key in KEYS {
        let mut at = revision;
        while at > 0 {
            let path = format!("/v1/kv/{key}?consistency=local&revision={at}");
            let answer = cluster.http.get(cluster.addr(node), &path).await;
            if answer.status == 404 {
                break;
            }
            let answer = answer.ok();
            let written = answer.number("etag").unwrap();
            let twice = versions.insert(written, (key, answer.text()));
            assert!(twice.is_none(), "revision {written} belongs to two keys");
            at = written - 1;
        }
    }
    versions
}

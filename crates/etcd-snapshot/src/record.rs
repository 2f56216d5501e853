//! What etcd keeps in its buckets: their names, their keys and the forms of their
//! values.
//!
//! Revisions and lease ids are big-endian, so that the order of keys is theirs.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// The buckets of a database of etcd 3.5, in the order of their names.
pub(crate) const BUCKETS: [&str; 10] = [
    "alarm",
    "auth",
    "authRoles",
    "authUsers",
    "cluster",
    KEY_BUCKET,
    LEASE_BUCKET,
    MEMBERS_BUCKET,
    "members_removed",
    META_BUCKET,
];
pub(crate) const KEY_BUCKET: &str = "key";
pub(crate) const LEASE_BUCKET: &str = "lease";
pub(crate) const MEMBERS_BUCKET: &str = "members";
pub(crate) const META_BUCKET: &str = "meta";
pub(crate) const CLUSTER_BUCKET: &str = "cluster";
pub(crate) const AUTH_BUCKET: &str = "auth";

pub(crate) const CONF_STATE: &str = "confState";
pub(crate) const CONSISTENT_INDEX: &str = "consistent_index";
pub(crate) const FINISHED_COMPACTION: &str = "finishedCompactRev";
pub(crate) const SCHEDULED_COMPACTION: &str = "scheduledCompactRev";
pub(crate) const STORAGE_VERSION: &str = "storageVersion";
pub(crate) const TERM: &str = "term";
pub(crate) const CLUSTER_VERSION: &str = "clusterVersion";
pub(crate) const AUTH_ENABLED: &str = "authEnabled";

/// Ends the key of a deletion.
const TOMBSTONE: u8 = b't';

/// When a change happened: `main` numbers transactions, `sub` the changes of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Revision {
    /// The transaction.
    pub main: i64,
    /// Which of the transaction's changes, from 0.
    pub sub: i64,
}

impl Revision {
    /// The key of a change at this revision.
    pub(crate) fn key(self, is_tombstone: bool) -> Vec<u8> {
        let mut key = Vec::with_capacity(18);
        key.extend_from_slice(&self.main.to_be_bytes());
        key.push(b'_');
        key.extend_from_slice(&self.sub.to_be_bytes());
        if is_tombstone {
            key.push(TOMBSTONE);
        }
        key
    }

    /// The revision that a key says, and whether the key is a deletion's.
    pub(crate) fn parse(key: &[u8]) -> Option<(Self, bool)> {
        let (main, rest) = key.split_first_chunk()?;
        let (sub, end) = rest.strip_prefix(b"_")?.split_first_chunk()?;
        let is_tombstone = match end {
            [] => false,
            [TOMBSTONE] => true,
            _ => return None,
        };
        let revision = Self { main: i64::from_be_bytes(*main), sub: i64::from_be_bytes(*sub) };
        (revision.main >= 0 && revision.sub >= 0).then_some((revision, is_tombstone))
    }
}

/// A key as one write left it: etcd's `mvccpb.KeyValue`.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct KeyValue {
    /// The key; never empty.
    #[prost(bytes = "bytes", tag = "1")]
    pub key: Bytes,
    /// The main revision at which the key came to be.
    #[prost(int64, tag = "2")]
    pub create_revision: i64,
    /// The main revision of this write.
    #[prost(int64, tag = "3")]
    pub mod_revision: i64,
    /// Counts the writes since the key came to be, from 1.
    #[prost(int64, tag = "4")]
    pub version: i64,
    /// The value.
    #[prost(bytes = "bytes", tag = "5")]
    pub value: Bytes,
    /// The lease with which the key ends; 0 if none.
    #[prost(int64, tag = "6")]
    pub lease: i64,
}

/// What happened to a key at a revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The key was written.
    Put(KeyValue),
    /// The key was deleted, or its lease ended.
    Delete {
        /// The key; never empty.
        key: Bytes,
    },
}

impl Event {
    /// The key to which it happened.
    pub fn key(&self) -> &Bytes {
        match self {
            Self::Put(put) => &put.key,
            Self::Delete { key } => key,
        }
    }
}

/// A lease: etcd's `leasepb.Lease`.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Lease {
    /// The lease's id; above 0.
    #[prost(int64, tag = "1")]
    pub id: i64,
    /// Seconds for which the lease was granted.
    #[prost(int64, tag = "2")]
    pub ttl: i64,
    /// Seconds that were left when this was recorded; 0 if that was not recorded, and
    /// the lease starts anew with `ttl`.
    #[prost(int64, tag = "3")]
    pub remaining_ttl: i64,
}

/// A member of the cluster, as etcd records it. A restore replaces all of them by
/// those that it is told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// The member's id.
    pub id: u64,
    /// Where other members reach it.
    #[serde(rename = "peerURLs", default, deserialize_with = "null_is_empty")]
    pub peer_urls: Vec<String>,
    /// Whether it only follows, without a vote.
    #[serde(rename = "isLearner", default, skip_serializing_if = "is_false")]
    pub is_learner: bool,
    /// Its name; empty until it has started.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// Where clients reach it.
    #[serde(rename = "clientURLs", default, skip_serializing_if = "Vec::is_empty")]
    pub client_urls: Vec<String>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the serializer passes fields by reference")]
fn is_false(value: &bool) -> bool {
    !value
}

/// etcd writes a list that was never set as `null`.
fn null_is_empty<'de, D: serde::Deserializer<'de>>(source: D) -> Result<Vec<String>, D::Error> {
    Ok(Option::deserialize(source)?.unwrap_or_default())
}

/// Who votes: what Raft's configuration is to etcd.
#[derive(Debug, Serialize)]
pub(crate) struct ConfState {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) voters: Vec<u64>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) learners: Vec<u64>,
    pub(crate) auto_leave: bool,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_revision_round_trips_in_order(
            a in (0..i64::MAX, 0..i64::MAX), b in (0..i64::MAX, 0..i64::MAX), is_tombstone in any::<bool>(),
        ) {
            let [a, b] = [a, b].map(|(main, sub)| Revision { main, sub });
            prop_assert_eq!(Revision::parse(&a.key(is_tombstone)), Some((a, is_tombstone)));
            if a != b {
                prop_assert_eq!(a.key(is_tombstone) < b.key(!is_tombstone), a < b);
            }
        }

        #[test]
        fn any_key_is_an_answer_not_a_panic(key in proptest::collection::vec(any::<u8>(), 0..20)) {
            if let Some((revision, is_tombstone)) = Revision::parse(&key) {
                prop_assert_eq!(revision.key(is_tombstone), key);
            }
        }
    }

    #[test]
    fn a_member_is_written_and_read_as_etcd_does() {
        let json = r#"{"id":10276657743932975437,"peerURLs":["http://localhost:2380"],"name":"default","clientURLs":["http://localhost:2379"]}"#;
        let member: Member = serde_json::from_str(json).unwrap();
        assert_eq!(serde_json::to_string(&member).unwrap(), json);
        let learner: Member = serde_json::from_str(r#"{"id":1,"peerURLs":null,"isLearner":true}"#).unwrap();
        assert!(learner.is_learner && learner.peer_urls.is_empty() && learner.name.is_empty());
    }
}

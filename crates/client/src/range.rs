//! Which keys a call is about, and how a query or a JSON document says so.

use bytes::Bytes;
use serde_json::{Map, Value};

use crate::item::insert_shorter;
use crate::query::Query;

/// The least key there can be: no key is empty.
const FIRST_KEY: &[u8] = &[0];

/// Which keys.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Range {
    /// Every key.
    #[default]
    All,
    /// This key alone.
    Key(Bytes),
    /// Keys that begin with these bytes.
    Prefix(Bytes),
    /// Keys from `start`, up to but without `end`; each may be left open.
    Between {
        /// The first key.
        start: Option<Bytes>,
        /// The first key that is left out.
        end: Option<Bytes>,
    },
}

impl Range {
    /// One key.
    pub fn key(key: impl AsRef<[u8]>) -> Self {
        Self::Key(Bytes::copy_from_slice(key.as_ref()))
    }

    /// The keys that begin with `prefix`.
    pub fn prefix(prefix: impl AsRef<[u8]>) -> Self {
        Self::Prefix(Bytes::copy_from_slice(prefix.as_ref()))
    }

    /// Adds the range to a listing's query, which knows no single key.
    pub(crate) fn add_to_listing(&self, query: &mut Query) {
        match self {
            Self::Key(key) => {
                let after = [key.as_ref(), FIRST_KEY].concat();
                query.bytes("start", Some(key));
                query.bytes("end", Some(&after));
            }
            Self::All | Self::Prefix(_) | Self::Between { .. } => self.add_to_query(query),
        }
    }

    /// Adds the range to a watch's query.
    pub(crate) fn add_to_query(&self, query: &mut Query) {
        match self {
            Self::All => {}
            Self::Key(key) => query.bytes("key", Some(key)),
            Self::Prefix(prefix) => query.bytes("prefix", Some(prefix)),
            Self::Between { start, end } => {
                // A watch takes an end with a start only.
                let least = end.is_some().then_some(FIRST_KEY);
                query.bytes("start", start.as_deref().or(least));
                query.bytes("end", end.as_deref());
            }
        }
    }

    /// Adds the range to a JSON object, where a range always has a beginning.
    pub(crate) fn add_to_json(&self, object: &mut Map<String, Value>) {
        match self {
            Self::All => insert_shorter(object, "start", FIRST_KEY),
            Self::Key(key) => insert_shorter(object, "key", key),
            Self::Prefix(prefix) => insert_shorter(object, "prefix", prefix),
            Self::Between { start, end } => {
                insert_shorter(object, "start", start.as_deref().unwrap_or(FIRST_KEY));
                if let Some(end) = end {
                    insert_shorter(object, "end", end);
                }
            }
        }
    }
}

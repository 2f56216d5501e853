//! What was written to a store and what its watchers were told, as plain data.

use std::collections::BTreeMap;

use bytes::Bytes;
use kvorum_etcd_proto::mvccpb;

use crate::step::Keys;

/// A version of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version {
    /// What was put.
    pub value: Bytes,
    /// When the key came into being.
    pub create_revision: i64,
    /// When this was put.
    pub mod_revision: i64,
    /// How often the key was put since it came into being.
    pub version: i64,
}

/// A change of one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Which.
    pub key: Bytes,
    /// When.
    pub revision: i64,
    /// What was put; none when the key was deleted.
    pub put: Option<Version>,
    /// What was there before, where the watcher asked for it.
    pub previous: Option<Version>,
}

impl Version {
    fn from_proto(kv: &mvccpb::KeyValue) -> Self {
        Self {
            value: kv.value.clone(),
            create_revision: kv.create_revision,
            mod_revision: kv.mod_revision,
            version: kv.version,
        }
    }
}

impl Event {
    /// The event as a server sent it.
    pub fn from_proto(event: &mvccpb::Event) -> Self {
        let kv = event.kv.clone().unwrap_or_default();
        let put = event.r#type() == mvccpb::event::EventType::Put;
        Self {
            key: kv.key.clone(),
            revision: kv.mod_revision,
            put: put.then(|| Version::from_proto(&kv)),
            previous: event.prev_kv.as_ref().map(Version::from_proto),
        }
    }
}

/// Something that a watcher was told, or did, in the order in which it happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// The watch begins, at the server's revision.
    Created {
        /// The server's revision.
        revision: i64,
    },
    /// Changes.
    Events {
        /// The changes, in the order in which they were told.
        events: Vec<Event>,
        /// Whether this is a part of a message whose rest follows.
        fragment: bool,
    },
    /// Everything up to there has been told.
    Progress {
        /// Up to where.
        revision: i64,
    },
    /// The connection was lost, and a new watch asked for all from there on.
    Resumed {
        /// The first revision that was asked for.
        from: i64,
    },
}

/// What one watcher asked for and was told.
#[derive(Clone, Debug)]
pub struct Watcher {
    /// To find it in a report.
    pub name: String,
    /// The keys that it watches.
    pub keys: Keys,
    /// The first revision that it asked for; none for all that comes.
    pub from: Option<i64>,
    /// Whether it asked for what was there before.
    pub with_previous: bool,
    /// What happened.
    pub messages: Vec<Message>,
    /// Through which revision everything must have been told in the end.
    pub until: Option<i64>,
}

/// Everything that happened to the store, by revision.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Truth {
    /// All changes of a revision in their order, each with what was there before.
    pub revisions: BTreeMap<i64, Vec<Event>>,
}

impl Truth {
    /// The truth that consists of these events.
    pub fn of(events: impl IntoIterator<Item = Event>) -> Self {
        let mut truth = Self::default();
        for event in events {
            truth.revisions.entry(event.revision).or_default().push(event);
        }
        truth
    }

    /// The changes of those keys in the revisions from one to another, both included.
    pub fn between<'a>(&'a self, keys: &'a Keys, from: i64, to: i64) -> impl Iterator<Item = &'a Event> {
        let range = if from <= to { Some(self.revisions.range(from..=to)) } else { None };
        range.into_iter().flatten().flat_map(|(_, events)| events).filter(|event| keys.contains(&event.key))
    }
}

/// A write that a client made, as the client knows it.
#[derive(Clone, Debug)]
pub struct Write {
    /// The revision that the answer named; none when there was no answer.
    pub revision: Option<i64>,
    /// What was put, by key; none for a deletion.
    pub changes: Vec<(Bytes, Option<Bytes>)>,
}

//! What the store in memory tells those who watch.

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock, Weak};

use tokio::runtime::Runtime;

use super::{Inner, State};
use crate::mvcc::{ChangeKind, Event, ReadError, RevisionEvents};
use crate::store::RecentEvents;
use crate::watch::{History, WatchHub, WatchOptions};

/// The hubs of all stores run here; the servers have threads of their own.
static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap()
});

/// The newest changes of a store.
pub(super) struct Recent(pub(super) Arc<RecentEvents>);

impl Default for Recent {
    fn default() -> Self {
        Self(Arc::new(RecentEvents::new(0, 1 << 20)))
    }
}

struct Past {
    inner: Weak<Inner>,
    recent: Arc<RecentEvents>,
}

impl State {
    /// What happened from revision `from` on.
    pub(super) fn events(&self, from: i64) -> Vec<RevisionEvents> {
        let mut revisions: BTreeMap<i64, Vec<Event>> = BTreeMap::new();
        for (key, versions) in &self.versions {
            let mut previous = None;
            for (revision, record) in versions {
                let kind = if record.is_some() { ChangeKind::Put } else { ChangeKind::Delete };
                let event = Event { kind, key: key.clone(), record: record.clone(), previous };
                if *revision >= from {
                    revisions.entry(*revision).or_default().push(event);
                }
                previous = record.clone();
            }
        }
        revisions.into_iter().map(|(revision, events)| RevisionEvents { revision, events }).collect()
    }
}

impl Past {
    fn of<T>(&self, look: impl FnOnce(&State) -> T) -> Option<T> {
        self.inner.upgrade().map(|inner| look(&inner.state.lock()))
    }
}

impl History for Past {
    fn revision(&self) -> i64 {
        self.of(|state| state.revision).unwrap_or(0)
    }

    fn compacted(&self) -> i64 {
        self.of(|state| state.compacted).unwrap_or(0)
    }

    fn recent(&self) -> &RecentEvents {
        &self.recent
    }

    fn events(&self, from: i64, _: usize, _: usize) -> Result<Vec<RevisionEvents>, ReadError> {
        Ok(self.of(|state| state.events(from)).unwrap_or_default())
    }
}

/// A hub over the store.
pub(super) fn hub(inner: &Arc<Inner>) -> WatchHub {
    let recent = Arc::clone(&inner.state.lock().recent.0);
    WatchHub::start(Past { inner: Arc::downgrade(inner), recent }, WatchOptions::default(), RUNTIME.handle())
}

//! One client's stream of watchers.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use super::counters::count;
use super::hub::Hub;
use super::queue::{Queue, Taken};
use super::watcher::{Place, Watcher};
use super::{ALL_WATCHERS, WatchMessage, WatchRefusal, WatchRequest};

/// The watchers of one stream or connection, and what they have to tell. Dropping
/// it ends them.
///
/// Whoever holds it reads messages as fast as the client takes them and no faster;
/// what waits meanwhile is bounded.
pub struct WatchSession {
    hub: Arc<Hub>,
    queue: Arc<Queue>,
    watchers: HashMap<i64, Arc<Watcher>>,
    next_id: i64,
}

impl WatchSession {
    pub(super) fn new(hub: Arc<Hub>) -> Self {
        let queue = hub.open_session();
        Self { hub, queue, watchers: HashMap::new(), next_id: 0 }
    }

    /// Creates a watcher; [`WatchMessage::Created`] is the first message with its id.
    /// One that starts where changes are compacted is canceled at once.
    ///
    /// # Errors
    /// See [`WatchRefusal`].
    pub fn create(&mut self, request: WatchRequest) -> Result<i64, WatchRefusal> {
        let options = &self.hub.options;
        if self.watchers.len() >= options.max_session_watchers {
            return Err(WatchRefusal::TooMany { limit: options.max_session_watchers });
        }
        if self.queue.answers() >= options.max_unread_answers {
            return Err(WatchRefusal::TooMany { limit: options.max_unread_answers });
        }
        let id = match request.id {
            Some(ALL_WATCHERS) => return Err(WatchRefusal::DuplicateId),
            Some(id) => id,
            None => self.unused_id(),
        };
        // One that ended without the client's doing may still have to tell it so.
        if self.watchers.get(&id).is_some_and(|watcher| !watcher.is(Place::Ended)) {
            return Err(WatchRefusal::DuplicateId);
        }
        let watcher = self.hub.create(id, request, &self.queue)?;
        self.watchers.insert(id, watcher);
        Ok(id)
    }

    /// Ends a watcher; what waits for it is still told, and then
    /// [`WatchMessage::Canceled`]. False if there is none, or it ended already.
    pub fn cancel(&mut self, id: i64) -> bool {
        self.watchers.remove(&id).is_some_and(|watcher| self.hub.cancel(&watcher))
    }

    /// Asks for a [`WatchMessage::Progress`] for [`ALL_WATCHERS`]. It comes once
    /// everything that was committed here before this call has been told to all
    /// watchers of the session; one message answers all calls that wait.
    pub fn request_progress(&mut self) {
        self.hub.request_progress(&self.queue);
    }

    /// The next message, when there is one.
    ///
    /// # Cancel safety
    /// May be dropped and called again; no message is lost.
    pub async fn next(&mut self) -> WatchMessage {
        loop {
            if let Some(message) = self.try_next() {
                return message;
            }
            self.queue.filled().await;
        }
    }

    /// The next message if one waits.
    pub fn try_next(&mut self) -> Option<WatchMessage> {
        let hub = &self.hub;
        let Taken { message, ended, wants_turn } =
            self.queue.take(&hub.options, &hub.counters, || hub.history.revision())?;
        if wants_turn {
            hub.stand_in_line(&self.queue);
        }
        if let Some(ended) = ended
            && self.watchers.get(&ended.id).is_some_and(|watcher| Arc::ptr_eq(watcher, &ended))
        {
            self.watchers.remove(&ended.id);
        }
        if let WatchMessage::Events { events, .. } = &message {
            count(&hub.counters.events, events.len());
        }
        Some(message)
    }

    /// How many watchers the session has.
    pub fn len(&self) -> usize {
        self.watchers.len()
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.watchers.is_empty()
    }

    fn unused_id(&mut self) -> i64 {
        while self.watchers.contains_key(&self.next_id) || self.next_id == ALL_WATCHERS {
            self.next_id = self.next_id.wrapping_add(1);
        }
        let id = self.next_id;
        self.next_id = self.next_id.wrapping_add(1);
        id
    }
}

impl Drop for WatchSession {
    fn drop(&mut self) {
        self.hub.end_session(&self.queue, self.watchers.values());
    }
}

impl fmt::Debug for WatchSession {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WatchSession").field("watchers", &self.watchers.len()).finish_non_exhaustive()
    }
}

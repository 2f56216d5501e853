//! What waits in a session to be read by its client.
//!
//! Changes are taken as long as the bounds allow; what is refused is not lost, but
//! read from history later. Everything else is always taken, since there is little
//! of it: for each watcher that it is created, that it ended and how far it is, and
//! watchers are created only while few of these wait.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::counters::Counters;
use super::watcher::Watcher;
use super::{ALL_WATCHERS, CancelReason, WatchEvent, WatchMessage, WatchOptions};
use crate::mvcc::{Event, RevisionEvents};

/// What each waiting item takes beside the changes that it shares.
const ITEM_BYTES: usize = size_of::<Item>();
/// What a change takes in a message beside its key and values, roughly.
const EVENT_OVERHEAD: usize = 32;
/// A queue that grew past this many items gives the memory back once it is empty.
const KEPT_ITEMS: usize = 64;

/// The queue of one session.
pub(super) struct Queue {
    /// Unique within the hub.
    pub(super) number: u64,
    state: Mutex<State>,
    wake: Notify,
}

#[derive(Default)]
struct State {
    items: VecDeque<Item>,
    /// Of the revisions that wait.
    bytes: usize,
    /// How many items are revisions.
    revisions: usize,
    /// How many items say that a watcher was created or ended.
    answers: usize,
    /// Whether a revision was refused since the client last read one. Room for some
    /// other revision is no room for that one, and to try again would be in vain.
    is_full: bool,
    /// Up to which of its changes the first item has been told, in fragments.
    told: usize,
    turn: Turn,
    /// Where catch-up goes on, so that no watcher of the session holds up another.
    cursor: i64,
    ending: Ending,
}

enum Item {
    Created { id: i64, revision: i64 },
    Events { watcher: Arc<Watcher>, events: Arc<RevisionEvents>, bytes: usize },
    Progress { watcher: Arc<Watcher>, revision: i64 },
    AllTold { revision: i64 },
    Canceled { watcher: Arc<Watcher>, revision: i64, reason: CancelReason },
}

impl Item {
    /// Whether it says that a watcher was created or ended.
    fn is_answer(&self) -> bool {
        matches!(self, Self::Created { .. } | Self::Canceled { .. })
    }
}

/// Whether the session waits for catch-up.
#[derive(Default, Clone, Copy, PartialEq, Eq)]
enum Turn {
    /// It needs none, or is being served.
    #[default]
    None,
    /// It stands in line.
    Waiting,
    /// It needs one, but has no room.
    Parked,
}

#[derive(Default, Clone, Copy, PartialEq, Eq)]
enum Ending {
    #[default]
    Open,
    /// The node stops; the client is to be told.
    Closed,
    /// The session is gone, and nobody reads any more.
    Abandoned,
}

/// What reading the queue gave.
pub(super) struct Taken {
    pub(super) message: WatchMessage,
    /// The watcher whose last message this is.
    pub(super) ended: Option<Arc<Watcher>>,
    /// Whether the session now has to stand in line for catch-up.
    pub(super) wants_turn: bool,
}

impl State {
    /// Whether it's worth reading history for this session.
    fn has_room(&self, options: &WatchOptions, counters: &Counters) -> bool {
        let is_low = self.bytes <= options.queue_bytes / 2 && self.revisions <= options.queue_messages / 2;
        let is_within = within_all(0, self.bytes, options, counters);
        self.revisions == 0 || (!self.is_full && is_low && is_within)
    }

    /// What it costs to keep one more item with `events`, `size` bytes large.
    fn cost(&self, events: &Arc<RevisionEvents>, size: usize) -> usize {
        // Neighbours that share a revision keep it in memory once.
        let is_shared = matches!(self.items.back(),
            Some(Item::Events { events: last, .. }) if Arc::ptr_eq(last, events));
        if is_shared { ITEM_BYTES } else { ITEM_BYTES + size }
    }

    fn takes(&self, cost: usize, options: &WatchOptions, counters: &Counters) -> bool {
        self.revisions == 0
            || (self.revisions < options.queue_messages
                && self.bytes.saturating_add(cost) <= options.queue_bytes
                && within_all(cost, self.bytes, options, counters))
    }

    fn release(&mut self, bytes: usize, counters: &Counters) {
        self.is_full = false;
        self.revisions -= 1;
        self.bytes -= bytes;
        counters.queue_bytes.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Takes what waits first for `watcher`, and what follows for it directly, up to
    /// the size of a message. Tells whether the last revision goes on.
    fn take_events(
        &mut self,
        watcher: &Arc<Watcher>,
        options: &WatchOptions,
        counters: &Counters,
    ) -> (Vec<WatchEvent>, bool) {
        let mut told = Vec::new();
        let mut told_bytes = 0;
        while let Some(Item::Events { watcher: next, events, bytes }) = self.items.front() {
            if !Arc::ptr_eq(next, watcher) {
                break;
            }
            let tell = |at| WatchEvent { of: Arc::clone(events), at, with_previous: watcher.with_previous };
            let wanted = events.events.iter().enumerate().skip(self.told);
            let wanted = wanted.filter(|(_, event)| watcher.wants_event(event));
            let size: usize = wanted.clone().map(|(_, event)| message_bytes(watcher, event)).sum();
            if told.is_empty() && watcher.fragment && size > options.message_bytes {
                for (at, event) in wanted {
                    let size = message_bytes(watcher, event);
                    if !told.is_empty() && told_bytes + size > options.message_bytes {
                        self.told = at;
                        return (told, true);
                    }
                    told_bytes += size;
                    told.push(tell(at));
                }
            } else if told.is_empty() || told_bytes + size <= options.message_bytes {
                told_bytes += size;
                told.extend(wanted.map(|(at, _)| tell(at)));
            } else {
                break;
            }
            let bytes = *bytes;
            self.told = 0;
            self.items.pop_front();
            self.release(bytes, counters);
        }
        (told, false)
    }
}

/// Whether a session that holds `bytes` may hold `more` as far as all sessions
/// together are concerned.
fn within_all(more: usize, bytes: usize, options: &WatchOptions, counters: &Counters) -> bool {
    let total = counters.queue_bytes.load(Ordering::Relaxed);
    let share = options.total_queue_bytes / counters.sessions.load(Ordering::Relaxed).max(1);
    total.saturating_add(more) <= options.total_queue_bytes || bytes.saturating_add(more) <= share
}

/// What `event` adds to a message for `watcher`.
fn message_bytes(watcher: &Watcher, event: &Event) -> usize {
    let value = event.record.as_ref().map_or(0, |record| record.value.len());
    let previous = event.previous.as_ref().filter(|_| watcher.with_previous);
    let previous = previous.map_or(0, |record| EVENT_OVERHEAD + event.key.len() + record.value.len());
    EVENT_OVERHEAD + event.key.len() + value + previous
}

impl Queue {
    pub(super) fn new(number: u64) -> Self {
        Self { number, state: Mutex::default(), wake: Notify::new() }
    }

    /// Adds a revision of `size` bytes for `watcher`, or refuses it because the
    /// client is too slow.
    pub(super) fn offer(
        &self,
        watcher: &Arc<Watcher>,
        events: &Arc<RevisionEvents>,
        size: usize,
        options: &WatchOptions,
        counters: &Counters,
    ) -> bool {
        let was_empty = {
            let mut state = self.state.lock();
            if state.ending != Ending::Open {
                return true;
            }
            let bytes = state.cost(events, size);
            if !state.takes(bytes, options, counters) {
                state.is_full = true;
                return false;
            }
            state.revisions += 1;
            state.bytes += bytes;
            counters.queue_bytes.fetch_add(bytes, Ordering::Relaxed);
            let was_empty = state.items.is_empty();
            let (watcher, events) = (Arc::clone(watcher), Arc::clone(events));
            state.items.push_back(Item::Events { watcher, events, bytes });
            was_empty
        };
        // A reader waits only after it has found the queue empty.
        if was_empty {
            self.wake.notify_one();
        }
        true
    }

    pub(super) fn created(&self, id: i64, revision: i64) {
        self.answer(Item::Created { id, revision });
    }

    pub(super) fn canceled(&self, watcher: Arc<Watcher>, revision: i64, reason: CancelReason) {
        self.answer(Item::Canceled { watcher, revision, reason });
    }

    /// Says that everything up to `revision` has been told.
    pub(super) fn all_told(&self, revision: i64) {
        if let Some(Item::AllTold { revision: told }) = self.state.lock().items.back_mut() {
            // However often a client asks, its questions take no memory.
            *told = revision;
            return;
        }
        self.answer(Item::AllTold { revision });
    }

    /// Says that `watcher` was told everything up to `revision`, unless changes wait,
    /// which may be its own, or the client has not read this the last time.
    pub(super) fn told_if_idle(&self, watcher: &Arc<Watcher>, revision: i64) {
        let is_idle = self.state.lock().revisions == 0;
        if is_idle && watcher.may_tell_progress() {
            self.answer(Item::Progress { watcher: Arc::clone(watcher), revision });
        }
    }

    fn answer(&self, item: Item) {
        {
            let mut state = self.state.lock();
            if state.ending != Ending::Open {
                return;
            }
            state.answers += usize::from(item.is_answer());
            state.items.push_back(item);
        }
        self.wake.notify_one();
    }

    /// How many messages wait that say that a watcher was created or ended.
    pub(super) fn answers(&self) -> usize {
        self.state.lock().answers
    }

    /// Takes the first message. `revision` gives the store's.
    pub(super) fn take(
        &self,
        options: &WatchOptions,
        counters: &Counters,
        revision: impl Fn() -> i64,
    ) -> Option<Taken> {
        let mut state = self.state.lock();
        let mut taken = Taken { message: WatchMessage::Closed, ended: None, wants_turn: false };
        if state.ending != Ending::Open {
            return Some(taken);
        }
        if let Some(Item::Events { watcher, .. }) = state.items.front() {
            let watcher = Arc::clone(watcher);
            let (events, more) = state.take_events(&watcher, options, counters);
            let last = events.last().map_or(0, WatchEvent::revision);
            watcher.note_activity();
            taken.message =
                WatchMessage::Events { id: watcher.id, revision: revision().max(last), events, more };
        } else {
            let item = state.items.pop_front()?;
            state.answers -= usize::from(item.is_answer());
            taken.message = match item {
                Item::Created { id, revision } => WatchMessage::Created { id, revision },
                Item::AllTold { revision } => WatchMessage::Progress { id: ALL_WATCHERS, revision },
                Item::Progress { watcher, revision } => {
                    watcher.progress_was_told();
                    WatchMessage::Progress { id: watcher.id, revision }
                }
                Item::Canceled { watcher, revision, reason } => {
                    let id = watcher.id;
                    taken.ended = Some(watcher);
                    WatchMessage::Canceled { id, revision, reason }
                }
                Item::Events { .. } => unreachable!("the branch above takes these"),
            };
        }
        if state.items.is_empty() && state.items.capacity() > KEPT_ITEMS {
            state.items = VecDeque::new();
        }
        if state.turn == Turn::Parked && state.has_room(options, counters) {
            state.turn = Turn::Waiting;
            taken.wants_turn = true;
        }
        Some(taken)
    }

    /// Waits until there may be something to take.
    pub(super) async fn filled(&self) {
        self.wake.notified().await;
    }

    /// Notes that watchers of the session have to catch up. Tells whether it has to
    /// stand in line now.
    pub(super) fn want_turn(&self, options: &WatchOptions, counters: &Counters) -> bool {
        let mut state = self.state.lock();
        if state.turn != Turn::None || state.ending != Ending::Open {
            return false;
        }
        let has_room = state.has_room(options, counters);
        state.turn = if has_room { Turn::Waiting } else { Turn::Parked };
        has_room
    }

    /// Begins the turn that the session stood in line for. Tells from where to look
    /// for watchers, or nothing if the session has no room any more or is gone.
    pub(super) fn begin_turn(&self, options: &WatchOptions, counters: &Counters) -> Option<i64> {
        let mut state = self.state.lock();
        if state.ending != Ending::Open {
            return None;
        }
        let has_room = state.has_room(options, counters);
        state.turn = if has_room { Turn::None } else { Turn::Parked };
        has_room.then_some(state.cursor)
    }

    /// Ends a turn that served watchers before `cursor`.
    pub(super) fn end_turn(&self, cursor: i64) {
        self.state.lock().cursor = cursor;
    }

    /// Tells the client that the node stops.
    pub(super) fn close(&self, counters: &Counters) {
        self.end(Ending::Closed, counters);
        self.wake.notify_one();
    }

    /// Lets everything go: nobody reads any more.
    pub(super) fn abandon(&self, counters: &Counters) {
        self.end(Ending::Abandoned, counters);
    }

    fn end(&self, ending: Ending, counters: &Counters) {
        let items = {
            let mut state = self.state.lock();
            state.ending = ending;
            counters.queue_bytes.fetch_sub(state.bytes, Ordering::Relaxed);
            state.bytes = 0;
            state.revisions = 0;
            state.answers = 0;
            std::mem::take(&mut state.items)
        };
        drop(items);
    }
}

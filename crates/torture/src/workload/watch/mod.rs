//! Watchers: some that see everything, and some that come and go.
//!
//! A watcher writes down what it is told and goes on at any node, behind what it saw last,
//! whenever its stream breaks. One that is told nothing for a while leaves as well, because
//! a node that stands still does not say so.

mod sse;
mod stream;

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use tokio::time::{Instant, sleep_until, timeout_at};

use self::stream::{Stream, Told, Wish};
use super::Endpoint;
use super::session::{Phase, Shared};
use crate::dice::Dice;
use crate::history::{NodeId, WatchLog, WatchNote, Way, keys};

/// How often a stream is asked how far it is.
const ASKS: Duration = Duration::from_secs(1);
/// How long a stream may say nothing.
const SILENCE: Duration = Duration::from_secs(5);
/// How long a canceled stream may go on.
const FAREWELL: Duration = Duration::from_secs(1);
/// Before another try at opening.
const PAUSE: Duration = Duration::from_millis(100);

/// A watcher on its way.
struct Watcher {
    shared: Arc<Shared>,
    dice: Dice,
    log: WatchLog,
    /// The first revision that it has not been told; `None` before the first that it knows.
    next: Option<i64>,
    /// Whether `next` is behind something that it was told.
    told_something: bool,
    /// Where its place is shown.
    seen: Option<Arc<AtomicI64>>,
    /// When it ends at the latest.
    end: Option<Instant>,
    /// Whether it lasts until the last revision of the run.
    is_complete: bool,
}

/// Why a stream was left.
enum Left {
    /// The watcher is done.
    Done,
    /// Another node may do.
    Lost,
}

/// Watches all keys from revision 2 until the last revision of the run.
pub(super) async fn complete(
    shared: Arc<Shared>,
    dice: Dice,
    way: Way,
    first: NodeId,
    seen: Arc<AtomicI64>,
) -> WatchLog {
    let log = WatchLog { watcher: shared.new_number(), way, prefix: String::new(), notes: Vec::new() };
    let watcher = Watcher {
        shared,
        dice,
        log,
        next: Some(2),
        told_something: false,
        seen: Some(seen),
        end: None,
        is_complete: true,
    };
    watcher.work(Some(first)).await
}

/// Watches this and that for a while, for as long as the clients work.
pub(super) async fn casual(shared: Arc<Shared>, mut dice: Dice) -> Vec<WatchLog> {
    let mut logs = Vec::new();
    while shared.goes_on() {
        let prefix = choose_prefix(&mut dice);
        let next = choose_start(&mut dice, shared.newest.load(Ordering::Relaxed));
        let way = if dice.chance(50) { Way::Http } else { Way::Grpc };
        let log = WatchLog { watcher: shared.new_number(), way, prefix, notes: Vec::new() };
        let time = dice.millis(300, 9_000);
        let watcher = Watcher {
            shared: Arc::clone(&shared),
            dice: dice.fork(),
            log,
            next,
            told_something: false,
            seen: None,
            end: Some(Instant::now() + time),
            is_complete: false,
        };
        logs.push(watcher.work(None).await);
        let time = dice.millis(50, 1_000);
        shared.pause(time).await;
    }
    logs
}

fn choose_prefix(dice: &mut Dice) -> String {
    let kinds = [keys::REGISTER, keys::SEED, keys::LIST, keys::COUNTER, keys::BANK, keys::LOCK];
    let kind = *dice.pick(&kinds);
    match dice.below(4) {
        0 => String::new(),
        1 => format!("{kind}{}", dice.below(4)),
        _ => kind.to_owned(),
    }
}

/// From now on, from the near past, or from so far back that it may be compacted.
fn choose_start(dice: &mut Dice, newest: i64) -> Option<i64> {
    let back = |dice: &mut Dice, most: i64| (newest - dice.below(most.max(1) as usize) as i64).max(2);
    match dice.below(10) {
        0..4 => None,
        4..7 => Some(back(dice, 500)),
        7 => Some(back(dice, newest)),
        8 => Some(2 + dice.below(50) as i64),
        // A little into the future, too.
        _ => Some(newest + 1 + dice.below(200) as i64),
    }
}

impl Watcher {
    /// Watches until it is done. `first` is the node that is asked first.
    async fn work(mut self, mut first: Option<NodeId>) -> WatchLog {
        while !self.is_done() {
            let Some(endpoint) = self.choose_node(first.take()) else {
                tokio::time::sleep(PAUSE).await;
                continue;
            };
            let from_revision = self.next.unwrap_or(0);
            let at = self.now();
            self.log.notes.push(WatchNote::Opened { at, node: endpoint.node, from_revision });
            let wish = Wish { prefix: self.log.prefix.clone(), from_revision, resumes: self.told_something };
            match stream::open(self.log.way, &endpoint, &wish, self.shared.limit).await {
                Ok(stream) => match self.follow(stream).await {
                    Left::Done => break,
                    Left::Lost => {}
                },
                Err(told) => {
                    self.note(told);
                }
            }
            // Who was told nothing does not know where to go on.
            if !self.is_complete && self.next.is_none() {
                break;
            }
            tokio::time::sleep(PAUSE).await;
        }
        self.log
    }

    fn now(&self) -> u64 {
        self.shared.clock.now()
    }

    fn choose_node(&mut self, first: Option<NodeId>) -> Option<Endpoint> {
        let wanted = first.and_then(|node| {
            self.shared.endpoints.borrow().iter().find(|endpoint| endpoint.node == node).cloned()
        });
        wanted.or_else(|| self.shared.any_endpoint(&mut self.dice))
    }

    fn is_done(&self) -> bool {
        let phase = *self.shared.phase.borrow();
        match phase {
            Phase::Work => self.end.is_some_and(|end| Instant::now() >= end),
            Phase::Halt => !self.is_complete,
            Phase::Finish { revision, deadline } => {
                !self.is_complete
                    || Instant::now() >= deadline
                    || self.next.is_some_and(|next| next > revision)
            }
        }
    }

    /// Writes down what a stream tells, until it is lost or the watcher is done.
    async fn follow(&mut self, mut stream: Stream) -> Left {
        let mut heard = Instant::now();
        let mut asks = heard + ASKS;
        let mut phase = self.shared.phase.clone();
        // Nobody stays at one node for good, so that going on elsewhere is proved without faults.
        let moves = heard
            + if self.is_complete { self.dice.millis(8_000, 60_000) } else { self.dice.millis(100, 9_000) };
        loop {
            if self.is_done() {
                self.say_goodbye(stream).await;
                return Left::Done;
            }
            let end = self.end.map_or(heard + SILENCE, |end| end.min(heard + SILENCE));
            tokio::select! {
                // What was told goes before anything else, so that nothing is left unread.
                biased;
                told = timeout_at(end, stream.next()) => match told {
                    Ok(told) => {
                        heard = Instant::now();
                        if !self.note(told) {
                            return Left::Lost;
                        }
                    }
                    Err(_) if heard + SILENCE <= Instant::now() => {
                        let reason = format!("left after {SILENCE:?} of silence");
                        let at = self.now();
                        self.log.notes.push(WatchNote::Lost { at, reason });
                        return Left::Lost;
                    }
                    // Its own time is over.
                    Err(_) => {}
                },
                _ = phase.changed() => {}
                () = sleep_until(moves) => {
                    let at = self.now();
                    self.log.notes.push(WatchNote::Lost { at, reason: "moved on by the watcher".to_owned() });
                    return Left::Lost;
                }
                () = sleep_until(asks) => {
                    stream.ask_progress();
                    asks = Instant::now() + ASKS;
                }
            }
        }
    }

    /// Leaves a stream: by asking for its end, where that can be asked, or by hanging up.
    async fn say_goodbye(&mut self, mut stream: Stream) {
        if !self.is_complete && self.dice.chance(50) && stream.cancel() {
            let end = Instant::now() + FAREWELL;
            while let Ok(told) = timeout_at(end, stream.next()).await {
                if !self.note(told) {
                    return;
                }
            }
        }
        let at = self.now();
        self.log.notes.push(WatchNote::Lost { at, reason: "left by the watcher".to_owned() });
    }

    /// Writes down what was told; false if nothing more can come.
    fn note(&mut self, told: Told) -> bool {
        let at = self.now();
        let goes_on = matches!(told, Told::Created(_) | Told::Events(_) | Told::Progress(_));
        match told {
            Told::Created(revision) => {
                // Says where the stream begins, if that was not asked for.
                self.next.get_or_insert(revision + 1);
                return true;
            }
            Told::Events(events) => {
                self.told_something = true;
                let last = events.last().map_or(0, |event| event.mod_revision);
                self.next = self.next.max(Some(last + 1));
                self.log.notes.push(WatchNote::Events { at, events });
            }
            Told::Progress(revision) => {
                self.told_something = true;
                self.next = self.next.max(Some(revision + 1));
                self.log.notes.push(WatchNote::Progress { at, revision });
            }
            Told::Compacted(compact_revision) => {
                self.next = self.next.max(Some(compact_revision));
                self.log.notes.push(WatchNote::Compacted { at, compact_revision });
            }
            Told::Ended(reason) => self.log.notes.push(WatchNote::Lost { at, reason }),
        }
        if let (Some(seen), Some(next)) = (&self.seen, self.next) {
            seen.fetch_max(next - 1, Ordering::Relaxed);
            self.shared.newest.fetch_max(next - 1, Ordering::Relaxed);
        }
        goes_on
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn casual_watchers_begin_in_the_past_now_and_later() {
        let mut dice = Dice::new(1);
        let starts: Vec<_> = (0..400).map(|_| choose_start(&mut dice, 10_000)).collect();
        assert!(starts.contains(&None));
        assert!(starts.iter().flatten().all(|start| (2..10_202).contains(start)));
        for range in [2..9_000, 9_500..10_001, 10_001..10_202] {
            assert!(starts.iter().flatten().any(|start| range.contains(start)), "{range:?}");
        }
        assert!((0..50).all(|_| choose_start(&mut dice, 0).is_none_or(|start| start >= 1)));
        let prefixes: Vec<_> = (0..200).map(|_| choose_prefix(&mut dice)).collect();
        for prefix in ["", "reg/", "list/2", "lock/"] {
            assert!(prefixes.iter().any(|chosen| chosen == prefix), "{prefix}");
        }
    }
}

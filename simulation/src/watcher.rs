//! A watcher of all keys that goes to another node whenever its own is gone.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use kvorum::keyspace::KeyRange;
use kvorum::watch::{CancelReason, WatchEvent, WatchMessage, WatchRequest, WatchSession};
use kvorum_torture::dice::Dice;
use kvorum_torture::history::{Event, WatchLog, WatchNote, Way};
use tokio::sync::mpsc;
use tokio::time::sleep;

use crate::clients::record;
use crate::cluster::Cluster;
use crate::{system, trace};

/// What it was told.
pub(crate) struct Watcher {
    cluster: Rc<Cluster>,
    dice: RefCell<Dice>,
    pub(crate) notes: RefCell<Vec<WatchNote>>,
    /// The last revision of which it was told everything.
    seen: RefCell<i64>,
}

impl Watcher {
    pub(crate) fn new(cluster: Rc<Cluster>, dice: Dice) -> Rc<Self> {
        Rc::new(Self { cluster, dice: RefCell::new(dice), notes: RefCell::default(), seen: RefCell::new(1) })
    }

    /// The last revision of which it was told everything.
    pub(crate) fn seen(&self) -> i64 {
        *self.seen.borrow()
    }

    /// All it was told.
    pub(crate) fn log(&self) -> WatchLog {
        WatchLog { watcher: 0, way: Way::Grpc, prefix: String::new(), notes: self.notes.borrow().clone() }
    }

    fn note(&self, note: WatchNote) {
        self.notes.borrow_mut().push(note);
    }

    /// Watches for ever.
    pub(crate) async fn run(self: Rc<Self>) {
        loop {
            // One that was removed has nothing to tell.
            let nodes = self.cluster.serving();
            let node = if nodes.is_empty() { None } else { Some(*self.dice.borrow_mut().pick(&nodes)) };
            if let Some(node) = node {
                self.follow(node).await;
            }
            let pause = self.dice.borrow_mut().millis(1, 200);
            sleep(pause).await;
        }
    }

    /// Watches at one node until it is gone, or for a while.
    async fn follow(&self, node: kvorum::NodeId) {
        let Some((scope, service)) = self.cluster.service(node) else { return };
        let from = self.seen() + 1;
        self.note(WatchNote::Opened { at: system::now(), node, from_revision: from });
        let (sender, mut receiver) = mpsc::channel(4);
        let reading = scope.handle().spawn(async move {
            let mut session: WatchSession = service.watch().session();
            let request =
                WatchRequest { from: Some(from), progress: true, ..WatchRequest::of(KeyRange::all()) };
            if session.create(request).is_err() {
                return;
            }
            loop {
                let message = session.next().await;
                if sender.send(message).await.is_err() {
                    return;
                }
            }
        });
        let patience = self.dice.borrow_mut().millis(500, 8_000);
        let _ = tokio::time::timeout(patience, async {
            while let Some(message) = receiver.recv().await {
                if !self.hear(message) {
                    return;
                }
            }
        })
        .await;
        reading.abort();
        self.note(WatchNote::Lost {
            at: system::now(),
            reason: "the watcher went on to another node".to_owned(),
        });
    }

    /// Writes a message down; answers whether there may be more.
    fn hear(&self, message: WatchMessage) -> bool {
        let at = system::now();
        trace::note(|| format!("watcher: {message:?}"));
        match message {
            WatchMessage::Created { .. } => true,
            WatchMessage::Events { events, .. } => {
                let last = events.last().map_or(0, WatchEvent::revision);
                let event = |event: &WatchEvent| Event {
                    key: String::from_utf8_lossy(event.key()).into_owned(),
                    mod_revision: event.revision(),
                    record: event.record().map(record),
                };
                self.note(WatchNote::Events { at, events: events.iter().map(event).collect() });
                *self.seen.borrow_mut() = last;
                true
            }
            WatchMessage::Progress { revision, .. } => {
                self.note(WatchNote::Progress { at, revision });
                true
            }
            WatchMessage::Canceled { reason, .. } => {
                if let CancelReason::Compacted { compacted } = reason {
                    self.note(WatchNote::Compacted { at, compact_revision: compacted });
                }
                false
            }
            WatchMessage::Closed => false,
        }
    }

    /// Waits until it has seen `revision`; false if that takes too long.
    pub(crate) async fn reaches(&self, revision: i64) -> bool {
        for _ in 0..600 {
            if self.seen() >= revision {
                return true;
            }
            sleep(Duration::from_millis(100)).await;
        }
        false
    }
}

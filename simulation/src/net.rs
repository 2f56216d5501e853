//! The network: connections whose pieces arrive in order, late, or not at all. The head
//! of a message, a body that is known as a whole, and its end are one piece, as they are
//! one packet.
//!
//! A request is a connection of its own: pieces of its body go to the peer's service
//! while pieces of the answer come back. A cut link holds pieces back, as TCP does, until
//! it is whole again or somebody gives up; a broken connection loses what is under way,
//! and the receiver learns that it broke. Nothing arrives twice.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::{FutureExt as _, stream};
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::{Body as _, Frame};
use hyper::{Request, Response, StatusCode};
use kvorum::NodeId;
use kvorum::openraft_network::carrier::Lost;
use kvorum::openraft_network::transport::{AnswerBody, PeerBody, Purpose};
use kvorum::simulation::{Handle, current_node};
use kvorum_torture::dice::Dice;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep, sleep_until};

use crate::peer::{self, Answer, Doors};
use crate::trace;

/// Pieces on their way on one connection.
const UNDER_WAY: usize = 16;
/// How long a connection that nobody answers may take to be made.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

struct Net {
    dice: Dice,
    latency_us: usize,
    breaks: usize,
    peers: BTreeMap<NodeId, (Handle, Doors)>,
    cut: BTreeSet<(NodeId, NodeId)>,
    slow: BTreeMap<(NodeId, NodeId), Duration>,
    /// Changes with the links.
    changes: watch::Sender<u64>,
}

thread_local! {
    static NET: RefCell<Option<Net>> = const { RefCell::new(None) };
}

fn with<T>(work: impl FnOnce(&mut Net) -> T) -> T {
    NET.with_borrow_mut(|net| work(net.as_mut().expect("the network is there while a run is on")))
}

/// Begins a run.
pub(crate) fn begin(dice: Dice, latency_us: usize, breaks: usize) {
    NET.set(Some(Net {
        dice,
        latency_us,
        breaks,
        peers: BTreeMap::new(),
        cut: BTreeSet::new(),
        slow: BTreeMap::new(),
        changes: watch::Sender::new(0),
    }));
}

/// Ends a run.
pub(crate) fn end() {
    NET.take();
}

/// Where nodes are reached.
pub(crate) fn addr(node: NodeId) -> String {
    format!("10.0.0.{node}:7000")
}

fn node_at(addr: &str) -> Option<NodeId> {
    addr.strip_prefix("10.0.0.")?.strip_suffix(":7000")?.parse().ok()
}

/// Connects a node.
pub(crate) fn join(node: NodeId, handle: Handle, doors: Doors) {
    with(|net| net.peers.insert(node, (handle, doors)));
}

/// Disconnects a node.
pub(crate) fn leave(node: NodeId) {
    drop(with(|net| net.peers.remove(&node)));
}

/// Cuts the links.
pub(crate) fn cut(links: &[(NodeId, NodeId)]) {
    with(|net| {
        net.cut.extend(links);
        net.changes.send_modify(|changes| *changes += 1);
    });
}

/// Makes the links whole.
pub(crate) fn mend(links: &[(NodeId, NodeId)]) {
    with(|net| {
        net.cut.retain(|link| !links.contains(link));
        net.changes.send_modify(|changes| *changes += 1);
    });
}

/// Makes the links slower by so much.
pub(crate) fn slow(links: &[(NodeId, NodeId)], by: Duration) {
    with(|net| net.slow.extend(links.iter().map(|link| (*link, by))));
}

/// Makes the links as fast as others.
pub(crate) fn quicken(links: &[(NodeId, NodeId)]) {
    with(|net| net.slow.retain(|link, _| !links.contains(link)));
}

/// Ends all that is wrong with links.
pub(crate) fn heal() {
    with(|net| {
        net.cut.clear();
        net.slow.clear();
        net.breaks = 0;
        net.changes.send_modify(|changes| *changes += 1);
    });
}

/// How long a piece takes.
fn delay(from: NodeId, to: NodeId) -> Duration {
    with(|net| {
        let slow = net.slow.get(&(from, to)).copied().unwrap_or_default();
        slow + Duration::from_micros(50 + net.dice.below(net.latency_us) as u64)
    })
}

fn is_cut(from: NodeId, to: NodeId) -> bool {
    with(|net| net.cut.contains(&(from, to)))
}

fn breaks() -> bool {
    with(|net| net.breaks > 0 && net.dice.below(10_000) < net.breaks)
}

/// Waits until the link is whole.
async fn pass(from: NodeId, to: NodeId) {
    let mut changes = with(|net| net.changes.subscribe());
    while is_cut(from, to) {
        if changes.changed().await.is_err() {
            return;
        }
    }
}

/// What travels on a connection.
enum Piece {
    Data(Bytes, Instant),
    End(Instant),
}

/// One direction of a connection: where its pieces go in.
struct Wire {
    from: NodeId,
    to: NodeId,
    pieces: mpsc::Sender<Piece>,
    last: Instant,
}

impl Wire {
    fn new(from: NodeId, to: NodeId, pieces: mpsc::Sender<Piece>) -> Self {
        Self { from, to, pieces, last: Instant::now() }
    }

    /// When a piece that is sent now arrives: never before the one before it.
    fn due(&mut self) -> Instant {
        self.last = self.last.max(Instant::now() + delay(self.from, self.to));
        self.last
    }

    /// Whether the connection still stands.
    async fn send(&mut self, data: Bytes) -> bool {
        if breaks() {
            return false;
        }
        let due = self.due();
        self.pieces.send(Piece::Data(data, due)).await.is_ok()
    }

    /// Sends what travels with the piece before it.
    async fn send_along(&mut self, data: Bytes) {
        let _ = self.pieces.send(Piece::Data(data, self.last)).await;
    }

    async fn end(mut self) {
        let due = self.due();
        let _ = self.pieces.send(Piece::End(due)).await;
    }

    /// Ends with the piece before it.
    async fn end_along(self) {
        let _ = self.pieces.send(Piece::End(self.last)).await;
    }
}

/// The next piece of a connection; `None` at its end.
async fn receive(pieces: &mut mpsc::Receiver<Piece>, from: NodeId, to: NodeId) -> io::Result<Option<Bytes>> {
    let reset = || io::Error::new(io::ErrorKind::ConnectionReset, "the connection was reset");
    let Some(piece) = pieces.recv().await else { return Err(reset()) };
    let (data, due) = match piece {
        Piece::Data(data, due) => (Some(data), due),
        Piece::End(due) => (None, due),
    };
    sleep_until(due).await;
    pass(from, to).await;
    Ok(data)
}

/// Carries a request to the peer that it names, and the answer back.
pub(crate) fn carry(
    purpose: Purpose,
    request: Request<PeerBody>,
) -> BoxFuture<'static, Result<Response<AnswerBody>, Lost>> {
    let from = current_node();
    let here = Handle::current();
    async move {
        let (head, body) = request.into_parts();
        let to = head.uri.authority().and_then(|addr| node_at(addr.as_str()));
        let Some(to) = to else {
            return Err(Lost { is_unseen: true, reason: "there is no such host".to_owned() });
        };
        trace::note(|| format!("{from}>{to} {purpose:?} {}", head.uri.path()));
        // A connection of the pool, or one that has to be made.
        let is_new = with(|net| net.dice.chance(30));
        sleep(delay(from, to)).await;
        if is_new && (is_cut(from, to) || is_cut(to, from)) {
            sleep(CONNECT_TIMEOUT).await;
            return Err(Lost { is_unseen: true, reason: "no answer".to_owned() });
        }
        pass(from, to).await;
        let Some((there, doors)) = with(|net| net.peers.get(&to).cloned()) else {
            sleep(delay(to, from)).await;
            pass(to, from).await;
            // One of the pool was broken by its other end.
            let reason = if is_new { "connection refused" } else { "connection reset" };
            return Err(Lost { is_unseen: is_new, reason: reason.to_owned() });
        };
        let (up, arriving) = mpsc::channel(UNDER_WAY);
        let (down, mut answered) = mpsc::channel(UNDER_WAY);
        let (answering, answer) = oneshot::channel();
        // Whoever lets the answer go lets the connection go.
        let (interest, interested) = oneshot::channel::<()>();
        here.spawn(upload(Wire::new(from, to, up), body, interested));
        let arriving = Arriving { pieces: arriving, from, to };
        there.spawn(serve(doors, head, arriving, answering, Wire::new(to, from, down)));
        let Ok((status, due)) = answer.await else {
            sleep(delay(to, from)).await;
            return Err(Lost { is_unseen: false, reason: "connection reset".to_owned() });
        };
        sleep_until(due).await;
        pass(to, from).await;
        let pieces = stream::unfold(Some((answered_by(&mut answered), interest)), move |state| async move {
            let (mut pieces, interest) = state?;
            match receive(&mut pieces, to, from).await {
                Ok(Some(data)) => Some((Ok(Frame::data(data)), Some((pieces, interest)))),
                Ok(None) => None,
                Err(error) => Some((Err(error), None)),
            }
        });
        let mut response = Response::new(StreamBody::new(pieces).boxed_unsync());
        *response.status_mut() = status;
        Ok(response)
    }
    .boxed()
}

/// Takes the receiver out of the place where it waited for the head.
fn answered_by(pieces: &mut mpsc::Receiver<Piece>) -> mpsc::Receiver<Piece> {
    let (_, nothing) = mpsc::channel(1);
    std::mem::replace(pieces, nothing)
}

/// Sends the body of a request, as long as somebody wants the answer.
async fn upload(mut wire: Wire, mut body: PeerBody, interested: oneshot::Receiver<()>) {
    let is_whole = body.size_hint().exact().is_some();
    let sending = async {
        while let Some(frame) = body.frame().await {
            let Ok(frame) = frame else { return };
            let Ok(data) = frame.into_data() else { continue };
            if is_whole {
                wire.send_along(data).await;
            } else if !wire.send(data).await {
                return;
            }
        }
        if is_whole { wire.end_along().await } else { wire.end().await }
    };
    tokio::select! {
        biased;
        _ = interested => {}
        () = sending => {}
    }
}

/// The body of a request as its receiver gets it.
pub(crate) struct Arriving {
    pieces: mpsc::Receiver<Piece>,
    from: NodeId,
    to: NodeId,
}

impl Arriving {
    /// The next piece; `None` at the end.
    pub(crate) async fn next(&mut self) -> io::Result<Option<Bytes>> {
        receive(&mut self.pieces, self.from, self.to).await
    }
}

/// The peer's end of a connection.
async fn serve(
    doors: Doors,
    head: hyper::http::request::Parts,
    body: Arriving,
    answering: oneshot::Sender<(StatusCode, Instant)>,
    mut wire: Wire,
) {
    let (status, answer) = peer::serve(&doors, &head, body).await;
    drop(doors);
    if breaks() || answering.send((status, wire.due())).is_err() {
        return;
    }
    match answer {
        Answer::Whole(body) => {
            wire.send_along(body).await;
            wire.end_along().await;
            return;
        }
        Answer::Stream(mut pieces) => {
            while let Some(piece) = pieces.recv().await {
                if !wire.send(piece).await {
                    return;
                }
            }
        }
    }
    wire.end().await;
}

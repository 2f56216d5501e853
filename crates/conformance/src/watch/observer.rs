//! Makes a history: writers through every node, watchers on every node, and in the end
//! what each node says happened.
//!
//! Whoever calls it may kill and start nodes meanwhile: writers and watchers go on with
//! another node, as a client does. All nodes must run again when the time is over.

use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use kvorum_etcd_proto::etcdserverpb as pb;
use pb::kv_client::KvClient;
use pb::request_op::Request;
use pb::watch_client::WatchClient;
use pb::watch_request::RequestUnion;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, sleep_until, timeout, timeout_at};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Status, Streaming};

use super::history::{Event, Message, Truth, Watcher, Write};
use super::promises::{Promise, Violation, check, check_writes};
use crate::server::{ServerError, address};
use crate::step::Keys;

/// How many keys are written.
const KEYS: u64 = 12;

/// Before another try at a node that failed.
const PAUSE: Duration = Duration::from_millis(50);

/// How often watchers ask how far they are.
const PROGRESS: Duration = Duration::from_millis(300);

/// The largest message: what was missed while a node was away may come at once.
const MESSAGE: usize = 256 << 20;

/// What is observed, and for how long.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The nodes of one cluster, `HOST:PORT`.
    pub endpoints: Vec<String>,
    /// How long is written.
    pub duration: Duration,
    /// How many write at the same time.
    pub writers: usize,
    /// How many watch.
    pub watchers: usize,
    /// All choices follow from it; when they fall together is up to the machine.
    pub seed: u64,
    /// Whether watchers ask for progress.
    pub progress: bool,
    /// How long everything may take to be told after the last write.
    pub settle: Duration,
}

/// What was observed.
#[derive(Debug, Default)]
pub struct Report {
    /// Writes that were answered.
    pub answered: usize,
    /// Writes whose outcome the writer does not know.
    pub unanswered: usize,
    /// Revisions that came about.
    pub revisions: usize,
    /// Events that were told, to all watchers together.
    pub events: usize,
    /// How often progress was told.
    pub progress: usize,
    /// How often a watcher lost its connection and went on.
    pub resumptions: usize,
    /// What must not be.
    pub violations: Vec<Violation>,
}

impl fmt::Display for Report {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for violation in self.violations.iter().take(20) {
            writeln!(out, "{violation}")?;
        }
        writeln!(
            out,
            "{} writes, {} of unknown outcome, {} revisions, {} events told, {} times progress, {} resumptions, \
             {} violations",
            self.answered,
            self.unanswered,
            self.revisions,
            self.events,
            self.progress,
            self.resumptions,
            self.violations.len()
        )
    }
}

/// Small numbers that follow from a seed.
struct Choices(u64);

impl Choices {
    fn new(seed: u64, stream: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ stream.wrapping_mul(0xD1B5_4A32_D192_ED03))
    }

    /// A number below the bound.
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (mixed ^ (mixed >> 31)) % bound
    }
}

/// The nodes, with one channel to each; a channel connects anew by itself.
#[derive(Clone)]
struct Nodes {
    channels: Arc<Vec<Channel>>,
    prefix: Bytes,
}

impl Nodes {
    fn new(plan: &Plan) -> Result<Self, ServerError> {
        let channel = |endpoint: &String| {
            Ok(address(endpoint)?
                .connect_timeout(Duration::from_secs(1))
                .timeout(Duration::from_secs(5))
                .http2_keep_alive_interval(Duration::from_secs(2))
                .keep_alive_timeout(Duration::from_secs(5))
                .connect_lazy())
        };
        let channels = plan.endpoints.iter().map(channel).collect::<Result<_, _>>()?;
        Ok(Self { channels: Arc::new(channels), prefix: format!("watched/{}/", plan.seed).into() })
    }

    fn channel(&self, at: usize) -> Channel {
        self.channels.get(at % self.channels.len()).cloned().expect("a plan has endpoints")
    }

    fn kv(&self, at: usize) -> KvClient<Channel> {
        KvClient::new(self.channel(at))
    }

    fn key(&self, number: u64) -> Bytes {
        [&self.prefix[..], format!("k{number:02}").as_bytes()].concat().into()
    }

    /// Every key that is written, and the prefix alone.
    fn all(&self) -> Keys {
        let mut end = self.prefix.to_vec();
        end.last_mut().iter_mut().for_each(|last| **last += 1);
        Keys { key: self.prefix.clone(), end: end.into() }
    }
}

/// Writes and watches for as long as the plan says, and judges what was told.
///
/// # Errors
/// When the cluster cannot be reached before or after.
pub async fn observe(plan: &Plan) -> Result<Report, ServerError> {
    let nodes = Nodes::new(plan)?;
    let base = sweep(&nodes, plan).await?;
    let (goal, reached) = watch::channel(None);
    let watchers: Vec<_> = (0..plan.watchers)
        .map(|number| {
            let watcher = choose_watcher(&nodes, plan, number, base);
            tokio::spawn(follow(nodes.clone(), plan.clone(), watcher, number, reached.clone()))
        })
        .collect();

    let writes = Arc::new(Mutex::new(Vec::new()));
    let end = Instant::now() + plan.duration;
    let tasks: Vec<_> = (0..plan.writers)
        .map(|number| tokio::spawn(write(nodes.clone(), plan.seed, number, end, writes.clone())))
        .collect();
    for writer in tasks {
        writer.await.expect("a writer does not panic");
    }
    let last = write_last(&nodes, plan, &writes).await?;
    goal.send_replace(Some((last, Instant::now() + plan.settle)));

    let mut report = Report::default();
    let mut told = Vec::new();
    for watcher in watchers {
        told.push(Watcher { until: Some(last), ..watcher.await.expect("a watcher does not panic") });
    }
    let writes = std::mem::take(&mut *writes.lock().expect("no writer panicked"));
    let truth = collect_truth(&nodes, plan, base, last, &mut report.violations).await?;
    judge(&nodes, &truth, &writes, &told, &mut report);
    Ok(report)
}

fn judge(nodes: &Nodes, truth: &Truth, writes: &[Write], told: &[Watcher], report: &mut Report) {
    report.answered = writes.iter().filter(|write| write.revision.is_some()).count();
    report.unanswered = writes.len() - report.answered;
    report.revisions = truth.revisions.len();
    report.violations.extend(check_writes(truth, writes, &nodes.all()));
    for watcher in told {
        report.violations.extend(check(truth, watcher));
        for message in &watcher.messages {
            match message {
                Message::Created { .. } => {}
                Message::Events { events, .. } => report.events += events.len(),
                Message::Progress { .. } => report.progress += 1,
                Message::Resumed { .. } => report.resumptions += 1,
            }
        }
    }
}

/// Removes the keys, and tells the revision then.
async fn sweep(nodes: &Nodes, plan: &Plan) -> Result<i64, ServerError> {
    let keys = nodes.all();
    let request = pb::DeleteRangeRequest { key: keys.key, range_end: keys.end, prev_kv: false };
    let answer = retry(nodes, plan, |mut kv| {
        let request = request.clone();
        async move { kv.delete_range(request).await }
    });
    Ok(answer.await?.into_inner().header.map_or(0, |header| header.revision))
}

/// Asks one node after another until one answers.
async fn retry<T, F>(
    nodes: &Nodes,
    plan: &Plan,
    mut call: impl FnMut(KvClient<Channel>) -> F,
) -> Result<T, ServerError>
where
    F: Future<Output = Result<T, Status>>,
{
    let end = Instant::now() + plan.settle;
    let mut at = 0;
    loop {
        match call(nodes.kv(at)).await {
            Ok(answer) => return Ok(answer),
            Err(status) if Instant::now() > end => {
                return Err(ServerError::Prepare { endpoint: plan.endpoints.join(","), status });
            }
            Err(_) => sleep(PAUSE).await,
        }
        at += 1;
    }
}

// ---- writers ----

fn operation(key: Bytes, value: Option<Bytes>) -> pb::RequestOp {
    let request = match value {
        Some(value) => Request::RequestPut(pb::PutRequest { key, value, ..Default::default() }),
        None => Request::RequestDeleteRange(pb::DeleteRangeRequest { key, ..Default::default() }),
    };
    pb::RequestOp { request: Some(request) }
}

/// Makes the changes in one revision; tells it, or nothing when nothing was changed.
async fn commit(
    mut kv: KvClient<Channel>,
    changes: &[(Bytes, Option<Bytes>)],
) -> Result<Option<i64>, Status> {
    let success = changes.iter().map(|(key, value)| operation(key.clone(), value.clone())).collect();
    let answer = kv.txn(pb::TxnRequest { success, ..Default::default() }).await?.into_inner();
    let took_effect = answer.responses.iter().any(|op| match &op.response {
        Some(pb::response_op::Response::ResponseDeleteRange(deleted)) => deleted.deleted > 0,
        _ => true,
    });
    Ok(answer.header.filter(|_| took_effect).map(|header| header.revision))
}

/// Writes until the end, going on with another node when one fails.
async fn write(nodes: Nodes, seed: u64, number: usize, end: Instant, writes: Arc<Mutex<Vec<Write>>>) {
    let mut choices = Choices::new(seed, 1000 + number as u64);
    let mut at = number;
    let mut count = 0_u64;
    while Instant::now() < end {
        let first = choices.below(KEYS);
        // Mostly one key, sometimes several in one revision.
        let several = if choices.below(4) == 0 { 2 + choices.below(3) } else { 1 };
        let changes: Vec<_> = (0..several)
            .map(|offset| {
                count += 1;
                let value = (choices.below(5) > 0).then(|| Bytes::from(format!("{number}-{count}")));
                (nodes.key((first + offset) % KEYS), value)
            })
            .collect();
        let outcome = commit(nodes.kv(at), &changes).await;
        let failed = outcome.is_err();
        let write = match outcome {
            Ok(None) => None,
            Ok(revision) => Some(Write { revision, changes }),
            Err(_) => Some(Write { revision: None, changes }),
        };
        writes.lock().expect("no writer panicked").extend(write);
        if failed {
            at += 1;
            sleep(PAUSE).await;
        } else if choices.below(50) == 0 {
            at += 1;
        }
    }
}

/// Puts every key once more in one revision, which every watcher must see.
async fn write_last(nodes: &Nodes, plan: &Plan, writes: &Arc<Mutex<Vec<Write>>>) -> Result<i64, ServerError> {
    let mut tries = 0;
    retry(nodes, plan, |kv| {
        tries += 1;
        let changes: Vec<_> = (0..KEYS)
            .map(|number| (nodes.key(number), Some(Bytes::from(format!("last-{tries}-{number}")))))
            .collect();
        let writes = Arc::clone(writes);
        async move {
            let outcome = commit(kv, &changes).await;
            let revision = outcome.as_ref().ok().copied().flatten();
            writes.lock().expect("no writer panicked").push(Write { revision, changes });
            outcome.map(|revision| revision.expect("a put changes something"))
        }
    })
    .await
}

// ---- watchers ----

fn choose_watcher(nodes: &Nodes, plan: &Plan, number: usize, base: i64) -> Watcher {
    let mut choices = Choices::new(plan.seed, number as u64);
    let first = choices.below(KEYS);
    let keys = match number % 3 {
        0 => nodes.all(),
        1 => Keys { key: nodes.key(first), end: Bytes::new() },
        _ => Keys { key: nodes.key(first), end: nodes.all().end },
    };
    Watcher {
        name: format!("watcher {number} of {keys:?}"),
        keys,
        from: (choices.below(2) == 0).then_some(base + 1),
        with_previous: choices.below(2) == 0,
        messages: Vec::new(),
        until: None,
    }
}

/// An open watch: what it is told, and where it can be asked for progress.
struct Stream {
    told: Streaming<pb::WatchResponse>,
    asked: mpsc::Sender<pb::WatchRequest>,
}

async fn open(
    channel: Channel,
    request: pb::WatchCreateRequest,
    needs_leader: bool,
) -> Result<Stream, Status> {
    let (asked, requests) = mpsc::channel(4);
    let create = pb::WatchRequest { request_union: Some(RequestUnion::CreateRequest(request)) };
    asked.try_send(create).expect("a new queue has room");
    let mut call = tonic::Request::new(ReceiverStream::new(requests));
    if needs_leader {
        call.metadata_mut().insert("hasleader", tonic::metadata::MetadataValue::from_static("true"));
    }
    let told = WatchClient::new(channel).max_decoding_message_size(MESSAGE).watch(call).await?.into_inner();
    Ok(Stream { told, asked })
}

/// Where a watcher is.
struct Place {
    /// The first revision that it has not been told.
    next: Option<i64>,
    /// How many messages of the history stay if the connection is lost now.
    kept: usize,
    /// When it asks how far it is.
    asks: Instant,
}

/// The last revision that is to be told, and until when.
type Goal = (i64, Instant);

impl Place {
    /// Whether the goal has been told, or its time is over.
    fn is_done(&self, goal: Option<Goal>) -> bool {
        goal.is_some_and(|(last, end)| self.next.is_some_and(|next| next > last) || Instant::now() > end)
    }
}

/// Whether the node has what was swept. One that is behind would begin a watch without a
/// revision before it.
async fn is_current(mut kv: KvClient<Channel>) -> bool {
    let request = pb::RangeRequest { key: Bytes::from_static(b"current"), ..Default::default() };
    kv.range(request).await.is_ok()
}

/// Watches until the goal has been told, or its time is over.
async fn follow(
    nodes: Nodes,
    plan: Plan,
    mut watcher: Watcher,
    number: usize,
    mut goal: watch::Receiver<Option<Goal>>,
) -> Watcher {
    let mut place = Place { next: watcher.from, kept: 0, asks: Instant::now() + PROGRESS };
    let mut at = number;
    loop {
        let request = pb::WatchCreateRequest {
            key: watcher.keys.key.clone(),
            range_end: watcher.keys.end.clone(),
            start_revision: place.next.unwrap_or(0),
            progress_notify: plan.progress,
            prev_kv: watcher.with_previous,
            fragment: number % 4 == 3,
            ..Default::default()
        };
        if (place.next.is_some() || is_current(nodes.kv(at)).await)
            && let Ok(mut stream) = open(nodes.channel(at), request, number.is_multiple_of(2)).await
        {
            while listen(&mut stream, &mut watcher, &mut place, plan.progress, &mut goal).await {}
        }
        if place.is_done(*goal.borrow()) {
            return watcher;
        }
        watcher.messages.truncate(place.kept);
        if let Some(from) = place.next
            && !watcher.messages.is_empty()
        {
            watcher.messages.push(Message::Resumed { from });
            place.kept = watcher.messages.len();
        }
        at += 1;
        sleep(PAUSE).await;
    }
}

/// Takes one message; false when the stream is over or nothing more is awaited.
async fn listen(
    stream: &mut Stream,
    watcher: &mut Watcher,
    place: &mut Place,
    progress: bool,
    goal: &mut watch::Receiver<Option<Goal>>,
) -> bool {
    let reached = *goal.borrow_and_update();
    if place.is_done(reached) {
        return false;
    }
    tokio::select! {
        told = stream.told.message() => match told {
            Ok(Some(message)) => note(&message, watcher, place),
            Ok(None) | Err(_) => false,
        },
        changed = goal.changed() => changed.is_ok(),
        () = sleep_until(reached.map_or(place.asks, |(_, end)| end)), if reached.is_some() => true,
        () = sleep_until(place.asks), if progress => {
            place.asks = Instant::now() + PROGRESS;
            let request = RequestUnion::ProgressRequest(pb::WatchProgressRequest {});
            // A full queue is a stream that does not go on, which will be noticed.
            let _ = stream.asked.try_send(pb::WatchRequest { request_union: Some(request) });
            true
        }
    }
}

/// Writes a message into the history; false when the server ended the watch.
fn note(message: &pb::WatchResponse, watcher: &mut Watcher, place: &mut Place) -> bool {
    let revision = message.header.as_ref().map_or(0, |header| header.revision);
    if message.canceled {
        return false;
    }
    if message.created {
        place.next.get_or_insert(revision + 1);
        watcher.messages.push(Message::Created { revision });
        place.kept = watcher.messages.len();
        return true;
    }
    if message.events.is_empty() {
        place.next = place.next.max(Some(revision + 1));
        watcher.messages.push(Message::Progress { revision });
        place.kept = watcher.messages.len();
        return true;
    }
    let events: Vec<_> = message.events.iter().map(Event::from_proto).collect();
    let last = events.last().map(|event| event.revision);
    watcher.messages.push(Message::Events { events, fragment: message.fragment });
    if !message.fragment {
        place.next = place.next.max(last.map(|last| last + 1));
        place.kept = watcher.messages.len();
    }
    true
}

// ---- the truth ----

/// What each node says happened; they must agree.
async fn collect_truth(
    nodes: &Nodes,
    plan: &Plan,
    base: i64,
    last: i64,
    violations: &mut Vec<Violation>,
) -> Result<Truth, ServerError> {
    let mut truth = None;
    for (at, endpoint) in plan.endpoints.iter().enumerate() {
        let of_node = history_of(nodes, at, base, last, plan.settle)
            .await
            .map_err(|status| ServerError::Prepare { endpoint: endpoint.clone(), status })?;
        match &truth {
            None => truth = Some(of_node),
            Some(truth) if *truth == of_node => {}
            Some(truth) => {
                let differs =
                    truth.revisions.iter().find(|(at, events)| of_node.revisions.get(at) != Some(events));
                violations.push(Violation {
                    promise: Promise::Faithful,
                    watcher: endpoint.clone(),
                    text: format!("another history than {:?}, first at {differs:?}", plan.endpoints.first()),
                });
            }
        }
    }
    Ok(truth.unwrap_or_default())
}

async fn history_of(
    nodes: &Nodes,
    at: usize,
    base: i64,
    last: i64,
    patience: Duration,
) -> Result<Truth, Status> {
    let end = Instant::now() + patience;
    let keys = nodes.all();
    let request = pb::WatchCreateRequest {
        key: keys.key,
        range_end: keys.end,
        start_revision: base + 1,
        prev_kv: true,
        ..Default::default()
    };
    let mut stream = loop {
        // A node that was started only now may not answer yet.
        match timeout(patience, open(nodes.channel(at), request.clone(), false)).await {
            Ok(Ok(stream)) => break stream,
            Ok(Err(status)) if Instant::now() > end => return Err(status),
            Err(_) => return Err(Status::deadline_exceeded("the watch is not created")),
            Ok(Err(_)) => sleep(PAUSE).await,
        }
    };
    let mut events = Vec::new();
    while events.last().is_none_or(|event: &Event| event.revision < last) {
        let message = timeout_at(end, stream.told.message())
            .await
            .map_err(|_| Status::deadline_exceeded("the last revision is not told"))??
            .ok_or_else(|| Status::unknown("the watch ended"))?;
        if message.canceled {
            return Err(Status::aborted(message.cancel_reason));
        }
        events.extend(message.events.iter().map(Event::from_proto));
    }
    Ok(Truth::of(events))
}

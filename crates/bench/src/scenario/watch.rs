//! Watches: how fast a change reaches many, and what waiting costs.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed, Ordering::SeqCst};
use std::time::Duration;

use bytes::Bytes;
use kvorum_etcd_proto::etcdserverpb as pb;
use pb::watch_client::WatchClient;
use pb::watch_request::RequestUnion;
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::transport::Channel;

use super::{Figures, ScenarioError, Servers, at_least_one, connection_of};
use crate::grpc::Connection;
use crate::plan::seconds;
use crate::process::Watched;
use crate::run::share;

/// Streams that share a connection unless the options say otherwise.
const STREAMS_PER_CONNECTION: usize = 100;
/// The key that all watchers of a fan-out watch.
const KEY: &[u8] = b"watched";
/// How many of the idle watchers are tried at the end.
const TRIED: usize = 100;

/// Options of `watch-fanout`.
#[derive(Debug, Clone, clap::Args)]
pub struct Fanout {
    #[command(flatten)]
    pub(super) servers: Servers,
    /// Watchers of the key.
    #[arg(long, default_value_t = 10_000, value_name = "N")]
    watchers: usize,
    /// Streams that the watchers are spread over.
    #[arg(long, default_value_t = 1, value_name = "N")]
    streams: usize,
    /// Connections that the streams are spread over [default: one for 100 streams].
    #[arg(long, value_name = "N")]
    connections: Option<usize>,
    /// Puts, one after the other; each waits until every watcher has the one before.
    #[arg(long, default_value_t = 21, value_name = "N")]
    rounds: u64,
    /// Bytes per value, at least 8.
    #[arg(long, default_value_t = 256, value_name = "BYTES")]
    value_size: usize,
}

/// Options of `watch-idle`.
#[derive(Debug, Clone, clap::Args)]
pub struct Idle {
    #[command(flatten)]
    pub(super) servers: Servers,
    /// Watchers, each of a key of its own.
    #[arg(long, default_value_t = 100_000, value_name = "N")]
    watchers: usize,
    /// Streams that the watchers are spread over.
    #[arg(long, default_value_t = 100, value_name = "N")]
    streams: usize,
    /// Connections that the streams are spread over [default: one for 100 streams].
    #[arg(long, value_name = "N")]
    connections: Option<usize>,
    /// How long the servers are left alone before their memory is read.
    #[arg(long, default_value = "5", value_name = "SECONDS", value_parser = seconds)]
    settle: Duration,
}

/// A stream with its watchers, all of them created.
struct Watchers {
    answers: Streaming<pb::WatchResponse>,
    /// Keeps the stream open.
    _requests: mpsc::Sender<pb::WatchRequest>,
    count: usize,
}

impl Watchers {
    /// Opens a stream and creates a watcher for each key.
    async fn open(
        channel: Channel,
        keys: impl ExactSizeIterator<Item = Bytes> + Send + 'static,
        patience: Duration,
    ) -> Result<Self, ScenarioError> {
        let count = keys.len();
        let (requests, queue) = mpsc::channel(64);
        let mut client = WatchClient::new(channel);
        let asking = requests.clone();
        let asker = tokio::spawn(async move {
            for key in keys {
                let create = pb::WatchCreateRequest { key, ..Default::default() };
                let request = pb::WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) };
                // The stream's end shows in its answers.
                if asking.send(request).await.is_err() {
                    return;
                }
            }
        });
        let created = async {
            let mut answers = client.watch(ReceiverStream::new(queue)).await?.into_inner();
            let mut left = count;
            while left > 0 {
                let answer = answers.message().await?.ok_or_else(ended)?;
                if answer.canceled {
                    return Err(cancelled(&answer));
                }
                if answer.created {
                    left = left.saturating_sub(1);
                }
            }
            Ok(answers)
        };
        let answers = timeout(patience, created)
            .await
            .map_err(|_| ScenarioError::TooLate("until watchers were made"))??;
        asker.await.map_err(|_| ScenarioError::TaskLost)?;
        Ok(Self { answers, _requests: requests, count })
    }

    /// The next answer with events.
    async fn next(&mut self) -> Result<pb::WatchResponse, ScenarioError> {
        loop {
            let answer = self.answers.message().await?.ok_or_else(ended)?;
            if answer.canceled {
                return Err(cancelled(&answer));
            }
            if !answer.events.is_empty() {
                return Ok(answer);
            }
        }
    }
}

fn ended() -> ScenarioError {
    ScenarioError::Wrong("a stream of watches ended".to_owned())
}

fn cancelled(answer: &pb::WatchResponse) -> ScenarioError {
    ScenarioError::Wrong(format!("watcher {} was cancelled: {}", answer.watch_id, answer.cancel_reason))
}

/// How far the round is that all streams wait for.
#[derive(Debug)]
struct Round {
    began: Instant,
    watchers: usize,
    delivered: AtomicUsize,
    /// Nanoseconds from `began` to the first and the last delivery of the round.
    first: AtomicU64,
    last: AtomicU64,
    complete: Notify,
}

impl Round {
    fn start(&self) {
        self.delivered.store(0, SeqCst);
        self.first.store(u64::MAX, SeqCst);
        self.last.store(0, SeqCst);
    }

    fn deliver(&self) {
        let at = u64::try_from(self.began.elapsed().as_nanos()).unwrap_or(u64::MAX);
        self.first.fetch_min(at, Relaxed);
        self.last.fetch_max(at, Relaxed);
        if self.delivered.fetch_add(1, SeqCst).saturating_add(1) == self.watchers {
            self.complete.notify_one();
        }
    }

    /// From `sent` to the first and to the last delivery.
    fn times(&self, sent: Instant) -> (Duration, Duration) {
        let since = |at: &AtomicU64| {
            (self.began + Duration::from_nanos(at.load(SeqCst))).saturating_duration_since(sent)
        };
        (since(&self.first), since(&self.last))
    }
}

impl Fanout {
    pub(super) async fn carry_out(&self) -> Result<Figures, ScenarioError> {
        let streams = self.streams.min(self.watchers);
        at_least_one(&[("--watchers", self.watchers as u64), ("--streams", streams as u64)])?;
        at_least_one(&[("--rounds", self.rounds)])?;
        let connections = connections(self.connections, streams)?;
        let channels = self.servers.channels(connections).await?;
        let round = Arc::new(Round {
            began: Instant::now(),
            watchers: self.watchers,
            delivered: AtomicUsize::new(0),
            first: AtomicU64::new(u64::MAX),
            last: AtomicU64::new(0),
            complete: Notify::new(),
        });
        let mut putter = Connection::open(&self.servers.endpoint(0)?).await?;
        let mut processes = self.servers.processes()?;
        let mut readers: JoinSet<Result<(), ScenarioError>> = JoinSet::new();
        for number in 0..streams {
            let channel = channels.get(connection_of(number, connections)).ok_or(ScenarioError::TaskLost)?;
            let keys = std::iter::repeat_n(Bytes::from_static(KEY), share(self.watchers, streams, number));
            let watchers = Watchers::open(channel.clone(), keys, self.servers.patience).await?;
            readers.spawn(read_rounds(watchers, Arc::clone(&round)));
        }
        processes.iter_mut().for_each(Watched::rebase);

        let (mut first, mut last, mut acknowledged) = (Vec::new(), Vec::new(), Vec::new());
        for number in 1..=self.rounds {
            let mut value = vec![b'v'; self.value_size.max(8)];
            value.iter_mut().zip(number.to_be_bytes()).for_each(|(place, byte)| *place = byte);
            let request =
                pb::PutRequest { key: Bytes::from_static(KEY), value: value.into(), ..Default::default() };
            round.start();
            let sent = Instant::now();
            let put = async {
                putter.call(&request).await?;
                Ok::<_, ScenarioError>(sent.elapsed())
            };
            let waiting = async { tokio::join!(put, round.complete.notified()) };
            let all = tokio::select! {
                all = timeout(self.servers.patience, waiting) => all,
                Some(reader) = readers.join_next() => {
                    return Err(reader.map_err(|_| ScenarioError::TaskLost)?.err().unwrap_or_else(ended));
                }
            };
            let (put, ()) = all.map_err(|_| ScenarioError::TooLate("until every watcher had the change"))?;
            acknowledged.push(put?);
            let (first_at, last_at) = round.times(sent);
            first.push(first_at);
            last.push(last_at);
        }
        processes.iter_mut().for_each(Watched::sample);

        let mut figures = Figures::new("watch-fanout");
        figures.add("watchers", self.watchers);
        figures.add("streams", streams);
        figures.add("connections", connections);
        figures.add("rounds", self.rounds);
        figures.add_times("last_watcher", last);
        figures.add_times("first_watcher", first);
        figures.add_times("put_acknowledged", acknowledged);
        if !processes.is_empty() {
            let cpu: Duration = processes.iter().map(Watched::cpu).sum();
            figures.add("servers_cpu_ms_per_round", cpu.as_secs_f64() * 1e3 / self.rounds as f64);
        }
        Ok(figures)
    }
}

/// Reports each watcher's delivery of each round, and refuses any that is missing
/// before the next, doubled or out of turn.
async fn read_rounds(mut watchers: Watchers, round: Arc<Round>) -> Result<(), ScenarioError> {
    let mut seen = vec![0_u64; watchers.count];
    loop {
        let answer = watchers.next().await?;
        let id = answer.watch_id;
        for event in &answer.events {
            let value = event.kv.as_ref().map(|kv| &kv.value[..]).unwrap_or_default();
            let number = value.first_chunk().map(|bytes| u64::from_be_bytes(*bytes));
            let place = usize::try_from(id).ok().and_then(|at| seen.get_mut(at));
            match (place, number) {
                (Some(before), Some(number)) if number == before.saturating_add(1) => *before = number,
                _ => {
                    return Err(ScenarioError::Wrong(format!(
                        "watcher {id} was told {number:?} out of turn"
                    )));
                }
            }
            round.deliver();
        }
    }
}

impl Idle {
    pub(super) async fn carry_out(&self) -> Result<Figures, ScenarioError> {
        let streams = self.streams.min(self.watchers);
        at_least_one(&[("--watchers", self.watchers as u64), ("--streams", streams as u64)])?;
        let connections = connections(self.connections, streams)?;
        let channels = self.servers.channels(connections).await?;
        let mut putter = Connection::open(&self.servers.endpoint(0)?).await?;
        let mut processes = self.servers.processes()?;
        let began = Instant::now();
        let mut open = Vec::with_capacity(streams);
        for number in 0..streams {
            let channel = channels.get(connection_of(number, connections)).ok_or(ScenarioError::TaskLost)?;
            let keys = (0..share(self.watchers, streams, number)).map(move |at| idle_key(number, at));
            open.push(Watchers::open(channel.clone(), keys, self.servers.patience).await?);
        }
        let creating = began.elapsed();
        sleep(self.settle / 2).await;
        let before: Vec<_> = processes.iter().map(|process| process.before.resident_bytes).collect();
        processes.iter_mut().for_each(Watched::rebase);
        let left_alone = Instant::now();
        sleep(self.settle / 2).await;
        processes.iter_mut().for_each(Watched::sample);
        let left_alone = left_alone.elapsed();

        // They have to be what memory was paid for.
        let step = (streams / TRIED).max(1);
        for (number, watchers) in open.iter_mut().enumerate().step_by(step) {
            let key = idle_key(number, watchers.count.saturating_sub(1));
            putter.call(&pb::PutRequest { key: key.clone(), ..Default::default() }).await?;
            let told = timeout(self.servers.patience, watchers.next()).await;
            let told = told.map_err(|_| ScenarioError::TooLate("until a watcher had its change"))??;
            if told.events.iter().filter_map(|event| event.kv.as_ref()).any(|kv| kv.key != key) {
                return Err(ScenarioError::Wrong("a watcher was told of another's key".to_owned()));
            }
        }

        let mut figures = Figures::new("watch-idle");
        figures.add("watchers", self.watchers);
        figures.add("streams", streams);
        figures.add("connections", connections);
        figures.add("watchers_made_per_second", (self.watchers as f64 / creating.as_secs_f64()).round());
        let mut grown = 0_u64;
        for (process, before) in processes.iter().zip(before) {
            let pid = process.pid;
            figures.add(&format!("resident_bytes_before_{pid}"), before);
            figures.add(&format!("resident_bytes_after_{pid}"), process.last.resident_bytes);
            grown = grown.saturating_add(process.last.resident_bytes.saturating_sub(before));
        }
        if !processes.is_empty() {
            figures.add("resident_bytes_grown", grown);
            figures.add("resident_bytes_per_watcher", (grown as f64 / self.watchers as f64).round());
            figures.add_cores("servers_cpu_cores_idle", &processes, left_alone);
        }
        Ok(figures)
    }
}

fn idle_key(stream: usize, at: usize) -> Bytes {
    format!("idle/{stream:05}/{at:07}").into()
}

fn connections(asked: Option<usize>, streams: usize) -> Result<usize, ScenarioError> {
    let connections = asked.unwrap_or_else(|| streams.div_ceil(STREAMS_PER_CONNECTION));
    at_least_one(&[("--connections", connections as u64)])?;
    Ok(connections.min(streams))
}

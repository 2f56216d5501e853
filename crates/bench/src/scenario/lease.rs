//! Leases: what keeping many alive costs, and whether their end holds writes up.

use std::collections::VecDeque;
use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use hdrhistogram::Histogram;
use kvorum_etcd_proto::etcdserverpb as pb;
use pb::lease_client::LeaseClient;
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, sleep_until, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;

use super::spread::spread;
use super::{Figures, ScenarioError, Servers, at_least_one, connection_of, refused};
use crate::grpc::Connection;
use crate::plan::seconds;
use crate::process::Watched;
use crate::run::{Outcome, carry_out_until};
use crate::workload::{Operation, Workload};

/// Streams of keep-alives unless the options say otherwise, and their connections.
const STREAMS: usize = 48;
const CONNECTIONS: usize = 12;
/// How often a stream looks which keep-alives are due.
const TICK: Duration = Duration::from_millis(20);
/// How long before the event the writers begin, so that they have found their pace.
const LEAD: Duration = Duration::from_secs(2);
/// How many of the leases tell that all have expired.
const SAMPLES: u64 = 200;
/// How long past its time to live a lease may live on before that counts as wrong.
const LATEST: Duration = Duration::from_secs(600);

/// Options of `lease-keep-alive`.
#[derive(Debug, Clone, clap::Args)]
pub struct KeepAlive {
    #[command(flatten)]
    pub(super) servers: Servers,
    /// Leases.
    #[arg(long, default_value_t = 100_000, value_name = "N")]
    leases: u64,
    /// Time to live of each.
    #[arg(long, default_value_t = 60, value_name = "SECONDS")]
    ttl: u32,
    /// How often each is kept alive.
    #[arg(long, default_value = "10", value_name = "SECONDS", value_parser = seconds)]
    every: Duration,
    /// How long to measure.
    #[arg(long, default_value = "60", value_name = "SECONDS", value_parser = seconds)]
    duration: Duration,
    /// Streams of keep-alives.
    #[arg(long, default_value_t = STREAMS, value_name = "N")]
    streams: usize,
    /// Connections that the streams are spread over.
    #[arg(long, default_value_t = CONNECTIONS, value_name = "N")]
    connections: usize,
}

/// Options of `lease-expiry`.
#[derive(Debug, Clone, clap::Args)]
pub struct Expiry {
    #[command(flatten)]
    pub(super) servers: Servers,
    /// Leases.
    #[arg(long, default_value_t = 100_000, value_name = "N")]
    leases: u64,
    /// Keys that each takes with it.
    #[arg(long, default_value_t = 1, value_name = "N")]
    keys_per_lease: u64,
    /// Time to live of each; must be enough to grant them all.
    #[arg(long, default_value_t = 60, value_name = "SECONDS")]
    ttl: u32,
    #[command(flatten)]
    writers: Writers,
}

/// Options of `lease-revoke`.
#[derive(Debug, Clone, clap::Args)]
pub struct Revoke {
    #[command(flatten)]
    pub(super) servers: Servers,
    /// Keys of the lease.
    #[arg(long, default_value_t = 1_000_000, value_name = "N")]
    keys: u64,
    /// Bytes per value.
    #[arg(long, default_value_t = 256, value_name = "BYTES")]
    value_size: usize,
    #[command(flatten)]
    writers: Writers,
}

/// Writers that go on beside an event.
#[derive(Debug, Clone, clap::Args)]
struct Writers {
    /// Closed-loop clients that put meanwhile.
    #[arg(long, default_value_t = 16, value_name = "N")]
    clients: usize,
    /// How long they put alone before, for comparison.
    #[arg(long, default_value = "5", value_name = "SECONDS", value_parser = seconds)]
    alone: Duration,
}

/// Ids of a run's leases: one after the other from a random place.
#[derive(Debug, Clone, Copy)]
struct Ids(i64);

impl Ids {
    fn random() -> Self {
        let random = RandomState::new().build_hasher().finish();
        Self(i64::try_from(random >> 8).expect("56 bits are a positive number"))
    }

    fn id(self, number: u64) -> i64 {
        self.0.saturating_add_unsigned(number)
    }
}

async fn grant(servers: &Servers, ids: Ids, count: u64, ttl: u32) -> Result<Duration, ScenarioError> {
    let began = Instant::now();
    spread(servers, count, move |number| pb::LeaseGrantRequest { id: ids.id(number), ttl: i64::from(ttl) })
        .await?;
    Ok(began.elapsed())
}

/// A stream of keep-alives, and when those were sent that are not yet answered.
struct Beat {
    requests: mpsc::Sender<pb::LeaseKeepAliveRequest>,
    sent: Arc<Mutex<VecDeque<Instant>>>,
}

/// What the streams counted together.
#[derive(Debug)]
struct Beats {
    /// Nanoseconds from the request to its answer.
    latencies: Mutex<Histogram<u64>>,
    /// Answers that say that the lease is gone.
    gone: AtomicU64,
}

impl Beats {
    fn new() -> Self {
        let latencies = Histogram::new_with_bounds(1, 600_000_000_000, 3).expect("the bounds are valid");
        Self { latencies: Mutex::new(latencies), gone: 0.into() }
    }

    /// Forgets the latencies up to now.
    fn restart(&self) {
        self.latencies.lock().unwrap_or_else(PoisonError::into_inner).reset();
    }

    /// The answers since the last restart.
    fn count(&self) -> u64 {
        self.latencies.lock().unwrap_or_else(PoisonError::into_inner).len()
    }
}

impl Beat {
    /// Opens a stream whose answers go to `beats`; one that ends early ends the task.
    fn open(channel: Channel, beats: Arc<Beats>, readers: &mut JoinSet<ScenarioError>) -> Self {
        let (requests, queue) = mpsc::channel(256);
        let sent = Arc::new(Mutex::new(VecDeque::<Instant>::new()));
        let asked = Arc::clone(&sent);
        let mut client = LeaseClient::new(channel);
        // A server may wait for the first request before it answers at all.
        readers.spawn(async move {
            let mut answers = match client.lease_keep_alive(ReceiverStream::new(queue)).await {
                Ok(answers) => answers.into_inner(),
                Err(status) => return status.into(),
            };
            loop {
                match answers.message().await {
                    Ok(Some(answer)) => {
                        let since = asked.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
                        let Some(since) = since else {
                            return ScenarioError::Wrong("a keep-alive was answered twice".to_owned());
                        };
                        let nanos = u64::try_from(since.elapsed().as_nanos()).unwrap_or(u64::MAX);
                        let mut latencies = beats.latencies.lock().unwrap_or_else(PoisonError::into_inner);
                        latencies.saturating_record(nanos);
                        if answer.ttl <= 0 {
                            beats.gone.fetch_add(1, Relaxed);
                        }
                    }
                    Ok(None) => return ScenarioError::Wrong("a stream of keep-alives ended".to_owned()),
                    Err(status) => return status.into(),
                }
            }
        });
        Self { requests, sent }
    }

    /// Asks to keep the lease alive; waits when the server does not keep up.
    async fn send(&self, id: i64) -> Result<(), ScenarioError> {
        let lost = |_| ScenarioError::TaskLost;
        let place = self.requests.reserve().await.map_err(lost)?;
        self.sent.lock().unwrap_or_else(PoisonError::into_inner).push_back(Instant::now());
        place.send(pb::LeaseKeepAliveRequest { id });
        Ok(())
    }

    /// Sends each of the stream's keep-alives once per `every`, evenly, from `began` on.
    async fn keep(self, ids: Vec<i64>, began: Instant, every: Duration) -> ScenarioError {
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let rate = ids.len() as f64 / every.as_secs_f64();
        let mut done = 0_u64;
        let mut order = ids.iter().cycle();
        loop {
            ticks.tick().await;
            let due = (began.elapsed().as_secs_f64() * rate) as u64;
            while done < due {
                let Some(id) = order.next() else { return ScenarioError::TaskLost };
                if let Err(error) = self.send(*id).await {
                    return error;
                }
                done = done.saturating_add(1);
            }
        }
    }
}

impl KeepAlive {
    pub(super) async fn carry_out(&self) -> Result<Figures, ScenarioError> {
        let streams = self.streams.min(usize::try_from(self.leases).unwrap_or(usize::MAX));
        at_least_one(&[("--leases", self.leases), ("--streams", streams as u64)])?;
        at_least_one(&[("--connections", self.connections as u64), ("--ttl", u64::from(self.ttl))])?;
        if self.every.is_zero() || self.every >= Duration::from_secs(u64::from(self.ttl)) {
            return Err(refused("--every must be above 0 and below --ttl"));
        }
        let ids = Ids::random();
        let granting = grant(&self.servers, ids, self.leases, self.ttl).await?;
        if granting.saturating_add(self.every) >= Duration::from_secs(u64::from(self.ttl)) {
            return Err(refused("the first leases expire before the last are granted; use a longer --ttl"));
        }
        let channels = self.servers.channels(self.connections.min(streams)).await?;
        let beats = Arc::new(Beats::new());
        let mut tasks = JoinSet::new();
        let began = Instant::now();
        for number in 0..streams {
            let channel =
                channels.get(connection_of(number, channels.len())).ok_or(ScenarioError::TaskLost)?;
            let beat = Beat::open(channel.clone(), Arc::clone(&beats), &mut tasks);
            let own = (number as u64..self.leases).step_by(streams).map(|number| ids.id(number)).collect();
            tasks.spawn(beat.keep(own, began, self.every));
        }
        // One whole turn, so that no lease is still on the time of its grant.
        watched(&mut tasks, self.every).await?;
        let mut processes = self.servers.processes()?;
        beats.restart();
        let measuring = Instant::now();
        watched(&mut tasks, self.duration).await?;
        processes.iter_mut().for_each(Watched::sample);
        let (measured, answered) = (measuring.elapsed(), beats.count());

        let mut figures = Figures::new("lease-keep-alive");
        figures.add("leases", self.leases);
        figures.add("streams", streams);
        figures.add("granted_per_second", (self.leases as f64 / granting.as_secs_f64()).round());
        figures.add("keep_alives_per_second", (answered as f64 / measured.as_secs_f64()).round());
        figures.add("leases_lost", beats.gone.load(Relaxed));
        let latencies = beats.latencies.lock().unwrap_or_else(PoisonError::into_inner);
        let at = |quantile| Duration::from_nanos(latencies.value_at_quantile(quantile));
        figures.add_ms("keep_alive_ms_p50", at(0.5));
        figures.add_ms("keep_alive_ms_p99", at(0.99));
        figures.add_ms("keep_alive_ms_max", at(1.0));
        figures.add_cores("servers_cpu_cores", &processes, measured);
        for process in &processes {
            figures.add(&format!("resident_bytes_{}", process.pid), process.last.resident_bytes);
        }
        Ok(figures)
    }
}

/// Waits, unless one of the tasks ends before.
async fn watched(tasks: &mut JoinSet<ScenarioError>, time: Duration) -> Result<(), ScenarioError> {
    tokio::select! {
        () = sleep(time) => Ok(()),
        Some(ended) = tasks.join_next() => Err(ended.unwrap_or(ScenarioError::TaskLost)),
    }
}

impl Writers {
    /// Puts until `enough`.
    async fn put_until(
        &self,
        servers: &Servers,
        enough: impl Future<Output = ()>,
    ) -> Result<Outcome, ScenarioError> {
        let mut plan = servers.plan(Workload::Failover, self.clients, 100_000)?;
        plan.duration = Some(Duration::from_secs(24 * 3600));
        Ok(carry_out_until(plan, enough).await?)
    }

    /// Puts before, and while `event` goes on and a little after; gives both, and
    /// what the event gave.
    async fn beside<T>(
        &self,
        servers: &Servers,
        event: impl Future<Output = Result<T, ScenarioError>>,
    ) -> Result<(Outcome, Outcome, T), ScenarioError> {
        let alone = self.put_until(servers, sleep(self.alone)).await?;
        let over = Notify::new();
        let event = async {
            sleep(LEAD).await;
            let result = event.await;
            sleep(LEAD / 2).await;
            over.notify_one();
            result
        };
        let (beside, result) = tokio::join!(self.put_until(servers, over.notified()), event);
        Ok((alone, beside?, result?))
    }
}

/// Adds what the writers noticed.
fn add_writers(figures: &mut Figures, when: &str, outcome: &Outcome) {
    let puts = outcome.stats.operations();
    figures.add(&format!("puts_per_second_{when}"), (puts as f64 / outcome.elapsed.as_secs_f64()).round());
    figures.add_ms(&format!("longest_write_gap_ms_{when}"), outcome.stats.longest_gap.length);
    for (operation, latencies) in outcome.stats.latencies() {
        if operation == Operation::Put {
            let p99 = Duration::from_nanos(latencies.value_at_quantile(0.99));
            figures.add_ms(&format!("put_ms_p99_{when}"), p99);
        }
    }
    figures.add(&format!("errors_{when}"), outcome.stats.error_count());
}

impl Expiry {
    pub(super) async fn carry_out(&self) -> Result<Figures, ScenarioError> {
        at_least_one(&[("--leases", self.leases), ("--clients", self.writers.clients as u64)])?;
        let ttl = Duration::from_secs(u64::from(self.ttl));
        let ids = Ids::random();
        let began = Instant::now();
        grant(&self.servers, ids, self.leases, self.ttl).await?;
        let keys = self.keys_per_lease;
        spread(&self.servers, self.leases.saturating_mul(keys), move |number| {
            let lease = ids.id(number.checked_div(keys).unwrap_or_default());
            pb::PutRequest { key: leased_key(number), value: leased_key(number), lease, ..Default::default() }
        })
        .await?;
        if began.elapsed() >= ttl.saturating_sub(Duration::from_secs(1)) {
            return Err(refused("the first leases expire before the last is ready; use a longer --ttl"));
        }
        let refreshing = self.refresh(ids).await?;
        let due = Instant::now() + ttl.saturating_sub(refreshing);

        sleep_until(due - self.writers.alone.saturating_add(LEAD).min(ttl)).await;
        let (alone, beside, (first, gone)) = self.writers.beside(&self.servers, self.expire(ids)).await?;

        let mut figures = Figures::new("lease-expiry");
        figures.add("leases", self.leases);
        figures.add("keys", self.leases.saturating_mul(keys));
        figures.add("due_within_seconds", refreshing.as_secs_f64());
        figures.add(
            "seconds_from_first_due_to_first_seen_gone",
            first.saturating_duration_since(due).as_secs_f64(),
        );
        figures.add("seconds_from_first_due_to_all_gone", gone.saturating_duration_since(due).as_secs_f64());
        add_writers(&mut figures, "before", &alone);
        add_writers(&mut figures, "meanwhile", &beside);
        Ok(figures)
    }

    /// Keeps every lease alive once, as fast as it goes, so that all are due nearly
    /// at once. Gives how long that took.
    async fn refresh(&self, ids: Ids) -> Result<Duration, ScenarioError> {
        let streams = STREAMS.min(usize::try_from(self.leases).unwrap_or(usize::MAX));
        let channels = self.servers.channels(CONNECTIONS.min(streams)).await?;
        let beats = Arc::new(Beats::new());
        let mut readers = JoinSet::new();
        let mut senders = JoinSet::new();
        let began = Instant::now();
        for number in 0..streams {
            let channel =
                channels.get(connection_of(number, channels.len())).ok_or(ScenarioError::TaskLost)?;
            let beat = Beat::open(channel.clone(), Arc::clone(&beats), &mut readers);
            let own: Vec<_> = (number as u64..self.leases).step_by(streams).collect();
            senders.spawn(async move {
                for number in own {
                    beat.send(ids.id(number)).await?;
                }
                Ok::<_, ScenarioError>(beat)
            });
        }
        let all = async {
            while beats.count() < self.leases {
                watched(&mut readers, TICK).await?;
            }
            Ok(began.elapsed())
        };
        let refreshing = timeout(self.servers.patience, all).await;
        let refreshing = refreshing.map_err(|_| ScenarioError::TooLate("for keep-alives"))?;
        if beats.gone.load(Relaxed) > 0 {
            return Err(refused("leases expired before they were all due; use a longer --ttl"));
        }
        refreshing
    }

    /// Waits until the leases are gone: when the first was seen to be, and when all were.
    async fn expire(&self, ids: Ids) -> Result<(Instant, Instant), ScenarioError> {
        let mut connection = Connection::open(&self.servers.endpoint(0)?).await?;
        let deadline = Instant::now() + LATEST;
        let step = (self.leases / SAMPLES).max(1);
        let last = self.leases.saturating_sub(1);
        let mut first = None;
        for number in (0..self.leases).step_by(usize::try_from(step).unwrap_or(usize::MAX)).chain([last]) {
            let request = pb::LeaseTimeToLiveRequest { id: ids.id(number), keys: false };
            while connection.call(&request).await?.ttl >= 0 {
                if Instant::now() >= deadline {
                    return Err(ScenarioError::TooLate("until the leases expired"));
                }
                sleep(TICK).await;
            }
            first.get_or_insert_with(Instant::now);
        }
        // The samples are gone; now the rest, by a question that costs the servers more.
        let mine = ids.id(0)..ids.id(self.leases);
        loop {
            let all = connection.call(&pb::LeaseLeasesRequest {}).await?;
            let gone = Instant::now();
            if !all.leases.iter().any(|lease| mine.contains(&lease.id)) {
                return Ok((first.unwrap_or(gone), gone));
            }
            if gone >= deadline {
                return Err(ScenarioError::TooLate("until the leases expired"));
            }
            sleep(Duration::from_millis(200)).await;
        }
    }
}

fn leased_key(number: u64) -> Bytes {
    format!("l{number:015}").into()
}

impl Revoke {
    pub(super) async fn carry_out(&self) -> Result<Figures, ScenarioError> {
        at_least_one(&[("--keys", self.keys), ("--clients", self.writers.clients as u64)])?;
        let ids = Ids::random();
        grant(&self.servers, ids, 1, 24 * 3600).await?;
        let value = Bytes::from(vec![b'v'; self.value_size]);
        spread(&self.servers, self.keys, move |number| pb::PutRequest {
            key: leased_key(number),
            value: value.clone(),
            lease: ids.id(0),
            ..Default::default()
        })
        .await?;

        let mut processes = self.servers.processes()?;
        let (alone, beside, (answered, gone)) = self.writers.beside(&self.servers, self.revoke(ids)).await?;
        processes.iter_mut().for_each(Watched::sample);

        let mut figures = Figures::new("lease-revoke");
        figures.add("keys", self.keys);
        if let Some(answered) = answered {
            figures.add_ms("revoke_answered_ms", answered);
        }
        figures.add_ms("keys_gone_ms", gone);
        add_writers(&mut figures, "before", &alone);
        add_writers(&mut figures, "meanwhile", &beside);
        for process in &processes {
            figures.add(&format!("resident_bytes_before_{}", process.pid), process.before.resident_bytes);
            figures.add(&format!("resident_bytes_after_{}", process.pid), process.last.resident_bytes);
        }
        Ok(figures)
    }

    /// Revokes the lease: how long until that is answered, if it is, and until the keys are gone.
    async fn revoke(&self, ids: Ids) -> Result<(Option<Duration>, Duration), ScenarioError> {
        let mut connection = Connection::open(&self.servers.endpoint(0)?).await?;
        let began = Instant::now();
        // A server that gives up waiting goes on revoking; what counts are the keys.
        let answer = connection.call(&pb::LeaseRevokeRequest { id: ids.id(0) }).await;
        let answered = answer.is_ok().then(|| began.elapsed());
        let request = pb::RangeRequest {
            key: Bytes::from_static(b"l"),
            range_end: Bytes::from_static(b"m"),
            limit: 1,
            keys_only: true,
            ..Default::default()
        };
        while began.elapsed() < LATEST {
            // Refused while the servers are busy; asked again.
            match connection.call(&request).await {
                Ok(answer) if answer.kvs.is_empty() => return Ok((answered, began.elapsed())),
                Ok(_) | Err(_) => sleep(TICK).await,
            }
        }
        Err(ScenarioError::TooLate("until the keys were gone"))
    }
}

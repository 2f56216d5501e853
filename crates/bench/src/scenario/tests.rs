//! Scenarios and gRPC runs against a small etcd in this process, which keeps keys,
//! leases and watches in memory and breaks promises on demand.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use clap::Parser as _;
use kvorum_etcd_proto::{etcdserverpb as pb, mvccpb};
use pb::kv_server::{Kv, KvServer};
use pb::lease_server::{Lease, LeaseServer};
use pb::watch_request::RequestUnion;
use pb::watch_server::{Watch, WatchServer};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tokio_stream::{Stream, StreamExt as _};
use tonic::{Request, Response, Status, Streaming};

use super::{Scenario, ScenarioError};
use crate::plan::Plan;
use crate::plan::tests::args;
use crate::run::{Outcome, carry_out};

type Watchers = Vec<(i64, Bytes, mpsc::Sender<Result<pb::WatchResponse, Status>>)>;
type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// What the server does wrong.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Fault {
    #[default]
    None,
    RefuseEvery(u64),
    AnswerNothing,
    TellTwice,
}

#[derive(Default)]
struct Fake {
    keys: Mutex<BTreeMap<Bytes, (Bytes, i64)>>,
    leases: Mutex<HashMap<i64, (Instant, Duration)>>,
    watchers: Mutex<Watchers>,
    calls: AtomicU64,
    fault: Fault,
}

impl Fake {
    fn header(&self) -> pb::ResponseHeader {
        pb::ResponseHeader { revision: self.calls.load(SeqCst) as i64 + 1, ..Default::default() }
    }

    fn expire(&self) {
        let mut leases = self.leases.lock().unwrap();
        leases.retain(|_, (since, ttl)| since.elapsed() < *ttl);
        let mut keys = self.keys.lock().unwrap();
        keys.retain(|_, (_, lease)| *lease == 0 || leases.contains_key(lease));
    }
}

/// The server as its services share it.
#[derive(Clone)]
struct Server(Arc<Fake>);

#[tonic::async_trait]
impl Kv for Server {
    async fn put(&self, request: Request<pb::PutRequest>) -> Result<Response<pb::PutResponse>, Status> {
        let fake = &self.0;
        let number = fake.calls.fetch_add(1, SeqCst) + 1;
        match fake.fault {
            Fault::RefuseEvery(every) if number.is_multiple_of(every) => {
                return Err(Status::unavailable("no leader"));
            }
            Fault::AnswerNothing => return Ok(Response::new(pb::PutResponse::default())),
            Fault::None | Fault::RefuseEvery(_) | Fault::TellTwice => {}
        }
        let put = request.into_inner();
        fake.keys.lock().unwrap().insert(put.key.clone(), (put.value.clone(), put.lease));
        let told: Vec<_> = {
            let watchers = fake.watchers.lock().unwrap();
            watchers.iter().filter(|(_, key, _)| *key == put.key).cloned().collect()
        };
        let kv = mvccpb::KeyValue { key: put.key, value: put.value, ..Default::default() };
        for (watch_id, _, stream) in told {
            let event = mvccpb::Event { kv: Some(kv.clone()), ..Default::default() };
            let answer = pb::WatchResponse { watch_id, events: vec![event], ..Default::default() };
            for _ in 0..if fake.fault == Fault::TellTwice { 2 } else { 1 } {
                let _ = stream.send(Ok(answer.clone())).await;
            }
        }
        Ok(Response::new(pb::PutResponse { header: Some(fake.header()), prev_kv: None }))
    }

    async fn range(&self, request: Request<pb::RangeRequest>) -> Result<Response<pb::RangeResponse>, Status> {
        self.0.expire();
        let range = request.into_inner();
        let keys = self.0.keys.lock().unwrap();
        let found = |key: &Bytes| {
            if range.range_end.is_empty() {
                *key == range.key
            } else {
                range.key <= *key && *key < range.range_end
            }
        };
        let kvs = keys.iter().filter(|(key, _)| found(key)).map(|(key, (value, _))| mvccpb::KeyValue {
            key: key.clone(),
            value: value.clone(),
            ..Default::default()
        });
        let kvs: Vec<_> = kvs.collect();
        let count = kvs.len() as i64;
        Ok(Response::new(pb::RangeResponse { header: Some(self.0.header()), kvs, count, more: false }))
    }

    type RangeStreamStream = Answers<pb::RangeStreamResponse>;

    async fn range_stream(
        &self,
        request: Request<pb::RangeRequest>,
    ) -> Result<Response<Self::RangeStreamStream>, Status> {
        let all = self.range(request).await?.into_inner();
        let parts: Vec<_> = all
            .kvs
            .chunks(10)
            .map(|kvs| {
                let part = pb::RangeResponse { kvs: kvs.to_vec(), ..Default::default() };
                Ok(pb::RangeStreamResponse { range_response: Some(part) })
            })
            .collect();
        Ok(Response::new(Box::pin(tokio_stream::iter(parts))))
    }

    async fn delete_range(
        &self,
        _: Request<pb::DeleteRangeRequest>,
    ) -> Result<Response<pb::DeleteRangeResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn txn(&self, _: Request<pb::TxnRequest>) -> Result<Response<pb::TxnResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn compact(
        &self,
        _: Request<pb::CompactionRequest>,
    ) -> Result<Response<pb::CompactionResponse>, Status> {
        Err(Status::unimplemented(""))
    }
}

#[tonic::async_trait]
impl Watch for Server {
    type WatchStream = Answers<pb::WatchResponse>;

    async fn watch(
        &self,
        request: Request<Streaming<pb::WatchRequest>>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let (answers, queue) = mpsc::channel(1024);
        let (fake, mut requests) = (Arc::clone(&self.0), request.into_inner());
        tokio::spawn(async move {
            let mut watch_id = 0;
            while let Ok(Some(request)) = requests.message().await {
                let Some(RequestUnion::CreateRequest(create)) = request.request_union else { continue };
                fake.watchers.lock().unwrap().push((watch_id, create.key, answers.clone()));
                let created = pb::WatchResponse { watch_id, created: true, ..Default::default() };
                let _ = answers.send(Ok(created)).await;
                watch_id += 1;
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(queue))))
    }
}

#[tonic::async_trait]
impl Lease for Server {
    async fn lease_grant(
        &self,
        request: Request<pb::LeaseGrantRequest>,
    ) -> Result<Response<pb::LeaseGrantResponse>, Status> {
        let pb::LeaseGrantRequest { id, ttl } = request.into_inner();
        let lives = (Instant::now(), Duration::from_secs(ttl.unsigned_abs()));
        self.0.leases.lock().unwrap().insert(id, lives);
        Ok(Response::new(pb::LeaseGrantResponse {
            header: Some(self.0.header()),
            id,
            ttl,
            ..Default::default()
        }))
    }

    async fn lease_revoke(
        &self,
        request: Request<pb::LeaseRevokeRequest>,
    ) -> Result<Response<pb::LeaseRevokeResponse>, Status> {
        self.0.leases.lock().unwrap().remove(&request.into_inner().id);
        Ok(Response::new(pb::LeaseRevokeResponse { header: Some(self.0.header()) }))
    }

    type LeaseKeepAliveStream = Answers<pb::LeaseKeepAliveResponse>;

    async fn lease_keep_alive(
        &self,
        request: Request<Streaming<pb::LeaseKeepAliveRequest>>,
    ) -> Result<Response<Self::LeaseKeepAliveStream>, Status> {
        let fake = Arc::clone(&self.0);
        let answers = request.into_inner().map(move |request| {
            let id = request?.id;
            let mut leases = fake.leases.lock().unwrap();
            let ttl = leases.get_mut(&id).map(|(since, ttl)| {
                *since = Instant::now();
                ttl.as_secs() as i64
            });
            Ok(pb::LeaseKeepAliveResponse { header: None, id, ttl: ttl.unwrap_or(0) })
        });
        Ok(Response::new(Box::pin(answers)))
    }

    async fn lease_time_to_live(
        &self,
        request: Request<pb::LeaseTimeToLiveRequest>,
    ) -> Result<Response<pb::LeaseTimeToLiveResponse>, Status> {
        self.0.expire();
        let id = request.into_inner().id;
        let ttl = if self.0.leases.lock().unwrap().contains_key(&id) { 1 } else { -1 };
        Ok(Response::new(pb::LeaseTimeToLiveResponse { id, ttl, ..Default::default() }))
    }

    async fn lease_leases(
        &self,
        _: Request<pb::LeaseLeasesRequest>,
    ) -> Result<Response<pb::LeaseLeasesResponse>, Status> {
        self.0.expire();
        let leases = self.0.leases.lock().unwrap();
        let leases = leases.keys().map(|&id| pb::LeaseStatus { id }).collect();
        Ok(Response::new(pb::LeaseLeasesResponse { header: None, leases }))
    }
}

/// Serves at a free port until the test's runtime ends.
async fn serve(fault: Fault) -> (Arc<Fake>, SocketAddr) {
    let fake = Arc::new(Fake { fault, ..Fake::default() });
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let server = Server(Arc::clone(&fake));
    let services = tonic::transport::Server::builder()
        .add_service(KvServer::new(server.clone()))
        .add_service(WatchServer::new(server.clone()))
        .add_service(LeaseServer::new(server));
    tokio::spawn(services.serve_with_incoming(TcpListenerStream::new(listener)));
    (fake, addr)
}

async fn bench(addrs: &[SocketAddr], words: &[&str]) -> Outcome {
    let endpoints: Vec<String> = addrs.iter().map(ToString::to_string).collect();
    let endpoints = endpoints.join(",");
    let words =
        [&["--api", "grpc", "--endpoints", &endpoints, "--interval", "0", "--keys", "100"], words].concat();
    carry_out(Plan::new(args(&words)).unwrap()).await.unwrap()
}

#[derive(clap::Parser)]
struct Cli {
    #[command(subcommand)]
    scenario: Scenario,
}

async fn scenario(addr: SocketAddr, words: &[&str]) -> Result<serde_json::Value, ScenarioError> {
    let pid = std::process::id().to_string();
    let endpoint = addr.to_string();
    let common = ["--endpoints", &endpoint, "--pids", &pid, "--patience", "20"];
    let cli = Cli::try_parse_from([&["bench"], words, &common].concat()).unwrap();
    cli.scenario.carry_out().await.map(|figures| figures.json())
}

#[tokio::test]
async fn load_writes_every_key_and_reads_find_them() {
    let (fake, addr) = serve(Fault::None).await;
    let loaded = bench(&[addr], &["--workload", "load", "--clients", "7", "--connections", "2"]).await;
    assert_eq!((loaded.stats.operations(), loaded.stats.error_count()), (100, 0));
    assert_eq!(fake.keys.lock().unwrap().len(), 100);
    assert!(fake.keys.lock().unwrap().values().all(|(value, _)| value.len() == 256));
    for workload in ["get", "get-local", "mixed"] {
        let read = bench(&[addr], &["--workload", workload, "--ops", "300", "--clients", "5"]).await;
        assert_eq!((read.stats.operations(), read.stats.error_count(), read.stats.absent), (300, 0, 0));
    }
    let words = ["--workload", "get", "--ops", "10", "--clients", "5", "--value-size", "9"];
    let wrong = bench(&[addr], &words).await;
    assert_eq!(wrong.stats.wrong, 10, "values of another size are wrong");
}

#[tokio::test]
async fn refused_puts_are_counted_and_tried_again() {
    let (fake, addr) = serve(Fault::RefuseEvery(10)).await;
    let run = bench(&[addr], &["--workload", "load", "--clients", "3", "--connections", "1"]).await;
    assert_eq!(run.stats.operations(), 100);
    assert_eq!(run.stats.errors.get("gRPC Unavailable"), Some(&11), "{:?}", run.stats.errors);
    assert!(run.stats.samples[0].contains("no leader"));
    assert_eq!(fake.keys.lock().unwrap().len(), 100);
}

#[tokio::test]
async fn an_answer_without_a_revision_is_wrong() {
    let (_, addr) = serve(Fault::AnswerNothing).await;
    let run = bench(&[addr], &["--ops", "10", "--clients", "2"]).await;
    assert_eq!((run.stats.operations(), run.stats.wrong), (0, 10));
}

#[tokio::test]
async fn clients_of_a_broken_connection_go_on_together_at_the_next_server() {
    let dead = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let dead_addr = dead.local_addr().unwrap();
    drop(dead);
    let (fake, addr) = serve(Fault::None).await;
    let words = ["--workload", "load", "--clients", "6", "--connections", "1"];
    let run = bench(&[dead_addr, addr], &words).await;
    assert_eq!((run.stats.operations(), fake.keys.lock().unwrap().len()), (100, 100));
    let broke = run.stats.errors.get("connect: connection refused").copied().unwrap_or_default();
    assert!((1..=6).contains(&broke), "{:?}", run.stats.errors);
}

#[tokio::test]
async fn a_fan_out_ends_when_every_watcher_was_told_each_change_once() {
    let (_, addr) = serve(Fault::None).await;
    let words = ["watch-fanout", "--watchers", "50", "--streams", "7", "--connections", "2", "--rounds", "3"];
    let figures = scenario(addr, &words).await.unwrap();
    for name in ["last_watcher_ms_median", "first_watcher_ms_min", "put_acknowledged_ms_max"] {
        assert!(figures[name].as_f64().is_some_and(|ms| ms > 0.0), "{name} in {figures}");
    }
    assert!(figures["last_watcher_ms_min"].as_f64() >= figures["first_watcher_ms_min"].as_f64());

    let (_, addr) = serve(Fault::TellTwice).await;
    let doubled = scenario(addr, &["watch-fanout", "--watchers", "5", "--rounds", "3"]).await;
    assert!(matches!(doubled, Err(ScenarioError::Wrong(_))), "{doubled:?}");
}

#[tokio::test]
async fn idle_watchers_are_there_and_their_memory_is_told() {
    let (fake, addr) = serve(Fault::None).await;
    let words = ["watch-idle", "--watchers", "100", "--streams", "4", "--settle", "0.1"];
    let figures = scenario(addr, &words).await.unwrap();
    assert_eq!(fake.watchers.lock().unwrap().len(), 100);
    assert!(figures["resident_bytes_grown"].is_u64(), "{figures}");
}

#[tokio::test]
async fn a_range_brings_every_key_in_pieces_or_at_once() {
    let (fake, addr) = serve(Fault::None).await;
    let words = ["range-stream", "--keys", "95", "--rounds", "2", "--settle", "0"];
    let pieces = scenario(addr, &words).await.unwrap();
    assert_eq!((&pieces["keys"], &pieces["messages"]), (&95.into(), &10.into()));
    assert!(pieces["resident_bytes_peak"].as_u64().is_some_and(|bytes| bytes > 0));
    let whole = scenario(addr, &[&words[..], &["--unary", "--no-fill"]].concat()).await.unwrap();
    assert_eq!((&whole["keys"], &whole["messages"]), (&95.into(), &1.into()));
    fake.keys.lock().unwrap().pop_first();
    let short = scenario(addr, &[&words[..], &["--no-fill"]].concat()).await;
    assert!(matches!(short, Err(ScenarioError::Wrong(_))), "{short:?}");
}

#[tokio::test]
async fn leases_are_kept_alive_at_the_pace_asked_for() {
    let (fake, addr) = serve(Fault::None).await;
    let words =
        ["lease-keep-alive", "--leases", "100", "--every", "0.5", "--duration", "1", "--streams", "3"];
    let figures = scenario(addr, &words).await.unwrap();
    assert_eq!(fake.leases.lock().unwrap().len(), 100);
    let pace = figures["keep_alives_per_second"].as_f64().unwrap();
    assert!((100.0..=300.0).contains(&pace), "{figures}");
    assert_eq!(figures["leases_lost"], 0);
    let often = scenario(addr, &["lease-keep-alive", "--every", "60"]).await;
    assert!(matches!(often, Err(ScenarioError::Invalid(_))));
}

/// Writers noticed something before the event and meanwhile.
fn assert_writers(figures: &serde_json::Value) {
    for name in ["longest_write_gap_ms_before", "longest_write_gap_ms_meanwhile", "put_ms_p99_meanwhile"] {
        assert!(figures[name].as_f64().is_some_and(|ms| ms > 0.0), "{name} in {figures}");
    }
}

#[tokio::test]
async fn leases_that_expire_take_their_keys_while_writers_go_on() {
    let (fake, addr) = serve(Fault::None).await;
    let words = [
        "lease-expiry",
        "--leases",
        "50",
        "--ttl",
        "4",
        "--keys-per-lease",
        "2",
        "--clients",
        "2",
        "--alone",
        "0.3",
    ];
    let expired = scenario(addr, &words).await.unwrap();
    assert!(fake.leases.lock().unwrap().is_empty());
    assert!(!fake.keys.lock().unwrap().keys().any(|key| key.starts_with(b"l")));
    assert_writers(&expired);
}

#[tokio::test]
async fn a_revoked_lease_takes_its_keys_while_writers_go_on() {
    let (fake, addr) = serve(Fault::None).await;
    let revoked =
        scenario(addr, &["lease-revoke", "--keys", "50", "--clients", "2", "--alone", "0.3"]).await.unwrap();
    assert!(!fake.keys.lock().unwrap().keys().any(|key| key.starts_with(b"l")));
    let ms = |name: &str| revoked[name].as_f64().unwrap();
    assert!(ms("revoke_answered_ms") <= ms("keys_gone_ms"), "{revoked}");
    assert_writers(&revoked);
}

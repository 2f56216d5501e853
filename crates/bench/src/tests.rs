//! Whole runs against small servers in this process that keep what they are
//! sent, count what they are asked, and fail on demand.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;

use crate::plan::Plan;
use crate::plan::tests::args;
use crate::report::Report;
use crate::run::{Outcome, RunError, carry_out};
use crate::{DONE, FAILED, UNAVAILABLE, exit_code};

/// What a server does to every n-th operation.
#[derive(Debug, Clone, Copy)]
enum Fault {
    Refuse { retry_after: &'static str },
    BreakOff,
    AnswerNonsense,
    Hang,
}

#[derive(Debug, Default)]
struct Fake {
    keys: Mutex<HashMap<String, Bytes>>,
    operations: AtomicU64,
    faults: Option<(u64, Fault)>,
    role: &'static str,
}

impl Fake {
    fn new(role: &'static str) -> Self {
        Self { role, ..Self::default() }
    }

    fn failing(every: u64, fault: Fault) -> Self {
        Self { role: "leader", faults: Some((every, fault)), ..Self::default() }
    }

    async fn answer(&self, request: Request<Incoming>) -> io::Result<Response<Full<Bytes>>> {
        let (head, body) = request.into_parts();
        let body = body.collect().await.map_err(io::Error::other)?.to_bytes();
        let path = head.uri.path();
        if path == "/v1/status" {
            return Ok(response(200, format!(r#"{{"role":"{}","term":7}}"#, self.role)));
        }
        let number = self.operations.fetch_add(1, SeqCst) + 1;
        match self.faults {
            Some((every, fault)) if number.is_multiple_of(every) => match fault {
                Fault::Refuse { retry_after } => {
                    let mut refused =
                        response(503, r#"{"error":{"code":"unavailable","message":"m","details":{}}}"#);
                    refused
                        .headers_mut()
                        .insert("retry-after", retry_after.parse().map_err(io::Error::other)?);
                    return Ok(refused);
                }
                Fault::BreakOff => return Err(io::ErrorKind::ConnectionAborted.into()),
                Fault::AnswerNonsense => return Ok(response(200, "nonsense")),
                Fault::Hang => std::future::pending().await,
            },
            _ => {}
        }
        let mut keys = self.keys.lock().unwrap();
        let text = std::str::from_utf8(&body).map_err(io::Error::other)?;
        Ok(match (&head.method, path, path.strip_prefix("/v1/kv/")) {
            (&Method::PUT, _, Some(key)) => {
                let created = keys.insert(key.to_owned(), body).is_none();
                let status = if created { 201 } else { 200 };
                response(status, format!(r#"{{"revision":{number},"created":{created},"version":1}}"#))
            }
            (&Method::GET, _, Some(key)) => match keys.get(key) {
                Some(value) => response(200, value.clone()),
                None => response(404, r#"{"error":{"code":"not_found","message":"m","details":{}}}"#),
            },
            (&Method::POST, "/write", _) => {
                let write: serde_json::Value = serde_json::from_str(text)?;
                let field = |name: &str| write["Put"][name].as_str().map(str::to_owned);
                keys.insert(field("key").expect("a key"), field("value").expect("a value").into());
                response(200, "\"Ok\"")
            }
            (&Method::POST, "/read", _) => {
                let key: String = serde_json::from_str(text)?;
                let value = keys.get(&key).cloned().unwrap_or_default();
                response(200, serde_json::to_string(&String::from_utf8_lossy(&value))?)
            }
            _ => response(404, "no such call"),
        })
    }

    fn operations(&self) -> u64 {
        self.operations.load(SeqCst)
    }
}

fn response(status: u16, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status.try_into().expect("a valid status");
    response
}

/// Serves at a free port until the test's runtime ends.
async fn serve(fake: Fake) -> (Arc<Fake>, SocketAddr) {
    let fake = Arc::new(fake);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let served = Arc::clone(&fake);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let fake = Arc::clone(&served);
            tokio::spawn(async move {
                let service = service_fn(|request| fake.answer(request));
                let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
            });
        }
    });
    (fake, addr)
}

async fn bench(addrs: &[SocketAddr], words: &[&str]) -> Result<Outcome, RunError> {
    let endpoints: Vec<String> = addrs.iter().map(ToString::to_string).collect();
    let endpoints = endpoints.join(",");
    let words = [&["--endpoints", &endpoints, "--interval", "0", "--keys", "100"], words].concat();
    carry_out(Plan::new(args(&words)).unwrap()).await
}

#[tokio::test]
async fn load_writes_every_key_once_and_reads_find_them_all() {
    let (fake, addr) = serve(Fake::new("leader")).await;
    let loaded = bench(&[addr], &["--workload", "load", "--clients", "7"]).await.unwrap();
    assert_eq!((loaded.stats.operations(), loaded.stats.error_count()), (100, 0));
    assert_eq!(fake.operations(), 100);
    assert_eq!(fake.keys.lock().unwrap().len(), 100);
    assert!(fake.keys.lock().unwrap().values().all(|value| value.len() == 256));
    for workload in ["get", "get-local", "seed-read"] {
        let words = ["--workload", workload, "--ops", "300", "--clients", "5"];
        let read = bench(&[addr], &words).await.unwrap();
        assert_eq!((read.stats.operations(), read.stats.error_count(), read.stats.absent), (300, 0, 0));
        assert_eq!(exit_code(&read), DONE);
    }
    assert_eq!(fake.operations(), 100 + 3 * 300);
}

#[tokio::test]
async fn both_ways_to_write_store_the_same_keys() {
    let (fake, addr) = serve(Fake::new("leader")).await;
    let words = ["--ops", "100", "--sequential", "--clients", "2", "--workload"];
    for (workload, value_size) in [("put", "10"), ("seed-put", "20")] {
        let words = [&words[..], &[workload, "--value-size", value_size]].concat();
        let run = bench(&[addr], &words).await.unwrap();
        assert_eq!((run.stats.operations(), run.stats.error_count()), (100, 0));
    }
    let keys = fake.keys.lock().unwrap();
    assert_eq!(keys.len(), 100);
    assert!(keys.values().all(|value| value.len() == 20), "the second run overwrote the first one's keys");
}

#[tokio::test]
async fn operations_are_counted_alike_on_both_sides_and_spread_over_servers_and_threads() {
    let (one, first) = serve(Fake::new("leader")).await;
    let (two, second) = serve(Fake::new("follower")).await;
    // Three threads, so that each has connections to both servers: the system may let one
    // thread do nearly all of the work before another one begins.
    let words =
        ["--workload", "mixed", "--clients", "9", "--connections", "6", "--threads", "3", "--ops", "1000"];
    let run = bench(&[first, second], &words).await.unwrap();
    assert_eq!(run.stats.operations(), 1_000);
    assert_eq!(one.operations() + two.operations(), 1_000);
    assert!(one.operations() > 100 && two.operations() > 100);
    assert_eq!(run.stats.latencies().count(), 2, "puts and gets are told apart");
    assert_eq!(run.stats.slots.iter().map(|slot| slot.operations).sum::<u64>(), 1_000);
}

#[tokio::test]
async fn a_timed_run_measures_after_its_warm_up_and_ends_in_time() {
    let (fake, addr) = serve(Fake::new("leader")).await;
    let run = bench(&[addr], &["--clients", "3", "--warmup", "0.2", "--duration", "0.4"]).await.unwrap();
    assert!(run.elapsed >= Duration::from_millis(400) && run.elapsed < Duration::from_secs(4), "{run:?}");
    assert!(run.stats.operations() > 0);
    assert!(run.stats.operations() < fake.operations(), "the warm-up is not counted");
}

#[tokio::test]
async fn refused_and_broken_writes_are_counted_and_tried_again() {
    for (fault, kind) in [
        (Fault::Refuse { retry_after: "0" }, "status 503 unavailable"),
        (Fault::BreakOff, "transport: unexpected end of file"),
    ] {
        let (fake, addr) = serve(Fake::failing(10, fault)).await;
        let run = bench(&[addr], &["--workload", "load", "--clients", "3"]).await.unwrap();
        assert_eq!(fake.keys.lock().unwrap().len(), 100, "every key is written in the end");
        assert_eq!(run.stats.operations(), 100);
        assert_eq!(run.stats.errors.get(kind), Some(&11), "{:?}", run.stats.errors);
        assert_eq!(run.stats.operations() + run.stats.error_count(), fake.operations());
        assert_eq!(exit_code(&run), DONE);
    }
}

#[tokio::test]
async fn retry_after_is_waited_for_unless_told_otherwise() {
    let words = ["--clients", "1", "--ops", "4"];
    let (_, addr) = serve(Fake::failing(3, Fault::Refuse { retry_after: "1" })).await;
    let patient = bench(&[addr], &words).await.unwrap();
    assert!(patient.elapsed >= Duration::from_secs(1));
    assert!(
        patient.stats.longest_gap.length >= Duration::from_secs(1),
        "no write was acknowledged meanwhile"
    );
    let (_, addr) = serve(Fake::failing(3, Fault::Refuse { retry_after: "1000" })).await;
    let words = [&words[..], &["--ignore-retry-after"]].concat();
    assert!(bench(&[addr], &words).await.unwrap().elapsed < Duration::from_secs(100));
}

#[tokio::test]
async fn a_server_that_hangs_costs_a_timeout() {
    let (_, addr) = serve(Fake::failing(3, Fault::Hang)).await;
    let run = bench(&[addr], &["--clients", "1", "--ops", "4", "--timeout", "0.1"]).await.unwrap();
    assert_eq!((run.stats.operations(), run.stats.errors.get("timeout")), (3, Some(&1)));
}

#[tokio::test]
async fn nonsense_answers_fail_the_run() {
    let (_, addr) = serve(Fake::failing(5, Fault::AnswerNonsense)).await;
    let run = bench(&[addr], &["--clients", "2", "--ops", "10"]).await.unwrap();
    assert_eq!((run.stats.operations(), run.stats.errors.get("wrong answer")), (8, Some(&2)));
    assert!(run.stats.samples[0].contains("nonsense"));
    assert_eq!(exit_code(&run), FAILED);
}

#[tokio::test]
async fn the_leader_alone_is_asked_when_so_told() {
    let (follower, first) = serve(Fake::new("follower")).await;
    let (leader, second) = serve(Fake::new("leader")).await;
    let run = bench(&[first, second], &["--leader-only", "--clients", "4", "--ops", "50"]).await.unwrap();
    assert_eq!((run.stats.operations(), leader.operations(), follower.operations()), (50, 50, 0));
    let without = bench(&[first], &["--leader-only", "--ops", "50"]).await;
    assert!(matches!(without, Err(RunError::NoLeader(_))));
}

#[tokio::test]
async fn a_dead_server_s_clients_go_on_at_the_next_one() {
    let dead = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let dead_addr = dead.local_addr().unwrap();
    drop(dead);
    let (fake, addr) = serve(Fake::new("leader")).await;
    let words = ["--workload", "load", "--clients", "2"];
    let run = bench(&[dead_addr, addr], &words).await.unwrap();
    assert_eq!((run.stats.operations(), fake.operations()), (100, 100));
    assert_eq!(run.stats.errors.get("connect: connection refused"), Some(&1), "{:?}", run.stats.errors);

    let alone =
        bench(&[dead_addr], &["--workload", "failover", "--clients", "2", "--give-up", "0.3"]).await.unwrap();
    assert!(alone.gave_up && alone.stats.operations() == 0);
    assert_eq!(exit_code(&alone), UNAVAILABLE);
    assert!(alone.stats.longest_gap.length >= Duration::from_millis(100), "a gap without end is a gap");
}

#[tokio::test]
async fn the_report_names_what_scripts_read() {
    let (_, addr) = serve(Fake::new("leader")).await;
    let pid = std::process::id().to_string();
    let run = bench(&[addr], &["--clients", "2", "--ops", "100", "--pids", &pid]).await.unwrap();
    let report = Report::new(&run);
    let json = serde_json::to_value(&report).unwrap();
    for field in [
        "/workload",
        "/seconds",
        "/operations_per_second",
        "/kinds/0/latency_us/p50",
        "/kinds/0/latency_us/p99_9",
        "/errors/total",
        "/writes/longest_gap_ms",
        "/client/cpu_us_per_operation",
        "/servers/0/resident_bytes_max",
        "/servers_cpu_us_per_operation",
    ] {
        assert!(json.pointer(field).is_some_and(|value| !value.is_null()), "{field} in {json}");
    }
    assert_eq!(json.pointer("/operations"), Some(&100.into()));
    let text = report.text().unwrap();
    assert!(
        text.contains("put") && text.contains("errors: 0") && text.contains("without an acknowledged write")
    );
    assert!(matches!(bench(&[addr], &["--pids", "4294967295"]).await, Err(RunError::NoProcess(u32::MAX))));
}

#[test]
fn the_timeline_has_a_line_per_slot() {
    let path = std::env::temp_dir().join(format!("kvorum-bench-timeline-{}.csv", std::process::id()));
    let slot = crate::stats::Slot { operations: 3, errors: 1, max_latency: Duration::from_micros(1_500) };
    crate::report::write_timeline(&path, &[slot, slot]).unwrap();
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    assert_eq!(text, "seconds,operations,max_latency_ms,errors\n0.0,3,1.500,1\n0.1,3,1.500,1\n");
}

//! Start, overload and stop.

use std::io::Read as _;
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

use actix_web::{HttpResponse, web};

use super::memory::Memory;
use super::wire::{Client, request};
use super::{Fixture, options};
use crate::inflight::InflightBytes;
use crate::network::server::start_with;
use crate::network::{HttpOptions, bind, start, start_peer};

/// Waits until `condition` holds.
#[track_caller]
pub(super) fn eventually(condition: impl Fn() -> bool) {
    let begin = Instant::now();
    while !condition() {
        assert!(begin.elapsed() < Duration::from_secs(30), "it never came true");
        std::thread::yield_now();
    }
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

#[test]
fn requests_beyond_the_bound_are_refused_at_once_and_status_calls_are_not() {
    let options = HttpOptions { max_inflight_requests: 2, ..options() };
    let t = Fixture::with(&options, Memory::gated());
    let mut waiting = [t.client(), t.client()];
    for client in &waiting {
        client.send(&request("PUT", "/v1/kv/k", &[], b"v"));
    }
    eventually(|| t.memory.count("write") == 2);
    for (method, path, body) in [
        ("PUT", "/v1/kv/k", "v"),
        ("GET", "/v1/kv/k", ""),
        ("DELETE", "/v1/kv/k", ""),
        ("GET", "/v1/kv", ""),
        ("GET", "/v1/watch", ""),
        ("POST", "/v1/txn", "{}"),
        ("POST", "/v1/batch", r#"{"operations":[]}"#),
        ("POST", "/v1/leases", r#"{"ttl":30}"#),
        ("GET", "/v1/leases", ""),
        ("GET", "/v1/leases/1", ""),
        ("DELETE", "/v1/leases/1", ""),
        ("POST", "/v1/leases/1/keep-alive", ""),
        ("POST", "/v1/compact", r#"{"revision":1}"#),
        ("POST", "/write", r#"{"Del":{"key":"k"}}"#),
        ("POST", "/read", "\"k\""),
        ("GET", "/read-all", ""),
        ("POST", "/init", "[]"),
        ("GET", "/v1/members", ""),
    ] {
        let answer = t.call(method, path, body);
        answer.error(429, "overloaded");
        assert_eq!(answer.header("retry-after"), Some("1"), "{path}");
    }
    for path in ["/health", "/ready", "/version", "/metrics", "/v1/status"] {
        assert_eq!(t.call("GET", path, "").status, 200, "{path}");
    }
    t.memory.let_through(3);
    for client in &mut waiting {
        assert!(client.answer(false).unwrap().status < 300);
    }
    assert_eq!(t.call("PUT", "/v1/kv/k", "v").status, 200);
}

#[test]
fn bodies_beyond_the_bound_are_refused_before_they_are_read() {
    let options = HttpOptions { inflight_bytes: InflightBytes::new(1000), ..options() };
    let t = Fixture::with(&options, Memory::default());
    let mut announced = t.client();
    announced.send(b"PUT /v1/kv/k HTTP/1.1\r\nHost: x\r\nContent-Length: 1001\r\n\r\n");
    announced.answer(false).unwrap().error(429, "overloaded");
    let mut chunked = t.client();
    chunked.send(b"PUT /v1/kv/k HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3e9\r\n");
    chunked.send(&[b'v'; 1001]);
    chunked.answer(false).unwrap().error(429, "overloaded");
    assert_eq!(t.memory.count("write"), 0);
    assert_eq!(t.call("PUT", "/v1/kv/k", &"v".repeat(1000)).status, 201, "nothing stayed counted");
}

#[test]
fn a_client_that_hangs_up_gives_its_place_back() {
    let options = HttpOptions { max_inflight_requests: 1, ..options() };
    let t = Fixture::with(&options, Memory::default());
    let client = t.client();
    client.send(b"PUT /v1/kv/k HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nfive5");
    eventually(|| t.call("GET", "/v1/kv/k", "").status == 429);
    drop(client);
    eventually(|| t.call("GET", "/v1/kv/k", "").status == 404);
    assert_eq!(t.memory.count("write"), 0, "half a value is none");
}

#[test]
fn a_stalled_body_is_answered_and_given_up() {
    let options = HttpOptions { request_timeout: Duration::from_millis(100), ..options() };
    let t = Fixture::with(&options, Memory::default());
    let mut client = t.client();
    client.send(b"PUT /v1/kv/k HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nfive5");
    client.answer(false).unwrap().error(408, "timeout");
    assert!(client.is_closed());
    assert_eq!(t.memory.count("write"), 0);
    t.assert_serves();
}

#[test]
fn slow_readers_hold_their_place_and_not_the_memory() {
    let options =
        HttpOptions { inflight_bytes: InflightBytes::new(64 << 20), max_inflight_requests: 1, ..options() };
    let t = Fixture::with(&options, Memory::default());
    for n in 0..400 {
        t.memory.put(format!("{n:04}").as_bytes(), &vec![b'v'; 100_000]);
    }
    let slow = t.client();
    slow.send(b"GET /read-all HTTP/1.1\r\nHost: x\r\n\r\n");
    slow.stream().read_exact(&mut [0; 1]).unwrap();
    // The kernel buffers some megabytes; forty don't fit, so reading has paused.
    let pages = t.memory.count("range");
    assert!(pages < 150, "{pages} pages were read for nobody");
    t.call("GET", "/v1/kv/0000", "").error(429, "overloaded");
    drop(slow);
    eventually(|| t.call("GET", "/v1/kv/0000", "").status == 200);
}

#[test]
fn a_reader_that_takes_nothing_is_cut_off() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let options =
        HttpOptions { max_inflight_requests: 1, inflight_bytes: InflightBytes::new(64 << 20), ..options() };
    let memory = Memory::default();
    for n in 0..400 {
        memory.put(format!("{n:04}").as_bytes(), &vec![b'v'; 100_000]);
    }
    let stall = Duration::from_millis(100);
    let server = start_with(listener, memory, &options, stall, |_| {}).unwrap();
    let mut stuck = Client::connect(server.addr());
    stuck.send(b"GET /read-all HTTP/1.1\r\nHost: x\r\n\r\n");
    stuck.stream().read_exact(&mut [0; 1]).unwrap();
    let get = || Client::connect(server.addr()).call("GET", "/v1/kv/0000", &[], b"").status;
    eventually(|| get() == 200);
    assert!(stuck.answer_is_cut(), "what it has is no whole answer");
}

#[test]
fn stopping_finishes_what_is_in_flight_and_closes_what_is_idle() {
    let t = Fixture::with(&options(), Memory::gated());
    let addr = t.addr();
    let mut idle = t.client();
    assert_eq!(idle.call("GET", "/health", &[], b"").status, 200);
    let mut busy = t.client();
    busy.send(&request("PUT", "/v1/kv/k", &[], b"v"));
    eventually(|| t.memory.count("write") == 1);
    let Fixture { server, memory } = t;
    let stopping = std::thread::scope(|scope| {
        let stopping = scope.spawn(|| {
            let begin = Instant::now();
            block_on(server.stop(true)).unwrap();
            begin.elapsed()
        });
        assert!(idle.is_closed());
        assert!(!stopping.is_finished(), "a write is still in flight");
        memory.let_through(1);
        assert_eq!(busy.answer(false).unwrap().status, 201);
        assert!(busy.is_closed());
        stopping.join().unwrap()
    });
    assert!(stopping < Duration::from_secs(9), "it did not wait for the time limit: {stopping:?}");
    assert!(TcpStream::connect(addr).is_err());
}

#[test]
fn stopping_at_once_abandons_what_is_in_flight() {
    let t = Fixture::with(&options(), Memory::gated());
    let mut busy = t.client();
    busy.send(&request("PUT", "/v1/kv/k", &[], b"v"));
    eventually(|| t.memory.count("write") == 1);
    block_on(t.server.stop(false)).unwrap();
    assert!(busy.answer(false).is_none());
}

#[test]
fn a_listener_can_be_bound_inside_and_outside_a_runtime() {
    let loopback = "127.0.0.1:0".parse().unwrap();
    let outside = bind(loopback).unwrap();
    let inside = block_on(async { bind(loopback).unwrap() });
    for listener in [outside, inside] {
        let taken = listener.local_addr().unwrap();
        assert!(bind(taken).is_err(), "a port that is served can't be bound again");
    }
}

#[cfg(target_os = "linux")]
#[test]
fn clients_that_vanish_are_noticed() {
    let t = Fixture::new();
    let client = t.client();
    let addr = client.stream().local_addr().unwrap();
    eventually(|| crate::sockets::is_kept_alive(t.addr(), addr));
}

fn raft(config: &mut web::ServiceConfig) {
    config.route("/append", web::post().to(async || HttpResponse::Ok().body("appended")));
}

#[test]
fn peers_routes_are_served_beside_the_api_or_alone() {
    let listen = || TcpListener::bind("127.0.0.1:0").unwrap();
    let both = start(listen(), Memory::default(), &options(), raft).unwrap();
    let alone = start_peer(listen(), &options(), raft).unwrap();
    for server in [&both, &alone] {
        let mut client = Client::connect(server.addr());
        assert_eq!(client.call("POST", "/append", &[], b"").text(), "appended");
        assert_eq!(client.call("GET", "/health", &[], b"").status, 200);
    }
    assert_eq!(Client::connect(both.addr()).call("GET", "/v1/kv", &[], b"").status, 200);
    Client::connect(alone.addr()).call("GET", "/v1/kv", &[], b"").error(404, "not_found");
    Client::connect(alone.addr()).call("POST", "/health", &[], b"").error(405, "method_not_allowed");
    for server in [both, alone] {
        block_on(server.stop(true)).unwrap();
    }
}

//! The front over real sockets, with a store in memory behind it.
//!
//! Requests are written byte by byte where that matters, so that what is tested
//! is what a client can do and not what a client library would.

mod batch;
mod cluster;
mod etcd_gateway;
mod hostile;
mod keys;
mod leases;
mod lifecycle;
mod listing;
mod memory;
mod openapi;
mod seed;
mod txn;
mod watch;
mod wire;

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::Value;

use self::memory::Memory;
use self::wire::{Answer, Client};
use super::server::{HttpOptions, HttpServer, bind, start};
use crate::inflight::InflightBytes;

/// A server on a port of its own, and the store behind it.
struct Fixture {
    server: HttpServer,
    memory: Memory,
}

fn options() -> HttpOptions {
    HttpOptions {
        workers: 1,
        max_request_bytes: 512 << 10,
        max_inflight_requests: 64,
        inflight_bytes: InflightBytes::new(16 << 20),
        request_timeout: Duration::from_secs(10),
        shutdown_timeout: Duration::from_secs(10),
    }
}

impl Fixture {
    fn new() -> Self {
        Self::with(&options(), Memory::default())
    }

    fn with(options: &HttpOptions, memory: Memory) -> Self {
        let listener = bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let server = start(listener, memory.clone(), options, |_| {}).unwrap();
        Self { server, memory }
    }

    fn addr(&self) -> SocketAddr {
        self.server.addr()
    }

    fn client(&self) -> Client {
        Client::connect(self.addr())
    }

    /// One request on a connection of its own.
    fn call(&self, method: &str, target: &str, body: &str) -> Answer {
        self.client().call(method, target, &[], body.as_bytes())
    }

    /// One request with headers.
    fn call_with(&self, method: &str, target: &str, headers: &[(&str, &str)], body: &str) -> Answer {
        self.client().call(method, target, headers, body.as_bytes())
    }

    /// What every hostile test ends with: the server still serves.
    fn assert_serves(&self) {
        let answer = self.call("GET", "/health", "");
        assert_eq!((answer.status, answer.json()["status"].as_str()), (200, Some("alive")));
    }
}

impl Answer {
    /// Checks that this is a documented error, and returns its details.
    #[track_caller]
    fn error(&self, status: u16, code: &str) -> Value {
        let json = self.json();
        assert_eq!((self.status, json["error"]["code"].as_str()), (status, Some(code)), "{json}");
        assert!(!json["error"]["message"].as_str().unwrap().is_empty());
        assert_eq!(self.header("content-type"), Some("application/json"));
        assert_eq!(json.as_object().unwrap().len(), 1, "only the error");
        let details = json["error"]["details"].clone();
        assert!(details.is_object());
        details
    }

    /// The message of an error.
    fn message(&self) -> String {
        self.json()["error"]["message"].as_str().unwrap().to_owned()
    }
}

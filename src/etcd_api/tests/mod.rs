//! The front over real sockets, with two small services behind it: locks for simple calls and
//! watches for streams.

mod hostile;
mod lifecycle;
mod services;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use kvorum_etcd_proto::etcdserverpb::watch_server::WatchServer;
use kvorum_etcd_proto::v3lockpb::lock_server::LockServer;
use parking_lot::Mutex;
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::runtime::Handle;
use tokio::time::timeout;
use tonic::service::Routes;
use tonic::transport::{Channel, Endpoint};

use self::services::{Locks, Watches};
use super::*;
use crate::command::Alarm;

/// Far beyond what any answer takes, so that a hang fails instead of waiting.
const PATIENCE: Duration = Duration::from_secs(30);

const MAX_REQUEST_BYTES: usize = 64 << 10;

/// A server on a port of its own.
struct Fixture {
    server: GrpcServer,
    api: EtcdApi,
    node: Arc<Node>,
}

/// What the probed node says of itself.
struct Node {
    has_leader: AtomicBool,
    is_readable: AtomicBool,
    is_learner: AtomicBool,
    alarms: Mutex<Vec<Alarm>>,
}

impl Node {
    fn sound() -> Self {
        Self {
            has_leader: AtomicBool::new(true),
            is_readable: AtomicBool::new(true),
            is_learner: AtomicBool::new(false),
            alarms: Mutex::new(Vec::new()),
        }
    }
}

#[tonic::async_trait]
impl Condition for Node {
    async fn confirmed(&self) -> Result<(), String> {
        if self.has_leader.load(Ordering::Relaxed) { Ok(()) } else { Err("no leader".to_owned()) }
    }

    async fn readable(&self) -> Result<(), String> {
        if self.is_readable.load(Ordering::Relaxed) { Ok(()) } else { Err("broken".to_owned()) }
    }

    fn is_learner(&self) -> bool {
        self.is_learner.load(Ordering::Relaxed)
    }

    fn alarms(&self) -> Vec<Alarm> {
        self.alarms.lock().clone()
    }
}

fn limits() -> EtcdOptions {
    EtcdOptions {
        max_request_bytes: MAX_REQUEST_BYTES,
        max_inflight_requests: 64,
        inflight_bytes: InflightBytes::new(8 << 20),
        body_patience: Duration::from_secs(10),
    }
}

impl Fixture {
    fn new() -> Self {
        Self::with(limits(), ServerOptions::default())
    }

    fn with(limits: EtcdOptions, options: ServerOptions) -> Self {
        let node = Arc::new(Node::sound());
        let max_message_bytes = max_message_bytes(limits.max_request_bytes);
        let services = Routes::new(LockServer::new(Locks).max_decoding_message_size(max_message_bytes))
            .add_service(WatchServer::new(Watches));
        let condition: Arc<dyn Condition> = Arc::<Node>::clone(&node);
        let api = EtcdApi::new(services.into(), condition, limits);
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let server = GrpcServer::start(listener, api.clone(), options, &Handle::current()).unwrap();
        Self { server, api, node }
    }

    fn addr(&self) -> SocketAddr {
        self.server.addr()
    }

    async fn channel(&self) -> Channel {
        Endpoint::from_shared(format!("http://{}", self.addr())).unwrap().connect().await.unwrap()
    }

    async fn call(&self, method: &str, path: &str, body: &str) -> Answer {
        self.call_with(method, path, "", body).await
    }

    /// One request over HTTP/1.1 on a connection of its own, with more headers.
    async fn call_with(&self, method: &str, path: &str, headers: &str, body: &str) -> Answer {
        let mut stream = TcpStream::connect(self.addr()).await.unwrap();
        let length = body.len();
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: h\r\nConnection: close\r\n{headers}Content-Length: {length}\r\n\r\n{body}"
        );
        // A server that refuses a large body may hang up before it is sent.
        let _ = stream.write_all(request.as_bytes()).await;
        Answer::parse(&read_to_end(&mut stream).await)
    }

    /// What every hostile test ends with: the server still serves.
    async fn assert_serves(&self) {
        let answer = self.call("POST", "/v3/lock/lock", r#"{"name":"YQ=="}"#).await;
        assert_eq!((answer.status, answer.json()), (200, serde_json::json!({"key": "YQ=="})));
    }
}

async fn read_to_end(stream: &mut TcpStream) -> Vec<u8> {
    let mut received = Vec::new();
    // A reset after the answer loses nothing that had arrived.
    let _ = timeout(PATIENCE, stream.read_to_end(&mut received)).await.expect("the server hangs up");
    received
}

struct Answer {
    status: u16,
    head: String,
    body: String,
}

impl Answer {
    #[track_caller]
    fn parse(received: &[u8]) -> Self {
        let text = String::from_utf8(received.to_vec()).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{text:?} is no answer"));
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        Self { status, head: head.to_ascii_lowercase(), body: body.to_owned() }
    }

    #[track_caller]
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error} in {:?}", self.body))
    }
}

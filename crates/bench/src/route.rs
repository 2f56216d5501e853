//! Which server a connection talks to: the endpoints in turn, or the leader only.

use std::time::{Duration, Instant};

use serde::Deserialize;
use tokio::net::TcpStream;
use tokio::sync::Mutex;
use tokio::time::timeout;

use crate::exchange::{Failure, exchange};
use crate::http1::{RequestTemplate, ResponseReader, Shape};

/// How long a connection may take to be made, and a server to tell its role.
pub(crate) const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// How long an answer about the leader holds: many connections fail at once
/// when a leader ends, and one question serves them all.
const LEADER_HOLDS: Duration = Duration::from_millis(50);
/// A status answer is a few hundred bytes.
const MAX_STATUS_BYTES: usize = 64 * 1024;

#[derive(Debug, Deserialize)]
struct Status {
    role: String,
    term: u64,
}

/// What was last found out about the leader.
#[derive(Debug)]
struct Found {
    leader: Option<usize>,
    at: Instant,
}

/// The endpoints of a run and the way to choose among them.
#[derive(Debug)]
pub(crate) struct Route {
    endpoints: Vec<String>,
    leader_only: bool,
    found: Mutex<Option<Found>>,
}

impl Route {
    pub(crate) fn new(endpoints: Vec<String>, leader_only: bool) -> Self {
        Self { endpoints, leader_only, found: Mutex::new(None) }
    }

    /// The `host:port` of an endpoint; numbers wrap around.
    pub(crate) fn endpoint(&self, number: usize) -> &str {
        number
            .checked_rem(self.endpoints.len())
            .and_then(|index| self.endpoints.get(index))
            .map_or("", String::as_str)
    }

    /// The endpoint at which the connection `number` begins.
    pub(crate) async fn first(&self, number: usize) -> usize {
        if self.leader_only { self.leader().await.unwrap_or(number) } else { number }
    }

    /// Where a connection goes on whose server `current` broke off.
    pub(crate) async fn after_break(&self, current: usize) -> usize {
        if self.leader_only { self.leader().await.unwrap_or(current) } else { current.wrapping_add(1) }
    }

    /// Where a connection goes on whose server `current` refused a request.
    pub(crate) async fn after_refusal(&self, current: usize) -> usize {
        if self.leader_only { self.leader().await.unwrap_or(current) } else { current }
    }

    /// The endpoint that says it leads, at the highest term if several do.
    pub(crate) async fn leader(&self) -> Option<usize> {
        let mut found = self.found.lock().await;
        if let Some(known) = found.as_ref()
            && known.at.elapsed() < LEADER_HOLDS
        {
            return known.leader;
        }
        let mut leader: Option<(u64, usize)> = None;
        for (index, endpoint) in self.endpoints.iter().enumerate() {
            match timeout(CONNECT_TIMEOUT, status(endpoint)).await {
                Ok(Ok(status)) if status.role == "leader" => {
                    leader = leader.max(Some((status.term, index)));
                }
                // A server that is down or still a follower is no leader.
                Ok(Ok(_) | Err(_)) | Err(_) => {}
            }
        }
        let leader = leader.map(|(_, index)| index);
        *found = Some(Found { leader, at: Instant::now() });
        leader
    }
}

async fn status(endpoint: &str) -> Result<Status, Failure> {
    let shape = Shape {
        start: "GET /v1/status",
        query: "",
        body_start: None,
        body_middle: "",
        body_end: "",
        has_value: false,
    };
    let template = RequestTemplate::new(shape, endpoint, 0, 0);
    let mut stream = TcpStream::connect(endpoint).await.map_err(Failure::Connect)?;
    let mut reader = ResponseReader::new(MAX_STATUS_BYTES);
    exchange(&mut stream, &template, b"", &mut reader, &mut [0; 2048]).await?;
    serde_json::from_slice(reader.body_start()).map_err(|_| Failure::NoStatus)
}

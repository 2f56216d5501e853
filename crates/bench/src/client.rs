//! The closed-loop clients of one connection.
//!
//! A client asks, waits for the answer and asks again. HTTP/1.1 answers one
//! request of a connection at a time, so clients that share one wait for each
//! other in turn, as they would at the pool of any HTTP client; their latency
//! counts from when they want to ask. One task plays all clients of a
//! connection: their order is fixed, so it only remembers since when each of
//! them waits.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep, sleep_until, timeout};

use crate::exchange::{Failure, by_deadline, exchange};
use crate::http1::{RequestTemplate, Response, ResponseReader};
use crate::route::CONNECT_TIMEOUT;
use crate::run::Shared;
use crate::stats::{Gap, Stats};
use crate::workload::{Operation, Verdict, write_key};

/// How much of a body is kept: enough for any error answer.
const KEPT_BODY: usize = 512;
/// The first wait after a failure; doubled up to the longest.
const FIRST_BACK_OFF: Duration = Duration::from_millis(5);
const LONGEST_BACK_OFF: Duration = Duration::from_millis(80);
/// A connection that idled this long is made anew: the server may have closed it.
const LONGEST_IDLE: Duration = Duration::from_secs(1);
/// How often a waiting client looks whether the run is over.
const LOOK: Duration = Duration::from_millis(100);

/// How an operation ended.
enum Ended {
    Succeeded { absent: bool },
    Refused(Response),
    Wrong(Response),
    Broke(Failure),
}

/// A connection with its clients.
pub(crate) struct Driver {
    shared: Arc<Shared>,
    stats: Arc<Mutex<Stats>>,
    clients: usize,
    endpoint: usize,
    stream: Option<TcpStream>,
    requests: Vec<(Operation, RequestTemplate)>,
    /// The endpoint that `requests` name as their host.
    requests_for: Option<usize>,
    reader: ResponseReader,
    buffer: Vec<u8>,
    timer: Pin<Box<Sleep>>,
    rng: StdRng,
    back_off: Duration,
}

impl Driver {
    /// The connection `number` with its `clients`.
    pub(crate) fn new(shared: Arc<Shared>, stats: Arc<Mutex<Stats>>, number: usize, clients: usize) -> Self {
        let plan = &shared.plan;
        let rng = StdRng::seed_from_u64(plan.seed.wrapping_add(number as u64).wrapping_add(1));
        let buffer = vec![0; plan.value_size.saturating_add(1024).clamp(4 * 1024, 64 * 1024)];
        Self {
            stats,
            clients,
            endpoint: number,
            stream: None,
            requests: Vec::new(),
            requests_for: None,
            reader: ResponseReader::new(KEPT_BODY),
            buffer,
            timer: Box::pin(sleep(plan.timeout)),
            rng,
            back_off: FIRST_BACK_OFF,
            shared,
        }
    }

    /// Connects, waits for all others to have done so, and works until the run
    /// is over.
    pub(crate) async fn drive(mut self) {
        let shared = Arc::clone(&self.shared);
        self.endpoint = shared.route.first(self.endpoint).await;
        // A server that is down now shows as failed operations once the run began.
        let _ = self.connect().await;
        let began = shared.begin().await;
        let mut waiting: VecDeque<Instant> = std::iter::repeat_n(began, self.clients).collect();
        let mut now = began;
        while let Some(since) = waiting.pop_front() {
            let Some(ticket) = shared.next(now, &mut self.rng) else { break };
            let measured = shared.is_measured(now);
            loop {
                let ended = self.perform(ticket.operation, ticket.key).await;
                now = Instant::now();
                self.count(ticket.operation, ticket.key, &ended, measured, since, now);
                match ended {
                    Ended::Succeeded { .. } => break self.back_off = FIRST_BACK_OFF,
                    // Not asked again: the server believes that it was carried out.
                    Ended::Wrong(_) => break,
                    Ended::Refused(response) => self.wait_after_refusal(response).await,
                    Ended::Broke(_) => self.wait_after_break().await,
                }
                now = Instant::now();
                if !ticket.until_done || shared.is_over(now) {
                    break;
                }
            }
            waiting.push_back(now);
        }
    }

    async fn connect(&mut self) -> Result<(), Failure> {
        let shared = Arc::clone(&self.shared);
        let host = shared.route.endpoint(self.endpoint);
        if self.requests_for != Some(self.endpoint) {
            let plan = &shared.plan;
            self.requests = plan
                .operations()
                .iter()
                .map(|&operation| {
                    let shape = operation.shape();
                    (operation, RequestTemplate::new(shape, host, plan.key_size, plan.value_size))
                })
                .collect();
            self.requests_for = Some(self.endpoint);
        }
        let connecting = timeout(CONNECT_TIMEOUT.min(shared.plan.timeout), TcpStream::connect(host));
        let stream = match connecting.await {
            Ok(connected) => connected.map_err(Failure::Connect)?,
            Err(_) => return Err(Failure::Connect(std::io::ErrorKind::TimedOut.into())),
        };
        stream.set_nodelay(true).map_err(Failure::Connect)?;
        self.stream = Some(stream);
        Ok(())
    }

    async fn perform(&mut self, operation: Operation, key: u64) -> Ended {
        if self.stream.is_none()
            && let Err(failure) = self.connect().await
        {
            return Ended::Broke(failure);
        }
        let Self { shared, stream, requests, reader, buffer, timer, rng, .. } = self;
        let stream_now = stream.as_mut().expect("it was connected above");
        let (_, request) = requests
            .iter_mut()
            .find(|(other, _)| *other == operation)
            .expect("connecting prepares a request for every operation of the plan");
        write_key(request.key_mut(), key);
        let value = if request.has_value() { shared.values.pick(rng) } else { b"" };
        let deadline = Instant::now() + shared.plan.timeout;
        let answer = by_deadline(timer, deadline, exchange(stream_now, request, value, reader, buffer)).await;
        let response = match answer.unwrap_or(Err(Failure::Timeout)) {
            Ok(response) => response,
            Err(failure) => {
                *stream = None;
                return Ended::Broke(failure);
            }
        };
        if response.close {
            *stream = None;
        }
        match operation.judge(&response, reader.body_start(), shared.values.size()) {
            Verdict::Done => Ended::Succeeded { absent: false },
            Verdict::Absent => Ended::Succeeded { absent: true },
            Verdict::Wrong => Ended::Wrong(response),
            Verdict::Refused => Ended::Refused(response),
        }
    }

    fn count(
        &self,
        operation: Operation,
        key: u64,
        ended: &Ended,
        measured: bool,
        since: Instant,
        now: Instant,
    ) {
        let shared = &self.shared;
        shared.live.count(matches!(ended, Ended::Succeeded { .. }));
        if !measured {
            return;
        }
        let at = shared.since_start(now);
        // Nothing in here panics half-way, so counts behind a poisoned lock are whole.
        let mut stats = self.stats.lock().unwrap_or_else(PoisonError::into_inner);
        let (kind, what) = match ended {
            Ended::Succeeded { absent } => {
                stats.absent = stats.absent.saturating_add(u64::from(*absent));
                stats.succeeded(operation, at, now.saturating_duration_since(since));
                if operation.is_write() {
                    let before = shared.live.acknowledged(at);
                    stats.gap(Gap { length: at.saturating_sub(before), began: before });
                }
                return;
            }
            Ended::Wrong(response) => {
                stats.wrong = stats.wrong.saturating_add(1);
                let body = String::from_utf8_lossy(self.reader.body_start());
                let len = response.body_len;
                ("wrong answer".to_owned(), format!("status {}, {len} bytes: {body}", response.status))
            }
            Ended::Refused(response) => {
                let body = String::from_utf8_lossy(self.reader.body_start());
                let code = error_code(&body).map(|code| format!(" {code}")).unwrap_or_default();
                (format!("status {}{code}", response.status), format!("status {}: {body}", response.status))
            }
            Ended::Broke(failure) => (failure.kind(), failure.to_string()),
        };
        let host = shared.route.endpoint(self.endpoint);
        stats.failed(&kind, &format!("{} of key {key} at {host}: {what}", operation.name()), at);
    }

    async fn wait_after_refusal(&mut self, response: Response) {
        let asked = response.retry_after_seconds.filter(|_| !self.shared.plan.ignore_retry_after);
        let wait = asked.map_or_else(|| self.next_back_off(), Duration::from_secs);
        self.wait(wait).await;
        let endpoint = self.shared.route.after_refusal(self.endpoint).await;
        self.move_to(endpoint);
    }

    async fn wait_after_break(&mut self) {
        let wait = self.next_back_off();
        self.wait(wait).await;
        let endpoint = self.shared.route.after_break(self.endpoint).await;
        self.move_to(endpoint);
    }

    fn move_to(&mut self, endpoint: usize) {
        if endpoint != self.endpoint {
            self.endpoint = endpoint;
            self.stream = None;
        }
    }

    fn next_back_off(&mut self) -> Duration {
        let longest = self.back_off;
        self.back_off = longest.saturating_mul(2).min(LONGEST_BACK_OFF);
        // Spread out, so that a server that comes back is not met by all at once.
        longest.mul_f64(self.rng.random_range(0.5..1.0))
    }

    async fn wait(&mut self, wait: Duration) {
        if wait >= LONGEST_IDLE {
            self.stream = None;
        }
        let until = Instant::now() + wait;
        loop {
            let now = Instant::now();
            if now >= until || self.shared.is_over(now) {
                return;
            }
            sleep_until(until.min(now + LOOK)).await;
        }
    }
}

/// The `code` of an error answer.
fn error_code(body: &str) -> Option<&str> {
    let (_, rest) = body.split_once("\"code\":\"")?;
    let (code, _) = rest.split_once('"')?;
    code.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_').then_some(code)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn error_codes_are_found_in_error_answers_only() {
        assert_eq!(error_code(r#"{"error":{"code":"not_leader","message":"x"}}"#), Some("not_leader"));
        assert_eq!(error_code(r#"{"error":{"code":"<b>","message":"x"}}"#), None);
        assert_eq!(error_code("<html>"), None);
    }
}

//! Asks over HTTP/1.1, with a connection of its own.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use rand::rngs::StdRng;
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep, timeout};

use crate::client::{Ask, Ended};
use crate::exchange::{Failure, by_deadline, exchange};
use crate::http1::{RequestTemplate, Response, ResponseReader};
use crate::route::CONNECT_TIMEOUT;
use crate::run::Shared;
use crate::workload::{Operation, Verdict, write_key};

/// How much of a body is kept: enough for any error answer.
const KEPT_BODY: usize = 512;

/// A connection over which one request at a time is answered.
pub(crate) struct HttpAsker {
    shared: Arc<Shared>,
    endpoint: usize,
    stream: Option<TcpStream>,
    requests: Vec<(Operation, RequestTemplate)>,
    /// The endpoint that `requests` name as their host.
    requests_for: Option<usize>,
    reader: ResponseReader,
    buffer: Vec<u8>,
    timer: Pin<Box<Sleep>>,
}

impl HttpAsker {
    /// The connection `number` of a run.
    pub(crate) fn new(shared: Arc<Shared>, number: usize) -> Self {
        let plan = &shared.plan;
        let buffer = vec![0; plan.value_size.saturating_add(1024).clamp(4 * 1024, 64 * 1024)];
        Self {
            endpoint: number,
            stream: None,
            requests: Vec::new(),
            requests_for: None,
            reader: ResponseReader::new(KEPT_BODY),
            buffer,
            timer: Box::pin(sleep(plan.timeout)),
            shared,
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

    fn refused(&self, response: Response) -> Ended {
        let body = String::from_utf8_lossy(self.reader.body_start());
        let code = error_code(&body).map(|code| format!(" {code}")).unwrap_or_default();
        Ended::Refused {
            kind: format!("status {}{code}", response.status),
            detail: format!("status {}: {body}", response.status),
            retry_after: response.retry_after_seconds.map(Duration::from_secs),
        }
    }

    fn wrong(&self, response: Response) -> Ended {
        let body = String::from_utf8_lossy(self.reader.body_start());
        let len = response.body_len;
        Ended::Wrong { detail: format!("status {}, {len} bytes: {body}", response.status) }
    }

    fn move_to(&mut self, endpoint: usize) {
        if endpoint != self.endpoint {
            self.endpoint = endpoint;
            self.stream = None;
        }
    }
}

impl Ask for HttpAsker {
    async fn prepare(&mut self) {
        let shared = Arc::clone(&self.shared);
        self.endpoint = shared.route.first(self.endpoint).await;
        let _ = self.connect().await;
    }

    async fn ask(&mut self, operation: Operation, key: u64, rng: &mut StdRng) -> Ended {
        if self.stream.is_none()
            && let Err(failure) = self.connect().await
        {
            return failure.into();
        }
        let Self { shared, stream, requests, reader, buffer, timer, .. } = self;
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
                return failure.into();
            }
        };
        if response.close {
            *stream = None;
        }
        match operation.judge(&response, reader.body_start(), shared.values.size()) {
            Verdict::Done => Ended::Succeeded { absent: false },
            Verdict::Absent => Ended::Succeeded { absent: true },
            Verdict::Wrong => self.wrong(response),
            Verdict::Refused => self.refused(response),
        }
    }

    fn rest(&mut self) {
        self.stream = None;
    }

    async fn after_refusal(&mut self) {
        let endpoint = self.shared.route.after_refusal(self.endpoint).await;
        self.move_to(endpoint);
    }

    async fn after_break(&mut self) {
        let endpoint = self.shared.route.after_break(self.endpoint).await;
        self.move_to(endpoint);
    }

    fn server(&self) -> &str {
        self.shared.route.endpoint(self.endpoint)
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

//! One call: which endpoints are tried, and what may be repeated.
//!
//! An attempt ends in one of four ways (see [`Attempt`]). Only the two that
//! cannot apply a write twice lead to another attempt. Invariant: once an attempt
//! of a write is lost, the call ends with the cluster's definite answer or as
//! `OutcomeUnknown`, never as an error that claims that nothing happened.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::Bytes;
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER};
use reqwest::{Method, Response, StatusCode};
use serde::de::DeserializeOwned;

use crate::endpoint::Endpoint;
use crate::error::{ErrorBody, ErrorParts, root_cause, strange};
use crate::{Client, Error};

/// Before a first repetition; each further pause is twice as long.
pub(crate) const FIRST_PAUSE: Duration = Duration::from_millis(50);
pub(crate) const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// A hanging endpoint is given at least this long before the next one is tried.
pub(crate) const SHORTEST_ATTEMPT: Duration = Duration::from_millis(500);

/// What carrying out a call twice would mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Effect {
    /// Asks one node how it is; a refusal is the answer.
    Probe,
    /// Changes nothing.
    Read,
    /// Must not be applied twice.
    Write,
    /// Must not be applied twice, and can be applied in part.
    Batch,
    /// Applied twice it does no more than once: the cluster recognises it by its
    /// idempotency key, or it says something that the second time is so already.
    RepeatableWrite,
}

impl Effect {
    fn may_repeat_when_lost(self) -> bool {
        matches!(self, Self::Read | Self::RepeatableWrite)
    }

    fn changes_something(self) -> bool {
        matches!(self, Self::Write | Self::Batch | Self::RepeatableWrite)
    }
}

/// A request, ready for any endpoint.
#[derive(Debug, Clone)]
pub(crate) struct Call {
    method: Method,
    path: String,
    headers: HeaderMap,
    body: Bytes,
    effect: Effect,
    privileged: bool,
}

impl Call {
    /// `path` begins with a slash and holds the query, percent-encoded.
    pub(crate) fn new(method: Method, path: impl Into<String>, effect: Effect) -> Self {
        let headers = HeaderMap::new();
        Self { method, path: path.into(), headers, body: Bytes::new(), effect, privileged: false }
    }

    pub(crate) fn header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.insert(name, value);
        self
    }

    pub(crate) fn body(mut self, body: Bytes) -> Self {
        self.body = body;
        self
    }

    pub(crate) fn json(self, body: &serde_json::Value) -> Self {
        self.document(body.to_string().into())
    }

    /// A body that is JSON already, byte by byte.
    pub(crate) fn document(self, json: Bytes) -> Self {
        self.header(CONTENT_TYPE, HeaderValue::from_static("application/json")).body(json)
    }

    /// The same call, when more is known about what it does.
    pub(crate) fn with_effect(mut self, effect: Effect) -> Self {
        self.effect = effect;
        self
    }

    /// Sends the cluster's secret along.
    pub(crate) fn privileged(mut self) -> Self {
        self.privileged = true;
        self
    }
}

/// What is made of a 2xx response.
pub(crate) trait Reception: Sized {
    /// Whether the time limit of an attempt covers the body too.
    const WITHIN_LIMIT: bool;

    async fn receive(endpoint: &Endpoint, response: Response) -> Result<Self, reqwest::Error>;
}

/// A 2xx answer whose body comes bit by bit, for as long as the node sends.
#[derive(Debug)]
pub(crate) struct Stream {
    pub(crate) endpoint: String,
    pub(crate) response: Response,
}

impl Reception for Stream {
    const WITHIN_LIMIT: bool = false;

    async fn receive(endpoint: &Endpoint, response: Response) -> Result<Self, reqwest::Error> {
        Ok(Self { endpoint: endpoint.authority().to_owned(), response })
    }
}

/// A 2xx answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) endpoint: String,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Reception for Answer {
    const WITHIN_LIMIT: bool = true;

    async fn receive(endpoint: &Endpoint, response: Response) -> Result<Self, reqwest::Error> {
        let headers = response.headers().clone();
        Ok(Self { endpoint: endpoint.authority().to_owned(), headers, body: response.bytes().await? })
    }
}

impl Answer {
    pub(crate) fn json<T: DeserializeOwned>(&self) -> Result<T, Error> {
        serde_json::from_slice(&self.body)
            .map_err(|error| strange(&self.endpoint, format!("undecodable answer: {error}")))
    }

    /// The number in a header, with or without the quotes of an `ETag`.
    pub(crate) fn integer(&self, name: &str) -> Result<Option<i64>, Error> {
        let Some(value) = self.headers.get(name) else { return Ok(None) };
        let number = value.to_str().ok().and_then(|text| text.trim_matches('"').parse().ok());
        number
            .map(Some)
            .ok_or_else(|| strange(&self.endpoint, format!("header {name} is {value:?}, not a number")))
    }

    pub(crate) fn required_integer(&self, name: &str) -> Result<i64, Error> {
        self.integer(name)?.ok_or_else(|| strange(&self.endpoint, format!("header {name} is missing")))
    }
}

/// How one attempt ended.
enum Attempt<T> {
    /// The cluster carried the call out.
    Done(T),
    /// The cluster's definite answer is no.
    Final(Error),
    /// Certainly not carried out; another node or another moment may do.
    Refused { error: Error, retry_after: Option<Duration> },
    /// Sent, but what became of it is unknown.
    Lost { error: Error, retry_after: Option<Duration> },
}

/// What the attempts of one call have left behind.
#[derive(Default)]
struct Trail {
    last: Option<Error>,
    /// Endpoints that could not be connected to, with why, in this round.
    unreachable: Vec<String>,
    /// The shortest time that a node of this round asked to wait.
    wait: Option<Duration>,
    /// An earlier attempt of a write was lost.
    doubt: Option<String>,
}

impl Trail {
    fn note(&mut self, error: Error, retry_after: Option<Duration>) {
        if let Error::Transport { message } = error {
            self.unreachable.push(message);
        } else {
            self.last = Some(error);
        }
        self.wait = match (self.wait, retry_after) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
    }

    fn error(&mut self) -> Error {
        if let Some(message) = &self.doubt {
            return Error::OutcomeUnknown { message: message.clone() };
        }
        self.last.take().unwrap_or_else(|| Error::Transport {
            message: format!("no endpoint can be reached: {}", self.unreachable.join("; ")),
        })
    }
}

/// The end of a call that makes something so, when that may have been so before.
pub(crate) enum Settled {
    /// It was carried out.
    Done(Answer),
    /// It is so already, most likely by an attempt of this call whose answer was lost.
    Already {
        /// The cluster's words.
        refusal: Error,
    },
}

impl Client {
    /// Carries a call out, trying endpoints in turn within the time limit.
    pub(crate) async fn execute(&self, call: &Call) -> Result<Answer, Error> {
        self.execute_as(call).await
    }

    /// The same, for a 2xx response that is received in some way.
    pub(crate) async fn execute_as<T: Reception>(&self, call: &Call) -> Result<T, Error> {
        self.try_in_turn(call, &mut Trail::default()).await
    }

    /// The same, for a call that the cluster refuses with `already` when it finds
    /// that what it asks for is so: after a lost attempt this is no error.
    pub(crate) async fn settle(&self, call: &Call, already: &str) -> Result<Settled, Error> {
        let mut trail = Trail::default();
        match self.try_in_turn(call, &mut trail).await {
            Ok(answer) => Ok(Settled::Done(answer)),
            Err(refusal) if trail.doubt.is_some() && refusal.code() == already => {
                Ok(Settled::Already { refusal })
            }
            Err(error) => Err(error),
        }
    }

    async fn try_in_turn<T: Reception>(&self, call: &Call, trail: &mut Trail) -> Result<T, Error> {
        let started = Instant::now();
        let deadline = started + self.timeout;
        let count = self.endpoints.len();
        let mut pause = FIRST_PAUSE;
        loop {
            trail.unreachable.clear();
            trail.wait = None;
            let first = self.preferred.load(Ordering::Relaxed);
            for turn in 0..count {
                let remaining = deadline.saturating_duration_since(Instant::now());
                if remaining.is_zero() && turn > 0 {
                    break;
                }
                let index = (first + turn) % count;
                let Some(endpoint) = self.endpoints.get(index) else { break };
                let limit = attempt_limit(call.effect, remaining, count - turn);
                match self.attempt(call, endpoint, limit).await {
                    Attempt::Done(answer) => {
                        self.preferred.store(index, Ordering::Relaxed);
                        return Ok(answer);
                    }
                    Attempt::Final(error) => {
                        self.preferred.store(index, Ordering::Relaxed);
                        return Err(error);
                    }
                    Attempt::Refused { error, .. } | Attempt::Lost { error, .. }
                        if call.effect == Effect::Probe =>
                    {
                        return Err(error);
                    }
                    Attempt::Refused { error, retry_after } => trail.note(error, retry_after),
                    Attempt::Lost { error, retry_after } => {
                        if call.effect.changes_something() {
                            trail.doubt = Some(error.to_string());
                        }
                        if !call.effect.may_repeat_when_lost() {
                            return Err(trail.error());
                        }
                        trail.note(error, retry_after);
                    }
                }
            }
            let wait = trail.wait.unwrap_or(pause);
            let too_late = wait >= deadline.saturating_duration_since(Instant::now());
            let nobody_there = trail.unreachable.len() == count;
            if too_late || (nobody_there && started.elapsed() + wait > self.patience) {
                return Err(trail.error());
            }
            tokio::time::sleep(wait).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    async fn attempt<T: Reception>(&self, call: &Call, endpoint: &Endpoint, limit: Duration) -> Attempt<T> {
        let url = match endpoint.url(&call.path) {
            Ok(url) => url,
            Err(error) => return Attempt::Final(error),
        };
        let mut request =
            self.http.request(call.method.clone(), url).headers(call.headers.clone()).body(call.body.clone());
        if let (true, Some(secret)) = (call.privileged, &self.secret) {
            request = request.header(AUTHORIZATION, secret.clone());
        }
        let sent = if T::WITHIN_LIMIT {
            request.timeout(limit).send().await
        } else {
            match tokio::time::timeout(limit, request.send()).await {
                Ok(sent) => sent,
                Err(_) => return silent(call, endpoint, limit),
            }
        };
        let response = match sent {
            Ok(response) => response,
            Err(error) => return failed(call, endpoint, limit, &error),
        };
        let status = response.status();
        if status.is_success() {
            return match T::receive(endpoint, response).await {
                Ok(received) => Attempt::Done(received),
                Err(error) => failed(call, endpoint, limit, &error),
            };
        }
        let headers = response.headers().clone();
        // A refusal is short: what takes longer than an attempt is as good as none.
        match tokio::time::timeout(limit, response.bytes()).await {
            Ok(Ok(body)) => refused(call, endpoint, status, &headers, &body),
            Ok(Err(error)) => failed(call, endpoint, limit, &error),
            Err(_) => silent(call, endpoint, limit),
        }
    }
}

/// A call that may be repeated leaves time for the endpoints after this one; for
/// any other a short attempt would only turn a slow answer into an unknown one.
fn attempt_limit(effect: Effect, remaining: Duration, endpoints_left: usize) -> Duration {
    if !effect.may_repeat_when_lost() {
        return remaining;
    }
    let share = remaining / u32::try_from(endpoints_left.max(1)).unwrap_or(u32::MAX);
    share.max(SHORTEST_ATTEMPT).min(remaining)
}

/// Judges an attempt that got no whole answer.
fn failed<T>(call: &Call, endpoint: &Endpoint, limit: Duration, error: &reqwest::Error) -> Attempt<T> {
    let name = endpoint.authority();
    if error.is_connect() {
        let message = format!("{name}: {}", root_cause(error));
        return Attempt::Refused { error: Error::Transport { message }, retry_after: None };
    }
    if error.is_timeout() {
        return silent(call, endpoint, limit);
    }
    let what = format!("the connection to {name} broke: {}", root_cause(error));
    let error =
        if call.effect.changes_something() { unknown(&what) } else { Error::Unavailable { message: what } };
    Attempt::Lost { error, retry_after: None }
}

/// Judges an attempt that got no answer in its time.
fn silent<T>(call: &Call, endpoint: &Endpoint, limit: Duration) -> Attempt<T> {
    let what = format!("{} gave no answer within {limit:.1?}", endpoint.authority());
    let error = if call.effect.changes_something() {
        unknown(&what)
    } else {
        Error::Timeout { message: what, details: serde_json::Map::new() }
    };
    Attempt::Lost { error, retry_after: None }
}

fn unknown(what: &str) -> Error {
    let message =
        format!("{what}; the outcome is unknown, and the write may still commit: read before writing again");
    Error::OutcomeUnknown { message }
}

/// Judges an answer that is not 2xx.
fn refused<T>(
    call: &Call,
    endpoint: &Endpoint,
    status: StatusCode,
    headers: &HeaderMap,
    body: &[u8],
) -> Attempt<T> {
    let retry_after =
        headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok()).map(Duration::from_secs);
    let Ok(ErrorBody { error: parts }) = serde_json::from_slice::<ErrorBody>(body) else {
        let error =
            strange(endpoint.authority(), format!("status {status} without an error that can be understood"));
        let transient = status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS;
        return if transient { Attempt::Lost { error, retry_after } } else { Attempt::Final(error) };
    };
    let completed = parts.details.get("completed").and_then(serde_json::Value::as_u64).unwrap_or_default();
    let attempt = judge(call, status, parts, retry_after);
    if call.effect == Effect::Batch && completed > 0 { stopped(attempt, completed) } else { attempt }
}

/// Ends a batch of which a part has happened: it is no longer the same call.
fn stopped<T>(attempt: Attempt<T>, completed: u64) -> Attempt<T> {
    let cause = match attempt {
        Attempt::Done(_) => return attempt,
        Attempt::Final(cause)
        | Attempt::Refused { error: cause, .. }
        | Attempt::Lost { error: cause @ Error::OutcomeUnknown { .. }, .. } => cause,
        Attempt::Lost { error, .. } => {
            Error::OutcomeUnknown { message: format!("{error}; of what follows, the outcome is unknown") }
        }
    };
    Attempt::Final(Error::BatchStopped { completed, cause: Box::new(cause) })
}

/// Judges an error in the cluster's own words.
fn judge<T>(call: &Call, status: StatusCode, parts: ErrorParts, retry_after: Option<Duration>) -> Attempt<T> {
    let message = parts.message.clone();
    match parts.code.as_str() {
        "not_leader" | "unavailable" | "overloaded" => {
            Attempt::Refused { error: Error::Unavailable { message }, retry_after }
        }
        "condition_failed" => Attempt::Final(Error::ConditionFailed {
            mod_revision: parts.integer("mod_revision"),
            revision: parts.integer("revision"),
            message,
        }),
        // Certainly not carried out, and no other node would; it ends by an operator's hand.
        "no_space" | "corrupt" => {
            let status = status.as_u16();
            Attempt::Final(Error::Api { status, code: parts.code, message, details: parts.details })
        }
        "outcome_unknown" => Attempt::Lost { error: Error::OutcomeUnknown { message }, retry_after },
        "timeout" => {
            let error = Error::Timeout { message, details: parts.details };
            // A write is not answered with this code: it is an operation of the
            // cluster that goes on, and that is the answer.
            if call.effect.changes_something() {
                Attempt::Final(error)
            } else {
                Attempt::Lost { error, retry_after }
            }
        }
        _ => {
            let error =
                Error::Api { status: status.as_u16(), code: parts.code, message, details: parts.details };
            if status.is_server_error() {
                Attempt::Lost { error, retry_after }
            } else {
                Attempt::Final(error)
            }
        }
    }
}

#[cfg(test)]
mod tests;

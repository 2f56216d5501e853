//! Watches: what happens to keys, in order, without gap or repetition.
//!
//! A [`Watch`] outlives its connection. When one breaks, or its node stops, it goes
//! on at another endpoint after the last revision it has passed on. Invariant: of
//! the changes that it passes on, each has a later revision than the one before,
//! and none that its keys had in between is left out; where that cannot be kept,
//! the watch ends with an error that says why.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use reqwest::Method;
use reqwest::header::{ACCEPT, HeaderName, HeaderValue};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::call::{Call, Effect, FIRST_PAUSE, LONGEST_PAUSE, Stream};
use crate::error::{ErrorBody, strange};
use crate::item::{ItemBody, KeyBody};
use crate::query::Query;
use crate::sse::{Message, Parser};
use crate::{Client, Error, Item, Range};

/// Nodes send something every 15 seconds: after three times that, nobody is there.
const LONGEST_SILENCE: Duration = Duration::from_secs(45);
/// A change is sent whole, and one revision can delete very many keys.
const LARGEST_MESSAGE: usize = 256 << 20;

/// What to watch, and how.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WatchOptions {
    /// Which keys.
    pub range: Range,
    /// The first revision to tell about, past or future; what follows the current
    /// one if `None`.
    pub from_revision: Option<i64>,
    /// Asks for each item as it was before.
    pub previous: bool,
    /// Leaves out all but these events.
    pub only: Option<EventKind>,
}

/// What can happen to a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventKind {
    /// It is set.
    Put,
    /// It is removed.
    Delete,
}

/// What has happened to a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// It was set.
    Put {
        /// The item as it is since.
        item: Item,
        /// The item as it was before, if asked for, and if it existed and is still known.
        previous: Option<Item>,
    },
    /// It was removed.
    Delete {
        /// The key.
        key: Bytes,
        /// The item as it was before, if asked for and still known.
        previous: Option<Item>,
    },
}

impl Event {
    /// The key to which it happened.
    pub fn key(&self) -> &Bytes {
        match self {
            Self::Put { item, .. } => &item.key,
            Self::Delete { key, .. } => key,
        }
    }

    /// The item as it was before.
    pub fn previous(&self) -> Option<&Item> {
        match self {
            Self::Put { previous, .. } | Self::Delete { previous, .. } => previous.as_ref(),
        }
    }
}

/// What a watch tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WatchMessage {
    /// The watch is set up; told once, before anything else.
    Created {
        /// Everything that happens after this revision will be told.
        revision: i64,
    },
    /// All that one revision did to the keys.
    Change {
        /// The revision.
        revision: i64,
        /// What happened, in its order.
        events: Vec<Event>,
    },
    /// Everything up to a revision has been told.
    Progress {
        /// The revision.
        revision: i64,
    },
}

impl Client {
    /// Watches keys. Nothing is sent before the first [`Watch::next`].
    ///
    /// The client's time limit is how long the watch tries to be served, at the
    /// start and whenever its connection has broken.
    pub fn watch(&self, options: WatchOptions) -> Watch {
        // A copy with a preference of its own: that a stream breaks says nothing
        // about where other calls are served.
        let preferred = AtomicUsize::new(self.preferred.load(Ordering::Relaxed));
        let client = Self { preferred: Arc::new(preferred), ..self.clone() };
        Watch {
            client,
            options,
            passed: None,
            connection: None,
            broken: None,
            pause: Duration::ZERO,
            largest_message: LARGEST_MESSAGE,
            ended: None,
        }
    }
}

/// A running watch.
#[derive(Debug)]
pub struct Watch {
    client: Client,
    options: WatchOptions,
    /// Everything up to this revision has been passed on.
    passed: Option<i64>,
    connection: Option<Connection>,
    broken: Option<Broken>,
    /// How long to wait after the next connection that breaks.
    pause: Duration,
    /// The most bytes that a message may have.
    largest_message: usize,
    ended: Option<Error>,
}

/// What is known while no connection serves the watch.
#[derive(Debug)]
struct Broken {
    since: Instant,
    /// When to try again.
    again: Instant,
    why: Error,
}

#[derive(Debug)]
struct Connection {
    stream: Stream,
    /// Since when the node serves the watch.
    created: Option<Instant>,
    parser: Parser,
    /// What was received and not yet parsed.
    piece: Bytes,
}

impl Watch {
    /// What comes next. It waits for as long as nothing happens.
    ///
    /// # Errors
    /// `Api` with code `compacted` if a revision that was to be told has been
    /// compacted: read the keys again, and watch from there. `Unavailable`,
    /// `Transport` or `Timeout` if no node serves the watch within the client's time
    /// limit. `Protocol` if what a node sends makes no sense, or one revision is larger
    /// than a quarter of a gibibyte. The watch has then ended, and the error is told
    /// again.
    ///
    /// # Cancel safety
    /// Nothing is lost if the future is dropped.
    pub async fn next(&mut self) -> Result<WatchMessage, Error> {
        loop {
            if let Some(error) = &self.ended {
                return Err(error.clone());
            }
            match self.step().await {
                Ok(Some(message)) => return Ok(message),
                Ok(None) => {}
                Err(error) => self.ended = Some(error),
            }
        }
    }

    /// The revision up to which everything has been told; `None` before the first message.
    pub fn revision(&self) -> Option<i64> {
        self.passed
    }

    /// Receives a message, or takes a step that leads to one.
    async fn step(&mut self) -> Result<Option<WatchMessage>, Error> {
        if self.connection.is_none() {
            self.connect().await?;
        }
        let Some(connection) = &mut self.connection else { return Ok(None) };
        let message = match connection.receive().await {
            Ok(message) => message,
            // Any node would send it again.
            Err(error @ Error::Protocol { .. }) => return Err(error),
            Err(error) => {
                self.break_off(error);
                return Ok(None);
            }
        };
        let endpoint = connection.stream.endpoint.clone();
        match message.event.as_str() {
            "created" => self.created(&message, &endpoint),
            "change" => self.change(&message, &endpoint),
            "progress" => {
                let RevisionBody { revision } = decode(&message, &endpoint)?;
                self.served();
                let known = self.passed.is_some_and(|passed| revision <= passed);
                self.passed = self.passed.max(Some(revision));
                Ok((!known).then_some(WatchMessage::Progress { revision }))
            }
            "error" => {
                self.break_off(last_words(&message, &endpoint)?);
                Ok(None)
            }
            // Kinds that a later release may add.
            _ => Ok(None),
        }
    }

    async fn connect(&mut self) -> Result<(), Error> {
        if let Some(broken) = &self.broken {
            if broken.again.saturating_duration_since(broken.since) > self.client.timeout {
                return Err(broken.why.clone());
            }
            tokio::time::sleep_until(broken.again.into()).await;
        }
        let stream = self.client.execute_as(&self.call()).await?;
        let parser = Parser::new(self.largest_message);
        self.connection = Some(Connection { stream, created: None, parser, piece: Bytes::new() });
        Ok(())
    }

    fn call(&self) -> Call {
        let mut query = Query::default();
        self.options.range.add_to_query(&mut query);
        query.number("from_revision", self.options.from_revision);
        query.flag("previous", self.options.previous);
        let only = self.options.only.map(|kind| match kind {
            EventKind::Put => "put",
            EventKind::Delete => "delete",
        });
        query.text("only", only);
        let path = query.append_to("/v1/watch");
        let call = Call::new(Method::GET, path, Effect::Read)
            .header(ACCEPT, HeaderValue::from_static("text/event-stream"));
        match self.passed {
            None => call,
            Some(revision) => call.header(HeaderName::from_static("last-event-id"), revision.into()),
        }
    }

    /// Gives a connection up, to go on with the next endpoint.
    fn break_off(&mut self, why: Error) {
        let created = self.connection.take().and_then(|connection| connection.created);
        if created.is_some_and(|created| created.elapsed() >= LONGEST_PAUSE) {
            self.served();
        }
        let next = self.client.preferred.load(Ordering::Relaxed) + 1;
        self.client.preferred.store(next % self.client.endpoints.len().max(1), Ordering::Relaxed);
        let now = Instant::now();
        let since = self.broken.as_ref().map_or(now, |broken| broken.since);
        self.broken = Some(Broken { since, again: now + self.pause, why });
        self.pause = (self.pause * 2).clamp(FIRST_PAUSE, LONGEST_PAUSE);
    }

    /// A connection serves the watch: what was broken is mended.
    fn served(&mut self) {
        self.broken = None;
        self.pause = Duration::ZERO;
    }

    fn created(&mut self, message: &Message, endpoint: &str) -> Result<Option<WatchMessage>, Error> {
        let RevisionBody { revision } = decode(message, endpoint)?;
        if let Some(connection) = &mut self.connection {
            connection.created = Some(Instant::now());
        }
        match self.passed {
            None => {
                self.passed = Some(revision);
                // From now on it is known that there are nodes at the endpoints.
                self.client.patience = Duration::MAX;
                Ok(Some(WatchMessage::Created { revision }))
            }
            Some(passed) if revision > passed => {
                let text = format!("the watch was to go on after revision {passed}, not after {revision}");
                Err(strange(endpoint, text))
            }
            Some(_) => Ok(None),
        }
    }

    fn change(&mut self, message: &Message, endpoint: &str) -> Result<Option<WatchMessage>, Error> {
        let ChangeBody { revision, events } = decode(message, endpoint)?;
        let Some(passed) = self.passed else {
            return Err(strange(endpoint, "a watch tells a change before it is created"));
        };
        self.served();
        if revision <= passed {
            return Ok(None);
        }
        let events = events.into_iter().map(|event| event.decode(endpoint)).collect::<Result<_, _>>()?;
        self.passed = Some(revision);
        Ok(Some(WatchMessage::Change { revision, events }))
    }
}

impl Connection {
    /// The next message; `Protocol` if what arrives is none, any other error if the
    /// connection is of no more use.
    async fn receive(&mut self) -> Result<Message, Error> {
        loop {
            let mut rest = self.piece.as_ref();
            let parsed = self.parser.next(&mut rest);
            let left = rest.len();
            self.piece = self.piece.split_off(self.piece.len() - left);
            match parsed {
                Ok(Some(message)) => return Ok(message),
                Ok(None) => {}
                Err(error) => return Err(strange(&self.stream.endpoint, error.to_string())),
            }
            let endpoint = &self.stream.endpoint;
            let unavailable = |message: String| Error::Unavailable { message };
            self.piece = match tokio::time::timeout(LONGEST_SILENCE, self.stream.response.chunk()).await {
                Ok(Ok(Some(piece))) => piece,
                Ok(Ok(None)) => return Err(unavailable(format!("{endpoint} has ended the watch"))),
                Ok(Err(error)) => {
                    let cause = crate::error::root_cause(&error);
                    return Err(unavailable(format!("the connection to {endpoint} broke: {cause}")));
                }
                Err(_) => {
                    return Err(unavailable(format!("{endpoint} was silent for {LONGEST_SILENCE:.0?}")));
                }
            };
        }
    }
}

/// The error that ends a stream: `Ok` if another node may go on with the watch.
fn last_words(message: &Message, endpoint: &str) -> Result<Error, Error> {
    let ErrorBody { error: parts } = decode(message, endpoint)?;
    match parts.code.as_str() {
        "unavailable" | "not_leader" | "overloaded" | "timeout" | "internal" => {
            Ok(Error::Unavailable { message: parts.message })
        }
        code => {
            let status = if code == "compacted" { 410 } else { 400 };
            let (code, message, details) = (parts.code, parts.message, parts.details);
            Err(Error::Api { status, code, message, details })
        }
    }
}

fn decode<T: DeserializeOwned>(message: &Message, endpoint: &str) -> Result<T, Error> {
    serde_json::from_str(&message.data).map_err(|error| {
        strange(endpoint, format!("a message `{}` of the watch is undecodable: {error}", message.event))
    })
}

#[derive(Debug, Deserialize)]
struct RevisionBody {
    revision: i64,
}

#[derive(Debug, Deserialize)]
struct ChangeBody {
    revision: i64,
    events: Vec<EventBody>,
}

#[derive(Debug, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
enum EventBody {
    Put {
        #[serde(flatten)]
        item: ItemBody,
        previous: Option<ItemBody>,
    },
    Delete {
        #[serde(flatten)]
        key: KeyBody,
        previous: Option<ItemBody>,
    },
}

impl EventBody {
    fn decode(self, endpoint: &str) -> Result<Event, Error> {
        let previous = |item: Option<ItemBody>| item.map(|item| item.decode(endpoint)).transpose();
        Ok(match self {
            Self::Put { item, previous: before } => {
                Event::Put { item: item.decode(endpoint)?, previous: previous(before)? }
            }
            Self::Delete { key, previous: before } => {
                Event::Delete { key: key.decode(endpoint)?, previous: previous(before)? }
            }
        })
    }
}

#[cfg(test)]
mod tests;

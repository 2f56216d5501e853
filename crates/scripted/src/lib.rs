//! An HTTP server for tests that answers by a script.
//!
//! It knows just enough HTTP/1.1 for the client: requests with a length, answers
//! with a length, connections that are kept. It listens on a free loopback port
//! and ends when it is dropped.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// A request as it arrived.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// The method.
    pub method: String,
    /// The path with its query, as it was sent.
    pub target: String,
    /// Header names in lower case, and values.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
}

impl Request {
    /// A header's value.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }
}

/// What the server does with a request.
#[derive(Debug, Clone)]
pub enum Step {
    /// Answers.
    Reply {
        /// The status.
        status: u16,
        /// Additional headers.
        headers: Vec<(String, String)>,
        /// The body.
        body: Vec<u8>,
    },
    /// Answers 200 with a body that has no announced end.
    Stream {
        /// What is sent of it.
        body: Vec<u8>,
        /// Whether the connection then stays open in silence, or is closed.
        stays: bool,
    },
    /// Closes the connection without an answer.
    Close,
    /// Keeps the connection open and never answers.
    Hang,
}

impl Step {
    /// An answer with a body.
    pub fn reply(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self::Reply { status, headers: Vec::new(), body: body.into() }
    }

    /// A stream of server-sent events, each given by its kind, its id and its data.
    /// It ends after them, or stays open if `stays`.
    pub fn events(events: &[(&str, i64, serde_json::Value)], stays: bool) -> Self {
        let mut body = String::from(": a comment\n\n");
        for (kind, id, data) in events {
            body.extend(["event: ", kind, "\nid: ", &id.to_string(), "\ndata: ", &data.to_string(), "\n\n"]);
        }
        Self::Stream { body: body.into_bytes(), stays }
    }

    /// An error as the API words it.
    pub fn error(status: u16, code: &str) -> Self {
        let body = serde_json::json!({ "error": { "code": code, "message": code, "details": {} } });
        Self::reply(status, body.to_string())
    }

    /// The same answer with another header.
    #[must_use]
    pub fn with(mut self, name: &str, value: &str) -> Self {
        if let Self::Reply { headers, .. } = &mut self {
            headers.push((name.to_owned(), value.to_owned()));
        }
        self
    }
}

type Script = dyn FnMut(&Request) -> Step + Send;

/// A running server.
pub struct Scripted {
    addr: String,
    requests: Arc<Mutex<Vec<Request>>>,
    task: JoinHandle<()>,
}

impl Scripted {
    /// Starts a server that does with each request what `script` says.
    ///
    /// # Panics
    /// If no loopback port can be bound.
    pub async fn start(script: impl FnMut(&Request) -> Step + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a loopback port can be bound");
        let addr = listener.local_addr().expect("a bound socket has an address").to_string();
        let requests = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&requests);
        let script: Arc<Mutex<Box<Script>>> = Arc::new(Mutex::new(Box::new(script)));
        let task = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let (seen, script) = (Arc::clone(&seen), Arc::clone(&script));
                connections.spawn(async move { serve(stream, &seen, &script).await });
            }
        });
        Self { addr, requests, task }
    }

    /// Starts a server that takes the steps in order and repeats the last one.
    ///
    /// # Panics
    /// If there are no steps, or no loopback port can be bound.
    pub async fn steps(steps: impl IntoIterator<Item = Step>) -> Self {
        let mut steps = steps.into_iter().collect::<Vec<_>>().into_iter();
        let mut current = steps.next().expect("a script has a step");
        Self::start(move |_| {
            let now = current.clone();
            if let Some(next) = steps.next() {
                current = next;
            }
            now
        })
        .await
    }

    /// `host:port`.
    pub fn addr(&self) -> &str {
        &self.addr
    }

    /// What has arrived so far.
    pub fn requests(&self) -> Vec<Request> {
        self.requests.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Scripted {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(stream: TcpStream, seen: &Mutex<Vec<Request>>, script: &Mutex<Box<Script>>) -> Option<()> {
    let mut stream = BufReader::new(stream);
    loop {
        let request = read(&mut stream).await?;
        let step = {
            let mut script = script.lock().unwrap_or_else(PoisonError::into_inner);
            (*script)(&request)
        };
        seen.lock().unwrap_or_else(PoisonError::into_inner).push(request);
        match step {
            Step::Close => return None,
            Step::Hang => std::future::pending::<()>().await,
            Step::Stream { body, stays } => {
                let head =
                    "HTTP/1.1 200 Scripted\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n";
                stream.write_all(head.as_bytes()).await.ok()?;
                stream.write_all(&body).await.ok()?;
                stream.flush().await.ok()?;
                if stays {
                    // Until the client has gone.
                    let _ = stream.read_u8().await;
                }
                return None;
            }
            Step::Reply { status, headers, body } => {
                let mut head = format!("HTTP/1.1 {status} Scripted\r\ncontent-length: {}\r\n", body.len());
                for (name, value) in headers {
                    head.extend([&name, ": ", &value, "\r\n"]);
                }
                head.push_str("\r\n");
                stream.write_all(head.as_bytes()).await.ok()?;
                stream.write_all(&body).await.ok()?;
                stream.flush().await.ok()?;
            }
        }
    }
}

async fn read(stream: &mut BufReader<TcpStream>) -> Option<Request> {
    let mut line = String::new();
    stream.read_line(&mut line).await.ok().filter(|read| *read > 0)?;
    let mut words = line.split_whitespace();
    let (method, target) = (words.next()?.to_owned(), words.next()?.to_owned());
    let mut headers = Vec::new();
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).await.ok().filter(|read| *read > 0)?;
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
    let mut request = Request { method, target, headers, body: Vec::new() };
    let length = request.header("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
    request.body.resize(length, 0);
    stream.read_exact(&mut request.body).await.ok()?;
    Some(request)
}

//! One HTTP/1.1 connection to a node, over which one call goes after the other.
//!
//! Nothing is ever sent twice, and what ends without an answer says whether the call can
//! have been sent at all.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Collected, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::{CONTENT_TYPE, HOST, HeaderMap};
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::time::timeout;

/// How long a connection may take to be made.
pub(super) const CONNECT: Duration = Duration::from_secs(1);
/// No answer of these workloads comes near this.
const LARGEST: usize = 32 << 20;

/// What is asked.
#[derive(Debug, Clone)]
pub(super) struct Question {
    /// The method.
    pub(super) method: Method,
    /// The path with its query.
    pub(super) path: String,
    /// Headers besides those that every call has.
    pub(super) headers: Vec<(&'static str, String)>,
    /// The body.
    pub(super) body: String,
}

impl Question {
    /// A call without body or headers of its own.
    pub(super) fn new(method: Method, path: impl Into<String>) -> Self {
        Self { method, path: path.into(), headers: Vec::new(), body: String::new() }
    }

    /// The same with a body.
    pub(super) fn with_body(self, body: impl Into<String>) -> Self {
        Self { body: body.into(), ..self }
    }

    /// The same with a header.
    pub(super) fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    fn request(self, addr: &str) -> Result<Request<Full<Bytes>>, Trouble> {
        let mut request = Request::builder()
            .method(self.method)
            .uri(self.path)
            .header(HOST, addr)
            .header(CONTENT_TYPE, "application/json");
        for (name, value) in self.headers {
            request = request.header(name, value);
        }
        let body = Full::new(Bytes::from(self.body));
        request.body(body).map_err(|error| Trouble::NotSent(format!("cannot be asked: {error}")))
    }
}

/// A whole answer.
#[derive(Debug)]
pub(super) struct Answer {
    /// The status code.
    pub(super) status: u16,
    headers: HeaderMap,
    body: Bytes,
}

impl Answer {
    /// The body as JSON, null if it is none.
    pub(super) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or(Value::Null)
    }

    /// The body as text, if it is UTF-8.
    pub(super) fn text(&self) -> Option<String> {
        String::from_utf8(self.body.to_vec()).ok()
    }

    /// The code of an error in the API's form.
    pub(super) fn code(&self) -> Option<String> {
        self.json().pointer("/error/code")?.as_str().map(str::to_owned)
    }

    /// The number in a header, with or without quotes.
    pub(super) fn number(&self, name: &str) -> Option<i64> {
        self.headers.get(name)?.to_str().ok()?.trim_matches('"').parse().ok()
    }

    #[cfg(test)]
    pub(super) fn of(status: u16, body: &str) -> Self {
        Self { status, headers: HeaderMap::new(), body: Bytes::from(body.to_owned()) }
    }

    #[cfg(test)]
    pub(super) fn with(mut self, name: &'static str, value: &str) -> Self {
        self.headers.insert(name, value.parse().unwrap());
        self
    }
}

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Trouble {
    /// It was certainly not sent.
    NotSent(String),
    /// It may have been sent.
    Lost(String),
}

/// A connection that is made when it is needed.
#[derive(Debug)]
pub(super) struct Link {
    addr: String,
    sender: Option<SendRequest<Full<Bytes>>>,
}

impl Link {
    /// A connection to `HOST:PORT`, which is not made yet.
    pub(super) fn new(addr: &str) -> Self {
        Self { addr: addr.to_owned(), sender: None }
    }

    /// Where it leads.
    pub(super) fn addr(&self) -> &str {
        &self.addr
    }

    /// Sends once, and waits for the whole answer no longer than `limit`.
    ///
    /// # Errors
    /// Whether it can have been sent. The next call makes a new connection.
    pub(super) async fn send(&mut self, question: Question, limit: Duration) -> Result<Answer, Trouble> {
        let request = question.request(&self.addr)?;
        let mut sender = self.ready(limit.min(CONNECT)).await?;
        let exchange = async {
            let response = start(&mut sender, request).await?;
            let (head, body) = response.into_parts();
            let body = Limited::new(body, LARGEST).collect().await;
            let body = body.map_err(|error| Trouble::Lost(format!("answer broke off: {error}")))?.to_bytes();
            Ok(Answer { status: head.status.as_u16(), headers: head.headers, body })
        };
        let answer = timeout(limit, exchange)
            .await
            .unwrap_or_else(|_| Err(Trouble::Lost(format!("no answer within {limit:?}"))))?;
        self.sender = Some(sender);
        Ok(answer)
    }

    /// The connection that there is, if it still stands, else a new one.
    async fn ready(&mut self, limit: Duration) -> Result<SendRequest<Full<Bytes>>, Trouble> {
        if let Some(mut sender) = self.sender.take()
            && let Ok(Ok(())) = timeout(limit, sender.ready()).await
        {
            return Ok(sender);
        }
        connect(&self.addr, limit).await
    }
}

async fn connect(addr: &str, limit: Duration) -> Result<SendRequest<Full<Bytes>>, Trouble> {
    let connecting = async {
        let stream = TcpStream::connect(addr).await.map_err(|error| error.to_string())?;
        stream.set_nodelay(true).map_err(|error| error.to_string())?;
        http1::handshake(TokioIo::new(stream)).await.map_err(|error| error.to_string())
    };
    let (sender, connection) = timeout(limit, connecting)
        .await
        .unwrap_or_else(|_| Err(format!("no connection within {limit:?}")))
        .map_err(Trouble::NotSent)?;
    // Its end shows in the sender.
    tokio::spawn(connection);
    Ok(sender)
}

async fn start(
    sender: &mut SendRequest<Full<Bytes>>,
    request: Request<Full<Bytes>>,
) -> Result<hyper::Response<Incoming>, Trouble> {
    sender.try_send_request(request).await.map_err(|mut error| {
        // A request that is given back did not begin to be written.
        if error.take_message().is_some() {
            Trouble::NotSent(error.error().to_string())
        } else {
            Trouble::Lost(error.error().to_string())
        }
    })
}

/// Opens an answer that has no end, over a connection of its own.
///
/// # Errors
/// What was told instead.
pub(super) async fn stream(
    addr: &str,
    question: Question,
    limit: Duration,
) -> Result<Incoming, StreamRefused> {
    let opening = async {
        let request = question.request(addr)?;
        let mut sender = connect(addr, limit).await?;
        start(&mut sender, request).await
    };
    let opened = timeout(limit, opening).await;
    let response = opened.unwrap_or_else(|_| Err(Trouble::Lost(format!("no answer within {limit:?}"))))?;
    if response.status().as_u16() == 200 {
        return Ok(response.into_body());
    }
    let status = response.status().as_u16();
    let headers = response.headers().clone();
    let body = timeout(limit, Limited::new(response.into_body(), LARGEST).collect()).await;
    let body =
        body.map_or_else(|_| Bytes::new(), |body| body.map_or_else(|_| Bytes::new(), Collected::to_bytes));
    Err(StreamRefused::Told(Answer { status, headers, body }))
}

/// Why a stream did not open.
#[derive(Debug)]
pub(super) enum StreamRefused {
    /// The node answered otherwise.
    Told(Answer),
    /// It did not answer.
    Silent(Trouble),
}

impl From<Trouble> for StreamRefused {
    fn from(trouble: Trouble) -> Self {
        Self::Silent(trouble)
    }
}

#[cfg(test)]
mod tests {
    use kvorum_scripted::{Scripted, Step};

    use super::*;

    const LIMIT: Duration = Duration::from_millis(300);

    fn question() -> Question {
        Question::new(Method::PUT, "/v1/kv/a").with_body("x").with("if-match", "\"3\"")
    }

    #[tokio::test]
    async fn a_connection_is_kept_and_replaced() {
        let server = Scripted::steps([
            Step::reply(200, "one").with("etag", "\"12\""),
            Step::reply(404, r#"{"error":{"code":"not_found"}}"#),
            Step::Close,
            Step::reply(200, "three"),
        ])
        .await;
        let mut link = Link::new(server.addr());
        let first = link.send(question(), LIMIT).await.unwrap();
        assert_eq!(
            (first.status, first.text().unwrap().as_str(), first.number("etag")),
            (200, "one", Some(12))
        );
        assert_eq!(link.send(question(), LIMIT).await.unwrap().code().as_deref(), Some("not_found"));
        assert!(matches!(link.send(question(), LIMIT).await, Err(Trouble::Lost(_))));
        assert_eq!(link.send(question(), LIMIT).await.unwrap().text().unwrap(), "three");
        let seen = server.requests();
        assert_eq!(seen.len(), 4, "nothing is sent twice");
        assert_eq!((seen[0].method.as_str(), seen[0].header("if-match")), ("PUT", Some("\"3\"")));
        assert_eq!((seen[0].target.as_str(), seen[0].body.as_slice()), ("/v1/kv/a", &b"x"[..]));
    }

    #[tokio::test]
    async fn silence_may_have_been_heard_and_a_refused_connection_not() {
        let server = Scripted::steps([Step::Hang]).await;
        let addr = server.addr().to_owned();
        let mut link = Link::new(&addr);
        let silence = link.send(question(), LIMIT).await.unwrap_err();
        assert_eq!(silence, Trouble::Lost("no answer within 300ms".to_owned()));
        let nowhere = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let refused = Link::new(&nowhere.to_string()).send(question(), LIMIT).await.unwrap_err();
        assert!(matches!(refused, Trouble::NotSent(_)), "{refused:?}");
    }
}

//! HTTP as a client without opinions speaks it: one request, one answer, nothing
//! repeated, and it says whether a failed request may have arrived.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::{HeaderMap, Request};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use serde_json::Value;

/// Longer than any time limit of a node that tests leave at its default, so that
/// it is the node that answers.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Why there is no answer.
#[derive(Debug)]
pub(crate) enum Trouble {
    /// No connection: the request was certainly not carried out.
    NotSent(String),
    /// The request may have been carried out.
    Lost(String),
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotSent(why) => write!(f, "not sent: {why}"),
            Self::Lost(why) => write!(f, "lost: {why}"),
        }
    }
}

/// An answer with its whole body.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Answer {
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.text()))
    }

    /// A header's number, with or without the quotes of an `ETag`.
    pub(crate) fn number(&self, header: &str) -> Option<i64> {
        self.headers.get(header)?.to_str().ok()?.trim_matches('"').parse().ok()
    }

    /// The stable code of an error.
    pub(crate) fn code(&self) -> String {
        let json: Value = serde_json::from_slice(&self.body).unwrap_or_default();
        json["error"]["code"].as_str().unwrap_or_default().to_owned()
    }

    /// Checks that it is a 2xx.
    #[track_caller]
    pub(crate) fn ok(self) -> Self {
        assert!((200..300).contains(&self.status), "{}: {}", self.status, self.text());
        self
    }

    /// Checks that it is this error and returns its message and details.
    #[track_caller]
    pub(crate) fn error(&self, status: u16, code: &str) -> (String, Value) {
        assert_eq!((self.status, self.code().as_str()), (status, code), "{}", self.text());
        let json = self.json();
        (json["error"]["message"].as_str().unwrap_or_default().to_owned(), json["error"]["details"].clone())
    }
}

/// A pool of connections to any node.
#[derive(Clone, Debug)]
pub(crate) struct Http {
    client: Client<HttpConnector, Full<Bytes>>,
    timeout: Duration,
    secret: Option<String>,
}

impl Http {
    pub(crate) fn new() -> Self {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        let client = Client::builder(TokioExecutor::new())
            .pool_idle_timeout(Duration::from_secs(20))
            .pool_timer(TokioTimer::new())
            .build(connector);
        Self { client, timeout: TIMEOUT, secret: None }
    }

    /// The same connections with another time limit.
    pub(crate) fn with_timeout(&self, timeout: Duration) -> Self {
        Self { timeout, ..self.clone() }
    }

    /// The same connections, sending the cluster's secret.
    pub(crate) fn with_secret(&self, secret: Option<&str>) -> Self {
        Self { secret: secret.map(str::to_owned), ..self.clone() }
    }

    pub(crate) async fn send(
        &self,
        method: &str,
        addr: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> Result<Answer, Trouble> {
        let mut request = Request::builder().method(method).uri(format!("http://{addr}{path}"));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        if let Some(secret) = &self.secret {
            request = request.header("authorization", format!("Bearer {secret}"));
        }
        let request = request.body(Full::new(body.into())).unwrap();
        let exchange = async {
            let response = self.client.request(request).await.map_err(|error| {
                let reason = format!("{method} {addr}{path}: {error:?}");
                if error.is_connect() { Trouble::NotSent(reason) } else { Trouble::Lost(reason) }
            })?;
            let (head, body) = response.into_parts();
            let body = body.collect().await.map_err(|error| Trouble::Lost(error.to_string()))?.to_bytes();
            Ok(Answer { status: head.status.as_u16(), headers: head.headers, body })
        };
        match tokio::time::timeout(self.timeout, exchange).await {
            Ok(result) => result,
            Err(_) => Err(Trouble::Lost(format!("{method} {addr}{path}: no answer in {:?}", self.timeout))),
        }
    }

    /// [`Self::send`] where no answer is a failure of the test.
    pub(crate) async fn call(
        &self,
        method: &str,
        addr: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> Answer {
        self.send(method, addr, path, headers, body).await.unwrap_or_else(|trouble| panic!("{trouble}"))
    }

    pub(crate) async fn get(&self, addr: &str, path: &str) -> Answer {
        self.call("GET", addr, path, &[], "").await
    }

    pub(crate) async fn post(&self, addr: &str, path: &str, body: &Value) -> Answer {
        self.call("POST", addr, path, &[("content-type", "application/json")], body.to_string()).await
    }

    pub(crate) async fn put(&self, addr: &str, key: &str, value: impl Into<Bytes>) -> Answer {
        self.call("PUT", addr, &format!("/v1/kv/{key}"), &[], value).await
    }
}

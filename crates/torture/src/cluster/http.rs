//! The harness's own calls of nodes, past the proxies.
//!
//! Not for the clients of a run: these calls are not written down.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::Request;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use serde::de::DeserializeOwned;

/// How long connections are kept that nobody uses.
const IDLE: Duration = Duration::from_secs(5);

/// An answer with its whole body.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: Bytes,
}

impl Answer {
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// What a 2xx says; anything else is an error.
    pub(crate) fn parse<T: DeserializeOwned>(&self) -> Result<T, String> {
        self.ok()?;
        serde_json::from_slice(&self.body).map_err(|error| format!("{error}: {}", self.text()))
    }

    /// Whether it is a 2xx.
    pub(crate) fn ok(&self) -> Result<(), String> {
        if (200..300).contains(&self.status) {
            Ok(())
        } else {
            Err(format!("{}: {}", self.status, self.text()))
        }
    }
}

/// A pool of connections to nodes.
#[derive(Debug, Clone)]
pub(crate) struct Http {
    client: Client<HttpConnector, Full<Bytes>>,
}

impl Http {
    pub(crate) fn new() -> Self {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        let client = Client::builder(TokioExecutor::new())
            .pool_idle_timeout(IDLE)
            .pool_timer(TokioTimer::new())
            .build(connector);
        Self { client }
    }

    /// Asks once; the error says why there is no answer.
    pub(crate) async fn send(
        &self,
        method: &str,
        address: &str,
        path: &str,
        body: String,
        limit: Duration,
    ) -> Result<Answer, String> {
        let request = Request::builder().method(method).uri(format!("http://{address}{path}"));
        let request = request.header("content-type", "application/json").body(Full::new(Bytes::from(body)));
        let request = request.map_err(|error| error.to_string())?;
        let exchange = async {
            let response = self.client.request(request).await.map_err(|error| format!("{error:?}"))?;
            let (head, body) = response.into_parts();
            let body = body.collect().await.map_err(|error| error.to_string())?.to_bytes();
            Ok::<_, String>(Answer { status: head.status.as_u16(), body })
        };
        match tokio::time::timeout(limit, exchange).await {
            Ok(result) => result.map_err(|error| format!("{method} {address}{path}: {error}")),
            Err(_) => Err(format!("{method} {address}{path}: no answer in {limit:?}")),
        }
    }

    pub(crate) async fn get(&self, address: &str, path: &str, limit: Duration) -> Result<Answer, String> {
        self.send("GET", address, path, String::new(), limit).await
    }

    pub(crate) async fn post(
        &self,
        address: &str,
        path: &str,
        body: String,
        limit: Duration,
    ) -> Result<Answer, String> {
        self.send("POST", address, path, body, limit).await
    }
}

//! The client and how it is made.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use reqwest::header::HeaderValue;

use crate::Error;
use crate::endpoint::Endpoint;

/// How long a call may take unless the caller says otherwise.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);

const DEFAULT_ENDPOINT: &str = "127.0.0.1:21001";
const LONGEST_CONNECT: Duration = Duration::from_secs(2);
const LONGEST_IDLE: Duration = Duration::from_secs(4);

/// A handle on a cluster; cheap to clone, clones share connections and what was
/// learnt about which node answers.
#[derive(Clone)]
pub struct Client {
    pub(crate) http: reqwest::Client,
    pub(crate) endpoints: Arc<[Endpoint]>,
    pub(crate) preferred: Arc<AtomicUsize>,
    pub(crate) secret: Option<HeaderValue>,
    pub(crate) timeout: Duration,
    pub(crate) patience: Duration,
}

impl Client {
    /// Begins a client.
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// The endpoints, as `host:port`.
    pub fn endpoints(&self) -> impl Iterator<Item = &str> {
        self.endpoints.iter().map(Endpoint::authority)
    }

    /// The endpoint that answered last.
    pub fn preferred_endpoint(&self) -> &str {
        let index = self.preferred.load(Ordering::Relaxed);
        self.endpoints.get(index).map_or(DEFAULT_ENDPOINT, Endpoint::authority)
    }

    /// The same client, speaking to `endpoint` alone.
    ///
    /// # Errors
    /// `InvalidInput` if it is not `host:port`.
    pub fn only(&self, endpoint: &str) -> Result<Self, Error> {
        self.among([endpoint])
    }

    /// The same client with other endpoints.
    ///
    /// # Errors
    /// `InvalidInput` if there are none or one is not `host:port`.
    pub fn among<'a>(&self, endpoints: impl IntoIterator<Item = &'a str>) -> Result<Self, Error> {
        let endpoints = endpoints.into_iter().map(Endpoint::parse).collect::<Result<Arc<[_]>, _>>()?;
        if endpoints.is_empty() {
            return Err(Error::InvalidInput("no endpoint is given".to_owned()));
        }
        Ok(Self { endpoints, preferred: Arc::default(), ..self.clone() })
    }

    /// The same client, once it is known that there are nodes at its endpoints: it
    /// goes on trying when none can be connected to.
    pub(crate) fn patient(&self) -> Self {
        Self { patience: Duration::MAX, ..self.clone() }
    }

    /// The same client with another time limit for each call.
    #[must_use]
    pub fn with_timeout(&self, timeout: Duration) -> Self {
        Self { timeout, ..self.clone() }
    }
}

impl fmt::Debug for Client {
    /// Leaves the secret out.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("endpoints", &self.endpoints)
            .field("timeout", &self.timeout)
            .finish_non_exhaustive()
    }
}

/// Gathers what a [`Client`] needs.
#[derive(Clone, Default)]
pub struct Builder {
    endpoints: Vec<String>,
    secret: Option<String>,
    timeout: Option<Duration>,
    patience: Option<Duration>,
}

impl Builder {
    /// The nodes to speak to, as `host:port`; `127.0.0.1:21001` unless given.
    #[must_use]
    pub fn endpoints<I: IntoIterator<Item = S>, S: Into<String>>(mut self, endpoints: I) -> Self {
        self.endpoints = endpoints.into_iter().map(Into::into).collect();
        self
    }

    /// The cluster's secret; it is sent with management calls only.
    #[must_use]
    pub fn cluster_secret(mut self, secret: impl Into<String>) -> Self {
        self.secret = Some(secret.into());
        self
    }

    /// How long a call may take, retries and waiting included; [`DEFAULT_TIMEOUT`]
    /// unless given.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// How long to go on when no endpoint can even be connected to; as long as
    /// the time limit unless given.
    #[must_use]
    pub fn patience_when_unreachable(mut self, patience: Duration) -> Self {
        self.patience = Some(patience);
        self
    }

    /// Makes the client. Nothing is sent yet.
    ///
    /// # Errors
    /// `InvalidInput` if an endpoint is not `host:port` or the secret cannot
    /// stand in a header.
    pub fn build(self) -> Result<Client, Error> {
        let endpoints = if self.endpoints.is_empty() {
            vec![Endpoint::parse(DEFAULT_ENDPOINT)?]
        } else {
            self.endpoints.iter().map(|text| Endpoint::parse(text)).collect::<Result<Vec<_>, _>>()?
        };
        let secret = self.secret.map(|secret| bearer(&secret)).transpose()?;
        let timeout = self.timeout.unwrap_or(DEFAULT_TIMEOUT);
        let share = timeout / u32::try_from(endpoints.len()).unwrap_or(u32::MAX);
        let http = reqwest::Client::builder()
            // The answer of a proxy or behind a redirect is not this cluster's.
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            // Shorter than servers keep idle connections, so that a write is
            // hardly ever sent into one that is just being closed.
            .pool_idle_timeout(LONGEST_IDLE)
            .connect_timeout(share.clamp(Duration::from_millis(100), LONGEST_CONNECT))
            .user_agent(concat!("kvorum-client/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|error| Error::InvalidInput(format!("no HTTP client can be made: {error}")))?;
        Ok(Client {
            http,
            endpoints: endpoints.into(),
            preferred: Arc::default(),
            secret,
            timeout,
            patience: self.patience.unwrap_or(Duration::MAX),
        })
    }
}

fn bearer(secret: &str) -> Result<HeaderValue, Error> {
    let mut value = HeaderValue::try_from(format!("Bearer {secret}")).map_err(|_| {
        Error::InvalidInput("the cluster secret holds characters that no header can".to_owned())
    })?;
    value.set_sensitive(true);
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_secret_is_not_shown_in_debug_output() {
        let client = Client::builder().cluster_secret("hush").build().unwrap();
        assert!(!format!("{client:?}").contains("hush"));
    }

    #[test]
    fn the_endpoint_is_local_unless_given() {
        let client = Client::builder().build().unwrap();
        assert_eq!(client.endpoints().collect::<Vec<_>>(), [DEFAULT_ENDPOINT]);
        assert_eq!(client.preferred_endpoint(), DEFAULT_ENDPOINT);
    }

    #[test]
    fn a_secret_with_a_line_break_is_refused() {
        let refused = Client::builder().cluster_secret("a\nb").build();
        assert!(matches!(refused, Err(Error::InvalidInput(_))));
    }
}

//! What carries requests to peers: one HTTP client per purpose.
//!
//! Knows connections and nothing of what goes over them. The one place that a
//! simulation replaces, by connections of its own.

use hyper::{Request, Response};

use super::transport::{PeerBody, Purpose};

#[cfg(not(feature = "simulation"))]
pub use real::AnswerBody;
#[cfg(not(feature = "simulation"))]
pub(super) use real::Carrier;

/// Why a request was not answered.
#[derive(Debug)]
pub struct Lost {
    /// No connection: the peer certainly did not see the request.
    pub is_unseen: bool,
    /// Why.
    pub reason: String,
}

#[cfg(not(feature = "simulation"))]
mod real {
    use std::time::Duration;

    use hyper_util::client::legacy::Client;
    use hyper_util::client::legacy::connect::HttpConnector;
    use hyper_util::rt::{TokioExecutor, TokioTimer};

    use super::{Lost, PeerBody, Purpose, Request, Response};

    /// How long a connection may take to be made.
    const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
    /// Shorter than a server's keep-alive, so that an idle connection is dropped
    /// here before it is closed there.
    const IDLE_TIMEOUT: Duration = Duration::from_secs(30);

    /// The body of an answer.
    pub type AnswerBody = hyper::body::Incoming;

    /// A pool of connections for each purpose.
    #[derive(Debug)]
    pub(in crate::openraft_network) struct Carrier {
        append: Client<HttpConnector, PeerBody>,
        heartbeat: Client<HttpConnector, PeerBody>,
        snapshot: Client<HttpConnector, PeerBody>,
        forward: Client<HttpConnector, PeerBody>,
    }

    impl Carrier {
        pub(in crate::openraft_network) fn new() -> Self {
            Self {
                append: new_client(),
                heartbeat: new_client(),
                snapshot: new_client(),
                forward: new_client(),
            }
        }

        /// Sends a request and returns once the head of the answer is here.
        pub(in crate::openraft_network) async fn send(
            &self,
            purpose: Purpose,
            request: Request<PeerBody>,
        ) -> Result<Response<AnswerBody>, Lost> {
            let client = match purpose {
                Purpose::Append => &self.append,
                Purpose::Heartbeat => &self.heartbeat,
                Purpose::Snapshot => &self.snapshot,
                Purpose::Forward => &self.forward,
            };
            let lost = |error: hyper_util::client::legacy::Error| Lost {
                is_unseen: error.is_connect(),
                reason: root_cause(&error),
            };
            client.request(request).await.map_err(lost)
        }
    }

    fn new_client() -> Client<HttpConnector, PeerBody> {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        connector.set_connect_timeout(Some(CONNECT_TIMEOUT));
        connector.set_keepalive(Some(Duration::from_secs(10)));
        Client::builder(TokioExecutor::new())
            .pool_idle_timeout(IDLE_TIMEOUT)
            .pool_timer(TokioTimer::new())
            .build(connector)
    }

    /// The innermost reason of an error chain, which is what an operator can act on.
    fn root_cause(error: &dyn std::error::Error) -> String {
        let mut cause = error;
        while let Some(source) = cause.source() {
            cause = source;
        }
        cause.to_string()
    }
}

/// The body of an answer.
#[cfg(feature = "simulation")]
pub type AnswerBody = PeerBody;

/// Hands requests to the simulation.
#[cfg(feature = "simulation")]
#[derive(Debug)]
pub(super) struct Carrier;

#[cfg(feature = "simulation")]
impl Carrier {
    pub(super) fn new() -> Self {
        Self
    }

    pub(super) async fn send(
        &self,
        purpose: Purpose,
        request: Request<PeerBody>,
    ) -> Result<Response<AnswerBody>, Lost> {
        let carried = crate::simulation::world().carry(purpose, request);
        carried.await
    }
}

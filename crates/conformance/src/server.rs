//! A server at an endpoint: it is swept before a sequence and then asked step by step.

use std::time::Duration;

use bytes::Bytes;
use kvorum_etcd_proto::etcdserverpb as pb;
use pb::kv_client::KvClient;
use pb::lease_client::LeaseClient;
use pb::maintenance_client::MaintenanceClient;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Response, Status};

use crate::answer::Answer;
use crate::step::Step;

/// How long a single call may take before it counts as an answer of its own.
const PATIENCE: Duration = Duration::from_secs(20);

/// Why a server cannot be asked.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// Nothing listens, or the address is none.
    #[error("cannot connect to {endpoint}")]
    Connect {
        /// Where.
        endpoint: String,
        /// Why not.
        #[source]
        source: tonic::transport::Error,
    },
    /// What prepares a sequence was refused.
    #[error("{endpoint} refuses to be prepared: {status}")]
    Prepare {
        /// Where.
        endpoint: String,
        /// What it said.
        status: Status,
    },
}

impl ServerError {
    fn connect(endpoint: &str, source: tonic::transport::Error) -> Self {
        Self::Connect { endpoint: endpoint.to_owned(), source }
    }
}

/// The address `HOST:PORT`, to be connected to.
pub(crate) fn address(endpoint: &str) -> Result<Endpoint, ServerError> {
    Endpoint::from_shared(format!("http://{endpoint}"))
        .map_err(|source| ServerError::connect(endpoint, source))
}

async fn connect(endpoint: &str) -> Result<Channel, ServerError> {
    let address = address(endpoint)?.connect_timeout(Duration::from_secs(5)).timeout(PATIENCE);
    address.connect().await.map_err(|source| ServerError::connect(endpoint, source))
}

/// One of the two servers that are compared.
pub struct Server {
    endpoint: String,
    version: (u32, u32),
    kv: KvClient<Channel>,
    lease: LeaseClient<Channel>,
}

impl Server {
    /// Connects and learns the version of etcd that the server claims to be.
    ///
    /// # Errors
    /// When nothing listens, or the version is not told.
    pub async fn connect(endpoint: &str) -> Result<Self, ServerError> {
        let channel = connect(endpoint).await?;
        let status = MaintenanceClient::new(channel.clone())
            .status(pb::StatusRequest::default())
            .await
            .map_err(|status| ServerError::Prepare { endpoint: endpoint.to_owned(), status })?;
        let mut numbers = status.get_ref().version.split('.').map(|part| part.parse().unwrap_or(0));
        let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
        Ok(Self {
            endpoint: endpoint.to_owned(),
            version,
            kv: KvClient::new(channel.clone()),
            lease: LeaseClient::new(channel),
        })
    }

    /// The version of etcd that the server claims to be: major and minor.
    pub fn version(&self) -> (u32, u32) {
        self.version
    }

    /// Removes every key and lease, forgets the past, and tells the revision then.
    ///
    /// Afterwards that revision is the oldest that can be read, on every server.
    async fn sweep(&mut self) -> Result<i64, Status> {
        let leases = self.lease.lease_leases(pb::LeaseLeasesRequest {}).await?.into_inner();
        for lease in leases.leases {
            self.lease.lease_revoke(pb::LeaseRevokeRequest { id: lease.id }).await?;
        }
        let everything = Bytes::from_static(b"\0");
        let request =
            pb::DeleteRangeRequest { key: everything.clone(), range_end: everything, prev_kv: false };
        let deleted = self.kv.delete_range(request).await?.into_inner();
        let mut base = deleted.header.map_or(0, |header| header.revision);
        // Revisions a little before it must be revisions, and none that mean something else.
        while base < 8 {
            let key = Bytes::from_static(b"past");
            self.kv.put(pb::PutRequest { key: key.clone(), ..Default::default() }).await?;
            let gone = self.kv.delete_range(pb::DeleteRangeRequest { key, ..Default::default() }).await?;
            base = gone.into_inner().header.map_or(i64::MAX, |header| header.revision);
        }
        match self.kv.compact(pb::CompactionRequest { revision: base, physical: false }).await {
            Ok(_) => Ok(base),
            // Nothing has happened since the last time.
            Err(status) if status.code() == Code::OutOfRange => Ok(base),
            Err(status) => Err(status),
        }
    }

    /// Sweeps the server, and answers each step.
    ///
    /// # Errors
    /// When the server cannot be swept.
    pub async fn answers(&mut self, steps: &[Step]) -> Result<Vec<Answer>, ServerError> {
        let base = self
            .sweep()
            .await
            .map_err(|status| ServerError::Prepare { endpoint: self.endpoint.clone(), status })?;
        let mut answers = Vec::with_capacity(steps.len());
        for step in steps {
            answers.push(self.answer(step, base).await.normalised(base));
        }
        Ok(answers)
    }

    async fn answer(&mut self, step: &Step, base: i64) -> Answer {
        match step {
            Step::Range(range) => wrap(self.kv.range(range.request(base)).await, Answer::Range),
            Step::Put(put) => wrap(self.kv.put(put.request()).await, Answer::Put),
            Step::Delete(delete) => wrap(self.kv.delete_range(delete.request()).await, Answer::Delete),
            Step::Txn(txn) => wrap(self.kv.txn(txn.request(base)).await, Answer::Txn),
            Step::Compact { revision, physical } => {
                let request = pb::CompactionRequest { revision: revision.on(base), physical: *physical };
                wrap(self.kv.compact(request).await, Answer::Compact)
            }
            Step::Grant { id, ttl } => {
                let request = pb::LeaseGrantRequest { id: *id, ttl: *ttl };
                wrap(self.lease.lease_grant(request).await, Answer::Grant)
            }
            Step::Revoke { id } => {
                wrap(self.lease.lease_revoke(pb::LeaseRevokeRequest { id: *id }).await, Answer::Revoke)
            }
            Step::KeepAlive { id } => self.keep_alive(*id).await.unwrap_or_else(|status| refused(&status)),
            Step::TimeToLive { id, keys } => {
                let request = pb::LeaseTimeToLiveRequest { id: *id, keys: *keys };
                wrap(self.lease.lease_time_to_live(request).await, Answer::TimeToLive)
            }
            Step::Leases => wrap(self.lease.lease_leases(pb::LeaseLeasesRequest {}).await, Answer::Leases),
        }
    }

    async fn keep_alive(&mut self, id: i64) -> Result<Answer, Status> {
        let requests = tokio_stream::once(pb::LeaseKeepAliveRequest { id });
        let mut answers = self.lease.lease_keep_alive(requests).await?.into_inner();
        let answer = answers.message().await?;
        Ok(Answer::KeepAlive(answer.ok_or_else(|| Status::unknown("the stream ended without an answer"))?))
    }
}

fn wrap<T>(result: Result<Response<T>, Status>, answer: impl FnOnce(T) -> Answer) -> Answer {
    match result {
        Ok(response) => answer(response.into_inner()),
        Err(status) => refused(&status),
    }
}

fn refused(status: &Status) -> Answer {
    Answer::Refused { code: status.code(), message: status.message().to_owned() }
}

//! What a rate of puts and gets does not show: watches, long answers, leases.
//!
//! Each scenario sets servers of etcd's API up, does one thing to them, and
//! gives a few figures. They are meant for servers that were started for it:
//! keys and leases are left behind.

mod figures;
mod lease;
mod range;
mod spread;
mod watch;

use std::time::Duration;

use tonic::Status;
use tonic::transport::{Channel, Endpoint};

use crate::exchange::Failure;
use crate::grpc::CallError;
use crate::plan::{Args, Invalid, Output, Plan, endpoint, seconds};
use crate::process::Watched;
use crate::run::RunError;
use crate::workload::Workload;

pub(crate) use figures::Figures;

/// What is measured besides rates.
#[derive(Debug, Clone, clap::Subcommand)]
pub enum Scenario {
    /// Many watchers of one key: time from a put until the last of them has it.
    WatchFanout(watch::Fanout),
    /// Many watchers of keys that do not change: memory of the servers.
    WatchIdle(watch::Idle),
    /// An answer with every key in it: memory of the server that gives it.
    RangeStream(range::Stream),
    /// Many leases that are kept alive: CPU time of the servers.
    LeaseKeepAlive(lease::KeepAlive),
    /// Many leases that expire at once while puts go on.
    LeaseExpiry(lease::Expiry),
    /// One lease with many keys that is revoked while puts go on.
    LeaseRevoke(lease::Revoke),
}

/// The servers of a scenario.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Servers {
    /// Servers of etcd's API, as HOST:PORT; connections are spread over them in turn.
    #[arg(long, value_delimiter = ',', default_value = "127.0.0.1:2379", value_name = "A,B,C")]
    pub(crate) endpoints: Vec<String>,
    /// The servers' process ids; adds their CPU time and memory (Linux).
    #[arg(long, value_delimiter = ',', value_name = "A,B,C")]
    pub(crate) pids: Vec<u32>,
    /// How long to wait for any single thing.
    #[arg(long, default_value = "60", value_name = "SECONDS", value_parser = seconds)]
    pub(crate) patience: Duration,
    /// Form of the figures on standard output.
    #[arg(short, long, value_enum, default_value = "text")]
    pub(crate) output: Output,
}

/// Why there are no figures.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ScenarioError {
    #[error("{0}")]
    Invalid(String),
    #[error("cannot connect to {endpoint}: {source}")]
    Connect { endpoint: String, source: tonic::transport::Error },
    #[error("a stream ended: {:?}: {}", .0.code(), .0.message())]
    Stream(#[from] Status),
    #[error("a call failed: {0}")]
    Call(#[from] CallError),
    #[error("waited too long {0}")]
    TooLate(&'static str),
    #[error("a server does not keep its promise: {0}")]
    Wrong(String),
    #[error("the memory of process {0} cannot be read, or its peak not be reset")]
    Memory(u32),
    #[error(transparent)]
    Run(#[from] RunError),
    #[error("a task of the load generator ended before its work")]
    TaskLost,
}

impl From<Failure> for ScenarioError {
    fn from(failure: Failure) -> Self {
        Self::Call(failure.into())
    }
}

impl From<Invalid> for ScenarioError {
    fn from(invalid: Invalid) -> Self {
        Self::Invalid(invalid.to_string())
    }
}

impl Scenario {
    /// The form in which the figures are wanted.
    pub(crate) fn output(&self) -> Output {
        self.servers().output
    }

    fn servers(&self) -> &Servers {
        match self {
            Self::WatchFanout(watch::Fanout { servers, .. })
            | Self::WatchIdle(watch::Idle { servers, .. })
            | Self::RangeStream(range::Stream { servers, .. })
            | Self::LeaseKeepAlive(lease::KeepAlive { servers, .. })
            | Self::LeaseExpiry(lease::Expiry { servers, .. })
            | Self::LeaseRevoke(lease::Revoke { servers, .. }) => servers,
        }
    }

    /// Carries the scenario out.
    ///
    /// # Errors
    /// When a server cannot be reached, refuses, or gives a wrong answer.
    pub(crate) async fn carry_out(&self) -> Result<Figures, ScenarioError> {
        match self {
            Self::WatchFanout(fanout) => fanout.carry_out().await,
            Self::WatchIdle(idle) => idle.carry_out().await,
            Self::RangeStream(stream) => stream.carry_out().await,
            Self::LeaseKeepAlive(keep_alive) => keep_alive.carry_out().await,
            Self::LeaseExpiry(expiry) => expiry.carry_out().await,
            Self::LeaseRevoke(revoke) => revoke.carry_out().await,
        }
    }
}

impl Servers {
    /// The `host:port` of the connection `number`.
    fn endpoint(&self, number: usize) -> Result<String, ScenarioError> {
        let at = number.checked_rem(self.endpoints.len()).unwrap_or_default();
        let text = self.endpoints.get(at).ok_or_else(|| refused("--endpoints must name a server"))?;
        Ok(endpoint(text)?)
    }

    /// A channel for streams: the connection `number`.
    async fn channel(&self, number: usize) -> Result<Channel, ScenarioError> {
        let endpoint = self.endpoint(number)?;
        let connecting = |source| ScenarioError::Connect { endpoint: endpoint.clone(), source };
        let address = Endpoint::from_shared(format!("http://{endpoint}")).map_err(connecting)?;
        address.connect_timeout(self.patience).tcp_nodelay(true).connect().await.map_err(connecting)
    }

    async fn channels(&self, count: usize) -> Result<Vec<Channel>, ScenarioError> {
        let mut channels = Vec::with_capacity(count);
        for number in 0..count {
            channels.push(self.channel(number).await?);
        }
        Ok(channels)
    }

    /// The servers' processes, watched from now on.
    fn processes(&self) -> Result<Vec<Watched>, ScenarioError> {
        let watched = |&pid| Watched::start(pid).ok_or(ScenarioError::Run(RunError::NoProcess(pid)));
        self.pids.iter().map(watched).collect()
    }

    /// A run of the load generator against these servers.
    fn plan(&self, workload: Workload, clients: usize, keys: u64) -> Result<Plan, ScenarioError> {
        let args = Args {
            endpoints: self.endpoints.clone(),
            api: crate::plan::Api::Grpc,
            workload,
            clients,
            keys,
            timeout: self.patience,
            give_up: self.patience.saturating_mul(2),
            interval: Duration::ZERO,
            ..Args::default()
        };
        Ok(Plan::new(args)?)
    }
}

fn refused(message: &str) -> ScenarioError {
    ScenarioError::Invalid(message.to_owned())
}

/// Refuses the value 0 of an option.
fn at_least_one(values: &[(&str, u64)]) -> Result<(), ScenarioError> {
    match values.iter().find(|(_, value)| *value == 0) {
        Some((option, _)) => Err(refused(&format!("{option} must be at least 1"))),
        None => Ok(()),
    }
}

/// Which connection the stream `number` of `streams` is on: as even as they go.
fn connection_of(number: usize, connections: usize) -> usize {
    number.checked_rem(connections).unwrap_or_default()
}

#[cfg(test)]
mod tests;

//! What a node is told before it starts: sources, precedence, checks.
//!
//! Flags win over environment variables, these over the configuration file, and
//! that over the defaults. A [`Config`] is whole and checked: whoever holds one
//! need not look again. Nothing here opens a socket or the data folder; of files
//! it reads only the configuration and the cluster secret.

mod options;

use std::fmt;
use std::fs;
use std::io;
use std::net::IpAddr;
use std::num::NonZeroU64;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use tracing_subscriber::EnvFilter;

use crate::NodeId;
pub use options::{ByteSize, LogFormat, Options, PeerEncoding, Secret, ServeArgs};

/// Why a node cannot start as it was told to.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A file that the configuration names cannot be read.
    #[error("{option} names {path}, which can't be read: {source}", path = path.display())]
    Unreadable {
        /// The option that names the file.
        option: &'static str,
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// The configuration file holds something that is not an option's value.
    #[error("{path}, line {line}: {reason}", path = path.display())]
    File {
        /// The configuration file.
        path: PathBuf,
        /// The line, counted from 1.
        line: usize,
        /// What is wrong, with the key.
        reason: String,
    },
    /// An option without a default is set nowhere.
    #[error("{option} is not set: give --{}, KVORUM_{}, or {option} in the configuration file",
        option.replace('_', "-"), option.to_uppercase())]
    Missing {
        /// The option.
        option: &'static str,
    },
    /// An option's value cannot be used.
    #[error("{option} is {value}: {bound}")]
    Value {
        /// The option.
        option: &'static str,
        /// The value it has.
        value: String,
        /// What would be accepted.
        bound: String,
    },
}

impl ConfigError {
    fn value(option: &'static str, value: impl fmt::Display, bound: impl Into<String>) -> Self {
        Self::Value { option, value: value.to_string(), bound: bound.into() }
    }
}

/// How one node is to run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// This node's id.
    pub id: NodeId,
    /// Folder of this node's log and state.
    pub data_dir: PathBuf,
    /// Where clients are served.
    pub http_addr: String,
    /// Where peers are served, when not on `http_addr`.
    pub peer_addr: Option<String>,
    /// What the other nodes are told to call; never a wildcard.
    pub advertise_addr: String,
    /// Where gRPC is to be served once a release does; a node warns that it does not.
    pub grpc_addr: Option<String>,
    /// Encoding of what this node sends to its peers.
    pub peer_encoding: PeerEncoding,
    /// What peers' and management calls must carry; `None` lets all of them in.
    pub cluster_secret: Option<Secret>,
    /// Time to finish running requests and hand over leadership.
    pub shutdown_timeout: Duration,
    /// Form of the log lines.
    pub log_format: LogFormat,
    /// Which events are logged; known to parse.
    pub log_filter: String,
    /// Bounds on requests.
    pub limits: Limits,
    /// How long the outcome of a write with an idempotency key is remembered.
    pub idempotency_ttl: Duration,
    /// How long adding a learner waits for it to catch up.
    pub learner_catch_up_timeout: Duration,
    /// Time between two heartbeats of the leader.
    pub heartbeat_interval: Duration,
    /// Shortest silence of the leader after which a node stands for election.
    pub election_timeout_min: Duration,
    /// Longest such silence.
    pub election_timeout_max: Duration,
    /// Applied log entries after which the next snapshot is built.
    pub snapshot_log_entries: u64,
    /// Log entries kept behind a snapshot.
    pub log_entries_to_keep: u64,
    /// Bytes per second that sending snapshots may take; `None` is no bound.
    pub snapshot_rate_bytes_per_second: Option<NonZeroU64>,
    /// Memory for the newest log entries.
    pub log_cache_bytes: usize,
    /// Memory for blocks of the state that were read, an eighth of it for records that were written lately.
    pub block_cache_bytes: usize,
    /// Memory for writes to the state that are not yet in its files.
    pub write_buffer_bytes: usize,
    /// Threads that serve HTTP, at least one.
    pub http_workers: usize,
    /// Threads that run Raft, at least one.
    pub raft_workers: usize,
}

/// Bounds on what one request, and all of them together, may take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Longest key, in bytes.
    pub max_key_bytes: usize,
    /// Longest value, in bytes.
    pub max_value_bytes: usize,
    /// Longest body of a request, in bytes; a longest key and value fit in.
    pub max_request_bytes: usize,
    /// Most operations in one transaction.
    pub max_txn_ops: usize,
    /// Most keys in one page of a listing.
    pub max_page_keys: usize,
    /// Most bytes in one page of a listing.
    pub max_page_bytes: usize,
    /// Requests in progress at once.
    pub max_inflight_requests: usize,
    /// Bytes of request bodies and large answers in memory at once; at least one longest request.
    pub max_inflight_bytes: usize,
    /// Time after which a request is answered with a time-out.
    pub request_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self::from_options(&Options::defaults()).expect("every limit has a default")
    }
}

impl Limits {
    fn from_options(options: &Options) -> Result<Self, ConfigError> {
        Ok(Self {
            max_key_bytes: size("max_key_bytes", options.max_key_bytes)?,
            max_value_bytes: size("max_value_bytes", options.max_value_bytes)?,
            max_request_bytes: size("max_request_bytes", options.max_request_bytes)?,
            max_txn_ops: count("max_txn_ops", options.max_txn_ops)?,
            max_page_keys: count("max_page_keys", options.max_page_keys)?,
            max_page_bytes: size("max_page_bytes", options.max_page_bytes)?,
            max_inflight_requests: count("max_inflight_requests", options.max_inflight_requests)?,
            max_inflight_bytes: size("max_inflight_bytes", options.max_inflight_bytes)?,
            request_timeout: millis("request_timeout_ms", options.request_timeout_ms)?,
        })
    }
}

impl Config {
    /// Gathers every source and checks the result.
    ///
    /// # Errors
    /// Names the option, its value and what would be accepted; for the
    /// configuration file also the line.
    pub fn load(args: ServeArgs) -> Result<Self, ConfigError> {
        Self::from_options(&effective(args, rust_log())?)
    }

    /// The defaults for a node of this id and folder.
    pub fn with_defaults(id: NodeId, data_dir: impl Into<PathBuf>) -> Self {
        let options = Options { id: Some(id), data_dir: Some(data_dir.into()), ..Options::default() };
        Self::from_options(&options.or(Options::defaults())).expect("the defaults are valid")
    }

    /// What [`Config::load`] would use, as a configuration file without the secret.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn print(args: ServeArgs) -> Result<String, ConfigError> {
        let mut options = effective(args, rust_log())?;
        let config = Self::from_options(&options)?;
        options.advertise_addr = Some(config.advertise_addr);
        options.peer_addr = config.peer_addr;
        Ok(toml::to_string(&options).expect("checked options are within what TOML can write"))
    }

    fn from_options(options: &Options) -> Result<Self, ConfigError> {
        let http_addr = required("http_addr", options.http_addr.clone())?;
        let peer_addr = options.peer_addr.clone().filter(|addr| *addr != http_addr);
        let reachable = peer_addr.as_ref().unwrap_or(&http_addr);
        let advertise_addr = options.advertise_addr.as_ref().unwrap_or(reachable).clone();
        let rate = required("snapshot_rate_bytes_per_second", options.snapshot_rate_bytes_per_second)?;
        let config = Self {
            id: required("id", options.id)?,
            data_dir: required("data_dir", options.data_dir.clone())?,
            http_addr,
            peer_addr,
            advertise_addr,
            grpc_addr: options.grpc_addr.clone(),
            peer_encoding: required("peer_encoding", options.peer_encoding)?,
            cluster_secret: cluster_secret(options)?,
            shutdown_timeout: millis("shutdown_timeout_ms", options.shutdown_timeout_ms)?,
            log_format: required("log_format", options.log_format)?,
            log_filter: required("log_filter", options.log_filter.clone())?,
            limits: Limits::from_options(options)?,
            idempotency_ttl: millis("idempotency_ttl_ms", options.idempotency_ttl_ms)?,
            learner_catch_up_timeout: millis(
                "learner_catch_up_timeout_ms",
                options.learner_catch_up_timeout_ms,
            )?,
            heartbeat_interval: millis("heartbeat_interval_ms", options.heartbeat_interval_ms)?,
            election_timeout_min: millis("election_timeout_min_ms", options.election_timeout_min_ms)?,
            election_timeout_max: millis("election_timeout_max_ms", options.election_timeout_max_ms)?,
            snapshot_log_entries: required("snapshot_log_entries", options.snapshot_log_entries)?,
            log_entries_to_keep: required("log_entries_to_keep", options.log_entries_to_keep)?,
            snapshot_rate_bytes_per_second: NonZeroU64::new(rate.0),
            log_cache_bytes: size("log_cache_bytes", options.log_cache_bytes)?,
            block_cache_bytes: size("block_cache_bytes", options.block_cache_bytes)?,
            write_buffer_bytes: size("write_buffer_bytes", options.write_buffer_bytes)?,
            http_workers: match count("http_workers", options.http_workers)? {
                0 => thread::available_parallelism().map_or(1, usize::from),
                workers => workers,
            },
            raft_workers: count("raft_workers", options.raft_workers)?,
        };
        config.validate()?;
        Ok(config)
    }

    /// Checks each option and how they go together.
    ///
    /// # Errors
    /// The first option that is out of its bounds, with value and bound.
    pub fn validate(&self) -> Result<(), ConfigError> {
        const HOUR_MS: u64 = 3_600_000;
        // TOML's integers end here.
        within("id", self.id, 1..=i64::MAX as u64)?;
        self.validate_addresses()?;
        if let Some(secret) = &self.cluster_secret {
            validate_secret(secret)?;
        }
        if let Err(error) = EnvFilter::builder().parse(&self.log_filter) {
            return Err(ConfigError::value(
                "log_filter",
                format!("{:?}", self.log_filter),
                error.to_string(),
            ));
        }
        self.limits.validate()?;
        if self.peer_encoding == PeerEncoding::Json && self.limits.max_request_bytes > MOST_AS_JSON {
            let bound = "must be at most 10MiB while peer_encoding is json";
            return Err(ConfigError::value("max_request_bytes", self.limits.max_request_bytes, bound));
        }
        within_ms("shutdown_timeout_ms", self.shutdown_timeout, 1..=HOUR_MS)?;
        within_ms("idempotency_ttl_ms", self.idempotency_ttl, 1..=30 * 24 * HOUR_MS)?;
        within_ms("learner_catch_up_timeout_ms", self.learner_catch_up_timeout, 1..=24 * HOUR_MS)?;
        self.validate_timing()?;
        within("snapshot_log_entries", self.snapshot_log_entries, 1..=1_000_000_000)?;
        within("log_entries_to_keep", self.log_entries_to_keep, 0..=1_000_000_000)?;
        if let Some(rate) = self.snapshot_rate_bytes_per_second
            && !(64 << 10..=1 << 40).contains(&rate.get())
        {
            let bound = "must be 0 (no bound) or from 64KiB to 1024GiB";
            return Err(ConfigError::value("snapshot_rate_bytes_per_second", rate, bound));
        }
        within_size("log_cache_bytes", self.log_cache_bytes, 1 << 20..=1 << 40)?;
        within_size("block_cache_bytes", self.block_cache_bytes, 1 << 20..=1 << 40)?;
        within_size("write_buffer_bytes", self.write_buffer_bytes, 1 << 20..=1 << 40)?;
        within("http_workers", self.http_workers as u64, 1..=1_024)?;
        within("raft_workers", self.raft_workers as u64, 1..=256)
    }

    fn validate_addresses(&self) -> Result<(), ConfigError> {
        split_addr("http_addr", &self.http_addr)?;
        if let Some(addr) = &self.peer_addr {
            split_addr("peer_addr", addr)?;
        }
        if let Some(addr) = &self.grpc_addr {
            split_addr("grpc_addr", addr)?;
        }
        let (host, port) = split_addr("advertise_addr", &self.advertise_addr)?;
        let host = host.trim_start_matches('[').trim_end_matches(']');
        if port == 0 || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_unspecified()) {
            let bound = "the other nodes can't call this; set advertise_addr to the host and port at which they \
                         reach this node";
            return Err(ConfigError::value("advertise_addr", &self.advertise_addr, bound));
        }
        Ok(())
    }

    fn validate_timing(&self) -> Result<(), ConfigError> {
        within_ms("heartbeat_interval_ms", self.heartbeat_interval, 10..=60_000)?;
        let heartbeat = self.heartbeat_interval.as_millis() as u64;
        let min = self.election_timeout_min.as_millis() as u64;
        // With less, one late heartbeat already starts an election.
        if min < 2 * heartbeat {
            let bound = format!("must be at least twice heartbeat_interval_ms ({heartbeat})");
            return Err(ConfigError::value("election_timeout_min_ms", min, bound));
        }
        // A spread of nothing would let all nodes stand at the same moment.
        if self.election_timeout_max <= self.election_timeout_min {
            let bound = format!("must be more than election_timeout_min_ms ({min})");
            return Err(ConfigError::value(
                "election_timeout_max_ms",
                self.election_timeout_max.as_millis(),
                bound,
            ));
        }
        within_ms("election_timeout_max_ms", self.election_timeout_max, 1..=600_000)
    }
}

/// Largest request that nodes can pass on: in a message, among others or in the log.
pub const MOST_REQUEST_BYTES: usize = 62 << 20;
/// The same between nodes that speak JSON, in which a byte takes up to six.
const MOST_AS_JSON: usize = 10 << 20;

impl Limits {
    fn validate(&self) -> Result<(), ConfigError> {
        within_size("max_key_bytes", self.max_key_bytes, 1..=64 << 10)?;
        within_size("max_value_bytes", self.max_value_bytes, 1..=32 << 20)?;
        within_size("max_request_bytes", self.max_request_bytes, 1..=MOST_REQUEST_BYTES as u64)?;
        let entry = self.max_key_bytes + self.max_value_bytes;
        if self.max_request_bytes < entry {
            let bound = format!("must be at least max_key_bytes and max_value_bytes together ({entry})");
            return Err(ConfigError::value("max_request_bytes", self.max_request_bytes, bound));
        }
        within("max_txn_ops", self.max_txn_ops as u64, 1..=65_536)?;
        within("max_page_keys", self.max_page_keys as u64, 1..=1_000_000)?;
        within_size("max_page_bytes", self.max_page_bytes, 1..=256 << 20)?;
        within("max_inflight_requests", self.max_inflight_requests as u64, 1..=1_000_000)?;
        within_size("max_inflight_bytes", self.max_inflight_bytes, 1..=1 << 40)?;
        if self.max_inflight_bytes < self.max_request_bytes {
            let bound = format!("must be at least max_request_bytes ({})", self.max_request_bytes);
            return Err(ConfigError::value("max_inflight_bytes", self.max_inflight_bytes, bound));
        }
        within_ms("request_timeout_ms", self.request_timeout, 1..=3_600_000)
    }
}

fn rust_log() -> Option<String> {
    std::env::var("RUST_LOG").ok().filter(|filter| !filter.is_empty())
}

/// What all sources say together.
fn effective(args: ServeArgs, rust_log: Option<String>) -> Result<Options, ConfigError> {
    let mut upper = args.options;
    if upper.log_filter.is_none() {
        upper.log_filter = rust_log;
    }
    let mut file = match &args.config {
        Some(path) => read_file(path)?,
        None => Options::default(),
    };
    // The secret and its file are two ways to give one thing: a secret from the
    // environment replaces a file that is named in the configuration.
    if upper.cluster_secret.is_some() || upper.cluster_secret_file.is_some() {
        file.cluster_secret = None;
        file.cluster_secret_file = None;
    }
    Ok(upper.or(file).or(Options::defaults()))
}

fn read_file(path: &Path) -> Result<Options, ConfigError> {
    let text = fs::read_to_string(path).map_err(|source| ConfigError::Unreadable {
        option: "config",
        path: path.to_owned(),
        source,
    })?;
    toml::from_str(&text).map_err(|error| {
        let start = error.span().map_or(0, |span| span.start);
        let line = 1 + text.get(..start).unwrap_or_default().matches('\n').count();
        // The list of all options would bury the key that is wrong.
        let reason = match error.message().split_once(", expected one of") {
            Some((unknown, _)) => format!("{unknown}; --help lists the options"),
            None => match text.lines().nth(line - 1) {
                // A line may hold the secret, so only its key is shown.
                Some(at) => {
                    format!("{}: {}", at.split('=').next().unwrap_or_default().trim(), error.message())
                }
                None => error.message().to_owned(),
            },
        };
        ConfigError::File { path: path.to_owned(), line, reason }
    })
}

fn cluster_secret(options: &Options) -> Result<Option<Secret>, ConfigError> {
    match (&options.cluster_secret, &options.cluster_secret_file) {
        (None, None) => Ok(None),
        (Some(secret), None) => Ok(Some(secret.clone())),
        (None, Some(path)) => {
            let text = fs::read_to_string(path).map_err(|source| ConfigError::Unreadable {
                option: "cluster_secret_file",
                path: path.clone(),
                source,
            })?;
            Ok(Some(Secret::from(text.trim_end().to_owned())))
        }
        (Some(_), Some(path)) => Err(ConfigError::value(
            "cluster_secret_file",
            path.display(),
            "cluster_secret is set too; set one of the two",
        )),
    }
}

/// The secret travels in a header, where only these characters survive.
fn validate_secret(secret: &Secret) -> Result<(), ConfigError> {
    let text = secret.expose();
    if !(1..=512).contains(&text.len()) || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
        let value = format!("{} bytes long", text.len());
        return Err(ConfigError::value("cluster_secret", value, "must be 1 to 512 visible ASCII characters"));
    }
    if text == Secret::REDACTED {
        let bound =
            "that is what a printed configuration shows in place of the secret; set the secret itself";
        return Err(ConfigError::value("cluster_secret", Secret::REDACTED, bound));
    }
    Ok(())
}

/// Splits `HOST:PORT`; an IPv6 host keeps its brackets.
fn split_addr<'a>(option: &'static str, addr: &'a str) -> Result<(&'a str, u16), ConfigError> {
    let parts = addr.rsplit_once(':').and_then(|(host, port)| Some((host, port.parse().ok()?)));
    let bracketed = |host: &str| host.starts_with('[') && host.ends_with(']');
    match parts {
        Some((host, port))
            if !host.is_empty()
                && (bracketed(host) || !host.contains(':'))
                && !host.contains(|c: char| c.is_whitespace() || c == '/') =>
        {
            Ok((host, port))
        }
        _ => {
            Err(ConfigError::value(option, format!("{addr:?}"), "must be HOST:PORT, such as 127.0.0.1:21001"))
        }
    }
}

fn required<T>(option: &'static str, value: Option<T>) -> Result<T, ConfigError> {
    value.ok_or(ConfigError::Missing { option })
}

fn millis(option: &'static str, value: Option<u64>) -> Result<Duration, ConfigError> {
    required(option, value).map(Duration::from_millis)
}

/// Saturates, which the bounds then refuse.
fn count(option: &'static str, value: Option<u64>) -> Result<usize, ConfigError> {
    required(option, value).map(|value| usize::try_from(value).unwrap_or(usize::MAX))
}

fn size(option: &'static str, value: Option<ByteSize>) -> Result<usize, ConfigError> {
    count(option, value.map(|bytes| bytes.0))
}

fn within(option: &'static str, value: u64, bounds: RangeInclusive<u64>) -> Result<(), ConfigError> {
    if bounds.contains(&value) {
        return Ok(());
    }
    Err(ConfigError::value(option, value, format!("must be from {} to {}", bounds.start(), bounds.end())))
}

fn within_size(option: &'static str, value: usize, bounds: RangeInclusive<u64>) -> Result<(), ConfigError> {
    if bounds.contains(&(value as u64)) {
        return Ok(());
    }
    let (low, high) = (ByteSize(*bounds.start()), ByteSize(*bounds.end()));
    Err(ConfigError::value(option, value, format!("must be from {low} to {high}")))
}

fn within_ms(option: &'static str, value: Duration, bounds: RangeInclusive<u64>) -> Result<(), ConfigError> {
    within(option, u64::try_from(value.as_millis()).unwrap_or(u64::MAX), bounds)
}

#[cfg(test)]
mod tests;

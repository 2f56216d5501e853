//! Every option, declared once: name, meaning, type, environment variable and
//! default.
//!
//! The same struct is the command line, the environment and the configuration
//! file, so the three cannot drift apart. Options carry what was written, in the
//! units of the edge; what they mean together is [`super::Config`]'s business.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use serde::de::{self, Deserializer, Visitor};
use serde::{Deserialize, Serialize, Serializer};

const NODE: &str = "Node";
const LOGGING: &str = "Logging";
const LIMITS: &str = "Limits";
const RAFT: &str = "Raft";
const RESOURCES: &str = "Storage and threads";

/// The arguments of `kvorum serve`.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct ServeArgs {
    /// Configuration file (TOML); flags and environment variables win over it
    #[arg(long, env = "KVORUM_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Prints the configuration that would be used, as TOML and without the secret, and exits
    #[arg(long)]
    pub print_config: bool,
    /// The options themselves.
    #[command(flatten)]
    pub options: Options,
}

/// Declares [`Options`], how one source falls back to another, and the defaults.
macro_rules! options {
    ($($(#[$attribute:meta])* $name:ident: $type:ty = $default:expr;)+) => {
        /// What one source (flags and environment, file, defaults) says; `None` where it is silent.
        #[derive(Debug, Clone, Default, PartialEq, Eq, clap::Args, Deserialize, Serialize)]
        #[serde(deny_unknown_fields, default)]
        pub struct Options {
            $($(#[$attribute])* #[arg(long)] pub $name: Option<$type>,)+
        }

        impl Options {
            /// The value of every option that has a default.
            pub fn defaults() -> Self {
                Self { $($name: $default,)+ }
            }

            /// Each option as `self` has it, or else as `fallback` has it.
            #[must_use]
            pub fn or(self, fallback: Self) -> Self {
                Self { $($name: self.$name.or(fallback.$name),)+ }
            }
        }
    };
}

options! {
    /// This node's id, at least 1; never reused within a cluster. Required
    #[arg(env = "KVORUM_ID", value_name = "N", help_heading = NODE)]
    id: u64 = None;

    /// Folder of this node's log and state. Required
    #[arg(env = "KVORUM_DATA_DIR", value_name = "DIR", help_heading = NODE)]
    data_dir: PathBuf = None;

    /// Address that clients call (default 127.0.0.1:21001)
    #[arg(env = "KVORUM_HTTP_ADDR", value_name = "HOST:PORT", help_heading = NODE)]
    http_addr: String = Some("127.0.0.1:21001".into());

    /// Address that the other nodes call, when it is not to be the HTTP address
    #[arg(env = "KVORUM_PEER_ADDR", value_name = "HOST:PORT", help_heading = NODE)]
    peer_addr: String = None;

    /// Address that the other nodes are told to call (default: the peer or else the HTTP address)
    #[arg(env = "KVORUM_ADVERTISE_ADDR", value_name = "HOST:PORT", help_heading = NODE)]
    advertise_addr: String = None;

    /// Address of etcd's API over gRPC and in JSON; none is served without it
    #[arg(env = "KVORUM_GRPC_ADDR", value_name = "HOST:PORT", help_heading = NODE)]
    grpc_addr: String = None;

    /// Encoding of what this node sends to others; both are always understood (default binary)
    #[arg(env = "KVORUM_PEER_ENCODING", value_name = "ENCODING", help_heading = NODE)]
    peer_encoding: PeerEncoding = Some(PeerEncoding::Binary);

    /// Secret that peers' and management calls must carry; visible in the list of processes, so prefer the file
    #[arg(env = "KVORUM_CLUSTER_SECRET", value_name = "SECRET", hide_env_values = true, help_heading = NODE)]
    cluster_secret: Secret = None;

    /// File that holds the cluster secret; white space at its end is ignored
    #[arg(env = "KVORUM_CLUSTER_SECRET_FILE", value_name = "FILE", help_heading = NODE)]
    cluster_secret_file: PathBuf = None;

    /// Time to finish running requests and hand over leadership when stopped (default 8000)
    #[arg(env = "KVORUM_SHUTDOWN_TIMEOUT_MS", value_name = "MS", help_heading = NODE)]
    shutdown_timeout_ms: u64 = Some(8_000);

    /// Form of the log lines on standard error (default text)
    #[arg(env = "KVORUM_LOG_FORMAT", value_name = "FORMAT", help_heading = LOGGING)]
    log_format: LogFormat = Some(LogFormat::Text);

    /// Least level of events that are logged, in general and by target (default `info,openraft=error,actix=warn,actix_http=off`)
    #[arg(env = "KVORUM_LOG_FILTER", value_name = "FILTER", help_heading = LOGGING)]
    log_filter: String = Some("info,openraft=error,actix=warn,actix_http=off".into());

    /// Longest key (default 4096)
    #[arg(env = "KVORUM_MAX_KEY_BYTES", value_name = "BYTES", help_heading = LIMITS)]
    max_key_bytes: ByteSize = Some(ByteSize(4_096));

    /// Longest value (default 1536KiB)
    #[arg(env = "KVORUM_MAX_VALUE_BYTES", value_name = "BYTES", help_heading = LIMITS)]
    max_value_bytes: ByteSize = Some(ByteSize(1_572_864));

    /// Longest body of a request (default 8MiB)
    #[arg(env = "KVORUM_MAX_REQUEST_BYTES", value_name = "BYTES", help_heading = LIMITS)]
    max_request_bytes: ByteSize = Some(ByteSize(8 << 20));

    /// Most operations in one transaction (default 128)
    #[arg(env = "KVORUM_MAX_TXN_OPS", value_name = "N", help_heading = LIMITS)]
    max_txn_ops: u64 = Some(128);

    /// Most keys in one page of a listing (default 10000)
    #[arg(env = "KVORUM_MAX_PAGE_KEYS", value_name = "N", help_heading = LIMITS)]
    max_page_keys: u64 = Some(10_000);

    /// Most bytes in one page of a listing (default 4MiB)
    #[arg(env = "KVORUM_MAX_PAGE_BYTES", value_name = "BYTES", help_heading = LIMITS)]
    max_page_bytes: ByteSize = Some(ByteSize(4 << 20));

    /// Requests in progress at once; further ones are refused as overload (default 16384)
    #[arg(env = "KVORUM_MAX_INFLIGHT_REQUESTS", value_name = "N", help_heading = LIMITS)]
    max_inflight_requests: u64 = Some(16_384);

    /// Bytes of request bodies and large answers in memory at once, of all ports; further ones are refused as overload (default 256MiB)
    #[arg(env = "KVORUM_MAX_INFLIGHT_BYTES", value_name = "BYTES", help_heading = LIMITS)]
    max_inflight_bytes: ByteSize = Some(ByteSize(256 << 20));

    /// Time after which a request is answered with a time-out (default 5000)
    #[arg(env = "KVORUM_REQUEST_TIMEOUT_MS", value_name = "MS", help_heading = LIMITS)]
    request_timeout_ms: u64 = Some(5_000);

    /// How long the outcome of a write with an idempotency key is remembered (default 600000)
    #[arg(env = "KVORUM_IDEMPOTENCY_TTL_MS", value_name = "MS", help_heading = LIMITS)]
    idempotency_ttl_ms: u64 = Some(600_000);

    /// How long adding a learner waits for it to catch up (default 60000)
    #[arg(env = "KVORUM_LEARNER_CATCH_UP_TIMEOUT_MS", value_name = "MS", help_heading = LIMITS)]
    learner_catch_up_timeout_ms: u64 = Some(60_000);

    /// Time between two heartbeats of the leader (default 100)
    #[arg(env = "KVORUM_HEARTBEAT_INTERVAL_MS", value_name = "MS", help_heading = RAFT)]
    heartbeat_interval_ms: u64 = Some(100);

    /// Shortest silence of the leader after which a node stands for election (default 400)
    #[arg(env = "KVORUM_ELECTION_TIMEOUT_MIN_MS", value_name = "MS", help_heading = RAFT)]
    election_timeout_min_ms: u64 = Some(400);

    /// Longest such silence; each node picks one in between (default 600)
    #[arg(env = "KVORUM_ELECTION_TIMEOUT_MAX_MS", value_name = "MS", help_heading = RAFT)]
    election_timeout_max_ms: u64 = Some(600);

    /// Applied log entries after which a node builds its next snapshot (default 100000)
    #[arg(env = "KVORUM_SNAPSHOT_LOG_ENTRIES", value_name = "N", help_heading = RAFT)]
    snapshot_log_entries: u64 = Some(100_000);

    /// Log entries kept behind a snapshot, so that a node that was away briefly needs none (default 20000)
    #[arg(env = "KVORUM_LOG_ENTRIES_TO_KEEP", value_name = "N", help_heading = RAFT)]
    log_entries_to_keep: u64 = Some(20_000);

    /// Bytes per second that sending snapshots may take; 0 is no bound (default 32MiB)
    #[arg(env = "KVORUM_SNAPSHOT_RATE_BYTES_PER_SECOND", value_name = "BYTES", help_heading = RAFT)]
    snapshot_rate_bytes_per_second: ByteSize = Some(ByteSize(32 << 20));

    /// Memory for the newest log entries, which replication and apply read (default 64MiB)
    #[arg(env = "KVORUM_LOG_CACHE_BYTES", value_name = "BYTES", help_heading = RESOURCES)]
    log_cache_bytes: ByteSize = Some(ByteSize(64 << 20));

    /// Memory for blocks of the state that were read, an eighth of it for records that were written lately (default 256MiB)
    #[arg(env = "KVORUM_BLOCK_CACHE_BYTES", value_name = "BYTES", help_heading = RESOURCES)]
    block_cache_bytes: ByteSize = Some(ByteSize(256 << 20));

    /// Memory for writes to the state that are not yet in its files (default 64MiB)
    #[arg(env = "KVORUM_WRITE_BUFFER_BYTES", value_name = "BYTES", help_heading = RESOURCES)]
    write_buffer_bytes: ByteSize = Some(ByteSize(64 << 20));

    /// Threads that serve HTTP; 0 is one for each core (default 0)
    #[arg(env = "KVORUM_HTTP_WORKERS", value_name = "N", help_heading = RESOURCES)]
    http_workers: u64 = Some(0);

    /// Threads that run Raft, apart from those that serve HTTP (default 2)
    #[arg(env = "KVORUM_RAFT_WORKERS", value_name = "N", help_heading = RESOURCES)]
    raft_workers: u64 = Some(2);
}

/// How a node encodes what it sends to its peers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum PeerEncoding {
    /// Compact, and the faster one.
    Binary,
    /// Readable, and understood by any client of the Raft calls.
    Json,
}

/// The form of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// One readable line for each event.
    Text,
    /// One JSON object for each event.
    Json,
}

/// A secret that no log line, error or printed configuration shows.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// What stands where the secret must not be shown.
    pub const REDACTED: &str = "<redacted>";

    /// The secret itself; the caller keeps it out of whatever is shown.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl From<String> for Secret {
    fn from(secret: String) -> Self {
        Self(secret)
    }
}

impl FromStr for Secret {
    type Err = std::convert::Infallible;

    fn from_str(secret: &str) -> Result<Self, Self::Err> {
        Ok(Self(secret.to_owned()))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(Self::REDACTED)
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(Self::REDACTED)
    }
}

/// A number of bytes as people write it: plain, or with KiB, MiB or GiB.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ByteSize(pub u64);

const UNITS: [(&str, u64); 3] = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];

impl FromStr for ByteSize {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let unit = UNITS.iter().find_map(|(name, factor)| Some((text.strip_suffix(name)?, *factor)));
        let (digits, factor) = unit.unwrap_or((text, 1));
        let digits = digits.trim();
        // `parse` alone would take a sign.
        if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(format!("{text:?} is no number of bytes; write 4096, 64KiB, 64MiB or 1GiB"));
        }
        let bytes = digits.parse::<u64>().ok().and_then(|number| number.checked_mul(factor));
        bytes.map(Self).ok_or_else(|| format!("{text:?} is more bytes than can be counted"))
    }
}

impl fmt::Display for ByteSize {
    /// Writes the largest unit that loses nothing.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Below 8 KiB the plain number is the one that people know.
        let unit = UNITS.iter().find(|(_, factor)| self.0 >= 8 << 10 && self.0.is_multiple_of(*factor));
        match unit {
            Some((name, factor)) => write!(f, "{}{name}", self.0 / factor),
            None => write!(f, "{}", self.0),
        }
    }
}

impl Serialize for ByteSize {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let text = self.to_string();
        match text.parse::<u64>() {
            Ok(number) => serializer.serialize_u64(number),
            Err(_) => serializer.serialize_str(&text),
        }
    }
}

impl<'de> Deserialize<'de> for ByteSize {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct NumberOrText;

        impl Visitor<'_> for NumberOrText {
            type Value = ByteSize;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number of bytes such as 4096 or \"64MiB\"")
            }

            fn visit_i64<E: de::Error>(self, number: i64) -> Result<ByteSize, E> {
                u64::try_from(number)
                    .map(ByteSize)
                    .map_err(|_| E::invalid_value(de::Unexpected::Signed(number), &self))
            }

            fn visit_u64<E: de::Error>(self, number: u64) -> Result<ByteSize, E> {
                Ok(ByteSize(number))
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<ByteSize, E> {
                text.parse().map_err(E::custom)
            }
        }

        deserializer.deserialize_any(NumberOrText)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn byte_size_reads_plain_numbers_and_binary_units() {
        for (text, bytes) in [
            ("0", 0),
            ("4096", 4096),
            ("1KiB", 1024),
            ("64 MiB", 64 << 20),
            ("2GiB", 2 << 30),
            ("18446744073709551615", u64::MAX),
        ] {
            assert_eq!(text.parse(), Ok(ByteSize(bytes)), "{text}");
        }
    }

    #[test]
    fn byte_size_refuses_what_it_cannot_read_exactly() {
        for text in
            ["", "MiB", "-1", "+1", "1.5MiB", "1MB", "64mib", "1 0", "18446744073709551616", "17179869184GiB"]
        {
            let error = text.parse::<ByteSize>().expect_err(text);
            assert!(error.contains(&format!("{text:?}")), "{error}");
        }
    }

    #[test]
    fn byte_size_shown_is_read_back_the_same() {
        for bytes in
            [0, 1, 1023, 4096, 8192, 8193, 1_572_864, 1 << 20, (1 << 20) + 1, 256 << 20, 3 << 30, u64::MAX]
        {
            assert_eq!(ByteSize(bytes).to_string().parse(), Ok(ByteSize(bytes)));
        }
    }

    #[test]
    fn secret_is_shown_nowhere() {
        let options =
            Options { cluster_secret: Some(Secret::from("hunter2".to_owned())), ..Options::default() };
        assert!(!format!("{options:?}").contains("hunter2"));
        assert!(!toml::to_string(&options).expect("options are TOML").contains("hunter2"));
    }
}

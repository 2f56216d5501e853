//! Options that the commands share, and the forms that their values take.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use clap::builder::ArgPredicate;
use clap::{Args, ValueEnum};
use kvorum_client::{Client, Consistency};

use crate::failure::{Exit, Failure};
use crate::output::Io;

/// How long a command goes on when nobody listens at any endpoint: enough for a
/// node that is being restarted, short enough for a mistyped address.
const PATIENCE: Duration = Duration::from_secs(2);

/// How long a command that goes on for long tries to be served, again and again.
pub(crate) const LONG_TIMEOUT: Duration = Duration::from_secs(60);

/// Puts the examples and the exit codes below a command's options.
macro_rules! help {
    ($examples:literal) => {
        help!($examples, "")
    };
    ($examples:literal, $more_codes:literal) => {
        concat!(
            "Examples:\n",
            $examples,
            "\n\nExit codes:\n",
            "  0  done\n",
            "  1  failed\n",
            "  2  the command line is wrong\n",
            "  3  not found\n",
            "  4  the condition was not met\n",
            "  5  unavailable or timed out; a write whose outcome is unknown says so\n",
            $more_codes,
            "  141  whoever read the output has gone\n",
        )
    };
}
pub(crate) use help;

/// The form of what is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(crate) enum Format {
    /// For people and pipes.
    #[default]
    Text,
    /// For programs; errors are JSON too, on standard error.
    Json,
    /// A table with borders.
    Table,
}

/// How fresh a read must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(crate) enum ConsistencyArg {
    /// Sees every write acknowledged before.
    #[default]
    Linearizable,
    /// The same, resting on the leader's clock.
    Lease,
    /// What the node that answers has.
    Local,
}

impl From<ConsistencyArg> for Consistency {
    fn from(arg: ConsistencyArg) -> Self {
        match arg {
            ConsistencyArg::Linearizable => Self::Linearizable,
            ConsistencyArg::Lease => Self::Lease,
            ConsistencyArg::Local => Self::Local,
        }
    }
}

/// The cluster's secret, for clusters that have one.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct SecretArgs {
    /// The cluster's secret, needed by management commands if the nodes have one
    #[arg(long, value_name = "SECRET", env = "KVORUM_CLUSTER_SECRET", hide_env_values = true)]
    cluster_secret: Option<String>,
    /// A file that holds the secret; --cluster-secret wins over it
    #[arg(long, value_name = "FILE", env = "KVORUM_CLUSTER_SECRET_FILE")]
    cluster_secret_file: Option<PathBuf>,
}

impl SecretArgs {
    /// The secret, read from its file if need be.
    pub(crate) fn read(&self) -> Result<Option<String>, Failure> {
        // An empty variable is how one unsets it for a single command.
        if let Some(secret) = self.cluster_secret.as_ref().filter(|secret| !secret.is_empty()) {
            return Ok(Some(secret.clone()));
        }
        let Some(path) = &self.cluster_secret_file else { return Ok(None) };
        let text = std::fs::read_to_string(path).map_err(|error| {
            Failure::new(Exit::Usage, "secret_file", format!("cannot read {}: {error}", path.display()))
        })?;
        let secret = text.trim();
        if secret.is_empty() {
            let message = format!("the secret file {} is empty", path.display());
            return Err(Failure::new(Exit::Usage, "secret_file", message));
        }
        Ok(Some(secret.to_owned()))
    }
}

/// Where the cluster is and how to speak to it.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Connection and output")]
pub(crate) struct ClientArgs {
    /// Nodes to speak to; any node takes any call
    #[arg(
        long,
        value_name = "HOST:PORT,…",
        env = "KVORUM_ENDPOINTS",
        value_delimiter = ',',
        default_value = "127.0.0.1:21001"
    )]
    endpoints: Vec<String>,
    /// The form of what is printed
    #[arg(
        short,
        long,
        value_enum,
        value_name = "FORM",
        default_value_t,
        default_value_if("json", ArgPredicate::IsPresent, "json")
    )]
    pub(crate) output: Format,
    /// The same as -o json
    #[arg(long, conflicts_with = "output")]
    json: bool,
    /// How long the command may take: 500ms, 10s, 2m; of scan, export, snapshot, watch,
    /// lock, elect and import each call, of lease keep-alive the first one
    /// [default: 10s; member add and snapshot: 5m; watch, lock, elect and import: 1m]
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    timeout: Option<Duration>,
    #[command(flatten)]
    secret: SecretArgs,
}

impl ClientArgs {
    /// A client for the endpoints, with the usual time limit.
    pub(crate) fn client(&self) -> Result<Client, Failure> {
        self.client_within(kvorum_client::DEFAULT_TIMEOUT)
    }

    /// A client whose time limit is `default` unless the user set one.
    pub(crate) fn client_within(&self, default: Duration) -> Result<Client, Failure> {
        let mut builder = Client::builder()
            .endpoints(&self.endpoints)
            .timeout(self.timeout.unwrap_or(default))
            .patience_when_unreachable(PATIENCE);
        if let Some(secret) = self.secret.read()? {
            builder = builder.cluster_secret(secret);
        }
        Ok(builder.build()?)
    }

    /// The time limit.
    pub(crate) fn timeout_or(&self, default: Duration) -> Duration {
        self.timeout.unwrap_or(default)
    }
}

/// An argument's bytes; on Unix any byte but zero can stand in one.
pub(crate) fn bytes(argument: OsString) -> Bytes {
    argument.into_encoded_bytes().into()
}

/// Reads `500ms`, `10s`, `2m`, `1h`, or a number of seconds.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let milliseconds: u64 = match unit {
        "ms" => 1,
        "s" | "" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return Err("write a whole number and ms, s, m or h, such as 10s".to_owned()),
    };
    let duration = number.parse::<u64>().ok().and_then(|number| number.checked_mul(milliseconds));
    match duration {
        // Longer than any command runs, and far from where adding to a clock overflows.
        Some(duration) if (1..=86_400_000).contains(&duration) => Ok(Duration::from_millis(duration)),
        _ => Err("write a time from 1ms to 24h, such as 10s".to_owned()),
    }
}

/// Reads a lease's time to live as whole seconds.
pub(crate) fn parse_ttl(text: &str) -> Result<i64, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let seconds = match unit {
        "s" | "" => 1,
        "m" => 60,
        "h" => 3_600,
        "d" => 86_400,
        _ => return Err("write a whole number and s, m, h or d, such as 30s".to_owned()),
    };
    let ttl = number.parse::<i64>().ok().and_then(|number| number.checked_mul(seconds));
    ttl.filter(|ttl| *ttl > 0).ok_or_else(|| "write a time of at least 1s, such as 30s".to_owned())
}

/// The bytes of a document: a file's, or standard input's for `-`.
pub(crate) fn read_document(path: &Path, io: &mut Io<'_>) -> Result<Vec<u8>, Failure> {
    let cannot = |what: String, error: std::io::Error| {
        Failure::new(Exit::Failed, "input", format!("cannot read {what}: {error}"))
    };
    if path != Path::new("-") {
        return std::fs::read(path).map_err(|error| cannot(path.display().to_string(), error));
    }
    let mut document = Vec::new();
    io.input.read_to_end(&mut document).map_err(|error| cannot("standard input".to_owned(), error))?;
    Ok(document)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_to_live_are_whole_seconds() {
        for (text, seconds) in [("30", 30), ("30s", 30), ("2m", 120), ("1h", 3_600), ("7d", 604_800)] {
            assert_eq!(parse_ttl(text), Ok(seconds), "{text}");
        }
        for text in ["", "0", "500ms", "1.5s", "-1", "99999999999999999999s", "9999999999999999d"] {
            assert!(parse_ttl(text).is_err(), "{text}");
        }
    }

    #[test]
    fn durations_carry_a_unit_or_mean_seconds() {
        for (text, milliseconds) in [("500ms", 500), ("10s", 10_000), ("3", 3_000), ("2m", 120_000)] {
            assert_eq!(parse_duration(text), Ok(Duration::from_millis(milliseconds)), "{text}");
        }
        for text in ["", "s", "0s", "-1s", "1.5s", "10 s", "9d", "25h", "99999999999999999999s"] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn secret_of_the_option_wins_over_its_file_unless_empty() {
        let path = std::env::temp_dir().join(format!("kvorum-secret-{}", std::process::id()));
        std::fs::write(&path, "from a file\n").unwrap();
        let read = |secret: Option<&str>| {
            let cluster_secret = secret.map(str::to_owned);
            SecretArgs { cluster_secret, cluster_secret_file: Some(path.clone()) }.read().unwrap().unwrap()
        };
        let secrets = [read(Some("given")), read(Some("")), read(None)];
        std::fs::remove_file(&path).unwrap();
        assert_eq!(secrets, ["given", "from a file", "from a file"]);
        assert!(SecretArgs { cluster_secret: None, cluster_secret_file: Some(path) }.read().is_err());
    }
}

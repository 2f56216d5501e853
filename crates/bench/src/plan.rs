//! The options of a run, and what they come to once checked.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args as _, FromArgMatches as _, ValueEnum as _};

use crate::scenario::Scenario;
use crate::workload::{Operation, Workload, key_size_needed};

/// How long a run lasts when neither its time nor its operations are bounded.
const DEFAULT_DURATION: Duration = Duration::from_secs(10);

/// Measures servers under load: throughput, latency, errors, and the longest
/// time without an acknowledged write.
#[derive(Debug, Clone, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Args {
    /// Something else than a workload, of servers of etcd's API.
    #[command(subcommand)]
    pub scenario: Option<Scenario>,
    /// Servers, as HOST:PORT; connections are spread over them in turn.
    #[arg(long, value_delimiter = ',', default_value = "127.0.0.1:21001", value_name = "A,B,C")]
    pub endpoints: Vec<String>,
    /// Ask /v1/status who leads, and talk to the leader only.
    #[arg(long)]
    pub leader_only: bool,
    /// What the servers speak at these endpoints.
    #[arg(long, value_enum, default_value = "http")]
    pub api: Api,
    /// What to ask of the servers.
    #[arg(long, value_enum, default_value = "put")]
    pub workload: Workload,
    /// Closed-loop clients: each has one request outstanding.
    #[arg(long, default_value_t = 64, value_name = "N")]
    pub clients: usize,
    /// Keep-alive connections [default: one per client]. Over HTTP clients that
    /// share one take turns, and their latency includes the wait; over gRPC they
    /// ask side by side.
    #[arg(long, value_name = "N")]
    pub connections: Option<usize>,
    /// Threads that the connections are spread over.
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub threads: usize,
    /// Distinct keys.
    #[arg(long, default_value_t = 1_000_000, value_name = "N")]
    pub keys: u64,
    /// Bytes per key.
    #[arg(long, default_value_t = 16, value_name = "BYTES")]
    pub key_size: usize,
    /// Bytes per value; an answer with another size counts as wrong.
    #[arg(long, default_value_t = 256, value_name = "BYTES")]
    pub value_size: usize,
    /// Take the keys in order instead of at random (`load` always does).
    #[arg(long)]
    pub sequential: bool,
    /// Reads among the operations of `mixed`, in percent.
    #[arg(long, default_value_t = 50, value_name = "PERCENT", value_parser = clap::value_parser!(u8).range(0..=100))]
    pub read_percent: u8,
    /// How long to measure [default: 10, unless --ops or `load` bounds the run].
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    pub duration: Option<Duration>,
    /// How many operations to measure, failed ones included.
    #[arg(long, value_name = "N")]
    pub ops: Option<u64>,
    /// How long to run before measuring (`load` has none).
    #[arg(long, default_value = "0", value_name = "SECONDS", value_parser = seconds)]
    pub warmup: Duration,
    /// How long to wait for an answer.
    #[arg(long, default_value = "10", value_name = "SECONDS", value_parser = seconds)]
    pub timeout: Duration,
    /// Give up when nothing succeeded for so long.
    #[arg(long, default_value = "60", value_name = "SECONDS", value_parser = seconds)]
    pub give_up: Duration,
    /// After a refusal wait a few milliseconds, whatever its Retry-After says.
    #[arg(long)]
    pub ignore_retry_after: bool,
    /// Seed of the choice of keys and values.
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub seed: u64,
    /// Print progress to standard error this often; 0 for never.
    #[arg(long, default_value = "1", value_name = "SECONDS", value_parser = seconds)]
    pub interval: Duration,
    /// Write operations, errors and highest latency of every 100 ms to this CSV file.
    #[arg(long, value_name = "FILE")]
    pub timeline: Option<PathBuf>,
    /// Servers' process ids; adds their CPU time and memory to the report (Linux).
    #[arg(long, value_delimiter = ',', value_name = "A,B,C")]
    pub pids: Vec<u32>,
    /// Form of the report on standard output.
    #[arg(short, long, value_enum, default_value = "text")]
    pub output: Output,
}

/// The interface by which servers are asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Api {
    /// Kvorum's own, over HTTP/1.1.
    Http,
    /// etcd's v3 API, of Kvorum or of etcd.
    Grpc,
}

impl Api {
    /// The name in reports; stable.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Grpc => "grpc",
        }
    }
}

/// Form of the report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Output {
    /// For people.
    Text,
    /// For programs; fields are only ever added.
    Json,
}

impl Default for Args {
    /// What an empty command line gives.
    fn default() -> Self {
        let command = Self::augment_args(clap::Command::new("bench"));
        let matches = command.try_get_matches_from(["bench"]).expect("every option has a default");
        Self::from_arg_matches(&matches).expect("every option has a default")
    }
}

pub(crate) fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| "not a number of seconds".to_owned())?;
    Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string())
}

/// The options are at odds with each other or out of range.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Invalid(String);

/// Checked options.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) endpoints: Vec<String>,
    pub(crate) leader_only: bool,
    pub(crate) api: Api,
    pub(crate) workload: Workload,
    pub(crate) clients: usize,
    pub(crate) connections: usize,
    pub(crate) threads: usize,
    pub(crate) keys: u64,
    pub(crate) key_size: usize,
    pub(crate) value_size: usize,
    pub(crate) sequential: bool,
    pub(crate) read_percent: u8,
    pub(crate) duration: Option<Duration>,
    pub(crate) ops: Option<u64>,
    pub(crate) warmup: Duration,
    pub(crate) timeout: Duration,
    pub(crate) give_up: Duration,
    pub(crate) ignore_retry_after: bool,
    pub(crate) seed: u64,
    pub(crate) interval: Duration,
    pub(crate) timeline: Option<PathBuf>,
    pub(crate) pids: Vec<u32>,
}

impl Plan {
    /// Checks the options and fills in what follows from others.
    pub(crate) fn new(args: Args) -> Result<Self, Invalid> {
        let load = args.workload == Workload::Load;
        let grpc = args.api == Api::Grpc;
        let connections = args.connections.unwrap_or(args.clients);
        let needed = key_size_needed(args.keys);
        let checks = [
            (args.clients > 0, "--clients must be at least 1".to_owned()),
            (args.keys > 0, "--keys must be at least 1".to_owned()),
            (args.threads > 0, "--threads must be at least 1".to_owned()),
            (
                (1..=args.clients).contains(&connections),
                format!("--connections must be from 1 to --clients, {}", args.clients),
            ),
            (
                args.key_size >= needed,
                format!("--key-size must be at least {needed} to tell {} keys apart", args.keys),
            ),
            (!args.timeout.is_zero(), "--timeout must be above 0".to_owned()),
            (!(grpc && args.leader_only), "--leader-only asks by HTTP, not by --api grpc".to_owned()),
            (
                !(grpc && matches!(args.workload, Workload::SeedPut | Workload::SeedRead)),
                "the seed's workloads are calls by HTTP, not by --api grpc".to_owned(),
            ),
            (!(load && args.ops.is_some()), "--ops makes no sense with `load`; use --keys".to_owned()),
        ];
        if let Some((_, message)) = checks.into_iter().find(|(holds, _)| !holds) {
            return Err(Invalid(message));
        }
        let endpoints = args.endpoints.iter().map(|text| endpoint(text)).collect::<Result<_, _>>()?;
        let ops = if load { Some(args.keys) } else { args.ops };
        Ok(Self {
            endpoints,
            leader_only: args.leader_only,
            api: args.api,
            workload: args.workload,
            clients: args.clients,
            connections,
            threads: args.threads.min(connections),
            keys: args.keys,
            key_size: args.key_size,
            value_size: args.value_size,
            sequential: args.sequential || load,
            read_percent: args.read_percent,
            duration: args.duration.or(ops.is_none().then_some(DEFAULT_DURATION)),
            ops,
            warmup: if load { Duration::ZERO } else { args.warmup },
            timeout: args.timeout,
            give_up: args.give_up,
            ignore_retry_after: args.ignore_retry_after,
            seed: args.seed,
            interval: args.interval,
            timeline: args.timeline,
            pids: args.pids,
        })
    }

    /// The kinds of operation that the workload is made of.
    pub(crate) fn operations(&self) -> &'static [Operation] {
        match self.workload {
            Workload::Put | Workload::Load | Workload::Failover => &[Operation::Put],
            Workload::Get => &[Operation::Get],
            Workload::GetLocal => &[Operation::GetLocal],
            Workload::Mixed => &[Operation::Put, Operation::Get],
            Workload::SeedPut => &[Operation::SeedPut],
            Workload::SeedRead => &[Operation::SeedRead],
        }
    }

    /// The workload's name on the command line.
    pub(crate) fn workload_name(&self) -> String {
        self.workload.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }

    /// Whether the workload writes.
    pub(crate) fn writes(&self) -> bool {
        self.operations().iter().any(|operation| operation.is_write())
    }
}

pub(crate) fn endpoint(text: &str) -> Result<String, Invalid> {
    let host = text.trim().strip_prefix("http://").unwrap_or(text.trim()).trim_end_matches('/');
    let valid = host.rsplit_once(':').is_some_and(|(name, port)| {
        !name.is_empty() && port.parse::<u16>().is_ok() && name.bytes().all(|byte| byte.is_ascii_graphic())
    });
    if valid && !host.contains('/') {
        Ok(host.to_owned())
    } else {
        Err(Invalid(format!("--endpoints: `{text}` is not HOST:PORT")))
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use clap::Parser as _;

    #[derive(clap::Parser)]
    struct Cli {
        #[command(flatten)]
        args: Args,
    }

    /// The options that the words of a command line give.
    pub(crate) fn args(words: &[&str]) -> Args {
        Cli::try_parse_from([&["bench"], words].concat())
            .map_or_else(|error| panic!("{error}"), |cli| cli.args)
    }

    #[test]
    fn options_out_of_range_are_refused_by_name() {
        let refused = |words: &[&str]| Plan::new(args(words)).unwrap_err().to_string();
        assert!(refused(&["--clients", "0"]).contains("--clients"));
        assert!(refused(&["--clients", "2", "--connections", "3"]).contains("--connections"));
        assert!(refused(&["--connections", "0"]).contains("--connections"));
        assert!(refused(&["--keys", "1000", "--key-size", "3"]).contains("at least 4"));
        assert!(refused(&["--endpoints", "a:1,b"]).contains('b'));
        assert!(refused(&["--endpoints", "a:1/x"]).contains("HOST:PORT"));
        assert!(refused(&["--workload", "load", "--ops", "3"]).contains("--ops"));
        assert!(refused(&["--api", "grpc", "--workload", "seed-put"]).contains("--api grpc"));
        assert!(refused(&["--api", "grpc", "--leader-only"]).contains("--leader-only"));
        assert!(Cli::try_parse_from(["bench", "--read-percent", "101"]).is_err());
        assert!(Cli::try_parse_from(["bench", "--duration", "-1"]).is_err());
    }

    #[test]
    fn what_is_not_said_follows_from_the_rest() {
        let plan =
            Plan::new(args(&["--clients", "5", "--endpoints", "http://a:1/,b:2", "--threads", "9"])).unwrap();
        assert_eq!((plan.connections, plan.threads, plan.duration), (5, 5, Some(DEFAULT_DURATION)));
        assert_eq!(plan.endpoints, ["a:1", "b:2"]);
        let load = Plan::new(args(&["--workload", "load", "--keys", "7", "--warmup", "3"])).unwrap();
        assert_eq!(
            (load.ops, load.duration, load.warmup, load.sequential),
            (Some(7), None, Duration::ZERO, true)
        );
        assert_eq!(Plan::new(args(&["--ops", "9"])).unwrap().duration, None);
        assert_eq!(
            Plan::new(args(&["--duration", "0.5"])).unwrap().duration,
            Some(Duration::from_millis(500))
        );
    }
}

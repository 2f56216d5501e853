//! The command line: `kvorum-conformance --left A --right B`, and
//! `kvorum-conformance watch --endpoints A,B,C`.
//!
//! Exit codes: 0 when all is well, 1 when something is not, 2 when a server could not
//! be asked.

use std::io::{self, Write};
use std::ops::RangeInclusive;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::{Args, Parser, Subcommand};
use kvorum_conformance::differential::{self, Plan, Servers};
use kvorum_conformance::watch;

/// Compares a server with etcd, and checks the promises of its watches.
#[derive(Parser)]
#[command(
    name = "kvorum-conformance",
    version,
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true
)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    compare: Option<Compare>,
}

#[derive(Subcommand)]
enum Command {
    /// Watches while writers write, and checks what was seen.
    Watch(Watch),
}

#[derive(Args)]
struct Compare {
    /// The servers to compare with, HOST:PORT; each single, and nobody else's.
    #[arg(long, value_delimiter = ',', required = true)]
    left: Vec<String>,
    /// The servers to compare, as many.
    #[arg(long, value_delimiter = ',', required = true)]
    right: Vec<String>,
    /// How many sequences of calls.
    #[arg(long, default_value_t = 10_000)]
    sequences: u64,
    /// The number of the first sequence, to repeat one.
    #[arg(long, default_value_t = 0)]
    first: u64,
    /// What all choices follow from.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// How many calls a sequence has, from..to.
    #[arg(long, default_value = "1..30", value_parser = lengths)]
    steps: RangeInclusive<usize>,
    /// After how many differing sequences a worker ends.
    #[arg(long, default_value_t = 1)]
    differences: usize,
}

#[derive(Args)]
struct Watch {
    /// The nodes of one cluster, HOST:PORT.
    #[arg(long, value_delimiter = ',', required = true)]
    endpoints: Vec<String>,
    /// How long is written.
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    /// How many write at the same time.
    #[arg(long, default_value_t = 4)]
    writers: usize,
    /// How many watch.
    #[arg(long, default_value_t = 12)]
    watchers: usize,
    /// What all choices follow from.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Ask for no progress: etcd before 3.5.8 may tell it too early.
    #[arg(long)]
    no_progress: bool,
}

fn lengths(text: &str) -> Result<RangeInclusive<usize>, String> {
    let numbers = text.split_once("..").and_then(|(from, to)| Some((from.parse().ok()?, to.parse().ok()?)));
    match numbers {
        Some((from, to)) if from <= to => Ok(from..=to),
        _ => Err("expected FROM..TO".into()),
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    let cli = Cli::parse();
    let result = match (cli.command, cli.compare) {
        (Some(Command::Watch(args)), _) => check_watches(args).await,
        (None, Some(args)) => compare(args).await,
        (None, None) => Err("nothing to do; see --help".into()),
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            // Nobody can be told that nobody can be told.
            let reason = error.source().map_or(String::new(), |source| format!(": {source}"));
            let _ = writeln!(io::stderr(), "error: {error}{reason}");
            ExitCode::from(2)
        }
    }
}

async fn compare(args: Compare) -> Result<bool, Box<dyn std::error::Error>> {
    if args.left.len() != args.right.len() {
        return Err("--left and --right must name as many servers".into());
    }
    let plan = Plan {
        seed: args.seed,
        first: args.first,
        count: args.sequences,
        lengths: args.steps,
        differences: args.differences,
    };
    let mut pairs = Vec::new();
    for (left, right) in args.left.iter().zip(&args.right) {
        pairs.push(Servers::connect(left, right).await?);
    }
    let started = Instant::now();
    let findings = differential::run(&plan, pairs).await?;
    io::stdout().write_all(findings.report(&plan, started.elapsed()).as_bytes())?;
    Ok(findings.differences.is_empty())
}

async fn check_watches(args: Watch) -> Result<bool, Box<dyn std::error::Error>> {
    let plan = watch::Plan {
        endpoints: args.endpoints,
        duration: Duration::from_secs(args.seconds),
        writers: args.writers,
        watchers: args.watchers,
        seed: args.seed,
        progress: !args.no_progress,
        settle: Duration::from_secs(30),
    };
    let report = watch::observe(&plan).await?;
    write!(io::stdout(), "{report}")?;
    Ok(report.violations.is_empty())
}

//! The `kvorum-torture` program: its command line, and nothing else.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::{Args, Parser, Subcommand};
use kvorum_torture::dice::Dice;
use kvorum_torture::fault::{Fault, UnknownFault};
use kvorum_torture::ledger;
use kvorum_torture::run::{Plan, Ran, RunError, judge, run};
use tokio::signal::unix::{SignalKind, signal};

/// Seeds are drawn below it: short enough to be typed.
const SEEDS: u64 = 1_000_000_000;
/// A promise was broken, or a planted bug was not found.
const BROKEN: u8 = 1;
/// The run could not take place.
const FAILED: u8 = 2;

/// Real nodes of Kvorum under real faults, and checkers of all that clients were told
#[derive(Parser)]
#[command(name = "kvorum-torture", version, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Torture a cluster and judge what its clients were told
    Run(RunArgs),
    /// Judge a run again from what its folder holds
    Check {
        /// The folder of the run
        folder: PathBuf,
        /// Add a line for it to this ledger
        #[arg(long)]
        ledger: Option<PathBuf>,
    },
    /// Add all that another ledger holds to a ledger
    Merge {
        /// The ledger that grows
        ledger: PathBuf,
        /// The other one
        other: PathBuf,
    },
    /// Show that builds with a planted bug are caught
    Mutants(MutantArgs),
    /// List all faults
    Faults,
}

#[derive(Args, Clone)]
struct Common {
    /// The kvorum binary
    #[arg(long)]
    binary: PathBuf,
    /// The library that makes disks fail and clocks jump [default: none, such faults are skipped]
    #[arg(long)]
    preload: Option<PathBuf>,
    /// Seconds during which faults go on
    #[arg(long, default_value_t = 300)]
    duration: u64,
    /// Voters [default: 3 or 5, by the seed]
    #[arg(long)]
    nodes: Option<u64>,
    /// Faults by name, separated by commas; a word such as `kill` takes all that begin with
    /// it [default: all, or for each planted bug those that can show it]
    #[arg(long, value_delimiter = ',')]
    faults: Vec<String>,
    /// Clients that read and write
    #[arg(long, default_value_t = 12)]
    clients: usize,
    /// Mean milliseconds of a client's pause between calls
    #[arg(long, default_value_t = 20)]
    pause: u64,
    /// Where the folders of runs go [default: a new folder for temporary files]
    #[arg(long)]
    folder: Option<PathBuf>,
    /// The commit of the server, for the report
    #[arg(long, default_value = "unknown")]
    commit: String,
}

#[derive(Args)]
struct RunArgs {
    #[command(flatten)]
    common: Common,
    /// The seed of all choices [default: a random one]
    #[arg(long)]
    seed: Option<u64>,
    /// Runs, one after the other, each with a seed that follows from the first
    #[arg(long, default_value_t = 1)]
    runs: u64,
    /// Add a line for each run to this ledger
    #[arg(long)]
    ledger: Option<PathBuf>,
}

#[derive(Args)]
struct MutantArgs {
    #[command(flatten)]
    common: Common,
    /// The planted bugs, by name
    #[arg(long, value_delimiter = ',', default_values_t = MUTANTS.map(|(name, _)| name.to_owned()))]
    only: Vec<String>,
    /// Minutes within which each must be caught
    #[arg(long, default_value_t = 30)]
    minutes: u64,
    /// Add a line for each run to this ledger
    #[arg(long)]
    ledger: Option<PathBuf>,
}

/// The planted bugs of the server, and the faults that can show each. All faults together
/// show them too, but each of these comes up less often then.
const MUTANTS: [(&str, &str); 8] = [
    ("acknowledge-unsynced", "power-loss,kill-leader"),
    ("read-without-index", "pause,partition,isolate-leader,one-way,slow-link"),
    ("leader-restore", "power-loss,kill"),
    ("apply-twice", "kill,restart"),
    ("forget-vote", "kill,isolate-leader,one-way,flapping"),
    ("watch-gap", "compact,kill-one,drop-connections"),
    ("torn-install", "wipe,membership,partition,kill-one,snapshot"),
    ("deposed-lessor", "pause-leader,isolate-leader,one-way-leader"),
];

/// Why the program ends early.
#[derive(Debug, thiserror::Error)]
enum Trouble {
    #[error(transparent)]
    Run(#[from] RunError),
    #[error(transparent)]
    Fault(#[from] UnknownFault),
    #[error(transparent)]
    Ledger(#[from] ledger::LedgerError),
    #[error("ended by {0} before the verdict; the nodes are stopped")]
    Interrupted(&'static str),
    #[error("cannot {0}: {1}")]
    System(&'static str, std::io::Error),
    #[error("there is no planted bug {0:?}; there are {list}", list = MUTANTS.map(|(name, _)| name).join(", "))]
    Mutant(String),
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> ExitCode {
    // Dropping the work ends all nodes and unmounts their disks.
    let done = tokio::select! {
        done = carry_out(Cli::parse().command) => done,
        signal = interrupted() => signal.and_then(|name| Err(Trouble::Interrupted(name))),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(BROKEN),
        Err(trouble) => {
            warn(&format!("error: {trouble}"));
            ExitCode::from(FAILED)
        }
    }
}

async fn carry_out(command: Command) -> Result<bool, Trouble> {
    match command {
        Command::Run(args) => run_all(&args).await,
        Command::Check { folder, ledger } => check(&folder, ledger.as_deref()).await,
        Command::Merge { ledger, other } => {
            ledger::merge(&ledger, &other)?;
            Ok(true)
        }
        Command::Mutants(args) => hunt(&args).await,
        Command::Faults => {
            for fault in Fault::ALL {
                say(fault.name());
            }
            Ok(true)
        }
    }
}

/// Waits until somebody wants the program to end.
async fn interrupted() -> Result<&'static str, Trouble> {
    let listen = |kind| signal(kind).map_err(|error| Trouble::System("listen for signals", error));
    let (mut interrupt, mut terminate) = (listen(SignalKind::interrupt())?, listen(SignalKind::terminate())?);
    tokio::select! {
        _ = interrupt.recv() => Ok("SIGINT"),
        _ = terminate.recv() => Ok("SIGTERM"),
    }
}

#[expect(clippy::print_stdout, reason = "this is a command's result")]
fn say(text: &str) {
    println!("{text}");
}

#[expect(clippy::print_stderr, reason = "this is what a command tells of its progress")]
fn warn(text: &str) {
    eprintln!("{text}");
}

async fn run_all(args: &RunArgs) -> Result<bool, Trouble> {
    let mut seed = args.seed.unwrap_or_else(random_seed);
    let mut all_passed = true;
    for _ in 0..args.runs {
        let ran = one(&args.common, seed, None).await?;
        all_passed &= show(&ran);
        if let Some(path) = &args.ledger {
            ledger::append(path, ran.entry)?;
        }
        seed = Dice::new(seed).next() % SEEDS;
    }
    Ok(all_passed)
}

async fn check(folder: &Path, ledger: Option<&Path>) -> Result<bool, Trouble> {
    let ran = judge(folder).await?;
    let passed = show(&ran);
    if let Some(path) = ledger {
        ledger::append(path, ran.entry)?;
    }
    Ok(passed)
}

/// Lets each planted bug loose until it is caught.
async fn hunt(args: &MutantArgs) -> Result<bool, Trouble> {
    let heads = ["| planted bug | caught | minutes | runs | by |", "| --- | --- | --- | --- | --- |"];
    let mut rows: Vec<_> = heads.map(str::to_owned).into();
    let mut all_caught = true;
    for mutant in &args.only {
        let known = MUTANTS.iter().find(|(name, _)| name == mutant);
        let (_, aimed) = known.ok_or_else(|| Trouble::Mutant(mutant.clone()))?;
        let mut common = args.common.clone();
        if common.faults.is_empty() {
            common.faults = aimed.split(',').map(ToOwned::to_owned).collect();
        }
        let begun = Instant::now();
        let (mut runs, mut by) = (0, None);
        while by.is_none() && begun.elapsed() < Duration::from_secs(60 * args.minutes) {
            runs += 1;
            let ran = one(&common, random_seed(), Some(mutant)).await?;
            by = ran.verdict.problems.first().map(|problem| problem.check.clone());
            show(&ran);
            if let Some(path) = &args.ledger {
                ledger::append(path, ran.entry)?;
            }
        }
        all_caught &= by.is_some();
        let minutes = begun.elapsed().as_secs_f64() / 60.0;
        let caught = if by.is_some() { "yes" } else { "**no**" };
        let by = by.unwrap_or_else(|| "–".to_owned());
        warn(&format!("{mutant}: caught: {caught}, after {minutes:.1} minutes and {runs} runs, by {by}"));
        rows.push(format!("| {mutant} | {caught} | {minutes:.1} | {runs} | {by} |"));
    }
    say(&rows.join("\n"));
    Ok(all_caught)
}

async fn one(common: &Common, seed: u64, mutant: Option<&str>) -> Result<Ran, Trouble> {
    let root = match &common.folder {
        Some(folder) => folder.clone(),
        None => std::env::temp_dir().join(format!("kvorum-torture-{}", std::process::id())),
    };
    let folder = root.join(format!("{}{seed}", mutant.map(|name| format!("{name}-")).unwrap_or_default()));
    let nodes = common.nodes.unwrap_or_else(|| if Dice::new(!seed).chance(30) { 5 } else { 3 });
    let names = if common.faults.is_empty() { vec!["all".to_owned()] } else { common.faults.clone() };
    let faults = faults(&names)?;
    let command = format!(
        "./torture.sh --seed {seed} --nodes {nodes} --duration {} --clients {} --pause {} --faults {}",
        common.duration,
        common.clients,
        common.pause,
        names.join(",")
    );
    warn(&format!("seed {seed}; repeat with: {command}"));
    let plan = Plan {
        binary: common.binary.clone(),
        preload: common.preload.clone(),
        folder,
        nodes,
        seed,
        duration: Duration::from_secs(common.duration),
        faults,
        clients: common.clients,
        pause: Duration::from_millis(common.pause),
        commit: common.commit.clone(),
        date: ledger::date().map_err(|error| Trouble::System("ask `date` for the date", error))?,
        mutant: mutant.map(ToOwned::to_owned),
        command,
    };
    Ok(run(&plan).await?)
}

fn faults(names: &[String]) -> Result<Vec<Fault>, UnknownFault> {
    let mut chosen = Vec::new();
    for name in names {
        let found: Vec<_> = (Fault::ALL.into_iter())
            .filter(|fault| {
                name == "all" || fault.name() == name || fault.name().starts_with(&format!("{name}-"))
            })
            .collect();
        if found.is_empty() && name != "none" {
            return Err(UnknownFault { name: name.clone() });
        }
        chosen.extend(found);
    }
    chosen.sort_unstable();
    chosen.dedup();
    Ok(chosen)
}

/// Tells what a run gave; whether no promise was broken.
fn show(ran: &Ran) -> bool {
    let Ran { verdict, entry, page, skipped, .. } = ran;
    let faults = entry.faults.iter().map(|(kind, count)| format!("{kind:?} {count}"));
    warn(&format!("faults: {}", faults.collect::<Vec<_>>().join(", ")));
    if !skipped.is_empty() {
        let list = skipped.iter().map(|(fault, count)| format!("{fault} {count}"));
        warn(&format!(
            "skipped, since this machine does not allow them: {}",
            list.collect::<Vec<_>>().join(", ")
        ));
    }
    for check in &verdict.checks {
        warn(&format!("{}: {} {}", check.name, check.checked, check.unit));
    }
    for problem in &verdict.problems {
        warn(&format!("BROKEN {}: {}", problem.check, problem.text));
    }
    warn(&format!("report: {}", page.display()));
    let recovery = match entry.recovery {
        Some((median, largest)) => {
            format!("; recovery after a leader's kill: median {median} ms, largest {largest} ms")
        }
        None => String::new(),
    };
    let verdict = match verdict.problems.len() {
        0 => "no promise was broken".to_owned(),
        1 => "ONE PROMISE WAS BROKEN".to_owned(),
        count => format!("{count} PROMISES WERE BROKEN"),
    };
    say(&format!(
        "seed {}: {} operations, {} unknown, {} s{recovery}: {verdict}",
        entry.seed, entry.operations, entry.unknown, entry.seconds
    ));
    ran.verdict.problems.is_empty()
}

fn random_seed() -> u64 {
    use std::hash::{BuildHasher as _, Hasher as _};
    // The keys of the standard library's hashes come from the system's randomness.
    let seed = std::hash::RandomState::new().build_hasher().finish();
    seed % SEEDS
}

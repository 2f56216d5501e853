//! Many seeds: each in a process of its own, a few at a time.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use kvorum_torture::ledger::{self, Simulated};

use crate::plan::Canary;
use crate::run::{Report, run};
use crate::trace;

const USAGE: &str = "\
Usage: simulate.sh --seeds N [--from S] [--jobs J] [--ledger FILE] [--canary restore|lie]
       simulate.sh --seed S [--show] [--canary restore|lie]

Runs N seeds, each in a process of its own, or one seed in this one; --show prints
what happens; --ledger adds a line to a ledger of runs. A canary makes Kvorum or its disks worse than they are, to see that it
is found: `restore` lets a restarted leader go on, `lie` lets disks lie about syncs.
";

#[derive(Default)]
struct Args {
    seeds: Option<u64>,
    seed: Option<u64>,
    from: u64,
    jobs: usize,
    shows: bool,
    canary: Option<String>,
    ledger: Option<PathBuf>,
}

fn parse() -> Option<Args> {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let mut args = Args { from: 1, jobs: cores, ..Args::default() };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        match word.as_str() {
            "--seeds" => args.seeds = Some(words.next()?.parse().ok()?),
            "--seed" => args.seed = Some(words.next()?.parse().ok()?),
            "--from" => args.from = words.next()?.parse().ok()?,
            "--jobs" => args.jobs = words.next()?.parse().ok()?,
            "--canary" => args.canary = Some(words.next()?),
            "--ledger" => args.ledger = Some(words.next()?.into()),
            "--show" => args.shows = true,
            _ => return None,
        }
    }
    Some(args)
}

pub(crate) fn main() -> ExitCode {
    let Some(args) = parse() else {
        eprint!("{USAGE}");
        return ExitCode::from(2);
    };
    let canary = match args.canary.as_deref() {
        None => None,
        Some("restore") => Some(Canary::LeaderRestore),
        Some("lie") => Some(Canary::LyingDisk),
        Some(_) => {
            eprint!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    match (args.seed, args.seeds) {
        (Some(seed), None) => one(seed, canary, args.shows),
        (None, Some(seeds)) => many(&args, seeds),
        (Some(_), Some(_)) | (None, None) => {
            eprint!("{USAGE}");
            ExitCode::from(2)
        }
    }
}

#[expect(clippy::print_stdout, reason = "what a run or many runs gave is what the program is asked for")]
fn one(seed: u64, canary: Option<Canary>, shows: bool) -> ExitCode {
    if shows {
        trace::show();
    }
    if let Ok(filter) = std::env::var("RUST_LOG") {
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).without_time().init();
    }
    match run(seed, canary) {
        Ok(report) => {
            println!("{}", serde_json::to_string(&report).expect("a report has a JSON form"));
            if report.problems.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(error) => {
            eprintln!("seed {seed} can't be run: {error}");
            ExitCode::from(3)
        }
    }
}

#[derive(Default)]
struct Sum {
    runs: u64,
    failing: u64,
    simulated_ms: u64,
    steps: u64,
    acknowledged: u64,
    unknown: u64,
    failed: u64,
}

#[expect(clippy::print_stdout, reason = "what a run or many runs gave is what the program is asked for")]
fn many(args: &Args, seeds: u64) -> ExitCode {
    let next = AtomicU64::new(0);
    let sum = Mutex::new(Sum::default());
    let date = ledger::date();
    let begun = std::time::Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..args.jobs {
            scope.spawn(|| {
                loop {
                    let place = next.fetch_add(1, Ordering::Relaxed);
                    if place >= seeds {
                        return;
                    }
                    let seed = args.from + place;
                    let result = child(seed, args.canary.as_deref());
                    note(&mut sum.lock().expect("no thread panics"), seed, args.canary.as_deref(), result);
                }
            });
        }
    });
    let sum = sum.into_inner().expect("no thread panics");
    let took = begun.elapsed();
    println!(
        "{} seeds from {} in {:.1} s: {} s simulated, {} steps, {} operations acknowledged, {} failed, {} unknown; {} seeds with problems",
        sum.runs,
        args.from,
        took.as_secs_f64(),
        sum.simulated_ms / 1_000,
        sum.steps,
        sum.acknowledged,
        sum.failed,
        sum.unknown,
        sum.failing
    );
    if let Some(path) = &args.ledger
        && let Err(error) =
            date.map_err(|error| error.to_string()).and_then(|date| add(path, date, args, &sum))
    {
        eprintln!("nothing was added to the ledger: {error}");
        return ExitCode::from(2);
    }
    if sum.failing == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Adds a line to the ledger at `path`.
fn add(path: &Path, date: String, args: &Args, sum: &Sum) -> Result<(), String> {
    if args.canary.is_some() {
        return Err("with a canary, promises are broken on purpose".to_owned());
    }
    let entry = Simulated {
        date,
        commit: std::env::var("KVORUM_COMMIT").unwrap_or_else(|_| "unknown".to_owned()),
        from: args.from,
        seeds: sum.runs,
        seconds: sum.simulated_ms / 1_000,
        steps: sum.steps,
        operations: sum.acknowledged + sum.failed,
        unknown: sum.unknown,
        broken: sum.failing,
    };
    ledger::append_simulated(path, entry).map(drop).map_err(|error| error.to_string())
}

/// Adds what came out of a run, and says so if that is bad.
#[expect(clippy::print_stdout, reason = "what a run or many runs gave is what the program is asked for")]
fn note(sum: &mut Sum, seed: u64, canary: Option<&str>, result: Result<Report, String>) {
    sum.runs += 1;
    let problem = match result {
        Ok(report) => {
            sum.simulated_ms += report.simulated_ms;
            sum.steps += report.steps;
            sum.acknowledged += report.acknowledged;
            sum.unknown += report.unknown;
            sum.failed += report.failed;
            let more = report.problems.len().saturating_sub(1);
            report.problems.first().map(|first| format!("{first} (and {more} more)"))
        }
        Err(problem) => Some(problem),
    };
    if let Some(problem) = problem {
        sum.failing += 1;
        let canary = canary.map_or_else(String::new, |canary| format!(" --canary {canary}"));
        println!("seed {seed}: {problem}\n  ./simulate.sh --seed {seed}{canary} --show");
    }
}

/// Runs a seed in a process of its own.
fn child(seed: u64, canary: Option<&str>) -> Result<Report, String> {
    let program = std::env::current_exe().map_err(|error| error.to_string())?;
    let mut command = Command::new(program);
    command.args(["--seed", &seed.to_string()]);
    if let Some(canary) = canary {
        command.args(["--canary", canary]);
    }
    let output = command.stdin(Stdio::null()).output().map_err(|error| error.to_string())?;
    let last_words = String::from_utf8_lossy(&output.stderr).into_owned();
    match serde_json::from_slice::<Report>(&output.stdout) {
        Ok(mut report) => {
            if !last_words.is_empty() && !report.problems.is_empty() {
                report.problems.insert(0, last_words);
            }
            Ok(report)
        }
        Err(error) => Err(format!("it ended with {} ({error}): {last_words}", output.status)),
    }
}

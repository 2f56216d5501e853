//! One run: a cluster, clients and faults at the same time, and then the verdict.
//!
//! What is written into the run's folder stays there: the history, the faults, the page,
//! the nodes' logs. A run whose cluster does not come to rest has failed, whatever
//! clients were told: there is nothing whole to judge then.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::check;
use crate::cluster::{Cluster, HarnessError, Settings, image_disks_work};
use crate::dice::Dice;
use crate::fault::{Fault, Nemesis, SafeRevision};
use crate::history::{History, NodeState, Outcome};
use crate::ledger::Entry;
use crate::record::{Clock, RecordError};
use crate::report::{self, Check, Problem, Run, Verdict};
use crate::timeline::Mishap;
use crate::workload::{Clients, Options};

/// The variable that wakes a planted bug, in a build that has some.
const MUTANT: &str = "KVORUM_MUTANT";
/// How long the cluster may take to come to rest at the end.
const REST_LIMIT: Duration = Duration::from_secs(90);
/// Longer than any lease of the clients: what ends by itself has ended then.
const LEASES_END: Duration = Duration::from_secs(8);
/// Room for a node's data, of which only what is used takes any.
const IMAGE_BYTES: u64 = 1 << 30;

/// What a run is to be.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The server.
    pub binary: PathBuf,
    /// The library that makes disks fail and clocks jump, if it is there.
    pub preload: Option<PathBuf>,
    /// Where all of the run goes.
    pub folder: PathBuf,
    /// How many voters.
    pub nodes: u64,
    /// The seed of all choices.
    pub seed: u64,
    /// How long faults go on.
    pub duration: Duration,
    /// Which faults.
    pub faults: Vec<Fault>,
    /// Clients that read and write.
    pub clients: usize,
    /// The mean of a client's pause between calls.
    pub pause: Duration,
    /// The commit of the server, for the report.
    pub commit: String,
    /// When the run begins, for the report.
    pub date: String,
    /// The planted bug that is to be awake.
    pub mutant: Option<String>,
    /// What repeats the run, for the report.
    pub command: String,
}

/// Why a run could not take place.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The cluster can't be made, or the harness failed.
    #[error(transparent)]
    Harness(#[from] HarnessError),
    /// The history can't be written or read.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// Another file can't be.
    #[error("cannot {action} {path}: {source}", path = path.display())]
    File {
        /// What was being done.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// The judge of the history ended by itself.
    #[error("the checkers failed: {0}")]
    Checkers(String),
}

/// A run that took place.
#[derive(Debug)]
pub struct Ran {
    /// What it was.
    pub run: Run,
    /// What was found.
    pub verdict: Verdict,
    /// Its line in the ledger.
    pub entry: Entry,
    /// The page.
    pub page: PathBuf,
    /// Faults that this machine does not allow, with how often they were drawn.
    pub skipped: Vec<(Fault, u64)>,
}

/// What a run's folder holds besides the history.
#[derive(Debug, Serialize, Deserialize)]
struct Story {
    run: Run,
    mishaps: Vec<Mishap>,
    /// What nodes did that they must not do, and what clients noticed themselves.
    broken: Vec<Problem>,
}

/// Carries a run out.
///
/// # Errors
/// When it could not take place. A broken promise is no error but a verdict.
pub async fn run(plan: &Plan) -> Result<Ran, RunError> {
    let made = |source| RunError::File { action: "create", path: plan.folder.clone(), source };
    fs::create_dir_all(&plan.folder).map_err(made)?;
    let begun = Instant::now();
    let mut cluster = Cluster::form(settings(plan, begun)).await?;
    let clock = Clock::since(begun);
    let mut dice = Dice::new(plan.seed);
    let (mut of_faults, of_clients) = (dice.fork(), dice.fork());
    let options = Options { clients: plan.clients, pause: plan.pause, ..Options::default() };
    let mut clients = Clients::start(cluster.endpoints().borrow().clone(), &options, clock, of_clients);

    let mut nemesis = Nemesis::new(plan.faults.clone(), Some(safe_revision(&clients)));
    let mut broken = Vec::new();
    let until = Instant::now() + plan.duration;
    let outcome = inflict(&mut nemesis, &mut cluster, &clients, until, &mut of_faults).await;
    let is_whole = outcome.is_ok();
    if let Err(error) = outcome {
        broken.push(problem("recovery", format!("the cluster did not recover: {error}")));
    }
    clients.halt().await;
    let states = if is_whole { rest(&mut cluster, &mut broken).await } else { Vec::new() };
    let revision = states.iter().map(|state| state.revision).max().unwrap_or(0);
    let recorded = clients.stop(revision).await;
    let worked = clock.now();
    if let Err(error) = cluster.stop().await {
        broken.push(problem("nodes", format!("the nodes could not be stopped: {error}")));
    }
    cluster.search_logs();
    broken.extend(
        cluster
            .problems()
            .iter()
            .map(|found| problem("nodes", format!("node {}: {}", found.node, found.what))),
    );
    broken.extend(recorded.broken.iter().map(|text| problem("leases", text.clone())));

    let history = recorded.into_history(states);
    history.save(&plan.folder)?;
    let run = Run {
        commit: plan.commit.clone(),
        date: plan.date.clone(),
        nodes: plan.nodes as usize,
        seed: plan.seed,
        duration: worked,
        command: plan.command.clone(),
        mutant: plan.mutant.clone(),
    };
    let story = Story { run, mishaps: nemesis.mishaps().to_vec(), broken };
    write(&plan.folder.join("story.json"), &serde_json::to_vec_pretty(&story).map_err(RecordError::from)?)?;
    let skipped = nemesis.skipped().iter().map(|(fault, count)| (*fault, *count)).collect();
    conclude(&plan.folder, story, history, skipped).await
}

/// Judges a run again from what its folder holds.
///
/// # Errors
/// When the folder does not hold all of a run.
pub async fn judge(folder: &Path) -> Result<Ran, RunError> {
    let path = folder.join("story.json");
    let read = |source| RunError::File { action: "read", path: path.clone(), source };
    let story = serde_json::from_slice(&fs::read(&path).map_err(read)?).map_err(RecordError::from)?;
    conclude(folder, story, History::load(folder)?, Vec::new()).await
}

fn settings(plan: &Plan, begun: Instant) -> Settings {
    let mut settings = Settings::new(&plan.binary, &plan.folder, plan.nodes).short_log();
    settings.begun = begun;
    settings.seed = plan.seed;
    settings.preload.clone_from(&plan.preload);
    match image_disks_work(&plan.folder) {
        Ok(()) => settings.image_bytes = Some(IMAGE_BYTES),
        Err(error) => say(&format!("no power is lost and no disk is full in this run: {error}")),
    }
    if settings.preload.is_none() {
        say("no disk fails and no clock jumps in this run: the library for it is missing");
    }
    settings.environment.extend(plan.mutant.iter().map(|name| (MUTANT.to_owned(), name.clone())));
    settings
}

#[expect(clippy::print_stderr, reason = "a command tells people what it does")]
fn say(text: &str) {
    eprintln!("{text}");
}

/// Everything above it is still needed by watchers that must see all.
fn safe_revision(clients: &Clients) -> SafeRevision {
    let seen = clients.seen();
    Arc::new(move || Some(seen.safe_revision()).filter(|revision| *revision > 1))
}

/// Lets faults happen, and tells the clients which nodes there are meanwhile.
async fn inflict(
    nemesis: &mut Nemesis,
    cluster: &mut Cluster,
    clients: &Clients,
    until: Instant,
    dice: &mut Dice,
) -> Result<(), HarnessError> {
    let mut endpoints = cluster.endpoints();
    let mut faults = std::pin::pin!(nemesis.run(cluster, until, dice));
    loop {
        tokio::select! {
            ended = &mut faults => return ended.map(drop),
            Ok(()) = endpoints.changed() => clients.set_endpoints(endpoints.borrow_and_update().clone()),
        }
    }
}

/// Waits until nothing changes any more and reads what all nodes then hold.
async fn rest(cluster: &mut Cluster, broken: &mut Vec<Problem>) -> Vec<NodeState> {
    let resting = async {
        cluster.tend(LEASES_END).await?;
        cluster.final_states(REST_LIMIT).await
    };
    resting.await.unwrap_or_else(|error| {
        broken.push(problem("recovery", format!("the nodes did not come to rest: {error}")));
        Vec::new()
    })
}

fn problem(check: &str, text: String) -> Problem {
    Problem { check: check.to_owned(), text, key: None, operations: Vec::new() }
}

async fn conclude(
    folder: &Path,
    story: Story,
    history: History,
    skipped: Vec<(Fault, u64)>,
) -> Result<Ran, RunError> {
    let Story { run, mishaps, broken } = story;
    // It takes long, and the nodes are gone: nothing waits for it.
    let judging = tokio::task::spawn_blocking(move || {
        // Without the nodes' final states there is no whole history to judge.
        let found =
            if history.final_states.is_empty() { check::Verdict::default() } else { check::check(&history) };
        (history, found)
    });
    let (history, found) = judging.await.map_err(|error| RunError::Checkers(error.to_string()))?;
    let verdict = verdict_of(broken, found);
    let entry = entry_of(&run, &history, &mishaps, &verdict);
    let page = folder.join("report.html");
    write(&page, report::page(&run, &history, &mishaps, &verdict).as_bytes())?;
    Ok(Ran { run, verdict, entry, page, skipped })
}

fn verdict_of(mut problems: Vec<Problem>, found: check::Verdict) -> Verdict {
    let problems_of = |checker: &str| found.counted(&format!("{checker}.problems"));
    let mut checks: Vec<_> = found
        .counts
        .iter()
        .filter_map(|(name, count)| Some((name.split_once('.')?, *count)))
        .filter(|((_, unit), _)| *unit != "problems")
        .map(|((name, unit), checked)| Check {
            name: name.to_owned(),
            checked,
            unit: unit.to_owned(),
            problems: problems_of(name),
        })
        .collect();
    checks.sort_by(|one, other| (&one.name, &one.unit).cmp(&(&other.name, &other.unit)));
    problems.extend(found.problems.into_iter().map(|found| Problem {
        check: format!("{}/{}", found.check, found.kind),
        text: found.text,
        key: found.key,
        operations: found.operations,
    }));
    Verdict { problems, checks }
}

fn entry_of(run: &Run, history: &History, mishaps: &[Mishap], verdict: &Verdict) -> Entry {
    let mut faults = std::collections::BTreeMap::new();
    for mishap in mishaps {
        *faults.entry(mishap.kind).or_default() += mishap.count;
    }
    let of_leaders = report::recoveries(history, mishaps)
        .into_iter()
        .filter(|recovery| recovery.fault == Fault::KillLeader.name())
        .filter_map(|recovery| recovery.from_begin);
    let millis = |nanos: u64| nanos / 1_000_000;
    let unknown =
        |operation: &&crate::history::Operation| matches!(operation.outcome, Outcome::Unknown { .. });
    Entry {
        date: run.date.clone(),
        commit: run.commit.clone(),
        nodes: run.nodes as u64,
        seed: run.seed,
        seconds: run.duration / 1_000_000_000,
        faults,
        operations: history.operations.len() as u64,
        unknown: history.operations.iter().filter(unknown).count() as u64,
        problems: verdict.problems.len() as u64,
        recovery: report::spread(of_leaders).map(|spread| (millis(spread.median), millis(spread.largest))),
        mutant: run.mutant.clone(),
    }
}

fn write(path: &Path, content: &[u8]) -> Result<(), RunError> {
    let failed = |source| RunError::File { action: "write", path: path.to_owned(), source };
    fs::write(path, content).map_err(failed)
}

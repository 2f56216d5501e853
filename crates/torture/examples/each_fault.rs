//! Does each fault once to a real cluster, and checks each time that the cluster takes
//! writes again and that all nodes hold the same.
//!
//! For those who work on the faults themselves: it knows no clients and checks no
//! history. `--help` shows how it is run.

use std::error::Error;
use std::io::Write as _;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use bytes::Bytes;
use clap::Parser;
use http_body_util::{BodyExt as _, Full};
use hyper::Request;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use kvorum_torture::cluster::{Cluster, Endpoint, Settings, image_disks_work};
use kvorum_torture::dice::Dice;
use kvorum_torture::fault::{Fault, Nemesis};
use kvorum_torture::history::NodeState;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinHandle;

/// How long a cluster that has recovered may take to take a write.
const WRITE_LIMIT: Duration = Duration::from_secs(20);
/// How long is written before the first fault.
const WARM_UP: Duration = Duration::from_secs(3);
/// How long the nodes may take to be equal.
const SETTLE_LIMIT: Duration = Duration::from_secs(60);

/// Does each fault once to a real cluster
#[derive(Parser)]
struct Args {
    /// The server
    #[arg(long)]
    binary: PathBuf,
    /// Folder of the run
    #[arg(long)]
    folder: PathBuf,
    /// Voters
    #[arg(long, default_value_t = 3)]
    nodes: u64,
    /// Where random choices begin
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Only these faults
    #[arg(long, value_delimiter = ',')]
    faults: Vec<Fault>,
    /// How often each fault is done
    #[arg(long, default_value_t = 1)]
    times: u64,
    /// Instead of each fault by itself: random ones, overlapping, for so many seconds
    #[arg(long)]
    mixed_seconds: Option<u64>,
    /// First port to use
    #[arg(long, default_value_t = 12_000)]
    first_port: u16,
    /// Nodes use plain folders, and lose no power
    #[arg(long)]
    plain_folders: bool,
    /// Disks say that they have synced and have not: a loss of power must then be found out
    #[arg(long, hide = true)]
    lying_disks: bool,
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let args = Args::parse();
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        result = run(&args) => result,
        _ = interrupt.recv() => Err("interrupted".into()),
        _ = terminate.recv() => Err("told to stop".into()),
    }
}

async fn run(args: &Args) -> Result<(), Box<dyn Error>> {
    let mut settings = Settings::new(&args.binary, &args.folder, args.nodes).short_log();
    settings.ports = args.first_port..args.first_port.saturating_add(4_000);
    settings.preload = Some(Settings::find_preload()?);
    settings.seed = args.seed;
    settings.lying_disks = args.lying_disks;
    std::fs::create_dir_all(&args.folder)?;
    if !args.plain_folders {
        match image_disks_work(&args.folder) {
            Ok(()) => settings.image_bytes = Some(256 << 20),
            Err(error) => say(&format!("no disks that lose power: {error}")),
        }
    }
    let mut cluster = Cluster::form(settings).await?;
    let load = Load::start(&cluster);
    cluster.tend(WARM_UP).await?;
    let faults = if args.faults.is_empty() { Fault::ALL.to_vec() } else { args.faults.clone() };
    let mut nemesis = Nemesis::new(faults.clone(), Some(load.safe_revision()));
    let result = match args.mixed_seconds {
        Some(seconds) => mixed(&mut cluster, &mut nemesis, args.seed, seconds).await,
        None => one_by_one(&mut cluster, &mut nemesis, &faults, args).await,
    };
    say(&format!("skipped: {:?}", nemesis.skipped()));
    say(&format!("ends that faults allowed: {:?}", cluster.allowed_ends()));
    let (writes, newest) = load.stop();
    say(&format!("writes of the load: {writes}, the last one at revision {newest}"));
    cluster.search_logs();
    for problem in cluster.problems() {
        say(&format!("problem: {}", serde_json::to_string_pretty(problem)?));
    }
    result?;
    let states = cluster.final_states(SETTLE_LIMIT).await?;
    for state in &states {
        say(&format!("node {}: {} records at {}", state.node, state.records.len(), state.revision));
    }
    if let Some(lost) = states.iter().find(|state| state.revision < newest) {
        let NodeState { node, revision, .. } = lost;
        return Err(format!("revision {newest} was acknowledged, and node {node} ends at {revision}").into());
    }
    let Some(first) = states.first() else { return Err("no node is left".into()) };
    if states.iter().any(|state| (&state.records, &state.state_hash) != (&first.records, &first.state_hash)) {
        return Err("nodes differ".into());
    }
    cluster.stop().await?;
    match cluster.problems() {
        [] => Ok(()),
        problems => Err(serde_json::to_string_pretty(problems)?.into()),
    }
}

async fn mixed(
    cluster: &mut Cluster,
    nemesis: &mut Nemesis,
    seed: u64,
    seconds: u64,
) -> Result<(), Box<dyn Error>> {
    let until = Instant::now() + Duration::from_secs(seconds);
    let result = nemesis.run(cluster, until, &mut Dice::new(seed)).await;
    for mishap in nemesis.mishaps() {
        say(&serde_json::to_string(mishap)?);
    }
    result?;
    check(cluster, "all of them").await
}

async fn one_by_one(
    cluster: &mut Cluster,
    nemesis: &mut Nemesis,
    faults: &[Fault],
    args: &Args,
) -> Result<(), Box<dyn Error>> {
    let mut dice = Dice::new(args.seed);
    for fault in faults.iter().flat_map(|fault| (0..args.times).map(|_| *fault)) {
        let begun = Instant::now();
        let done = nemesis.mishaps().len();
        let result = nemesis.inflict(cluster, fault, &mut dice.fork()).await;
        for mishap in nemesis.mishaps().iter().skip(done) {
            say(&format!("{fault} of {:?}: {}", mishap.nodes, mishap.detail));
        }
        result?;
        check(cluster, fault.name()).await?;
        say(&format!("{fault}: recovered, {:.1} s in all", begun.elapsed().as_secs_f64()));
    }
    Ok(())
}

/// Checks that a write through each node succeeds, and that nothing happened that must
/// not.
async fn check(cluster: &mut Cluster, after: &str) -> Result<(), Box<dyn Error>> {
    let endpoints = cluster.endpoints().borrow().clone();
    for endpoint in endpoints {
        let begun = Instant::now();
        while let Err(error) = put(&client(), &endpoint, "check", after).await {
            if begun.elapsed() > WRITE_LIMIT {
                return Err(format!("after {after}, node {} takes no write: {error}", endpoint.node).into());
            }
            cluster.tend(Duration::from_millis(100)).await?;
        }
    }
    match cluster.problems() {
        [] => Ok(()),
        _ => Err(format!("after {after}, there are problems").into()),
    }
}

type Http = Client<HttpConnector, Full<Bytes>>;

fn client() -> Http {
    Client::builder(TokioExecutor::new()).build_http()
}

async fn put(http: &Http, to: &Endpoint, key: &str, value: &str) -> Result<i64, String> {
    let uri = format!("http://{}/v1/kv/{key}", to.http);
    let request = Request::put(uri).body(Full::new(Bytes::from(value.to_owned())));
    let request = request.map_err(|error| error.to_string())?;
    let exchange = async {
        let response = http.request(request).await.map_err(|error| format!("{error:?}"))?;
        let status = response.status();
        let body = response.into_body().collect().await.map_err(|error| error.to_string())?.to_bytes();
        if !status.is_success() {
            return Err(format!("{status}: {}", String::from_utf8_lossy(&body)));
        }
        let body: serde_json::Value = serde_json::from_slice(&body).map_err(|error| error.to_string())?;
        body.get("revision").and_then(serde_json::Value::as_i64).ok_or_else(|| "no revision".to_owned())
    };
    let limit = Duration::from_secs(5);
    tokio::time::timeout(limit, exchange).await.unwrap_or_else(|_| Err("no answer".to_owned()))
}

/// Writes that go on all the time, so that there is something to lose.
struct Load {
    tasks: Vec<JoinHandle<()>>,
    written: tokio::sync::watch::Sender<(u64, i64)>,
}

impl Load {
    fn start(cluster: &Cluster) -> Self {
        let written = tokio::sync::watch::Sender::new((0_u64, 0_i64));
        let task = |number: usize| {
            let (endpoints, written, http) = (cluster.endpoints(), written.clone(), client());
            tokio::spawn(async move {
                let mut dice = Dice::new(number as u64);
                for nth in 0_u64.. {
                    let endpoint = dice.pick(&endpoints.borrow()).clone();
                    let key = format!("load/{number}/{}", dice.below(200));
                    match put(&http, &endpoint, &key, &format!("{nth} {}", "x".repeat(dice.below(3_000))))
                        .await
                    {
                        Ok(revision) => written.send_modify(|(count, newest)| {
                            *count += 1;
                            *newest = revision.max(*newest);
                        }),
                        Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
                    }
                    tokio::time::sleep(dice.millis(1, 15)).await;
                }
            })
        };
        Self { tasks: (0..6).map(task).collect(), written }
    }

    fn safe_revision(&self) -> kvorum_torture::fault::SafeRevision {
        let written = self.written.clone();
        std::sync::Arc::new(move || Some(written.borrow().1 - 100).filter(|revision| *revision > 1))
    }

    /// How many writes were acknowledged, and the newest revision among them.
    fn stop(self) -> (u64, i64) {
        self.tasks.iter().for_each(JoinHandle::abort);
        *self.written.borrow()
    }
}

fn say(line: &str) {
    // Whoever closed the pipe does not want to know.
    let _ = writeln!(std::io::stdout(), "{line}");
}

//! Records what clients are told by a cluster that runs already, and writes it into a folder.
//!
//! `record FOLDER SECONDS SEED PAUSE HTTP=GRPC…`: the mean of a client's pause in milliseconds, and one pair of addresses for each node from the first
//! on. What happens to the nodes meanwhile is up to whoever calls it; all of them must run in
//! the end. It judges nothing.

use std::collections::BTreeMap;
use std::error::Error;
use std::io::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use kvorum_torture::dice::Dice;
use kvorum_torture::history::{History, Operation, Outcome, WatchNote};
use kvorum_torture::record::Clock;
use kvorum_torture::workload::{Clients, Endpoint, Options};

struct Arguments {
    folder: PathBuf,
    seconds: u64,
    seed: u64,
    pause: Duration,
    endpoints: Vec<Endpoint>,
}

fn arguments() -> Option<Arguments> {
    let mut words = std::env::args().skip(1);
    let folder = PathBuf::from(words.next()?);
    let seconds = words.next()?.parse().ok()?;
    let seed = words.next()?.parse().ok()?;
    let pause = Duration::from_millis(words.next()?.parse().ok()?);
    let endpoint = |(number, pair): (usize, String)| {
        let (http, grpc) = pair.split_once('=')?;
        Some(Endpoint { node: number as u64 + 1, http: http.to_owned(), grpc: grpc.to_owned() })
    };
    let endpoints: Vec<_> = words.enumerate().map(endpoint).collect::<Option<_>>()?;
    (!endpoints.is_empty()).then_some(Arguments { folder, seconds, seed, pause, endpoints })
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let Some(Arguments { folder, seconds, seed, pause, endpoints }) = arguments() else {
        return Err("usage: record FOLDER SECONDS SEED PAUSE HTTP=GRPC...".into());
    };
    std::fs::create_dir_all(&folder)?;
    let options = Options { pause, ..Options::default() };
    let mut clients = Clients::start(endpoints, &options, Clock::new(), Dice::new(seed));
    tokio::time::sleep(Duration::from_secs(seconds)).await;
    clients.halt().await;
    let (newest, safe) = (clients.newest_revision(), clients.safe_revision());
    let recorded = clients.stop(newest).await;
    let history = History {
        operations: recorded.operations,
        watches: recorded.watches,
        holdings: recorded.holdings,
        bank_total: recorded.bank_total,
        final_states: Vec::new(),
    };
    let path = history.save(&folder)?;
    let mut lines = vec![
        format!("{}", path.display()),
        format!("newest revision {newest}, seen by all watchers of everything before the end {safe}"),
        format!("{} operations in {seconds} s", history.operations.len()),
        format!("{} holdings", history.holdings.len()),
    ];
    lines.extend(recorded.broken.iter().map(|text| format!("BROKEN {text}")));
    lines.extend(counted(history.operations.iter().map(name)));
    lines.extend(counted(history.watches.iter().flat_map(|watch| &watch.notes).map(note)));
    writeln!(std::io::stdout(), "{}", lines.join("\n"))?;
    Ok(())
}

/// Each text with how often it came.
fn counted(texts: impl Iterator<Item = String>) -> Vec<String> {
    let mut counts = BTreeMap::<_, u64>::new();
    for text in texts {
        *counts.entry(text).or_default() += 1;
    }
    counts.into_iter().map(|(text, count)| format!("{count:>8} {text}")).collect()
}

fn name(operation: &Operation) -> String {
    let outcome = match &operation.outcome {
        Outcome::Done { succeeded, .. } => format!("done {succeeded}"),
        Outcome::SeedWritten | Outcome::SeedFound { .. } => "done".to_owned(),
        Outcome::Failed { reason } => format!("failed: {reason}"),
        Outcome::Unknown { reason } => format!("unknown: {reason}"),
    };
    format!("{:?} {outcome}", operation.way)
}

fn note(note: &WatchNote) -> String {
    match note {
        WatchNote::Opened { .. } => "opened".to_owned(),
        WatchNote::Events { .. } => "events".to_owned(),
        WatchNote::Progress { .. } => "progress".to_owned(),
        WatchNote::Compacted { .. } => "compacted".to_owned(),
        WatchNote::Lost { reason, .. } => format!("lost: {reason}"),
    }
}

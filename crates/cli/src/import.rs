//! `import`: keys set in bulk, from JSON lines or from a snapshot of etcd.
//!
//! A source gives one key after the other; what was read is sent in batches of a
//! bounded size, one at a time and in order. Invariant: when an import fails it says
//! up to where everything was certainly imported, and that it can be repeated.

mod lines;
mod snapshot;

use std::fs::File;
use std::path::PathBuf;

use bytes::Bytes;
use clap::Args;
use kvorum_client::{Client, Error, Operation};
use serde_json::{Value, json};

use crate::args::{ClientArgs, Format, LONG_TIMEOUT, help};
use crate::failure::{Exit, Failure};
use crate::output::{Io, Progress};
use lines::LineSource;

pub(crate) const HELP: &str = help!(
    "  kvorum import backup.jsonl
  gunzip < config.jsonl.gz | kvorum import -
  kvorum import --etcd-snapshot /backup/etcd.db

A line sets one key, as `kvorum export` writes it: {\"key\":\"k\",\"value\":\"v\"}, with
\"key_base64\" or \"value_base64\" for any bytes; other fields are passed over. Keys that
are not named stay as they are. An import is no single write: others see the part
that is done, and when it fails this part stays. It says where it stopped; go on from
there, or begin anew: the keys are only set once more.

Of a snapshot of etcd (`etcdctl snapshot save`, or the file db of a data folder) the
keys at its last revision are imported. Its history, leases, users and roles are not.
All keys are held in memory meanwhile, the values are not."
);

/// What a batch holds at most: far less than a node takes at once.
const BATCH_OPERATIONS: usize = 1_000;
const BATCH_BYTES: usize = 1 << 20;

/// Arguments of `import`.
#[derive(Debug, Args)]
pub struct ImportArgs {
    /// A file of JSON lines; standard input if it is `-` or not given
    file: Option<PathBuf>,
    /// Import the keys of this snapshot of etcd
    #[arg(long, value_name = "FILE", conflicts_with_all = ["file", "from_line"])]
    etcd_snapshot: Option<PathBuf>,
    /// Pass over the lines before this one
    #[arg(long, value_name = "N", default_value_t = 1, hide_default_value = true, value_parser = clap::value_parser!(u64).range(1..))]
    from_line: u64,
    #[command(flatten)]
    pub(crate) client: ClientArgs,
}

/// A key to be set.
#[derive(Debug, PartialEq, Eq)]
struct Record {
    key: Bytes,
    value: Bytes,
    /// Which line of the source it is, from 1.
    line: u64,
}

/// Gives one key after the other.
trait Source {
    /// What the numbers of its records count.
    const UNIT: &'static str;

    fn next(&mut self, io: &mut Io<'_>) -> Result<Option<Record>, Failure>;
}

/// How far an import has come.
#[derive(Debug, Default)]
struct Imported {
    keys: u64,
    revision: Option<i64>,
    /// The last line that was certainly imported.
    line: u64,
}

pub(crate) async fn import(args: ImportArgs, io: &mut Io<'_>) -> Result<(), Failure> {
    let client = args.client.client_within(LONG_TIMEOUT)?;
    let format = args.client.output;
    if let Some(path) = &args.etcd_snapshot {
        return snapshot::import(&client, path, format, io).await;
    }
    let file = match &args.file {
        Some(path) if *path != *"-" => Some(File::open(path).map_err(|error| {
            Failure::new(Exit::Failed, "input", format!("cannot read {}: {error}", path.display()))
        })?),
        _ => None,
    };
    let mut source = LineSource::new(file, args.from_line);
    let imported = run(&client, &mut source, args.from_line - 1, io).await?;
    match format {
        Format::Json => {
            io.line(&json!({ "imported": imported.keys, "revision": imported.revision }).to_string())
        }
        Format::Text | Format::Table => io.line(&summary(&imported)),
    }
}

fn summary(imported: &Imported) -> String {
    match imported.revision {
        None => "imported 0 keys".to_owned(),
        Some(revision) => format!("imported {} keys (revision {revision})", imported.keys),
    }
}

/// Imports everything that a source gives after its line `passed`.
async fn run<S: Source>(
    client: &Client,
    source: &mut S,
    passed: u64,
    io: &mut Io<'_>,
) -> Result<Imported, Failure> {
    let mut imported = Imported { line: passed, ..Imported::default() };
    let mut progress = Progress::default();
    if io.err_is_terminal {
        progress.stage(io, "importing");
    }
    let mut batch = Batch::default();
    let outcome = loop {
        match source.next(io) {
            Ok(Some(record)) => {
                if !batch.takes(&record) {
                    if let Err(failure) = batch.send(client, S::UNIT, &mut imported).await {
                        break Err(failure);
                    }
                    progress.detail(io, &format!("{} keys", imported.keys));
                }
                batch.push(record);
            }
            // What was read before the trouble is imported all the same: the lines
            // up to there are then done with.
            end => break batch.send(client, S::UNIT, &mut imported).await.and(end.map(drop)),
        }
    };
    progress.clear(io);
    match outcome {
        Ok(()) => Ok(imported),
        Err(failure) => Err(stopped(failure, &imported, S::UNIT)),
    }
}

fn stopped(failure: Failure, imported: &Imported, unit: &str) -> Failure {
    let next = imported.line + 1;
    let unknown = matches!(&failure, Failure::Report(report) if report.code == "outcome_unknown");
    let rest = if unknown { ", and some of what follows may be too" } else { "" };
    let told =
        format!("the import stopped at {unit} {next}: {} keys before it are imported{rest}", imported.keys);
    let hint = if unit == "line" {
        format!("go on with --from-line {next}, or import everything again: keys are only set once more")
    } else {
        "import everything again: keys are only set once more".to_owned()
    };
    let details = [("imported", imported.keys), ("stopped_at", next)];
    failure.after(&told, details.map(|(name, number)| (name.to_owned(), Value::from(number)))).hint(hint)
}

/// Keys that are sent together.
#[derive(Debug, Default)]
struct Batch {
    operations: Vec<Operation>,
    /// The line of each operation.
    lines: Vec<u64>,
    bytes: usize,
}

impl Batch {
    fn takes(&self, record: &Record) -> bool {
        let bytes = record.key.len() + record.value.len();
        self.operations.is_empty()
            || (self.operations.len() < BATCH_OPERATIONS && self.bytes + bytes <= BATCH_BYTES)
    }

    fn push(&mut self, record: Record) {
        self.bytes += record.key.len() + record.value.len();
        self.lines.push(record.line);
        self.operations.push(Operation::put(record.key, record.value));
    }

    /// Sends everything, in as many attempts as it takes while each comes further. If
    /// the cluster refuses an operation, what stands before it is sent all the same.
    async fn send(&mut self, client: &Client, unit: &str, imported: &mut Imported) -> Result<(), Failure> {
        let mut outcome = Ok(());
        while !self.operations.is_empty() {
            match client.batch(&self.operations).await {
                Ok(answer) => {
                    imported.revision = Some(answer.revision);
                    self.complete(self.operations.len(), imported);
                }
                Err(Error::BatchStopped { completed, cause }) => {
                    self.complete(usize::try_from(completed).unwrap_or(usize::MAX), imported);
                    // What follows was certainly not carried out.
                    if !matches!(*cause, Error::Unavailable { .. }) {
                        return Err((*cause).into());
                    }
                }
                Err(error) => {
                    let Some((index, what)) = refused(&error) else { return Err(error.into()) };
                    let Some(line) = self.lines.get(index).copied() else { return Err(error.into()) };
                    let message = format!("{unit} {line}: {what}");
                    self.operations.truncate(index);
                    self.lines.truncate(index);
                    outcome = Err((line, worded(error, message)));
                }
            }
        }
        self.bytes = 0;
        outcome.map_err(|(line, error)| {
            // Between this line and the one before it in the batch nothing was to import.
            imported.line = line - 1;
            error.into()
        })
    }

    /// The first `count` operations were carried out.
    fn complete(&mut self, count: usize, imported: &mut Imported) {
        let count = count.min(self.operations.len());
        self.operations.drain(..count);
        imported.line = self.lines.drain(..count).next_back().unwrap_or(imported.line);
        imported.keys += count as u64;
    }
}

/// Which operation of a batch the cluster refuses by its place, and with what words.
/// Of such a batch nothing was carried out.
fn refused(error: &Error) -> Option<(usize, String)> {
    let Error::Api { message, .. } = error else { return None };
    let (index, what) = message.strip_prefix("operations[")?.split_once(']')?;
    Some((index.parse().ok()?, what.trim_start_matches(['.', ':', ' ']).to_owned()))
}

/// The same refusal in other words.
fn worded(error: Error, message: String) -> Error {
    if let Error::Api { status, code, details, .. } = error {
        return Error::Api { status, code, message, details };
    }
    error
}

#[cfg(test)]
mod tests;

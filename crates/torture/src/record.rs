//! The run's clock, and histories as files that can be judged again later.
//!
//! A history is a file of JSON lines, each of which says what it is. A file that is not
//! whole, or that says what a history can't say, is refused: a check of half a history
//! must never look like a check of all of it.

use std::fs::File;
use std::io::{BufRead as _, BufReader, BufWriter, Write as _};
use std::path::{Path, PathBuf};
use std::time::Instant;

use serde::{Deserialize, Serialize};

use crate::history::{History, Holding, Nanos, NodeState, Operation, WatchLog};

/// The name of the file in a run's folder.
pub const FILE: &str = "history.jsonl";

/// The one clock of a run.
#[derive(Debug, Clone, Copy)]
pub struct Clock(Instant);

impl Clock {
    /// A clock that shows 0 now.
    #[expect(clippy::new_without_default, reason = "a clock begins to run when it is made")]
    pub fn new() -> Self {
        Self(tokio::time::Instant::now().into_std())
    }

    /// A clock that showed 0 at `begun`.
    pub fn since(begun: Instant) -> Self {
        Self(begun)
    }

    /// What it shows now.
    pub fn now(&self) -> Nanos {
        // Tokio's, which a simulation moves.
        self.at(tokio::time::Instant::now().into_std())
    }

    /// What it shows at a moment; 0 before it began.
    pub fn at(&self, moment: Instant) -> Nanos {
        u64::try_from(moment.saturating_duration_since(self.0).as_nanos()).unwrap_or(u64::MAX)
    }
}

/// Why a history can't be written or read.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// The file can't be used.
    #[error("cannot {action} {path}: {source}", path = path.display())]
    File {
        /// What was being done.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// Something can't be written as JSON, or is not what was expected.
    #[error("a file of the run makes no sense: {0}")]
    Json(#[from] serde_json::Error),
    /// A line is none of a history.
    #[error("{path}, line {line}: {source}", path = path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// Which line, counted from 1.
        line: usize,
        /// What is wrong with it.
        source: serde_json::Error,
    },
    /// The last line of all is missing, or is not the last, or counts other lines.
    #[error("{path} is not whole: {reason}", path = path.display())]
    Torn {
        /// The file.
        path: PathBuf,
        /// How that shows.
        reason: String,
    },
}

/// One line of the file.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Line {
    Operation(Operation),
    Watch(WatchLog),
    Holding(Holding),
    BankTotal(i64),
    FinalState(NodeState),
    /// The last line: how many came before it.
    End(usize),
}

/// The same by reference, so that a large history is not copied to be written.
#[derive(Serialize)]
#[serde(rename_all = "snake_case")]
enum LineRef<'a> {
    Operation(&'a Operation),
    Watch(&'a WatchLog),
    Holding(&'a Holding),
    BankTotal(i64),
    FinalState(&'a NodeState),
    End(usize),
}

impl History {
    /// Writes the history into `folder`, which must exist; gives the file's path.
    ///
    /// # Errors
    /// When the file can't be written.
    pub fn save(&self, folder: &Path) -> Result<PathBuf, RecordError> {
        let path = folder.join(FILE);
        self.write_to(&path).map_err(|source| RecordError::File {
            action: "write",
            path: path.clone(),
            source,
        })?;
        Ok(path)
    }

    fn write_to(&self, path: &Path) -> std::io::Result<()> {
        let mut out = BufWriter::new(File::create(path)?);
        let lines = (self.operations.iter().map(LineRef::Operation))
            .chain(self.watches.iter().map(LineRef::Watch))
            .chain(self.holdings.iter().map(LineRef::Holding))
            .chain(self.bank_total.map(LineRef::BankTotal))
            .chain(self.final_states.iter().map(LineRef::FinalState));
        let mut count = 0;
        for line in lines {
            serde_json::to_writer(&mut out, &line)?;
            out.write_all(b"\n")?;
            count += 1;
        }
        serde_json::to_writer(&mut out, &LineRef::End(count))?;
        out.write_all(b"\n")?;
        out.flush()
    }

    /// Reads the history of `folder` again.
    ///
    /// # Errors
    /// When the file can't be read, or is not all of a history.
    pub fn load(folder: &Path) -> Result<Self, RecordError> {
        let path = folder.join(FILE);
        let unreadable = |source| RecordError::File { action: "read", path: path.clone(), source };
        let torn = |reason: String| RecordError::Torn { path: path.clone(), reason };
        let lines = BufReader::new(File::open(&path).map_err(unreadable)?).lines();
        let mut history = Self::default();
        let mut end = None;
        for (index, line) in lines.enumerate() {
            let line = line.map_err(unreadable)?;
            if end.is_some() {
                return Err(torn(format!("line {} follows its end", index + 1)));
            }
            let line = serde_json::from_str(&line).map_err(|source| RecordError::Line {
                path: path.clone(),
                line: index + 1,
                source,
            })?;
            match line {
                Line::Operation(operation) => history.operations.push(operation),
                Line::Watch(watch) => history.watches.push(watch),
                Line::Holding(holding) => history.holdings.push(holding),
                Line::BankTotal(total) => history.bank_total = Some(total),
                Line::FinalState(state) => history.final_states.push(state),
                Line::End(count) if count == index => end = Some(count),
                Line::End(count) => {
                    return Err(torn(format!("it should have {count} lines, and has {index}")));
                }
            }
        }
        end.map(|_| history).ok_or_else(|| torn("its last line is missing".to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;
    use crate::history::{Call, Compare, Event, Outcome, Record, Step, StepResult, WatchNote, Way};

    fn record(value: String) -> Record {
        Record { value, create_revision: 2, mod_revision: 5, version: 3, lease: -7 }
    }

    /// A history in which everything occurs that a history may hold.
    fn full(text: &str, number: i64) -> History {
        let key = || format!("reg/{text}");
        let steps = vec![
            Step::Get { key: key() },
            Step::Put { key: key(), value: text.to_owned(), lease: Some(number) },
            Step::Put { key: key(), value: String::new(), lease: None },
            Step::Delete { key: key() },
        ];
        let compares = vec![
            Compare::ModRevision { key: key(), revision: number },
            Compare::CreateRevision { key: key(), revision: 0 },
            Compare::Value { key: key(), value: text.to_owned() },
        ];
        let results = vec![
            StepResult::Got(None),
            StepResult::Got(Some(record(text.to_owned()))),
            StepResult::Put,
            StepResult::Deleted(1),
        ];
        let calls = [
            Call::Txn { compares, then: steps.clone(), otherwise: steps, local: true },
            Call::SeedWrite { key: key(), value: None },
            Call::SeedWrite { key: key(), value: Some(text.to_owned()) },
            Call::SeedRead { key: key() },
        ];
        let outcomes = [
            Outcome::Done { revision: number, succeeded: false, results },
            Outcome::SeedWritten,
            Outcome::SeedFound { value: text.to_owned() },
            Outcome::Failed { reason: text.to_owned() },
            Outcome::Unknown { reason: text.to_owned() },
        ];
        let operation = |(call, outcome): (&Call, &Outcome)| Operation {
            client: 7,
            node: 3,
            way: Way::Seed,
            begun: 1,
            ended: u64::MAX,
            call: call.clone(),
            outcome: outcome.clone(),
        };
        let events = vec![
            Event { key: key(), mod_revision: number, record: None },
            Event { key: key(), mod_revision: number, record: Some(record(text.to_owned())) },
        ];
        let notes = vec![
            WatchNote::Opened { at: 1, node: 2, from_revision: 0 },
            WatchNote::Events { at: 2, events },
            WatchNote::Progress { at: 3, revision: number },
            WatchNote::Compacted { at: 4, compact_revision: number },
            WatchNote::Lost { at: 5, reason: text.to_owned() },
        ];
        let state = NodeState {
            node: 1,
            revision: number,
            applied_index: 9,
            state_hash: "00ff".to_owned(),
            records: BTreeMap::from([(key(), record(text.to_owned()))]),
        };
        let holding =
            Holding { client: 1, lock: text.to_owned(), lease: number, fencing: 4, from: 5, until: 6 };
        History {
            operations: calls.iter().cycle().zip(outcomes.iter().cycle()).take(20).map(operation).collect(),
            watches: vec![WatchLog { watcher: 1, way: Way::Grpc, prefix: text.to_owned(), notes }],
            holdings: vec![holding],
            bank_total: (number != 0).then_some(number),
            final_states: vec![state],
        }
    }

    proptest! {
        #[test]
        fn what_is_saved_is_loaded(text in "\\PC{0,12}", number: i64) {
            let folder = tempfile::tempdir().unwrap();
            let history = full(&format!("{text}\n\"\u{2028}"), number);
            history.save(folder.path()).unwrap();
            prop_assert_eq!(History::load(folder.path()).unwrap(), history);
        }
    }

    #[test]
    fn an_empty_history_is_one() {
        let folder = tempfile::tempdir().unwrap();
        History::default().save(folder.path()).unwrap();
        assert_eq!(History::load(folder.path()).unwrap(), History::default());
    }

    #[test]
    fn a_file_that_was_cut_or_changed_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = full("x", 1).save(folder.path()).unwrap();
        let whole = std::fs::read_to_string(&path).unwrap();
        let lines: Vec<_> = whole.lines().collect();
        let refused = |text: String| {
            std::fs::write(&path, text).unwrap();
            History::load(folder.path()).unwrap_err().to_string()
        };
        assert!(refused(lines[..lines.len() - 1].join("\n")).ends_with("its last line is missing"));
        assert!(refused(lines[1..].join("\n")).contains("it should have 24 lines, and has 23"));
        assert!(refused(format!("{whole}{}", lines[0])).ends_with("line 26 follows its end"));
        assert!(refused(whole.replacen("\"client\"", "\"cliant\"", 1)).contains("line 1: missing field"));
        assert!(refused(whole[..whole.len() / 2].to_owned()).contains("history.jsonl, line "));
        assert!(refused(String::new()).ends_with("its last line is missing"));
        std::fs::remove_file(&path).unwrap();
        assert!(History::load(folder.path()).unwrap_err().to_string().starts_with("cannot read "));
    }

    #[test]
    fn a_clock_shows_nanoseconds_since_it_began() {
        let clock = Clock::new();
        assert_eq!(clock.at(clock.0 + Duration::from_micros(3)), 3_000);
        assert_eq!(clock.at(clock.0.checked_sub(Duration::from_secs(1)).unwrap_or(clock.0)), 0);
        let first = clock.now();
        assert!(clock.now() >= first);
    }
}

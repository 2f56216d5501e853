//! The list of all runs, as a table that people read: one line a run, totals on top.
//!
//! The whole file is generated. Before a line is added, the file is read and written again; if
//! that does not give the same text, somebody or something has changed it, and it is left
//! alone: a ledger that repairs itself proves nothing.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

pub use self::simulated::Simulated;
use crate::timeline::Kind;

mod simulated;

/// Where the ledger is, from the top of the repository.
pub const PATH: &str = "docs/reliability-ledger.md";

const INTRO: &str = "# Reliability ledger

Each line of runs is one of `kvorum-torture`: real nodes under injected faults, and checkers of all that
clients were told. A run with a mutant has a mistake built into the nodes on purpose, which it must
find; it counts in no total but its own. Each line of simulated clusters is many seeds of the
simulation. This file is generated and refuses to be edited.
";

const HEADS: [&str; 24] = [
    "date",
    "commit",
    "nodes",
    "seed",
    "seconds",
    "kill",
    "power loss",
    "partition",
    "partial partition",
    "bad link",
    "pause",
    "disk",
    "clock",
    "membership",
    "bit flip",
    "restart",
    "transfer",
    "maintenance",
    "operations",
    "unknown",
    "verdict",
    "recovery median ms",
    "recovery largest ms",
    "mutant",
];

const KINDS: [Kind; 13] = [
    Kind::Kill,
    Kind::PowerLoss,
    Kind::Partition,
    Kind::PartialPartition,
    Kind::BadLink,
    Kind::Pause,
    Kind::Disk,
    Kind::Clock,
    Kind::Membership,
    Kind::BitFlip,
    Kind::Restart,
    Kind::Transfer,
    Kind::Maintenance,
];

/// What stands where there is nothing.
const NOTHING: &str = "–";

/// A run.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Entry {
    /// When it began, such as `2026-01-31 12:00`.
    pub date: String,
    /// The commit of the nodes' program.
    pub commit: String,
    /// How many nodes there were.
    pub nodes: u64,
    /// The seed of all choices.
    pub seed: u64,
    /// How long clients worked.
    pub seconds: u64,
    /// How often each kind of fault struck; what is missing never did.
    pub faults: BTreeMap<Kind, u64>,
    /// Calls that were checked.
    pub operations: u64,
    /// Calls whose outcome was unknown.
    pub unknown: u64,
    /// Promises that were broken.
    pub problems: u64,
    /// Milliseconds from the kill of a leader to the first acknowledged write that began
    /// after it: the median, and the largest.
    pub recovery: Option<(u64, u64)>,
    /// The mistake that was built in on purpose.
    pub mutant: Option<String>,
}

/// Why a run can't be added.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
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
    /// The file is not what was written last.
    #[error(
        "{path}, line {line}: {reason}; the ledger was damaged or edited, so nothing was written: restore it",
        path = path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// The first line that is not as it was written.
        line: usize,
        /// What is wrong with it.
        reason: String,
    },
    /// A text of the run can't stand in a table.
    #[error("{field} {text:?} can't stand in a table: it must be a line without bars, and not be empty")]
    Unfit {
        /// Which field.
        field: &'static str,
        /// Its text.
        text: String,
    },
}

/// All runs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ledger {
    /// In the order in which they were added.
    pub entries: Vec<Entry>,
    /// The same of simulated clusters.
    pub simulated: Vec<Simulated>,
}

/// Adds a run to the ledger at `path`, which need not exist.
///
/// # Errors
/// When the run does not fit, or the file is damaged or can't be written; it is then as it
/// was before.
pub fn append(path: &Path, entry: Entry) -> Result<Ledger, LedgerError> {
    check_texts([
        ("date", Some(&entry.date)),
        ("commit", Some(&entry.commit)),
        ("mutant", entry.mutant.as_ref()),
    ])?;
    let mut ledger = Ledger::load(path)?;
    ledger.entries.push(entry);
    ledger.save(path)?;
    Ok(ledger)
}

/// Adds simulated clusters, as [`append`] does.
///
/// # Errors
/// As there.
pub fn append_simulated(path: &Path, entry: Simulated) -> Result<Ledger, LedgerError> {
    check_texts([("date", Some(&entry.date)), ("commit", Some(&entry.commit))])?;
    let mut ledger = Ledger::load(path)?;
    ledger.simulated.push(entry);
    ledger.save(path)?;
    Ok(ledger)
}

/// Adds all that another ledger holds, as if it had been added here.
///
/// # Errors
/// As [`append`], and when the other one can't be read.
pub fn merge(path: &Path, other: &Path) -> Result<Ledger, LedgerError> {
    let more = Ledger::load(other)?;
    let mut ledger = Ledger::load(path)?;
    ledger.entries.extend(more.entries);
    ledger.simulated.extend(more.simulated);
    // Runs on several machines, or at once, are read best in the order of time.
    ledger.entries.sort_by(|one, other| one.date.cmp(&other.date));
    ledger.simulated.sort_by(|one, other| one.date.cmp(&other.date));
    ledger.save(path)?;
    Ok(ledger)
}

/// The date and time of day, of Greenwich, as an entry has it.
///
/// # Errors
/// When the system's `date` can't be asked.
pub fn date() -> std::io::Result<String> {
    let output = std::process::Command::new("date").args(["-u", "+%Y-%m-%d %H:%M"]).output()?;
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

fn check_texts<const N: usize>(fields: [(&'static str, Option<&String>); N]) -> Result<(), LedgerError> {
    for (field, text) in fields.into_iter().filter_map(|(field, text)| Some((field, text?))) {
        let unfit = text.is_empty()
            || text == NOTHING
            || text.trim() != text
            || text.chars().any(|character| character == '|' || character.is_control());
        if unfit {
            return Err(LedgerError::Unfit { field, text: text.clone() });
        }
    }
    Ok(())
}

impl Entry {
    fn verdict(&self) -> String {
        match (self.problems, &self.mutant) {
            (0, None) => "held".to_owned(),
            (0, Some(_)) => "missed".to_owned(),
            (count, None) => format!("{count} broken"),
            (count, Some(_)) => format!("caught by {count}"),
        }
    }

    fn line(&self) -> String {
        let mut cells = vec![
            self.date.clone(),
            self.commit.clone(),
            self.nodes.to_string(),
            self.seed.to_string(),
            self.seconds.to_string(),
        ];
        cells.extend(KINDS.iter().map(|kind| self.faults.get(kind).copied().unwrap_or(0).to_string()));
        let recovery = |time: Option<u64>| time.map_or_else(|| NOTHING.to_owned(), |time| time.to_string());
        cells.extend([
            self.operations.to_string(),
            self.unknown.to_string(),
            self.verdict(),
            recovery(self.recovery.map(|(median, _)| median)),
            recovery(self.recovery.map(|(_, largest)| largest)),
            self.mutant.clone().unwrap_or_else(|| NOTHING.to_owned()),
        ]);
        row(&cells)
    }

    fn parse(line: &str) -> Result<Self, String> {
        let mut cells = HEADS.into_iter().zip(cells::<{ HEADS.len() }>(line)?);
        let mut next = || cells.next().unwrap_or_default();
        let number =
            |(head, cell): (&str, &str)| cell.parse::<u64>().map_err(|_| format!("{head} is {cell:?}"));
        let text = |(_, cell): (&str, &str)| cell.to_owned();
        let (date, commit) = (text(next()), text(next()));
        let (nodes, seed, seconds) = (number(next())?, number(next())?, number(next())?);
        let mut faults = BTreeMap::new();
        for kind in KINDS {
            let count = number(next())?;
            if count > 0 {
                faults.insert(kind, count);
            }
        }
        let (operations, unknown) = (number(next())?, number(next())?);
        let problems = verdict_count(next().1)?;
        let (median, largest) = (next(), next());
        let recovery = if median.1 == NOTHING { None } else { Some((number(median)?, number(largest)?)) };
        let mutant = Some(text(next())).filter(|text| text != NOTHING);
        Ok(Self {
            date,
            commit,
            nodes,
            seed,
            seconds,
            faults,
            operations,
            unknown,
            problems,
            recovery,
            mutant,
        })
    }
}

fn verdict_count(cell: &str) -> Result<u64, String> {
    match cell {
        "held" | "missed" => Ok(0),
        _ => cell
            .strip_suffix(" broken")
            .or_else(|| cell.strip_prefix("caught by "))
            .and_then(|count| count.parse().ok())
            .ok_or_else(|| format!("verdict is {cell:?}")),
    }
}

/// The cells of a line of a table that has `N` columns.
fn cells<const N: usize>(line: &str) -> Result<[&str; N], String> {
    let inner = line.strip_prefix("| ").and_then(|line| line.strip_suffix(" |"));
    let cells: Vec<_> = inner.ok_or("it is no line of the table")?.split(" | ").collect();
    cells.try_into().map_err(|cells: Vec<_>| format!("it has {} cells instead of {N}", cells.len()))
}

fn row<T: AsRef<str>>(cells: &[T]) -> String {
    let mut line = String::from("|");
    for cell in cells {
        line.extend([" ", cell.as_ref(), " |"]);
    }
    line.push('\n');
    line
}

impl Ledger {
    /// Reads a ledger; one that does not exist is empty.
    ///
    /// # Errors
    /// When it can't be read, or is not as it was written.
    pub fn load(path: &Path) -> Result<Self, LedgerError> {
        match std::fs::read_to_string(path) {
            Ok(text) => Self::parse(&text).map_err(|(line, reason)| LedgerError::Damaged {
                path: path.to_owned(),
                line,
                reason,
            }),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Self::default()),
            Err(source) => Err(LedgerError::File { action: "read", path: path.to_owned(), source }),
        }
    }

    fn save(&self, path: &Path) -> Result<(), LedgerError> {
        // So that a run that is broken off leaves a whole file.
        let draft = path.with_extension("md.new");
        let failed = |action, path: &Path| {
            let path = path.to_owned();
            move |source| LedgerError::File { action, path, source }
        };
        std::fs::write(&draft, self.render()).map_err(failed("write", &draft))?;
        std::fs::rename(&draft, path).map_err(failed("replace", path))
    }

    /// The text of the file.
    pub fn render(&self) -> String {
        let mut text = String::from(INTRO);
        self.render_totals(&mut text);
        text.push_str("\n## Runs\n\n");
        text.push_str(&row(&HEADS));
        text.push_str(&row(&HEADS.map(|_| "---")));
        for entry in &self.entries {
            text.push_str(&entry.line());
        }
        if !self.simulated.is_empty() {
            text.push_str(simulated::TITLE);
            text.push_str(&row(&simulated::HEADS));
            text.push_str(&row(&simulated::HEADS.map(|_| "---")));
        }
        for entry in &self.simulated {
            text.push_str(&entry.line());
        }
        text
    }

    fn render_totals(&self, text: &mut String) {
        let runs: Vec<_> = self.entries.iter().filter(|entry| entry.mutant.is_none()).collect();
        let mutants: Vec<_> = self.entries.iter().filter(|entry| entry.mutant.is_some()).collect();
        let sum = |of: fn(&Entry) -> u64| runs.iter().map(|entry| of(entry)).sum::<u64>();
        let seconds = sum(|entry| entry.seconds);
        let faults = |kind| runs.iter().filter_map(|entry| entry.faults.get(&kind)).sum::<u64>();
        let held = runs.iter().filter(|entry| entry.problems == 0).count();
        let caught = mutants.iter().filter(|entry| entry.problems > 0).count();
        let largest = runs.iter().filter_map(|entry| Some(entry.recovery?.1)).max();
        let mut medians: Vec<_> = runs.iter().filter_map(|entry| Some(entry.recovery?.0)).collect();
        medians.sort_unstable();
        let millis = |time: Option<u64>| {
            time.map_or_else(|| NOTHING.to_owned(), |time| format!("{} ms", grouped(time)))
        };
        let mut lines = vec![
            ("Runs", grouped(runs.len() as u64)),
            ("Runs in which every promise held", grouped(held as u64)),
            (
                "Time under faults",
                format!("{} h {} min {} s", seconds / 3_600, seconds % 3_600 / 60, seconds % 60),
            ),
            ("Operations checked", grouped(sum(|entry| entry.operations))),
            ("Operations of unknown outcome", grouped(sum(|entry| entry.unknown))),
            ("Promises broken", grouped(sum(|entry| entry.problems))),
            ("Faults", grouped(KINDS.into_iter().map(faults).sum())),
        ];
        for (kind, head) in KINDS.into_iter().zip(HEADS.into_iter().skip(5)) {
            lines.push((head, grouped(faults(kind))));
        }
        lines.extend([
            (
                "Recovery after a leader's kill, median of the runs' medians",
                millis(medians.get(medians.len() / 2).copied()),
            ),
            ("Recovery after a leader's kill, largest", millis(largest)),
            ("Runs with a mutant that was caught", format!("{caught} of {}", mutants.len())),
            ("Simulated seeds", grouped(self.simulated.iter().map(|entry| entry.seeds).sum())),
            (
                "Simulated seeds in which a promise was broken",
                grouped(self.simulated.iter().map(|entry| entry.broken).sum()),
            ),
        ]);
        text.push_str("\n## Totals\n\n| what | total |\n| --- | --- |\n");
        for (name, value) in lines {
            let indent = if HEADS.contains(&name) { "of these: " } else { "" };
            writeln!(text, "| {indent}{name} | {value} |").expect("a string takes everything");
        }
    }

    /// Reads the text of a file.
    ///
    /// # Errors
    /// The first line that is not as it was written, counted from 1, and what is wrong.
    fn parse(text: &str) -> Result<Self, (usize, String)> {
        let place_of = |head: String| text.lines().position(|line| line == head.trim_end());
        let runs = place_of(row(&HEADS)).ok_or_else(|| (1, "the table of runs is missing".to_owned()))?;
        let simulated = place_of(row(&simulated::HEADS)).unwrap_or(usize::MAX);
        let rows = |head: usize| {
            let lines = text.lines().enumerate().skip(head.saturating_add(2));
            lines.take_while(|(_, line)| !line.is_empty())
        };
        let at = |place: usize| move |reason| (place + 1, reason);
        let ledger = Self {
            entries: rows(runs)
                .map(|(place, line)| Entry::parse(line).map_err(at(place)))
                .collect::<Result<_, _>>()?,
            simulated: rows(simulated)
                .map(|(place, line)| Simulated::parse(line).map_err(at(place)))
                .collect::<Result<_, _>>()?,
        };
        let expected = ledger.render();
        if expected == text {
            return Ok(ledger);
        }
        let same =
            expected.lines().zip(text.lines()).take_while(|(expected, found)| expected == found).count();
        let wanted = expected.lines().nth(same).unwrap_or("the end");
        Err((same + 1, format!("it should be {wanted:?}")))
    }
}

/// A number with commas between thousands.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

#[cfg(test)]
mod tests;

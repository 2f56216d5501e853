//! Turns bits of a file of a node that is down.

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use super::plan::Place;
use crate::cluster::HarnessError;
use crate::dice::Dice;

/// How names of write-ahead logs end.
const AHEAD: &str = "log";

/// Turns some bits of one file in a data folder, and says which: of that kind, or of
/// another one if there is none of it. `None` if there is nothing to damage.
pub(super) fn flip(
    data: &Path,
    place: Place,
    seed: u64,
    bits: usize,
) -> Result<Option<String>, HarnessError> {
    let mut files = Vec::new();
    for place in [place, Place::StateTable, Place::LogTable, Place::LogAhead] {
        files = files_of(data, place)?;
        if !files.is_empty() {
            break;
        }
    }
    if files.is_empty() {
        return Ok(None);
    }
    let mut dice = Dice::new(seed);
    let path = dice.pick(&files);
    let what = || HarnessError::io(format!("damaging {}", path.display()));
    let file = File::options().read(true).write(true).open(path).map_err(what())?;
    let length = file.metadata().map_err(what())?.len();
    let mut turned = Vec::new();
    // In a write-ahead log, damage at the end can't be told from a write that a crash has
    // cut off; damage before it can.
    let is_ahead = path.extension().is_some_and(|ending| ending == AHEAD);
    let end = if is_ahead { (length / 4 * 3).max(1) } else { length };
    for _ in 0..bits {
        let at = dice.below(end as usize) as u64;
        let bit = dice.below(8);
        let mut byte = [0];
        file.read_exact_at(&mut byte, at).map_err(what())?;
        let [old] = byte;
        file.write_all_at(&[old ^ (1 << bit)], at).map_err(what())?;
        turned.push(format!("{at}.{bit}"));
    }
    file.sync_all().map_err(what())?;
    let inside = path.strip_prefix(data).unwrap_or(path).display();
    Ok(Some(format!("bits {} of {inside} ({length} bytes)", turned.join(", "))))
}

/// The files of a kind that hold something, sorted.
fn files_of(data: &Path, place: Place) -> Result<Vec<PathBuf>, HarnessError> {
    let (folders, ending) = match place {
        Place::LogTable => (vec![data.join("log")], "sst"),
        Place::LogAhead => (vec![data.join("log")], AHEAD),
        Place::StateTable => (generations(&data.join("state"))?, "sst"),
    };
    let mut files = Vec::new();
    for folder in folders {
        files.extend(entries(&folder)?.into_iter().filter(|path| {
            let holds_something = || fs::metadata(path).is_ok_and(|about| about.len() > 0);
            path.extension().is_some_and(|it| it == ending) && holds_something()
        }));
    }
    files.sort();
    Ok(files)
}

fn generations(state: &Path) -> Result<Vec<PathBuf>, HarnessError> {
    Ok(entries(state)?.into_iter().filter(|path| path.is_dir()).collect())
}

fn entries(folder: &Path) -> Result<Vec<PathBuf>, HarnessError> {
    let what = || HarnessError::io(format!("listing {}", folder.display()));
    let list = match fs::read_dir(folder) {
        Ok(list) => list,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(what()(error)),
    };
    list.map(|entry| entry.map(|entry| entry.path()).map_err(what())).collect()
}

//! Makes the page of a run out of its recorded history, with faults and a verdict from files.
//!
//! `page FOLDER OUT.html`: reads `history.jsonl`, and `run.json`, `mishaps.json` and `verdict.json` if
//! there are any, from the folder. It judges nothing.

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};

use kvorum_torture::history::History;
use kvorum_torture::report::{Run, Verdict, page};
use kvorum_torture::timeline::Mishap;
use serde::de::DeserializeOwned;

fn read<T: DeserializeOwned + Default>(path: &Path) -> Result<T, Box<dyn Error>> {
    if !path.exists() {
        return Ok(T::default());
    }
    Ok(serde_json::from_slice(&fs::read(path)?)?)
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut words = std::env::args().skip(1).map(PathBuf::from);
    let (Some(folder), Some(out)) = (words.next(), words.next()) else {
        return Err("usage: page FOLDER OUT.html".into());
    };
    let history = History::load(&folder)?;
    let mishaps: Vec<Mishap> = read(&folder.join("mishaps.json"))?;
    let verdict: Verdict = read(&folder.join("verdict.json"))?;
    let run: Run = read(&folder.join("run.json"))?;
    fs::write(out, page(&run, &history, &mishaps, &verdict))?;
    Ok(())
}

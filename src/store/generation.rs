//! Generations of the state's folder: which one is in use, and how one takes the
//! place of another.
//!
//! The file `CURRENT` names the one in use. It is replaced atomically, so a crash
//! leaves the old generation or the new one, whole; what else lies in the folder
//! is left over and goes at the next start. Nothing here knows what a state holds.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use parking_lot::Mutex;

use super::data_dir::{sync_dir, write_atomically};
use super::snapshot::{SnapshotDir, link_files, remove_dir};
use crate::engine::EngineOptions;
use crate::error::StorageError;
use crate::mvcc::Store;

const FIRST: u64 = 1;

/// One generation of the state: an open store, and its folder if that must go.
#[derive(Debug)]
pub(super) struct Generation {
    /// Taken by `drop`, which must close RocksDB before it removes files.
    store: Option<Store>,
    number: u64,
    path: PathBuf,
    retired: AtomicBool,
    removals: Arc<Removals>,
}

impl Generation {
    /// The generation `number`, which a start finds under its name in `CURRENT`.
    fn open(state: &Path, number: u64, options: &EngineOptions) -> Result<Self, StorageError> {
        let path = state.join(name_of(number));
        let store = Store::open(&path, options)?;
        let (retired, removals) = (AtomicBool::new(false), Arc::default());
        Ok(Self { store: Some(store), number, path, retired, removals })
    }

    /// A new generation that holds what `snapshot` holds, to take the place of this one. It
    /// is on disk when this returns, and goes again unless it is [kept](Self::keep).
    pub(super) fn successor(
        &self,
        state: &Path,
        number: u64,
        snapshot: &SnapshotDir,
        options: &EngineOptions,
    ) -> Result<Self, StorageError> {
        let path = state.join(name_of(number));
        let (retired, removals) = (AtomicBool::new(true), Arc::clone(&self.removals));
        let mut generation = Self { store: None, number, path, retired, removals };
        link_files(snapshot, &generation.path)?;
        generation.store = Some(Store::open(&generation.path, options)?);
        // Its name must be on disk before `CURRENT` can say it.
        sync_dir(state)?;
        Ok(generation)
    }

    /// Its number, which only goes up.
    pub(super) fn number(&self) -> u64 {
        self.number
    }

    /// Lets the folder stay when this is dropped.
    pub(super) fn keep(&self) {
        self.retired.store(false, Ordering::Release);
    }

    /// Lets the folder go when the last reader does.
    pub(super) fn retire(&self) {
        self.retired.store(true, Ordering::Release);
    }

    pub(super) fn store(&self) -> &Store {
        self.store.as_ref().expect("a generation that is handed out has its store until drop")
    }
}

impl Drop for Generation {
    fn drop(&mut self) {
        let store = self.store.take();
        if self.retired.load(Ordering::Acquire) {
            if let Some(store) = &store {
                store.abandon();
            }
            self.removals.remove(store, std::mem::take(&mut self.path));
        }
    }
}

/// Closes and removes generations on threads of their own: it takes time that whoever lets
/// go of one last, a request or Raft, must not lose. Dropping this waits for them, so that
/// the state's folder can be opened again.
#[derive(Debug, Default)]
struct Removals {
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Removals {
    fn remove(&self, store: Option<Store>, path: PathBuf) {
        // A simulation has no threads.
        if cfg!(feature = "simulation") {
            close_and_remove(store, &path);
            return;
        }
        let work = move || close_and_remove(store, &path);
        match std::thread::Builder::new().name("kvorum-remove".to_owned()).spawn(work) {
            Ok(thread) => {
                let mut threads = self.threads.lock();
                threads.retain(|thread| !thread.is_finished());
                threads.push(thread);
            }
            Err(error) => {
                tracing::warn!(%error, "no thread to remove a superseded state; it is removed at the next start");
            }
        }
    }
}

impl Drop for Removals {
    fn drop(&mut self) {
        for thread in self.threads.get_mut().drain(..) {
            if thread.join().is_err() {
                tracing::error!("the thread that removes a superseded state panicked");
            }
        }
    }
}

fn close_and_remove(store: Option<Store>, path: &Path) {
    drop(store);
    if let Err(error) = remove_dir(path) {
        tracing::warn!(%error, "a superseded state could not be removed; it is retried at the next start");
    }
}

fn name_of(number: u64) -> String {
    format!("gen-{number:06}")
}

/// Opens the generation that is in use, the first one at the first start, and
/// removes what an interrupted installation left behind.
pub(super) fn open_current(state: &Path, options: &EngineOptions) -> Result<Generation, StorageError> {
    let others = names(state)?;
    let Some(number) = current(state)? else {
        // The first start, or one that was interrupted. Anything else means that
        // `CURRENT` was lost, and to guess would be to lose the state as well.
        if let Some(name) = others.iter().find(|name| **name != name_of(FIRST)) {
            return Err(StorageError::File {
                action: "opening the state in",
                path: state.into(),
                reason: format!("it holds {name}, but CURRENT, which names the state in use, is missing"),
            });
        }
        let generation = Generation::open(state, FIRST, options)?;
        sync_dir(state)?;
        set_current(state, FIRST)?;
        return Ok(generation);
    };
    let current = name_of(number);
    // An empty state in its place would be one that forgot what it acknowledged.
    if !others.contains(&current) {
        return Err(StorageError::File {
            action: "opening the state in",
            path: state.join(current),
            reason: "the folder is missing, but CURRENT names it".to_owned(),
        });
    }
    let generation = Generation::open(state, number, options)?;
    for name in others.into_iter().filter(|name| *name != current) {
        remove_dir(&state.join(name))?;
    }
    Ok(generation)
}

/// The number that `CURRENT` names; `None` if there is no such file.
fn current(state: &Path) -> Result<Option<u64>, StorageError> {
    let path = state.join("CURRENT");
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(StorageError::file("reading", &path, &error)),
    };
    let number = text.trim().strip_prefix("gen-").and_then(|number| number.parse().ok());
    number.map(Some).ok_or_else(|| StorageError::File {
        action: "understanding",
        path,
        reason: format!("it names {text:?}, which is no generation"),
    })
}

/// Makes the generation `number` the one that the next start opens, at once or
/// not at all.
pub(super) fn set_current(state: &Path, number: u64) -> Result<(), StorageError> {
    write_atomically(state, "CURRENT", name_of(number).as_bytes())
}

/// The names of all generations that lie in `state`.
fn names(state: &Path) -> Result<Vec<String>, StorageError> {
    let failed = |error: io::Error| StorageError::file("reading the folder", state, &error);
    let mut found = Vec::new();
    for entry in fs::read_dir(state).map_err(failed)? {
        let name = entry.map_err(failed)?.file_name().to_string_lossy().into_owned();
        if name.starts_with("gen-") {
            found.push(name);
        }
    }
    Ok(found)
}

/// A number after `current` that no folder has: after a switch whose end is not
/// known, `CURRENT` on disk may already name the next one.
pub(super) fn unused(state: &Path, current: u64) -> u64 {
    let mut number = current + 1;
    while state.join(name_of(number)).exists() {
        number += 1;
    }
    number
}

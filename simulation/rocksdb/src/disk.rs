//! The disks under the databases, and what crashes do to them.
//!
//! A database's lasting content is held here, by a number that stands in the file
//! `CURRENT` of its folder, so that folders can be renamed and removed like real ones.
//! A crash ends the databases below a folder for good: what still holds one can
//! neither read nor write any more, like a process that is no more.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;

use crate::content::{Change, Content};

/// What happens when databases are used.
pub trait Fate {
    /// A number below `bound`.
    fn draw(&mut self, bound: usize) -> usize;

    /// How often, of a hundred batches, what is in memory reaches the disk by itself
    /// after one.
    fn flush_percent(&self) -> usize;
}

/// How a process ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Crash {
    /// The process alone: what it has written is with the system and survives.
    Process,
    /// The machine: what was not synced may be gone.
    Machine,
}

/// What survives of a database, and what may.
#[derive(Debug, Default)]
pub(crate) struct Lasting {
    /// Is in synced files.
    pub(crate) flushed: Content,
    /// Batches of the journal after them; the first `synced` are synced.
    pub(crate) journal: Vec<Vec<Change>>,
    pub(crate) synced: usize,
}

/// An open database, as the disk sees it.
#[derive(Debug)]
pub(crate) struct Open {
    pub(crate) dir: PathBuf,
    pub(crate) memory: Content,
    pub(crate) lasting: Lasting,
    /// Cleared by a crash.
    pub(crate) is_alive: bool,
    /// Whether the next sync fails.
    pub(crate) fails: bool,
    /// Whether syncs are answered and not done.
    pub(crate) lies: bool,
}

#[derive(Default)]
struct Disks {
    next: u64,
    closed: BTreeMap<u64, Lasting>,
    open: BTreeMap<u64, Arc<Mutex<Open>>>,
    fate: Option<Box<dyn Fate>>,
    liars: bool,
}

thread_local! {
    static DISKS: RefCell<Disks> = RefCell::default();
}

/// Begins a run on empty disks.
pub fn begin(fate: impl Fate + 'static) {
    DISKS.set(Disks { fate: Some(Box::new(fate)), ..Disks::default() });
}

/// Lets all disks answer syncs that they have not done: what none may do.
pub fn lie() {
    DISKS.with_borrow_mut(|disks| disks.liars = true);
}

pub(crate) fn draw(bound: usize) -> usize {
    DISKS.with_borrow_mut(|disks| disks.fate.as_mut().map_or(0, |fate| fate.draw(bound)))
}

/// Whether memory reaches the disk by itself now.
pub(crate) fn flushes_by_itself() -> bool {
    DISKS.with_borrow_mut(|disks| {
        disks.fate.as_mut().is_some_and(|fate| fate.draw(100) < fate.flush_percent())
    })
}

/// Ends the databases below `root` as `crash` does.
pub fn crash(root: &Path, crash: Crash) {
    let open: Vec<_> = DISKS.with_borrow(|disks| {
        let below = disks.open.iter().filter(|(_, open)| open.lock().dir.starts_with(root));
        below.map(|(number, open)| (*number, Arc::clone(open))).collect()
    });
    for (number, open) in open {
        let mut open = open.lock();
        open.is_alive = false;
        let mut lasting = std::mem::take(&mut open.lasting);
        if crash == Crash::Machine {
            let unsynced = lasting.journal.len() - lasting.synced;
            let kept = lasting.synced + draw(unsynced + 1);
            lasting.journal.truncate(kept);
        }
        lasting.synced = lasting.journal.len();
        release(number, lasting);
    }
}

/// Lets the next sync of a database below `root` that has a journal fail; answers
/// whether there is one.
pub fn fail_next_sync(root: &Path) -> bool {
    let open: Vec<_> = DISKS.with_borrow(|disks| disks.open.values().map(Arc::clone).collect());
    let mut found = false;
    for open in open {
        let mut open = open.lock();
        if open.dir.starts_with(root) {
            open.fails = true;
            found = true;
        }
    }
    found
}

/// What is kept under `number`, which no one else then has; `None` if it is in use
/// or unknown.
pub(crate) fn acquire(number: u64) -> Option<Lasting> {
    DISKS.with_borrow_mut(|disks| disks.closed.remove(&number))
}

/// What is kept under `number`, to look at.
pub(crate) fn peek(number: u64) -> Option<Content> {
    DISKS.with_borrow(|disks| {
        let lasting = disks.closed.get(&number)?;
        let mut content = lasting.flushed.clone();
        lasting.journal.iter().for_each(|batch| content.apply(batch));
        Some(content)
    })
}

/// A number for a new database.
pub(crate) fn new_number() -> u64 {
    DISKS.with_borrow_mut(|disks| {
        disks.next += 1;
        disks.next
    })
}

pub(crate) fn register(number: u64, open: Open) -> Arc<Mutex<Open>> {
    DISKS.with_borrow_mut(|disks| {
        let open = Arc::new(Mutex::new(Open { lies: disks.liars, ..open }));
        disks.open.insert(number, Arc::clone(&open));
        open
    })
}

/// Takes an open database back.
pub(crate) fn release(number: u64, lasting: Lasting) {
    DISKS.with_borrow_mut(|disks| {
        disks.open.remove(&number);
        disks.closed.insert(number, lasting);
    });
}

//! Lost power.
//!
//! A killed process loses nothing that the kernel has, so killing cannot tell a
//! sync from a write. Here a camera stands in the writer: right after a sync has
//! returned, before anyone hears of it and before anything else is written, it
//! copies the folder. As one thread writes, that copy is exactly what a machine
//! without power would have: all that was synced, nothing later. (That the sync
//! is a sync is not seen here, since a copy reads the kernel's memory; the
//! database's own count in `behaviour` shows it.)
//!
//! Then worse: between one sync and the next, the disk may write any of the new
//! sectors in any order. So the test also builds folders that mix two consecutive
//! pictures: sectors of the write-ahead log that differ are taken from the second
//! at random, and the file may end anywhere between. What opens must be the model
//! after a step from the first picture to the second: everything confirmed at the
//! first is there, and the batch that was being written is there whole or not at
//! all. Buffers are small, so that log files are switched and recycled (a torn
//! tail may then be followed by an older log's records).
//!
//! `KVORUM_POWER_SEED` and `KVORUM_POWER_STEPS` (150) choose the run.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use super::*;

const SECTOR: usize = 512;

/// Copies the folder after each sync.
struct Camera {
    folder: PathBuf,
    album: PathBuf,
    taken: Arc<AtomicUsize>,
}

impl Probe for Camera {
    fn after_sync(&mut self) -> Result<(), StorageError> {
        let number = self.taken.load(Ordering::Acquire);
        copy_when_still(&self.folder, &self.album.join(number.to_string()));
        self.taken.store(number + 1, Ordering::Release);
        Ok(())
    }
}

/// The files that matter, with their sizes.
fn listing(folder: &Path) -> BTreeSet<(PathBuf, u64)> {
    let files = fs::read_dir(folder).unwrap().filter_map(Result::ok);
    files
        .filter(|file| !file.file_name().to_string_lossy().starts_with("LOG"))
        .filter_map(|file| Some((file.path(), file.metadata().ok()?.len())))
        .collect()
}

/// The database's background threads do not stop for a picture: takes another one if
/// files came, went or grew meanwhile.
fn copy_when_still(from: &Path, to: &Path) {
    loop {
        let before = listing(from);
        let _ = fs::remove_dir_all(to);
        fs::create_dir_all(to).unwrap();
        let copied =
            before.iter().all(|(file, _)| fs::copy(file, to.join(file.file_name().unwrap())).is_ok());
        if copied && listing(from) == before {
            return;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn is_wal(file: &Path) -> bool {
    file.extension().is_some_and(|end| end == "log")
}

fn names(folder: &Path) -> BTreeSet<std::ffi::OsString> {
    listing(folder).iter().map(|(file, _)| file.file_name().unwrap().to_owned()).collect()
}

/// A folder as it may be if power went between two pictures; `None` if the database
/// changed more than its log files between them.
fn torn(older: &Path, newer: &Path, to: &Path, dice: &mut Dice) -> Option<()> {
    if names(older) != names(newer) {
        return None;
    }
    let _ = fs::remove_dir_all(to);
    fs::create_dir_all(to).unwrap();
    for (file, _) in listing(newer) {
        let name = file.file_name().unwrap();
        let (old, new) = (fs::read(older.join(name)).unwrap(), fs::read(&file).unwrap());
        if !is_wal(&file) {
            if old != new {
                return None;
            }
            fs::write(to.join(name), new).unwrap();
            continue;
        }
        let mut mixed = new.clone();
        let lost = dice.roll(101);
        for (number, sector) in mixed.chunks_mut(SECTOR).enumerate() {
            if dice.roll(100) < lost {
                let start = number * SECTOR;
                for (at, byte) in sector.iter_mut().enumerate() {
                    *byte = old.get(start + at).copied().unwrap_or(0);
                }
            }
        }
        let grown = (new.len() - old.len().min(new.len())) as u64;
        mixed.truncate(new.len() - dice.roll(grown + 1) as usize);
        fs::write(to.join(name), mixed).unwrap();
    }
    Some(())
}

async fn look(folder: &Path) -> Model {
    let options = LogOptions { write_buffer_bytes: 64 * 1024, ..LogOptions::default() };
    let store = RocksLogStore::open(folder, options, panicking()).unwrap();
    let model = Model::of(&store).await;
    store.close().await.unwrap();
    model
}

#[tokio::test]
async fn without_power_the_log_is_what_was_synced_and_a_torn_batch_is_not_there() {
    let seed = seed_of("KVORUM_POWER_SEED");
    println!("KVORUM_POWER_SEED={seed}");
    let steps = std::env::var("KVORUM_POWER_STEPS").map_or(150, |steps| steps.parse().unwrap());
    let mut dice = Dice(seed);
    let dir = tempfile::tempdir().unwrap();
    let (folder, album, mixed) = (dir.path().join("log"), dir.path().join("album"), dir.path().join("torn"));
    let taken = Arc::new(AtomicUsize::new(0));
    let camera = Camera { folder: folder.clone(), album: album.clone(), taken: Arc::clone(&taken) };
    let options = LogOptions { write_buffer_bytes: 64 * 1024, ..LogOptions::default() };
    let store = RocksLogStore::open_with(&folder, options, panicking(), camera).unwrap();

    let mut model = Model::default();
    // The model after each step since the last picture that was looked at.
    let mut since = vec![model.clone()];
    let mut last_picture: Option<usize> = None;
    let (mut looked, mut tore, mut lost) = (0, 0, 0);
    for _ in 0..steps {
        let step = model.choose(dice.draw());
        carry_out(&store, &step).await;
        model.apply(&step);
        since.push(model.clone());
        if !step.is_confirmed() {
            continue;
        }
        // Nothing else was requested, so the last picture is of this moment.
        let picture = match taken.load(Ordering::Acquire).checked_sub(1) {
            Some(picture) if last_picture != Some(picture) => picture,
            // A truncation of nothing needs no sync.
            Some(_) | None => continue,
        };
        let newer = album.join(picture.to_string());
        for _ in 0..3 {
            // The one right before it, which may be of a purge: tearing reaches no
            // further back than the last sync.
            let Some(older) = picture.checked_sub(1).map(|picture| album.join(picture.to_string())) else {
                break;
            };
            if torn(&older, &newer, &mixed, &mut dice).is_none() {
                break;
            }
            let found = look(&mixed).await;
            assert!(since.iter().any(|model| found.agrees_with(model)), "torn: {found:?}\nsince {since:?}");
            tore += 1;
            lost += u32::from(!found.agrees_with(&model));
        }
        // Opening changes the folder, and the next round needs it as it was.
        copy_when_still(&newer, &mixed);
        let found = look(&mixed).await;
        assert!(found.agrees_with(&model), "found {found:?}\nexpected {model:?}");
        assert!(found.committed <= model.committed);
        looked += 1;
        for seen in last_picture.replace(picture).unwrap_or(0)..picture {
            fs::remove_dir_all(album.join(seen.to_string())).unwrap();
        }
        since = vec![model.clone()];
    }
    store.close().await.unwrap();
    println!("{looked} pictures and {tore} torn ones opened; {lost} of these had lost the batch");
    assert!(looked > 0 && lost > 0 && lost < tore, "the run tested little");
}

//! The control file, as both sides see it.

use std::process::Command;
use std::time::Duration;

use crate::cluster::{ControlFile, Counts, DiskFaults, Folders, Settings, layout};

fn words(path: &std::path::Path) -> Vec<u64> {
    let bytes = std::fs::read(path).unwrap();
    bytes.chunks_exact(8).map(|word| u64::from_ne_bytes(word.try_into().unwrap())).collect()
}

#[test]
fn what_is_set_stands_in_its_place() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("control");
    let control = ControlFile::create(&path, 7).unwrap();
    let blank = words(&path);
    assert_eq!(blank.len(), layout::WORDS);
    assert_eq!((blank[layout::MAGIC], blank[layout::SEED]), (layout::MAGIC_VALUE, 7));
    assert_eq!(blank[layout::FOLDERS], 0, "nothing is struck");

    control.set_clock(-90).unwrap();
    let faults = DiskFaults {
        folders: Folders { log: true, state: false, other: true },
        write_errors: 2,
        torn: true,
        sync_error_per_mille: 5,
        room_bytes: Some(4_096),
        sync_delay: Duration::from_millis(3),
        ..DiskFaults::default()
    };
    control.set_disk(&faults).unwrap();
    let set = words(&path);
    assert_eq!(set[layout::CLOCK_OFFSET].cast_signed(), -90);
    assert_eq!(set[layout::FOLDERS], layout::FOLDER_LOG | layout::FOLDER_OTHER);
    assert_eq!((set[layout::WRITE_ERRORS], set[layout::TORN]), (2, 1));
    assert_eq!((set[layout::SYNC_ERROR_PER_MILLE], set[layout::SYNC_ERRORS]), (5, 0));
    assert_eq!((set[layout::BOUNDED], set[layout::ROOM_BYTES]), (1, 4_096));
    assert_eq!((set[layout::SYNC_DELAY_MICROS], set[layout::WRITE_DELAY_MICROS]), (3_000, 0));

    control.set_disk(&DiskFaults::default()).unwrap();
    let cleared = words(&path);
    assert_eq!((cleared[layout::FOLDERS], cleared[layout::BOUNDED], cleared[layout::TORN]), (0, 0, 0));
}

#[test]
fn two_faults_of_a_disk_add_up() {
    let slow = DiskFaults {
        folders: Folders { log: true, ..Folders::default() },
        sync_delay: Duration::from_millis(50),
        ..DiskFaults::default()
    };
    let full = DiskFaults { folders: Folders::all(), room_bytes: Some(9), ..DiskFaults::default() };
    let both = slow.and(&full);
    assert_eq!((both.folders, both.room_bytes), (Folders::all(), Some(9)));
    assert_eq!(both.sync_delay, Duration::from_millis(50));
    assert!(both.may_end_a_node() && !slow.may_end_a_node());
}

#[test]
fn a_program_meets_what_is_set() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("control");
    let control = ControlFile::create(&path, 1).unwrap();
    let data = folder.path().canonicalize().unwrap().join("data");
    std::fs::create_dir_all(data.join("log")).unwrap();
    let run = |program: &str, args: &[&str]| {
        let mut command = Command::new(program);
        command.args(args).env("LD_PRELOAD", Settings::find_preload().unwrap());
        command.env(layout::ENV_CONTROL.to_str().unwrap(), &path);
        command.env(layout::ENV_DATA.to_str().unwrap(), &data).output().unwrap()
    };
    let of = format!("of={}", data.join("log/a").display());
    let dd = ["if=/dev/zero", &of, "bs=100", "count=1", "conv=fsync"];
    assert!(run("dd", &dd).status.success());
    let faults = DiskFaults { folders: Folders::all(), sync_errors: 1, ..DiskFaults::default() };
    control.set_disk(&faults).unwrap();
    assert!(!run("dd", &dd).status.success());
    assert!(run("dd", &dd).status.success(), "one sync was to fail");
    assert_eq!(control.counts().unwrap(), Counts { failed_syncs: 1, ..Counts::default() });
}

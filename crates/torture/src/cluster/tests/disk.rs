//! Disks that lose power, and are full.

use std::fs::{self, File};
use std::io::Write as _;
use std::process::Command;

use crate::cluster::{
    ControlFile, Disk, DiskFaults, Folders, Journal, Settings, image_disks_work, layout, unmount_leftovers,
};

/// Where disks can't be made, the tests of them say so and check nothing.
fn can_make_disks(folder: &std::path::Path) -> bool {
    let result = image_disks_work(folder);
    if let Err(error) = &result {
        println!("skipped: {error}");
    }
    result.is_ok()
}

#[test]
fn what_was_synced_survives_a_loss_of_power_and_nothing_else() {
    let root = tempfile::tempdir().unwrap();
    if !can_make_disks(root.path()) {
        return;
    }
    for journal in [Journal::Lost, Journal::Written] {
        let parent = root.path().join(format!("{journal:?}"));
        let mut disk = Disk::create(&parent, Some(32 << 20)).unwrap();
        let data = disk.data();
        fs::create_dir(&data).unwrap();
        let mut file = File::create(data.join("synced")).unwrap();
        file.write_all(b"synced").unwrap();
        file.sync_all().unwrap();
        File::open(&data).unwrap().sync_all().unwrap();
        file.write_all(b" and not").unwrap();
        fs::write(data.join("other"), b"not synced").unwrap();

        disk.power_off(journal).unwrap();
        fs::write(data.join("late"), b"too late").unwrap_err();
        drop(file);
        disk.power_on().unwrap();
        // The length of what was not synced may be there, its bytes are not.
        let found = fs::read(data.join("synced")).unwrap();
        let (synced, rest) = found.split_at(6);
        assert_eq!(synced, b"synced", "{journal:?}");
        assert!(rest.iter().all(|byte| *byte == 0), "{journal:?}: {rest:?}");
        let other = fs::read(data.join("other"));
        let is_lost = other.is_ok_and(|content| content.iter().all(|byte| *byte == 0));
        let is_lost = is_lost || !data.join("other").exists();
        assert!(is_lost, "{journal:?}: what was not synced is there");
        assert!(!data.join("late").exists(), "{journal:?}");
        fs::write(data.join("after"), b"works again").unwrap();
    }
}

#[test]
fn a_disk_that_lies_loses_what_was_synced() {
    let root = tempfile::tempdir().unwrap();
    if !can_make_disks(root.path()) {
        return;
    }
    for lies in [false, true] {
        let parent = root.path().join(format!("{lies}"));
        let mut disk = Disk::create(&parent, Some(32 << 20)).unwrap();
        let data = disk.data();
        fs::create_dir(&data).unwrap();
        File::open(data.parent().unwrap()).unwrap().sync_all().unwrap();
        let control = ControlFile::create(&parent.join("control"), 1).unwrap();
        control.set_disk(&DiskFaults { folders: Folders::all(), lies, ..DiskFaults::default() }).unwrap();
        let of = format!("of={}", data.join("a").display());
        let mut command = Command::new("dd");
        command.args(["if=/dev/urandom", &of, "bs=5000", "count=1", "conv=fsync"]);
        command.env("LD_PRELOAD", Settings::find_preload().unwrap());
        command.env(layout::ENV_CONTROL.to_str().unwrap(), parent.join("control"));
        command.env(layout::ENV_DATA.to_str().unwrap(), data.canonicalize().unwrap());
        assert!(command.output().unwrap().status.success());
        disk.power_off(Journal::Lost).unwrap();
        disk.power_on().unwrap();
        let found = fs::read(data.join("a")).unwrap_or_default();
        assert_eq!(found.iter().all(|byte| *byte == 0), lies, "{} bytes", found.len());
    }
}

#[test]
fn a_disk_is_filled_and_freed() {
    let root = tempfile::tempdir().unwrap();
    if !can_make_disks(root.path()) {
        return;
    }
    let disk = Disk::create(&root.path().join("node"), Some(32 << 20)).unwrap();
    fs::create_dir(disk.data()).unwrap();
    disk.fill(100_000).unwrap();
    let big = vec![1; 1 << 20];
    let error = fs::write(disk.data().join("big"), &big).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::StorageFull);
    disk.free().unwrap();
    disk.free().unwrap();
    fs::write(disk.data().join("big"), &big).unwrap();
}

#[test]
fn what_a_killed_run_left_mounted_is_unmounted() {
    let root = tempfile::tempdir().unwrap();
    if !can_make_disks(root.path()) {
        return;
    }
    let disk = Disk::create(&root.path().join("node"), Some(16 << 20)).unwrap();
    let place = disk.data().parent().unwrap().canonicalize().unwrap();
    let is_mounted = || fs::read_to_string("/proc/self/mounts").unwrap().contains(place.to_str().unwrap());
    assert!(is_mounted());
    std::mem::forget(disk);
    unmount_leftovers(root.path()).unwrap();
    assert!(!is_mounted());
}

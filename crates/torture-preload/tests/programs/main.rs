//! Ordinary programs run with the library loaded: `dd` meets a failing disk, `date`
//! another time.

#[cfg(test)]
mod bench;
#[cfg(test)]
#[path = "../../src/layout.rs"]
mod layout;

use std::fs;
use std::time::{Duration, Instant};

use self::bench::Bench;

#[test]
fn nothing_is_struck_while_the_control_file_says_nothing() {
    let bench = Bench::new();
    bench.set(layout::WRITE_ERRORS, 1);
    bench.set(layout::SYNC_ERRORS, 1);
    assert_eq!(bench.dd("data/log/a", &["conv=fsync"]), Ok(10_000));
    assert_eq!((bench.get(layout::WRITE_ERRORS), bench.get(layout::FAILED_WRITES)), (1, 0));
}

#[test]
fn a_write_fails_in_the_folder_that_is_struck_and_in_no_other() {
    let bench = Bench::new();
    bench.set(layout::FOLDERS, layout::FOLDER_LOG);
    bench.set(layout::WRITE_ERRORS, 1);
    for file in ["data/state/a", "data/a", "elsewhere/a", "data/log/LOG", "database-log"] {
        assert_eq!(bench.dd(file, &[]), Ok(10_000), "{file}");
    }
    let error = bench.dd("data/log/a", &[]).unwrap_err();
    assert!(error.starts_with("0 bytes;") && error.contains("Input/output error"), "{error}");
    assert_eq!((bench.get(layout::WRITE_ERRORS), bench.get(layout::FAILED_WRITES)), (0, 1));
    assert_eq!(bench.dd("data/log/a", &[]), Ok(10_000), "it was to fail once");

    bench.set(layout::TORN, 1);
    bench.set(layout::WRITE_ERRORS, 1);
    let error = bench.dd("data/log/a", &[]).unwrap_err();
    assert!(error.starts_with("500 bytes;"), "half of it has reached the file: {error}");

    bench.set(layout::FOLDERS, layout::FOLDER_STATE | layout::FOLDER_OTHER);
    bench.set(layout::WRITE_ERROR_PER_MILLE, 1_000);
    assert_eq!(bench.dd("data/log/a", &[]), Ok(10_000));
    bench.dd("data/state/a", &[]).unwrap_err();
    bench.dd("data/snapshots/a", &[]).unwrap_err();
}

#[test]
fn a_sync_fails_or_takes_longer() {
    for how in ["conv=fsync", "conv=fdatasync"] {
        let bench = Bench::new();
        bench.set(layout::FOLDERS, layout::FOLDER_LOG);
        bench.set(layout::SYNC_ERRORS, 1);
        let error = bench.dd("data/log/a", &[how]).unwrap_err();
        assert!(error.starts_with("10000 bytes;") && error.contains("Input/output error"), "{how}: {error}");
        assert_eq!(bench.get(layout::FAILED_SYNCS), 1);

        bench.set(layout::SYNC_DELAY_MICROS, 100_000);
        let begun = Instant::now();
        assert_eq!(bench.dd("data/log/a", &[how]), Ok(10_000));
        assert!(begun.elapsed() >= Duration::from_millis(100));
        assert_eq!(bench.get(layout::DELAYED), 1);
        bench.set(layout::WRITE_DELAY_MICROS, 30_000);
        assert_eq!(bench.dd("data/log/a", &[how]), Ok(10_000));
        assert!(begun.elapsed() >= Duration::from_millis(100 + 100 + 10 * 30));

        bench.set(layout::SYNC_DELAY_MICROS, 0);
        bench.set(layout::WRITE_DELAY_MICROS, 0);
        bench.set(layout::SYNC_ERROR_PER_MILLE, 500);
        let fails = |seed| {
            bench.set(layout::SEED, seed);
            bench.dd("data/log/a", &[how]).is_err()
        };
        let drawn: Vec<_> = (0..16).map(fails).collect();
        assert!(drawn.contains(&true) && drawn.contains(&false), "every other one fails: {drawn:?}");
        assert_eq!(fails(3), drawn[3], "the same seed, the same draw");
    }
}

#[test]
fn a_sync_that_is_not_done_succeeds() {
    let bench = Bench::new();
    bench.set(layout::FOLDERS, layout::FOLDER_LOG);
    bench.set(layout::LYING, 1);
    assert_eq!(bench.dd("data/log/a", &["conv=fsync"]), Ok(10_000));
    assert_eq!(bench.get(layout::FAILED_SYNCS), 0);
}

#[test]
fn a_disk_becomes_full_after_so_many_bytes() {
    let bench = Bench::new();
    bench.set(layout::FOLDERS, layout::FOLDER_LOG | layout::FOLDER_STATE);
    bench.set(layout::BOUNDED, 1);
    bench.set(layout::ROOM_BYTES, 3_500);
    let error = bench.dd("data/log/a", &[]).unwrap_err();
    assert!(error.starts_with("3500 bytes;") && error.contains("No space left"), "{error}");
    assert_eq!((bench.get(layout::ROOM_BYTES), bench.get(layout::REFUSED_WRITES)), (0, 1));
    let allocated = bench.run("fallocate", &["-l", "1000", "data/state/b"]);
    assert!(String::from_utf8_lossy(&allocated.stderr).contains("No space left"), "{allocated:?}");
    bench.set(layout::BOUNDED, 0);
    assert_eq!(bench.dd("data/log/a", &[]), Ok(10_000), "room was made");
}

#[test]
fn the_wall_clock_jumps_either_way() {
    let bench = Bench::new();
    let now = bench.seconds();
    for hours in [5, -7] {
        bench.set(layout::CLOCK_OFFSET, i64::cast_unsigned(hours * 3_600));
        let off = bench.seconds() - now - hours * 3_600;
        assert!((0..10).contains(&off), "{hours} hours: off by {off} seconds");
    }
    assert!(bench.get(layout::CLOCK_READS) > 0);
    // It sleeps by the monotonic clock, or by a deadline that is shifted with it.
    let begun = Instant::now();
    assert!(bench.run("timeout", &["10", "sleep", "0.2"]).status.success());
    assert!(begun.elapsed() >= Duration::from_millis(200));
}

#[test]
fn a_control_file_that_cannot_be_used_ends_the_program() {
    let bench = Bench::new();
    bench.set(layout::MAGIC, 1);
    let output = bench.run("date", &[]);
    assert_eq!(output.status.code(), Some(97), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("no control file"), "{output:?}");
    fs::remove_file(bench.root.path().join("control")).unwrap();
    assert_eq!(bench.run("date", &[]).status.code(), Some(97));
}

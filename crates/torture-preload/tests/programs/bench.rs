//! A data folder with a control file, and programs that run with the library.
//!
//! Must never be used by two tests at once: each has its own.

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::process::{Command, Output};

use tempfile::TempDir;

use crate::layout;

/// A data folder with a control file.
pub(crate) struct Bench {
    pub(crate) root: TempDir,
    control: File,
}

impl Bench {
    pub(crate) fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        for folder in ["log", "state", "snapshots"] {
            fs::create_dir_all(root.path().join("data").join(folder)).unwrap();
        }
        fs::create_dir(root.path().join("elsewhere")).unwrap();
        let control = File::options()
            .create_new(true)
            .read(true)
            .write(true)
            .open(root.path().join("control"))
            .unwrap();
        control.set_len((layout::WORDS * 8) as u64).unwrap();
        let bench = Self { root, control };
        bench.set(layout::MAGIC, layout::MAGIC_VALUE);
        bench
    }

    pub(crate) fn set(&self, place: usize, value: u64) {
        self.control.write_all_at(&value.to_ne_bytes(), (place * 8) as u64).unwrap();
    }

    pub(crate) fn get(&self, place: usize) -> u64 {
        let mut word = [0; 8];
        self.control.read_exact_at(&mut word, (place * 8) as u64).unwrap();
        u64::from_ne_bytes(word)
    }

    pub(crate) fn run(&self, program: &str, args: &[&str]) -> Output {
        let data = self.root.path().join("data").canonicalize().unwrap();
        Command::new(program)
            .args(args)
            .current_dir(self.root.path())
            .env("LD_PRELOAD", library())
            .env(layout::ENV_CONTROL.to_str().unwrap(), self.root.path().join("control"))
            .env(layout::ENV_DATA.to_str().unwrap(), data)
            .env("LC_ALL", "C")
            .output()
            .unwrap()
    }

    /// Writes ten blocks of a thousand bytes.
    pub(crate) fn dd(&self, file: &str, more: &[&str]) -> Result<u64, String> {
        let of = format!("of={file}");
        let mut args = vec!["if=/dev/zero", &of, "bs=1000", "count=10", "status=none"];
        args.extend_from_slice(more);
        let output = self.run("dd", &args);
        let size = fs::metadata(self.root.path().join(file)).unwrap().len();
        if output.status.success() {
            Ok(size)
        } else {
            Err(format!("{size} bytes; {}", String::from_utf8_lossy(&output.stderr)))
        }
    }

    pub(crate) fn seconds(&self) -> i64 {
        let output = self.run("date", &["+%s"]);
        String::from_utf8(output.stdout).unwrap().trim().parse().unwrap()
    }
}

/// The library beside this test.
fn library() -> PathBuf {
    let name = "libkvorum_torture_preload.so";
    let test = std::env::current_exe().unwrap();
    let folders = test.ancestors().skip(1).take(2);
    let found = folders.map(|folder| folder.join(name)).find(|path| path.exists());
    found.expect("cargo builds the library before this test")
}

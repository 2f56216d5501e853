//! How a cluster under torture is made.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Instant;

use super::error::HarnessError;

/// The name of the library that is loaded into nodes.
const PRELOAD: &str = "libkvorum_torture_preload.so";

/// The choices for a whole run.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The server.
    pub binary: PathBuf,
    /// The library that makes disks fail and clocks jump; without it such faults are
    /// skipped.
    pub preload: Option<PathBuf>,
    /// Where everything of the run lies; logs stay there.
    pub folder: PathBuf,
    /// How many voters there are.
    pub nodes: u64,
    /// Further flags of `kvorum serve`, without dashes, and their values.
    pub options: Vec<(String, String)>,
    /// Further environment variables of the nodes.
    pub environment: Vec<(String, String)>,
    /// Ports to use.
    pub ports: Range<u16>,
    /// Size of the file system that each node has of its own; without it, nodes use plain
    /// folders and can't lose power.
    pub image_bytes: Option<u64>,
    /// All disks say that they have synced and have not. Then a loss of power breaks
    /// promises, and whoever looks for broken promises must find it: a test of the test.
    pub lying_disks: bool,
    /// The start of the run, from which times are counted.
    pub begun: Instant,
    /// Where random choices that concern no plan begin.
    pub seed: u64,
}

impl Settings {
    /// One thread for HTTP and one for Raft in each node, plain folders, and ports below
    /// those that the system gives to outgoing connections.
    pub fn new(binary: impl Into<PathBuf>, folder: impl Into<PathBuf>, nodes: u64) -> Self {
        let options = [
            ("raft-workers", "1"),
            ("http-workers", "1"),
            ("request-timeout-ms", "2000"),
            ("learner-catch-up-timeout-ms", "10000"),
        ];
        Self {
            binary: binary.into(),
            preload: None,
            folder: folder.into(),
            nodes,
            options: options.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec(),
            environment: Vec::new(),
            // Apart from those of the cluster tests: a client of theirs that asks a node which is down
            // must not find one of a run that goes on beside them.
            ports: 20_000..27_000,
            image_bytes: None,
            lying_disks: false,
            begun: Instant::now(),
            seed: 0,
        }
    }

    /// Sets an option of all nodes, instead of what it was set to before.
    #[must_use]
    pub fn option(mut self, name: &str, value: &impl ToString) -> Self {
        self.options.retain(|(other, _)| other != name);
        self.options.push((name.to_owned(), value.to_string()));
        self
    }

    /// A snapshot every few entries, and few entries kept behind it: a node that was away
    /// needs a snapshot to come back.
    #[must_use]
    pub fn short_log(self) -> Self {
        self.option("snapshot-log-entries", &300).option("log-entries-to-keep", &50)
    }

    /// The library that cargo has put beside the running program or into `deps` there.
    pub fn find_preload() -> Result<PathBuf, HarnessError> {
        let program = std::env::current_exe().map_err(HarnessError::io("finding the running program"))?;
        let folders = program.ancestors().skip(1).take(2);
        let places = folders.flat_map(|folder| [folder.join(PRELOAD), folder.join("deps").join(PRELOAD)]);
        let missing = || HarnessError::Refused(format!("{PRELOAD} is not beside {}", program.display()));
        places.into_iter().find(|path| Path::exists(path)).ok_or_else(missing)
    }
}

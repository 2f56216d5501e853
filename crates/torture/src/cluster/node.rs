//! One node: its process, its addresses, its disk, and what it is allowed to do.
//!
//! Several faults may hold a node down or still at once; it runs again when the last of
//! them lets go. What is not allowed is written down as a problem, never passed over.

mod end;
mod faults;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

pub(crate) use self::end::End;
use super::control::{ControlFile, DiskFaults, Folders};
use super::disk::Disk;
use super::doors::Doors;
use super::error::HarnessError;
use super::layout;
use super::links::Links;
use super::ports::Ports;
use super::settings::Settings;
use super::system::{self, Journal, Signal};
use crate::history::NodeId;

/// How long a node may take to stop when it is told to.
const STOP_LIMIT: Duration = Duration::from_secs(30);
/// How long to wait before a node that ended by itself is started again.
const RESTART_PAUSE: Duration = Duration::from_millis(500);
/// How often a node may fail to start, one time after the other, before it is given up.
const MAX_FAILED_STARTS: u32 = 4;
/// A node that ran for less than this has failed to start.
const STARTED: Duration = Duration::from_secs(5);
/// A node under torture.
#[derive(Debug)]
pub struct Node {
    /// Its id.
    pub id: NodeId,
    folder: PathBuf,
    binary: PathBuf,
    preload: Option<PathBuf>,
    options: Vec<(String, String)>,
    environment: Vec<(String, String)>,
    doors: Doors,
    disk: Disk,
    control: ControlFile,
    process: Option<Child>,
    started: Instant,
    starts: u32,
    failed_starts: u32,
    not_before: Instant,
    down: u32,
    still: u32,
    stopping: Option<Instant>,
    disk_faults: BTreeMap<u64, DiskFaults>,
    next_fault: u64,
    met_disk_faults: bool,
    is_power_off: bool,
    clocks: BTreeMap<u64, i64>,
    damage: Option<String>,
    refusals: u32,
    unseen: Option<End>,
    is_wiped: bool,
    /// What its disk always does wrong.
    disk_nature: DiskFaults,
}

impl Node {
    /// A node with an empty disk, which does not run yet.
    pub(crate) fn new(
        id: NodeId,
        settings: &Settings,
        ports: &mut Ports,
        links: &Links,
    ) -> Result<Self, HarnessError> {
        let folder = settings.folder.join(format!("node-{id}"));
        fs::create_dir_all(&folder).map_err(HarnessError::io(format!("creating {}", folder.display())))?;
        let what = || HarnessError::io(format!("finding {}", folder.display()));
        let folder = folder.canonicalize().map_err(what())?;
        let disk = Disk::create(&folder, settings.image_bytes)?;
        let control = ControlFile::create(&folder.join("control"), settings.seed.wrapping_add(id))?;
        let now = Instant::now();
        let node = Self {
            id,
            binary: settings.binary.clone(),
            preload: settings.preload.clone(),
            options: settings.options.clone(),
            environment: settings.environment.clone(),
            doors: Doors::new(id, ports, links)?,
            folder,
            disk,
            control,
            process: None,
            started: now,
            starts: 0,
            failed_starts: 0,
            not_before: now,
            down: 0,
            still: 0,
            stopping: None,
            disk_faults: BTreeMap::new(),
            next_fault: 0,
            met_disk_faults: false,
            is_power_off: false,
            clocks: BTreeMap::new(),
            damage: None,
            refusals: 0,
            unseen: None,
            is_wiped: false,
            disk_nature: nature(settings.lying_disks),
        };
        node.set_disk()?;
        Ok(node)
    }

    /// Where other nodes are told to call it.
    pub fn advertised(&self) -> &str {
        self.doors.peers.address()
    }

    /// Where clients call its HTTP API.
    pub fn http(&self) -> &str {
        self.doors.http.address()
    }

    /// Where clients of etcd call it.
    pub fn grpc(&self) -> &str {
        self.doors.grpc.address()
    }

    /// Where the harness calls it, past the proxies.
    pub(crate) fn direct(&self) -> &str {
        &self.doors.inner_http
    }

    /// Its disk.
    pub fn disk(&self) -> &Disk {
        &self.disk
    }

    /// What was done to its disk and its clock.
    pub fn control(&self) -> &ControlFile {
        &self.control
    }

    /// Whether its process is there, perhaps standing still.
    pub fn is_running(&self) -> bool {
        self.process.is_some()
    }

    /// Whether it runs and nothing that was done to it keeps it from answering.
    pub fn is_responsive(&self) -> bool {
        self.is_running() && self.still == 0 && self.stopping.is_none()
    }

    /// What was damaged of its files, if anything was.
    pub fn damage(&self) -> Option<&str> {
        self.damage.as_deref()
    }

    /// Whether it has ended because of that.
    pub(crate) fn has_refused_damage(&self) -> bool {
        self.damage.is_some() && self.refusals > 0
    }

    /// Whether it was started in vain too often.
    pub(crate) fn is_given_up(&self) -> bool {
        self.failed_starts >= MAX_FAILED_STARTS
    }

    /// Where its log is.
    pub fn log_path(&self) -> PathBuf {
        self.folder.join("log.txt")
    }

    /// Whether it is to run and does not.
    pub(crate) fn wants_start(&self) -> bool {
        let is_lost = self.is_wiped || self.is_given_up() || self.has_refused_damage();
        let may_run = self.down == 0 && !is_lost;
        let ended_by_disk = self.met_disk_faults && !self.disk_faults.is_empty();
        self.process.is_none() && may_run && !ended_by_disk && Instant::now() >= self.not_before
    }

    /// Starts its process, without waiting until it answers.
    pub(crate) fn start(&mut self) -> Result<(), HarnessError> {
        self.open_disk()?;
        self.starts += 1;
        self.note(&format!("start {}", self.starts))?;
        let path = self.log_path();
        let log = File::options().create(true).append(true).open(&path);
        let log = log.map_err(HarnessError::io(format!("opening {}", path.display())))?;
        let mut command = Command::new(&self.binary);
        command.arg("serve");
        for (name, value) in self.flags() {
            command.arg(format!("--{name}")).arg(value);
        }
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("KVORUM_") || name == "RUST_LOG" {
                command.env_remove(name);
            }
        }
        if let Some(preload) = &self.preload {
            command.env("LD_PRELOAD", preload);
            command.env(name_of(layout::ENV_CONTROL), self.folder.join("control"));
            command.env(name_of(layout::ENV_DATA), self.disk.data());
        }
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        // A group of its own: an interrupt from the terminal is for the harness.
        command.process_group(0).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let child = command.spawn();
        let child = child.map_err(HarnessError::io(format!("starting {}", self.binary.display())))?;
        let pid = child.id().to_string();
        self.process = Some(child);
        fs::write(self.pid_path(), pid).map_err(HarnessError::io("noting a process's id"))?;
        self.met_disk_faults = !self.disk_faults.is_empty() && self.met_disk_faults;
        self.started = Instant::now();
        self.still = 0;
        self.stopping = None;
        self.doors.set_open(true);
        Ok(())
    }

    fn flags(&self) -> Vec<(String, String)> {
        let own = [
            ("id", self.id.to_string()),
            ("data-dir", self.disk.data().to_string_lossy().into_owned()),
            ("http-addr", self.doors.inner_http.clone()),
            ("grpc-addr", self.doors.inner_grpc.clone()),
            ("advertise-addr", self.advertised().to_owned()),
        ];
        own.map(|(name, value)| (name.to_owned(), value))
            .into_iter()
            .chain(self.options.iter().cloned())
            .collect()
    }

    fn pid_path(&self) -> PathBuf {
        self.folder.join("pid")
    }

    /// Holds it down from now on: `kill -9`.
    pub(crate) fn kill(&mut self) -> Result<(), HarnessError> {
        self.down += 1;
        self.end()
    }

    /// Holds it down from now on: its disk loses power, and nothing of it goes on.
    pub(crate) fn lose_power(&mut self, journal: Journal) -> Result<(), HarnessError> {
        if self.is_wiped || self.is_power_off {
            return self.kill();
        }
        // First the disk: nothing that the end of the process brings about reaches it.
        self.disk.power_off(journal)?;
        self.is_power_off = true;
        self.kill()
    }

    /// Holds it down from now on: it is told to stop.
    pub(crate) fn terminate(&mut self) -> Result<(), HarnessError> {
        self.down += 1;
        self.tell(Signal::Terminate)?;
        if self.process.is_some() && self.stopping.is_none() {
            self.stopping = Some(Instant::now());
        }
        Ok(())
    }

    /// Lets go of it after one of the calls that hold it down.
    pub(crate) fn let_run(&mut self) {
        self.down = self.down.saturating_sub(1);
    }

    /// Holds it still from now on.
    pub(crate) fn pause(&mut self) -> Result<(), HarnessError> {
        if self.process.is_some() {
            self.still += 1;
            self.tell(Signal::Stop)?;
        }
        Ok(())
    }

    /// Lets it go on after [`Self::pause`].
    pub(crate) fn resume(&mut self) -> Result<(), HarnessError> {
        self.still = self.still.saturating_sub(1);
        if self.still == 0 {
            self.tell(Signal::Continue)?;
        }
        Ok(())
    }

    /// Notes that files of it are damaged: from now on it may end with a message.
    pub(crate) fn set_damage(&mut self, damage: String) {
        self.damage = Some(damage);
        self.refusals = 0;
    }

    /// Makes the disk usable while the node is down, for those who look into its files.
    pub(crate) fn open_disk(&mut self) -> Result<&Disk, HarnessError> {
        if self.is_power_off {
            self.disk.power_on()?;
            self.is_power_off = false;
            // Room may have been made meanwhile, when nothing could be removed from it.
            if self.disk_faults.values().all(|faults| faults.room_bytes.is_none()) {
                self.disk.free()?;
            }
        }
        Ok(&self.disk)
    }

    /// Ends it for good and empties its disk.
    pub(crate) fn wipe(&mut self) -> Result<(), HarnessError> {
        self.end()?;
        if std::mem::replace(&mut self.is_wiped, true) { Ok(()) } else { self.disk.discard() }
    }

    /// Looks whether its process has ended, and how.
    pub(crate) fn reap(&mut self) -> Result<Option<End>, HarnessError> {
        if let Some(end) = self.unseen.take() {
            return Ok(Some(end));
        }
        let Some(child) = &mut self.process else { return Ok(None) };
        let status = child.try_wait().map_err(HarnessError::io("waiting for a node"))?;
        let Some(status) = status else { return self.stop_late() };
        self.process = None;
        self.doors.set_open(false);
        let was_stopping = self.stopping.take().is_some();
        self.still = 0;
        self.not_before = Instant::now() + RESTART_PAUSE;
        self.note(&format!("it ended: {status}"))?;
        let end = self.judge(status, was_stopping);
        match &end {
            End::Problem(_) if self.started.elapsed() < STARTED => self.failed_starts += 1,
            End::Stopped | End::PortTaken | End::Problem(_) => {}
            End::Allowed(_) => self.refusals += 1,
        }
        Ok(Some(end))
    }

    fn stop_late(&mut self) -> Result<Option<End>, HarnessError> {
        let Some(since) = self.stopping else { return Ok(None) };
        if self.still > 0 {
            // It can't stop while it is held still.
            self.stopping = Some(Instant::now());
            return Ok(None);
        }
        if since.elapsed() < STOP_LIMIT {
            return Ok(None);
        }
        self.end()?;
        Ok(Some(End::Problem(format!("it did not stop within {STOP_LIMIT:?} of SIGTERM"))))
    }

    /// All that it has logged, over all its starts.
    pub fn log(&self) -> String {
        read_log(&self.log_path())
    }

    /// Writes a line of the harness's own into its log.
    pub(crate) fn note(&self, line: &str) -> Result<(), HarnessError> {
        let path = self.log_path();
        let file = File::options().create(true).append(true).open(&path);
        let written = file.and_then(|mut file| writeln!(file, "--- harness: {line}"));
        written.map_err(HarnessError::io(format!("writing to {}", path.display())))
    }

    fn tell(&self, what: Signal) -> Result<(), HarnessError> {
        let Some(child) = &self.process else { return Ok(()) };
        system::signal(child.id(), what).map_err(HarnessError::io(format!("telling node {}", self.id)))
    }

    fn end(&mut self) -> Result<(), HarnessError> {
        self.doors.set_open(false);
        self.still = 0;
        let was_stopping = self.stopping.take().is_some();
        let Some(mut child) = self.process.take() else { return Ok(()) };
        let ended_before = child.try_wait().map_err(HarnessError::io("waiting for a node"))?;
        if let Some(status) = ended_before {
            // It was not this that ended it.
            self.unseen = Some(self.judge(status, was_stopping));
            return Ok(());
        }
        let ended = system::blocking(|| child.kill().and_then(|()| child.wait()));
        ended.map(drop).map_err(HarnessError::io(format!("killing node {}", self.id)))?;
        self.note("killed")
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // Nobody is left to be told; the disk is unmounted next.
        let _ = self.end();
    }
}

/// What the disks of a run always do wrong.
fn nature(lies: bool) -> DiskFaults {
    if lies {
        DiskFaults { folders: Folders::all(), lies, ..DiskFaults::default() }
    } else {
        DiskFaults::default()
    }
}

fn name_of(name: &std::ffi::CStr) -> String {
    name.to_string_lossy().into_owned()
}

/// A log, whatever bytes it holds.
pub(crate) fn read_log(path: &Path) -> String {
    fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
}

/// Kills what an earlier run, which was killed, has left running below a folder.
pub(crate) fn kill_leftovers(folder: &Path) -> Result<(), HarnessError> {
    let Ok(entries) = fs::read_dir(folder) else { return Ok(()) };
    for entry in entries.flatten() {
        let Ok(pid) = fs::read_to_string(entry.path().join("pid")) else { continue };
        let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let data = entry.path().canonicalize().unwrap_or_default().join("disk");
        if String::from_utf8_lossy(&command).contains(&*data.to_string_lossy()) {
            let killed = Command::new("kill").args(["-9", &pid]).status();
            killed.map_err(HarnessError::io(format!("killing the leftover process {pid}")))?;
        }
    }
    Ok(())
}

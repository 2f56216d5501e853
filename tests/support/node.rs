//! One node under test, as a process of its own or inside this one.

use std::fs::{self, File};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use kvorum::config::{Config, Options, Secret, ServeArgs};
use kvorum::{Node, NodeId, start_node};

use super::http::Http;
use super::{PATIENCE, POLL};

/// The server's binary.
pub(crate) const BINARY: &str = env!("CARGO_BIN_EXE_kvorum");

/// Lines of a node's log that are shown when a test fails.
const LOG_TAIL: usize = 60;

/// How a node runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// As a process: it can be killed, paused and asked for its exit code.
    Process,
    /// In the test's process; killing it drops it.
    InProcess,
}

enum Running {
    Nothing,
    Process(Child),
    InProcess(Box<Node>),
}

/// A node: its folder and addresses, and what runs of it.
pub(crate) struct TestNode {
    pub(crate) id: NodeId,
    /// Where clients call it.
    pub(crate) addr: String,
    /// Where peers are told to call it.
    pub(crate) advertised: String,
    dir: PathBuf,
    options: Options,
    secret: Option<String>,
    mode: Mode,
    running: Running,
    paused: bool,
}

/// An address on loopback that nothing listens on.
///
/// A node keeps its address across restarts, so the port is chosen below the
/// range that the system gives to outgoing connections, one of which could
/// otherwise hold it while the node is down. Another process may still take it
/// between this look and the node's start; [`TestNode::start`] then tries again
/// for a while.
pub(crate) fn free_addr() -> String {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    const FIRST: u32 = 12_000;
    // Those that follow are the torture's.
    const COUNT: u32 = 8_000;
    loop {
        let nth = u32::from(NEXT.fetch_add(1, Ordering::Relaxed));
        // Test binaries that run side by side begin at different places.
        let port = FIRST + (std::process::id().wrapping_mul(331).wrapping_add(nth)) % COUNT;
        let addr = format!("127.0.0.1:{port}");
        if TcpListener::bind(&addr).is_ok() {
            return addr;
        }
    }
}

impl TestNode {
    pub(crate) fn new(
        id: NodeId,
        dir: PathBuf,
        mode: Mode,
        mut options: Options,
        secret: Option<&str>,
        advertised: Option<(String, String)>,
    ) -> Self {
        let (addr, advertised) = advertised.unwrap_or_else(|| {
            let addr = free_addr();
            (addr.clone(), addr)
        });
        options.id = Some(id);
        options.data_dir = Some(dir.join("data"));
        options.http_addr = Some(addr.clone());
        options.advertise_addr = Some(advertised.clone());
        let secret = secret.map(str::to_owned);
        fs::create_dir_all(&dir).unwrap();
        Self { id, addr, advertised, dir, options, secret, mode, running: Running::Nothing, paused: false }
    }

    pub(crate) fn data_dir(&self) -> PathBuf {
        self.dir.join("data")
    }

    /// The options with which it starts the next time.
    pub(crate) fn options_mut(&mut self) -> &mut Options {
        &mut self.options
    }

    pub(crate) fn is_running(&self) -> bool {
        !matches!(self.running, Running::Nothing)
    }

    /// Whether it runs and is not paused.
    pub(crate) fn is_responsive(&self) -> bool {
        self.is_running() && !self.paused
    }

    /// A process of this node's configuration that has just been started, with
    /// its log at the end of the node's.
    pub(crate) fn spawn(&self) -> Child {
        let config = self.dir.join("kvorum.toml");
        fs::write(&config, toml::to_string(&self.options).unwrap()).unwrap();
        let log = File::options().create(true).append(true).open(self.log_path()).unwrap();
        let mut command = Command::new(BINARY);
        command.arg("serve").arg("--config").arg(&config);
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("KVORUM_") || name == "RUST_LOG" {
                command.env_remove(name);
            }
        }
        if let Some(secret) = &self.secret {
            command.env("KVORUM_CLUSTER_SECRET", secret);
        }
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().unwrap()
    }

    /// Starts it and waits until it answers.
    pub(crate) async fn start(&mut self) {
        self.start_at_once().await;
        self.wait_until_alive().await;
    }

    /// Starts it without waiting until it answers.
    pub(crate) async fn start_at_once(&mut self) {
        assert!(!self.is_running(), "node {} runs already", self.id);
        self.running = match self.mode {
            Mode::Process => Running::Process(self.spawn()),
            Mode::InProcess => Running::InProcess(Box::new(self.start_here().await)),
        };
    }

    async fn start_here(&self) -> Node {
        let mut options = self.options.clone();
        options.cluster_secret = self.secret.clone().map(Secret::from);
        let config = Config::load(ServeArgs { options, ..ServeArgs::default() }).unwrap();
        let deadline = Instant::now() + PATIENCE;
        loop {
            let config = config.clone();
            let fatal = Arc::new(|error: &_| panic!("the log can't be written: {error}"));
            // It builds a runtime of its own, which must not happen inside another.
            let started = tokio::task::spawn_blocking(move || start_node(&config, fatal)).await.unwrap();
            match started {
                Ok(node) => return node,
                // What a dropped node ran in the background may hold its folder
                // for a moment longer.
                Err(error) if Instant::now() >= deadline => panic!("node {}: {error}", self.id),
                Err(_) => tokio::time::sleep(POLL).await,
            }
        }
    }

    async fn wait_until_alive(&mut self) {
        let http = Http::new().with_timeout(Duration::from_secs(5));
        let deadline = Instant::now() + PATIENCE;
        loop {
            let answer = http.send("GET", &self.addr, "/health", &[], "").await;
            if answer.is_ok_and(|answer| answer.status == 200) {
                return;
            }
            let ended = match &mut self.running {
                Running::Process(child) => child.try_wait().unwrap(),
                Running::Nothing | Running::InProcess(_) => None,
            };
            assert!(Instant::now() < deadline, "node {} does not answer (ended: {ended:?})", self.id);
            if ended.is_some() {
                // Somebody else's connection may hold the port for a moment.
                let log = self.log();
                let retry = log.lines().last().is_some_and(|line| line.contains("can't listen on"));
                assert!(retry, "node {} ended: {ended:?}", self.id);
                self.running = Running::Process(self.spawn());
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// Ends it as a crash would: `kill -9`. A process that has ended by itself is
    /// a failure of the test.
    pub(crate) fn kill(&mut self) {
        if let Running::Process(child) = &mut self.running {
            let ended = child.try_wait().unwrap();
            assert!(ended.is_none(), "node {} ended by itself: {ended:?}", self.id);
        }
        self.end();
    }

    fn end(&mut self) {
        self.paused = false;
        match std::mem::replace(&mut self.running, Running::Nothing) {
            Running::Nothing => {}
            Running::Process(mut child) => {
                child.kill().unwrap();
                child.wait().unwrap();
            }
            Running::InProcess(node) => drop(node),
        }
    }

    /// Tells it to stop and waits until it has; gives the exit code and how long
    /// it took.
    pub(crate) async fn terminate(&mut self) -> (Option<i32>, Duration) {
        let begun = Instant::now();
        match std::mem::replace(&mut self.running, Running::Nothing) {
            Running::Nothing => panic!("node {} does not run", self.id),
            Running::Process(mut child) => {
                signal(&child, "TERM");
                loop {
                    if let Some(status) = child.try_wait().unwrap() {
                        return (status.code(), begun.elapsed());
                    }
                    if begun.elapsed() > PATIENCE {
                        self.running = Running::Process(child);
                        panic!("node {} does not stop", self.id);
                    }
                    tokio::time::sleep(POLL).await;
                }
            }
            Running::InProcess(node) => {
                node.stop().await.unwrap();
                (Some(0), begun.elapsed())
            }
        }
    }

    /// Stops it in its tracks: it keeps all connections and answers nothing.
    pub(crate) fn pause(&mut self) {
        signal(self.child(), "STOP");
        self.paused = true;
    }

    /// Lets a paused node go on.
    pub(crate) fn resume(&mut self) {
        signal(self.child(), "CONT");
        self.paused = false;
    }

    fn child(&self) -> &Child {
        match &self.running {
            Running::Process(child) => child,
            Running::Nothing | Running::InProcess(_) => panic!("node {} is no running process", self.id),
        }
    }

    fn log_path(&self) -> PathBuf {
        self.dir.join("log.txt")
    }

    /// All that it has logged so far, over all its runs.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    /// Shows the end of its log; called when a test has failed.
    pub(crate) fn show_log(&self) {
        let log = self.log();
        let lines: Vec<_> = log.lines().collect();
        println!("--- node {} at {}, the end of its log:", self.id, self.addr);
        for line in lines.iter().skip(lines.len().saturating_sub(LOG_TAIL)) {
            println!("{line}");
        }
    }
}

impl Drop for TestNode {
    fn drop(&mut self) {
        self.end();
    }
}

/// Sends a signal to a process that was started here and not yet waited for, so
/// that its id can't belong to another.
fn signal(child: &Child, name: &str) {
    let sent = Command::new("sh").arg("-c").arg(format!("kill -{name} {}", child.id())).status().unwrap();
    assert!(sent.success(), "signal {name} could not be sent");
}

/// Copies a folder with all that is in it.
pub(crate) fn copy_dir(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy_dir(&path, &target);
        } else {
            fs::copy(&path, &target).unwrap();
        }
    }
}

//! The nodes' processes: started, watched, ended.
//!
//! Each child has a process group of its own, so the terminal's Ctrl-C reaches
//! this process alone, which then ends the children in order. A child is signalled
//! only while it has not been waited for, so its process id is certainly its own.

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use futures_util::future::{join_all, select_all};
use rustix::process::{Pid, kill_process};
use tokio::process::{Child, Command};

use super::plan::{NodePlan, Plan};
use crate::failure::{Exit, Failure};
use crate::signals::StopSignals;

/// A node finishes its requests and hands leadership over in this time.
const STOP_TIMEOUT: Duration = Duration::from_secs(12);
const TAIL_BYTES: u64 = 4096;
const TAIL_LINES: usize = 15;

/// Settings of one node that must not come from the environment of all.
const PER_NODE_SETTINGS: [&str; 5] =
    ["KVORUM_PEER_ADDR", "KVORUM_ADVERTISE_ADDR", "KVORUM_GRPC_ADDR", "KVORUM_CONFIG", "KVORUM_ENDPOINTS"];

struct Running {
    plan: NodePlan,
    child: Child,
    /// Where this run's part of the log begins.
    log_start: u64,
}

/// The nodes that run.
pub(super) struct Fleet {
    running: Vec<Running>,
    /// Where the logs of nodes that have ended begin.
    ended: Vec<(u64, u64)>,
}

impl Fleet {
    /// Starts all nodes. If one cannot be started, none is left running.
    pub(super) fn start(plan: &Plan, serve_args: &[OsString], secret: Option<&str>) -> Result<Self, Failure> {
        let cannot = |what: String| Failure::new(Exit::Failed, "local", what);
        let program = std::env::current_exe()
            .map_err(|error| cannot(format!("cannot find this program's own file: {error}")))?;
        let mut fleet = Self { running: Vec::new(), ended: Vec::new() };
        for node in plan.nodes() {
            let log = OpenOptions::new().create(true).append(true).open(node.log());
            let streams = log.and_then(|log| Ok((log.metadata()?.len(), log.try_clone()?, log)));
            let (log_start, out, err) = streams
                .map_err(|error| cannot(format!("cannot open the log {}: {error}", node.log().display())))?;
            let mut command = Command::new(&program);
            for name in PER_NODE_SETTINGS {
                command.env_remove(name);
            }
            if let Some(secret) = secret {
                // Not as an argument: every user of the machine can read those.
                command.env("KVORUM_CLUSTER_SECRET", secret).env_remove("KVORUM_CLUSTER_SECRET_FILE");
            }
            let child = command
                .args(["serve", "--id", &node.id().to_string(), "--http-addr", node.addr()])
                .arg("--data-dir")
                .arg(node.data_dir())
                .args(serve_args)
                .stdin(Stdio::null())
                .stdout(out)
                .stderr(err)
                .process_group(0)
                .kill_on_drop(true)
                .spawn()
                .map_err(|error| cannot(format!("cannot start {}: {error}", program.display())))?;
            fleet.running.push(Running { plan: node.clone(), child, log_start });
        }
        Ok(fleet)
    }

    /// How many nodes run.
    pub(super) fn alive(&self) -> usize {
        self.running.len()
    }

    /// A running node's process id.
    pub(super) fn pid(&self, id: u64) -> Option<u32> {
        self.running.iter().find(|node| node.plan.id() == id)?.child.id()
    }

    /// The next node that ends; pends for good if none runs.
    ///
    /// # Cancel safety
    /// A node whose end was not returned is returned by the next call.
    pub(super) async fn next_exit(&mut self) -> (NodePlan, String) {
        if self.running.is_empty() {
            return std::future::pending().await;
        }
        let waits = self.running.iter_mut().map(|node| Box::pin(node.child.wait()));
        let (status, index, others) = select_all(waits).await;
        drop(others);
        let node = self.running.swap_remove(index);
        self.ended.push((node.plan.id(), node.log_start));
        (node.plan, describe(status))
    }

    /// The failure of a node that ended before the cluster was ready.
    pub(super) fn exited_early(&self, node: &NodePlan, status: &str) -> Failure {
        let start = self.ended.iter().find(|(id, _)| *id == node.id()).map_or(0, |(_, start)| *start);
        let tail = tail(node.log(), start).unwrap_or_else(|error| format!("(it cannot be read: {error})"));
        let message = format!(
            "node {} ended early ({status}); the end of its log {}:\n{tail}",
            node.id(),
            node.log().display()
        );
        Failure::new(Exit::Failed, "local", message)
    }

    /// Asks all nodes to end, and ends those that do not: after a time, or at
    /// once when the user asks again.
    pub(super) async fn stop(&mut self, again: &mut StopSignals) {
        for node in &self.running {
            let pid = node.child.id().and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?));
            if let Some(pid) = pid {
                // It may have ended just now, which is what is wanted.
                let _ = kill_process(pid, rustix::process::Signal::TERM);
            }
        }
        let ended = join_all(self.running.iter_mut().map(|node| node.child.wait()));
        tokio::select! {
            _ = ended => {}
            _ = again.next() => {}
            () = tokio::time::sleep(STOP_TIMEOUT) => {}
        }
        for node in &mut self.running {
            // Does nothing to those that have ended.
            let _ = node.child.kill().await;
        }
        self.running.clear();
    }
}

fn describe(status: std::io::Result<ExitStatus>) -> String {
    status.map_or_else(|error| format!("cannot be waited for: {error}"), |status| status.to_string())
}

/// The last lines that were written to a log after `start`.
fn tail(path: &Path, start: u64) -> std::io::Result<String> {
    let mut file = File::open(path)?;
    let end = file.metadata()?.len();
    file.seek(SeekFrom::Start(start.max(end.saturating_sub(TAIL_BYTES))))?;
    let mut bytes = Vec::new();
    file.take(TAIL_BYTES).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<_> = text.lines().collect();
    let shown = lines.get(lines.len().saturating_sub(TAIL_LINES)..).unwrap_or_default();
    Ok(if shown.is_empty() { "(it wrote nothing)".to_owned() } else { shown.join("\n") })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tail_shows_the_last_lines_of_this_run_only() {
        let path = std::env::temp_dir().join(format!("kvorum-tail-{}", std::process::id()));
        let old = "old\n".repeat(3);
        let new: String =
            (0..20).flat_map(|n| ["line ".to_owned(), n.to_string(), "\n".to_owned()]).collect();
        std::fs::write(&path, format!("{old}{new}")).unwrap();
        let shown = tail(&path, old.len() as u64).unwrap();
        let nothing = tail(&path, (old.len() + new.len()) as u64).unwrap();
        std::fs::remove_file(&path).unwrap();
        assert!(shown.starts_with("line 5\n") && shown.ends_with("line 19"), "{shown}");
        assert_eq!(nothing, "(it wrote nothing)");
    }
}

//! Whether a node's process may end as it did.

use std::os::unix::process::ExitStatusExt as _;
use std::process::ExitStatus;

use super::Node;

/// Lines of a log that are quoted with a problem.
const QUOTED_LINES: usize = 12;

/// How a node's process ended by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum End {
    /// As it was told.
    Stopped,
    /// As a fault allows.
    Allowed(String),
    /// For a reason of this machine that has nothing to do with it: it is started again.
    PortTaken,
    /// As nothing allows.
    Problem(String),
}

impl Node {
    pub(super) fn judge(&self, status: ExitStatus, was_stopping: bool) -> End {
        let has_crashed = status.signal().is_some() || status.code() == Some(101);
        let failed = status.code() == Some(1);
        let was_killed_by_it = status.signal() == Some(libc::SIGTERM) && !self.has_said_anything();
        if was_stopping && (status.success() || was_killed_by_it) {
            End::Stopped
        } else if !has_crashed && failed && self.last_line().contains("can't listen on") {
            End::PortTaken
        } else if !has_crashed && failed && (self.met_disk_faults || self.is_power_off) {
            End::Allowed("its disk failed".to_owned())
        } else if !has_crashed && failed && self.damage.is_some() {
            End::Allowed(format!("it refused a damaged file: {}", self.last_line()))
        } else if was_stopping {
            End::Problem(format!("it was told to stop and ended with {status}; {}", self.quote()))
        } else {
            End::Problem(format!("it ended by itself with {status}; {}", self.quote()))
        }
    }

    /// Whether its process has logged anything since it was started: before, it may not have
    /// come so far as to listen for signals.
    fn has_said_anything(&self) -> bool {
        let log = self.log();
        let last = log.lines().rev().find(|line| !line.starts_with("--- harness: it ended"));
        last.is_some_and(|line| !line.starts_with("--- harness: start"))
    }

    fn last_line(&self) -> String {
        let log = self.log();
        log.lines().rev().find(|line| !line.starts_with("---")).unwrap_or_default().to_owned()
    }

    fn quote(&self) -> String {
        let log = self.log();
        let lines: Vec<_> = log.lines().collect();
        let tail = lines.iter().skip(lines.len().saturating_sub(QUOTED_LINES));
        format!("the end of its log:\n{}", tail.copied().collect::<Vec<_>>().join("\n"))
    }
}

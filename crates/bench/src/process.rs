//! CPU time and resident memory of the measured processes, from `/proc`.
//!
//! A process that ends keeps its last figures: fail-over runs kill theirs.

use std::fs;
use std::time::Duration;

/// Linux reports CPU time to user space in hundredths of a second on every
/// architecture that Kvorum runs on.
const TICK: Duration = Duration::from_millis(10);

/// What one process has used so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Usage {
    pub(crate) cpu: Duration,
    pub(crate) resident_bytes: u64,
}

/// Reads the usage of the process; `None` if there is no such process.
pub(crate) fn usage(pid: u32) -> Option<Usage> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    Some(Usage { cpu: parse_cpu(&stat)?, resident_bytes: parse_memory(&status, "VmRSS:")? })
}

/// Forgets the most memory that the process ever had, and gives what it has now;
/// `None` if this process may not do that.
pub(crate) fn reset_peak(pid: u32) -> Option<u64> {
    fs::write(format!("/proc/{pid}/clear_refs"), "5").ok()?;
    usage(pid).map(|usage| usage.resident_bytes)
}

/// The most resident memory, in bytes, that the process had since it was last reset.
pub(crate) fn peak(pid: u32) -> Option<u64> {
    parse_memory(&fs::read_to_string(format!("/proc/{pid}/status")).ok()?, "VmHWM:")
}

fn parse_cpu(stat: &str) -> Option<Duration> {
    // The name in parentheses may hold anything, so count from its end: the
    // state is field 3, user and system time are 14 and 15.
    let (_, after_name) = stat.rsplit_once(')')?;
    let mut times = after_name.split_ascii_whitespace().skip(11).map(str::parse::<u32>);
    let user = times.next()?.ok()?;
    let system = times.next()?.ok()?;
    TICK.checked_mul(user.checked_add(system)?)
}

fn parse_memory(status: &str, name: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// The usage of one process over a run.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Watched {
    pub(crate) pid: u32,
    pub(crate) before: Usage,
    pub(crate) last: Usage,
    pub(crate) max_resident_bytes: u64,
}

impl Watched {
    /// Starts to watch; `None` if there is no such process.
    pub(crate) fn start(pid: u32) -> Option<Self> {
        let now = usage(pid)?;
        Some(Self { pid, before: now, last: now, max_resident_bytes: now.resident_bytes })
    }

    /// Takes a sample.
    pub(crate) fn sample(&mut self) {
        if let Some(now) = usage(self.pid) {
            self.last = now;
            self.max_resident_bytes = self.max_resident_bytes.max(now.resident_bytes);
        }
    }

    /// From here on counts the CPU time that [`Self::cpu`] gives.
    pub(crate) fn rebase(&mut self) {
        self.sample();
        self.before = self.last;
        self.max_resident_bytes = self.last.resident_bytes;
    }

    /// CPU time used since the start.
    pub(crate) fn cpu(&self) -> Duration {
        self.last.cpu.saturating_sub(self.before.cpu)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernel_formats_are_read() {
        let stat = "77 (a) b) S 1 2 3 4 5 6 7 8 9 10 150 50 0 0 20 0 1";
        assert_eq!(parse_cpu(stat), Some(Duration::from_secs(2)));
        assert_eq!(parse_cpu("77 (x) S 1 2"), None);
        let status = "Name:\tx\nVmHWM:\t  15 kB\nVmRSS:\t    12 kB\nVmData:\t1 kB\n";
        assert_eq!(parse_memory(status, "VmRSS:"), Some(12 * 1024));
        assert_eq!(parse_memory(status, "VmHWM:"), Some(15 * 1024));
        assert_eq!(parse_memory("Name:\tx\n", "VmRSS:"), None);
    }

    #[test]
    fn this_process_is_found_and_one_that_cannot_be_is_not() {
        assert!(usage(std::process::id()).unwrap().resident_bytes > 0);
        assert!(Watched::start(u32::MAX).is_none());
    }
}

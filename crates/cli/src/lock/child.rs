//! The command that runs while a lock is held.
//!
//! Without a terminal it gets a process group of its own, so that signals reach its
//! children too. On a terminal it stays in this process's group, which is the one that
//! may read the terminal and that Ctrl-C and Ctrl-\ are sent to.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::process::ExitStatus;

use kvorum_client::{Held, Session};
use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use tokio::process::{Child, Command};

use crate::failure::{Exit, Failure};
use crate::signals::{StopSignal, StopSignals};

/// Shells tell of a death by a signal with this and its number.
const KILLED_BY_SIGNAL: i32 = 128;

/// Runs the command to its end, in a process group of its own if `own_group`, and
/// passes its exit code on.
pub(super) async fn run(
    program: &OsStr,
    arguments: &[OsString],
    session: &Session,
    held: &Held,
    own_group: bool,
    stop: &mut StopSignals,
) -> Result<(), Failure> {
    let mut command = Command::new(program);
    command
        .args(arguments)
        .env("KVORUM_LOCK_KEY", OsStr::from_bytes(&held.key))
        .env("KVORUM_LOCK_REVISION", held.revision.to_string())
        .kill_on_drop(true);
    if own_group {
        command.process_group(0);
    }
    let failed = |what: String| Failure::new(Exit::Failed, "command", what);
    let mut child = command
        .spawn()
        .map_err(|error| failed(format!("cannot run {}: {error}", program.to_string_lossy())))?;
    loop {
        tokio::select! {
            biased;
            // First, so that the signal that has just ended the command too is not taken
            // for another one, which would cut the release short.
            signal = stop.next() => {
                if let Some(signal) = passed_to(own_group, signal) {
                    send(&child, own_group, signal);
                }
            }
            status = child.wait() => {
                let status = status.map_err(|error| failed(format!("cannot wait for the command: {error}")))?;
                return passed_on(status);
            }
            error = session.lost() => {
                send(&child, own_group, Signal::KILL);
                // Killed, it ends; that it cannot be waited for changes nothing.
                let _ = child.wait().await;
                return Err(error.into());
            }
        }
    }
}

/// What the command is sent when this process gets a signal.
pub(super) fn passed_to(own_group: bool, signal: StopSignal) -> Option<Signal> {
    match signal {
        // The terminal has sent it to the whole group.
        StopSignal::Interrupt | StopSignal::Quit if !own_group => None,
        StopSignal::Interrupt => Some(Signal::INT),
        StopSignal::Quit => Some(Signal::QUIT),
        StopSignal::Terminate => Some(Signal::TERM),
        StopSignal::Hangup => Some(Signal::HUP),
    }
}

/// Signals the command, which has not been waited for, so that its id is its own.
fn send(child: &Child, own_group: bool, signal: Signal) {
    let Some(pid) = child.id().and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?)) else { return };
    // It may have ended just now, which is what is wanted.
    let _ = if own_group { kill_process_group(pid, signal) } else { kill_process(pid, signal) };
}

fn passed_on(status: ExitStatus) -> Result<(), Failure> {
    let code = status.code().or_else(|| Some(KILLED_BY_SIGNAL + status.signal()?));
    match code.map(u8::try_from) {
        Some(Ok(0)) => Ok(()),
        Some(Ok(code)) => Err(Failure::Quiet(Exit::Command(code))),
        _ => Err(Failure::new(Exit::Failed, "command", format!("the command ended strangely ({status})"))),
    }
}

//! The signals that ask a command to end.

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::failure::{Exit, Failure};

/// Such a signal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StopSignal {
    /// Ctrl-C.
    Interrupt,
    /// Ctrl-\.
    Quit,
    /// What service managers and `kill` send.
    Terminate,
    /// The terminal was closed.
    Hangup,
}

/// Where they come from.
enum Source {
    /// This process is sent them, and no longer ended by them.
    Process { interrupt: Signal, quit: Signal, terminate: Signal, hangup: Signal },
    /// A test says so: a real one would reach all tests of the process.
    #[cfg(test)]
    Script(tokio::sync::mpsc::Receiver<StopSignal>),
}

/// The signals, one after the other.
pub(crate) struct StopSignals(Source);

impl StopSignals {
    pub(crate) fn new() -> Result<Self, Failure> {
        let listen = |kind| {
            signal(kind).map_err(|error| {
                Failure::new(Exit::Failed, "signals", format!("cannot listen for signals: {error}"))
            })
        };
        Ok(Self(Source::Process {
            interrupt: listen(SignalKind::interrupt())?,
            quit: listen(SignalKind::quit())?,
            terminate: listen(SignalKind::terminate())?,
            hangup: listen(SignalKind::hangup())?,
        }))
    }

    #[cfg(test)]
    pub(crate) fn scripted(signals: tokio::sync::mpsc::Receiver<StopSignal>) -> Self {
        Self(Source::Script(signals))
    }

    /// The next of them.
    ///
    /// # Cancel safety
    /// None is lost if the future is dropped.
    pub(crate) async fn next(&mut self) -> StopSignal {
        match &mut self.0 {
            Source::Process { interrupt, quit, terminate, hangup } => tokio::select! {
                _ = interrupt.recv() => StopSignal::Interrupt,
                _ = quit.recv() => StopSignal::Quit,
                _ = terminate.recv() => StopSignal::Terminate,
                _ = hangup.recv() => StopSignal::Hangup,
            },
            #[cfg(test)]
            Source::Script(signals) => match signals.recv().await {
                Some(signal) => signal,
                None => std::future::pending().await,
            },
        }
    }
}

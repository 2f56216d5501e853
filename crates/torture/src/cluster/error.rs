//! What can go wrong with the harness itself, or with a cluster that must come back.

use std::io;
use std::time::Duration;

/// Why the harness can't go on.
#[derive(Debug, thiserror::Error)]
pub enum HarnessError {
    /// The system refused something.
    #[error("{what}: {error}")]
    Io {
        /// What was tried.
        what: String,
        /// The system's reason.
        error: io::Error,
    },
    /// A program or a node refused something.
    #[error("{0}")]
    Refused(String),
    /// What must come about did not.
    #[error("not within {waited:?}: {goal}; {seen}")]
    TooLate {
        /// How long it was waited for.
        waited: Duration,
        /// What must come about.
        goal: String,
        /// What was seen last.
        seen: String,
    },
}

impl HarnessError {
    /// For `map_err`: says what was tried.
    pub(crate) fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |error| Self::Io { what, error }
    }
}

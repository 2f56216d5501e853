//! Why a call did not give what was asked for.
//!
//! The variants answer the caller's next question: is it worth trying again, and
//! may the write have happened? Only [`Error::OutcomeUnknown`] leaves the second
//! one open.

use serde::Deserialize;
use serde_json::{Map, Value};

/// Why a call failed.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum Error {
    /// The call makes no sense, and nothing was sent.
    #[error("{0}")]
    InvalidInput(String),
    /// The write's condition did not hold; nothing was changed.
    #[error("{message}")]
    ConditionFailed {
        /// The key's modification revision; zero if absent.
        mod_revision: i64,
        /// The store's revision at that time.
        revision: i64,
        /// The cluster's words.
        message: String,
    },
    /// The cluster refused the call for a reason that a retry does not mend.
    #[error("{message}")]
    Api {
        /// The HTTP status.
        status: u16,
        /// The stable code, such as `unauthorized` or `compacted`.
        code: String,
        /// What was wrong and what to do.
        message: String,
        /// Values that belong to the code.
        details: Map<String, Value>,
    },
    /// The cluster cannot serve the call now: no leader, no majority, or
    /// overload. It was not carried out.
    #[error("{message}")]
    Unavailable {
        /// The last node's words.
        message: String,
    },
    /// No endpoint could be reached. The call was not carried out.
    #[error("{message}")]
    Transport {
        /// Each endpoint and what kept it from answering.
        message: String,
    },
    /// A read was not answered in time, or an operation of the cluster goes on
    /// beyond the time limit (its progress is in `details`).
    #[error("{message}")]
    Timeout {
        /// What was waited for.
        message: String,
        /// Values that belong to it.
        details: Map<String, Value>,
    },
    /// A write was sent, and whether it takes effect cannot be known. Read the
    /// key, or repeat the write with an idempotency key.
    #[error("{message}")]
    OutcomeUnknown {
        /// What happened to the request.
        message: String,
    },
    /// A batch ended midway: what was completed stays.
    #[error("{cause}")]
    BatchStopped {
        /// How many operations, from the first one on, were certainly carried out.
        completed: u64,
        /// Why it ended. With `OutcomeUnknown` some of the operations that follow
        /// may have been carried out too, with anything else certainly none.
        cause: Box<Error>,
    },
    /// The lease has ended, or could not be renewed for as long as it lives: what
    /// rested on it may belong to someone else by now.
    #[error("{message}")]
    LeaseLost {
        /// What is known about it.
        message: String,
    },
    /// The endpoint answers, but not as Kvorum does.
    #[error("{endpoint} does not answer as a Kvorum node does: {message}")]
    Protocol {
        /// The endpoint.
        endpoint: String,
        /// What was wrong with the answer.
        message: String,
    },
}

impl Error {
    /// A stable machine-readable code: the cluster's own, or one of
    /// `invalid_input`, `unreachable`, `lease_lost` and `protocol` for what the
    /// client found.
    pub fn code(&self) -> &str {
        match self {
            Self::InvalidInput(_) => "invalid_input",
            Self::ConditionFailed { .. } => "condition_failed",
            Self::Api { code, .. } => code,
            Self::Unavailable { .. } => "unavailable",
            Self::Transport { .. } => "unreachable",
            Self::Timeout { .. } => "timeout",
            Self::OutcomeUnknown { .. } => "outcome_unknown",
            Self::BatchStopped { cause, .. } => cause.code(),
            Self::LeaseLost { .. } => "lease_lost",
            Self::Protocol { .. } => "protocol",
        }
    }
}

/// The body of every answer of the API that is not 2xx.
#[derive(Debug, Deserialize)]
pub(crate) struct ErrorBody {
    pub(crate) error: ErrorParts,
}

#[derive(Debug, Deserialize)]
pub(crate) struct ErrorParts {
    pub(crate) code: String,
    pub(crate) message: String,
    #[serde(default)]
    pub(crate) details: Map<String, Value>,
}

impl ErrorParts {
    pub(crate) fn integer(&self, name: &str) -> i64 {
        self.details.get(name).and_then(Value::as_i64).unwrap_or_default()
    }
}

/// The error of an answer that does not mean anything.
pub(crate) fn strange(endpoint: &str, message: impl Into<String>) -> Error {
    Error::Protocol { endpoint: endpoint.to_owned(), message: message.into() }
}

/// The innermost cause, which is the part of a transport error that tells a
/// person something ("Connection refused").
pub(crate) fn root_cause(error: &(dyn std::error::Error + 'static)) -> String {
    let mut cause = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    cause.to_string()
}

//! How a command fails: its exit code and what it says.

use std::io::{self, Write};

use kvorum_client::Error;
use serde_json::{Map, Value, json};

use crate::args::Format;

/// The exit codes, which scripts rely on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    Done,
    Failed,
    Usage,
    NotFound,
    ConditionFailed,
    Unavailable,
    LeaseLost,
    /// Whoever read the output has gone.
    BrokenPipe,
    /// That of a command which was run.
    Command(u8),
}

impl Exit {
    pub(crate) fn code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Failed => 1,
            Self::Usage => 2,
            Self::NotFound => 3,
            Self::ConditionFailed => 4,
            Self::Unavailable => 5,
            Self::LeaseLost => 6,
            // As shells tell of programs that SIGPIPE has ended.
            Self::BrokenPipe => 141,
            Self::Command(code) => code,
        }
    }
}

/// Why a command did not do what was asked.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The exit code says it all.
    Quiet(Exit),
    /// Something to tell the user.
    Report(Box<Report>),
}

/// What is told.
#[derive(Debug)]
pub(crate) struct Report {
    pub(crate) exit: Exit,
    pub(crate) code: String,
    pub(crate) message: String,
    pub(crate) hint: Option<String>,
    pub(crate) details: Map<String, Value>,
}

impl Failure {
    pub(crate) fn new(exit: Exit, code: &str, message: impl Into<String>) -> Self {
        Self::Report(Box::new(Report {
            exit,
            code: code.to_owned(),
            message: message.into(),
            hint: None,
            details: Map::new(),
        }))
    }

    /// The same failure, with what to do about it.
    #[must_use]
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        if let Self::Report(report) = &mut self {
            report.hint = Some(hint.into());
        }
        self
    }

    /// The same failure of a longer undertaking: how far that has come is told
    /// after its message, and in its details.
    #[must_use]
    pub(crate) fn after(mut self, told: &str, details: impl IntoIterator<Item = (String, Value)>) -> Self {
        if let Self::Report(report) = &mut self {
            report.message = format!("{}; {told}", report.message);
            report.details.extend(details);
        }
        self
    }

    /// The same failure, of one endpoint out of several.
    #[must_use]
    pub(crate) fn at(mut self, endpoint: &str) -> Self {
        if let Self::Report(report) = &mut self {
            // What is said about connections names it already.
            if !report.message.contains(endpoint) {
                report.message = format!("{endpoint}: {}", report.message);
            }
            report.details.insert("endpoint".to_owned(), endpoint.into());
        }
        self
    }

    /// The process's exit code.
    pub(crate) fn exit(&self) -> Exit {
        match self {
            Self::Quiet(exit) => *exit,
            Self::Report(report) => report.exit,
        }
    }

    /// Says what went wrong, in the form that the user chose.
    pub(crate) fn print(&self, err: &mut dyn Write, format: Format) -> io::Result<()> {
        let Self::Report(report) = self else { return Ok(()) };
        let Report { code, message, hint, details, .. } = report.as_ref();
        match format {
            Format::Json => {
                let mut error = json!({ "code": code, "message": message, "details": details });
                if let (Some(hint), Some(error)) = (hint, error.as_object_mut()) {
                    error.insert("hint".to_owned(), hint.as_str().into());
                }
                writeln!(err, "{}", json!({ "error": error }))
            }
            Format::Text | Format::Table => {
                writeln!(err, "error: {message}")?;
                hint.iter().try_for_each(|hint| writeln!(err, "hint: {hint}"))
            }
        }
    }
}

impl From<io::Error> for Failure {
    /// For errors of writing the output; other files name themselves. That its reader
    /// has gone needs no words, but what has not been written is missing.
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe {
            return Self::Quiet(Exit::BrokenPipe);
        }
        Self::new(Exit::Failed, "output", format!("cannot write the output: {error}"))
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        // Of the part that a batch completed, the command itself tells.
        let error = if let Error::BatchStopped { cause, .. } = error { *cause } else { error };
        let (exit, hint) = match &error {
            Error::InvalidInput(_) => (Exit::Usage, None),
            Error::ConditionFailed { .. } => {
                (Exit::ConditionFailed, Some("read the key again and decide by its current revision"))
            }
            Error::Unavailable { .. } => {
                (Exit::Unavailable, Some("see `kvorum status`; a majority of the nodes must be running"))
            }
            Error::Transport { .. } => (
                Exit::Unavailable,
                Some(
                    "is the cluster running? `kvorum local` starts one; name other nodes with --endpoints or KVORUM_ENDPOINTS",
                ),
            ),
            Error::Timeout { .. } => (Exit::Unavailable, Some("give it more time with --timeout")),
            Error::OutcomeUnknown { .. } => (
                Exit::Unavailable,
                Some(
                    "look before you repeat it; with --idempotency-key, put, del and txn can be repeated safely",
                ),
            ),
            Error::Api { code, .. } => match code.as_str() {
                "not_found" | "lease_not_found" | "key_not_found" => (Exit::NotFound, None),
                "unauthorized" => (
                    Exit::Failed,
                    Some("pass the cluster's secret with --cluster-secret-file or KVORUM_CLUSTER_SECRET"),
                ),
                "membership_change_in_progress" => {
                    (Exit::Failed, Some("wait until it has ended, then repeat"))
                }
                "idempotency_mismatch" => (Exit::Failed, Some("use a new --idempotency-key for each write")),
                "answer_lost" => (
                    Exit::Failed,
                    Some("it was carried out, only its answer is missing: read the keys, do not repeat it"),
                ),
                _ => (Exit::Failed, None),
            },
            Error::LeaseLost { .. } => (
                Exit::LeaseLost,
                Some("someone else may hold it by now; see `kvorum status`, and give --ttl more time"),
            ),
            Error::BatchStopped { .. } | Error::Protocol { .. } => {
                (Exit::Failed, Some("check --endpoints: is another service listening there?"))
            }
        };
        let mut failure = Self::new(exit, error.code(), error.to_string());
        if let Some(hint) = hint {
            failure = failure.hint(hint);
        }
        if let Self::Report(report) = &mut failure {
            report.details = details(error);
        }
        failure
    }
}

fn details(error: Error) -> Map<String, Value> {
    match error {
        Error::Api { details, .. } | Error::Timeout { details, .. } => details,
        Error::ConditionFailed { mod_revision, revision, .. } => {
            let pairs = [("mod_revision", mod_revision), ("revision", revision)];
            pairs.into_iter().map(|(name, value)| (name.to_owned(), value.into())).collect()
        }
        Error::InvalidInput(_)
        | Error::Unavailable { .. }
        | Error::Transport { .. }
        | Error::OutcomeUnknown { .. }
        | Error::BatchStopped { .. }
        | Error::LeaseLost { .. }
        | Error::Protocol { .. } => Map::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn api(code: &str) -> Error {
        Error::Api { status: 400, code: code.to_owned(), message: "m".to_owned(), details: Map::new() }
    }

    fn message() -> String {
        "m".to_owned()
    }

    #[test]
    fn every_error_has_its_documented_exit_code() {
        let condition = Error::ConditionFailed { mod_revision: 4, revision: 9, message: message() };
        let cases = [
            (Error::InvalidInput(message()), Exit::Usage),
            (condition, Exit::ConditionFailed),
            (api("not_found"), Exit::NotFound),
            (api("lease_not_found"), Exit::NotFound),
            (api("unauthorized"), Exit::Failed),
            (api("compacted"), Exit::Failed),
            (api("answer_lost"), Exit::Failed),
            (Error::Unavailable { message: message() }, Exit::Unavailable),
            (Error::Transport { message: message() }, Exit::Unavailable),
            (Error::Timeout { message: message(), details: Map::new() }, Exit::Unavailable),
            (Error::OutcomeUnknown { message: message() }, Exit::Unavailable),
            (Error::LeaseLost { message: message() }, Exit::LeaseLost),
            (
                Error::BatchStopped {
                    completed: 4,
                    cause: Box::new(Error::OutcomeUnknown { message: message() }),
                },
                Exit::Unavailable,
            ),
            (Error::Protocol { endpoint: message(), message: message() }, Exit::Failed),
        ];
        for (error, exit) in cases {
            let shown = format!("{error:?}");
            assert_eq!(Failure::from(error).exit(), exit, "{shown}");
        }
        let exits = [
            Exit::Done,
            Exit::Failed,
            Exit::Usage,
            Exit::NotFound,
            Exit::ConditionFailed,
            Exit::Unavailable,
            Exit::LeaseLost,
            Exit::BrokenPipe,
            Exit::Command(77),
        ];
        assert_eq!(exits.map(Exit::code), [0, 1, 2, 3, 4, 5, 6, 141, 77]);
    }

    #[test]
    fn errors_are_text_or_json_as_chosen() {
        let failure =
            || Failure::from(Error::ConditionFailed { mod_revision: 4, revision: 9, message: message() });
        let mut text = Vec::new();
        failure().print(&mut text, Format::Text).unwrap();
        let text = String::from_utf8(text).unwrap();
        assert!(text.starts_with("error: m\nhint: "), "{text}");
        let mut out = Vec::new();
        failure().print(&mut out, Format::Json).unwrap();
        let json: Value = serde_json::from_slice(&out).unwrap();
        assert_eq!(json["error"]["code"], "condition_failed");
        assert_eq!(json["error"]["details"], json!({ "mod_revision": 4, "revision": 9 }));
    }

    #[test]
    fn a_write_whose_answer_is_lost_is_said_to_be_carried_out() {
        let mut text = Vec::new();
        Failure::from(api("answer_lost")).print(&mut text, Format::Text).unwrap();
        let text = String::from_utf8(text).unwrap();
        assert!(text.starts_with("error: m\nhint: it was carried out"), "{text}");
    }

    #[test]
    fn the_endpoint_of_a_failure_is_named_once() {
        let cases = [("m", "error: a:1: m\n"), ("nothing from a:1", "error: nothing from a:1\n")];
        for (said, shown) in cases {
            let failure = || Failure::new(Exit::Failed, "c", said).at("a:1");
            let mut text = Vec::new();
            failure().print(&mut text, Format::Text).unwrap();
            assert_eq!(String::from_utf8(text).unwrap(), shown);
            let mut out = Vec::new();
            failure().print(&mut out, Format::Json).unwrap();
            let json: Value = serde_json::from_slice(&out).unwrap();
            assert_eq!(json["error"]["details"], json!({ "endpoint": "a:1" }));
        }
    }

    #[test]
    fn a_closed_pipe_ends_a_command_without_a_word() {
        let failure = Failure::from(io::Error::from(io::ErrorKind::BrokenPipe));
        let mut said = Vec::new();
        failure.print(&mut said, Format::Text).unwrap();
        assert_eq!((failure.exit(), said.len()), (Exit::BrokenPipe, 0));
    }
}

//! Where log lines go: standard error, as text or as JSON.
//!
//! Logging never stops the node: when nobody reads standard error any more, lines
//! are lost and nothing else happens.

use std::io::{self, IsTerminal};

use tracing_subscriber::EnvFilter;
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};

use crate::config::LogFormat;

/// Why logging could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The filter does not parse.
    #[error("log_filter is {filter:?}: {source}")]
    Filter {
        /// The filter.
        filter: String,
        /// What is wrong with it.
        source: tracing_subscriber::filter::ParseError,
    },
    /// The process logs elsewhere already.
    #[error("logging is already set up: {0}")]
    AlreadySet(#[from] TryInitError),
}

/// Sends the process's log lines to standard error from here on.
///
/// Text is coloured on a terminal only, and not when `NO_COLOR` is set.
///
/// # Errors
/// If `filter` does not parse, or if logging is already set up.
pub fn init(format: LogFormat, filter: &str) -> Result<(), TelemetryError> {
    let parsed = EnvFilter::builder().parse(filter);
    let parsed = parsed.map_err(|source| TelemetryError::Filter { filter: filter.to_owned(), source })?;
    let colour =
        io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let lines = tracing_subscriber::fmt()
        .with_env_filter(parsed)
        .with_writer(io::stderr)
        .with_ansi(colour && format == LogFormat::Text)
        // It would report a failed write to standard error with `eprintln!`, which panics when that fails too.
        .log_internal_errors(false);
    match format {
        LogFormat::Text => lines.finish().try_init()?,
        LogFormat::Json => lines.json().flatten_event(true).finish().try_init()?,
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::process::{Child, Command, Stdio};

    use super::*;

    const FORMAT: &str = "TELEMETRY_TEST_FORMAT";

    /// Starts [`log_in_child`] alone in a process of its own, since a process sets logging up once.
    fn child(format: &str) -> Child {
        Command::new(std::env::current_exe().expect("the test binary has a path"))
            .args(["--exact", "--ignored", "--nocapture", "telemetry::tests::log_in_child"])
            .env(FORMAT, format)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the test binary starts")
    }

    fn logged(format: &str) -> String {
        let mut child = child(format);
        drop(child.stdin.take());
        let mut lines = String::new();
        child.stderr.take().expect("piped").read_to_string(&mut lines).expect("UTF-8");
        assert!(child.wait().expect("the child ends").success(), "{lines}");
        lines
    }

    #[test]
    #[ignore = "runs as the child of the other tests"]
    fn log_in_child() {
        let format = match std::env::var(FORMAT).as_deref() {
            Ok("json") => LogFormat::Json,
            _ => LogFormat::Text,
        };
        // The parent has closed its end of standard error once standard input ends.
        io::stdin().read_to_end(&mut Vec::new()).expect("standard input ends");
        init(format, "info").expect("logging is set up");
        for number in 0..100 {
            tracing::info!(number, "a \"quoted\" event");
        }
        tracing::debug!("filtered out");
    }

    #[test]
    fn closed_standard_error_loses_lines_and_nothing_else() {
        for format in ["text", "json"] {
            let mut child = child(format);
            drop(child.stderr.take());
            drop(child.stdin.take());
            assert!(child.wait().expect("the child ends").success(), "{format}");
        }
    }

    #[test]
    fn json_lines_are_objects() {
        let lines = logged("json");
        assert_eq!(lines.lines().count(), 100, "{lines}");
        for (number, line) in lines.lines().enumerate() {
            let event: serde_json::Value = serde_json::from_str(line).expect(line);
            assert_eq!(event["message"], "a \"quoted\" event");
            assert_eq!((&event["level"], &event["number"]), (&"INFO".into(), &number.into()));
        }
    }

    #[test]
    fn text_off_a_terminal_has_no_colours() {
        let lines = logged("text");
        assert!(lines.contains("a \"quoted\" event number=7") && !lines.contains('\u{1b}'), "{lines}");
    }

    #[test]
    fn unknown_level_is_refused() {
        let error = init(LogFormat::Text, "kvorum=loud").expect_err("no such level");
        assert!(error.to_string().starts_with("log_filter is \"kvorum=loud\""), "{error}");
    }
}

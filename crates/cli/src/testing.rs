//! Runs commands as a user would and captures what they print.

use std::io::{self, Write};

use clap::Parser as _;
use kvorum_scripted::Scripted;

use crate::Command;
use crate::failure::{Exit, Failure};
use crate::output::Io;

/// A command line of the client commands alone.
#[derive(Debug, clap::Parser)]
#[command(name = "kvorum")]
pub(crate) struct Root {
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Parses a command line.
pub(crate) fn parse(line: &[&str]) -> Result<Command, clap::Error> {
    let words = std::iter::once("kvorum").chain(line.iter().copied());
    Root::try_parse_from(words).map(|root| root.command)
}

/// Streams that keep what is written.
#[derive(Debug, Default)]
pub(crate) struct Captured {
    pub(crate) input: io::Cursor<Vec<u8>>,
    pub(crate) out: Vec<u8>,
    pub(crate) err: Vec<u8>,
    pub(crate) in_is_terminal: bool,
    pub(crate) out_is_terminal: bool,
}

impl Captured {
    pub(crate) fn io(&mut self) -> Io<'_> {
        Io {
            input: &mut self.input,
            out: &mut self.out,
            err: &mut self.err,
            in_is_terminal: self.in_is_terminal,
            out_is_terminal: self.out_is_terminal,
            err_is_terminal: false,
        }
    }

    pub(crate) fn out(&self) -> &str {
        std::str::from_utf8(&self.out).unwrap()
    }

    pub(crate) fn err(&self) -> &str {
        std::str::from_utf8(&self.err).unwrap()
    }

    /// Runs a command line against `node`.
    pub(crate) async fn run(&mut self, node: &Scripted, line: &[&str]) -> Exit {
        let line: Vec<_> = line.iter().copied().chain(["--endpoints", node.addr()]).collect();
        let command = parse(&line).unwrap();
        crate::run_with(command, clap::Command::default, &mut self.io()).await
    }
}

/// A pipe whose reader has gone.
pub(crate) struct ClosedPipe;

impl Write for ClosedPipe {
    fn write(&mut self, _: &[u8]) -> io::Result<usize> {
        Err(io::ErrorKind::BrokenPipe.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The report of a failure that is one.
pub(crate) fn message(failure: &Failure) -> &str {
    match failure {
        Failure::Quiet(_) => "",
        Failure::Report(report) => &report.message,
    }
}

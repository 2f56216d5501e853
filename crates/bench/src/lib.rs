//! The load generator of Kvorum, `kvorum bench`.
//!
//! Closed-loop clients over HTTP/1.1 or gRPC: each asks, waits for the answer, checks
//! it and asks again. Failures are counted and the run goes on, so that it can
//! measure how long writes stop while a leader fails. It shares the machine
//! with the servers it measures and is therefore built to use little of it;
//! `http1` and `grpc` say what that cost and brought. It knows the servers by
//! their public interfaces only: Kvorum's over HTTP, and etcd's, which any other
//! server of it may answer just as well.

mod client;
mod exchange;
mod grpc;
mod http1;
mod over_grpc;
mod over_http;
mod plan;
mod process;
mod report;
mod route;
mod run;
mod scenario;
mod stats;
mod workload;

use std::io::{self, Write as _};

use crate::plan::Plan;
use crate::report::Report;
use crate::run::{Outcome, RunError};
use crate::scenario::ScenarioError;

pub use crate::plan::{Api, Args, Output};
pub use crate::scenario::Scenario;
pub use crate::workload::Workload;

const DONE: u8 = 0;
const FAILED: u8 = 1;
const USAGE: u8 = 2;
const UNAVAILABLE: u8 = 5;

/// Runs the load that the options describe and prints the report.
///
/// Gives the exit code: 0 when the run ended as planned (refused and broken
/// operations are in the report and are no failure of the run), 1 when a server
/// gave a wrong answer or the report could not be written, 2 for options that
/// make no sense, 5 when no operation succeeded or the run was given up.
pub async fn run(mut args: Args) -> u8 {
    if let Some(scenario) = args.scenario.take() {
        return run_scenario(&scenario).await;
    }
    let output = args.output;
    let plan = match Plan::new(args) {
        Ok(plan) => plan,
        Err(error) => {
            eprintln!("error: {error}");
            return USAGE;
        }
    };
    match run::carry_out(plan).await {
        Ok(outcome) => match publish(&outcome, output) {
            Ok(()) => exit_code(&outcome),
            Err(error) => {
                eprintln!("error: the report cannot be written: {error}");
                FAILED
            }
        },
        Err(error) => {
            eprintln!("error: {error}");
            match error {
                RunError::NoLeader(_) => UNAVAILABLE,
                RunError::NoProcess(_) => USAGE,
                RunError::Threads(_) | RunError::ThreadLost => FAILED,
            }
        }
    }
}

async fn run_scenario(scenario: &Scenario) -> u8 {
    let figures = match scenario.carry_out().await {
        Ok(figures) => figures,
        Err(error) => {
            eprintln!("error: {error}");
            return match error {
                ScenarioError::Invalid(_) | ScenarioError::Run(RunError::NoProcess(_)) => USAGE,
                ScenarioError::Wrong(_)
                | ScenarioError::Memory(_)
                | ScenarioError::Run(_)
                | ScenarioError::TaskLost => FAILED,
                ScenarioError::Connect { .. }
                | ScenarioError::Stream(_)
                | ScenarioError::Call(_)
                | ScenarioError::TooLate(_) => UNAVAILABLE,
            };
        }
    };
    let text = match scenario.output() {
        Output::Text => figures.text().map_err(io::Error::other),
        Output::Json => serde_json::to_string_pretty(&figures.json()).map_err(Into::into),
    };
    match text.and_then(print) {
        Ok(()) => DONE,
        Err(error) => {
            eprintln!("error: the figures cannot be written: {error}");
            FAILED
        }
    }
}

fn print(mut text: String) -> io::Result<()> {
    if !text.ends_with('\n') {
        text.push('\n');
    }
    io::stdout().lock().write_all(text.as_bytes())
}

fn exit_code(outcome: &Outcome) -> u8 {
    if outcome.stats.wrong > 0 {
        FAILED
    } else if outcome.gave_up || outcome.stats.operations() == 0 {
        UNAVAILABLE
    } else {
        DONE
    }
}

fn publish(outcome: &Outcome, output: Output) -> io::Result<()> {
    if let Some(path) = &outcome.plan.timeline {
        report::write_timeline(path, &outcome.stats.slots)?;
    }
    let report = Report::new(outcome);
    print(match output {
        Output::Text => report.text().map_err(io::Error::other)?,
        Output::Json => serde_json::to_string_pretty(&report)?,
    })
}

#[cfg(test)]
mod tests;

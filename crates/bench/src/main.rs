//! The load generator as a program of its own; the same as `kvorum bench`.

use std::process::ExitCode;

use clap::Parser;

/// Load generator for Kvorum.
#[derive(Parser)]
#[command(name = "kvorum-bench", version)]
struct Cli {
    #[command(flatten)]
    args: kvorum_bench::Args,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    ExitCode::from(kvorum_bench::run(Cli::parse().args).await)
}

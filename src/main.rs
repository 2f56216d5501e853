//! The `kvorum` binary: flags → configuration → telemetry → start → wait.

use std::process::ExitCode;

use clap::{CommandFactory as _, Parser};
use kvorum::config::{Config, ServeArgs};
use kvorum::store::{exit_at_once, exit_on_failure};
use kvorum::{Node, start_node, telemetry};
use tokio::signal::unix::{Signal, SignalKind, signal};

#[cfg(feature = "jemalloc")]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// The command failed.
const FAILED: u8 = 1;
/// The command line or the configuration is wrong.
const USAGE: u8 = 2;

/// Kvorum: a strongly consistent, replicated key-value store
#[derive(Parser)]
#[command(name = "kvorum", version, arg_required_else_help = true)]
#[command(after_help = "Start with `kvorum local`: three nodes on this machine, ready to try.")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    /// Run one node in the foreground
    Serve(Box<ServeArgs>),
    /// Measure a cluster: drive it with closed-loop clients
    Bench(Box<kvorum_bench::Args>),
    #[command(flatten)]
    Client(kvorum_cli::Command),
}

fn main() -> ExitCode {
    // Clap ends the process by itself, with 2 for wrong usage and 0 for --help.
    match Cli::parse().command {
        Command::Serve(args) => serve(*args),
        Command::Bench(args) => run(kvorum_bench::run(*args)),
        Command::Client(command) => run(kvorum_cli::run(command, Cli::command)),
    }
}

/// Runs a command that only talks to nodes.
fn run(command: impl Future<Output = u8>) -> ExitCode {
    match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => ExitCode::from(runtime.block_on(command)),
        Err(error) => fail(FAILED, &error),
    }
}

fn serve(args: ServeArgs) -> ExitCode {
    if args.print_config {
        return match Config::print(args) {
            Ok(text) => print(&text),
            Err(error) => fail(USAGE, &error),
        };
    }
    let config = match Config::load(args) {
        Ok(config) => config,
        Err(error) => return fail(USAGE, &error),
    };
    if let Err(error) = telemetry::init(config.log_format, &config.log_filter) {
        return fail(USAGE, &error);
    }
    kvorum::mutants::announce();
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(FAILED, &error),
    };
    runtime.block_on(async {
        // Before the start, which may take long: whoever asks for the end then gets it, too.
        let mut signals = match StopSignals::listen() {
            Ok(signals) => signals,
            Err(error) => return fail(FAILED, &error),
        };
        let starting = {
            let config = config.clone();
            tokio::task::spawn_blocking(move || start_node(&config, exit_on_failure()))
        };
        let started = tokio::select! {
            started = starting => started,
            () = signals.received() => {
                tracing::info!("stopped while starting");
                // What is on disk is what a crash leaves, which every start can take up.
                exit_at_once(0);
            }
        };
        match started {
            Ok(Ok(node)) => wait_and_stop(node, &config, signals).await,
            Ok(Err(error)) => {
                tracing::error!("{error}");
                exit_at_once(FAILED)
            }
            Err(error) => fail(FAILED, &error),
        }
    })
}

/// The signals by which an operator ends a node.
struct StopSignals {
    terminate: Signal,
    interrupt: Signal,
}

impl StopSignals {
    fn listen() -> std::io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    async fn received(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// Ends the process at once even where all has stopped in order: threads of the runtime
/// that are not waited for may still hold a database, which must not be taken down under
/// them.
async fn wait_and_stop(mut node: Node, config: &Config, mut signals: StopSignals) -> ! {
    let failure = tokio::select! {
        () = signals.received() => None,
        reason = node.failed() => Some(reason),
    };
    if let Some(reason) = failure {
        tracing::error!("{reason}");
        // Nothing can be stopped in order any more.
        exit_at_once(FAILED);
    }
    tracing::info!("stopping");
    match tokio::time::timeout(config.shutdown_timeout, node.stop()).await {
        Ok(Ok(())) => tracing::info!("stopped"),
        Ok(Err(error)) => {
            tracing::error!("{error}");
            exit_at_once(FAILED);
        }
        // What is acknowledged is on disk; the next start applies the rest again.
        Err(_) => tracing::warn!("stopped without waiting any longer for what was in flight"),
    }
    exit_at_once(0)
}

fn print(text: &str) -> ExitCode {
    use std::io::Write as _;
    match std::io::stdout().write_all(text.as_bytes()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::from(FAILED),
    }
}

fn fail(code: u8, error: &dyn std::error::Error) -> ExitCode {
    use std::io::Write as _;
    let _ = writeln!(std::io::stderr(), "error: {error}");
    ExitCode::from(code)
}

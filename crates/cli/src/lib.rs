//! The client commands of the `kvorum` binary.
//!
//! Each command parses its arguments, speaks to nodes by [`kvorum_client`] alone, and
//! prints. Results go to standard output, everything else to standard error; exit
//! codes and JSON forms are stable. Nothing here knows what runs inside a node: even
//! `local` starts nodes as processes and speaks to them over HTTP.

mod args;
mod cluster;
mod compact;
mod export;
mod failure;
mod import;
mod kv;
mod lease;
mod local;
mod lock;
mod output;
mod scan;
mod signals;
mod status;
#[cfg(test)]
mod testing;
mod txn;
mod watch;

use std::io::{self, BufWriter, IsTerminal as _};

use args::{Format, help};
use cluster::{InitArgs, LeaderArgs, MemberArgs, SnapshotArgs};
use compact::CompactArgs;
use export::ExportArgs;
use failure::{Exit, Failure};
use import::ImportArgs;
use kv::{DelArgs, GetArgs, PutArgs};
use lease::LeaseArgs;
use local::LocalArgs;
use lock::{ElectArgs, LockArgs};
use output::Io;
use scan::ScanArgs;
use status::StatusArgs;
use txn::TxnArgs;
use watch::WatchArgs;

/// The client subcommands of `kvorum`; flattened into the binary's own enum.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Start a local cluster of several nodes and keep it running
    #[command(after_help = local::HELP)]
    Local(Box<LocalArgs>),
    /// Set a key
    #[command(after_help = kv::PUT_HELP)]
    Put(Box<PutArgs>),
    /// Print a key's value
    #[command(after_help = kv::GET_HELP)]
    Get(Box<GetArgs>),
    /// Delete a key
    #[command(after_help = kv::DEL_HELP)]
    Del(Box<DelArgs>),
    /// List keys and values, all at one revision
    #[command(after_help = scan::HELP)]
    Scan(Box<ScanArgs>),
    /// Compare keys, and read and write several of them as one
    #[command(after_help = txn::HELP)]
    Txn(Box<TxnArgs>),
    /// Tell what happens to keys
    #[command(after_help = watch::HELP)]
    Watch(Box<WatchArgs>),
    /// Grant, renew, show and revoke leases
    #[command(after_help = lease::HELP)]
    Lease(Box<LeaseArgs>),
    /// Hold a lock, while a command runs or until Ctrl-C
    #[command(after_help = lock::LOCK_HELP)]
    Lock(Box<LockArgs>),
    /// Win an election and lead until Ctrl-C, or observe one
    #[command(after_help = lock::ELECT_HELP)]
    Elect(Box<ElectArgs>),
    /// Give up the past below a revision
    #[command(after_help = compact::HELP)]
    Compact(Box<CompactArgs>),
    /// Write all keys and values out as JSON lines
    #[command(after_help = export::HELP)]
    Export(Box<ExportArgs>),
    /// Set keys from JSON lines, or from a snapshot of etcd
    #[command(after_help = import::HELP)]
    Import(Box<ImportArgs>),
    /// Show every node of the cluster and how it is
    #[command(after_help = status::HELP)]
    Status(Box<StatusArgs>),
    /// Show and change the cluster's members
    #[command(after_help = cluster::MEMBER_HELP)]
    Member(Box<MemberArgs>),
    /// Hand leadership over
    #[command(after_help = cluster::LEADER_HELP)]
    Leader(Box<LeaderArgs>),
    /// Build a snapshot on nodes and drop their logs behind it
    #[command(after_help = cluster::SNAPSHOT_HELP)]
    Snapshot(Box<SnapshotArgs>),
    /// Form a cluster of fresh nodes
    #[command(after_help = cluster::INIT_HELP)]
    Init(Box<InitArgs>),
    /// Print a completion script for a shell
    #[command(after_help = COMPLETIONS_HELP)]
    Completions(CompletionsArgs),
}

/// Arguments of `completions`.
#[derive(Debug, clap::Args)]
pub struct CompletionsArgs {
    /// The shell
    #[arg(value_enum)]
    shell: clap_complete::Shell,
}

const COMPLETIONS_HELP: &str = help!(
    "  kvorum completions bash > /etc/bash_completion.d/kvorum
  kvorum completions zsh > ~/.zfunc/_kvorum
  kvorum completions fish > ~/.config/fish/completions/kvorum.fish"
);

impl Command {
    /// The form in which results and errors are printed.
    fn format(&self) -> Format {
        let client = match self {
            Self::Put(args) => &args.client,
            Self::Get(args) => &args.client,
            Self::Del(args) => &args.client,
            Self::Scan(args) => &args.client,
            Self::Txn(args) => &args.client,
            Self::Watch(args) => &args.client,
            Self::Lease(args) => args.client(),
            Self::Lock(args) => &args.client,
            Self::Elect(args) => &args.client,
            Self::Compact(args) => &args.client,
            Self::Export(args) => &args.client,
            Self::Import(args) => &args.client,
            Self::Status(args) => &args.client,
            Self::Member(args) => args.client(),
            Self::Leader(args) => args.client(),
            Self::Snapshot(args) => &args.client,
            Self::Init(args) => &args.client,
            Self::Local(_) | Self::Completions(_) => return Format::Text,
        };
        client.output
    }
}

/// Runs a command on the process's streams and returns the exit code.
///
/// `root` gives the whole command line of the binary, which `completions`
/// describes. Needs a Tokio runtime with I/O and time.
pub async fn run(command: Command, root: impl FnOnce() -> clap::Command) -> u8 {
    let (stdout, mut stderr, mut stdin) = (io::stdout(), io::stderr(), io::stdin());
    let terminals = [stdin.is_terminal(), stdout.is_terminal(), stderr.is_terminal()];
    let [in_is_terminal, out_is_terminal, err_is_terminal] = terminals;
    let mut out = BufWriter::new(stdout);
    let mut io = Io {
        input: &mut stdin,
        out: &mut out,
        err: &mut stderr,
        in_is_terminal,
        out_is_terminal,
        err_is_terminal,
    };
    run_with(command, root, &mut io).await.code()
}

async fn run_with(command: Command, root: impl FnOnce() -> clap::Command, io: &mut Io<'_>) -> Exit {
    let format = command.format();
    let outcome = dispatch(command, root, io).await;
    // What was printed before a failure belongs before the failure's message.
    let flushed = io.out.flush().map_err(Failure::from);
    match outcome.and(flushed) {
        Ok(()) => Exit::Done,
        Err(failure) => {
            // There is nowhere left to say that standard error is gone.
            let _ = failure.print(io.err, format);
            failure.exit()
        }
    }
}

async fn dispatch(
    command: Command,
    root: impl FnOnce() -> clap::Command,
    io: &mut Io<'_>,
) -> Result<(), Failure> {
    match command {
        Command::Local(args) => local::run(*args, io).await,
        Command::Put(args) => kv::put(*args, io).await,
        Command::Get(args) => kv::get(*args, io).await,
        Command::Del(args) => kv::del(*args, io).await,
        Command::Scan(args) => scan::scan(*args, io).await,
        Command::Txn(args) => txn::txn(*args, io).await,
        Command::Watch(args) => watch::watch(*args, io).await,
        Command::Lease(args) => lease::lease(*args, io).await,
        Command::Lock(args) => lock::lock(*args, io).await,
        Command::Elect(args) => lock::elect(*args, io).await,
        Command::Compact(args) => compact::compact(*args, io).await,
        Command::Export(args) => export::export(*args, io).await,
        Command::Import(args) => import::import(*args, io).await,
        Command::Status(args) => status::status(*args, io).await,
        Command::Member(args) => cluster::member(*args, io).await,
        Command::Leader(args) => cluster::leader(*args, io).await,
        Command::Snapshot(args) => cluster::snapshot(*args, io).await,
        Command::Init(args) => cluster::init(*args, io).await,
        Command::Completions(args) => completions(&args, root(), io),
    }
}

fn completions(args: &CompletionsArgs, mut root: clap::Command, io: &mut Io<'_>) -> Result<(), Failure> {
    let name = root.get_name().to_owned();
    // Into memory first: the generator panics where the output cannot be written.
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut root, name, &mut script);
    Ok(io.out.write_all(&script)?)
}

#[cfg(test)]
mod tests;

//! `member`, `leader`, `snapshot` and `init`.

use std::time::{Duration, Instant};

use clap::{Args, Subcommand};
use kvorum_client::{Client, Error, MemberRole};
use serde_json::json;

use crate::args::{ClientArgs, Format, help};
use crate::failure::{Exit, Failure};
use crate::output::{Io, Progress, or_dash};

pub(crate) const MEMBER_HELP: &str = help!(
    "  kvorum member list
  kvorum member add 4 10.0.0.4:21001
  kvorum member promote 4
  kvorum member remove 2

A node joins as a learner, which receives all data and has no vote, and becomes a
voter by being promoted. Change one member at a time."
);
const LIST_HELP: &str = help!("  kvorum member list\n  kvorum member list -o json");
const ADD_HELP: &str = help!(
    "  kvorum serve --id 4 --http-addr 10.0.0.4:21001 --data-dir /var/lib/kvorum   (on the new machine)
  kvorum member add 4 10.0.0.4:21001
  kvorum member promote 4

The command ends when the learner has caught up. If it is interrupted, the learner
goes on; repeat the command to wait again."
);
const PROMOTE_HELP: &str = help!("  kvorum member promote 4");
const REMOVE_HELP: &str = help!("  kvorum member remove 4\n  kvorum member remove 4 --force");
pub(crate) const LEADER_HELP: &str = help!(
    "  kvorum leader transfer      to the member that has caught up best
  kvorum leader transfer 2"
);
const TRANSFER_HELP: &str = help!("  kvorum leader transfer\n  kvorum leader transfer 2");
pub(crate) const SNAPSHOT_HELP: &str = help!(
    "  kvorum snapshot
  kvorum snapshot --endpoints 10.0.0.1:21001,10.0.0.2:21001

A snapshot is built on every node named by --endpoints, one after the other. Nodes
do this by themselves; the command is for doing it now."
);
pub(crate) const INIT_HELP: &str = help!(
    "  kvorum init                                     a cluster of the node at 127.0.0.1:21001 alone
  kvorum init 1=10.0.0.1:21001 2=10.0.0.2:21001 3=10.0.0.3:21001 --endpoints 10.0.0.1:21001

Run it once, for one node. All nodes that are named must be running and fresh."
);

/// Arguments of `member`.
#[derive(Debug, Args)]
pub struct MemberArgs {
    #[command(subcommand)]
    action: MemberAction,
}

#[derive(Debug, Subcommand)]
enum MemberAction {
    /// List the members
    #[command(after_help = LIST_HELP)]
    List {
        #[command(flatten)]
        client: ClientArgs,
    },
    /// Add a node as a learner and wait until it has caught up
    #[command(after_help = ADD_HELP)]
    Add {
        /// The new node's id, never used before in this cluster
        id: u64,
        /// Where the other nodes reach it
        #[arg(value_name = "HOST:PORT")]
        addr: String,
        #[command(flatten)]
        client: ClientArgs,
    },
    /// Make a learner a voter
    #[command(after_help = PROMOTE_HELP)]
    Promote {
        /// The learner's id
        id: u64,
        #[command(flatten)]
        client: ClientArgs,
    },
    /// Take a member out
    #[command(after_help = REMOVE_HELP)]
    Remove {
        /// The member's id
        id: u64,
        /// Even if the cluster would then be at risk
        #[arg(long)]
        force: bool,
        #[command(flatten)]
        client: ClientArgs,
    },
}

impl MemberArgs {
    pub(crate) fn client(&self) -> &ClientArgs {
        match &self.action {
            MemberAction::List { client }
            | MemberAction::Add { client, .. }
            | MemberAction::Promote { client, .. }
            | MemberAction::Remove { client, .. } => client,
        }
    }
}

/// Arguments of `leader`.
#[derive(Debug, Args)]
pub struct LeaderArgs {
    #[command(subcommand)]
    action: LeaderAction,
}

#[derive(Debug, Subcommand)]
enum LeaderAction {
    /// Hand leadership to another voter
    #[command(after_help = TRANSFER_HELP)]
    Transfer {
        /// The new leader's id; the voter that has caught up best unless given
        id: Option<u64>,
        #[command(flatten)]
        client: ClientArgs,
    },
}

impl LeaderArgs {
    pub(crate) fn client(&self) -> &ClientArgs {
        let LeaderAction::Transfer { client, .. } = &self.action;
        client
    }
}

/// Arguments of `snapshot`.
#[derive(Debug, Args)]
pub struct SnapshotArgs {
    #[command(flatten)]
    pub(crate) client: ClientArgs,
}

/// Arguments of `init`.
#[derive(Debug, Args)]
pub struct InitArgs {
    /// The first voters; the node of --endpoints alone unless given
    #[arg(value_name = "ID=HOST:PORT", value_parser = parse_voter)]
    voters: Vec<(u64, String)>,
    #[command(flatten)]
    pub(crate) client: ClientArgs,
}

fn parse_voter(text: &str) -> Result<(u64, String), String> {
    text.split_once('=')
        .filter(|(_, addr)| addr.contains(':'))
        .and_then(|(id, addr)| Some((id.parse().ok()?, addr.to_owned())))
        .ok_or_else(|| "write ID=HOST:PORT, such as 1=10.0.0.1:21001".to_owned())
}

/// Catching up takes as long as copying the data does.
const ADD_TIMEOUT: Duration = Duration::from_secs(300);
const LAG_INTERVAL: Duration = Duration::from_millis(500);

pub(crate) async fn member(args: MemberArgs, io: &mut Io<'_>) -> Result<(), Failure> {
    match args.action {
        MemberAction::List { client } => list(&client, io).await,
        MemberAction::Add { id, addr, client } => {
            add(&client, id, &addr, io).await?;
            let next =
                format!("learner {id} has caught up; make it a voter with `kvorum member promote {id}`");
            done(client.output, &next, &json!({ "id": id, "role": "learner" }), io)
        }
        MemberAction::Promote { id, client } => {
            client.client()?.promote(id).await?;
            done(client.output, &format!("node {id} is a voter"), &json!({ "id": id, "role": "voter" }), io)
        }
        MemberAction::Remove { id, force, client } => {
            client.client()?.remove(id, force).await?;
            done(client.output, &format!("node {id} is no member any more"), &json!({ "removed": id }), io)
        }
    }
}

/// Confirms what was done.
fn done(format: Format, text: &str, json: &serde_json::Value, io: &mut Io<'_>) -> Result<(), Failure> {
    match format {
        Format::Json => io.line(&json.to_string()),
        Format::Text | Format::Table => io.line(text),
    }
}

async fn list(args: &ClientArgs, io: &mut Io<'_>) -> Result<(), Failure> {
    let members = args.client()?.members().await?;
    if args.output == Format::Json {
        let json = serde_json::to_string(&members).expect("plain fields have a JSON form");
        return io.line(&json);
    }
    let rows = members.members.into_iter().map(|member| {
        let role = match member.role {
            MemberRole::Voter => "voter",
            MemberRole::Learner => "learner",
            MemberRole::Unknown => "unknown",
        };
        let yes = |on: bool| if on { "yes" } else { "no" }.to_owned();
        vec![
            member.id.to_string(),
            member.addr,
            role.to_owned(),
            yes(member.leader),
            yes(member.reachable),
            or_dash(member.lag),
        ]
    });
    io.rows(args.output, &["ID", "ADDRESS", "ROLE", "LEADER", "REACHABLE", "LAG"], rows.collect())
}

/// Adds a learner, showing how far behind it is.
async fn add(args: &ClientArgs, id: u64, addr: &str, io: &mut Io<'_>) -> Result<(), Failure> {
    let deadline = Instant::now() + args.timeout_or(ADD_TIMEOUT);
    let client = args.client_within(ADD_TIMEOUT)?;
    let mut progress = Progress::default();
    if io.err_is_terminal {
        progress.stage(io, &format!("adding node {id} at {addr}"));
    }
    let outcome = loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let attempt = client.with_timeout(left);
        let outcome = watched(attempt.add_member(id, addr), &client, id, &mut progress, io).await;
        // Both mean that the cluster goes on; asking again for the same node is
        // how one waits on.
        let goes_on = matches!(outcome, Err(Error::Timeout { .. } | Error::OutcomeUnknown { .. }));
        if !goes_on || deadline.saturating_duration_since(Instant::now()) < LAG_INTERVAL {
            break outcome;
        }
        tokio::time::sleep(LAG_INTERVAL).await;
    };
    progress.clear(io);
    Ok(outcome?)
}

/// Awaits `adding` while showing the learner's lag on a terminal.
async fn watched(
    adding: impl Future<Output = Result<(), Error>>,
    client: &Client,
    id: u64,
    progress: &mut Progress,
    io: &mut Io<'_>,
) -> Result<(), Error> {
    let mut adding = std::pin::pin!(adding);
    if !io.err_is_terminal {
        return adding.await;
    }
    let watching = client.with_timeout(Duration::from_secs(2));
    loop {
        let lag = async {
            tokio::time::sleep(LAG_INTERVAL).await;
            let members = watching.members().await.ok()?;
            members.members.into_iter().find(|member| member.id == id)?.lag
        };
        tokio::select! {
            biased;
            outcome = &mut adding => return outcome,
            lag = lag => {
                if let Some(lag) = lag {
                    progress.detail(io, &format!("{lag} log entries behind"));
                }
            }
        }
    }
}

pub(crate) async fn leader(args: LeaderArgs, io: &mut Io<'_>) -> Result<(), Failure> {
    let LeaderAction::Transfer { id, client } = args.action;
    let leader = client.client()?.transfer_leader(id).await?;
    done(client.output, &format!("node {leader} leads"), &json!({ "leader_id": leader }), io)
}

pub(crate) async fn snapshot(args: SnapshotArgs, io: &mut Io<'_>) -> Result<(), Failure> {
    let client = args.client.client_within(ADD_TIMEOUT)?;
    let mut rows = Vec::new();
    let mut failures = Vec::new();
    for endpoint in client.endpoints() {
        match client.only(endpoint)?.snapshot().await {
            Ok(snapshot) => rows.push((endpoint, snapshot)),
            Err(error) => failures.push((endpoint, error)),
        }
    }
    if args.client.output == Format::Json {
        let snapshots: Vec<_> = rows
            .iter()
            .map(|(endpoint, built)| {
                json!({ "endpoint": endpoint, "snapshot_id": built.snapshot_id, "log_id": built.log_id })
            })
            .collect();
        io.line(&json!({ "snapshots": snapshots }).to_string())?;
    } else if !rows.is_empty() {
        let rows = rows.into_iter().map(|(endpoint, built)| {
            vec![endpoint.to_owned(), or_dash(built.log_id.map(|log_id| log_id.index)), built.snapshot_id]
        });
        io.rows(args.client.output, &["ENDPOINT", "LOG INDEX", "SNAPSHOT"], rows.collect())?;
    }
    // What was printed belongs before what went wrong.
    io.out.flush()?;
    let mut exit = None;
    for (endpoint, error) in failures {
        let failure = Failure::from(error).at(endpoint);
        let _ = failure.print(io.err, args.client.output);
        exit = exit.or(Some(failure.exit()));
    }
    exit.map_or(Ok(()), |exit| Err(Failure::Quiet(exit)))
}

pub(crate) async fn init(args: InitArgs, io: &mut Io<'_>) -> Result<(), Failure> {
    let client = args.client.client()?;
    let mut endpoints = client.endpoints();
    let (Some(endpoint), None) = (endpoints.next(), endpoints.next()) else {
        let message = "a cluster is formed by one node; name exactly that one with --endpoints";
        return Err(Failure::new(Exit::Usage, "invalid_input", message));
    };
    client.init(&args.voters).await?;
    let voters = args.voters.len().max(1);
    let text = format!("a cluster of {voters} {} is formed", if voters == 1 { "voter" } else { "voters" });
    done(args.client.output, &text, &json!({ "endpoint": endpoint, "voters": voters }), io)
}

#[cfg(test)]
mod tests;

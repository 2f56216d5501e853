//! `local`: a whole cluster on this machine, for trying and developing.
//!
//! Nodes are child processes of this one, each an ordinary `serve`. They keep
//! their data in one folder, and running the command again on that folder starts
//! the same cluster again. Nothing is restarted by itself: a node that dies stays
//! down, so that one can see what the others do without it.

mod fleet;
mod formation;
mod plan;

use std::ffi::OsString;
use std::path::PathBuf;

use clap::Args;
use kvorum_client::Client;

use crate::args::{SecretArgs, help};
use crate::failure::{Exit, Failure};
use crate::output::{Io, Progress};
use crate::signals::StopSignals;
use fleet::Fleet;
use plan::Plan;

pub(crate) const HELP: &str = help!(
    "  kvorum local
  kvorum local --nodes 5
  kvorum local --data-dir /tmp/try --base-port 31001
  kvorum local --serve-arg=--log-format --serve-arg=json

Ctrl-C stops all nodes. Their data stays in the data folder: run the command again
to go on with the same cluster, with more --nodes to enlarge it, or delete the
folder to begin anew. A node that dies is not restarted. If this process itself is
killed with SIGKILL, its nodes go on running and must be ended by hand."
);

/// Arguments of `local`.
#[derive(Debug, Args)]
pub struct LocalArgs {
    /// How many nodes to start
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=99))]
    nodes: u16,
    /// Where the nodes keep their data and logs
    #[arg(long, value_name = "DIR", default_value = "./kvorum-data")]
    data_dir: PathBuf,
    /// Node 1 listens on this port of 127.0.0.1, the next ones on the ports that follow
    #[arg(long, value_name = "PORT", default_value_t = 21001, value_parser = clap::value_parser!(u16).range(1..))]
    base_port: u16,
    /// The first gRPC port; takes effect once nodes serve gRPC
    #[arg(long, value_name = "PORT", default_value_t = 2379, hide = true)]
    grpc_base_port: u16,
    /// One more argument for each node's `serve`; repeat it for several
    #[arg(long, value_name = "ARG", allow_hyphen_values = true)]
    serve_arg: Vec<OsString>,
    #[command(flatten)]
    secret: SecretArgs,
}

pub(crate) async fn run(args: LocalArgs, io: &mut Io<'_>) -> Result<(), Failure> {
    let secret = args.secret.read()?;
    let plan = Plan::new(args.nodes, &args.data_dir, args.base_port)?;
    plan.check_ports()?;
    plan.create_folders()?;
    let mut stop = StopSignals::new()?;
    let mut builder = Client::builder().endpoints(plan.addrs());
    if let Some(secret) = &secret {
        builder = builder.cluster_secret(secret);
    }
    let client = builder.build()?;
    let mut progress = Progress::default();
    progress.stage(io, &format!("starting {} in {}", counted(plan.nodes().len()), plan.folder().display()));
    let mut fleet = Fleet::start(&plan, &args.serve_arg, secret.as_deref())?;
    let formed = tokio::select! {
        biased;
        _ = stop.next() => Ok(false),
        (node, status) = fleet.next_exit() => Err(fleet.exited_early(&node, &status)),
        formed = formation::form(&plan, &client, &mut progress, io) => formed.map(|()| true),
    };
    progress.clear(io);
    let outcome = match formed {
        Ok(true) => {
            let greeted = greet(&plan, &fleet, io);
            if greeted.is_ok() { supervise(&mut fleet, &mut stop, io).await } else { greeted }
        }
        Ok(false) => Ok(()),
        Err(failure) => Err(failure),
    };
    if fleet.alive() > 0 {
        let mut progress = Progress::default();
        progress.stage(io, &format!("stopping {}", counted(fleet.alive())));
        fleet.stop(&mut stop).await;
        progress.clear(io);
    }
    outcome
}

/// Waits for the user to end the cluster, telling when a node dies.
async fn supervise(fleet: &mut Fleet, stop: &mut StopSignals, io: &mut Io<'_>) -> Result<(), Failure> {
    while fleet.alive() > 0 {
        let (node, status) = tokio::select! {
            biased;
            _ = stop.next() => return Ok(()),
            exit = fleet.next_exit() => exit,
        };
        let rest = match fleet.alive() {
            0 => "no node is left".to_owned(),
            1 => "1 node goes on".to_owned(),
            left => format!("{} go on", counted(left)),
        };
        let log = node.log().display();
        let line = format!("node {} has ended ({status}), {rest}; its log is {log}", node.id());
        // Supervision goes on even if nobody can be told.
        let _ = writeln!(io.err, "{line}");
    }
    Err(Failure::new(Exit::Failed, "local", "all nodes have ended"))
}

/// Says where everything is and what to try.
fn greet(plan: &Plan, fleet: &Fleet, io: &mut Io<'_>) -> Result<(), Failure> {
    io.line(&format!("A cluster of {} is ready:\n", counted(plan.nodes().len())))?;
    for node in plan.nodes() {
        let pid = fleet.pid(node.id()).map_or_else(String::new, |pid| format!("  pid {pid}"));
        let log = node.log().display();
        io.line(&format!("  node {}  http://{}{pid}  log {log}", node.id(), node.addr()))?;
    }
    let program = std::env::args().next().unwrap_or_else(|| "kvorum".to_owned());
    let (Some(first), Some(last)) = (plan.nodes().first(), plan.nodes().last()) else { return Ok(()) };
    let endpoints = plan.addrs().collect::<Vec<_>>().join(",");
    io.line(&format!(
        "
Try, in another terminal:

  export KVORUM_ENDPOINTS={endpoints}
  {program} put greeting hello
  {program} get greeting
  {program} status
  curl -X PUT --data-binary hello http://{}/v1/kv/greeting
  curl http://{}/v1/kv/greeting

API documentation: http://{}/docs/
Ctrl-C stops the cluster; its data stays in {}.",
        first.addr(),
        last.addr(),
        first.addr(),
        plan.folder().display()
    ))?;
    Ok(io.out.flush()?)
}

fn counted(nodes: usize) -> String {
    format!("{nodes} {}", if nodes == 1 { "node" } else { "nodes" })
}

//! `status`: every node and how it is.
//!
//! The members are what the cluster says they are. Where no node can say (a
//! cluster that is not formed, or no endpoint that answers with members), the
//! endpoints are asked one by one, so that something useful is shown in any case.

use clap::Args;
use futures_util::future::join_all;
use kvorum_client::{Client, Error, Member, MemberRole, Members, NodeRole, NodeStatus};
use serde::Serialize;

use crate::args::{ClientArgs, Format, help};
use crate::failure::{Exit, Failure};
use crate::output::{Io, human_size, or_dash};

pub(crate) const HELP: &str = help!(
    "  kvorum status
  kvorum status --endpoints 10.0.0.1:21001,10.0.0.2:21001
  kvorum status -o json | jq -r '.nodes[] | select(.leader).addr'

The leader is marked with *. LAG is how many log entries a node is behind the
leader. Nodes at the same revision must show the same HASH. The exit code is 5 if
the cluster has no leader."
);

/// Arguments of `status`.
#[derive(Debug, Args)]
pub struct StatusArgs {
    #[command(flatten)]
    pub(crate) client: ClientArgs,
}

/// One line of the table; the names are those of the JSON form.
#[derive(Debug, Default, Serialize)]
struct Node {
    id: Option<u64>,
    addr: String,
    role: String,
    leader: bool,
    reachable: bool,
    term: Option<u64>,
    applied_index: Option<u64>,
    lag: Option<u64>,
    data_bytes: Option<u64>,
    revision: Option<i64>,
    state_hash: Option<String>,
    version: Option<String>,
    error: Option<String>,
}

#[derive(Debug, Serialize)]
struct Overview {
    cluster_id: Option<String>,
    leader_id: Option<u64>,
    nodes: Vec<Node>,
}

pub(crate) async fn status(args: StatusArgs, io: &mut Io<'_>) -> Result<(), Failure> {
    let client = args.client.client()?;
    let overview = match client.members().await {
        Ok(members) if !members.members.is_empty() => from_members(members),
        Ok(_) => from_endpoints(&client).await,
        Err(error @ Error::Transport { .. }) => return Err(error.into()),
        Err(error) => {
            let overview = from_endpoints(&client).await;
            if !overview.nodes.iter().any(|node| node.reachable) {
                return Err(error.into());
            }
            overview
        }
    };
    match args.client.output {
        Format::Json => {
            let json = serde_json::to_string(&overview).expect("plain fields have a JSON form");
            io.line(&json)?;
        }
        form @ (Format::Text | Format::Table) => {
            let header =
                ["ID", "ADDRESS", "ROLE", "TERM", "APPLIED", "LAG", "SIZE", "REVISION", "HASH", "VERSION"];
            io.rows(form, &header, overview.nodes.iter().map(row).collect())?;
            for node in &overview.nodes {
                if let Some(error) = &node.error {
                    let who = node.id.map_or_else(String::new, |id| format!("node {id} at "));
                    io.line(&format!("{who}{} is unreachable: {error}", node.addr))?;
                }
            }
        }
    }
    if overview.leader_id.is_some() {
        return Ok(());
    }
    let fresh = overview.nodes.iter().all(|node| !node.reachable || node.role == "uninitialized");
    Err(if fresh {
        Failure::new(Exit::Unavailable, "uninitialized", "the nodes that answer belong to no cluster yet")
            .hint("form one with `kvorum init`")
    } else {
        Failure::new(Exit::Unavailable, "unavailable", "the cluster has no leader")
            .hint("a majority of the voters must be running and reach each other")
    })
}

fn from_members(members: Members) -> Overview {
    let nodes = members.members.into_iter().map(from_member).collect();
    Overview { cluster_id: members.cluster_id, leader_id: members.leader_id, nodes }
}

fn from_member(member: Member) -> Node {
    let by_membership = match member.role {
        MemberRole::Voter => "voter",
        MemberRole::Learner => "learner",
        MemberRole::Unknown => "unknown",
    };
    let seen = member.status.map(from_status).unwrap_or_default();
    let error = match member.error {
        None if !member.reachable => Some("it does not answer".to_owned()),
        error => error,
    };
    Node {
        id: Some(member.id),
        role: if seen.role.is_empty() { by_membership.to_owned() } else { seen.role },
        addr: member.addr,
        leader: member.leader,
        reachable: member.reachable,
        lag: member.lag,
        error,
        ..seen
    }
}

async fn from_endpoints(client: &Client) -> Overview {
    let endpoints: Vec<_> = client.endpoints().map(str::to_owned).collect();
    let mut overview = Overview { cluster_id: None, leader_id: None, nodes: Vec::new() };
    let answers = endpoints.iter().map(|endpoint| async {
        match client.only(endpoint) {
            Ok(client) => client.status().await,
            Err(error) => Err(error),
        }
    });
    for (addr, answer) in endpoints.iter().zip(join_all(answers).await) {
        let node = match answer {
            Ok(status) => {
                overview.cluster_id = overview.cluster_id.or_else(|| status.cluster_id.clone());
                overview.leader_id = overview.leader_id.or(status.leader_id);
                from_status(status)
            }
            Err(error) => {
                let role = "unknown".to_owned();
                Node { addr: addr.clone(), role, error: Some(error.to_string()), ..Node::default() }
            }
        };
        overview.nodes.push(node);
    }
    overview
}

fn from_status(status: NodeStatus) -> Node {
    let role = match status.role {
        NodeRole::Leader => "leader",
        NodeRole::Follower => "follower",
        NodeRole::Candidate => "candidate",
        NodeRole::Learner => "learner",
        NodeRole::Uninitialized => "uninitialized",
        NodeRole::Unknown => "unknown",
    };
    Node {
        id: Some(status.node_id),
        addr: status.addr,
        role: role.to_owned(),
        leader: status.role == NodeRole::Leader,
        reachable: true,
        term: Some(status.term),
        applied_index: status.applied_index,
        lag: None,
        data_bytes: Some(status.data_bytes),
        revision: Some(status.revision),
        state_hash: status.state_hash,
        version: Some(status.version),
        error: None,
    }
}

fn row(node: &Node) -> Vec<String> {
    let mark = if node.leader { " *" } else { "" };
    vec![
        or_dash(node.id),
        node.addr.clone(),
        format!("{}{mark}", node.role),
        or_dash(node.term),
        or_dash(node.applied_index),
        or_dash(node.lag),
        or_dash(node.data_bytes.map(human_size)),
        or_dash(node.revision),
        or_dash(node.state_hash.as_deref()),
        or_dash(node.version.as_deref()),
    ]
}

#[cfg(test)]
mod tests;

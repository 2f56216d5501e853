//! Makes running nodes a cluster.
//!
//! It looks at what the nodes say and does what is missing, again and again, until
//! nothing is: so it does not matter whether the cluster is new, complete, or was
//! left half formed. Invariant: a node is initialised only if every node says that
//! it belongs to no cluster, so that there are never two.

use std::collections::BTreeSet;
use std::time::Duration;

use futures_util::future::join_all;
use kvorum_client::{Client, Error, MemberRole, Members, NodeRole};

use super::plan::Plan;
use crate::failure::{Exit, Failure};
use crate::output::{Io, Progress};

const FORM_TIMEOUT: Duration = Duration::from_secs(60);
const CALL_TIMEOUT: Duration = Duration::from_secs(5);
const PROBE_TIMEOUT: Duration = Duration::from_secs(1);
const POLL: Duration = Duration::from_millis(100);

/// Waits until all nodes of `plan` run, are voters of one cluster, and are ready.
///
/// # Errors
/// What stands in the way, if it cannot be overcome or takes longer than a minute.
pub(super) async fn form(
    plan: &Plan,
    client: &Client,
    progress: &mut Progress,
    io: &mut Io<'_>,
) -> Result<(), Failure> {
    let mut waiting_for = String::new();
    let steps = async {
        progress.stage(io, "waiting for the nodes to answer");
        for node in plan.nodes() {
            waiting_for = format!("node {} to answer", node.id());
            until(&client.only(node.addr())?, Probe::Health, &mut waiting_for).await;
        }
        let client = initialised(plan, client, progress, io).await?;
        "the cluster to choose a leader".clone_into(&mut waiting_for);
        progress.stage(io, "waiting for the cluster to choose a leader");
        reconcile(plan, &client, progress, &mut waiting_for, io).await?;
        progress.stage(io, "waiting for the nodes to be ready");
        for node in plan.nodes() {
            waiting_for = format!("node {} to be ready", node.id());
            until(&client.only(node.addr())?, Probe::Ready, &mut waiting_for).await;
        }
        Ok(())
    };
    let outcome = tokio::time::timeout(FORM_TIMEOUT, steps).await;
    outcome.unwrap_or_else(|_| {
        let message = format!("the cluster did not form within {FORM_TIMEOUT:?}; waiting for {waiting_for}");
        let folder = plan.folder().display();
        Err(Failure::new(Exit::Unavailable, "timeout", message)
            .hint(format!("the nodes' logs are in {folder}")))
    })
}

#[derive(Debug, Clone, Copy)]
enum Probe {
    Health,
    Ready,
}

/// Asks until the answer is yes. The caller's time limit ends it.
async fn until(client: &Client, probe: Probe, waiting_for: &mut String) {
    let client = client.with_timeout(PROBE_TIMEOUT);
    let awaited = waiting_for.clone();
    loop {
        let answer = match probe {
            Probe::Health => client.health().await,
            Probe::Ready => client.ready().await,
        };
        match answer {
            Ok(()) => return,
            Err(error) => *waiting_for = format!("{awaited} ({error})"),
        }
        tokio::time::sleep(POLL).await;
    }
}

/// A client for the nodes that belong to a cluster. Forms one of the first node
/// alone if none does.
async fn initialised(
    plan: &Plan,
    client: &Client,
    progress: &mut Progress,
    io: &mut Io<'_>,
) -> Result<Client, Failure> {
    let asked = plan.nodes().iter().map(|node| async {
        let status = client.only(node.addr())?.with_timeout(CALL_TIMEOUT).status().await?;
        if status.node_id != node.id() {
            let who = format!(
                "node {} answers at {}, where node {} was to listen",
                status.node_id,
                node.addr(),
                node.id()
            );
            return Err(Failure::new(Exit::Failed, "local", who));
        }
        Ok((node.addr(), status.role != NodeRole::Uninitialized))
    });
    let mut members = Vec::new();
    for answer in join_all(asked).await {
        let (addr, initialised) = answer?;
        members.extend(initialised.then_some(addr));
    }
    if members.is_empty() {
        progress.stage(io, "forming a new cluster");
        let first = plan.nodes().first().map(super::plan::NodePlan::addr).unwrap_or_default();
        match client.only(first)?.with_timeout(CALL_TIMEOUT).init(&[]).await {
            // An unknown outcome shows in what the cluster says next.
            Ok(()) | Err(Error::OutcomeUnknown { .. }) => {}
            Err(Error::Api { code, .. }) if code == "already_initialized" => {}
            Err(error) => return Err(error.into()),
        }
        members.push(first);
    }
    // Nodes outside the cluster cannot speak for it.
    narrowed(client, &members)
}

fn narrowed(client: &Client, addrs: &[&str]) -> Result<Client, Failure> {
    Ok(client.among(addrs.iter().copied())?.with_timeout(CALL_TIMEOUT))
}

/// Adds and promotes what is missing.
async fn reconcile(
    plan: &Plan,
    client: &Client,
    progress: &mut Progress,
    waiting_for: &mut String,
    io: &mut Io<'_>,
) -> Result<(), Failure> {
    loop {
        let step = match client.members().await {
            Ok(members) => {
                check_addresses(plan, &members)?;
                next_step(plan, &members)
            }
            Err(error) => {
                endure(error, waiting_for)?;
                Step::Wait
            }
        };
        let outcome = match step {
            Step::Nothing => return Ok(()),
            Step::Wait => Ok(()),
            Step::Add(id, addr) => {
                *waiting_for = format!("node {id} to join");
                progress.stage(io, &format!("adding node {id}"));
                client.add_member(id, &addr).await
            }
            Step::Vote(voters) => {
                "all nodes to become voters".clone_into(waiting_for);
                progress.stage(io, "making all nodes voters");
                client.change_membership(&voters).await
            }
        };
        match outcome {
            Ok(()) => {}
            Err(error) => endure(error, waiting_for)?,
        }
        tokio::time::sleep(POLL).await;
    }
}

/// Passes over an error that time mends.
fn endure(error: Error, waiting_for: &mut String) -> Result<(), Failure> {
    let passing = match &error {
        Error::Unavailable { .. }
        | Error::Transport { .. }
        | Error::Timeout { .. }
        | Error::OutcomeUnknown { .. } => true,
        Error::Api { status, .. } => *status == 409,
        Error::InvalidInput(_)
        | Error::ConditionFailed { .. }
        | Error::BatchStopped { .. }
        | Error::LeaseLost { .. }
        | Error::Protocol { .. } => false,
    };
    if !passing {
        return Err(error.into());
    }
    let awaited = waiting_for.split(" (").next().unwrap_or_default();
    *waiting_for = format!("{awaited} ({error})");
    Ok(())
}

/// What is missing.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    /// Nothing: all nodes are voters.
    Nothing,
    /// A leader.
    Wait,
    /// A member.
    Add(u64, String),
    /// A vote for some members; all voters there are to be.
    Vote(Vec<u64>),
}

fn next_step(plan: &Plan, members: &Members) -> Step {
    if members.leader_id.is_none() {
        return Step::Wait;
    }
    let known: BTreeSet<_> = members.members.iter().map(|member| member.id).collect();
    if let Some(missing) = plan.nodes().iter().find(|node| !known.contains(&node.id())) {
        return Step::Add(missing.id(), missing.addr().to_owned());
    }
    let voters: BTreeSet<_> = members
        .members
        .iter()
        .filter(|member| member.role == MemberRole::Voter)
        .map(|member| member.id)
        .collect();
    let wanted: BTreeSet<_> = plan.nodes().iter().map(super::plan::NodePlan::id).collect();
    if wanted.is_subset(&voters) {
        return Step::Nothing;
    }
    Step::Vote(voters.union(&wanted).copied().collect())
}

/// Refuses to go on where waiting would be in vain: the cluster in the folder has
/// other ports, or more voters than are started.
fn check_addresses(plan: &Plan, members: &Members) -> Result<(), Failure> {
    for node in plan.nodes() {
        let Some(member) = members.members.iter().find(|member| member.id == node.id()) else { continue };
        if member.addr != node.addr() {
            let message = format!(
                "node {} of the cluster in {} is known to the others at {}, not at {}",
                node.id(),
                plan.folder().display(),
                member.addr,
                node.addr()
            );
            let hint = "use the --base-port with which the cluster was formed, or another --data-dir";
            return Err(Failure::new(Exit::Failed, "local", message).hint(hint));
        }
    }
    let voters = members.members.iter().filter(|member| member.role == MemberRole::Voter);
    let total = voters.clone().count();
    let started = voters.filter(|member| plan.nodes().iter().any(|node| node.id() == member.id)).count();
    if total > 0 && started * 2 <= total {
        let message = format!(
            "the cluster in {} has {total} voters, and only {started} of them are started",
            plan.folder().display()
        );
        let most = members.members.iter().map(|member| member.id).max().unwrap_or_default();
        return Err(
            Failure::new(Exit::Failed, "local", message).hint(format!("start more, with --nodes {most}"))
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests;

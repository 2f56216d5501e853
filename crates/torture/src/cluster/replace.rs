//! A member leaves and a new one with an id of its own and an empty disk comes.
//!
//! It goes on in the background and through other faults: each attempt looks at the
//! members as they are and does what is still to do, until it is done.

use std::fmt;
use std::time::{Duration, Instant};

use serde_json::json;
use tokio::task::JoinHandle;

use super::Cluster;
use super::error::HarnessError;
use super::http::Http;
use super::status::Members;
use crate::history::NodeId;

/// How long a call that changes the members may take.
const CALL_LIMIT: Duration = Duration::from_secs(15);
/// How long to wait before the next attempt.
const RETRY: Duration = Duration::from_millis(300);

/// How one member takes the place of another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// In one step, so that never both vote.
    AtOnce,
    /// First the new one votes, then the old one is removed.
    OneByOne,
}

/// A change that goes on.
#[derive(Debug)]
pub(super) struct Replacement {
    old: NodeId,
    new: NodeId,
    way: Way,
    /// How long the old node runs on after its removal, which it may not hear of.
    linger: Duration,
    attempts: usize,
    running: Option<JoinHandle<Result<(), String>>>,
    next: Instant,
    retire_at: Option<Instant>,
    last_error: String,
}

impl Replacement {
    pub(super) fn old(&self) -> NodeId {
        self.old
    }

    pub(super) fn new_id(&self) -> NodeId {
        self.new
    }

    /// Whether a node is not yet a member because of this.
    pub(super) fn is_joining(&self, id: NodeId) -> bool {
        self.new == id && self.retire_at.is_none()
    }
}

impl fmt::Display for Replacement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "node {} takes the place of node {}, {} attempts: {}",
            self.new, self.old, self.attempts, self.last_error
        )
    }
}

impl Cluster {
    /// Begins to replace a member by a new node; gives the new one's id.
    pub(crate) fn replace(
        &mut self,
        old: NodeId,
        way: Way,
        linger: Duration,
    ) -> Result<NodeId, HarnessError> {
        let new = self.add_node()?;
        self.replacements.push(Replacement {
            old,
            new,
            way,
            linger,
            attempts: 0,
            running: None,
            next: Instant::now(),
            retire_at: None,
            last_error: "not tried yet".to_owned(),
        });
        Ok(new)
    }

    /// Whether a replacement by this new node is still going on.
    pub(crate) fn is_replacing(&self, new: NodeId) -> bool {
        self.replacements.iter().any(|change| change.new == new)
    }

    pub(super) async fn carry_on_replacing(&mut self) -> Result<(), HarnessError> {
        let now = Instant::now();
        let mut changes = std::mem::take(&mut self.replacements);
        for change in &mut changes {
            if change.running.as_ref().is_some_and(JoinHandle::is_finished) {
                self.note_attempt(change).await;
            }
            let is_due = change.retire_at.is_none() && change.running.is_none() && change.next <= now;
            if is_due {
                change.running = self.attempt(change);
            }
        }
        let is_over = |change: &Replacement| change.retire_at.is_some_and(|at| at <= now);
        let (over, going_on): (Vec<_>, Vec<_>) = changes.into_iter().partition(is_over);
        self.replacements = going_on;
        for change in &over {
            if let Some(mut node) = self.nodes.remove(&change.old) {
                self.retired.push((change.old, node.log_path()));
                node.note("removed from the cluster; it ends and its disk is emptied")?;
                node.wipe()?;
                // An end of its own shortly before is a problem all the same.
                if let Some(super::End::Problem(what)) = node.reap()? {
                    self.add_problem(change.old, what);
                }
            }
        }
        if !over.is_empty() {
            self.publish();
        }
        Ok(())
    }

    async fn note_attempt(&self, change: &mut Replacement) {
        let Some(running) = change.running.take() else { return };
        match running.await.unwrap_or_else(|error| Err(error.to_string())) {
            Ok(()) => {
                change.retire_at = Some(Instant::now() + change.linger);
                "it is done".clone_into(&mut change.last_error);
            }
            Err(error) => {
                change.last_error = error;
                change.next = Instant::now() + RETRY;
            }
        }
    }

    /// Tries once more, through one node after the other.
    fn attempt(&self, change: &mut Replacement) -> Option<JoinHandle<Result<(), String>>> {
        change.attempts += 1;
        let stays = |id: NodeId| id != change.old && id != change.new;
        let nodes: Vec<_> =
            self.nodes.values().filter(|node| node.is_responsive() && stays(node.id)).collect();
        let through = nodes.get(change.attempts % nodes.len().max(1))?.direct().to_owned();
        let new_address = self.nodes.get(&change.new)?.advertised().to_owned();
        let (http, old, new, way) = (self.http.clone(), change.old, change.new, change.way);
        Some(tokio::spawn(async move { exchange(&http, &through, old, (new, &new_address), way).await }))
    }
}

async fn exchange(
    http: &Http,
    through: &str,
    old: NodeId,
    (new, new_address): (NodeId, &str),
    way: Way,
) -> Result<(), String> {
    let members = http.get(through, "/v1/members", CALL_LIMIT).await?;
    let members = members.parse::<Members>()?.members;
    let is_voter = |id: NodeId| members.iter().any(|member| member.id == id && member.role == "voter");
    if !is_voter(new) {
        let body = json!([new, new_address]).to_string();
        http.post(through, "/add-learner", body, CALL_LIMIT).await?.ok()?;
    }
    match way {
        Way::AtOnce => {
            let stay = members.iter().filter(|member| member.role == "voter" && member.id != old);
            let mut voters: Vec<_> = stay.map(|member| member.id).collect();
            if !voters.contains(&new) {
                voters.push(new);
            }
            http.post(through, "/change-membership", json!(voters).to_string(), CALL_LIMIT).await?.ok()
        }
        Way::OneByOne => {
            if !is_voter(new) {
                let path = format!("/v1/members/{new}/promote");
                http.post(through, &path, String::new(), CALL_LIMIT).await?.ok()?;
            }
            let path = format!("/v1/members/{old}");
            let answer = http.send("DELETE", through, &path, String::new(), CALL_LIMIT).await?;
            // An attempt before this one may have removed it without our knowing.
            if answer.status == 404 { Ok(()) } else { answer.ok() }
        }
    }
}

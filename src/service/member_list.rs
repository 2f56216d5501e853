//! The members as clients of etcd are told them: with where those reach each one.
//!
//! The membership knows where peers reach a member. Where its clients do, only the
//! member itself knows, and tells with its status. That is remembered here, so
//! that a list needs no answer from anyone once each member has been heard of, and
//! names a member that is down by what it last said. Nothing of it is stored: a
//! member that has not answered since this node started has no address for clients.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use parking_lot::Mutex;

use super::handle::Service;
use super::kv::Consistency;
use super::status::Status;
use crate::error::Error;
use crate::{NodeId, StoredMembership};

/// How long a list waits for members that were never heard of.
const PATIENCE: Duration = Duration::from_millis(300);
/// How long what a member said is taken for granted.
const FRESH: Duration = Duration::from_secs(5);

/// A member, with where it is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterMember {
    /// The member's id.
    pub id: NodeId,
    /// Where peers reach it, `host:port`.
    pub addr: String,
    /// Where clients of etcd reach it, `host:port`; `None` if it was not heard of
    /// since this node started.
    pub client_addr: Option<String>,
    /// Whether it only follows, without a vote.
    pub is_learner: bool,
}

/// Where clients reach members, as these have told.
#[derive(Debug, Default)]
pub(super) struct ClientAddrs {
    members: Mutex<BTreeMap<NodeId, Heard>>,
}

#[derive(Debug, Default)]
struct Heard {
    addr: Option<String>,
    asked: Option<Instant>,
}

impl ClientAddrs {
    /// Remembers what a member told of itself.
    pub(super) fn remember(&self, status: &Status) {
        let addr = client_addr(status);
        self.members.lock().entry(status.node_id).or_default().addr = Some(addr);
    }

    /// Where clients of etcd reach a member, as it last told.
    pub(super) fn known(&self, id: NodeId) -> Option<String> {
        self.members.lock().get(&id).and_then(|heard| heard.addr.clone())
    }

    /// Which of `members` have to be asked now, and whether one of them was never
    /// heard of. They count as asked from here on. What is known of others is
    /// forgotten.
    fn due(&self, members: &[NodeId], now: Instant) -> (Vec<NodeId>, bool) {
        let mut heard = self.members.lock();
        heard.retain(|id, _| members.contains(id));
        let (mut due, mut is_new) = (Vec::new(), false);
        for id in members {
            let heard = heard.entry(*id).or_default();
            if heard.asked.is_none_or(|asked| now.saturating_duration_since(asked) >= FRESH) {
                heard.asked = Some(now);
                is_new |= heard.addr.is_none();
                due.push(*id);
            }
        }
        (due, is_new)
    }
}

/// Where clients of etcd reach the node of `status`: without a listener of their
/// own they are served in JSON beside all others.
fn client_addr(status: &Status) -> String {
    match &status.grpc_addr {
        Some(addr) => addr.clone(),
        None => at_port_of(&status.addr, &status.http_addr),
    }
}

/// The host of `addr` with the port of `other`.
fn at_port_of(addr: &str, other: &str) -> String {
    match (addr.rsplit_once(':'), other.rsplit_once(':')) {
        (Some((host, _)), Some((_, port))) => format!("{host}:{port}"),
        _ => other.to_owned(),
    }
}

impl Service {
    /// All members in the order of their ids, as recent as `consistency` demands.
    ///
    /// # Errors
    /// When no leader confirms in time.
    pub async fn member_list(&self, consistency: Consistency) -> Result<Vec<ClusterMember>, Error> {
        let deadline = tokio::time::Instant::now() + self.inner.options.request_timeout;
        self.wait_for(consistency, deadline).await?;
        let membership = self.view().membership;
        self.hear_of(&membership).await;
        Ok(self.known_members())
    }

    /// All members in the order of their ids, as far as this node has heard of them.
    pub(super) fn known_members(&self) -> Vec<ClusterMember> {
        let membership = self.view().membership;
        let voters: std::collections::BTreeSet<_> = membership.voter_ids().collect();
        let listed = membership.nodes().map(|(id, member)| ClusterMember {
            id: *id,
            addr: member.addr.clone(),
            client_addr: self.inner.client_addrs.known(*id),
            is_learner: !voters.contains(id),
        });
        listed.collect()
    }

    /// Asks members for their status, if it is time to: in the background, unless
    /// one was never heard of.
    async fn hear_of(&self, membership: &StoredMembership) {
        let addrs = &self.inner.client_addrs;
        addrs.remember(&self.status());
        let ids: Vec<_> = membership.nodes().map(|(id, _)| *id).collect();
        let (due, is_new) = addrs.due(&ids, Instant::now());
        let due: Vec<_> = due
            .into_iter()
            .filter(|id| *id != self.node_id())
            .filter_map(|id| Some((id, membership.get_node(&id)?.addr.clone())))
            .collect();
        if due.is_empty() {
            return;
        }
        let service = self.clone();
        let asking = self.inner.runtime.spawn(async move {
            // What they answer is remembered where it arrives.
            join_all(due.iter().map(|(id, addr)| service.status_of(*id, addr))).await;
        });
        if is_new {
            let _ = tokio::time::timeout(PATIENCE, asking).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_are_asked_again_after_a_while_and_waited_for_once() {
        let addrs = ClientAddrs::default();
        let begun = Instant::now();
        assert_eq!(addrs.due(&[1, 2], begun), (vec![1, 2], true));
        assert_eq!(addrs.due(&[1, 2], begun), (vec![], false));
        assert_eq!(addrs.due(&[1, 2, 3], begun), (vec![3], true));
        assert_eq!(addrs.due(&[1, 2, 3], begun + FRESH), (vec![1, 2, 3], true));
        for heard in addrs.members.lock().values_mut() {
            heard.addr = Some("10.0.0.1:2379".to_owned());
        }
        assert_eq!(addrs.due(&[1, 3], begun + 2 * FRESH), (vec![1, 3], false));
        assert_eq!(addrs.known(2), None, "it is no member any more");
        assert_eq!(addrs.known(3).as_deref(), Some("10.0.0.1:2379"));
    }

    #[test]
    fn the_host_that_peers_use_is_told_to_clients_too() {
        assert_eq!(at_port_of("node-1.example:21001", "0.0.0.0:21002"), "node-1.example:21002");
        assert_eq!(at_port_of("[::1]:21001", "[::]:2379"), "[::1]:2379");
    }
}

//! Changes of the membership, made safe.
//!
//! Each change is checked before it is proposed: the nodes it names exist and
//! answer under the ids that are meant, a majority of the new voters is
//! reachable, a node id is never given to another node, and a leader that is to
//! go hands leadership over first. Waiting has limits of its own; what goes on
//! after one says so. Changes run on the leader; another node carries the call
//! there.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures_util::future::join_all;
use openraft::errors::{ChangeMembershipError, ClientWriteError, InitializeError, RaftError};
use openraft::{ChangeMembers, ServerState};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::consensus::{RETRY_AFTER, leader_of};
use super::handle::Service;
use crate::error::Error;
use crate::openraft_network::forward::{ManageError, ManageRequest, ManageResponse};
use crate::openraft_network::transport::{ANY_NODE, CallError, Purpose};
use crate::openraft_network::wire::JSON;
use crate::store::data_dir::ClusterId;
use crate::{Member, NodeId, StoredMembership, TypeConfig};

type Change = ChangeMembers<NodeId, Member>;

/// How long a peer may take to say who it is.
const PROBE_TIMEOUT: Duration = Duration::from_secs(1);
/// How long a change of the membership may take to commit.
const CHANGE_TIMEOUT: Duration = Duration::from_secs(15);
/// Pause between looks at a node's progress.
pub(super) const POLL: Duration = Duration::from_millis(20);
/// A learner this many entries behind counts as caught up: it receives new
/// entries as they come, and a busy leader's last index never stands still.
const CAUGHT_UP_LAG: u64 = 1_000;
/// What a forwarded management call may take beyond the work itself.
const FORWARD_MARGIN: Duration = Duration::from_secs(10);

/// What a node says of itself to a peer that asks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Introduction {
    /// The node's id.
    pub node_id: NodeId,
    /// The cluster it belongs to, 16 hexadecimal digits.
    pub cluster_id: Option<String>,
    /// Whether its Raft log or state holds anything.
    pub initialized: bool,
}

impl Service {
    /// Makes this node, or the given ones together, a new cluster.
    ///
    /// # Errors
    /// [`Error::Conflict`] when this node already belongs to a cluster,
    /// [`Error::Invalid`] when the members make no sense.
    pub async fn init(&self, members: Vec<(NodeId, String)>) -> Result<(), Error> {
        let mine = self.node_id();
        let already = || Error::Conflict {
            code: "already_initialized",
            message: format!("node {mine} already belongs to a cluster; to add nodes use /add-learner"),
        };
        let _one_at_a_time = self.inner.management.lock().await;
        if self.is_initialized().await? || self.inner.data.belonging().is_some_and(|it| it.adopted) {
            return Err(already());
        }
        let members = self.check_first_members(members).await?;
        let cluster_id = match self.inner.data.belonging() {
            // An earlier attempt ended between the two steps below.
            Some(belonging) => belonging.cluster_id,
            None => random_cluster_id().map_err(|reason| Error::Internal { node: mine, reason })?,
        };
        self.inner
            .data
            .found(cluster_id)
            .map_err(|error| Error::Internal { node: mine, reason: error.to_string() })?;
        match self.inner.raft.initialize(members).await {
            Ok(()) => {}
            Err(RaftError::APIError(InitializeError::NotAllowed(_))) => return Err(already()),
            Err(RaftError::APIError(InitializeError::NotInMembers(error))) => {
                return Err(Error::Invalid(error.to_string()));
            }
            Err(RaftError::Fatal(fatal)) => {
                return Err(Error::Internal { node: mine, reason: fatal.to_string() });
            }
        }
        tracing::info!(%cluster_id, "initialized a new cluster");
        // So that the next call finds a leader; without one it is initialized all the same.
        let mut view = self.inner.view.clone();
        let elected = view.wait_for(|view| view.leader.is_some());
        let _ = tokio::time::timeout(self.inner.options.request_timeout, elected).await;
        Ok(())
    }

    async fn is_initialized(&self) -> Result<bool, Error> {
        let initialized = self.inner.raft.is_initialized().await;
        initialized.map_err(|fatal| Error::Internal { node: self.node_id(), reason: fatal.to_string() })
    }

    async fn check_first_members(
        &self,
        members: Vec<(NodeId, String)>,
    ) -> Result<BTreeMap<NodeId, Member>, Error> {
        let mine = self.node_id();
        if members.is_empty() {
            let addr = self.inner.options.advertise_addr.clone();
            return Ok(BTreeMap::from([(mine, Member { addr })]));
        }
        let mut checked = BTreeMap::new();
        for (id, addr) in members {
            check_member(id, &addr)?;
            if checked.values().any(|member: &Member| member.addr == addr) {
                return Err(Error::Invalid(format!("the address {addr} is given twice")));
            }
            if checked.insert(id, Member { addr }).is_some() {
                return Err(Error::Invalid(format!("node {id} is given twice")));
            }
        }
        if !checked.contains_key(&mine) {
            return Err(Error::Invalid(format!(
                "this is node {mine}, and it is not among the given members"
            )));
        }
        for (id, member) in checked.iter().filter(|(id, _)| **id != mine) {
            let introduction =
                self.probe(*id, &member.addr).await.map_err(|error| unreachable(*id, &error))?;
            if introduction.initialized || introduction.cluster_id.is_some() {
                return Err(Error::Conflict {
                    code: "already_initialized",
                    message: format!("node {id} at {} already belongs to a cluster", member.addr),
                });
            }
        }
        Ok(checked)
    }

    /// What this node says of itself.
    ///
    /// # Errors
    /// When Raft has stopped.
    pub async fn introduce(&self) -> Result<Introduction, Error> {
        Ok(Introduction {
            node_id: self.node_id(),
            cluster_id: self.inner.data.belonging().map(|it| it.cluster_id.to_string()),
            initialized: self.is_initialized().await?,
        })
    }

    /// Asks the node at `addr` who it is; refused there unless it is node `id`.
    async fn probe(&self, id: NodeId, addr: &str) -> Result<Introduction, CallError> {
        let body = bytes::Bytes::from_static(b"{}");
        let transport = &self.inner.transport;
        let answer =
            transport.call_as(Purpose::Heartbeat, id, addr, "/introduce", JSON, body, PROBE_TIMEOUT).await?;
        serde_json::from_slice(&answer).map_err(|error| CallError::Broken {
            target: id,
            addr: addr.to_owned(),
            reason: format!("it is no Kvorum node: {error}"),
        })
    }

    /// Asks a member who it is, where the membership says that it is.
    pub(super) async fn probe_member(&self, id: NodeId) -> Result<Introduction, CallError> {
        let membership = self.view().membership;
        let addr = membership.get_node(&id).map(|member| member.addr.clone()).unwrap_or_default();
        self.probe(id, &addr).await
    }

    /// Those of `members` that answer, and this node.
    pub(super) async fn reachable_among(&self, members: &BTreeSet<NodeId>) -> BTreeSet<NodeId> {
        let mine = self.node_id();
        let probes = members
            .iter()
            .map(|id| async move { (*id == mine || self.probe_member(*id).await.is_ok()).then_some(*id) });
        join_all(probes).await.into_iter().flatten().collect()
    }

    /// Asks whichever node is at `addr` who it is.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when none answers, [`Error::Conflict`] when it
    /// refuses to, as a node of another cluster does.
    pub async fn identify(&self, addr: &str) -> Result<Introduction, Error> {
        match self.probe(ANY_NODE, addr).await {
            Ok(introduction) => Ok(introduction),
            Err(CallError::Refused { message, .. }) => Err(Error::Conflict {
                code: "wrong_node",
                message: format!("the node at {addr} can't be a member of this cluster: {message}"),
            }),
            Err(CallError::Unreachable { reason, .. } | CallError::Broken { reason, .. }) => {
                Err(not_started(addr, &reason))
            }
            Err(CallError::Timeout { after, .. }) => {
                Err(not_started(addr, &format!("no answer within {after:?}")))
            }
        }
    }

    /// Adds a learner and waits until it has caught up.
    ///
    /// # Errors
    /// [`Error::CatchUp`] when it takes too long: the learner stays and goes on.
    pub async fn add_learner(&self, id: NodeId, addr: String) -> Result<(), Error> {
        check_member(id, &addr)?;
        self.manage(ManageRequest::AddLearner { id, addr }).await.map(|_| ())
    }

    /// Makes exactly `voters` the voters.
    ///
    /// # Errors
    /// When the set is empty, names unknown nodes, or no majority of it is
    /// reachable and `force` is off.
    pub async fn change_membership(&self, voters: BTreeSet<NodeId>, force: bool) -> Result<(), Error> {
        if voters.is_empty() {
            return Err(Error::Invalid(
                "the set of voters is empty; a cluster needs at least one".to_owned(),
            ));
        }
        self.manage(ManageRequest::ChangeMembership { voters, force }).await.map(|_| ())
    }

    /// Makes a learner that has caught up a voter.
    ///
    /// # Errors
    /// When it is no learner or is too far behind.
    pub async fn promote(&self, id: NodeId) -> Result<(), Error> {
        self.manage(ManageRequest::Promote { id }).await.map(|_| ())
    }

    /// Removes a voter or learner.
    ///
    /// # Errors
    /// When it is no member, is the last voter, or no majority of the rest is
    /// reachable and `force` is off.
    pub async fn remove_member(&self, id: NodeId, force: bool) -> Result<(), Error> {
        self.manage(ManageRequest::RemoveMember { id, force }).await.map(|_| ())
    }

    /// Carries a management call out here or on the leader.
    pub(super) async fn manage(&self, request: ManageRequest) -> Result<ManageResponse, Error> {
        let deadline = Instant::now() + self.inner.options.request_timeout;
        loop {
            let leader = self.inner.view.borrow().leader_addr();
            let error = match leader {
                Some((id, _)) if id == self.node_id() => match self.manage_here(request.clone()).await {
                    Ok(response) => return Ok(response),
                    Err(error) => error,
                },
                Some((id, addr)) => match self.manage_there(&request, id, &addr).await {
                    Ok(response) => return Ok(response),
                    Err(error) => error,
                },
                None => Error::Unavailable {
                    reason: format!("node {} knows no leader", self.node_id()),
                    retry_after: RETRY_AFTER,
                },
            };
            // Only a node that does not lead has certainly done nothing.
            let may_retry = matches!(error, Error::NotLeader { .. } | Error::Unavailable { .. });
            if !may_retry || Instant::now() >= deadline {
                return Err(error);
            }
            tokio::time::sleep(POLL).await;
        }
    }

    async fn manage_there(
        &self,
        request: &ManageRequest,
        leader: NodeId,
        addr: &str,
    ) -> Result<ManageResponse, Error> {
        let body = serde_json::to_vec(request)
            .map_err(|error| Error::Internal { node: self.node_id(), reason: error.to_string() })?;
        let patience = self.inner.options.catch_up_timeout.max(CHANGE_TIMEOUT) + FORWARD_MARGIN;
        let answer = self
            .inner
            .transport
            .call_as(Purpose::Forward, leader, addr, "/manage", JSON, body.into(), patience)
            .await
            .map_err(|error| match error {
                CallError::Unreachable { .. } | CallError::Refused { .. } => {
                    Error::Unavailable { reason: error.to_string(), retry_after: RETRY_AFTER }
                }
                CallError::Broken { .. } | CallError::Timeout { .. } => {
                    Error::Unknown { reason: error.to_string() }
                }
            })?;
        match serde_json::from_slice(&answer) {
            Ok(ManageResponse::Failed(error)) => Err(error.into_error()),
            Ok(response) => Ok(response),
            Err(error) => Err(Error::Unknown { reason: format!("node {leader} answered nonsense: {error}") }),
        }
    }

    /// Carries out a management call that a peer forwarded. Never forwards again.
    pub async fn handle_management(&self, request: ManageRequest) -> ManageResponse {
        match self.manage_here(request).await {
            Ok(response) => response,
            Err(error) => ManageResponse::Failed(ManageError::from_error(self.node_id(), error)),
        }
    }

    /// Carries a management call out as the leader.
    async fn manage_here(&self, request: ManageRequest) -> Result<ManageResponse, Error> {
        self.require_leadership()?;
        if let ManageRequest::Replication = request {
            return Ok(self.replication());
        }
        let Ok(_one_at_a_time) = self.inner.management.try_lock() else {
            return Err(in_progress());
        };
        match request {
            ManageRequest::AddLearner { id, addr } => self.add_learner_here(id, addr).await?,
            ManageRequest::ChangeMembership { voters, force } => {
                self.change_voters_here(voters, force).await?;
            }
            ManageRequest::Promote { id } => self.promote_here(id).await?,
            ManageRequest::RemoveMember { id, force } => self.remove_here(id, force).await?,
            ManageRequest::TransferLeader { to } => {
                return Ok(ManageResponse::Leader(self.transfer_here(to).await?));
            }
            ManageRequest::Replication => return Ok(self.replication()),
        }
        Ok(ManageResponse::Done)
    }

    pub(super) fn require_leadership(&self) -> Result<(), Error> {
        let view = self.inner.view.borrow();
        if view.state == ServerState::Leader {
            return Ok(());
        }
        Err(Error::NotLeader { node: self.node_id(), leader: view.leader_addr() })
    }

    async fn add_learner_here(&self, id: NodeId, addr: String) -> Result<(), Error> {
        let membership = self.view().membership;
        if let Some(known) = membership.get_node(&id) {
            if known.addr != addr {
                return Err(Error::Conflict {
                    code: "node_id_in_use",
                    message: format!(
                        "node {id} is a member at {}; to move it, remove it and add a node with a new id",
                        known.addr
                    ),
                });
            }
            return self.wait_caught_up(id).await;
        }
        if let Some((other, _)) = membership.nodes().find(|(_, member)| member.addr == addr) {
            return Err(Error::Conflict {
                code: "node_id_in_use",
                message: format!("the address {addr} belongs to member {other}"),
            });
        }
        let introduction = self.probe(id, &addr).await.map_err(|error| unreachable(id, &error))?;
        self.check_newcomer(id, &addr, &introduction)?;
        let adding = || {
            let (raft, addr) = (self.inner.raft.clone(), addr.clone());
            async move { raft.add_learner(id, Member { addr }, false).await }
        };
        self.committed(adding, "adding the learner").await?;
        self.wait_caught_up(id).await
    }

    /// A node id stands for one data folder for good. A node that comes back
    /// with an empty folder under an old id may have voted before and forgotten
    /// it, which can elect two leaders.
    fn check_newcomer(&self, id: NodeId, addr: &str, introduction: &Introduction) -> Result<(), Error> {
        let ours = self.inner.data.belonging().map(|it| it.cluster_id.to_string());
        match &introduction.cluster_id {
            Some(theirs) if Some(theirs) != ours.as_ref() => Err(Error::Conflict {
                code: "wrong_node",
                message: format!(
                    "node {id} at {addr} belongs to another cluster ({theirs}); start it with an empty data folder"
                ),
            }),
            None if self.inner.store.knows_node(id) => Err(Error::Conflict {
                code: "node_id_in_use",
                message: format!(
                    "node id {id} was used in this cluster before, and the node at {addr} has an empty data folder; start it with an id that was never used"
                ),
            }),
            Some(_) | None => Ok(()),
        }
    }

    async fn wait_caught_up(&self, id: NodeId) -> Result<(), Error> {
        let patience = self.inner.options.catch_up_timeout;
        let deadline = Instant::now() + patience;
        loop {
            self.require_leadership()?;
            let (last, matched) = self.progress_of(id);
            if lacks_little(matched, last)
                && self.inner.store.applied_index().load(std::sync::atomic::Ordering::Acquire) > 0
            {
                return Ok(());
            }
            if Instant::now() >= deadline {
                return Err(Error::CatchUp {
                    message: format!(
                        "learner {id} is added but has not caught up within {patience:?}; it goes on, see GET /v1/members for its progress"
                    ),
                    matched_index: matched,
                    last_log_index: last,
                });
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// The leader's last log index and how far node `id` matches it.
    pub(super) fn progress_of(&self, id: NodeId) -> (Option<u64>, Option<u64>) {
        let metrics = self.metrics();
        let matched = metrics.replication.as_ref().and_then(|all| all.get(&id).copied().flatten());
        (metrics.last_log_index, matched.map(|log_id| log_id.index))
    }

    fn replication(&self) -> ManageResponse {
        let metrics = self.metrics();
        let matched = metrics.replication.unwrap_or_default();
        ManageResponse::Replication {
            last_log_index: metrics.last_log_index,
            matched: matched.into_iter().map(|(id, log_id)| (id, log_id.map(|it| it.index))).collect(),
        }
    }

    async fn change_voters_here(&self, voters: BTreeSet<NodeId>, force: bool) -> Result<(), Error> {
        let membership = self.view().membership;
        let unknown: Vec<_> = voters.iter().filter(|id| membership.get_node(id).is_none()).collect();
        if !unknown.is_empty() {
            return Err(Error::Invalid(format!(
                "unknown nodes {unknown:?}: add them as learners first (POST /add-learner)"
            )));
        }
        if !force {
            self.require_reachable_majority(&voters).await?;
        }
        if !voters.contains(&self.node_id()) {
            self.hand_over_before_leaving(&voters).await?;
        }
        self.change(ChangeMembers::ReplaceAllVoters(voters), "changing the membership").await
    }

    /// Passes leadership to a voter that stays. The change itself is then the
    /// new leader's: the caller carries it there.
    async fn hand_over_before_leaving(&self, voters: &BTreeSet<NodeId>) -> Result<(), Error> {
        let staying: BTreeSet<_> =
            self.view().membership.voter_ids().filter(|id| voters.contains(id)).collect();
        if staying.is_empty() {
            // None of today's voters stays. Raft's joint change lets this leader
            // finish and then step down.
            return Ok(());
        }
        let successor = self.successor_among(&staying).await?;
        self.transfer_here(Some(successor)).await?;
        Err(Error::NotLeader { node: self.node_id(), leader: self.view().leader_addr() })
    }

    async fn require_reachable_majority(&self, voters: &BTreeSet<NodeId>) -> Result<(), Error> {
        let reachable = self.reachable_among(voters).await;
        if reachable.len() > voters.len() / 2 {
            return Ok(());
        }
        let missing: Vec<_> = voters.difference(&reachable).collect();
        Err(Error::Conflict {
            code: "unreachable_majority",
            message: format!(
                "of the voters {voters:?} nodes {missing:?} can't be reached, so that the new cluster would have no majority; start them first, or insist with ?force=true"
            ),
        })
    }

    async fn promote_here(&self, id: NodeId) -> Result<(), Error> {
        let membership = self.view().membership;
        let mut voters = coming_voters(&membership);
        if voters.contains(&id) {
            return Err(Error::Invalid(format!("node {id} is a voter already")));
        }
        if membership.get_node(&id).is_none() {
            return Err(Error::NotFound(format!("node {id} is not a member; add it as a learner first")));
        }
        let (last_log_index, matched_index) = self.progress_of(id);
        if !lacks_little(matched_index, last_log_index) {
            return Err(Error::CatchUp {
                message: format!("learner {id} is still catching up; promote it when it has"),
                matched_index,
                last_log_index,
            });
        }
        voters.insert(id);
        self.change_voters_here(voters, false).await
    }

    async fn remove_here(&self, id: NodeId, force: bool) -> Result<(), Error> {
        let membership = self.view().membership;
        if membership.get_node(&id).is_none() {
            return Err(Error::NotFound(format!("node {id} is not a member")));
        }
        let mut voters = coming_voters(&membership);
        if voters.remove(&id) {
            if voters.is_empty() {
                return Err(Error::Invalid(format!("node {id} is the last voter and can't be removed")));
            }
            return self.change_voters_here(voters, force).await;
        }
        self.change(ChangeMembers::RemoveNodes(BTreeSet::from([id])), "removing the learner").await
    }

    async fn change(&self, change: Change, what: &str) -> Result<(), Error> {
        let changing = || {
            let (raft, change) = (self.inner.raft.clone(), change.clone());
            async move { raft.change_membership(change, false).await }
        };
        self.committed(changing, what).await
    }

    /// Proposes `change` and waits until it is committed. It goes on also when nobody waits
    /// any more: a change of the voters takes two steps, and must not end between them.
    ///
    /// A leader can't change the membership before an entry of its own term is
    /// committed, and with it what its predecessor left. Right after an election,
    /// and so after `init`, that takes a moment, which is waited for here.
    async fn committed<T, F>(&self, change: impl Fn() -> F, what: &str) -> Result<(), Error>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, RaftError<TypeConfig, ClientWriteError<TypeConfig>>>> + Send + 'static,
    {
        let deadline = Instant::now() + CHANGE_TIMEOUT;
        let settled_by = Instant::now() + self.inner.options.request_timeout;
        loop {
            let going_on = self.inner.runtime.spawn(change());
            let Ok(ended) = tokio::time::timeout_at(deadline, going_on).await else {
                return Err(Error::StillRunning(format!(
                    "{what} did not commit within {CHANGE_TIMEOUT:?}; it goes on and may still do so, see GET /v1/members"
                )));
            };
            let internal = |reason: String| Error::Internal { node: self.node_id(), reason };
            match ended.map_err(|error| internal(error.to_string()))? {
                Ok(_) => return Ok(()),
                Err(RaftError::APIError(ClientWriteError::ChangeMembershipError(
                    ChangeMembershipError::InProgress(_) | ChangeMembershipError::UncommittedLeaderLog(_),
                ))) if Instant::now() < settled_by => tokio::time::sleep(POLL).await,
                Err(RaftError::APIError(error)) => return Err(self.change_error(error)),
                Err(RaftError::Fatal(fatal)) => return Err(internal(fatal.to_string())),
            }
        }
    }

    fn change_error(&self, error: ClientWriteError<TypeConfig>) -> Error {
        match error {
            ClientWriteError::ForwardToLeader(forward) => {
                Error::NotLeader { node: self.node_id(), leader: leader_of(forward) }
            }
            ClientWriteError::ChangeMembershipError(
                ChangeMembershipError::InProgress(_) | ChangeMembershipError::UncommittedLeaderLog(_),
            ) => in_progress(),
            ClientWriteError::ChangeMembershipError(error) => Error::Invalid(error.to_string()),
            ClientWriteError::LogEntryDiscarded(_) => {
                Error::Unknown { reason: "the leader changed while the membership did".to_owned() }
            }
            ClientWriteError::PreconditionFailed(error) => {
                Error::Conflict { code: "membership_change_in_progress", message: error.to_string() }
            }
        }
    }
}

/// The voters, or those that are to be while a change is under way.
fn coming_voters(membership: &StoredMembership) -> BTreeSet<NodeId> {
    membership.membership().get_joint_config().last().cloned().unwrap_or_default()
}

/// Whether a node that matches the leader's log up to `matched` has as good as all of it.
/// One that never answered the leader has nothing.
pub(super) fn lacks_little(matched: Option<u64>, last: Option<u64>) -> bool {
    matched.zip(last).is_some_and(|(matched, last)| matched.saturating_add(CAUGHT_UP_LAG) >= last)
}

fn not_started(addr: &str, reason: &str) -> Error {
    Error::Unavailable {
        reason: format!("no node answers at {addr} ({reason}); start the node first"),
        retry_after: RETRY_AFTER,
    }
}

fn in_progress() -> Error {
    Error::Conflict {
        code: "membership_change_in_progress",
        message: "another change of the membership is going on; try again when it is done".to_owned(),
    }
}

fn unreachable(id: NodeId, error: &CallError) -> Error {
    match error {
        CallError::Refused { message, .. } => Error::Conflict {
            code: "wrong_node",
            message: format!(
                "the node at the given address refuses to be node {id} of this cluster: {message}"
            ),
        },
        CallError::Unreachable { .. } | CallError::Broken { .. } | CallError::Timeout { .. } => {
            Error::Invalid(format!("{error}; start it first, and check the address"))
        }
    }
}

fn check_member(id: NodeId, addr: &str) -> Result<(), Error> {
    if id == 0 {
        return Err(Error::Invalid("node ids start at 1".to_owned()));
    }
    let port =
        addr.rsplit_once(':').filter(|(host, _)| !host.is_empty()).and_then(|(_, port)| port.parse().ok());
    match port {
        Some(1_u16..) if addr.parse::<hyper::http::uri::Authority>().is_ok() => Ok(()),
        Some(_) | None => Err(Error::Invalid(format!("{addr:?} is no address; give host:port"))),
    }
}

fn random_cluster_id() -> Result<ClusterId, String> {
    let id = getrandom::u64().map_err(|error| format!("no random number for the cluster id: {error}"))?;
    // Zero stands for "unreadable" where ids are parsed.
    Ok(ClusterId(id.max(1)))
}

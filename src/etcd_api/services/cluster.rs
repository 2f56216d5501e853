//! The cluster service: members as etcd shows them, and changes of them.
//!
//! A member is told by one address for peers and one for clients, both as URLs without TLS.
//! Its id is the node's own, so that a node has to run before it can be added. Changes need
//! the cluster's secret, if there is one, as they do everywhere else.

use std::sync::Arc;
use std::time::Duration;

use hyper::http::uri::Authority;
use kvorum_etcd_proto::etcdserverpb as pb;
use kvorum_etcd_proto::etcdserverpb::cluster_server::Cluster;
use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status};

use super::{Context, status};
use crate::NodeId;
use crate::error::Error;
use crate::service::{ClusterMember, Consistency};

/// How long the list after a change waits for the leader.
const LIST_PATIENCE: Duration = Duration::from_secs(2);

pub(super) struct ClusterService {
    context: Arc<Context>,
}

impl ClusterService {
    pub(super) fn new(context: Arc<Context>) -> Self {
        Self { context }
    }

    /// The header of all answers here: etcd's have no revision.
    fn header(&self) -> pb::ResponseHeader {
        self.context.header(0)
    }

    async fn list(&self, consistency: Consistency) -> Result<Vec<ClusterMember>, Status> {
        self.context.service().member_list(consistency).await.map_err(|error| status::of(&error))
    }

    /// The members after `change`, which is done whether or not they can be listed.
    async fn members_after(&self, change: Change) -> Vec<pb::Member> {
        let service = self.context.service();
        // A node that has removed itself may hear of nothing any more.
        let listed = if change.removes(service.node_id()) {
            None
        } else {
            let listing = service.member_list(Consistency::Linearizable);
            tokio::time::timeout(LIST_PATIENCE, listing).await.ok().and_then(Result::ok)
        };
        let members = if let Some(members) = listed {
            members
        } else {
            let mut known = service.member_list(Consistency::Local).await.unwrap_or_default();
            change.make_known(&mut known);
            known
        };
        members.into_iter().map(member).collect()
    }
}

/// A change of the members that is committed.
enum Change {
    Added(ClusterMember),
    Promoted(NodeId),
    Removed(NodeId),
}

impl Change {
    fn removes(&self, node: NodeId) -> bool {
        matches!(self, Self::Removed(id) if *id == node)
    }

    /// Makes the change to what a node knows that may not have heard of it.
    fn make_known(self, members: &mut Vec<ClusterMember>) {
        match self {
            Self::Added(added) => {
                if let Some(known) = members.iter_mut().find(|member| member.id == added.id) {
                    known.is_learner = added.is_learner;
                } else {
                    members.push(added);
                    members.sort_by_key(|member| member.id);
                }
            }
            Self::Promoted(id) => {
                for member in members.iter_mut().filter(|member| member.id == id) {
                    member.is_learner = false;
                }
            }
            Self::Removed(id) => members.retain(|member| member.id != id),
        }
    }
}

/// Demands the cluster's secret, if there is one: as a token, or as everywhere else.
pub(super) fn authorize(context: &Context, metadata: &MetadataMap) -> Result<(), Status> {
    let bearer = metadata.get("authorization").and_then(|value| value.to_str().ok());
    let bearer = bearer
        .and_then(|value| value.split_once(' '))
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
        .map(|(_, secret)| secret.trim());
    let token = metadata.get("token").and_then(|value| value.to_str().ok());
    context.service().authorize(bearer.or(token)).map_err(|error| status::of(&error))
}

fn member(member: ClusterMember) -> pb::Member {
    let ClusterMember { id, addr, client_addr, is_learner } = member;
    pb::Member {
        id,
        name: format!("node-{id}"),
        peer_ur_ls: vec![format!("http://{addr}")],
        client_ur_ls: client_addr.into_iter().map(|addr| format!("http://{addr}")).collect(),
        is_learner,
    }
}

fn bad_urls() -> Status {
    Status::invalid_argument("etcdserver: given member URLs are invalid")
}

fn member_not_found() -> Status {
    Status::not_found("etcdserver: member not found")
}

fn peer_url_exists() -> Status {
    Status::failed_precondition("etcdserver: Peer URLs already exists")
}

fn not_enough_started() -> Status {
    Status::failed_precondition("etcdserver: re-configuration failed due to not enough started members")
}

/// The address that the URLs of a member name.
///
/// # Errors
/// When they are none, or more than a member of ours can have.
fn peer_addr(urls: &[String]) -> Result<String, Status> {
    let mut addrs =
        urls.iter().map(|url| addr_of(url.trim()).ok_or_else(bad_urls)).collect::<Result<Vec<_>, _>>()?;
    addrs.dedup();
    match <[String; 1]>::try_from(addrs) {
        Ok([addr]) => Ok(addr),
        Err(none) if none.is_empty() => Err(bad_urls()),
        Err(_) => Err(Status::invalid_argument("etcdserver: a member has one peer URL only")),
    }
}

/// The `host:port` of a URL that is nothing else. Peers do not speak TLS.
fn addr_of(url: &str) -> Option<String> {
    let authority: Authority = url.strip_prefix("http://")?.parse().ok()?;
    let is_plain = !authority.as_str().contains('@')
        && !authority.host().is_empty()
        && authority.port_u16().is_some_and(|port| port > 0);
    is_plain.then(|| authority.as_str().to_owned())
}

/// A change's failure in etcd's words; `invalid` stands for what can't be asked of the member.
fn refused(error: &Error, invalid: impl FnOnce() -> Status) -> Status {
    if let Error::NotFound(_) = error {
        member_not_found()
    } else if let Error::Invalid(_) = error {
        invalid()
    } else if let Error::Conflict { code: "unreachable_majority", .. } = error {
        not_enough_started()
    } else {
        status::of(error)
    }
}

#[tonic::async_trait]
impl Cluster for ClusterService {
    async fn member_list(
        &self,
        request: Request<pb::MemberListRequest>,
    ) -> Result<Response<pb::MemberListResponse>, Status> {
        let consistency =
            if request.into_inner().linearizable { Consistency::Linearizable } else { Consistency::Local };
        let members = self.list(consistency).await?.into_iter().map(member).collect();
        Ok(Response::new(pb::MemberListResponse { header: Some(self.header()), members }))
    }

    async fn member_add(
        &self,
        request: Request<pb::MemberAddRequest>,
    ) -> Result<Response<pb::MemberAddResponse>, Status> {
        authorize(&self.context, request.metadata())?;
        let request = request.into_inner();
        let addr = peer_addr(&request.peer_ur_ls)?;
        let members = self.list(Consistency::Linearizable).await?;
        if members.iter().any(|member| member.addr == addr) {
            return Err(peer_url_exists());
        }
        let service = self.context.service();
        let own_words = |error: Error| refused(&error, || status::of(&error));
        let introduction = service.identify(&addr).await.map_err(|error| {
            if let Error::Unavailable { reason, .. } = error {
                return Status::unavailable(format!("etcdserver: {reason}"));
            }
            own_words(error)
        })?;
        let id = introduction.node_id;
        if members.iter().any(|member| member.id == id) {
            return Err(Status::failed_precondition("etcdserver: member ID already exist"));
        }
        match service.add_learner(id, addr.clone()).await {
            // It is added; only a learner need not have caught up.
            Err(Error::CatchUp { .. }) if request.is_learner => {}
            Err(Error::CatchUp { message, .. }) => return Err(still_behind(&message)),
            other => other.map_err(own_words)?,
        }
        if !request.is_learner {
            match service.promote(id).await {
                Err(Error::CatchUp { message, .. }) => return Err(still_behind(&message)),
                other => other.map_err(own_words)?,
            }
        }
        let added = ClusterMember { id, addr, client_addr: None, is_learner: request.is_learner };
        Ok(Response::new(pb::MemberAddResponse {
            header: Some(self.header()),
            member: Some(member(added.clone())),
            members: self.members_after(Change::Added(added)).await,
        }))
    }

    async fn member_remove(
        &self,
        request: Request<pb::MemberRemoveRequest>,
    ) -> Result<Response<pb::MemberRemoveResponse>, Status> {
        authorize(&self.context, request.metadata())?;
        let id = request.into_inner().id;
        let removed = self.context.service().remove_member(id, false).await;
        // Only the last voter can't be removed at all.
        removed.map_err(|error| refused(&error, not_enough_started))?;
        let members = self.members_after(Change::Removed(id)).await;
        Ok(Response::new(pb::MemberRemoveResponse { header: Some(self.header()), members }))
    }

    async fn member_update(
        &self,
        request: Request<pb::MemberUpdateRequest>,
    ) -> Result<Response<pb::MemberUpdateResponse>, Status> {
        authorize(&self.context, request.metadata())?;
        let pb::MemberUpdateRequest { id, peer_ur_ls } = request.into_inner();
        let members = self.list(Consistency::Linearizable).await?;
        let known = members.iter().find(|member| member.id == id).ok_or_else(member_not_found)?;
        let addr = peer_addr(&peer_ur_ls)?;
        if members.iter().any(|member| member.id != id && member.addr == addr) {
            return Err(peer_url_exists());
        }
        if known.addr != addr {
            return Err(Status::unimplemented(
                "etcdserver: a member keeps its address; remove it and add a node with a new id there",
            ));
        }
        let members = members.into_iter().map(member).collect();
        Ok(Response::new(pb::MemberUpdateResponse { header: Some(self.header()), members }))
    }

    async fn member_promote(
        &self,
        request: Request<pb::MemberPromoteRequest>,
    ) -> Result<Response<pb::MemberPromoteResponse>, Status> {
        authorize(&self.context, request.metadata())?;
        let id = request.into_inner().id;
        match self.context.service().promote(id).await {
            Err(Error::CatchUp { .. }) => {
                return Err(Status::failed_precondition(
                    "etcdserver: can only promote a learner member which is in sync with leader",
                ));
            }
            promoted => promoted.map_err(|error| refused(&error, not_a_learner))?,
        }
        let members = self.members_after(Change::Promoted(id)).await;
        Ok(Response::new(pb::MemberPromoteResponse { header: Some(self.header()), members }))
    }
}

fn not_a_learner() -> Status {
    Status::failed_precondition("etcdserver: can only promote a learner member")
}

/// A new voter that is a learner so far.
fn still_behind(message: &str) -> Status {
    Status::deadline_exceeded(format!("etcdserver: {message}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_address_is_taken_from_urls_and_nothing_else() {
        let addr = |urls: &[&str]| {
            peer_addr(&urls.iter().map(|url| (*url).to_owned()).collect::<Vec<_>>())
                .map_err(|status| status.message().to_owned())
        };
        assert_eq!(addr(&["http://10.0.0.4:2380"]).as_deref(), Ok("10.0.0.4:2380"));
        assert_eq!(addr(&[" http://node-4:2380 "]).as_deref(), Ok("node-4:2380"));
        assert_eq!(addr(&["http://[::1]:2380"]).as_deref(), Ok("[::1]:2380"));
        let bad = Err("etcdserver: given member URLs are invalid");
        for url in [
            "",
            "node-4:2380",
            "http://node-4",
            "http://node-4:0",
            "http://:2380",
            "http://node-4:2380/",
            "http://node-4:2380/path",
            "http://node-4:2380?a=b",
            "http://me@node-4:2380",
            "https://node-4:2380",
            "unix://node-4:2380",
            "http://node-4:99999",
            "nonsense",
            "http://a b:1",
        ] {
            assert_eq!(addr(&[url]).as_deref().map_err(String::as_str), bad, "{url:?}");
        }
        assert_eq!(addr(&[]).as_deref().map_err(String::as_str), bad);
        assert_eq!(
            addr(&["http://a:1", "http://b:1"]).as_deref().map_err(String::as_str),
            Err("etcdserver: a member has one peer URL only")
        );
    }

    #[test]
    fn a_change_is_made_to_what_a_node_knows() {
        let member = |id, is_learner| {
            let addr = format!("10.0.0.{id}:2380");
            ClusterMember { id, addr, client_addr: None, is_learner }
        };
        let after = |change: Change| {
            let mut members = vec![member(1, false), member(3, true)];
            change.make_known(&mut members);
            members.iter().map(|member| (member.id, member.is_learner)).collect::<Vec<_>>()
        };
        assert_eq!(after(Change::Added(member(2, true))), [(1, false), (2, true), (3, true)]);
        assert_eq!(after(Change::Added(member(3, false))), [(1, false), (3, false)]);
        assert_eq!(after(Change::Promoted(3)), [(1, false), (3, false)]);
        assert_eq!(after(Change::Removed(1)), [(3, true)]);
        assert_eq!(after(Change::Removed(2)), [(1, false), (3, true)]);
    }

    #[test]
    fn failures_of_changes_are_told_in_etcds_words() {
        let told = |error: Error| {
            let status = refused(&error, not_a_learner);
            (status.code(), status.message().to_owned())
        };
        assert_eq!(
            told(Error::NotFound("node 7 is not a member".to_owned())),
            (tonic::Code::NotFound, "etcdserver: member not found".to_owned())
        );
        assert_eq!(
            told(Error::Invalid("node 7 is a voter already".to_owned())),
            (tonic::Code::FailedPrecondition, "etcdserver: can only promote a learner member".to_owned())
        );
        let lost = Error::Conflict { code: "unreachable_majority", message: "start them".to_owned() };
        assert_eq!(
            told(lost),
            (
                tonic::Code::FailedPrecondition,
                "etcdserver: re-configuration failed due to not enough started members".to_owned()
            )
        );
        let other = Error::Conflict { code: "wrong_node", message: "it is another".to_owned() };
        assert_eq!(told(other).0, tonic::Code::FailedPrecondition);
    }
}

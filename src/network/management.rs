//! Cluster management: the seed's calls and their v1 counterparts.
//!
//! All need the cluster's secret, if one is configured, and all are checked for
//! it before their body is read.

use std::collections::BTreeSet;

use actix_web::HttpResponse;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::api::done;
use super::backend::Backend;
use super::call::Call;
use super::error::{ErrorAnswer, Failure};
use crate::NodeId;
use crate::service::Members;

/// Checks the form of a node's address; whether it can be reached is found out later.
fn check_addr(addr: &str) -> Result<(), Failure> {
    let well_formed = addr.rsplit_once(':').is_some_and(|(host, port)| {
        let digits = port.bytes().all(|byte| byte.is_ascii_digit());
        let printable = host.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'/' && byte != b'@');
        !host.is_empty()
            && host.len() <= 255
            && printable
            && digits
            && port.parse::<u16>().is_ok_and(|port| port > 0)
    });
    if well_formed {
        Ok(())
    } else {
        let shown: String = addr.chars().take(64).collect();
        Err(Failure::invalid(format!("{shown:?} is no address; write host:port, such as 10.0.0.1:21001")))
    }
}

/// Form a cluster.
///
/// An empty list makes a cluster of this node alone.
#[utoipa::path(
    post,
    path = "/init",
    tag = "management",
    request_body(content = Vec<(u64, String)>, example = json!([[1, "10.0.0.1:21001"], [2, "10.0.0.2:21001"]])),
    responses(
        (status = 200, description = "the cluster is formed", body = String, example = json!("Ok")),
        (status = 409, description = "the node belongs to a cluster already", body = ErrorAnswer),
        (status = "default", description = "refused or failed", body = ErrorAnswer),
    ),
    security(("cluster_secret" = []))
)]
pub(super) async fn init<B: Backend>(mut call: Call<B>) -> Result<HttpResponse, Failure> {
    call.authorize()?;
    call.query(&[])?;
    let mut permit = call.admit()?;
    let members: Vec<(NodeId, String)> = call.json(&mut permit, r#"[] or [[1,"host:port"]]"#).await?;
    members.iter().try_for_each(|(_, addr)| check_addr(addr))?;
    if members.iter().map(|(id, _)| id).collect::<BTreeSet<_>>().len() < members.len() {
        return Err(Failure::invalid("two members have the same id"));
    }
    call.backend().init(members).await?;
    Ok(done())
}

/// Add a learner.
///
/// Answers once it has caught up.
#[utoipa::path(
    post,
    path = "/add-learner",
    tag = "management",
    request_body(content = (u64, String), example = json!([2, "10.0.0.2:21001"])),
    responses(
        (status = 200, description = "added and caught up", body = String, example = json!("Ok")),
        (status = 504, description = "added, but still catching up at the time limit; it goes on", body = ErrorAnswer),
        (status = "default", description = "refused or failed", body = ErrorAnswer),
    ),
    security(("cluster_secret" = []))
)]
pub(super) async fn add_learner<B: Backend>(mut call: Call<B>) -> Result<HttpResponse, Failure> {
    call.authorize()?;
    call.query(&[])?;
    let mut permit = call.admit()?;
    let (id, addr): (NodeId, String) = call.json(&mut permit, r#"[2,"host:port"]"#).await?;
    check_addr(&addr)?;
    call.backend().add_learner(id, addr).await?;
    Ok(done())
}

/// Choose the voters.
///
/// Answers once the new membership is committed and uniform.
#[utoipa::path(
    post,
    path = "/change-membership",
    tag = "management",
    request_body(content = Vec<u64>, example = json!([1, 2, 3])),
    params(("force" = Option<bool>, Query, description = "carry it out although it looks unsafe")),
    responses(
        (status = 200, description = "committed and uniform", body = String, example = json!("Ok")),
        (status = 409, description = "another change is in progress", body = ErrorAnswer),
        (status = "default", description = "refused or failed", body = ErrorAnswer),
    ),
    security(("cluster_secret" = []))
)]
pub(super) async fn change_membership<B: Backend>(mut call: Call<B>) -> Result<HttpResponse, Failure> {
    call.authorize()?;
    let force = call.query(&["force"])?.flag("force")?;
    let mut permit = call.admit()?;
    let voters: BTreeSet<NodeId> = call.json(&mut permit, "[1,2,3]").await?;
    if voters.is_empty() {
        return Err(Failure::invalid("a cluster without voters can't do anything; name at least one"));
    }
    call.backend().change_membership(voters, force).await?;
    Ok(done())
}

/// A node to add.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct NewMember {
    /// Its id, never used before in this cluster.
    id: NodeId,
    /// Where its peers reach it.
    #[schema(example = "10.0.0.4:21001")]
    addr: String,
}

/// What a member is now.
#[derive(Serialize, ToSchema)]
pub(super) struct MemberAnswer {
    /// Its id.
    id: NodeId,
    /// `voter` or `learner`.
    role: &'static str,
}

/// The member that is gone.
#[derive(Serialize, ToSchema)]
pub(super) struct RemovedAnswer {
    /// Its id.
    removed: NodeId,
}

/// Where leadership goes.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Transfer {
    /// The voter that is to lead; the most caught-up one if absent.
    #[serde(default)]
    to: Option<NodeId>,
}

/// Who leads now.
#[derive(Serialize, ToSchema)]
pub(super) struct LeaderAnswer {
    /// The leader's id.
    leader_id: NodeId,
}

/// List the members.
#[utoipa::path(
    get,
    path = "/v1/members",
    tag = "management",
    responses(
        (status = 200, description = "the members as the leader sees them", body = Members),
        (status = "default", description = "refused or failed", body = ErrorAnswer),
    )
)]
pub(super) async fn members<B: Backend>(call: Call<B>) -> Result<HttpResponse, Failure> {
    call.query(&[])?;
    let _permit = call.admit()?;
    let members = call.backend().members().await?;
    Ok(HttpResponse::Ok().json(members))
}

/// Add a learner.
///
/// Answers once it has caught up.
#[utoipa::path(
    post,
    path = "/v1/members",
    tag = "management",
    request_body = NewMember,
    responses(
        (status = 200, description = "added and caught up", body = MemberAnswer),
        (status = 504, description = "added, but still catching up at the time limit; it goes on", body = ErrorAnswer),
        (status = "default", description = "refused or failed", body = ErrorAnswer),
    ),
    security(("cluster_secret" = []))
)]
pub(super) async fn add_member<B: Backend>(mut call: Call<B>) -> Result<HttpResponse, Failure> {
    call.authorize()?;
    call.query(&[])?;
    let mut permit = call.admit()?;
    let NewMember { id, addr } = call.json(&mut permit, r#"{"id":4,"addr":"host:port"}"#).await?;
    check_addr(&addr)?;
    call.backend().add_learner(id, addr).await?;
    Ok(HttpResponse::Ok().json(MemberAnswer { id, role: "learner" }))
}

/// Make a learner a voter.
#[utoipa::path(
    post,
    path = "/v1/members/{id}/promote",
    tag = "management",
    params(("id" = u64, Path, description = "the learner")),
    responses(
        (status = 200, description = "it votes now", body = MemberAnswer),
        (status = "default", description = "refused or failed", body = ErrorAnswer),
    ),
    security(("cluster_secret" = []))
)]
pub(super) async fn promote<B: Backend>(call: Call<B>) -> Result<HttpResponse, Failure> {
    call.authorize()?;
    call.query(&[])?;
    let id = call.path_number("id")?;
    let _permit = call.admit()?;
    call.backend().promote(id).await?;
    Ok(HttpResponse::Ok().json(MemberAnswer { id, role: "voter" }))
}

/// Remove a member.
#[utoipa::path(
    delete,
    path = "/v1/members/{id}",
    tag = "management",
    params(
        ("id" = u64, Path, description = "the member"),
        ("force" = Option<bool>, Query, description = "remove it although that looks unsafe"),
    ),
    responses(
        (status = 200, description = "it is no member any more", body = RemovedAnswer),
        (status = "default", description = "refused or failed", body = ErrorAnswer),
    ),
    security(("cluster_secret" = []))
)]
pub(super) async fn remove_member<B: Backend>(call: Call<B>) -> Result<HttpResponse, Failure> {
    call.authorize()?;
    let force = call.query(&["force"])?.flag("force")?;
    let id = call.path_number("id")?;
    let _permit = call.admit()?;
    call.backend().remove_member(id, force).await?;
    Ok(HttpResponse::Ok().json(RemovedAnswer { removed: id }))
}

/// Hand leadership over.
#[utoipa::path(
    post,
    path = "/v1/leader/transfer",
    tag = "management",
    request_body = Transfer,
    responses(
        (status = 200, description = "who leads now", body = LeaderAnswer),
        (status = "default", description = "refused or failed", body = ErrorAnswer),
    ),
    security(("cluster_secret" = []))
)]
pub(super) async fn transfer_leader<B: Backend>(mut call: Call<B>) -> Result<HttpResponse, Failure> {
    call.authorize()?;
    call.query(&[])?;
    let mut permit = call.admit()?;
    let Transfer { to } = call.json(&mut permit, r#"{} or {"to":2}"#).await?;
    let leader_id = call.backend().transfer_leader(to).await?;
    Ok(HttpResponse::Ok().json(LeaderAnswer { leader_id }))
}

/// Build a snapshot on this node.
///
/// The log behind it is purged.
#[utoipa::path(
    post,
    path = "/v1/snapshot",
    tag = "management",
    responses(
        (status = 200, description = "the snapshot", body = Object, content_type = "application/json",
            example = json!({"snapshot_id": "1-1-42", "log_id": {"term": 1, "node_id": 1, "index": 42}})),
        (status = "default", description = "refused or failed", body = ErrorAnswer),
    ),
    security(("cluster_secret" = []))
)]
pub(super) async fn build_snapshot<B: Backend>(call: Call<B>) -> Result<HttpResponse, Failure> {
    call.authorize()?;
    call.query(&[])?;
    let _permit = call.admit()?;
    let snapshot = call.backend().build_snapshot().await?;
    Ok(HttpResponse::Ok().json(snapshot))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_a_host_and_a_port() {
        for good in ["127.0.0.1:1", "[::1]:21001", "node-1.example:65535"] {
            assert!(check_addr(good).is_ok(), "{good}");
        }
        for bad in
            ["", ":1", "host", "host:", "host:0", "host:65536", "host:+1", "a b:1", "http://a:1", "u@h:1"]
        {
            assert!(check_addr(bad).is_err(), "{bad}");
        }
    }
}

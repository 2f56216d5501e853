//! The maintenance service: state, hashes, leadership and snapshots of the node that is asked.
//!
//! Alarms are of the whole cluster: whoever is asked raises, disarms and lists them. There is
//! nothing to defragment: space that is no longer needed is given back by itself. Hashes are of
//! the history of changes, and comparable between nodes alone.

use std::sync::Arc;

use kvorum_etcd_proto::etcdserverpb as pb;
use kvorum_etcd_proto::etcdserverpb::alarm_request::AlarmAction;
use kvorum_etcd_proto::etcdserverpb::downgrade_request::DowngradeAction;
use kvorum_etcd_proto::etcdserverpb::maintenance_server::Maintenance;
use tonic::codegen::BoxStream;
use tonic::{Request, Response, Status};

use super::cluster::authorize;
use super::{Context, snapshot, status};
use crate::command::{Alarm, AlarmKind};
use crate::error::Error;
use crate::etcd_api::ETCD_LEVEL;

/// What stands for a compacted revision where there was no compaction.
const NEVER_COMPACTED: i64 = -1;

pub(super) struct MaintenanceService {
    context: Arc<Context>,
}

impl MaintenanceService {
    pub(super) fn new(context: Arc<Context>) -> Self {
        Self { context }
    }

    /// The revision, and the raised alarms of `kind`, or all of them.
    async fn alarms(&self, kind: Option<AlarmKind>) -> Result<(i64, Vec<Alarm>), Status> {
        let listed = self.context.service().alarms().await;
        let (revision, mut alarms) = listed.map_err(|error| status::of(&error))?;
        alarms.retain(|alarm| kind.is_none_or(|kind| alarm.kind == kind));
        Ok((revision, alarms))
    }

    /// Raises or disarms `alarm`. Answers the revision, and the alarm if it is or was raised.
    async fn set_alarm(&self, alarm: Alarm, action: AlarmAction) -> Result<(i64, Vec<Alarm>), Status> {
        let raised = action == AlarmAction::Activate;
        let set = self.context.service().set_alarm(alarm, raised).await;
        let (revision, was_raised) = set.map_err(|error| status::of(&error))?;
        Ok((revision, if raised || was_raised { vec![alarm] } else { Vec::new() }))
    }

    /// Checks a downgrade to `version`; answers the version that the cluster has.
    fn downgrade_to(version: &str) -> Result<String, Status> {
        let target = minor_version(version)
            .ok_or_else(|| Status::invalid_argument("etcdserver: wrong downgrade target version format"))?;
        let (major, minor) = minor_version(ETCD_LEVEL).expect("the level that is served is a version");
        if minor.checked_sub(1).map(|below| (major, below)) != Some(target) {
            return Err(Status::invalid_argument("etcdserver: invalid downgrade target version"));
        }
        Ok(format!("{major}.{minor}"))
    }
}

/// What a client calls an alarm; none is any or no alarm.
fn alarm_kind(alarm: i32) -> Result<Option<AlarmKind>, Status> {
    match pb::AlarmType::try_from(alarm) {
        Ok(pb::AlarmType::None) => Ok(None),
        Ok(pb::AlarmType::Nospace) => Ok(Some(AlarmKind::NoSpace)),
        Ok(pb::AlarmType::Corrupt) => Ok(Some(AlarmKind::Corrupt)),
        Err(_) => Err(Status::invalid_argument("etcdserver: unknown alarm")),
    }
}

fn alarm_member(Alarm { kind, member }: Alarm) -> pb::AlarmMember {
    let alarm = match kind {
        AlarmKind::NoSpace => pb::AlarmType::Nospace,
        AlarmKind::Corrupt => pb::AlarmType::Corrupt,
    };
    pb::AlarmMember { member_id: member, alarm: alarm.into() }
}

/// An alarm among the errors of a status: the message's text form, which leaves a zero out.
fn alarm_text(Alarm { kind, member }: Alarm) -> String {
    if member == 0 { format!("alarm:{kind}") } else { format!("memberID:{member} alarm:{kind}") }
}

/// Major and minor of a version of two or three numbers, the last perhaps with more behind it.
fn minor_version(version: &str) -> Option<(u64, u64)> {
    let number = |text: &str| -> Option<u64> {
        text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
    };
    let plain = version.split(['-', '+']).next()?;
    let mut parts = plain.split('.');
    let (major, minor, patch) = (parts.next()?, parts.next()?, parts.next());
    if parts.next().is_some() || (patch.is_none() && plain.len() < version.len()) {
        return None;
    }
    number(patch.unwrap_or("0"))?;
    Some((number(major)?, number(minor)?))
}

/// The 32 bits that etcd's answers have room for.
fn fold(hash: u64) -> u32 {
    (hash ^ (hash >> 32)) as u32
}

#[tonic::async_trait]
impl Maintenance for MaintenanceService {
    async fn alarm(&self, request: Request<pb::AlarmRequest>) -> Result<Response<pb::AlarmResponse>, Status> {
        let pb::AlarmRequest { action, member_id: member, alarm } = *request.get_ref();
        let action =
            AlarmAction::try_from(action).map_err(|_| Status::unknown("etcdserver: unknown method"))?;
        let kind = alarm_kind(alarm)?;
        let (revision, alarms) = match (action, kind) {
            (AlarmAction::Get, kind) => self.alarms(kind).await?,
            (AlarmAction::Activate | AlarmAction::Deactivate, kind) => {
                authorize(&self.context, request.metadata())?;
                match kind {
                    Some(kind) => self.set_alarm(Alarm { kind, member }, action).await?,
                    // No alarm is none to be raised or disarmed.
                    None => (self.context.service().revision(), Vec::new()),
                }
            }
        };
        let header = Some(self.context.header(revision));
        Ok(Response::new(pb::AlarmResponse {
            header,
            alarms: alarms.into_iter().map(alarm_member).collect(),
        }))
    }

    async fn status(&self, _: Request<pb::StatusRequest>) -> Result<Response<pb::StatusResponse>, Status> {
        let mine = self.context.service().status();
        let bytes = i64::try_from(mine.data_bytes).unwrap_or(i64::MAX);
        let no_leader = mine.leader_id.is_none().then(|| "etcdserver: no leader".to_owned());
        let alarms = self.context.service().known_alarms();
        Ok(Response::new(pb::StatusResponse {
            header: Some(self.context.header_now()),
            version: ETCD_LEVEL.to_owned(),
            db_size: bytes,
            leader: mine.leader_id.unwrap_or(0),
            raft_index: mine.committed_index.unwrap_or(0),
            raft_term: mine.term,
            raft_applied_index: mine.applied_index.unwrap_or(0),
            errors: no_leader.into_iter().chain(alarms.into_iter().map(alarm_text)).collect(),
            // Nothing of it waits for a defragmentation.
            db_size_in_use: bytes,
            is_learner: mine.role == "learner",
            storage_version: ETCD_LEVEL.to_owned(),
            db_size_quota: 0,
            downgrade_info: Some(pb::DowngradeInfo::default()),
        }))
    }

    async fn defragment(
        &self,
        _: Request<pb::DefragmentRequest>,
    ) -> Result<Response<pb::DefragmentResponse>, Status> {
        // etcd answers without a header too.
        Ok(Response::new(pb::DefragmentResponse { header: None }))
    }

    async fn hash(&self, _: Request<pb::HashRequest>) -> Result<Response<pb::HashResponse>, Status> {
        let hashed = self.context.service().hash_at(0).await.map_err(|error| status::of(&error))?;
        let header = Some(self.context.header(hashed.revision));
        Ok(Response::new(pb::HashResponse { header, hash: fold(hashed.hash) }))
    }

    async fn hash_kv(
        &self,
        request: Request<pb::HashKvRequest>,
    ) -> Result<Response<pb::HashKvResponse>, Status> {
        let asked = request.into_inner().revision;
        let hashed = self.context.service().hash_at(asked).await.map_err(|error| status::of(&error))?;
        let header = match asked {
            // Both of the same moment.
            0 => self.context.header(hashed.revision),
            _ => self.context.header_now(),
        };
        Ok(Response::new(pb::HashKvResponse {
            header: Some(header),
            hash: fold(hashed.hash),
            compact_revision: if hashed.compacted > 0 { hashed.compacted } else { NEVER_COMPACTED },
            hash_revision: hashed.revision,
        }))
    }

    type SnapshotStream = BoxStream<pb::SnapshotResponse>;

    async fn snapshot(
        &self,
        _: Request<pb::SnapshotRequest>,
    ) -> Result<Response<Self::SnapshotStream>, Status> {
        let export = self.context.service().etcd_export().map_err(|error| status::of(&error))?;
        Ok(Response::new(snapshot::stream(export)))
    }

    async fn move_leader(
        &self,
        request: Request<pb::MoveLeaderRequest>,
    ) -> Result<Response<pb::MoveLeaderResponse>, Status> {
        authorize(&self.context, request.metadata())?;
        let service = self.context.service();
        if !service.is_leader() {
            return Err(Status::failed_precondition("etcdserver: not leader"));
        }
        match service.transfer_leader(Some(request.into_inner().target_id)).await {
            // etcd answers without a header too.
            Ok(_) => Ok(Response::new(pb::MoveLeaderResponse { header: None })),
            Err(Error::Conflict { code: "not_a_voter", .. }) => {
                Err(Status::failed_precondition("etcdserver: bad leader transferee"))
            }
            Err(
                Error::StillRunning(_)
                | Error::CatchUp { .. }
                | Error::Conflict { code: "unreachable_successor", .. },
            ) => Err(Status::unknown("etcdserver: request timed out, leader transfer took too long")),
            Err(error) => Err(status::of(&error)),
        }
    }

    async fn downgrade(
        &self,
        request: Request<pb::DowngradeRequest>,
    ) -> Result<Response<pb::DowngradeResponse>, Status> {
        authorize(&self.context, request.metadata())?;
        let request = request.into_inner();
        let version = match DowngradeAction::try_from(request.action) {
            Ok(DowngradeAction::Validate) => Self::downgrade_to(&request.version)?,
            Ok(DowngradeAction::Enable) => {
                Self::downgrade_to(&request.version)?;
                return Err(Status::unimplemented(
                    "etcdserver: no etcd can read what a Kvorum node stores; move the data with a snapshot",
                ));
            }
            Ok(DowngradeAction::Cancel) => {
                return Err(Status::failed_precondition("etcdserver: no inflight downgrade job"));
            }
            Err(_) => return Err(Status::unknown("etcdserver: unknown method")),
        };
        let header = Some(self.context.header_now());
        Ok(Response::new(pb::DowngradeResponse { header, version }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_minor_version_below_can_be_gone_back_to() {
        let refusal = |version: &str| MaintenanceService::downgrade_to(version).unwrap_err();
        for version in ["3.6", "3.6.0", "3.6.12", "3.6.0-rc.1", "3.6.1+meta"] {
            assert_eq!(MaintenanceService::downgrade_to(version).unwrap(), "3.7", "{version:?}");
        }
        for version in ["3.7", "3.7.0", "3.5.0", "3.8.0", "2.6.0", "4.6"] {
            let refusal = refusal(version);
            assert_eq!(refusal.message(), "etcdserver: invalid downgrade target version", "{version:?}");
        }
        for version in ["", "3", "3.", "x.y.z", "3.6.0.0", "v3.6.0", "3.-6", "3.6-rc", "3..6"] {
            let refusal = refusal(version);
            assert_eq!(refusal.message(), "etcdserver: wrong downgrade target version format", "{version:?}");
            assert_eq!(refusal.code(), tonic::Code::InvalidArgument);
        }
    }

    #[test]
    fn alarms_are_told_among_errors_as_messages_are_printed() {
        let text = |kind, member| alarm_text(Alarm { kind, member });
        assert_eq!(text(AlarmKind::NoSpace, 7), "memberID:7 alarm:NOSPACE");
        assert_eq!(text(AlarmKind::Corrupt, 0), "alarm:CORRUPT");
        assert_eq!(alarm_kind(3).unwrap_err().code(), tonic::Code::InvalidArgument);
    }

    #[test]
    fn both_halves_of_a_hash_count() {
        assert_eq!(fold(0x0000_0001_0000_0000), 1);
        assert_eq!(fold(0x0000_0000_0000_0001), 1);
        assert_eq!(fold(0xffff_ffff_0000_0000), u32::MAX);
    }
}

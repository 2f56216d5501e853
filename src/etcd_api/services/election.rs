//! The election service: the oldest key under an election's name leads, by what it holds.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::stream;
use kvorum_etcd_proto::v3electionpb as pb;
use kvorum_etcd_proto::v3electionpb::election_server::Election;
use tonic::codegen::BoxStream;
use tonic::{Request, Response, Status};

use super::turn::{self, Contender, RETRY};
use super::{Context, convert, leader, status};
use crate::command::{Compare, DeleteOp, Op, PutOp, Relation, Target, Txn};
use crate::etcd_api::gate::Waiting;
use crate::keyspace::{KeyRange, KeyValue};
use crate::service::Consistency;
use crate::watch::{WatchEvent, WatchMessage, WatchRequest, WatchSession};

pub(super) struct ElectionService {
    context: Arc<Context>,
}

impl ElectionService {
    pub(super) fn new(context: Arc<Context>) -> Self {
        Self { context }
    }

    /// Does `op` to the key of `leader` if that still is the key which was elected. Answers the
    /// revision and whether it was.
    async fn as_leader(&self, leader: &pb::LeaderKey, op: Op) -> Result<(i64, bool), Status> {
        let elected = Compare {
            keys: KeyRange::One(leader.key.clone()),
            target: Target::CreateRevision(leader.rev),
            relation: Relation::Equal,
        };
        let txn = Txn { compares: vec![elected], success: vec![op], failure: Vec::new() };
        let done = self.context.service().txn(txn, None, Consistency::Linearizable).await;
        let (revision, done) = done.map_err(|error| status::of(&error))?;
        Ok((revision, done.succeeded))
    }
}

/// The leader that a request must name.
fn named(leader: Option<pb::LeaderKey>) -> Result<pb::LeaderKey, Status> {
    let leader = leader.ok_or_else(|| Status::unknown("\"leader\" field must be provided"))?;
    if leader.key.is_empty() { Err(status::empty_key()) } else { Ok(leader) }
}

#[tonic::async_trait]
impl Election for ElectionService {
    async fn campaign(
        &self,
        request: Request<pb::CampaignRequest>,
    ) -> Result<Response<pb::CampaignResponse>, Status> {
        let waiting = request.extensions().get::<Waiting>().cloned();
        let pb::CampaignRequest { name, lease, value } = request.into_inner();
        let contender = Contender { name: name.clone(), lease, value, lost: "election: session is expired" };
        let turn = turn::take(&self.context, waiting, contender).await?;
        Ok(Response::new(pb::CampaignResponse {
            header: Some(self.context.header(turn.revision)),
            leader: Some(pb::LeaderKey { name, key: turn.key, rev: turn.created, lease: turn.lease }),
        }))
    }

    async fn proclaim(
        &self,
        request: Request<pb::ProclaimRequest>,
    ) -> Result<Response<pb::ProclaimResponse>, Status> {
        let pb::ProclaimRequest { leader, value } = request.into_inner();
        let leader = named(leader)?;
        let put = PutOp {
            key: leader.key.clone(),
            value: Some(value),
            // Without a lease the key would lead for good.
            lease: Some(leader.lease).filter(|lease| *lease != 0),
            want_previous: false,
        };
        let (revision, is_leader) = self.as_leader(&leader, Op::Put(put)).await?;
        if !is_leader {
            return Err(Status::unknown("election: not leader"));
        }
        Ok(Response::new(pb::ProclaimResponse { header: Some(self.context.header(revision)) }))
    }

    async fn leader(
        &self,
        request: Request<pb::LeaderRequest>,
    ) -> Result<Response<pb::LeaderResponse>, Status> {
        let first = turn::first(&request.into_inner().name);
        let read = self.context.service().read(first, Consistency::Linearizable).await;
        let (revision, found) = read.map_err(|error| status::of(&error))?;
        let leader = found.items.into_iter().next();
        let leader = leader.ok_or_else(|| Status::unknown("election: no leader"))?;
        Ok(Response::new(response(&self.context, revision, leader)))
    }

    type ObserveStream = BoxStream<pb::LeaderResponse>;

    async fn observe(
        &self,
        request: Request<pb::LeaderRequest>,
    ) -> Result<Response<Self::ObserveStream>, Status> {
        let needs_leader = leader::is_demanded(request.metadata());
        let observer = Observer {
            context: Arc::clone(&self.context),
            name: request.into_inner().name,
            watched: Watched::Nothing,
            seen: VecDeque::new(),
        };
        let responses = stream::try_unfold(observer, async |mut observer| {
            let response = observer.next().await?;
            Ok(Some((response, observer)))
        });
        if !needs_leader {
            return Ok(Response::new(Box::pin(responses)));
        }
        let lost = self.context.leader_lost();
        Ok(Response::new(Box::pin(leader::until_lost(responses, lost))))
    }

    async fn resign(
        &self,
        request: Request<pb::ResignRequest>,
    ) -> Result<Response<pb::ResignResponse>, Status> {
        let leader = named(request.into_inner().leader)?;
        let keys = KeyRange::One(leader.key.clone());
        let (revision, _) =
            self.as_leader(&leader, Op::Delete(DeleteOp { keys, want_previous: false })).await?;
        Ok(Response::new(pb::ResignResponse { header: Some(self.context.header(revision)) }))
    }
}

fn response(context: &Context, revision: i64, leader: KeyValue) -> pb::LeaderResponse {
    pb::LeaderResponse { header: Some(context.header(revision)), kv: Some(convert::key_value(leader)) }
}

/// Follows the leaders of one election: whoever leads now, what it proclaims, and who leads
/// after it. A leader that came and went before it was looked for may be left out.
struct Observer {
    context: Arc<Context>,
    name: Bytes,
    watched: Watched,
    /// What was seen and is to be told.
    seen: VecDeque<pb::LeaderResponse>,
}

enum Watched {
    /// Who leads must be looked up.
    Nothing,
    /// Nobody leads, and whoever comes will.
    Newcomers(WatchSession),
    /// The key of the leader.
    Leader(WatchSession),
}

impl Observer {
    /// The next thing to tell.
    ///
    /// # Errors
    /// When the node stops, or the election can't be read.
    async fn next(&mut self) -> Result<pb::LeaderResponse, Status> {
        loop {
            if let Some(response) = self.seen.pop_front() {
                return Ok(response);
            }
            let (session, leads) = match &mut self.watched {
                Watched::Nothing => {
                    self.look_up().await?;
                    continue;
                }
                Watched::Newcomers(session) => (session, false),
                Watched::Leader(session) => (session, true),
            };
            match session.next().await {
                WatchMessage::Events { events, .. } if leads => self.follow(&events),
                WatchMessage::Events { events, .. } => self.welcome(&events)?,
                WatchMessage::Canceled { .. } => self.watched = Watched::Nothing,
                WatchMessage::Created { .. } | WatchMessage::Progress { .. } => {}
                WatchMessage::Closed => return Err(status::stopped()),
            }
        }
    }

    async fn look_up(&mut self) -> Result<(), Status> {
        let service = self.context.service();
        let (revision, found) = loop {
            match service.read(turn::first(&self.name), Consistency::Linearizable).await {
                Ok(read) => break read,
                Err(error) if turn::is_passing(&error) => tokio::time::sleep(RETRY).await,
                Err(error) => return Err(status::of(&error)),
            }
        };
        self.watched = match found.items.into_iter().next() {
            Some(leader) => {
                let session = self.watch(KeyRange::One(leader.key.clone()), revision + 1, false)?;
                self.seen.push_back(response(&self.context, revision, leader));
                Watched::Leader(session)
            }
            None => Watched::Newcomers(self.watch(turn::contenders(&self.name), revision + 1, true)?),
        };
        Ok(())
    }

    fn watch(&self, keys: KeyRange, from: i64, no_delete: bool) -> Result<WatchSession, Status> {
        let mut session = self.context.service().watch().session();
        let request = WatchRequest { from: Some(from), no_delete, ..WatchRequest::of(keys) };
        session.create(request).map_err(turn::refused)?;
        Ok(session)
    }

    /// What the leader did.
    fn follow(&mut self, events: &[WatchEvent]) {
        for event in events {
            let Some(leader) = item(event) else {
                self.watched = Watched::Nothing;
                return;
            };
            self.seen.push_back(response(&self.context, event.revision(), leader));
        }
    }

    /// The first who came leads.
    fn welcome(&mut self, events: &[WatchEvent]) -> Result<(), Status> {
        let first = events.iter().find_map(|event| Some((event.revision(), item(event)?)));
        if let Some((revision, leader)) = first {
            let session = self.watch(KeyRange::One(leader.key.clone()), revision + 1, false)?;
            self.watched = Watched::Leader(session);
            self.seen.push_back(response(&self.context, revision, leader));
        }
        Ok(())
    }
}

/// What the event set the key to; `None` if it was removed.
fn item(event: &WatchEvent) -> Option<KeyValue> {
    Some(KeyValue { key: event.key().clone(), record: event.record()?.clone() })
}

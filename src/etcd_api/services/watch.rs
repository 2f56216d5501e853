//! The watch service: one session of the hub for each stream.
//!
//! A stream lives until its client ends it or goes away; that requests have ended is no end,
//! because clients without HTTP/2 send one request and then only read. Nothing is read from the
//! hub before the client has room for it, so a client that does not read costs what the hub
//! bounds.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::stream;
use kvorum_etcd_proto::etcdserverpb::watch_create_request::FilterType;
use kvorum_etcd_proto::etcdserverpb::watch_request::RequestUnion;
use kvorum_etcd_proto::etcdserverpb::watch_server::Watch;
use kvorum_etcd_proto::mvccpb::event::EventType;
use kvorum_etcd_proto::{etcdserverpb as pb, mvccpb};
use tonic::codegen::BoxStream;
use tonic::{Request, Response, Status, Streaming};

use super::{Context, convert, leader, status};
use crate::keyspace::{KeyRange, KeyValue, Record};
use crate::mvcc::ChangeKind;
use crate::watch::{CancelReason, WatchEvent, WatchMessage, WatchRefusal, WatchRequest, WatchSession};

/// The id in answers about a watcher that was not created.
const NO_WATCHER: i64 = -1;

pub(super) struct WatchService {
    context: Arc<Context>,
}

impl WatchService {
    pub(super) fn new(context: Arc<Context>) -> Self {
        Self { context }
    }
}

#[tonic::async_trait]
impl Watch for WatchService {
    type WatchStream = BoxStream<pb::WatchResponse>;

    async fn watch(
        &self,
        request: Request<Streaming<pb::WatchRequest>>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let needs_leader = leader::is_demanded(request.metadata());
        let watching = Watching {
            session: self.context.service().watch().session(),
            context: Arc::clone(&self.context),
            requests: Some(request.into_inner()),
        };
        let responses = stream::try_unfold(watching, async |mut watching| {
            let response = watching.next().await?;
            Ok(Some((response, watching)))
        });
        if !needs_leader {
            return Ok(Response::new(Box::pin(responses)));
        }
        let lost = self.context.leader_lost();
        Ok(Response::new(Box::pin(leader::until_lost(responses, lost))))
    }
}

/// A stream of watchers, as its client sees it.
struct Watching {
    context: Arc<Context>,
    session: WatchSession,
    /// `None` once they have ended.
    requests: Option<Streaming<pb::WatchRequest>>,
}

impl Watching {
    /// The next response, when there is one.
    ///
    /// # Errors
    /// When the node stops, or the requests broke off.
    async fn next(&mut self) -> Result<pb::WatchResponse, Status> {
        loop {
            let Some(requests) = &mut self.requests else {
                let message = self.session.next().await;
                return self.response(message);
            };
            tokio::select! {
                message = self.session.next() => return self.response(message),
                request = requests.message() => match request? {
                    Some(request) => {
                        if let Some(response) = self.answer(request) {
                            return Ok(response);
                        }
                    }
                    None => self.requests = None,
                },
            }
        }
    }

    /// Carries a request out; answers what the hub will not tell.
    fn answer(&mut self, request: pb::WatchRequest) -> Option<pb::WatchResponse> {
        match request.request_union? {
            RequestUnion::CreateRequest(request) => {
                let created = wish(request).and_then(|wish| {
                    self.session.create(wish).map_err(|refusal| match refusal {
                        WatchRefusal::DuplicateId => {
                            "mvcc: duplicate watch ID provided on the WatchStream".to_owned()
                        }
                        WatchRefusal::TooMany { .. } => format!("etcdserver: {refusal}"),
                    })
                });
                let cancel_reason = created.err()?;
                Some(pb::WatchResponse {
                    header: Some(self.context.header_now()),
                    watch_id: NO_WATCHER,
                    created: true,
                    canceled: true,
                    cancel_reason,
                    ..pb::WatchResponse::default()
                })
            }
            RequestUnion::CancelRequest(request) => {
                // Nothing is said of a watcher that there is not.
                self.session.cancel(request.watch_id);
                None
            }
            RequestUnion::ProgressRequest(pb::WatchProgressRequest {}) => {
                self.session.request_progress();
                None
            }
        }
    }

    fn response(&self, message: WatchMessage) -> Result<pb::WatchResponse, Status> {
        let of = |watch_id, revision| pb::WatchResponse {
            header: Some(self.context.header(revision)),
            watch_id,
            ..pb::WatchResponse::default()
        };
        Ok(match message {
            WatchMessage::Created { id, revision } => pb::WatchResponse { created: true, ..of(id, revision) },
            WatchMessage::Events { id, revision, events, more } => pb::WatchResponse {
                fragment: more,
                events: events.iter().map(event).collect(),
                ..of(id, revision)
            },
            // Its number for all watchers is etcd's too.
            WatchMessage::Progress { id, revision } => of(id, revision),
            WatchMessage::Canceled { id, revision, reason } => pb::WatchResponse {
                canceled: true,
                compact_revision: match reason {
                    CancelReason::ByClient => 0,
                    CancelReason::Compacted { compacted } => compacted,
                },
                ..of(id, revision)
            },
            WatchMessage::Closed => return Err(status::stopped()),
        })
    }
}

/// What a client wants to watch.
///
/// # Errors
/// Why that can't be, in etcd's words.
fn wish(request: pb::WatchCreateRequest) -> Result<WatchRequest, String> {
    let keys = match (request.key, request.range_end) {
        (key, end) if end.as_ref() == b"\0" => KeyRange::From(key),
        (key, end) if end.is_empty() => {
            // An empty key stands for the least that there can be.
            KeyRange::One(if key.is_empty() { Bytes::from_static(b"\0") } else { key })
        }
        (start, end) if start < end => KeyRange::Between { start, end },
        _ => return Err("mvcc: watcher range is empty".to_owned()),
    };
    let filters = |kind: FilterType| request.filters.contains(&kind.into());
    Ok(WatchRequest {
        keys,
        from: match request.start_revision {
            0 => None,
            from => Some(from.max(1)),
        },
        with_previous: request.prev_kv,
        no_put: filters(FilterType::Noput),
        no_delete: filters(FilterType::Nodelete),
        progress: request.progress_notify,
        fragment: request.fragment,
        id: Some(request.watch_id).filter(|id| *id != 0),
    })
}

fn event(event: &WatchEvent) -> mvccpb::Event {
    let item =
        |record: &Record| convert::key_value(KeyValue { key: event.key().clone(), record: record.clone() });
    let (kind, now) = match event.kind() {
        ChangeKind::Put => (EventType::Put, event.record().map(item)),
        ChangeKind::Delete => {
            let key = event.key().clone();
            let gone = mvccpb::KeyValue { key, mod_revision: event.revision(), ..Default::default() };
            (EventType::Delete, Some(gone))
        }
    };
    mvccpb::Event { r#type: kind.into(), kv: now, prev_kv: event.previous().map(item) }
}

#[cfg(test)]
mod tests;

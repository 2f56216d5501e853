//! What all services need: the layer below, and the header of every answer.

use kvorum_etcd_proto::etcdserverpb::ResponseHeader;

use super::leader::LeaderWatch;
use crate::service::Service;

/// The service layer, with what answers to etcd's clients carry besides.
pub struct Context {
    service: Service,
    leader: LeaderWatch,
}

impl Context {
    /// Answers by `service`.
    pub fn new(service: Service) -> Self {
        Self { leader: LeaderWatch::new(service.clone()), service }
    }

    /// The layer that carries requests out.
    pub(super) fn service(&self) -> &Service {
        &self.service
    }

    /// The largest request.
    pub(super) fn max_request_bytes(&self) -> usize {
        self.service.limits().max_request_bytes
    }

    /// The header of an answer that reflects `revision`.
    pub(super) fn header(&self, revision: i64) -> ResponseHeader {
        let identity = self.service.identity();
        ResponseHeader {
            cluster_id: identity.cluster_id,
            member_id: identity.member_id,
            revision,
            raft_term: identity.term,
        }
    }

    /// The header of an answer that speaks of no state: with the revision of this node.
    pub(super) fn header_now(&self) -> ResponseHeader {
        self.header(self.service.revision())
    }

    /// Waits until this node has been without a leader for some time.
    pub(super) fn leader_lost(&self) -> impl Future<Output = ()> + Send + use<> {
        self.leader.lost()
    }
}

//! Makes the connections that Openraft asks for, each with its own purpose.

use openraft::network::RaftNetworkFactory;

use super::connection::Peer;
use super::snapshot_sender::Pace;
use super::transport::{Purpose, Transport};
use crate::{Member, NodeId, TypeConfig};

/// Openraft's access to all peers.
#[derive(Debug, Clone)]
pub struct Network {
    transport: Transport,
    pace: Pace,
}

impl Network {
    /// A network over `transport` that sends snapshots at `pace`.
    pub fn new(transport: Transport, pace: Pace) -> Self {
        Self { transport, pace }
    }

    fn peer(&self, target: NodeId, node: &Member, append_purpose: Purpose) -> Peer {
        Peer::new(self.transport.clone(), target, node.addr.clone(), append_purpose, self.pace)
    }
}

impl RaftNetworkFactory<TypeConfig> for Network {
    type Network = Peer;

    async fn new_client(&mut self, target: NodeId, node: &Member) -> Peer {
        self.peer(target, node, Purpose::Append)
    }

    async fn new_heartbeat_client(&mut self, target: NodeId, node: &Member) -> Peer {
        self.peer(target, node, Purpose::Heartbeat)
    }

    async fn new_snapshot_client(&mut self, target: NodeId, node: &Member) -> Peer {
        self.peer(target, node, Purpose::Snapshot)
    }
}

//! How nodes talk to each other: Openraft's network over HTTP POST.
//!
//! One path per message (`/append`, `/vote`, `/pre-vote`, `/snapshot`,
//! `/transfer-leader`, `/forward`), and one pool of connections per purpose, so
//! that a snapshot or a full pipeline of appends never delays a heartbeat. Log
//! replication is one long exchange per leader and follower: requests stream up
//! and answers stream down, without waiting for each other.
//!
//! Every message names its cluster, its sender and the node it is meant for;
//! [`Inbound`] believes none before it has checked them. A transport error is
//! always reported as an error and never as an answer: an answer could be
//! counted as a vote.

pub mod append_stream;
pub mod carrier;
pub mod connection;
pub mod factory;
pub mod forward;
pub mod inbound;
pub mod plausible;
pub mod snapshot_receiver;
pub mod snapshot_sender;
pub mod transport;
pub mod wire;

pub use connection::Peer;
pub use factory::Network;
pub use inbound::Inbound;
pub use transport::Transport;

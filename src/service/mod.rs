//! What a request means: the sole door to Raft and to the state.
//!
//! Fronts hand in commands and queries and get answers or an
//! [`Error`](crate::error::Error); they need not know who leads. This layer
//! proposes or forwards writes ([`consensus`]), confirms reads ([`read_index`]),
//! reads the local state ([`kv`], [`txn`]), keeps leases ([`lease`]) and alarms
//! ([`alarm`]), and guards changes of the membership ([`cluster`]). It knows no
//! protocol.
//!
//! A write that certainly was not carried out is tried again within the
//! request's time limit, on whichever node leads by then. One whose fate is
//! unknown never is: the caller is told so, since trying again could do it twice.

pub mod alarm;
pub mod cluster;
pub mod consensus;
pub mod etcd_export;
pub mod handle;
pub mod kv;
mod leadership;
pub mod lease;
pub mod member_list;
pub mod read_index;
pub mod report;
pub mod status;
mod succession;
pub mod txn;

mod check;
mod forwarder;
mod joint;
mod lease_clock;
mod lessor;
mod proposer;
mod renewals;
mod token_clock;
mod write_queue;

pub use etcd_export::{EtcdExport, EtcdSnapshot};
pub use handle::{Service, ServiceOptions, ServiceParts};
pub use kv::Consistency;
pub use lease::{LeaseGranted, LeaseRenewed, LeaseStatus, MAX_LEASE_TTL};
pub use member_list::ClusterMember;
pub use status::{Identity, MemberStatus, Members, RaisedAlarm, SnapshotInfo, StateHash, Status};

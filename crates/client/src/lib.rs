//! A typed client for Kvorum's HTTP API.
//!
//! [`Client`] knows the addresses of some nodes; any of them takes any call. It
//! stays with a node that answers, moves on when one does not, and repeats a
//! call only when that cannot apply a write twice: reads always, writes when the
//! cluster certainly did not carry them out, when they carry an idempotency key, or
//! when doing them twice does no more than doing them once. A write whose fate it cannot know ends as [`Error::OutcomeUnknown`] and
//! as nothing else.
//!
//! On top of the calls stand what lives longer than one: a [`Watch`] that goes on
//! when its connection breaks, a lease that is kept alive ([`KeepAlive`], [`Session`]),
//! and the locks and elections that rest on it.
//!
//! It speaks plain HTTP and knows neither Raft nor how the cluster stores data.
//!
//! ```no_run
//! # async fn example() -> Result<(), kvorum_client::Error> {
//! use kvorum_client::{Client, GetOptions, PutOptions};
//!
//! let client = Client::builder().endpoints(["127.0.0.1:21001", "127.0.0.1:21002"]).build()?;
//! client.put("greeting", "hello", PutOptions::default()).await?;
//! let found = client.get("greeting", GetOptions::default()).await?;
//! assert!(found.is_some_and(|found| found.value == "hello"));
//! # Ok(())
//! # }
//! ```

mod batch;
mod builder;
mod call;
mod cluster;
mod compact;
mod endpoint;
mod error;
mod item;
mod keep_alive;
mod kv;
mod lease;
mod list;
mod lock;
mod query;
mod range;
mod session;
mod sse;
mod txn;
mod watch;

pub use batch::BatchAnswer;
pub use builder::{Builder, Client, DEFAULT_TIMEOUT};
pub use cluster::{LogId, Member, MemberRole, Members, NodeRole, NodeStatus, Snapshot, VersionInfo};
pub use compact::Compacted;
pub use error::Error;
pub use item::{Item, insert_bytes};
pub use keep_alive::KeepAlive;
pub use kv::{Condition, Consistency, DeleteOptions, Deleted, Found, GetOptions, PutOptions, Written};
pub use lease::{Lease, LeaseStatus, Leases, Revoked};
pub use list::{Count, ListOptions, Page, Scan};
pub use lock::{Candidate, Held, Leader, Observer};
pub use range::Range;
pub use session::Session;
pub use txn::{
    Compare, Get, Operation, OperationResult, Put, Relation, SortBy, Target, Txn, TxnAnswer, TxnOptions,
};
pub use watch::{Event, EventKind, Watch, WatchMessage, WatchOptions};

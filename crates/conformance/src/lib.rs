//! Holds a server to etcd's behaviour, by clients that know nothing of the server.
//!
//! [`differential`] asks two servers the same and compares every answer; [`watch`]
//! records what watchers were told while writers wrote, and checks it against etcd's
//! six promises. Nothing here depends on Kvorum: both work on any server of the
//! interface, and are proved on etcd itself.

pub mod answer;
pub mod differential;
pub mod generate;
pub mod server;
pub mod step;
pub mod versions;
pub mod watch;

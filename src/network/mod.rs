//! The HTTP front: Actix-web in, [`Error`](crate::error::Error) or JSON out.
//!
//! This layer validates and translates, nothing more. It knows neither `RocksDB`
//! nor Openraft: what it needs from below is named by [`Backend`], and
//! [`Service`](crate::service::Service) provides it. Peers' calls are mounted
//! from outside (see [`start`]) and share the listener, not the limits.
//!
//! What holds whatever a client sends:
//!
//! 1. No input panics a worker. What Actix can parse as HTTP is answered with
//!    the documented JSON error; what it can't is answered by Actix itself with
//!    an empty 400, 408 or 431, and the connection is closed.
//! 2. Memory is bounded. Requests and the bytes of their bodies are counted
//!    while they are in flight (`admission`), an oversized body is refused at
//!    the byte that crosses the limit, and a large answer leaves in slices that
//!    stay counted until the client has taken them (`paced`).
//! 3. A write that was handed to the backend is never timed out here. If its
//!    connection breaks, the answer is abandoned, and the write may still commit.
//! 4. An answer that breaks off can't be taken for a whole one: the connection
//!    is aborted and the JSON is left open.
//! 5. Unknown query parameters and fields are refused. A mistyped `prefix` must
//!    not list the whole store.
//!
//! A request runs `server` (routes) → `call` (limits, credentials, body,
//! query) → a handler in `api`, `kv`, `txn`, `batch`, `watch`, `leases`,
//! `compaction`, `management` or `status` → [`Backend`]; failures become answers
//! in `error`. `openapi` describes all routes, and a test holds it equal to what
//! `routes` serves.

pub mod etcd_gateway;
pub mod raft;

mod admission;
mod api;
mod backend;
mod batch;
mod call;
mod compaction;
mod cursor;
mod error;
mod etag;
mod kv;
mod leases;
mod management;
mod openapi;
mod operations;
mod paced;
mod place;
mod query;
mod routes;
mod server;
mod status;
mod txn;
mod watch;

#[cfg(test)]
mod tests;

pub use backend::Backend;
pub use server::{HttpOptions, HttpServer, bind, start, start_peer};

//! Tests of the parts of a cluster, without a server.

mod control;
mod disk;
mod node;
mod proxy;
mod status;

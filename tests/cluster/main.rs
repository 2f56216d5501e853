//! Clusters of real nodes: what they promise while nodes stop, die, freeze, are
//! cut off, join and leave.
//!
//! Most tests run the server's binary, one process for each node; the basics run
//! in this process too. See `support` for how nodes are started and watched.

// The attribute tells Clippy that helpers are test code as well.
#[cfg(test)]
mod catch_up;
#[cfg(test)]
mod cli;
#[cfg(test)]
mod etcd_services;
#[cfg(test)]
mod failover;
#[cfg(test)]
mod folder;
#[cfg(test)]
mod hazards;
#[cfg(test)]
mod http_api;
#[cfg(test)]
mod idempotency;
#[cfg(test)]
mod leases;
#[cfg(test)]
mod membership;
#[cfg(test)]
mod partition;
#[cfg(test)]
mod peers;
#[cfg(test)]
mod reads;
#[cfg(test)]
mod single;
#[cfg(test)]
#[path = "../support/mod.rs"]
mod support;
#[cfg(test)]
mod turns;

//! etcd's promises about watches, checked on what watchers were told.
//!
//! [`history`] is what was written and what was told, as data. [`promises`] judges it
//! and needs no server. [`observer`] makes a history: writers and watchers on all
//! nodes of a cluster, whose nodes may be killed and started again meanwhile.

pub mod history;
pub mod observer;
pub mod promises;
#[cfg(test)]
mod tests;

pub use observer::{Plan, Report, observe};

//! Proves Kvorum's promises by trying to break them.
//!
//! A run starts nodes as processes, lets clients work on them through every node and
//! interface, and does to them meanwhile what happens to machines: kills, power losses,
//! partitions, pauses, failing disks, jumping clocks. All that clients were told is
//! written down ([`history`]), and once the cluster has come to rest, checkers that know
//! nothing of the faults look for an answer that was a lie.

pub mod check;
pub mod cluster;
pub mod dice;
pub mod fault;
pub mod history;
pub mod ledger;
pub mod record;
pub mod report;
pub mod run;
pub mod timeline;
pub mod workload;

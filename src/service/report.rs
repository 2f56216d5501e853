//! Figures for machines: the seed's JSON and Prometheus' text.

use std::sync::atomic::{AtomicU64, Ordering};

use openraft::ServerState;
use serde_json::{Value, json};

use super::handle::Service;
use super::status::resident_bytes;
use crate::metrics::Figures;

impl Service {
    /// Raft's metrics as `/metrics` gives them in JSON.
    pub fn raft_metrics(&self) -> Value {
        let metrics = self.metrics();
        let membership = &metrics.membership_config;
        let nodes: serde_json::Map<_, _> =
            membership.nodes().map(|(id, member)| (id.to_string(), json!({"addr": member.addr}))).collect();
        let replication = metrics.replication.as_ref().map(|replication| {
            let entries = replication.iter().map(|(id, log_id)| (id.to_string(), json!(log_id)));
            Value::Object(entries.collect())
        });
        json!({
            "id": metrics.id,
            "current_term": metrics.current_term,
            "current_leader": metrics.current_leader,
            "state": format!("{:?}", metrics.state),
            "vote": metrics.vote,
            "last_log_index": metrics.last_log_index,
            "last_applied": metrics.last_applied.map(|log_id| log_id.index),
            "snapshot": metrics.snapshot,
            "purged": metrics.purged,
            "membership": {
                "log_id": membership.log_id(),
                "configs": membership.get_joint_config(),
                "nodes": nodes,
            },
            "replication": replication,
        })
    }

    /// All figures in OpenMetrics' text form.
    pub fn prometheus(&self) -> String {
        let mut figures = Figures::default();
        self.raft_figures(&mut figures);
        self.storage_figures(&mut figures);
        self.request_figures(&mut figures);
        self.watch_figures(&mut figures);
        if let Some(more) = self.inner.more_figures.get() {
            more(&mut figures);
        }
        figures.encode().unwrap_or_default()
    }

    fn raft_figures(&self, out: &mut Figures) {
        let metrics = self.metrics();
        let index = |log_id: Option<crate::LogId>| log_id.map_or(0, |it| it.index);
        let is_leader = u64::from(metrics.state == ServerState::Leader);
        out.gauge("node_id", "Id of this node", metrics.id);
        out.gauge("raft_term", "Current term", metrics.current_term);
        out.gauge("raft_is_leader", "Whether this node leads (0 or 1)", is_leader);
        out.gauge(
            "raft_has_leader",
            "Whether this node knows a leader (0 or 1)",
            u64::from(metrics.current_leader.is_some()),
        );
        out.gauge("raft_leader_id", "Id of the leader, 0 when unknown", metrics.current_leader.unwrap_or(0));
        out.gauge("raft_voters", "Voters in the membership", metrics.membership_config.voter_ids().count());
        out.gauge("raft_last_log_index", "Index of the last log entry", metrics.last_log_index.unwrap_or(0));
        out.gauge(
            "raft_committed_index",
            "Index of the last committed entry",
            index(metrics.local_committed),
        );
        out.gauge("raft_applied_index", "Index of the last applied entry", index(metrics.last_applied));
        out.gauge("raft_snapshot_index", "Index of the last entry in the snapshot", index(metrics.snapshot));
        out.gauge("raft_purged_index", "Index of the last purged entry", index(metrics.purged));
    }

    fn watch_figures(&self, out: &mut Figures) {
        let watch = self.inner.watch.counters();
        out.gauge("watch_sessions", "Open streams of watchers", watch.sessions);
        out.gauge("watch_watchers", "Watchers", watch.watchers);
        out.gauge("watch_unsynced_watchers", "Watchers that read from history to catch up", watch.unsynced);
        out.gauge("watch_queue_bytes", "Bytes of changes that wait for slow clients", watch.queue_bytes);
        out.gauge("watch_recent_bytes", "Bytes of the newest changes in memory", watch.recent_bytes);
        out.counter("watch_events", "Changes handed to watchers", watch.events);
        out.counter("watch_fell_behind", "Watchers whose client read too slowly, times", watch.fell_behind);
        out.counter("watch_catch_up_turns", "Pieces of history read for watchers", watch.catch_up_turns);
        out.counter("watch_disk_reads", "Reads of changes from disk for watchers", watch.disk_reads);
        out.counter("watch_compacted", "Watchers ended by a compaction", watch.compacted);
    }

    fn storage_figures(&self, out: &mut Figures) {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let log = self.inner.log.metrics();
        out.counter("log_appended_entries", "Entries appended to the log", log.appended_entries);
        out.counter("log_appended_bytes", "Bytes appended to the log", log.appended_bytes);
        out.counter("log_syncs", "Synced writes of the log", log.syncs);
        out.seconds("log_sync_time", "Time spent in synced writes of the log", log.sync_micros);
        out.gauge("log_cache_bytes", "Bytes of recent log entries in memory", log.cache_bytes);
        let apply = self.inner.store.counters();
        out.counter("applied_entries", "Log entries applied", get(&apply.entries));
        out.counter("apply_batches", "Write batches of applied entries", get(&apply.batches));
        out.counter("snapshots_built", "Snapshots built", get(&apply.snapshots_built));
        out.counter(
            "snapshots_installed",
            "Snapshots installed from a peer",
            get(&apply.snapshots_installed),
        );
        let store = self.inner.store.store();
        out.gauge("revision", "Revision of the data", store.revision());
        out.gauge("compacted_revision", "Newest compacted revision", store.compacted_revision());
        out.gauge("keys_estimate", "Estimated number of keys", store.approximate_keys());
        out.gauge("state_bytes", "Bytes of the state on disk", store.disk_bytes());
        out.gauge("log_bytes", "Bytes of the log on disk", self.inner.data.log_bytes());
    }

    fn request_figures(&self, out: &mut Figures) {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let requests = &self.inner.counters;
        out.counter("writes", "Writes asked of this node", get(&requests.writes));
        out.counter("writes_forwarded", "Writes carried to the leader", get(&requests.writes_forwarded));
        out.counter("writes_failed", "Writes answered with an error", get(&requests.writes_failed));
        out.counter("reads_linearizable", "Linearizable reads", get(&requests.reads_linearizable));
        out.counter("reads_local", "Local reads", get(&requests.reads_local));
        out.counter("read_index_rounds", "Confirmations shared by reads", get(&requests.read_index_rounds));
        out.counter("txns", "Transactions asked of this node", get(&requests.txns));
        out.gauge("leases", "Leases that live", self.inner.store.leases().len());
        out.gauge("alarms", "Alarms that are raised", self.known_alarms().len());
        out.counter("lease_renewals", "Leases renewed through this node", get(&requests.lease_renewals));
        out.counter(
            "leases_expired",
            "Leases that this node ended as the leader, as their time was up",
            get(&requests.leases_expired),
        );
        let inflight = "Bytes of requests and answers that count against max_inflight_bytes";
        out.gauge("inflight_bytes", inflight, self.inner.inflight.held());
        out.gauge("resident_memory_bytes", "Resident memory of the process", resident_bytes());
        out.gauge("uptime_seconds", "Seconds since the node started", self.inner.started.elapsed().as_secs());
    }
}

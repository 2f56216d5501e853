//! The result as JSON, as text, and as a timeline.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, BufWriter, Write as _};
use std::path::Path;
use std::time::Duration;

use serde::Serialize;

use crate::process::Watched;
use crate::run::Outcome;
use crate::stats::{SLOT, Slot};

/// The JSON form of a result. Fields are only ever added.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    workload: String,
    api: &'static str,
    endpoints: Vec<String>,
    leader_only: bool,
    clients: usize,
    connections: usize,
    keys: u64,
    key_size: usize,
    value_size: usize,
    /// From the start of the measurement to the last answer.
    seconds: f64,
    /// Operations that succeeded.
    operations: u64,
    operations_per_second: f64,
    kinds: Vec<OfKind>,
    /// Reads whose key was not there; they are among the operations.
    absent: u64,
    errors: Errors,
    /// Null when the workload only reads.
    writes: Option<Writes>,
    client: Client,
    servers: Vec<Server>,
    /// CPU time of all named servers per operation, microseconds.
    servers_cpu_us_per_operation: Option<f64>,
    gave_up: bool,
}

#[derive(Debug, Serialize)]
struct OfKind {
    #[serde(rename = "kind")]
    name: &'static str,
    operations: u64,
    operations_per_second: f64,
    latency_us: Latency,
}

#[derive(Debug, Serialize)]
struct Latency {
    mean: f64,
    p50: f64,
    p90: f64,
    p99: f64,
    p99_9: f64,
    max: f64,
}

#[derive(Debug, Serialize)]
struct Errors {
    total: u64,
    by_kind: Vec<ErrorKind>,
    samples: Vec<String>,
}

#[derive(Debug, Serialize)]
struct ErrorKind {
    kind: String,
    count: u64,
}

#[derive(Debug, Serialize)]
struct Writes {
    /// The longest time without an acknowledged write.
    longest_gap_ms: f64,
    /// When it began, from the start of the measurement.
    gap_began_at_seconds: f64,
}

#[derive(Debug, Serialize)]
struct Client {
    cpu_us_per_operation: Option<f64>,
}

#[derive(Debug, Serialize)]
struct Server {
    pid: u32,
    cpu_seconds: f64,
    cpu_us_per_operation: Option<f64>,
    resident_bytes_before: u64,
    resident_bytes_max: u64,
    resident_bytes_after: u64,
}

impl Report {
    pub(crate) fn new(outcome: &Outcome) -> Self {
        let Outcome { plan, stats, elapsed, client, servers, gave_up } = outcome;
        let operations = stats.operations();
        let rate = |count: u64| {
            if elapsed.is_zero() { 0.0 } else { count as f64 / elapsed.as_secs_f64() }
        };
        let kinds = stats.latencies().map(|(operation, latencies)| {
            let at = |quantile| latencies.value_at_quantile(quantile) as f64 / 1e3;
            OfKind {
                name: operation.name(),
                operations: latencies.len(),
                operations_per_second: rate(latencies.len()),
                latency_us: Latency {
                    mean: latencies.mean() / 1e3,
                    p50: at(0.5),
                    p90: at(0.9),
                    p99: at(0.99),
                    p99_9: at(0.999),
                    max: latencies.max() as f64 / 1e3,
                },
            }
        });
        let per_operation =
            |cpu: Duration| (operations > 0).then(|| cpu.as_secs_f64() * 1e6 / operations as f64);
        let errors = Errors {
            total: stats.error_count(),
            by_kind: stats
                .errors
                .iter()
                .map(|(kind, count)| ErrorKind { kind: kind.clone(), count: *count })
                .collect(),
            samples: stats.samples.clone(),
        };
        let server = |process: &Watched| Server {
            pid: process.pid,
            cpu_seconds: process.cpu().as_secs_f64(),
            cpu_us_per_operation: per_operation(process.cpu()),
            resident_bytes_before: process.before.resident_bytes,
            resident_bytes_max: process.max_resident_bytes,
            resident_bytes_after: process.last.resident_bytes,
        };
        Self {
            workload: plan.workload_name(),
            api: plan.api.name(),
            endpoints: plan.endpoints.clone(),
            leader_only: plan.leader_only,
            clients: plan.clients,
            connections: plan.connections,
            keys: plan.keys,
            key_size: plan.key_size,
            value_size: plan.value_size,
            seconds: elapsed.as_secs_f64(),
            operations,
            operations_per_second: rate(operations),
            kinds: kinds.collect(),
            absent: stats.absent,
            errors,
            writes: plan.writes().then_some(Writes {
                longest_gap_ms: stats.longest_gap.length.as_secs_f64() * 1e3,
                gap_began_at_seconds: stats.longest_gap.began.as_secs_f64(),
            }),
            client: Client { cpu_us_per_operation: client.and_then(|process| per_operation(process.cpu())) },
            servers: servers.iter().map(server).collect(),
            servers_cpu_us_per_operation: (!servers.is_empty())
                .then(|| per_operation(servers.iter().map(Watched::cpu).sum()))
                .flatten(),
            gave_up: *gave_up,
        }
    }

    /// The report for people.
    pub(crate) fn text(&self) -> Result<String, std::fmt::Error> {
        let mut out = String::new();
        writeln!(
            out,
            "{} over {}: {} clients on {} connections to {}{}, {:.1} s",
            self.workload,
            self.api,
            self.clients,
            self.connections,
            self.endpoints.join(", "),
            if self.leader_only { " (leader only)" } else { "" },
            self.seconds
        )?;
        writeln!(
            out,
            "\n{:<10}{:>12}{:>11}{:>11}{:>11}{:>11}{:>11}{:>11}{:>11}",
            "operation", "count", "per s", "mean ms", "p50", "p90", "p99", "p99.9", "max"
        )?;
        for kind in &self.kinds {
            write!(out, "{:<10}{:>12}{:>11.0}", kind.name, kind.operations, kind.operations_per_second)?;
            let Latency { mean, p50, p90, p99, p99_9, max } = kind.latency_us;
            for micros in [mean, p50, p90, p99, p99_9, max] {
                write!(out, "{:>11.3}", micros / 1e3)?;
            }
            writeln!(out)?;
        }
        writeln!(out)?;
        if self.absent > 0 {
            writeln!(out, "reads of absent keys: {}", self.absent)?;
        }
        writeln!(out, "errors: {}", self.errors.total)?;
        for ErrorKind { kind, count } in &self.errors.by_kind {
            writeln!(out, "  {count:>8}  {kind}")?;
        }
        for sample in &self.errors.samples {
            writeln!(out, "  such as: {sample}")?;
        }
        if let Some(Writes { longest_gap_ms, gap_began_at_seconds }) = &self.writes {
            writeln!(
                out,
                "longest time without an acknowledged write: {longest_gap_ms:.1} ms, from {gap_began_at_seconds:.1} s on"
            )?;
        }
        if let Some(cpu) = self.client.cpu_us_per_operation {
            writeln!(out, "load generator: {cpu:.1} µs of CPU per operation")?;
        }
        if let Some(cpu) = self.servers_cpu_us_per_operation {
            writeln!(out, "servers: {cpu:.1} µs of CPU per operation")?;
        }
        for server in &self.servers {
            let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
            writeln!(
                out,
                "  process {}: {:.1} µs per operation, {:.0} MiB resident before, {:.0} at most, {:.0} after",
                server.pid,
                server.cpu_us_per_operation.unwrap_or_default(),
                mib(server.resident_bytes_before),
                mib(server.resident_bytes_max),
                mib(server.resident_bytes_after)
            )?;
        }
        if self.gave_up {
            writeln!(out, "gave up: nothing succeeded any more")?;
        }
        Ok(out)
    }
}

/// Writes the timeline: one line per 100 ms.
pub(crate) fn write_timeline(path: &Path, slots: &[Slot]) -> io::Result<()> {
    let mut file = BufWriter::new(File::create(path)?);
    writeln!(file, "seconds,operations,max_latency_ms,errors")?;
    let mut began = Duration::ZERO;
    for slot in slots {
        writeln!(
            file,
            "{:.1},{},{:.3},{}",
            began.as_secs_f64(),
            slot.operations,
            slot.max_latency.as_secs_f64() * 1e3,
            slot.errors
        )?;
        began = began.saturating_add(SLOT);
    }
    file.flush()
}

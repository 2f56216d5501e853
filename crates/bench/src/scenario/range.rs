//! One answer with every key in it: what the server holds in memory for it.

use std::time::Duration;

use bytes::Bytes;
use kvorum_etcd_proto::etcdserverpb as pb;
use pb::kv_client::KvClient;
use tokio::time::{Instant, sleep, timeout};
use tonic::Code;

use super::{Figures, ScenarioError, Servers, at_least_one};
use crate::plan::seconds;
use crate::process;
use crate::run::carry_out;
use crate::workload::Workload;

/// All keys of the load generator: they begin with `b`.
const FROM: &[u8] = b"b";
const TO: &[u8] = b"c";

/// Options of `range-stream`.
#[derive(Debug, Clone, clap::Args)]
pub struct Stream {
    #[command(flatten)]
    pub(super) servers: Servers,
    /// Keys to write first, and to read back.
    #[arg(long, default_value_t = 100_000, value_name = "N")]
    keys: u64,
    /// Bytes per value.
    #[arg(long, default_value_t = 256, value_name = "BYTES")]
    value_size: usize,
    /// How often all keys are read.
    #[arg(long, default_value_t = 5, value_name = "N")]
    rounds: usize,
    /// Ask for one answer by `Range`, instead of pieces by `RangeStream`.
    #[arg(long)]
    unary: bool,
    /// The keys are there already.
    #[arg(long)]
    no_fill: bool,
    /// How long the server is left alone before each reading.
    #[arg(long, default_value = "3", value_name = "SECONDS", value_parser = seconds)]
    settle: Duration,
}

/// What a reading brought.
#[derive(Debug, Default)]
struct Read {
    keys: u64,
    bytes: u64,
    messages: u64,
    first: Duration,
    whole: Duration,
}

impl Read {
    fn take(&mut self, began: Instant, answer: &pb::RangeResponse) {
        if self.messages == 0 {
            self.first = began.elapsed();
        }
        self.messages = self.messages.saturating_add(1);
        self.keys = self.keys.saturating_add(answer.kvs.len() as u64);
        let bytes: usize = answer.kvs.iter().map(|kv| kv.key.len().saturating_add(kv.value.len())).sum();
        self.bytes = self.bytes.saturating_add(bytes as u64);
        self.whole = began.elapsed();
    }
}

impl Stream {
    /// The first endpoint is the one that is read from, and the first process is its.
    pub(super) async fn carry_out(&self) -> Result<Figures, ScenarioError> {
        at_least_one(&[("--keys", self.keys), ("--rounds", self.rounds as u64)])?;
        if !self.no_fill {
            let mut plan = self.servers.plan(Workload::Load, 64, self.keys)?;
            plan.value_size = self.value_size;
            let filled = carry_out(plan).await?;
            if filled.stats.operations() < self.keys {
                return Err(ScenarioError::Wrong(format!(
                    "only {} keys were written",
                    filled.stats.operations()
                )));
            }
        }
        let channel = self.servers.channel(0).await?;
        let mut client = KvClient::new(channel).max_decoding_message_size(usize::MAX);
        let pid = self.servers.pids.first().copied();
        let (mut first, mut whole, mut grown, mut peaks, mut before) =
            (Vec::new(), Vec::new(), Vec::new(), Vec::new(), 0);
        let mut last = Read::default();
        for _ in 0..self.rounds {
            sleep(self.settle).await;
            if let Some(pid) = pid {
                before = process::reset_peak(pid).ok_or(ScenarioError::Memory(pid))?;
            }
            let read = timeout(self.servers.patience, self.read(&mut client)).await;
            let read = read.map_err(|_| ScenarioError::TooLate("for the keys"))??;
            if read.keys != self.keys {
                return Err(ScenarioError::Wrong(format!(
                    "{} keys came instead of {}",
                    read.keys, self.keys
                )));
            }
            if let Some(pid) = pid {
                let peak = process::peak(pid).ok_or(ScenarioError::Memory(pid))?;
                peaks.push(peak);
                grown.push(peak.saturating_sub(before));
            }
            first.push(read.first);
            whole.push(read.whole);
            last = read;
        }

        let mut figures = Figures::new("range-stream");
        figures.add("call", if self.unary { "Range" } else { "RangeStream" });
        figures.add("rounds", self.rounds);
        figures.add("keys", last.keys);
        figures.add("key_and_value_bytes", last.bytes);
        figures.add("messages", last.messages);
        figures.add_times("first_message", first);
        figures.add_times("whole", whole);
        peaks.sort_unstable();
        grown.sort_unstable();
        if let (Some(median), Some(most)) = (grown.get(grown.len() / 2), grown.last()) {
            figures.add("resident_bytes_grown_median", *median);
            figures.add("resident_bytes_grown_max", *most);
        }
        if let Some(peak) = peaks.last() {
            figures.add("resident_bytes_peak", *peak);
        }
        Ok(figures)
    }

    async fn read(&self, client: &mut KvClient<tonic::transport::Channel>) -> Result<Read, ScenarioError> {
        let request = pb::RangeRequest {
            key: Bytes::from_static(FROM),
            range_end: Bytes::from_static(TO),
            ..Default::default()
        };
        let mut read = Read::default();
        let began = Instant::now();
        if self.unary {
            let answer = client.range(request).await?.into_inner();
            read.take(began, &answer);
            return Ok(read);
        }
        let mut answers = match client.range_stream(request).await {
            Ok(answers) => answers.into_inner(),
            Err(status) if status.code() == Code::Unimplemented => {
                return Err(super::refused("the server has no RangeStream; ask it with --unary"));
            }
            Err(status) => return Err(status.into()),
        };
        loop {
            match answers.message().await {
                Ok(Some(answer)) => read.take(began, &answer.range_response.unwrap_or_default()),
                Ok(None) => return Ok(read),
                Err(status) if status.code() == Code::Unimplemented => {
                    return Err(super::refused("the server has no RangeStream; ask it with --unary"));
                }
                Err(status) => return Err(status.into()),
            }
        }
    }
}

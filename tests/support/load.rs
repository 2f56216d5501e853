//! Writers that never stop trying, and what was acknowledged to them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::task::JoinHandle;

use super::http::Http;
use super::{PATIENCE, POLL, eventually};

/// A write that the cluster acknowledged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Acknowledged {
    pub(crate) value: String,
    pub(crate) revision: i64,
}

/// Some writers, each putting one new key after the other.
pub(crate) struct Load {
    stop: Arc<AtomicBool>,
    count: Arc<AtomicU64>,
    writers: Vec<JoinHandle<BTreeMap<String, Acknowledged>>>,
}

impl Load {
    /// Starts `writers` tasks that write to `addrs` in turn; a node that does not
    /// acknowledge is left for the next one, and a key is never written again.
    pub(crate) fn start(addrs: &[String], writers: usize) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let count = Arc::new(AtomicU64::new(0));
        let writers = (0..writers).map(|writer| {
            let (stop, count, addrs) = (Arc::clone(&stop), Arc::clone(&count), addrs.to_vec());
            tokio::spawn(async move { write(writer, &addrs, &stop, &count).await })
        });
        Self { writers: writers.collect(), stop, count }
    }

    /// Waits until this many more writes are acknowledged.
    pub(crate) async fn progress(&self, more: u64) {
        let target = self.count.load(Ordering::Relaxed) + more;
        eventually("more writes are acknowledged", async || {
            let count = self.count.load(Ordering::Relaxed);
            if count >= target { Ok(()) } else { Err(format!("{count} of {target}")) }
        })
        .await;
    }

    /// Ends the writers and gives what was acknowledged, by key.
    pub(crate) async fn stop(self) -> BTreeMap<String, Acknowledged> {
        self.stop.store(true, Ordering::Relaxed);
        let mut all = BTreeMap::new();
        for writer in self.writers {
            all.append(&mut tokio::time::timeout(PATIENCE, writer).await.unwrap().unwrap());
        }
        all
    }
}

async fn write(
    writer: usize,
    addrs: &[String],
    stop: &AtomicBool,
    count: &AtomicU64,
) -> BTreeMap<String, Acknowledged> {
    let http = Http::new().with_timeout(Duration::from_secs(3));
    let mut acknowledged = BTreeMap::new();
    let mut at = writer;
    let mut number = 0_u64;
    while !stop.load(Ordering::Relaxed) {
        number += 1;
        let key = format!("load-{writer}-{number:06}");
        let value = format!("value of {key}");
        let addr = &addrs[at % addrs.len()];
        match http.send("PUT", addr, &format!("/v1/kv/{key}"), &[], value.clone()).await {
            Ok(answer) if answer.status == 201 => {
                let revision = answer.json()["revision"].as_i64().unwrap();
                acknowledged.insert(key, Acknowledged { value, revision });
                count.fetch_add(1, Ordering::Relaxed);
            }
            Ok(_) | Err(_) => {
                at += 1;
                // A cluster without a leader would otherwise be asked in a spin.
                tokio::time::sleep(POLL).await;
            }
        }
    }
    acknowledged
}

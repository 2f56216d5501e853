//! Clusters for tests: nodes as real processes or in this one, links that can be
//! cut and slowed down, and a load whose acknowledged writes are remembered.
//!
//! Nothing here sleeps for a fixed time to let something happen: tests wait for
//! conditions, with a deadline that a busy machine keeps easily. Only processes
//! that were started here are ended.

pub(crate) mod cluster;
pub(crate) mod http;
pub(crate) mod links;
pub(crate) mod load;
pub(crate) mod node;

use std::time::{Duration, Instant};

/// How long a condition may take to come true. Ample: it only costs time when a
/// test fails.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// How often a condition is looked at.
pub(crate) const POLL: Duration = Duration::from_millis(20);

/// Probes until the answer is `Ok`; panics with the last reason when it takes
/// longer than [`PATIENCE`].
pub(crate) async fn eventually<T>(what: &str, mut probe: impl AsyncFnMut() -> Result<T, String>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match probe().await {
            Ok(value) => return value,
            Err(reason) if Instant::now() >= deadline => panic!("gave up waiting until {what}: {reason}"),
            Err(_) => tokio::time::sleep(POLL).await,
        }
    }
}

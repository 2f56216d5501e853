//! The same call, many times, from many clients at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::{ScenarioError, Servers};
use crate::grpc::{Call, CallError, Connection};

/// Clients of a set-up, and the connections that they share.
const CLIENTS: usize = 256;
const CONNECTIONS: usize = 16;
/// How often a refused call is tried again.
const ATTEMPTS: u32 = 20;

/// Makes the calls that `request` gives for the numbers below `count`; each is
/// tried again when the servers refuse it for the moment.
pub(super) async fn spread<C: Call + 'static>(
    servers: &Servers,
    count: u64,
    request: impl Fn(u64) -> C + Send + Sync + 'static,
) -> Result<(), ScenarioError> {
    let mut connections = Vec::with_capacity(CONNECTIONS);
    for number in 0..CONNECTIONS {
        connections.push(Connection::open(&servers.endpoint(number)?).await?);
    }
    let (next, request) = (Arc::new(AtomicU64::new(0)), Arc::new(request));
    let patience = servers.patience;
    let mut clients: JoinSet<Result<(), ScenarioError>> = JoinSet::new();
    for connection in connections.iter().cycle().take(CLIENTS) {
        let (mut connection, next, request) = (connection.clone(), Arc::clone(&next), Arc::clone(&request));
        clients.spawn(async move {
            loop {
                let number = next.fetch_add(1, Relaxed);
                if number >= count {
                    return Ok(());
                }
                patiently(&mut connection, &request(number), patience).await?;
            }
        });
    }
    while let Some(ended) = clients.join_next().await {
        ended.map_err(|_| ScenarioError::TaskLost)??;
    }
    Ok(())
}

async fn patiently<C: Call>(
    connection: &mut Connection,
    request: &C,
    patience: Duration,
) -> Result<(), ScenarioError> {
    let mut left = ATTEMPTS;
    loop {
        let answered = timeout(patience, connection.call(request)).await;
        match answered.map_err(|_| ScenarioError::TooLate("for the answer to a call"))? {
            Ok(_) => return Ok(()),
            Err(CallError::Refused { .. }) if left > 0 => {
                left = left.saturating_sub(1);
                sleep(Duration::from_millis(100)).await;
            }
            Err(error) => return Err(error.into()),
        }
    }
}

//! Streams that must not outlive the leader: `hasleader` in a call's metadata.
//!
//! A follower that is cut off goes on serving watches, and they fall silent. Clients that ask
//! for a leader are told instead, and go to another node. Who leads is asked for once for all
//! streams, and only while there are any that want to know.

use std::sync::Arc;
use std::time::Duration;

use futures_util::{Stream, StreamExt as _, future, stream};
use parking_lot::Mutex;
use tokio::sync::watch;
use tonic::Status;
use tonic::metadata::MetadataMap;

use super::status;
use crate::service::Service;

/// The entry of metadata by which a call demands a leader.
const HAS_LEADER: &str = "hasleader";
/// How often it is asked whether there is a leader.
const ASK: Duration = Duration::from_secs(1);
/// How often in a row there must have been none: an election in between is no loss.
const MISSES: u32 = 3;

/// Whether the call demands that there is a leader.
pub(super) fn is_demanded(metadata: &MetadataMap) -> bool {
    metadata.get(HAS_LEADER).is_some_and(|value| value.as_bytes() == b"true")
}

/// `responses` until `lost`, and then etcd's error.
pub(super) fn until_lost<T: Send + 'static>(
    responses: impl Stream<Item = Result<T, Status>> + Send,
    lost: impl Future<Output = ()> + Send,
) -> impl Stream<Item = Result<T, Status>> + Send {
    let responses = responses.map(Some).take_until(lost).chain(stream::once(future::ready(None)));
    responses.map(|response| response.unwrap_or_else(|| Err(status::no_leader())))
}

/// Asks for the leader while somebody wants to know.
pub(super) struct LeaderWatch {
    service: Service,
    shared: Arc<Shared>,
}

struct Shared {
    /// Whether there is a leader.
    leads: watch::Sender<bool>,
    /// Whether the task runs. Changed together with the number of receivers.
    asking: Mutex<bool>,
}

impl LeaderWatch {
    pub(super) fn new(service: Service) -> Self {
        let shared = Shared { leads: watch::Sender::new(true), asking: Mutex::new(false) };
        Self { service, shared: Arc::new(shared) }
    }

    /// Waits until there has been no leader for some time.
    pub(super) fn lost(&self) -> impl Future<Output = ()> + Send + use<> {
        let mut leads = {
            let mut asking = self.shared.asking.lock();
            let leads = self.shared.leads.subscribe();
            if !*asking {
                *asking = true;
                self.shared.leads.send_replace(true);
                self.service.runtime().spawn(ask(self.service.clone(), Arc::clone(&self.shared)));
            }
            leads
        };
        async move {
            // The sender is gone only with the node, which ends the streams by itself.
            if leads.wait_for(|leads| !leads).await.is_err() {
                future::pending::<()>().await;
            }
        }
    }
}

async fn ask(service: Service, shared: Arc<Shared>) {
    let mut misses = 0;
    loop {
        misses = if service.has_leader().await { 0 } else { misses + 1 };
        shared.leads.send_if_modified(|leads| {
            let now = misses < MISSES;
            std::mem::replace(leads, now) != now
        });
        {
            let mut asking = shared.asking.lock();
            if shared.leads.receiver_count() == 0 {
                *asking = false;
                return;
            }
        }
        tokio::time::sleep(ASK).await;
    }
}

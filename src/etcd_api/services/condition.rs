//! What probes are told of a node: whatever a client would find out if it called.

use crate::command::Alarm;
use crate::error::Error;
use crate::etcd_api::Condition;
use crate::service::{Consistency, Service};

/// The key that is read; it need not be there.
const PROBED_KEY: &[u8] = b"health";

#[tonic::async_trait]
impl Condition for Service {
    async fn confirmed(&self) -> Result<(), String> {
        self.ready().await.map_err(|error| error.to_string())
    }

    async fn readable(&self) -> Result<(), String> {
        match self.get(PROBED_KEY, None, Consistency::Local).await {
            // The alarm has a check of its own, and no restart ends it.
            Ok(_) | Err(Error::Corrupt { .. }) => Ok(()),
            Err(error) => Err(error.to_string()),
        }
    }

    fn is_learner(&self) -> bool {
        Self::is_learner(self)
    }

    fn alarms(&self) -> Vec<Alarm> {
        self.known_alarms()
    }
}

//! Alarms: raise, disarm and list them, and what they mean for reads.
//!
//! They are part of the replicated state. Which writes they forbid is decided
//! where commands are applied, alike on every replica; a read is refused here, as
//! long as the node that answers it knows of an alarm that says the data may be
//! damaged.

use tokio::time::Instant;

use super::handle::Service;
use super::kv::Consistency;
use crate::command::{Alarm, AlarmKind, Command, OutcomeResult, Write};
use crate::error::Error;

/// About how many alarms can be raised: members are any numbers, and all alarms
/// are rewritten with each.
const MAX_ALARMS: usize = 1_024;

impl Service {
    /// Raises or disarms an alarm. Answers the store's revision, and whether it was
    /// raised before.
    ///
    /// # Errors
    /// [`Error::Invalid`] when very many are raised already, and as [`Self::write`].
    pub async fn set_alarm(&self, alarm: Alarm, raised: bool) -> Result<(i64, bool), Error> {
        let known = self.known_alarms();
        if raised && known.len() >= MAX_ALARMS && !known.contains(&alarm) {
            return Err(Error::Invalid(format!("{} alarms are raised; disarm some of them", known.len())));
        }
        let Alarm { kind, member } = alarm;
        let outcome = self.write(Command::of(Write::Alarm { kind, member, raised })).await?;
        let OutcomeResult::Alarm { was_raised } = outcome.result else {
            return Err(self.unexpected("an alarm"));
        };
        if was_raised != raised {
            let what = if raised { "raised" } else { "disarmed" };
            tracing::warn!(%alarm, "an alarm was {what} through this node");
        }
        Ok((outcome.revision, was_raised))
    }

    /// The store's revision, and all raised alarms in their order.
    ///
    /// # Errors
    /// When no leader confirms in time.
    pub async fn alarms(&self) -> Result<(i64, Vec<Alarm>), Error> {
        let deadline = Instant::now() + self.inner.options.request_timeout;
        self.wait_for(Consistency::Linearizable, deadline).await?;
        let store = self.inner.store.store();
        Ok((store.revision(), store.alarms()))
    }

    /// The raised alarms that this node knows of.
    pub fn known_alarms(&self) -> Vec<Alarm> {
        self.inner.store.store().alarms()
    }

    /// Waits until the data is as recent as `consistency` demands, and may be read.
    pub(super) async fn wait_to_read(
        &self,
        consistency: Consistency,
        deadline: Instant,
    ) -> Result<(), Error> {
        self.wait_for(consistency, deadline).await?;
        // Only now: whoever was told that the alarm is raised reads nothing any more.
        match self.inner.store.store().alarm_of(AlarmKind::Corrupt) {
            Some(Alarm { member, .. }) => Err(Error::Corrupt { member }),
            None => Ok(()),
        }
    }
}

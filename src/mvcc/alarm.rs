//! The raised alarms. They are few, so one cell holds them all, and they are in
//! memory besides: to look at them costs a command or a read next to nothing.
//! What they forbid is for others to say.

use std::collections::BTreeSet;

use super::schema::{ALARMS_CELL, META};
use super::{Store, WriteSession};
use crate::command::{Alarm, AlarmKind};
use crate::engine::Db;
use crate::error::StorageError;

/// The alarms that are raised.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Alarms(pub(super) BTreeSet<Alarm>);

impl Alarms {
    /// Those that `db` holds.
    pub(super) fn stored(db: &Db) -> Result<Self, StorageError> {
        let found = db.get(db.family(META), ALARMS_CELL)?;
        found
            .map_or_else(|| Ok(Self::default()), |value| Self::decode(&value))
            .map_err(|source| StorageError::Corrupt { what: "the list of alarms", source })
    }

    /// The first alarm of this kind.
    fn first(&self, kind: AlarmKind) -> Option<Alarm> {
        let from = Alarm { kind, member: 0 };
        self.0.range(from..).next().filter(|alarm| alarm.kind == kind).copied()
    }
}

impl Store {
    /// All raised alarms, in their order.
    pub fn alarms(&self) -> Vec<Alarm> {
        self.shared.alarms.load().0.iter().copied().collect()
    }

    /// The first raised alarm of this kind.
    pub fn alarm_of(&self, kind: AlarmKind) -> Option<Alarm> {
        self.shared.alarms.load().first(kind)
    }
}

impl WriteSession<'_> {
    /// The first alarm of this kind that is raised now.
    pub fn alarm_of(&self, kind: AlarmKind) -> Option<Alarm> {
        match &self.alarms {
            Some(alarms) => alarms.first(kind),
            None => self.shared.alarms.load().first(kind),
        }
    }

    /// Raises or disarms an alarm; it takes no revision. Answers whether it was
    /// raised before.
    pub fn set_alarm(&mut self, alarm: Alarm, raised: bool) -> bool {
        let alarms = self.alarms.get_or_insert_with(|| (**self.shared.alarms.load()).clone());
        let was_raised = alarms.0.contains(&alarm);
        if was_raised != raised {
            if raised {
                alarms.0.insert(alarm);
            } else {
                alarms.0.remove(&alarm);
            }
            self.batch.put(self.families.meta, ALARMS_CELL, &alarms.encode());
        }
        was_raised
    }
}

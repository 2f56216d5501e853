//! Bugs that are planted on purpose, to show that the fault tests would find them.
//!
//! Each is a feature of its own (`mutant-…`), which exists only for that test: without
//! it, the compiler removes the bug. A build may have several; the variable
//! `KVORUM_MUTANT` then names the one that is awake, and without it none is. A build for
//! users must never have one of these features, and a node with a mutant awake says so
//! when it starts.

use std::sync::OnceLock;

/// The variable that wakes a mutant.
const VARIABLE: &str = "KVORUM_MUTANT";

/// A planted bug.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mutant {
    /// The log is acknowledged before it is on disk.
    AcknowledgeUnsynced,
    /// A linearizable read is served without the read index.
    ReadWithoutIndex,
    /// A restarted leader goes on in its old term.
    LeaderRestore,
    /// The first command after a restart is applied twice.
    ApplyTwice,
    /// The vote is not written.
    ForgetVote,
    /// A watch from a compacted revision begins behind the gap.
    WatchGap,
    /// A snapshot counts as applied before its data is there.
    TornInstall,
    /// A deposed leader ends leases.
    DeposedLessor,
}

impl Mutant {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::AcknowledgeUnsynced,
        Self::ReadWithoutIndex,
        Self::LeaderRestore,
        Self::ApplyTwice,
        Self::ForgetVote,
        Self::WatchGap,
        Self::TornInstall,
        Self::DeposedLessor,
    ];

    /// Its name in `KVORUM_MUTANT` and, after `mutant-`, of its feature.
    pub const fn name(self) -> &'static str {
        match self {
            Self::AcknowledgeUnsynced => "acknowledge-unsynced",
            Self::ReadWithoutIndex => "read-without-index",
            Self::LeaderRestore => "leader-restore",
            Self::ApplyTwice => "apply-twice",
            Self::ForgetVote => "forget-vote",
            Self::WatchGap => "watch-gap",
            Self::TornInstall => "torn-install",
            Self::DeposedLessor => "deposed-lessor",
        }
    }

    const fn is_built(self) -> bool {
        match self {
            Self::AcknowledgeUnsynced => cfg!(feature = "mutant-acknowledge-unsynced"),
            Self::ReadWithoutIndex => cfg!(feature = "mutant-read-without-index"),
            Self::LeaderRestore => cfg!(feature = "mutant-leader-restore"),
            Self::ApplyTwice => cfg!(feature = "mutant-apply-twice"),
            Self::ForgetVote => cfg!(feature = "mutant-forget-vote"),
            Self::WatchGap => cfg!(feature = "mutant-watch-gap"),
            Self::TornInstall => cfg!(feature = "mutant-torn-install"),
            Self::DeposedLessor => cfg!(feature = "mutant-deposed-lessor"),
        }
    }

    /// Whether the bug is there.
    #[inline]
    pub fn is_awake(self) -> bool {
        self.is_built() && awake() == Some(self)
    }
}

fn awake() -> Option<Mutant> {
    static AWAKE: OnceLock<Option<Mutant>> = OnceLock::new();
    *AWAKE.get_or_init(|| {
        let named = std::env::var(VARIABLE).ok()?;
        Mutant::ALL.into_iter().find(|mutant| mutant.name() == named)
    })
}

/// Says in the log which bug is awake, if any.
pub fn announce() {
    if let Some(mutant) = Mutant::ALL.into_iter().find(|mutant| mutant.is_awake()) {
        tracing::warn!(mutant = mutant.name(), "THIS NODE HAS A PLANTED BUG; it is for tests and loses data");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_build_without_the_features_has_no_mutant() {
        let built = Mutant::ALL.into_iter().filter(|mutant| mutant.is_built()).count();
        assert_eq!(built, 0, "the suite is run on what users get");
        assert!(Mutant::ALL.into_iter().all(|mutant| !mutant.is_awake()));
    }
}

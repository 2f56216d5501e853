//! The arithmetic of lease time on the leader: no lease ends early, whatever
//! stops, stalls or is elected meanwhile.
//!
//! The replicated lease clock moves by the leader's ticks only. Between them the
//! leader runs a clock of its own on top, from a moment at which it knew the
//! replicated one. It is never ahead of that by more than the slack that each
//! lease gets on top of its time to live. So a lease that was counted from a
//! replicated clock which lay behind has at least its time to live in real time:
//! at the grant the running clock was not further than the slack, and since then
//! it ran no faster than time. All else that could go wrong makes leases longer.

use std::time::Duration;

use tokio::time::Instant;

use crate::mutants::Mutant;
use crate::store::lease_table::{SLACK_MS, Upcoming};

/// Time from one tick to the next; less than the slack, so that a tick that is a
/// little late costs no lease time.
pub(super) const TICK: Duration = Duration::from_millis(450);
/// A gap between two looks at the clock from which on the process is taken to
/// have stood still. Its clients could not renew meanwhile, so it doesn't count.
const STALL: Duration = Duration::from_secs(3);
/// Least time until leases that will be due are looked for, so that those which
/// follow each other closely are ended together.
const GATHER: Duration = Duration::from_millis(50);

/// What the leader does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// Nothing before this moment.
    Wait(Instant),
    /// Move the replicated clock to this time.
    Tick(u64),
    /// There are leases to be ended, and the clock stands at this time.
    Expire(u64),
}

/// A leader's running lease clock, from one anchor on.
#[derive(Debug)]
pub(super) struct LeaseClock {
    /// The clock's time at `since`.
    clock: u64,
    since: Instant,
    /// When it was read last, and where the replicated clock stood then.
    looked: Instant,
    seen: u64,
    /// When its time was proposed last.
    proposed: Instant,
}

impl LeaseClock {
    /// A clock that runs on from the replicated time. Anchor it when leadership is
    /// confirmed, or when the first lease comes: the time before does not count.
    pub(super) fn anchored(replicated: u64, now: Instant) -> Self {
        Self { clock: replicated, since: now, looked: now, seen: replicated, proposed: now }
    }

    /// The running clock's time, given where the replicated clock stands.
    pub(super) fn read(&mut self, replicated: u64, now: Instant) -> u64 {
        let gap = now.saturating_duration_since(self.looked);
        self.looked = now;
        let is_own = Mutant::DeposedLessor.is_awake();
        if gap > STALL && !is_own {
            self.since += gap;
        }
        let run = now.saturating_duration_since(self.since).as_millis();
        let running = self.clock.saturating_add(u64::try_from(run).unwrap_or(u64::MAX));
        // A tick that took effect since may have waited for its place in the log, and what
        // came before it was counted from the clock as it stood at the last look.
        let bound = std::mem::replace(&mut self.seen, replicated).saturating_add(SLACK_MS);
        if running <= bound || is_own {
            return running.max(replicated);
        }
        // Time that ticks did not keep up with is lost for good; it must not come
        // back at once when they do.
        (self.clock, self.since) = (bound, now);
        bound.max(replicated)
    }

    /// What is to be done now.
    pub(super) fn step(&mut self, upcoming: &Upcoming, now: Instant) -> Step {
        let running = self.read(upcoming.clock, now);
        let until_due = upcoming.first_expiry.map(|first| first.saturating_sub(running));
        if upcoming.has_ending || until_due == Some(0) {
            return Step::Expire(running);
        }
        let next_tick = self.proposed + TICK;
        if now >= next_tick {
            return Step::Tick(running);
        }
        let until_due = until_due.map_or(TICK, Duration::from_millis).clamp(GATHER, TICK);
        Step::Wait(next_tick.min(now + until_due))
    }

    /// Says that the clock's time is being proposed.
    pub(super) fn proposing(&mut self, now: Instant) {
        self.proposed = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    fn upcoming(clock: u64, first_expiry: Option<u64>) -> Upcoming {
        Upcoming { clock, first_expiry, has_ending: false }
    }

    #[test]
    fn the_clock_runs_with_time_and_ticks_once_a_period() {
        let start = Instant::now();
        let mut clock = LeaseClock::anchored(5_000, start);
        let far = upcoming(5_000, Some(90_000));
        assert_eq!(clock.step(&far, start), Step::Wait(start + TICK));
        assert_eq!(clock.step(&far, start + ms(400)), Step::Wait(start + TICK));
        assert_eq!(clock.step(&far, start + TICK), Step::Tick(5_450));
        clock.proposing(start + TICK);
        let ticked = upcoming(5_450, Some(90_000));
        assert_eq!(clock.step(&ticked, start + TICK), Step::Wait(start + 2 * TICK));
        assert_eq!(clock.read(5_450, start + ms(834)), 5_834);
    }

    #[test]
    fn a_lease_that_comes_due_is_waited_for_and_then_ended() {
        let start = Instant::now();
        let mut clock = LeaseClock::anchored(5_000, start);
        let soon = upcoming(5_000, Some(5_300));
        assert_eq!(clock.step(&soon, start), Step::Wait(start + ms(300)));
        // Not a round for each of those that follow closely.
        assert_eq!(clock.step(&soon, start + ms(299)), Step::Wait(start + ms(299) + GATHER));
        assert_eq!(clock.step(&soon, start + ms(300)), Step::Expire(5_300));
        let ending = Upcoming { has_ending: true, ..upcoming(5_000, None) };
        assert_eq!(clock.step(&ending, start + ms(310)), Step::Expire(5_310));
    }

    #[test]
    fn a_stall_does_not_count() {
        let start = Instant::now();
        let mut clock = LeaseClock::anchored(5_000, start);
        assert_eq!(clock.read(5_000, start + ms(200)), 5_200);
        let resumed = start + ms(200) + Duration::from_secs(60);
        assert_eq!(clock.step(&upcoming(5_000, Some(5_201)), resumed), Step::Tick(5_200));
        assert_eq!(clock.read(5_200, resumed + ms(100)), 5_300);
    }

    #[test]
    fn without_ticks_that_take_effect_the_clock_stops_and_never_catches_up() {
        let start = Instant::now();
        let mut clock = LeaseClock::anchored(5_000, start);
        for at in (0..=20_000).step_by(1_000) {
            assert_eq!(clock.read(5_000, start + ms(at)), (5_000 + at).min(5_500));
        }
        // The first tick takes effect after twenty seconds.
        assert_eq!(clock.read(5_500, start + ms(20_000)), 5_500);
        assert_eq!(clock.read(5_500, start + ms(20_400)), 5_900);
    }

    #[test]
    fn what_comes_before_a_tick_that_waits_for_its_place_in_the_log_has_all_its_time() {
        let start = Instant::now();
        let mut clock = LeaseClock::anchored(5_000, start);
        assert_eq!(clock.step(&upcoming(5_000, Some(90_000)), start + TICK), Step::Tick(5_450));
        clock.proposing(start + TICK);
        // A lease of two seconds is granted after 1.99 s, and the tick takes effect behind it.
        let expires_at = 5_000 + 2_000 + SLACK_MS;
        assert_eq!(clock.read(5_450, start + ms(2_000)), 5_500);
        let mut replicated = 5_450;
        for at in (2_400..3_990).step_by(400) {
            replicated = clock.read(replicated, start + ms(at));
        }
        assert!(clock.read(replicated, start + ms(3_989)) < expires_at);
    }

    #[test]
    fn a_new_leader_goes_on_from_the_replicated_clock() {
        let start = Instant::now();
        let mut old = LeaseClock::anchored(0, start);
        assert_eq!(old.step(&upcoming(0, Some(3_000)), start + TICK), Step::Tick(450));
        assert_eq!(old.read(450, start + TICK), 450);
        // The old one ran on, and nobody knows; an election takes ten seconds.
        assert_eq!(old.read(450, start + ms(850)), 850);
        let elected = start + ms(10_850);
        let mut new = LeaseClock::anchored(450, elected);
        assert_eq!(new.read(450, elected), 450);
        // The lease of three seconds has lived 0.45 s by the replicated clock.
        let mut replicated = 450;
        for round in 1..=5 {
            let now = elected + round * TICK;
            assert_eq!(new.step(&upcoming(replicated, Some(3_000)), now), Step::Tick(replicated + 450));
            new.proposing(now);
            replicated += 450;
            // The lessor looks again as soon as its tick has taken effect.
            assert_eq!(new.read(replicated, now), replicated);
        }
        let rest = |at: u64| elected + ms(at);
        let soon = upcoming(2_700, Some(3_000));
        assert_eq!(new.step(&soon, rest(2_549)), Step::Wait(rest(2_549) + GATHER));
        assert_eq!(new.step(&soon, rest(2_550)), Step::Expire(3_000));
        // The deposed one is bounded by what it sees replicated, and its term's
        // ticks no longer count.
        assert_eq!(old.read(2_700, start + ms(60_000)), 2_700);
    }

    #[test]
    fn the_first_lease_after_a_time_without_any_gets_all_of_its_time() {
        let start = Instant::now();
        let mut clock = LeaseClock::anchored(7_000, start);
        // Granted between the anchor and the first look: counted from the
        // replicated clock, with the slack.
        let expires_at = 7_000 + 2_000 + SLACK_MS;
        let mut replicated = 7_000;
        let mut at = 0;
        let ended = loop {
            let now = start + ms(at);
            match clock.step(&upcoming(replicated, Some(expires_at)), now) {
                Step::Wait(until) => at = u64::try_from((until - start).as_millis()).unwrap(),
                Step::Tick(time) => {
                    clock.proposing(now);
                    replicated = time;
                }
                Step::Expire(time) => break (time, at),
            }
        };
        assert_eq!(ended, (expires_at, 2_500));
    }

    #[derive(Debug, Clone)]
    enum Happening {
        /// Time passes and the leader looks.
        Pass(u64),
        /// The leader's tick takes effect.
        Tick,
        /// Another leader takes over after so long.
        Elect(u64),
        /// The lease is renewed.
        Renew,
    }

    fn happening() -> impl Strategy<Value = Happening> {
        prop_oneof![
            6 => (0_u64..1_500).prop_map(Happening::Pass),
            1 => (3_000_u64..30_000).prop_map(Happening::Pass),
            4 => Just(Happening::Tick),
            1 => (0_u64..20_000).prop_map(Happening::Elect),
            1 => Just(Happening::Renew),
        ]
    }

    proptest! {
        #[test]
        fn a_lease_never_ends_before_its_time_and_the_clock_never_goes_back(
            happenings in proptest::collection::vec(happening(), 0..80),
            ttl in 2_u64..8,
        ) {
            let mut now = Instant::now();
            let mut replicated = 0;
            let mut clock = LeaseClock::anchored(replicated, now);
            let (mut renewed, mut expires_at) = (now, ttl * 1_000 + SLACK_MS);
            for happening in happenings {
                match happening {
                    Happening::Pass(millis) => now += ms(millis),
                    Happening::Tick => {
                        let running = clock.read(replicated, now);
                        prop_assert!(running >= replicated);
                        replicated = running;
                    }
                    Happening::Elect(millis) => {
                        now += ms(millis);
                        clock = LeaseClock::anchored(replicated, now);
                    }
                    Happening::Renew => {
                        (renewed, expires_at) = (now, replicated + ttl * 1_000 + SLACK_MS);
                    }
                }
                if clock.read(replicated, now) >= expires_at {
                    prop_assert!(now - renewed >= Duration::from_secs(ttl));
                }
            }
        }
    }
}

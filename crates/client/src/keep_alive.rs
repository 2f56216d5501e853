//! Keeping a lease alive: when it is renewed, and when it is given up for lost.
//!
//! [`Schedule`] decides and knows neither clock nor cluster; [`KeepAlive`] asks the
//! cluster when that says so. Invariant: from its first renewal on, a lease is given
//! up no later than the cluster does so, because its time is counted from before each
//! renewal was sent.

use std::time::{Duration, Instant};

use crate::call::SHORTEST_ATTEMPT;
use crate::{Client, Error, Lease};

/// How many times a lease is renewed while it lives once.
const RENEWALS: u32 = 3;
/// Between attempts to renew a lease that is running out.
const RETRY_PAUSE: Duration = Duration::from_millis(200);

/// When a lease is to be renewed.
#[derive(Debug)]
struct Schedule {
    ttl: Duration,
    /// When to ask next.
    due: Instant,
    /// When it may have ended.
    ends: Instant,
    /// Why the last attempt failed.
    trouble: Option<Error>,
}

/// What to do now.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    Wait(Duration),
    /// Renew it, in no more than this time.
    Ask(Duration),
    GiveUp,
}

impl Schedule {
    /// Of a lease whose time began at some moment between `asked` and `answered`.
    fn new(ttl: Duration, asked: Instant, answered: Instant) -> Self {
        let due = asked + ttl / RENEWALS;
        if answered < due {
            return Self { ttl, due, ends: asked + ttl, trouble: None };
        }
        // Any part of its time may be left, and only a renewal tells.
        Self { ttl, due: answered, ends: answered + ttl, trouble: None }
    }

    fn step(&self, now: Instant) -> Step {
        let left = self.ends.saturating_duration_since(now);
        let wait = self.due.saturating_duration_since(now).min(left);
        if left.is_zero() {
            Step::GiveUp
        } else if wait.is_zero() {
            // Leaves time for another attempt when this one hangs.
            Step::Ask(left.min((self.ttl / RENEWALS).max(SHORTEST_ATTEMPT)))
        } else {
            Step::Wait(wait)
        }
    }

    fn renewed(&mut self, ttl: Duration, asked: Instant) {
        *self = Self { ttl, due: asked + ttl / RENEWALS, ends: asked + ttl, trouble: None };
    }

    fn failed(&mut self, error: Error, now: Instant) {
        self.due = now + RETRY_PAUSE;
        self.trouble = Some(error);
    }
}

/// Keeps a lease alive for as long as [`KeepAlive::next`] is called.
#[derive(Debug)]
pub struct KeepAlive {
    client: Client,
    lease: i64,
    /// Known once the cluster has told the lease's time.
    schedule: Option<Schedule>,
}

impl Client {
    /// Keeps a lease alive. Nothing is sent before the first [`KeepAlive::next`].
    pub fn keep_alive(&self, lease: i64) -> KeepAlive {
        KeepAlive { client: self.clone(), lease, schedule: None }
    }
}

impl KeepAlive {
    /// Of a lease that was just granted, having been asked for at `asked`.
    pub(crate) fn granted(client: &Client, lease: &Lease, asked: Instant) -> Self {
        let schedule = Schedule::new(time_to_live(lease), asked, Instant::now());
        Self { client: client.patient(), lease: lease.id, schedule: Some(schedule) }
    }

    /// Whether the lease is to be renewed now.
    pub(crate) fn is_due(&self) -> bool {
        self.schedule.as_ref().is_none_or(|schedule| schedule.due <= Instant::now())
    }

    /// Renews the lease: the first time at once, then when a third of its time has
    /// passed. A renewal that fails is repeated for as long as the lease can live.
    ///
    /// # Errors
    /// `Api` with code `lease_not_found` if it has ended; `LeaseLost` if it could not
    /// be renewed in its time. The first time, any of a call's.
    ///
    /// # Cancel safety
    /// It may be dropped and called again; a renewal may then be sent twice.
    pub async fn next(&mut self) -> Result<Lease, Error> {
        let Some(schedule) = &mut self.schedule else {
            let asked = Instant::now();
            let lease = self.client.lease_keep_alive(self.lease).await?;
            *self = Self::granted(&self.client, &lease, asked);
            return Ok(lease);
        };
        loop {
            let limit = match schedule.step(Instant::now()) {
                Step::Wait(time) => {
                    tokio::time::sleep(time).await;
                    continue;
                }
                Step::Ask(limit) => limit,
                Step::GiveUp => {
                    let why = schedule
                        .trouble
                        .as_ref()
                        .map_or_else(|| "nobody asked in time".to_owned(), Error::to_string);
                    let (lease, ttl) = (self.lease, schedule.ttl.as_secs());
                    let message = format!("lease {lease} was not renewed within {ttl} s: {why}");
                    return Err(Error::LeaseLost { message });
                }
            };
            let asked = Instant::now();
            match self.client.with_timeout(limit).lease_keep_alive(self.lease).await {
                Ok(lease) => {
                    schedule.renewed(time_to_live(&lease), asked);
                    return Ok(lease);
                }
                Err(error) if error.code() == "lease_not_found" => return Err(error),
                Err(error) => schedule.failed(error, Instant::now()),
            }
        }
    }
}

/// How long a lease lives unless it is renewed; no longer than clocks can count.
pub(crate) fn time_to_live(lease: &Lease) -> Duration {
    Duration::from_secs(u32::try_from(lease.ttl.max(0)).unwrap_or(u32::MAX).into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use kvorum_scripted::{Scripted, Step as Answer};

    const TTL: Duration = Duration::from_secs(9);

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn trouble() -> Error {
        Error::Unavailable { message: "no leader".to_owned() }
    }

    #[test]
    fn a_lease_is_renewed_three_times_in_its_life() {
        let asked = Instant::now();
        let mut schedule = Schedule::new(TTL, asked, asked + seconds(1));
        assert_eq!(schedule.step(asked + seconds(1)), Step::Wait(seconds(2)));
        assert_eq!(schedule.step(asked + seconds(3)), Step::Ask(seconds(3)));
        // The answer took a second; the lease lives from when it was asked for.
        schedule.renewed(TTL, asked + seconds(3));
        assert_eq!(schedule.step(asked + seconds(4)), Step::Wait(seconds(2)));
        assert_eq!(schedule.step(asked + seconds(11)), Step::Ask(seconds(1)));
        assert_eq!(schedule.step(asked + seconds(12)), Step::GiveUp);
    }

    #[test]
    fn a_lease_that_was_granted_late_is_renewed_at_once_and_not_given_up() {
        let asked = Instant::now();
        for late in [3, 9, 60] {
            let answered = asked + seconds(late);
            let mut schedule = Schedule::new(TTL, asked, answered);
            assert_eq!(schedule.step(answered), Step::Ask(seconds(3)), "{late}");
            schedule.failed(trouble(), answered + seconds(1));
            assert_eq!(schedule.step(answered + seconds(2)), Step::Ask(seconds(3)), "{late}");
            assert_eq!(schedule.step(answered + TTL), Step::GiveUp, "{late}");
            schedule.renewed(TTL, answered + seconds(2));
            assert_eq!(schedule.step(answered + seconds(2)), Step::Wait(seconds(3)), "{late}");
        }
    }

    #[test]
    fn trouble_is_waited_out_no_longer_than_the_lease_lives() {
        let asked = Instant::now();
        let mut schedule = Schedule::new(TTL, asked, asked);
        schedule.failed(trouble(), asked + seconds(3));
        assert_eq!(schedule.step(asked + seconds(3)), Step::Wait(RETRY_PAUSE));
        let shortly_before = asked + TTL.saturating_sub(Duration::from_millis(50));
        schedule.failed(trouble(), shortly_before);
        assert_eq!(schedule.step(shortly_before), Step::Wait(Duration::from_millis(50)));
        assert_eq!(schedule.step(asked + TTL), Step::GiveUp);
    }

    #[test]
    fn times_beyond_all_clocks_are_long_and_negative_ones_are_over() {
        let ttl = |ttl| time_to_live(&Lease { revision: 1, id: 7, ttl });
        let asked = Instant::now();
        assert_eq!(Schedule::new(ttl(-1), asked, asked).step(asked), Step::GiveUp);
        assert!(matches!(Schedule::new(ttl(i64::MAX), asked, asked).step(asked), Step::Wait(_)));
    }

    #[tokio::test]
    async fn the_first_renewal_ends_with_any_error_and_later_ones_bear_trouble() {
        let client =
            |node: &Scripted| Client::builder().endpoints([node.addr()]).timeout(seconds(2)).build().unwrap();
        let node = Scripted::steps([Answer::error(401, "unauthorized")]).await;
        assert_eq!(client(&node).keep_alive(7).next().await.unwrap_err().code(), "unauthorized");

        let renewed = || Answer::reply(200, r#"{"revision":5,"id":7,"ttl":1}"#);
        let steps =
            [renewed(), Answer::error(500, "internal"), renewed(), Answer::error(404, "lease_not_found")];
        let node = Scripted::steps(steps).await;
        let mut keep_alive = client(&node).keep_alive(7);
        for _ in 0..2 {
            assert_eq!(keep_alive.next().await.unwrap().ttl, 1);
        }
        assert_eq!(keep_alive.next().await.unwrap_err().code(), "lease_not_found");
        assert_eq!(node.requests().len(), 4);
    }
}

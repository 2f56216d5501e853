//! A lease that is kept alive for as long as its holder lives.
//!
//! What rests on a session ends with it: at the latest one time to live after the
//! holder has gone silent. The session judges by this process's own clock, and from
//! before each renewal was sent, so that it gives the lease up no later than the
//! cluster does. That clock can be stopped, as a process can: whoever must not act
//! on a lock that was lost meanwhile hands the lock's revision on as a fence.

use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::call::SHORTEST_ATTEMPT;
use crate::{Client, Error};

/// How many times a lease is renewed while it lives once.
const RENEWALS: u32 = 3;
/// Between attempts to renew a lease that is running out.
const RETRY_PAUSE: Duration = Duration::from_millis(200);

/// A lease that renews itself. Dropping it stops the renewals, and the lease ends
/// after its time; [`Session::end`] ends it at once.
#[derive(Debug)]
pub struct Session {
    client: Client,
    lease: i64,
    ttl: Duration,
    lost: watch::Receiver<Option<Error>>,
    renewing: JoinHandle<()>,
}

impl Client {
    /// Grants a lease of `ttl`, in whole seconds and at least one, and keeps it
    /// alive. Needs a Tokio runtime.
    ///
    /// # Errors
    /// As for [`Client::lease_grant`].
    pub async fn session(&self, ttl: Duration) -> Result<Session, Error> {
        let seconds = i64::try_from(ttl.as_secs()).unwrap_or(i64::MAX).max(1);
        // From before it is asked for: it is granted no earlier than that.
        let asked = Instant::now();
        let lease = self.lease_grant(seconds, None).await?;
        let ttl = Duration::from_secs(u64::try_from(lease.ttl).unwrap_or_default());
        let (tell, lost) = watch::channel(None);
        // From now on it is known that there are nodes at the endpoints.
        let client = self.patient();
        let renewer = client.clone();
        let renewing = tokio::spawn(async move {
            let error = keep_alive(&renewer, lease.id, ttl, asked).await;
            // If nobody listens, nobody relies on it.
            let _ = tell.send(Some(error));
        });
        Ok(Session { client, lease: lease.id, ttl, lost, renewing })
    }
}

/// Renews a lease until it is lost, and says why it is.
async fn keep_alive(client: &Client, lease: i64, ttl: Duration, granted: Instant) -> Error {
    let interval = ttl / RENEWALS;
    let mut renewed = granted;
    let mut trouble = None;
    loop {
        let due = renewed + interval;
        let wait = due.saturating_duration_since(Instant::now());
        tokio::time::sleep(if trouble.is_some() { wait.max(RETRY_PAUSE) } else { wait }).await;
        let left = (renewed + ttl).saturating_duration_since(Instant::now());
        if left.is_zero() {
            let why =
                trouble.map_or_else(|| "nobody asked in time".to_owned(), |error: Error| error.to_string());
            let message = format!("lease {lease} was not renewed within {} s: {why}", ttl.as_secs());
            return Error::LeaseLost { message };
        }
        let asked = Instant::now();
        // Leaves time for another attempt when this one hangs.
        match client.with_timeout(left.min(interval.max(SHORTEST_ATTEMPT))).lease_keep_alive(lease).await {
            Ok(_) => {
                renewed = asked;
                trouble = None;
            }
            Err(error) if error.code() == "lease_not_found" => {
                return Error::LeaseLost { message: format!("lease {lease} has ended") };
            }
            Err(error) => trouble = Some(error),
        }
    }
}

impl Session {
    /// The lease.
    pub fn lease(&self) -> i64 {
        self.lease
    }

    /// How long the lease lives unless it is renewed.
    pub fn ttl(&self) -> Duration {
        self.ttl
    }

    /// Waits until the lease is lost, and says why.
    ///
    /// # Cancel safety
    /// It may be dropped and called again.
    pub async fn lost(&self) -> Error {
        let mut lost = self.lost.clone();
        let error = match lost.wait_for(Option::is_some).await {
            Ok(error) => error.clone(),
            Err(_) => None,
        };
        error.unwrap_or_else(|| Error::LeaseLost { message: "nobody renews the lease any more".to_owned() })
    }

    /// Ends the lease now, and with it everything that rests on it.
    ///
    /// # Errors
    /// Any of a call's; the lease then ends by itself after its time.
    pub async fn end(self) -> Result<(), Error> {
        self.renewing.abort();
        match self.client.lease_revoke(self.lease).await {
            Err(error) if error.code() != "lease_not_found" => Err(error),
            _ => Ok(()),
        }
    }

    pub(crate) fn client(&self) -> &Client {
        &self.client
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.renewing.abort();
    }
}

#[cfg(test)]
mod tests;

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

use crate::keep_alive::{KeepAlive, time_to_live};
use crate::{Client, Error};

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
    /// As for [`Client::lease_grant`]; `LeaseLost` if the grant took so long that the
    /// lease may have ended, and then it could not be renewed.
    pub async fn session(&self, ttl: Duration) -> Result<Session, Error> {
        let seconds = i64::try_from(ttl.as_secs()).unwrap_or(i64::MAX).max(1);
        // From before it is asked for: it is granted no earlier than that.
        let asked = Instant::now();
        let granted = self.lease_grant(seconds, None).await?;
        let lease = granted.id;
        let mut keep_alive = KeepAlive::granted(self, &granted, asked);
        // The grant may have been tried for longer than the lease lives.
        if keep_alive.is_due() {
            keep_alive.next().await.map_err(|error| lost(lease, error))?;
        }
        let (tell, told) = watch::channel(None);
        let renewing = tokio::spawn(async move {
            loop {
                if let Err(error) = keep_alive.next().await {
                    // If nobody listens, nobody relies on it.
                    let _ = tell.send(Some(lost(lease, error)));
                    return;
                }
            }
        });
        Ok(Session { client: self.patient(), lease, ttl: time_to_live(&granted), lost: told, renewing })
    }
}

/// An error of a call for which the lease must be alive, in the session's words.
fn lost(lease: i64, error: Error) -> Error {
    if error.code() == "lease_not_found" {
        return Error::LeaseLost { message: format!("lease {lease} has ended") };
    }
    error
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

    /// The client that the session speaks through. It knows that there are nodes at
    /// its endpoints, and has patience with them.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// An error of a call that attaches a key to the lease, in the session's words.
    pub(crate) fn explain(&self, error: Error) -> Error {
        lost(self.lease, error)
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.renewing.abort();
    }
}

#[cfg(test)]
mod tests;

//! How a client reaches nodes: what is asked and noted does not depend on it.
//!
//! The torture reaches processes over their interfaces, the simulation calls the services of
//! its nodes; what they do and how it is judged is the same.

use std::future::Future;
use std::time::Duration;

use super::Endpoint;
use crate::dice::Dice;
use crate::history::{Call, Outcome, Way};

/// What a keep-alive was answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Renewal {
    /// The lease lives for this long from then on.
    Renewed(Duration),
    /// There is no such lease.
    Gone,
    /// Nothing is known.
    Unknown,
}

/// A lease that was granted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Granted {
    /// Its id.
    pub id: i64,
    /// Its time to live.
    pub ttl: Duration,
}

/// The way of one client to all nodes. Each call is made once, and ends within a bounded time.
pub trait Wire {
    /// Draws the interface over which a call goes.
    fn choose_way(&mut self, call: &Call, dice: &mut Dice) -> Way;

    /// Makes a call, and says what became of it: [`Outcome::Failed`] only if it was certainly
    /// not carried out and never will be.
    fn call(
        &mut self,
        way: Way,
        endpoint: &Endpoint,
        call: &Call,
        dice: &mut Dice,
    ) -> impl Future<Output = Outcome>;

    /// Asks for a lease of `ttl` seconds; `None` unless one was certainly granted.
    fn grant(
        &mut self,
        endpoint: &Endpoint,
        ttl: i64,
        dice: &mut Dice,
    ) -> impl Future<Output = Option<Granted>>;

    /// Asks for a lease's time to begin anew.
    fn keep_alive(&mut self, endpoint: &Endpoint, id: i64, dice: &mut Dice) -> impl Future<Output = Renewal>;

    /// Asks for a lease's end. One whose end nobody heard of ends by itself.
    fn revoke(&mut self, endpoint: &Endpoint, id: i64, dice: &mut Dice) -> impl Future<Output = ()>;

    /// Waits for the lock `name` of etcd's lock service, and gives the key that it is held
    /// by; `None` unless it was certainly given, and where there is no such service.
    fn acquire(
        &mut self,
        endpoint: &Endpoint,
        name: &str,
        lease: i64,
    ) -> impl Future<Output = Option<String>>;

    /// Gives up what is held by `key`; whether it came is not asked.
    fn release(&mut self, endpoint: &Endpoint, key: &str) -> impl Future<Output = ()>;
}

//! Ports on loopback that nothing listens on.

use std::net::TcpListener;
use std::ops::Range;

use super::error::HarnessError;

/// Hands out addresses, each of them once.
///
/// A node keeps its address while it is down, so the range should lie below the one that
/// the system gives to outgoing connections, one of which could otherwise take it.
#[derive(Debug, Clone)]
pub struct Ports {
    range: Range<u16>,
    next: u32,
    left: u32,
}

impl Ports {
    /// Ports of a range. Runs side by side begin at different places of it.
    pub fn new(range: Range<u16>) -> Self {
        let count = u32::from(range.end.saturating_sub(range.start));
        let next = if count == 0 { 0 } else { std::process::id().wrapping_mul(331) % count };
        Self { range, next, left: count }
    }

    /// An address that nothing listens on at this moment.
    pub fn address(&mut self) -> Result<String, HarnessError> {
        let count = u32::from(self.range.end.saturating_sub(self.range.start));
        while self.left > 0 {
            let port = u32::from(self.range.start) + self.next;
            self.next = (self.next + 1) % count;
            self.left -= 1;
            let address = format!("127.0.0.1:{port}");
            if TcpListener::bind(&address).is_ok() {
                return Ok(address);
            }
        }
        Err(HarnessError::Refused(format!("no port of {:?} is left", self.range)))
    }
}

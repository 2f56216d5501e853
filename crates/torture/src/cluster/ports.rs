//! Ports on loopback that nothing listens on.

use std::fs;
use std::net::TcpListener;
use std::ops::Range;

use super::error::HarnessError;

/// Hands out addresses, each of them once.
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

    /// Refuses a range that overlaps the one that the system gives to outgoing
    /// connections: one of them could take the port of a node that is down, and who calls
    /// that node could even reach itself.
    pub fn check(&self) -> Result<(), HarnessError> {
        let path = "/proc/sys/net/ipv4/ip_local_port_range";
        let text = fs::read_to_string(path).map_err(HarnessError::io(format!("reading {path}")))?;
        let mut ends = text.split_whitespace().map(str::parse::<u16>);
        let (Some(Ok(first)), Some(Ok(last))) = (ends.next(), ends.next()) else {
            return Err(HarnessError::Refused(format!("{path} is {text:?}")));
        };
        if self.range.start <= last && first < self.range.end {
            let Range { start, end } = self.range;
            return Err(HarnessError::Refused(format!(
                "ports {start} to {end} overlap those for outgoing connections, {first} to {last}"
            )));
        }
        Ok(())
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

//! What both fronts set on each connection that they accept.
//!
//! A client that vanishes without a word, because its host lost power or its network went
//! away, leaves a connection on which nothing will ever arrive. The system finds out: it asks
//! a silent other side for a sign of life, and does not wait for receipts for ever.

use std::os::fd::BorrowedFd;
use std::time::Duration;

use rustix::net::sockopt;

/// How long a connection may be silent before its other side is asked for a sign of life.
const SILENCE: Duration = Duration::from_secs(30);
/// The time between two such questions.
const INTERVAL: Duration = Duration::from_secs(10);
/// How many of them may stay unanswered.
const QUESTIONS: u32 = 3;
/// How long a receipt for what was sent may take. It also replaces the number of questions: a
/// shorter time would end a connection whose first question alone got lost.
#[cfg(target_os = "linux")]
const RECEIPT_MS: u32 = (SILENCE.as_secs() as u32 + QUESTIONS * INTERVAL.as_secs() as u32) * 1_000;

/// Has the system watch over the connection of `socket`.
pub(crate) fn keep_alive(socket: BorrowedFd<'_>) {
    // Without any of them the connection works all the same.
    let _ = sockopt::set_socket_keepalive(socket, true);
    let _ = sockopt::set_tcp_keepidle(socket, SILENCE);
    let _ = sockopt::set_tcp_keepintvl(socket, INTERVAL);
    let _ = sockopt::set_tcp_keepcnt(socket, QUESTIONS);
    #[cfg(target_os = "linux")]
    let _ = sockopt::set_tcp_user_timeout(socket, RECEIPT_MS);
}

/// Whether the system watches over the connection that a server has accepted from a client,
/// both of which have addresses of IPv4.
#[cfg(all(test, target_os = "linux"))]
pub(crate) fn is_kept_alive(server: std::net::SocketAddr, client: std::net::SocketAddr) -> bool {
    let connections = std::fs::read_to_string("/proc/net/tcp").expect("the system lists connections");
    let [server, client] = [server, client].map(|addr| format!(":{:04X}", addr.port()));
    connections.lines().any(|line| {
        let fields: Vec<_> = line.split_whitespace().collect();
        let [_, local, remote, _, _, timer, ..] = fields.as_slice() else { return false };
        local.ends_with(&server) && remote.ends_with(&client) && timer.starts_with("02:")
    })
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::AsFd as _;

    use super::*;

    #[test]
    fn a_silent_connection_is_asked_three_times() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let _client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (accepted, _) = listener.accept().unwrap();
        assert!(!sockopt::socket_keepalive(&accepted).unwrap());
        keep_alive(accepted.as_fd());
        assert!(sockopt::socket_keepalive(&accepted).unwrap());
        assert_eq!(sockopt::tcp_keepidle(&accepted).unwrap(), SILENCE);
        assert_eq!(sockopt::tcp_keepintvl(&accepted).unwrap(), INTERVAL);
        assert_eq!(sockopt::tcp_keepcnt(&accepted).unwrap(), QUESTIONS);
        #[cfg(target_os = "linux")]
        assert_eq!(sockopt::tcp_user_timeout(&accepted).unwrap(), 60_000);
    }
}

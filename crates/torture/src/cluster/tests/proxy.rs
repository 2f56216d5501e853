//! Proxies between a sender and a receiver of bytes.

use std::sync::{LazyLock, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, timeout};

use crate::cluster::{CLIENTS, Callers, Effect, Links, Ports, Proxy, between};

const PATIENCE: Duration = Duration::from_secs(5);
/// Longer than anything takes on a link that is whole.
const SILENCE: Duration = Duration::from_millis(200);

/// Two ends of a connection through a proxy before node 2.
struct Ends {
    sender: TcpStream,
    receiver: TcpStream,
    links: Links,
    /// Breaks the connection when it is dropped.
    proxy: Proxy,
}

async fn connect(callers: Callers, first: &[u8]) -> Ends {
    let target = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = free_address();
    let links = Links::default();
    let proxy = Proxy::new(&links, callers, 2, address, target.local_addr().unwrap().to_string());
    proxy.set_open(true);
    let mut sender = dial(proxy.address()).await;
    sender.write_all(first).await.unwrap();
    let (mut receiver, _) = timeout(PATIENCE, target.accept()).await.unwrap().unwrap();
    let mut seen = vec![0; first.len()];
    receiver.read_exact(&mut seen).await.unwrap();
    assert_eq!(seen, first);
    Ends { sender, receiver, links, proxy }
}

/// Not of the range for outgoing connections: whoever dials a port of it before somebody
/// listens there may reach itself.
fn free_address() -> String {
    static PORTS: LazyLock<Mutex<Ports>> = LazyLock::new(|| Mutex::new(Ports::new(12_000..32_000)));
    PORTS.lock().unwrap().address().unwrap()
}

async fn dial(address: &str) -> TcpStream {
    let begun = Instant::now();
    loop {
        match TcpStream::connect(address).await {
            Ok(stream) => return stream,
            Err(error) => assert!(begun.elapsed() < PATIENCE, "{error}"),
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn arrives(to: &mut TcpStream, text: &[u8]) -> bool {
    let mut seen = vec![0; text.len()];
    match timeout(SILENCE, to.read_exact(&mut seen)).await {
        Ok(read) => {
            read.unwrap();
            assert_eq!(seen, text);
            true
        }
        Err(_) => false,
    }
}

const PEER_HEAD: &[u8] = b"POST /append HTTP/1.1\r\nX-Kvorum-From: 7\r\ncontent-length: 0\r\n\r\n";

#[tokio::test]
async fn a_cut_holds_one_direction_back_and_delivers_late() {
    for (callers, from, head) in
        [(Callers::Clients, CLIENTS, b"hello".as_slice()), (Callers::Peers, 7, PEER_HEAD)]
    {
        let mut ends = connect(callers, head).await;
        let cut = ends.links.lay([(from, 2)], Effect::cut());
        ends.sender.write_all(b"there").await.unwrap();
        ends.receiver.write_all(b"back").await.unwrap();
        assert!(arrives(&mut ends.sender, b"back").await, "the other direction is whole");
        assert!(!arrives(&mut ends.receiver, b"there").await, "{callers:?}");
        // A second fault on the same link ends before the first.
        let other = ends.links.lay(between(&[2], &[from]), Effect::cut());
        ends.links.lift(other);
        assert!(!arrives(&mut ends.receiver, b"there").await);
        ends.links.lift(cut);
        assert!(arrives(&mut ends.receiver, b"there").await, "held back, not lost");
    }
}

#[tokio::test]
async fn what_is_held_back_arrives_though_the_sender_is_gone() {
    let mut ends = connect(Callers::Clients, b"hello").await;
    let cut = ends.links.lay([(CLIENTS, 2)], Effect::cut());
    ends.sender.write_all(b"late").await.unwrap();
    drop(ends.sender);
    assert!(!arrives(&mut ends.receiver, b"late").await);
    ends.links.lift(cut);
    assert!(arrives(&mut ends.receiver, b"late").await);
    let mut rest = Vec::new();
    timeout(PATIENCE, ends.receiver.read_to_end(&mut rest)).await.unwrap().unwrap();
    assert!(rest.is_empty(), "then it ends");
}

#[tokio::test]
async fn a_delay_adds_to_latency_and_not_to_each_piece() {
    let mut ends = connect(Callers::Clients, b"hello").await;
    let delay = Duration::from_millis(150);
    ends.links.lay([(CLIENTS, 2)], Effect { delay, ..Effect::default() });
    let begun = Instant::now();
    for _ in 0..10 {
        ends.sender.write_all(b"piece").await.unwrap();
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let mut seen = [0; 50];
    ends.receiver.read_exact(&mut seen).await.unwrap();
    assert!(begun.elapsed() >= delay && begun.elapsed() < delay * 5, "{:?}", begun.elapsed());
}

#[tokio::test]
async fn a_trickle_bounds_the_bytes_of_a_second() {
    let mut ends = connect(Callers::Clients, b"hello").await;
    ends.links.lay([(2, CLIENTS)], Effect { bytes_per_second: Some(2_000), ..Effect::default() });
    let begun = Instant::now();
    ends.receiver.write_all(&[1; 1_000]).await.unwrap();
    let mut seen = [0; 1_000];
    ends.sender.read_exact(&mut seen).await.unwrap();
    assert!(begun.elapsed() >= Duration::from_millis(400), "{:?}", begun.elapsed());
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn a_reset_breaks_connections_of_its_link_alone() {
    let mut ends = connect(Callers::Peers, PEER_HEAD).await;
    ends.links.reset([(8, 2), (CLIENTS, 2)]);
    ends.sender.write_all(b"on").await.unwrap();
    assert!(arrives(&mut ends.receiver, b"on").await);
    ends.links.reset([(7, 2)]);
    let mut end = [0];
    for side in [&mut ends.sender, &mut ends.receiver] {
        let error = timeout(PATIENCE, side.read(&mut end)).await.unwrap().unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    }
}

#[tokio::test]
async fn a_closed_proxy_refuses_connections_and_keeps_those_there_are() {
    let mut ends = connect(Callers::Clients, b"hello").await;
    ends.proxy.set_open(false);
    let begun = Instant::now();
    while TcpStream::connect(ends.proxy.address()).await.is_ok() {
        assert!(begun.elapsed() < PATIENCE);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    ends.sender.write_all(b"on").await.unwrap();
    assert!(arrives(&mut ends.receiver, b"on").await);
    ends.proxy.set_open(true);
    dial(ends.proxy.address()).await;
}

#[tokio::test]
async fn the_end_of_a_receiver_reaches_the_sender() {
    let mut ends = connect(Callers::Peers, PEER_HEAD).await;
    drop(ends.receiver);
    let mut end = [0];
    let read = timeout(PATIENCE, ends.sender.read(&mut end)).await.unwrap();
    assert!(matches!(read, Ok(0)) || read.is_err());
}

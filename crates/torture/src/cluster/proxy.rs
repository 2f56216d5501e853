//! What stands before each port of a node and lets bytes pass as the links say.
//!
//! A connection belongs to one sender for good: to the clients, or to the node that its
//! first request names in `x-kvorum-from` (nodes keep connections by target). What flows
//! from the sender obeys the link sender → target, and what flows back the link target →
//! sender. Bytes on a cut link are held back, as a real partition does, and delivered
//! late, also when the sender is gone by then.
//!
//! A proxy listens only while its node runs, so that a node that is down refuses
//! connections through it too.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::Instant;

use super::links::{CLIENTS, Link, Links};
use crate::dice::Dice;
use crate::history::NodeId;

/// A head longer than this is no peer's.
const MAX_HEAD_BYTES: usize = 16 << 10;
/// Bytes that are read at once.
const PIECE_BYTES: usize = 16 << 10;
/// Pieces that are on their way at once; a sender waits when there are more.
const PIECES: usize = 64;
/// How often bytes pass where only so many may pass in a second.
const TRICKLES_PER_SECOND: u64 = 20;
/// How long to wait before a port that is taken is tried again.
const BIND_RETRY: Duration = Duration::from_millis(10);

/// Numbers connections, so that each draws delays of its own.
static CONNECTIONS: AtomicU64 = AtomicU64::new(0);

/// Who calls through a proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Callers {
    /// Other nodes, which name themselves.
    Peers,
    /// Clients, all of them alike.
    Clients,
}

/// The proxy before one port; dropping it breaks all its connections.
#[derive(Debug)]
pub struct Proxy {
    address: String,
    is_open: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Proxy {
    /// Stands before `inner`, a port of `target`, at `address`; it does not listen yet.
    ///
    /// # Panics
    /// Outside of a runtime.
    pub fn new(links: &Links, callers: Callers, target: NodeId, address: String, inner: String) -> Self {
        let (is_open, open) = watch::channel(false);
        let front = Front { links: links.clone(), callers, target, inner };
        let task = tokio::spawn(serve(front, address.clone(), open));
        Self { address, is_open, task }
    }

    /// Where it is called.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Begins or ceases to listen. Connections that there are go on.
    pub fn set_open(&self, is_open: bool) {
        self.is_open.send_replace(is_open);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[derive(Debug, Clone)]
struct Front {
    links: Links,
    callers: Callers,
    target: NodeId,
    inner: String,
}

async fn serve(front: Front, address: String, mut open: watch::Receiver<bool>) {
    let mut connections = JoinSet::new();
    while open.wait_for(|open| *open).await.is_ok() {
        let Ok(listener) = TcpListener::bind(&address).await else {
            tokio::time::sleep(BIND_RETRY).await;
            continue;
        };
        loop {
            tokio::select! {
                accepted = listener.accept() => if let Ok((stream, _)) = accepted {
                    let front = front.clone();
                    // A connection that breaks is what proxies are for.
                    connections.spawn(async move { front.carry(stream).await.unwrap_or(()) });
                },
                Some(_) = connections.join_next() => {}
                _ = open.wait_for(|open| !*open) => break,
            }
        }
    }
}

impl Front {
    async fn carry(&self, mut sender: TcpStream) -> io::Result<()> {
        sender.set_nodelay(true)?;
        let mut head = BytesMut::new();
        let from = match self.callers {
            Callers::Clients => CLIENTS,
            Callers::Peers => loop {
                if let Some(from) = sender_of(&head) {
                    break from;
                }
                if sender.read_buf(&mut head).await? == 0 || head.len() > MAX_HEAD_BYTES {
                    return Ok(());
                }
            },
        };
        let there = (from, self.target);
        let mut resets = self.links.resets(there);
        tokio::select! {
            () = self.links.passable(there) => {}
            () = resets.broken() => return sender.set_zero_linger(),
        }
        let mut receiver = TcpStream::connect(&self.inner).await?;
        receiver.set_nodelay(true)?;
        let is_broken = {
            let (from_sender, to_sender) = sender.split();
            let (from_receiver, to_receiver) = receiver.split();
            let back = (self.target, from);
            // Each way ends by itself: what is held back on one is delivered even though
            // the other is over.
            let both = async {
                tokio::join!(
                    self.pump(head.freeze(), from_sender, to_receiver, there),
                    self.pump(Bytes::new(), from_receiver, to_sender, back),
                )
            };
            tokio::select! {
                _ = both => false,
                () = resets.broken() => true,
            }
        };
        if is_broken {
            sender.set_zero_linger()?;
            receiver.set_zero_linger()?;
        }
        Ok(())
    }

    async fn pump(
        &self,
        first: Bytes,
        from: impl AsyncRead + Unpin,
        to: impl AsyncWrite + Unpin,
        link: Link,
    ) {
        let (pieces, arriving) = mpsc::channel(PIECES);
        let ((), written) = tokio::join!(self.take(first, from, pieces, link), self.give(arriving, to, link));
        // The other way may still go on.
        written.unwrap_or(());
    }

    /// Reads pieces and notes when each may arrive.
    async fn take(
        &self,
        first: Bytes,
        mut from: impl AsyncRead + Unpin,
        pieces: mpsc::Sender<Piece>,
        link: Link,
    ) {
        let mut dice = Dice::new(CONNECTIONS.fetch_add(1, Ordering::Relaxed));
        let mut ready = Instant::now();
        let mut bytes = first;
        loop {
            if !bytes.is_empty() {
                let effect = self.links.effect(link);
                let jitter = effect.jitter.mul_f64(dice.below(1_000) as f64 / 1_000.0);
                ready = ready.max(Instant::now() + effect.delay + jitter);
                if pieces.send(Piece { bytes, ready }).await.is_err() {
                    return;
                }
            }
            let mut buffer = BytesMut::with_capacity(PIECE_BYTES);
            let read = tokio::select! {
                read = from.read_buf(&mut buffer) => read,
                // Nobody takes them any more.
                () = pieces.closed() => return,
            };
            match read {
                Ok(0) | Err(_) => return,
                Ok(_) => bytes = buffer.freeze(),
            }
        }
    }

    /// Writes pieces when it is time.
    async fn give(
        &self,
        mut pieces: mpsc::Receiver<Piece>,
        mut to: impl AsyncWrite + Unpin,
        link: Link,
    ) -> io::Result<()> {
        while let Some(Piece { mut bytes, ready }) = pieces.recv().await {
            tokio::time::sleep_until(ready).await;
            while !bytes.is_empty() {
                self.links.passable(link).await;
                match self.links.effect(link).bytes_per_second {
                    None => to.write_all(&bytes.split_to(bytes.len())).await?,
                    Some(rate) => {
                        let count = (rate / TRICKLES_PER_SECOND).max(1) as usize;
                        to.write_all(&bytes.split_to(count.min(bytes.len()))).await?;
                        tokio::time::sleep(Duration::from_secs(1) / TRICKLES_PER_SECOND as u32).await;
                    }
                }
            }
        }
        self.links.passable(link).await;
        to.shutdown().await
    }
}

#[derive(Debug)]
struct Piece {
    bytes: Bytes,
    ready: Instant,
}

/// The sender that a whole request head names; the clients for someone who is no node.
fn sender_of(head: &[u8]) -> Option<NodeId> {
    let text = String::from_utf8_lossy(head);
    let (head, _) = text.split_once("\r\n\r\n")?;
    let named = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("x-kvorum-from").then(|| value.trim().parse().ok())?
    });
    Some(named.unwrap_or(CLIENTS))
}

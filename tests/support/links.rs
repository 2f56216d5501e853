//! Directed links between nodes, cut and slowed down without root.
//!
//! In front of each node's port for peers stands one proxy, whose address is the
//! one that the node advertises. A connection belongs to one sender for good
//! (nodes pool connections by target), and its first request names the sender in
//! `x-kvorum-from`. What flows from the sender then obeys the link sender →
//! target, and what flows back the link target → sender. A cut link holds bytes
//! back as a real partition does, and delivers them late when it heals.

use std::collections::{HashMap, HashSet};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use kvorum::NodeId;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// A head longer than this is no peer's.
const MAX_HEAD_BYTES: usize = 16 << 10;

type Link = (NodeId, NodeId);

#[derive(Debug, Default, Clone)]
struct Weather {
    cut: HashSet<Link>,
    barred: HashSet<Link>,
    delay: HashMap<Link, Duration>,
}

/// All links of a cluster; clones share them.
#[derive(Debug, Clone)]
pub(crate) struct Links {
    weather: Arc<watch::Sender<Weather>>,
    connections: Arc<AtomicU64>,
}

impl Links {
    pub(crate) fn new() -> Self {
        Self { weather: Arc::new(watch::Sender::new(Weather::default())), connections: Arc::default() }
    }

    /// Nothing passes from `from` to `to` any more; the other way still does.
    pub(crate) fn cut(&self, from: NodeId, to: NodeId) {
        self.weather.send_modify(|weather| {
            weather.cut.insert((from, to));
        });
    }

    /// What is held back from `from` to `to` arrives, and the link is whole again.
    pub(crate) fn mend(&self, from: NodeId, to: NodeId) {
        self.weather.send_modify(|weather| {
            weather.cut.remove(&(from, to));
        });
    }

    /// No new connection of `from` reaches `to`; those that are there go on, and so do
    /// answers on connections that `to` has made.
    pub(crate) fn bar(&self, from: NodeId, to: NodeId) {
        self.weather.send_modify(|weather| {
            weather.barred.insert((from, to));
        });
    }

    /// Cuts `node` off from `others`, both ways.
    pub(crate) fn isolate(&self, node: NodeId, others: impl IntoIterator<Item = NodeId>) {
        for other in others.into_iter().filter(|other| *other != node) {
            self.cut(node, other);
            self.cut(other, node);
        }
    }

    /// What passes from `from` to `to` takes this much longer.
    pub(crate) fn delay(&self, from: NodeId, to: NodeId, delay: Duration) {
        self.weather.send_modify(|weather| {
            weather.delay.insert((from, to), delay);
        });
    }

    /// How many connections were made between nodes so far.
    pub(crate) fn connections(&self) -> u64 {
        self.connections.load(Ordering::Relaxed)
    }

    /// All links are whole and fast again.
    pub(crate) fn heal(&self) {
        self.weather.send_replace(Weather::default());
    }

    /// Serves `target`'s advertised address, passing on to `inner`, for as long
    /// as the runtime lives.
    pub(crate) fn serve(&self, target: NodeId, listener: TcpListener, inner: String) {
        let links = self.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                links.connections.fetch_add(1, Ordering::Relaxed);
                let (links, inner) = (links.clone(), inner.clone());
                // A connection that breaks is what proxies are for.
                tokio::spawn(async move { links.carry(stream, target, &inner).await.ok() });
            }
        });
    }

    async fn carry(&self, mut sender: TcpStream, target: NodeId, inner: &str) -> io::Result<()> {
        sender.set_nodelay(true)?;
        let mut head = Vec::new();
        let from = loop {
            if let Some(from) = sender_of(&head) {
                break from;
            }
            if sender.read_buf(&mut head).await? == 0 || head.len() > MAX_HEAD_BYTES {
                return Ok(());
            }
        };
        self.admitted((from, target)).await;
        self.passable((from, target)).await;
        let receiver = TcpStream::connect(inner).await?;
        receiver.set_nodelay(true)?;
        let (from_sender, to_sender) = sender.into_split();
        let (from_receiver, mut to_receiver) = receiver.into_split();
        to_receiver.write_all(&head).await?;
        // When either side ends, both do: a peer that was killed must be seen gone.
        tokio::select! {
            _ = self.pump(from_sender, to_receiver, (from, target)) => {}
            _ = self.pump(from_receiver, to_sender, (target, from)) => {}
        }
        Ok(())
    }

    async fn pump(&self, mut from: OwnedReadHalf, mut to: OwnedWriteHalf, link: Link) -> io::Result<()> {
        let mut piece = vec![0; 64 << 10];
        loop {
            let count = from.read(&mut piece).await?;
            self.passable(link).await;
            if count == 0 {
                return to.shutdown().await;
            }
            to.write_all(&piece[..count]).await?;
        }
    }

    async fn admitted(&self, link: Link) {
        // The sender lives in `self`.
        let _ = self.weather.subscribe().wait_for(|weather| !weather.barred.contains(&link)).await;
    }

    /// Waits until the link is whole, and for as long as it takes.
    async fn passable(&self, link: Link) {
        let mut weather = self.weather.subscribe();
        // The sender lives in `self`.
        let delay = match weather.wait_for(|weather| !weather.cut.contains(&link)).await {
            Ok(weather) => weather.delay.get(&link).copied(),
            Err(_) => None,
        };
        if let Some(delay) = delay {
            tokio::time::sleep(delay).await;
        }
    }
}

/// The sender that a whole request head names; zero for someone who is no node.
fn sender_of(head: &[u8]) -> Option<NodeId> {
    let text = String::from_utf8_lossy(head);
    let (head, _) = text.split_once("\r\n\r\n")?;
    let named = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("x-kvorum-from").then(|| value.trim().parse().ok())?
    });
    Some(named.unwrap_or(0))
}

//! Where a node listens, and the proxies through which it is called.

use super::error::HarnessError;
use super::links::Links;
use super::ports::Ports;
use super::proxy::{Callers, Proxy};
use crate::history::NodeId;

/// Where a node listens, and where it is called.
#[derive(Debug)]
pub(super) struct Doors {
    pub(super) inner_http: String,
    pub(super) inner_grpc: String,
    pub(super) peers: Proxy,
    pub(super) http: Proxy,
    pub(super) grpc: Proxy,
}

impl Doors {
    pub(super) fn new(id: NodeId, ports: &mut Ports, links: &Links) -> Result<Self, HarnessError> {
        let (inner_http, inner_grpc) = (ports.address()?, ports.address()?);
        let mut proxy = |callers, inner: &str| {
            ports.address().map(|address| Proxy::new(links, callers, id, address, inner.to_owned()))
        };
        Ok(Self {
            peers: proxy(Callers::Peers, &inner_http)?,
            http: proxy(Callers::Clients, &inner_http)?,
            grpc: proxy(Callers::Clients, &inner_grpc)?,
            inner_http,
            inner_grpc,
        })
    }

    pub(super) fn set_open(&self, is_open: bool) {
        for proxy in [&self.peers, &self.http, &self.grpc] {
            proxy.set_open(is_open);
        }
    }
}

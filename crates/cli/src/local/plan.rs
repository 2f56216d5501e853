//! Which nodes there are to be, where they listen and where they keep things.

use std::net::TcpListener;
use std::path::{Path, PathBuf};

use crate::failure::{Exit, Failure};

/// One node of a local cluster.
#[derive(Debug, Clone)]
pub(super) struct NodePlan {
    id: u64,
    addr: String,
    grpc_addr: Option<String>,
    data_dir: PathBuf,
    log: PathBuf,
}

impl NodePlan {
    pub(super) fn id(&self) -> u64 {
        self.id
    }

    /// `host:port` of its HTTP API, which its peers use too.
    pub(super) fn addr(&self) -> &str {
        &self.addr
    }

    /// `host:port` of etcd's API, if it is served.
    pub(super) fn grpc_addr(&self) -> Option<&str> {
        self.grpc_addr.as_deref()
    }

    pub(super) fn data_dir(&self) -> &Path {
        &self.data_dir
    }

    /// Where what it logs goes.
    pub(super) fn log(&self) -> &Path {
        &self.log
    }
}

/// A local cluster.
#[derive(Debug)]
pub(super) struct Plan {
    folder: PathBuf,
    nodes: Vec<NodePlan>,
}

impl Plan {
    pub(super) fn new(
        nodes: u16,
        folder: &Path,
        base_port: u16,
        grpc_base_port: u16,
    ) -> Result<Self, Failure> {
        let Some(last) = base_port.checked_add(nodes.saturating_sub(1)) else {
            let message = format!("{nodes} ports from {base_port} reach beyond 65535");
            return Err(usage(message).hint("choose a lower --base-port"));
        };
        let nodes = (1_u16..)
            .zip(base_port..=last)
            .map(|(id, port)| NodePlan {
                id: id.into(),
                addr: format!("127.0.0.1:{port}"),
                grpc_addr: grpc_port(grpc_base_port, id).map(|port| format!("127.0.0.1:{port}")),
                data_dir: folder.join(format!("node-{id}")),
                log: folder.join(format!("node-{id}.log")),
            })
            .collect();
        Ok(Self { folder: folder.to_owned(), nodes })
    }

    /// A plan for nodes that listen at `addrs` already.
    #[cfg(test)]
    pub(super) fn at(folder: &Path, addrs: &[&str]) -> Self {
        let node = |(id, addr): (u64, &&str)| NodePlan {
            id,
            addr: (*addr).to_owned(),
            grpc_addr: None,
            data_dir: folder.join(format!("node-{id}")),
            log: folder.join(format!("node-{id}.log")),
        };
        Self { folder: folder.to_owned(), nodes: (1..).zip(addrs).map(node).collect() }
    }

    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    pub(super) fn nodes(&self) -> &[NodePlan] {
        &self.nodes
    }

    pub(super) fn addrs(&self) -> impl Iterator<Item = &str> {
        self.nodes.iter().map(NodePlan::addr)
    }

    /// Finds out by binding whether each port is free, before anything is started.
    pub(super) fn check_ports(&self) -> Result<(), Failure> {
        for node in &self.nodes {
            let cannot = |addr: &str, error| {
                usage(format!("node {} cannot listen on {addr}: {error}", node.id)).hint(
                    "if another `kvorum local` or an etcd runs, stop it or use that one; else choose another \
                     --base-port or --grpc-base-port (0 serves no etcd API)",
                )
            };
            for addr in [Some(node.addr()), node.grpc_addr()].into_iter().flatten() {
                TcpListener::bind(addr).map_err(|error| cannot(addr, error))?;
            }
        }
        Ok(())
    }

    pub(super) fn create_folders(&self) -> Result<(), Failure> {
        let mut folders = self.nodes.iter().map(NodePlan::data_dir);
        folders.try_for_each(|folder| {
            std::fs::create_dir_all(folder).map_err(|error| {
                Failure::new(Exit::Failed, "local", format!("cannot create {}: {error}", folder.display()))
            })
        })
    }
}

/// The port of etcd's API of node `id`, as local clusters of etcd are used to having them: 2379,
/// 22379, 32379.
fn grpc_port(base: u16, id: u16) -> Option<u16> {
    if base == 0 {
        return None;
    }
    let step = if id == 1 { Some(0) } else { id.checked_mul(10_000) };
    step.and_then(|step| base.checked_add(step)).or_else(|| base.checked_add(id - 1))
}

fn usage(message: String) -> Failure {
    Failure::new(Exit::Failed, "local", message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::message;

    #[test]
    fn ports_and_folders_count_up() {
        let plan = Plan::new(3, Path::new("d"), 21001, 2379).unwrap();
        let addrs: Vec<_> = plan.addrs().collect();
        assert_eq!(addrs, ["127.0.0.1:21001", "127.0.0.1:21002", "127.0.0.1:21003"]);
        let grpc: Vec<_> = plan.nodes().iter().map(|node| node.grpc_addr().unwrap()).collect();
        assert_eq!(grpc, ["127.0.0.1:2379", "127.0.0.1:22379", "127.0.0.1:32379"]);
        let last = plan.nodes().last().unwrap();
        assert_eq!((last.id(), last.data_dir()), (3, Path::new("d/node-3")));
        assert_eq!(last.log(), Path::new("d/node-3.log"));
    }

    #[test]
    fn ports_beyond_the_last_are_refused() {
        assert_eq!(Plan::new(1, Path::new("d"), 65535, 0).unwrap().nodes().len(), 1);
        assert!(Plan::new(2, Path::new("d"), 65535, 0).is_err());
    }

    #[test]
    fn many_nodes_serve_etcds_api_on_ports_of_their_own_or_not_at_all() {
        let ports = |nodes, base| {
            let plan = Plan::new(nodes, Path::new("d"), 1, base).unwrap();
            let port = |node: &NodePlan| node.grpc_addr()?.rsplit_once(':')?.1.parse::<u16>().ok();
            plan.nodes().iter().map(port).collect::<Vec<_>>()
        };
        assert_eq!(ports(3, 0), [None; 3]);
        let many = ports(99, 2379);
        assert!(many.iter().all(Option::is_some));
        assert_eq!(std::collections::BTreeSet::from_iter(&many).len(), 99);
        assert_eq!(many[6], Some(2385), "seven times ten thousand is no port");
    }

    #[test]
    fn a_port_that_is_taken_is_named() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = taken.local_addr().unwrap();
        let plan = Plan::new(1, Path::new("d"), addr.port(), 0).unwrap();
        let failure = plan.check_ports().unwrap_err();
        assert!(message(&failure).contains(&addr.to_string()), "{}", message(&failure));
    }
}

//! Which nodes there are to be, where they listen and where they keep things.

use std::net::TcpListener;
use std::path::{Path, PathBuf};

use crate::failure::{Exit, Failure};

/// One node of a local cluster.
#[derive(Debug, Clone)]
pub(super) struct NodePlan {
    id: u64,
    addr: String,
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
    pub(super) fn new(nodes: u16, folder: &Path, base_port: u16) -> Result<Self, Failure> {
        let Some(last) = base_port.checked_add(nodes.saturating_sub(1)) else {
            let message = format!("{nodes} ports from {base_port} reach beyond 65535");
            return Err(usage(message).hint("choose a lower --base-port"));
        };
        let nodes = (1_u64..)
            .zip(base_port..=last)
            .map(|(id, port)| NodePlan {
                id,
                addr: format!("127.0.0.1:{port}"),
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
            TcpListener::bind(node.addr()).map_err(|error| {
                usage(format!("node {} cannot listen on {}: {error}", node.id, node.addr)).hint(
                    "if another `kvorum local` runs, stop it or use that one; else choose another --base-port",
                )
            })?;
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

fn usage(message: String) -> Failure {
    Failure::new(Exit::Failed, "local", message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::message;

    #[test]
    fn ports_and_folders_count_up() {
        let plan = Plan::new(3, Path::new("d"), 21001).unwrap();
        let addrs: Vec<_> = plan.addrs().collect();
        assert_eq!(addrs, ["127.0.0.1:21001", "127.0.0.1:21002", "127.0.0.1:21003"]);
        let last = plan.nodes().last().unwrap();
        assert_eq!((last.id(), last.data_dir()), (3, Path::new("d/node-3")));
        assert_eq!(last.log(), Path::new("d/node-3.log"));
    }

    #[test]
    fn ports_beyond_the_last_are_refused() {
        assert_eq!(Plan::new(1, Path::new("d"), 65535).unwrap().nodes().len(), 1);
        assert!(Plan::new(2, Path::new("d"), 65535).is_err());
    }

    #[test]
    fn a_port_that_is_taken_is_named() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = taken.local_addr().unwrap();
        let plan = Plan::new(1, Path::new("d"), addr.port()).unwrap();
        let failure = plan.check_ports().unwrap_err();
        assert!(message(&failure).contains(&addr.to_string()), "{}", message(&failure));
    }
}

//! The faults, chosen at random and repeatably.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use kvorum::NodeId;
use serde_json::json;

use crate::support::cluster::TestCluster;

/// Random numbers from a seed (`SplitMix64`).
#[derive(Debug, Clone)]
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x2545_f491_4f6c_dd1d))
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `bound`.
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % bound as u64).unwrap()
    }

    fn millis(&mut self, from: usize, to: usize) -> Duration {
        Duration::from_millis((from + self.below(to - from)) as u64)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Fault {
    KillOne,
    KillLeader,
    KillAll,
    Restart,
    Pause,
    Transfer,
    Snapshot,
    Isolate,
    IsolateLeader,
    CutOneWay,
}

const FAULTS: [Fault; 10] = [
    Fault::KillOne,
    Fault::KillLeader,
    Fault::KillAll,
    Fault::Restart,
    Fault::Pause,
    Fault::Transfer,
    Fault::Snapshot,
    Fault::Isolate,
    Fault::IsolateLeader,
    Fault::CutOneWay,
];

/// Who makes the trouble.
pub(crate) struct Nemesis {
    dice: Dice,
    done: BTreeMap<Fault, usize>,
}

impl Nemesis {
    pub(crate) fn new(seed: u64) -> Self {
        Self { dice: Dice::new(seed), done: BTreeMap::new() }
    }

    /// Does one thing after the other until `time` is over.
    pub(crate) async fn run(&mut self, cluster: &mut TestCluster, time: Duration) {
        let begun = Instant::now();
        while begun.elapsed() < time {
            let fault = FAULTS[self.dice.below(FAULTS.len())];
            *self.done.entry(fault).or_default() += 1;
            self.inflict(fault, cluster).await;
            // How long the cluster has to come to itself; often too short.
            tokio::time::sleep(self.dice.millis(100, 1_500)).await;
        }
    }

    /// Makes everything whole again.
    pub(crate) async fn end(&mut self, cluster: &mut TestCluster) {
        cluster.links.heal();
        cluster.settle().await;
        for node in cluster.nodes.values() {
            assert!(!node.log().contains("panicked at"), "node {} panicked", node.id);
        }
    }

    pub(crate) fn summary(&self) -> String {
        format!("faults: {:?}", self.done)
    }

    async fn inflict(&mut self, fault: Fault, cluster: &mut TestCluster) {
        let ids = cluster.ids();
        let any = ids[self.dice.below(ids.len())];
        match fault {
            Fault::KillOne => self.kill(cluster, any).await,
            Fault::KillLeader => {
                let leader = leader_or(cluster, any).await;
                self.kill(cluster, leader).await;
            }
            Fault::KillAll => {
                for id in &ids {
                    cluster.node(*id).kill();
                }
                tokio::time::sleep(self.dice.millis(1, 300)).await;
                for id in &ids {
                    cluster.node(*id).start().await;
                }
            }
            Fault::Restart => {
                let (code, _) = cluster.node(any).terminate().await;
                assert_eq!(code, Some(0), "node {any} did not stop cleanly");
                cluster.node(any).start().await;
            }
            Fault::Pause => {
                cluster.node(any).pause();
                tokio::time::sleep(self.dice.millis(100, 2_000)).await;
                cluster.node(any).resume();
            }
            Fault::Transfer => {
                let http = cluster.http.with_timeout(Duration::from_secs(2));
                let body = json!({ "to": any }).to_string();
                let headers = [("content-type", "application/json")];
                // It may fail: nobody promised that there is a leader now.
                let _ = http.send("POST", cluster.addr(any), "/v1/leader/transfer", &headers, body).await;
            }
            Fault::Snapshot => {
                let http = cluster.http.with_timeout(Duration::from_secs(5));
                let _ = http.send("POST", cluster.addr(any), "/v1/snapshot", &[], "").await;
            }
            Fault::Isolate => self.isolate(cluster, any).await,
            Fault::IsolateLeader => {
                let leader = leader_or(cluster, any).await;
                self.isolate(cluster, leader).await;
            }
            Fault::CutOneWay => {
                let other = ids[self.dice.below(ids.len())];
                cluster.links.cut(any, other);
                tokio::time::sleep(self.dice.millis(300, 2_000)).await;
                cluster.links.heal();
            }
        }
    }

    async fn kill(&mut self, cluster: &mut TestCluster, id: NodeId) {
        cluster.node(id).kill();
        tokio::time::sleep(self.dice.millis(1, 1_500)).await;
        cluster.node(id).start().await;
    }

    async fn isolate(&mut self, cluster: &mut TestCluster, id: NodeId) {
        cluster.links.isolate(id, cluster.ids());
        tokio::time::sleep(self.dice.millis(300, 2_500)).await;
        cluster.links.heal();
    }
}

/// Whom `asked` knows as leader, or itself.
async fn leader_or(cluster: &TestCluster, asked: NodeId) -> NodeId {
    cluster.status(asked).await.leader_id.unwrap_or(asked)
}

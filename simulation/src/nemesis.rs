//! Faults: which, when, to whom.

use std::rc::Rc;
use std::time::Duration;

use kvorum::NodeId;
use kvorum_torture::dice::Dice;
use rocksdb::disk::Crash;
use tokio::time::{sleep, timeout};

use crate::cluster::Cluster;
use crate::plan::{Fault, Plan};
use crate::watcher::Watcher;
use crate::{net, system, trace, world};

/// How long an operator waits for an answer.
const PATIENCE: Duration = Duration::from_secs(15);

/// One source of faults.
pub(crate) struct Nemesis {
    pub(crate) cluster: Rc<Cluster>,
    pub(crate) watcher: Rc<Watcher>,
    pub(crate) dice: Dice,
    pub(crate) plan: Plan,
}

impl Nemesis {
    /// Does harm until `until`, on the run's clock.
    pub(crate) async fn run(mut self, until: Duration) {
        if self.plan.faults.is_empty() {
            return;
        }
        loop {
            let calm = self.dice.millis(1, self.plan.calm_ms + 1);
            sleep(calm).await;
            if u128::from(system::now()) >= until.as_nanos() {
                return;
            }
            let fault = *self.dice.pick(&self.plan.faults);
            let length = self.dice.millis(1, self.plan.fault_ms + 1);
            trace::note(|| format!("fault: {fault:?} for {length:?}"));
            self.strike(fault, length).await;
        }
    }

    /// A running node, more often than not the leader.
    fn victim(&mut self) -> Option<NodeId> {
        let running = self.cluster.running();
        if let Some(leader) = self.cluster.leader()
            && self.dice.chance(50)
        {
            return Some(leader);
        }
        if running.is_empty() { None } else { Some(*self.dice.pick(&running)) }
    }

    async fn strike(&mut self, fault: Fault, length: Duration) {
        let Some(victim) = self.victim() else { return };
        match fault {
            Fault::Kill => self.down(&[victim], Some(Crash::Process), length).await,
            Fault::PowerLoss => self.down(&[victim], Some(Crash::Machine), length).await,
            Fault::Stop => self.down(&[victim], None, length).await,
            Fault::Blackout => {
                let all = self.cluster.running();
                let share = *self.dice.pick(&[50, 100, 100]);
                let struck: Vec<_> = all.into_iter().filter(|_| self.dice.chance(share)).collect();
                self.down(&struck, Some(Crash::Machine), length).await;
            }
            Fault::Partition | Fault::OneWay | Fault::SlowLinks => self.links(fault, victim, length).await,
            Fault::Pause => {
                let Some((scope, _)) = self.cluster.service(victim) else { return };
                scope.pause();
                sleep(length).await;
                scope.resume();
            }
            Fault::SlowDisk => {
                let sync = self.dice.millis(10, 400);
                world::slow_disk(victim, sync);
                sleep(length).await;
                world::slow_disk(victim, Duration::ZERO);
            }
            Fault::FailedSync => self.cluster.fail_next_sync(victim),
            Fault::Clock => {
                let off = self.dice.below(2_000_000) as i64 - 1_000_000;
                world::skew_clock(victim, off * 1_000_000);
            }
            Fault::Snapshot | Fault::Compact | Fault::Transfer | Fault::Membership => {
                self.manage(fault, victim).await;
            }
        }
    }

    /// Takes nodes down for a while: as `crash` says, or as an operator does.
    async fn down(&mut self, nodes: &[NodeId], crash: Option<Crash>, length: Duration) {
        let held: Vec<_> = nodes.iter().copied().filter(|node| self.cluster.hold(*node)).collect();
        for node in &held {
            match crash {
                Some(crash) => self.cluster.crash(*node, crash).await,
                None => self.cluster.stop(*node).await,
            }
        }
        // Some are back at once, before anybody has noticed.
        sleep(if self.dice.chance(50) { length } else { Duration::from_millis(1) }).await;
        for node in held {
            self.cluster.start(node).await;
            self.cluster.let_go(node);
        }
    }

    async fn links(&mut self, fault: Fault, victim: NodeId, length: Duration) {
        let all = self.cluster.all();
        let alone = self.dice.chance(50);
        let side: Vec<_> =
            all.iter().copied().filter(|node| *node == victim || (!alone && self.dice.chance(40))).collect();
        let mut links: Vec<(NodeId, NodeId)> = Vec::new();
        for one in &side {
            for other in all.iter().filter(|other| !side.contains(other)) {
                links.push((*one, *other));
                links.push((*other, *one));
            }
        }
        if fault == Fault::OneWay {
            let outwards = self.dice.chance(50);
            links.retain(|(from, _)| side.contains(from) == outwards);
        }
        if fault == Fault::SlowLinks {
            net::slow(&links, self.dice.millis(5, 500));
        } else {
            net::cut(&links);
        }
        sleep(length).await;
        if fault == Fault::SlowLinks { net::quicken(&links) } else { net::mend(&links) }
    }

    /// What an operator asks for. It may fail, and no promise is broken by that.
    async fn manage(&mut self, fault: Fault, node: NodeId) {
        let Some((scope, service)) = self.cluster.service(node) else { return };
        let seen = self.watcher.seen();
        let nodes = self.cluster.all();
        let (other, removes) = (*self.dice.pick(&nodes), self.dice.chance(50));
        let asking = scope.handle().spawn(async move {
            let told = if fault == Fault::Snapshot {
                service.build_snapshot().await.map(|_| ())
            } else if fault == Fault::Compact {
                service.compact(seen, false).await.map(|_| ())
            } else if fault == Fault::Transfer {
                service.transfer_leader(None).await.map(|_| ())
            } else if removes {
                service.remove_member(other, false).await
            } else {
                match service.add_learner(other, net::addr(other)).await {
                    Ok(()) => service.promote(other).await,
                    Err(error) => Err(error),
                }
            };
            told.map_err(|error| error.to_string())
        });
        let told = timeout(PATIENCE, asking).await;
        trace::note(|| format!("operator at {node}: {fault:?} {other} -> {told:?}"));
    }
}

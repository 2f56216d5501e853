//! Tests of names, of drawing, and of damage, which need no node.

use std::collections::BTreeSet;
use std::fs;
use std::time::{Duration, Instant};

use super::flip::flip;
use super::nemesis::draw_round;
use super::plan::{Act, Place, Plan};
use super::{Fault, Nemesis, draw};
use crate::cluster::Cluster;
use crate::dice::Dice;

#[test]
fn each_fault_has_a_name_of_its_own() {
    let names: BTreeSet<_> = Fault::ALL.iter().map(|fault| fault.name()).collect();
    assert_eq!(names.len(), Fault::ALL.len());
    for fault in Fault::ALL {
        assert_eq!(fault.name().parse(), Ok(fault));
        let json = serde_json::to_value(fault).unwrap();
        assert_eq!(json, fault.name(), "both lists of names are the same");
    }
    let error = "kill-two".parse::<Fault>().unwrap_err().to_string();
    assert!(error.contains("kill-two") && error.contains("kill-one"), "{error}");
}

#[test]
fn the_same_seed_gives_the_same_plans() {
    let rounds = |seed| {
        let mut dice = Dice::new(seed);
        (0..200).map(|_| draw_round(&Fault::ALL, 5, &mut dice)).collect::<Vec<_>>()
    };
    assert_eq!(rounds(1), rounds(1));
    assert_ne!(rounds(1), rounds(2));
    let overlapping = rounds(1).iter().filter(|round| round.plans.len() > 1).count();
    assert!((20..180).contains(&overlapping), "{overlapping}");
}

fn many_plans(fault: Fault, nodes: usize) -> Vec<Plan> {
    (0..300).map(|seed| draw::plan(fault, nodes, &mut Dice::new(seed))).collect()
}

/// What a plan leaves broken when all its steps are done.
fn left_broken(plan: &Plan, nodes: usize) -> Vec<String> {
    let (mut down, mut still) = (vec![0_i32; nodes], vec![0_i32; nodes]);
    let (mut links, mut disks) = (0, 0);
    for step in &plan.steps {
        match &step.act {
            Act::Kill(rank) | Act::LosePower(rank, _) | Act::Terminate(rank) => down[*rank] += 1,
            Act::LetRun(rank) => down[*rank] -= 1,
            Act::Pause(rank) => still[*rank] += 1,
            Act::Resume(rank) => still[*rank] -= 1,
            Act::Lay { links: some, .. } => {
                assert!(!some.is_empty(), "{plan:?}");
                links += 1;
            }
            Act::LiftAll => links = 0,
            Act::BreakDisk(..) | Act::FillDisk(..) => disks += 1,
            Act::MendDisks => disks = 0,
            Act::Reset(_)
            | Act::ShiftClock(..)
            | Act::ShiftClocksBack
            | Act::Transfer { .. }
            | Act::Snapshot(_)
            | Act::Compact(_)
            | Act::Replace { .. }
            | Act::Wipe(_)
            | Act::NoteLog(_)
            | Act::CompareLog(_)
            | Act::Flip { .. } => {}
        }
    }
    let mut left = Vec::new();
    left.extend((0..nodes).filter(|rank| down[*rank] != 0).map(|rank| format!("{rank} is down")));
    left.extend((0..nodes).filter(|rank| still[*rank] != 0).map(|rank| format!("{rank} is still")));
    left.extend((links > 0).then(|| "links".to_owned()));
    left.extend((disks > 0).then(|| "disks".to_owned()));
    left
}

#[test]
fn each_plan_ends_with_all_whole() {
    for nodes in [3, 5] {
        for fault in Fault::ALL {
            for plan in many_plans(fault, nodes) {
                assert_eq!(plan.fault, fault);
                assert_eq!(left_broken(&plan, nodes), Vec::<String>::new(), "{plan:?}");
                let order: BTreeSet<_> = plan.order.iter().copied().collect();
                assert_eq!(order, (0..nodes).collect(), "each node has a rank");
                assert!((1..=nodes).contains(&plan.struck) && plan.count > 0, "{plan:?}");
                assert!(!plan.detail.is_empty() && plan.length() < Duration::from_secs(40), "{plan:?}");
                assert!(plan.steps.is_sorted_by_key(|step| step.after), "{plan:?}");
            }
        }
    }
}

#[test]
fn faults_do_what_their_names_say() {
    for nodes in [3, 5] {
        for (fault, struck) in [
            (Fault::KillOne, 1),
            (Fault::KillMajority, nodes / 2 + 1),
            (Fault::KillAll, nodes),
            (Fault::PowerLossMajority, nodes / 2 + 1),
            (Fault::PowerLossAll, nodes),
        ] {
            assert!(many_plans(fault, nodes).iter().all(|plan| plan.struck == struck), "{fault}");
        }
        let leads = |fault| many_plans(fault, nodes).iter().filter(|plan| plan.leader_first).count();
        for fault in [Fault::KillLeader, Fault::PauseLeader, Fault::IsolateLeader, Fault::OneWayLeader] {
            assert_eq!(leads(fault), 300, "{fault}");
        }
        assert!((100..260).contains(&leads(Fault::PartitionMajority)), "the leader is often in the minority");
        for plan in many_plans(Fault::PartitionMajority, nodes) {
            assert!(plan.struck * 2 < nodes, "{plan:?}");
        }
    }
}

#[test]
fn the_asked_bits_turn_in_a_file_of_the_asked_kind() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path();
    for path in ["log", "state/gen-000001", "snapshots/1"] {
        fs::create_dir_all(data.join(path)).unwrap();
    }
    let files =
        ["log/000001.sst", "log/000002.log", "log/LOG", "state/gen-000001/000003.sst", "state/CURRENT"];
    let blank = vec![0; 5_000];
    for (place, struck) in
        [(Place::LogTable, files[0]), (Place::LogAhead, files[1]), (Place::StateTable, files[3])]
    {
        for file in files {
            fs::write(data.join(file), &blank).unwrap();
        }
        let damage = flip(data, place, 3, 4).unwrap().unwrap();
        assert!(damage.contains(struck), "{damage}");
        for file in files {
            let content = fs::read(data.join(file)).unwrap();
            let turned: u32 = content.iter().map(|byte| byte.count_ones()).sum();
            assert_eq!(turned, if file == struck { 4 } else { 0 }, "{file}");
        }
    }
    fs::write(data.join("log/000001.sst"), b"").unwrap();
    let damage = flip(data, Place::LogTable, 3, 4).unwrap().unwrap();
    assert!(damage.contains(files[3]), "an empty file has no bits, another kind is taken: {damage}");
    for file in files {
        fs::write(data.join(file), b"").unwrap();
    }
    assert_eq!(flip(data, Place::LogTable, 3, 4).unwrap(), None);
}

/// Compiles only if a run can be moved to another thread, as a runner's tasks are.
const _: fn(&mut Nemesis, &mut Cluster, &mut Dice) = |nemesis, cluster, dice| {
    fn may_move<T: Send>(_: T) {}
    may_move(nemesis.run(cluster, Instant::now(), dice));
};

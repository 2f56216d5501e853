//! Who leads, and whether all agree.

use std::collections::BTreeMap;

use crate::cluster::Status;
use crate::cluster::status::{Goal, leader_of};
use crate::history::NodeId;

fn status(node_id: NodeId, role: &str, term: u64, leader_id: Option<NodeId>, applied: u64) -> Status {
    let json = serde_json::json!({
        "node_id": node_id, "role": role, "term": term, "leader_id": leader_id,
        "last_log_index": 9, "applied_index": applied,
        "revision": 5, "compacted_revision": 0, "state_hash": "00", "more": "is passed over",
    });
    serde_json::from_value(json).unwrap()
}

fn all(list: Vec<Result<Status, String>>) -> BTreeMap<NodeId, Result<Status, String>> {
    (1..).zip(list).collect()
}

#[test]
fn the_leader_of_the_highest_term_leads() {
    let old = status(1, "leader", 3, Some(1), 9);
    let new = status(2, "leader", 4, Some(2), 9);
    assert_eq!(leader_of(&all(vec![Ok(old.clone()), Ok(new), Err("down".to_owned())])), Some(2));
    assert_eq!(leader_of(&all(vec![Err("down".to_owned()), Err("down".to_owned())])), None);
    assert_eq!(leader_of(&all(vec![Ok(old)])), Some(1));
}

#[test]
fn the_goal_is_reached_when_all_have_applied_the_leaders_log_under_it() {
    let leader = status(1, "leader", 4, Some(1), 9);
    let follower = status(2, "follower", 4, Some(1), 9);
    let reached = |list| Goal::default().reached(&all(list));
    assert_eq!(reached(vec![Ok(leader.clone()), Ok(follower)]), Ok(()));
    for other in [
        Err("it does not run".to_owned()),
        Ok(status(2, "follower", 4, Some(1), 8)),
        Ok(status(2, "follower", 3, Some(1), 9)),
        Ok(status(2, "follower", 4, None, 9)),
    ] {
        let error = reached(vec![Ok(leader.clone()), other]).unwrap_err();
        assert!(error.contains("node 1") && error.contains("node 2"), "{error}");
    }
    reached(vec![Ok(status(2, "candidate", 4, None, 9))]).unwrap_err();
    reached(vec![]).unwrap_err();
}

#[test]
fn the_goal_does_not_move_while_the_log_grows_under_one_leader() {
    let at = |id, role: &str, term, leader, end, applied| {
        Ok(Status { last_log_index: Some(end), ..status(id, role, term, Some(leader), applied) })
    };
    let mut goal = Goal::default();
    goal.reached(&all(vec![at(1, "leader", 4, 1, 20, 20), at(2, "follower", 4, 1, 19, 15)])).unwrap_err();
    let behind = all(vec![at(1, "leader", 4, 1, 40, 40), at(2, "follower", 4, 1, 38, 35)]);
    assert_eq!(goal.reached(&behind), Ok(()), "it has what there was in the beginning");
    // The next leader's log is what counts then.
    let next = all(vec![at(1, "follower", 5, 2, 38, 30), at(2, "leader", 5, 2, 38, 38)]);
    goal.reached(&next).unwrap_err();
    let caught_up = all(vec![at(1, "follower", 5, 2, 50, 38), at(2, "leader", 5, 2, 50, 50)]);
    assert_eq!(goal.reached(&caught_up), Ok(()));
}

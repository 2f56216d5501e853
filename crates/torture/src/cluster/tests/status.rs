//! Who leads, and whether all agree.

use std::collections::BTreeMap;

use crate::cluster::Status;
use crate::cluster::status::{agreed, leader_of};
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
fn nodes_agree_when_all_have_applied_the_same_under_one_leader() {
    let leader = status(1, "leader", 4, Some(1), 9);
    let follower = status(2, "follower", 4, Some(1), 9);
    assert_eq!(agreed(&all(vec![Ok(leader.clone()), Ok(follower.clone())])), Ok(()));
    for other in [
        Err("it does not run".to_owned()),
        Ok(status(2, "follower", 4, Some(1), 8)),
        Ok(status(2, "follower", 3, Some(1), 9)),
        Ok(status(2, "follower", 4, None, 9)),
    ] {
        let error = agreed(&all(vec![Ok(leader.clone()), other])).unwrap_err();
        assert!(error.contains("node 1") && error.contains("node 2"), "{error}");
    }
    let lone = status(2, "candidate", 4, None, 9);
    agreed(&all(vec![Ok(lone)])).unwrap_err();
    agreed(&BTreeMap::new()).unwrap_err();
}

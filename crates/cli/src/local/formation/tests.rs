//! What formation does next, given what the cluster says, and a whole formation
//! against scripted nodes.

use std::path::Path;
use std::sync::{Arc, Mutex};

use kvorum_scripted::{Request, Scripted, Step as Reply};
use serde_json::{Value, json};

use super::*;
use crate::testing::{Captured, message};

fn plan(nodes: u16) -> Plan {
    Plan::new(nodes, Path::new("d"), 21001, 0).unwrap()
}

fn members(leader: Option<u64>, members: &[(u64, &str, &str)]) -> Members {
    let members: Vec<_> = members
        .iter()
        .map(
            |(id, addr, role)| json!({ "id": id, "addr": addr, "role": role, "leader": leader == Some(*id) }),
        )
        .collect();
    let body = json!({ "cluster_id": "ab", "leader_id": leader, "members": members });
    serde_json::from_value(body).unwrap()
}

const ONE: (u64, &str, &str) = (1, "127.0.0.1:21001", "voter");
const TWO: (u64, &str, &str) = (2, "127.0.0.1:21002", "learner");
const TWO_VOTES: (u64, &str, &str) = (2, "127.0.0.1:21002", "voter");

#[test]
fn what_is_missing_is_added_before_votes_are_given() {
    assert_eq!(next_step(&plan(2), &members(None, &[ONE])), Step::Wait);
    assert_eq!(next_step(&plan(2), &members(Some(1), &[ONE])), Step::Add(2, TWO.1.to_owned()));
    assert_eq!(next_step(&plan(2), &members(Some(1), &[ONE, TWO])), Step::Vote(vec![1, 2]));
    assert_eq!(next_step(&plan(2), &members(Some(1), &[ONE, TWO_VOTES])), Step::Nothing);
}

#[test]
fn members_outside_the_plan_keep_their_votes() {
    let seven = (7, "10.0.0.7:1", "voter");
    assert_eq!(next_step(&plan(2), &members(Some(1), &[ONE, TWO, seven])), Step::Vote(vec![1, 2, 7]));
}

#[test]
fn a_cluster_of_other_ports_is_refused_with_both_addresses() {
    let moved = members(None, &[(1, "127.0.0.1:31001", "voter")]);
    let failure = check_addresses(&plan(1), &moved).unwrap_err();
    assert!(message(&failure).contains("127.0.0.1:31001, not at 127.0.0.1:21001"), "{}", message(&failure));
}

#[test]
fn too_few_nodes_for_a_majority_are_refused() {
    let three = members(None, &[ONE, TWO_VOTES, (3, "127.0.0.1:21003", "voter")]);
    assert!(check_addresses(&plan(1), &three).is_err());
    assert!(check_addresses(&plan(2), &three).is_ok());
}

/// A cluster as its nodes tell it, changed by the calls that formation makes.
#[derive(Default)]
struct Cluster {
    calls: Vec<String>,
    members: Vec<Value>,
}

fn answer(cluster: &Mutex<Cluster>, id: u64, request: &Request) -> Reply {
    let mut cluster = cluster.lock().unwrap();
    let body: Value = serde_json::from_slice(&request.body).unwrap_or_default();
    let member = |id: u64, addr: &str, role: &str| json!({ "id": id, "addr": addr, "role": role });
    let host = request.header("host").unwrap();
    match request.target.as_str() {
        "/health" | "/ready" => return Reply::reply(200, "{}"),
        "/v1/status" => {
            let known = cluster.members.iter().any(|member| member["id"] == id);
            let role = if known { "follower" } else { "uninitialized" };
            let status = json!({ "node_id": id, "version": "0.1.0", "addr": host, "role": role, "term": 1, "revision": 0 });
            return Reply::reply(200, status.to_string());
        }
        "/v1/members" if request.method == "GET" => {
            let body = json!({ "cluster_id": "ab", "leader_id": 1, "members": cluster.members });
            return Reply::reply(200, body.to_string());
        }
        "/init" => cluster.members.push(member(id, host, "voter")),
        "/v1/members" => {
            let addr = body["addr"].as_str().unwrap();
            cluster.members.push(member(body["id"].as_u64().unwrap(), addr, "learner"));
        }
        "/change-membership" => {
            cluster.members.iter_mut().for_each(|member| member["role"] = "voter".into());
        }
        other => panic!("unexpected call of {other}"),
    }
    cluster.calls.push(format!("{id} {} {body}", request.target));
    Reply::reply(200, "\"Ok\"")
}

#[tokio::test]
async fn a_new_cluster_forms_once_and_a_formed_one_is_left_alone() {
    let cluster = Arc::new(Mutex::new(Cluster::default()));
    let mut nodes = Vec::new();
    for id in 1..=3 {
        let cluster = Arc::clone(&cluster);
        nodes.push(Scripted::start(move |request| answer(&cluster, id, request)).await);
    }
    let addrs: Vec<_> = nodes.iter().map(Scripted::addr).collect();
    let plan = Plan::at(Path::new("d"), &addrs);
    let client = Client::builder().endpoints(addrs.iter().copied()).build().unwrap();
    for _ in 0..2 {
        let mut captured = Captured::default();
        form(&plan, &client, &mut Progress::default(), &mut captured.io()).await.unwrap();
        assert!(captured.err().contains("waiting for the nodes to answer"));
    }
    let calls = cluster.lock().unwrap().calls.clone();
    let expected = [
        "1 /init []".to_owned(),
        format!("1 /v1/members {}", json!({ "addr": addrs[1], "id": 2 })),
        format!("1 /v1/members {}", json!({ "addr": addrs[2], "id": 3 })),
        "1 /change-membership [1,2,3]".to_owned(),
    ];
    assert_eq!(calls, expected);
}

#[tokio::test]
async fn a_stranger_at_a_node_s_port_is_refused() {
    let cluster = Arc::new(Mutex::new(Cluster::default()));
    let node = Scripted::start(move |request| answer(&cluster, 9, request)).await;
    let plan = Plan::at(Path::new("d"), &[node.addr()]);
    let client = Client::builder().endpoints([node.addr()]).build().unwrap();
    let mut captured = Captured::default();
    let failure = form(&plan, &client, &mut Progress::default(), &mut captured.io()).await.unwrap_err();
    assert!(message(&failure).contains("node 9 answers"), "{}", message(&failure));
}

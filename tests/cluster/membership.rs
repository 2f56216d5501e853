//! Nodes that join and leave, and changes that are refused.

use serde_json::json;

use crate::support::cluster::{Builder, TestCluster};
use crate::support::eventually;
use crate::support::load::Load;
use crate::support::node::free_addr;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_grows_from_one_to_three_to_five_and_shrinks_to_one() {
    let mut cluster = Builder::new().form(1).await;
    let load = Load::start(&cluster.addrs(), 2);
    for (size, voters) in [(3, vec![1, 2, 3]), (5, vec![1, 2, 3, 4, 5])] {
        for id in (size - 1)..=size {
            cluster.add_node(id).await;
            cluster.add_learner(1, id).await.ok();
        }
        // A follower carries the call to the leader.
        cluster.change_membership(size, &voters).await.ok();
        load.progress(20).await;
        assert_eq!(cluster.voters(size).await, voters);
    }
    let acknowledged = load.stop().await;
    cluster.assert_has_all(&acknowledged).await;

    let members = cluster.members(1).await;
    assert!(members.members.iter().all(|member| member.reachable && member.lag.is_some()));
    for voters in [vec![3, 4, 5], vec![5]] {
        cluster.change_membership(5, &voters).await.ok();
        assert_eq!(cluster.voters(5).await, voters);
        assert!(voters.contains(&cluster.leader_among(&[5]).await) || voters.len() > 1);
    }
    for id in 1..=4 {
        cluster.node(id).terminate().await;
    }
    cluster.put(5, "k", "v").await.ok();
    cluster.assert_has_all(&acknowledged).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn removing_the_leader_hands_leadership_over_first() {
    let cluster = Builder::new().form(3).await;
    let old = cluster.leader().await;
    let staying: Vec<_> = cluster.ids().into_iter().filter(|id| *id != old).collect();
    let load = Load::start(&[cluster.addr(staying[0]).to_owned()], 2);
    load.progress(20).await;
    let removed =
        cluster.http.call("DELETE", cluster.addr(old), &format!("/v1/members/{old}"), &[], "").await;
    assert_eq!(removed.ok().json(), json!({"removed": old}));
    load.progress(20).await;
    let new = cluster.leader_among(&staying).await;
    assert_ne!(new, old);
    assert_eq!(cluster.voters(new).await, staying);
    let acknowledged = load.stop().await;
    let found = cluster.scan(new, "load-", "linearizable").await;
    assert_eq!(found.values().collect::<Vec<_>>(), acknowledged.values().collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leadership_goes_to_the_voter_that_is_named() {
    let cluster = Builder::new().form(3).await;
    for to in [2, 3, 1, 1] {
        let moved = cluster.http.post(cluster.addr(3), "/v1/leader/transfer", &json!({ "to": to })).await;
        assert_eq!(moved.ok().json(), json!({ "leader_id": to }));
        assert_eq!(cluster.leader().await, to);
    }
    let refused = cluster.http.post(cluster.addr(1), "/v1/leader/transfer", &json!({ "to": 9 })).await;
    refused.error(409, "not_a_voter");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leadership_stays_while_the_voter_that_is_named_is_down() {
    let mut cluster = Builder::new().form(3).await;
    let leader = cluster.leader().await;
    let away = cluster.other_than(leader);
    let term = cluster.status(leader).await.term;
    cluster.node(away).kill();
    let refused =
        cluster.http.post(cluster.addr(leader), "/v1/leader/transfer", &json!({ "to": away })).await;
    let (message, _) = refused.error(409, "unreachable_successor");
    assert!(message.contains(&format!("node {away}")), "{message}");
    cluster.put(leader, "k", "v").await.ok();
    let status = cluster.status(leader).await;
    assert_eq!((status.leader_id, status.term), (Some(leader), term));
    // Without a name it goes to a node that is up.
    let third = cluster.ids().into_iter().find(|id| ![leader, away].contains(id)).unwrap();
    let moved = cluster.http.post(cluster.addr(leader), "/v1/leader/transfer", &json!({})).await;
    assert_eq!(moved.ok().json(), json!({ "leader_id": third }));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_that_makes_no_sense_is_refused_and_changes_nothing() {
    let cluster = Builder::new().form(3).await;
    cluster.change_membership(1, &[]).await.error(400, "invalid_request");
    let (message, _) = cluster.change_membership(1, &[1, 2, 7]).await.error(400, "invalid_request");
    assert!(message.contains("[7]"), "{message}");
    let gone = cluster.http.call("DELETE", cluster.addr(1), "/v1/members/7", &[], "").await;
    gone.error(404, "not_found");
    assert_eq!(cluster.voters(1).await, [1, 2, 3]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_majority_that_cannot_be_reached_needs_force() {
    let mut cluster = Builder::new().form(1).await;
    for id in [2, 3] {
        cluster.add_node(id).await;
        cluster.add_learner(1, id).await.ok();
        cluster.node(id).kill();
    }
    let (message, _) = cluster.change_membership(1, &[1, 2, 3]).await.error(409, "unreachable_majority");
    assert!(message.contains("[2, 3]"), "{message}");
    assert_eq!(cluster.voters(1).await, [1]);
    cluster.put(1, "k", "v").await.ok();

    // With force it begins, and ends once the nodes are there.
    let (http, addr) = (cluster.http.clone(), cluster.addr(1).to_owned());
    let forced =
        tokio::spawn(
            async move { http.post(&addr, "/change-membership?force=true", &json!([1, 2, 3])).await },
        );
    sets_of_voters(&cluster, 2).await;
    cluster.node(2).start().await;
    forced.await.unwrap().ok();
    assert_eq!(cluster.voters(1).await, [1, 2, 3]);
    cluster.node(3).start().await;
    cluster.settle().await;
}

/// Waits until node 1 knows so many sets of voters: two during a change, one otherwise.
async fn sets_of_voters(cluster: &TestCluster, wanted: usize) {
    eventually("the change is where it should be", async || {
        let metrics = cluster.http.get(cluster.addr(1), "/metrics").await.ok().json();
        let sets = metrics["membership"]["configs"].clone();
        match sets.as_array() {
            Some(all) if all.len() == wanted => Ok(()),
            Some(_) | None => Err(sets.to_string()),
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_of_the_voters_ends_though_the_leader_that_began_it_was_killed() {
    let mut cluster = Builder::new().form(1).await;
    for id in [2, 3] {
        cluster.add_node(id).await;
        cluster.add_learner(1, id).await.ok();
        // In order, so that it has on disk what it applied, without which it would not vote.
        assert_eq!(cluster.node(id).terminate().await.0, Some(0));
    }
    let (http, addr) = (cluster.http.clone(), cluster.addr(1).to_owned());
    let begun = tokio::spawn(async move {
        http.send("POST", &addr, "/change-membership?force=true", &[], json!([1, 2, 3]).to_string()).await
    });
    sets_of_voters(&cluster, 2).await;
    cluster.node(1).kill();
    assert!(begun.await.unwrap().is_err());
    for id in [1, 2] {
        cluster.node(id).start().await;
    }
    sets_of_voters(&cluster, 1).await;
    assert_eq!(cluster.voters(1).await, [1, 2, 3]);
    cluster.put(1, "k", "v").await.ok();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_learner_that_never_answered_this_leader_is_not_promoted() {
    let mut cluster = Builder::new().form(3).await;
    cluster.add_node(4).await;
    cluster.add_learner(1, 4).await.ok();
    cluster.node(4).kill();
    let leader = cluster.leader_among(&[1, 2, 3]).await;
    let next = [1, 2, 3].into_iter().find(|id| *id != leader).unwrap();
    let moved = cluster.http.post(cluster.addr(leader), "/v1/leader/transfer", &json!({ "to": next })).await;
    moved.ok();
    cluster.http.post(cluster.addr(next), "/v1/members/4/promote", &json!({})).await.error(504, "timeout");
    assert_eq!(cluster.voters(next).await, [1, 2, 3]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_learner_that_is_not_what_it_should_be_is_refused() {
    let mut cluster = Builder::new().form(2).await;
    cluster.add_node(3).await;
    let node_3 = cluster.addr(3).to_owned();
    let nobody = free_addr();
    let add = async |id: u64, addr: &str| {
        cluster.http.post(cluster.addr(2), "/add-learner", &json!([id, addr])).await
    };

    let (message, _) = add(4, &node_3).await.error(409, "wrong_node");
    assert!(message.contains("this is node 3"), "{message}");
    let (message, _) = add(4, &nobody).await.error(400, "invalid_request");
    assert!(message.contains(&nobody), "{message}");
    add(2, &node_3).await.error(409, "node_id_in_use");
    add(3, cluster.addr(2)).await.error(409, "node_id_in_use");
    let members: Vec<_> = cluster.members(1).await.members.iter().map(|member| member.id).collect();
    assert_eq!(members, [1, 2]);
    // Once it is right, it is taken, and asking again changes nothing.
    add(3, &node_3).await.ok();
    add(3, &node_3).await.ok();
    cluster.settle().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_id_is_not_given_to_an_empty_folder_again() {
    let mut cluster = Builder::new().form(3).await;
    let leader = cluster.leader().await;
    let departed = cluster.other_than(leader);
    let path = format!("/v1/members/{departed}");
    cluster.http.call("DELETE", cluster.addr(leader), &path, &[], "").await.ok();
    cluster.node(departed).terminate().await;
    cluster.add_node(departed).await;
    let (message, _) = cluster.add_learner(leader, departed).await.error(409, "node_id_in_use");
    assert!(message.contains("never used"), "{message}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn adding_a_slow_learner_answers_at_the_time_limit_and_goes_on() {
    let mut cluster = Builder::new()
        .options(|options| {
            options.learner_catch_up_timeout_ms = Some(500);
            options.snapshot_rate_bytes_per_second = Some("64KiB".parse().unwrap());
        })
        .form(1)
        .await;
    // What can't be compressed takes the snapshot some seconds to travel.
    let mut noise = 1_u64;
    for number in 0..150 {
        let value: Vec<u8> = std::iter::repeat_with(|| {
            noise = noise.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (noise >> 33) as u8
        })
        .take(4 << 10)
        .collect();
        cluster.http.put(cluster.addr(1), &format!("k{number}"), value).await.ok();
    }
    cluster.http.call("POST", cluster.addr(1), "/v1/snapshot", &[], "").await.ok();
    assert!(cluster.status(1).await.purged_index.is_some());
    cluster.add_node(2).await;
    let (message, details) = cluster.add_learner(1, 2).await.error(504, "timeout");
    assert!(message.contains("goes on"), "{message}");
    assert!(details["last_log_index"].as_u64().unwrap() >= 150, "{details}");
    assert!(details["matched_index"].is_null(), "{details}");
    eventually("the learner has caught up", async || {
        let answer = cluster.add_learner(1, 2).await;
        if answer.status == 200 { Ok(()) } else { Err(answer.text()) }
    })
    .await;
    cluster.settle().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_was_just_elected_takes_changes_at_once() {
    let mut cluster = Builder::new().start(3).await;
    cluster.http.post(cluster.addr(1), "/init", &json!([])).await.ok();
    cluster.add_learner(1, 2).await.ok();
    cluster.add_learner(1, 3).await.ok();
    cluster.change_membership(1, &[1, 2]).await.ok();
    for to in [2, 1, 2] {
        cluster.http.post(cluster.addr(1), "/v1/leader/transfer", &json!({ "to": to })).await.ok();
        // A node that left comes back with all that it had.
        cluster.add_learner(1, 3).await.ok();
        cluster.change_membership(1, &[1, 2, 3]).await.ok();
        cluster.http.post(cluster.addr(1), "/v1/leader/transfer", &json!({ "to": 3 })).await.ok();
        cluster.change_membership(1, &[1, 2]).await.ok();
    }
    cluster.node(3).terminate().await;
    cluster.settle().await;
}

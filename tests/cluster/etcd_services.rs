//! Clusters as etcd's clients see and change them: members, leadership, hashes and snapshots.

use std::io::Write as _;

use kvorum::NodeId;
use kvorum::config::{ByteSize, Options};
use kvorum_etcd_proto::etcdserverpb as pb;
use kvorum_etcd_proto::etcdserverpb::alarm_request::AlarmAction;
use kvorum_etcd_proto::etcdserverpb::auth_client::AuthClient;
use kvorum_etcd_proto::etcdserverpb::cluster_client::ClusterClient;
use kvorum_etcd_proto::etcdserverpb::downgrade_request::DowngradeAction;
use kvorum_etcd_proto::etcdserverpb::kv_client::KvClient;
use kvorum_etcd_proto::etcdserverpb::maintenance_client::MaintenanceClient;
use kvorum_etcd_proto::etcdserverpb::request_op;
use kvorum_etcd_snapshot::{Event, Reader};
use serde_json::json;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status, Streaming};

use super::support::cluster::{Builder, TestCluster};
use super::support::eventually;

const UNKNOWN: u64 = 0x1234_5678_90ab_cdef;

fn with_grpc() -> Builder {
    Builder::new().options(|options| options.grpc_addr = Some("127.0.0.1:0".to_owned()))
}

async fn channel(cluster: &TestCluster, id: NodeId) -> Channel {
    let addr = cluster.status(id).await.grpc_addr.unwrap();
    Endpoint::from_shared(format!("http://{addr}")).unwrap().connect().await.unwrap()
}

/// A connection whose streams let the server send 64 KiB ahead.
async fn narrow_channel(cluster: &TestCluster, id: NodeId) -> Channel {
    let addr = cluster.status(id).await.grpc_addr.unwrap();
    let endpoint = Endpoint::from_shared(format!("http://{addr}")).unwrap();
    endpoint.initial_stream_window_size(64 << 10).connect().await.unwrap()
}

async fn cluster_client(cluster: &TestCluster, id: NodeId) -> ClusterClient<Channel> {
    ClusterClient::new(channel(cluster, id).await)
}

async fn maintenance_client(cluster: &TestCluster, id: NodeId) -> MaintenanceClient<Channel> {
    MaintenanceClient::new(channel(cluster, id).await)
}

/// All members as node `id` tells them: id, URL for clients, whether a learner.
async fn members(cluster: &TestCluster, id: NodeId) -> Vec<(u64, Vec<String>, bool)> {
    let request = pb::MemberListRequest { linearizable: true };
    let listed = cluster_client(cluster, id).await.member_list(request).await.unwrap().into_inner();
    let header = listed.header.unwrap();
    assert_eq!((header.revision, header.member_id), (0, id));
    let shown = listed.members.into_iter().map(|member| {
        assert_eq!(member.name, format!("node-{}", member.id));
        assert_eq!(member.peer_ur_ls, [format!("http://{}", cluster.nodes[&member.id].advertised)]);
        (member.id, member.client_ur_ls, member.is_learner)
    });
    shown.collect()
}

#[track_caller]
fn assert_refused<T: std::fmt::Debug>(answer: Result<T, Status>, code: Code, message: &str) {
    let status = answer.expect_err(message);
    assert_eq!((status.code(), status.message()), (code, message));
}

#[tokio::test(flavor = "multi_thread")]
async fn every_node_lists_all_members_also_one_that_is_down() {
    let mut cluster = with_grpc().form(3).await;
    let mut expected = Vec::new();
    for id in 1..=3 {
        let addr = cluster.status(id).await.grpc_addr.unwrap();
        expected.push((id, vec![format!("http://{addr}")], false));
    }
    for id in 1..=3 {
        assert_eq!(members(&cluster, id).await, expected);
    }
    cluster.node(3).kill();
    cluster.leader().await;
    let begun = std::time::Instant::now();
    for id in 1..=2 {
        assert_eq!(members(&cluster, id).await, expected);
    }
    assert!(begun.elapsed() < std::time::Duration::from_secs(5), "{:?}", begun.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_without_a_majority_is_alive_and_not_healthy() {
    let mut cluster = with_grpc().form(3).await;
    let leader = cluster.leader().await;
    let addr = cluster.status(leader).await.grpc_addr.unwrap();
    for path in ["/health", "/livez", "/readyz"] {
        assert_eq!(cluster.http.get(&addr, path).await.status, 200, "{path}");
    }
    for other in (1..=3).filter(|id| *id != leader) {
        cluster.node(other).kill();
    }
    // At once, when it still takes itself for the leader, and later.
    for _ in 0..2 {
        let answer = cluster.http.get(&addr, "/health").await;
        assert_eq!((answer.status, &answer.json()["health"]), (503, &json!("false")), "{}", answer.text());
        let answer = cluster.http.get(&addr, "/readyz").await;
        assert!(
            answer.status == 503 && answer.text().contains("[-]linearizable_read failed: "),
            "{}",
            answer.text()
        );
        for path in ["/livez", "/health?serializable=true", "/readyz?exclude=linearizable_read"] {
            assert_eq!(cluster.http.get(&addr, path).await.status, 200, "{path}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_agree_on_leader_and_hashes() {
    let cluster = with_grpc().form(3).await;
    for number in 0..20 {
        cluster.put(1, &format!("key-{number}"), "value").await.ok();
    }
    let leader = cluster.leader().await;
    let revision = cluster.settle().await.revision;
    let mut seen = Vec::new();
    for id in 1..=3 {
        let mut client = maintenance_client(&cluster, id).await;
        let status = client.status(pb::StatusRequest {}).await.unwrap().into_inner();
        assert_eq!((status.leader, status.version.as_str(), status.errors.len()), (leader, "3.7.0", 0));
        assert!(status.db_size > 0 && status.raft_index > 0 && status.raft_applied_index > 0);
        assert!(!status.is_learner);
        assert_eq!(status.header.unwrap().revision, revision);
        let hash = client.hash(pb::HashRequest {}).await.unwrap().into_inner();
        let now = client.hash_kv(pb::HashKvRequest { revision: 0 }).await.unwrap().into_inner();
        let past = client.hash_kv(pb::HashKvRequest { revision: 5 }).await.unwrap().into_inner();
        assert_eq!((now.hash, now.hash_revision, now.compact_revision), (hash.hash, revision, -1));
        assert_eq!((past.hash_revision, past.header.unwrap().revision), (5, revision));
        assert_ne!(past.hash, now.hash);
        seen.push((now.hash, past.hash));
        assert_refused(
            client.hash_kv(pb::HashKvRequest { revision: revision + 1 }).await,
            Code::OutOfRange,
            "etcdserver: mvcc: required revision is a future revision",
        );
    }
    seen.dedup();
    assert_eq!(seen.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_leader_moves_leadership_and_only_to_voters() {
    let cluster = with_grpc().form(3).await;
    let leader = cluster.leader().await;
    let other = cluster.other_than(leader);
    let to = |target_id| pb::MoveLeaderRequest { target_id };
    let mut client = maintenance_client(&cluster, other).await;
    assert_refused(client.move_leader(to(other)).await, Code::FailedPrecondition, "etcdserver: not leader");
    let mut client = maintenance_client(&cluster, leader).await;
    for target in [0, UNKNOWN] {
        assert_refused(
            client.move_leader(to(target)).await,
            Code::FailedPrecondition,
            "etcdserver: bad leader transferee",
        );
    }
    let stayed = client.move_leader(to(leader)).await.unwrap().into_inner();
    assert_eq!(stayed.header, None);
    assert_eq!(cluster.leader().await, leader);
    client.move_leader(to(other)).await.unwrap();
    assert_eq!(cluster.leader().await, other);
}

#[tokio::test(flavor = "multi_thread")]
async fn members_come_and_go_through_etcds_calls() {
    let mut cluster = with_grpc().form(1).await;
    cluster.add_node(2).await;
    cluster.add_node(3).await;
    let mut client = cluster_client(&cluster, 1).await;
    let add = |urls: &[String], is_learner| pb::MemberAddRequest { peer_ur_ls: urls.to_vec(), is_learner };
    let url = |cluster: &TestCluster, id: NodeId| format!("http://{}", cluster.nodes[&id].advertised);

    let unreachable = client.member_add(add(&["http://127.0.0.1:9".to_owned()], true)).await.unwrap_err();
    assert_eq!(unreachable.code(), Code::Unavailable);
    assert!(unreachable.message().ends_with("start the node first"), "{unreachable:?}");
    assert_refused(
        client.member_add(add(&[], true)).await,
        Code::InvalidArgument,
        "etcdserver: given member URLs are invalid",
    );
    assert_refused(
        client.member_add(add(&[url(&cluster, 1)], true)).await,
        Code::FailedPrecondition,
        "etcdserver: Peer URLs already exists",
    );

    let added = client.member_add(add(&[url(&cluster, 2)], true)).await.unwrap().into_inner();
    let member = added.member.unwrap();
    assert_eq!((member.id, member.is_learner, added.members.len()), (2, true, 2));
    let status = maintenance_client(&cluster, 2).await.status(pb::StatusRequest {}).await.unwrap();
    assert!(status.into_inner().is_learner);
    let promote = |id| pb::MemberPromoteRequest { id };
    let promoted = client.member_promote(promote(2)).await.unwrap().into_inner();
    assert!(promoted.members.iter().all(|member| !member.is_learner));
    assert_refused(
        client.member_promote(promote(2)).await,
        Code::FailedPrecondition,
        "etcdserver: can only promote a learner member",
    );
    assert_refused(
        client.member_promote(promote(UNKNOWN)).await,
        Code::NotFound,
        "etcdserver: member not found",
    );

    // Through a follower, and as a voter at once.
    let mut follower = cluster_client(&cluster, 2).await;
    let added = follower.member_add(add(&[url(&cluster, 3)], false)).await.unwrap().into_inner();
    assert_eq!((added.member.unwrap().is_learner, added.members.len()), (false, 3));
    assert_eq!(cluster.voters(1).await, [1, 2, 3]);

    let update = |id, url: &str| pb::MemberUpdateRequest { id, peer_ur_ls: vec![url.to_owned()] };
    assert_refused(
        client.member_update(update(UNKNOWN, "http://127.0.0.1:9")).await,
        Code::NotFound,
        "etcdserver: member not found",
    );
    assert_refused(
        client.member_update(update(3, &url(&cluster, 2))).await,
        Code::FailedPrecondition,
        "etcdserver: Peer URLs already exists",
    );
    client.member_update(update(3, &url(&cluster, 3))).await.unwrap();

    let remove = |id| pb::MemberRemoveRequest { id };
    assert_refused(
        client.member_remove(remove(UNKNOWN)).await,
        Code::NotFound,
        "etcdserver: member not found",
    );
    let removed = client.member_remove(remove(3)).await.unwrap().into_inner();
    assert_eq!(removed.members.iter().map(|member| member.id).collect::<Vec<_>>(), [1, 2]);
    cluster.node(2).kill();
    // Alone, neither of the two is a majority that could decide, so nothing is.
    let last = client.member_remove(remove(1)).await.unwrap_err();
    assert!([Code::FailedPrecondition, Code::Unavailable].contains(&last.code()), "{last:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_asked_to_remove_itself_answers_with_the_others() {
    let cluster = with_grpc().form(3).await;
    let leader = cluster.leader().await;
    let gone = (1..=3).find(|id| *id != leader).unwrap();
    let mut client = cluster_client(&cluster, gone).await;
    let removed = client.member_remove(pb::MemberRemoveRequest { id: gone }).await.unwrap().into_inner();
    let left: Vec<_> = removed.members.iter().map(|member| member.id).collect();
    assert_eq!(left, (1..=3).filter(|id| *id != gone).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_voter_can_not_be_removed() {
    let cluster = with_grpc().form(1).await;
    let removed = cluster_client(&cluster, 1).await.member_remove(pb::MemberRemoveRequest { id: 1 }).await;
    assert_refused(
        removed,
        Code::FailedPrecondition,
        "etcdserver: re-configuration failed due to not enough started members",
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_of_the_cluster_need_its_secret() {
    let cluster = with_grpc().secret("open-sesame").form(1).await;
    let mut client = maintenance_client(&cluster, 1).await;
    let moving = |headers: &[(&'static str, &str)]| {
        let mut request = Request::new(pb::MoveLeaderRequest { target_id: 1 });
        for (name, value) in headers {
            request.metadata_mut().insert(*name, value.parse().unwrap());
        }
        request
    };
    let wrong: [&[(&str, &str)]; 4] =
        [&[], &[("token", "open")], &[("authorization", "Bearer no")], &[("authorization", "open-sesame")]];
    for headers in wrong {
        let refused = client.move_leader(moving(headers)).await.unwrap_err();
        assert_eq!(refused.code(), Code::PermissionDenied, "{headers:?}");
    }
    for headers in [("token", "open-sesame"), ("authorization", "Bearer open-sesame")] {
        client.move_leader(moving(&[headers])).await.unwrap();
    }
    let refused = cluster_client(&cluster, 1).await.member_remove(pb::MemberRemoveRequest { id: 1 }).await;
    assert_eq!(refused.unwrap_err().code(), Code::PermissionDenied);
    let alarm = |action: AlarmAction| pb::AlarmRequest {
        action: action.into(),
        member_id: 0,
        alarm: pb::AlarmType::Nospace.into(),
    };
    for action in [AlarmAction::Activate, AlarmAction::Deactivate] {
        let refused = client.alarm(alarm(action)).await.unwrap_err();
        assert_eq!(refused.code(), Code::PermissionDenied);
    }
    assert_eq!(client.alarm(alarm(AlarmAction::Get)).await.unwrap().into_inner().alarms, []);
    assert_eq!(members(&cluster, 1).await.len(), 1, "reading needs none");
}

/// Receives a whole snapshot, and holds the pieces against what they say is left.
async fn receive(client: &mut MaintenanceClient<Channel>) -> Reader {
    let mut stream = client.snapshot(pb::SnapshotRequest {}).await.unwrap().into_inner();
    let mut file = tempfile::tempfile().unwrap();
    let mut pieces = Vec::new();
    while let Some(piece) = stream.message().await.unwrap() {
        assert_eq!(piece.version, "3.5.0");
        file.write_all(&piece.blob).unwrap();
        pieces.push((piece.blob.len() as u64, piece.remaining_bytes));
    }
    assert_eq!(pieces.pop(), Some((32, 0)), "the checksum comes last");
    let database: u64 = pieces.iter().map(|(size, _)| size).sum();
    let mut sent = 0;
    for (size, remaining) in pieces {
        sent += size;
        assert_eq!(remaining, database - sent);
    }
    Reader::open(file).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_holds_all_keys_and_leaves_nothing_behind() {
    let cluster = with_grpc().form(1).await;
    // More than connections hold by themselves of what nobody reads.
    let value = "v".repeat(40_000);
    for number in 0..200 {
        cluster.put(1, &format!("key-{number:03}"), &value).await.ok();
    }
    let mut client = maintenance_client(&cluster, 1).await;
    let reader = receive(&mut client).await;
    assert_eq!(reader.revision().unwrap(), cluster.status(1).await.revision);
    assert!(reader.has_checksum());
    let keys = reader.keys().map(|event| match event.unwrap().1 {
        Event::Put(put) => (String::from_utf8(put.key.to_vec()).unwrap(), put.value.len()),
        Event::Delete { .. } => panic!("nothing was deleted"),
    });
    let expected = (0..200).map(|number| (format!("key-{number:03}"), 40_000));
    assert_eq!(keys.collect::<Vec<_>>(), expected.collect::<Vec<_>>());
    let told: Vec<_> = reader.members().map(Result::unwrap).map(|member| member.id).collect();
    assert_eq!(told, [1]);

    // Two at once, and a place again when one of them is given up.
    let first = client.snapshot(pb::SnapshotRequest {}).await.unwrap();
    let _second = client.snapshot(pb::SnapshotRequest {}).await.unwrap();
    assert_refused(
        client.snapshot(pb::SnapshotRequest {}).await,
        Code::ResourceExhausted,
        "etcdserver: too many requests",
    );
    drop(first);
    eventually("there is a place for a snapshot", async || {
        client.snapshot(pb::SnapshotRequest {}).await.map(|_| ()).map_err(|status| status.to_string())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn alarms_are_raised_listed_and_disarmed_through_any_node() {
    use AlarmAction::{Activate, Deactivate, Get};
    use pb::AlarmType::{Corrupt, None as Any, Nospace};
    let cluster = with_grpc().form(3).await;
    let (one, two) = (maintenance_client(&cluster, 1).await, maintenance_client(&cluster, 2).await);
    assert_eq!(alarms(&one, Get, 0, Any).await, []);
    assert_eq!(alarms(&one, Activate, 0, Any).await, []);
    assert_eq!(alarms(&one, Deactivate, 0, Nospace).await, []);
    assert_eq!(alarms(&one, Activate, 2, Nospace).await, [(2, Nospace)]);
    assert_eq!(alarms(&two, Activate, 2, Nospace).await, [(2, Nospace)], "it is raised already");
    assert_eq!(alarms(&two, Activate, 0, Nospace).await, [(0, Nospace)]);
    assert_eq!(alarms(&one, Activate, 1, Corrupt).await, [(1, Corrupt)]);
    for client in [&one, &two] {
        assert_eq!(alarms(client, Get, 7, Any).await, [(0, Nospace), (2, Nospace), (1, Corrupt)]);
        assert_eq!(alarms(client, Get, 0, Corrupt).await, [(1, Corrupt)]);
        let status = client.clone().status(pb::StatusRequest {}).await.unwrap().into_inner();
        let told = ["alarm:NOSPACE", "memberID:2 alarm:NOSPACE", "memberID:1 alarm:CORRUPT"];
        assert_eq!(status.errors, told);
    }
    for id in [1, 2] {
        let raised = cluster.http.get(cluster.addr(id), "/v1/status").await.ok().json()["alarms"].take();
        let alarm = |member, alarm| json!({"member_id": member, "alarm": alarm});
        assert_eq!(raised, json!([alarm(0, "NOSPACE"), alarm(2, "NOSPACE"), alarm(1, "CORRUPT")]));
    }
    assert_eq!(alarms(&two, Deactivate, 0, Any).await, []);
    for (member, kind) in [(0, Nospace), (1, Corrupt), (2, Nospace)] {
        assert_eq!(alarms(&two, Deactivate, member, kind).await, [(member, kind)]);
        assert_eq!(alarms(&two, Deactivate, member, kind).await, []);
    }
    assert_eq!(alarms(&one, Get, 0, Any).await, []);
    assert_eq!(cluster.status(1).await.alarms, []);
    let unknown = pb::AlarmRequest { action: Get.into(), member_id: 0, alarm: 3 };
    assert_eq!(one.clone().alarm(unknown).await.unwrap_err().code(), Code::InvalidArgument);
}

/// The alarms in the answer to such a request.
async fn alarms(
    client: &MaintenanceClient<Channel>,
    action: AlarmAction,
    member_id: u64,
    alarm: pb::AlarmType,
) -> Vec<(u64, pb::AlarmType)> {
    let request = pb::AlarmRequest { action: action.into(), member_id, alarm: alarm.into() };
    let answer = client.clone().alarm(request).await.unwrap().into_inner();
    assert!(answer.header.is_some_and(|header| header.revision > 0));
    answer.alarms.into_iter().map(|found| (found.member_id, found.alarm())).collect()
}

/// The parts of a streamed range put together; only the last may tell of the whole.
async fn merged(mut parts: Streaming<pb::RangeStreamResponse>) -> Result<pb::RangeResponse, Status> {
    let mut whole = pb::RangeResponse::default();
    while let Some(part) = parts.message().await? {
        let part = part.range_response.unwrap();
        assert_eq!(whole.header, None, "a part after the last");
        let before = std::mem::take(&mut whole.kvs);
        whole = pb::RangeResponse { kvs: [before, part.kvs].concat(), ..part };
    }
    assert!(whole.header.is_some());
    Ok(whole)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_streamed_range_merges_to_what_a_range_answers() {
    let cluster = with_grpc().form(1).await;
    let mut keys = KvClient::new(channel(&cluster, 1).await);
    for number in 0..40 {
        let puts = (0..25).map(|part| {
            let key = format!("k{:04}", number * 25 + part).into();
            let value = vec![b'a' + u8::try_from((number + part) % 26).unwrap(); 4 << 10].into();
            let put = pb::PutRequest { key, value, ..pb::PutRequest::default() };
            pb::RequestOp { request: Some(request_op::Request::RequestPut(put)) }
        });
        let txn = pb::TxnRequest { success: puts.collect(), ..pb::TxnRequest::default() };
        keys.txn(txn).await.unwrap();
    }
    let all = pb::RangeRequest { key: "k".into(), range_end: "l".into(), ..Default::default() };
    let by_value = pb::range_request::SortTarget::Value.into();
    let descending = pb::range_request::SortOrder::Descend.into();
    for request in [
        all.clone(),
        pb::RangeRequest { limit: 700, ..all.clone() },
        pb::RangeRequest { limit: 1_000, ..all.clone() },
        pb::RangeRequest { limit: 1, ..all.clone() },
        pb::RangeRequest { revision: 20, ..all.clone() },
        pb::RangeRequest { revision: 20, limit: 300, keys_only: true, ..all.clone() },
        pb::RangeRequest { keys_only: true, ..all.clone() },
        pb::RangeRequest { count_only: true, ..all.clone() },
        pb::RangeRequest { sort_order: descending, sort_target: by_value, limit: 500, ..all.clone() },
        pb::RangeRequest { sort_order: descending, ..all.clone() },
        pb::RangeRequest { min_mod_revision: 20, serializable: true, ..all.clone() },
        pb::RangeRequest { key: "k0007".into(), range_end: "".into(), ..all.clone() },
        pb::RangeRequest { key: "none".into(), range_end: "".into(), ..all.clone() },
        pb::RangeRequest { key: "k0990".into(), range_end: "\0".into(), ..all.clone() },
    ] {
        let ranged = keys.range(request.clone()).await.unwrap().into_inner();
        let streamed = keys.range_stream(request.clone()).await.unwrap().into_inner();
        assert_eq!(merged(streamed).await.unwrap(), ranged, "{request:?}");
    }
    let future = pb::RangeRequest { revision: 1_000, ..all.clone() };
    let refused = keys.range_stream(future).await.map(drop);
    assert_refused(refused, Code::OutOfRange, "etcdserver: mvcc: required revision is a future revision");

    // What a compaction overtakes can't be read to its end, and says so.
    let mut narrow = KvClient::new(narrow_channel(&cluster, 1).await);
    let mut overtaken =
        narrow.range_stream(pb::RangeRequest { revision: 30, ..all }).await.unwrap().into_inner();
    overtaken.message().await.unwrap().unwrap();
    keys.compact(pb::CompactionRequest { revision: 35, physical: false }).await.unwrap();
    let compacted = "etcdserver: mvcc: required revision has been compacted";
    assert_refused(merged(overtaken).await, Code::OutOfRange, compacted);
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_beyond_what_may_be_in_flight_are_refused_and_hide_no_write() {
    let small = |options: &mut Options| {
        options.max_value_bytes = Some(ByteSize(100 << 10));
        options.max_request_bytes = Some(ByteSize(200 << 10));
        options.max_inflight_bytes = Some(ByteSize(1 << 20));
    };
    let cluster = with_grpc().options(small).form(3).await;
    for number in 0..12 {
        cluster.put(1, &format!("k{number}"), &"v".repeat(95 << 10)).await.ok();
    }
    cluster.settle().await;
    let all = pb::RangeRequest { key: "k".into(), range_end: "l".into(), ..Default::default() };
    let few = pb::RangeRequest { limit: 5, ..all.clone() };
    let put_and_read = |key: &str, range: &pb::RangeRequest| {
        let put = pb::PutRequest { key: key.to_owned().into(), ..pb::PutRequest::default() };
        let success =
            [request_op::Request::RequestPut(put), request_op::Request::RequestRange(range.clone())];
        let success = success.map(|request| pb::RequestOp { request: Some(request) }).to_vec();
        pb::TxnRequest { success, ..pb::TxnRequest::default() }
    };
    for through in cluster.ids() {
        let mut keys = KvClient::new(channel(&cluster, through).await);
        let too_many = "etcdserver: too many requests";
        assert_refused(keys.range(all.clone()).await, Code::ResourceExhausted, too_many);
        let key = format!("written-{through}");
        let lost = keys.txn(put_and_read(&key, &all)).await.unwrap_err();
        assert_eq!(lost.code(), Code::DataLoss, "{lost}");
        assert!(lost.message().contains("was carried out at revision"), "{lost}");
        assert_eq!(cluster.get(through, &key, "linearizable").await.as_deref(), Some(""));

        let reading = json!({"then": [{"get": {"prefix": "k"}}]});
        cluster.http.post(cluster.addr(through), "/v1/txn", &reading).await.error(429, "overloaded");
        let writing = json!({"then": [{"put": {"key": key, "value": "v"}}, {"get": {"prefix": "k"}}]});
        cluster.http.post(cluster.addr(through), "/v1/txn", &writing).await.error(409, "answer_lost");
        assert_eq!(cluster.get(through, &key, "linearizable").await.as_deref(), Some("v"));

        // What fits is answered, and nothing stays counted.
        for _ in 0..3 {
            assert_eq!(keys.range(few.clone()).await.unwrap().into_inner().kvs.len(), 5);
            keys.txn(put_and_read(&key, &few)).await.unwrap();
        }
    }
    // A stream holds little at a time, but there may be many that nobody reads.
    let mut keys = KvClient::new(narrow_channel(&cluster, 2).await);
    let unread =
        [keys.range_stream(all.clone()).await.unwrap(), keys.range_stream(all.clone()).await.unwrap()];
    let third = keys.range_stream(all.clone()).await;
    assert_refused(third.map(drop), Code::ResourceExhausted, "etcdserver: too many requests");
    drop(unread);
    eventually("there is room for a stream", async || {
        let streamed = keys.range_stream(all.clone()).await.map_err(|status| status.to_string())?;
        assert_eq!(merged(streamed.into_inner()).await.unwrap().kvs.len(), 12);
        Ok(())
    })
    .await;
    for id in cluster.ids() {
        eventually("nothing is in flight", async || {
            let text = [("accept", "application/openmetrics-text")];
            let figures = cluster.http.call("GET", cluster.addr(id), "/metrics", &text, "").await.ok().text();
            if figures.contains("\nkvorum_inflight_bytes 0\n") { Ok(()) } else { Err(figures) }
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_raised_alarm_is_told_in_etcds_words_and_over_http() {
    let cluster = with_grpc().form(3).await;
    let client = maintenance_client(&cluster, 1).await;
    let mut keys = KvClient::new(channel(&cluster, 2).await);
    let put = pb::PutRequest { key: "k".into(), value: "v".into(), ..pb::PutRequest::default() };
    let range = |serializable| pb::RangeRequest { key: "k".into(), serializable, ..Default::default() };
    let delete = pb::DeleteRangeRequest { key: "gone".into(), ..Default::default() };
    keys.put(put.clone()).await.unwrap();

    let no_space = "etcdserver: mvcc: database space exceeded";
    alarms(&client, AlarmAction::Activate, 3, pb::AlarmType::Nospace).await;
    assert_refused(keys.put(put.clone()).await, Code::ResourceExhausted, no_space);
    let (message, details) = cluster.put(3, "k", "v").await.error(507, "no_space");
    assert!(message.contains("NOSPACE") && message.contains("member 3"), "{message}");
    assert!(message.contains("etcdctl alarm disarm"), "{message}");
    assert_eq!(details["member"], 3);
    assert_eq!(cluster.get(3, "k", "linearizable").await.as_deref(), Some("v"));
    keys.range(range(false)).await.unwrap();
    keys.delete_range(delete.clone()).await.unwrap();
    assert_eq!(alarms(&client, AlarmAction::Get, 0, pb::AlarmType::None).await.len(), 1);
    let text = [("accept", "application/openmetrics-text")];
    let figures = cluster.http.call("GET", cluster.addr(1), "/metrics", &text, "").await.ok().text();
    assert!(figures.contains("\nkvorum_alarms 1\n"), "{figures}");

    let corrupt = "etcdserver: corrupt cluster";
    alarms(&client, AlarmAction::Activate, 3, pb::AlarmType::Corrupt).await;
    assert_refused(keys.put(put.clone()).await, Code::DataLoss, corrupt);
    assert_refused(keys.delete_range(delete).await, Code::DataLoss, corrupt);
    assert_refused(keys.range(range(false)).await, Code::DataLoss, corrupt);
    // The refusal of a linearizable read has shown that this node knows.
    assert_refused(keys.range(range(true)).await, Code::DataLoss, corrupt);
    cluster.put(3, "k", "v").await.error(500, "corrupt");
    for path in ["/v1/kv/k", "/v1/kv?prefix=k"] {
        cluster.http.get(cluster.addr(3), path).await.error(500, "corrupt");
    }
    let mut maintenance = client.clone();
    maintenance.hash_kv(pb::HashKvRequest { revision: 0 }).await.unwrap();

    for kind in [pb::AlarmType::Corrupt, pb::AlarmType::Nospace] {
        alarms(&client, AlarmAction::Deactivate, 3, kind).await;
    }
    cluster.put(3, "k", "v").await.ok();
    keys.range(range(false)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn downgrades_are_told_as_by_an_etcd_without_any() {
    let cluster = with_grpc().form(1).await;
    let mut client = maintenance_client(&cluster, 1).await;
    assert_eq!(client.defragment(pb::DefragmentRequest {}).await.unwrap().into_inner().header, None);
    let to = |action: DowngradeAction, version: &str| pb::DowngradeRequest {
        action: action.into(),
        version: version.to_owned(),
    };
    assert_eq!(
        client.downgrade(to(DowngradeAction::Validate, "3.6.0")).await.unwrap().into_inner().version,
        "3.7"
    );
    assert_refused(
        client.downgrade(to(DowngradeAction::Cancel, "")).await,
        Code::FailedPrecondition,
        "etcdserver: no inflight downgrade job",
    );
    assert_eq!(
        client.downgrade(to(DowngradeAction::Enable, "3.6.0")).await.unwrap_err().code(),
        Code::Unimplemented
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn users_and_roles_are_told_as_by_an_etcd_without_any() {
    let cluster = with_grpc().form(1).await;
    let mut auth = AuthClient::new(channel(&cluster, 1).await);
    let status = auth.auth_status(pb::AuthStatusRequest {}).await.unwrap().into_inner();
    assert_eq!((status.enabled, status.auth_revision, status.header.is_some()), (false, 1, true));
    assert!(auth.auth_disable(pb::AuthDisableRequest {}).await.unwrap().into_inner().header.is_some());
    let (precondition, invalid) = (Code::FailedPrecondition, Code::InvalidArgument);
    assert_refused(
        auth.auth_enable(pb::AuthEnableRequest {}).await,
        precondition,
        "etcdserver: root user does not exist",
    );
    let login = pb::AuthenticateRequest { name: "root".to_owned(), password: "x".to_owned() };
    assert_refused(auth.authenticate(login).await, precondition, "etcdserver: authentication is not enabled");
    let nobody = pb::AuthUserGetRequest { name: "nobody".to_owned() };
    assert_refused(auth.user_get(nobody).await, precondition, "etcdserver: user name not found");
    let nothing = pb::AuthRoleGetRequest { role: "nothing".to_owned() };
    assert_refused(auth.role_get(nothing).await, precondition, "etcdserver: role name not found");
    let no_name = pb::AuthUserAddRequest::default();
    assert_refused(auth.user_add(no_name).await, invalid, "etcdserver: user name is empty");
    let grant = pb::AuthRoleGrantPermissionRequest::default();
    assert_refused(auth.role_grant_permission(grant).await, invalid, "etcdserver: permission not given");
    let user = pb::AuthUserAddRequest { name: "root".to_owned(), ..Default::default() };
    assert_eq!(auth.user_add(user).await.unwrap_err().code(), Code::Unimplemented);
}

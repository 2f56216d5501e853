//! Locks and elections as etcd's clients take them: turns are handed on in order, whatever
//! becomes of those who have them or wait for them.

use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use kvorum::NodeId;
use kvorum_etcd_proto::etcdserverpb as pb;
use kvorum_etcd_proto::etcdserverpb::kv_client::KvClient;
use kvorum_etcd_proto::etcdserverpb::lease_client::LeaseClient;
use kvorum_etcd_proto::v3electionpb as epb;
use kvorum_etcd_proto::v3electionpb::election_client::ElectionClient;
use kvorum_etcd_proto::v3lockpb::lock_client::LockClient;
use kvorum_etcd_proto::v3lockpb::{LockRequest, UnlockRequest};
use tokio::task::JoinHandle;
use tonic::Status;
use tonic::transport::{Channel, Endpoint};

use crate::support::cluster::{Builder, TestCluster};
use crate::support::node::free_addr;
use crate::support::{PATIENCE, eventually};

/// A cluster whose nodes serve etcd's clients, with a connection to each of them.
struct Turns {
    cluster: TestCluster,
    channels: Vec<Channel>,
    addrs: Vec<String>,
}

impl Turns {
    async fn form() -> Self {
        let mut cluster = Builder::new().form(3).await;
        let mut channels = Vec::new();
        let mut addrs = Vec::new();
        for id in cluster.ids() {
            let addr = free_addr();
            cluster.node(id).kill();
            cluster.node(id).options_mut().grpc_addr = Some(addr.clone());
            cluster.node(id).start().await;
            channels.push(Endpoint::from_shared(format!("http://{addr}")).unwrap().connect_lazy());
            addrs.push(addr);
        }
        cluster.settle().await;
        Self { cluster, channels, addrs }
    }

    fn channel(&self, node: NodeId) -> Channel {
        self.channels[usize::try_from(node).unwrap() - 1].clone()
    }

    async fn grant(&self, node: NodeId, ttl: i64) -> i64 {
        let request = pb::LeaseGrantRequest { ttl, id: 0 };
        LeaseClient::new(self.channel(node)).lease_grant(request).await.unwrap().into_inner().id
    }

    /// Begins to wait for a lock; answers its key.
    fn lock(&self, node: NodeId, name: &'static str, lease: i64) -> JoinHandle<Result<String, Status>> {
        let mut client = LockClient::new(self.channel(node));
        tokio::spawn(async move {
            let locked = client.lock(LockRequest { name: name.into(), lease }).await?;
            Ok(String::from_utf8(locked.into_inner().key.to_vec()).unwrap())
        })
    }

    async fn unlock(&self, node: NodeId, key: &str) {
        let request = UnlockRequest { key: key.to_owned().into() };
        LockClient::new(self.channel(node)).unlock(request).await.unwrap();
    }

    /// The keys of all who contend for `name`, the oldest first.
    async fn contenders(&self, node: NodeId, name: &str) -> Vec<String> {
        let request = pb::RangeRequest {
            key: format!("{name}/").into(),
            range_end: format!("{name}0").into(),
            sort_target: pb::range_request::SortTarget::Create.into(),
            ..pb::RangeRequest::default()
        };
        let found = KvClient::new(self.channel(node)).range(request).await.unwrap().into_inner();
        found.kvs.into_iter().map(|item| String::from_utf8(item.key.to_vec()).unwrap()).collect()
    }

    async fn until_contenders(&self, node: NodeId, name: &str, count: usize) {
        eventually("so many contend", async || match self.contenders(node, name).await {
            found if found.len() == count => Ok(()),
            found => Err(format!("{found:?}")),
        })
        .await;
    }
}

/// The outcome of a call that must not have to wait any longer.
async fn ended<T>(call: JoinHandle<T>) -> T {
    tokio::time::timeout(PATIENCE, call).await.expect("its turn comes").unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lock_is_handed_on_in_order_when_it_is_given_up_or_its_lease_ends() {
    let turns = Turns::form().await;
    let [a, b, c] = [turns.grant(1, 60).await, turns.grant(2, 60).await, turns.grant(3, 2).await];
    let first = ended(turns.lock(1, "l", a)).await.unwrap();
    assert_eq!(first, format!("l/{a:x}"));
    assert_eq!(ended(turns.lock(2, "l", a)).await.unwrap(), first, "who holds it is told again");

    let second = turns.lock(2, "l", b);
    turns.until_contenders(1, "l", 2).await;
    // Nobody renews this one, so it ends before the second's.
    let third = turns.lock(3, "l", c);
    turns.until_contenders(1, "l", 3).await;
    let lost = ended(third).await.unwrap_err();
    assert_eq!((lost.code(), lost.message()), (tonic::Code::Unknown, "mutex: session is expired"));
    assert!(!second.is_finished());
    turns.unlock(3, &first).await;
    let second = ended(second).await.unwrap();
    assert_eq!(second, format!("l/{b:x}"));

    // A holder that is gone without a word.
    let short = turns.grant(1, 2).await;
    turns.unlock(1, &second).await;
    let asked = Instant::now();
    ended(turns.lock(1, "l", short)).await.unwrap();
    let next = turns.lock(2, "l", a);
    assert_eq!(ended(next).await.unwrap(), first);
    assert!(asked.elapsed() >= Duration::from_millis(1_500), "it was handed on after {:?}", asked.elapsed());
    assert_eq!(turns.contenders(3, "l").await, [first]);

    let refusal = ended(turns.lock(1, "l", 123)).await.unwrap_err();
    assert_eq!(
        (refusal.code(), refusal.message()),
        (tonic::Code::NotFound, "etcdserver: requested lease not found")
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_stops_waiting_gives_the_place_up_and_takes_nothing_from_others() {
    let turns = Turns::form().await;
    let [a, b] = [turns.grant(1, 600).await, turns.grant(2, 600).await];
    let held = ended(turns.lock(1, "l", a)).await.unwrap();
    for lease in [b, 0] {
        let waiting = turns.lock(2, "l", lease);
        turns.until_contenders(1, "l", 2).await;
        waiting.abort();
        turns.until_contenders(1, "l", 1).await;
    }
    // The lease that was granted for the call is gone with it.
    let leases = LeaseClient::new(turns.channel(1)).lease_leases(pb::LeaseLeasesRequest {}).await.unwrap();
    assert_eq!(leases.into_inner().leases.len(), 2);

    // Two calls with one lease: the later one answers for the key.
    let earlier = turns.lock(2, "l", b);
    turns.until_contenders(1, "l", 2).await;
    let before = turns.cluster.status(1).await.revision;
    let later = turns.lock(3, "l", b);
    eventually("the later call waits", async || {
        let now = turns.cluster.status(1).await.revision;
        if now > before { Ok(()) } else { Err(format!("{now}")) }
    })
    .await;
    earlier.abort();
    // Whatever the earlier one leaves behind was decided before this.
    tokio::time::sleep(Duration::from_millis(500)).await;
    turns.unlock(1, &held).await;
    let handed_on = ended(later).await.unwrap();
    assert_eq!(turns.contenders(1, "l").await, [handed_on]);

    // A deadline of the client's is the same as going away.
    let mut late = tonic::Request::new(LockRequest { name: "l".into(), lease: a });
    late.set_timeout(Duration::from_millis(300));
    let late = LockClient::new(turns.channel(3)).lock(late).await.unwrap_err();
    assert!([tonic::Code::DeadlineExceeded, tonic::Code::Cancelled].contains(&late.code()), "{late}");
    turns.until_contenders(2, "l", 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn waiting_outlasts_the_leader() {
    let mut turns = Turns::form().await;
    let leader = turns.cluster.leader().await;
    let [here, there] = {
        let others: Vec<_> = turns.cluster.ids().into_iter().filter(|id| *id != leader).collect();
        [others[0], others[1]]
    };
    let [a, b, c] =
        [turns.grant(here, 600).await, turns.grant(there, 600).await, turns.grant(here, 600).await];
    let held = ended(turns.lock(here, "l", a)).await.unwrap();
    let second = turns.lock(there, "l", b);
    turns.until_contenders(here, "l", 2).await;
    let third = turns.lock(here, "l", c);
    turns.until_contenders(here, "l", 3).await;

    turns.cluster.node(leader).kill();
    let new = turns.cluster.leader().await;
    turns.unlock(new, &held).await;
    let held = ended(second).await.unwrap();
    turns.cluster.node(leader).start().await;
    turns.cluster.settle().await;
    let new = turns.cluster.leader().await;
    turns.cluster.node(new).pause();
    let rest: Vec<_> = turns.cluster.ids().into_iter().filter(|id| *id != new).collect();
    turns.cluster.leader_among(&rest).await;
    // The third may wait on the paused node, and then hears of it when that goes on.
    turns.unlock(rest[0], &held).await;
    turns.cluster.node(new).resume();
    assert_eq!(ended(third).await.unwrap(), format!("l/{c:x}"));
    turns.cluster.settle().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_that_wait_leave_room_for_others() {
    let mut turns = Turns::form().await;
    for id in turns.cluster.ids() {
        turns.cluster.node(id).kill();
        turns.cluster.node(id).options_mut().max_inflight_requests = Some(4);
        turns.cluster.node(id).start().await;
    }
    turns.cluster.settle().await;
    let a = turns.grant(1, 600).await;
    let held = ended(turns.lock(1, "l", a)).await.unwrap();
    let mut waiting = Vec::new();
    for count in 2..=5 {
        let lease = turns.grant(1, 600).await;
        waiting.push(turns.lock(1, "l", lease));
        turns.until_contenders(1, "l", count).await;
    }
    // As many may wait as may be in flight, and those that may not leave nothing behind.
    let lease = turns.grant(1, 600).await;
    let refusal = ended(turns.lock(1, "l", lease)).await.unwrap_err();
    assert_eq!(
        (refusal.code(), refusal.message()),
        (tonic::Code::ResourceExhausted, "etcdserver: too many requests")
    );
    turns.until_contenders(1, "l", 5).await;
    turns.unlock(1, &held).await;
    for call in waiting {
        let key = ended(call).await.unwrap();
        turns.unlock(1, &key).await;
    }
    assert_eq!(turns.contenders(1, "l").await, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_election_goes_to_the_next_candidate_and_observers_see_it() {
    let turns = Turns::form().await;
    let client = |node| ElectionClient::new(turns.channel(node));
    let name = || bytes::Bytes::from_static(b"e");
    let none = client(1).leader(epb::LeaderRequest { name: name() }).await.unwrap_err();
    assert_eq!((none.code(), none.message()), (tonic::Code::Unknown, "election: no leader"));
    let missing = client(1).resign(epb::ResignRequest::default()).await.unwrap_err();
    assert_eq!(missing.message(), "\"leader\" field must be provided");

    let mut observer = client(3);
    let leaders = observer.observe(epb::LeaderRequest { name: name() });
    let mut leaders = tokio::time::timeout(PATIENCE, leaders).await.unwrap().unwrap().into_inner();
    let mut next = async || {
        let response = tokio::time::timeout(PATIENCE, leaders.message()).await.unwrap().unwrap().unwrap();
        (response.header.unwrap().revision, response.kv.unwrap())
    };
    let campaign = |node, lease, value: &'static str| {
        let mut client = client(node);
        let request = epb::CampaignRequest { name: name(), lease, value: value.into() };
        tokio::spawn(
            async move { client.campaign(request).await.map(|won| won.into_inner().leader.unwrap()) },
        )
    };
    let [a, b] = [turns.grant(1, 60).await, turns.grant(2, 2).await];
    let leader = ended(campaign(1, a, "one")).await.unwrap();
    assert_eq!((&leader.key, leader.lease), (&bytes::Bytes::from(format!("e/{a:x}")), a));
    let (revision, seen) = next().await;
    assert_eq!((revision, &seen.value, seen.create_revision), (leader.rev, &"one".into(), leader.rev));

    let request = epb::ProclaimRequest { leader: Some(leader.clone()), value: "more".into() };
    client(2).proclaim(request).await.unwrap();
    assert_eq!(next().await.1.value, "more");
    let mut other = leader.clone();
    other.rev += 1;
    let request = epb::ProclaimRequest { leader: Some(other), value: "x".into() };
    let refusal = client(2).proclaim(request).await.unwrap_err();
    assert_eq!(refusal.message(), "election: not leader");

    let second = campaign(2, b, "two");
    turns.until_contenders(3, "e", 2).await;
    client(3).resign(epb::ResignRequest { leader: Some(leader) }).await.unwrap();
    let second = ended(second).await.unwrap();
    assert_eq!(next().await.1.value, "two");
    // Nobody leads once its lease has ended, and then who comes first.
    turns.until_contenders(3, "e", 0).await;
    let third = ended(campaign(2, a, "three")).await.unwrap();
    assert!(third.rev > second.rev);
    let (revision, seen) = next().await;
    assert_eq!((revision, seen.value), (third.rev, "three".into()));
    let known = client(3).leader(epb::LeaderRequest { name: name() }).await.unwrap().into_inner();
    assert_eq!(known.kv.unwrap().key, third.key);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_waiter_over_http_is_known_to_be_gone() {
    let turns = Turns::form().await;
    let a = turns.grant(1, 600).await;
    ended(turns.lock(1, "l", a)).await.unwrap();
    let addr = turns.addrs[1].clone();
    let body = serde_json::json!({"name": BASE64.encode("l")}).to_string();
    let http = turns.cluster.http.clone();
    let waiting = tokio::spawn(async move { http.call("POST", &addr, "/v3/lock/lock", &[], body).await });
    turns.until_contenders(1, "l", 2).await;
    waiting.abort();
    turns.until_contenders(1, "l", 1).await;
}

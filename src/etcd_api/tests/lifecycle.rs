//! What is served, and how it ends.

use futures_util::{StreamExt as _, stream};
use http_body_util::Full;
use kvorum_etcd_proto::etcdserverpb::WatchRequest;
use kvorum_etcd_proto::etcdserverpb::watch_client::WatchClient;
use kvorum_etcd_proto::v3lockpb::lock_client::LockClient;
use kvorum_etcd_proto::v3lockpb::{LockRequest, UnlockRequest};
use serde_json::json;
use tonic::{Code, Status};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;
use tonic_reflection::pb::v1::{ServerReflectionRequest, ServerReflectionResponse};

use super::*;
use crate::command::AlarmKind;
use crate::inflight::InflightBytes;
use crate::network::{HttpOptions, etcd_gateway, start_peer};

fn lock(name: &'static str) -> LockRequest {
    LockRequest { name: name.into(), lease: 0 }
}

#[tokio::test]
async fn grpc_and_json_share_a_port() {
    let fixture = Fixture::new();
    let mut locks = LockClient::new(fixture.channel().await);
    assert_eq!(locks.lock(lock("a")).await.unwrap().into_inner().key, "a");
    assert_eq!(locks.lock(lock("who")).await.unwrap().into_inner().key, "127.0.0.1");
    let refusal = locks.unlock(UnlockRequest::default()).await.unwrap_err();
    assert_eq!(
        (refusal.code(), refusal.message()),
        (Code::InvalidArgument, "etcdserver: key is not provided")
    );

    fixture.assert_serves().await;
    let who = fixture.call("POST", "/v3/lock/lock", r#"{"name":"d2hv"}"#).await;
    assert_eq!(who.json(), json!({"key": "MTI3LjAuMC4x"}), "the caller's address is known to JSON calls too");
    let refusal = fixture.call("POST", "/v3/lock/unlock", "").await;
    assert_eq!((refusal.status, &refusal.json()["code"]), (400, &json!(3)));
    let unknown = fixture.call("GET", "/v2/keys", "").await;
    assert_eq!(
        (unknown.status, unknown.body.as_str()),
        (404, r#"{"error":"Not Found","code":5,"message":"Not Found","details":[]}"#)
    );
}

#[tokio::test]
async fn json_is_served_over_http_2_as_well() {
    let fixture = Fixture::new();
    let mut channel = fixture.channel().await;
    let uri = format!("http://{}/v3/lock/lock", fixture.addr());
    let body = Body::new(Full::new(Bytes::from_static(br#"{"name":"YQ=="}"#)));
    let request = Request::post(uri).body(body).unwrap();
    std::future::poll_fn(|context| channel.poll_ready(context)).await.unwrap();
    let response = channel.call(request).await.unwrap();
    assert_eq!(response.version(), hyper::Version::HTTP_2);
    assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), r#"{"key":"YQ=="}"#);
}

#[tokio::test]
async fn probes_tell_health_and_version() {
    let fixture = Fixture::new();
    let version = fixture.call("GET", "/version", "").await;
    assert_eq!(version.body, r#"{"etcdserver":"3.7.0","etcdcluster":"3.7.0","storage":"3.7.0"}"#);
    assert!(version.head.contains("content-type: application/json"), "{}", version.head);
    let health = fixture.call("GET", "/health", "").await;
    assert_eq!((health.status, health.body.as_str()), (200, r#"{"health":"true","reason":""}"#));
    assert_eq!(fixture.call("HEAD", "/health", "").await.body, "");
    for path in ["/health", "/readyz", "/livez/serializable_read"] {
        let refusal = fixture.call("POST", path, "").await;
        assert!(refusal.status == 405 && refusal.head.contains("allow: get, head"), "{}", refusal.head);
    }
}

impl Fixture {
    /// The status and the body of the answer to a probe.
    async fn probe(&self, path: &str) -> (u16, String) {
        let answer = self.call("GET", path, "").await;
        (answer.status, answer.body)
    }
}

fn ok() -> (u16, String) {
    (200, "ok\n".to_owned())
}

#[tokio::test]
async fn readiness_is_told_check_by_check() {
    let fixture = Fixture::new();
    assert_eq!(fixture.probe("/readyz").await, ok());
    let told =
        "[+]data_corruption ok\n[+]serializable_read ok\n[+]linearizable_read ok\n[+]non_learner ok\nok\n";
    assert_eq!(fixture.probe("/readyz?verbose").await, (200, told.to_owned()));
    assert_eq!(fixture.probe("/livez?verbose").await, (200, "[+]serializable_read ok\nok\n".to_owned()));
    assert_eq!(fixture.probe("/readyz/unknown").await.0, 404);
    assert_eq!(fixture.probe("/livez/linearizable_read").await.0, 404);
    assert_eq!(fixture.probe("/readyzz").await.0, 404);

    fixture.node.has_leader.store(false, Ordering::Relaxed);
    fixture.node.is_learner.store(true, Ordering::Relaxed);
    *fixture.node.alarms.lock() = vec![Alarm { kind: AlarmKind::Corrupt, member: 7 }];
    let told = "[-]data_corruption failed: alarm activated: CORRUPT\n[+]serializable_read ok\n\
                [-]linearizable_read failed: no leader\n[-]non_learner failed: this member is a learner\n";
    assert_eq!(fixture.probe("/readyz").await, (503, told.to_owned()));
    let but_one = "/readyz?exclude=data_corruption&exclude=non_learner&exclude=of_another_version";
    let told = "[+]serializable_read ok\n[-]linearizable_read failed: no leader\n";
    assert_eq!(fixture.probe(but_one).await, (503, told.to_owned()));
    assert_eq!(fixture.probe(&format!("{but_one}&exclude=linearizable_read")).await, ok());
    assert_eq!(fixture.probe("/readyz/serializable_read").await, ok());
    assert_eq!(fixture.probe("/readyz/non_learner").await.0, 503);
}

#[tokio::test]
async fn a_node_without_a_leader_is_alive() {
    let fixture = Fixture::new();
    fixture.node.has_leader.store(false, Ordering::Relaxed);
    let unhealthy = (503, r#"{"health":"false","reason":"no leader"}"#.to_owned());
    assert_eq!(fixture.probe("/health").await, unhealthy);
    let healthy = (200, r#"{"health":"true","reason":""}"#.to_owned());
    for alive in ["/health?serializable=true", "/health?exclude=NOSPACE&serializable=true"] {
        assert_eq!(fixture.probe(alive).await, healthy, "{alive}");
    }
    assert_eq!(fixture.probe("/livez").await, ok());

    fixture.node.is_readable.store(false, Ordering::Relaxed);
    assert_eq!(fixture.probe("/health?serializable=true").await.0, 503);
    assert_eq!(fixture.probe("/livez").await, (503, "[-]serializable_read failed: broken\n".to_owned()));
}

#[tokio::test]
async fn raised_alarms_are_unhealthy_unless_they_are_excluded() {
    let fixture = Fixture::new();
    *fixture.node.alarms.lock() = vec![Alarm { kind: AlarmKind::NoSpace, member: 7 }];
    let unhealthy = (503, r#"{"health":"false","reason":"ALARM NOSPACE"}"#.to_owned());
    assert_eq!(fixture.probe("/health").await, unhealthy);
    assert_eq!(fixture.probe("/health?serializable=true").await, unhealthy);
    assert_eq!(fixture.probe("/health?exclude=CORRUPT").await, unhealthy);
    assert_eq!(fixture.probe("/health?exclude=NOSPACE").await.0, 200);
    // Nodes that can't take more are ready for what they can.
    assert_eq!(fixture.probe("/readyz").await, ok());
    assert_eq!(fixture.probe("/livez").await, ok());
}

#[tokio::test]
async fn grpc_health_follows_readiness() {
    let fixture = Fixture::new();
    let mut health = HealthClient::new(fixture.channel().await);
    let ask = |service: &str| HealthCheckRequest { service: service.to_owned() };
    let status =
        |response: tonic::Response<tonic_health::pb::HealthCheckResponse>| response.into_inner().status();
    for service in ["", "etcdserverpb.KV", "v3electionpb.Election"] {
        assert_eq!(status(health.check(ask(service)).await.unwrap()), ServingStatus::Serving, "{service}");
    }
    assert_eq!(health.check(ask("etcdserverpb")).await.unwrap_err().code(), Code::NotFound);

    let mut changes = health.watch(ask("")).await.unwrap().into_inner();
    assert_eq!(changes.message().await.unwrap().unwrap().status(), ServingStatus::Serving);
    fixture.node.has_leader.store(false, Ordering::Relaxed);
    assert_eq!(status(health.check(ask("")).await.unwrap()), ServingStatus::NotServing);
    let next = timeout(PATIENCE, changes.message()).await.unwrap();
    assert_eq!(next.unwrap().unwrap().status(), ServingStatus::NotServing);
    let mut unknown = health.watch(ask("unknown")).await.unwrap().into_inner();
    assert_eq!(unknown.message().await.unwrap().unwrap().status(), ServingStatus::ServiceUnknown);
}

#[tokio::test]
async fn reflection_shows_the_services_and_their_definitions() {
    let fixture = Fixture::new();
    let mut reflection = ServerReflectionClient::new(fixture.channel().await);
    let ask = |request| ServerReflectionRequest { host: String::new(), message_request: Some(request) };
    let questions = stream::iter([
        ask(MessageRequest::ListServices(String::new())),
        ask(MessageRequest::FileContainingSymbol("etcdserverpb.KV".to_owned())),
        ask(MessageRequest::FileByFilename("kv.proto".to_owned())),
    ]);
    let answers: Vec<ServerReflectionResponse> = reflection
        .server_reflection_info(questions)
        .await
        .unwrap()
        .into_inner()
        .map(|answer| answer.unwrap())
        .collect()
        .await;
    let Some(MessageResponse::ListServicesResponse(services)) = &answers[0].message_response else {
        panic!()
    };
    let names: Vec<_> = services.service.iter().map(|service| service.name.as_str()).collect();
    for name in [
        "etcdserverpb.KV",
        "etcdserverpb.Watch",
        "etcdserverpb.Lease",
        "etcdserverpb.Cluster",
        "etcdserverpb.Maintenance",
        "etcdserverpb.Auth",
        "v3lockpb.Lock",
        "v3electionpb.Election",
        "grpc.health.v1.Health",
    ] {
        assert!(names.contains(&name), "{name} is missing in {names:?}");
    }
    for (answer, text) in
        [(&answers[1], "rpc.proto"), (&answers[1], "/v3/kv/range"), (&answers[2], "KeyValue")]
    {
        let Some(MessageResponse::FileDescriptorResponse(files)) = &answer.message_response else { panic!() };
        let found = files.file_descriptor_proto[0].windows(text.len()).any(|part| part == text.as_bytes());
        assert!(found, "{text}");
    }
}

#[tokio::test]
async fn a_connection_carries_a_thousand_streams() {
    let fixture = Fixture::new();
    let channel = fixture.channel().await;
    let mut streams = Vec::new();
    for _ in 0..1_000 {
        let mut client = WatchClient::new(channel.clone());
        let requests = stream::iter([WatchRequest::default()]).chain(stream::pending());
        let mut answers = timeout(PATIENCE, client.watch(requests)).await.unwrap().unwrap().into_inner();
        assert!(answers.message().await.unwrap().unwrap().created);
        streams.push(answers);
    }
    fixture.assert_serves().await;
    assert_eq!(fixture.api.traffic().inflight(), 0, "streams are no simple calls");
}

#[tokio::test]
async fn a_json_stream_flows_both_ways_on_one_connection() {
    let fixture = Fixture::new();
    let mut stream = TcpStream::connect(fixture.addr()).await.unwrap();
    let head = "POST /v3/watch HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut received = String::new();
    for number in 0..3 {
        stream.write_all(b"15\r\n{\"create_request\":{}}\r\n").await.unwrap();
        let line = if number == 0 {
            r#"{"result":{"created":true}}"#.to_owned()
        } else {
            format!(r#"{{"result":{{"watch_id":"{number}","created":true}}}}"#)
        };
        while !received.contains(&line) {
            let mut part = [0; 1024];
            let length = timeout(PATIENCE, stream.read(&mut part)).await.unwrap().unwrap();
            assert_ne!(length, 0, "the stream ended after {received:?}");
            received.push_str(std::str::from_utf8(&part[..length]).unwrap());
        }
    }
}

#[tokio::test]
async fn the_http_front_carries_the_same_calls() {
    let fixture = Fixture::new();
    let options = HttpOptions {
        workers: 1,
        max_request_bytes: MAX_REQUEST_BYTES,
        max_inflight_requests: 64,
        inflight_bytes: InflightBytes::new(1 << 20),
        request_timeout: PATIENCE,
        shutdown_timeout: PATIENCE,
    };
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let http = start_peer(listener, &options, etcd_gateway::routes(fixture.api.json_calls())).unwrap();

    let mut simple = TcpStream::connect(http.addr()).await.unwrap();
    let body = r#"{"name":"d2hv"}"#;
    let length = body.len();
    let request = format!(
        "POST /v3/lock/lock HTTP/1.1\r\nHost: h\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}"
    );
    simple.write_all(request.as_bytes()).await.unwrap();
    let answer = Answer::parse(&read_to_end(&mut simple).await);
    assert_eq!((answer.status, answer.json()), (200, json!({"key": "MTI3LjAuMC4x"})));

    let mut watch = TcpStream::connect(http.addr()).await.unwrap();
    let request = "POST /v3/watch HTTP/1.1\r\nHost: h\r\nContent-Length: 21\r\n\r\n{\"create_request\":{}}";
    watch.write_all(request.as_bytes()).await.unwrap();
    let mut received = String::new();
    while !received.contains(r#"{"result":{"created":true}}"#) {
        let mut part = [0; 1024];
        let length = timeout(PATIENCE, watch.read(&mut part)).await.unwrap().unwrap();
        assert_ne!(length, 0, "the stream ended after {received:?}");
        received.push_str(std::str::from_utf8(&part[..length]).unwrap());
    }
    // The gate is the same one, so closing it ends the streams of both fronts.
    fixture.api.close();
    while !received.ends_with("0\r\n\r\n") {
        let mut part = [0; 1024];
        let length = timeout(PATIENCE, watch.read(&mut part)).await.unwrap().unwrap();
        assert_ne!(length, 0, "the stream broke off after {received:?}");
        received.push_str(std::str::from_utf8(&part[..length]).unwrap());
    }
    assert!(received.contains("etcdserver: server stopped"), "{received}");
    assert_eq!(fixture.api.traffic().counts().len(), 2);
    http.stop(true).await.unwrap();
}

#[tokio::test]
async fn a_graceful_stop_answers_calls_and_ends_streams() {
    let fixture = Fixture::new();
    let channel = fixture.channel().await;
    let mut watches = WatchClient::new(channel.clone());
    let mut answers = watches.watch(stream::pending()).await.unwrap().into_inner();
    let json = tokio::spawn({
        let addr = fixture.addr();
        async move {
            let mut stream = TcpStream::connect(addr).await.unwrap();
            let request = "POST /v3/watch HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\n{}";
            stream.write_all(request.as_bytes()).await.unwrap();
            String::from_utf8(read_to_end(&mut stream).await).unwrap()
        }
    });
    let mut locks = LockClient::new(channel);
    let slow = tokio::spawn(async move { locks.lock(lock("slow")).await });
    tokio::time::sleep(Duration::from_millis(100)).await;

    let started = std::time::Instant::now();
    fixture.server.stop(true).await.unwrap();
    assert!(started.elapsed() < Duration::from_secs(3), "took {:?}", started.elapsed());
    assert_eq!(slow.await.unwrap().unwrap().into_inner().key, "slow");
    let end = answers.message().await.unwrap_err();
    assert_eq!((end.code(), end.message()), (Code::Unavailable, "etcdserver: server stopped"));
    let json = json.await.unwrap();
    assert!(json.contains(r#""message":"etcdserver: server stopped""#), "{json}");
}

#[tokio::test]
async fn what_does_not_end_is_cut_at_the_deadline() {
    let options = ServerOptions { shutdown_timeout: Duration::from_millis(200), ..ServerOptions::default() };
    for graceful in [true, false] {
        let fixture = Fixture::with(limits(), options);
        let mut locks = LockClient::new(fixture.channel().await);
        let hanging = tokio::spawn(async move { locks.lock(lock("hang")).await });
        tokio::time::sleep(Duration::from_millis(100)).await;
        timeout(PATIENCE, fixture.server.stop(graceful)).await.unwrap().unwrap();
        hanging.await.unwrap().unwrap_err();
    }
}

#[tokio::test]
async fn a_dropped_server_is_gone() {
    let Fixture { server, .. } = Fixture::new();
    let addr = server.addr();
    let mut idle = TcpStream::connect(addr).await.unwrap();
    drop(server);
    assert_eq!(read_to_end(&mut idle).await, b"");
    while TcpStream::connect(addr).await.is_ok() {
        tokio::task::yield_now().await;
    }
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn clients_that_vanish_are_noticed() {
    let fixture = Fixture::new();
    let client = TcpStream::connect(fixture.addr()).await.unwrap();
    let addr = client.local_addr().unwrap();
    let noticing = async {
        while !crate::sockets::is_kept_alive(fixture.addr(), addr) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(PATIENCE, noticing).await.unwrap();
}

#[tokio::test]
async fn deadlines_of_callers_are_kept_and_outcomes_counted() {
    let fixture = Fixture::new();
    let late =
        fixture.call_with("POST", "/v3/lock/lock", "Grpc-Timeout: 50m\r\n", r#"{"name":"aGFuZw=="}"#).await;
    assert_eq!((late.status, &late.json()["message"]), (504, &json!("context deadline exceeded")));
    fixture.assert_serves().await;
    fixture.call("POST", "/v3/lock/unlock", "{}").await;
    let mut locks = LockClient::new(fixture.channel().await);
    locks.lock(lock("a")).await.unwrap();
    let gone = tokio::spawn(async move { locks.lock(lock("hang")).await });
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(fixture.api.traffic().inflight(), 1);
    gone.abort();
    while fixture.api.traffic().inflight() > 0 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let counts = fixture.api.traffic().counts();
    let found: Vec<_> = counts.iter().map(|count| (count.method, count.code, count.count)).collect();
    assert_eq!(
        found,
        [
            ("/v3lockpb.Lock/Lock", Code::Ok, 2),
            ("/v3lockpb.Lock/Lock", Code::Cancelled, 1),
            ("/v3lockpb.Lock/Lock", Code::DeadlineExceeded, 1),
            ("/v3lockpb.Lock/Unlock", Code::InvalidArgument, 1),
        ]
    );
}

#[tokio::test]
async fn unknown_methods_are_unimplemented_and_counted_together() {
    let fixture = Fixture::new();
    let mut channel = fixture.channel().await;
    for path in ["/etcdserverpb.KV/Get", "/a/b"] {
        let uri = format!("http://{}{path}", fixture.addr());
        let request =
            Request::post(uri).header("content-type", "application/grpc").body(Body::empty()).unwrap();
        std::future::poll_fn(|context| channel.poll_ready(context)).await.unwrap();
        let response = channel.call(request).await.unwrap();
        assert_eq!(Status::from_header_map(response.headers()).unwrap().code(), Code::Unimplemented);
    }
    let counts = fixture.api.traffic().counts();
    assert_eq!((counts.len(), counts[0].method, counts[0].count), (1, "other", 2));
}

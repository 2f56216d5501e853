//! Clients that mean no good, or have lost their minds. Every test ends with the server still
//! serving others.

use futures_util::StreamExt as _;
use kvorum_etcd_proto::etcdserverpb::watch_client::WatchClient;
use kvorum_etcd_proto::v3lockpb::LockRequest;
use kvorum_etcd_proto::v3lockpb::lock_client::LockClient;
use serde_json::json;
use tonic::Code;

use super::*;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

fn impatient() -> ServerOptions {
    ServerOptions {
        handshake_timeout: Duration::from_millis(100),
        keep_alive_interval: Duration::from_millis(100),
        keep_alive_timeout: Duration::from_millis(100),
        ..ServerOptions::default()
    }
}

#[tokio::test]
async fn garbage_is_hung_up_on() {
    let fixture = Fixture::with(limits(), impatient());
    let tls_hello = b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03".repeat(10);
    let broken_frames = [PREFACE, &[0xff; 200]].concat();
    for garbage in [tls_hello.as_slice(), &broken_frames, b"GET\r\n\r\n", &vec![b'A'; 200_000], &[0; 30]] {
        let mut stream = TcpStream::connect(fixture.addr()).await.unwrap();
        let _ = stream.write_all(garbage).await;
        read_to_end(&mut stream).await;
    }
    fixture.assert_serves().await;
}

#[tokio::test]
async fn connections_that_ask_for_nothing_are_dropped() {
    let fixture = Fixture::with(limits(), impatient());
    // Nothing at all, part of a preface, part of a head that is shorter than a preface, and a
    // handshake whose client has vanished: signs of life are not answered.
    for start in
        [b"".as_slice(), &PREFACE[..10], b"GET /version", &[PREFACE, &[0, 0, 0, 4, 0, 0, 0, 0, 0]].concat()]
    {
        let mut stream = TcpStream::connect(fixture.addr()).await.unwrap();
        stream.write_all(start).await.unwrap();
        read_to_end(&mut stream).await;
    }
    fixture.assert_serves().await;
}

#[tokio::test]
async fn an_idle_client_that_answers_keeps_its_connection() {
    let fixture = Fixture::with(limits(), impatient());
    let channel = fixture.channel().await;
    let mut answers =
        WatchClient::new(channel).watch(futures_util::stream::pending()).await.unwrap().into_inner();
    timeout(Duration::from_secs(1), answers.message()).await.expect_err("the stream stays open");
}

#[tokio::test]
async fn heads_are_bounded() {
    let fixture = Fixture::new();
    let long = format!("X: {}\r\n", "a".repeat(100_000));
    assert_eq!(fixture.call_with("GET", "/version", &long, "").await.status, 431);
    fixture.assert_serves().await;
}

#[tokio::test]
async fn large_requests_are_refused() {
    let fixture = Fixture::new();
    let max = max_message_bytes(MAX_REQUEST_BYTES);
    let mut locks = LockClient::new(fixture.channel().await);
    let fits = LockRequest { name: vec![b'a'; max - 100].into(), lease: 0 };
    assert_eq!(locks.lock(fits).await.unwrap().into_inner().key.len(), max - 100);
    let refusal = locks.lock(LockRequest { name: vec![b'a'; max + 1].into(), lease: 0 }).await.unwrap_err();
    assert_eq!(refusal.code(), Code::OutOfRange, "{refusal}");

    let body = format!(r#"{{"name":"{}"}}"#, "A".repeat(2 * max));
    let refusal = fixture.call("POST", "/v3/lock/lock", &body).await;
    assert_eq!(
        (refusal.status, &refusal.json()["message"]),
        (400, &json!("etcdserver: request is too large"))
    );
    fixture.assert_serves().await;
}

#[tokio::test]
async fn simple_calls_are_bounded_and_streams_are_not_among_them() {
    let fixture =
        Fixture::with(EtcdOptions { max_inflight_requests: 1, ..limits() }, ServerOptions::default());
    let channel = fixture.channel().await;
    let mut answers = WatchClient::new(channel.clone()).watch(futures_util::stream::pending()).await.unwrap();
    let mut locks = LockClient::new(channel.clone());
    let hanging =
        tokio::spawn(async move { locks.lock(LockRequest { name: "hang".into(), lease: 0 }).await });
    while fixture.api.traffic().inflight() == 0 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let refusal = LockClient::new(channel).lock(LockRequest::default()).await.unwrap_err();
    assert_eq!(
        (refusal.code(), refusal.message()),
        (Code::ResourceExhausted, "etcdserver: too many requests")
    );
    let refusal = fixture.call("POST", "/v3/lock/lock", "{}").await;
    assert_eq!((refusal.status, &refusal.json()["code"]), (429, &json!(8)));
    timeout(Duration::from_millis(50), answers.get_mut().message()).await.expect_err("the stream goes on");

    hanging.abort();
    while fixture.api.traffic().inflight() > 0 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    fixture.assert_serves().await;
}

#[tokio::test]
async fn bytes_in_flight_are_bounded_whatever_carries_them() {
    let inflight = InflightBytes::new(200 << 10);
    let options = EtcdOptions { inflight_bytes: Arc::clone(&inflight), ..limits() };
    let fixture = Fixture::with(options, ServerOptions::default());
    let mut channel = fixture.channel().await;
    let begun = Bytes::from([&[0, 0, 8, 0, 0][..], &vec![0; 150 << 10]].concat());
    let begun = futures_util::stream::iter([Ok::<_, std::io::Error>(hyper::body::Frame::data(begun))]);
    let never_ends = http_body_util::StreamBody::new(begun.chain(futures_util::stream::pending()));
    let request = Request::post(format!("http://{}/v3lockpb.Lock/Lock", fixture.addr()))
        .header("content-type", "application/grpc")
        .body(Body::new(never_ends))
        .unwrap();
    std::future::poll_fn(|context| channel.poll_ready(context)).await.unwrap();
    let arriving = tokio::spawn(channel.call(request));
    while inflight.held() < 140 << 10 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }

    let name = || LockRequest { name: vec![b'a'; 100 << 10].into(), lease: 0 };
    let mut locks = LockClient::new(fixture.channel().await);
    let refusal = locks.lock(name()).await.unwrap_err();
    assert_eq!(
        (refusal.code(), refusal.message()),
        (Code::ResourceExhausted, "etcdserver: too many requests")
    );
    let document = format!(r#"{{"name":"{}"}}"#, "A".repeat(100 << 10));
    let refusal = fixture.call("POST", "/v3/lock/lock", &document).await;
    assert_eq!((refusal.status, &refusal.json()["message"]), (429, &json!("etcdserver: too many requests")));
    // Empty operations by the thousand: short to send, long to hold.
    let document = format!(r#"{{"success":[{}]}}"#, vec!["{}"; 2_000].join(","));
    assert_eq!(fixture.call("POST", "/v3/kv/txn", &document).await.status, 429);
    fixture.assert_serves().await;

    arriving.abort();
    while inflight.held() > 0 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(locks.lock(name()).await.unwrap().into_inner().key.len(), 100 << 10);
}

#[tokio::test]
async fn a_call_that_never_arrives_gives_its_place_back() {
    let fixture = Fixture::with(
        EtcdOptions { body_patience: Duration::from_millis(100), ..limits() },
        ServerOptions::default(),
    );
    let mut channel = fixture.channel().await;
    let never = http_body_util::StreamBody::new(futures_util::stream::pending::<
        Result<hyper::body::Frame<Bytes>, std::io::Error>,
    >());
    let request = Request::post(format!("http://{}/v3lockpb.Lock/Lock", fixture.addr()))
        .header("content-type", "application/grpc")
        .body(Body::new(never))
        .unwrap();
    std::future::poll_fn(|context| channel.poll_ready(context)).await.unwrap();
    let response = timeout(PATIENCE, channel.call(request)).await.unwrap().unwrap();
    let status = tonic::Status::from_header_map(response.headers()).unwrap();
    assert_eq!(status.code(), Code::DeadlineExceeded);
    assert_eq!(fixture.api.traffic().inflight(), 0);
    fixture.assert_serves().await;
}

#[tokio::test]
async fn connections_are_bounded() {
    let fixture = Fixture::with(limits(), ServerOptions { max_connections: 2, ..ServerOptions::default() });
    let kept = [fixture.channel().await, fixture.channel().await];
    let mut third = TcpStream::connect(fixture.addr()).await.unwrap();
    assert_eq!(read_to_end(&mut third).await, b"");
    drop(kept);
    // The places are free as soon as the server has seen the others go.
    let served = async {
        loop {
            let mut stream = TcpStream::connect(fixture.addr()).await.unwrap();
            let _ = stream.write_all(b"GET /version HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n").await;
            if !read_to_end(&mut stream).await.is_empty() {
                break;
            }
        }
    };
    timeout(PATIENCE, served).await.unwrap();
}

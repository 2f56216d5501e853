//! The gateway in front of a small service, without a socket: what reaches the service, and
//! what the caller is told.

use std::convert::Infallible;
use std::pin::Pin;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{Stream, StreamExt, stream};
use http::{Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt, Full, StreamBody};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tonic::body::Body;
use tonic::service::Routes;
use tonic::{Code, Status, Streaming};

use super::*;
use crate::etcdserverpb::kv_server::{Kv, KvServer};
use crate::etcdserverpb::maintenance_server::{Maintenance, MaintenanceServer};
use crate::etcdserverpb::watch_request::RequestUnion;
use crate::etcdserverpb::watch_server::{Watch, WatchServer};
use crate::etcdserverpb::*;
use crate::mvccpb::KeyValue;

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// Answers with what it was asked, so that the tests see what arrived.
#[derive(Clone)]
struct Echo;

#[tonic::async_trait]
impl Kv for Echo {
    type RangeStreamStream = Answers<RangeStreamResponse>;

    /// Each metadata entry as a key with its value, after the key asked for.
    async fn range(
        &self,
        request: tonic::Request<RangeRequest>,
    ) -> Result<tonic::Response<RangeResponse>, Status> {
        let mut kvs = vec![KeyValue { key: request.get_ref().key.clone(), ..Default::default() }];
        for name in ["token", "authorization", "custom", "grpc-timeout", "content-type"] {
            if let Some(value) = request.metadata().get(name) {
                let value = Bytes::copy_from_slice(value.as_bytes());
                kvs.push(KeyValue { key: name.into(), value, ..Default::default() });
            }
        }
        if request.extensions().get::<u16>().is_some() {
            kvs.push(KeyValue { key: "extension".into(), ..Default::default() });
        }
        Ok(tonic::Response::new(RangeResponse { count: kvs.len() as i64, kvs, ..Default::default() }))
    }

    async fn put(&self, request: tonic::Request<PutRequest>) -> Result<tonic::Response<PutResponse>, Status> {
        let code = Code::from(request.get_ref().lease as i32);
        if code == Code::Ok {
            return Ok(tonic::Response::new(PutResponse::default()));
        }
        Err(Status::new(code, "etcdserver: \"quoted\" 100%"))
    }

    async fn range_stream(
        &self,
        _: tonic::Request<RangeRequest>,
    ) -> Result<tonic::Response<Self::RangeStreamStream>, Status> {
        Err(Status::unimplemented("no path leads here"))
    }

    async fn delete_range(
        &self,
        _: tonic::Request<DeleteRangeRequest>,
    ) -> Result<tonic::Response<DeleteRangeResponse>, Status> {
        Err(Status::unimplemented("not asked for"))
    }

    async fn txn(&self, _: tonic::Request<TxnRequest>) -> Result<tonic::Response<TxnResponse>, Status> {
        Err(Status::unimplemented("not asked for"))
    }

    async fn compact(
        &self,
        _: tonic::Request<CompactionRequest>,
    ) -> Result<tonic::Response<CompactionResponse>, Status> {
        Err(Status::unimplemented("not asked for"))
    }
}

#[tonic::async_trait]
impl Watch for Echo {
    type WatchStream = Answers<WatchResponse>;

    /// Answers each creation with its key as the reason, fails on a progress request, and
    /// stays open when the requests end, as etcd does.
    async fn watch(
        &self,
        request: tonic::Request<Streaming<WatchRequest>>,
    ) -> Result<tonic::Response<Self::WatchStream>, Status> {
        if request.metadata().contains_key("refuse") {
            return Err(Status::unauthenticated("etcdserver: invalid auth token"));
        }
        let answers = request.into_inner().filter_map(async |request| match request.ok()?.request_union? {
            RequestUnion::CreateRequest(create) => Some(Ok(WatchResponse {
                created: true,
                cancel_reason: String::from_utf8(create.key.to_vec()).unwrap(),
                ..Default::default()
            })),
            RequestUnion::CancelRequest(cancel) => {
                Some(Ok(WatchResponse { canceled: true, watch_id: cancel.watch_id, ..Default::default() }))
            }
            RequestUnion::ProgressRequest(_) => Some(Err(Status::unavailable("etcdserver: no leader"))),
        });
        Ok(tonic::Response::new(Box::pin(answers.chain(stream::pending()))))
    }
}

/// Only the snapshot is of use here: three parts, then the end.
#[tonic::async_trait]
impl Maintenance for Echo {
    type SnapshotStream = Answers<SnapshotResponse>;

    async fn snapshot(
        &self,
        _: tonic::Request<SnapshotRequest>,
    ) -> Result<tonic::Response<Self::SnapshotStream>, Status> {
        let part = |remaining_bytes| {
            Ok(SnapshotResponse { remaining_bytes, blob: "abc".into(), ..Default::default() })
        };
        Ok(tonic::Response::new(Box::pin(stream::iter([2, 1, 0]).map(part))))
    }

    async fn alarm(&self, _: tonic::Request<AlarmRequest>) -> Result<tonic::Response<AlarmResponse>, Status> {
        Err(Status::unimplemented("not asked for"))
    }

    async fn status(
        &self,
        _: tonic::Request<StatusRequest>,
    ) -> Result<tonic::Response<StatusResponse>, Status> {
        Err(Status::unimplemented("not asked for"))
    }

    async fn defragment(
        &self,
        _: tonic::Request<DefragmentRequest>,
    ) -> Result<tonic::Response<DefragmentResponse>, Status> {
        Err(Status::unimplemented("not asked for"))
    }

    async fn hash(&self, _: tonic::Request<HashRequest>) -> Result<tonic::Response<HashResponse>, Status> {
        Err(Status::unimplemented("not asked for"))
    }

    async fn hash_kv(
        &self,
        _: tonic::Request<HashKvRequest>,
    ) -> Result<tonic::Response<HashKvResponse>, Status> {
        Err(Status::unimplemented("not asked for"))
    }

    async fn move_leader(
        &self,
        _: tonic::Request<MoveLeaderRequest>,
    ) -> Result<tonic::Response<MoveLeaderResponse>, Status> {
        Err(Status::unimplemented("not asked for"))
    }

    async fn downgrade(
        &self,
        _: tonic::Request<DowngradeRequest>,
    ) -> Result<tonic::Response<DowngradeResponse>, Status> {
        Err(Status::unimplemented("not asked for"))
    }
}

const LIMITS: GatewayLimits = GatewayLimits {
    max_document_bytes: 200,
    max_streamed_bytes: 200,
    body_patience: Duration::from_millis(50),
};

fn gateway() -> Gateway<Routes> {
    let routes = Routes::new(KvServer::new(Echo))
        .add_service(WatchServer::new(Echo))
        .add_service(MaintenanceServer::new(Echo));
    Gateway::new(routes, LIMITS)
}

fn post(path: &str, body: &str) -> Request<Full<Bytes>> {
    Request::post(path).body(Full::new(Bytes::copy_from_slice(body.as_bytes()))).unwrap()
}

/// A body that arrives as the test sends it.
fn channel() -> (mpsc::Sender<Bytes>, impl http_body::Body<Data = Bytes, Error = Infallible> + Send + 'static)
{
    let (sender, receiver) = mpsc::channel(1);
    let parts = stream::unfold(receiver, async |mut receiver: mpsc::Receiver<Bytes>| {
        let part = receiver.recv().await?;
        Some((Ok(Frame::data(part)), receiver))
    });
    (sender, StreamBody::new(parts))
}

async fn read(response: Response<Body>) -> (StatusCode, Value) {
    let status = response.status();
    assert_eq!(response.headers()["content-type"], "application/json");
    let body = response.into_body().collect().await.unwrap().to_bytes();
    (status, serde_json::from_slice(&body).unwrap_or_else(|_| panic!("{body:?} is JSON")))
}

async fn call(path: &str, body: &str) -> (StatusCode, Value) {
    read(gateway().answer(post(path, body)).await).await
}

fn error(code: i32, message: &str) -> Value {
    json!({"error": message, "code": code, "message": message, "details": []})
}

/// The next line, which must come as a piece of its own.
async fn line(body: &mut Body) -> Value {
    let part = tokio::time::timeout(Duration::from_secs(5), body.frame()).await.unwrap();
    let data = part.unwrap().unwrap().into_data().unwrap();
    assert!(data.ends_with(b"\n"));
    serde_json::from_slice(&data).unwrap()
}

#[tokio::test]
async fn a_simple_call_is_answered_with_json() {
    assert_eq!(
        call("/v3/kv/range", r#"{"key":"Zm9v"}"#).await,
        (
            StatusCode::OK,
            json!({"kvs": [{"key": "Zm9v"}, {"key": "Y29udGVudC10eXBl", "value": "YXBwbGljYXRpb24vZ3JwYw=="}], "count": "2"})
        )
    );
    assert_eq!(call("/v3/kv/put", "").await, (StatusCode::OK, json!({})));
}

#[tokio::test]
async fn credentials_metadata_deadline_and_extensions_reach_the_service() {
    let request = Request::post("/v3/kv/range")
        .header("Authorization", "secret")
        .header("Grpc-Metadata-Custom", "one")
        .header("Grpc-Metadata-Grpc-Status", "0")
        .header("Grpc-Metadata-Content-Type", "text/plain")
        .header("Grpc-Timeout", "5S")
        .header("Cookie", "none of its business")
        .extension(7_u16)
        .body(Full::new(Bytes::new()))
        .unwrap();
    let (_, body) = read(gateway().answer(request).await).await;
    let kvs: RangeResponse = serde_json::from_value(body).unwrap();
    let found: Vec<_> = kvs.kvs.iter().map(|kv| (kv.key.as_ref(), kv.value.as_ref())).collect();
    let expected: [(&[u8], &[u8]); 7] = [
        (b"", b""),
        (b"token", b"secret"),
        (b"authorization", b"secret"),
        (b"custom", b"one"),
        (b"grpc-timeout", b"5S"),
        (b"content-type", b"application/grpc"),
        (b"extension", b""),
    ];
    assert_eq!(found, expected);
}

#[tokio::test]
async fn every_code_has_its_http_status() {
    let statuses = [499, 500, 400, 504, 404, 409, 403, 429, 400, 409, 400, 501, 500, 503, 500, 401];
    for (code, status) in (1..).zip(statuses) {
        let (found, body) = call("/v3/kv/put", &format!(r#"{{"lease":{code}}}"#)).await;
        assert_eq!(found.as_u16(), status, "code {code}");
        assert_eq!(body, error(code, "etcdserver: \"quoted\" 100%"));
    }
}

#[tokio::test]
async fn what_is_not_served_is_told_as_etcd_tells_it() {
    assert_eq!(call("/v3/kv/get", "{}").await, (StatusCode::NOT_FOUND, error(5, "Not Found")));
    let get = Request::get("/v3/kv/range").body(Full::new(Bytes::new())).unwrap();
    assert_eq!(
        read(gateway().answer(get).await).await,
        (StatusCode::NOT_IMPLEMENTED, error(12, "Method Not Allowed"))
    );
    // The lock's service is not registered; what tonic says of it comes through.
    assert_eq!(call("/v3/lock/lock", "{}").await.0, StatusCode::NOT_IMPLEMENTED);
}

#[tokio::test]
async fn malformed_and_large_bodies_are_refused() {
    let (status, body) = call("/v3/kv/range", r#"{"key":"#).await;
    assert_eq!((status, &body["code"]), (StatusCode::BAD_REQUEST, &json!(3)));
    assert!(body["message"].as_str().unwrap().starts_with("the request is malformed: EOF"), "{body}");

    let large = format!(r#"{{"key":"{}"}}"#, "A".repeat(200));
    let too_large = (StatusCode::BAD_REQUEST, error(3, "etcdserver: request is too large"));
    assert_eq!(call("/v3/kv/range", &large).await, too_large);
    // Without a length, it is found out while reading.
    let parts =
        stream::iter(large.into_bytes()).map(|byte| Ok::<_, Infallible>(Frame::data(vec![byte].into())));
    let request = Request::post("/v3/kv/range").body(StreamBody::new(parts)).unwrap();
    assert_eq!(read(gateway().answer(request).await).await, too_large);
}

#[tokio::test]
async fn a_simple_call_does_not_wait_for_ever_for_its_body() {
    let (sender, body) = channel();
    sender.send("{".into()).await.unwrap();
    let request = Request::post("/v3/kv/range").body(body).unwrap();
    let (status, body) = read(gateway().answer(request).await).await;
    assert_eq!((status, &body["code"]), (StatusCode::GATEWAY_TIMEOUT, &json!(4)));
    drop(sender);
}

#[tokio::test]
async fn a_streamed_answer_has_one_line_for_each_response() {
    let response = gateway().answer(post("/v3/maintenance/snapshot", "{}")).await;
    assert_eq!(response.status(), StatusCode::OK);
    let body = response.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(
        body,
        "{\"result\":{\"remaining_bytes\":\"2\",\"blob\":\"YWJj\"}}\n\
         {\"result\":{\"remaining_bytes\":\"1\",\"blob\":\"YWJj\"}}\n\
         {\"result\":{\"blob\":\"YWJj\"}}\n"
    );
}

#[tokio::test]
async fn requests_and_answers_of_a_stream_flow_both_ways() {
    let (sender, body) = channel();
    let response = gateway().answer(Request::post("/v3/watch").body(body).unwrap()).await;
    assert_eq!(response.status(), StatusCode::OK, "the answer begins before anything was asked");
    let mut answers = response.into_body();

    sender.send(r#"{"create_request":{"key":"YQ=="}} {"create_re"#.into()).await.unwrap();
    assert_eq!(line(&mut answers).await, json!({"result": {"created": true, "cancel_reason": "a"}}));
    sender.send("quest\":{\"key\":\"Yg==\"}}\n{\"cancelRequest\":{\"watch_id\":3}}".into()).await.unwrap();
    assert_eq!(line(&mut answers).await, json!({"result": {"created": true, "cancel_reason": "b"}}));
    assert_eq!(line(&mut answers).await, json!({"result": {"watch_id": "3", "canceled": true}}));

    // Having asked everything does not end the answers.
    drop(sender);
    tokio::time::timeout(Duration::from_millis(20), answers.frame()).await.unwrap_err();
}

#[tokio::test]
async fn an_error_ends_a_stream_with_a_line() {
    let requests = r#"{"create_request":{"key":"YQ=="}}{"progress_request":{}}"#;
    let mut answers = gateway().answer(post("/v3/watch", requests)).await.into_body();
    assert_eq!(line(&mut answers).await, json!({"result": {"created": true, "cancel_reason": "a"}}));
    assert_eq!(
        line(&mut answers).await,
        json!({"error": {"grpc_code": 14, "http_code": 503, "message": "etcdserver: no leader",
            "http_status": "Service Unavailable", "code": 14, "details": []}})
    );
    assert!(answers.frame().await.is_none());
}

#[tokio::test]
async fn a_malformed_request_ends_a_stream_though_the_service_stays_open() {
    for (requests, message) in [
        (r#"{"create_request":7}"#, "the request is malformed: create_request: invalid type: integer `7`"),
        ("{} x", "a request must be a JSON object"),
        (r#"{"create_request":{"#, "the body ends inside a JSON object"),
        (
            &format!(r#"{{"create_request":{{"key":"{}"}}}}"#, "A".repeat(200)),
            "etcdserver: request is too large",
        ),
    ] {
        let response = gateway().answer(post("/v3/watch", requests)).await;
        let mut answers = response.into_body();
        let last = line(&mut answers).await;
        assert_eq!(last["error"]["code"], 3, "{last}");
        assert!(last["error"]["message"].as_str().unwrap().starts_with(message), "{last}");
        assert!(answers.frame().await.is_none());
    }
}

#[tokio::test]
async fn a_stream_that_is_refused_says_so_by_its_status() {
    let mut request = post("/v3/watch", "");
    request.headers_mut().insert("grpc-metadata-refuse", HeaderValue::from_static("1"));
    let (status, body) = read(gateway().answer(request).await).await;
    assert_eq!(status, StatusCode::UNAUTHORIZED);
    assert_eq!(body["error"]["message"], "etcdserver: invalid auth token");
    assert_eq!(body["error"]["grpc_code"], 16);
}

#[tokio::test]
async fn a_body_that_breaks_off_ends_its_stream() {
    let parts =
        stream::iter([Ok(Frame::data(Bytes::from_static(b"{"))), Err(std::io::Error::other("reset"))]);
    let request = Request::post("/v3/watch").body(StreamBody::new(parts)).unwrap();
    let mut answers = gateway().answer(request).await.into_body();
    let last = line(&mut answers).await;
    assert_eq!((&last["error"]["code"], &last["error"]["http_code"]), (&json!(1), &json!(499)));
}

#[tokio::test]
async fn the_gateway_is_a_service_too() {
    let mut gateway = gateway();
    poll_fn(|context| Service::<Request<Full<Bytes>>>::poll_ready(&mut gateway, context)).await.unwrap();
    let Ok(response) = Service::call(&mut gateway, post("/v3/kv/put", "{}")).await;
    assert_eq!(response.status(), StatusCode::OK);
}

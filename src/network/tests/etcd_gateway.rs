//! Calls in etcd's JSON form on the HTTP port: that bodies are carried in both directions as
//! they come, and heads as they are. What answers is a stand-in that knows no calls.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{Stream, StreamExt as _, stream};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::Frame;
use hyper::{Request, Response};

use super::super::etcd_gateway::{EtcdBody, EtcdCalls, routes_with};
use super::super::server::{bind, start_peer};
use super::lifecycle::eventually;
use super::{Client, HttpServer, options};

/// How long a client may take nothing.
const STALL: Duration = Duration::from_millis(100);

fn serve(answer: impl Fn(Request<EtcdBody>) -> Response<EtcdBody> + Send + Sync + 'static) -> HttpServer {
    let calls: EtcdCalls = Arc::new(move |request| {
        let response = answer(request);
        Box::pin(async move { response })
    });
    let listener = bind("127.0.0.1:0".parse().unwrap()).unwrap();
    start_peer(listener, &options(), routes_with(calls, STALL)).unwrap()
}

fn whole(body: String) -> EtcdBody {
    let body: UnsyncBoxBody<Bytes, Infallible> = Full::new(body.into()).boxed_unsync();
    body.map_err(|never| match never {}).boxed_unsync()
}

fn streamed(pieces: impl Stream<Item = Bytes> + Send + 'static) -> EtcdBody {
    StreamBody::new(pieces.map(|piece| Ok::<_, io::Error>(Frame::data(piece)))).boxed_unsync()
}

#[test]
fn heads_are_carried_both_ways() {
    let server = serve(|request| {
        let said = format!(
            "{} {} {:?} {}",
            request.method(),
            request.uri(),
            request.headers().get("authorization"),
            request.extensions().get::<std::net::SocketAddr>().is_some()
        );
        let mut response = Response::new(whole(said));
        *response.status_mut() = hyper::StatusCode::IM_A_TEAPOT;
        response.headers_mut().insert("content-type", "application/json".parse().unwrap());
        response
    });
    let answer =
        Client::connect(server.addr()).call("POST", "/v3/kv/range?x", &[("Authorization", "me")], b"{}");
    assert_eq!((answer.status, answer.header("content-type")), (418, Some("application/json")));
    assert_eq!(answer.text(), "POST /v3/kv/range Some(\"me\") true");
    assert_eq!(answer.header("content-length"), Some("33"));
}

#[test]
fn a_stream_is_answered_while_it_is_sent() {
    // The body of the request is the body of the answer.
    let server = serve(|request| Response::new(request.into_body()));
    let mut client = Client::connect(server.addr());
    client.send(b"POST /v3/watch HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n");
    client.send(b"3\r\none\r\n");
    let head = client.head().unwrap();
    assert_eq!((head.status, head.header("transfer-encoding")), (200, Some("chunked")));
    assert_eq!((client.line().unwrap(), client.line().unwrap()), ("3".to_owned(), "one".to_owned()));
    client.send(b"5\r\nagain\r\n");
    assert_eq!((client.line().unwrap(), client.line().unwrap()), ("5".to_owned(), "again".to_owned()));
    client.send(b"0\r\n\r\n");
    assert_eq!(client.line().unwrap(), "0");
}

#[test]
fn a_body_that_nobody_takes_is_not_read() {
    let server = serve(|_| Response::new(whole("enough".to_owned())));
    let mut client = Client::connect(server.addr());
    client.send(b"POST /v3/watch HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n");
    assert_eq!(client.answer(false).unwrap().text(), "enough");
    assert_eq!(Client::connect(server.addr()).call("GET", "/health", &[], b"").status, 200);
}

#[test]
fn a_client_that_takes_nothing_of_a_stream_is_cut_off() {
    let held = Arc::new(());
    let holder = Arc::clone(&held);
    let server = serve(move |_| {
        let holder = Arc::clone(&holder);
        Response::new(streamed(stream::repeat_with(move || {
            let _ = &holder;
            Bytes::from(vec![b'x'; 64 << 10])
        })))
    });
    let mut stuck = Client::connect(server.addr());
    stuck.send(b"POST /v3/maintenance/snapshot HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\n{}");
    assert_eq!(stuck.head().unwrap().status, 200);
    // One is here and one with the answers to come.
    eventually(|| Arc::strong_count(&held) == 2);
    assert!(stuck.answer_is_cut());
}

#[test]
fn a_stream_may_be_silent_for_as_long_as_it_likes() {
    let server = serve(|_| {
        let pieces = stream::iter(["one", "again"]).then(async |piece| {
            tokio::time::sleep(5 * STALL).await;
            Bytes::from(piece)
        });
        Response::new(streamed(pieces))
    });
    let answer = Client::connect(server.addr()).call("POST", "/v3/watch", &[], b"{}");
    assert_eq!(answer.text(), "oneagain");
}

#[test]
fn a_large_answer_arrives_whole() {
    let server = serve(|_| Response::new(whole("x".repeat(1 << 20))));
    let answer = Client::connect(server.addr()).call("POST", "/v3/kv/range", &[], b"{}");
    assert_eq!(answer.header("content-length"), Some("1048576"));
    assert_eq!(answer.text(), "x".repeat(1 << 20));
}

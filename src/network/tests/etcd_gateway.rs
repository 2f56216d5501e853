//! Calls in etcd's JSON form on the HTTP port: that bodies are carried in both directions as
//! they come, and heads as they are. What answers is a stand-in that knows no calls.

use std::convert::Infallible;
use std::sync::Arc;

use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full};
use hyper::{Request, Response};

use super::super::etcd_gateway::{EtcdBody, EtcdCalls, routes};
use super::super::server::{bind, start_peer};
use super::{Client, HttpServer, options};

fn serve(answer: impl Fn(Request<EtcdBody>) -> Response<EtcdBody> + Send + Sync + 'static) -> HttpServer {
    let calls: EtcdCalls = Arc::new(move |request| {
        let response = answer(request);
        Box::pin(async move { response })
    });
    let listener = bind("127.0.0.1:0".parse().unwrap()).unwrap();
    start_peer(listener, &options(), routes(calls)).unwrap()
}

fn whole(body: String) -> EtcdBody {
    let body: UnsyncBoxBody<Bytes, Infallible> = Full::new(body.into()).boxed_unsync();
    body.map_err(|never| match never {}).boxed_unsync()
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

//! A server that answers every operation and stores nothing.
//!
//! What the load generator measures against it is the cost of HTTP and of the
//! load generator itself: `null_server 127.0.0.1:24190`, then
//! `kvorum-bench --endpoints 127.0.0.1:24190`. It serves on one thread.

use std::convert::Infallible;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;

const VALUE: &[u8] = &[b'v'; 256];

async fn answer(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let (head, body) = request.into_parts();
    // A body cut short is the client's matter; the answer is the same.
    let _ = body.collect().await;
    let body: &[u8] = match (head.method, head.uri.path()) {
        (Method::POST, "/write") => b"\"Ok\"",
        (_, "/v1/status") => br#"{"role":"leader","term":1}"#,
        (Method::PUT, _) => br#"{"revision":1,"created":false,"version":1}"#,
        _ => VALUE,
    };
    Ok(Response::new(Full::new(Bytes::from_static(body))))
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> std::io::Result<()> {
    let addr = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:24190".to_owned());
    let listener = TcpListener::bind(&addr).await?;
    eprintln!("answering at {}", listener.local_addr()?);
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        tokio::spawn(async move {
            // A client that breaks off ends only its own connection.
            let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service_fn(answer)).await;
        });
    }
}

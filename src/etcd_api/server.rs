//! The listener for clients of etcd: HTTP/2 and HTTP/1.1, gRPC and JSON, on one port.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::AsFd as _;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use kvorum_gathering::Gathering;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tonic::transport::server::TcpConnectInfo;

use super::EtcdApi;
use super::bodies::Cut;
use crate::sockets;

/// The bytes that open every HTTP/2 connection.
const PREFACE_BYTES: usize = 24;

/// How long the head of a request over HTTP/1.1 may take, waiting for it included. Longer than
/// the minute that proxies and client pools usually wait, so that they close first.
const HEAD_TIMEOUT: Duration = Duration::from_secs(75);

/// The most that a connection may do at once; clients put all their watches on one.
const MAX_STREAMS: u32 = 4_096;

/// The longest head of a request; tokens may have some thousand bytes.
const MAX_HEAD_BYTES: u32 = 32 << 10;

/// What is made of an answer ahead of a client that does not read, for each stream.
const MAX_UNSENT_BYTES: usize = 128 << 10;

/// How long nothing is accepted after the system had no descriptor left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How connections are served.
#[derive(Debug, Clone, Copy)]
pub struct ServerOptions {
    /// The most connections; further ones are closed at once.
    pub max_connections: usize,
    /// How long a connection may take to show what it speaks.
    pub handshake_timeout: Duration,
    /// How long an HTTP/2 connection may be silent before it is asked for a sign of life.
    pub keep_alive_interval: Duration,
    /// How long the sign of life may take.
    pub keep_alive_timeout: Duration,
    /// How long calls in flight may take to end when the server stops.
    pub shutdown_timeout: Duration,
}

impl Default for ServerOptions {
    fn default() -> Self {
        Self {
            max_connections: 16_384,
            handshake_timeout: Duration::from_secs(10),
            keep_alive_interval: Duration::from_secs(10),
            keep_alive_timeout: Duration::from_secs(20),
            shutdown_timeout: Duration::from_secs(5),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Serving,
    Draining,
    Cut,
}

/// A running server. Dropping it stops it at once; [`Self::stop`] can wait.
#[derive(Debug)]
pub struct GrpcServer {
    addr: SocketAddr,
    phase: watch::Sender<Phase>,
    /// `None` once it has ended.
    accepting: Option<JoinHandle<()>>,
}

impl GrpcServer {
    /// Serves `api` on `listener` with the threads of `runtime`.
    ///
    /// # Errors
    /// If the listener can't be used.
    pub fn start(
        listener: TcpListener,
        api: EtcdApi,
        options: ServerOptions,
        runtime: &Handle,
    ) -> io::Result<Self> {
        let addr = listener.local_addr()?;
        listener.set_nonblocking(true)?;
        let listener = {
            let _entered = runtime.enter();
            tokio::net::TcpListener::from_std(listener)?
        };
        let phase = watch::Sender::new(Phase::Serving);
        let accepting = runtime.spawn(serve(listener, api, options, phase.subscribe()));
        Ok(Self { addr, phase, accepting: Some(accepting) })
    }

    /// The bound address, with the port that was chosen if port 0 was asked for.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Waits until the server has ended by itself, which it does only if it fails.
    ///
    /// # Cancel safety
    /// May be dropped and called again until it has answered.
    pub async fn ended(&mut self) -> io::Result<()> {
        let Some(accepting) = &mut self.accepting else { return Ok(()) };
        let ended = accepting.await;
        self.accepting = None;
        ended.map_err(io::Error::other)
    }

    /// Stops accepting and ends the connections.
    ///
    /// If `graceful`, streams are ended with a status that sends clients elsewhere, and simple
    /// calls have [`ServerOptions::shutdown_timeout`]. Whatever is left is cut.
    ///
    /// # Errors
    /// If the server had failed before, unless [`Self::ended`] has told so.
    pub async fn stop(mut self, graceful: bool) -> io::Result<()> {
        self.phase.send_replace(if graceful { Phase::Draining } else { Phase::Cut });
        self.ended().await
    }
}

impl Drop for GrpcServer {
    fn drop(&mut self) {
        // The connections are tasks of this one, and go with it.
        if let Some(accepting) = &self.accepting {
            accepting.abort();
        }
    }
}

/// Accepts until told to stop, then ends what was accepted.
async fn serve(
    listener: tokio::net::TcpListener,
    api: EtcdApi,
    options: ServerOptions,
    mut phase: watch::Receiver<Phase>,
) {
    let builder = Arc::new(builder(&options));
    let mut connections = JoinSet::new();
    while *phase.borrow_and_update() == Phase::Serving {
        tokio::select! {
            // The sender is dropped only after this task was aborted.
            _ = phase.changed() => {}
            Some(_) = connections.join_next() => {}
            accepted = listener.accept() => match accepted {
                Ok((stream, remote)) if connections.len() < options.max_connections => {
                    connections.spawn(connection(stream, remote, api.clone(), Arc::clone(&builder), options.handshake_timeout, phase.clone()));
                }
                Ok((_, remote)) => {
                    tracing::debug!(%remote, limit = options.max_connections, "too many connections; closed one");
                }
                Err(error) if is_of_one_connection(&error) => {}
                Err(error) => {
                    tracing::warn!(%error, "can't accept connections for a moment");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
    drop(listener);
    if *phase.borrow() == Phase::Draining {
        api.close();
        let drained = async { while connections.join_next().await.is_some() {} };
        if tokio::time::timeout(options.shutdown_timeout, drained).await.is_err() {
            tracing::info!(left = connections.len(), "cutting connections that did not end in time");
        }
    }
    connections.shutdown().await;
}

fn builder(options: &ServerOptions) -> Builder<TokioExecutor> {
    let mut builder = Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(2 * MAX_HEAD_BYTES as usize);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(options.keep_alive_interval)
        .keep_alive_timeout(options.keep_alive_timeout)
        .max_concurrent_streams(MAX_STREAMS)
        .max_header_list_size(MAX_HEAD_BYTES)
        .max_send_buf_size(MAX_UNSENT_BYTES)
        .adaptive_window(true);
    builder
}

/// Whether accepting failed because of the connection, and not for want of anything here.
fn is_of_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::Interrupted
    )
}

async fn connection(
    stream: TcpStream,
    remote: SocketAddr,
    api: EtcdApi,
    builder: Arc<Builder<TokioExecutor>>,
    handshake_timeout: Duration,
    mut phase: watch::Receiver<Phase>,
) {
    // It only makes small messages slower.
    let _ = stream.set_nodelay(true);
    sockets::keep_alive(stream.as_fd());
    let cut = Cut::default();
    let info = TcpConnectInfo { local_addr: stream.local_addr().ok(), remote_addr: Some(remote) };
    let received = Arc::new(AtomicUsize::new(0));
    let stream = Gathering::new(Counted { stream, received: Arc::clone(&received) });
    let service = service_fn(|mut request: hyper::Request<Incoming>| {
        request.extensions_mut().insert(info.clone());
        request.extensions_mut().insert(cut.clone());
        // No preface is needed any more.
        received.fetch_max(PREFACE_BYTES, Ordering::Relaxed);
        api.answer(request)
    });
    let mut serving = pin!(builder.serve_connection(TokioIo::new(stream), service));
    let mut silence = pin!(tokio::time::sleep(handshake_timeout));
    let mut watching_silence = true;
    loop {
        tokio::select! {
            ended = serving.as_mut() => {
                if let Err(error) = ended {
                    tracing::debug!(%remote, error, "a connection broke off");
                }
                return;
            }
            () = silence.as_mut(), if watching_silence => {
                if received.load(Ordering::Relaxed) < PREFACE_BYTES {
                    tracing::debug!(%remote, "closed a connection that asked for nothing");
                    return;
                }
                watching_silence = false;
            }
            () = cut.used() => {
                tracing::debug!(%remote, "closed a connection whose client did not take its answer");
                return;
            }
            changed = phase.changed() => {
                if changed.is_err() || *phase.borrow() == Phase::Cut {
                    return;
                }
                serving.as_mut().graceful_shutdown();
            }
        }
    }
}

/// A socket that counts what it has received.
struct Counted {
    stream: TcpStream,
    received: Arc<AtomicUsize>,
}

impl AsyncRead for Counted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(context, buffer);
        // Once the preface is there, nobody asks any more.
        if self.received.load(Ordering::Relaxed) < PREFACE_BYTES {
            self.received.fetch_add(buffer.filled().len() - before, Ordering::Relaxed);
        }
        read
    }
}

impl AsyncWrite for Counted {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

//! The listener, its workers and their end.
//!
//! Actix runs on threads of its own (one current-thread runtime per worker), so
//! that neither Raft nor a slow client ever waits for the other's runtime.

use std::any::Any;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::AsFd as _;
use std::rc::Rc;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use actix_web::dev::{Extensions, ServerHandle};
use actix_web::{App, rt, web};
use tokio::sync::oneshot;

use super::admission::Admission;
use super::backend::Backend;
use super::call::Shared;
use super::paced;
use super::routes::{Table, unknown_path};
use crate::inflight::InflightBytes;
use crate::sockets;

/// How long an idle connection is kept. Longer than the minute that proxies and
/// client pools usually wait, so that they close first and no request gets lost.
const KEEP_ALIVE: Duration = Duration::from_secs(75);

/// Connections that wait to be accepted.
const BACKLOG: u32 = 1024;

/// How long the head of a connection's first request may take.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);

/// How a listener is served.
#[derive(Debug, Clone)]
pub struct HttpOptions {
    /// Worker threads, at least one.
    pub workers: usize,
    /// The largest body of a call that carries JSON; values have a limit of their own.
    pub max_request_bytes: usize,
    /// The most requests in flight, over all workers; more are refused with 429.
    pub max_inflight_requests: usize,
    /// What requests in flight hold counts here: bodies and large answers.
    pub inflight_bytes: Arc<InflightBytes>,
    /// How long 64 KiB of a body may take to arrive. What happens after that is
    /// timed by the layer below.
    pub request_timeout: Duration,
    /// How long requests in flight may take to end when the server stops.
    pub shutdown_timeout: Duration,
}

/// A running server. Dropping it stops it at once; [`Self::stop`] can wait.
#[derive(Debug)]
pub struct HttpServer {
    addr: SocketAddr,
    handle: ServerHandle,
    ended: oneshot::Receiver<io::Result<()>>,
    thread: Option<JoinHandle<()>>,
}

impl HttpServer {
    /// The bound address, with the port that was chosen if port 0 was asked for.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Waits until the server has ended by itself, which it does only if it fails.
    ///
    /// # Cancel safety
    /// May be dropped and called again until it has answered.
    pub async fn ended(&mut self) -> io::Result<()> {
        (&mut self.ended).await.unwrap_or_else(|_| Err(io::Error::other("the HTTP server's thread panicked")))
    }

    /// Stops accepting, ends the requests in flight and then the threads.
    ///
    /// If `graceful`, requests in flight have [`HttpOptions::shutdown_timeout`];
    /// idle connections are closed at once in either case.
    pub async fn stop(mut self, graceful: bool) -> io::Result<()> {
        self.handle.stop(graceful).await;
        let result = self.ended().await;
        if let Some(thread) = self.thread.take() {
            // It has sent its result as its last act.
            let _ = thread.join();
        }
        result
    }
}

impl Drop for HttpServer {
    fn drop(&mut self) {
        // The command is sent by the call; its future only waits. If the server
        // has ended, nobody listens, which is fine.
        drop(self.handle.stop(false));
    }
}

/// Binds a listener whose queue of connections not yet accepted holds 1024.
///
/// The standard library's listeners hold 128, which a burst of clients fills.
///
/// # Errors
/// If the address can't be bound.
pub fn bind(addr: SocketAddr) -> io::Result<TcpListener> {
    // Tokio's sockets know their runtime; this one is only needed to make one.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    let listener = {
        let _entered = runtime.enter();
        let socket = match addr {
            SocketAddr::V4(_) => tokio::net::TcpSocket::new_v4()?,
            SocketAddr::V6(_) => tokio::net::TcpSocket::new_v6()?,
        };
        socket.set_reuseaddr(true)?;
        socket.bind(addr)?;
        socket.listen(BACKLOG)?.into_std()
    };
    // An ordinary drop would panic inside another runtime.
    runtime.shutdown_background();
    listener
}

/// Serves the whole API on `listener`, and with it the peers' routes.
///
/// `raft_routes` is called once per worker and comes first, so that nothing
/// shadows it; it brings its own limits and checks credentials itself.
///
/// # Errors
/// If the listener can't be used or threads can't be started.
pub fn start<B: Backend>(
    listener: TcpListener,
    backend: B,
    options: &HttpOptions,
    raft_routes: impl Fn(&mut web::ServiceConfig) + Clone + Send + 'static,
) -> io::Result<HttpServer> {
    start_with(listener, backend, options, paced::STALL, raft_routes)
}

/// [`start`], with the time that a client may take for a slice of a large answer.
pub(super) fn start_with<B: Backend>(
    listener: TcpListener,
    backend: B,
    options: &HttpOptions,
    stall: Duration,
    raft_routes: impl Fn(&mut web::ServiceConfig) + Clone + Send + 'static,
) -> io::Result<HttpServer> {
    let admission = Admission::new(options.max_inflight_requests, Arc::clone(&options.inflight_bytes));
    let max_request_bytes = options.max_request_bytes;
    let body_patience = options.request_timeout;
    run("http", listener, options, move |config| {
        let shared = Shared {
            backend: backend.clone(),
            admission: Arc::clone(&admission),
            max_request_bytes,
            body_patience,
            stall,
        };
        config.app_data(Rc::new(shared));
        raft_routes(config);
        Table::new::<B>().configure(config);
    })
}

/// Serves only the peers' routes and `/health` on `listener`.
///
/// # Errors
/// As [`start`].
pub fn start_peer(
    listener: TcpListener,
    options: &HttpOptions,
    raft_routes: impl Fn(&mut web::ServiceConfig) + Clone + Send + 'static,
) -> io::Result<HttpServer> {
    run("peer-http", listener, options, move |config| {
        raft_routes(config);
        Table::for_peers().configure(config);
    })
}

/// Prepares a connection; called once for each.
fn prepare(connection: &dyn Any, data: &mut Extensions) {
    if let Some(stream) = connection.downcast_ref::<rt::net::TcpStream>() {
        sockets::keep_alive(stream.as_fd());
        paced::remember_socket(stream.as_fd(), data);
    }
}

/// Runs a server on a thread of its own until it is told to stop.
fn run(
    name: &'static str,
    listener: TcpListener,
    options: &HttpOptions,
    routes: impl Fn(&mut web::ServiceConfig) + Clone + Send + 'static,
) -> io::Result<HttpServer> {
    let addr = listener.local_addr()?;
    let workers = options.workers.max(1);
    let shutdown_seconds = options.shutdown_timeout.as_millis().div_ceil(1000) as u64;
    let (started, handle) = std::sync::mpsc::sync_channel(1);
    let (ending, ended) = oneshot::channel();
    let thread = std::thread::Builder::new().name(name.to_owned()).spawn(move || {
        let result = rt::System::new().block_on(async move {
            let bound = actix_web::HttpServer::new(move || {
                App::new().configure(&routes).default_service(web::to(unknown_path))
            })
            .workers(workers)
            // Nothing here blocks; the pool would only hold threads.
            .worker_max_blocking_threads(1)
            .keep_alive(KEEP_ALIVE)
            .client_request_timeout(HEAD_TIMEOUT)
            .tcp_nodelay(true)
            .shutdown_timeout(shutdown_seconds)
            .disable_signals()
            .on_connect(prepare)
            .listen(listener);
            match bound {
                Ok(server) => {
                    let server = server.run();
                    let _ = started.send(Ok(server.handle()));
                    server.await
                }
                Err(error) => {
                    let _ = started.send(Err(error));
                    Ok(())
                }
            }
        });
        // Nobody waits for the result if the handle was dropped.
        let _ = ending.send(result);
    })?;
    let handle =
        handle.recv().map_err(|_| io::Error::other("the HTTP server's thread ended before it served"))??;
    Ok(HttpServer { addr, handle, ended, thread: Some(thread) })
}

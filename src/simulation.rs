//! The other side of the seams that a simulation needs: tasks that belong to a node
//! and end with it, connections that it carries, times that it draws.
//!
//! Compiled for the crate in `simulation/` only. Holds no policy: what happens when is
//! decided by the [`World`] that the simulation installs. All of it lives in one
//! thread.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use futures_util::future::BoxFuture;
use hyper::{Request, Response};
use openraft::{AsyncRuntime, OptionalSend, TokioRuntime};
use parking_lot::Mutex;
use tokio::task::{AbortHandle, JoinHandle};

use crate::NodeId;
use crate::openraft_network::carrier::Lost;
use crate::openraft_network::transport::{AnswerBody, PeerBody, Purpose};

/// What decides everything that is left to chance.
pub trait World {
    /// A task is about to be polled. Answers whether others go first.
    fn step(&self, node: NodeId, task: u64) -> bool;

    /// How long a node's disk takes to sync its log.
    fn sync_time(&self, node: NodeId) -> Duration;

    /// How long a job takes to find a thread.
    fn job_time(&self, node: NodeId) -> Duration;

    /// Carries a request of the current node to a peer.
    fn carry(
        &self,
        purpose: Purpose,
        request: Request<PeerBody>,
    ) -> BoxFuture<'static, Result<Response<AnswerBody>, Lost>>;

    /// May make a node's Raft worse than it is.
    fn spoil(&self, raft: &mut openraft::Config);
}

thread_local! {
    static WORLD: RefCell<Option<Rc<dyn World>>> = const { RefCell::new(None) };
    static CURRENT: RefCell<Option<Scope>> = const { RefCell::new(None) };
    static TASKS: Cell<u64> = const { Cell::new(0) };
}

/// Lets `world` decide from now on.
pub fn install(world: Rc<dyn World>) {
    WORLD.set(Some(world));
}

pub(crate) fn world() -> Rc<dyn World> {
    WORLD.with_borrow(|world| world.clone()).expect("a simulation installs a world before it starts nodes")
}

/// The node whose task runs; 0 is nobody.
pub fn current_node() -> NodeId {
    CURRENT.with_borrow(|scope| scope.as_ref().map_or(0, |scope| scope.inner.node))
}

/// One life of a node: all its tasks, which end together.
#[derive(Debug, Clone)]
pub struct Scope {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    node: NodeId,
    is_over: AtomicBool,
    is_paused: AtomicBool,
    /// Tasks that wanted to run during a pause.
    waiting: Mutex<Vec<Waker>>,
    tasks: Mutex<Vec<AbortHandle>>,
}

impl Scope {
    /// A new life of `node`.
    pub fn new(node: NodeId) -> Self {
        let inner = Inner {
            node,
            is_over: AtomicBool::new(false),
            is_paused: AtomicBool::new(false),
            waiting: Mutex::default(),
            tasks: Mutex::default(),
        };
        Self { inner: Arc::new(inner) }
    }

    /// Starts tasks in this life.
    pub fn handle(&self) -> Handle {
        Handle { scope: self.clone() }
    }

    /// Ends it: no task takes another step, and all are dropped.
    pub fn end(&self) {
        self.inner.is_over.store(true, Ordering::Relaxed);
        for task in std::mem::take(&mut *self.inner.tasks.lock()) {
            task.abort();
        }
        self.resume();
    }

    /// Whether it has ended.
    pub fn is_over(&self) -> bool {
        self.inner.is_over.load(Ordering::Relaxed)
    }

    /// Lets no task take a step until [`Self::resume`].
    pub fn pause(&self) {
        self.inner.is_paused.store(true, Ordering::Relaxed);
    }

    /// Ends a pause.
    pub fn resume(&self) {
        self.inner.is_paused.store(false, Ordering::Relaxed);
        for waker in std::mem::take(&mut *self.inner.waiting.lock()) {
            waker.wake();
        }
    }

    fn start<F>(&self, future: F) -> JoinHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        let number = TASKS.get() + 1;
        TASKS.set(number);
        let task = Task { scope: self.clone(), number, future: Some(Box::pin(future)) };
        let handle = tokio::spawn(task);
        if self.is_over() {
            // Asked for by what is being dropped.
            handle.abort();
            return handle;
        }
        let mut tasks = self.inner.tasks.lock();
        if tasks.len() == tasks.capacity() {
            tasks.retain(|task| !task.is_finished());
        }
        tasks.push(handle.abort_handle());
        handle
    }

    /// Runs `work` as this node.
    fn enter<T>(&self, work: impl FnOnce() -> T) -> T {
        let before = CURRENT.replace(Some(self.clone()));
        let result = work();
        CURRENT.set(before);
        result
    }
}

/// A task of a node.
struct Task<F> {
    scope: Scope,
    number: u64,
    future: Option<Pin<Box<F>>>,
}

impl<F: Future> Future for Task<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let this = &mut *self;
        let inner = &this.scope.inner;
        if inner.is_over.load(Ordering::Relaxed) {
            return Poll::Pending;
        }
        if inner.is_paused.load(Ordering::Relaxed) {
            inner.waiting.lock().push(context.waker().clone());
            return Poll::Pending;
        }
        if world().step(inner.node, this.number) {
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        let future = this.future.as_mut().expect("a task is polled until it is ready");
        let polled = this.scope.enter(|| future.as_mut().poll(context));
        if polled.is_ready() {
            this.scope.enter(|| this.future = None);
        }
        polled
    }
}

impl<F> Drop for Task<F> {
    fn drop(&mut self) {
        if let Some(future) = self.future.take() {
            self.scope.enter(|| drop(future));
        }
    }
}

/// Starts tasks of a node.
#[derive(Debug, Clone)]
pub struct Handle {
    scope: Scope,
}

impl Handle {
    /// That of the node whose task runs.
    ///
    /// # Panics
    /// Outside of tasks.
    pub fn current() -> Self {
        let scope = CURRENT.with_borrow(Clone::clone);
        Self { scope: scope.expect("tasks are started by tasks of nodes") }
    }

    /// Starts a task.
    pub fn spawn<F>(&self, future: F) -> JoinHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        self.scope.start(future)
    }

    /// Runs work that would block a thread, after some time, at once.
    pub fn spawn_blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> JoinHandle<T> {
        let pause = world().job_time(self.scope.inner.node);
        self.spawn(async move {
            tokio::time::sleep(pause).await;
            work()
        })
    }
}

/// See [`Handle::spawn`].
pub fn spawn<F>(future: F) -> JoinHandle<F::Output>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    Handle::current().spawn(future)
}

/// See [`Handle::spawn_blocking`].
pub fn spawn_blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
    Handle::current().spawn_blocking(work)
}

/// Work that blocks and waits is a task like others.
pub fn spawn_waiting<T: Send + 'static>(
    runtime: &Handle,
    work: impl Future<Output = T> + Send + 'static,
) -> JoinHandle<T> {
    runtime.spawn(work)
}

/// A pause of work that would block a thread.
pub async fn rest(pause: Duration) {
    tokio::time::sleep(pause).await;
}

/// Openraft's runtime: Tokio, but for the start of tasks.
#[derive(Debug)]
pub struct Runtime(TokioRuntime);

impl AsyncRuntime for Runtime {
    type JoinError = <TokioRuntime as AsyncRuntime>::JoinError;
    type JoinHandle<T: OptionalSend + 'static> = <TokioRuntime as AsyncRuntime>::JoinHandle<T>;
    type Sleep = <TokioRuntime as AsyncRuntime>::Sleep;
    type Instant = <TokioRuntime as AsyncRuntime>::Instant;
    type TimeoutError = <TokioRuntime as AsyncRuntime>::TimeoutError;
    type Timeout<R, T: Future<Output = R> + OptionalSend> = <TokioRuntime as AsyncRuntime>::Timeout<R, T>;
    type ThreadLocalRng = <TokioRuntime as AsyncRuntime>::ThreadLocalRng;
    type Mpsc = <TokioRuntime as AsyncRuntime>::Mpsc;
    type Watch = <TokioRuntime as AsyncRuntime>::Watch;
    type Oneshot = <TokioRuntime as AsyncRuntime>::Oneshot;
    type Mutex<T: OptionalSend + 'static> = <TokioRuntime as AsyncRuntime>::Mutex<T>;

    fn spawn<T>(future: T) -> Self::JoinHandle<T::Output>
    where
        T: Future + OptionalSend + 'static,
        T::Output: OptionalSend + 'static,
    {
        spawn(future)
    }

    fn sleep(duration: Duration) -> Self::Sleep {
        TokioRuntime::sleep(duration)
    }

    fn sleep_until(deadline: Self::Instant) -> Self::Sleep {
        TokioRuntime::sleep_until(deadline)
    }

    fn timeout<R, F: Future<Output = R> + OptionalSend>(
        duration: Duration,
        future: F,
    ) -> Self::Timeout<R, F> {
        TokioRuntime::timeout(duration, future)
    }

    fn timeout_at<R, F: Future<Output = R> + OptionalSend>(
        deadline: Self::Instant,
        future: F,
    ) -> Self::Timeout<R, F> {
        TokioRuntime::timeout_at(deadline, future)
    }

    fn is_panic(join_error: &Self::JoinError) -> bool {
        TokioRuntime::is_panic(join_error)
    }

    fn thread_rng() -> Self::ThreadLocalRng {
        TokioRuntime::thread_rng()
    }

    fn new(threads: usize) -> Self {
        Self(TokioRuntime::new(threads))
    }

    fn block_on<F, T>(&mut self, future: F) -> T
    where
        F: Future<Output = T>,
    {
        self.0.block_on(future)
    }
}

//! How tasks are started, and on what: Tokio, directly.
//!
//! The one place that a simulation replaces: it has to end a node's tasks at once, as
//! a crash does, and to run without threads. Whatever lies below the fronts must start
//! its tasks here.

#[cfg(feature = "simulation")]
pub(crate) use crate::simulation::{Handle, Runtime, rest, spawn, spawn_blocking, spawn_waiting};
#[cfg(not(feature = "simulation"))]
pub(crate) use real::{Handle, Runtime, rest, spawn, spawn_blocking, spawn_waiting};

#[cfg(not(feature = "simulation"))]
mod real {
    use std::future::Future;
    use std::time::Duration;

    pub(crate) use openraft::TokioRuntime as Runtime;
    pub(crate) use tokio::runtime::Handle;
    pub(crate) use tokio::task::{spawn, spawn_blocking};

    use tokio::task::JoinHandle;

    /// Runs work that blocks its thread now and waits for others now on a thread that may
    /// block.
    pub(crate) fn spawn_waiting<T: Send + 'static>(
        runtime: &Handle,
        work: impl Future<Output = T> + Send + 'static,
    ) -> JoinHandle<T> {
        let inside = runtime.clone();
        runtime.spawn_blocking(move || inside.block_on(work))
    }

    /// A pause of work that blocks its thread anyway. Needs no timer, which may be gone
    /// before that work is. It waits where there are no threads.
    pub(crate) async fn rest(pause: Duration) {
        std::thread::sleep(pause);
    }
}

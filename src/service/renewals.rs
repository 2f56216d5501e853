//! Keep-alives, many in one command.
//!
//! An idle node proposes a keep-alive at once. While a proposal is under way, and
//! for a short time after it began, the next ones gather, so that a hundred
//! thousand leases cost a few commands a second and no task of their own.

use std::future::Future;
use std::time::Duration;

use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::lease::LeaseRenewed;
use crate::NodeId;
use crate::error::Error;
use crate::tasks::Handle;

/// Keep-alives that may wait; beyond that they are refused.
const QUEUE: usize = 16_384;
/// Most leases in one command, so that applying it holds nobody up.
const MAX_BATCH: usize = 1_024;
/// The pace of a node. Those who keep very many leases alive do so side by side, and gain
/// nothing from a quick answer; whoever renews one after the other waits for each.
const PACE: Pace = Pace { quick: Duration::from_millis(20), crowded: Duration::from_millis(100) };
/// A proposal of so many leases is one of a crowd.
const CROWD: usize = 64;

/// Least times from one proposal to the next that isn't full.
#[derive(Debug, Clone, Copy)]
struct Pace {
    quick: Duration,
    /// After a proposal that was one of a crowd.
    crowded: Duration,
}

impl Pace {
    fn after(self, leases: usize) -> Duration {
        if leases < CROWD { self.quick } else { self.crowded }
    }
}

/// Renews leases, however that is done.
pub(super) trait Renew: Send + 'static {
    /// Renews all of `ids`, of which any may be gone.
    fn renew(&self, ids: Vec<i64>) -> impl Future<Output = Result<Renewed, Error>> + Send;
}

/// What renewing did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Renewed {
    /// The store's revision.
    pub(super) revision: i64,
    /// For each lease in the order asked, its time to live in seconds; zero if
    /// it is gone.
    pub(super) ttls: Vec<i64>,
}

struct Job {
    id: i64,
    answer: oneshot::Sender<Result<LeaseRenewed, Error>>,
}

/// The way of keep-alives into the log.
#[derive(Debug, Clone)]
pub(super) struct Renewals {
    node: NodeId,
    jobs: mpsc::Sender<Job>,
}

/// The other end of [`Renewals`], until it is [started](Self::start).
pub(super) struct RenewalQueue {
    jobs: mpsc::Receiver<Job>,
}

impl Renewals {
    /// Both ends of a queue on node `node`.
    pub(super) fn new(node: NodeId) -> (Self, RenewalQueue) {
        let (sender, receiver) = mpsc::channel(QUEUE);
        (Self { node, jobs: sender }, RenewalQueue { jobs: receiver })
    }

    /// Renews the lease `id` together with others.
    pub(super) async fn renew(&self, id: i64) -> Result<LeaseRenewed, Error> {
        let (answer, renewed) = oneshot::channel();
        self.jobs.try_send(Job { id, answer }).map_err(|error| match error {
            TrySendError::Full(_) => Error::Overloaded { node: self.node },
            TrySendError::Closed(_) => self.stopping(),
        })?;
        renewed.await.unwrap_or_else(|_| Err(self.stopping()))
    }

    fn stopping(&self) -> Error {
        Error::Unknown { reason: format!("node {} is stopping", self.node) }
    }
}

impl RenewalQueue {
    /// Serves the queue on `runtime` until its other end is gone.
    pub(super) fn start(self, renew: impl Renew + Sync, runtime: &Handle) {
        runtime.spawn(serve(self.jobs, renew, PACE));
    }
}

async fn serve(mut queue: mpsc::Receiver<Job>, renew: impl Renew + Sync, pace: Pace) {
    let mut jobs = Vec::new();
    let mut earliest = Instant::now();
    while queue.recv_many(&mut jobs, MAX_BATCH).await > 0 {
        if jobs.len() < MAX_BATCH && Instant::now() < earliest {
            tokio::time::sleep_until(earliest).await;
            while jobs.len() < MAX_BATCH
                && let Ok(job) = queue.try_recv()
            {
                jobs.push(job);
            }
        }
        earliest = Instant::now() + pace.after(jobs.len());
        let renewed = renew.renew(jobs.iter().map(|job| job.id).collect()).await;
        match renewed {
            Ok(Renewed { revision, ttls }) => {
                for (job, ttl) in jobs.drain(..).zip(ttls) {
                    let _ = job.answer.send(Ok(LeaseRenewed { revision, ttl }));
                }
            }
            Err(error) => {
                for job in jobs.drain(..) {
                    let _ = job.answer.send(Err(error.clone()));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use parking_lot::Mutex;
    use tokio::sync::Semaphore;

    use super::*;

    /// Renews even ids, and each call only when it is let through.
    #[derive(Clone)]
    struct Fake {
        batches: Arc<Mutex<Vec<Vec<i64>>>>,
        gate: Arc<Semaphore>,
        failure: Option<Error>,
    }

    impl Fake {
        fn new(open: usize) -> Self {
            Self { batches: Arc::default(), gate: Arc::new(Semaphore::new(open)), failure: None }
        }

        fn start(&self, pace: Duration) -> Renewals {
            let (renewals, queue) = Renewals::new(1);
            tokio::spawn(serve(queue.jobs, self.clone(), Pace { quick: pace, crowded: pace }));
            renewals
        }

        fn sizes(&self) -> Vec<usize> {
            self.batches.lock().iter().map(Vec::len).collect()
        }
    }

    impl Renew for Fake {
        async fn renew(&self, ids: Vec<i64>) -> Result<Renewed, Error> {
            self.batches.lock().push(ids.clone());
            self.gate.acquire().await.unwrap().forget();
            if let Some(error) = &self.failure {
                return Err(error.clone());
            }
            Ok(Renewed {
                revision: 7,
                ttls: ids.iter().map(|id| if id % 2 == 0 { *id } else { 0 }).collect(),
            })
        }
    }

    /// Runs `test` on one thread, where a task goes on until it has to wait.
    fn run(test: impl Future<Output = ()>) {
        tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(test);
    }

    async fn many(renewals: Renewals, ids: std::ops::Range<i64>) -> Vec<Result<LeaseRenewed, Error>> {
        futures_util::future::join_all(ids.map(|id| renewals.renew(id))).await
    }

    /// Lets all other tasks go on until they have to wait.
    async fn settle() {
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
    }

    const NO_PACE: Duration = Duration::ZERO;
    const LONG_PACE: Duration = Duration::from_millis(300);

    #[test]
    fn an_idle_node_renews_at_once_and_then_keeps_the_pace() {
        run(async {
            let fake = Fake::new(9);
            let renewals = fake.start(LONG_PACE);
            let began = Instant::now();
            assert_eq!(renewals.renew(4).await.unwrap(), LeaseRenewed { revision: 7, ttl: 4 });
            assert!(began.elapsed() < LONG_PACE);
            assert_eq!(renewals.renew(3).await.unwrap().ttl, 0);
            assert!(began.elapsed() >= LONG_PACE);
            tokio::time::sleep(LONG_PACE).await;
            let began = Instant::now();
            renewals.renew(4).await.unwrap();
            assert!(began.elapsed() < LONG_PACE);
        });
    }

    #[test]
    fn what_comes_during_a_proposal_shares_the_next_one_and_each_gets_its_own_answer() {
        run(async {
            let fake = Fake::new(0);
            let renewals = fake.start(NO_PACE);
            let first = tokio::spawn(many(renewals.clone(), 2..3));
            settle().await;
            let rest = tokio::spawn(many(renewals.clone(), 10..110));
            settle().await;
            assert_eq!(fake.sizes(), [1]);
            fake.gate.add_permits(9);
            assert_eq!(first.await.unwrap()[0].as_ref().unwrap().ttl, 2);
            for (id, renewed) in (10..110).zip(rest.await.unwrap()) {
                assert_eq!(renewed.unwrap().ttl, if id % 2 == 0 { id } else { 0 });
            }
            assert_eq!(fake.sizes(), [1, 100]);
        });
    }

    #[test]
    fn what_comes_within_the_pace_shares_a_proposal() {
        run(async {
            let fake = Fake::new(99);
            let renewals = fake.start(LONG_PACE);
            renewals.renew(0).await.unwrap();
            let staggered = (0..10).map(|at| {
                let renewals = renewals.clone();
                async move {
                    tokio::time::sleep(Duration::from_millis(at)).await;
                    renewals.renew(2).await.unwrap();
                }
            });
            futures_util::future::join_all(staggered).await;
            assert_eq!(fake.sizes(), [1, 10]);
        });
    }

    #[test]
    fn a_crowd_is_gathered_for_longer() {
        run(async {
            let fake = Fake::new(99);
            let (renewals, queue) = Renewals::new(1);
            tokio::spawn(serve(queue.jobs, fake.clone(), Pace { quick: Duration::ZERO, crowded: LONG_PACE }));
            many(renewals.clone(), 0..CROWD as i64).await;
            let began = Instant::now();
            renewals.renew(2).await.unwrap();
            assert!(began.elapsed() >= LONG_PACE / 2);
            let before = fake.sizes().len();
            for _ in 0..3 {
                renewals.renew(2).await.unwrap();
            }
            assert_eq!(fake.sizes().len(), before + 3);
        });
    }

    #[test]
    fn a_full_command_does_not_wait_and_a_full_queue_refuses() {
        run(async {
            let fake = Fake::new(0);
            let renewals = fake.start(LONG_PACE);
            let flood = tokio::spawn(many(renewals, 0..40_000));
            settle().await;
            fake.gate.add_permits(99);
            let began = Instant::now();
            let answers = flood.await.unwrap();
            let refused =
                answers.iter().filter(|answer| matches!(answer, Err(Error::Overloaded { node: 1 }))).count();
            let renewed = answers.iter().filter(|answer| answer.is_ok()).count();
            assert_eq!(renewed + refused, 40_000);
            assert!((QUEUE..=QUEUE + MAX_BATCH).contains(&renewed), "{renewed} were renewed");
            assert!(fake.sizes().iter().all(|size| *size <= MAX_BATCH));
            // A dozen and more of them in the time of a few paces.
            assert!(fake.sizes().len() >= 16 && began.elapsed() < 8 * LONG_PACE);
        });
    }

    #[test]
    fn a_failure_is_told_to_all_and_does_not_end_the_service() {
        run(async {
            let fake = Fake { failure: Some(Error::Unknown { reason: "x".to_owned() }), ..Fake::new(9) };
            let renewals = fake.start(NO_PACE);
            for answer in many(renewals.clone(), 0..3).await {
                assert!(matches!(answer, Err(Error::Unknown { .. })));
            }
            assert!(renewals.renew(1).await.is_err());
            assert_eq!(fake.sizes().iter().sum::<usize>(), 4);
        });
    }
}

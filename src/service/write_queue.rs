//! Gathers writes into batches on their way into the log.
//!
//! While a batch is under way the next writes gather, so that the work that each
//! batch costs (a message, a sync of the log, a round of answers) is shared by the
//! more writes the busier the node is, and an idle one sends each write at once. The
//! batches that end set the pace, unless enough writes have gathered to be worth a
//! batch of their own, or the peers are so far away that each takes long.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::Instant;

use crate::command::{Outcome, Proposal};
use crate::openraft_network::forward::ForwardError;
use crate::tasks::{self, Handle};

/// Writes that may wait to be sent; beyond that the caller waits.
const QUEUE: usize = 4096;

/// How long writes gather at most. Little beside the way to a peer that is so far away
/// that a batch takes longer, and longer than a batch takes to one that is near.
const LONGEST_GATHERING: Duration = Duration::from_millis(20);
/// Batches under way at once, all together.
const BATCHES: usize = 16;

/// What became of a write.
pub(super) type Answer = Result<Outcome, ForwardError>;

/// What makes a batch.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    /// So many writes do not wait for the batch that is under way.
    pub(super) enough: usize,
    /// Most writes.
    pub(super) writes: usize,
    /// Most bytes of proposals, apart from the last write.
    pub(super) bytes: usize,
}

/// The way of writes to whoever carries them on, in the order in which they came.
#[derive(Debug, Clone)]
pub(super) struct WriteQueue {
    jobs: mpsc::Sender<Job>,
}

#[derive(Debug)]
struct Job {
    proposal: Proposal,
    answer: oneshot::Sender<Answer>,
}

/// A write that was handed over.
#[derive(Debug)]
pub(super) struct Pending(oneshot::Receiver<Answer>);

impl Pending {
    /// Waits for what becomes of it.
    pub(super) async fn answer(self) -> Answer {
        self.0.await.unwrap_or_else(|_| Err(ForwardError::Unknown("the node is stopping".to_owned())))
    }
}

/// Those who wait for the writes of a batch, in its order.
#[derive(Debug)]
pub(super) struct Waiting(std::vec::IntoIter<oneshot::Sender<Answer>>);

impl Waiting {
    /// Answers the next one. It may have given up.
    pub(super) fn answer(&mut self, answer: Answer) {
        if let Some(next) = self.0.next() {
            let _ = next.send(answer);
        }
    }

    /// Answers all that are left alike.
    pub(super) fn fail(self, error: &ForwardError) {
        for left in self.0 {
            let _ = left.send(Err(error.clone()));
        }
    }

    /// How many still wait for their turn.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }
}

impl WriteQueue {
    /// A queue whose batches go to `carry`. It ends once nobody can write to it any more.
    pub(super) fn start<F>(
        runtime: &Handle,
        bounds: Bounds,
        carry: impl Fn(Vec<Proposal>, Waiting) -> F + Send + 'static,
    ) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let (jobs, queue) = mpsc::channel(QUEUE);
        runtime.spawn(run(queue, bounds, carry));
        Self { jobs }
    }

    /// Hands `proposal` over.
    ///
    /// # Errors
    /// The node is stopping.
    pub(super) async fn put(&self, proposal: Proposal) -> Result<Pending, ForwardError> {
        let (answer, outcome) = oneshot::channel();
        match self.jobs.send(Job { proposal, answer }).await {
            Ok(()) => Ok(Pending(outcome)),
            Err(_) => Err(ForwardError::Unavailable("the node is stopping".to_owned())),
        }
    }
}

async fn run<F>(mut queue: mpsc::Receiver<Job>, bounds: Bounds, carry: impl Fn(Vec<Proposal>, Waiting) -> F)
where
    F: Future<Output = ()> + Send + 'static,
{
    let places = Arc::new(Semaphore::new(BATCHES));
    // Whoever gathered too little to go beside another batch goes alone.
    let alone = Arc::new(Semaphore::new(1));
    let mut gathered = VecDeque::new();
    let mut last_began = Instant::now();
    loop {
        if gathered.is_empty() {
            match queue.recv().await {
                Some(first) => gathered.push_back(first),
                None => return,
            }
        }
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        let turn = {
            let mut turn = pin!(Arc::clone(&alone).acquire_owned());
            let mut longest = pin!(tokio::time::sleep_until(last_began + LONGEST_GATHERING));
            loop {
                while gathered.len() < bounds.writes
                    && let Ok(job) = queue.try_recv()
                {
                    gathered.push_back(job);
                }
                if gathered.len() >= bounds.enough {
                    break None;
                }
                tokio::select! {
                    biased;
                    turn = &mut turn => break turn.ok(),
                    () = &mut longest => break None,
                    job = queue.recv() => match job {
                        Some(job) => gathered.push_back(job),
                        None => break None,
                    },
                }
            }
        };
        let (proposals, answers) = batch(&mut gathered, bounds);
        if proposals.is_empty() {
            continue;
        }
        last_began = Instant::now();
        let carried = carry(proposals, Waiting(answers.into_iter()));
        tasks::spawn(async move {
            carried.await;
            drop((turn, place));
        });
    }
}

/// The writes that came first, as many as a batch may have.
fn batch(gathered: &mut VecDeque<Job>, bounds: Bounds) -> (Vec<Proposal>, Vec<oneshot::Sender<Answer>>) {
    let (mut proposals, mut answers) = (Vec::new(), Vec::new());
    let mut bytes = 0;
    while proposals.len() < bounds.writes
        && bytes < bounds.bytes
        && let Some(Job { proposal, answer }) = gathered.pop_front()
    {
        // Whoever gave up while it waited must not be surprised later.
        if !answer.is_closed() {
            bytes += proposal.as_bytes().len();
            proposals.push(proposal);
            answers.push(answer);
        }
    }
    (proposals, answers)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::{Command, OutcomeResult};

    const WIDE: Bounds = Bounds { enough: 100, writes: 100, bytes: 1 << 20 };

    type Batches = mpsc::Receiver<(Vec<Proposal>, Waiting, oneshot::Sender<()>)>;

    /// A queue whose batches the test receives, and ends itself.
    fn queue(bounds: Bounds) -> (WriteQueue, Batches) {
        let (sender, batches) = mpsc::channel(100);
        let queue = WriteQueue::start(&Handle::current(), bounds, move |proposals, waiting| {
            let sender = sender.clone();
            async move {
                let (end, ended) = oneshot::channel();
                let _ = sender.send((proposals, waiting, end)).await;
                let _ = ended.await;
            }
        });
        (queue, batches)
    }

    fn write(key: &str) -> Proposal {
        Command::put(key.to_owned(), "v").encode()
    }

    fn done(revision: i64) -> Outcome {
        Outcome { revision, result: OutcomeResult::Nothing }
    }

    #[tokio::test]
    async fn writes_gather_while_a_batch_is_under_way_and_keep_their_order() {
        let (queue, mut batches) = queue(WIDE);
        let first = queue.put(write("a")).await.unwrap();
        let (proposals, mut waiting, end) = batches.recv().await.unwrap();
        assert_eq!(proposals, [write("a")]);
        let second = queue.put(write("b")).await.unwrap();
        let third = queue.put(write("c")).await.unwrap();
        waiting.answer(Ok(done(1)));
        assert_eq!(first.answer().await, Ok(done(1)));
        end.send(()).unwrap();
        let (proposals, mut waiting, _end) = batches.recv().await.unwrap();
        assert_eq!(proposals, [write("b"), write("c")]);
        waiting.answer(Ok(done(2)));
        waiting.answer(Ok(done(3)));
        assert_eq!((second.answer().await, third.answer().await), (Ok(done(2)), Ok(done(3))));
    }

    #[tokio::test]
    async fn a_batch_that_takes_long_does_not_hold_up_the_next_one() {
        let (queue, mut batches) = queue(WIDE);
        let _first = queue.put(write("a")).await.unwrap();
        let under_way = batches.recv().await.unwrap();
        let _second = queue.put(write("b")).await.unwrap();
        assert_eq!(batches.recv().await.unwrap().0, [write("b")]);
        drop(under_way);
    }

    #[tokio::test]
    async fn enough_writes_do_not_wait_for_the_batch_under_way() {
        let (queue, mut batches) = queue(Bounds { enough: 2, ..WIDE });
        let _first = queue.put(write("a")).await.unwrap();
        let _under_way = batches.recv().await.unwrap();
        // Together, so that time alone can't part them.
        let (_second, _third) = tokio::join!(queue.put(write("b")), queue.put(write("c")));
        assert_eq!(batches.recv().await.unwrap().0, [write("b"), write("c")]);
    }

    #[tokio::test]
    async fn what_nobody_waits_for_any_more_is_not_carried_on() {
        let (queue, mut batches) = queue(WIDE);
        let _first = queue.put(write("a")).await.unwrap();
        let under_way = batches.recv().await.unwrap();
        drop(queue.put(write("given up")).await.unwrap());
        let _third = queue.put(write("c")).await.unwrap();
        drop(under_way);
        assert_eq!(batches.recv().await.unwrap().0, [write("c")]);
    }

    #[tokio::test]
    async fn a_batch_keeps_its_bounds() {
        let size = write("a").as_bytes().len();
        for bounds in [Bounds { writes: 2, ..WIDE }, Bounds { bytes: size + 1, ..WIDE }] {
            let (queue, mut batches) = queue(bounds);
            let _first = queue.put(write("a")).await.unwrap();
            let under_way = batches.recv().await.unwrap();
            let mut pending = Vec::new();
            for key in ["b", "c", "d"] {
                pending.push(queue.put(write(key)).await.unwrap());
            }
            drop(under_way);
            assert_eq!(batches.recv().await.unwrap().0, [write("b"), write("c")]);
            assert_eq!(batches.recv().await.unwrap().0, [write("d")]);
        }
    }

    #[tokio::test]
    async fn a_batch_that_fails_answers_all_that_wait() {
        let (queue, mut batches) = queue(WIDE);
        let first = queue.put(write("a")).await.unwrap();
        let (_, waiting, _end) = batches.recv().await.unwrap();
        let error = ForwardError::Unavailable("no majority".to_owned());
        waiting.fail(&error);
        assert_eq!(first.answer().await, Err(error));
    }

    #[tokio::test]
    async fn a_batch_that_is_dropped_leaves_the_fate_of_its_writes_unknown() {
        let (queue, mut batches) = queue(WIDE);
        let first = queue.put(write("a")).await.unwrap();
        drop(batches.recv().await.unwrap());
        assert!(matches!(first.answer().await, Err(ForwardError::Unknown(_))));
    }
}

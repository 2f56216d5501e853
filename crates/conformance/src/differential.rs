//! The same random sequences against two servers, until they differ.
//!
//! A worker has a pair of servers for itself, because sequences that share a store
//! would share its revisions. The sequence with number `n` depends on the seed and `n`
//! alone, so that one that fails can be repeated without those before it.

use std::fmt::{self, Write};
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestError, TestRng, TestRunner};
use tokio::runtime::Handle;

use crate::answer::Answer;
use crate::generate::sequences;
use crate::server::{Server, ServerError};
use crate::step::Step;
use crate::versions::{change_between, kept_rule};

/// Two servers, or what stands for them in a test.
pub trait Pair {
    /// Sweeps both, and lets both answer each step.
    ///
    /// # Errors
    /// When a server cannot be asked.
    fn answers(&mut self, steps: &[Step]) -> Result<(Vec<Answer>, Vec<Answer>), ServerError>;

    /// Whether the answers to that step may differ between these two.
    fn may_differ(&self, step: &Step) -> bool;
}

/// Two servers at endpoints, asked at the same time.
pub struct Servers {
    left: Server,
    right: Server,
    runtime: Handle,
}

impl Servers {
    /// Connects to both.
    ///
    /// # Errors
    /// When one cannot be reached.
    pub async fn connect(left: &str, right: &str) -> Result<Self, ServerError> {
        let (left, right) = tokio::try_join!(Server::connect(left), Server::connect(right))?;
        Ok(Self { left, right, runtime: Handle::current() })
    }
}

impl Pair for Servers {
    fn answers(&mut self, steps: &[Step]) -> Result<(Vec<Answer>, Vec<Answer>), ServerError> {
        self.runtime.block_on(async { tokio::try_join!(self.left.answers(steps), self.right.answers(steps)) })
    }

    fn may_differ(&self, step: &Step) -> bool {
        let (left, right) = (self.left.version(), self.right.version());
        kept_rule(step, left, right) || change_between(step, left, right).is_some()
    }
}

/// A server could not be asked any more; perhaps the sequence has ended its process.
#[derive(Debug, thiserror::Error)]
#[error("sequence {number} came to no end: {steps:#?}")]
pub struct Stopped {
    /// The number of the sequence.
    pub number: u64,
    /// The calls, of which one may be the reason.
    pub steps: Vec<Step>,
    /// What was noticed.
    #[source]
    pub source: ServerError,
}

/// A sequence on which the two servers differ, made as short as it could be.
#[derive(Debug)]
pub struct Difference {
    /// Its number; with the seed it repeats the failure.
    pub number: u64,
    /// The calls.
    pub steps: Vec<Step>,
    /// What each server answered to them.
    pub left: Vec<Answer>,
    /// What each server answered to them.
    pub right: Vec<Answer>,
    /// The first call that was answered differently; none when it did not happen again.
    pub at: Option<usize>,
}

impl fmt::Display for Difference {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(out, "sequence {} is answered differently; at its shortest:", self.number)?;
        for (at, step) in self.steps.iter().enumerate() {
            writeln!(out, "  {:>2}. {step:?}", at + 1)?;
        }
        let Some(at) = self.at else {
            return writeln!(out, "  but not when it was repeated");
        };
        writeln!(out, "answer {}:", at + 1)?;
        writeln!(out, "  left:  {:?}", self.left.get(at))?;
        writeln!(out, "  right: {:?}", self.right.get(at))
    }
}

/// Which sequences are run.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Everything that is random follows from it.
    pub seed: u64,
    /// The number of the first sequence.
    pub first: u64,
    /// How many.
    pub count: u64,
    /// How many calls each has.
    pub lengths: RangeInclusive<usize>,
    /// After how many differing sequences it ends.
    pub differences: usize,
}

/// What was found.
#[derive(Debug, Default)]
pub struct Findings {
    /// How many sequences were run.
    pub sequences: u64,
    /// How many calls were compared.
    pub calls: u64,
    /// How many sequences were left at an answer that may differ between the versions.
    pub left_early: u64,
    /// Where the servers differ.
    pub differences: Vec<Difference>,
}

impl Findings {
    fn add(&mut self, other: Self) {
        self.sequences += other.sequences;
        self.calls += other.calls;
        self.left_early += other.left_early;
        self.differences.extend(other.differences);
    }

    /// A line to be read, and the differences before it.
    pub fn report(&self, plan: &Plan, took: Duration) -> String {
        let mut text = String::new();
        for difference in &self.differences {
            write!(
                text,
                "{difference}repeat it with --seed {} --first {} --sequences 1 --steps {}..{}\n\n",
                plan.seed,
                difference.number,
                plan.lengths.start(),
                plan.lengths.end()
            )
            .expect("a string takes all");
        }
        writeln!(
            text,
            "{} sequences, {} calls, {} differences, {} left early, seed {}, {:.1} s",
            self.sequences,
            self.calls,
            self.differences.len(),
            self.left_early,
            plan.seed,
            took.as_secs_f64()
        )
        .expect("a string takes all");
        text
    }
}

/// Where the answers part, and whether that is allowed there.
fn first_difference(
    pair: &impl Pair,
    steps: &[Step],
    left: &[Answer],
    right: &[Answer],
) -> Option<(usize, bool)> {
    let at = left.iter().zip(right).position(|(left, right)| left != right)?;
    Some((at, steps.get(at).is_some_and(|step| pair.may_differ(step))))
}

/// A runner whose choices follow from the seed and the number alone.
fn runner(seed: u64, number: u64) -> TestRunner {
    let mut bytes = [0; 32];
    let halves = seed.to_le_bytes().into_iter().chain(number.to_le_bytes());
    bytes.iter_mut().zip(halves).for_each(|(byte, value)| *byte = value);
    let config = Config { failure_persistence: None, max_shrink_iters: 4000, ..Config::default() };
    TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &bytes))
}

/// Runs sequence `number`, and shortens it if the two servers differ on it.
///
/// # Errors
/// When a server cannot be asked.
pub fn run_sequence(
    pair: &mut impl Pair,
    plan: &Plan,
    number: u64,
    findings: &mut Findings,
) -> Result<(), Stopped> {
    let mut runner = runner(plan.seed, number);
    let tree = sequences(plan.lengths.clone())
        .new_tree(&mut runner)
        .expect("no choice of a sequence is ever rejected");
    let steps = tree.current();
    let stopped = |source| Stopped { number, steps: steps.clone(), source };
    let (left, right) = pair.answers(&steps).map_err(stopped)?;
    findings.sequences += 1;
    match first_difference(pair, &steps, &left, &right) {
        None => findings.calls += left.len() as u64,
        Some((at, true)) => {
            findings.calls += at as u64;
            findings.left_early += 1;
        }
        Some((at, false)) => {
            findings.calls += at as u64 + 1;
            findings.differences.push(shorten(pair, runner, tree, number).map_err(stopped)?);
        }
    }
    Ok(())
}

/// Looks for the shortest sequence that is still answered differently.
fn shorten(
    pair: &mut impl Pair,
    mut runner: TestRunner,
    tree: impl ValueTree<Value = Vec<Step>>,
    number: u64,
) -> Result<Difference, ServerError> {
    let steps = tree.current();
    let pair = std::cell::RefCell::new(pair);
    let unreachable = std::cell::RefCell::new(None);
    let result = runner.run_one(tree, |steps| {
        let mut pair = pair.borrow_mut();
        match pair.answers(&steps) {
            Ok((left, right)) => match first_difference(&**pair, &steps, &left, &right) {
                Some((_, false)) => Err(TestCaseError::fail("the answers differ")),
                Some((_, true)) | None => Ok(()),
            },
            Err(error) => {
                unreachable.borrow_mut().get_or_insert(error);
                Ok(())
            }
        }
    });
    if let Some(error) = unreachable.into_inner() {
        return Err(error);
    }
    let steps = if let Err(TestError::Fail(_, shortest)) = result { shortest } else { steps };
    let pair = pair.into_inner();
    let (left, right) = pair.answers(&steps)?;
    let at = first_difference(pair, &steps, &left, &right).map(|(at, _)| at);
    Ok(Difference { number, steps, left, right, at })
}

/// Runs the plan with a worker for each pair of servers.
///
/// # Errors
/// When a server cannot be asked any more.
pub async fn run(plan: &Plan, pairs: Vec<Servers>) -> Result<Findings, Stopped> {
    let next = Arc::new(AtomicU64::new(plan.first));
    let mut workers = Vec::new();
    for mut servers in pairs {
        let (plan, next) = (plan.clone(), Arc::clone(&next));
        workers.push(tokio::task::spawn_blocking(move || {
            let mut findings = Findings::default();
            while findings.differences.len() < plan.differences {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= plan.first + plan.count {
                    break;
                }
                run_sequence(&mut servers, &plan, number, &mut findings)?;
            }
            Ok(findings)
        }));
    }
    let mut findings = Findings::default();
    for worker in workers {
        findings.add(worker.await.expect("a worker does not panic")?);
    }
    Ok(findings)
}

#[cfg(test)]
mod tests {
    //! Servers that are stood in for by a small store, one of which answers falsely:
    //! the difference must be found, shortened, and repeatable.

    use std::collections::BTreeMap;

    use bytes::Bytes;
    use kvorum_etcd_proto::etcdserverpb as pb;

    use super::*;
    use crate::step::Put;

    /// Counts the writes of each key, and forgets the previous value now and then.
    struct Fakes {
        forgetful: bool,
        excused: bool,
    }

    fn fake_answers(steps: &[Step], forgetful: bool) -> Vec<Answer> {
        let mut keys: BTreeMap<Bytes, i64> = BTreeMap::new();
        let mut revision = 0;
        steps
            .iter()
            .map(|step| {
                if let Step::Put(Put { key, previous, .. }) = step {
                    revision += 1;
                    let before = keys.insert(key.clone(), revision);
                    let shown = before.filter(|_| *previous && !forgetful);
                    let header = pb::ResponseHeader { revision, ..Default::default() };
                    let prev_kv = shown.map(|mod_revision| kvorum_etcd_proto::mvccpb::KeyValue {
                        key: key.clone(),
                        mod_revision,
                        ..Default::default()
                    });
                    Answer::Put(pb::PutResponse { header: Some(header), prev_kv })
                } else {
                    Answer::Refused { code: tonic::Code::Unimplemented, message: "only writes".into() }
                }
            })
            .collect()
    }

    impl Pair for Fakes {
        fn answers(&mut self, steps: &[Step]) -> Result<(Vec<Answer>, Vec<Answer>), ServerError> {
            Ok((fake_answers(steps, false), fake_answers(steps, self.forgetful)))
        }

        fn may_differ(&self, _: &Step) -> bool {
            self.excused
        }
    }

    fn plan() -> Plan {
        Plan { seed: 7, first: 0, count: 200, lengths: 1..=30, differences: 1 }
    }

    fn run_all(pair: &mut Fakes, plan: &Plan) -> Findings {
        let mut findings = Findings::default();
        for number in plan.first..plan.first + plan.count {
            run_sequence(pair, plan, number, &mut findings).unwrap();
            if !findings.differences.is_empty() {
                break;
            }
        }
        findings
    }

    #[test]
    fn equal_servers_have_no_differences() {
        let findings = run_all(&mut Fakes { forgetful: false, excused: false }, &plan());
        assert_eq!((findings.sequences, findings.differences.len()), (200, 0));
        assert!(findings.calls > 1000);
    }

    #[test]
    fn a_false_answer_is_found_and_shortened_to_the_calls_it_takes() {
        let findings = run_all(&mut Fakes { forgetful: true, excused: false }, &plan());
        let difference = findings.differences.first().expect("the forgetful server is found out");
        let [Step::Put(first), Step::Put(second)] = &difference.steps[..] else {
            panic!("two writes are enough: {difference}");
        };
        assert_eq!((&first.key, second.previous), (&second.key, true));
        assert_eq!(difference.at, Some(1));
        // Nothing is left of what did not matter.
        assert_eq!((first.lease, first.previous, &first.value[..]), (0, false, &b"x"[..]));
    }

    #[test]
    fn a_sequence_follows_from_the_seed_and_its_number() {
        let all = run_all(&mut Fakes { forgetful: true, excused: false }, &plan());
        let number = all.differences[0].number;
        let again = run_all(
            &mut Fakes { forgetful: true, excused: false },
            &Plan { first: number, count: 1, ..plan() },
        );
        assert_eq!(again.differences[0].steps, all.differences[0].steps);
    }

    #[test]
    fn what_versions_may_differ_in_ends_a_sequence_without_blame() {
        let findings = run_all(&mut Fakes { forgetful: true, excused: true }, &plan());
        assert!(findings.differences.is_empty());
        assert!(findings.left_early > 0);
    }
}

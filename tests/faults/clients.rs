//! Writers and readers that go on whatever happens and remember what they were told.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tokio::task::JoinHandle;

use super::history::{Action, KEYS, Operation, Outcome};
use super::nemesis::Dice;
use crate::support::PATIENCE;
use crate::support::cluster::TestCluster;
use crate::support::http::{Answer, Http, Trouble};

const WRITERS: u64 = 4;
const READERS: u64 = 3;
/// Longer than a node's own time limit, shorter than a frozen node stays so.
const TIMEOUT: Duration = Duration::from_millis(2_500);
/// Keeps the history small enough to be read back in a moment.
const PAUSE_MS: u64 = 8;
/// Times that a write under an idempotency key is sent at most.
const ATTEMPTS: usize = 4;

/// The running clients.
pub(crate) struct Clients {
    stop: Arc<AtomicBool>,
    tasks: Vec<JoinHandle<Vec<Operation>>>,
}

struct Client {
    http: Http,
    addrs: Vec<String>,
    dice: Dice,
    stop: Arc<AtomicBool>,
    operations: Vec<Operation>,
}

impl Clients {
    pub(crate) fn start(cluster: &TestCluster, seed: u64) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let client = |number: u64| Client {
            http: Http::new().with_timeout(TIMEOUT),
            addrs: cluster.addrs(),
            dice: Dice::new(seed.wrapping_add(1 + number)),
            stop: Arc::clone(&stop),
            operations: Vec::new(),
        };
        let writers = (0..WRITERS).map(|number| tokio::spawn(client(number).write_on(number)));
        let readers = (0..READERS).map(|number| tokio::spawn(client(WRITERS + number).read_on()));
        Self { tasks: writers.chain(readers).collect(), stop }
    }

    /// Ends all clients and gives what they did.
    pub(crate) async fn stop(self) -> Vec<Operation> {
        self.stop.store(true, Ordering::Relaxed);
        let mut all = Vec::new();
        for task in self.tasks {
            all.append(&mut tokio::time::timeout(PATIENCE, task).await.unwrap().unwrap());
        }
        all
    }
}

impl Client {
    fn goes_on(&self) -> bool {
        !self.stop.load(Ordering::Relaxed)
    }

    fn any_addr(&mut self) -> String {
        self.addrs[self.dice.below(self.addrs.len())].clone()
    }

    async fn pause(&mut self) {
        let millis = self.dice.below(2 * PAUSE_MS as usize) as u64;
        tokio::time::sleep(Duration::from_millis(millis)).await;
    }

    async fn write_on(mut self, writer: u64) -> Vec<Operation> {
        let mut number = 0_u64;
        while self.goes_on() {
            number += 1;
            let key = KEYS[self.dice.below(KEYS.len())];
            let value = format!("{writer}-{number}");
            let token = if self.dice.below(2) == 0 { Some(format!("token-{value}")) } else { None };
            let begun = Instant::now();
            let outcome = self.write(key, &value, token.as_deref()).await;
            let action = Action::Write { key, value, outcome };
            self.operations.push(Operation { begun, ended: Instant::now(), action });
            self.pause().await;
        }
        self.operations
    }

    /// Writes once; under a token again, at any node, until the outcome is known.
    async fn write(&mut self, key: &str, value: &str, token: Option<&str>) -> Outcome {
        let attempts = if token.is_some() { ATTEMPTS } else { 1 };
        let headers: Vec<_> = token.map(|token| ("idempotency-key", token)).into_iter().collect();
        let mut may_have_happened = false;
        for _ in 0..attempts {
            let addr = self.any_addr();
            let path = format!("/v1/kv/{key}");
            match judge(&self.http.send("PUT", &addr, &path, &headers, value.to_owned()).await) {
                Outcome::Acknowledged(revision) => return Outcome::Acknowledged(revision),
                Outcome::Unknown => may_have_happened = true,
                Outcome::Refused => {}
            }
            self.pause().await;
        }
        if may_have_happened { Outcome::Unknown } else { Outcome::Refused }
    }

    async fn read_on(mut self) -> Vec<Operation> {
        while self.goes_on() {
            let key = KEYS[self.dice.below(KEYS.len())];
            let consistency = ["linearizable", "lease", "local"][self.dice.below(3)];
            let addr = self.any_addr();
            let path = format!("/v1/kv/{key}?consistency={consistency}");
            let begun = Instant::now();
            let answer = self.http.send("GET", &addr, &path, &[], "").await;
            let ended = Instant::now();
            if let Ok(answer) = answer
                && matches!(answer.status, 200 | 404)
            {
                let revision = answer.number("x-kvorum-revision").unwrap();
                let found = (answer.status == 200).then(|| (answer.text(), answer.number("etag").unwrap()));
                let action = Action::Read { key, linearizable: consistency != "local", revision, found };
                self.operations.push(Operation { begun, ended, action });
            }
            self.pause().await;
        }
        self.operations
    }
}

/// What an answer, or none, says about a write.
fn judge(answer: &Result<Answer, Trouble>) -> Outcome {
    match answer {
        Ok(answer) if matches!(answer.status, 200 | 201) => {
            Outcome::Acknowledged(answer.json()["revision"].as_i64().unwrap())
        }
        Ok(answer) if matches!(answer.code().as_str(), "unavailable" | "not_leader" | "overloaded") => {
            Outcome::Refused
        }
        Err(Trouble::NotSent(_)) => Outcome::Refused,
        Ok(answer) => {
            assert!(matches!(answer.code().as_str(), "outcome_unknown" | "internal"), "{}", answer.text());
            Outcome::Unknown
        }
        Err(Trouble::Lost(_)) => Outcome::Unknown,
    }
}

//! Clients against scripted servers: what they write down, and how they go on.

use kvorum_scripted::{Scripted, Step};

use super::session::Session;
use super::*;
use crate::history::Call;

fn shared_of(addr: &str) -> (Arc<Shared>, tokio::sync::watch::Sender<Phase>) {
    let endpoint = Endpoint { node: 5, http: addr.to_owned(), grpc: addr.to_owned() };
    let (_, endpoints) = tokio::sync::watch::channel(Arc::from([endpoint]));
    let (phase, told) = tokio::sync::watch::channel(Phase::Work);
    (Arc::new(Shared::new(Clock::new(), Duration::from_millis(200), endpoints, told)), phase)
}

fn write(value: &str) -> Call {
    Call::SeedWrite { key: "seed/1".to_owned(), value: Some(value.to_owned()) }
}

#[tokio::test]
async fn a_client_takes_a_new_number_after_an_unknown_outcome_only() {
    let server = Scripted::steps([
        Step::reply(200, "\"Ok\""),
        Step::error(503, "unavailable"),
        Step::error(504, "outcome_unknown"),
        Step::reply(200, "\"Ok\""),
        Step::Hang,
    ])
    .await;
    let (shared, _phase) = shared_of(server.addr());
    // Without tokens, so that nothing is tried again.
    let network = Network::new(Arc::clone(&shared)).repeating(0);
    let mut session = Session::new(shared, Dice::new(3), network);
    for value in ["a", "b", "c", "d", "e"] {
        session.call(write(value)).await;
    }
    assert_eq!(server.requests().len(), 5, "every call is made once");
    let operations = session.into_operations();
    let clients: Vec<_> = operations.iter().map(|operation| operation.client).collect();
    assert_eq!(clients, [0, 0, 0, 1, 1]);
    assert_eq!(operations[0].outcome, Outcome::SeedWritten);
    assert_eq!(operations[1].outcome, Outcome::Failed { reason: "503 unavailable".to_owned() });
    assert_eq!(operations[2].outcome, Outcome::Unknown { reason: "504 outcome_unknown".to_owned() });
    assert_eq!(operations[4].outcome, Outcome::Unknown { reason: "no answer within 200ms".to_owned() });
    assert!(operations.iter().all(|operation| operation.node == 5 && operation.way == Way::Seed));
    assert!(operations.windows(2).all(|pair| pair[0].ended <= pair[1].begun));
    assert!(operations[4].ended - operations[4].begun >= 200_000_000);
}

#[tokio::test]
async fn attempts_under_one_token_are_one_call() {
    let script =
        [Step::error(504, "outcome_unknown"), Step::error(503, "unavailable"), Step::reply(200, "\"Ok\"")];
    let server = Scripted::steps(script).await;
    let (shared, _phase) = shared_of(server.addr());
    let network = Network::new(Arc::clone(&shared)).repeating(100);
    let mut session = Session::new(shared, Dice::new(3), network);
    assert_eq!(session.call(write("a")).await, Outcome::SeedWritten);
    let requests = server.requests();
    assert_eq!(requests.len(), 3);
    let token = requests[0].header("idempotency-key").unwrap().to_owned();
    assert!(requests.iter().all(|request| request.header("idempotency-key") == Some(&token)));
    assert_eq!(session.into_operations().len(), 1);

    // A refusal does not take back what an attempt before it may have done.
    let server = Scripted::steps([Step::Close, Step::error(503, "unavailable")]).await;
    let (shared, _phase) = shared_of(server.addr());
    let network = Network::new(Arc::clone(&shared)).repeating(100);
    let mut session = Session::new(shared, Dice::new(3), network);
    assert!(matches!(session.call(write("a")).await, Outcome::Unknown { .. }));
    assert_eq!(server.requests().len(), 3);
}

#[tokio::test]
async fn clients_start_and_stop_without_any_node() {
    let options = Options { clients: 3, patience: Duration::from_millis(50), ..Options::default() };
    let clients = Clients::start(Vec::new(), &options, Clock::new(), Dice::new(1));
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(clients.newest_revision(), 0);
    let recorded = tokio::time::timeout(Duration::from_secs(5), clients.stop(10)).await.unwrap();
    assert!(recorded.operations.is_empty(), "what is not sent anywhere is no call");
    assert_eq!(recorded.bank_total, Some(600));
}

#[test]
fn answers_that_none_may_get_are_named() {
    let operation = |reason: &str| Operation {
        client: 1,
        node: 1,
        way: Way::Seed,
        begun: 1,
        ended: 2,
        call: write("a"),
        outcome: Outcome::Unknown { reason: reason.to_owned() },
    };
    let reasons =
        ["504 outcome_unknown", "strange answer 200 {}", "400 invalid_request", "400 invalid_request"];
    let lost = WatchNote::Lost { at: 1, reason: "strange event over gRPC".to_owned() };
    let watch = WatchLog { watcher: 1, way: Way::Grpc, prefix: String::new(), notes: vec![lost] };
    let recorded = Recorded {
        operations: reasons.into_iter().map(operation).collect(),
        watches: vec![watch],
        ..Recorded::default()
    };
    let strange = strange_answers(&recorded);
    assert_eq!(strange.len(), 3, "{strange:?}");
    assert_eq!(strange[0], "told 2 times what none may be told: 400 invalid_request");
}

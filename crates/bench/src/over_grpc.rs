//! Asks over gRPC with etcd's API; clients that share a connection ask side by side.

use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use http::Uri;
use kvorum_etcd_proto::etcdserverpb as pb;
use rand::rngs::StdRng;
use tokio::sync::Mutex;
use tokio::time::{Instant, Sleep, sleep};

use crate::client::{Ask, Ended};
use crate::exchange::{Failure, by_deadline};
use crate::grpc::{CallError, Connection};
use crate::run::Shared;
use crate::workload::{Operation, Verdict, write_key};

/// A connection that several clients share, and its successors when it breaks.
#[derive(Debug)]
pub(crate) struct SharedConnection(Mutex<Current>);

#[derive(Debug)]
struct Current {
    endpoint: usize,
    /// Counts the connections, so that one that broke is replaced once, however
    /// many clients notice.
    generation: u64,
    connection: Option<Connection>,
}

impl SharedConnection {
    /// The connection `number` of a run, not yet made.
    pub(crate) fn new(number: usize) -> Self {
        Self(Mutex::new(Current { endpoint: number, generation: 0, connection: None }))
    }
}

/// A client of a shared connection.
pub(crate) struct GrpcAsker {
    shared: Arc<Shared>,
    common: Arc<SharedConnection>,
    generation: u64,
    endpoint: usize,
    /// With the addresses of its calls.
    connection: Option<(Connection, Uri, Uri)>,
    timer: Pin<Box<Sleep>>,
}

impl GrpcAsker {
    pub(crate) fn new(shared: Arc<Shared>, common: Arc<SharedConnection>) -> Self {
        let timer = Box::pin(sleep(shared.plan.timeout));
        Self { shared, common, generation: 0, endpoint: 0, connection: None, timer }
    }

    async fn connect(&mut self) -> Result<(), Failure> {
        let mut current = self.common.0.lock().await;
        self.generation = current.generation;
        self.endpoint = current.endpoint;
        let connection = if let Some(connection) = &current.connection {
            connection.clone()
        } else {
            let opened = Connection::open(self.shared.route.endpoint(current.endpoint)).await?;
            current.connection.insert(opened).clone()
        };
        let (put, range) = (connection.target::<pb::PutRequest>(), connection.target::<pb::RangeRequest>());
        self.connection = Some((connection, put, range));
        Ok(())
    }
}

impl Ask for GrpcAsker {
    async fn prepare(&mut self) {
        let _ = self.connect().await;
    }

    async fn ask(&mut self, operation: Operation, number: u64, rng: &mut StdRng) -> Ended {
        if self.connection.is_none()
            && let Err(failure) = self.connect().await
        {
            return failure.into();
        }
        let Self { shared, connection, timer, .. } = self;
        let (connection, put, range) = connection.as_mut().expect("it was connected above");
        let values = &shared.values;
        let mut key = vec![0; shared.plan.key_size];
        write_key(&mut key, number);
        let key = Bytes::from(key);
        let deadline = Instant::now() + shared.plan.timeout;
        let answer = if operation.is_write() {
            let request = pb::PutRequest { key, value: values.pick_shared(rng), ..Default::default() };
            let answer = by_deadline(timer, deadline, connection.call_at(put.clone(), &request)).await;
            answer.map(|answer| answer.map(|answer| judge_put(&answer)))
        } else {
            let serializable = operation == Operation::GetLocal;
            let request = pb::RangeRequest { key, serializable, ..Default::default() };
            let answer = by_deadline(timer, deadline, connection.call_at(range.clone(), &request)).await;
            answer.map(|answer| answer.map(|answer| judge_range(&answer, &request.key, values.size())))
        };
        match answer.unwrap_or(Err(Failure::Timeout.into())) {
            Ok(Verdict::Done) => Ended::Succeeded { absent: false },
            Ok(Verdict::Absent) => Ended::Succeeded { absent: true },
            Ok(Verdict::Wrong | Verdict::Refused) => {
                Ended::Wrong { detail: "it is not what was asked for".to_owned() }
            }
            Err(CallError::Refused { code, message }) => Ended::Refused {
                kind: format!("gRPC {code:?}"),
                detail: format!("{code:?}: {message}"),
                retry_after: None,
            },
            Err(CallError::Broke(failure)) => failure.into(),
        }
    }

    fn rest(&mut self) {}

    async fn after_refusal(&mut self) {}

    async fn after_break(&mut self) {
        self.connection = None;
        let mut current = self.common.0.lock().await;
        if current.generation == self.generation {
            current.endpoint = self.shared.route.after_break(current.endpoint).await;
            current.generation = current.generation.wrapping_add(1);
            current.connection = None;
        }
    }

    fn server(&self) -> &str {
        self.shared.route.endpoint(self.endpoint)
    }
}

fn judge_put(answer: &pb::PutResponse) -> Verdict {
    match &answer.header {
        Some(header) if header.revision > 0 => Verdict::Done,
        _ => Verdict::Wrong,
    }
}

fn judge_range(answer: &pb::RangeResponse, key: &[u8], value_size: usize) -> Verdict {
    match answer.kvs.as_slice() {
        [] if answer.count == 0 && answer.header.is_some() => Verdict::Absent,
        [found] if found.key == key && found.value.len() == value_size => Verdict::Done,
        _ => Verdict::Wrong,
    }
}

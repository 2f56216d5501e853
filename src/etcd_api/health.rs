//! Whether the node can serve: for gRPC health checks, for probes over HTTP, and with it the
//! version that clients ask for first.
//!
//! Whoever keeps nodes alive kills those whose `/livez` fails. So that asks nothing of other
//! nodes: a cluster without a leader must not lose its nodes to its probes.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{Stream, StreamExt as _, stream};
use http_body_util::Full;
use hyper::{Method, Request as HttpRequest, Response, StatusCode, header};
use kvorum_etcd_proto::METHODS;
use serde::Serialize;
use tokio::time::MissedTickBehavior;
use tonic::body::Body;
use tonic::codegen::BoxStream;
use tonic::{Request, Status};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_server::{self, HealthServer};
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};

use super::ETCD_LEVEL;
use crate::command::{Alarm, AlarmKind};

/// What a node says of itself when it is probed.
#[tonic::async_trait]
pub trait Condition: Send + Sync + 'static {
    /// Whether a linearizable read is answered now, and if not, why. Asks other nodes, and not
    /// for long.
    async fn confirmed(&self) -> Result<(), String>;

    /// Whether what the node holds can be read, and if not, why. Asks nobody.
    async fn readable(&self) -> Result<(), String>;

    /// Whether it is a member without a vote.
    fn is_learner(&self) -> bool;

    /// The raised alarms that it knows of.
    fn alarms(&self) -> Vec<Alarm>;
}

/// How often a watched health is looked at.
const LOOK: Duration = Duration::from_secs(1);

/// gRPC's health service. All services of the node are as healthy as the node.
pub(super) struct Health {
    condition: Arc<dyn Condition>,
}

impl Health {
    pub(super) fn server(condition: Arc<dyn Condition>) -> HealthServer<Self> {
        HealthServer::new(Self { condition })
    }
}

async fn status(condition: &dyn Condition) -> ServingStatus {
    if condition.confirmed().await.is_ok() { ServingStatus::Serving } else { ServingStatus::NotServing }
}

/// Whether `service` is one of ours; the empty name stands for the whole node.
fn is_known(service: &str) -> bool {
    let of = |path: &'static str| path.strip_prefix('/').and_then(|path| path.split_once('/'));
    service.is_empty()
        || METHODS.iter().any(|method| of(method.path).is_some_and(|(name, _)| name == service))
}

#[tonic::async_trait]
impl health_server::Health for Health {
    type WatchStream = BoxStream<HealthCheckResponse>;

    async fn check(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<tonic::Response<HealthCheckResponse>, Status> {
        if !is_known(&request.get_ref().service) {
            return Err(Status::not_found("unknown service"));
        }
        Ok(tonic::Response::new(response(status(&*self.condition).await)))
    }

    async fn watch(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<tonic::Response<Self::WatchStream>, Status> {
        let changes = if is_known(&request.get_ref().service) {
            changes(Arc::clone(&self.condition)).boxed()
        } else {
            // As the protocol has it: the service may come to be known one day.
            stream::iter([ServingStatus::ServiceUnknown]).chain(stream::pending()).boxed()
        };
        Ok(tonic::Response::new(changes.map(|status| Ok(response(status))).boxed()))
    }
}

fn response(status: ServingStatus) -> HealthCheckResponse {
    HealthCheckResponse { status: status.into() }
}

/// The health now, and each time it has changed.
fn changes(condition: Arc<dyn Condition>) -> impl Stream<Item = ServingStatus> {
    let mut looks = tokio::time::interval(LOOK);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    stream::unfold((looks, None, condition), |(mut looks, before, condition)| async move {
        loop {
            looks.tick().await;
            let now = status(&*condition).await;
            if before != Some(now) {
                return Some((now, (looks, Some(now), condition)));
            }
        }
    })
}

#[derive(Serialize)]
struct Version {
    etcdserver: &'static str,
    etcdcluster: &'static str,
    storage: &'static str,
}

#[derive(Serialize)]
struct HealthBody<'a> {
    health: &'static str,
    reason: &'a str,
}

/// What can be looked at, in the order in which it is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Check {
    DataCorruption,
    SerializableRead,
    LinearizableRead,
    NonLearner,
}

impl Check {
    /// What `/livez` looks at.
    const LIVE: &[Self] = &[Self::SerializableRead];
    /// What `/readyz` looks at.
    const READY: &[Self] =
        &[Self::DataCorruption, Self::SerializableRead, Self::LinearizableRead, Self::NonLearner];

    /// The name by which it is asked for and left out.
    fn name(self) -> &'static str {
        match self {
            Self::DataCorruption => "data_corruption",
            Self::SerializableRead => "serializable_read",
            Self::LinearizableRead => "linearizable_read",
            Self::NonLearner => "non_learner",
        }
    }

    async fn run(self, condition: &dyn Condition) -> Result<(), String> {
        match self {
            Self::DataCorruption => {
                let is_raised = condition.alarms().iter().any(|alarm| alarm.kind == AlarmKind::Corrupt);
                if is_raised { Err("alarm activated: CORRUPT".to_owned()) } else { Ok(()) }
            }
            Self::SerializableRead => condition.readable().await,
            Self::LinearizableRead => condition.confirmed().await,
            Self::NonLearner if condition.is_learner() => Err("this member is a learner".to_owned()),
            Self::NonLearner => Ok(()),
        }
    }
}

/// A question over HTTP that is no call.
#[derive(Debug)]
pub(super) enum Probe {
    Version,
    Health {
        excluded: BTreeSet<String>,
        is_serializable: bool,
    },
    Checks {
        checks: Vec<Check>,
        is_verbose: bool,
    },
    /// It was asked by a method that asks nothing.
    Refused,
}

impl Probe {
    /// The probe that `request` is, if it is one.
    pub(super) fn of<B>(request: &HttpRequest<B>) -> Option<Self> {
        let uri = request.uri();
        let query = || form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes());
        let excluded = || -> BTreeSet<String> {
            query().filter(|(name, _)| name == "exclude").map(|(_, value)| value.into_owned()).collect()
        };
        let checks = |all: &[Check], rest: &str| {
            let checks: Vec<_> = match rest.strip_prefix('/') {
                Some(one) => vec![*all.iter().find(|check| check.name() == one)?],
                None if rest.is_empty() => {
                    // Names that only other versions have are left out in vain, as in etcd.
                    let excluded = excluded();
                    all.iter().copied().filter(|check| !excluded.contains(check.name())).collect()
                }
                None => return None,
            };
            let is_verbose = query().any(|(name, _)| name == "verbose");
            Some(Self::Checks { checks, is_verbose })
        };
        let probe = match uri.path() {
            "/version" => Self::Version,
            "/health" => {
                let is_serializable = query().any(|(name, value)| name == "serializable" && value == "true");
                Self::Health { excluded: excluded(), is_serializable }
            }
            path => match (path.strip_prefix("/livez"), path.strip_prefix("/readyz")) {
                (Some(rest), _) => checks(Check::LIVE, rest)?,
                (None, Some(rest)) => checks(Check::READY, rest)?,
                (None, None) => return None,
            },
        };
        let may_ask = [Method::GET, Method::HEAD].contains(request.method());
        Some(if may_ask { probe } else { Self::Refused })
    }

    pub(super) async fn answer(self, condition: &dyn Condition) -> Response<Body> {
        match self {
            Self::Version => {
                let version =
                    Version { etcdserver: ETCD_LEVEL, etcdcluster: ETCD_LEVEL, storage: ETCD_LEVEL };
                json(StatusCode::OK, &version)
            }
            Self::Health { excluded, is_serializable } => {
                match why_unhealthy(condition, &excluded, is_serializable).await {
                    Ok(()) => json(StatusCode::OK, &HealthBody { health: "true", reason: "" }),
                    Err(reason) => {
                        let body = HealthBody { health: "false", reason: &reason };
                        json(StatusCode::SERVICE_UNAVAILABLE, &body)
                    }
                }
            }
            Self::Checks { checks, is_verbose } => {
                let mut told = String::new();
                let mut failed = false;
                for check in checks {
                    let name = check.name();
                    let line = match check.run(condition).await {
                        Ok(()) => writeln!(told, "[+]{name} ok"),
                        Err(reason) => {
                            failed = true;
                            writeln!(told, "[-]{name} failed: {reason}")
                        }
                    };
                    line.expect("strings take whatever is written");
                }
                if failed {
                    return text(StatusCode::SERVICE_UNAVAILABLE, told);
                }
                text(StatusCode::OK, if is_verbose { told + "ok\n" } else { "ok\n".to_owned() })
            }
            Self::Refused => {
                let mut refusal = text(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed".to_owned());
                refusal.headers_mut().insert(header::ALLOW, header::HeaderValue::from_static("GET, HEAD"));
                refusal
            }
        }
    }
}

/// As etcd's `/health` has it: no raised alarm but those `excluded`, and a read is answered.
async fn why_unhealthy(
    condition: &dyn Condition,
    excluded: &BTreeSet<String>,
    is_serializable: bool,
) -> Result<(), String> {
    let mut raised = condition.alarms().into_iter().map(|alarm| alarm.kind.to_string());
    if let Some(kind) = raised.find(|kind| !excluded.contains(kind)) {
        return Err(format!("ALARM {kind}"));
    }
    if is_serializable { condition.readable().await } else { condition.confirmed().await }
}

fn json(status: StatusCode, body: &impl Serialize) -> Response<Body> {
    let body = serde_json::to_string(body).expect("strings can be written");
    with_body(status, "application/json", body)
}

fn text(status: StatusCode, body: String) -> Response<Body> {
    with_body(status, "text/plain; charset=utf-8", body)
}

fn with_body(status: StatusCode, kind: &'static str, body: String) -> Response<Body> {
    let mut response = Response::new(Body::new(Full::new(body.into())));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(kind));
    response
}

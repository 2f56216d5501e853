//! Whether the node can serve: for gRPC health checks, for probes over HTTP, and with it the
//! version that clients ask for first.

use std::sync::Arc;
use std::time::Duration;

use futures_util::{Stream, StreamExt as _, stream};
use http_body_util::Full;
use hyper::{Method, Response, StatusCode, header};
use kvorum_etcd_proto::METHODS;
use serde::Serialize;
use tonic::body::Body;
use tonic::codegen::BoxStream;
use tonic::{Request, Status};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_server::{self, HealthServer};
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};

use super::ETCD_LEVEL;

/// Says whether the node can serve calls, and if not, why. Asked for every probe, so it must
/// be cheap.
pub type Ready = Arc<dyn Fn() -> Result<(), String> + Send + Sync>;

/// How often a watched health is looked at.
const LOOK: Duration = Duration::from_secs(1);

/// gRPC's health service. All services of the node are as healthy as the node.
pub(super) struct Health {
    ready: Ready,
}

impl Health {
    pub(super) fn server(ready: Ready) -> HealthServer<Self> {
        HealthServer::new(Self { ready })
    }
}

fn status(ready: &Ready) -> ServingStatus {
    if ready().is_ok() { ServingStatus::Serving } else { ServingStatus::NotServing }
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
        Ok(tonic::Response::new(response(status(&self.ready))))
    }

    async fn watch(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<tonic::Response<Self::WatchStream>, Status> {
        let changes = if is_known(&request.get_ref().service) {
            changes(Arc::clone(&self.ready)).boxed()
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
fn changes(ready: Ready) -> impl Stream<Item = ServingStatus> {
    let looks = tokio::time::interval(LOOK);
    stream::unfold((looks, None, ready), |(mut looks, before, ready)| async move {
        loop {
            looks.tick().await;
            let now = status(&ready);
            if before != Some(now) {
                return Some((now, (looks, Some(now), ready)));
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

/// Answers a probe; `None` if `path` is none.
pub(super) fn answer(method: &Method, path: &str, ready: &Ready) -> Option<Response<Body>> {
    let known = ["/version", "/health", "/livez", "/readyz"].contains(&path);
    if !known {
        return None;
    }
    if ![Method::GET, Method::HEAD].contains(method) {
        let mut refusal = text(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed".to_owned());
        refusal.headers_mut().insert(header::ALLOW, header::HeaderValue::from_static("GET, HEAD"));
        return Some(refusal);
    }
    let with_status = |ready: &Result<(), String>| match ready {
        Ok(()) => StatusCode::OK,
        Err(_) => StatusCode::SERVICE_UNAVAILABLE,
    };
    Some(match path {
        "/version" => {
            let version = Version { etcdserver: ETCD_LEVEL, etcdcluster: ETCD_LEVEL, storage: ETCD_LEVEL };
            json(StatusCode::OK, &version)
        }
        "/health" => {
            let ready = ready();
            let (health, reason) = match &ready {
                Ok(()) => ("true", ""),
                Err(reason) => ("false", reason.as_str()),
            };
            json(with_status(&ready), &HealthBody { health, reason })
        }
        "/readyz" => {
            let ready = ready();
            let said = ready.as_ref().err().map_or_else(|| "ok\n".to_owned(), |reason| format!("{reason}\n"));
            text(with_status(&ready), said)
        }
        // Having come here is being alive.
        _ => text(StatusCode::OK, "ok\n".to_owned()),
    })
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

//! What a node says about itself.
//!
//! These calls stay outside the bound on what is in flight: an overloaded node
//! must still be able to say so.

use actix_web::HttpResponse;
use actix_web::http::header;
use serde::Serialize;
use utoipa::ToSchema;

use super::backend::Backend;
use super::call::Call;
use super::error::{ErrorAnswer, Failure};
use crate::service::Status;

/// The version of the stored format that this release writes.
const FORMAT: u32 = 1;

/// A word about the node.
#[derive(Serialize, ToSchema)]
pub(super) struct StateAnswer {
    #[schema(example = "alive")]
    status: &'static str,
}

/// What the node runs.
#[derive(Serialize, ToSchema)]
pub(super) struct VersionAnswer {
    #[schema(example = "kvorum")]
    name: &'static str,
    version: &'static str,
    /// The version of the stored format.
    format: u32,
}

/// Whether the process serves requests.
pub(super) fn alive() -> HttpResponse {
    HttpResponse::Ok().json(StateAnswer { status: "alive" })
}

/// Is the node alive?
///
/// It is if it answers; it may still lack a leader.
#[utoipa::path(get, path = "/health", tag = "status",
    responses((status = 200, description = "alive", body = StateAnswer)))]
pub(super) async fn health<B: Backend>(call: Call<B>) -> Result<HttpResponse, Failure> {
    call.query(&[])?;
    Ok(alive())
}

/// Is the node ready to serve?
#[utoipa::path(get, path = "/ready", tag = "status",
    responses(
        (status = 200, description = "has a leader and has caught up", body = StateAnswer),
        (status = 503, description = "not ready; the message says why", body = ErrorAnswer),
    ))]
pub(super) async fn ready<B: Backend>(call: Call<B>) -> Result<HttpResponse, Failure> {
    call.query(&[])?;
    call.backend().ready().await?;
    Ok(HttpResponse::Ok().json(StateAnswer { status: "ready" }))
}

/// Which version runs?
#[utoipa::path(get, path = "/version", tag = "status",
    responses((status = 200, description = "name, version and stored format", body = VersionAnswer)))]
pub(super) async fn version<B: Backend>(call: Call<B>) -> Result<HttpResponse, Failure> {
    call.query(&[])?;
    let version = env!("CARGO_PKG_VERSION");
    Ok(HttpResponse::Ok().json(VersionAnswer { name: "kvorum", version, format: FORMAT }))
}

/// The state of this node.
#[utoipa::path(get, path = "/v1/status", tag = "status",
    responses((status = 200, description = "the node as it sees itself", body = Status)))]
pub(super) async fn status<B: Backend>(call: Call<B>) -> Result<HttpResponse, Failure> {
    call.query(&[])?;
    Ok(HttpResponse::Ok().json(call.backend().status()))
}

/// Metrics.
///
/// The Raft metrics as JSON; all metrics as text if `Accept` names
/// `application/openmetrics-text` or `text/plain`, as Prometheus does.
#[utoipa::path(get, path = "/metrics", tag = "status",
    responses((status = 200, description = "the metrics", content(
        (Object = "application/json"),
        (String = "application/openmetrics-text"),
        (String = "text/plain"),
    ))))]
pub(super) async fn metrics<B: Backend>(call: Call<B>) -> Result<HttpResponse, Failure> {
    call.query(&[])?;
    let accept = call.request.headers().get_all(header::ACCEPT).filter_map(|line| line.to_str().ok());
    match text_form(accept) {
        Some(content_type) => {
            Ok(HttpResponse::Ok().content_type(content_type).body(call.backend().prometheus()))
        }
        None => Ok(HttpResponse::Ok().json(call.backend().raft_metrics())),
    }
}

/// The content type of the text form, if the client asks for that.
fn text_form<'a>(accept: impl Iterator<Item = &'a str>) -> Option<&'static str> {
    let mut plain = None;
    for range in accept.flat_map(|line| line.split(',')) {
        let media = range.split(';').next().unwrap_or_default().trim();
        if media.eq_ignore_ascii_case("application/openmetrics-text") {
            return Some("application/openmetrics-text; version=1.0.0; charset=utf-8");
        }
        if media.eq_ignore_ascii_case("text/plain") {
            plain = Some("text/plain; version=0.0.4; charset=utf-8");
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_are_text_only_for_those_who_name_it() {
        let form = |accept: &'static str| text_form(std::iter::once(accept));
        let prometheus = "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5,text/plain;version=0.0.4;q=0.2,*/*;q=0.1";
        assert!(form(prometheus).unwrap().starts_with("application/openmetrics-text"));
        assert!(form("text/plain;version=0.0.4").unwrap().starts_with("text/plain"));
        for json in ["*/*", "application/json", "text/html,application/xhtml+xml,*/*;q=0.8", ""] {
            assert_eq!(form(json), None, "{json}");
        }
    }
}

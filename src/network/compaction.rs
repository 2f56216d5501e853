//! `/v1/compact`: gives up the past.

use actix_web::HttpResponse;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::backend::Backend;
use super::call::Call;
use super::error::{ErrorAnswer, Failure};

/// What to give up.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct CompactBody {
    /// The oldest revision that stays readable.
    #[schema(minimum = 1, example = 100)]
    revision: i64,
    /// Answer only when this node holds nothing any more that only older ones needed.
    #[serde(default)]
    physical: bool,
}

/// What was given up.
#[derive(Serialize, ToSchema)]
pub(super) struct CompactAnswer {
    /// The store's revision.
    revision: i64,
    /// The oldest revision that can be read.
    compacted_revision: i64,
}

/// Compact the history.
///
/// Revisions before the given one can't be read any more, and what only they
/// needed is removed from the disk.
#[utoipa::path(
    post,
    path = "/v1/compact",
    tag = "kv",
    request_body(content = CompactBody, example = json!({"revision": 100})),
    responses(
        (status = 200, description = "compacted", body = CompactAnswer),
        (status = 410, description = "that was done before", body = ErrorAnswer),
        (status = 504, description = "compacted, but with `physical` the removal takes longer than the time limit; it goes on", body = ErrorAnswer),
        (status = "default", description = "refused or failed", body = ErrorAnswer),
    )
)]
pub(super) async fn compact<B: Backend>(mut call: Call<B>) -> Result<HttpResponse, Failure> {
    call.query(&[])?;
    let mut permit = call.admit()?;
    let CompactBody { revision: compacted_revision, physical } =
        call.json(&mut permit, r#"{"revision":100}"#).await?;
    if compacted_revision < 1 {
        return Err(Failure::invalid("revision must be at least 1"));
    }
    let revision = call.backend().compact(compacted_revision, physical).await?;
    Ok(HttpResponse::Ok().json(CompactAnswer { revision, compacted_revision }))
}

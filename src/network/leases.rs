//! `/v1/leases`: keys that go when nobody keeps them alive.
//!
//! Times to live are whole seconds. What a lease is and when it ends is the
//! business of the layers below.

use actix_web::HttpResponse;
use actix_web::http::header;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::backend::Backend;
use super::call::Call;
use super::error::{ErrorAnswer, Failure};
use super::kv::{InBase64, text_or_base64};
use super::paced;
use crate::error::Error;

/// A lease to grant.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct GrantBody {
    /// How many seconds it lives unless it is kept alive.
    #[schema(minimum = 1, example = 30)]
    ttl: i64,
    /// Its id; one is chosen if it is absent or zero.
    id: Option<i64>,
}

/// A lease that begins to live, for the first time or anew.
#[derive(Serialize, ToSchema)]
pub(super) struct LivingAnswer {
    /// The store's revision.
    revision: i64,
    /// The lease.
    id: i64,
    /// How many seconds it lives; a little more than was asked for, if that was too short.
    ttl: i64,
}

/// All leases.
#[derive(Serialize, ToSchema)]
pub(super) struct LeasesAnswer {
    /// The store's revision.
    revision: i64,
    /// Their ids, the next to expire first.
    leases: Vec<i64>,
}

/// What is known of a lease.
#[derive(Serialize, ToSchema)]
pub(super) struct LeaseAnswer<'a> {
    /// The store's revision.
    revision: i64,
    /// The lease.
    id: i64,
    /// How many seconds it lives on unless it is kept alive.
    ttl: i64,
    /// Its whole time to live in seconds.
    granted_ttl: i64,
    /// The keys that are attached to it, in order, if they were asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    keys: Option<Vec<KeyAnswer<'a>>>,
}

/// A key alone.
#[derive(Serialize, ToSchema)]
pub(super) struct KeyAnswer<'a> {
    /// The key, if it is UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<&'a str>,
    /// The key in base64, if it is not UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    key_base64: Option<InBase64<'a>>,
}

/// A lease that has ended.
#[derive(Serialize, ToSchema)]
pub(super) struct RevokedAnswer {
    /// The store's revision after its keys were removed.
    revision: i64,
    /// The lease.
    revoked: i64,
}

/// Grant a lease.
#[utoipa::path(
    post,
    path = "/v1/leases",
    tag = "leases",
    request_body(content = GrantBody, example = json!({"ttl": 30})),
    responses(
        (status = 201, description = "granted", body = LivingAnswer, headers(("Location" = String, description = "the lease's path"))),
        (status = 409, description = "there is a lease of that id", body = ErrorAnswer),
        (status = "default", description = "refused or failed", body = ErrorAnswer),
    )
)]
pub(super) async fn grant<B: Backend>(mut call: Call<B>) -> Result<HttpResponse, Failure> {
    call.query(&[])?;
    let mut permit = call.admit()?;
    let GrantBody { ttl, id } = call.json(&mut permit, r#"{"ttl":30} or {"ttl":30,"id":7}"#).await?;
    if ttl < 1 {
        return Err(Failure::invalid("ttl must be at least 1, in seconds"));
    }
    let granted = call.backend().lease_grant(id.unwrap_or(0), ttl).await?;
    let mut response = HttpResponse::Created();
    response.insert_header((header::LOCATION, format!("/v1/leases/{}", granted.id)));
    Ok(response.json(LivingAnswer { revision: granted.revision, id: granted.id, ttl: granted.ttl }))
}

/// List the leases.
#[utoipa::path(
    get,
    path = "/v1/leases",
    tag = "leases",
    responses(
        (status = 200, description = "the leases", body = LeasesAnswer),
        (status = "default", description = "refused or failed", body = ErrorAnswer),
    )
)]
pub(super) async fn list<B: Backend>(call: Call<B>) -> Result<HttpResponse, Failure> {
    call.query(&[])?;
    let permit = call.admit()?;
    let (revision, leases) = call.backend().leases().await?;
    let answer = LeasesAnswer { revision, leases };
    paced::json_answer(&call, permit, &mut HttpResponse::Ok(), &answer, 0)
}

/// Look at a lease.
#[utoipa::path(
    get,
    path = "/v1/leases/{id}",
    tag = "leases",
    params(
        ("id" = i64, Path, description = "the lease"),
        ("keys" = Option<bool>, Query, description = "answer the keys that are attached to it"),
    ),
    responses(
        (status = 200, description = "what is known of it", body = LeaseAnswer, content_type = "application/json"),
        (status = 404, description = "there is no such lease, or it has ended", body = ErrorAnswer),
        (status = "default", description = "refused or failed", body = ErrorAnswer),
    )
)]
pub(super) async fn get<B: Backend>(call: Call<B>) -> Result<HttpResponse, Failure> {
    let with_keys = call.query(&["keys"])?.flag("keys")?;
    let id = call.path_number("id")?;
    let permit = call.admit()?;
    let known = call.backend().lease_time_to_live(id, with_keys).await?;
    if known.granted_ttl == 0 {
        return Err(Error::LeaseNotFound { id }.into());
    }
    let keys = known.keys.iter().map(|key| {
        let (key, key_base64) = text_or_base64(key);
        KeyAnswer { key, key_base64 }
    });
    let answer = LeaseAnswer {
        revision: known.revision,
        id: known.id,
        ttl: known.ttl,
        granted_ttl: known.granted_ttl,
        keys: with_keys.then(|| keys.collect()),
    };
    paced::json_answer(&call, permit, &mut HttpResponse::Ok(), &answer, 0)
}

/// Keep a lease alive.
///
/// Its time to live begins anew.
#[utoipa::path(
    post,
    path = "/v1/leases/{id}/keep-alive",
    tag = "leases",
    params(("id" = i64, Path, description = "the lease")),
    responses(
        (status = 200, description = "it lives on", body = LivingAnswer),
        (status = 404, description = "there is no such lease, or it has ended", body = ErrorAnswer),
        (status = "default", description = "refused or failed", body = ErrorAnswer),
    )
)]
pub(super) async fn keep_alive<B: Backend>(call: Call<B>) -> Result<HttpResponse, Failure> {
    call.query(&[])?;
    let id = call.path_number("id")?;
    let _permit = call.admit()?;
    let renewed = call.backend().lease_keep_alive(id).await?;
    if renewed.ttl == 0 {
        return Err(Error::LeaseNotFound { id }.into());
    }
    Ok(HttpResponse::Ok().json(LivingAnswer { revision: renewed.revision, id, ttl: renewed.ttl }))
}

/// Revoke a lease.
///
/// It ends, and the keys that are attached to it are removed.
#[utoipa::path(
    delete,
    path = "/v1/leases/{id}",
    tag = "leases",
    params(("id" = i64, Path, description = "the lease")),
    responses(
        (status = 200, description = "it has ended and its keys are gone", body = RevokedAnswer),
        (status = 404, description = "there is no such lease, or it has ended", body = ErrorAnswer),
        (status = 504, description = "it has ended, but its many keys are still being removed; that goes on", body = ErrorAnswer),
        (status = "default", description = "refused or failed", body = ErrorAnswer),
    )
)]
pub(super) async fn revoke<B: Backend>(call: Call<B>) -> Result<HttpResponse, Failure> {
    call.query(&[])?;
    let id = call.path_number("id")?;
    let _permit = call.admit()?;
    let revision = call.backend().lease_revoke(id).await?;
    Ok(HttpResponse::Ok().json(RevokedAnswer { revision, revoked: id }))
}

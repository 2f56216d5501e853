//! The seed's key-value calls: `/write`, `/read`, `/read-all`.
//!
//! Their form is fixed for good: JSON in, a JSON string or object out, keys and
//! values are UTF-8. Reads are local unless the query asks otherwise. What is
//! not UTF-8 is refused by the name of the call that can read it, never mangled.

use std::rc::Rc;

use actix_web::HttpResponse;
use actix_web::http::header::ContentType;
use bytes::Bytes;
use futures_util::stream;
use serde::Deserialize;
use utoipa::ToSchema;

use super::backend::Backend;
use super::call::{Call, Shared};
use super::error::{ErrorAnswer, Failure};
use super::paced;
use super::query::CONSISTENCY;
use crate::command::Command;
use crate::error::Error;
use crate::mvcc::{Page, RangeQuery};
use crate::service::Consistency;

/// How much of the store `/read-all` reads at a time.
const PAGE_BYTES: usize = 256 << 10;

/// A change of one key.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) enum SeedWrite {
    /// Sets the key's value.
    Put {
        /// The key.
        key: String,
        /// The value, possibly empty.
        value: String,
    },
    /// Removes the key, if it is there.
    Del {
        /// The key.
        key: String,
    },
}

impl From<SeedWrite> for Command {
    fn from(write: SeedWrite) -> Self {
        match write {
            SeedWrite::Put { key, value } => Self::put(key, value),
            SeedWrite::Del { key } => Self::delete(key),
        }
    }
}

/// Set or remove a key.
///
/// Answers once the write is committed and applied.
#[utoipa::path(
    post,
    path = "/write",
    tag = "seed",
    request_body(content = SeedWrite, example = json!({"Put": {"key": "k", "value": "v"}})),
    params(("Idempotency-Key" = Option<String>, Header, description = "1 to 256 bytes; makes retries apply at most once")),
    responses(
        (status = 200, description = "committed and applied", body = String, example = json!("Ok")),
        (status = "default", description = "refused or failed", body = ErrorAnswer),
    )
)]
pub(super) async fn write<B: Backend>(mut call: Call<B>) -> Result<HttpResponse, Failure> {
    call.query(&[])?;
    let mut permit = call.admit()?;
    let write: SeedWrite =
        call.json(&mut permit, r#"{"Put":{"key":"k","value":"v"}} or {"Del":{"key":"k"}}"#).await?;
    let mut command = Command::from(write);
    command.idempotency = call.idempotency()?;
    call.backend().write(command).await?;
    Ok(done())
}

/// The seed's answer of all calls that change something.
pub(super) fn done() -> HttpResponse {
    HttpResponse::Ok().content_type(ContentType::json()).body(Bytes::from_static(b"\"Ok\""))
}

/// Read a key.
///
/// The answer is the value as a JSON string, `""` when the key does not exist.
#[utoipa::path(
    post,
    path = "/read",
    tag = "seed",
    request_body(content = String, content_type = "application/json", example = json!("k")),
    params(("consistency" = Option<String>, Query, description = "linearizable, lease or local (the default here)")),
    responses(
        (status = 200, description = "the value; empty when the key does not exist", body = String, example = json!("v")),
        (status = "default", description = "refused or failed", body = ErrorAnswer),
    )
)]
pub(super) async fn read<B: Backend>(mut call: Call<B>) -> Result<HttpResponse, Failure> {
    let consistency = call.query(&[CONSISTENCY])?.consistency(Consistency::Local)?;
    let mut permit = call.admit()?;
    let key: String = call.json(&mut permit, "\"k\"").await?;
    call.check_key("key", key.as_bytes())?;
    let lookup = call.backend().get(key.as_bytes(), None, consistency).await?;
    let value = lookup.record.map(|record| record.value).unwrap_or_default();
    let mut json = Vec::with_capacity(value.len() + 2);
    if !put_json_string(&mut json, &value) {
        return Err(Failure::invalid("the value is not UTF-8; GET /v1/kv/{key} returns it byte for byte"));
    }
    paced::answer(&call, permit, HttpResponse::Ok().content_type(ContentType::json()), json.into())
}

/// Read everything.
///
/// The answer is an object of all keys and values at one revision. If reading
/// fails midway, the connection is aborted and the object stays open.
#[utoipa::path(
    method(get, post),
    path = "/read-all",
    tag = "seed",
    params(("consistency" = Option<String>, Query, description = "linearizable, lease or local (the default here)")),
    responses(
        (status = 200, description = "all keys and values", body = Object, content_type = "application/json", example = json!({"k": "v"})),
        (status = "default", description = "refused or failed", body = ErrorAnswer),
    )
)]
pub(super) async fn read_all<B: Backend>(call: Call<B>) -> Result<HttpResponse, Failure> {
    let consistency = call.query(&[CONSISTENCY])?.consistency(Consistency::Local)?;
    let mut permit = call.admit()?;
    // A page and its JSON are in memory at a time.
    call.hold(&mut permit, 2 * PAGE_BYTES)?;
    // The first page is read before the answer begins, so that what goes wrong
    // at once (no leader, a binary value near the front) has its own status.
    let page = call.backend().range(page_from(Bytes::new(), None), consistency).await?;
    let at = page.at;
    let (first, next) = render(call.backend(), &page, true)?;
    drop(page);
    let mut response = HttpResponse::Ok();
    response.content_type(ContentType::json());
    match next {
        None => paced::answer(&call, permit, &mut response, first),
        Some(next) => {
            let rest = Rest { shared: Rc::clone(&call.shared), at, next: Some(next) };
            Ok(paced::stream(&call, permit, &mut response, first, stream::try_unfold(rest, Rest::page)))
        }
    }
}

/// What of a dump is still to be read.
struct Rest<B> {
    shared: Rc<Shared<B>>,
    at: i64,
    next: Option<Bytes>,
}

impl<B: Backend> Rest<B> {
    async fn page(mut self) -> Result<Option<(Bytes, Self)>, Failure> {
        let Some(start) = self.next.take() else { return Ok(None) };
        // This node has served revision `at`, so it need not ask anyone again.
        let backend = &self.shared.backend;
        let page = backend.range(page_from(start, Some(self.at)), Consistency::Local).await?;
        let (json, next) = render(backend, &page, false)?;
        Ok(Some((json, Self { next, ..self })))
    }
}

fn page_from(start: Bytes, at: Option<i64>) -> RangeQuery {
    RangeQuery {
        start,
        end: None,
        at,
        limit: usize::MAX,
        max_bytes: PAGE_BYTES,
        keys_only: false,
        count_only: false,
    }
}

/// A page as a piece of the dump's object, and the key that the next one starts with.
fn render<B: Backend>(backend: &B, page: &Page, first: bool) -> Result<(Bytes, Option<Bytes>), Failure> {
    let next = next_key(backend, page)?;
    let mut json = Vec::with_capacity(PAGE_BYTES / 4);
    if first {
        json.push(b'{');
    }
    for (n, item) in page.items.iter().enumerate() {
        if !first || n > 0 {
            json.push(b',');
        }
        let text = put_json_string(&mut json, &item.key) && {
            json.push(b':');
            put_json_string(&mut json, &item.record.value)
        };
        if !text {
            return Err(Failure::invalid(format!(
                "the key or value of {:?} is not UTF-8; GET /v1/kv lists and GET /v1/kv/{{key}} reads it",
                String::from_utf8_lossy(&item.key)
            )));
        }
    }
    if next.is_none() {
        json.push(b'}');
    }
    Ok((json.into(), next))
}

/// The key after a page's last one, if there is more.
pub(super) fn next_key<B: Backend>(backend: &B, page: &Page) -> Result<Option<Bytes>, Error> {
    if !page.more {
        return Ok(None);
    }
    let Some(last) = page.items.last() else {
        let reason = "a page is empty although there is more".to_owned();
        return Err(Error::Internal { node: backend.node_id(), reason });
    };
    let mut next = Vec::with_capacity(last.key.len() + 1);
    next.extend_from_slice(&last.key);
    next.push(0);
    Ok(Some(next.into()))
}

/// Appends `text` as a JSON string; false if it is not UTF-8.
fn put_json_string(out: &mut Vec<u8>, text: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(text) else { return false };
    serde_json::to_writer(out, text).expect("a string has a JSON form and memory takes it");
    true
}

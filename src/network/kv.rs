//! `/v1/kv`: keys and values as raw bytes, conditions as entity tags, listings in pages.

use actix_web::HttpResponse;
use actix_web::http::header::{self, ContentType, HeaderName, HeaderValue};
use base64::display::Base64Display;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::{Serialize, Serializer};
use utoipa::ToSchema;

use super::api::next_key;
use super::backend::Backend;
use super::call::{BodyLimit, Call};
use super::cursor::Cursor;
use super::error::{ErrorAnswer, Failure, REVISION};
use super::etag::{self, ReadConditions, Verdict};
use super::paced;
use super::query::{CONSISTENCY, Query};
use crate::command::{Command, Condition, Outcome, OutcomeResult, Write};
use crate::error::Error;
use crate::keyspace::KeyRange;
use crate::mvcc::{KeyValue, RangeQuery, Record};
use crate::service::Consistency;

const CREATE_REVISION: HeaderName = HeaderName::from_static("x-kvorum-create-revision");
const VERSION: HeaderName = HeaderName::from_static("x-kvorum-version");
const LEASE: HeaderName = HeaderName::from_static("x-kvorum-lease");

/// Where keys begin in a path.
const KEY_PREFIX: &str = "/v1/kv/";

/// How many keys a page has unless the client says otherwise.
const DEFAULT_PAGE_KEYS: usize = 1000;

const LIST_PARAMETERS: &[&str] =
    &["prefix", "start", "end", "limit", "cursor", "keys_only", "count_only", "revision", CONSISTENCY];

/// The answer of a put.
#[derive(Serialize, ToSchema)]
pub(super) struct PutAnswer {
    /// The revision of this write, which is now the key's modification revision.
    revision: i64,
    /// Whether the key did not exist before.
    created: bool,
    /// How often the key was written since it was created.
    version: i64,
}

/// The answer of a delete.
#[derive(Serialize, ToSchema)]
pub(super) struct DeleteAnswer {
    /// The store's revision after the call.
    revision: i64,
    /// How many keys were removed: 1, or 0 if the key did not exist.
    deleted: u64,
}

/// Set a key.
///
/// The body is the value, byte for byte. Answers once the write is committed and applied.
#[utoipa::path(
    put,
    path = "/v1/kv/{key}",
    tag = "kv",
    request_body(content = Vec<u8>, content_type = "application/octet-stream", description = "the value"),
    params(
        ("key" = String, Path, description = "percent-encoded bytes; slashes may stand as they are"),
        ("lease" = Option<i64>, Query, description = "the lease that the key is attached to"),
        ("If-Match" = Option<String>, Header, description = "\"REV\": only if this is the modification revision; *: only if the key exists"),
        ("If-None-Match" = Option<String>, Header, description = "*: only if the key does not exist"),
        ("Idempotency-Key" = Option<String>, Header, description = "1 to 256 bytes; makes retries apply at most once"),
    ),
    responses(
        (status = 200, description = "replaced", body = PutAnswer, headers(("ETag" = String, description = "the modification revision in quotes"))),
        (status = 201, description = "created", body = PutAnswer, headers(("ETag" = String, description = "the modification revision in quotes"))),
        (status = 412, description = "the condition does not hold", body = ErrorAnswer),
        (status = "default", description = "refused or failed", body = ErrorAnswer),
    )
)]
pub(super) async fn put<B: Backend>(mut call: Call<B>) -> Result<HttpResponse, Failure> {
    let key = call.path_key(KEY_PREFIX)?;
    let lease = call.query(&["lease"])?.number("lease", 0)?.unwrap_or(0);
    let condition = etag::write_condition(call.request.headers())?;
    // RFC 9110 §14.5: a part must not be stored as if it were the whole.
    if call.request.headers().contains_key(header::CONTENT_RANGE) {
        return Err(Failure::invalid("a value can't be written in part; send it without Content-Range"));
    }
    let mut permit = call.admit()?;
    let max = call.backend().limits().max_value_bytes;
    let limit = BodyLimit { what: "value", bytes: max, option: "max_value_bytes" };
    let value = call.body(&mut permit, limit).await?;
    let outcome = submit(&call, Write::Put { key, value, lease }, condition).await?;
    let OutcomeResult::Put { created, version } = outcome.result else {
        return Err(unexpected(&call, &outcome));
    };
    let revision = outcome.revision;
    let mut response = if created { HttpResponse::Created() } else { HttpResponse::Ok() };
    response.insert_header((header::ETAG, etag::format(revision)));
    Ok(response.json(PutAnswer { revision, created, version }))
}

/// Remove a key.
///
/// Removing a key that does not exist succeeds and says so.
#[utoipa::path(
    delete,
    path = "/v1/kv/{key}",
    tag = "kv",
    params(
        ("key" = String, Path, description = "percent-encoded bytes; slashes may stand as they are"),
        ("If-Match" = Option<String>, Header, description = "\"REV\": only if this is the modification revision; *: only if the key exists"),
        ("Idempotency-Key" = Option<String>, Header, description = "1 to 256 bytes; makes retries apply at most once"),
    ),
    responses(
        (status = 200, description = "the key does not exist any more", body = DeleteAnswer),
        (status = 412, description = "the condition does not hold", body = ErrorAnswer),
        (status = "default", description = "refused or failed", body = ErrorAnswer),
    )
)]
pub(super) async fn delete<B: Backend>(call: Call<B>) -> Result<HttpResponse, Failure> {
    let key = call.path_key(KEY_PREFIX)?;
    call.query(&[])?;
    let condition = etag::write_condition(call.request.headers())?;
    if condition == Some(Condition::Absent) {
        return Err(Failure::invalid("If-None-Match makes no sense on a delete; use If-Match"));
    }
    let _permit = call.admit()?;
    let outcome = submit(&call, Write::Delete { key }, condition).await?;
    let OutcomeResult::Deleted { count } = outcome.result else {
        return Err(unexpected(&call, &outcome));
    };
    Ok(HttpResponse::Ok().json(DeleteAnswer { revision: outcome.revision, deleted: count }))
}

async fn submit<B: Backend>(
    call: &Call<B>,
    write: Write,
    condition: Option<Condition>,
) -> Result<Outcome, Failure> {
    let idempotency = call.idempotency()?;
    Ok(call.backend().write(Command { write, condition, idempotency }).await?)
}

fn unexpected<B: Backend>(call: &Call<B>, outcome: &Outcome) -> Failure {
    let reason = format!("the write was answered with another write's outcome: {outcome}");
    Error::Internal { node: call.backend().node_id(), reason }.into()
}

/// Read a key.
///
/// The body is the value, byte for byte; headers say what is known about it.
#[utoipa::path(
    method(get, head),
    path = "/v1/kv/{key}",
    tag = "kv",
    params(
        ("key" = String, Path, description = "percent-encoded bytes; slashes may stand as they are"),
        ("revision" = Option<i64>, Query, description = "read the store as it was at this revision"),
        ("consistency" = Option<String>, Query, description = "linearizable (the default), lease or local"),
        ("If-None-Match" = Option<String>, Header, description = "\"REV\", …: 304 if the modification revision is one of these"),
        ("If-Match" = Option<String>, Header, description = "\"REV\", …: 412 unless the modification revision is one of these"),
    ),
    responses(
        (status = 200, description = "the value", body = Vec<u8>, content_type = "application/octet-stream", headers(
            ("ETag" = String, description = "the modification revision in quotes"),
            ("X-Kvorum-Revision" = i64, description = "the store's revision"),
            ("X-Kvorum-Create-Revision" = i64, description = "the revision that created the key"),
            ("X-Kvorum-Version" = i64, description = "how often the key was written since"),
            ("X-Kvorum-Lease" = i64, description = "the lease that the key is attached to, if any"),
        )),
        (status = 304, description = "the client has this value already"),
        (status = 404, description = "the key does not exist", body = ErrorAnswer),
        (status = 412, description = "the condition does not hold", body = ErrorAnswer),
        (status = "default", description = "refused or failed", body = ErrorAnswer),
    )
)]
pub(super) async fn get<B: Backend>(call: Call<B>) -> Result<HttpResponse, Failure> {
    let key = call.path_key(KEY_PREFIX)?;
    let query = call.query(&["revision", CONSISTENCY])?;
    let at = query.number("revision", 1)?;
    let consistency = query.consistency(Consistency::Linearizable)?;
    let conditions = ReadConditions::of(call.request.headers())?;
    let permit = call.admit()?;
    let lookup = call.backend().get(&key, at, consistency).await?;
    let revision = lookup.revision;
    let mod_revision = lookup.record.as_ref().map(|record| record.mod_revision);
    match (conditions.judge(mod_revision), lookup.record) {
        (Verdict::Failed, _) => {
            Err(Error::ConditionFailed { mod_revision: mod_revision.unwrap_or(0), revision }.into())
        }
        (Verdict::NotModified | Verdict::Proceed, None) => Err(Failure::KeyAbsent { revision }),
        (Verdict::NotModified, Some(record)) => {
            Err(Failure::NotModified { mod_revision: record.mod_revision, revision })
        }
        (Verdict::Proceed, Some(record)) => {
            let mut response = HttpResponse::Ok();
            response
                .content_type(ContentType::octet_stream())
                .insert_header((header::ETAG, etag::format(record.mod_revision)))
                .insert_header((REVISION, HeaderValue::from(revision)))
                .insert_header((CREATE_REVISION, HeaderValue::from(record.create_revision)))
                .insert_header((VERSION, HeaderValue::from(record.version)));
            if record.lease != 0 {
                response.insert_header((LEASE, HeaderValue::from(record.lease)));
            }
            paced::answer(&call, permit, &mut response, record.value)
        }
    }
}

/// A key and its value in an answer.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Item<'a> {
    /// The key, if it is UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<&'a str>,
    /// The key in base64, if it is not UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    key_base64: Option<InBase64<'a>>,
    /// The value, if it is UTF-8 and wanted.
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<&'a str>,
    /// The value in base64, if it is not UTF-8 and wanted.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    value_base64: Option<InBase64<'a>>,
    /// The revision that created the key.
    create_revision: i64,
    /// The revision that last wrote the key.
    mod_revision: i64,
    /// How often the key was written since it was created.
    version: i64,
    /// The lease that the key is attached to, if any.
    #[serde(skip_serializing_if = "is_zero")]
    lease: i64,
}

/// Bytes that are shown in base64, without a copy of them that is.
#[derive(Debug)]
pub(super) struct InBase64<'a>(&'a [u8]);

impl Serialize for InBase64<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&Base64Display::new(self.0, &STANDARD))
    }
}

/// Bytes as JSON shows them: as text if they are UTF-8, otherwise in base64.
pub(super) fn text_or_base64(bytes: &[u8]) -> (Option<&str>, Option<InBase64<'_>>) {
    match std::str::from_utf8(bytes) {
        Ok(text) => (Some(text), None),
        Err(_) => (None, Some(InBase64(bytes))),
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes fields by reference")]
fn is_zero(lease: &i64) -> bool {
    *lease == 0
}

impl<'a> Item<'a> {
    pub(super) fn of(item: &'a KeyValue, keys_only: bool) -> Self {
        Self::of_parts(&item.key, &item.record, keys_only)
    }

    pub(super) fn of_parts(key: &'a [u8], record: &'a Record, keys_only: bool) -> Self {
        let (key, key_base64) = text_or_base64(key);
        let (value, value_base64) = if keys_only { (None, None) } else { text_or_base64(&record.value) };
        Self {
            key,
            key_base64,
            value,
            value_base64,
            create_revision: record.create_revision,
            mod_revision: record.mod_revision,
            version: record.version,
            lease: record.lease,
        }
    }
}

/// A page of a listing.
#[derive(Serialize, ToSchema)]
pub(super) struct ListAnswer<'a> {
    /// The revision that this and all further pages of the listing reflect.
    revision: i64,
    /// The keys in order of their bytes.
    items: Vec<Item<'a>>,
    /// Whether the listing goes on.
    more: bool,
    /// What to ask for the next page with; null on the last.
    cursor: Option<String>,
}

/// The answer of a listing that only counts.
#[derive(Serialize, ToSchema)]
pub(super) struct CountAnswer {
    /// The revision that the count reflects.
    revision: i64,
    /// How many keys the range has.
    count: u64,
}

/// List keys.
///
/// All keys, those with a prefix, or those from `start` to before `end`, in
/// pages that all reflect one revision. `count_only` counts them instead.
#[utoipa::path(
    get,
    path = "/v1/kv",
    tag = "kv",
    params(
        ("prefix" = Option<String>, Query, description = "only keys that begin with these bytes"),
        ("start" = Option<String>, Query, description = "only keys from this one on"),
        ("end" = Option<String>, Query, description = "only keys before this one; empty is no end"),
        ("limit" = Option<u64>, Query, description = "the most keys of a page; 1000 if absent"),
        ("cursor" = Option<String>, Query, description = "the cursor of the page before"),
        ("keys_only" = Option<bool>, Query, description = "leave the values out"),
        ("count_only" = Option<bool>, Query, description = "answer the number of keys"),
        ("revision" = Option<i64>, Query, description = "read the store as it was at this revision"),
        ("consistency" = Option<String>, Query, description = "linearizable (the default), lease or local"),
    ),
    responses(
        (status = 200, description = "a page, or with count_only a count", body = ListAnswer, content_type = "application/json"),
        (status = "default", description = "refused or failed", body = ErrorAnswer),
    )
)]
pub(super) async fn list<B: Backend>(call: Call<B>) -> Result<HttpResponse, Failure> {
    let query = call.query(LIST_PARAMETERS)?;
    let consistency = query.consistency(Consistency::Linearizable)?;
    let listing = Listing::of(&call, &query)?;
    let mut permit = call.admit()?;
    let limits = call.backend().limits();
    // A page is held while it is read and encoded.
    call.hold(&mut permit, limits.max_page_bytes)?;
    let request = RangeQuery {
        start: listing.next,
        end: listing.end.clone(),
        at: listing.revision,
        limit: listing.limit,
        max_bytes: limits.max_page_bytes,
        keys_only: listing.keys_only,
        count_only: listing.count_only,
    };
    let page = call.backend().range(request, consistency).await?;
    let revision = page.at;
    let mut response = HttpResponse::Ok();
    if listing.count_only {
        let Some(count) = page.count else {
            let reason = "a count was not answered with a count".to_owned();
            return Err(Error::Internal { node: call.backend().node_id(), reason }.into());
        };
        let answer = CountAnswer { revision, count };
        paced::json_answer(&call, permit, &mut response, &answer, limits.max_page_bytes)
    } else {
        let cursor = next_key(call.backend(), &page)?
            .map(|next| Cursor { revision, start: listing.start, end: listing.end, next }.encode());
        let items = page.items.iter().map(|item| Item::of(item, listing.keys_only)).collect();
        let answer = ListAnswer { revision, items, more: page.more, cursor };
        paced::json_answer(&call, permit, &mut response, &answer, limits.max_page_bytes)
    }
}

/// What a listing's query asks for.
struct Listing {
    start: Bytes,
    end: Option<Bytes>,
    next: Bytes,
    revision: Option<i64>,
    limit: usize,
    keys_only: bool,
    count_only: bool,
}

impl Listing {
    fn of<B: Backend>(call: &Call<B>, query: &Query) -> Result<Self, Failure> {
        let limits = call.backend().limits();
        let revision = query.number("revision", 1)?;
        let max = limits.max_page_keys;
        let limit = match query.number("limit", 1)? {
            None => DEFAULT_PAGE_KEYS.min(max),
            Some(limit) => usize::try_from(limit)
                .ok()
                .filter(|limit| *limit <= max)
                .ok_or_else(|| Failure::invalid(format!("limit must be at most {max} (max_page_keys)")))?,
        };
        let keys_only = query.flag("keys_only")?;
        let count_only = query.flag("count_only")?;
        if count_only && (keys_only || query.has("limit") || query.has("cursor")) {
            return Err(Failure::invalid(
                "count_only counts the whole range; it can't be combined with keys_only, limit or cursor",
            ));
        }
        let asked = Self::range(call, query)?;
        let Some(text) = query.bytes("cursor") else {
            let (start, end) = asked.unwrap_or_default();
            let next = start.clone();
            return Ok(Self { start, end, next, revision, limit, keys_only, count_only });
        };
        let cursor = Cursor::decode(text, limits.max_key_bytes)?;
        if asked.is_some_and(|(start, end)| start != cursor.start || end != cursor.end) {
            return Err(Failure::invalid(
                "the cursor belongs to another range; leave prefix, start and end out, or as they were",
            ));
        }
        if revision.is_some_and(|revision| revision != cursor.revision) {
            return Err(Failure::invalid("the cursor belongs to another revision; leave revision out"));
        }
        let Cursor { revision, start, end, next } = cursor;
        Ok(Self { start, end, next, revision: Some(revision), limit, keys_only, count_only })
    }

    /// The range that is asked for, if one is: its start and its exclusive end.
    fn range<B: Backend>(call: &Call<B>, query: &Query) -> Result<Option<(Bytes, Option<Bytes>)>, Failure> {
        call.check_query_keys(query, &["prefix", "start", "end"])?;
        match (query.bytes("prefix"), query.bytes("start"), query.bytes("end")) {
            (None, None, None) => Ok(None),
            (Some(prefix), None, None) => {
                let range = KeyRange::prefix(prefix.clone());
                Ok(Some((range.start().clone(), range.end())))
            }
            (None, start, end) => {
                let start = start.cloned().unwrap_or_default();
                let end = end.filter(|end| !end.is_empty()).cloned();
                if end.as_ref().is_some_and(|end| *end <= start) {
                    return Err(Failure::invalid("end must come after start in the order of bytes"));
                }
                Ok(Some((start, end)))
            }
            (Some(_), _, _) => Err(Failure::invalid("prefix can't be combined with start or end")),
        }
    }
}

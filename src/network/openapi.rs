//! The `OpenAPI` document, generated from the handlers, and a page to try it with.

use std::sync::{Arc, LazyLock};

use actix_web::http::header::{self, ContentType};
use actix_web::{HttpRequest, HttpResponse};
use bytes::Bytes;
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::{Modify, OpenApi};

use super::error::Failure;
use super::{api, batch, compaction, kv, leases, management, status, txn, watch};
use crate::error::Error;

/// Where the page lies.
const PAGE: &str = "/docs/";

#[derive(OpenApi)]
#[openapi(
    info(title = "Kvorum", description = "A strongly consistent, replicated key-value store."),
    paths(
        api::write, api::read, api::read_all,
        kv::put, kv::get, kv::delete, kv::list, compaction::compact,
        txn::txn, batch::batch, watch::watch,
        leases::grant, leases::list, leases::get, leases::keep_alive, leases::revoke,
        management::init, management::add_learner, management::change_membership,
        management::members, management::add_member, management::promote, management::remove_member,
        management::transfer_leader, management::build_snapshot,
        status::health, status::ready, status::version, status::status, status::metrics,
        document, to_page, page,
    ),
    components(schemas(kv::CountAnswer, watch::ProgressMessage)),
    tags(
        (name = "seed", description = "JSON strings in, JSON strings out; reads are local unless asked otherwise"),
        (name = "kv", description = "raw bytes, conditions, pages; linearizable unless asked otherwise"),
        (name = "txn", description = "many operations in one call: all at one revision, or in bulk"),
        (name = "leases", description = "keys that go when nobody keeps them alive"),
        (name = "management", description = "the cluster and its members"),
        (name = "status", description = "what a node says about itself"),
        (name = "docs", description = "this document"),
    ),
    modifiers(&ClusterSecret),
)]
pub(super) struct Document;

struct ClusterSecret;

impl Modify for ClusterSecret {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        let scheme = HttpBuilder::new()
            .scheme(HttpAuthScheme::Bearer)
            .description(Some("the cluster's secret, if one is configured"))
            .build();
        document
            .components
            .get_or_insert_default()
            .add_security_scheme("cluster_secret", SecurityScheme::Http(scheme));
    }
}

static DOCUMENT: LazyLock<Bytes> = LazyLock::new(|| {
    let json = Document::openapi().to_json().expect("the document is made of strings and numbers");
    json.into()
});

static PAGE_CONFIG: LazyLock<Arc<utoipa_swagger_ui::Config<'static>>> =
    LazyLock::new(|| Arc::new(utoipa_swagger_ui::Config::from("/openapi.json").use_base_layout()));

/// This document.
#[utoipa::path(get, path = "/openapi.json", tag = "docs",
    responses((status = 200, description = "OpenAPI 3.1", body = Object, content_type = "application/json")))]
pub(super) async fn document() -> HttpResponse {
    HttpResponse::Ok().content_type(ContentType::json()).body(DOCUMENT.clone())
}

/// To the page.
#[utoipa::path(get, path = "/docs", tag = "docs",
    responses((status = 308, description = "the page has a slash at its end, which its links need")))]
pub(super) async fn to_page() -> HttpResponse {
    HttpResponse::PermanentRedirect().insert_header((header::LOCATION, PAGE)).finish()
}

/// A page to try the API with.
#[utoipa::path(get, path = "/docs/{file}", tag = "docs",
    params(("file" = String, Path, description = "a file of the page; empty is the page itself")),
    responses((status = 200, description = "the file", body = String, content_type = "text/html")))]
pub(super) async fn page(request: HttpRequest) -> Result<HttpResponse, Failure> {
    let file = request.uri().path().strip_prefix(PAGE).ok_or(Failure::UnknownPath)?;
    let found = utoipa_swagger_ui::serve(file, Arc::clone(&PAGE_CONFIG))
        .map_err(|error| Error::NotFound(format!("the page's file can't be served: {error}")))?
        .ok_or(Failure::UnknownPath)?;
    let mut response = HttpResponse::Ok();
    if found.gzpipped {
        response.insert_header(header::ContentEncoding::Gzip);
    }
    Ok(response.content_type(found.content_type).body(found.bytes.into_owned()))
}

//! The routes, as a table that is both what is served and what can be listed.
//!
//! Building the app from the table is the only way to serve a path, so the
//! test that compares the table with the `OpenAPI` document can't be fooled. For
//! each path, methods that are not in the table are answered with 405 and the
//! list of those that are.

use actix_web::guard::{self, Guard};
use actix_web::http::Method;
use actix_web::web::{self, ServiceConfig};
use actix_web::{FromRequest, Handler, HttpResponse, Responder, Route};

use super::backend::Backend;
use super::error::Failure;
use super::{api, batch, compaction, kv, leases, management, openapi, status, txn, watch};

/// How a path is matched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Matching {
    /// The path as it stands, with its named segments.
    Whole,
    /// The path's last segment takes all the rest, slashes included.
    Tail,
}

struct Entry {
    path: &'static str,
    matching: Matching,
    routes: Vec<(Method, Route)>,
}

/// All routes. The first path that matches wins, so the busiest come first.
#[derive(Default)]
pub(super) struct Table {
    entries: Vec<Entry>,
}

impl Table {
    /// Every route but the peers'.
    pub(super) fn new<B: Backend>() -> Self {
        let mut table = Self::default();
        table.on(Method::POST, "/write", api::write::<B>);
        table.on(Method::POST, "/read", api::read::<B>);
        table.on(Method::GET, "/v1/kv", kv::list::<B>);
        table.on_tail(Method::GET, "/v1/kv/{key}", kv::get::<B>);
        table.on_tail(Method::PUT, "/v1/kv/{key}", kv::put::<B>);
        table.on_tail(Method::DELETE, "/v1/kv/{key}", kv::delete::<B>);
        table.on(Method::POST, "/v1/txn", txn::txn::<B>);
        table.on(Method::POST, "/v1/batch", batch::batch::<B>);
        table.on(Method::GET, "/v1/watch", watch::watch::<B>);
        table.on(Method::POST, "/v1/leases/{id}/keep-alive", leases::keep_alive::<B>);
        table.on(Method::GET, "/v1/leases/{id}", leases::get::<B>);
        table.on(Method::DELETE, "/v1/leases/{id}", leases::revoke::<B>);
        table.on(Method::POST, "/v1/leases", leases::grant::<B>);
        table.on(Method::GET, "/v1/leases", leases::list::<B>);
        table.on(Method::POST, "/v1/compact", compaction::compact::<B>);
        table.on(Method::GET, "/read-all", api::read_all::<B>);
        table.on(Method::POST, "/read-all", api::read_all::<B>);

        table.on(Method::GET, "/health", status::health::<B>);
        table.on(Method::GET, "/ready", status::ready::<B>);
        table.on(Method::GET, "/version", status::version::<B>);
        table.on(Method::GET, "/metrics", status::metrics::<B>);
        table.on(Method::GET, "/v1/status", status::status::<B>);

        table.on(Method::POST, "/init", management::init::<B>);
        table.on(Method::POST, "/add-learner", management::add_learner::<B>);
        table.on(Method::POST, "/change-membership", management::change_membership::<B>);
        table.on(Method::GET, "/v1/members", management::members::<B>);
        table.on(Method::POST, "/v1/members", management::add_member::<B>);
        table.on(Method::POST, "/v1/leader/transfer", management::transfer_leader::<B>);
        table.on(Method::POST, "/v1/snapshot", management::build_snapshot::<B>);
        table.on(Method::DELETE, "/v1/members/{id}", management::remove_member::<B>);
        table.on(Method::POST, "/v1/members/{id}/promote", management::promote::<B>);

        table.on(Method::GET, "/openapi.json", openapi::document);
        table.on(Method::GET, "/docs", openapi::to_page);
        table.on_tail(Method::GET, "/docs/{file}", openapi::page);
        table
    }

    /// The routes of a listener for peers alone, beside the peers' own.
    pub(super) fn for_peers() -> Self {
        let mut table = Self::default();
        table.on(Method::GET, "/health", async || status::alive());
        table
    }

    fn on<H, Args>(&mut self, method: Method, path: &'static str, handler: H)
    where
        H: Handler<Args>,
        Args: FromRequest + 'static,
        H::Output: Responder + 'static,
    {
        self.add(method, path, Matching::Whole, handler);
    }

    fn on_tail<H, Args>(&mut self, method: Method, path: &'static str, handler: H)
    where
        H: Handler<Args>,
        Args: FromRequest + 'static,
        H::Output: Responder + 'static,
    {
        self.add(method, path, Matching::Tail, handler);
    }

    fn add<H, Args>(&mut self, method: Method, path: &'static str, matching: Matching, handler: H)
    where
        H: Handler<Args>,
        Args: FromRequest + 'static,
        H::Output: Responder + 'static,
    {
        let route = web::route().guard(method_guard(method.clone())).to(handler);
        match self.entries.iter_mut().find(|entry| entry.path == path) {
            Some(entry) => entry.routes.push((method, route)),
            None => self.entries.push(Entry { path, matching, routes: vec![(method, route)] }),
        }
    }

    /// Every method and path of the table; a GET stands for its HEAD too.
    #[cfg(test)]
    pub(super) fn listing(&self) -> Vec<(Method, &'static str)> {
        self.entries
            .iter()
            .flat_map(|entry| entry.routes.iter().map(|(method, _)| (method.clone(), entry.path)))
            .collect()
    }

    /// Serves the table.
    pub(super) fn configure(self, config: &mut ServiceConfig) {
        for Entry { path, matching, routes } in self.entries {
            let mut methods: Vec<&str> = Vec::new();
            for (method, _) in &routes {
                methods.push(method.as_str());
                if method == Method::GET {
                    methods.push("HEAD");
                }
            }
            let allow = methods.join(", ");
            let refuse = web::to(move || {
                let failure = Failure::MethodNotAllowed { allow: allow.clone() };
                async move { Err::<HttpResponse, _>(failure) }
            });
            match matching {
                Matching::Whole => {
                    let resource = web::resource(path).default_service(refuse);
                    config.service(
                        routes.into_iter().fold(resource, |resource, (_, route)| resource.route(route)),
                    );
                }
                // A scope compares its prefix; a pattern for the rest of the path
                // would run a regular expression over every key.
                Matching::Tail => {
                    let (prefix, _) = path.rsplit_once('/').expect("a path begins with a slash");
                    for (method, route) in routes {
                        config.service(web::scope(prefix).guard(method_guard(method)).default_service(route));
                    }
                    config.service(web::scope(prefix).default_service(refuse));
                }
            }
        }
    }
}

// RFC 9110 §9.1: whoever serves GET serves HEAD. Actix leaves the body out.
fn method_guard(method: Method) -> impl Guard {
    let head = method == Method::GET;
    guard::fn_guard(move |context| {
        let asked = &context.head().method;
        *asked == method || (head && *asked == Method::HEAD)
    })
}

/// The answer to whatever no route matches.
pub(super) async fn unknown_path() -> Result<HttpResponse, Failure> {
    Err(Failure::UnknownPath)
}

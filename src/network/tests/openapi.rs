//! The `OpenAPI` document and its page.

use std::collections::BTreeSet;

use actix_web::http::Method;
use serde_json::Value;

use super::Fixture;
use super::memory::Memory;
use crate::network::routes::Table;

#[test]
fn the_document_lists_exactly_what_is_served() {
    let t = Fixture::new();
    let document = t.call("GET", "/openapi.json", "").json();
    let mut documented = BTreeSet::new();
    for (path, operations) in document["paths"].as_object().unwrap() {
        for (method, operation) in operations.as_object().unwrap() {
            assert!(operation["summary"].is_string(), "{method} {path} says what it is for");
            if method != "head" {
                documented.insert((method.to_uppercase(), path.clone()));
            }
        }
    }
    let served: BTreeSet<_> = Table::new::<Memory>()
        .listing()
        .into_iter()
        .map(|(method, path)| (method.to_string(), path.to_owned()))
        .collect();
    assert_eq!(documented, served);
}

fn references<'a>(document: &'a Value, found: &mut BTreeSet<&'a str>) {
    match document {
        Value::Object(fields) => {
            found.extend(fields.get("$ref").and_then(Value::as_str));
            fields.values().for_each(|field| references(field, found));
        }
        Value::Array(items) => items.iter().for_each(|item| references(item, found)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

#[test]
fn the_document_refers_to_nothing_that_it_lacks() {
    let document = Fixture::new().call("GET", "/openapi.json", "").json();
    let mut found = BTreeSet::new();
    references(&document, &mut found);
    assert!(found.contains("#/components/schemas/OpBody"));
    for reference in found {
        let pointer = reference.strip_prefix('#').unwrap();
        assert!(document.pointer(pointer).is_some(), "{reference}");
    }
}

#[test]
fn every_path_refuses_other_methods_with_the_list_of_its_own() {
    let t = Fixture::new();
    let table = Table::new::<Memory>().listing();
    for (_, path) in &table {
        let mut allowed = Vec::new();
        for (method, other) in &table {
            if path == other {
                allowed.push(method.as_str());
                if method == Method::GET {
                    allowed.push("HEAD");
                }
            }
        }
        let target = path.replace("{id}", "1").replace("{key}", "k/l").replace("{file}", "x/y");
        // What it answers when it is asked well has no end.
        let target = if target == "/v1/watch" { "/v1/watch?only=neither".to_owned() } else { target };
        for method in ["GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "PURGE"] {
            let answer = t.call(method, &target, "");
            if allowed.contains(&method) {
                assert_ne!(answer.status, 405, "{method} {path}");
            } else {
                assert_eq!(answer.status, 405, "{method} {path}");
                assert_eq!(answer.header("allow"), Some(allowed.join(", ").as_str()));
                if method != "HEAD" {
                    answer.error(405, "method_not_allowed");
                }
            }
        }
    }
}

#[test]
fn the_page_is_served_with_its_files() {
    let t = Fixture::new();
    let moved = t.call("GET", "/docs", "");
    assert_eq!((moved.status, moved.header("location")), (308, Some("/docs/")));
    let page = t.call("GET", "/docs/", "");
    assert_eq!(page.status, 200);
    assert!(page.header("content-type").unwrap().starts_with("text/html"));
    assert!(page.text().contains("swagger"));
    let script = t.call("GET", "/docs/swagger-initializer.js", "");
    assert!(script.text().contains("/openapi.json"));
    t.call("GET", "/docs/none.js", "").error(404, "not_found");
    t.call("GET", "/docs/../version", "").error(404, "not_found");
}

//! Whatever a client may send: the answer is an error and the server goes on.

use std::fmt::Write as _;
use std::net::Shutdown;

use proptest::prelude::*;

use super::Fixture;

#[test]
fn oversized_bodies_are_refused_announced_or_not() {
    let t = Fixture::new();
    let cases = [
        ("PUT", "/v1/kv/k", 256 << 10, "max_value_bytes"),
        ("POST", "/write", 512 << 10, "max_request_bytes"),
        ("POST", "/v1/txn", 512 << 10, "max_request_bytes"),
        ("POST", "/v1/batch", 512 << 10, "max_request_bytes"),
    ];
    for (method, path, limit, option) in cases {
        // Announced: refused before a byte of it is read.
        let mut client = t.client();
        let size = limit + 1;
        client.send(
            format!("{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {size}\r\n\r\n").as_bytes(),
        );
        let details = client.answer(false).unwrap().error(413, "too_large");
        assert_eq!(
            (details["limit"].as_u64(), details["option"].as_str()),
            (Some(limit as u64), Some(option))
        );

        // Chunked: refused at the limit, although the client would go on for ever.
        let mut client = t.client();
        client.send(
            format!("{method} {path} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n").as_bytes(),
        );
        let mut chunk = b"10000\r\n".to_vec();
        chunk.resize(chunk.len() + 0x10000, b' ');
        chunk.extend_from_slice(b"\r\n");
        for _ in 0..=limit >> 16 {
            client.send(&chunk);
        }
        client.answer(false).unwrap().error(413, "too_large");
    }
    let mut client = t.client();
    client.send(b"PUT /v1/kv/k HTTP/1.1\r\nHost: x\r\nContent-Length: 18446744073709551615\r\n\r\n");
    client.answer(false).unwrap().error(413, "too_large");
    assert_eq!(t.memory.count("write") + t.memory.count("txn"), 0);
    t.assert_serves();
}

#[test]
fn unknown_paths_are_not_found() {
    let t = Fixture::new();
    for target in [
        "/",
        "/v1",
        "/v1/",
        "/v1/kvs",
        "/v1/txn/",
        "/v1/leases/",
        "/v1/leases/1/x",
        "/write/",
        "/Write",
        "/read-all/x",
        "/v1/members/1/x",
        "/%77rite/x",
    ] {
        t.call("GET", target, "").error(404, "not_found");
        t.call("POST", target, "body").error(404, "not_found");
    }
}

#[test]
fn what_is_not_http_is_answered_with_a_bare_4xx_and_hung_up_on() {
    let t = Fixture::new();
    let mut many = "GET /health HTTP/1.1\r\nHost: x\r\n".to_owned();
    for n in 0..200 {
        write!(many, "x{n}: y\r\n").unwrap();
    }
    let long = format!("GET /health HTTP/1.1\r\nHost: x\r\nx: {}\r\n\r\n", "y".repeat(200_000));
    for (bytes, statuses) in [
        (&b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"[..], &[400][..]),
        (b"hello\r\n\r\n", &[400]),
        (b"GET /health HTTP/9.9\r\n\r\n", &[400]),
        (b"GET /health HTTP/1.1\r\n\r\n", &[400]),
        (b"GET \xff HTTP/1.1\r\nHost: x\r\n\r\n", &[400]),
        (b"PUT /v1/kv/k HTTP/1.1\r\nHost: x\r\nContent-Length: x\r\n\r\n", &[400]),
        (b"PUT /v1/kv/k HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", &[400]),
        (
            b"PUT /v1/kv/k HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n",
            &[400],
        ),
        (b"PUT /v1/kv/k HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip\r\n\r\n", &[400]),
        (many.as_bytes(), &[400, 431]),
        (long.as_bytes(), &[400, 431]),
    ] {
        let mut client = t.client();
        client.send(bytes);
        let answer = client.answer(false).unwrap();
        assert!(statuses.contains(&answer.status), "{}", answer.status);
        assert!(client.is_closed());
    }
    t.assert_serves();
}

#[test]
fn a_broken_chunked_body_writes_nothing() {
    let t = Fixture::new();
    let mut client = t.client();
    client.send(b"PUT /v1/kv/k HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\nzz\r\n");
    client.answer(false).unwrap().error(400, "invalid_request");
    let client = t.client();
    client.send(b"PUT /v1/kv/k HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nabc");
    client.stream().shutdown(Shutdown::Write).unwrap();
    let answer = { client }.answer(false);
    if let Some(answer) = answer {
        answer.error(400, "invalid_request");
    }
    assert_eq!(t.memory.count("write"), 0);
    t.assert_serves();
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let t = Fixture::new();
    let mut client = t.client();
    let mut bytes = Vec::new();
    for n in 0..50 {
        bytes.extend_from_slice(&super::wire::request("PUT", &format!("/v1/kv/{n}"), &[], b"v"));
        bytes.extend_from_slice(&super::wire::request("GET", &format!("/v1/kv/{n}"), &[], b""));
        bytes.extend_from_slice(&super::wire::request("GET", "/v1/kv/none", &[], b""));
    }
    client.send(&bytes);
    for n in 1..=50 {
        assert_eq!(client.answer(false).unwrap().json()["revision"], n);
        assert_eq!(client.answer(false).unwrap().text(), "v");
        client.answer(false).unwrap().error(404, "not_found");
    }
}

#[test]
fn http_1_0_and_absolute_targets_work() {
    let t = Fixture::new();
    let mut old = t.client();
    old.send(b"PUT /v1/kv/k HTTP/1.0\r\nContent-Length: 1\r\n\r\nv");
    assert_eq!(old.answer(false).unwrap().status, 201);
    assert!(old.is_closed());
    let mut proxied = t.client();
    proxied.send(b"GET http://kvorum.example/v1/kv/k HTTP/1.1\r\nHost: x\r\n\r\n");
    assert_eq!(proxied.answer(false).unwrap().text(), "v");
}

#[test]
fn expect_continue_is_honoured() {
    let t = Fixture::new();
    let mut client = t.client();
    client.send(b"PUT /v1/kv/k HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\n");
    assert_eq!(client.answer(true).unwrap().status, 100);
    client.send(b"v");
    assert_eq!(client.answer(false).unwrap().status, 201);
}

#[test]
fn a_connection_survives_every_refusal_whose_body_was_read() {
    let t = Fixture::new();
    let mut client = t.client();
    client.call("POST", "/write", &[], b"{").error(400, "invalid_request");
    client.call("PATCH", "/write", &[], b"").error(405, "method_not_allowed");
    client.call("GET", "/none", &[], b"").error(404, "not_found");
    client.call("GET", "/v1/kv?x=1", &[], b"").error(400, "invalid_request");
    assert_eq!(client.call("GET", "/health", &[], b"").status, 200);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn any_request_is_answered_or_hung_up_on(
        method in prop_oneof![Just("GET".to_owned()), Just("PUT".to_owned()), Just("POST".to_owned()), "[A-Z]{1,8}"],
        path in prop_oneof![Just("/v1/kv/".to_owned()), Just("/write".to_owned()), Just("/v1/kv?".to_owned()), ".{0,9}"],
        rest in any::<Vec<u8>>(),
        headers in any::<Vec<u8>>(),
        body in any::<Vec<u8>>(),
    ) {
        let t = Fixture::new();
        let mut bytes = format!("{method} {path}").into_bytes();
        bytes.extend_from_slice(&rest);
        bytes.extend_from_slice(b" HTTP/1.1\r\nHost: x\r\n");
        bytes.extend_from_slice(&headers);
        bytes.extend_from_slice(format!("Content-Length: {}\r\n\r\n", body.len()).as_bytes());
        bytes.extend_from_slice(&body);
        let mut client = t.client();
        client.send(&bytes);
        client.stream().shutdown(Shutdown::Write).unwrap();
        while client.answer(false).is_some() {}
        t.assert_serves();
    }

    #[test]
    fn any_bytes_are_answered_or_hung_up_on(bytes in any::<Vec<u8>>()) {
        let t = Fixture::new();
        let mut client = t.client();
        client.send(&bytes);
        client.stream().shutdown(Shutdown::Write).unwrap();
        while client.answer(false).is_some() {}
        t.assert_serves();
    }

    #[test]
    fn any_key_can_be_written_and_read_by_its_encoded_path(key in proptest::collection::vec(any::<u8>(), 1..64)) {
        let t = Fixture::new();
        let target = key.iter().fold("/v1/kv/".to_owned(), |mut target, byte| {
            write!(target, "%{byte:02X}").unwrap();
            target
        });
        prop_assert_eq!(t.call("PUT", &target, "v").status, 201);
        prop_assert_eq!(t.memory.value(&key).unwrap(), "v");
    }
}

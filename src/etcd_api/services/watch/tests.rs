//! What a client asks for, as the hub is asked for it.

use super::*;

fn request(key: &'static str, end: &'static str) -> pb::WatchCreateRequest {
    let bytes = |text: &'static str| Bytes::from_static(text.as_bytes());
    pb::WatchCreateRequest { key: bytes(key), range_end: bytes(end), ..Default::default() }
}

#[test]
fn the_end_of_a_range_says_which_keys_are_watched() {
    let keys = |key, end| wish(request(key, end)).unwrap().keys;
    let bytes = |text: &'static str| Bytes::from_static(text.as_bytes());
    assert_eq!(keys("a", ""), KeyRange::One(bytes("a")));
    assert_eq!(keys("a", "\0"), KeyRange::From(bytes("a")));
    assert_eq!(keys("", "\0"), KeyRange::From(Bytes::new()));
    assert_eq!(keys("a", "b"), KeyRange::Between { start: bytes("a"), end: bytes("b") });
    assert_eq!(keys("", ""), KeyRange::One(bytes("\0")));
}

#[test]
fn a_range_without_keys_is_refused_in_etcds_words() {
    for (key, end) in [("b", "a"), ("a", "a")] {
        assert_eq!(wish(request(key, end)).unwrap_err(), "mvcc: watcher range is empty");
    }
}

#[test]
fn zero_starts_after_now_and_asks_for_an_id() {
    let wished = wish(request("a", "")).unwrap();
    assert_eq!((wished.from, wished.id), (None, None));
    let from = |start_revision| {
        wish(pb::WatchCreateRequest { start_revision, watch_id: -7, ..request("a", "") }).unwrap()
    };
    assert_eq!((from(5).from, from(5).id), (Some(5), Some(-7)));
    assert_eq!(from(-5).from, Some(1));
}

#[test]
fn filters_and_wishes_are_handed_on() {
    let wished = wish(pb::WatchCreateRequest {
        filters: vec![FilterType::Nodelete.into(), 99],
        progress_notify: true,
        prev_kv: true,
        fragment: true,
        ..request("a", "")
    })
    .unwrap();
    assert!(wished.no_delete && !wished.no_put);
    assert!(wished.progress && wished.with_previous && wished.fragment);
}

//! Writes sample snapshots and holds snapshots against what an etcd answers.
//!
//! - `sample write FILE [KEYS]` writes a snapshot that has every feature; with a
//!   number, a large one with that many keys.
//! - `sample describe FILE` prints what a snapshot holds besides keys.
//! - `sample compare FILE ANSWER [REVISION]` holds the keys that are live in a
//!   snapshot, at a revision or at its own, against an etcd's answer to a range over
//!   all keys in protobuf (`etcdctl get '' --from-key -w protobuf`).

use std::collections::BTreeMap;
use std::error::Error;
use std::fs::{self, File};
use std::io::{self, Write};
use std::process::ExitCode;

use bytes::Bytes;
use kvorum_etcd_snapshot::{Event, KeyValue, Lease, Member, Reader, Revision, SnapshotInfo, Writer};
use prost::Message;

type Outcome = Result<(), Box<dyn Error>>;

const USAGE: &str = "usage: sample write FILE [KEYS] | describe FILE | compare FILE ANSWER [REVISION]";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let outcome = match arguments.as_slice() {
        ["write", file] => write(file, write_small),
        ["write", file, keys] => {
            keys.parse().map_err(Into::into).and_then(|keys| write(file, |writer| write_large(writer, keys)))
        }
        ["describe", file] => describe(file),
        ["compare", file, answer] => compare(file, answer, None),
        ["compare", file, answer, revision] => {
            revision.parse().map_err(Into::into).and_then(|revision| compare(file, answer, Some(revision)))
        }
        _ => Err(USAGE.into()),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("sample: {error}");
            ExitCode::FAILURE
        }
    }
}

// ---- writing ----

fn write(path: &str, content: impl FnOnce(&mut Writer) -> Outcome) -> Outcome {
    let file = File::options().read(true).write(true).create(true).truncate(true).open(path)?;
    let member = |id: u64, is_learner| Member {
        id,
        peer_urls: vec![format!("http://127.0.0.1:{}", 21_000 + id)],
        is_learner,
        name: format!("node{id}"),
        client_urls: vec![format!("http://127.0.0.1:{}", 22_000 + id)],
    };
    let info = SnapshotInfo {
        term: 7,
        applied_index: 4711,
        compact_revision: Some(3),
        cluster_version: None,
        members: vec![member(1, false), member(2, false), member(3, true)],
    };
    let mut writer = Writer::new(file, info)?;
    content(&mut writer)?;
    let sealed = writer.finish()?;
    print_line(&format!("{} bytes", sealed.size))?;
    Ok(())
}

/// A key's create revision, version and lease; the value and the revision of the write.
fn put(key: &str, (create_revision, version, lease): (i64, i64, i64), value: Vec<u8>, at: Revision) -> Event {
    Event::Put(KeyValue {
        key: Bytes::copy_from_slice(key.as_bytes()),
        create_revision,
        mod_revision: at.main,
        version,
        value: value.into(),
        lease,
    })
}

/// One of everything: compacted history, transactions, deletions, keys that come
/// back, leases, empty and large values.
fn write_small(writer: &mut Writer) -> Outcome {
    const LEASE: i64 = 0x0123_4567_89ab_cdef;
    let mut push = |main, sub, event: &dyn Fn(Revision) -> Event| {
        let at = Revision { main, sub };
        writer.push(at, &event(at))
    };
    push(2, 0, &|at| put("config/a", (2, 1, 0), b"old".into(), at))?;
    push(3, 0, &|at| put("config/b", (1, 5, 0), b"five times".into(), at))?;
    push(4, 0, &|at| put("config/a", (2, 2, 0), b"new".into(), at))?;
    push(5, 0, &|at| put("empty", (5, 1, 0), Vec::new(), at))?;
    push(5, 1, &|at| put("leased/1", (5, 1, LEASE), b"x".into(), at))?;
    push(5, 2, &|at| put("leased/2", (5, 1, LEASE), b"y".into(), at))?;
    push(6, 0, &|_| Event::Delete { key: "config/b".into() })?;
    push(7, 0, &|at| put("config/b", (7, 1, 0), b"back".into(), at))?;
    for (number, bytes) in [4000, 4096, 10_000, 1_500_000].into_iter().enumerate() {
        let sub = number as i64;
        push(8, sub, &|at| put(&format!("large/{number}"), (8, 1, 0), vec![b'v'; bytes], at))?;
    }
    push(9, 0, &|_| Event::Delete { key: "empty".into() })?;
    writer.lease(&Lease { id: 1, ttl: 100_000, remaining_ttl: 0 })?;
    writer.lease(&Lease { id: LEASE, ttl: 90_000, remaining_ttl: 50_000 })?;
    Ok(())
}

/// Keys that are each written twice, the second time with a value of up to 1 KiB, and
/// a lease for every tenth.
fn write_large(writer: &mut Writer, keys: i64) -> Outcome {
    for number in 0..keys {
        if number % 10 == 0 {
            writer.lease(&Lease { id: number + 1, ttl: 1_000_000, remaining_ttl: 0 })?;
        }
        let at = Revision { main: 4 + number, sub: 0 };
        writer.push(at, &put(&format!("key/{number:09}"), (at.main, 1, 0), b"first".into(), at))?;
    }
    for number in 0..keys {
        let at = Revision { main: 4 + keys + number, sub: 0 };
        let lease = if number % 10 == 0 { number + 1 } else { 0 };
        let value = vec![b'a' + (number % 26) as u8; (number * 37 % 1024) as usize];
        writer.push(at, &put(&format!("key/{number:09}"), (4 + number, 2, lease), value, at))?;
    }
    Ok(())
}

// ---- reading ----

fn describe(file: &str) -> Outcome {
    let reader = Reader::open(File::open(file)?)?;
    print_line(&format!("revision {}, checksum {}", reader.revision()?, reader.has_checksum()))?;
    print_line(&format!("{:?}", reader.info()))?;
    for member in reader.members() {
        print_line(&format!("{:?}", member?))?;
    }
    let mut leases = 0;
    for lease in reader.leases() {
        lease?;
        leases += 1;
    }
    let (mut puts, mut deletes) = (0, 0);
    for event in reader.keys() {
        match event? {
            (_, Event::Put(_)) => puts += 1,
            (_, Event::Delete { .. }) => deletes += 1,
        }
    }
    print_line(&format!("{puts} puts, {deletes} deletions, {leases} leases"))?;
    Ok(())
}

/// What is needed of etcd's answer to a range.
#[derive(Clone, PartialEq, prost::Message)]
struct Answer {
    #[prost(message, optional, tag = "1")]
    header: Option<AnswerHeader>,
    #[prost(message, repeated, tag = "2")]
    kvs: Vec<KeyValue>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct AnswerHeader {
    #[prost(int64, tag = "3")]
    revision: i64,
}

fn compare(file: &str, answer: &str, at: Option<i64>) -> Outcome {
    let reader = Reader::open(File::open(file)?)?;
    // etcdctl ends its output with a newline that is no part of the message.
    let mut bytes = fs::read(answer)?;
    let answer = Answer::decode(bytes.as_slice()).or_else(|_| {
        bytes.pop();
        Answer::decode(bytes.as_slice())
    })?;
    let told = answer.header.map_or(0, |header| header.revision);
    let revision = reader.revision()?;
    if told != revision {
        return Err(format!("the snapshot is of revision {revision}, but etcd of {told}").into());
    }

    let mut live = BTreeMap::new();
    for event in reader.keys() {
        match event? {
            (revision, _) if at.is_some_and(|at| revision.main > at) => break,
            (_, Event::Put(put)) => {
                live.insert(put.key.clone(), put);
            }
            (_, Event::Delete { key }) => {
                live.remove(&key);
            }
        }
    }
    if live.len() != answer.kvs.len() {
        return Err(format!("{} keys, but etcd has {}", live.len(), answer.kvs.len()).into());
    }
    for (ours, theirs) in live.values().zip(&answer.kvs) {
        if ours != theirs {
            return Err(format!("{:?} differs: {ours:?}, but etcd has {theirs:?}", theirs.key).into());
        }
    }
    print_line(&format!("{} keys agree at revision {}", live.len(), at.unwrap_or(revision)))?;
    Ok(())
}

fn print_line(line: &str) -> io::Result<()> {
    writeln!(io::stdout(), "{line}")
}

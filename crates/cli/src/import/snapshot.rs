//! A snapshot of etcd: its keys as they are at its last revision.
//!
//! The file is in the order of revisions, so it is read twice: once for which event
//! of each key is the last one, once for their values.

use std::collections::HashMap;
use std::fs::File;
use std::path::Path;

use kvorum_client::Client;
use kvorum_etcd_snapshot::{Event, Keys, ReadError, Reader, Revision};
use serde_json::json;

use super::{Record, Source, run, summary};
use crate::args::Format;
use crate::failure::{Exit, Failure};
use crate::output::Io;

/// The last write of each key that exists.
type Live = HashMap<Box<[u8]>, Revision>;

pub(super) async fn import(
    client: &Client,
    path: &Path,
    format: Format,
    io: &mut Io<'_>,
) -> Result<(), Failure> {
    let unreadable =
        |what: String| Failure::new(Exit::Failed, "input", format!("cannot read {}: {what}", path.display()));
    let damaged = |error: ReadError| unreadable(error.to_string());
    let file = File::open(path).map_err(|error| unreadable(error.to_string()))?;
    let reader = Reader::open(file).map_err(damaged)?;
    let revision = reader.revision().map_err(damaged)?;
    let live = live_keys(&reader).map_err(damaged)?;
    let leases = reader.leases().try_fold(0_u64, |count, lease| lease.map(|_| count + 1)).map_err(damaged)?;

    let mut source = SnapshotSource { keys: reader.keys(), live, number: 0, leased: 0, path };
    let imported = run(client, &mut source, 0, io).await?;
    let detached = source.leased;
    if format == Format::Json {
        return io.line(
            &json!({
                "imported": imported.keys, "revision": imported.revision, "etcd_revision": revision,
                "leases_dropped": leases, "keys_without_their_lease": detached
            })
            .to_string(),
        );
    }
    io.line(&format!("{} of etcd's revision {revision}", summary(&imported)))?;
    // Warnings are a courtesy: what was asked for is done.
    if leases > 0 {
        let _ = writeln!(
            io.err,
            "warning: {leases} leases are not carried over; {detached} keys that had one stay until they are deleted"
        );
    }
    if reader.info().auth_enabled {
        let _ =
            writeln!(io.err, "warning: users and roles are not carried over; clients had to authenticate");
    }
    Ok(())
}

fn live_keys(reader: &Reader) -> Result<Live, ReadError> {
    let mut live = Live::new();
    for event in reader.keys() {
        match event? {
            (revision, Event::Put(put)) => {
                // A copy: the bytes of an event keep the whole page that holds them.
                match live.get_mut(put.key.as_ref()) {
                    Some(last) => *last = revision,
                    None => drop(live.insert(put.key.as_ref().into(), revision)),
                }
            }
            (_, Event::Delete { key }) => drop(live.remove(key.as_ref())),
        }
    }
    Ok(live)
}

struct SnapshotSource<'a> {
    keys: Keys<'a>,
    live: Live,
    /// Of the last key that was given out.
    number: u64,
    leased: u64,
    path: &'a Path,
}

impl Source for SnapshotSource<'_> {
    const UNIT: &'static str = "key";

    fn next(&mut self, _: &mut Io<'_>) -> Result<Option<Record>, Failure> {
        for event in self.keys.by_ref() {
            let (revision, event) = event.map_err(|error| {
                Failure::new(Exit::Failed, "input", format!("cannot read {}: {error}", self.path.display()))
            })?;
            if let Event::Put(put) = event
                && self.live.get(put.key.as_ref()) == Some(&revision)
            {
                self.number += 1;
                self.leased += u64::from(put.lease != 0);
                return Ok(Some(Record { key: put.key, value: put.value, line: self.number }));
            }
        }
        Ok(None)
    }
}

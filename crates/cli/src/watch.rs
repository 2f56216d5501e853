//! `watch`: what happens to keys, as it happens.

use std::ffi::OsString;

use clap::{Args, ValueEnum};
use kvorum_client::{Error, Event, EventKind, Range, Watch, WatchMessage, WatchOptions, insert_bytes};
use serde_json::{Map, Value, json};

use crate::args::{ClientArgs, Format, LONG_TIMEOUT, bytes, help};
use crate::failure::Failure;
use crate::output::{Io, escape, item_json};

pub(crate) const HELP: &str = help!(
    "  kvorum watch config/app
  kvorum watch --prefix user/ --previous
  kvorum watch --from-revision 41
  kvorum watch --prefix jobs/ --only put -o json | while read -r change; do …; done

Text has one event a line: revision, `put` or `delete`, key, value, and with
--previous the value before, separated by tabs and escaped as `scan` does it. JSON
has one revision a line: {\"revision\":7,\"events\":[…]}.

The watch goes on until Ctrl-C. When a connection breaks it goes on at another
endpoint, and nothing is left out or told twice. A past that has been compacted
cannot be watched: list the keys with `kvorum scan -o json` and go on from the
revision that it tells."
);

/// Arguments of `watch`.
#[derive(Debug, Args)]
pub struct WatchArgs {
    /// The key; every key unless a key or a range is given
    #[arg(conflicts_with_all = ["prefix", "start", "end"])]
    key: Option<OsString>,
    /// Keys that begin with this
    #[arg(long, value_name = "PREFIX", conflicts_with_all = ["start", "end"])]
    prefix: Option<OsString>,
    /// The first key
    #[arg(long, value_name = "KEY")]
    start: Option<OsString>,
    /// The first key that is left out
    #[arg(long, value_name = "KEY")]
    end: Option<OsString>,
    /// The first revision to tell about, past or future; from now on unless given
    #[arg(long, value_name = "REVISION", value_parser = clap::value_parser!(i64).range(1..))]
    from_revision: Option<i64>,
    /// Tell what was there before, too
    #[arg(long)]
    previous: bool,
    /// Leave out all other events
    #[arg(long, value_enum, value_name = "EVENT")]
    only: Option<OnlyArg>,
    #[command(flatten)]
    pub(crate) client: ClientArgs,
}

/// What can happen to a key.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum OnlyArg {
    /// It is set.
    Put,
    /// It is removed.
    Delete,
}

pub(crate) async fn watch(args: WatchArgs, io: &mut Io<'_>) -> Result<(), Failure> {
    let client = args.client.client_within(LONG_TIMEOUT)?;
    let range = match (args.key, args.prefix, args.start, args.end) {
        (Some(key), ..) => Range::Key(bytes(key)),
        (None, Some(prefix), ..) => Range::Prefix(bytes(prefix)),
        (None, None, None, None) => Range::All,
        (None, None, start, end) => Range::Between { start: start.map(bytes), end: end.map(bytes) },
    };
    let only = args.only.map(|only| match only {
        OnlyArg::Put => EventKind::Put,
        OnlyArg::Delete => EventKind::Delete,
    });
    let options = WatchOptions { range, from_revision: args.from_revision, previous: args.previous, only };
    let mut watch = client.watch(options);
    loop {
        match watch.next().await {
            Ok(WatchMessage::Created { revision }) if args.client.output != Format::Json => {
                // A courtesy: if nobody can read it, the watch goes on.
                let _ = writeln!(io.err, "watching what follows revision {revision}");
            }
            Ok(WatchMessage::Created { .. } | WatchMessage::Progress { .. }) => {}
            Ok(WatchMessage::Change { revision, events }) => {
                match args.client.output {
                    Format::Json => io.line(&change_json(revision, &events).to_string())?,
                    Format::Text | Format::Table => {
                        events.iter().try_for_each(|event| line(revision, event, args.previous, io))?;
                    }
                }
                io.out.flush()?;
            }
            Err(error) => return Err(ended(&watch, error)),
        }
    }
}

fn line(revision: i64, event: &Event, previous: bool, io: &mut Io<'_>) -> Result<(), Failure> {
    let key = escape(event.key());
    let mut line = match event {
        Event::Put { item, .. } => {
            format!("{revision}\tput\t{key}\t{}", item.value.as_deref().map(escape).unwrap_or_default())
        }
        Event::Delete { .. } if previous => format!("{revision}\tdelete\t{key}\t"),
        Event::Delete { .. } => format!("{revision}\tdelete\t{key}"),
    };
    if previous {
        line.push('\t');
        let before = event.previous().and_then(|item| item.value.as_deref());
        line.push_str(&before.map(escape).unwrap_or_default());
    }
    io.line(&line)
}

fn change_json(revision: i64, events: &[Event]) -> Value {
    let event_json = |event: &Event| {
        let (kind, mut fields) = match event {
            Event::Put { item, .. } => ("put", item_json(item)),
            Event::Delete { key, .. } => {
                let mut fields = Map::new();
                insert_bytes(&mut fields, "key", key);
                fields.insert("mod_revision".to_owned(), revision.into());
                ("delete", fields)
            }
        };
        fields.insert("type".to_owned(), kind.into());
        fields.extend(event.previous().map(|item| ("previous".to_owned(), item_json(item).into())));
        Value::from(fields)
    };
    json!({ "revision": revision, "events": events.iter().map(event_json).collect::<Value>() })
}

/// Why a watch has ended, and how to go on.
fn ended(watch: &Watch, error: Error) -> Failure {
    let compacted = error.code() == "compacted";
    let failure = Failure::from(error);
    match watch.revision() {
        _ if compacted => failure.hint(
            "list the keys with `kvorum scan -o json`, and watch with --from-revision one above its revision",
        ),
        Some(revision) => failure.hint(format!(
            "everything up to revision {revision} was told; go on with --from-revision {}",
            revision + 1
        )),
        None => failure,
    }
}

#[cfg(test)]
mod tests;

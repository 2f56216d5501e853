//! `put`, `get` and `del`.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use clap::Args;
use kvorum_client::{Condition, DeleteOptions, Found, GetOptions, Item, PutOptions, insert_bytes};
use serde_json::{Map, Value};

use crate::args::{ClientArgs, ConsistencyArg, Format, bytes, help, read_document};
use crate::failure::{Exit, Failure};
use crate::output::{Io, escape, item_json};

pub(crate) const PUT_HELP: &str = help!(
    "  kvorum put greeting hello
  kvorum put config --file app.toml
  date | kvorum put now -
  kvorum put lock me --if-absent
  kvorum put counter 8 --if-revision 41
  kvorum put order/17 paid --idempotency-key \"$(uuidgen)\"
  kvorum put online/me yes --lease \"$(kvorum lease grant 30s)\""
);
pub(crate) const GET_HELP: &str = help!(
    "  kvorum get greeting
  kvorum get greeting -o json
  kvorum get greeting --revision 41
  kvorum get photo --write-to photo.jpg

The value is printed as it is; a line break is added on a terminal only."
);
pub(crate) const DEL_HELP: &str = help!(
    "  kvorum del greeting
  kvorum del lock --if-revision 41

Deleting a key that does not exist is done at once: exit code 0, `deleted 0`."
);

/// Arguments of `put`.
#[derive(Debug, Args)]
pub struct PutArgs {
    /// The key
    key: OsString,
    /// The value; `-` reads it from standard input
    #[arg(required_unless_present = "file", allow_negative_numbers = true)]
    value: Option<OsString>,
    /// Take the value from a file
    #[arg(long, value_name = "FILE", conflicts_with = "value")]
    file: Option<PathBuf>,
    /// Only if the key does not exist
    #[arg(long, group = "condition")]
    if_absent: bool,
    /// Only if the key exists
    #[arg(long, group = "condition")]
    if_exists: bool,
    /// Only if the key's modification revision is this one
    #[arg(long, group = "condition", value_name = "REVISION", value_parser = clap::value_parser!(i64).range(1..))]
    if_revision: Option<i64>,
    /// A token, unique to this write, with which it can be repeated safely
    #[arg(long, value_name = "TOKEN")]
    idempotency_key: Option<String>,
    /// Attach the key to this lease, with which it ends
    #[arg(long, value_name = "ID", value_parser = clap::value_parser!(i64).range(1..))]
    lease: Option<i64>,
    #[command(flatten)]
    pub(crate) client: ClientArgs,
}

/// Arguments of `get`.
#[derive(Debug, Args)]
pub struct GetArgs {
    /// The key
    key: OsString,
    /// Read the value as it was at this revision
    #[arg(long, value_parser = clap::value_parser!(i64).range(1..))]
    revision: Option<i64>,
    /// How fresh the answer must be
    #[arg(long, value_enum, value_name = "LEVEL", default_value_t)]
    consistency: ConsistencyArg,
    /// Write the value into a file instead of printing it
    #[arg(long, value_name = "FILE")]
    write_to: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) client: ClientArgs,
}

/// Arguments of `del`.
#[derive(Debug, Args)]
pub struct DelArgs {
    /// The key
    key: OsString,
    /// Only if the key exists
    #[arg(long, group = "condition")]
    if_exists: bool,
    /// Only if the key's modification revision is this one
    #[arg(long, group = "condition", value_name = "REVISION", value_parser = clap::value_parser!(i64).range(1..))]
    if_revision: Option<i64>,
    /// A token, unique to this write, with which it can be repeated safely
    #[arg(long, value_name = "TOKEN")]
    idempotency_key: Option<String>,
    #[command(flatten)]
    pub(crate) client: ClientArgs,
}

fn condition(absent: bool, exists: bool, revision: Option<i64>) -> Option<Condition> {
    let plain = if absent {
        Some(Condition::Absent)
    } else if exists {
        Some(Condition::Exists)
    } else {
        None
    };
    revision.map(Condition::Revision).or(plain)
}

pub(crate) async fn put(args: PutArgs, io: &mut Io<'_>) -> Result<(), Failure> {
    let client = args.client.client()?;
    let format = args.client.output;
    let options = PutOptions {
        condition: condition(args.if_absent, args.if_exists, args.if_revision),
        idempotency_key: args.idempotency_key,
        lease: args.lease,
    };
    let value = value(args.value, args.file.as_deref(), io)?;
    let key = bytes(args.key);
    let done = client.put(&key, value, options).await?;
    match format {
        Format::Text => {
            let what = if done.created { "created".to_owned() } else { format!("version {}", done.version) };
            io.line(&format!("revision {} ({what})", done.revision))
        }
        Format::Json => {
            let mut object = Map::new();
            insert_bytes(&mut object, "key", &key);
            object.insert("revision".to_owned(), done.revision.into());
            object.insert("created".to_owned(), done.created.into());
            object.insert("version".to_owned(), done.version.into());
            io.line(&Value::from(object).to_string())
        }
        Format::Table => {
            let row = vec![
                escape(&key),
                done.revision.to_string(),
                done.created.to_string(),
                done.version.to_string(),
            ];
            io.rows(format, &["KEY", "REVISION", "CREATED", "VERSION"], vec![row])
        }
    }
}

fn value(argument: Option<OsString>, file: Option<&Path>, io: &mut Io<'_>) -> Result<Bytes, Failure> {
    let dash = Path::new("-");
    match (file, argument) {
        (None, Some(text)) if text != *dash.as_os_str() => Ok(bytes(text)),
        (file, _) => Ok(read_document(file.unwrap_or(dash), io)?.into()),
    }
}

pub(crate) async fn get(args: GetArgs, io: &mut Io<'_>) -> Result<(), Failure> {
    let client = args.client.client()?;
    let options = GetOptions { revision: args.revision, consistency: args.consistency.into() };
    let key = bytes(args.key);
    let Some(found) = client.get(&key, options).await? else {
        let at = args.revision.map(|revision| format!(" at revision {revision}")).unwrap_or_default();
        let message = format!("key \"{}\" does not exist{at}", escape(&key));
        return Err(Failure::new(Exit::NotFound, "not_found", message));
    };
    if let Some(path) = &args.write_to {
        std::fs::write(path, &found.value).map_err(|error| {
            Failure::new(Exit::Failed, "output", format!("cannot write {}: {error}", path.display()))
        })?;
    }
    let show_value = args.write_to.is_none();
    match args.client.output {
        Format::Text if show_value => {
            io.out.write_all(&found.value)?;
            if io.out_is_terminal {
                io.line("")?;
            }
            Ok(())
        }
        Format::Text => Ok(()),
        Format::Json => io.line(&found_json(key, found, show_value).to_string()),
        Format::Table => {
            let shown =
                if show_value { escape(&found.value) } else { format!("{} bytes", found.value.len()) };
            let row = vec![
                escape(&key),
                shown,
                found.create_revision.to_string(),
                found.mod_revision.to_string(),
                found.version.to_string(),
            ];
            io.rows(Format::Table, &["KEY", "VALUE", "CREATED AT", "MODIFIED AT", "VERSION"], vec![row])
        }
    }
}

fn found_json(key: Bytes, found: Found, show_value: bool) -> Value {
    let Found { value, create_revision, mod_revision, version, lease, revision } = found;
    let value = show_value.then_some(value);
    let mut object = item_json(&Item { key, value, create_revision, mod_revision, version, lease });
    object.insert("revision".to_owned(), revision.into());
    object.into()
}

pub(crate) async fn del(args: DelArgs, io: &mut Io<'_>) -> Result<(), Failure> {
    let client = args.client.client()?;
    let options = DeleteOptions {
        condition: condition(false, args.if_exists, args.if_revision),
        idempotency_key: args.idempotency_key,
    };
    let key = bytes(args.key);
    let done = client.delete(&key, options).await?;
    match args.client.output {
        Format::Text => io.line(&format!("deleted {} (revision {})", done.deleted, done.revision)),
        Format::Json => {
            let mut object = Map::new();
            insert_bytes(&mut object, "key", &key);
            object.insert("revision".to_owned(), done.revision.into());
            object.insert("deleted".to_owned(), done.deleted.into());
            io.line(&Value::from(object).to_string())
        }
        Format::Table => {
            let row = vec![escape(&key), done.deleted.to_string(), done.revision.to_string()];
            io.rows(Format::Table, &["KEY", "DELETED", "REVISION"], vec![row])
        }
    }
}

#[cfg(test)]
mod tests;

//! `scan`: many keys, page by page.
//!
//! Text and JSON are printed as pages arrive, so a listing may be larger than
//! memory. A table needs all rows before its columns have a width.

use std::ffi::OsString;

use clap::Args;
use kvorum_client::{Client, ListOptions, Range};
use serde_json::Value;

use crate::args::{ClientArgs, ConsistencyArg, Format, bytes, help};
use crate::failure::Failure;
use crate::output::{Io, escape, item_json};

pub(crate) const HELP: &str = help!(
    "  kvorum scan
  kvorum scan user/ --limit 10
  kvorum scan user/ --keys-only
  kvorum scan user/ --count
  kvorum scan --start a --end b --revision 41 -o json

Text has one key a line: key, tab, value. Control characters, backslashes and
bytes that are not UTF-8 are shown as \\t, \\n, \\r, \\\\ or \\xHH."
);

/// Arguments of `scan`.
#[derive(Debug, Args)]
pub struct ScanArgs {
    /// Keys that begin with this; all keys unless given
    #[arg(conflicts_with_all = ["start", "end"])]
    prefix: Option<OsString>,
    /// The first key
    #[arg(long, value_name = "KEY")]
    start: Option<OsString>,
    /// The first key that is left out
    #[arg(long, value_name = "KEY")]
    end: Option<OsString>,
    /// Stop after this many keys
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    limit: Option<u64>,
    /// Leave the values out
    #[arg(long)]
    keys_only: bool,
    /// Print only how many keys there are
    #[arg(long, conflicts_with_all = ["limit", "keys_only"])]
    count: bool,
    /// Read the keys as they were at this revision
    #[arg(long, value_parser = clap::value_parser!(i64).range(1..))]
    revision: Option<i64>,
    /// How fresh the answer must be
    #[arg(long, value_enum, value_name = "LEVEL", default_value_t)]
    consistency: ConsistencyArg,
    #[command(flatten)]
    pub(crate) client: ClientArgs,
}

pub(crate) async fn scan(args: ScanArgs, io: &mut Io<'_>) -> Result<(), Failure> {
    let client = args.client.client()?;
    let range = match (args.prefix, args.start, args.end) {
        (Some(prefix), _, _) => Range::Prefix(bytes(prefix)),
        (None, None, None) => Range::All,
        (None, start, end) => Range::Between { start: start.map(bytes), end: end.map(bytes) },
    };
    let options = ListOptions {
        range,
        limit: args.limit,
        keys_only: args.keys_only,
        revision: args.revision,
        consistency: args.consistency.into(),
    };
    match args.client.output {
        form if args.count => count(&client, &options, form, io).await,
        Format::Text => text(&client, options, io).await,
        Format::Json => json(&client, options, io).await,
        Format::Table => table(&client, options, io).await,
    }
}

async fn count(client: &Client, options: &ListOptions, form: Format, io: &mut Io<'_>) -> Result<(), Failure> {
    let count = client.count(options).await?;
    match form {
        Format::Text => io.line(&count.count.to_string()),
        Format::Json => {
            io.line(&serde_json::json!({ "revision": count.revision, "count": count.count }).to_string())
        }
        Format::Table => {
            let row = vec![count.count.to_string(), count.revision.to_string()];
            io.rows(form, &["COUNT", "REVISION"], vec![row])
        }
    }
}

async fn text(client: &Client, options: ListOptions, io: &mut Io<'_>) -> Result<(), Failure> {
    let mut scan = client.scan(options);
    while let Some(page) = scan.next_page().await? {
        page.iter().try_for_each(|item| io.item(item))?;
        // A reader of the pipe sees each page as it arrives, and its end is
        // noticed before the next page is asked for.
        io.out.flush()?;
    }
    Ok(())
}

async fn json(client: &Client, options: ListOptions, io: &mut Io<'_>) -> Result<(), Failure> {
    let mut scan = client.scan(options);
    // The first page before the first byte: if it fails, nothing is printed.
    let mut page = scan.next_page().await?;
    let revision = scan.revision().unwrap_or_default();
    write!(io.out, "{{\"revision\":{revision},\"items\":[")?;
    let mut separator = "\n";
    while let Some(items) = page {
        for item in items {
            write!(io.out, "{separator}{}", Value::from(item_json(&item)))?;
            separator = ",\n";
        }
        io.out.flush()?;
        page = scan.next_page().await?;
    }
    let end = if separator == "\n" { "" } else { "\n" };
    io.line(&format!("{end}],\"more\":{}}}", scan.more()))
}

async fn table(client: &Client, options: ListOptions, io: &mut Io<'_>) -> Result<(), Failure> {
    let keys_only = options.keys_only;
    let mut scan = client.scan(options);
    let mut rows = Vec::new();
    while let Some(item) = scan.next().await? {
        let mut row = vec![escape(&item.key)];
        if !keys_only {
            row.push(item.value.as_deref().map(escape).unwrap_or_default());
        }
        row.extend([item.mod_revision, item.version].map(|number| number.to_string()));
        rows.push(row);
    }
    let header: &[&str] = if keys_only {
        &["KEY", "MODIFIED AT", "VERSION"]
    } else {
        &["KEY", "VALUE", "MODIFIED AT", "VERSION"]
    };
    io.rows(Format::Table, header, rows)
}

#[cfg(test)]
mod tests;

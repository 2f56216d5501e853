//! `export`: all keys and values at one revision, as JSON lines.
//!
//! One page is held at a time. A file is written beside its name and takes it only
//! when everything is in it, so that a file which exists is a whole export.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use clap::Args;
use kvorum_client::{Item, ListOptions, Range, Scan, insert_bytes};
use serde_json::{Map, Value, json};

use crate::args::{ClientArgs, Format, bytes, help};
use crate::failure::{Exit, Failure};
use crate::output::{Io, Progress};

pub(crate) const HELP: &str = help!(
    "  kvorum export --out backup.jsonl
  kvorum export --prefix config/ | gzip > config.jsonl.gz
  kvorum export --endpoints a:21001 | kvorum import --endpoints b:21001 -

One line is one key: {\"key\":\"k\",\"value\":\"v\"}, with \"key_base64\" or \"value_base64\"
where the bytes are not UTF-8. All keys are as they were at one revision. Revisions,
versions and leases are not kept: a key that has a lease is exported, and imported
again it stays until it is deleted."
);

/// Arguments of `export`.
#[derive(Debug, Args)]
pub struct ExportArgs {
    /// Only keys that begin with this
    #[arg(long, value_name = "PREFIX")]
    prefix: Option<OsString>,
    /// Write into this file instead of standard output
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Export the keys as they were at this revision
    #[arg(long, value_parser = clap::value_parser!(i64).range(1..))]
    revision: Option<i64>,
    #[command(flatten)]
    pub(crate) client: ClientArgs,
}

/// What an export holds.
#[derive(Debug, Default)]
struct Exported {
    keys: u64,
    /// How many of them have a lease.
    leased: u64,
    revision: Option<i64>,
}

pub(crate) async fn export(args: ExportArgs, io: &mut Io<'_>) -> Result<(), Failure> {
    let range = args.prefix.map_or(Range::All, |prefix| Range::Prefix(bytes(prefix)));
    let options = ListOptions { range, revision: args.revision, ..ListOptions::default() };
    let scan = args.client.client()?.scan(options);
    let format = args.client.output;
    let exported = match &args.out {
        None => to_output(scan, io).await?,
        Some(path) => to_file(scan, path, io).await?,
    };
    let Exported { keys, leased, revision } = exported;
    let summary = format!("exported {keys} keys at revision {}", revision.unwrap_or_default());
    match (&args.out, format) {
        (Some(_), Format::Json) => {
            io.line(&json!({ "exported": keys, "leased": leased, "revision": revision }).to_string())?;
        }
        (Some(_), Format::Text | Format::Table) => io.line(&summary)?,
        (None, Format::Json) => return Ok(()),
        // The output holds keys alone, so that it can be piped on.
        (None, Format::Text | Format::Table) => {
            let _ = writeln!(io.err, "{summary}");
        }
    }
    if leased > 0 && format != Format::Json {
        let _ = writeln!(io.err, "warning: {leased} of the keys have a lease, which is not exported");
    }
    Ok(())
}

async fn to_output(mut scan: Scan, io: &mut Io<'_>) -> Result<Exported, Failure> {
    let mut exported = Exported::default();
    while let Some(page) = scan.next_page().await? {
        exported.add(&page);
        write_lines(io.out, &page)?;
        io.out.flush()?;
    }
    exported.revision = scan.revision();
    Ok(exported)
}

async fn to_file(mut scan: Scan, path: &Path, io: &mut Io<'_>) -> Result<Exported, Failure> {
    let cannot = |error: io::Error| {
        Failure::new(Exit::Failed, "output", format!("cannot write {}: {error}", path.display()))
    };
    let (unfinished, file) = Unfinished::create(path).map_err(cannot)?;
    let mut out = BufWriter::new(file);
    let mut exported = Exported::default();
    let mut progress = Progress::default();
    if io.err_is_terminal {
        progress.stage(io, "exporting");
    }
    while let Some(page) = scan.next_page().await? {
        exported.add(&page);
        write_lines(&mut out, &page).map_err(cannot)?;
        progress.detail(io, &format!("{} keys", exported.keys));
    }
    progress.clear(io);
    exported.revision = scan.revision();
    let written = out.into_inner().map_err(io::IntoInnerError::into_error).map_err(cannot)?;
    written.sync_all().and_then(|()| unfinished.rename(path)).map_err(cannot)?;
    Ok(exported)
}

/// A file that is of no use unless it was renamed.
struct Unfinished {
    path: PathBuf,
    renamed: bool,
}

impl Unfinished {
    /// Creates it beside `path`, under a name that no other export writes to.
    fn create(path: &Path) -> io::Result<(Self, File)> {
        let mut name = path.as_os_str().to_owned();
        name.push(format!(".unfinished-{}", std::process::id()));
        loop {
            match File::create_new(&name) {
                Ok(file) => return Ok((Self { path: name.into(), renamed: false }, file)),
                // Ids of processes come again, and containers have the same ones.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => name.push("-"),
                Err(error) => return Err(error),
            }
        }
    }

    /// Gives it its name, so that it has it after a power cut too.
    fn rename(mut self, path: &Path) -> io::Result<()> {
        std::fs::rename(&self.path, path)?;
        self.renamed = true;
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
        File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        // By then the name may be another's.
        if !self.renamed {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

impl Exported {
    fn add(&mut self, page: &[Item]) {
        self.keys += page.len() as u64;
        self.leased += page.iter().filter(|item| item.lease.is_some()).count() as u64;
    }
}

fn write_lines(out: &mut (impl Write + ?Sized), page: &[Item]) -> io::Result<()> {
    for item in page {
        let mut object = Map::new();
        insert_bytes(&mut object, "key", &item.key);
        insert_bytes(&mut object, "value", item.value.as_deref().unwrap_or_default());
        writeln!(out, "{}", Value::from(object))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;

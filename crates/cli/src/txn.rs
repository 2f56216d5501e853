//! `txn`: compare keys, and read and write several of them as one.
//!
//! What can be said in words of the command line is built here; anything else comes
//! as a document of the API's form and goes to the cluster as it is.

mod clauses;

use std::path::PathBuf;

use clap::Args;
use kvorum_client::{OperationResult, TxnOptions};
use serde::de::IgnoredAny;

use crate::args::{ClientArgs, ConsistencyArg, Format, help, read_document};
use crate::failure::{Exit, Failure};
use crate::output::Io;
use clauses::Clauses;

pub(crate) const HELP: &str = help!(
    "  kvorum txn --if lock absent --then put lock me --else get lock
  kvorum txn --if stock/7 version = 3 --if user/1 exists \\
      --then put stock/7 9 --then del cart/1
  kvorum txn --if a mod_revision gt 41 --then put a -5
  kvorum txn transfer.json
  echo '{\"then\":[{\"delete\":{\"prefix\":\"tmp/\"}}]}' | kvorum txn -

--if, --then and --else may be repeated; all of --if must hold. They take
  --if KEY exists|absent
  --if KEY value|version|create_revision|mod_revision|lease RELATION WHAT
  --then|--else put KEY VALUE | del KEY | get KEY
RELATION is =, !=, > or <, or eq, ne, gt, lt where the shell has its own use for
those. Ranges, leases, previous values and all else take a JSON document:
  {\"compare\":[…],\"then\":[…],\"else\":[…]}, as POST /v1/txn documents it.

If something of --if does not hold, --else is carried out, and the exit code is 4."
);

/// Arguments of `txn`.
#[derive(Debug, Args)]
pub struct TxnArgs {
    /// A file with the transaction as a JSON document; `-` reads it from standard input
    #[arg(
        value_name = "FILE",
        required_unless_present_any = ["if", "then", "else"],
        conflicts_with_all = ["if", "then", "else"]
    )]
    file: Option<PathBuf>,
    #[command(flatten)]
    clauses: Clauses,
    /// A token, unique to this transaction, with which it can be repeated safely
    #[arg(long, value_name = "TOKEN")]
    idempotency_key: Option<String>,
    /// How fresh the answer must be, if the transaction only reads
    #[arg(long, value_enum, value_name = "LEVEL", default_value_t)]
    consistency: ConsistencyArg,
    #[command(flatten)]
    pub(crate) client: ClientArgs,
}

pub(crate) async fn txn(args: TxnArgs, io: &mut Io<'_>) -> Result<(), Failure> {
    let client = args.client.client()?;
    let options = TxnOptions { idempotency_key: args.idempotency_key, consistency: args.consistency.into() };
    let answer = match &args.file {
        None => client.txn(&args.clauses.txn, options).await?,
        Some(path) => {
            let document = read_document(path, io)?;
            // What it says is for the cluster to judge.
            serde_json::from_slice::<IgnoredAny>(&document).map_err(|error| {
                Failure::new(Exit::Usage, "input", format!("the transaction is no JSON document: {error}"))
            })?;
            client.txn_document(document, options).await?
        }
    };
    match args.client.output {
        Format::Json => {
            io.out.write_all(answer.document())?;
            io.line("")?;
        }
        Format::Text | Format::Table => {
            io.line(&format!("{} (revision {})", outcome(answer.succeeded), answer.revision))?;
            print(&answer.results, io)?;
        }
    }
    if answer.succeeded { Ok(()) } else { Err(Failure::Quiet(Exit::ConditionFailed)) }
}

fn outcome(succeeded: bool) -> &'static str {
    if succeeded { "succeeded" } else { "not succeeded" }
}

/// One line for each operation, and one for each item.
fn print(results: &[OperationResult], io: &mut Io<'_>) -> Result<(), Failure> {
    for result in results {
        match result {
            OperationResult::Put { previous, .. } => {
                io.line("put")?;
                previous.iter().try_for_each(|item| io.item(item))?;
            }
            OperationResult::Delete { deleted, previous, .. } => {
                io.line(&format!("deleted {deleted}"))?;
                previous.iter().try_for_each(|item| io.item(item))?;
            }
            OperationResult::Get { items, count, .. } => {
                io.line(&format!("got {} of {count}", items.len()))?;
                items.iter().try_for_each(|item| io.item(item))?;
            }
            OperationResult::Txn { succeeded, results } => {
                io.line(outcome(*succeeded))?;
                print(results, io)?;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;

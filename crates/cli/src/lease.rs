//! `lease`: grants, renews, shows and revokes leases.

use clap::{Args, Subcommand};
use kvorum_client::{Error, insert_bytes};
use serde_json::{Map, Value, json};

use crate::args::{ClientArgs, Format, help, parse_ttl};
use crate::failure::{Exit, Failure};
use crate::output::{Io, escape};

pub(crate) const HELP: &str = help!(
    "  LEASE=$(kvorum lease grant 30s)
  kvorum put online/me yes --lease $LEASE
  kvorum lease keep-alive $LEASE
  kvorum lease show $LEASE --keys
  kvorum lease revoke $LEASE

A lease that nobody renews in time ends, and its keys are deleted with it."
);
const GRANT_HELP: &str = help!("  kvorum lease grant 30s\n  kvorum lease grant 1h --id 7");
const REVOKE_HELP: &str = help!("  kvorum lease revoke 7");
const KEEP_ALIVE_HELP: &str = help!("  kvorum lease keep-alive 7\n  kvorum lease keep-alive 7 --once");
const LIST_HELP: &str = help!("  kvorum lease list\n  kvorum lease list -o json");
const SHOW_HELP: &str = help!("  kvorum lease show 7\n  kvorum lease show 7 --keys");

/// Arguments of `lease`.
#[derive(Debug, Args)]
pub struct LeaseArgs {
    #[command(subcommand)]
    action: LeaseAction,
}

#[derive(Debug, Subcommand)]
enum LeaseAction {
    /// Grant a lease and print its id
    #[command(after_help = GRANT_HELP)]
    Grant {
        /// How long it lives unless it is renewed: 30s, 2m, 1h, 7d
        #[arg(value_name = "TIME", value_parser = parse_ttl)]
        ttl: i64,
        /// The lease's id; the cluster chooses one unless given
        #[arg(long, value_parser = clap::value_parser!(i64).range(1..))]
        id: Option<i64>,
        #[command(flatten)]
        client: ClientArgs,
    },
    /// End a lease and delete its keys
    #[command(after_help = REVOKE_HELP)]
    Revoke {
        /// The lease
        #[arg(value_parser = clap::value_parser!(i64).range(1..))]
        id: i64,
        #[command(flatten)]
        client: ClientArgs,
    },
    /// Renew a lease again and again, until Ctrl-C
    #[command(after_help = KEEP_ALIVE_HELP)]
    KeepAlive {
        /// The lease
        #[arg(value_parser = clap::value_parser!(i64).range(1..))]
        id: i64,
        /// Renew it once only
        #[arg(long)]
        once: bool,
        #[command(flatten)]
        client: ClientArgs,
    },
    /// List the ids of all leases
    #[command(after_help = LIST_HELP)]
    List {
        #[command(flatten)]
        client: ClientArgs,
    },
    /// Show how long a lease still lives
    #[command(after_help = SHOW_HELP)]
    Show {
        /// The lease
        #[arg(value_parser = clap::value_parser!(i64).range(1..))]
        id: i64,
        /// Show its keys too
        #[arg(long)]
        keys: bool,
        #[command(flatten)]
        client: ClientArgs,
    },
}

impl LeaseArgs {
    pub(crate) fn client(&self) -> &ClientArgs {
        match &self.action {
            LeaseAction::Grant { client, .. }
            | LeaseAction::Revoke { client, .. }
            | LeaseAction::KeepAlive { client, .. }
            | LeaseAction::List { client }
            | LeaseAction::Show { client, .. } => client,
        }
    }
}

pub(crate) async fn lease(args: LeaseArgs, io: &mut Io<'_>) -> Result<(), Failure> {
    match args.action {
        LeaseAction::Grant { ttl, id, client } => {
            let lease = client.client()?.lease_grant(ttl, id).await?;
            print_lease(client.output, &lease, &lease.id.to_string(), io)
        }
        LeaseAction::Revoke { id, client } => {
            let done = client.client()?.lease_revoke(id).await?;
            match client.output {
                Format::Json => io.line(&plain(&done)),
                Format::Text => io.line(&format!("revoked {} (revision {})", done.revoked, done.revision)),
                Format::Table => {
                    let row = vec![done.revoked.to_string(), done.revision.to_string()];
                    io.rows(Format::Table, &["REVOKED", "REVISION"], vec![row])
                }
            }
        }
        LeaseAction::KeepAlive { id, once, client } => keep_alive(id, once, &client, io).await,
        LeaseAction::List { client } => {
            let leases = client.client()?.leases().await?;
            match client.output {
                Format::Json => io.line(&plain(&leases)),
                Format::Text => leases.leases.iter().try_for_each(|id| io.line(&id.to_string())),
                Format::Table => {
                    let rows = leases.leases.iter().map(|id| vec![id.to_string()]).collect();
                    io.rows(Format::Table, &["LEASE"], rows)
                }
            }
        }
        LeaseAction::Show { id, keys, client } => show(id, keys, &client, io).await,
    }
}

fn plain(answer: &impl serde::Serialize) -> String {
    serde_json::to_string(answer).expect("plain fields have a JSON form")
}

fn print_lease(
    format: Format,
    lease: &kvorum_client::Lease,
    text: &str,
    io: &mut Io<'_>,
) -> Result<(), Failure> {
    match format {
        Format::Json => io.line(&plain(lease)),
        Format::Text => io.line(text),
        Format::Table => {
            io.rows(Format::Table, &["LEASE", "TTL"], vec![vec![lease.id.to_string(), lease.ttl.to_string()]])
        }
    }
}

async fn keep_alive(id: i64, once: bool, args: &ClientArgs, io: &mut Io<'_>) -> Result<(), Failure> {
    let mut keep_alive = args.client()?.keep_alive(id);
    loop {
        let lease = keep_alive.next().await.map_err(not_renewed)?;
        print_lease(args.output, &lease, &format!("lease {id} lives {} s", lease.ttl), io)?;
        io.out.flush()?;
        if once {
            return Ok(());
        }
    }
}

/// Nothing here rests on the lease, and the cluster may know better than this clock.
fn not_renewed(error: Error) -> Failure {
    if let Error::LeaseLost { message } = error {
        return Failure::new(Exit::Unavailable, "lease_lost", message)
            .hint("`kvorum lease show` tells whether it has ended");
    }
    error.into()
}

async fn show(id: i64, keys: bool, args: &ClientArgs, io: &mut Io<'_>) -> Result<(), Failure> {
    let status = args.client()?.lease_time_to_live(id, keys).await?;
    let keys = status.keys.as_deref();
    match args.output {
        Format::Json => {
            let mut json = json!({
                "revision": status.revision, "id": status.id, "ttl": status.ttl, "granted_ttl": status.granted_ttl
            });
            if let (Some(keys), Some(object)) = (keys, json.as_object_mut()) {
                let key_json = |key: &bytes::Bytes| {
                    let mut object = Map::new();
                    insert_bytes(&mut object, "key", key);
                    Value::from(object)
                };
                object.insert("keys".to_owned(), keys.iter().map(key_json).collect());
            }
            io.line(&json.to_string())
        }
        Format::Text => {
            io.line(&format!("lease {} lives {} s of {} s", status.id, status.ttl, status.granted_ttl))?;
            keys.unwrap_or_default().iter().try_for_each(|key| io.line(&escape(key)))
        }
        Format::Table => {
            let mut row = vec![status.id.to_string(), status.ttl.to_string(), status.granted_ttl.to_string()];
            let mut header = vec!["LEASE", "TTL", "GRANTED TTL"];
            if let Some(keys) = keys {
                header.push("KEYS");
                row.push(keys.iter().map(|key| escape(key)).collect::<Vec<_>>().join("\n"));
            }
            io.rows(Format::Table, &header, vec![row])
        }
    }
}

#[cfg(test)]
mod tests;

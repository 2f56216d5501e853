//! `lock` and `elect`: something that one process at a time holds.
//!
//! Whatever ends the command, it gives back what it holds, unless the cluster cannot
//! be reached: then the lease ends by itself. While a command runs under a lock, it is
//! the command that decides when this ends; only when the lock is lost is it killed.

mod child;

use std::ffi::OsString;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use clap::Args;
use futures_util::FutureExt as _;
use kvorum_client::{Client, Error, Held, Leader, Session, insert_bytes};
use serde_json::{Map, Value};

use crate::args::{ClientArgs, Format, LONG_TIMEOUT, bytes, help, parse_duration, parse_ttl};
use crate::failure::{Exit, Failure};
use crate::output::{Io, escape};
use crate::signals::StopSignals;

/// How long to try to give back what is held; the lease ends by itself too.
const RELEASE_TIMEOUT: Duration = Duration::from_secs(5);
/// For so long a signal does not keep from it: it may be the one that has ended the
/// command, and be told of later.
const UNDISTURBED: Duration = Duration::from_millis(500);
/// Before it is queued for anew.
const QUEUE_AGAIN: Duration = Duration::from_millis(500);

pub(crate) const LOCK_HELP: &str = help!(
    "  kvorum lock nightly -- ./backup.sh --full
  kvorum lock nightly --wait 0s -- ./backup.sh
  kvorum lock nightly

Without a command it prints the lock's key and holds the lock until Ctrl-C. With one,
it runs it while it holds the lock, passes its exit code on (128 and the number of the
signal that killed it), and releases the lock when the command has ended.
The command finds the key in KVORUM_LOCK_KEY, and in KVORUM_LOCK_REVISION a number that
grows from holder to holder: hand it to what the lock protects, and have that refuse
lower ones, because a holder that was stopped can lose the lock without noticing.

SIGINT, SIGTERM, SIGHUP and SIGQUIT are passed on to the command; Ctrl-C on a terminal
reaches it anyway. If the lock is lost, the command is killed: with all its children
unless standard input is a terminal. If this process itself is killed with SIGKILL, the
command goes on; while it is stopped (Ctrl-Z), nobody renews the lock's lease.

With --wait, exit code 4 says that someone else holds the lock; 5, that the cluster did
not tell in time.

Locks exclude each other with those of `etcdctl lock` and of etcd's client libraries.",
    "  6  the lock was lost while it was held, and the command was killed
  *  with a command, the command's own\n"
);
pub(crate) const ELECT_HELP: &str = help!(
    "  kvorum elect scheduler \"$(hostname)\"
  kvorum elect scheduler --observe

It waits until it has won, prints its key, and leads until Ctrl-C. With --observe it
takes no part and prints the leader's key and value, separated by a tab, now and each
time they change; `-` if nobody leads.

Elections are those of `etcdctl elect` and of etcd's client libraries.",
    "  6  leadership was lost\n"
);

/// Arguments of `lock`.
#[derive(Debug, Args)]
pub struct LockArgs {
    /// The lock's name
    name: OsString,
    /// The command to run while the lock is held, and its arguments
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<OsString>,
    /// How long to wait for the lock, 0s for not at all; as long as it takes unless given
    #[arg(long, value_name = "TIME", value_parser = parse_wait)]
    wait: Option<Duration>,
    /// How long the lock outlives this process if that cannot release it
    #[arg(long, value_name = "TIME", value_parser = parse_ttl, default_value = "10s")]
    ttl: i64,
    #[command(flatten)]
    pub(crate) client: ClientArgs,
}

/// Arguments of `elect`.
#[derive(Debug, Args)]
pub struct ElectArgs {
    /// The election's name
    name: OsString,
    /// What others see of the leader
    #[arg(default_value = "", hide_default_value = true, conflicts_with = "observe")]
    value: OsString,
    /// Print who leads, without taking part
    #[arg(long)]
    observe: bool,
    /// How long the leadership outlives this process if that cannot resign
    #[arg(long, value_name = "TIME", value_parser = parse_ttl, default_value = "10s")]
    ttl: i64,
    #[command(flatten)]
    pub(crate) client: ClientArgs,
}

fn parse_wait(text: &str) -> Result<Duration, String> {
    if matches!(text, "0" | "0s") { Ok(Duration::ZERO) } else { parse_duration(text) }
}

pub(crate) async fn lock(args: LockArgs, io: &mut Io<'_>) -> Result<(), Failure> {
    let name = bytes(args.name);
    // Whether somebody else is known to be first.
    let behind = AtomicBool::new(false);
    let acquire = async |session: &Session| {
        behind.store(false, Ordering::Relaxed);
        if args.wait == Some(Duration::ZERO) {
            return session.try_lock(&name).await?.ok_or_else(|| taken(&name));
        }
        let candidate = session.enter(&name, Bytes::new()).await?;
        behind.store(!candidate.is_first(), Ordering::Relaxed);
        Ok(candidate.wait().await?)
    };
    let late = || if behind.load(Ordering::Relaxed) { taken(&name) } else { not_told(&name) };
    let client = args.client.client_within(LONG_TIMEOUT)?;
    let mut stop = StopSignals::new()?;
    let wait = args.wait.filter(|wait| !wait.is_zero());
    let patience = Patience { deadline: wait.map(|wait| Instant::now() + wait), late: &late };
    let (session, held) = begin(&client, args.ttl, acquire, &patience, &mut stop).await?;
    let outcome = match args.command.split_first() {
        None => match announce(args.client.output, &session, &held, None, io) {
            Ok(()) => hold(&session, &mut stop).await,
            Err(failure) => Err(failure),
        },
        Some((program, arguments)) => {
            let own_group = !io.in_is_terminal;
            child::run(program, arguments, &session, &held, own_group, &mut stop).await
        }
    };
    release(session, &mut stop, io).await;
    outcome
}

fn taken(name: &[u8]) -> Failure {
    let message = format!("lock \"{}\" is held by someone else", escape(name));
    Failure::new(Exit::ConditionFailed, "lock_held", message)
}

fn not_told(name: &[u8]) -> Failure {
    let message = format!("the cluster did not tell in time whether lock \"{}\" is free", escape(name));
    Failure::new(Exit::Unavailable, "timeout", message).hint("see `kvorum status`, or give --wait more time")
}

pub(crate) async fn elect(args: ElectArgs, io: &mut Io<'_>) -> Result<(), Failure> {
    let name = bytes(args.name);
    let client = args.client.client_within(LONG_TIMEOUT)?;
    if args.observe {
        return observe(&client, &name, args.client.output, io).await;
    }
    let value = bytes(args.value);
    let campaign = async |session: &Session| Ok(session.elect(&name, value.clone()).await?);
    let mut stop = StopSignals::new()?;
    let patience = Patience { deadline: None, late: &given_up };
    let (session, held) = begin(&client, args.ttl, campaign, &patience, &mut stop).await?;
    let outcome = match announce(args.client.output, &session, &held, Some(&value), io) {
        Ok(()) => hold(&session, &mut stop).await,
        Err(failure) => Err(failure),
    };
    release(session, &mut stop, io).await;
    outcome
}

/// How long something is waited for.
struct Patience<'a> {
    /// For ever if `None`.
    deadline: Option<Instant>,
    /// What is then said.
    late: &'a dyn Fn() -> Failure,
}

impl Patience<'_> {
    /// Waits until it has ended, or the user gives up.
    async fn end(&self, stop: &mut StopSignals) -> Failure {
        let deadline = async {
            match self.deadline {
                Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            _ = stop.next() => given_up(),
            () = deadline => (self.late)(),
        }
    }
}

fn given_up() -> Failure {
    Failure::new(Exit::Failed, "interrupted", "given up before it was acquired")
}

/// Opens a session and acquires something with it; in a session that is lost
/// meanwhile, or whose place in the queue is deleted, there was nothing to lose yet,
/// and another one queues anew. If it fails or the user gives up, nothing is left
/// behind.
async fn begin(
    client: &Client,
    ttl: i64,
    acquire: impl AsyncFn(&Session) -> Result<Held, Failure>,
    patience: &Patience<'_>,
    stop: &mut StopSignals,
) -> Result<(Session, Held), Failure> {
    let ttl = Duration::from_secs(u64::try_from(ttl).unwrap_or_default());
    let mut client = client.clone();
    loop {
        let session = tokio::select! {
            biased;
            failure = patience.end(stop) => return Err(failure),
            session = client.session(ttl) => session,
        };
        let failure = match session {
            Ok(session) => {
                let outcome = tokio::select! {
                    biased;
                    failure = patience.end(stop) => Err(failure),
                    held = acquire(&session) => held,
                };
                match outcome {
                    Ok(held) => return Ok((session, held)),
                    Err(failure) => {
                        client = session.client().clone();
                        // Otherwise those behind it would wait for its lease to end.
                        let _ = tokio::time::timeout(RELEASE_TIMEOUT, session.end()).await;
                        failure
                    }
                }
            }
            Err(error) => error.into(),
        };
        if failure.exit() != Exit::LeaseLost {
            return Err(failure);
        }
        tokio::select! {
            biased;
            failure = patience.end(stop) => return Err(failure),
            () = tokio::time::sleep(QUEUE_AGAIN) => {}
        }
    }
}

/// Says what is held.
fn announce(
    format: Format,
    session: &Session,
    held: &Held,
    value: Option<&[u8]>,
    io: &mut Io<'_>,
) -> Result<(), Failure> {
    match format {
        Format::Json => {
            let mut object = Map::new();
            insert_bytes(&mut object, "key", &held.key);
            if let Some(value) = value {
                insert_bytes(&mut object, "value", value);
            }
            object.insert("revision".to_owned(), held.revision.into());
            object.insert("lease".to_owned(), session.lease().into());
            io.line(&Value::from(object).to_string())?;
        }
        Format::Text | Format::Table => io.line(&escape(&held.key))?,
    }
    Ok(io.out.flush()?)
}

/// Holds until the user has had enough.
async fn hold(session: &Session, stop: &mut StopSignals) -> Result<(), Failure> {
    tokio::select! {
        biased;
        _ = stop.next() => Ok(()),
        error = session.lost() => Err(error.into()),
    }
}

/// Gives back what is held, unless that takes too long or the user asks again.
async fn release(session: Session, stop: &mut StopSignals, io: &mut Io<'_>) {
    let ttl = session.ttl().as_secs();
    // What has been sent until now did not mean this.
    while stop.next().now_or_never().is_some() {}
    let asked_again = async {
        tokio::time::sleep(UNDISTURBED).await;
        stop.next().await
    };
    let outcome: Result<(), Option<Error>> = tokio::select! {
        biased;
        outcome = session.end() => outcome.map_err(Some),
        _ = asked_again => Err(None),
        () = tokio::time::sleep(RELEASE_TIMEOUT) => Err(None),
    };
    if let Err(error) = outcome {
        let why = error.map_or_else(String::new, |error| format!(": {error}"));
        // There is nobody else left to tell.
        let _ = writeln!(io.err, "it could not be released, and ends within {ttl} s{why}");
    }
}

async fn observe(client: &Client, name: &[u8], format: Format, io: &mut Io<'_>) -> Result<(), Failure> {
    let mut observer = client.observe(name);
    loop {
        let leader = observer.next().await?;
        match format {
            Format::Json => io.line(&leader_json(leader.as_ref()).to_string())?,
            Format::Text | Format::Table => {
                let text = leader.map_or_else(
                    || "-".to_owned(),
                    |leader| format!("{}\t{}", escape(&leader.key), escape(&leader.value)),
                );
                io.line(&text)?;
            }
        }
        io.out.flush()?;
    }
}

fn leader_json(leader: Option<&Leader>) -> Value {
    let leader = leader.map(|leader| {
        let mut object = Map::new();
        insert_bytes(&mut object, "key", &leader.key);
        insert_bytes(&mut object, "value", &leader.value);
        object.insert("revision".to_owned(), leader.revision.into());
        Value::from(object)
    });
    serde_json::json!({ "leader": leader })
}

#[cfg(test)]
mod tests;

//! The command line against clusters of real nodes: every command is a process, as users
//! and scripts run it, and knows the cluster by its endpoints alone.

use std::path::Path;
use std::process::{Output, Stdio};
use std::time::{Duration, Instant};

use kvorum::NodeId;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};

use crate::support::cluster::{Builder, TestCluster};
use crate::support::node::BINARY;
use crate::support::{PATIENCE, eventually};

/// Runs commands against all nodes of a cluster, the first one first.
struct Cli {
    endpoints: String,
}

impl Cli {
    fn of(cluster: &TestCluster) -> Self {
        Self { endpoints: cluster.addrs().join(",") }
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(BINARY);
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("KVORUM_") {
                command.env_remove(name);
            }
        }
        command.args(words).env("KVORUM_ENDPOINTS", &self.endpoints);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).kill_on_drop(true);
        command
    }

    /// Starts a command that goes on.
    fn start(&self, words: &[&str]) -> Running {
        let mut child = self.command(words).spawn().unwrap();
        let out = BufReader::new(child.stdout.take().unwrap()).lines();
        Running { child, out }
    }

    /// Runs a command to its end.
    async fn output(&self, words: &[&str], input: &[u8]) -> Output {
        let mut child = self.command(words).stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let exchange = async {
            // A command that needs no input may have ended before it takes any.
            let written = async move { stdin.write_all(input).await };
            tokio::join!(child.wait_with_output(), written).0
        };
        tokio::time::timeout(PATIENCE, exchange).await.expect("the command ends").unwrap()
    }

    /// What a command prints that succeeds.
    async fn ok(&self, words: &[&str]) -> String {
        let output = self.output(words, b"").await;
        assert!(output.status.success(), "{words:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// The exit code of a command.
    async fn code(&self, words: &[&str]) -> Option<i32> {
        self.output(words, b"").await.status.code()
    }
}

/// A command that goes on, and what it prints.
struct Running {
    child: Child,
    out: Lines<BufReader<ChildStdout>>,
}

impl Running {
    /// The next line that it prints; `None` at the end.
    async fn next_line(&mut self) -> Option<String> {
        tokio::time::timeout(PATIENCE, self.out.next_line()).await.expect("a line is printed").unwrap()
    }

    async fn line(&mut self) -> String {
        self.next_line().await.expect("it goes on")
    }

    /// Sends it a signal. It has not been waited for, so its id is its own.
    fn signal(&self, name: &str) {
        let kill = format!("kill -{name} {}", self.child.id().unwrap());
        assert!(std::process::Command::new("sh").arg("-c").arg(kill).status().unwrap().success());
    }

    /// Its exit code, once it has ended.
    async fn ended(&mut self) -> Option<i32> {
        tokio::time::timeout(PATIENCE, self.child.wait()).await.expect("it ends").unwrap().code()
    }
}

/// Writes key number `number` once, whatever becomes of nodes meanwhile, and answers the revision.
async fn put(cluster: &TestCluster, through: NodeId, number: usize) -> i64 {
    let path = format!("/v1/kv/w-{number}");
    let token = format!("write-{number}");
    let http = cluster.http.with_timeout(Duration::from_secs(10));
    eventually("the write is acknowledged", async || {
        let headers = [("idempotency-key", token.as_str())];
        let answer = http.send("PUT", cluster.addr(through), &path, &headers, number.to_string()).await;
        match answer {
            Ok(answer) if (200..300).contains(&answer.status) => {
                Ok(answer.json()["revision"].as_i64().unwrap())
            }
            Ok(answer) => Err(answer.text()),
            Err(trouble) => Err(trouble.to_string()),
        }
    })
    .await
}

/// The revision and the keys of the next change that a watch tells in JSON.
async fn change(watch: &mut Running) -> (i64, Vec<String>) {
    let change: Value = serde_json::from_str(&watch.line().await).unwrap();
    let events = change["events"].as_array().unwrap();
    let keys = events.iter().map(|event| event["key"].as_str().unwrap().to_owned()).collect();
    (change["revision"].as_i64().unwrap(), keys)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_outlives_the_nodes_that_serve_it_without_gap_or_repetition() {
    let mut cluster = Builder::new().form(3).await;
    let next = (cluster.settle().await.revision + 1).to_string();
    let mut watch = Cli::of(&cluster).start(&["watch", "--prefix", "w-", "--from-revision", &next, "--json"]);
    let mut written = Vec::new();
    let mut told = Vec::new();
    // Its endpoints are served in turn, so each of these nodes serves it when it dies.
    for dying in [1, 2] {
        for round in 0..2 {
            for _ in 0..4 {
                let number = written.len();
                written.push((put(&cluster, 3, number).await, vec![format!("w-{number}")]));
            }
            if round == 0 {
                told.push(change(&mut watch).await);
                assert!(cluster.counter(dying, "watch_events").await > 0, "another node serves the watch");
                cluster.node(dying).kill();
            }
        }
        while told.len() < written.len() {
            told.push(change(&mut watch).await);
        }
        cluster.node(dying).start().await;
        cluster.settle().await;
    }
    assert_eq!(told, written);
}

/// How many keys begin with `prefix`.
async fn count(cluster: &TestCluster, prefix: &str) -> i64 {
    let path = format!("/v1/kv?prefix={prefix}&count_only=true");
    cluster.http.get(cluster.addr(1), &path).await.ok().json()["count"].as_i64().unwrap()
}

async fn until_count(cluster: &TestCluster, prefix: &str, expected: i64) {
    eventually("so many queue", async || match count(cluster, prefix).await {
        found if found == expected => Ok(()),
        found => Err(found.to_string()),
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn locks_exclude_each_other_and_are_free_at_once_when_their_holder_is_ended() {
    let cluster = Builder::new().form(3).await;
    let cli = Cli::of(&cluster);
    let script = r#"echo "$$ $KVORUM_LOCK_REVISION"; exec sleep 100"#;
    // Longer than it may take until the second one has it.
    let mut first = cli.start(&["lock", "l", "--ttl", "10m", "--", "sh", "-c", script]);
    let line = first.line().await;
    let (pid, revision) = line.split_once(' ').unwrap();
    let holds = Path::new("/proc").join(pid);
    assert!(holds.exists());

    let mut second = cli.start(&["lock", "l", "--", "sh", "-c", r#"echo "$KVORUM_LOCK_REVISION"; exit 7"#]);
    until_count(&cluster, "l/", 2).await;
    assert_eq!(cli.code(&["lock", "l", "--wait", "0s", "--", "true"]).await, Some(4));
    assert_eq!(cli.code(&["lock", "l", "--wait", "3s", "--", "true"]).await, Some(4));
    assert_eq!(count(&cluster, "l/").await, 2, "who has given up does not stay in the queue");

    first.signal("TERM");
    assert_eq!(first.ended().await, Some(143));
    assert!(!holds.exists(), "the command goes on without the lock");
    let fence = second.line().await;
    assert!(fence.parse::<i64>().unwrap() > revision.parse().unwrap(), "{fence} after {revision}");
    assert_eq!(second.ended().await, Some(7));
    assert_eq!(count(&cluster, "l/").await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lock_whose_lease_is_revoked_kills_its_command() {
    let cluster = Builder::new().form(1).await;
    let cli = Cli::of(&cluster);
    let mut holder = cli.start(&["lock", "l", "--ttl", "2s", "--", "sh", "-c", "echo $$; sleep 100; true"]);
    let holds = Path::new("/proc").join(holder.line().await);
    let lease = cli.ok(&["lease", "list"]).await;
    cli.ok(&["lease", "revoke", lease.trim()]).await;
    assert_eq!(holder.ended().await, Some(6));
    assert!(!holds.exists());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leaders_follow_one_another_before_the_eyes_of_an_observer() {
    let cluster = Builder::new().form(3).await;
    let cli = Cli::of(&cluster);
    let mut observer = cli.start(&["elect", "e", "--observe"]);
    assert_eq!(observer.line().await, "-");
    let mut first = cli.start(&["elect", "e", "one", "--ttl", "10m"]);
    let key = first.line().await;
    assert_eq!(observer.line().await, format!("{key}\tone"));
    let mut second = cli.start(&["elect", "e", "two", "--ttl", "10m"]);
    until_count(&cluster, "e/", 2).await;

    first.signal("INT");
    assert_eq!(first.ended().await, Some(0));
    let key = second.line().await;
    assert_eq!(observer.line().await, format!("{key}\ttwo"));
    second.signal("QUIT");
    assert_eq!(second.ended().await, Some(0));
    assert_eq!(observer.line().await, "-");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_exported_is_imported_byte_by_byte() {
    let cluster = Builder::new().form(1).await;
    let cli = Cli::of(&cluster);
    let addr = cluster.addr(1);
    let long = b"\x00\x01\"\\\n".repeat(20_000);
    let pairs: [(&str, &[u8]); 6] = [
        ("x%00", b""),
        ("x%0Aline%0D%09", b"\r\n\t\\ \"quoted\""),
        ("x%FF%FE", &[0xff, 0, 0x80]),
        ("x%E2%82%AC", "\u{20ac}\u{2028}\u{1f980}".as_bytes()),
        ("x%2F%22%5C", b"{\"key\":\"x\"}"),
        ("xlong", &long),
    ];
    for (key, value) in pairs {
        cluster.http.put(addr, key, value.to_vec()).await.ok();
    }
    cluster.put(1, "other", "1").await.ok();
    let exported = cli.output(&["export", "--prefix", "x"], b"").await;
    assert!(exported.status.success(), "{exported:?}");

    let remove = json!({ "then": [{ "delete": { "prefix": "x" } }] }).to_string();
    let removed = cli.output(&["txn", "-", "--json"], remove.as_bytes()).await;
    let removed: Value = serde_json::from_slice(&removed.stdout).unwrap();
    assert_eq!(removed["results"][0]["delete"]["deleted"], pairs.len());
    let imported = cli.output(&["import", "-", "--json"], &exported.stdout).await;
    let answer: Value = serde_json::from_slice(&imported.stdout).unwrap();
    assert_eq!((imported.status.code(), &answer["imported"]), (Some(0), &json!(pairs.len())), "{imported:?}");
    for (key, value) in pairs {
        let found = cluster.http.get(addr, &format!("/v1/kv/{key}")).await.ok();
        assert!(found.body == value, "{key}: {} bytes", found.body.len());
    }
    assert_eq!(cluster.get(1, "other", "local").await.as_deref(), Some("1"));

    // More than a pipe holds, so that its end is noticed however fast it is written.
    let mut cut = cli.command(&["export", "--prefix", "x"]).stderr(Stdio::null()).spawn().unwrap();
    drop(cut.stdout.take());
    let status = tokio::time::timeout(PATIENCE, cut.wait()).await.expect("it ends").unwrap();
    assert_eq!(status.code(), Some(141), "a part of an export does not seem to be all of it");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_import_that_the_cluster_refuses_names_the_line() {
    let cluster = Builder::new().form(1).await;
    let cli = Cli::of(&cluster);
    let lines = "{\"key\":\"a\",\"value\":\"1\"}\n\n{\"key\":\"\",\"value\":\"2\"}\n{\"key\":\"c\",\"value\":\"3\"}\n";
    let refused = cli.output(&["import", "-"], lines.as_bytes()).await;
    let said = String::from_utf8(refused.stderr).unwrap();
    assert_eq!(refused.status.code(), Some(1), "{said}");
    assert!(said.contains("line 3: put.key is empty") && said.contains("--from-line 3"), "{said}");
    assert_eq!(cluster.get(1, "a", "local").await.as_deref(), Some("1"));
    assert_eq!(cluster.get(1, "c", "local").await, None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_tells_what_was_there_before_and_what_was_not() {
    let cluster = Builder::new().form(1).await;
    let cli = Cli::of(&cluster);
    cli.ok(&["put", "k", "old"]).await;
    let document = json!({
        "compare": [{ "key": "k", "target": "value", "relation": "=", "value": "old" }],
        "then": [
            { "put": { "key": "k", "value": "new", "previous": true } },
            { "put": { "key": "n", "value": "1", "previous": true } },
            { "delete": { "key": "none", "previous": true } },
        ],
        "else": [{ "get": { "key": "k" } }],
    });
    let done = cli.output(&["txn", "-", "--json"], document.to_string().as_bytes()).await;
    let answer: Value = serde_json::from_slice(&done.stdout).unwrap();
    assert_eq!((done.status.code(), &answer["succeeded"]), (Some(0), &json!(true)));
    let results = answer["results"].as_array().unwrap();
    assert_eq!(results[0]["put"]["previous"]["value"], "old");
    let asked_for =
        |index: usize, name: &str| results[index][name].as_object().unwrap().get("previous").cloned();
    assert_eq!((asked_for(1, "put"), asked_for(2, "delete")), (Some(Value::Null), Some(json!([]))));

    let again = cli.output(&["txn", "-"], document.to_string().as_bytes()).await;
    let said = String::from_utf8(again.stdout).unwrap();
    assert_eq!(again.status.code(), Some(4));
    assert!(said.starts_with("not succeeded") && said.ends_with("got 1 of 1\nk\tnew\n"), "{said}");

    let twice = br#"{"then":[{"put":{"key":"k","key":"l","value":"x"}}]}"#;
    assert_eq!(cli.output(&["txn", "-"], twice).await.status.code(), Some(1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_with_an_end_alone_begins_with_the_first_key() {
    let cluster = Builder::new().form(1).await;
    let cli = Cli::of(&cluster);
    let from = cluster.put(1, "a", "1").await.ok().json()["revision"].to_string();
    let mut watch = cli.start(&["watch", "--end", "c", "--from-revision", &from]);
    assert_eq!(watch.line().await, format!("{from}\tput\ta\t1"));
    for key in ["c", "d", "b"] {
        cluster.put(1, key, "2").await.ok();
    }
    let line = watch.line().await;
    assert!(line.ends_with("\tput\tb\t2"), "{line}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_lives_while_it_is_kept_alive_and_ends_when_it_is_revoked() {
    let cluster = Builder::new().form(1).await;
    let cli = Cli::of(&cluster);
    let granted: Value = serde_json::from_str(&cli.ok(&["lease", "grant", "2s", "--json"]).await).unwrap();
    let (id, ttl) = (granted["id"].to_string(), granted["ttl"].as_u64().unwrap());
    cli.ok(&["put", "k", "v", "--lease", &id]).await;
    assert_eq!(cli.ok(&["lease", "list"]).await, format!("{id}\n"));

    let begun = Instant::now();
    let mut keeper = cli.start(&["lease", "keep-alive", &id]);
    while begun.elapsed() < 2 * Duration::from_secs(ttl) {
        assert_eq!(keeper.line().await, format!("lease {id} lives {ttl} s"));
    }
    assert!(cli.ok(&["lease", "show", &id, "--keys"]).await.ends_with("\nk\n"));

    assert!(cli.ok(&["lease", "revoke", &id]).await.starts_with(&format!("revoked {id} ")));
    assert_eq!(cluster.get(1, "k", "linearizable").await, None);
    while keeper.next_line().await.is_some() {}
    assert_eq!(keeper.ended().await, Some(3));
    for again in [["lease", "revoke", &id], ["lease", "show", &id]] {
        assert_eq!(cli.code(&again).await, Some(3), "{again:?}");
    }
}

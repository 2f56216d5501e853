//! The command line as a whole: what parses, what is refused, what help says.

use clap::{CommandFactory as _, error::ErrorKind};

use super::*;
use crate::testing::{Captured, ClosedPipe, Root, parse};

#[test]
fn the_command_line_is_consistent() {
    Root::command().debug_assert();
}

#[test]
fn documented_command_lines_parse() {
    for line in [
        "put k v",
        "put k -",
        "put k -5",
        "put k --file f --if-absent",
        "put k v --if-revision 4 --idempotency-key t -o json --timeout 500ms",
        "get k --revision 3 --consistency local --write-to f",
        "del k --if-revision 4",
        "scan",
        "scan p --limit 3 --keys-only",
        "scan --start a --end b --count",
        "put k v --lease 7",
        "scan --json",
        "txn f",
        "txn - --idempotency-key t",
        "txn --if a absent --if b version eq 3 --then put a 1 --then del b --else get a --json",
        "watch",
        "watch k --from-revision 41 --previous --only put",
        "watch --prefix p --json",
        "watch --start a --end b",
        "lease grant 30s --id 7",
        "lease revoke 7",
        "lease keep-alive 7 --once",
        "lease list",
        "lease show 7 --keys",
        "lock n",
        "lock n --wait 0s --ttl 30s -- sh -c true --json",
        "elect n",
        "elect n me --ttl 5",
        "elect n --observe",
        "compact 41 --physical",
        "export",
        "export --prefix p/ --out f --revision 5",
        "import",
        "import -",
        "import f --from-line 301",
        "import --etcd-snapshot f",
        "status --endpoints a:1,b:2 -o table",
        "member list",
        "member add 4 h:1 --timeout 10m",
        "member promote 4",
        "member remove 4 --force --cluster-secret s",
        "leader transfer",
        "leader transfer 2",
        "snapshot",
        "init",
        "init 1=a:1 2=b:1",
        "local",
        "local --nodes 5 --data-dir d --base-port 31001 --grpc-base-port 2379 --serve-arg --log-level",
        "completions zsh",
    ] {
        let words: Vec<_> = line.split(' ').collect();
        assert!(parse(&words).is_ok(), "{line}");
    }
}

#[test]
fn contradictions_are_refused_with_the_exit_code_for_usage() {
    for line in [
        "put k",
        "put k v --file f",
        "put k v --if-absent --if-exists",
        "put k v --if-revision 0",
        "get",
        "get k --consistency eventual",
        "get k --timeout soon",
        "scan p --start a",
        "scan --count --limit 3",
        "scan --limit 0",
        "scan -o text --json",
        "txn",
        "txn f --then get k",
        "watch k --prefix p",
        "watch --prefix p --start a",
        "watch --from-revision 0",
        "lease grant",
        "lease grant 500ms",
        "lease show",
        "lock",
        "lock n true",
        "elect n me --observe",
        "compact 0",
        "import f --etcd-snapshot g",
        "import --etcd-snapshot g --from-line 2",
        "member add 4",
        "init 1",
        "local --nodes 0",
        "completions cmd",
    ] {
        let words: Vec<_> = line.split(' ').collect();
        let error = parse(&words).expect_err(line);
        assert_eq!(error.exit_code(), i32::from(Exit::Usage.code()), "{line}");
    }
}

#[test]
fn every_help_has_examples_and_exit_codes() {
    fn check(command: &clap::Command) {
        let leaf = !command.has_subcommands();
        let help = command.clone().render_long_help().to_string();
        assert!(command.get_about().is_some() || command.get_name() == "kvorum", "{}", command.get_name());
        if leaf {
            assert!(help.contains("Examples:") && help.contains("Exit codes:"), "{}", command.get_name());
        }
        command.get_subcommands().filter(|sub| sub.get_name() != "help").for_each(check);
    }
    check(&Root::command());
}

#[test]
fn help_of_local_names_the_port_of_etcds_api() {
    let Err(help) = parse(&["local", "--help"]) else { panic!("help is shown") };
    assert_eq!(help.kind(), ErrorKind::DisplayHelp);
    assert!(help.to_string().contains("--grpc-base-port"));
}

#[tokio::test]
async fn completions_describe_the_whole_binary() {
    let mut captured = Captured::default();
    let command = parse(&["completions", "bash"]).unwrap();
    let exit = run_with(command, Root::command, &mut captured.io()).await;
    assert_eq!(exit, Exit::Done);
    assert!(captured.out().contains("_kvorum") && captured.out().contains("snapshot"));
}

#[tokio::test]
async fn a_reader_that_has_gone_ends_a_command_without_a_word() {
    let mut captured = Captured::default();
    let mut io = captured.io();
    let mut closed = ClosedPipe;
    io.out = &mut closed;
    let command = parse(&["completions", "bash"]).unwrap();
    assert_eq!(run_with(command, Root::command, &mut io).await, Exit::BrokenPipe);
    assert_eq!(captured.err(), "");
}

#[tokio::test]
async fn errors_of_usage_found_later_are_usage_errors_too() {
    let mut captured = Captured::default();
    let command = parse(&["get", "k", "--endpoints", "https://a:1"]).unwrap();
    assert_eq!(run_with(command, Root::command, &mut captured.io()).await, Exit::Usage);
    assert!(captured.err().starts_with("error: endpoint \"https://a:1\""), "{}", captured.err());
}

#[tokio::test]
async fn nobody_there_is_unavailable_and_says_what_to_do() {
    let addr = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap().to_string()
    };
    let mut captured = Captured::default();
    let command = parse(&["get", "k", "--endpoints", &addr, "--timeout", "200ms", "-o", "json"]).unwrap();
    assert_eq!(run_with(command, Root::command, &mut captured.io()).await, Exit::Unavailable);
    let error: serde_json::Value = serde_json::from_str(captured.err()).unwrap();
    assert_eq!(error["error"]["code"], "unreachable");
    assert!(error["error"]["hint"].as_str().unwrap().contains("kvorum local"));
}

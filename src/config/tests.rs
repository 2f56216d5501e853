//! The sources agree on what can be set, fall back in the right order, and
//! refuse what cannot work with a message that names it.

use std::collections::BTreeSet;

use clap::builder::Resettable;
use clap::{Args, Command, FromArgMatches};

use super::*;

const SAMPLE: &str = include_str!("../../config/kvorum.toml");
const MANUAL: &str = include_str!("../../docs/configuration.md");

fn command() -> Command {
    ServeArgs::augment_args(Command::new("serve"))
}

/// Parses flags as the binary does, but without the environment of whoever runs the tests.
fn args(flags: &[&str]) -> ServeArgs {
    let command = command().mut_args(|argument| argument.env(Resettable::Reset));
    let matches = command.get_matches_from([&["serve"], flags].concat());
    ServeArgs::from_arg_matches(&matches).expect("the flags are valid")
}

/// The flags that every start needs, and `flags`.
fn node(flags: &[&str]) -> ServeArgs {
    args(&[&["--id", "1", "--data-dir", "/data"], flags].concat())
}

fn load(flags: &[&str]) -> Result<Config, ConfigError> {
    Config::from_options(&effective(node(flags), None)?)
}

fn refusal(flags: &[&str]) -> String {
    load(flags).expect_err("the configuration must be refused").to_string()
}

fn file(text: &str) -> (tempfile::TempDir, String) {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let path = dir.path().join("kvorum.toml");
    fs::write(&path, text).expect("a file is written");
    let path = path.to_str().expect("the path is UTF-8").to_owned();
    (dir, path)
}

/// The keys of the file, as its parser names them when it meets an unknown one.
fn file_keys() -> BTreeSet<String> {
    let error = toml::from_str::<Options>("no_such_option = 1").expect_err("the key is unknown");
    let (_, keys) = error.message().split_once("expected one of ").expect("the known keys are listed");
    keys.split(", ").map(|key| key.trim_matches('`').to_owned()).collect()
}

/// The sample with its commented-out options (`#` and no space) made effective.
fn uncommented_sample() -> String {
    let lines = SAMPLE.lines().filter(|line| !line.starts_with("# "));
    lines.map(|line| line.trim_start_matches('#')).collect::<Vec<_>>().join("\n")
}

#[test]
fn every_option_is_a_flag_an_environment_variable_and_a_file_key() {
    let command = command();
    let mut flags = BTreeSet::new();
    for argument in command.get_arguments() {
        let id = argument.get_id().as_str();
        assert_eq!(argument.get_long(), Some(id.replace('_', "-").as_str()), "the flag of {id}");
        if id == "print_config" {
            continue;
        }
        let variable = argument.get_env().and_then(|name| name.to_str());
        assert_eq!(variable, Some(format!("KVORUM_{}", id.to_uppercase()).as_str()), "the variable of {id}");
        if id != "config" {
            flags.insert(id.to_owned());
        }
    }
    assert_eq!(flags, file_keys());
}

#[test]
fn sample_file_holds_every_option_at_its_default() {
    let sample: Options = toml::from_str(SAMPLE).expect("the sample parses");
    assert_eq!(sample, Options::defaults());

    let all: toml::Table = toml::from_str(&uncommented_sample()).expect("the sample parses without comments");
    assert_eq!(all.keys().cloned().collect::<BTreeSet<_>>(), file_keys());
    toml::from_str::<Options>(&uncommented_sample()).expect("the commented-out options are valid");
}

#[test]
fn help_and_manual_name_every_default() {
    let defaults = toml::Table::try_from(Options::defaults()).expect("the defaults are TOML");
    let command = command();
    for argument in command.get_arguments() {
        let id = argument.get_id().as_str();
        let flag = format!("| `--{}` |", id.replace('_', "-"));
        let row =
            MANUAL.lines().find(|line| line.starts_with(&flag)).unwrap_or_else(|| panic!("no row {flag}"));
        let Some(default) = defaults.get(id) else { continue };
        let default = default.as_str().map_or_else(|| default.to_string(), str::to_owned);
        // A default with underscores stands in backticks, as the lints on comments want it.
        let help = argument.get_help().map(|help| help.to_string().replace('`', "")).unwrap_or_default();
        assert!(help.ends_with(&format!("(default {default})")), "{id}: {help}");
        assert!(row.contains(&format!("| `{default}` |")), "{row}");
    }
}

#[test]
fn defaults_make_a_whole_configuration() {
    let config = load(&[]).expect("the defaults are valid");
    assert_eq!(config, Config::with_defaults(1, "/data"));
    assert_eq!(config.advertise_addr, "127.0.0.1:21001");
    assert_eq!(config.limits, Limits::default());
    assert!(config.http_workers >= 1);
}

#[test]
fn flag_wins_over_file_and_file_over_default() {
    let (_dir, path) = file("id = 9\nmax_key_bytes = \"2KiB\"\nmax_page_keys = 77\nraft_workers = 3\n");
    let config = load(&["--config", &path, "--max-key-bytes", "1KiB"]).expect("valid");
    assert_eq!(config.id, 1);
    assert_eq!(config.limits.max_key_bytes, 1024);
    assert_eq!(config.limits.max_page_keys, 77);
    assert_eq!(config.raft_workers, 3);
    assert_eq!(config.limits.max_page_bytes, 4 << 20);
}

#[test]
fn environment_wins_over_file_and_loses_to_flag() {
    // A process of its own, because the environment belongs to all tests of this one.
    let (_dir, path) = file("id = 9\ndata_dir = \"/file\"\nmax_page_keys = 9\n");
    let child = std::process::Command::new(std::env::current_exe().expect("the test binary has a path"))
        .args(["--exact", "--ignored", "config::tests::environment_in_child"])
        .env_clear()
        .envs([("KVORUM_CONFIG", path.as_str()), ("KVORUM_ID", "5"), ("KVORUM_DATA_DIR", "/environment")])
        .output()
        .expect("the test binary starts");
    assert!(child.status.success(), "{}", String::from_utf8_lossy(&child.stdout));
}

#[test]
#[ignore = "runs as the child of the test before"]
fn environment_in_child() {
    let matches = command().get_matches_from(["serve", "--data-dir", "/flag"]);
    let config = Config::load(ServeArgs::from_arg_matches(&matches).expect("valid")).expect("valid");
    assert_eq!((config.id, config.data_dir.to_str()), (5, Some("/flag")));
    assert_eq!(config.limits.max_page_keys, 9);
}

#[test]
fn rust_log_wins_over_file_and_loses_to_flag() {
    let (_dir, path) = file("log_filter = \"warn\"\n");
    let rust_log = Some("debug".to_owned());
    let with = |flags: &[&str]| effective(node(flags), rust_log.clone()).expect("valid").log_filter;
    assert_eq!(with(&["--config", &path]).as_deref(), Some("debug"));
    assert_eq!(with(&["--config", &path, "--log-filter", "error"]).as_deref(), Some("error"));
}

#[test]
fn unknown_key_is_refused_with_file_line_and_key() {
    let (_dir, path) = file("# comment\nid = 1\n\nblok_cache_bytes = 1\n");
    let message = refusal(&["--config", &path]);
    assert!(message.contains(&format!("{path}, line 4: unknown field `blok_cache_bytes`")), "{message}");
}

#[test]
fn wrong_type_in_file_is_refused_with_line_and_key() {
    let (_dir, path) = file("id = 1\nmax_key_bytes = \"4 kilobytes\"\n");
    let message = refusal(&["--config", &path]);
    assert!(message.contains("line 2: max_key_bytes: \"4 kilobytes\" is no number of bytes"), "{message}");
}

#[test]
fn broken_line_that_holds_the_secret_does_not_show_it() {
    let (_dir, path) = file("cluster_secret = \"hunter2\n");
    let message = refusal(&["--config", &path]);
    assert!(message.contains("line 1: cluster_secret") && !message.contains("hunter2"), "{message}");
}

#[test]
fn unreadable_file_is_refused_with_its_name() {
    let message = refusal(&["--config", "/no/such/kvorum.toml"]);
    assert!(message.starts_with("config names /no/such/kvorum.toml, which can't be read"), "{message}");
}

#[test]
fn missing_id_names_flag_variable_and_key() {
    let message = Config::load(args(&["--data-dir", "/data"])).expect_err("no id").to_string();
    assert_eq!(message, "id is not set: give --id, KVORUM_ID, or id in the configuration file");
    let message = Config::load(args(&["--id", "1"])).expect_err("no folder").to_string();
    assert!(message.contains("--data-dir, KVORUM_DATA_DIR, or data_dir"), "{message}");
}

#[test]
fn value_out_of_bounds_names_option_value_and_bound() {
    for (flag, value, expected) in [
        ("--id", "0", "id is 0: must be from 1 to 9223372036854775807"),
        ("--max-key-bytes", "0", "max_key_bytes is 0: must be from 1 to 64KiB"),
        (
            "--max-page-keys",
            "18446744073709551615",
            "max_page_keys is 18446744073709551615: must be from 1 to 1000000",
        ),
        ("--request-timeout-ms", "0", "request_timeout_ms is 0: must be from 1 to 3600000"),
        ("--raft-workers", "0", "raft_workers is 0: must be from 1 to 256"),
        ("--log-cache-bytes", "1KiB", "log_cache_bytes is 1024: must be from 1MiB to 1024GiB"),
        ("--snapshot-rate-bytes-per-second", "1", "must be 0 (no bound) or from 64KiB to 1024GiB"),
        ("--http-addr", "21001", "http_addr is \"21001\": must be HOST:PORT"),
        ("--http-addr", "::1:21001", "must be HOST:PORT"),
        ("--peer-addr", "host:70000", "peer_addr is \"host:70000\": must be HOST:PORT"),
        ("--log-filter", "kvorum=loud", "log_filter is \"kvorum=loud\""),
        ("--grpc-addr", "2379", "grpc_addr is \"2379\": must be HOST:PORT"),
    ] {
        let id = if flag == "--id" { value } else { "1" };
        let others = if flag == "--id" { vec![] } else { vec![flag, value] };
        let flags = [vec!["--id", id, "--data-dir", "/data"], others].concat();
        let message = Config::load(args(&flags)).expect_err("out of bounds").to_string();
        assert!(message.contains(expected), "{message}");
    }
}

#[test]
fn related_options_are_checked_together() {
    for (flags, expected) in [
        (
            ["--election-timeout-min-ms", "150"].as_slice(),
            "election_timeout_min_ms is 150: must be at least twice heartbeat_interval_ms (100)",
        ),
        (
            &["--election-timeout-max-ms", "400"],
            "election_timeout_max_ms is 400: must be more than election_timeout_min_ms (400)",
        ),
        (
            &["--max-request-bytes", "1MiB"],
            "max_request_bytes is 1048576: must be at least max_key_bytes and max_value_bytes together (1576960)",
        ),
        (
            &["--max-request-bytes", "63MiB", "--max-inflight-bytes", "1GiB"],
            "max_request_bytes is 66060288: must be from 1 to 62MiB",
        ),
        (
            &["--max-request-bytes", "11MiB", "--peer-encoding", "json"],
            "max_request_bytes is 11534336: must be at most 10MiB while peer_encoding is json",
        ),
        (
            &["--max-inflight-bytes", "4MiB"],
            "max_inflight_bytes is 4194304: must be at least max_request_bytes (8388608)",
        ),
    ] {
        assert_eq!(refusal(flags), expected);
    }
}

#[test]
fn wildcard_address_needs_an_address_to_advertise() {
    for wildcard in ["0.0.0.0:21001", "[::]:21001", "127.0.0.1:0"] {
        let message = refusal(&["--http-addr", wildcard]);
        assert!(message.contains(wildcard) && message.contains("set advertise_addr"), "{message}");
        let config = load(&["--http-addr", wildcard, "--advertise-addr", "node1:21001"]).expect("valid");
        assert_eq!((config.http_addr.as_str(), config.advertise_addr.as_str()), (wildcard, "node1:21001"));
    }
    let config = load(&["--http-addr", "0.0.0.0:21001", "--peer-addr", "10.0.0.1:21002"]).expect("valid");
    assert_eq!(config.advertise_addr, "10.0.0.1:21002");
}

#[test]
fn peer_address_equal_to_http_address_is_the_same_as_none() {
    let config = load(&["--peer-addr", "127.0.0.1:21001"]).expect("valid");
    assert_eq!(config.peer_addr, None);
}

#[test]
fn snapshot_rate_of_zero_is_no_bound() {
    let config = load(&["--snapshot-rate-bytes-per-second", "0"]).expect("valid");
    assert_eq!(config.snapshot_rate_bytes_per_second, None);
}

#[test]
fn secret_is_read_from_its_file_without_the_newline() {
    let (_dir, path) = file("s3cret-of-the-cluster\n");
    let config = load(&["--cluster-secret-file", &path]).expect("valid");
    assert_eq!(config.cluster_secret.as_ref().map(Secret::expose), Some("s3cret-of-the-cluster"));
    assert!(!format!("{config:?}").contains("s3cret"));
}

#[test]
fn secret_and_secret_file_together_are_refused_but_a_flag_replaces_the_file_key() {
    let message = refusal(&["--cluster-secret", "a", "--cluster-secret-file", "/b"]);
    assert!(message.contains("set one of the two"), "{message}");

    let (_dir, path) = file("cluster_secret_file = \"/no/such/file\"\n");
    let config = load(&["--config", &path, "--cluster-secret", "from-the-flag"]).expect("valid");
    assert_eq!(config.cluster_secret.as_ref().map(Secret::expose), Some("from-the-flag"));
}

#[test]
fn secret_that_no_header_can_carry_is_refused_without_showing_it() {
    for secret in ["", "two words", "schlüssel", Secret::REDACTED] {
        let message = refusal(&["--cluster-secret", secret]);
        assert!(message.starts_with("cluster_secret is "), "{message}");
        assert!(secret.is_empty() || secret == Secret::REDACTED || !message.contains(secret), "{message}");
    }
}

#[test]
fn printed_configuration_is_read_back_as_the_same_one() {
    let flags = ["--max-value-bytes", "1MiB", "--http-addr", "0.0.0.0:1", "--advertise-addr", "n:1"];
    let printed = Config::print(node(&flags)).expect("valid");
    let (_dir, path) = file(&printed);
    let read = Config::load(args(&["--config", &path])).expect("the printed file is valid");
    assert_eq!(read, Config::load(node(&flags)).expect("valid"));
}

#[test]
fn printed_configuration_hides_the_secret() {
    let printed = Config::print(node(&["--cluster-secret", "hunter2"])).expect("valid");
    assert!(printed.contains("cluster_secret = \"<redacted>\"") && !printed.contains("hunter2"), "{printed}");
}

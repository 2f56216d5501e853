//! The shape of the source, held by an ordinary test: who may import whom, which
//! crates appear where, no leftovers, and how long files have become.
//!
//! It reads the source as text. That is enough for paths that start with `crate::`
//! and for names of crates, and it needs no compiler.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Vocabulary: imported by all, importing only each other.
const VOCABULARY: [&str; 13] = [
    "codec",
    "command",
    "config",
    "error",
    "inflight",
    "keyspace",
    "metrics",
    "mutants",
    "raft_types",
    "simulation",
    "sockets",
    "tasks",
    "telemetry",
];

/// Wiring: imports whatever it wires together, imported by none.
const WIRING: [&str; 4] = ["lib", "main", "node", "replica"];

/// What each other module may import besides the vocabulary. A lower line never
/// imports a higher one, which `layers_only_import_downwards` holds this table to.
const LAYERS: [(&str, &[&str]); 8] = [
    ("network", &["service", "watch"]),
    ("etcd_api", &["service", "watch"]),
    ("service", &["openraft_network", "watch", "store", "mvcc"]),
    ("openraft_network", &[]),
    ("watch", &["store", "mvcc"]),
    ("store", &["mvcc", "engine"]),
    ("mvcc", &["engine"]),
    ("engine", &[]),
];

/// Imports that the table does not allow, each with its reason.
const EXCEPTIONS: [(&str, &str, &str); 5] = [
    (
        "src/simulation.rs",
        "openraft_network",
        "a simulation is handed the requests that would go over connections",
    ),
    (
        "src/network/",
        "mvcc",
        "answers show records and pages; the types are data, and the calls go through service",
    ),
    (
        "src/etcd_api/",
        "mvcc",
        "ranges in parts are asked for as pages; the type is data, and the call goes through service",
    ),
    (
        "src/network/raft.rs",
        "openraft_network",
        "peers' calls are answered in the encoding that their sender uses",
    ),
    (
        "src/openraft_network/",
        "store",
        "messages carry log entries and snapshots in the form in which they are stored",
    ),
];

/// Where a crate may be named: paths start with one of these.
const CRATES: [(&str, &[&str]); 5] = [
    ("rocksdb", &["src/engine/", "src/store/log"]),
    ("actix_web", &["src/network/"]),
    ("tonic", &["src/etcd_api/"]),
    ("kvorum_etcd_proto", &["src/etcd_api/"]),
    (
        "openraft",
        &[
            "src/store/",
            "src/openraft_network/",
            "src/service/",
            "src/network/raft.rs",
            "src/raft_types.rs",
            "src/lib.rs",
            "src/node.rs",
            "src/replica.rs",
            "src/simulation.rs",
            "src/tasks.rs",
        ],
    ),
];

/// Lines after which a file should be split; reported, not refused.
const LONG_FILE: usize = 600;

struct Source {
    /// Relative to the repository.
    path: String,
    text: String,
}

impl Source {
    /// The folder or file directly under `src/`.
    fn module(&self) -> &str {
        let below = self.path.strip_prefix("src/").unwrap_or(&self.path);
        let top = below.split('/').next().unwrap_or_default();
        top.strip_suffix(".rs").unwrap_or(top)
    }

    /// Whether all of it is tests, which may look anywhere.
    fn is_test(&self) -> bool {
        self.path.ends_with("/tests.rs") || self.path.contains("/tests/")
    }

    /// The text without comments and without the tests at its end.
    fn code(&self) -> String {
        let tests = self.text.find("#[cfg(test)]\nmod tests {").unwrap_or(self.text.len());
        let (code, _) = self.text.split_at(tests);
        let lines = code.lines().filter(|line| !line.trim_start().starts_with("//"));
        lines.map(|line| line.split(" // ").next().unwrap_or_default()).collect::<Vec<_>>().join("\n")
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every Rust file under `folder`, in the order of their paths.
fn sources(folder: &str) -> Vec<Source> {
    let mut found = Vec::new();
    let mut folders: Vec<PathBuf> = vec![root().join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a folder of the repository can be listed") {
            let path = entry.expect("a folder of the repository can be listed").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let relative = path.strip_prefix(root()).expect("it is below the root");
                found.push(Source {
                    path: relative.to_str().expect("paths are UTF-8").to_owned(),
                    text: fs::read_to_string(&path).expect("source is UTF-8"),
                });
            }
        }
    }
    found.sort_by(|one, other| one.path.cmp(&other.path));
    found
}

fn is_name(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// What follows each place where `start` stands as a path of its own.
fn paths_from<'a>(code: &'a str, start: &str) -> Vec<&'a str> {
    code.match_indices(start)
        .filter(|(at, _)| !code[..*at].ends_with(|before: char| is_name(before) || before == ':'))
        .map(|(at, start)| &code[at + start.len()..])
        .collect()
}

fn leading_name(path: &str) -> &str {
    path.split(|c| !is_name(c)).next().unwrap_or_default()
}

/// The first names of a path or of a `{…}` list of paths.
fn first_names(path: &str) -> Vec<&str> {
    let Some(list) = path.strip_prefix('{') else { return vec![leading_name(path)] };
    let mut names = Vec::new();
    let mut depth = 0_usize;
    let mut item_starts = true;
    for (at, c) in list.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => item_starts = true,
            c if item_starts && is_name(c) => {
                names.push(leading_name(&list[at..]));
                item_starts = false;
            }
            _ => {}
        }
    }
    names
}

/// The modules of this crate that `code` names; root aliases such as `NodeId` are
/// vocabulary and no modules.
fn imported_modules<'a>(code: &'a str, modules: &BTreeSet<String>) -> BTreeSet<&'a str> {
    let names = paths_from(code, "crate::").into_iter().flat_map(first_names);
    names.filter(|name| modules.contains(*name)).collect()
}

fn may_import(path: &str, module: &str, target: &str) -> bool {
    module == target
        || WIRING.contains(&module)
        || VOCABULARY.contains(&target)
        || LAYERS.iter().any(|(layer, below)| *layer == module && below.contains(&target))
        || EXCEPTIONS.iter().any(|(place, other, _)| path.starts_with(place) && *other == target)
}

#[test]
fn modules_import_only_what_lies_below_them() {
    let sources = sources("src");
    let modules: BTreeSet<String> = sources.iter().map(|source| source.module().to_owned()).collect();
    let known = |module: &str| {
        VOCABULARY.contains(&module)
            || WIRING.contains(&module)
            || LAYERS.iter().any(|(layer, _)| *layer == module)
    };
    let unknown: Vec<_> = modules.iter().filter(|module| !known(module)).collect();
    assert!(unknown.is_empty(), "give these modules a place in LAYERS or VOCABULARY: {unknown:?}");

    let mut wrong = Vec::new();
    for source in sources.iter().filter(|source| !source.is_test()) {
        for imported in imported_modules(&source.code(), &modules) {
            if !may_import(&source.path, source.module(), imported) {
                wrong.push(format!("{} imports crate::{imported}", source.path));
            }
        }
    }
    assert!(wrong.is_empty(), "against the import rules:\n{}", wrong.join("\n"));
}

#[test]
fn layers_only_import_downwards() {
    for (line, (module, below)) in LAYERS.iter().enumerate() {
        for imported in *below {
            let lower = LAYERS.iter().skip(line + 1).any(|(layer, _)| layer == imported);
            assert!(lower, "{module} may not import {imported}, which is no lower line of the table");
        }
    }
}

#[test]
fn crates_appear_only_where_they_belong() {
    let mut wrong = Vec::new();
    for source in sources("src").iter().filter(|source| !source.is_test()) {
        let code = source.code();
        for (name, places) in CRATES {
            let named = !paths_from(&code, &format!("{name}::")).is_empty();
            if named && !places.iter().any(|place| source.path.starts_with(place)) {
                wrong.push(format!("{} names {name}, which belongs to {places:?}", source.path));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn satellites_do_not_depend_on_the_server() {
    for entry in fs::read_dir(root().join("crates")).expect("there are satellites") {
        let manifest = entry.expect("the folder can be listed").path().join("Cargo.toml");
        let text = fs::read_to_string(&manifest).expect("each satellite has a manifest");
        for heavy in ["rocksdb", "openraft", "actix-web"] {
            let depends = text.lines().any(|line| line.starts_with(heavy));
            assert!(!depends, "{} depends on {heavy}", manifest.display());
        }
    }
}

#[test]
fn no_leftovers() {
    // Put together here, so that this file does not contain them.
    let leftovers =
        [("to", "do!("), ("unimple", "mented!("), ("db", "g!("), ("FIX", "ME"), ("TO", "DO"), ("XX", "X")]
            .map(|(start, end)| format!("{start}{end}"));
    let mut found = Vec::new();
    for source in ["src", "crates", "tests"].into_iter().flat_map(sources) {
        for (number, line) in source.text.lines().enumerate() {
            for leftover in leftovers.iter().filter(|leftover| line.contains(leftover.as_str())) {
                found.push(format!("{}:{}: {leftover}", source.path, number + 1));
            }
        }
    }
    assert!(found.is_empty(), "left over:\n{}", found.join("\n"));
}

#[test]
fn every_file_says_what_it_is() {
    let silent: Vec<_> = ["src", "crates", "tests"]
        .into_iter()
        .flat_map(sources)
        .filter(|source| !source.text.starts_with("//! "))
        .map(|source| source.path)
        .collect();
    assert!(silent.is_empty(), "these files do not open with `//! `:\n{}", silent.join("\n"));
}

#[test]
fn long_files_are_reported() {
    for source in ["src", "crates", "tests"].into_iter().flat_map(sources) {
        let lines = source.text.lines().count();
        if lines > LONG_FILE {
            println!("{} has {lines} lines; above {LONG_FILE} it may want to be two files", source.path);
        }
    }
}

#[test]
fn paths_are_found_in_lists_and_not_in_comments_or_other_names() {
    let source = Source {
        path: "src/store/x.rs".into(),
        text: "//! [`crate::network::A`]\nuse crate::{LogId, engine::{Db, network}, mvcc};\nlet x = crate::codec::Y;\n\
               my_crate::service::f(); // crate::node::Z\n#[cfg(test)]\nmod tests { use crate::config; }"
            .into(),
    };
    let all = ["network", "engine", "mvcc", "codec", "service", "node", "config"].map(str::to_owned).into();
    let code = source.code();
    assert_eq!(imported_modules(&code, &all), ["codec", "engine", "mvcc"].into());
    assert!(paths_from("use openraft_network::x; a::openraft::b", "openraft::").is_empty());
}

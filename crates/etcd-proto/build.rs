//! Generates the interface from the definitions in `proto/`: messages and services,
//! their JSON form, the table of methods, and the descriptors for reflection.
//!
//! The definitions are compiled by a library, so that no `protoc` has to be installed.

use std::env;
use std::error::Error;
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

use prost_reflect::{DescriptorPool, ExtensionDescriptor, MessageDescriptor, MethodDescriptor, Value};

/// The files, under the names that etcd registers them by, which reflection shows.
const FILES: [&str; 5] = ["kv.proto", "auth.proto", "rpc.proto", "v3lock.proto", "v3election.proto"];

/// The packages to generate, which are also the folders of the files.
const PACKAGES: [&str; 5] = ["mvccpb", "authpb", "etcdserverpb", "v3lockpb", "v3electionpb"];

fn main() -> Result<(), Box<dyn Error>> {
    let definitions = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?).join("proto");
    println!("cargo::rerun-if-changed={}", definitions.display());
    let out = PathBuf::from(env::var("OUT_DIR")?);

    let folders = PACKAGES.map(|package| definitions.join(package)).into_iter();
    let mut compiler = protox::Compiler::new(folders.chain([definitions]))?;
    compiler.include_imports(true).open_files(FILES)?;
    let descriptors = compiler.encode_file_descriptor_set();
    fs::write(out.join("descriptors.bin"), &descriptors)?;

    // Comments become documentation; what is shown by reflection needs none.
    let mut documented = compiler.include_source_info(true).file_descriptor_set();
    documented.file.retain(|file| PACKAGES.contains(&file.package()));
    tonic_prost_build::configure().bytes(".").compile_fds(documented)?;

    pbjson_build::Builder::new()
        .register_descriptors(&descriptors)?
        .preserve_proto_field_names()
        .ignore_unknown_fields()
        .build(&PACKAGES.map(|package| format!(".{package}")))?;
    for package in PACKAGES {
        let path = out.join(format!("{package}.serde.rs"));
        fs::write(&path, accept_null(&fs::read_to_string(&path)?)?)?;
    }

    write_methods(&compiler.descriptor_pool(), &out.join("methods.rs"))
}

/// Makes `null` stand for an absent field, as the JSON form of protobuf has it.
///
/// The generator reads only messages and members of a oneof so; of all other fields it
/// writes `Some(map_.next_value::<T>()?…)`, which here becomes an `Option<T>` mapped.
fn accept_null(source: &str) -> Result<String, Box<dyn Error>> {
    const READ: &str = "Some(map_.next_value";
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some((before, read)) = rest.split_once(READ) {
        let (statement, after) = read.split_once(';').ok_or("a statement ends")?;
        let statement = statement.trim_end().strip_suffix(')').ok_or("Some( is closed")?;
        let (kind, then) = statement.split_once("()?").ok_or("a value is read")?;
        let kind = kind.strip_prefix("::<").and_then(|kind| kind.strip_suffix('>')).unwrap_or("_");
        write!(out, "{before}map_.next_value::<::std::option::Option<{kind}>>()?.map(|value| value{then});")?;
        rest = after;
    }
    out.push_str(rest);
    Ok(out)
}

/// Writes the table of all methods, and the lookup by HTTP path.
fn write_methods(pool: &DescriptorPool, path: &Path) -> Result<(), Box<dyn Error>> {
    let http = pool.get_extension_by_name("google.api.http").ok_or("the HTTP option is defined")?;
    let mut table = String::new();
    let mut by_http_path = String::new();
    let mut by_path = String::new();
    let ours = pool.services().filter(|service| PACKAGES.contains(&service.package_name()));
    let methods: Vec<_> = ours.flat_map(|service| service.methods().collect::<Vec<_>>()).collect();
    for (at, method) in methods.iter().enumerate() {
        let paths = http_paths(method, &http)?;
        let grpc_path = format!("/{}/{}", method.parent_service().full_name(), method.name());
        writeln!(
            table,
            "Method {{ path: {grpc_path:?}, http_paths: &{paths:?}, client_streaming: {}, server_streaming: {}, \
             to_protobuf: request::<{}>, to_json: response::<{}> }},",
            method.is_client_streaming(),
            method.is_server_streaming(),
            rust_type(&method.input()),
            rust_type(&method.output()),
        )?;
        writeln!(by_path, "{grpc_path:?} => {at},")?;
        if !paths.is_empty() {
            let paths: Vec<_> = paths.iter().map(|path| format!("{path:?}")).collect();
            writeln!(by_http_path, "{} => {at},", paths.join(" | "))?;
        }
    }
    let text = format!(
        "/// Every method of every service, in the order of their definition.\n\
         pub static METHODS: [Method; {}] = [\n{table}];\n\
         fn at_path(path: &str) -> Option<usize> {{ Some(match path {{ {by_path} _ => return None }}) }}\n\
         fn at_http_path(path: &str) -> Option<usize> {{ Some(match path {{ {by_http_path} _ => return None }}) }}\n",
        methods.len()
    );
    Ok(fs::write(path, text)?)
}

/// The paths that a method is bound to, all by POST.
fn http_paths(method: &MethodDescriptor, http: &ExtensionDescriptor) -> Result<Vec<String>, Box<dyn Error>> {
    let options = method.options();
    if !options.has_extension(http) {
        return Ok(Vec::new());
    }
    let rule = options.get_extension(http);
    let rule = rule.as_message().ok_or("a rule is a message")?;
    let more = rule.get_field_by_name("additional_bindings").ok_or("rules have more bindings")?;
    let more = more.as_list().ok_or("bindings are a list")?.iter().filter_map(Value::as_message);
    let mut paths = Vec::new();
    for rule in [rule].into_iter().chain(more) {
        let path = rule.get_field_by_name("post").ok_or("rules have a path")?;
        let path = path.as_str().ok_or("a path is a string")?;
        if path.is_empty() {
            return Err(format!("{} is not bound to POST", method.full_name()).into());
        }
        paths.push(path.to_owned());
    }
    Ok(paths)
}

/// The path of a message from the crate's root; no method takes a nested one.
fn rust_type(message: &MessageDescriptor) -> String {
    format!("crate::{}::{}", message.package_name(), camel_case(message.name()))
}

/// The name as the generator of messages writes it: `HashKVRequest` is `HashKvRequest`.
fn camel_case(name: &str) -> String {
    let mut out = String::new();
    let mut after_capital = false;
    let mut letters = name.chars().peekable();
    while let Some(letter) = letters.next() {
        let starts_word = letters.peek().is_some_and(char::is_ascii_lowercase);
        let inside = after_capital && !starts_word;
        out.push(if inside { letter.to_ascii_lowercase() } else { letter });
        after_capital = letter.is_ascii_uppercase();
    }
    out
}

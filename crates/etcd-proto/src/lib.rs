//! etcd's v3 interface as Rust types.

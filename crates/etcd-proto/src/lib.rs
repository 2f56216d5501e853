//! etcd's v3 interface as Rust types.
//!
//! Messages, clients and servers of etcd 3.7's services, generated from the definitions in
//! `proto/`; their JSON form as etcd's own gateway speaks it; the table of all methods; and a
//! gateway that turns calls in JSON into gRPC calls of whatever serves them. Nothing here knows
//! what a call means or who answers it.

pub mod gateway;
mod methods;
mod operations;
#[cfg(test)]
mod tests;
pub mod unary;

/// The compiled definitions, for reflection: an encoded `google.protobuf.FileDescriptorSet`.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

pub use generated::{authpb, etcdserverpb, mvccpb, v3electionpb, v3lockpb};
pub use methods::{METHODS, MalformedRequest, Method, UnprintableMessage, method, method_at};
pub use operations::operations_in_txn;

#[expect(missing_docs, clippy::all, clippy::pedantic, clippy::allow_attributes, reason = "generated")]
mod generated {
    macro_rules! package {
        ($package:ident, $doc:literal) => {
            #[doc = $doc]
            pub mod $package {
                include!(concat!(env!("OUT_DIR"), "/", stringify!($package), ".rs"));
                include!(concat!(env!("OUT_DIR"), "/", stringify!($package), ".serde.rs"));
            }
        };
    }

    package!(etcdserverpb, "Keys, watches, leases, membership, maintenance, and users.");
    package!(mvccpb, "What is stored, and what happens to it.");
    package!(authpb, "Users, roles and what they may do.");
    package!(v3lockpb, "Locks that live by a lease.");
    package!(v3electionpb, "Elections that live by a lease.");
}

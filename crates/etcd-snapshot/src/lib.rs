//! etcd's snapshot file: what `etcdctl snapshot save` writes and
//! `etcdutl snapshot restore` reads.
//!
//! The file is a bbolt database, etcd's backend, followed by its SHA-256. The
//! [`Writer`] lays one out in a single pass over events in revision order, and the
//! [`Reader`] walks one page by page. Neither holds more than a page for each level
//! of a tree and the one record in hand, however large the file is. Nothing here
//! knows how Kvorum stores keys, what becomes of them, or etcd's network interface.
//!
//! - What the writer writes, etcd 3.4 and later restores, starts from and goes on
//!   with: order and fields that would make etcd stop are refused here.
//! - The reader takes no byte of the file on trust: lengths and page ids are checked
//!   before they are followed or allocated by, and every walk ends.

mod cursor;
mod page;
mod reader;
mod record;
#[cfg(test)]
mod tests;
mod tree;
mod writer;

pub use reader::{Info, Keys, Leases, Members, ReadError, Reader};
pub use record::{Event, KeyValue, Lease, Member, Revision};
pub use writer::{Sealed, SnapshotInfo, WriteError, Writer};

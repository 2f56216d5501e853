//! Tests of the parts of a cluster that need no node.

mod control;
mod disk;
mod proxy;

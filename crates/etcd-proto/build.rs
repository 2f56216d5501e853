//! Generates the interface from the definitions in `proto/`.
fn main() {}

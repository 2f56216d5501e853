//! Names of figures.

/// The name of a figure.
#[derive(Debug, PartialEq, Eq)]
pub struct PropName(&'static str);

/// Bytes in memory.
pub const CUR_SIZE_ALL_MEM_TABLES: &PropName = &PropName("memtables");
/// Keys of a family.
pub const ESTIMATE_NUM_KEYS: &PropName = &PropName("keys");
/// Bytes of open files' descriptions.
pub const ESTIMATE_TABLE_READERS_MEM: &PropName = &PropName("readers");
/// Bytes of files.
pub const TOTAL_SST_FILES_SIZE: &PropName = &PropName("files");

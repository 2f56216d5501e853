//! Copies of a database in files.

use std::fs;
use std::path::Path;

use crate::db::{CHECKPOINT, CURRENT, DB, Error, TABLE};

/// Makes copies of a database.
pub struct Checkpoint<'a>(&'a DB);

impl<'a> Checkpoint<'a> {
    /// For copies of `db`.
    pub fn new(db: &'a DB) -> Result<Self, Error> {
        Ok(Self(db))
    }

    /// Writes a copy of the database as it is now into the new folder `dir`.
    pub fn create_checkpoint(&self, dir: impl AsRef<Path>) -> Result<(), Error> {
        let dir = dir.as_ref();
        let content = self.0.content()?;
        fs::create_dir(dir)
            .and_then(|()| fs::write(dir.join(TABLE), content.encode()))
            .and_then(|()| fs::write(dir.join(CURRENT), CHECKPOINT))
            .map_err(|error| Error::new(error.to_string()))
    }
}

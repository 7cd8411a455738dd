//! The tables, and the steps from each version to the next.

use std::path::Path;

use rusqlite::Connection;

use super::{StoreError, file_error};

/// Step i leads from version i to version i + 1 (SQLite's `user_version`). A step is never changed
/// once it was released; a new one goes behind it.
const STEPS: &[&str] = &[
    "
    CREATE TABLE rooms (
        name TEXT PRIMARY KEY,
        title TEXT NOT NULL,
        topic TEXT NOT NULL,
        public INTEGER NOT NULL,
        locked INTEGER NOT NULL,
        starts_at INTEGER,
        profile TEXT NOT NULL,
        audible INTEGER
    ) STRICT;
    CREATE TABLE revoked (
        room TEXT NOT NULL,
        entry TEXT NOT NULL,
        identity TEXT,
        address TEXT,
        ban INTEGER NOT NULL,
        at INTEGER NOT NULL,
        UNIQUE (room, entry)
    ) STRICT;
    CREATE TABLE webhooks (
        id TEXT PRIMARY KEY,
        room TEXT NOT NULL,
        url TEXT NOT NULL,
        secret BLOB NOT NULL
    ) STRICT;
    CREATE TABLE meta (key TEXT PRIMARY KEY, value INTEGER NOT NULL) STRICT;
",
    "
    ALTER TABLE revoked ADD COLUMN ended INTEGER;
",
];

/// Brings a file to the newest version.
pub(super) fn migrate(file: &mut Connection, path: &Path) -> Result<(), StoreError> {
    let failed = |error: rusqlite::Error| file_error(path, &error);
    let known = i64::try_from(STEPS.len()).unwrap_or(i64::MAX);
    let transaction = file.transaction().map_err(failed)?;
    let found: i64 =
        transaction.query_row("PRAGMA user_version", [], |row| row.get(0)).map_err(failed)?;
    if !(0..=known).contains(&found) {
        return Err(StoreError::Version { path: path.to_owned(), found, known });
    }
    let done = usize::try_from(found).unwrap_or(0);
    for step in &STEPS[done..] {
        transaction.execute_batch(step).map_err(failed)?;
    }
    transaction.pragma_update(None, "user_version", known).map_err(failed)?;
    transaction.commit().map_err(failed)
}

//! The tables, and how an older database becomes a newer one.

use rusqlite::{Connection, Transaction, TransactionBehavior};

/// Why the tables cannot be used.
#[derive(Debug)]
pub enum SchemaError {
    /// A later version of this program has written it: its tables are at `found`, and those known here end at `known`.
    Newer {
        found: i64,
        known: i64,
    },
    Sqlite(rusqlite::Error),
}

impl From<rusqlite::Error> for SchemaError {
    fn from(error: rusqlite::Error) -> Self {
        SchemaError::Sqlite(error)
    }
}

/// Whether the tables are such that this program knows them, or can bring them there. Changes nothing.
pub fn check(connection: &Connection) -> Result<(), SchemaError> {
    match version(connection)? {
        found if found > known() => Err(SchemaError::Newer { found, known: known() }),
        _ => Ok(()),
    }
}

/// Brings the tables to where this program knows them. Each step is done whole or not at all.
pub fn migrate(connection: &mut Connection) -> Result<(), SchemaError> {
    // Nothing is written, and nobody waited for, where nothing is to be done.
    while version(connection)? < known() {
        let step = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        step_up(&step)?;
        step.commit()?;
    }
    check(connection)
}

fn step_up(transaction: &Transaction<'_>) -> Result<(), SchemaError> {
    // Another process may have done it meanwhile.
    let at = version(transaction)?;
    let Some(step) = usize::try_from(at).ok().and_then(|at| MIGRATIONS.get(at)) else { return Ok(()) };
    transaction.execute_batch(step)?;
    transaction.pragma_update(None, "user_version", at + 1)?;
    Ok(())
}

fn version(connection: &Connection) -> rusqlite::Result<i64> {
    connection.query_row("PRAGMA user_version", [], |row| row.get(0))
}

/// The version of the tables after the last step.
pub fn known() -> i64 {
    MIGRATIONS.len() as i64
}

/// Step by step, from an empty database. What stands here has run somewhere: a change is another step at the end.
///
/// An upload outlives the row of its recording: what a store was told to keep has to go from there as well. So it does not refer
/// to it.
///
/// Times are milliseconds since 1970. What only travels as a whole is JSON: `participants` (list of user ids) and `media`.
pub const MIGRATIONS: &[&str] = &[
    "
    CREATE TABLE recordings (
        recording TEXT NOT NULL PRIMARY KEY,
        room TEXT NOT NULL,
        status TEXT NOT NULL CHECK (
            status IN ('recording', 'paused', 'stopping', 'processing', 'uploading', 'completed', 'failed')
        ),
        progress REAL NOT NULL,
        audio_only INTEGER NOT NULL CHECK (audio_only IN (0, 1)),
        participants TEXT,
        started_by TEXT,
        started_ms INTEGER NOT NULL,
        ended_ms INTEGER,
        end_reason TEXT,
        duration_ms INTEGER NOT NULL,
        size INTEGER NOT NULL,
        recovered INTEGER NOT NULL CHECK (recovered IN (0, 1)),
        error TEXT,
        directory TEXT NOT NULL
    ) STRICT;
    CREATE INDEX recordings_of_room ON recordings (room, recording);
    CREATE TABLE recording_files (
        recording TEXT NOT NULL REFERENCES recordings (recording) ON DELETE CASCADE,
        position INTEGER NOT NULL,
        name TEXT NOT NULL,
        kind TEXT NOT NULL,
        content_type TEXT NOT NULL,
        participant TEXT,
        size INTEGER NOT NULL,
        sha256 TEXT NOT NULL,
        media TEXT,
        PRIMARY KEY (recording, position),
        UNIQUE (recording, name)
    ) STRICT, WITHOUT ROWID;
",
    "
    ALTER TABLE recording_files ADD COLUMN store TEXT;
    ALTER TABLE recording_files ADD COLUMN remote_key TEXT;
    ALTER TABLE recording_files ADD COLUMN url TEXT;
    ALTER TABLE recording_files ADD COLUMN is_local INTEGER NOT NULL DEFAULT 1 CHECK (is_local IN (0, 1));
    CREATE TABLE uploads (
        recording TEXT NOT NULL PRIMARY KEY,
        store TEXT NOT NULL,
        phase TEXT NOT NULL CHECK (phase IN ('live', 'sending', 'settling', 'failed', 'deleting')),
        keep_local INTEGER NOT NULL CHECK (keep_local IN (0, 1)),
        attempts INTEGER NOT NULL,
        restarts INTEGER NOT NULL,
        next_try_ms INTEGER,
        first_failure_ms INTEGER,
        error TEXT
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE upload_files (
        recording TEXT NOT NULL REFERENCES uploads (recording) ON DELETE CASCADE,
        name TEXT NOT NULL,
        remote_key TEXT NOT NULL,
        content_type TEXT NOT NULL,
        step TEXT NOT NULL CHECK (step IN ('creating', 'parts', 'completing', 'putting', 'verifying', 'done')),
        part_size INTEGER NOT NULL,
        upload_id TEXT,
        object TEXT,
        etag TEXT,
        url TEXT,
        sha256 TEXT NOT NULL,
        size INTEGER NOT NULL,
        PRIMARY KEY (recording, name)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE upload_parts (
        recording TEXT NOT NULL,
        name TEXT NOT NULL,
        number INTEGER NOT NULL,
        etag TEXT NOT NULL,
        size INTEGER NOT NULL,
        checksum TEXT,
        sha256 TEXT NOT NULL,
        PRIMARY KEY (recording, name, number),
        FOREIGN KEY (recording, name) REFERENCES upload_files (recording, name) ON DELETE CASCADE
    ) STRICT, WITHOUT ROWID;
",
];

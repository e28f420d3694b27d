//! The file of the database: opened, opened again when it could not be used, put aside when it is broken.
//!
//! Only a file of which SQLite itself says that it is no database, or a corrupt one, is put aside, under another name. One that is
//! locked, may not be written or is not there is left alone and tried again.

use std::ffi::OsString;
use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rusqlite::{Connection, ErrorCode, OpenFlags};

use super::schema::{SchemaError, check, migrate};

/// See the module's documentation.
pub struct Store {
    path: PathBuf,
    connection: Option<Connection>,
    /// Not before, while there is no connection.
    open_again: Instant,
    /// How many files were put aside.
    put_aside: u32,
    /// It was said that it cannot be used.
    is_lamented: bool,
}

/// Why something was not done.
#[derive(Debug)]
pub enum Failure {
    /// It may be possible later.
    Unavailable,
    /// It never will be.
    Refused(rusqlite::Error),
}

/// The database was written by a later version of this program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Newer {
    pub found: i64,
    pub known: i64,
}

impl Store {
    /// Opens it for the first time, with a look at all of it. That it cannot be used now is no error.
    pub fn open(path: &Path, now: Instant) -> Result<Store, Newer> {
        let mut store =
            Store { path: path.to_owned(), connection: None, open_again: now, put_aside: 0, is_lamented: false };
        store.try_open(now, true)?;
        // In place of one that was put aside.
        store.try_open(now, true)?;
        Ok(store)
    }

    /// When it is to be opened again; `None` while it is open.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.connection.is_none().then_some(self.open_again)
    }

    /// Opens it again, when that is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        if let Err(newer) = self.try_open(now, false) {
            self.lament(&format!(
                "it has tables of version {}, and those known here end at {}",
                newer.found, newer.known
            ));
        }
    }

    pub fn is_open(&self) -> bool {
        self.connection.is_some()
    }

    /// Nothing is known of the state in which the connection is: it is opened again, after a while, since what led to this may
    /// be there still.
    pub fn close(&mut self, now: Instant) {
        self.connection = None;
        self.open_again = now + OPEN_AGAIN;
    }

    /// Does something with the database.
    pub fn run<T>(
        &mut self,
        now: Instant,
        work: impl FnOnce(&mut Connection) -> rusqlite::Result<T>,
    ) -> Result<T, Failure> {
        let Some(connection) = &mut self.connection else { return Err(Failure::Unavailable) };
        let error = match work(connection) {
            Ok(result) => return Ok(result),
            Err(error) => error,
        };
        let trouble = match trouble(&error) {
            // What was begun could not be undone either.
            Trouble::None | Trouble::Busy if !connection.is_autocommit() => Trouble::Gone,
            trouble => trouble,
        };
        match trouble {
            Trouble::None => Err(Failure::Refused(error)),
            Trouble::Busy => {
                self.lament(&error.to_string());
                Err(Failure::Unavailable)
            }
            Trouble::Gone => {
                self.lament(&error.to_string());
                self.connection = None;
                self.open_again = now + OPEN_AGAIN;
                Err(Failure::Unavailable)
            }
            Trouble::Broken => {
                self.connection = None;
                self.open_again = now;
                self.put_aside(now, &error);
                Err(Failure::Unavailable)
            }
        }
    }

    /// It was used as it should be.
    pub fn praise(&mut self) {
        if std::mem::take(&mut self.is_lamented) {
            tracing::info!(path = %self.path.display(), "the database can be used again");
        }
    }

    fn try_open(&mut self, now: Instant, thoroughly: bool) -> Result<(), Newer> {
        if self.connection.is_some() || now < self.open_again {
            return Ok(());
        }
        self.open_again = now + OPEN_AGAIN;
        match connect(&self.path, thoroughly) {
            Ok(connection) => {
                self.connection = Some(connection);
                self.praise();
            }
            Err(SchemaError::Newer { found, known }) => return Err(Newer { found, known }),
            Err(SchemaError::Sqlite(error)) if trouble(&error) == Trouble::Broken => {
                self.open_again = now;
                self.put_aside(now, &error);
            }
            Err(SchemaError::Sqlite(error)) => self.lament(&error.to_string()),
        }
        Ok(())
    }

    fn put_aside(&mut self, now: Instant, error: &rusqlite::Error) {
        // A disk that breaks one file after the other would be filled with them.
        if self.put_aside == PUT_ASIDE_MAX {
            self.open_again = now + OPEN_AGAIN;
            self.lament(&error.to_string());
            return;
        }
        self.put_aside += 1;
        let stamp = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
        match rename(&self.path, &format!(".corrupt-{stamp}")) {
            Ok(aside) => {
                let aside = aside.display();
                tracing::error!(path = %self.path.display(), %error, %aside, "the database is broken; a new one is made");
            }
            Err(failure) => {
                self.open_again = now + OPEN_AGAIN;
                self.lament(&format!("{error}; and it cannot be put aside: {failure}"));
            }
        }
    }

    /// Once, however long it lasts.
    fn lament(&mut self, why: &str) {
        if !std::mem::replace(&mut self.is_lamented, true) {
            tracing::error!(path = %self.path.display(), error = why, "the database cannot be used");
        }
    }
}

fn connect(path: &Path, thoroughly: bool) -> Result<Connection, SchemaError> {
    // Names of people are nobody else's business. SQLite gives its journal the mode of the file; and it says itself why a file
    // cannot be made.
    let _ = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(BUSY)?;
    if connection.is_readonly(rusqlite::MAIN_DB)? {
        return Err(failure(rusqlite::ffi::SQLITE_READONLY, "the file may not be written"));
    }
    check(&connection)?;
    // Where the file system cannot do it, the mode stays what it is, in which readers and the writer wait for each other.
    let _mode: String = connection.query_row("PRAGMA journal_mode = WAL", [], |row| row.get(0))?;
    // What was answered has happened, also after a power cut. Rows are written a few times in the life of a recording.
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "foreign_keys", true)?;
    if thoroughly {
        let verdict: String = connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
        if verdict != "ok" {
            return Err(failure(rusqlite::ffi::SQLITE_CORRUPT, &verdict));
        }
    }
    migrate(&mut connection)?;
    Ok(connection)
}

fn failure(code: i32, text: &str) -> SchemaError {
    SchemaError::Sqlite(rusqlite::Error::SqliteFailure(rusqlite::ffi::Error::new(code), Some(text.to_owned())))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trouble {
    /// The database is in order; it was the statement.
    None,
    /// Others have it, or there is no room. The connection is good.
    Busy,
    /// The connection is of no use any more.
    Gone,
    /// The file is no database.
    Broken,
}

fn trouble(error: &rusqlite::Error) -> Trouble {
    match error.sqlite_error_code() {
        Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt) => Trouble::Broken,
        Some(
            ErrorCode::DatabaseBusy
            | ErrorCode::DatabaseLocked
            | ErrorCode::DiskFull
            | ErrorCode::OutOfMemory
            | ErrorCode::FileLockingProtocolFailed
            | ErrorCode::OperationInterrupted
            | ErrorCode::SchemaChanged,
        ) => Trouble::Busy,
        Some(
            ErrorCode::SystemIoFailure
            | ErrorCode::CannotOpen
            | ErrorCode::ReadOnly
            | ErrorCode::PermissionDenied
            | ErrorCode::AuthorizationForStatementDenied
            | ErrorCode::NotFound
            | ErrorCode::NoLargeFileSupport,
        ) => Trouble::Gone,
        _ => Trouble::None,
    }
}

/// Gives a database and what belongs to it another name, which is returned.
fn rename(path: &Path, suffix: &str) -> io::Result<PathBuf> {
    let with = |suffix: &str| {
        let mut name = OsString::from(path);
        name.push(suffix);
        PathBuf::from(name)
    };
    let aside = with(suffix);
    std::fs::rename(path, &aside)?;
    for part in ["-wal", "-shm"] {
        match std::fs::rename(with(part), with(&format!("{suffix}{part}"))) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
    }
    Ok(aside)
}

/// How long a statement waits for whoever has locked the database. Who asks waits for one statement that is under way and
/// one of its own, and is to have an answer within 2 s.
const BUSY: Duration = Duration::from_millis(800);
const OPEN_AGAIN: Duration = Duration::from_secs(1);
const PUT_ASIDE_MAX: u32 = 3;

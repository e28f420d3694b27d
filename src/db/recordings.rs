//! Recordings and their files: the queries.
//!
//! What cannot be read as what it should be (somebody wrote it who is not this program) is left out, and said in the log.

use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rusqlite::{Connection, OptionalExtension, Row, params};

use crate::base::{RecordingId, RoomId, UserId};
use crate::recording::library::{Entry, FileEntry, FileKind, Remote, Status};

/// Writes a recording with its files over what there is of it. To be called in a transaction.
pub fn save(connection: &Connection, entry: &Entry) -> rusqlite::Result<()> {
    remove(connection, &entry.recording)?;
    insert(connection, entry)
}

/// Writes a recording that was found on the disk, unless more is known of it. To be called in a transaction.
pub fn save_found(connection: &Connection, found: &Entry) -> rusqlite::Result<()> {
    let sql = "SELECT 1 FROM recordings WHERE recording = ?1";
    let is_there = connection.query_row(sql, [found.recording.as_str()], |_| Ok(())).optional()?.is_some();
    // One that cannot be read is left as it is.
    let gives_way = !is_there || find(connection, &found.recording)?.is_some_and(|row| gives_way(&row, found));
    if gives_way { save(connection, found) } else { Ok(()) }
}

/// Whether what is known of a recording is older than what its own files say. They speak of its end only when all of them are
/// there: what still claims to be on the way was left so by somebody who was killed, and what could not be finished has been
/// since.
pub fn gives_way(known: &Entry, found: &Entry) -> bool {
    match known.status {
        Status::Recording | Status::Paused | Status::Stopping | Status::Processing => true,
        Status::Failed => known.files.is_empty() && matches!(found.status, Status::Completed | Status::Uploading),
        Status::Uploading | Status::Completed => false,
    }
}

/// With its files. Nothing happens when it is not there.
pub fn remove(connection: &Connection, recording: &RecordingId) -> rusqlite::Result<()> {
    connection.execute("DELETE FROM recordings WHERE recording = ?1", [recording.as_str()])?;
    Ok(())
}

pub fn find(connection: &Connection, recording: &RecordingId) -> rusqlite::Result<Option<Entry>> {
    let sql = format!("SELECT {COLUMNS} FROM recordings WHERE recording = ?1");
    let found = connection.query_row(&sql, [recording.as_str()], |row| Ok(entry(row))).optional()?;
    with_files(connection, found.transpose()?.flatten())
}

/// Those of a call, newest first, at most `limit` (which cannot be read included), only older ones than `before`.
pub fn list(
    connection: &Connection,
    room: &RoomId,
    before: Option<&RecordingId>,
    limit: usize,
) -> rusqlite::Result<Vec<Entry>> {
    let sql = format!(
        "SELECT {COLUMNS} FROM recordings WHERE room = ?1 AND (?2 IS NULL OR recording < ?2) \
         ORDER BY recording DESC LIMIT ?3"
    );
    let mut statement = connection.prepare(&sql)?;
    let mut rows = statement.query(params![room.as_str(), before.map(RecordingId::as_str), limit as i64])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        found.extend(with_files(connection, entry(row)?)?);
    }
    Ok(found)
}

/// Those that are to be in a store and are not, whole, after one of them, in order.
pub fn uploading(
    connection: &Connection,
    after: Option<&RecordingId>,
    limit: usize,
) -> rusqlite::Result<Vec<RecordingId>> {
    let sql = "SELECT recording FROM recordings WHERE status = 'uploading' AND (?1 IS NULL OR recording > ?1) \
               UNION SELECT recording FROM uploads WHERE phase IN ('live', 'sending', 'settling') \
               AND (?1 IS NULL OR recording > ?1) ORDER BY recording LIMIT ?2";
    ids(connection, sql, params![after.map(RecordingId::as_str), limit as i64])
}

/// Those that ended before a time and are not being made, the oldest first.
pub fn ended_before(connection: &Connection, time: SystemTime, limit: usize) -> rusqlite::Result<Vec<Entry>> {
    let sql = format!(
        "SELECT {COLUMNS} FROM recordings WHERE coalesce(ended_ms, started_ms) < ?1 \
         AND status IN ('uploading', 'completed', 'failed') ORDER BY coalesce(ended_ms, started_ms) LIMIT ?2"
    );
    let mut statement = connection.prepare(&sql)?;
    let mut rows = statement.query(params![to_ms(time), limit as i64])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        found.extend(entry(row)?);
    }
    Ok(found)
}

/// What cannot be read as an id is left out.
pub fn ids(
    connection: &Connection,
    sql: &str,
    parameters: impl rusqlite::Params,
) -> rusqlite::Result<Vec<RecordingId>> {
    let mut statement = connection.prepare(sql)?;
    let mut rows = statement.query(parameters)?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        found.extend(RecordingId::parse(&row.get::<_, String>(0)?));
    }
    Ok(found)
}

/// Those that claim to be made, without their files.
pub fn unfinished(connection: &Connection) -> rusqlite::Result<Vec<Entry>> {
    let sql = format!("SELECT {COLUMNS} FROM recordings WHERE status NOT IN ('uploading', 'completed', 'failed')");
    let mut statement = connection.prepare(&sql)?;
    let mut rows = statement.query([])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        found.extend(entry(row)?);
    }
    Ok(found)
}

fn insert(connection: &Connection, entry: &Entry) -> rusqlite::Result<()> {
    let participants = entry.participants.as_ref().map(json);
    connection.execute(
        &format!("INSERT INTO recordings ({COLUMNS}) VALUES (?1,?2,?3,?4,?5,?6,?7,?8,?9,?10,?11,?12,?13,?14,?15)"),
        params![
            entry.recording.as_str(),
            entry.room.as_str(),
            entry.status.as_str(),
            // NaN would be NULL.
            f64::from(if entry.progress.is_nan() { 0.0 } else { entry.progress }),
            entry.audio_only,
            participants,
            entry.started_by.as_ref().map(UserId::as_str),
            to_ms(entry.started),
            entry.ended.map(to_ms),
            entry.end_reason,
            signed(entry.duration_ms),
            signed(entry.size),
            entry.recovered,
            entry.error,
            entry.directory.to_string_lossy(),
        ],
    )?;
    // A name that is there twice is the first one's.
    let mut statement = connection.prepare(
        "INSERT OR IGNORE INTO recording_files \
         (recording, position, name, kind, content_type, participant, size, sha256, media, store, remote_key, url, is_local) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13)",
    )?;
    for (position, file) in (0_i64..).zip(&entry.files) {
        statement.execute(params![
            entry.recording.as_str(),
            position,
            file.name,
            file.kind.as_str(),
            file.content_type,
            file.participant,
            signed(file.size),
            file.sha256,
            file.media.as_ref().map(json),
            file.remote.as_ref().map(|remote| &remote.provider),
            file.remote.as_ref().map(|remote| &remote.key),
            file.remote.as_ref().map(|remote| &remote.url),
            file.remote.as_ref().is_none_or(|remote| !remote.is_only),
        ])?;
    }
    Ok(())
}

fn with_files(connection: &Connection, entry: Option<Entry>) -> rusqlite::Result<Option<Entry>> {
    let Some(mut entry) = entry else { return Ok(None) };
    let mut statement = connection.prepare(
        "SELECT name, kind, content_type, participant, size, sha256, media, store, remote_key, url, is_local \
         FROM recording_files WHERE recording = ?1 ORDER BY position",
    )?;
    let mut rows = statement.query([entry.recording.as_str()])?;
    while let Some(row) = rows.next()? {
        entry.files.extend(file(row)?);
    }
    Ok(Some(entry))
}

fn entry(row: &Row<'_>) -> rusqlite::Result<Option<Entry>> {
    let recording: String = row.get(0)?;
    let room: String = row.get(1)?;
    let status: String = row.get(2)?;
    let (Some(recording), Ok(room), Some(status)) =
        (RecordingId::parse(&recording), RoomId::new(&room), Status::parse(&status))
    else {
        tracing::warn!(recording, room, status, "a row of the database is no recording");
        return Ok(None);
    };
    let participants: Option<String> = row.get(5)?;
    let started_by: Option<String> = row.get(6)?;
    let directory: String = row.get(14)?;
    Ok(Some(Entry {
        recording,
        room,
        status,
        progress: row.get::<_, f64>(3)? as f32,
        audio_only: row.get(4)?,
        participants: participants.map(|text| users(&text)),
        started_by: started_by.and_then(|text| UserId::new(&text).ok()),
        started: from_ms(row.get(7)?),
        ended: row.get::<_, Option<i64>>(8)?.map(from_ms),
        end_reason: row.get(9)?,
        duration_ms: unsigned(row.get(10)?),
        size: unsigned(row.get(11)?),
        recovered: row.get(12)?,
        error: row.get(13)?,
        directory: Path::new(&directory).to_owned(),
        files: Vec::new(),
    }))
}

fn file(row: &Row<'_>) -> rusqlite::Result<Option<FileEntry>> {
    let name: String = row.get(0)?;
    let kind: String = row.get(1)?;
    let Some(kind) = FileKind::parse(&kind) else {
        tracing::warn!(name, kind, "a row of the database is no file");
        return Ok(None);
    };
    let media: Option<String> = row.get(6)?;
    Ok(Some(FileEntry {
        name,
        kind,
        content_type: row.get(2)?,
        participant: row.get(3)?,
        size: unsigned(row.get(4)?),
        sha256: row.get(5)?,
        media: media.and_then(|text| serde_json::from_str(&text).ok()),
        remote: match (row.get(7)?, row.get(8)?, row.get(9)?) {
            (Some(provider), Some(key), Some(url)) => {
                Some(Remote { provider, key, url, is_only: !row.get::<_, bool>(10)? })
            }
            _ => None,
        },
    }))
}

fn json(value: &impl serde::Serialize) -> String {
    serde_json::to_string(value).unwrap_or_default()
}

fn users(text: &str) -> Vec<UserId> {
    let names: Vec<String> = serde_json::from_str(text).unwrap_or_default();
    names.iter().filter_map(|name| UserId::new(name).ok()).collect()
}

fn to_ms(time: SystemTime) -> i64 {
    i64::try_from(time.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis()).unwrap_or(i64::MAX)
}

fn from_ms(ms: i64) -> SystemTime {
    UNIX_EPOCH.checked_add(Duration::from_millis(unsigned(ms))).unwrap_or(UNIX_EPOCH)
}

pub fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

pub fn unsigned(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}

const COLUMNS: &str = "recording, room, status, progress, audio_only, participants, started_by, started_ms, ended_ms, \
                       end_reason, duration_ms, size, recovered, error, directory";
